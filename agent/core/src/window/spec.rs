//! What a configuration says about windows.

use std::time::Duration;

use lamppost_models::manifest::WINDOW_COUNT_MAX;
use serde::{Deserialize, Serialize};

use crate::span;

/// Most readings that wait for the watermark, unless configured otherwise: ten minutes at six a second.
pub(super) const REORDER_DEFAULT: usize = 4096;
/// Most readings that a configuration may let wait: some 300 bytes each come to 20 MB.
pub(super) const REORDER_MAX: usize = 65_536;
/// Most windows by time that a reading may belong to: one a minute over a day.
pub(super) const OVERLAP_MAX: u128 = 1440;
/// Longest duration, hop and lateness: a year and a day.
pub(super) const SPAN_MAX: Duration = Duration::from_hours(8784);
/// Most readings in a window by time, as many as a manifest may ask for.
pub(super) const TIME_WINDOW_COUNT_MAX: usize = WINDOW_COUNT_MAX;

/// How a stream is cut into windows.
///
/// In TOML `{ count = 24, hop = 1, lateness = "10m" }`, or `{ duration = "1h", hop = "10m" }`. Without a hop, windows by
/// count come with each reading and windows by time do not overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawWindow", into = "RawWindow")]
pub struct WindowSpec {
    cut: Cut,
    lateness: Duration,
    reorder_max: usize,
    duplicates: Duplicates,
}

/// Where a window begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After so many readings.
    Count {
        /// Readings in a window.
        count: usize,
        /// Readings from one window to the next.
        hop: usize,
    },
    /// After so much event time.
    Time {
        /// From a window's start to its end.
        duration: Duration,
        /// From one window's end to the next one's.
        hop: Duration,
    },
}

/// What is done with readings of the same event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplicates {
    /// The first one counts: the others are the same message, sent again.
    #[default]
    Drop,
    /// Each one counts, in the order of arrival: for sensors faster than a reading a millisecond, and for streams whose
    /// event time is the time of arrival.
    Keep,
}

/// Why a window's configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowSpecError {
    /// Neither a count nor a duration, or both.
    #[error("a window has either count or duration: set one of them")]
    CountOrDuration,
    /// A count or a hop that cannot be.
    #[error("{key} is {value}, it must be 1 to {max}")]
    Count {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: usize,
        /// The limit.
        max: usize,
    },
    /// A span of time that cannot be.
    #[error("{key} is {value:?}, it must be {min:?} to {max:?} in whole milliseconds")]
    Span {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: Duration,
        /// The least it may be.
        min: Duration,
        /// The most it may be.
        max: Duration,
    },
    /// A hop of the wrong kind.
    #[error(
        "hop is {found}: a window by count hops by readings, such as hop = 1, one by duration by time, such as hop = \"10m\""
    )]
    Hop {
        /// What it is.
        found: String,
    },
    /// Too many windows at once.
    #[error(
        "duration {duration:?} over hop {hop:?} puts a reading into {overlap} windows, the limit is {OVERLAP_MAX}: take a longer hop"
    )]
    Overlap {
        /// The duration.
        duration: Duration,
        /// The hop.
        hop: Duration,
        /// What they come to.
        overlap: u128,
    },
}

impl WindowSpec {
    /// Windows of `count` readings, one every `hop` readings.
    ///
    /// # Errors
    /// [`WindowSpecError`] when one of them is 0 or too large.
    pub fn by_count(count: usize, hop: usize) -> Result<Self, WindowSpecError> {
        let max = WINDOW_COUNT_MAX;
        for (key, value) in [("count", count), ("hop", hop)] {
            if !(1..=max).contains(&value) {
                return Err(WindowSpecError::Count { key, value, max });
            }
        }
        Ok(Self::with(Cut::Count { count, hop }))
    }

    /// Windows of `duration`, one every `hop`.
    ///
    /// # Errors
    /// [`WindowSpecError`] when one of them is 0, too long, or they overlap too much.
    pub fn by_time(duration: Duration, hop: Duration) -> Result<Self, WindowSpecError> {
        check_span("duration", duration, Duration::from_millis(1))?;
        check_span("hop", hop, Duration::from_millis(1))?;
        let overlap = duration.as_millis().div_ceil(hop.as_millis());
        if overlap > OVERLAP_MAX {
            return Err(WindowSpecError::Overlap {
                duration,
                hop,
                overlap,
            });
        }
        Ok(Self::with(Cut::Time { duration, hop }))
    }

    /// The same with readings that may be up to `lateness` behind the newest.
    ///
    /// # Errors
    /// [`WindowSpecError`] when it is too long.
    pub fn with_lateness(self, lateness: Duration) -> Result<Self, WindowSpecError> {
        check_span("lateness", lateness, Duration::ZERO)?;
        Ok(Self { lateness, ..self })
    }

    /// The same with at most `reorder_max` readings that wait.
    ///
    /// # Errors
    /// [`WindowSpecError`] when it is 0 or too large.
    pub fn with_reorder_max(self, reorder_max: usize) -> Result<Self, WindowSpecError> {
        if (1..=REORDER_MAX).contains(&reorder_max) {
            Ok(Self {
                reorder_max,
                ..self
            })
        } else {
            Err(WindowSpecError::Count {
                key: "reorder_max",
                value: reorder_max,
                max: REORDER_MAX,
            })
        }
    }

    /// The same with another rule for equal event times.
    #[must_use]
    pub const fn with_duplicates(mut self, duplicates: Duplicates) -> Self {
        self.duplicates = duplicates;
        self
    }

    const fn with(cut: Cut) -> Self {
        Self {
            cut,
            lateness: Duration::ZERO,
            reorder_max: REORDER_DEFAULT,
            duplicates: Duplicates::Drop,
        }
    }

    /// Where a window begins and ends.
    pub const fn cut(&self) -> Cut {
        self.cut
    }

    /// How far behind the newest a reading may be.
    pub const fn lateness(&self) -> Duration {
        self.lateness
    }

    /// How many readings may wait.
    pub const fn reorder_max(&self) -> usize {
        self.reorder_max
    }

    /// What is done with readings of the same event time.
    pub const fn duplicates(&self) -> Duplicates {
        self.duplicates
    }
}

fn check_span(key: &'static str, value: Duration, min: Duration) -> Result<(), WindowSpecError> {
    let whole = value.subsec_nanos().is_multiple_of(1_000_000);
    if whole && (min..=SPAN_MAX).contains(&value) {
        Ok(())
    } else {
        Err(WindowSpecError::Span {
            key,
            value,
            min,
            max: SPAN_MAX,
        })
    }
}

/// A window as a configuration has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWindow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration: Option<RawSpan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hop: Option<RawHop>,
    #[serde(default, with = "span")]
    lateness: Duration,
    #[serde(default = "reorder_default")]
    reorder_max: usize,
    #[serde(default)]
    duplicates: Duplicates,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
struct RawSpan(#[serde(with = "span")] Duration);

#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "hop must be a number of readings such as 1, or a time such as \"10m\""
)]
enum RawHop {
    Readings(usize),
    Time(RawSpan),
}

fn reorder_default() -> usize {
    REORDER_DEFAULT
}

impl TryFrom<RawWindow> for WindowSpec {
    type Error = WindowSpecError;

    fn try_from(raw: RawWindow) -> Result<Self, Self::Error> {
        let spec = match (raw.count, raw.duration, raw.hop) {
            (Some(count), None, None) => Self::by_count(count, 1)?,
            (Some(count), None, Some(RawHop::Readings(hop))) => Self::by_count(count, hop)?,
            (None, Some(RawSpan(duration)), None) => Self::by_time(duration, duration)?,
            (None, Some(RawSpan(duration)), Some(RawHop::Time(RawSpan(hop)))) => {
                Self::by_time(duration, hop)?
            }
            (Some(_), None, Some(RawHop::Time(RawSpan(hop)))) => {
                return Err(WindowSpecError::Hop {
                    found: format!("{hop:?}"),
                });
            }
            (None, Some(_), Some(RawHop::Readings(hop))) => {
                return Err(WindowSpecError::Hop {
                    found: format!("{hop} readings"),
                });
            }
            (Some(_), Some(_), _) | (None, None, _) => {
                return Err(WindowSpecError::CountOrDuration);
            }
        };
        let spec = spec
            .with_lateness(raw.lateness)?
            .with_reorder_max(raw.reorder_max)?;
        Ok(spec.with_duplicates(raw.duplicates))
    }
}

impl From<WindowSpec> for RawWindow {
    fn from(spec: WindowSpec) -> Self {
        let (count, duration, hop) = match spec.cut {
            Cut::Count { count, hop } => (Some(count), None, RawHop::Readings(hop)),
            Cut::Time { duration, hop } => {
                (None, Some(RawSpan(duration)), RawHop::Time(RawSpan(hop)))
            }
        };
        Self {
            count,
            duration,
            hop: Some(hop),
            lateness: spec.lateness,
            reorder_max: spec.reorder_max,
            duplicates: spec.duplicates,
        }
    }
}
