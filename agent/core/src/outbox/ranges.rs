//! A set of places, as ranges.

use serde::{Deserialize, Serialize};

/// A set of numbers, kept as sorted ranges that do not touch; both ends of a range are included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct Ranges(Vec<(u32, u32)>);

/// Why a list is not a set of ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ranges are not sorted, or touch")]
pub struct RangesError;

impl Ranges {
    /// Adds all numbers from `from` to `to`.
    pub fn insert(&mut self, from: u32, to: u32) {
        if from > to {
            return;
        }
        // Ranges that overlap the new one, or touch it, become one with it.
        let first = self
            .0
            .partition_point(|range| range.1 < from.saturating_sub(1));
        let behind = self
            .0
            .partition_point(|range| range.0 <= to.saturating_add(1));
        let (mut low, mut high) = (from, to);
        if let Some(joined) = self.0.get(first..behind) {
            low = joined.first().map_or(low, |range| range.0.min(low));
            high = joined.last().map_or(high, |range| range.1.max(high));
        }
        self.0.splice(first..behind.max(first), [(low, high)]);
    }

    /// Whether a number is in the set.
    pub fn contains(&self, number: u32) -> bool {
        let at = self.0.partition_point(|range| range.1 < number);
        self.0.get(at).is_some_and(|range| range.0 <= number)
    }

    /// How many numbers are in the set.
    pub fn len(&self) -> u64 {
        self.0
            .iter()
            .map(|(from, to)| u64::from(to - from) + 1)
            .sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges it takes.
    pub fn runs(&self) -> usize {
        self.0.len()
    }

    /// The numbers from `from` up to, and without, `end` that are not in the set, as ranges with both ends.
    pub fn missing(&self, from: u32, end: u32) -> Vec<(u32, u32)> {
        let mut missing = Vec::new();
        let mut next = from;
        for &(low, high) in &self.0 {
            if low >= end || next >= end {
                break;
            }
            if low > next {
                missing.push((next, low - 1));
            }
            next = next.max(high.saturating_add(1));
        }
        if next < end {
            missing.push((next, end - 1));
        }
        missing
    }

    /// The first number from `from` on that is not in the set.
    pub fn first_missing(&self, from: u32) -> u32 {
        let at = self.0.partition_point(|range| range.1 < from);
        match self.0.get(at) {
            Some(range) if range.0 <= from => range.1.saturating_add(1),
            Some(_) | None => from,
        }
    }

    /// The same set, but no more than its first `runs_max` ranges.
    #[must_use]
    pub fn truncated(&self, runs_max: usize) -> Self {
        Self(self.0.iter().take(runs_max).copied().collect())
    }
}

impl TryFrom<Vec<(u32, u32)>> for Ranges {
    type Error = RangesError;

    fn try_from(ranges: Vec<(u32, u32)>) -> Result<Self, RangesError> {
        let ordered = ranges.iter().all(|(from, to)| from <= to);
        let apart = ranges
            .windows(2)
            .all(|pair| u64::from(pair[0].1) + 1 < u64::from(pair[1].0));
        if ordered && apart {
            Ok(Self(ranges))
        } else {
            Err(RangesError)
        }
    }
}

impl From<Ranges> for Vec<(u32, u32)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(inserts in proptest::collection::vec((0_u32..40, 0_u32..8), 0..20),
                              from in 0_u32..45, end in 0_u32..45) {
            let mut ranges = Ranges::default();
            let mut oracle = BTreeSet::new();
            for (from, length) in inserts {
                // A length of 0 is an empty range, which adds nothing.
                ranges.insert(from + 1, from + length);
                oracle.extend(from + 1..from + 1 + length);
            }
            let list: Vec<(u32, u32)> = ranges.clone().into();
            prop_assert_eq!(Ranges::try_from(list).unwrap(), ranges.clone());
            prop_assert_eq!(ranges.len(), oracle.len() as u64);
            prop_assert_eq!(ranges.is_empty(), oracle.is_empty());
            for number in 0..50 {
                prop_assert_eq!(ranges.contains(number), oracle.contains(&number));
            }
            let missing: Vec<u32> = ranges.missing(from, end).into_iter().flat_map(|(low, high)| low..=high).collect();
            let wanted: Vec<u32> = (from..end).filter(|number| !oracle.contains(number)).collect();
            prop_assert_eq!(missing, wanted);
            prop_assert_eq!(ranges.first_missing(from), (from..100).find(|number| !oracle.contains(number)).unwrap());
        }

        #[test]
        fn any_list_is_a_set_or_refused(list in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..4)) {
            if let Ok(ranges) = Ranges::try_from(list.clone()) {
                let all: u64 = list.iter().map(|(from, to)| u64::from(to - from) + 1).sum();
                prop_assert_eq!(ranges.len(), all);
            }
        }
    }

    #[test]
    fn holds_the_last_number() {
        let mut ranges = Ranges::default();
        ranges.insert(u32::MAX - 1, u32::MAX);
        ranges.insert(u32::MAX, u32::MAX);
        ranges.insert(0, 0);
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges.missing(0, u32::MAX), [(1, u32::MAX - 2)]);
    }
}
