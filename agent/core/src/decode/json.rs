//! JSON texts, read by JSON pointer (RFC 6901).

use std::collections::BTreeMap;

use lamppost_models::id::FieldName;
use lamppost_models::{Timestamp, Value};
use serde_json::Value as Node;

use super::Parts;
use super::error::{DecodeError, SpecError};
use super::number::{Clock, Field, cut};
use super::spec::{FieldKind, JsonSpec};

#[derive(Clone, Debug)]
pub(super) struct Json {
    time: Option<Pointer>,
    clock: Clock,
    fields: Vec<Field<Pointer>>,
}

/// A pointer, split at its slashes and unescaped once, not for each message.
#[derive(Clone, Debug)]
struct Pointer(Vec<String>);

impl Pointer {
    fn new(text: &str) -> Result<Self, SpecError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(SpecError::Pointer {
                pointer: text.to_owned(),
            });
        };
        Ok(Self(
            rest.split('/')
                .map(|token| token.replace("~1", "/").replace("~0", "~"))
                .collect(),
        ))
    }

    /// What it points to; null counts as nothing.
    fn find<'a>(&self, document: &'a Node) -> Option<&'a Node> {
        let found = self.0.iter().try_fold(document, |at, token| match at {
            Node::Object(members) => members.get(token),
            Node::Array(elements) => token
                .parse::<usize>()
                .ok()
                .and_then(|index| elements.get(index)),
            Node::Null | Node::Bool(_) | Node::Number(_) | Node::String(_) => None,
        });
        found.filter(|value| !value.is_null())
    }
}

impl Json {
    pub(super) fn new(spec: &JsonSpec) -> Result<Self, SpecError> {
        Ok(Self {
            time: spec.time.as_deref().map(Pointer::new).transpose()?,
            clock: Clock {
                unit: spec.time_unit,
                zone: spec.zone.clone(),
            },
            fields: Field::all(&spec.fields, &spec.optional, |at| Pointer::new(at))?,
        })
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.fields.iter().map(|field| &field.name)
    }

    pub(super) fn parts(&self, payload: &[u8]) -> Result<Parts, DecodeError> {
        let document: Node =
            serde_json::from_slice(payload).map_err(|error| DecodeError::Syntax {
                format: "JSON",
                detail: error.to_string(),
            })?;
        let ts = match &self.time {
            Some(pointer) => {
                Some(self.instant(pointer.find(&document).ok_or(DecodeError::TimeMissing)?)?)
            }
            None => None,
        };
        let mut fields = BTreeMap::new();
        for field in &self.fields {
            match field.at.find(&document) {
                Some(found) => {
                    fields.insert(field.name.clone(), value(field, found)?);
                }
                None if field.optional => {}
                None => return Err(field.missing()),
            }
        }
        Ok((ts, fields))
    }

    fn instant(&self, found: &Node) -> Result<Timestamp, DecodeError> {
        match found {
            Node::String(text) => self.clock.text(text),
            Node::Number(number) => match number.as_f64() {
                Some(number) => self.clock.number(number),
                None => Err(self.clock.refuse(&number.to_string())),
            },
            Node::Null | Node::Bool(_) | Node::Array(_) | Node::Object(_) => {
                Err(self.clock.refuse(shown(found)))
            }
        }
    }
}

fn value(field: &Field<Pointer>, found: &Node) -> Result<Value, DecodeError> {
    match (field.kind, found) {
        (None | Some(FieldKind::Number), Node::Number(number)) => {
            let number = number.as_f64().ok_or_else(|| DecodeError::NotFinite {
                field: field.name.clone(),
            })?;
            Ok(Value::Number(field.convert(number)?))
        }
        (None | Some(FieldKind::Number), Node::Bool(truth)) => {
            Ok(Value::Number(field.convert(f64::from(u8::from(*truth)))?))
        }
        (Some(FieldKind::Number), Node::String(text)) => Ok(Value::Number(field.parse(text)?)),
        (None | Some(FieldKind::Text), Node::String(text)) => Ok(Value::Text(text.clone())),
        (None | Some(FieldKind::Vector), Node::Array(elements)) => {
            let numbers = elements.iter().map(|element| match element.as_f64() {
                Some(number) => field.convert_f32(number),
                None => Err(field.not(
                    format!("an array with {}", shown(element)),
                    "an array of numbers",
                )),
            });
            Ok(Value::Vector(numbers.collect::<Result<_, _>>()?))
        }
        (Some(FieldKind::Number), other) => Err(field.not(described(other), "a number")),
        (Some(FieldKind::Text), other) => Err(field.not(described(other), "a text")),
        (Some(FieldKind::Vector), other) => Err(field.not(described(other), "an array of numbers")),
        (None, other) => {
            Err(field.not(described(other), "a number, a text or an array of numbers"))
        }
    }
}

fn described(found: &Node) -> String {
    match found {
        Node::String(text) => format!("the text {:?}", cut(text)),
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Array(_) | Node::Object(_) => {
            shown(found).to_owned()
        }
    }
}

fn shown(found: &Node) -> &'static str {
    match found {
        Node::Null => "null",
        Node::Bool(_) => "a truth value",
        Node::Number(_) => "a number",
        Node::String(_) => "a text",
        Node::Array(_) => "an array",
        Node::Object(_) => "an object",
    }
}
