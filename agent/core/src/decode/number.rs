//! Numbers and times as sensors write them.

use std::collections::BTreeMap;

use lamppost_models::Timestamp;
use lamppost_models::id::FieldName;
use lamppost_models::time::Zone;

use super::error::{DecodeError, SpecError};
use super::spec::{FieldKind, FieldSpec, TimeUnit};

/// Longest piece of a message that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 64;

pub(super) fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// A field, prepared: its name, where it is, and what is done to its numbers.
#[derive(Clone, Debug)]
pub(super) struct Field<A> {
    pub(super) name: FieldName,
    pub(super) at: A,
    pub(super) kind: Option<FieldKind>,
    pub(super) optional: bool,
    scale: f64,
    offset: f64,
    min: f64,
    max: f64,
}

impl<A> Field<A> {
    /// Prepares all fields of a configuration; `place` turns what it says of a field's place into a place.
    pub(super) fn all<B>(
        specs: &BTreeMap<FieldName, FieldSpec<B>>,
        optional: &[FieldName],
        place: impl Fn(&B) -> Result<A, SpecError>,
    ) -> Result<Vec<Self>, SpecError> {
        if specs.is_empty() {
            return Err(SpecError::NoFields);
        }
        if let Some(field) = optional.iter().find(|field| !specs.contains_key(*field)) {
            return Err(SpecError::UnknownOptional {
                field: field.clone(),
            });
        }
        specs
            .iter()
            .map(|(name, spec)| Self::new(name, spec, place(&spec.at)?, optional.contains(name)))
            .collect()
    }

    fn new<B>(
        name: &FieldName,
        spec: &FieldSpec<B>,
        at: A,
        optional: bool,
    ) -> Result<Self, SpecError> {
        let refuse = |reason: String| SpecError::Field {
            field: name.clone(),
            reason,
        };
        let given = [spec.scale, spec.offset, spec.min, spec.max];
        if spec.kind == Some(FieldKind::Text) && given.iter().any(Option::is_some) {
            return Err(refuse("a text has no scale, offset, min or max".to_owned()));
        }
        if let Some(number) = given.iter().flatten().find(|number| !number.is_finite()) {
            return Err(refuse(format!("{number} is not finite")));
        }
        let field = Self {
            name: name.clone(),
            at,
            kind: spec.kind,
            optional,
            scale: spec.scale.unwrap_or(1.0),
            offset: spec.offset.unwrap_or(0.0),
            min: spec.min.unwrap_or(f64::NEG_INFINITY),
            max: spec.max.unwrap_or(f64::INFINITY),
        };
        if field.scale == 0.0 {
            return Err(refuse(
                "a scale of 0 makes every reading the same".to_owned(),
            ));
        }
        if field.min > field.max {
            return Err(refuse(format!(
                "min {} is above max {}",
                field.min, field.max
            )));
        }
        Ok(field)
    }

    /// Applies scale and offset, and holds the result to its range.
    pub(super) fn convert(&self, number: f64) -> Result<f64, DecodeError> {
        let value = number * self.scale + self.offset;
        if !value.is_finite() {
            return Err(DecodeError::NotFinite {
                field: self.name.clone(),
            });
        }
        if value < self.min || value > self.max {
            return Err(DecodeError::Range {
                field: self.name.clone(),
                value,
                min: self.min,
                max: self.max,
            });
        }
        Ok(value)
    }

    /// The same for an element of a vector.
    pub(super) fn convert_f32(&self, number: f64) -> Result<f32, DecodeError> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "vectors are f32; what does not fit becomes infinite"
        )]
        let value = self.convert(number)? as f32;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(DecodeError::NotFinite {
                field: self.name.clone(),
            })
        }
    }

    /// Reads a number from text.
    pub(super) fn parse(&self, text: &str) -> Result<f64, DecodeError> {
        match text.trim().parse::<f64>() {
            Ok(number) => self.convert(number),
            Err(_) => Err(self.not(format!("{:?}", cut(text)), "a number")),
        }
    }

    pub(super) fn not(&self, found: String, wanted: &'static str) -> DecodeError {
        DecodeError::Kind {
            field: self.name.clone(),
            found,
            wanted,
        }
    }

    pub(super) fn missing(&self) -> DecodeError {
        DecodeError::Missing {
            field: self.name.clone(),
        }
    }
}

/// How an event time is read.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) unit: TimeUnit,
    pub(super) zone: Zone,
}

impl Clock {
    pub(super) const fn wanted(&self) -> &'static str {
        match self.unit {
            TimeUnit::Text => {
                "a date and time in RFC 3339 such as 2026-11-24T08:00:00Z (for a number set time_unit to s or ms)"
            }
            TimeUnit::S => "a number of seconds since 1970",
            TimeUnit::Ms => "a number of milliseconds since 1970",
        }
    }

    pub(super) fn refuse(&self, value: &str) -> DecodeError {
        DecodeError::Time {
            value: cut(value),
            wanted: self.wanted(),
        }
    }

    pub(super) fn text(&self, text: &str) -> Result<Timestamp, DecodeError> {
        let text = text.trim();
        match self.unit {
            TimeUnit::Text => self.zone.parse_instant(text).map_err(|_| self.refuse(text)),
            TimeUnit::S | TimeUnit::Ms => match text.parse::<f64>() {
                Ok(number) => self.number(number),
                Err(_) => Err(self.refuse(text)),
            },
        }
    }

    pub(super) fn number(&self, number: f64) -> Result<Timestamp, DecodeError> {
        let ms = match self.unit {
            TimeUnit::Text => return Err(self.refuse(&number.to_string())),
            TimeUnit::S => (number * 1000.0).round(),
            TimeUnit::Ms => number.round(),
        };
        // Years up to 9999 are below 2^53 ms, where f64 is exact; from_ms refuses the rest.
        if !(ms.is_finite() && ms.abs() < 9.0e15) {
            return Err(self.refuse(&number.to_string()));
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded and below 2^53")]
        let ms = ms as i64;
        Timestamp::from_ms(ms).map_err(|_| self.refuse(&number.to_string()))
    }
}
