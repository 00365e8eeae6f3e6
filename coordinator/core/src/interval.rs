//! Sets of numbers as ranges.

use std::ops::RangeInclusive;

/// Most ranges in a set. Numbers come in order, so that an honest node needs one range and another for each loss; at 16
/// bytes a range a full set has 4 KiB, which is one small value in the store.
pub const RANGES_MAX: usize = 256;

/// Numbers that were seen, as sorted ranges with gaps between them.
///
/// When a number would need one range too many, the lowest range is forgotten: a set may fail to know an old number,
/// which costs a duplicate, but it never claims one that it did not see, which would cost a loss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntervalSet {
    /// Both ends included; sorted, neither overlapping nor touching.
    ranges: Vec<(u64, u64)>,
}

/// What became of a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It was not in the set.
    New,
    /// It was not in the set, and this lowest range had to be forgotten for it.
    NewForgetting(RangeInclusive<u64>),
    /// It was in the set.
    Known,
}

/// Why ranges make no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// There are too many.
    #[error("{found} ranges, the limit is {RANGES_MAX}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// They are not sorted, overlap or touch.
    #[error("range {from}..={to} is out of order")]
    Order {
        /// First number of the range.
        from: u64,
        /// Last number of the range.
        to: u64,
    },
}

impl IntervalSet {
    /// A set with no numbers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the set knows `number`.
    pub fn contains(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|&(from, _)| from <= number);
        after
            .checked_sub(1)
            .and_then(|at| self.ranges.get(at))
            .is_some_and(|&(_, to)| number <= to)
    }

    /// Adds `number`.
    pub fn insert(&mut self, number: u64) -> Insertion {
        if self.contains(number) {
            return Insertion::Known;
        }
        let after = self.ranges.partition_point(|&(from, _)| from <= number);
        let joins_left = after > 0 && self.ranges[after - 1].1.checked_add(1) == Some(number);
        let joins_right =
            after < self.ranges.len() && number.checked_add(1) == Some(self.ranges[after].0);
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[after - 1].1 = self.ranges[after].1;
                self.ranges.remove(after);
            }
            (true, false) => self.ranges[after - 1].1 = number,
            (false, true) => self.ranges[after].0 = number,
            (false, false) => {
                self.ranges.insert(after, (number, number));
                if self.ranges.len() > RANGES_MAX {
                    // When the new number is the lowest itself, the next one goes: what was just stored must be known.
                    let (from, to) = self.ranges.remove(usize::from(after == 0));
                    return Insertion::NewForgetting(from..=to);
                }
            }
        }
        Insertion::New
    }

    /// The ranges, ascending, both ends included.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// How many numbers the set holds.
    pub fn count(&self) -> u64 {
        count(&self.ranges)
    }

    /// Forgets the numbers below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        self.ranges.retain(|&(_, to)| to >= floor);
        if let Some((from, _)) = self.ranges.first_mut() {
            *from = floor.max(*from);
        }
    }

    /// Makes a set of ranges that [`IntervalSet::ranges`] gave out.
    ///
    /// # Errors
    /// [`RangesError`] when they are too many, or not ascending with gaps between them.
    pub fn from_ranges(ranges: Vec<(u64, u64)>) -> Result<Self, RangesError> {
        if ranges.len() > RANGES_MAX {
            return Err(RangesError::TooMany {
                found: ranges.len(),
            });
        }
        let mut least: Option<u64> = Some(0);
        for &(from, to) in &ranges {
            if from > to || least.is_none_or(|least| from < least) {
                return Err(RangesError::Order { from, to });
            }
            least = to.checked_add(2);
        }
        Ok(Self { ranges })
    }
}

/// Joins numbers into ranges, ascending, both ends included, whatever their order and however often they occur.
pub fn coalesce(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    join(numbers.into_iter().map(|number| (number, number)))
}

/// How many numbers are in ranges that do not overlap.
pub fn count(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().fold(0, |sum: u64, &(from, to)| {
        sum.saturating_add((to - from).saturating_add(1))
    })
}

/// The numbers of `whole` that are not in `part`; both ascending and without overlaps.
pub fn subtract(whole: &[(u64, u64)], part: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut rest = Vec::new();
    let mut part = part.iter().copied().peekable();
    for &(mut from, to) in whole {
        while part.next_if(|&(_, end)| end < from).is_some() {}
        let mut left = true;
        while let Some(&(start, end)) = part.peek().filter(|&&(start, _)| start <= to) {
            if start > from {
                rest.push((from, start - 1));
            }
            if end >= to {
                left = false;
                break;
            }
            from = end + 1;
            part.next();
        }
        if left {
            rest.push((from, to));
        }
    }
    rest
}

/// The numbers that are in both; both ascending and without overlaps.
pub fn intersect(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64)> {
    subtract(a, &subtract(a, b))
}

/// Joins ranges that overlap or touch, whatever their order; those that end before they begin are left out.
pub fn join(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = ranges.into_iter().filter(|(from, to)| from <= to).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match joined.last_mut() {
            Some((_, end)) if from <= end.saturating_add(1) => *end = to.max(*end),
            _ => joined.push((from, to)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn near_edges() -> impl Strategy<Value = u64> {
        prop_oneof![0..40_u64, (u64::MAX - 20)..=u64::MAX, any::<u64>()]
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(numbers in vec(near_edges(), 0..200), probes in vec(near_edges(), 0..50)) {
            let mut set = IntervalSet::new();
            let mut oracle = BTreeSet::new();
            for &number in &numbers {
                let new = oracle.insert(number);
                prop_assert_eq!(set.insert(number) == Insertion::New, new);
            }
            for number in numbers.iter().chain(&probes) {
                prop_assert_eq!(set.contains(*number), oracle.contains(number));
            }
            prop_assert_eq!(set.count(), oracle.len() as u64);
            prop_assert_eq!(set.ranges(), coalesce(oracle));
            prop_assert_eq!(IntervalSet::from_ranges(set.ranges().to_vec()), Ok(set));
        }

        #[test]
        fn never_claims_what_it_did_not_see(numbers in vec(0..4_000_u64, 0..3_000)) {
            let mut set = IntervalSet::new();
            let mut oracle = BTreeSet::new();
            for number in numbers {
                if set.insert(number) == Insertion::Known {
                    prop_assert!(oracle.contains(&number));
                }
                oracle.insert(number);
                prop_assert!(set.contains(number), "what was just seen is known");
                prop_assert!(set.ranges().len() <= RANGES_MAX);
            }
            for &(from, to) in set.ranges() {
                prop_assert!((from..=to).all(|number| oracle.contains(&number)));
            }
        }

        #[test]
        fn ranges_are_taken_apart_as_sets_are(a in vec((0..60_u64, 0..60_u64), 0..8), b in vec((0..60_u64, 0..60_u64), 0..8), floor in 0..60_u64) {
            let (a, b) = (join(a), join(b));
            let plain = |ranges: &[(u64, u64)]| ranges.iter().flat_map(|&(from, to)| from..=to).collect::<BTreeSet<_>>();
            let (plain_a, plain_b) = (plain(&a), plain(&b));
            prop_assert_eq!(subtract(&a, &b), coalesce(plain_a.difference(&plain_b).copied()));
            prop_assert_eq!(intersect(&a, &b), coalesce(plain_a.intersection(&plain_b).copied()));
            prop_assert_eq!(count(&a), plain_a.len() as u64);
            let mut set = IntervalSet::from_ranges(a).unwrap();
            set.remove_below(floor);
            prop_assert_eq!(set.ranges(), coalesce(plain_a.into_iter().filter(|number| *number >= floor)));
        }

        #[test]
        fn refuses_ranges_that_are_no_set(ranges in vec((0..30_u64, 0..30_u64), 0..5)) {
            let sorted = ranges.iter().all(|(from, to)| from <= to)
                && ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
            prop_assert_eq!(IntervalSet::from_ranges(ranges).is_ok(), sorted);
        }
    }

    #[test]
    fn forgets_the_lowest_range_when_full() {
        let mut set = IntervalSet::new();
        for number in 0..RANGES_MAX as u64 {
            assert_eq!(set.insert(number * 2 + 10), Insertion::New);
        }
        assert_eq!(set.insert(10_000), Insertion::NewForgetting(10..=10));
        assert!(!set.contains(10));
        assert_eq!(set.insert(0), Insertion::NewForgetting(12..=12));
        assert!(set.contains(0));
    }
}
