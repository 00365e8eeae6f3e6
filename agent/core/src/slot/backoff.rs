use std::time::Duration;

use crate::mix;

/// How long to wait before something that failed is tried again: longer each time, up to a limit, and never at the same
/// time as the rest of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub max: Duration,
    /// Makes this node wait differently from others; drawn at random when the agent starts.
    pub seed: u64,
}

impl Backoff {
    /// Two seconds to five minutes: a thousand nodes that lost a server ask it some seven times a second in all.
    pub const fn new(seed: u64) -> Self {
        Self {
            first: Duration::from_secs(2),
            max: Duration::from_mins(5),
            seed,
        }
    }

    /// The wait after failure number `tries`, from 1: half of the doubled time is certain, the other half is chance.
    pub fn delay(&self, tries: u32) -> Duration {
        let doubled = self.first.saturating_mul(
            1_u32
                .checked_shl(tries.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        let full = doubled.min(self.max);
        full.div_f64(2.0) + full.mul_f64(self.chance(tries) / 2.0)
    }

    /// The wait that a server asked for, and up to half as much again by chance: those that it sent away together do not
    /// come back together.
    pub fn spread(&self, asked: Duration, tries: u32) -> Duration {
        asked.saturating_add(asked.mul_f64(self.chance(tries) / 2.0))
    }

    /// A number in 0..1.
    fn chance(&self, tries: u32) -> f64 {
        mix::chance(self.seed.wrapping_add(u64::from(tries)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_differ_between_nodes() {
        let backoff = Backoff::new(7);
        for tries in 1..100 {
            let doubled = Duration::from_secs(2_u64.saturating_pow(tries)).min(backoff.max);
            let delay = backoff.delay(tries);
            assert!(
                delay >= doubled / 2 && delay <= doubled,
                "try {tries}: {delay:?} of {doubled:?}"
            );
        }
        assert_ne!(Backoff::new(7).delay(3), Backoff::new(8).delay(3));
        assert_ne!(backoff.delay(50), backoff.delay(51));
    }
}
