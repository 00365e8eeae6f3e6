//! What a configuration says about the messages of a stream.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use lamppost_models::id::FieldName;
use lamppost_models::time::Zone;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

/// Where messages come from and how to read them; `topic` stands beside the keys of the format.
///
/// In TOML: `{ topic = "sensors/i94", decode = "json", time = "/ts", fields = { volume = "/volume" } }`. A key that the
/// format does not have is refused.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveDeserialize)]
pub struct SourceSpec {
    /// The MQTT topic or filter on the node's own broker.
    pub topic: String,
    /// How to read a message.
    #[serde(flatten)]
    pub decode: DecodeSpec,
}

/// How to read a message.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveDeserialize)]
#[serde(tag = "decode", rename_all = "kebab-case")]
pub enum DecodeSpec {
    /// A JSON text; values by JSON pointer (RFC 6901).
    Json(JsonSpec),
    /// A line of comma-separated values (RFC 4180); values by column.
    Csv(CsvSpec),
    /// Raw little-endian 32-bit floating point numbers.
    F32(F32Spec),
    /// Raw pixels, one byte a channel.
    Image(ImageSpec),
}

/// How to read a JSON text.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonSpec {
    /// Where the event time is; without it, it is the time of arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// What the event time is.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// Whose clock shows an event time that has no offset.
    #[serde(default)]
    pub zone: Zone,
    /// Where each field is: a pointer such as `"/temp"`, or a table with the keys of [`FieldSpec`].
    pub fields: BTreeMap<FieldName, FieldSpec<String>>,
    /// The fields that may be missing or null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional: Vec<FieldName>,
}

/// How to read a line of comma-separated values.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvSpec {
    /// Where the event time is; without it, it is the time of arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Column>,
    /// What the event time is.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// Whose clock shows an event time that has no offset.
    #[serde(default)]
    pub zone: Zone,
    /// Names of all columns, in order. With it, columns go by name and a line has as many cells; without it, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// What parts the cells.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Where each field is: a column by name or number, or a table with the keys of [`FieldSpec`]. A cell is a number
    /// unless its kind says otherwise; an empty one is missing.
    pub fields: BTreeMap<FieldName, FieldSpec<Column>>,
    /// The fields that may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional: Vec<FieldName>,
}

/// How to read raw little-endian 32-bit floating point numbers.
///
/// With several fields the numbers are interleaved: `x y z x y z`.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub struct F32Spec {
    /// The fields, in the order of their numbers.
    pub fields: Vec<FieldName>,
    /// How many numbers each field has. With 1 the fields are numbers, otherwise vectors; without it, vectors of
    /// whatever length the payload has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// Where the event time is.
    #[serde(default)]
    pub time: F32Time,
}

/// Where the event time of a raw payload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(rename_all = "kebab-case")]
pub enum F32Time {
    /// Nowhere: it is the time of arrival.
    #[default]
    Arrival,
    /// In front: milliseconds since 1970 as a little-endian 64-bit integer.
    PrefixMs,
}

/// How to read raw pixels: rows from the top, pixels from the left, channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// The field that takes the image.
    pub field: FieldName,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Channels in a pixel: 1 for grey, 3 for RGB.
    #[serde(default = "one_channel")]
    pub channels: usize,
}

/// What an event time is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    /// Text in RFC 3339, or a date and time without an offset in the configured zone.
    #[default]
    Text,
    /// Seconds since 1970, with or without a fraction.
    S,
    /// Milliseconds since 1970.
    Ms,
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldKind {
    /// A number; in JSON also a text that is one, and a truth value, which is 1 or 0.
    Number,
    /// A category.
    Text,
    /// Numbers in order.
    Vector,
}

/// A column of a line: its name, or its number from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(untagged, expecting = "a column must be its name or its number from 0")]
pub enum Column {
    /// By number.
    Number(usize),
    /// By name.
    Name(String),
}

/// Where a field is and what is done to it: the place alone, or a table.
///
/// `{ at = "/temp", scale = 0.1, offset = -273.15, min = -60, max = 60 }`: a number becomes `number * scale + offset`
/// and must then lie within `min` and `max`, both included.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldSpec<A> {
    /// Where it is.
    pub at: A,
    /// What it is; without it, in JSON what the message has, in CSV a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<FieldKind>,
    /// Multiplied with first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Added then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// The least that it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most that it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl<A> FieldSpec<A> {
    /// A field that is taken as it comes.
    pub const fn at(at: A) -> Self {
        Self {
            at,
            kind: None,
            scale: None,
            offset: None,
            min: None,
            max: None,
        }
    }
}

fn comma() -> char {
    ','
}

fn one_channel() -> usize {
    1
}

/// The table form of a [`FieldSpec`].
#[derive(DeriveDeserialize)]
#[serde(deny_unknown_fields)]
struct Table<A> {
    at: A,
    kind: Option<FieldKind>,
    scale: Option<f64>,
    offset: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

impl<'de, A: Deserialize<'de>> Deserialize<'de> for FieldSpec<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlaceOrTable(PhantomData))
    }
}

struct PlaceOrTable<A>(PhantomData<A>);

impl<'de, A: Deserialize<'de>> Visitor<'de> for PlaceOrTable<A> {
    type Value = FieldSpec<A>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place of a field, or a table such as { at = \"/temp\", scale = 0.1 }")
    }

    fn visit_str<E: Error>(self, place: &str) -> Result<Self::Value, E> {
        A::deserialize(place.into_deserializer()).map(FieldSpec::at)
    }

    fn visit_u64<E: Error>(self, place: u64) -> Result<Self::Value, E> {
        A::deserialize(place.into_deserializer()).map(FieldSpec::at)
    }

    fn visit_i64<E: Error>(self, place: i64) -> Result<Self::Value, E> {
        A::deserialize(place.into_deserializer()).map(FieldSpec::at)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
        let Table {
            at,
            kind,
            scale,
            offset,
            min,
            max,
        } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(FieldSpec {
            at,
            kind,
            scale,
            offset,
            min,
            max,
        })
    }
}
