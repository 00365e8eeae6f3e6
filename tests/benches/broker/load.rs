//! The client: publishers and subscribers of one scenario in a single thread, which sleeps in `poll` when it has nothing to do.
//!
//! A fixed number of messages is on its way at any time, so that no broker has to hold more than that, and what it
//! delivers is what it can do. A message counts when it has reached a subscriber, in order.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::contestant::{Contestant, on_processor};
use crate::wire::{self, Incoming, PacketReader, Qos};

/// Bytes of a payload, the head included.
const PAYLOAD_BYTES: usize = 200;
/// A payload begins with the message's number and its publisher's.
const HEAD_BYTES: usize = 12;
/// Most messages in one write of one publisher.
const BURST: u64 = 64;
/// What has not come after such a time without any message is lost.
const STALL: Duration = Duration::from_secs(2);
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Before counting begins: connections, logs and allocators have got going.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) qos: Qos,
}

impl Scenario {
    pub(crate) const fn new(
        name: &'static str,
        publishers: usize,
        subscribers: usize,
        qos: Qos,
    ) -> Self {
        Self {
            name,
            publishers,
            subscribers,
            qos,
        }
    }
}

/// What came of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Messages delivered a second, copies counted.
    pub(crate) per_second: f64,
    /// Over the whole run, warm-up included.
    pub(crate) lost: u64,
    /// Copies that came twice or after a later one.
    pub(crate) disordered: u64,
    /// Processor time of the broker for a delivered message, in microseconds.
    pub(crate) broker_us: f64,
    /// Share of one processor that the client took.
    pub(crate) client_share: f64,
}

struct Publisher {
    stream: TcpStream,
    reader: PacketReader,
    pending: Vec<u8>,
    written: usize,
    sent: u64,
}

struct Subscriber {
    stream: TcpStream,
    reader: PacketReader,
    /// One more than the last number from each publisher.
    expected: Vec<u64>,
}

struct Client {
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    qos: Qos,
    topic: String,
    window: u64,
    sent: u64,
    acknowledged: u64,
    tally: Tally,
    /// Whose turn it is to publish.
    turn: usize,
}

#[derive(Default)]
struct Tally {
    received: u64,
    lost: u64,
    disordered: u64,
}

/// Loads a broker for `measured` after a warm-up.
pub(crate) fn run(
    contestant: &Contestant,
    scenario: &Scenario,
    window: u64,
    measured: Duration,
) -> anyhow::Result<Run> {
    let mut client = Client::connect(contestant, scenario, window)?;
    client.drive(Instant::now() + WARM_UP)?;
    let (before, broker, own) = (
        client.tally.received,
        contestant.cpu()?,
        on_processor(std::process::id())?,
    );
    let started = Instant::now();
    client.drive(started + measured)?;
    let elapsed = started.elapsed().as_secs_f64();
    let delivered = (client.tally.received - before) as f64;
    let broker = contestant.cpu()?.saturating_sub(broker).as_secs_f64();
    let own = on_processor(std::process::id())?
        .saturating_sub(own)
        .as_secs_f64();
    client.drain()?;
    Ok(Run {
        per_second: delivered / elapsed,
        lost: client.tally.lost,
        disordered: client.tally.disordered,
        broker_us: broker * 1e6 / delivered,
        client_share: own / elapsed,
    })
}

impl Client {
    fn connect(contestant: &Contestant, scenario: &Scenario, window: u64) -> anyhow::Result<Self> {
        let topic = "bench/load".to_owned();
        let open =
            |name: String, filter: Option<&str>| -> anyhow::Result<(TcpStream, PacketReader)> {
                let mut stream = wire::connect(contestant.address, &name)?;
                if let Some(filter) = filter {
                    wire::subscribe(&mut stream, filter, scenario.qos)?;
                }
                stream.set_nonblocking(true)?;
                let reader = PacketReader::new(stream.try_clone()?);
                Ok((stream, reader))
            };
        let mut subscribers = Vec::new();
        for number in 0..scenario.subscribers {
            let (stream, reader) = open(format!("subscriber-{number}"), Some(&topic))?;
            subscribers.push(Subscriber {
                stream,
                reader,
                expected: vec![0; scenario.publishers],
            });
        }
        let mut publishers = Vec::new();
        for number in 0..scenario.publishers {
            let (stream, reader) = open(format!("publisher-{number}"), None)?;
            publishers.push(Publisher {
                stream,
                reader,
                pending: Vec::new(),
                written: 0,
                sent: 0,
            });
        }
        Ok(Self {
            publishers,
            subscribers,
            qos: scenario.qos,
            topic,
            window,
            sent: 0,
            acknowledged: 0,
            tally: Tally::default(),
            turn: 0,
        })
    }

    /// Publishes and receives until `end`.
    fn drive(&mut self, end: Instant) -> anyhow::Result<()> {
        let mut progress = (0, Instant::now());
        while Instant::now() < end {
            self.publish()?;
            self.exchange()?;
            self.give_up_on_the_lost(&mut progress);
        }
        Ok(())
    }

    /// Receives what is still on its way.
    fn drain(&mut self) -> anyhow::Result<()> {
        let mut progress = (0, Instant::now());
        while self.on_the_way() > 0 {
            self.exchange()?;
            self.give_up_on_the_lost(&mut progress);
        }
        Ok(())
    }

    /// Messages that some subscriber has not got, or that the broker has not acknowledged.
    fn on_the_way(&self) -> u64 {
        let subscribers = self.subscribers.len() as u64;
        let settled = self.tally.received + self.tally.lost;
        let undelivered = (self.sent * subscribers)
            .saturating_sub(settled)
            .div_ceil(subscribers);
        match self.qos {
            Qos::AtMostOnce => undelivered,
            Qos::AtLeastOnce => undelivered.max(self.sent - self.acknowledged),
        }
    }

    fn give_up_on_the_lost(&mut self, progress: &mut (u64, Instant)) {
        if self.tally.received != progress.0 {
            *progress = (self.tally.received, Instant::now());
        } else if progress.1.elapsed() > STALL {
            let subscribers = self.subscribers.len() as u64;
            let missing =
                (self.sent * subscribers).saturating_sub(self.tally.received + self.tally.lost);
            self.tally.lost += missing;
            self.acknowledged = self.sent;
            for subscriber in &mut self.subscribers {
                for (expected, publisher) in subscriber.expected.iter_mut().zip(&self.publishers) {
                    *expected = publisher.sent;
                }
            }
            *progress = (self.tally.received, Instant::now());
        }
    }

    /// Fills the window, the publishers in turn.
    fn publish(&mut self) -> anyhow::Result<()> {
        let mut room = self.window.saturating_sub(self.on_the_way());
        let burst = BURST.min((self.window / self.publishers.len() as u64).max(1));
        let mut passed = 0;
        while room >= burst && passed < self.publishers.len() {
            let number = self.turn;
            self.turn = (self.turn + 1) % self.publishers.len();
            let publisher = &mut self.publishers[number];
            if !publisher.pending.is_empty() {
                passed += 1;
                continue;
            }
            for _ in 0..burst {
                publisher.put(number, &self.topic, self.qos);
            }
            self.sent += burst;
            room -= burst;
            publisher.write()?;
        }
        Ok(())
    }

    /// Waits for the sockets and serves those that are ready.
    fn exchange(&mut self) -> anyhow::Result<()> {
        let publishers = self.publishers.iter().map(|publisher| {
            let writing = if publisher.pending.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            PollFd::new(&publisher.stream, PollFlags::IN | writing)
        });
        let subscribers = self
            .subscribers
            .iter()
            .map(|subscriber| PollFd::new(&subscriber.stream, PollFlags::IN));
        let mut sockets: Vec<PollFd<'_>> = publishers.chain(subscribers).collect();
        match poll(&mut sockets, Some(&POLL)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for sockets"),
        }
        let ready: Vec<PollFlags> = sockets.iter().map(PollFd::revents).collect();
        let (to_publishers, to_subscribers) = ready.split_at(self.publishers.len());
        for (publisher, flags) in self.publishers.iter_mut().zip(to_publishers) {
            if flags.contains(PollFlags::OUT) {
                publisher.write()?;
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                let acknowledged = &mut self.acknowledged;
                let open = publisher.reader.read(|packet| {
                    if matches!(packet, Incoming::PubAck) {
                        *acknowledged += 1;
                    }
                })?;
                ensure!(open, "the broker has closed a publisher's connection");
            }
        }
        for (subscriber, flags) in self.subscribers.iter_mut().zip(to_subscribers) {
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                subscriber.read(&mut self.tally)?;
            }
        }
        Ok(())
    }
}

impl Publisher {
    fn put(&mut self, number: usize, topic: &str, qos: Qos) {
        let mut payload = [b'.'; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&self.sent.to_le_bytes());
        payload[8..HEAD_BYTES].copy_from_slice(&u32::try_from(number).unwrap_or(0).to_le_bytes());
        // Fewer are on their way than there are packet ids.
        let packet_id = u16::try_from(self.sent % 65_535).unwrap_or(0) + 1;
        wire::put_publish(
            &mut self.pending,
            topic.as_bytes(),
            qos,
            packet_id,
            &payload,
        );
        self.sent += 1;
    }

    /// Writes as much as the socket takes.
    fn write(&mut self) -> anyhow::Result<()> {
        while self.written < self.pending.len() {
            match self.stream.write(&self.pending[self.written..]) {
                Ok(0) => bail!("the broker takes no more bytes"),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("publish"),
            }
        }
        self.pending.clear();
        self.written = 0;
        Ok(())
    }
}

impl Subscriber {
    /// Reads once, counts, and acknowledges all at once.
    fn read(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        let Self {
            stream,
            reader,
            expected,
        } = self;
        let mut acks = Vec::new();
        let mut foreign = false;
        let open = reader.read(|packet| {
            let Incoming::Publish { packet_id, payload } = packet else {
                return;
            };
            if let Some(id) = packet_id {
                wire::put_puback(&mut acks, id);
            }
            let Some((sequence, publisher)) = head(payload) else {
                foreign = true;
                return;
            };
            let Some(expected) = expected.get_mut(publisher) else {
                foreign = true;
                return;
            };
            match sequence.checked_sub(*expected) {
                Some(gap) => {
                    tally.lost += gap;
                    tally.received += 1;
                    *expected = sequence + 1;
                }
                None => tally.disordered += 1,
            }
        })?;
        ensure!(open, "the broker has closed a subscriber's connection");
        ensure!(!foreign, "a message that nobody here has sent");
        // Four bytes a message: the socket has room for far more than the window.
        if !acks.is_empty() {
            stream.write_all(&acks).context("acknowledge")?;
        }
        Ok(())
    }
}

/// Number and publisher of a message of the right length.
fn head(payload: &[u8]) -> Option<(u64, usize)> {
    if payload.len() != PAYLOAD_BYTES {
        return None;
    }
    let (sequence, rest) = payload.split_first_chunk::<8>()?;
    let (publisher, _) = rest.split_first_chunk::<4>()?;
    let publisher = usize::try_from(u32::from_le_bytes(*publisher)).ok()?;
    Some((u64::from_le_bytes(*sequence), publisher))
}
