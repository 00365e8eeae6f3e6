//! How many bytes of samples a day may have.

use crate::outbox::Now;
use crate::pace::{DAY_MS, Limits, Pace, Spent};

/// What of the day's budget may be used before its time: an hour's worth, so that the first windows of a day are not lost.
const AHEAD_MS: i64 = DAY_MS / 24;

/// Bytes a day, which begins at midnight UTC and is known over restarts, as that of the link.
///
/// It is spread: by an hour of the day, what had its share of the time by then and one hour more may have been used. What a
/// quiet night leaves, the day may use.
#[derive(Clone, Debug)]
pub struct Budget {
    day_bytes: u64,
    pace: Pace,
}

impl Budget {
    /// Goes on with what was used before.
    pub fn new(day_bytes: u64, before: Option<Spent>, now: Now) -> Self {
        let limits = Limits {
            rate_bytes: None,
            day_bytes: Some(day_bytes),
        };
        Self {
            day_bytes,
            pace: Pace::new(limits, before, now),
        }
    }

    /// Takes bytes, if so many may be used by now.
    pub fn take(&mut self, bytes: u64, now: Now) -> bool {
        let used = self.pace.spent(now).bytes;
        let may = used.saturating_add(bytes) <= self.allowed(now);
        if may {
            self.pace.sent(bytes, now);
        }
        may
    }

    /// What was used today.
    pub fn spent(&mut self, now: Now) -> Spent {
        self.pace.spent(now)
    }

    /// What may have been used by now. While the clock was never set no day passes, and there is one budget in all.
    fn allowed(&self, now: Now) -> u64 {
        let passed_ms = self.pace.passed_ms(now).unwrap_or(DAY_MS);
        let part_ms = passed_ms.saturating_add(AHEAD_MS).clamp(0, DAY_MS);
        let allowed = u128::from(self.day_bytes) * u128::from(part_ms.unsigned_abs())
            / u128::from(DAY_MS.unsigned_abs());
        u64::try_from(allowed).unwrap_or(u64::MAX)
    }
}
