//! Messages: what a link publishes and receives, and the compact form in which one travels through the broker.

use crate::codec::properties;
use bytes::{BufMut, Bytes, BytesMut};
use std::{sync::Arc, time::Duration};

/// How hard a message is delivered: the numbers of the MQTT specification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// Sent once, not acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged; may arrive twice.
    AtLeastOnce = 1,
    /// Acknowledged in two steps; arrives once.
    ExactlyOnce = 2,
}

impl QoS {
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A message to publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publish {
    /// The topic: not empty, without wildcards.
    pub topic: String,
    /// The application's bytes. An empty retained message clears the topic.
    pub payload: Bytes,
    /// The quality of service that subscribers get at most.
    pub qos: QoS,
    /// Whether the message is kept for later subscribers.
    pub retain: bool,
    /// What MQTT 5 subscribers see beside the payload.
    pub properties: PublishProperties,
}

impl Publish {
    /// Makes a message of QoS 0 that is not retained and has no properties.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            ..Self::default()
        }
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Has the message kept for later subscribers.
    #[must_use]
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Sets the properties.
    #[must_use]
    pub fn properties(mut self, properties: PublishProperties) -> Self {
        self.properties = properties;
        self
    }
}

/// The MQTT 5 properties of a message. Clients that speak 3.1.1 do not see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// The MIME type of the payload.
    pub content_type: Option<String>,
    /// Whether the payload is declared to be UTF-8 text.
    pub payload_is_utf8: bool,
    /// After this time the message is dropped instead of delivered; whole seconds count.
    pub message_expiry: Option<Duration>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// What the answer repeats.
    pub correlation_data: Option<Bytes>,
    /// Pairs for the application, in order.
    pub user_properties: Vec<(String, String)>,
}

/// A message that a link receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic it was published to.
    pub topic: Arc<str>,
    /// The application's bytes.
    pub payload: Bytes,
    /// The lesser of the publication's and the subscription's quality of service.
    pub qos: QoS,
    /// True for a message from the retained store, false for a live one unless the subscription asks for the
    /// publisher's flag.
    pub retain: bool,
    /// The second of the broker's clock after which the message is worthless.
    pub(crate) deadline: Option<u32>,
    pub(crate) raw_properties: Bytes,
}

impl Message {
    /// Decodes the MQTT 5 properties; empty if there are none. The expiry is not among them.
    pub fn properties(&self) -> PublishProperties {
        properties::decode_publish(&self.raw_properties)
    }
}

/// The length of the origin and the stamp in front of a tagged topic.
const TAG_LEN: usize = ORIGIN_LEN + 8;
const ORIGIN_LEN: usize = 4;
const QOS_BITS: u8 = 0b0000_0011;
const RETAIN_BIT: u8 = 0b0000_0100;
const PROPERTIES_BIT: u8 = 0b0000_1000;
const EXPIRY_BIT: u8 = 0b0001_0000;
const MARK_BIT: u8 = 0b1000_0000;

/// A message inside the broker. Cloning it copies two reference counts.
///
/// `topic` is a four-byte origin (the number of the connection that published it, for MQTT 5's no-local option), an
/// eight-byte stamp (which subscriptions were in force by then), and then the topic; publishers make it once per topic
/// and stamp. `body` is, in one allocation, an optional deadline (four bytes,
/// seconds since the broker started), optional MQTT 5 properties with their length in front as on the wire, and the
/// payload. `meta` says which of them are there.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) meta: u8,
    pub(crate) topic: Bytes,
    pub(crate) body: Bytes,
}

/// What a publisher hands in, before a topic is tagged and a body is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// MQTT 5 properties without their length, without expiry, topic alias and subscription identifier.
    pub(crate) properties: &'a [u8],
    /// Seconds since the broker started after which the message is worthless.
    pub(crate) deadline: Option<u32>,
    pub(crate) payload: &'a [u8],
}

impl Draft<'_> {
    /// The meta byte and the body of the message.
    pub(crate) fn seal(&self) -> (u8, Bytes) {
        let mut meta = self.qos as u8;
        if self.retain {
            meta |= RETAIN_BIT;
        }
        if self.deadline.is_none() && self.properties.is_empty() {
            return (meta, Bytes::copy_from_slice(self.payload));
        }
        let mut body = BytesMut::with_capacity(8 + self.properties.len() + self.payload.len());
        if let Some(deadline) = self.deadline {
            meta |= EXPIRY_BIT;
            body.put_u32(deadline);
        }
        if !self.properties.is_empty() {
            meta |= PROPERTIES_BIT;
            properties::put_length(&mut body, self.properties.len());
            body.put_slice(self.properties);
        }
        body.put_slice(self.payload);
        (meta, body.freeze())
    }
}

/// Joins an origin, a stamp and a topic.
pub(crate) fn tag_topic(origin: u32, stamp: u64, topic: &str) -> Bytes {
    let mut tagged = BytesMut::with_capacity(TAG_LEN + topic.len());
    tagged.put_u32(origin);
    tagged.put_u64(stamp);
    tagged.put_slice(topic.as_bytes());
    tagged.freeze()
}

impl Envelope {
    /// No message: a mark that `owner` leaves in a log, to see when it has read what was there before.
    pub(crate) fn mark(owner: u32, number: u64) -> Self {
        Self {
            meta: MARK_BIT,
            topic: tag_topic(owner, number, ""),
            body: Bytes::new(),
        }
    }

    pub(crate) fn is_mark(&self) -> bool {
        self.meta & MARK_BIT != 0
    }

    pub(crate) fn qos(&self) -> QoS {
        QoS::from_bits(self.meta & QOS_BITS).unwrap_or_default()
    }

    pub(crate) fn retain(&self) -> bool {
        self.meta & RETAIN_BIT != 0
    }

    pub(crate) fn origin(&self) -> u32 {
        self.topic
            .first_chunk()
            .map_or(0, |origin| u32::from_be_bytes(*origin))
    }

    /// The stamp, or a mark's number.
    pub(crate) fn stamp(&self) -> u64 {
        self.topic
            .get(ORIGIN_LEN..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |stamp| u64::from_be_bytes(*stamp))
    }

    pub(crate) fn topic(&self) -> &[u8] {
        self.topic.get(TAG_LEN..).unwrap_or_default()
    }

    /// The topic as text. Only checked topics are sealed into envelopes, so that it is never cut short.
    pub(crate) fn topic_str(&self) -> &str {
        std::str::from_utf8(self.topic()).unwrap_or_default()
    }

    /// The topic without its tag, sharing the envelope's memory.
    pub(crate) fn topic_bytes(&self) -> Bytes {
        self.topic.slice(TAG_LEN.min(self.topic.len())..)
    }

    pub(crate) fn deadline(&self) -> Option<u32> {
        if self.meta & EXPIRY_BIT == 0 {
            return None;
        }
        self.body
            .first_chunk::<4>()
            .map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Where the properties (without their length) and the payload begin in the body.
    fn offsets(&self) -> (usize, usize) {
        let start = if self.meta & EXPIRY_BIT == 0 { 0 } else { 4 };
        if self.meta & PROPERTIES_BIT == 0 {
            return (start, start);
        }
        let rest = self.body.get(start..).unwrap_or_default();
        properties::split_length(rest).map_or((start, start), |(length, width)| {
            (start + width, start + width + length)
        })
    }

    pub(crate) fn properties(&self) -> &[u8] {
        let (from, to) = self.offsets();
        self.body.get(from..to).unwrap_or_default()
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.body.get(self.offsets().1..).unwrap_or_default()
    }

    /// The properties and the payload, sharing the envelope's memory.
    pub(crate) fn parts(&self) -> (Bytes, Bytes) {
        let (from, to) = self.offsets();
        (self.body.slice(from..to), self.body.slice(to..))
    }

    /// What the message weighs in a store.
    pub(crate) fn weight(&self) -> usize {
        self.topic.len() + self.body.len()
    }

    /// A message that no connection of this run has published.
    pub(crate) fn stored(topic: &str, draft: &Draft<'_>) -> Self {
        let (meta, body) = draft.seal();
        Self {
            meta,
            topic: tag_topic(u32::MAX, 0, topic),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Draft, Envelope, QoS, tag_topic};

    #[test]
    fn an_envelope_gives_back_what_was_sealed() {
        for properties in [&b""[..], b"\x01\x01", &[0x26; 300]] {
            for deadline in [None, Some(77)] {
                let draft = Draft {
                    qos: QoS::ExactlyOnce,
                    retain: true,
                    properties,
                    deadline,
                    payload: b"payload",
                };
                let (meta, body) = draft.seal();
                let envelope = Envelope {
                    meta,
                    topic: tag_topic(9, 1 << 40, "a/b"),
                    body,
                };
                assert_eq!(envelope.qos(), QoS::ExactlyOnce);
                assert!(envelope.retain());
                assert_eq!((envelope.origin(), envelope.topic_str()), (9, "a/b"));
                assert_eq!((envelope.stamp(), envelope.is_mark()), (1 << 40, false));
                assert_eq!(envelope.deadline(), deadline);
                assert_eq!(envelope.properties(), properties);
                assert_eq!(envelope.payload(), b"payload");
                assert_eq!(envelope.parts().1, &b"payload"[..]);
            }
        }
    }
}
