//! As much of MQTT 3.1.1 as a simulated node needs: thousands of sessions fit in one process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How long the broker may take to answer, on a machine that 2,000 sessions keep busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Announced keep-alive, in seconds: longer than the benchmark.
const KEEP_ALIVE_S: u16 = 3_600;
/// Longest packet that is read: a release has 16 KiB at most.
const PACKET_BYTES_MAX: usize = 64 * 1024;

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    stream: BufReader<TcpStream>,
}

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) retained: bool,
    pub(crate) payload: Vec<u8>,
}

impl Session {
    /// Connects with a clean session, as a user or, without one, as nobody.
    pub(crate) async fn open(
        addr: SocketAddr,
        client_id: &str,
        login: Option<(&str, String)>,
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await.context("connect")?;
        stream.set_nodelay(true)?;
        let mut session = Self {
            stream: BufReader::new(stream),
        };
        let mut body = Vec::new();
        put_text(&mut body, "MQTT")?;
        let flags = if login.is_some() { 0b1100_0010 } else { 0b10 };
        body.extend([4, flags]);
        body.extend(KEEP_ALIVE_S.to_be_bytes());
        put_text(&mut body, client_id)?;
        if let Some((user, password)) = login {
            put_text(&mut body, user)?;
            put_text(&mut body, &password)?;
        }
        session.write(0x10, &body).await?;
        let answer = session.answer(CONNACK).await?;
        ensure!(answer.get(1) == Some(&0), "refused: {answer:?}");
        Ok(session)
    }

    /// Subscribes with QoS 1; no other message may be on its way.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> anyhow::Result<()> {
        let mut body = vec![0, 1];
        put_text(&mut body, filter)?;
        body.push(1);
        self.write(0x82, &body).await?;
        let answer = self.answer(SUBACK).await?;
        ensure!(answer.get(2) == Some(&1), "no {filter}: {answer:?}");
        Ok(())
    }

    /// Publishes a retained message with QoS 1, and does not wait for its acknowledgement.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        let mut body = Vec::with_capacity(4 + topic.len() + payload.len());
        put_text(&mut body, topic)?;
        body.extend([0, 1]);
        body.extend(payload);
        self.write(PUBLISH | 0b11, &body).await
    }

    /// Waits for the next message, and acknowledges it.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            let (first, body) = self.read().await?;
            if first & 0xf0 != PUBLISH {
                continue;
            }
            let malformed = || anyhow::anyhow!("malformed PUBLISH");
            let (length, rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
            let topic = usize::from(u16::from_be_bytes(*length));
            let mut rest = rest.get(topic..).ok_or_else(malformed)?;
            if first & 0b110 != 0 {
                let (id, payload) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
                rest = payload;
                self.write(PUBACK, id).await?;
            }
            return Ok(Message {
                retained: first & 1 == 1,
                payload: rest.to_vec(),
            });
        }
    }

    async fn answer(&mut self, wanted: u8) -> anyhow::Result<Vec<u8>> {
        let (first, body) = tokio::time::timeout(ANSWER_WITHIN, self.read())
            .await
            .context("no answer in time")??;
        ensure!(first & 0xf0 == wanted, "{first:#x} instead of {wanted:#x}");
        Ok(body)
    }

    async fn read(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.context("read a packet")?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            ensure!(shift < 28, "malformed length of a packet");
        }
        if length > PACKET_BYTES_MAX {
            bail!("packet of {length} bytes, at most {PACKET_BYTES_MAX} are read");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((first, body))
    }

    async fn write(&mut self, first: u8, body: &[u8]) -> anyhow::Result<()> {
        let mut packet = Vec::with_capacity(body.len() + 5);
        packet.push(first);
        let mut length = body.len();
        loop {
            let low = u8::try_from(length & 0x7f)?;
            length >>= 7;
            packet.push(if length == 0 { low } else { low | 0x80 });
            if length == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.stream
            .write_all(&packet)
            .await
            .context("write a packet")
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) -> anyhow::Result<()> {
    out.extend(u16::try_from(text.len())?.to_be_bytes());
    out.extend(text.as_bytes());
    Ok(())
}
