//! Which period it is, by event time.

use std::time::Duration;

use lamppost_models::Timestamp;
use serde::{Deserialize, Serialize};

use crate::span;

/// Least that makes a period, whatever is usual.
const COUNT_MIN: u64 = 8;

/// What makes a period, where `usual` is what one has: with less than half of it, it goes on into the next one, so that an
/// outage makes none.
pub(super) fn least(usual: u64) -> u64 {
    (usual / 2).max(COUNT_MIN)
}

/// The period that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    index: Option<i64>,
    /// What came in it.
    pub(super) count: u64,
}

impl Open {
    /// Counts one of `ts`; true when the period before it is over, which had `least` or more.
    ///
    /// Any other period ends the open one, also an earlier one: a single reading from a far future must not keep the
    /// periods of now from ending.
    pub(super) fn turns(&mut self, ts: Timestamp, period: Duration, least: u64) -> bool {
        let index = ts.as_ms().div_euclid(span::ms(period).max(1));
        let before = self.index.replace(index);
        let over = before.is_some_and(|before| before != index) && self.count >= least;
        if over {
            self.count = 0;
        }
        self.count += 1;
        over
    }
}
