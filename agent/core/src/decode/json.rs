//! JSON texts, read by JSON pointer (RFC 6901).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use lamppost_models::id::FieldName;
use lamppost_models::{Timestamp, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

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

/// A JSON value that borrows its texts from the message where they have no escapes: reading one of `serde_json`'s own
/// spends most of its time on copies of names that nobody asks for.
#[derive(Debug)]
enum Node<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    /// In the order of the message; of a name that is there twice, the last counts.
    Object(Vec<(Node<'a>, Node<'a>)>),
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
    fn find<'d, 'a>(&self, document: &'d Node<'a>) -> Option<&'d Node<'a>> {
        let found = self.0.iter().try_fold(document, |at, token| match at {
            Node::Object(members) => {
                let mut newest_first = members.iter().rev();
                let member = newest_first
                    .find(|(name, _)| matches!(name, Node::Text(name) if name == token));
                member.map(|(_, value)| value)
            }
            Node::Array(elements) => token
                .parse::<usize>()
                .ok()
                .and_then(|index| elements.get(index)),
            Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => None,
        });
        found.filter(|value| !matches!(value, Node::Null))
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

    fn instant(&self, found: &Node<'_>) -> Result<Timestamp, DecodeError> {
        match found {
            Node::Text(text) => self.clock.text(text),
            Node::Number(number) => self.clock.number(*number),
            Node::Null | Node::Bool(_) | Node::Array(_) | Node::Object(_) => {
                Err(self.clock.refuse(shown(found)))
            }
        }
    }
}

fn value(field: &Field<Pointer>, found: &Node<'_>) -> Result<Value, DecodeError> {
    match (field.kind, found) {
        (None | Some(FieldKind::Number), Node::Number(number)) => {
            Ok(Value::Number(field.convert(*number)?))
        }
        (None | Some(FieldKind::Number), Node::Bool(truth)) => {
            Ok(Value::Number(field.convert(f64::from(u8::from(*truth)))?))
        }
        (Some(FieldKind::Number), Node::Text(text)) => Ok(Value::Number(field.parse(text)?)),
        (None | Some(FieldKind::Text), Node::Text(text)) => {
            Ok(Value::Text(text.clone().into_owned()))
        }
        (None | Some(FieldKind::Vector), Node::Array(elements)) => {
            let numbers = elements.iter().map(|element| match element {
                Node::Number(number) => field.convert_f32(*number),
                Node::Null | Node::Bool(_) | Node::Text(_) | Node::Array(_) | Node::Object(_) => {
                    Err(field.not(
                        format!("an array with {}", shown(element)),
                        "an array of numbers",
                    ))
                }
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

fn described(found: &Node<'_>) -> String {
    match found {
        Node::Text(text) => format!("the text {:?}", cut(text)),
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Array(_) | Node::Object(_) => {
            shown(found).to_owned()
        }
    }
}

fn shown(found: &Node<'_>) -> &'static str {
    match found {
        Node::Null => "null",
        Node::Bool(_) => "a truth value",
        Node::Number(_) => "a number",
        Node::Text(_) => "a text",
        Node::Array(_) => "an array",
        Node::Object(_) => "an object",
    }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(truth))
    }

    #[expect(clippy::cast_precision_loss, reason = "readings are f64")]
    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Node::Number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "readings are f64")]
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Node::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Node::Number(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element()? {
            elements.push(element);
        }
        Ok(Node::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Known, json};

    use super::*;

    /// The same as `serde_json` holds it.
    fn known(node: Node<'_>) -> Known {
        match node {
            Node::Null => Known::Null,
            Node::Bool(truth) => json!(truth),
            Node::Number(number) => json!(number),
            Node::Text(text) => json!(text),
            Node::Array(elements) => elements.into_iter().map(known).collect(),
            Node::Object(members) => {
                let name = |node| known(node).as_str().unwrap().to_owned();
                Known::Object(
                    members
                        .into_iter()
                        .map(|(at, value)| (name(at), known(value)))
                        .collect(),
                )
            }
        }
    }

    /// All numbers as f64.
    fn as_f64(value: Known) -> Known {
        match value {
            Known::Number(number) => json!(number.as_f64().unwrap()),
            Known::Array(elements) => elements.into_iter().map(as_f64).collect(),
            Known::Object(members) => Known::Object(
                members
                    .into_iter()
                    .map(|(at, value)| (at, as_f64(value)))
                    .collect(),
            ),
            Known::Null | Known::Bool(_) | Known::String(_) => value,
        }
    }

    /// What is wrong with a text, in the same words, or else what it says.
    #[track_caller]
    fn expect_as_known(text: &[u8]) -> bool {
        let found = serde_json::from_slice::<Node<'_>>(text)
            .map(known)
            .map_err(|error| error.to_string());
        let wanted = serde_json::from_slice::<Known>(text)
            .map(as_f64)
            .map_err(|error| error.to_string());
        assert_eq!(found, wanted, "{}", text.escape_ascii());
        found.is_ok()
    }

    #[test]
    fn it_is_as_strict_as_a_parser_that_keeps_all() {
        let (deep, too_deep) = (
            "[".repeat(127) + &"]".repeat(127),
            "[".repeat(128) + &"]".repeat(128),
        );
        for good in [
            r#"{"a":1,"b":[-2,2.5e-3,18446744073709551615,-9223372036854775808,1e300]}"#.to_owned(),
            r#"{"a":1,"\u0061":{"deep":"\ud83d\ude00"},"a":null}"#.to_owned(),
            deep,
        ] {
            assert!(expect_as_known(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{1:2}",
            "nul",
            "01",
            "1.",
            "+1",
            "NaN",
            "1e999",
            "1 2",
            "\"\n\"",
            r#""\ud800""#,
            r#""\x""#,
            &too_deep,
        ] {
            assert!(!expect_as_known(bad.as_bytes()), "{bad}");
        }
        assert!(!expect_as_known(b"{\"unread\":\"\xff\"}"));
    }

    #[test]
    fn of_a_name_that_is_there_twice_the_last_counts() {
        let document: Node<'_> =
            serde_json::from_str(r#"{"a":{"b":1},"c":0,"\u0061":{"b":2}}"#).unwrap();
        let found = Pointer::new("/a/b").unwrap();
        assert!(matches!(found.find(&document), Some(Node::Number(2.0))));
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_reads(
            text in r#"([{}\[\],:" ]|"[a-c]":|"[a-cé\\nu0]*"|-?[0-9]{1,21}|[0-9]\.[0-9]e-?[0-9]{1,3}|true|null){0,12}"#,
        ) {
            expect_as_known(text.as_bytes());
        }
    }
}
