//! Predictions that wait for their label.

use std::collections::{BTreeMap, VecDeque};

use lamppost_models::id::PredictionId;
use lamppost_models::{BootId, Timestamp};

use super::Predicted;

/// What a prediction waits for, and which it is.
pub(super) type Key = (Timestamp, PredictionId);

const FIRST_ID: PredictionId = PredictionId {
    boot: BootId::from_u64(0),
    number: 0,
};
const LAST_ID: PredictionId = PredictionId {
    boot: BootId::from_u64(u64::MAX),
    number: u64::MAX,
};

/// Predictions by what they wait for, the oldest first, and by their id.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pending: BTreeMap<Key, Pending<T>>,
    /// Pending predictions by arrival, to find the oldest; some may be joined already.
    arrivals: VecDeque<(Timestamp, Key)>,
}

#[derive(Debug)]
struct Pending<T> {
    predicted: T,
    /// Readings still to come, the label included; used where labels are counted in steps.
    steps_left: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            pending: BTreeMap::new(),
            arrivals: VecDeque::new(),
        }
    }
}

impl<T: AsRef<Predicted>> Waiting<T> {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Adds one and says how many were given up to stay within `max`.
    pub(super) fn wait(
        &mut self,
        key: Key,
        predicted: T,
        steps_left: usize,
        (now, max): (Timestamp, usize),
    ) -> u64 {
        let pending = Pending {
            predicted,
            steps_left,
        };
        self.pending.insert(key, pending);
        self.arrivals.push_back((now, key));
        let mut lost = 0;
        // Entries of joined predictions stay in `arrivals` until they come to its front: it holds at most the double.
        while self.pending.len() > max || self.arrivals.len() > 2 * max {
            let Some((_, oldest)) = self.arrivals.pop_front() else {
                break;
            };
            lost += u64::from(self.pending.remove(&oldest).is_some());
        }
        lost
    }

    /// Gives up those that waited for longer than `age_ms`, and says how many.
    pub(super) fn expire(&mut self, now: Timestamp, age_ms: i64) -> u64 {
        let mut lost = 0;
        while let Some(&(since, key)) = self.arrivals.front() {
            let waits = self.pending.contains_key(&key);
            if waits && now.ms_since(since) <= age_ms {
                break;
            }
            self.arrivals.pop_front();
            lost += u64::from(self.pending.remove(&key).is_some());
        }
        lost
    }

    /// Those that a reading at `ts` is the last step for; the others are one step nearer.
    pub(super) fn count_step(&mut self, ts: Timestamp) -> Vec<Key> {
        self.pending
            .range_mut(..(ts, FIRST_ID))
            .filter_map(|(key, pending)| {
                pending.steps_left = pending.steps_left.saturating_sub(1);
                (pending.steps_left == 0).then_some(*key)
            })
            .collect()
    }

    /// Those that wait for something from `from` to `to`.
    pub(super) fn between(&self, from: Timestamp, to: Timestamp) -> Vec<Key> {
        let range = (from, FIRST_ID)..=(to, LAST_ID);
        self.pending.range(range).map(|(key, _)| *key).collect()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&T> {
        self.pending.get(key).map(|pending| &pending.predicted)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<T> {
        self.pending.remove(key).map(|pending| pending.predicted)
    }
}
