//! A client that keeps its word: it acknowledges what it gets and waits for its own acknowledgements.

use crate::common::{DEADLINE, Hello, packet, publish_bytes};
use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The connection has ended, or the broker took too long.
#[derive(Debug)]
pub(crate) struct Gone(pub(crate) String);

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A publication that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) dup: bool,
}

pub(crate) struct Client {
    stream: TcpStream,
    v5: bool,
    input: Vec<u8>,
    pub(crate) inbox: VecDeque<Message>,
    last_id: u16,
}

/// A packet from the broker other than a publication.
struct Answer {
    first: u8,
    body: Vec<u8>,
}

impl Answer {
    fn id(&self) -> Option<u16> {
        Some(u16::from_be_bytes([
            *self.body.first()?,
            *self.body.get(1)?,
        ]))
    }
}

impl Client {
    /// Connects; the second value says whether the broker had a session for the client.
    pub(crate) async fn connect(
        address: SocketAddr,
        hello: &Hello<'_>,
    ) -> Result<(Self, bool), Gone> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream,
            v5: hello.v5,
            input: Vec::new(),
            inbox: VecDeque::new(),
            last_id: 0,
        };
        client.send(&hello.bytes()).await?;
        let answer = client.answer(0x20, None).await?;
        match answer.body[..] {
            [present, 0, ..] => Ok((client, present == 1)),
            _ => Err(Gone(format!("CONNACK {:02x?}", answer.body))),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match tokio::time::timeout(DEADLINE, self.stream.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Gone("the broker takes no bytes".to_owned())),
        }
    }

    /// Reads the next packet; a publication goes to the inbox and is acknowledged. Cancel-safe.
    async fn step(&mut self) -> Result<Option<Answer>, Gone> {
        loop {
            if let Some((first, body)) = self.take_packet() {
                return self.take_in(first, body).await;
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await? {
                0 => return Err(Gone("the broker has closed the connection".to_owned())),
                count => self.input.extend(&bytes[..count]),
            }
        }
    }

    fn take_packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let (mut length, mut at) = (0usize, 1);
        loop {
            let byte = *self.input.get(at)?;
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = self.input.get(at..at + length)?.to_vec();
        let first = self.input[0];
        self.input.drain(..at + length);
        Some((first, body))
    }

    async fn take_in(&mut self, first: u8, body: Vec<u8>) -> Result<Option<Answer>, Gone> {
        match first >> 4 {
            3 => {
                let qos = (first >> 1) & 3;
                let (message, id) = parse(first, &body, self.v5)
                    .ok_or_else(|| Gone("a publication that is too short".to_owned()))?;
                self.inbox.push_back(message);
                let [high, low] = id.to_be_bytes();
                match qos {
                    0 => {}
                    1 => self.send(&[0x40, 2, high, low]).await?,
                    _ => self.send(&[0x50, 2, high, low]).await?,
                }
                Ok(None)
            }
            6 => {
                self.send(&[&[0x70, 2], &body[..2]].concat()).await?;
                Ok(None)
            }
            _ => Ok(Some(Answer { first, body })),
        }
    }

    /// Waits for an answer of this kind, for this packet id.
    async fn answer(&mut self, first: u8, id: Option<u16>) -> Result<Answer, Gone> {
        let waiting = async {
            loop {
                match self.step().await? {
                    Some(answer)
                        if answer.first == first && (id.is_none() || answer.id() == id) =>
                    {
                        return Ok(answer);
                    }
                    Some(answer) if answer.first == 0xe0 => {
                        return Err(Gone(format!("DISCONNECT {:02x?}", answer.body)));
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| Err(Gone(format!("no answer {first:#x} in {DEADLINE:?}"))))
    }

    fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// Publishes and waits for as many acknowledgements as the QoS has.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> Result<(), Gone> {
        let id = self.next_id();
        self.send(&publish_bytes(self.v5, topic, payload, qos, retain, id))
            .await?;
        match qos {
            0 => {}
            1 => drop(self.answer(0x40, Some(id)).await?),
            _ => {
                self.answer(0x50, Some(id)).await?;
                let [high, low] = id.to_be_bytes();
                self.send(&[0x62, 2, high, low]).await?;
                self.answer(0x70, Some(id)).await?;
            }
        }
        Ok(())
    }

    /// Subscribes; true if it was granted, with whatever QoS.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<bool, Gone> {
        let body = self.request(filter, Some(qos));
        let id = self.last_id;
        self.send(&packet(0x82, &body)).await?;
        let answer = self.answer(0x90, Some(id)).await?;
        Ok(answer.body.last().is_some_and(|&code| code < 0x80))
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Result<(), Gone> {
        let body = self.request(filter, None);
        let id = self.last_id;
        self.send(&packet(0xa2, &body)).await?;
        self.answer(0xb0, Some(id)).await?;
        Ok(())
    }

    fn request(&mut self, filter: &str, qos: Option<u8>) -> Vec<u8> {
        let mut body = self.next_id().to_be_bytes().to_vec();
        if self.v5 {
            body.push(0);
        }
        body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend(filter.as_bytes());
        body.extend(qos);
        body
    }

    /// Reads whatever comes in this time.
    pub(crate) async fn linger(&mut self, time: Duration) -> Result<(), Gone> {
        let reading = async {
            loop {
                if let Some(answer) = self.step().await?
                    && answer.first == 0xe0
                {
                    return Err(Gone(format!("DISCONNECT {:02x?}", answer.body)));
                }
            }
        };
        tokio::time::timeout(time, reading).await.unwrap_or(Ok(()))
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Result<Message, Gone> {
        let waiting = async {
            loop {
                if let Some(message) = self.inbox.pop_front() {
                    return Ok(message);
                }
                self.step().await?;
            }
        };
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| Err(Gone(format!("no message in {DEADLINE:?}"))))
    }

    /// Takes its leave, so that its will is not published.
    pub(crate) async fn leave(mut self) -> Result<(), Gone> {
        self.send(&[0xe0, 0]).await?;
        // The broker's end shows that it has read it.
        while self.step().await.is_ok() {}
        Ok(())
    }
}

fn parse(first: u8, body: &[u8], v5: bool) -> Option<(Message, u16)> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (topic, mut rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let mut id = 0;
    if (first >> 1) & 3 > 0 {
        let (bytes, after) = rest.split_first_chunk::<2>()?;
        (id, rest) = (u16::from_be_bytes(*bytes), after);
    }
    if v5 {
        // Nobody in the crowd sends properties, so that a length of one byte is all there is.
        let (&length, after) = rest.split_first()?;
        rest = after.get(usize::from(length)..)?;
    }
    let message = Message {
        topic: String::from_utf8(topic.to_vec()).ok()?,
        payload: rest.to_vec(),
        dup: first & 8 != 0,
    };
    Some((message, id))
}
