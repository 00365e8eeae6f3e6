//! What a sensor said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::FieldName;
use crate::time::Timestamp;

/// One value within a reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A finite number in the stream's unit.
    Number(f64),
    /// A category, such as `Clouds`.
    Text(String),
    /// A frame or a burst: samples in the order in which the sensor sent them.
    Vector(Vec<f32>),
}

/// One sensor message: its event time and its values by field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Event time: when the sensor measured, not when the message came.
    pub ts: Timestamp,
    /// The values by field.
    pub fields: BTreeMap<FieldName, Value>,
}

impl Reading {
    /// The number in `field`, when there is one.
    pub fn number(&self, field: &FieldName) -> Option<f64> {
        match self.fields.get(field) {
            Some(Value::Number(number)) => Some(*number),
            Some(Value::Text(_) | Value::Vector(_)) | None => None,
        }
    }
}
