//! Clocks that jump, and ages that do not.

use std::time::Duration;

use lamppost_models::Timestamp;

/// 2025-01-01: no agent ran before. A clock that says so has not been set since the power came back.
const CLOCK_IS_SET_MS: i64 = 1_735_689_600_000;

/// An instant by two clocks: the one that people see, which may be set, and one that never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Since some instant of this run of the agent.
    pub steady: Duration,
}

impl Now {
    /// Whole seconds of the steady clock.
    pub(super) fn steady_s(self) -> u32 {
        u32::try_from(self.steady.as_secs()).unwrap_or(u32::MAX)
    }
}

/// By clocks that agree.
impl From<Timestamp> for Now {
    fn from(wall: Timestamp) -> Self {
        let steady = Duration::from_millis(u64::try_from(wall.as_ms()).unwrap_or(0));
        Self { wall, steady }
    }
}

/// A wall clock that goes on from its first setting in this run of the agent, whoever sets it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    first: Option<Now>,
}

impl Guarded {
    /// Looks at the clocks; the first wall clock that is set counts.
    pub fn look(&mut self, now: Now) {
        if self.first.is_none() && now.wall.as_ms() >= CLOCK_IS_SET_MS {
            self.first = Some(now);
        }
    }

    /// What the wall clock would show; `None` before it was set.
    pub fn wall(&self, now: Now) -> Option<Timestamp> {
        let first = self.first?;
        Some(first.wall.after(now.steady.saturating_sub(first.steady)))
    }
}

/// Whether what was stored at `stored` is over the age limit by one clock.
///
/// What was stored by a clock that was not set has no age; it goes when the space is needed.
pub fn is_too_old(stored: Timestamp, now: Timestamp, age_max: Duration) -> bool {
    let age_ms_max = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
    stored.as_ms() >= CLOCK_IS_SET_MS && now.ms_since(stored) > age_ms_max
}

/// Whether what was stored at `stored`, and at `steady_s` if that was in this run of the agent, is over the age limit by
/// both clocks: a wall clock that jumps ahead makes nothing old.
pub fn is_over_age(
    stored: Timestamp,
    steady_s: Option<u32>,
    now: Now,
    guarded: &Guarded,
    age_max: Duration,
) -> bool {
    is_too_old(stored, now.wall, age_max)
        && match steady_s {
            Some(at) => now.steady.saturating_sub(Duration::from_secs(at.into())) > age_max,
            None => guarded
                .wall(now)
                .is_some_and(|wall| is_too_old(stored, wall, age_max)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    #[test]
    fn age_counts_from_a_clock_that_was_set() {
        let stored = at(1_800_000_000_000);
        assert!(!is_too_old(stored, stored.after(DAY), DAY));
        assert!(is_too_old(stored, stored.after(DAY).offset_ms(1), DAY));
        assert!(!is_too_old(stored, at(0), DAY), "the clock went back");
        assert!(
            !is_too_old(at(5_000), stored, DAY),
            "stored before the clock was set"
        );
    }

    #[test]
    fn a_jump_ahead_makes_nothing_old_and_time_that_passes_does() {
        let start = Now::from(at(1_800_000_000_000));
        let mut guarded = Guarded::default();
        guarded.look(start);
        let after = |wall: Duration, steady: Duration| Now {
            wall: start.wall.after(wall),
            steady: start.steady + steady,
        };
        let (before, now_s) = (start.wall, Some(start.steady_s()));
        for (now, old) in [
            (after(365 * DAY, Duration::from_secs(9)), false),
            (after(2 * DAY, 2 * DAY), true),
            (after(Duration::ZERO, 2 * DAY), false),
        ] {
            assert_eq!(
                is_over_age(before, now_s, now, &guarded, DAY),
                old,
                "{now:?}"
            );
            assert_eq!(
                is_over_age(before, None, now, &guarded, DAY),
                old,
                "{now:?}"
            );
        }
        assert!(!is_over_age(
            before,
            None,
            after(2 * DAY, 2 * DAY),
            &Guarded::default(),
            DAY
        ));
    }

    #[test]
    fn a_clock_that_is_set_late_counts_from_then() {
        let mut guarded = Guarded::default();
        let boot = Now {
            wall: at(9_000),
            steady: Duration::from_secs(9),
        };
        guarded.look(boot);
        assert_eq!(guarded.wall(boot), None);
        let set = Now {
            wall: at(1_800_000_000_000),
            steady: Duration::from_secs(20),
        };
        guarded.look(set);
        let later = Now {
            wall: at(1_900_000_000_000),
            steady: Duration::from_secs(21),
        };
        guarded.look(later);
        assert_eq!(guarded.wall(later), Some(at(1_800_000_001_000)));
    }
}
