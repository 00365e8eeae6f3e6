//! MQTT 5 properties (OASIS MQTT 5.0, section 2.2.2) and the variable-length integers they share with packet headers.

use super::{DecodeError, Reader};
use crate::message::PublishProperties;
use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;

pub(crate) const PAYLOAD_FORMAT: u8 = 1;
pub(crate) const MESSAGE_EXPIRY: u8 = 2;
pub(crate) const CONTENT_TYPE: u8 = 3;
pub(crate) const RESPONSE_TOPIC: u8 = 8;
pub(crate) const CORRELATION_DATA: u8 = 9;
pub(crate) const SUBSCRIPTION_ID: u8 = 11;
pub(crate) const SESSION_EXPIRY: u8 = 17;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 18;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 19;
pub(crate) const AUTH_METHOD: u8 = 21;
pub(crate) const AUTH_DATA: u8 = 22;
pub(crate) const REQUEST_PROBLEM: u8 = 23;
pub(crate) const WILL_DELAY: u8 = 24;
pub(crate) const REQUEST_RESPONSE: u8 = 25;
pub(crate) const SERVER_REFERENCE: u8 = 28;
pub(crate) const REASON_STRING: u8 = 31;
pub(crate) const RECEIVE_MAXIMUM: u8 = 33;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
pub(crate) const TOPIC_ALIAS: u8 = 35;
pub(crate) const USER_PROPERTY: u8 = 38;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 39;

/// The largest number that four length bytes can hold.
pub(crate) const LENGTH_MAX: usize = 268_435_455;

/// A property value as it lies in the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Byte(u8),
    Short(u16),
    Long(u32),
    Length(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Walks over a property block and checks each property against the set that the packet may carry.
pub(crate) struct Properties<'a> {
    reader: Reader<'a>,
    allowed: &'static [u8],
    /// One bit per identifier seen: all but user properties and subscription identifiers occur once at most.
    seen: u64,
}

impl<'a> Properties<'a> {
    /// Takes the property block off `reader`, its length first.
    pub(crate) fn take(
        reader: &mut Reader<'a>,
        allowed: &'static [u8],
    ) -> Result<Self, DecodeError> {
        let length = reader.length()?;
        Ok(Self::new(reader.bytes(length)?, allowed))
    }

    pub(crate) fn new(block: &'a [u8], allowed: &'static [u8]) -> Self {
        Self {
            reader: Reader::new(block),
            allowed,
            seen: 0,
        }
    }

    /// The bytes that have not been walked over yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    /// Checks the block to its end and drops the values.
    pub(crate) fn check(mut self) -> Result<(), DecodeError> {
        while self.next_property()?.is_some() {}
        Ok(())
    }

    pub(crate) fn next_property(&mut self) -> Result<Option<(u8, Value<'a>)>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.byte()?;
        if !self.allowed.contains(&id) {
            return Err(DecodeError::Protocol("a property this packet cannot carry"));
        }
        let bit = 1u64 << (id & 63);
        if self.seen & bit != 0 && id != USER_PROPERTY {
            return Err(DecodeError::Protocol("a property given twice"));
        }
        self.seen |= bit;
        let reader = &mut self.reader;
        let value = match id {
            PAYLOAD_FORMAT | REQUEST_PROBLEM | REQUEST_RESPONSE => match reader.byte()? {
                flag @ 0..=1 => Value::Byte(flag),
                _ => {
                    return Err(DecodeError::Protocol(
                        "a flag property that is neither 0 nor 1",
                    ));
                }
            },
            MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => {
                Value::Long(reader.long()?)
            }
            RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => Value::Short(reader.short()?),
            CORRELATION_DATA | AUTH_DATA => Value::Binary(reader.binary()?),
            SUBSCRIPTION_ID => Value::Length(u32::try_from(reader.length()?).unwrap_or(u32::MAX)),
            RESPONSE_TOPIC => match reader.text()? {
                topic if topic.contains(['+', '#']) => {
                    return Err(DecodeError::Protocol("a response topic with a wildcard"));
                }
                topic => Value::Text(topic),
            },
            USER_PROPERTY => Value::Pair(reader.text()?, reader.text()?),
            _ => Value::Text(reader.text()?),
        };
        Ok(Some((id, value)))
    }
}

/// Appends a variable-length integer. Longer numbers than [`LENGTH_MAX`] do not occur: packets are bounded below it.
pub(crate) fn put_length(out: &mut impl BufMut, length: usize) {
    let mut rest = length.min(LENGTH_MAX);
    loop {
        let low = u8::try_from(rest & 0x7f).unwrap_or(0);
        rest >>= 7;
        if rest == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

/// How many bytes [`put_length`] takes for `length`.
pub(crate) fn length_width(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Reads a variable-length integer from the front of `bytes`: its value and its width. `None` if it is incomplete or
/// longer than four bytes.
pub(crate) fn split_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Appends a string or binary value with its 16-bit length, cut off at 65,535 bytes.
pub(crate) fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(&bytes[..usize::from(length)]);
}

/// Encodes the properties of a publication but for its expiry, which the broker keeps apart.
pub(crate) fn encode_publish(properties: &PublishProperties, out: &mut BytesMut) {
    if properties.payload_is_utf8 {
        out.put_slice(&[PAYLOAD_FORMAT, 1]);
    }
    for (id, text) in [
        (CONTENT_TYPE, &properties.content_type),
        (RESPONSE_TOPIC, &properties.response_topic),
    ] {
        if let Some(text) = text {
            out.put_u8(id);
            put_binary(out, text.as_bytes());
        }
    }
    if let Some(correlation) = &properties.correlation_data {
        out.put_u8(CORRELATION_DATA);
        put_binary(out, correlation);
    }
    for (key, value) in &properties.user_properties {
        out.put_u8(USER_PROPERTY);
        put_binary(out, key.as_bytes());
        put_binary(out, value.as_bytes());
    }
}

/// The length of the longest string or binary value.
pub(crate) fn longest(properties: &PublishProperties) -> Option<usize> {
    let texts = [&properties.content_type, &properties.response_topic];
    let singles = texts.into_iter().flatten().map(String::len);
    let correlation = properties.correlation_data.iter().map(Bytes::len);
    let pairs = properties
        .user_properties
        .iter()
        .flat_map(|(key, value)| [key.len(), value.len()]);
    singles.chain(correlation).chain(pairs).max()
}

/// What a publication, and a will, may carry into the broker.
pub(crate) const IN_PUBLISH: &[u8] = &[
    PAYLOAD_FORMAT,
    MESSAGE_EXPIRY,
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
    TOPIC_ALIAS,
    USER_PROPERTY,
];

/// Decodes what [`encode_publish`] or a client wrote. What does not decode is left out: it was checked on its way in.
pub(crate) fn decode_publish(block: &[u8]) -> PublishProperties {
    let mut decoded = PublishProperties::default();
    let mut walk = Properties::new(block, IN_PUBLISH);
    while let Ok(Some(property)) = walk.next_property() {
        match property {
            (PAYLOAD_FORMAT, Value::Byte(flag)) => decoded.payload_is_utf8 = flag == 1,
            (MESSAGE_EXPIRY, Value::Long(seconds)) => {
                decoded.message_expiry = Some(Duration::from_secs(u64::from(seconds)));
            }
            (CONTENT_TYPE, Value::Text(text)) => decoded.content_type = Some(text.to_owned()),
            (RESPONSE_TOPIC, Value::Text(text)) => decoded.response_topic = Some(text.to_owned()),
            (CORRELATION_DATA, Value::Binary(bytes)) => {
                decoded.correlation_data = Some(Bytes::copy_from_slice(bytes));
            }
            (USER_PROPERTY, Value::Pair(key, value)) => {
                decoded
                    .user_properties
                    .push((key.to_owned(), value.to_owned()));
            }
            _ => {}
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::{decode_publish, encode_publish, length_width, put_length, split_length};
    use crate::message::PublishProperties;
    use bytes::{Bytes, BytesMut};

    #[test]
    fn lengths_survive_at_their_borders() {
        for length in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            2_097_151,
            2_097_152,
            268_435_455,
        ] {
            let mut out = BytesMut::new();
            put_length(&mut out, length);
            assert_eq!(out.len(), length_width(length));
            assert_eq!(split_length(&out), Some((length, out.len())));
            assert_eq!(split_length(&out[..out.len() - 1]), None);
        }
        assert_eq!(split_length(&[0x80, 0x80, 0x80, 0x80, 0x01]), None);
    }

    #[test]
    fn properties_survive() {
        let properties = PublishProperties {
            content_type: Some("application/json".into()),
            payload_is_utf8: true,
            message_expiry: None,
            response_topic: Some("answers/1".into()),
            correlation_data: Some(Bytes::from_static(b"\x00\x01")),
            user_properties: vec![("a".into(), "b".into()), ("a".into(), "c".into())],
        };
        let mut out = BytesMut::new();
        encode_publish(&properties, &mut out);
        assert_eq!(decode_publish(&out), properties);
    }
}
