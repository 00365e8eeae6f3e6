//! Live predictions until the coordinator has stored them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamppost_models::message::PredictionRange;
use lamppost_models::{BootId, Timestamp};

/// Entries that are done and still in the queue, beyond as many as are open: what a sweep is worth.
const DONE_ENTRIES_MAX: usize = 64;

/// A prediction on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The number within its id.
    pub(super) number: u64,
    /// Which of the node's streams it is of, by its place in the configuration.
    pub(super) stream: usize,
    /// Its number within its stream.
    pub(super) seq: u64,
    /// The batch of the outbox that has it, if it was stored first.
    pub(super) batch: Option<u64>,
    /// Event time of the newest reading in its window.
    pub(super) ts: Timestamp,
    /// Its JSON.
    pub(super) json: Bytes,
}

/// What an acknowledgement finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Predictions.
    pub(super) predictions: usize,
    /// The batch of each that was stored first.
    pub(super) batches: Vec<u64>,
}

/// What memory may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) ack_timeout: Duration,
}

/// The predictions of this run that are not acknowledged, oldest first: those that were sent, then those that wait.
#[derive(Debug)]
pub(super) struct Pending {
    boot: BootId,
    limits: Limits,
    entries: VecDeque<Entry>,
    /// How many of the entries were sent.
    sent: usize,
    /// How many of the entries are not acknowledged.
    open: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// `None` once it is acknowledged or given up; the entry goes soon after.
    record: Option<Record>,
    /// When its acknowledgement is late; for one that waits, when waiting is over.
    due: Instant,
}

impl Pending {
    pub(super) fn new(boot: BootId, limits: Limits) -> Self {
        Self {
            boot,
            limits,
            entries: VecDeque::new(),
            sent: 0,
            open: 0,
            bytes: 0,
        }
    }

    /// Takes in a prediction; numbers only grow.
    pub(super) fn push(&mut self, record: Record, now: Instant) {
        self.open += 1;
        self.bytes += record.json.len();
        let (number, due) = (record.number, now + self.limits.ack_timeout);
        self.entries.push_back(Entry {
            number,
            record: Some(record),
            due,
        });
    }

    /// The next prediction to send, if any.
    pub(super) fn next_unsent(&self) -> Option<&Record> {
        self.entries
            .range(self.sent..)
            .find_map(|entry| entry.record.as_ref())
    }

    /// Notes that [`Self::next_unsent`] was sent.
    pub(super) fn mark_sent(&mut self, now: Instant) {
        let skipped = self
            .entries
            .range(self.sent..)
            .take_while(|entry| entry.record.is_none())
            .count();
        if let Some(entry) = self.entries.get_mut(self.sent + skipped) {
            entry.due = now + self.limits.ack_timeout;
            self.sent += skipped + 1;
        }
    }

    /// Forgets what the coordinator has stored.
    pub(super) fn acknowledge(&mut self, range: PredictionRange) -> Acknowledged {
        let mut forgotten = Acknowledged::default();
        if range.boot != self.boot {
            return forgotten;
        }
        let start = self
            .entries
            .partition_point(|entry| entry.number < range.from);
        for entry in self.entries.range_mut(start..) {
            if entry.number > range.to {
                break;
            }
            if let Some(record) = entry.record.take() {
                self.bytes -= record.json.len();
                self.open -= 1;
                forgotten.predictions += 1;
                forgotten.batches.extend(record.batch);
            }
        }
        self.trim();
        forgotten
    }

    /// Gives up those whose acknowledgement is late.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Record> {
        // Due times grow within what was sent and within what waits, so that each is cut at its first that is not due.
        let mut late = Vec::new();
        for range in [0..self.sent, self.sent..self.entries.len()] {
            for entry in self.entries.range_mut(range) {
                if entry.due > now {
                    break;
                }
                late.extend(entry.record.take());
            }
        }
        self.given_up(&late);
        late
    }

    /// Gives up what is over the limits: those that wait first, oldest first, for what was sent has better chances.
    pub(super) fn take_excess(&mut self) -> Vec<Record> {
        let (mut open, mut bytes, mut excess) = (self.open, self.bytes, Vec::new());
        for range in [self.sent..self.entries.len(), 0..self.sent] {
            for entry in self.entries.range_mut(range) {
                if open <= self.limits.records && bytes <= self.limits.bytes {
                    break;
                }
                if let Some(record) = entry.record.take() {
                    open -= 1;
                    bytes -= record.json.len();
                    excess.push(record);
                }
            }
        }
        self.given_up(&excess);
        excess
    }

    /// Gives up all.
    pub(super) fn take_all(&mut self) -> Vec<Record> {
        let all = self
            .entries
            .drain(..)
            .filter_map(|entry| entry.record)
            .collect();
        (self.sent, self.open, self.bytes) = (0, 0, 0);
        all
    }

    /// When the next acknowledgement is late.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first_open = |range: std::ops::Range<usize>| {
            self.entries
                .range(range)
                .find(|entry| entry.record.is_some())
                .map(|entry| entry.due)
        };
        let (sent, waiting) = (
            first_open(0..self.sent),
            first_open(self.sent..self.entries.len()),
        );
        sent.into_iter().chain(waiting).min()
    }

    /// Those that are not acknowledged, oldest first.
    pub(super) fn open(&self) -> impl Iterator<Item = &Record> {
        self.entries
            .iter()
            .filter_map(|entry| entry.record.as_ref())
    }

    /// How many are not acknowledged.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    fn given_up(&mut self, records: &[Record]) {
        self.open -= records.len();
        self.bytes -= records
            .iter()
            .map(|record| record.json.len())
            .sum::<usize>();
        self.trim();
    }

    /// Drops the entries that are done: those in front, and all of them when they are the most, so that one prediction
    /// without an acknowledgement does not keep the entries behind it.
    fn trim(&mut self) {
        if self.entries.len() > 2 * self.open + DONE_ENTRIES_MAX {
            self.sent = self
                .entries
                .range(..self.sent)
                .filter(|entry| entry.record.is_some())
                .count();
            self.entries.retain(|entry| entry.record.is_some());
            return;
        }
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.record.is_none())
        {
            self.entries.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: BootId = BootId::from_u64(7);
    const SECOND: Duration = Duration::from_secs(1);

    fn pending(records: usize) -> Pending {
        Pending::new(
            BOOT,
            Limits {
                records,
                bytes: 1000,
                ack_timeout: 30 * SECOND,
            },
        )
    }

    fn record(number: u64) -> Record {
        Record {
            number,
            stream: 0,
            seq: number,
            batch: None,
            ts: Timestamp::EPOCH,
            json: Bytes::from_static(b"0123456789"),
        }
    }

    fn numbers(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.number).collect()
    }

    fn range(from: u64, to: u64) -> PredictionRange {
        PredictionRange {
            boot: BOOT,
            from,
            to,
        }
    }

    #[test]
    fn what_is_acknowledged_is_forgotten_and_nothing_else() {
        let (mut pending, now) = (pending(100), Instant::now());
        (0..6).for_each(|number| pending.push(record(number), now));
        assert_eq!(pending.acknowledge(range(1, 2)).predictions, 2);
        assert_eq!(
            pending.acknowledge(range(1, 2)).predictions,
            0,
            "an acknowledgement that comes twice"
        );
        assert_eq!(
            pending.acknowledge(PredictionRange {
                boot: BootId::from_u64(8),
                from: 0,
                to: 9
            }),
            Acknowledged::default()
        );
        assert_eq!(pending.acknowledge(range(5, 1_000)).predictions, 1);
        assert_eq!(numbers(&pending.take_all()), [0, 3, 4]);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn a_late_acknowledgement_gives_the_prediction_up() {
        let (mut pending, now) = (pending(100), Instant::now());
        pending.push(record(0), now);
        pending.push(record(1), now + SECOND);
        pending.mark_sent(now + 2 * SECOND);
        assert_eq!(pending.next_due(), Some(now + 31 * SECOND));
        assert!(pending.take_late(now + 30 * SECOND).is_empty());
        assert_eq!(numbers(&pending.take_late(now + 31 * SECOND)), [1]);
        assert_eq!(numbers(&pending.take_late(now + 32 * SECOND)), [0]);
        assert_eq!(pending.next_due(), None);
    }

    #[test]
    fn over_the_limit_those_that_wait_go_first() {
        let (mut pending, now) = (pending(3), Instant::now());
        (0..5).for_each(|number| pending.push(record(number), now));
        pending.mark_sent(now);
        pending.mark_sent(now);
        assert_eq!(numbers(&pending.take_excess()), [2, 3]);
        assert_eq!(pending.next_unsent().map(|record| record.number), Some(4));
        pending.mark_sent(now);
        assert_eq!(pending.next_unsent(), None);
        assert_eq!(pending.acknowledge(range(0, 4)).predictions, 3);
    }

    proptest! {
        /// Whatever happens, each prediction is acknowledged, given up, or still there: once.
        #[test]
        fn none_is_lost_and_none_doubled(steps in proptest::collection::vec((0..6_u8, 0..40_u64, 0..8_u64), 1..200)) {
            let (mut pending, start) = (pending(8), Instant::now());
            let (mut next, mut gone, mut now) = (0, Vec::new(), start);
            for (step, at, length) in steps {
                now += SECOND * u32::try_from(length).unwrap();
                match step {
                    0 | 1 => {
                        pending.push(record(next), now);
                        next += 1;
                    }
                    2 => pending.mark_sent(now),
                    3 => {
                        let before: Vec<_> = numbers(&pending.entries.iter().filter_map(|e| e.record.clone()).collect::<Vec<_>>());
                        let hit: Vec<_> = before.into_iter().filter(|n| (at..=at + length).contains(n)).collect();
                        prop_assert_eq!(pending.acknowledge(range(at, at + length)).predictions, hit.len());
                        gone.extend(hit);
                    }
                    4 => gone.extend(numbers(&pending.take_late(now))),
                    _ => gone.extend(numbers(&pending.take_excess())),
                }
                prop_assert!(pending.sent <= pending.entries.len());
                let open = pending.entries.iter().filter(|e| e.record.is_some()).count();
                prop_assert_eq!((pending.len(), pending.bytes), (open, open * 10));
            }
            gone.extend(numbers(&pending.take_all()));
            gone.sort_unstable();
            prop_assert_eq!(gone, (0..next).collect::<Vec<_>>());
        }
    }
}
