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
    /// The outbox had nothing behind `read` at this revision of it. A number of batches would not do: one that was
    /// acknowledged and one that came since leave it as it was.
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
    pub(super) async fn want(&mut self, spool: &Spool, waiting: u64, revision: u64) {
        if self.wants(waiting, revision) {
            self.dry_at = Some(revision);
            self.asked = Some(spool.peek(self.read, self.window - self.held()).await);
        }
    }

    fn wants(&self, waiting: u64, revision: u64) -> bool {
        let more = waiting > self.held() as u64 && self.dry_at != Some(revision);
        // Half a window at a time, so that the disk is not asked for each batch.
        self.asked.is_none() && more && self.held() * 2 <= self.window
    }

    fn held(&self) -> usize {
        self.ready.len() + self.sent.len()
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

#[cfg(test)]
mod tests {
    use lamppost_models::{Epoch, StreamName};

    use super::*;

    fn batch(number: u64) -> StoredBatch {
        let (class, stream) = (
            lamppost_agent_core::outbox::Class::Prediction,
            StreamName::new("s").unwrap(),
        );
        StoredBatch {
            number,
            class,
            stream,
            records: 0,
            stored: lamppost_models::Timestamp::EPOCH,
            json: b"[]".to_vec(),
        }
    }

    #[test]
    fn a_batch_that_comes_when_another_went_is_asked_for() {
        let epoch = Epoch::from_u64(1);
        let mut replay = Replay::new(8, Duration::from_secs(30));
        assert!(replay.wants(1, 1));
        replay.dry_at = Some(1);
        replay.take(vec![batch(5)]);
        replay.mark_sent(5, Instant::now());
        replay.acknowledge(&[BatchRange {
            epoch,
            from: 5,
            to: 5,
        }]);
        // The outbox has not said yet that the batch is gone: it is asked, and has nothing.
        assert!(replay.wants(1, 1));
        replay.dry_at = Some(1);
        replay.take(Vec::new());
        assert!(!replay.wants(1, 1), "asked once");
        assert!(!replay.wants(0, 1));
        assert!(replay.wants(1, 2), "one more was written");
    }
}
