//! What a node still has, by number, in a bounded form.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_models::ledger::{Class, WAITING_RANGES_MAX, Waiting};
use lamppost_models::{BootId, StreamName};

/// Most streams in runs of the agent that a report lists, with 150 bytes each: two runs of a node of 64 streams. Of more,
/// those of the newest runs are told.
const KEYS_MAX: usize = 128;

/// What the numbers are of.
pub(super) type Key = (Class, StreamName, BootId);
/// First and last numbers.
type Stretches = Vec<(u64, u64)>;

/// Numbers of records, by class, stream and run of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiters {
    /// The ranges, and which key came how early.
    keys: BTreeMap<Key, (usize, Stretches)>,
}

impl Waiters {
    /// Adds a range, both ends included. The ranges of what came first are told first.
    pub fn add(&mut self, class: Class, stream: &StreamName, boot: BootId, from: u64, to: u64) {
        let order = self.keys.len();
        let key = (class, stream.clone(), boot);
        let (_, ranges) = self.keys.entry(key).or_insert_with(|| (order, Vec::new()));
        // Most come one behind the other.
        match ranges.last_mut() {
            Some(last) if last.0 <= from && from <= last.1.saturating_add(1) => {
                last.1 = last.1.max(to);
            }
            Some(_) | None => ranges.push((from, to)),
        }
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: &Self) {
        let mut keys: Vec<_> = other.keys.iter().collect();
        keys.sort_by_key(|(_, (order, _))| *order);
        for ((class, stream, boot), (_, ranges)) in keys {
            for (from, to) in ranges {
                self.add(*class, stream, *boot, *from, *to);
            }
        }
    }

    /// The ranges of each key, sorted and apart.
    pub(super) fn ranges(self) -> Vec<(Key, Stretches)> {
        let keys = self.keys.into_iter();
        keys.map(|(key, (_, ranges))| (key, united(ranges)))
            .collect()
    }

    /// The form of a report, and whether ranges were joined with what is between them.
    pub fn told(self) -> (Vec<Waiting>, bool) {
        let mut keys: Vec<_> = self.keys.into_iter().collect();
        keys.sort_by_key(|(_, (order, _))| *order);
        let over = keys.len().saturating_sub(KEYS_MAX);
        let mut joined = over > 0;
        let mut told: Vec<Waiting> = keys
            .into_iter()
            .skip(over)
            .map(|((class, stream, boot), (_, ranges))| Waiting {
                class,
                stream,
                boot,
                ranges: united(ranges),
            })
            .collect();
        joined |= join_nearest(&mut told);
        (told, joined)
    }
}

/// The same numbers in ranges that are sorted and do not touch.
fn united(mut ranges: Stretches) -> Stretches {
    ranges.sort_unstable();
    let mut united: Stretches = Vec::new();
    for (from, to) in ranges {
        match united.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            Some(_) | None => united.push((from, to)),
        }
    }
    united
}

/// Joins the neighbours with the least between them until there are few enough ranges; whether it had to. Each stream
/// of each run of the agent keeps one range at least.
fn join_nearest(told: &mut [Waiting]) -> bool {
    let ranges: usize = told.iter().map(|waiting| waiting.ranges.len()).sum();
    if ranges <= WAITING_RANGES_MAX {
        return false;
    }
    let mut gaps: Vec<(u64, usize, usize)> = Vec::new();
    for (at, waiting) in told.iter().enumerate() {
        let pairs = waiting.ranges.windows(2).zip(1..);
        gaps.extend(pairs.map(|(pair, behind)| (pair[1].0 - pair[0].1, at, behind)));
    }
    gaps.sort_unstable_by_key(|gap| std::cmp::Reverse(gap.0));
    gaps.truncate(WAITING_RANGES_MAX.saturating_sub(told.len()));
    let kept: BTreeSet<(usize, usize)> =
        gaps.iter().map(|(_, at, behind)| (*at, *behind)).collect();
    for (at, waiting) in told.iter_mut().enumerate() {
        let mut joined: Stretches = Vec::new();
        for (place, range) in std::mem::take(&mut waiting.ranges).into_iter().enumerate() {
            match joined.last_mut() {
                Some(last) if !kept.contains(&(at, place)) => last.1 = range.1,
                Some(_) | None => joined.push(range),
            }
        }
        waiting.ranges = joined;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(name: &str) -> StreamName {
        StreamName::new(name).unwrap()
    }

    const BOOT: BootId = BootId::from_u64(7);

    proptest! {
        #[test]
        fn nothing_that_waits_is_left_out(ranges in proptest::collection::vec((0_u64..2_000, 0_u64..9, 0..3_usize), 0..300)) {
            let names = ["a", "b", "c"].map(stream);
            let mut waiters = Waiters::default();
            let mut oracle = BTreeSet::new();
            for (from, length, name) in ranges {
                waiters.add(Class::Prediction, &names[name], BOOT, from, from + length);
                oracle.extend((from..=from + length).map(|seq| (names[name].clone(), seq)));
            }
            let (told, joined) = waiters.told();
            let mut found = BTreeSet::new();
            for waiting in &told {
                prop_assert!(waiting.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
                found.extend(waiting.ranges.iter().flat_map(|(from, to)| *from..=*to).map(|seq| (waiting.stream.clone(), seq)));
            }
            prop_assert!(told.iter().map(|waiting| waiting.ranges.len()).sum::<usize>() <= WAITING_RANGES_MAX);
            prop_assert!(found.is_superset(&oracle));
            prop_assert_eq!(found == oracle, !joined);
        }
    }

    #[test]
    fn the_oldest_come_first_and_a_list_of_many_runs_is_bounded() {
        let mut waiters = Waiters::default();
        for boot in 0..400 {
            waiters.add(
                Class::Prediction,
                &stream("z"),
                BootId::from_u64(1_000 - boot),
                5,
                9,
            );
            waiters.add(
                Class::Prediction,
                &stream("z"),
                BootId::from_u64(1_000 - boot),
                50,
                90,
            );
        }
        let (told, joined) = waiters.told();
        assert!(joined && told.len() == KEYS_MAX);
        assert_eq!(told[KEYS_MAX - 1].boot, BootId::from_u64(601));
        assert_eq!(told[0].ranges, [(5, 90)]);
    }
}
