//! The decoder by itself.

use crate::{
    codec::{
        self, DecodeError, Delivery, Frame, Framed, Packet, PublishPacket, Version, properties,
    },
    message::QoS,
};
use bytes::BytesMut;

/// The longest packet: as long as a broker with default limits takes.
const LIMIT: usize = 320 * 1024;

/// What the decoder made of a stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Whole packets, each of them well-formed, to the last byte.
    WellFormed,
    /// The last packet is not complete.
    Incomplete,
    /// A packet was refused.
    Refused,
}

/// Decodes `bytes` as a client's stream, and each packet in it in every way there is.
///
/// # Panics
/// If the decoder panics or contradicts itself: a frame outside its buffer, a wait for bytes that are there already, a
/// packet that does not survive being written and read again.
pub fn decode(bytes: &[u8], v5: bool) -> Verdict {
    let stream_version = if v5 { Version::V5 } else { Version::V4 };
    let mut rest = bytes;
    while !rest.is_empty() {
        let frame = match codec::frame(rest, LIMIT) {
            Ok(Framed::Complete(frame)) => frame,
            Ok(Framed::Partial(wanted)) => {
                assert!(wanted > rest.len(), "waits for what is there");
                assert!(wanted <= LIMIT, "waits for what it would refuse");
                return Verdict::Incomplete;
            }
            Err(error) => {
                told(error);
                return Verdict::Refused;
            }
        };
        assert!(frame.length <= rest.len() && frame.length > frame.body.len());
        let connect = codec::decode_connect(&frame).map(|connect| {
            assert!(frame.first == 0x10 && connect.receive_maximum > 0);
        });
        let mut in_stream = Ok(());
        for version in [Version::V4, Version::V5] {
            let decoded = codec::decode(&frame, version).map(|packet| survives(&packet, version));
            if version == stream_version {
                in_stream = decoded;
            }
        }
        if let Err(error) = if frame.first == 0x10 {
            connect
        } else {
            in_stream
        } {
            told(error);
            return Verdict::Refused;
        }
        rest = &rest[frame.length..];
    }
    Verdict::WellFormed
}

/// Every refusal has a reason code that says so (MQTT 5, section 2.4) and words for the log.
fn told(error: DecodeError) {
    assert!(error.reason() >= 0x80 && !error.to_string().is_empty());
}

/// Writes a packet, where the broker has a writer for its kind, and reads it again.
fn survives(packet: &Packet<'_>, version: Version) {
    let ack = match packet {
        Packet::Publish(publish) => return publish_survives(publish, version),
        Packet::PubAck(id) => (0x40, *id, 0),
        Packet::PubRec { packet_id, refused } => (0x50, *packet_id, u8::from(*refused) << 7),
        Packet::PubRel(id) => (0x62, *id, 0),
        Packet::PubComp(id) => (0x70, *id, 0),
        Packet::Subscribe { filters, .. } => return assert!(!filters.is_empty()),
        Packet::Unsubscribe { filters, .. } => return assert!(!filters.is_empty()),
        Packet::PingReq | Packet::Disconnect { .. } => return,
    };
    let mut out = BytesMut::new();
    codec::put_ack(&mut out, version, ack.0, ack.1, ack.2);
    assert_eq!(codec::decode(&whole(&out), version).as_ref(), Ok(packet));
}

fn publish_survives(publish: &PublishPacket<'_>, version: Version) {
    assert_eq!(publish.packet_id == 0, publish.qos == QoS::AtMostOnce);
    let kept = publish.properties.as_slice();
    let delivery = Delivery {
        topic: publish.topic.as_bytes(),
        topic_alias: publish.topic_alias,
        dup: false,
        qos: publish.qos,
        retain: publish.retain,
        packet_id: publish.packet_id,
        properties: kept,
        expiry_s: publish.expiry_s,
        subscription_ids: &[],
        payload: publish.payload,
    };
    let mut out = BytesMut::new();
    codec::put_publish(&mut out, version, &delivery);
    assert_eq!(out.len(), delivery.packet_len(version));
    let Ok(Packet::Publish(again)) = codec::decode(&whole(&out), version) else {
        panic!("a publication that was read and written cannot be read again");
    };
    assert_eq!(again.properties.as_slice(), kept);
    // Which properties were taken out, and so where the kept ones lie, is no part of the packet.
    let again = PublishPacket {
        properties: publish.properties.clone(),
        ..again
    };
    assert_eq!(&again, publish);
    let decoded = properties::decode_publish(kept);
    let mut encoded = BytesMut::new();
    properties::encode_publish(&decoded, &mut encoded);
    assert_eq!(properties::decode_publish(&encoded), decoded);
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    match codec::frame(bytes, usize::MAX) {
        Ok(Framed::Complete(frame)) => frame,
        other => panic!("what the broker writes is no whole packet: {other:?}"),
    }
}
