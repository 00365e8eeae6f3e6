//! How fast, and how much in a day, may be sent.
//!
//! What must not wait is sent and counted; what can wait asks first. So the limits hold for what can wait, and what is
//! sent beside it takes from its share.

use std::time::Duration;

use lamppost_models::Timestamp;

use crate::outbox::{Guarded, Now};

pub(crate) const DAY_MS: i64 = 24 * 3_600_000;

/// The limits of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second; with a second's worth in one go.
    pub rate_bytes: Option<u64>,
    /// Bytes a day, which begins at midnight UTC.
    pub day_bytes: Option<u64>,
}

/// What was sent in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// When the day began.
    pub since: Timestamp,
    /// Bytes since.
    pub bytes: u64,
}

/// A rate and a day's budget.
#[derive(Clone, Debug)]
pub struct Pace {
    limits: Limits,
    /// Bytes that may go now; less than none when what could not wait went beyond.
    tokens: i128,
    /// When `tokens` was right.
    filled: Duration,
    guarded: Guarded,
    spent: Spent,
}

impl Pace {
    /// Goes on with what was spent before.
    pub fn new(limits: Limits, before: Option<Spent>, now: Now) -> Self {
        let tokens = limits.rate_bytes.map_or(0, i128::from);
        let spent = before.unwrap_or(Spent {
            since: midnight(now.wall),
            bytes: 0,
        });
        let mut pace = Self {
            limits,
            tokens,
            filled: now.steady,
            guarded: Guarded::default(),
            spent,
        };
        // A day that is far from the one that the clock shows was noted by a clock that was wrong.
        pace.guarded.look(now);
        let today = pace.guarded.wall(now).map(midnight);
        if today.is_some_and(|today| spent.since.ms_since(today) > DAY_MS) {
            pace.spent.since = midnight(now.wall);
        }
        pace
    }

    /// Notes what was sent.
    pub fn sent(&mut self, bytes: u64, now: Now) {
        self.refill(now);
        self.tokens -= i128::from(bytes);
        self.spent.bytes = self.spent.bytes.saturating_add(bytes);
    }

    /// How long what can wait has to; zero when it may go now.
    pub fn wait(&mut self, now: Now) -> Duration {
        self.refill(now);
        let for_day = match self.limits.day_bytes {
            Some(limit) if self.spent.bytes >= limit => self.until_next_day(now),
            Some(_) | None => Duration::ZERO,
        };
        for_day.max(self.until_token())
    }

    /// What was sent today.
    pub fn spent(&mut self, now: Now) -> Spent {
        self.refill(now);
        self.spent
    }

    /// The most that may be sent in a day.
    pub fn day_bytes(&self) -> Option<u64> {
        self.limits.day_bytes
    }

    /// How much of the day has passed, in milliseconds; `None` while the clock was never set.
    pub(crate) fn passed_ms(&self, now: Now) -> Option<i64> {
        let wall = self.guarded.wall(now)?;
        Some(wall.ms_since(self.spent.since))
    }

    fn until_token(&self) -> Duration {
        match self.limits.rate_bytes {
            Some(rate) if self.tokens <= 0 => {
                let missing = u64::try_from(1 - self.tokens).unwrap_or(u64::MAX);
                let ns = u128::from(missing) * 1_000_000_000 / u128::from(rate.max(1)) + 1;
                Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    fn until_next_day(&self, now: Now) -> Duration {
        // While the clock was never set, no day ends.
        let passed_ms = self.passed_ms(now).unwrap_or(0);
        let left = DAY_MS.saturating_sub(passed_ms).clamp(1_000, DAY_MS);
        Duration::from_millis(u64::try_from(left).unwrap_or(1_000))
    }

    fn refill(&mut self, now: Now) {
        self.guarded.look(now);
        if let Some(rate) = self.limits.rate_bytes {
            let passed = now.steady.saturating_sub(self.filled);
            let ns = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX);
            let more = ns.saturating_mul(i128::from(rate)) / 1_000_000_000;
            // A part of a byte stays for the next time.
            if more > 0 {
                self.tokens = self.tokens.saturating_add(more).min(i128::from(rate));
                self.filled = now.steady;
            }
        }
        // The day goes by a clock that does not jump: setting the wall clock gives no second budget.
        if let Some(wall) = self.guarded.wall(now)
            && wall.ms_since(self.spent.since) >= DAY_MS
        {
            self.spent = Spent {
                since: midnight(wall),
                bytes: 0,
            };
        }
    }
}

fn midnight(instant: Timestamp) -> Timestamp {
    instant.offset_ms(-instant.as_ms().rem_euclid(DAY_MS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON_MS: i64 = 1_800_014_400_000;

    fn at(ms: i64) -> Now {
        Timestamp::from_ms(NOON_MS + ms).unwrap().into()
    }

    fn limits(rate_bytes: Option<u64>, day_bytes: Option<u64>) -> Limits {
        Limits {
            rate_bytes,
            day_bytes,
        }
    }

    proptest! {
        /// Over any time, what can wait goes at no more than the rate, a second's worth and one message beside it.
        #[test]
        fn the_rate_holds(rate in 100_u64..100_000, bytes in 1_u64..50_000, live in proptest::option::of(1_u64..200)) {
            let mut pace = Pace::new(limits(Some(rate), None), None, at(0));
            let (mut now_ms, mut sent) = (0, 0);
            for _ in 0..200 {
                if let Some(live) = live {
                    pace.sent(live, at(now_ms));
                    sent += live;
                }
                let wait = pace.wait(at(now_ms));
                now_ms += i64::try_from(wait.as_millis()).unwrap() + 1;
                prop_assert_eq!(pace.wait(at(now_ms)), Duration::ZERO);
                pace.sent(bytes, at(now_ms));
                sent += bytes;
                let most = rate * (now_ms.unsigned_abs() + 1_000) / 1_000 + bytes + live.unwrap_or(0) + 1;
                prop_assert!(sent <= most, "{} bytes in {} ms, at most {}", sent, now_ms, most);
            }
        }
    }

    #[test]
    fn a_day_has_its_budget_and_the_next_one_a_new_one() {
        let mut pace = Pace::new(limits(None, Some(1_000)), None, at(0));
        pace.sent(999, at(0));
        assert_eq!(pace.wait(at(0)), Duration::ZERO);
        pace.sent(500, at(1));
        let wait = pace.wait(at(1));
        assert!(wait > Duration::from_hours(11) && wait <= Duration::from_hours(12));
        // What cannot wait goes on and counts.
        pace.sent(7, at(2));
        assert_eq!(pace.spent(at(2)).bytes, 1_506);
        let next = at(2 + i64::try_from(wait.as_millis()).unwrap());
        assert_eq!(pace.wait(next), Duration::ZERO);
        assert_eq!(pace.spent(next).bytes, 0);
    }

    #[test]
    fn a_restart_on_the_same_day_goes_on_with_it() {
        let before = Spent {
            since: midnight(at(0).wall),
            bytes: 1_000,
        };
        let pace = |now| Pace::new(limits(None, Some(1_000)), Some(before), now);
        assert!(pace(at(60_000)).wait(at(60_000)) > Duration::from_hours(11));
        let tomorrow = at(DAY_MS);
        assert_eq!(pace(tomorrow).wait(tomorrow), Duration::ZERO);
        // The clock was a year ahead when it was noted: no day lasts a year.
        let year_ago = at(-365 * DAY_MS);
        let wait = pace(year_ago).wait(year_ago);
        assert!(wait > Duration::ZERO && wait <= Duration::from_hours(12));
    }

    #[test]
    fn setting_the_clock_gives_no_second_budget() {
        let mut pace = Pace::new(limits(None, Some(1_000)), None, at(0));
        pace.sent(1_000, at(0));
        let jumped = Now {
            wall: at(30 * DAY_MS).wall,
            steady: at(5_000).steady,
        };
        assert!(pace.wait(jumped) > Duration::from_hours(11));
    }
}
