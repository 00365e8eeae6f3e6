//! What the broker sends, read strictly: a bit that must be zero, a length that is too long or a property out of place
//! is an error, so that every case checks the shape of every answer besides what it is about.

use crate::wire::Version;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    ConnAck {
        present: bool,
        code: u8,
        properties: Properties,
    },
    Publish(Message),
    /// First byte, packet id, reason code (0 in MQTT 3.1.1).
    Ack(u8, u16, u8),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
    Disconnect(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: Octets,
    pub(crate) payload: Octets,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: u16,
    pub(crate) properties: Properties,
}

/// Bytes that are text most of the time.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Octets(pub(crate) Vec<u8>);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(48)];
        write!(f, "\"{}\" ({} bytes)", shown.escape_ascii(), self.0.len())
    }
}

/// Identifiers and values, in their order.
pub(crate) type Properties = Vec<(u8, Vec<u8>)>;

/// What CONNACK, PUBLISH, the acknowledgements and DISCONNECT of a server may carry (MQTT 5, section 2.2.2.2).
const IN_CONNACK: &[u8] = &[
    0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
    0x2a,
];
const IN_PUBLISH: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26];
/// An acknowledgement may carry a reason string and user properties. This broker gives neither, and so need not look at
/// Request Problem Information and Maximum Packet Size before it does ([MQTT-3.1.2-29], [MQTT-3.4.2-2] and their like).
const IN_ACK: &[u8] = &[];
const IN_DISCONNECT: &[u8] = &[0x1c, 0x1f, 0x26];

/// The reason codes that each packet may carry (MQTT 5, section 2.4).
const CONNACK_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
    0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
];
const PUBLISH_CODES: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const RELEASE_CODES: &[u8] = &[0x00, 0x92];
const SUBACK_CODES: &[u8] = &[
    0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2,
];
const UNSUBACK_CODES: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
const DISCONNECT_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];

pub(crate) fn read(version: Version, first: u8, body: &[u8]) -> Result<Answer, String> {
    let mut cursor = Cursor(body);
    let answer = match first {
        0x20 => connack(version, &mut cursor)?,
        0x30..=0x3f => Answer::Publish(publish(version, first, &mut cursor)?),
        0x40 | 0x50 | 0x62 | 0x70 => {
            let id = cursor.short()?;
            let codes = if first <= 0x50 {
                PUBLISH_CODES
            } else {
                RELEASE_CODES
            };
            Answer::Ack(first, id, cursor.reason(version, codes, IN_ACK)?)
        }
        0x90 => Answer::SubAck(cursor.short()?, cursor.codes(version, SUBACK_CODES)?),
        0xb0 if version == Version::V4 => Answer::UnsubAck(cursor.short()?, Vec::new()),
        0xb0 => Answer::UnsubAck(cursor.short()?, cursor.codes(version, UNSUBACK_CODES)?),
        0xd0 => Answer::PingResp,
        0xe0 if version == Version::V5 => {
            Answer::Disconnect(cursor.reason(version, DISCONNECT_CODES, IN_DISCONNECT)?)
        }
        _ => return Err(format!("a server does not send {first:#04x}")),
    };
    if cursor.0.is_empty() {
        Ok(answer)
    } else {
        Err(format!(
            "{} bytes behind the end of {answer:?}",
            cursor.0.len()
        ))
    }
}

fn connack(version: Version, cursor: &mut Cursor<'_>) -> Result<Answer, String> {
    let (flags, code) = (cursor.byte()?, cursor.byte()?);
    if flags > 1 {
        return Err(format!("CONNACK flags {flags:#04x}"));
    }
    let properties = match version {
        Version::V4 => Vec::new(),
        Version::V5 => cursor.properties(IN_CONNACK)?,
    };
    let known = match version {
        Version::V4 => code <= 5,
        Version::V5 => CONNACK_CODES.contains(&code),
    };
    if !known {
        return Err(format!("CONNACK has no code {code:#04x}"));
    }
    Ok(Answer::ConnAck {
        present: flags == 1,
        code,
        properties,
    })
}

fn publish(version: Version, first: u8, cursor: &mut Cursor<'_>) -> Result<Message, String> {
    let qos = (first >> 1) & 3;
    let topic = Octets(cursor.binary()?);
    let id = if qos > 0 { cursor.short()? } else { 0 };
    if qos == 3 || (qos == 0 && first & 8 != 0) || (qos > 0 && id == 0) {
        return Err(format!(
            "PUBLISH with first byte {first:#04x} and packet id {id}"
        ));
    }
    let properties = match version {
        Version::V4 => Vec::new(),
        Version::V5 => cursor.properties(IN_PUBLISH)?,
    };
    let payload = Octets(std::mem::take(&mut cursor.0).to_vec());
    Ok(Message {
        topic,
        payload,
        qos,
        retain: first & 1 != 0,
        dup: first & 8 != 0,
        id,
        properties,
    })
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| format!("{count} bytes wanted, {} left", self.0.len()))?;
        self.0 = tail;
        Ok(head.to_vec())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Result<u16, String> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn binary(&mut self) -> Result<Vec<u8>, String> {
        let count = self.short()?;
        self.take(usize::from(count))
    }

    /// A variable byte integer in as few bytes as it needs, and those bytes.
    fn number(&mut self) -> Result<(usize, Vec<u8>), String> {
        let mut bytes = Vec::new();
        let mut value = 0;
        loop {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << (7 * bytes.len());
            bytes.push(byte);
            if byte & 0x80 == 0 {
                break;
            }
            if bytes.len() == 4 {
                return Err("a number of more than four bytes".into());
            }
        }
        if bytes.len() > 1 && bytes.last() == Some(&0) {
            return Err(format!("{value} in {} bytes", bytes.len()));
        }
        Ok((value, bytes))
    }

    fn properties(&mut self, allowed: &[u8]) -> Result<Properties, String> {
        let (count, _) = self.number()?;
        let taken = self.take(count)?;
        let mut inner = Cursor(&taken);
        let mut found = Properties::new();
        while !inner.0.is_empty() {
            let id = inner.byte()?;
            let value = match id {
                0x01 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => inner.take(1)?,
                0x13 | 0x21 | 0x22 | 0x23 => inner.take(2)?,
                0x02 | 0x11 | 0x27 => inner.take(4)?,
                0x0b => inner.number()?.1,
                0x26 => [inner.binary()?, b"=".to_vec(), inner.binary()?].concat(),
                _ => inner.binary()?,
            };
            let repeats = matches!(id, 0x0b | 0x26);
            if !allowed.contains(&id) || (!repeats && found.iter().any(|(other, _)| *other == id)) {
                return Err(format!("property {id:#04x} is out of place or given twice"));
            }
            found.push((id, value));
        }
        Ok(found)
    }

    /// The reason code and properties at the end of a packet, both of which may be left out.
    fn reason(&mut self, version: Version, codes: &[u8], allowed: &[u8]) -> Result<u8, String> {
        if version == Version::V4 || self.0.is_empty() {
            return Ok(0);
        }
        let code = self.byte()?;
        if !codes.contains(&code) {
            return Err(format!("this packet has no code {code:#04x}"));
        }
        if !self.0.is_empty() {
            self.properties(allowed)?;
        }
        Ok(code)
    }

    /// The codes of a SUBACK or UNSUBACK.
    fn codes(&mut self, version: Version, known: &[u8]) -> Result<Vec<u8>, String> {
        if version == Version::V5 {
            self.properties(IN_ACK)?;
        }
        let codes = std::mem::take(&mut self.0).to_vec();
        let good = |code: &u8| match version {
            Version::V4 => matches!(code, 0..=2 | 0x80),
            Version::V5 => known.contains(code),
        };
        if codes.is_empty() || !codes.iter().all(good) {
            return Err(format!("codes {codes:02x?}"));
        }
        Ok(codes)
    }
}
