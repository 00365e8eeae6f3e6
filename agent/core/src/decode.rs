//! The bytes of a sensor message become a [`Reading`], or an error fine enough to count and to log.
//!
//! A [`DecodeSpec`] is what a configuration says, as it stands there; a [`Decoder`] is the same checked and prepared.

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_models::id::FieldName;
use lamppost_models::{Reading, Timestamp, Value};

use crate::span;

mod binary;
mod csv;
mod error;
mod json;
mod number;
mod spec;
#[cfg(test)]
mod tests;

pub use error::{DecodeError, SpecError};
pub use spec::{
    Column, CsvSpec, DecodeSpec, F32Spec, F32Time, FieldKind, FieldSpec, ImageSpec, JsonSpec,
    SourceSpec, TimeUnit,
};

/// What no message may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Longest payload in bytes.
    pub payload_bytes_max: usize,
    /// How far an event time may lie ahead of the node's clock. A reading from the far future would move the watermark
    /// there and make all that follow late.
    pub ahead_max: Duration,
}

impl Default for DecodeLimits {
    /// 256 KiB, an image of 512 x 512 in one byte a pixel; five minutes, more than a sensor's clock drifts in a month.
    fn default() -> Self {
        Self {
            payload_bytes_max: 256 * 1024,
            ahead_max: Duration::from_mins(5),
        }
    }
}

/// Turns the messages of one stream into readings.
#[derive(Clone, Debug)]
pub struct Decoder {
    format: Format,
    limits: DecodeLimits,
}

#[derive(Clone, Debug)]
enum Format {
    Json(json::Json),
    Csv(csv::Csv),
    F32(binary::F32),
    Image(binary::Image),
}

/// What a format finds in a message: the event time, if the message has one, and the values.
type Parts = (Option<Timestamp>, BTreeMap<FieldName, Value>);

impl Decoder {
    /// Checks what a configuration says and prepares for it.
    ///
    /// # Errors
    /// [`SpecError`] when it contradicts itself.
    pub fn new(spec: &DecodeSpec, limits: DecodeLimits) -> Result<Self, SpecError> {
        let format = match spec {
            DecodeSpec::Json(spec) => Format::Json(json::Json::new(spec)?),
            DecodeSpec::Csv(spec) => Format::Csv(csv::Csv::new(spec)?),
            DecodeSpec::F32(spec) => Format::F32(binary::F32::new(spec)?),
            DecodeSpec::Image(spec) => {
                Format::Image(binary::Image::new(spec, limits.payload_bytes_max)?)
            }
        };
        Ok(Self { format, limits })
    }

    /// Reads one message that came at `arrival` by the node's clock, which is also its event time if it carries none.
    ///
    /// # Errors
    /// [`DecodeError`] when it is too large, not of the configured format, lacks a field that must be there, or has a
    /// number or a time that cannot be.
    pub fn decode(&self, payload: &[u8], arrival: Timestamp) -> Result<Reading, DecodeError> {
        if payload.len() > self.limits.payload_bytes_max {
            return Err(DecodeError::TooLarge {
                bytes: payload.len(),
                limit: self.limits.payload_bytes_max,
            });
        }
        let (ts, fields) = match &self.format {
            Format::Json(format) => format.parts(payload)?,
            Format::Csv(format) => format.parts(payload)?,
            Format::F32(format) => format.parts(payload)?,
            Format::Image(format) => format.parts(payload)?,
        };
        let ts = ts.unwrap_or(arrival);
        let ahead_ms = ts.ms_since(arrival);
        if ahead_ms > span::ms(self.limits.ahead_max) {
            return Err(DecodeError::Ahead {
                ts,
                ahead: Duration::from_millis(ahead_ms.unsigned_abs()),
                limit: self.limits.ahead_max,
            });
        }
        Ok(Reading { ts, fields })
    }

    /// The fields that readings have, those that may be missing included.
    pub fn fields(&self) -> Vec<&FieldName> {
        match &self.format {
            Format::Json(format) => format.fields().collect(),
            Format::Csv(format) => format.fields().collect(),
            Format::F32(format) => format.fields().collect(),
            Format::Image(format) => vec![format.field()],
        }
    }
}
