//! Raw numbers and raw pixels.

use std::collections::BTreeMap;

use lamppost_models::id::FieldName;
use lamppost_models::{Timestamp, Value};

use super::Parts;
use super::error::{DecodeError, SpecError};
use super::spec::{F32Spec, F32Time, ImageSpec};

const NUMBER_BYTES: usize = size_of::<f32>();
const TIME_BYTES: usize = size_of::<i64>();

#[derive(Clone, Debug)]
pub(super) struct F32 {
    fields: Vec<FieldName>,
    length: Option<usize>,
    time: F32Time,
}

impl F32 {
    pub(super) fn new(spec: &F32Spec) -> Result<Self, SpecError> {
        if spec.fields.is_empty() {
            return Err(SpecError::NoFields);
        }
        let twice = spec
            .fields
            .iter()
            .enumerate()
            .find(|(at, field)| spec.fields[..*at].contains(field));
        if let Some((_, field)) = twice {
            return Err(SpecError::Twice {
                field: field.clone(),
            });
        }
        if spec.length == Some(0) {
            return Err(SpecError::Size {
                what: "length = 0".to_owned(),
                bytes: 0,
                limit: u64::MAX,
            });
        }
        Ok(Self {
            fields: spec.fields.clone(),
            length: spec.length,
            time: spec.time,
        })
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.fields.iter()
    }

    pub(super) fn parts(&self, payload: &[u8]) -> Result<Parts, DecodeError> {
        let (ts, numbers) = match self.time {
            F32Time::Arrival => (None, payload),
            F32Time::PrefixMs => {
                let Some((prefix, numbers)) = payload.split_first_chunk::<TIME_BYTES>() else {
                    return Err(self.wrong_length(payload));
                };
                let ms = i64::from_le_bytes(*prefix);
                let wanted = "milliseconds since 1970 within the years 0 to 9999";
                let ts = Timestamp::from_ms(ms).map_err(|_| DecodeError::Time {
                    value: ms.to_string(),
                    wanted,
                })?;
                (Some(ts), numbers)
            }
        };
        let row = self.fields.len();
        let length = numbers.len() / (NUMBER_BYTES * row);
        let fits = self.length.is_none_or(|wanted| wanted == length);
        if length == 0 || !fits || !numbers.len().is_multiple_of(NUMBER_BYTES * row) {
            return Err(self.wrong_length(payload));
        }
        let (numbers, _) = numbers.as_chunks::<NUMBER_BYTES>();
        let mut fields = BTreeMap::new();
        for (at, field) in self.fields.iter().enumerate() {
            let vector: Vec<f32> = numbers
                .iter()
                .skip(at)
                .step_by(row)
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            if !vector.iter().all(|number| number.is_finite()) {
                return Err(DecodeError::NotFinite {
                    field: field.clone(),
                });
            }
            let value = match (self.length, vector.as_slice()) {
                (Some(1), [number]) => Value::Number(f64::from(*number)),
                _ => Value::Vector(vector),
            };
            fields.insert(field.clone(), value);
        }
        Ok((ts, fields))
    }

    fn wrong_length(&self, payload: &[u8]) -> DecodeError {
        let prefix = match self.time {
            F32Time::Arrival => "",
            F32Time::PrefixMs => "8 of time and ",
        };
        let row = self.fields.len() * NUMBER_BYTES;
        let wanted = match self.length {
            Some(length) => format!(
                "it must have {prefix}{} of numbers",
                length.saturating_mul(row)
            ),
            None => format!("it must have {prefix}a multiple of {row} of numbers, at least one"),
        };
        DecodeError::Length {
            bytes: payload.len(),
            wanted,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Image {
    field: FieldName,
    bytes: usize,
}

impl Image {
    pub(super) fn new(spec: &ImageSpec, limit: usize) -> Result<Self, SpecError> {
        let bytes = spec
            .width
            .checked_mul(spec.height)
            .and_then(|pixels| pixels.checked_mul(spec.channels));
        match bytes {
            Some(bytes) if (1..=limit).contains(&bytes) => Ok(Self {
                field: spec.field.clone(),
                bytes,
            }),
            _ => Err(SpecError::Size {
                what: format!(
                    "an image of {} x {} x {}",
                    spec.width, spec.height, spec.channels
                ),
                bytes: bytes.map_or(u64::MAX, |bytes| bytes as u64),
                limit: limit as u64,
            }),
        }
    }

    pub(super) const fn field(&self) -> &FieldName {
        &self.field
    }

    pub(super) fn parts(&self, payload: &[u8]) -> Result<Parts, DecodeError> {
        if payload.len() != self.bytes {
            return Err(DecodeError::Length {
                bytes: payload.len(),
                wanted: format!("the image has {}", self.bytes),
            });
        }
        let pixels = payload.iter().map(|&byte| f32::from(byte)).collect();
        Ok((
            None,
            BTreeMap::from([(self.field.clone(), Value::Vector(pixels))]),
        ))
    }
}
