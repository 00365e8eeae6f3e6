//! Packets from clients.

use super::{
    DecodeError, Frame, Reader, Version,
    properties::{
        AUTH_DATA, AUTH_METHOD, CONTENT_TYPE, CORRELATION_DATA, IN_PUBLISH, MAXIMUM_PACKET_SIZE,
        MESSAGE_EXPIRY, PAYLOAD_FORMAT, Properties, REASON_STRING, RECEIVE_MAXIMUM,
        REQUEST_PROBLEM, REQUEST_RESPONSE, RESPONSE_TOPIC, SERVER_REFERENCE, SESSION_EXPIRY,
        SUBSCRIPTION_ID, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM, USER_PROPERTY, Value, WILL_DELAY,
    },
    reason,
};
use crate::message::QoS;

const IN_CONNECT: &[u8] = &[
    SESSION_EXPIRY,
    RECEIVE_MAXIMUM,
    MAXIMUM_PACKET_SIZE,
    TOPIC_ALIAS_MAXIMUM,
    REQUEST_RESPONSE,
    REQUEST_PROBLEM,
    USER_PROPERTY,
    AUTH_METHOD,
    AUTH_DATA,
];
const IN_WILL: &[u8] = &[
    WILL_DELAY,
    PAYLOAD_FORMAT,
    MESSAGE_EXPIRY,
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
    USER_PROPERTY,
];
const IN_ACK: &[u8] = &[REASON_STRING, USER_PROPERTY];
const IN_SUBSCRIBE: &[u8] = &[SUBSCRIPTION_ID, USER_PROPERTY];
const IN_UNSUBSCRIBE: &[u8] = &[USER_PROPERTY];
const IN_DISCONNECT: &[u8] = &[
    SESSION_EXPIRY,
    REASON_STRING,
    USER_PROPERTY,
    SERVER_REFERENCE,
];

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) client_id: &'a str,
    pub(crate) will: Option<Will<'a>>,
    pub(crate) login: Login<'a>,
    pub(crate) session_expiry_s: u32,
    /// How many unacknowledged QoS 1 and 2 messages the client accepts; 65,535 if it does not say.
    pub(crate) receive_maximum: u16,
    pub(crate) packet_size_max: Option<u32>,
    /// Topic aliases that the client understands; 0 if it does not say.
    pub(crate) topic_aliases_max: u16,
    pub(crate) auth_method: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Login<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) delay_s: u32,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) properties: Vec<u8>,
}

/// A packet of an established connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Publish(PublishPacket<'a>),
    PubAck(u16),
    PubRec {
        packet_id: u16,
        /// The client refuses the message: there will be no PUBREL.
        refused: bool,
    },
    PubRel(u16),
    PubComp(u16),
    Subscribe {
        packet_id: u16,
        subscription_id: Option<u32>,
        filters: Vec<SubscribeFilter<'a>>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<&'a str>,
    },
    PingReq,
    Disconnect {
        with_will: bool,
        /// How long the session is to be kept from now on; `None` leaves it as it was.
        session_expiry_s: Option<u32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishPacket<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) topic: &'a str,
    /// Zero for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) expiry_s: Option<u32>,
    /// The properties that subscribers get; rewritten only when some had to be taken out.
    pub(crate) properties: Kept<'a>,
    pub(crate) topic_alias: Option<u16>,
    pub(crate) payload: &'a [u8],
}

/// Properties that are passed on: usually the client's own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept<'a> {
    AsSent(&'a [u8]),
    Rewritten(Vec<u8>),
}

impl Kept<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::AsSent(bytes) => bytes,
            Self::Rewritten(bytes) => bytes,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubscribeFilter<'a> {
    pub(crate) filter: &'a str,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: u8,
}

/// Decodes a CONNECT, whose protocol level says how to read the rest of the connection.
pub(crate) fn decode_connect<'a>(frame: &Frame<'a>) -> Result<Connect<'a>, DecodeError> {
    if frame.first != 0x10 {
        return Err(DecodeError::Protocol("the first packet is not CONNECT"));
    }
    let mut reader = Reader::new(frame.body);
    let name = reader.binary()?;
    let level = reader.byte()?;
    let version = match (name, level) {
        (b"MQTT", 4) => Version::V4,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT" | b"MQIsdp", other) => return Err(DecodeError::Version(other)),
        _ => return Err(DecodeError::Malformed("the protocol name is not MQTT")),
    };
    let flags = reader.byte()?;
    if flags & 1 != 0 {
        return Err(DecodeError::Malformed(
            "the reserved flag of CONNECT is set",
        ));
    }
    let keep_alive_s = reader.short()?;
    let mut connect = Connect {
        version,
        clean: flags & 0b10 != 0,
        keep_alive_s,
        client_id: "",
        will: None,
        login: Login {
            user: None,
            password: None,
        },
        session_expiry_s: 0,
        receive_maximum: u16::MAX,
        packet_size_max: None,
        topic_aliases_max: 0,
        auth_method: false,
    };
    if version == Version::V5 {
        connect_properties(&mut reader, &mut connect)?;
    }
    connect.client_id = reader.text()?;
    connect.will = will(&mut reader, version, flags)?;
    if flags & 0x80 != 0 {
        connect.login.user = Some(reader.text()?);
    }
    if flags & 0x40 != 0 {
        if version == Version::V4 && flags & 0x80 == 0 {
            return Err(DecodeError::Malformed("a password without a user name"));
        }
        connect.login.password = Some(reader.binary()?);
    }
    reader.finish()?;
    Ok(connect)
}

fn connect_properties<'a>(
    reader: &mut Reader<'a>,
    connect: &mut Connect<'a>,
) -> Result<(), DecodeError> {
    let mut walk = Properties::take(reader, IN_CONNECT)?;
    let mut auth_data = false;
    while let Some(property) = walk.next_property()? {
        match property {
            (SESSION_EXPIRY, Value::Long(seconds)) => connect.session_expiry_s = seconds,
            (RECEIVE_MAXIMUM, Value::Short(0)) => {
                return Err(DecodeError::Protocol("receive maximum 0"));
            }
            (RECEIVE_MAXIMUM, Value::Short(count)) => connect.receive_maximum = count,
            (MAXIMUM_PACKET_SIZE, Value::Long(0)) => {
                return Err(DecodeError::Protocol("maximum packet size 0"));
            }
            (MAXIMUM_PACKET_SIZE, Value::Long(size)) => connect.packet_size_max = Some(size),
            (TOPIC_ALIAS_MAXIMUM, Value::Short(count)) => connect.topic_aliases_max = count,
            (AUTH_METHOD, _) => connect.auth_method = true,
            (AUTH_DATA, _) => auth_data = true,
            _ => {}
        }
    }
    if auth_data && !connect.auth_method {
        return Err(DecodeError::Protocol(
            "authentication data without a method",
        ));
    }
    Ok(())
}

fn will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    flags: u8,
) -> Result<Option<Will<'a>>, DecodeError> {
    if flags & 0b100 == 0 {
        if flags & 0b0011_1000 != 0 {
            return Err(DecodeError::Malformed("will flags without a will"));
        }
        return Ok(None);
    }
    let qos =
        QoS::from_bits((flags >> 3) & 0b11).ok_or(DecodeError::Malformed("a will of QoS 3"))?;
    let mut delay_s = 0;
    let mut expiry_s = None;
    let mut kept = Vec::new();
    if version == Version::V5 {
        let mut walk = Properties::take(reader, IN_WILL)?;
        loop {
            let before = walk.rest();
            match walk.next_property()? {
                None => break,
                Some((WILL_DELAY, Value::Long(seconds))) => delay_s = seconds,
                Some((MESSAGE_EXPIRY, Value::Long(seconds))) => expiry_s = Some(seconds),
                Some(_) => kept.extend_from_slice(&before[..before.len() - walk.rest().len()]),
            }
        }
    }
    let topic = reader.text()?;
    let payload = reader.binary()?;
    Ok(Some(Will {
        topic,
        payload,
        qos,
        retain: flags & 0x20 != 0,
        delay_s,
        expiry_s,
        properties: kept,
    }))
}

/// Decodes a packet that a client may send after its CONNECT.
pub(crate) fn decode<'a>(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
    let reader = Reader::new(frame.body);
    let flags = frame.first & 0x0f;
    let expected = |wanted: u8| {
        if flags == wanted {
            Ok(())
        } else {
            Err(DecodeError::Malformed("reserved header flags"))
        }
    };
    match frame.first >> 4 {
        3 => publish(reader, version, flags).map(Packet::Publish),
        4 => expected(0)
            .and_then(|()| ack(reader, version))
            .map(|(packet_id, _)| Packet::PubAck(packet_id)),
        5 => expected(0)
            .and_then(|()| ack(reader, version))
            .map(|(packet_id, code)| Packet::PubRec {
                packet_id,
                refused: code >= reason::UNSPECIFIED,
            }),
        6 => expected(2)
            .and_then(|()| ack(reader, version))
            .map(|(packet_id, _)| Packet::PubRel(packet_id)),
        7 => expected(0)
            .and_then(|()| ack(reader, version))
            .map(|(packet_id, _)| Packet::PubComp(packet_id)),
        8 => expected(2).and_then(|()| subscribe(reader, version)),
        10 => expected(2).and_then(|()| unsubscribe(reader, version)),
        12 => {
            expected(0)?;
            reader.finish()?;
            Ok(Packet::PingReq)
        }
        14 => expected(0).and_then(|()| disconnect(reader, version)),
        1 => Err(DecodeError::Protocol("a second CONNECT")),
        2 | 9 | 11 | 13 => Err(DecodeError::Protocol("a packet that only a server sends")),
        15 => Err(DecodeError::Protocol(
            "an AUTH packet, which was not negotiated",
        )),
        _ => Err(DecodeError::Malformed("packet type 0")),
    }
}

fn publish(
    mut reader: Reader<'_>,
    version: Version,
    flags: u8,
) -> Result<PublishPacket<'_>, DecodeError> {
    let qos = QoS::from_bits((flags >> 1) & 0b11)
        .ok_or(DecodeError::Malformed("a publication of QoS 3"))?;
    if qos == QoS::AtMostOnce && flags & 0b1000 != 0 {
        return Err(DecodeError::Malformed("a duplicate of QoS 0"));
    }
    let topic = reader.text()?;
    let packet_id = if qos == QoS::AtMostOnce {
        0
    } else {
        reader.packet_id()?
    };
    let mut packet = PublishPacket {
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        expiry_s: None,
        properties: Kept::AsSent(&[]),
        topic_alias: None,
        payload: &[],
    };
    if version == Version::V5 {
        publish_properties(&mut reader, &mut packet)?;
    }
    packet.payload = reader.rest();
    Ok(packet)
}

fn publish_properties<'a>(
    reader: &mut Reader<'a>,
    packet: &mut PublishPacket<'a>,
) -> Result<(), DecodeError> {
    let mut walk = Properties::take(reader, IN_PUBLISH)?;
    let block = walk.rest();
    packet.properties = Kept::AsSent(block);
    loop {
        let before = walk.rest();
        let Some((id, value)) = walk.next_property()? else {
            return Ok(());
        };
        let taken_out = match (id, value) {
            (MESSAGE_EXPIRY, Value::Long(seconds)) => {
                packet.expiry_s = Some(seconds);
                true
            }
            (TOPIC_ALIAS, Value::Short(alias)) => {
                packet.topic_alias = Some(alias);
                true
            }
            _ => false,
        };
        if taken_out {
            // From the first property that is taken out, what stays is copied; until then nothing is.
            if let Kept::AsSent(_) = packet.properties {
                packet.properties = Kept::Rewritten(block[..block.len() - before.len()].to_vec());
            }
        } else if let Kept::Rewritten(kept) = &mut packet.properties {
            kept.extend_from_slice(&before[..before.len() - walk.rest().len()]);
        }
    }
}

/// The packet id and the reason code, which is 0 where none is given.
fn ack(mut reader: Reader<'_>, version: Version) -> Result<(u16, u8), DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut code = reason::SUCCESS;
    if version == Version::V5 && !reader.is_empty() {
        code = reader.byte()?;
        if !reader.is_empty() {
            Properties::take(&mut reader, IN_ACK)?.check()?;
        }
    }
    reader.finish()?;
    Ok((packet_id, code))
}

fn subscribe(mut reader: Reader<'_>, version: Version) -> Result<Packet<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut subscription_id = None;
    if version == Version::V5 {
        let mut walk = Properties::take(&mut reader, IN_SUBSCRIBE)?;
        while let Some(property) = walk.next_property()? {
            if let (SUBSCRIPTION_ID, Value::Length(id)) = property {
                if id == 0 {
                    return Err(DecodeError::Protocol("subscription identifier 0"));
                }
                subscription_id = Some(id);
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.text()?;
        let options = reader.byte()?;
        let reserved = if version == Version::V5 {
            0b1100_0000
        } else {
            0b1111_1100
        };
        let qos = QoS::from_bits(options & 0b11)
            .ok_or(DecodeError::Malformed("a subscription of QoS 3"))?;
        let retain_handling = (options >> 4) & 0b11;
        if options & reserved != 0 || retain_handling == 3 {
            return Err(DecodeError::Malformed("reserved subscription options"));
        }
        filters.push(SubscribeFilter {
            filter,
            qos,
            no_local: options & 0b100 != 0,
            retain_as_published: options & 0b1000 != 0,
            retain_handling,
        });
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("a subscription without a filter"));
    }
    Ok(Packet::Subscribe {
        packet_id,
        subscription_id,
        filters,
    })
}

fn unsubscribe(mut reader: Reader<'_>, version: Version) -> Result<Packet<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if version == Version::V5 {
        Properties::take(&mut reader, IN_UNSUBSCRIBE)?.check()?;
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.text()?);
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("an unsubscription without a filter"));
    }
    Ok(Packet::Unsubscribe { packet_id, filters })
}

fn disconnect(mut reader: Reader<'_>, version: Version) -> Result<Packet<'_>, DecodeError> {
    let mut code = reason::SUCCESS;
    let mut session_expiry_s = None;
    if version == Version::V5 && !reader.is_empty() {
        code = reader.byte()?;
        if !reader.is_empty() {
            let mut walk = Properties::take(&mut reader, IN_DISCONNECT)?;
            while let Some(property) = walk.next_property()? {
                if let (SESSION_EXPIRY, Value::Long(seconds)) = property {
                    session_expiry_s = Some(seconds);
                }
            }
        }
    }
    reader.finish()?;
    Ok(Packet::Disconnect {
        // Only a plain "normal disconnection" takes the will back (MQTT 5, section 3.14.4).
        with_will: code != reason::SUCCESS,
        session_expiry_s,
    })
}
