//! The wire format of MQTT 3.1.1 and 5: frames, packets, properties.
//!
//! rumqttd's own codec is not used: it keeps a publication's QoS and packet id to itself, copies every string, and
//! panics on some inputs. This one borrows from the read buffer, indexes nothing unchecked, and its errors carry the
//! MQTT 5 reason code that the peer is told. See "MQTT Version 5.0" and "MQTT Version 3.1.1", OASIS Standards.

mod decode;
mod encode;
pub(crate) mod properties;

pub(crate) use decode::{
    Connect, Packet, PublishPacket, SubscribeFilter, Will, decode, decode_connect,
};
pub(crate) use encode::{
    Accepted, ConnAck, Delivery, codes_packet_len, put_ack, put_connack, put_disconnect,
    put_pingresp, put_publish, put_suback, put_unsuback,
};

use thiserror::Error;

/// The protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

/// Why bytes from a client were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum DecodeError {
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("packet of {size} bytes exceeds the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("protocol name or level is neither MQTT 3.1.1 nor MQTT 5 (level {0})")]
    Version(u8),
}

/// The reason codes of MQTT 5 that this broker sends (section 2.4).
pub(crate) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub(crate) const NO_SUBSCRIPTION: u8 = 0x11;
    pub(crate) const UNSPECIFIED: u8 = 0x80;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_ID_INVALID: u8 = 0x85;
    pub(crate) const BAD_PASSWORD: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const SERVER_UNAVAILABLE: u8 = 0x88;
    pub(crate) const SERVER_BUSY: u8 = 0x89;
    pub(crate) const SHUTTING_DOWN: u8 = 0x8b;
    pub(crate) const BAD_AUTH_METHOD: u8 = 0x8c;
    pub(crate) const KEEP_ALIVE_TIMEOUT: u8 = 0x8d;
    pub(crate) const TAKEN_OVER: u8 = 0x8e;
    pub(crate) const FILTER_INVALID: u8 = 0x8f;
    pub(crate) const TOPIC_INVALID: u8 = 0x90;
    pub(crate) const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x93;
    pub(crate) const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub(crate) const TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA_EXCEEDED: u8 = 0x97;
    pub(crate) const ADMINISTRATIVE_ACTION: u8 = 0x98;
}

impl DecodeError {
    pub(crate) fn reason(self) -> u8 {
        match self {
            Self::Malformed(_) => reason::MALFORMED,
            Self::Protocol(_) => reason::PROTOCOL_ERROR,
            Self::TooLarge { .. } => reason::TOO_LARGE,
            Self::Version(_) => reason::UNSUPPORTED_VERSION,
        }
    }
}

/// One complete packet at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) first: u8,
    pub(crate) body: &'a [u8],
    /// The length of the packet with its header: what to take off the buffer.
    pub(crate) length: usize,
}

/// What [`frame`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framed<'a> {
    Complete(Frame<'a>),
    /// More bytes are needed; the whole packet will have this many, as far as is known.
    Partial(usize),
}

/// Finds the packet at the front of `buffer`, whose whole length may be `limit` at most.
pub(crate) fn frame(buffer: &[u8], limit: usize) -> Result<Framed<'_>, DecodeError> {
    let Some((&first, rest)) = buffer.split_first() else {
        return Ok(Framed::Partial(2));
    };
    let Some((remaining, width)) = properties::split_length(rest) else {
        if rest.len() >= 4 {
            return Err(DecodeError::Malformed(
                "the remaining length has more than four bytes",
            ));
        }
        return Ok(Framed::Partial(buffer.len() + 1));
    };
    let length = 1 + width + remaining;
    if length > limit {
        return Err(DecodeError::TooLarge {
            size: length,
            limit,
        });
    }
    match buffer.get(1 + width..length) {
        Some(body) => Ok(Framed::Complete(Frame {
            first,
            body,
            length,
        })),
        None => Ok(Framed::Partial(length)),
    }
}

/// A cursor over a packet's body that never reads past its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Malformed("it ends too early"))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(crate) fn short(&mut self) -> Result<u16, DecodeError> {
        self.bytes(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn long(&mut self) -> Result<u32, DecodeError> {
        self.bytes(4)
            .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let (value, width) = properties::split_length(self.rest)
            .ok_or(DecodeError::Malformed("a length that does not end"))?;
        self.bytes(width)?;
        Ok(value)
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.short()?;
        self.bytes(usize::from(length))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| DecodeError::Malformed("a string that is not UTF-8"))?;
        if text.contains('\0') {
            return Err(DecodeError::Malformed("a string with a null character"));
        }
        Ok(text)
    }

    /// A packet id, which is never zero.
    pub(crate) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.short()? {
            0 => Err(DecodeError::Protocol("packet id 0")),
            id => Ok(id),
        }
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("bytes after its end"))
        }
    }
}

#[cfg(test)]
mod tests;
