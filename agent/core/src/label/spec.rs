//! What a configuration says about labels.

use std::time::Duration;

use lamppost_models::id::{FieldName, StreamName};
use serde::{Deserialize, Serialize};

use crate::decode::SourceSpec;
use crate::span;

/// Predictions that wait for their label, unless configured otherwise: some 200 bytes each.
pub(super) const PENDING_DEFAULT: usize = 4096;
/// Most predictions that a configuration may let wait.
pub(super) const PENDING_MAX: usize = 65_536;
/// Most steps ahead.
pub(super) const AHEAD_MAX: usize = 1000;
/// How long a prediction waits, unless configured otherwise.
pub(super) const AGE_DEFAULT: Duration = Duration::from_hours(168);

/// Where labels come from and which prediction they belong to.
///
/// In TOML `{ stream = "i94-volume", field = "volume", ahead = 1 }`, or from a topic of their own
/// `{ source = { topic = "labels/i94", decode = "json", time = "/ts", fields = { volume = "/v" } }, field = "volume" }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawLabel", into = "RawLabel")]
pub struct LabelSpec {
    from: LabelFrom,
    field: FieldName,
    ahead: Option<usize>,
    tolerance: Option<Duration>,
    age: Duration,
    pending_max: usize,
}

/// Where labels come from.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelFrom {
    /// The readings of a stream, which may be the predictions' own.
    Stream(StreamName),
    /// A topic of their own.
    Source(SourceSpec),
}

/// Why a label's configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelSpecError {
    /// Neither a stream nor a source, or both.
    #[error("a label comes from either a stream or a source: set one of them")]
    StreamOrSource,
    /// Steps on a topic that has no order.
    #[error(
        "ahead counts the readings of a stream: a source's labels go by their time, leave ahead out"
    )]
    AheadOfSource,
    /// A number that cannot be.
    #[error("{key} is {value}, it must be 1 to {max}")]
    Number {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: usize,
        /// The limit.
        max: usize,
    },
}

impl LabelSpec {
    /// Where labels come from.
    pub const fn from(&self) -> &LabelFrom {
        &self.from
    }

    /// The field of a reading that is the label: a number or a text.
    pub const fn field(&self) -> &FieldName {
        &self.field
    }

    /// How many readings after the window's newest the label comes; without it, it is found by the target's time.
    pub const fn ahead(&self) -> Option<usize> {
        self.ahead
    }

    /// How far the label's time may be from the target's.
    pub const fn tolerance(&self) -> Option<Duration> {
        self.tolerance
    }

    /// How long a prediction waits.
    pub const fn age(&self) -> Duration {
        self.age
    }

    /// How many predictions wait.
    pub const fn pending_max(&self) -> usize {
        self.pending_max
    }
}

/// A label as a configuration has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLabel {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<StreamName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<SourceSpec>,
    field: FieldName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tolerance: Option<RawSpan>,
    #[serde(default = "age_default", with = "span")]
    age: Duration,
    #[serde(default = "pending_default")]
    pending_max: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
struct RawSpan(#[serde(with = "span")] Duration);

fn age_default() -> Duration {
    AGE_DEFAULT
}

fn pending_default() -> usize {
    PENDING_DEFAULT
}

impl TryFrom<RawLabel> for LabelSpec {
    type Error = LabelSpecError;

    fn try_from(raw: RawLabel) -> Result<Self, Self::Error> {
        let from = match (raw.stream, raw.source) {
            (Some(stream), None) => LabelFrom::Stream(stream),
            (None, Some(_)) if raw.ahead.is_some() => return Err(LabelSpecError::AheadOfSource),
            (None, Some(source)) => LabelFrom::Source(source),
            (Some(_), Some(_)) | (None, None) => return Err(LabelSpecError::StreamOrSource),
        };
        let limits = [
            ("ahead", raw.ahead.unwrap_or(1), AHEAD_MAX),
            ("pending_max", raw.pending_max, PENDING_MAX),
        ];
        if let Some(&(key, value, max)) = limits
            .iter()
            .find(|(_, value, max)| !(1..=*max).contains(value))
        {
            return Err(LabelSpecError::Number { key, value, max });
        }
        Ok(Self {
            from,
            field: raw.field,
            ahead: raw.ahead,
            tolerance: raw.tolerance.map(|RawSpan(tolerance)| tolerance),
            age: raw.age,
            pending_max: raw.pending_max,
        })
    }
}

impl From<LabelSpec> for RawLabel {
    fn from(spec: LabelSpec) -> Self {
        let (stream, source) = match spec.from {
            LabelFrom::Stream(stream) => (Some(stream), None),
            LabelFrom::Source(source) => (None, Some(source)),
        };
        Self {
            stream,
            source,
            field: spec.field,
            ahead: spec.ahead,
            tolerance: spec.tolerance.map(RawSpan),
            age: spec.age,
            pending_max: spec.pending_max,
        }
    }
}
