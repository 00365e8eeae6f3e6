//! Messages: what a link publishes and receives, and the compact form in which one travels through the broker.

use crate::codec::properties;
use bytes::{BufMut, Bytes};
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

const QOS_BITS: u8 = 0b0000_0011;
const RETAIN_BIT: u8 = 0b0000_0100;
const PROPERTIES_BIT: u8 = 0b0000_1000;
const EXPIRY_BIT: u8 = 0b0001_0000;
const MARK_BIT: u8 = 0b1000_0000;

/// Where the parts of an envelope begin.
const ORIGIN: usize = 1;
const STAMP: usize = ORIGIN + 4;
const TOPIC_LEN: usize = STAMP + 8;
const TOPIC: usize = TOPIC_LEN + 2;

/// A message inside the broker. It is one buffer, so that a copy for a subscriber costs one reference count:
///
/// - a byte that says what kind of message it is and which of the parts below are there;
/// - the origin, four bytes: the number of the connection that published it, for MQTT 5's no-local option;
/// - the stamp, eight bytes: which subscriptions were in force by then;
/// - the topic, its length in two bytes before it;
/// - the body: a deadline if there is one (four bytes, seconds since the broker started), MQTT 5 properties if there are
///   any, with their length in front as on the wire, and the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope(Bytes);

/// The origin, the stamp and the topic, which a publisher joins once for many messages.
#[derive(Debug)]
pub(crate) struct Head(Vec<u8>);

/// What a publisher hands in.
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

impl Head {
    /// Joins them; a topic is no longer than MQTT allows.
    pub(crate) fn new(origin: u32, stamp: u64, topic: &str) -> Self {
        let mut head = Vec::with_capacity(TOPIC - ORIGIN + topic.len());
        head.put_u32(origin);
        head.put_u64(stamp);
        head.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
        head.put_slice(topic.as_bytes());
        Self(head)
    }
}

impl Draft<'_> {
    /// Makes the message.
    pub(crate) fn seal(&self, head: &Head) -> Envelope {
        let mut meta = self.qos as u8;
        let mut length = 1 + head.0.len() + self.payload.len();
        if self.retain {
            meta |= RETAIN_BIT;
        }
        if self.deadline.is_some() {
            meta |= EXPIRY_BIT;
            length += 4;
        }
        if !self.properties.is_empty() {
            meta |= PROPERTIES_BIT;
            length += properties::length_width(self.properties.len()) + self.properties.len();
        }
        // Of the right size: a buffer with room to spare would be copied or take another allocation.
        let mut bytes = Vec::with_capacity(length);
        bytes.put_u8(meta);
        bytes.put_slice(&head.0);
        if let Some(deadline) = self.deadline {
            bytes.put_u32(deadline);
        }
        if !self.properties.is_empty() {
            properties::put_length(&mut bytes, self.properties.len());
            bytes.put_slice(self.properties);
        }
        bytes.put_slice(self.payload);
        Envelope(bytes.into())
    }
}

impl Envelope {
    /// No message: a mark that `owner` leaves in a log, to see when it has read what was there before.
    pub(crate) fn mark(owner: u32, number: u64) -> Self {
        let Head(head) = Head::new(owner, number, "");
        let bytes: Vec<u8> = std::iter::once(MARK_BIT).chain(head).collect();
        Self(bytes.into())
    }

    /// What [`Envelope::into_bytes`] gave.
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    pub(crate) fn is_mark(&self) -> bool {
        self.meta() & MARK_BIT != 0
    }

    pub(crate) fn qos(&self) -> QoS {
        QoS::from_bits(self.meta() & QOS_BITS).unwrap_or_default()
    }

    pub(crate) fn retain(&self) -> bool {
        self.meta() & RETAIN_BIT != 0
    }

    fn meta(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    pub(crate) fn origin(&self) -> u32 {
        u32::from_be_bytes(self.chunk(ORIGIN))
    }

    /// The stamp, or a mark's number.
    pub(crate) fn stamp(&self) -> u64 {
        u64::from_be_bytes(self.chunk(STAMP))
    }

    fn chunk<const N: usize>(&self, from: usize) -> [u8; N] {
        let rest = self.0.get(from..).unwrap_or_default();
        rest.first_chunk().copied().unwrap_or([0; N])
    }

    /// Where the topic ends and the body begins.
    fn body(&self) -> usize {
        TOPIC + usize::from(u16::from_be_bytes(self.chunk(TOPIC_LEN)))
    }

    pub(crate) fn topic(&self) -> &[u8] {
        self.0.get(TOPIC..self.body()).unwrap_or_default()
    }

    /// The topic as text. Only checked topics are sealed into envelopes, so that it is never cut short.
    pub(crate) fn topic_str(&self) -> &str {
        std::str::from_utf8(self.topic()).unwrap_or_default()
    }

    /// The topic, sharing the envelope's memory.
    pub(crate) fn topic_bytes(&self) -> Bytes {
        self.0.slice_ref(self.topic())
    }

    pub(crate) fn deadline(&self) -> Option<u32> {
        (self.meta() & EXPIRY_BIT != 0).then(|| u32::from_be_bytes(self.chunk(self.body())))
    }

    /// The properties (without their length) and the payload.
    pub(crate) fn contents(&self) -> (&[u8], &[u8]) {
        let meta = self.meta();
        let deadline = if meta & EXPIRY_BIT == 0 { 0 } else { 4 };
        let rest = self.0.get(self.body() + deadline..).unwrap_or_default();
        if meta & PROPERTIES_BIT == 0 {
            return (&[], rest);
        }
        properties::split_length(rest)
            .and_then(|(length, width)| rest.get(width..)?.split_at_checked(length))
            .unwrap_or((&[], rest))
    }

    pub(crate) fn properties(&self) -> &[u8] {
        self.contents().0
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.contents().1
    }

    /// The properties and the payload, sharing the envelope's memory.
    pub(crate) fn parts(&self) -> (Bytes, Bytes) {
        let (properties, payload) = self.contents();
        (self.0.slice_ref(properties), self.0.slice_ref(payload))
    }

    /// What the message weighs in a store.
    pub(crate) fn weight(&self) -> usize {
        self.0.len()
    }

    /// A message that no connection of this run has published.
    pub(crate) fn stored(topic: &str, draft: &Draft<'_>) -> Self {
        draft.seal(&Head::new(u32::MAX, 0, topic))
    }
}

#[cfg(test)]
mod tests {
    use super::{Draft, Envelope, Head, QoS};

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
                let sealed = draft.seal(&Head::new(9, 1 << 40, "a/b"));
                let envelope = Envelope::from_bytes(sealed.into_bytes());
                assert_eq!(envelope.qos(), QoS::ExactlyOnce);
                assert!(envelope.retain());
                assert_eq!((envelope.origin(), envelope.topic_str()), (9, "a/b"));
                assert_eq!((envelope.stamp(), envelope.is_mark()), (1 << 40, false));
                assert_eq!(envelope.deadline(), deadline);
                assert_eq!(envelope.properties(), properties);
                assert_eq!(envelope.payload(), b"payload");
                assert_eq!(envelope.topic_bytes(), "a/b");
                let (shared, payload) = envelope.parts();
                assert_eq!((&shared[..], &payload[..]), (properties, &b"payload"[..]));
            }
        }
    }
}
