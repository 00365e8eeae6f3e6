//! When to try again.

use std::time::Duration;

/// A connection that held this long was no accident: the next pause is the shortest again.
const STEADY: Duration = Duration::from_secs(30);

/// Pauses that double up to a limit, each shortened at random by up to a half, so that a fleet whose coordinator
/// restarts does not come back in one instant.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    /// The next pause before it is shortened.
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        // The generator stands still at 0.
        Self {
            min,
            max,
            next: min,
            random: seed | 1,
        }
    }

    /// The pause before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        let half = full / 2;
        half + half.mul_f64(self.fraction())
    }

    /// A number from 0 to 1 that differs between nodes.
    pub(super) fn fraction(&mut self) -> f64 {
        // Marsaglia, "Xorshift RNGs", 2003: good enough to spread reconnects.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Notes how long the last connection held.
    pub(super) fn was_up(&mut self, held: Duration) {
        if held >= STEADY.min(self.max) {
            self.next = self.min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_differ_between_nodes() {
        let (min, max) = (Duration::from_secs(1), Duration::from_mins(1));
        let pauses = |seed| {
            let mut backoff = Backoff::new(min, max, seed);
            (0..10).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        for (step, pause) in pauses(1).into_iter().enumerate() {
            let full = (min * 2_u32.pow(u32::try_from(step).unwrap())).min(max);
            assert!(pause >= full / 2 && pause <= full, "step {step}: {pause:?}");
        }
        assert_ne!(pauses(0x9f3a_1c2b), pauses(0x1d00_77aa));
    }

    #[test]
    fn a_connection_that_held_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), 7);
        for _ in 0..8 {
            backoff.next();
        }
        backoff.was_up(Duration::from_secs(1));
        assert!(backoff.next() >= Duration::from_secs(30));
        backoff.was_up(Duration::from_secs(31));
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
