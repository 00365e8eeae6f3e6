//! Batches of the outbox on their way to the coordinator.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use lamppost_models::message::BatchRange;
use tokio::sync::oneshot;

use super::spool::{Part, Spool, Wire};
use crate::outbox::Cursor;

/// Between two batches of history: sent at once, a whole window would stand before the next live prediction at every queue
/// on its way. 250 batches of some 80 records a second are still 200 times what a busy node makes.
const SPACING: Duration = Duration::from_millis(4);

/// A window of batches, sent in the order of the outbox.
///
/// It begins with one batch and grows by one with each that is acknowledged, so that a city whose link returns does not
/// answer with all it has. When an acknowledgement is late, the window is halved, and all that is in flight is sent again:
/// the receiver knows a batch by its number.
#[derive(Debug)]
pub(super) struct Replay {
    part: Part,
    window_max: usize,
    window: usize,
    ack_timeout: Duration,
    /// Nothing is asked for before.
    not_before: Option<Instant>,
    /// Nothing is sent before.
    spaced: Option<Instant>,
    /// Read from the outbox and not sent.
    ready: VecDeque<Wire>,
    /// Sent, by number, and when the acknowledgement is late.
    sent: BTreeMap<u64, Instant>,
    /// How far the outbox was read.
    read: Cursor,
    asked: Option<oneshot::Receiver<Vec<Wire>>>,
    /// The outbox had nothing behind `read` at this revision of it. A number of batches would not do: one that was
    /// acknowledged and one that came since leave it as it was.
    dry_at: Option<u64>,
}

impl Replay {
    pub(super) fn new(part: Part, window_max: usize, ack_timeout: Duration) -> Self {
        Self {
            part,
            window_max,
            window: 1,
            ack_timeout,
            not_before: None,
            spaced: None,
            ready: VecDeque::new(),
            sent: BTreeMap::new(),
            read: Cursor::default(),
            asked: None,
            dry_at: None,
        }
    }

    /// Starts from the oldest batch: what was in flight went down with the connection.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.part, self.window_max, self.ack_timeout);
    }

    /// Lets the link alone until then.
    pub(super) fn delay(&mut self, until: Instant) {
        self.not_before = Some(until);
    }

    /// Asks the outbox for more, if there is room in the window and something may be there.
    pub(super) async fn want(&mut self, spool: &Spool, waiting: u64, revision: u64, now: Instant) {
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.not_before = None;
        if self.wants(waiting, revision) {
            self.dry_at = Some(revision);
            let room = self.window.saturating_sub(self.held());
            self.asked = Some(spool.peek(self.part, self.read, room).await);
        }
    }

    fn wants(&self, waiting: u64, revision: u64) -> bool {
        let more = waiting > self.held() as u64 && self.dry_at != Some(revision);
        // Half a window at a time, so that the disk is not asked for each batch.
        self.asked.is_none() && more && self.held() * 2 <= self.window && self.held() < self.window
    }

    fn held(&self) -> usize {
        self.ready.len() + self.sent.len()
    }

    /// The outbox's answer to [`Self::want`]; pending for ever when nothing was asked. May be cancelled.
    pub(super) async fn answer(&mut self) -> Vec<Wire> {
        match &mut self.asked {
            Some(asked) => {
                let batches = asked.await.unwrap_or_default();
                self.asked = None;
                batches
            }
            None => std::future::pending().await,
        }
    }

    /// Takes in the answer, but for batches that go another way.
    pub(super) fn take(&mut self, batches: Vec<Wire>, is_held: impl Fn(u64) -> bool) {
        for batch in batches {
            self.read = batch.cursor;
            self.dry_at = None;
            let number = batch.number;
            let known = self.sent.contains_key(&number)
                || self.ready.iter().any(|ready| ready.number == number);
            if !known && !is_held(number) {
                self.ready.push_back(batch);
            }
        }
    }

    /// Reads again from a batch on that did go another way.
    pub(super) fn rewind(&mut self, number: u64) {
        self.read = self.read.min(number.checked_sub(1).into());
        self.dry_at = None;
        // What was asked for is behind the new place: it would move it on.
        self.asked = None;
    }

    /// The next batch to send, if any is here and due.
    pub(super) fn next_unsent(&self, now: Instant) -> Option<&Wire> {
        let is_due = self.spaced.is_none_or(|at| at <= now);
        self.ready.front().filter(|_| is_due)
    }

    pub(super) fn mark_sent(&mut self, number: u64, now: Instant) {
        if self
            .ready
            .front()
            .is_some_and(|batch| batch.number == number)
        {
            self.ready.pop_front();
            self.sent.insert(number, now + self.ack_timeout);
            self.spaced = match self.part {
                Part::Events => None,
                Part::History => Some(now + SPACING),
            };
        }
    }

    pub(super) fn acknowledge(&mut self, ranges: &[BatchRange]) {
        let stored = |number: u64| {
            ranges
                .iter()
                .any(|range| (range.from..=range.to).contains(&number))
        };
        let before = self.sent.len();
        self.sent.retain(|number, _| !stored(*number));
        self.ready.retain(|batch| !stored(batch.number));
        let acknowledged = before - self.sent.len();
        self.window = (self.window + acknowledged).min(self.window_max);
    }

    pub(super) fn give_up_late(&mut self, now: Instant) {
        if self.sent.values().any(|due| *due <= now) {
            tracing::warn!(
                batches = self.sent.len(),
                "the coordinator does not acknowledge batches: sending again"
            );
            let window = (self.window / 2).max(1);
            self.forget();
            self.window = window;
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let spaced = self.spaced.filter(|_| !self.ready.is_empty());
        let dues = self.sent.values().chain(&self.not_before);
        dues.chain(&spaced).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lamppost_models::Epoch;
    use lamppost_models::ledger::Class;

    use super::*;

    fn replay(window: usize) -> Replay {
        Replay::new(Part::History, window, Duration::from_secs(30))
    }

    fn batch(number: u64) -> Wire {
        Wire {
            number,
            cursor: Some(number).into(),
            class: Class::Prediction,
            stream: None,
            payload: Bytes::new(),
            packed: false,
        }
    }

    fn acknowledge(replay: &mut Replay, from: u64, to: u64) {
        replay.acknowledge(&[BatchRange {
            epoch: Epoch::from_u64(1),
            from,
            to,
        }]);
    }

    fn send(replay: &mut Replay, numbers: std::ops::Range<u64>, now: Instant) {
        for number in numbers {
            replay.take(vec![batch(number)], |_| false);
            replay.mark_sent(number, now);
        }
    }

    #[test]
    fn a_batch_that_comes_when_another_went_is_asked_for() {
        let mut replay = replay(8);
        assert!(replay.wants(1, 1));
        replay.dry_at = Some(1);
        replay.take(vec![batch(5)], |_| false);
        replay.mark_sent(5, Instant::now());
        acknowledge(&mut replay, 5, 5);
        // The outbox has not said yet that the batch is gone: it is asked, and has nothing.
        assert!(replay.wants(1, 1));
        replay.dry_at = Some(1);
        replay.take(Vec::new(), |_| false);
        assert!(!replay.wants(1, 1), "asked once");
        assert!(!replay.wants(0, 1));
        assert!(replay.wants(1, 2), "one more was written");
    }

    #[test]
    fn the_window_begins_with_one_grows_with_acknowledgements_and_is_halved_when_one_is_late() {
        let (mut replay, start) = (replay(8), Instant::now());
        assert_eq!(replay.window, 1);
        send(&mut replay, 0..1, start);
        assert!(!replay.wants(9, 1), "one is in flight");
        acknowledge(&mut replay, 0, 0);
        assert_eq!(replay.window, 2);
        send(&mut replay, 1..3, start);
        acknowledge(&mut replay, 1, 2);
        send(&mut replay, 3..9, start);
        acknowledge(&mut replay, 3, 8);
        assert_eq!(replay.window, 8, "the most");
        send(&mut replay, 9..12, start);
        replay.give_up_late(start + Duration::from_secs(29));
        assert_eq!(replay.window, 8);
        replay.give_up_late(start + Duration::from_secs(30));
        assert_eq!((replay.window, replay.held()), (4, 0));
        replay.forget();
        assert_eq!(replay.window, 1, "a new connection");
    }

    #[test]
    fn batches_that_go_another_way_are_passed_over_until_they_are_given_back() {
        let mut replay = replay(8);
        let numbers = |replay: &Replay| -> Vec<u64> {
            replay.ready.iter().map(|batch| batch.number).collect()
        };
        replay.take((1..6).map(batch).collect(), |number| {
            number == 2 || number == 4
        });
        assert_eq!(numbers(&replay), [1, 3, 5]);
        replay.rewind(4);
        assert_eq!(replay.read, Some(3).into());
        // The outbox shows again what is behind.
        replay.take((4..6).map(batch).collect(), |number| number == 2);
        assert_eq!(numbers(&replay), [1, 3, 5, 4]);
    }

    #[test]
    fn batches_of_history_keep_their_distance_and_events_need_none() {
        let start = Instant::now();
        let next = |replay: &Replay, at| replay.next_unsent(at).map(|batch| batch.number);
        let mut history = replay(8);
        history.take((1..3).map(batch).collect(), |_| false);
        assert_eq!(next(&history, start), Some(1));
        history.mark_sent(1, start);
        assert_eq!(next(&history, start), None);
        assert_eq!(history.next_due(), Some(start + SPACING));
        assert_eq!(next(&history, start + SPACING), Some(2));
        history.mark_sent(2, start + SPACING);
        let late = start + Duration::from_secs(30);
        assert_eq!(history.next_due(), Some(late), "nothing waits for its turn");
        let mut events = Replay::new(Part::Events, 8, Duration::from_secs(30));
        events.take((1..3).map(batch).collect(), |_| false);
        events.mark_sent(1, start);
        assert_eq!(next(&events, start), Some(2));
    }

    #[test]
    fn a_delay_is_over_when_it_is_due() {
        let (mut replay, start) = (replay(8), Instant::now());
        let until = start + Duration::from_secs(4);
        replay.delay(until);
        assert_eq!(replay.next_due(), Some(until));
    }
}
