//! Instants and zones.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// An instant in milliseconds since 1970-01-01T00:00:00Z; RFC 3339 in UTC on the wire.
///
/// It spans 0000-01-01T00:00:00Z to 9999-12-30T22:00:00Z, which the calendar of every time zone can show, so that
/// formatting cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// Why something is no valid instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "time {value:?} is not an instant between the years 0 and 9999 in RFC 3339, such as 2026-11-24T08:00:00Z"
)]
pub struct ParseTimestampError {
    value: String,
}

impl Timestamp {
    /// Midnight of 1970-01-01 in UTC.
    pub const EPOCH: Self = Self(0);
    const MIN_MS: i64 = -62_167_219_200_000;
    const MAX_MS: i64 = 253_402_207_200_000;

    /// Wraps milliseconds since 1970.
    ///
    /// # Errors
    /// [`ParseTimestampError`] outside the years 0 to 9999.
    pub fn from_ms(ms: i64) -> Result<Self, ParseTimestampError> {
        if (Self::MIN_MS..=Self::MAX_MS).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(ParseTimestampError {
                value: format!("{ms} ms"),
            })
        }
    }

    /// Milliseconds since 1970.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This instant moved by `ms` milliseconds, held within the years 0 to 9999.
    #[must_use]
    pub fn offset_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms).clamp(Self::MIN_MS, Self::MAX_MS))
    }

    /// This instant moved forward.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        self.offset_ms(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    }

    /// Milliseconds from `earlier` to this instant; negative when it is not earlier.
    pub const fn ms_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        if self.0 % 1000 == 0 {
            write!(f, "{instant:.0}")
        } else {
            write!(f, "{instant:.3}")
        }
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseTimestampError {
            value: value.chars().take(64).collect(),
        };
        let instant: jiff::Timestamp = value.parse().map_err(|_| wrong())?;
        Self::from_ms(instant.as_millisecond()).map_err(|_| wrong())
    }
}

crate::as_text!(Timestamp);

/// A time zone: a fixed offset such as `-06:00`, `UTC`, or an IANA name such as `Europe/Berlin`.
///
/// The IANA database is compiled in, so that a gateway without zone files computes the same features as a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    name: String,
    zone: jiff::tz::TimeZone,
}

/// Why a string names no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "time zone {name:?} is neither an offset such as -06:00, nor UTC, nor an IANA name such as Europe/Berlin"
)]
pub struct ParseZoneError {
    name: String,
}

/// An instant as clocks and calendars in a zone show it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalTime {
    /// Hour of the day with its fraction, 0 up to but not including 24.
    pub hour: f64,
    /// Day of the week, 0 for Monday to 6 for Sunday.
    pub weekday: u8,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the year, 1 to 366.
    pub day_of_year: u16,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self {
            name: "UTC".to_owned(),
            zone: jiff::tz::TimeZone::UTC,
        }
    }

    /// What clocks in this zone show at `instant`.
    pub fn local(&self, instant: Timestamp) -> LocalTime {
        let instant =
            jiff::Timestamp::from_millisecond(instant.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let at = self.zone.to_datetime(instant);
        let seconds =
            f64::from(at.hour()) * 3600.0 + f64::from(at.minute()) * 60.0 + f64::from(at.second());
        LocalTime {
            hour: (seconds + f64::from(at.millisecond()) / 1000.0) / 3600.0,
            weekday: u8::try_from(at.weekday().to_monday_zero_offset()).unwrap_or(0),
            month: u8::try_from(at.month()).unwrap_or(1),
            day_of_year: u16::try_from(at.day_of_year()).unwrap_or(1),
        }
    }

    /// Reads an instant from text: RFC 3339, or a date and time without an offset, which is then taken in this zone.
    ///
    /// # Errors
    /// [`ParseTimestampError`] when it is neither.
    pub fn parse_instant(&self, text: &str) -> Result<Timestamp, ParseTimestampError> {
        if let Ok(instant) = text.parse() {
            return Ok(instant);
        }
        let wrong = || ParseTimestampError {
            value: text.chars().take(64).collect(),
        };
        let civil: jiff::civil::DateTime = text.parse().map_err(|_| wrong())?;
        let instant = self.zone.to_timestamp(civil).map_err(|_| wrong())?;
        Timestamp::from_ms(instant.as_millisecond()).map_err(|_| wrong())
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Zone {
    type Err = ParseZoneError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let zone = if name == "UTC" || name == "Z" {
            Some(jiff::tz::TimeZone::UTC)
        } else if name.starts_with(['+', '-']) {
            offset_minutes(name)
                .and_then(|minutes| jiff::tz::Offset::from_seconds(minutes * 60).ok())
                .map(jiff::tz::TimeZone::fixed)
        } else {
            jiff::tz::TimeZone::get(name).ok()
        };
        match zone {
            Some(zone) => Ok(Self {
                name: name.to_owned(),
                zone,
            }),
            None => Err(ParseZoneError {
                name: name.chars().take(64).collect(),
            }),
        }
    }
}

/// Reads `+HH:MM` or `-HH:MM`, up to 14 hours as the zones in use have it.
fn offset_minutes(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 6 || bytes[3] != b':' {
        return None;
    }
    let two = |at: usize| -> Option<i32> {
        let (tens, ones) = (bytes[at], bytes[at + 1]);
        (tens.is_ascii_digit() && ones.is_ascii_digit())
            .then(|| i32::from(tens - b'0') * 10 + i32::from(ones - b'0'))
    };
    let (hours, minutes) = (two(1)?, two(4)?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let total = hours * 60 + minutes;
    Some(if bytes[0] == b'-' { -total } else { total })
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(D::Error::custom)
    }
}
