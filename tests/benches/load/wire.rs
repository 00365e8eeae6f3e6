//! As much of MQTT 3.1.1 as a load generator needs, over blocking sockets.
//!
//! A client library would spend more on a message than the brokers under test do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// How long a broker may take to answer CONNECT and SUBSCRIBE.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Announced keep-alive, in seconds: a connection is quiet while the others are measured.
const KEEP_ALIVE_S: u16 = 600;
/// Room for what one read may bring; a packet must fit in it.
const READ_BYTES: usize = 256 * 1024;

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;

/// Quality of service of readings and of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    AtMostOnce,
    AtLeastOnce,
}

impl Qos {
    pub(crate) const fn level(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
        }
    }
}

/// Connects with a clean session.
pub(crate) fn connect(addr: SocketAddr, client_id: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr, HANDSHAKE_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let mut body = Vec::new();
    put_text(&mut body, b"MQTT");
    body.extend([4, 0b10]);
    body.extend(KEEP_ALIVE_S.to_be_bytes());
    put_text(&mut body, client_id.as_bytes());
    write_packet(&mut stream, 0x10, &body)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).context("read CONNACK")?;
    ensure!(
        answer[0] == CONNACK && answer[3] == 0,
        "broker at {addr} refuses the connection: {answer:?}"
    );
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Subscribes to one filter; nothing else may be on its way yet.
pub(crate) fn subscribe(stream: &mut TcpStream, filter: &str, qos: Qos) -> anyhow::Result<()> {
    let mut body = vec![0, 1];
    put_text(&mut body, filter.as_bytes());
    body.push(qos.level());
    write_packet(stream, 0x82, &body)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).context("read SUBACK")?;
    ensure!(
        answer[0] == SUBACK && answer[4] == qos.level(),
        "broker refuses the subscription to {filter}: {answer:?}"
    );
    stream.set_read_timeout(None)?;
    Ok(())
}

/// Appends a PUBLISH; `packet_id` goes with QoS 1.
pub(crate) fn put_publish(
    out: &mut Vec<u8>,
    topic: &[u8],
    qos: Qos,
    packet_id: u16,
    payload: &[u8],
) {
    out.push(PUBLISH | qos.level() << 1);
    let id_bytes = if qos == Qos::AtLeastOnce { 2 } else { 0 };
    put_length(out, 2 + topic.len() + id_bytes + payload.len());
    put_text(out, topic);
    if qos == Qos::AtLeastOnce {
        out.extend(packet_id.to_be_bytes());
    }
    out.extend(payload);
}

/// What the other side sent.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// A message; `packet_id` when it must be acknowledged.
    Publish {
        packet_id: Option<u16>,
        payload: &'a [u8],
    },
    /// A message of ours was taken.
    PubAck,
    /// Anything else.
    Other,
}

/// Cuts a byte stream into packets.
#[derive(Debug)]
pub(crate) struct PacketReader {
    stream: TcpStream,
    buffer: Box<[u8]>,
    filled: usize,
}

impl PacketReader {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: vec![0; READ_BYTES].into(),
            filled: 0,
        }
    }

    /// Waits for bytes and hands over each whole packet among them; `false` when the connection has ended.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Incoming<'_>)) -> anyhow::Result<bool> {
        let read = match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error).context("read packets"),
        };
        self.filled += read;
        let mut at = 0;
        while let Some((packet, length)) = split(&self.buffer[at..self.filled])? {
            each(packet);
            at += length;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        ensure!(
            self.filled < self.buffer.len(),
            "packet of more than {READ_BYTES} bytes"
        );
        Ok(true)
    }
}

/// The first packet in `bytes` and its length; `None` while it is not whole.
fn split(bytes: &[u8]) -> anyhow::Result<Option<(Incoming<'_>, usize)>> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut length = 0;
    let mut length_bytes = 0;
    loop {
        let Some(&byte) = rest.get(length_bytes) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * length_bytes);
        length_bytes += 1;
        if byte & 0x80 == 0 {
            break;
        }
        ensure!(length_bytes < 4, "malformed packet length");
    }
    let Some(body) = rest.get(length_bytes..length_bytes + length) else {
        return Ok(None);
    };
    let packet = match first & 0xf0 {
        PUBLISH => publish(first, body)?,
        PUBACK => Incoming::PubAck,
        _ => Incoming::Other,
    };
    Ok(Some((packet, 1 + length_bytes + length)))
}

fn publish(first: u8, body: &[u8]) -> anyhow::Result<Incoming<'_>> {
    let malformed = || anyhow::anyhow!("malformed PUBLISH");
    let (topic_length, rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
    let rest = rest
        .get(usize::from(u16::from_be_bytes(*topic_length))..)
        .ok_or_else(malformed)?;
    match (first >> 1) & 3 {
        0 => Ok(Incoming::Publish {
            packet_id: None,
            payload: rest,
        }),
        1 => {
            let (id, payload) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
            Ok(Incoming::Publish {
                packet_id: Some(u16::from_be_bytes(*id)),
                payload,
            })
        }
        level => bail!("PUBLISH with QoS {level}"),
    }
}

/// Appends a PUBACK.
pub(crate) fn put_puback(out: &mut Vec<u8>, packet_id: u16) {
    out.extend([PUBACK, 2]);
    out.extend(packet_id.to_be_bytes());
}

fn write_packet(stream: &mut TcpStream, first: u8, body: &[u8]) -> anyhow::Result<()> {
    let mut packet = vec![first];
    put_length(&mut packet, body.len());
    packet.extend(body);
    stream.write_all(&packet).context("write packet")
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    // Names and topics here are a few dozen bytes.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(text);
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}
