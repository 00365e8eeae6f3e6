//! The rules of the outbox: what waits, what is done, what must go.
//!
//! The outbox stores batches in **generations**, one small database each, and gives disk space back by deleting a
//! generation as a whole. A batch's number is its generation and its place within it, so that numbers grow and are
//! never used twice, whatever became of a generation.
//!
//! - [`Book`] knows of every [`Generation`] which batches are in it, which are done, and what was lost why;
//! - [`Events`] are what the coordinator must be told of losses, themselves delivered like batches;
//! - [`Waiters`] are what a node still has, by number;
//! - [`Ranges`] is a set of places;
//! - [`split`](fn@split) cuts records into batches;
//! - [`is_over_age`] and [`generations_over_cap`] say what has to go.
//!
//! Each class has a **lane**, which is the generations with records of that class. Numbers are unique over all lanes.
//!
//! Nothing here touches a disk: the shell in the agent writes down what changed, and only then acts on it.

mod book;
mod clock;
mod events;
mod generation;
mod ranges;
mod split;
mod waiting;

use std::collections::BTreeMap;

pub use lamppost_models::ledger::Class;

pub use book::{Book, Finished, Totals};
pub use clock::{Guarded, Now, is_over_age, is_too_old};
pub use events::{EVENTS_MAX, Events, GROUP_EVENTS_MAX};
pub use generation::{Generation, Meta, RANGES_KEPT_MAX, Run, SUMS_MAX, Sum};
pub use ranges::Ranges;
pub use split::{Piece, SplitLimits, split};
pub use waiting::Waiters;

/// The number of the batch at `place` of a generation.
pub const fn number(generation: u32, place: u32) -> u64 {
    (generation as u64) << 32 | place as u64
}

/// The generation and the place of a batch.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of 64 bits have 32 each"
)]
pub const fn place(number: u64) -> (u32, u32) {
    ((number >> 32) as u32, number as u32)
}

/// A generation and the bytes that it takes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sized {
    /// Its number.
    pub generation: u32,
    /// Its lane.
    pub class: Class,
    /// Its bytes.
    pub bytes: u64,
}

/// What the lanes may take on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// All of them, and what is beside them.
    pub all_bytes: u64,
    /// Each; a lane that is not named has the cap of all.
    pub lane_bytes: BTreeMap<Class, u64>,
}

/// The generations that must go so that each lane is within its cap, and all with `other_bytes` beside them within theirs:
/// the oldest of a lane, and for all the oldest of the lane that matters least.
///
/// `stays` has those that are needed.
pub fn generations_over_cap(
    sizes: &[Sized],
    other_bytes: u64,
    caps: &Caps,
    stays: &[u32],
) -> Vec<u32> {
    let mut over = Vec::new();
    let mut total = sizes
        .iter()
        .fold(other_bytes, |sum, size| sum.saturating_add(size.bytes));
    for (within_all, class) in [false, true]
        .into_iter()
        .flat_map(|all| Class::ALL.into_iter().rev().map(move |class| (all, class)))
    {
        let mut lane: Vec<&Sized> = sizes
            .iter()
            .filter(|size| size.class == class && !over.contains(&size.generation))
            .collect();
        lane.sort_by_key(|size| size.generation);
        let mut lane_bytes: u64 = lane.iter().map(|size| size.bytes).sum();
        let cap = caps.lane_bytes.get(&class).copied().unwrap_or(u64::MAX);
        for size in lane {
            let is_over = if within_all {
                total > caps.all_bytes
            } else {
                lane_bytes > cap
            };
            if !is_over {
                break;
            }
            if !stays.contains(&size.generation) {
                lane_bytes = lane_bytes.saturating_sub(size.bytes);
                total = total.saturating_sub(size.bytes);
                over.push(size.generation);
            }
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_with_generation_and_place() {
        assert_eq!(number(0, 0), 0);
        assert_eq!(number(3, 7), 0x0003_0000_0007);
        assert_eq!(place(number(u32::MAX, 1)), (u32::MAX, 1));
        assert!(number(1, u32::MAX) < number(2, 0));
    }

    fn sizes(all: &[(u32, Class)]) -> Vec<Sized> {
        let size = |&(generation, class)| Sized {
            generation,
            class,
            bytes: 10,
        };
        all.iter().map(size).collect()
    }

    fn caps(all_bytes: u64, lanes: &[(Class, u64)]) -> Caps {
        Caps {
            all_bytes,
            lane_bytes: lanes.iter().copied().collect(),
        }
    }

    #[test]
    fn the_oldest_go_first_and_the_active_stays() {
        let sizes = sizes(&[1, 2, 3, 4].map(|generation| (generation, Class::Prediction)));
        let over = |other, cap| generations_over_cap(&sizes, other, &caps(cap, &[]), &[4]);
        assert!(over(0, 40).is_empty());
        assert_eq!(over(0, 39), [1]);
        assert_eq!(over(5, 30), [1, 2]);
        assert_eq!(over(0, 0), [1, 2, 3]);
        assert_eq!(
            generations_over_cap(&sizes, 0, &caps(0, &[]), &[]),
            [1, 2, 3, 4]
        );
    }

    #[test]
    fn the_class_that_matters_least_goes_first_and_each_lane_has_its_cap() {
        use Class::{Prediction, Sample};
        let sizes = sizes(&[
            (1, Prediction),
            (2, Sample),
            (3, Prediction),
            (4, Sample),
            (5, Prediction),
        ]);
        let over = |caps: &Caps| generations_over_cap(&sizes, 0, caps, &[5]);
        assert_eq!(over(&caps(40, &[])), [2]);
        assert_eq!(over(&caps(20, &[])), [2, 4, 1]);
        assert_eq!(over(&caps(100, &[(Sample, 10)])), [2]);
        assert_eq!(over(&caps(100, &[(Prediction, 20)])), [1]);
        assert_eq!(over(&caps(30, &[(Prediction, 20), (Sample, 20)])), [1, 2]);
        assert_eq!(over(&caps(0, &[])), [2, 4, 1, 3]);
    }
}
