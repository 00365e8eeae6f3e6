//! What an operator asks of a training.

use serde::{Deserialize, Serialize};

use super::PolicyError;
use crate::rollout::policy::{Bytes, Span, error};

/// Longest span: a year, beyond which a loop is forgotten rather than slow.
const SPAN_MAX: Span = Span::from_hours(366 * 24);
/// Most samples that may be asked for: a year of ten a minute, as a rollout's gate.
const SAMPLES_MAX: u64 = 5_000_000;
/// Most failures in a row: with pauses that double from a minute on, the twentieth is a year later.
const FAILURES_MAX: u32 = 20;

/// When a training is allowed, and what a gain may cost. TOML and JSON; what is left out is as in [`Terms::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Labelled samples that must have come since the last attempt.
    pub samples_min: u64,
    /// Least time between two attempts, unless nodes report that errors have grown.
    pub gap_min: Span,
    /// Most bytes over all links that an error lower by one per cent may cost.
    pub bytes_per_percent: Bytes,
    /// Most time of training that an error lower by one per cent may cost.
    pub time_per_percent: Span,
    /// Most bytes over all links in a day (UTC) for new versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<Bytes>,
    /// Most time of training in a day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_per_day: Option<Span>,
    /// The pause after a training that failed or did not pay; twice as long after each further one in a row.
    pub backoff: Span,
    /// Failures in a row after which the loop stops.
    pub failures_max: u32,
}

impl Default for Terms {
    /// Two weeks of hourly samples, at most a training a day; one per cent less error is worth 1 MB over the links and ten
    /// minutes of a processor.
    fn default() -> Self {
        Self {
            samples_min: 336,
            gap_min: Span::from_hours(24),
            bytes_per_percent: Bytes(1_000_000),
            time_per_percent: Span::from_secs(600),
            bytes_per_day: None,
            time_per_day: None,
            backoff: Span::from_hours(24),
            failures_max: 3,
        }
    }
}

impl Terms {
    /// Checks what can be checked without a fleet.
    ///
    /// # Errors
    /// [`PolicyError`] with the first key that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        if !(1..=SAMPLES_MAX).contains(&self.samples_min) {
            let mend = format!("1 to {SAMPLES_MAX}; two weeks of hourly samples are 336");
            return Err(error("when.samples_min", self.samples_min, mend));
        }
        if !(1..=FAILURES_MAX).contains(&self.failures_max) {
            let mend = format!("1 to {FAILURES_MAX}");
            return Err(error("when.failures_max", self.failures_max, mend));
        }
        let spans = [
            ("when.gap_min", Some(self.gap_min), true),
            ("when.time_per_percent", Some(self.time_per_percent), false),
            ("when.time_per_day", self.time_per_day, false),
            ("when.backoff", Some(self.backoff), false),
        ];
        for (field, span, zero) in spans {
            let out = |span: &Span| *span > SPAN_MAX || (!zero && *span == Span::default());
            if let Some(span) = span.filter(out) {
                let least = if zero { "0s" } else { "1s" };
                return Err(error(field, span, format!("{least} to 366d")));
            }
        }
        let bytes = [
            ("when.bytes_per_percent", Some(self.bytes_per_percent)),
            ("when.bytes_per_day", self.bytes_per_day),
        ];
        for (field, bytes) in bytes {
            if let Some(bytes) = bytes.filter(|bytes| bytes.0 == 0) {
                let mend = "1B or more: what costs nothing may always be done";
                return Err(error(field, bytes, mend));
            }
        }
        Ok(())
    }
}
