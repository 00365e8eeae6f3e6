//! Packets to clients.

use super::{
    Version,
    properties::{
        ASSIGNED_CLIENT_ID, MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY, RECEIVE_MAXIMUM,
        SERVER_KEEP_ALIVE, SESSION_EXPIRY, SUBSCRIPTION_ID, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM,
        length_width, put_binary, put_length,
    },
    reason,
};
use crate::message::QoS;
use bytes::{BufMut, BytesMut};

/// The answer to a CONNECT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnAck<'a> {
    pub(crate) code: u8,
    /// What an accepted MQTT 5 client is told; `None` for a refusal.
    pub(crate) accepted: Option<Accepted<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted<'a> {
    /// The broker kept the session of an earlier connection.
    pub(crate) session_present: bool,
    pub(crate) assigned_client_id: Option<&'a str>,
    /// How long the session is kept, where that is not what the client asked for.
    pub(crate) session_expiry_s: Option<u32>,
    /// The keep-alive that holds in place of the client's.
    pub(crate) keep_alive_s: Option<u16>,
    pub(crate) packet_size_max: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) topic_aliases_max: u16,
}

/// Appends a CONNACK. What it does not mention is available by the standard's defaults: QoS 2, retained messages,
/// wildcards, subscription identifiers, shared subscriptions.
pub(crate) fn put_connack(out: &mut BytesMut, version: Version, connack: &ConnAck<'_>) {
    let flags = u8::from(
        connack
            .accepted
            .is_some_and(|accepted| accepted.session_present),
    );
    if version == Version::V4 {
        out.put_slice(&[0x20, 2, flags, v4_connect_code(connack.code)]);
        return;
    }
    let mut block = BytesMut::new();
    if let Some(accepted) = connack.accepted {
        if let Some(seconds) = accepted.session_expiry_s {
            block.put_u8(SESSION_EXPIRY);
            block.put_u32(seconds);
        }
        block.put_u8(RECEIVE_MAXIMUM);
        block.put_u16(accepted.receive_maximum);
        block.put_u8(MAXIMUM_PACKET_SIZE);
        block.put_u32(accepted.packet_size_max);
        if let Some(id) = accepted.assigned_client_id {
            block.put_u8(ASSIGNED_CLIENT_ID);
            put_binary(&mut block, id.as_bytes());
        }
        block.put_u8(TOPIC_ALIAS_MAXIMUM);
        block.put_u16(accepted.topic_aliases_max);
        if let Some(seconds) = accepted.keep_alive_s {
            block.put_u8(SERVER_KEEP_ALIVE);
            block.put_u16(seconds);
        }
    }
    out.put_u8(0x20);
    put_length(out, 2 + length_width(block.len()) + block.len());
    out.put_slice(&[flags, connack.code]);
    put_length(out, block.len());
    out.put_slice(&block);
}

/// The five codes of MQTT 3.1.1 (section 3.2.2.3).
fn v4_connect_code(code: u8) -> u8 {
    match code {
        reason::SUCCESS => 0,
        reason::UNSUPPORTED_VERSION => 1,
        reason::CLIENT_ID_INVALID => 2,
        reason::BAD_PASSWORD => 4,
        reason::NOT_AUTHORIZED | reason::BAD_AUTH_METHOD => 5,
        _ => 3,
    }
}

/// One message on its way to one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    /// Empty if the alias stands for it.
    pub(crate) topic: &'a [u8],
    pub(crate) topic_alias: Option<u16>,
    pub(crate) qos: QoS,
    /// Sent again.
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// Zero for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) properties: &'a [u8],
    pub(crate) expiry_s: Option<u32>,
    pub(crate) subscription_ids: &'a [u32],
    pub(crate) payload: &'a [u8],
}

impl Delivery<'_> {
    fn properties_len(&self) -> usize {
        let expiry = if self.expiry_s.is_some() { 5 } else { 0 };
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let ids = self.subscription_ids.iter();
        let ids: usize = ids.map(|&id| 1 + length_width(id as usize)).sum();
        self.properties.len() + expiry + alias + ids
    }

    fn remaining(&self, version: Version) -> usize {
        let id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = match version {
            Version::V4 => 0,
            Version::V5 => {
                let length = self.properties_len();
                length_width(length) + length
            }
        };
        2 + self.topic.len() + id + properties + self.payload.len()
    }

    /// The length of the whole packet.
    pub(crate) fn packet_len(&self, version: Version) -> usize {
        let remaining = self.remaining(version);
        1 + length_width(remaining) + remaining
    }
}

pub(crate) fn put_publish(out: &mut BytesMut, version: Version, delivery: &Delivery<'_>) {
    let remaining = delivery.remaining(version);
    out.reserve(5 + remaining);
    let dup = u8::from(delivery.dup) << 3;
    out.put_u8(0x30 | dup | (delivery.qos as u8) << 1 | u8::from(delivery.retain));
    put_length(out, remaining);
    put_binary(out, delivery.topic);
    if delivery.qos != QoS::AtMostOnce {
        out.put_u16(delivery.packet_id);
    }
    if version == Version::V5 {
        put_length(out, delivery.properties_len());
        out.put_slice(delivery.properties);
        if let Some(seconds) = delivery.expiry_s {
            out.put_u8(MESSAGE_EXPIRY);
            out.put_u32(seconds);
        }
        if let Some(alias) = delivery.topic_alias {
            out.put_u8(TOPIC_ALIAS);
            out.put_u16(alias);
        }
        for &id in delivery.subscription_ids {
            out.put_u8(SUBSCRIPTION_ID);
            put_length(out, id as usize);
        }
    }
    out.put_slice(delivery.payload);
}

/// Appends PUBACK (`0x40`), PUBREC (`0x50`), PUBREL (`0x62`) or PUBCOMP (`0x70`).
pub(crate) fn put_ack(out: &mut BytesMut, version: Version, first: u8, packet_id: u16, code: u8) {
    let [high, low] = packet_id.to_be_bytes();
    if version == Version::V4 || code == reason::SUCCESS {
        out.put_slice(&[first, 2, high, low]);
    } else {
        out.put_slice(&[first, 3, high, low, code]);
    }
}

pub(crate) fn put_suback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    out.put_u8(0x90);
    put_codes(out, version, packet_id, codes.len());
    for &code in codes {
        // MQTT 3.1.1 knows one failure.
        out.put_u8(if version == Version::V4 {
            code.min(reason::UNSPECIFIED)
        } else {
            code
        });
    }
}

pub(crate) fn put_unsuback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    out.put_u8(0xb0);
    match version {
        Version::V4 => put_codes(out, version, packet_id, 0),
        Version::V5 => {
            put_codes(out, version, packet_id, codes.len());
            out.put_slice(codes);
        }
    }
}

/// Length of a SUBACK or UNSUBACK of MQTT 5 with so many codes.
pub(crate) fn codes_packet_len(count: usize) -> usize {
    let rest = 3 + count;
    1 + length_width(rest) + rest
}

fn put_codes(out: &mut BytesMut, version: Version, packet_id: u16, count: usize) {
    match version {
        Version::V4 => {
            put_length(out, 2 + count);
            out.put_u16(packet_id);
        }
        Version::V5 => {
            put_length(out, 3 + count);
            out.put_u16(packet_id);
            out.put_u8(0);
        }
    }
}

pub(crate) fn put_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// Appends a DISCONNECT with its reason. MQTT 3.1.1 has none for servers: nothing is written.
pub(crate) fn put_disconnect(out: &mut BytesMut, version: Version, code: u8) {
    if version == Version::V5 {
        out.put_slice(&[0xe0, 1, code]);
    }
}
