//! One contestant under load: a connection that sends readings and another one that receives what comes of them.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::reading;
use crate::wire::{self, Incoming, PacketReader, Qos};

/// Most readings on their way at any time; send times are kept for this many.
pub(crate) const OUTSTANDING_MAX: u64 = 1 << 15;
/// A contestant that predicts nothing for so long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most readings in one write.
const BURST: u64 = 64;
/// A sleeping thread wakes up to so much too late; the rest is spun away.
const SPIN: Duration = Duration::from_micros(120);
/// From the call to the first reading of a latency run.
const LEAD: Duration = Duration::from_millis(10);
const NANOS_A_SECOND: u64 = 1_000_000_000;
/// Readings that fill the model's window.
pub(crate) const WINDOW: u64 = 24;

/// Where readings go and predictions come from.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) addr: SocketAddr,
    pub(crate) readings: String,
    pub(crate) predictions: String,
}

/// What sender and receiver know of each other.
#[derive(Debug)]
struct Track {
    started: Instant,
    /// Send time of reading `i` at `i % OUTSTANDING_MAX`, in nanoseconds from `started`.
    sent: Box<[AtomicU64]>,
    /// One more than the newest reading whose prediction came.
    settled: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
    disordered: AtomicU64,
    /// Latencies in nanoseconds, of readings from the given number on.
    latencies: Mutex<(u64, Vec<u64>)>,
    /// Waits for room.
    sender: Thread,
}

impl Track {
    fn now(&self) -> u64 {
        nanos(self.started.elapsed())
    }

    /// The receiver's: takes in the readings that one read brought.
    fn arrived(&self, indices: &[u64], now: u64) {
        let Some(&newest) = indices.last() else {
            return;
        };
        let mut expected = self.settled.load(Ordering::Acquire);
        let mut latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for &index in indices {
            match index.checked_sub(expected) {
                Some(gap) => {
                    // What comes before the first full window is no loss.
                    if expected > 0 && gap > 0 {
                        self.lost.fetch_add(gap, Ordering::Relaxed);
                    }
                    expected = index + 1;
                }
                None => {
                    self.disordered.fetch_add(1, Ordering::Relaxed);
                }
            }
            if index >= latencies.0 {
                latencies
                    .1
                    .push(now.saturating_sub(self.sent[slot(index)].load(Ordering::Acquire)));
            }
        }
        drop(latencies);
        debug_assert!(newest < expected, "the newest is settled");
        self.delivered
            .fetch_add(indices.len() as u64, Ordering::Relaxed);
        self.settled.store(expected, Ordering::Release);
        self.sender.unpark();
    }
}

const fn slot(index: u64) -> usize {
    (index % OUTSTANDING_MAX) as usize
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a throughput run saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// Predictions received a second.
    pub(crate) rate: f64,
    /// Readings without a prediction, or a prediction twice or out of order.
    pub(crate) faults: u64,
}

/// What a latency run saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    pub(crate) faults: u64,
}

/// A contestant under load.
#[derive(Debug)]
pub(crate) struct Session {
    track: Arc<Track>,
    stream: TcpStream,
    receiving: TcpStream,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    topic: Vec<u8>,
    qos: Qos,
    next: u64,
    out: Vec<u8>,
    json: Vec<u8>,
}

impl Session {
    /// Connects both sides and subscribes.
    pub(crate) fn open(route: &Route, qos: Qos) -> anyhow::Result<Self> {
        let mut receiving = wire::connect(route.addr, "bench-receiver")?;
        wire::subscribe(&mut receiving, &route.predictions, qos)?;
        let stream = wire::connect(route.addr, "bench-sensor")?;
        let track = Arc::new(Track {
            started: Instant::now(),
            sent: (0..OUTSTANDING_MAX).map(|_| AtomicU64::new(0)).collect(),
            settled: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            disordered: AtomicU64::new(0),
            latencies: Mutex::new((u64::MAX, Vec::new())),
            sender: thread::current(),
        });
        let acknowledged = PacketReader::new(stream.try_clone()?);
        let threads = vec![
            thread::spawn({
                let (stream, track) = (receiving.try_clone()?, Arc::clone(&track));
                move || receive(stream, &track)
            }),
            thread::spawn(move || drain(acknowledged)),
        ];
        let topic = route.readings.clone().into_bytes();
        Ok(Self {
            track,
            stream,
            receiving,
            threads,
            topic,
            qos,
            next: 0,
            out: Vec::new(),
            json: Vec::new(),
        })
    }

    /// Sends windows of readings until the first prediction comes.
    pub(crate) fn prime(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while self.track.settled.load(Ordering::Acquire) == 0 {
            ensure!(
                Instant::now() < deadline,
                "no prediction within {patience:?}"
            );
            self.push(WINDOW, self.track.now())?;
            thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Keeps `outstanding` readings on their way and counts the predictions of `measured`, after `warm_up`.
    ///
    /// `around` is called at the beginning and at the end of the measured time.
    pub(crate) fn throughput(
        &mut self,
        outstanding: u64,
        warm_up: Duration,
        measured: Duration,
        mut around: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Throughput> {
        ensure!(
            outstanding <= OUTSTANDING_MAX,
            "{outstanding} outstanding readings, {OUTSTANDING_MAX} at most"
        );
        let faults_before = self.faults();
        self.flood(outstanding, warm_up)?;
        let (begin, before) = (Instant::now(), self.track.delivered.load(Ordering::Relaxed));
        around()?;
        self.flood(outstanding, measured)?;
        let (elapsed, after) = (
            begin.elapsed(),
            self.track.delivered.load(Ordering::Relaxed),
        );
        around()?;
        self.settle()?;
        Ok(Throughput {
            rate: (after - before) as f64 / elapsed.as_secs_f64(),
            faults: self.faults() - faults_before,
        })
    }

    fn flood(&mut self, outstanding: u64, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        let mut progress = (0, Instant::now());
        while Instant::now() < end {
            let settled = self.track.settled.load(Ordering::Acquire);
            if settled != progress.0 {
                progress = (settled, Instant::now());
            }
            ensure!(
                progress.1.elapsed() < STALL_TIMEOUT,
                "no prediction for {STALL_TIMEOUT:?} after reading {settled}"
            );
            let room = (settled + outstanding).saturating_sub(self.next);
            // Waking for every single prediction would make the generator the bottleneck.
            if room < BURST.min(outstanding / 4) {
                thread::park_timeout(Duration::from_millis(1));
            } else {
                self.push(room.min(BURST), self.track.now())?;
            }
        }
        Ok(())
    }

    /// Sends `rate` readings a second, however late the predictions are, and measures from the moment at which each was
    /// due to be sent.
    pub(crate) fn latency(
        &mut self,
        rate: u32,
        warm_up: Duration,
        measured: Duration,
    ) -> anyhow::Result<Latency> {
        let faults_before = self.faults();
        let count = |time: Duration| u64::from(rate) * nanos(time) / NANOS_A_SECOND;
        let (warm, total) = (count(warm_up), count(warm_up + measured));
        let first = self.next;
        let (begin, begin_ns) = (Instant::now() + LEAD, self.track.now() + nanos(LEAD));
        *self.latencies() = (first + warm, Vec::new());
        for nth in 0..total {
            let due = Duration::from_nanos(nth * NANOS_A_SECOND / u64::from(rate));
            wait_until(begin + due);
            let settled = self.track.settled.load(Ordering::Acquire);
            if self.next - settled.min(self.next) >= OUTSTANDING_MAX {
                bail!("does not keep up with {rate} readings/s");
            }
            self.push(1, begin_ns + nanos(due))?;
        }
        self.settle()?;
        let (_, mut latencies) = std::mem::replace(&mut *self.latencies(), (u64::MAX, Vec::new()));
        ensure!(
            latencies.len() as u64 * 10 > (total - warm) * 9,
            "more than a tenth of the predictions is missing"
        );
        latencies.sort_unstable();
        // The nearest rank.
        let at = |percent: usize| {
            let rank = (latencies.len() * percent).div_ceil(100);
            Duration::from_nanos(latencies[rank.max(1) - 1])
        };
        Ok(Latency {
            p50: at(50),
            p99: at(99),
            max: at(100),
            faults: self.faults() - faults_before,
        })
    }

    /// Waits until the newest reading's prediction is here.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STALL_TIMEOUT;
        while self.track.settled.load(Ordering::Acquire) < self.next {
            ensure!(
                Instant::now() < deadline,
                "the newest readings have no prediction after {STALL_TIMEOUT:?}"
            );
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    fn push(&mut self, count: u64, at: u64) -> anyhow::Result<()> {
        ensure!(
            self.next + count <= reading::READINGS_MAX,
            "no event times left after {} readings",
            self.next
        );
        self.out.clear();
        for _ in 0..count {
            self.json.clear();
            reading::put_json(&mut self.json, self.next);
            // Packet ids go round; far fewer than all are ever in flight.
            let packet_id = u16::try_from(self.next % 65_535 + 1).unwrap_or(1);
            wire::put_publish(&mut self.out, &self.topic, self.qos, packet_id, &self.json);
            self.track.sent[slot(self.next)].store(at, Ordering::Release);
            self.next += 1;
        }
        self.stream.write_all(&self.out).context("send readings")
    }

    fn faults(&self) -> u64 {
        self.track.lost.load(Ordering::Relaxed) + self.track.disordered.load(Ordering::Relaxed)
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, (u64, Vec<u64>)> {
        self.track
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for stream in [&self.stream, &self.receiving] {
            // The contestant may have closed it first.
            stream.shutdown(Shutdown::Both).ok();
        }
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("receiver: {error:#}");
            }
        }
    }
}

fn receive(mut stream: TcpStream, track: &Track) -> anyhow::Result<()> {
    let mut packets = PacketReader::new(stream.try_clone()?);
    let (mut indices, mut acks) = (Vec::new(), Vec::new());
    loop {
        indices.clear();
        acks.clear();
        let mut strangers = 0;
        let open = packets.read(|packet| {
            if let Incoming::Publish { packet_id, payload } = packet {
                match reading::index_of(payload) {
                    Some(index) => indices.push(index),
                    None => strangers += 1,
                }
                if let Some(id) = packet_id {
                    wire::put_puback(&mut acks, id);
                }
            }
        })?;
        if !open {
            return Ok(());
        }
        track.arrived(&indices, track.now());
        ensure!(
            strangers == 0,
            "{strangers} messages without an event time of ours"
        );
        if !acks.is_empty() {
            stream.write_all(&acks).context("acknowledge")?;
        }
    }
}

/// Takes the acknowledgements off the sender's connection.
fn drain(mut packets: PacketReader) -> anyhow::Result<()> {
    while packets.read(|_| ())? {}
    Ok(())
}

fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN {
            thread::sleep(left.saturating_sub(SPIN));
        } else {
            std::hint::spin_loop();
        }
    }
}
