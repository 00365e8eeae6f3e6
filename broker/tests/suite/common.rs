//! A broker to test and a client that sends exactly the bytes it is told to.
use lamppost_broker::{Broker, Config, Limits, Stats};
use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn open_config() -> Config {
    Config {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        allow_anonymous: true,
        ..Config::default()
    }
}

pub(crate) fn with_limits(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = open_config();
    change(&mut config.limits);
    config
}

pub(crate) async fn start(config: Config) -> (Broker, SocketAddr) {
    let broker = Broker::start(config).await.unwrap();
    let address = broker.local_addr().unwrap();
    (broker, address)
}

/// Waits until the counters satisfy `condition`.
pub(crate) async fn eventually(broker: &Broker, what: &str, condition: impl Fn(&Stats) -> bool) {
    let since = Instant::now();
    while !condition(&broker.stats()) {
        assert!(since.elapsed() < DEADLINE, "{what}: {:?}", broker.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took too long"))
}

/// A packet from the broker: its first byte and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

/// A publication from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: u16,
    pub(crate) properties: Vec<u8>,
}

/// What a raw client talks through.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

pub(crate) struct Raw {
    stream: Box<dyn ByteStream>,
    pub(crate) v5: bool,
}

/// What goes into a CONNECT.
#[derive(Clone, Default)]
pub(crate) struct Hello<'a> {
    pub(crate) v5: bool,
    pub(crate) client_id: &'a str,
    pub(crate) keep_alive_s: u16,
    pub(crate) unclean: bool,
    pub(crate) login: Option<(&'a str, &'a str)>,
    /// Topic, payload, QoS, retain.
    pub(crate) will: Option<(&'a str, &'a str, u8, bool)>,
    pub(crate) will_properties: &'a [u8],
    /// MQTT 5 properties as bytes.
    pub(crate) properties: &'a [u8],
}

impl Hello<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut flags = u8::from(!self.unclean) << 1;
        let mut tail = Vec::new();
        if let Some((topic, payload, qos, retain)) = self.will {
            flags |= 0b100 | qos << 3 | u8::from(retain) << 5;
            if self.v5 {
                tail.push(u8::try_from(self.will_properties.len()).unwrap());
                tail.extend(self.will_properties);
            }
            string(&mut tail, topic);
            string(&mut tail, payload);
        }
        if let Some((user, password)) = self.login {
            flags |= 0b1100_0000;
            string(&mut tail, user);
            string(&mut tail, password);
        }
        let mut body = Vec::new();
        string(&mut body, "MQTT");
        body.extend([if self.v5 { 5 } else { 4 }, flags]);
        body.extend(self.keep_alive_s.to_be_bytes());
        if self.v5 {
            body.push(u8::try_from(self.properties.len()).unwrap());
            body.extend(self.properties);
        }
        string(&mut body, self.client_id);
        body.extend(tail);
        packet(0x10, &body)
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest % 128).unwrap();
        rest /= 128;
        bytes.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

pub(crate) fn publish_bytes(
    v5: bool,
    topic: &str,
    payload: &[u8],
    qos: u8,
    retain: bool,
    id: u16,
) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if v5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | qos << 1 | u8::from(retain), &body)
}

/// A publication of MQTT 5 with properties.
pub(crate) fn publish_with(
    topic: &str,
    properties: &[u8],
    payload: &[u8],
    qos: u8,
    id: u16,
) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend(properties);
    body.extend(payload);
    packet(0x30 | qos << 1, &body)
}

/// The property that asks for a session to be kept for this long.
pub(crate) fn expiry(seconds: u32) -> Vec<u8> {
    [&[17], &seconds.to_be_bytes()[..]].concat()
}

/// A number among the properties of a CONNACK of MQTT 5.
pub(crate) fn told(connack: &[u8], wanted: u8) -> Option<u32> {
    let mut rest = &connack[3..];
    while let [id, tail @ ..] = rest {
        let width = match id {
            17 | 39 => 4,
            19 | 33 | 34 => 2,
            18 => 2 + usize::from(u16::from_be_bytes([tail[0], tail[1]])),
            other => panic!("property {other} in a CONNACK"),
        };
        if *id == wanted {
            let digits = tail[..width].iter();
            return Some(digits.fold(0, |number, digit| number << 8 | u32::from(*digit)));
        }
        rest = &tail[width..];
    }
    None
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr, v5: bool) -> Self {
        let stream = in_time("connecting", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, v5)
    }

    /// A client over a stream that is there already.
    pub(crate) fn over(stream: impl ByteStream + 'static, v5: bool) -> Self {
        Self {
            stream: Box::new(stream),
            v5,
        }
    }

    /// Connects and returns the body of the CONNACK.
    pub(crate) async fn try_connect(address: SocketAddr, hello: &Hello<'_>) -> (Self, Vec<u8>) {
        Self::open(address, hello.v5).await.greet(hello).await
    }

    /// Sends CONNECT and returns the body of the CONNACK.
    pub(crate) async fn greet(self, hello: &Hello<'_>) -> (Self, Vec<u8>) {
        let mut client = self;
        client.send(&hello.bytes()).await;
        let answer = client.read().await.expect("a CONNACK");
        assert_eq!(answer.first, 0x20);
        (client, answer.body)
    }

    pub(crate) async fn connect(address: SocketAddr, hello: &Hello<'_>) -> Self {
        let (client, answer) = Self::try_connect(address, hello).await;
        assert_eq!(answer[..2], [0, 0], "CONNACK");
        client
    }

    /// Connects to a session that may exist.
    pub(crate) async fn connect_again(address: SocketAddr, hello: &Hello<'_>) -> Self {
        let (client, answer) = Self::try_connect(address, hello).await;
        assert_eq!(answer[1], 0, "CONNACK");
        client
    }

    /// Connects with a name and nothing else.
    pub(crate) async fn named(address: SocketAddr, v5: bool, client_id: &str) -> Self {
        Self::connect(
            address,
            &Hello {
                v5,
                client_id,
                ..Hello::default()
            },
        )
        .await
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        in_time("sending", self.stream.write_all(bytes))
            .await
            .unwrap();
    }

    /// Sends what may fail because the broker has closed already.
    pub(crate) async fn send_lossy(&mut self, bytes: &[u8]) {
        let _closed: Result<(), _> = in_time("sending", self.stream.write_all(bytes)).await;
    }

    /// The next packet; `None` at the end of the connection.
    pub(crate) async fn read(&mut self) -> Option<Packet> {
        in_time("reading", async {
            let first = self.stream.read_u8().await.ok()?;
            let (mut length, mut shift) = (0usize, 0);
            loop {
                let byte = self.stream.read_u8().await.ok()?;
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Packet { first, body })
        })
        .await
    }

    /// Reads a publication and acknowledges it if it asks for that. A PUBREL before it is answered.
    pub(crate) async fn receive(&mut self) -> Received {
        let received = self.receive_only().await;
        match received.qos {
            0 => {}
            1 => self.ack(0x40, received.packet_id).await,
            _ => self.ack(0x50, received.packet_id).await,
        }
        received
    }

    /// Sends PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70).
    pub(crate) async fn ack(&mut self, first: u8, id: u16) {
        self.send(&packet(first, &id.to_be_bytes())).await;
    }

    /// Reads a packet that must be this one about this id; returns its reason code.
    pub(crate) async fn expect_ack(&mut self, first: u8, id: u16) -> u8 {
        let answer = self.read().await.expect("an acknowledgement, not the end");
        assert_eq!(
            (answer.first, &answer.body[..2]),
            (first, &id.to_be_bytes()[..])
        );
        answer.body.get(2).copied().unwrap_or(0)
    }

    /// Reads a publication and does not acknowledge it. A PUBREL before it is answered.
    pub(crate) async fn receive_only(&mut self) -> Received {
        let packet = loop {
            let packet = self.read().await.expect("a publication, not the end");
            if packet.first != 0x62 {
                break packet;
            }
            self.send(&[&[0x70, 2], &packet.body[..2]].concat()).await;
        };
        assert_eq!(packet.first >> 4, 3, "{packet:?}");
        let qos = (packet.first >> 1) & 3;
        let mut body = &packet.body[..];
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
        body = &body[2 + length..];
        let mut packet_id = 0;
        if qos > 0 {
            packet_id = u16::from_be_bytes([body[0], body[1]]);
            body = &body[2..];
        }
        let mut properties = Vec::new();
        if self.v5 {
            let length = usize::from(body[0]);
            assert!(length < 128, "short properties only");
            properties = body[1..=length].to_vec();
            body = &body[1 + length..];
        }
        Received {
            topic,
            payload: body.to_vec(),
            qos,
            retain: packet.first & 1 != 0,
            dup: packet.first & 8 != 0,
            packet_id,
            properties,
        }
    }

    /// Subscribes and returns the codes of the SUBACK, which must be the next packet.
    pub(crate) async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        let mut body = vec![0, 9];
        if self.v5 {
            body.push(0);
        }
        for (filter, options) in filters {
            string(&mut body, filter);
            body.push(*options);
        }
        self.send(&packet(0x82, &body)).await;
        let answer = self.read().await.expect("a SUBACK");
        assert_eq!((answer.first, &answer.body[..2]), (0x90, &[0, 9][..]));
        answer.body[if self.v5 { 3 } else { 2 }..].to_vec()
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) {
        let bytes = publish_bytes(self.v5, topic, payload, qos, retain, 77);
        self.send(&bytes).await;
    }

    /// Publishes at QoS 1 and returns the reason code of the PUBACK.
    pub(crate) async fn publish_acked(&mut self, topic: &str, payload: &[u8], retain: bool) -> u8 {
        self.publish(topic, payload, 1, retain).await;
        let answer = self.read().await.expect("a PUBACK");
        assert_eq!((answer.first, &answer.body[..2]), (0x40, &[0, 77][..]));
        answer.body.get(2).copied().unwrap_or(0)
    }

    /// Makes sure that all before it was dealt with: PINGREQ, and PINGRESP as the next packet.
    pub(crate) async fn ping(&mut self) {
        self.send(&[0xc0, 0]).await;
        assert_eq!(
            self.read().await,
            Some(Packet {
                first: 0xd0,
                body: vec![]
            })
        );
    }

    /// Reads to the end and returns the reason code of an MQTT 5 DISCONNECT, if there was one.
    pub(crate) async fn closed(&mut self) -> Option<u8> {
        let mut code = None;
        while let Some(packet) = self.read().await {
            if packet.first == 0xe0 {
                code = packet.body.first().copied();
            }
        }
        code
    }
}
