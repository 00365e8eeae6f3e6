//! The coordinator's clock, the one place that reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use lamppost_models::Timestamp;

/// Now, by the system's clock; held within the years that a timestamp has.
pub(crate) fn now() -> Timestamp {
    let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    Timestamp::EPOCH.offset_ms(ms)
}
