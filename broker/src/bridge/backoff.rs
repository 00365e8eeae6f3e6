//! When to connect again.

use std::time::Duration;

/// The first pause and the longest one.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(1);

/// A connection that held for so long was not refused: the next pause is the first one again.
const STEADY: Duration = Duration::from_secs(30);

/// Pauses that double, each cut short by a random part of up to a half, so that bridges to a broker that was down do
/// not come back in one instant.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// Never zero, where the generator would stand still.
    random: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            next: FIRST,
            random: seed | 1,
        }
    }

    /// The pause after a connection that held for `held`; `None` if it was never made.
    pub(super) fn pause(&mut self, held: Option<Duration>) -> Duration {
        if held.is_some_and(|held| held >= STEADY) {
            self.next = FIRST;
        }
        let whole = self.next;
        self.next = (whole * 2).min(LAST);
        // Marsaglia, "Xorshift RNGs", 2003.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = u32::try_from(self.random >> 33).unwrap_or(u32::MAX);
        whole / 2 + (whole / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, FIRST, LAST, STEADY};

    #[test]
    fn pauses_double_to_a_limit_and_differ() {
        let mut pauses = Vec::new();
        for seed in [3, u64::MAX] {
            let mut backoff = Backoff::new(seed);
            let mut whole = FIRST;
            for _ in 0..10 {
                let pause = backoff.pause(None);
                assert!(
                    pause >= whole / 2 && pause <= whole,
                    "{pause:?} of {whole:?}"
                );
                whole = (whole * 2).min(LAST);
                pauses.push(pause);
            }
        }
        assert_ne!(pauses[..10], pauses[10..]);
    }

    #[test]
    fn only_a_connection_that_held_starts_over() {
        let mut backoff = Backoff::new(5);
        for _ in 0..8 {
            backoff.pause(None);
        }
        assert!(backoff.pause(Some(FIRST)) >= LAST / 2);
        assert!(backoff.pause(Some(STEADY)) <= FIRST);
    }
}
