//! Batches of the outbox on their way to the coordinator.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use lamppost_models::message::BatchRange;
use tokio::sync::oneshot;

use super::spool::Spool;
use crate::outbox::StoredBatch;

/// A window of batches, sent oldest first.
///
/// When an acknowledgement is late, all that is in flight is sent again, from the oldest batch that waits: the receiver
/// knows a batch by its number.
#[derive(Debug)]
pub(super) struct Replay {
    window: usize,
    ack_timeout: Duration,
    /// Read from the outbox and not sent.
    ready: VecDeque<StoredBatch>,
    /// Sent, by number, and when the acknowledgement is late.
    sent: BTreeMap<u64, Instant>,
    /// The newest batch that was read.
    read: Option<u64>,
    asked: Option<oneshot::Receiver<Vec<StoredBatch>>>,
    /// The outbox had nothing behind `read`, with so many batches waiting.
    dry_at: Option<u64>,
}

impl Replay {
    pub(super) fn new(window: usize, ack_timeout: Duration) -> Self {
        Self {
            window,
            ack_timeout,
            ready: VecDeque::new(),
            sent: BTreeMap::new(),
            read: None,
            asked: None,
            dry_at: None,
        }
    }

    /// Starts from the oldest batch: what was in flight went down with the connection.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.window, self.ack_timeout);
    }

    /// Asks the outbox for more, if there is room in the window and something may be there.
    pub(super) async fn want(&mut self, spool: &Spool, waiting: u64) {
        let held = self.ready.len() + self.sent.len();
        let more = waiting > held as u64 && self.dry_at != Some(waiting);
        // Half a window at a time, so that the disk is not asked for each batch.
        if self.asked.is_none() && more && held * 2 <= self.window {
            self.dry_at = Some(waiting);
            self.asked = Some(spool.peek(self.read, self.window - held).await);
        }
    }

    /// The outbox's answer to [`Self::want`]; pending for ever when nothing was asked. May be cancelled.
    pub(super) async fn answer(&mut self) -> Vec<StoredBatch> {
        match &mut self.asked {
            Some(asked) => {
                let batches = asked.await.unwrap_or_default();
                self.asked = None;
                batches
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self, batches: Vec<StoredBatch>) {
        if let Some(last) = batches.last() {
            self.read = Some(last.number);
            self.dry_at = None;
        }
        self.ready.extend(batches);
    }

    pub(super) fn next_unsent(&self) -> Option<&StoredBatch> {
        self.ready.front()
    }

    pub(super) fn mark_sent(&mut self, number: u64, now: Instant) {
        if self
            .ready
            .front()
            .is_some_and(|batch| batch.number == number)
        {
            self.ready.pop_front();
            self.sent.insert(number, now + self.ack_timeout);
        }
    }

    pub(super) fn acknowledge(&mut self, ranges: &[BatchRange]) {
        let stored = |number: u64| {
            ranges
                .iter()
                .any(|range| (range.from..=range.to).contains(&number))
        };
        self.sent.retain(|number, _| !stored(*number));
        self.ready.retain(|batch| !stored(batch.number));
    }

    pub(super) fn give_up_late(&mut self, now: Instant) {
        if self.sent.values().any(|due| *due <= now) {
            tracing::warn!(
                batches = self.sent.len(),
                "the coordinator does not acknowledge batches: sending again"
            );
            self.forget();
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.sent.values().min().copied()
    }
}
