//! The rules of the outbox: what waits, what is done, what must go.
//!
//! The outbox stores batches in **generations**, one small database each, and gives disk space back by deleting a
//! generation as a whole. A batch's number is its generation and its place within it, so that numbers grow and are
//! never used twice, whatever became of a generation.
//!
//! - [`Book`] knows of every generation which batches are in it, which are done, and what was lost why;
//! - [`Ranges`] is a set of places;
//! - [`split`](fn@split) cuts records into batches;
//! - [`is_too_old`] and [`generations_over_cap`] say what has to go.
//!
//! Nothing here touches a disk: the shell in the agent writes down what changed, and only then acts on it.

mod book;
mod ranges;
mod split;

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_models::Timestamp;

pub use book::{Book, Finished, Generation, Meta, RANGES_KEPT_MAX, Totals};
pub use ranges::Ranges;
pub use split::{Piece, SplitLimits, split};

/// What the records of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Predictions that are replayed.
    Prediction,
    /// Samples for training.
    Sample,
}

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

/// 2025-01-01: no agent ran before. A clock that says so has not been set since the power came back.
const CLOCK_IS_SET_MS: i64 = 1_735_689_600_000;

/// Whether a batch that was stored at `stored` is over the age limit.
///
/// What was stored by a clock that was not set has no age; it goes when the space is needed.
pub fn is_too_old(stored: Timestamp, now: Timestamp, age_max: Duration) -> bool {
    let age_ms_max = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
    stored.as_ms() >= CLOCK_IS_SET_MS && now.ms_since(stored) > age_ms_max
}

/// The oldest generations that must go so that the rest, and `other_bytes` beside it, takes at most `cap_bytes`.
///
/// `bytes` has the size of each generation; `active` is the one that is written to, which stays.
pub fn generations_over_cap(
    bytes: &BTreeMap<u32, u64>,
    other_bytes: u64,
    cap_bytes: u64,
    active: Option<u32>,
) -> Vec<u32> {
    let mut total = bytes
        .values()
        .fold(other_bytes, |sum, bytes| sum.saturating_add(*bytes));
    let mut over = Vec::new();
    for (&generation, &size) in bytes
        .iter()
        .filter(|(generation, _)| Some(**generation) != active)
    {
        if total <= cap_bytes {
            break;
        }
        total = total.saturating_sub(size);
        over.push(generation);
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    #[test]
    fn numbers_grow_with_generation_and_place() {
        assert_eq!(number(0, 0), 0);
        assert_eq!(number(3, 7), 0x0003_0000_0007);
        assert_eq!(place(number(u32::MAX, 1)), (u32::MAX, 1));
        assert!(number(1, u32::MAX) < number(2, 0));
    }

    #[test]
    fn age_counts_from_a_clock_that_was_set() {
        let (day, stored) = (Duration::from_hours(24), at(1_800_000_000_000));
        assert!(!is_too_old(stored, stored.after(day), day));
        assert!(is_too_old(stored, stored.after(day).offset_ms(1), day));
        assert!(!is_too_old(stored, at(0), day), "the clock went back");
        assert!(
            !is_too_old(at(5_000), stored, day),
            "stored before the clock was set"
        );
    }

    #[test]
    fn the_oldest_go_first_and_the_active_stays() {
        let bytes = BTreeMap::from([(1, 10), (2, 10), (3, 10), (4, 10)]);
        let over = |other, cap| generations_over_cap(&bytes, other, cap, Some(4));
        assert!(over(0, 40).is_empty());
        assert_eq!(over(0, 39), [1]);
        assert_eq!(over(5, 30), [1, 2]);
        assert_eq!(over(0, 0), [1, 2, 3]);
        assert_eq!(generations_over_cap(&bytes, 0, 0, None), [1, 2, 3, 4]);
    }
}
