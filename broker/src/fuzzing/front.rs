//! A whole broker, and clients that do what a script says: its bytes decide which connection sends what, in any order.

use crate::{
    broker::Broker,
    session::{self, Arrival},
    transport::Places,
};
use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    net::TcpStream,
    task::JoinHandle,
};

/// How long any step may take: what takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(30);

/// Connections that one script has.
const CONNECTIONS: usize = 4;

/// Bytes under way in each direction of a connection inside the process.
const DUPLEX_BYTES: usize = 16 * 1024;

/// The way in.
#[derive(Debug, Clone, Copy)]
pub enum Door {
    /// A stream inside the process.
    Inside,
    /// The listener.
    Tcp(SocketAddr),
}

/// Makes the names of fresh clients differ: several may look at the same time, and must not meet.
static LOOKS: AtomicU16 = AtomicU16::new(0);

/// Opens a connection that no listener sees. Must be called on a tokio runtime.
pub fn connection(broker: &Broker) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    let (reader, writer) = tokio::io::split(theirs);
    let hub = broker.hub();
    // Places of its own: no listener is there to share them.
    let places =
        Arc::new(Places::new(&hub.limits)).enter(Ipv4Addr::LOCALHOST.into(), Instant::now());
    let (place, address_place) = places.unwrap_or_else(|refused| unreachable!("{refused:?}"));
    let arrival = Arrival {
        reader: Box::new(reader),
        writer: Box::new(writer),
        certificate_name: None,
        place,
        address_place,
    };
    hub.tasks.spawn(session::serve(arrival, Arc::clone(hub)));
    ours
}

/// A script in the making; [`play`] says what its bytes mean.
#[derive(Debug, Clone, Default)]
pub struct Script(Vec<u8>);

impl Script {
    /// Adds a step of this kind for this connection, with its one byte of detail.
    #[must_use]
    pub fn step(mut self, kind: u8, connection: u8, detail: u8) -> Self {
        self.0.extend([kind << 2 | (connection & 3), detail]);
        self
    }

    /// Adds bytes to send as they are, up to 65,535.
    #[must_use]
    pub fn send(mut self, connection: u8, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.0.push(connection & 3);
        self.0.extend(length.to_be_bytes());
        self.0.extend(&bytes[..usize::from(length)]);
        self
    }

    /// The script's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Boxed = Box<dyn Stream>;

/// One connection of a script. What the broker sends is read and dropped all the time, as a live client would.
struct Client {
    writer: WriteHalf<Boxed>,
    reading: JoinHandle<()>,
}

async fn open(broker: &Broker, door: Door) -> io::Result<Boxed> {
    Ok(match door {
        Door::Inside => Box::new(connection(broker)),
        Door::Tcp(address) => Box::new(TcpStream::connect(address).await?),
    })
}

async fn read_away(mut reader: ReadHalf<Boxed>) {
    let mut buffer = [0; 1024];
    while matches!(reader.read(&mut buffer).await, Ok(count) if count > 0) {}
}

impl Client {
    async fn open(broker: &Broker, door: Door) -> Self {
        let stream = in_time("opening a connection", open(broker, door)).await;
        let stream = stream.unwrap_or_else(|error| panic!("no connection: {error}"));
        let (reader, writer) = tokio::io::split(stream);
        let reading = tokio::spawn(read_away(reader));
        Self { writer, reading }
    }

    /// Sends; a connection that the broker has closed takes no more, which is well.
    async fn send(&mut self, bytes: &[u8]) {
        let _closed: io::Result<()> = in_time("sending", self.writer.write_all(bytes)).await;
    }

    /// Ends our side and waits for the broker to end its own.
    async fn end(mut self) {
        let _closed: io::Result<()> = in_time("closing", self.writer.shutdown()).await;
        let read = in_time("the broker's end of a connection", self.reading).await;
        assert!(read.is_ok(), "the reader of a client has failed");
    }
}

/// Plays a script of up to four connections, to the end of each.
///
/// A step begins with a byte: the lower two bits name the connection, which is opened at need; the rest is the kind,
/// modulo 8. Kind 0 sends bytes: two for their number, then the bytes. All others have one byte of detail:
/// 1 connects (bit 0: MQTT 5; bit 1: keep the session; bit 2: a last will; the rest: one of few client ids),
/// 2 subscribes and 3 publishes (bit 0: MQTT 5; bits 1 and 2: QoS; bit 3: retain; the rest: which topic),
/// 4 acknowledges a packet id (bits 0 and 1: PUBACK, PUBREC, PUBREL, PUBCOMP; the rest: the id), 5 pings,
/// 6 closes the connection, 7 does nothing.
///
/// # Panics
/// If a step takes longer than 30 seconds, or a connection's task panics.
pub async fn play(broker: &Broker, door: Door, script: &[u8]) {
    let mut clients: [Option<Client>; CONNECTIONS] = [const { None }; CONNECTIONS];
    let mut rest = script;
    while let Some((step, tail)) = next_step(rest) {
        rest = tail;
        let place = &mut clients[usize::from(step.connection)];
        if let Step {
            what: What::Close, ..
        } = step
        {
            if let Some(client) = place.take() {
                client.end().await;
            }
            continue;
        }
        let client = match place {
            Some(client) => client,
            None => place.insert(Client::open(broker, door).await),
        };
        match step.what {
            What::Bytes(bytes) => client.send(bytes).await,
            What::Packet(packet) => client.send(&packet).await,
            What::Close => {}
        }
    }
    for client in clients.into_iter().flatten() {
        client.end().await;
    }
    assert_eq!(broker.stats().panics, 0, "a connection's task has panicked");
}

struct Step<'a> {
    connection: u8,
    what: What<'a>,
}

enum What<'a> {
    Bytes(&'a [u8]),
    Packet(Vec<u8>),
    Close,
}

fn next_step(script: &[u8]) -> Option<(Step<'_>, &[u8])> {
    let (&first, rest) = script.split_first()?;
    let connection = first & 3;
    let kind = (first >> 2) & 7;
    if kind == 0 {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        return Some((
            Step {
                connection,
                what: What::Bytes(bytes),
            },
            rest,
        ));
    }
    let (&detail, rest) = rest.split_first()?;
    let what = match kind {
        1 => What::Packet(connect(detail)),
        2 => What::Packet(subscribe(detail)),
        3 => What::Packet(publish(detail)),
        4 => What::Packet(vec![
            [0x40, 0x50, 0x62, 0x70][usize::from(detail & 3)],
            2,
            0,
            1 + (detail >> 2),
        ]),
        5 => What::Packet(vec![0xc0, 0]),
        6 => What::Close,
        _ => What::Packet(Vec::new()),
    };
    Some((Step { connection, what }, rest))
}

fn connect(detail: u8) -> Vec<u8> {
    let (v5, keep, will) = (detail & 1 != 0, detail & 2 != 0, detail & 4 != 0);
    let mut body = b"\0\x04MQTT".to_vec();
    body.push(if v5 { 5 } else { 4 });
    body.push(u8::from(!keep) << 1 | u8::from(will) << 2);
    body.extend([0, 30]);
    if v5 {
        body.extend([5, 17, 0, 0, 0, if keep { 60 } else { 0 }]);
    }
    body.extend([0, 2, b'f', b'0' + (detail >> 3) % 8]);
    if will {
        if v5 {
            body.push(0);
        }
        body.extend(b"\0\x03f/w\0\x04will");
    }
    packet(0x10, &body)
}

fn topic(detail: u8) -> [u8; 5] {
    [0, 3, b'f', b'/', b'0' + (detail >> 4) % 8]
}

fn subscribe(detail: u8) -> Vec<u8> {
    const FILTERS: [&str; 4] = ["f/#", "f/+", "$share/g/f/#", "f/0"];
    let filter = FILTERS[usize::from((detail >> 4) % 4)];
    let mut body = vec![0, 7];
    if detail & 1 != 0 {
        body.push(0);
    }
    body.extend([0, u8::try_from(filter.len()).unwrap_or(0)]);
    body.extend(filter.as_bytes());
    body.push(((detail >> 1) & 3).min(2));
    packet(0x82, &body)
}

fn publish(detail: u8) -> Vec<u8> {
    let qos = ((detail >> 1) & 3).min(2);
    let mut body = topic(detail).to_vec();
    if qos > 0 {
        body.extend([0, 1 + (detail >> 6)]);
    }
    if detail & 1 != 0 {
        body.push(0);
    }
    body.extend(b"payload");
    packet(0x30 | qos << 1 | u8::from(detail & 8 != 0), &body)
}

/// Packets here are shorter than 128 bytes.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, u8::try_from(body.len()).unwrap_or(127)];
    bytes.extend(body);
    bytes
}

/// Whether a fresh client is served: it connects, subscribes, and gets at QoS 1 what it publishes itself.
///
/// # Errors
/// What the broker did not do.
///
/// # Panics
/// If a step takes longer than 30 seconds.
pub async fn serves(broker: &Broker, door: Door) -> Result<(), String> {
    let mut stream = open(broker, door)
        .await
        .map_err(|error| error.to_string())?;
    let name = format!("fresh{:04x}", LOOKS.fetch_add(1, Ordering::Relaxed));
    let name = [b"\0\x09", name.as_bytes()].concat();
    let exchange = async {
        let connect = [b"\0\x04MQTT\x04\x02\0\x1e", &name[..]].concat();
        let subscribe = [b"\0\x07", &name[..], b"\x01"].concat();
        let publish = [&name[..], b"\0\x09once"].concat();
        for (first, body) in [(0x10, connect), (0x82, subscribe)] {
            stream.write_all(&packet(first, &body)).await?;
        }
        let mut answers = [0; 9];
        stream.read_exact(&mut answers).await?;
        stream.write_all(&packet(0x32, &publish)).await?;
        // PUBACK and the message come in either order.
        let mut echo = [0; 23];
        stream.read_exact(&mut echo).await?;
        stream.write_all(&[0xe0, 0]).await?;
        Ok::<_, io::Error>((answers, echo))
    };
    let (answers, echo) = in_time("a fresh client", exchange)
        .await
        .map_err(|error| error.to_string())?;
    if answers != [0x20, 2, 0, 0, 0x90, 3, 0, 7, 1] {
        return Err(format!("CONNACK and SUBACK are {answers:02x?}"));
    }
    if !echo.windows(4).any(|bytes| bytes == b"once") {
        return Err(format!("PUBACK and message are {echo:02x?}"));
    }
    Ok(())
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}
