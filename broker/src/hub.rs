//! What all connections and links of one broker share.

use crate::{
    auth::{Failures, Gate},
    bridge::Tally,
    config::{Config, Limits},
    message::Envelope,
    retained::{Kept, Now, Retained},
    router::Router,
    session::Clients,
    stats::{Counters, Stats},
    subscriptions::Subscriptions,
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) limits: Limits,
    /// Who may connect and do what; replaced as a whole when the configuration is read anew, which sessions watch.
    pub(crate) gate: watch::Sender<Arc<Gate>>,
    pub(crate) failures: Failures,
    pub(crate) router: Arc<Router>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) retained: Retained,
    pub(crate) counters: Counters,
    pub(crate) clients: Clients,
    pub(crate) waiting: Waiting,
    /// Links of this process in use.
    pub(crate) links: AtomicUsize,
    /// What each bridge counts; set once they are there.
    pub(crate) bridges: OnceLock<Vec<Arc<Tally>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Handle,
    started: Instant,
    started_ns: u128,
    origins: AtomicU32,
}

/// The messages that sessions hold for their clients: queued, or sent and not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) count: AtomicUsize,
    pub(crate) bytes: AtomicUsize,
}

impl Hub {
    pub(crate) fn new(config: &Config, gate: Gate, runtime: Handle) -> Self {
        let router = Router::obtain(&config.limits);
        Self {
            gate: watch::Sender::new(Arc::new(gate)),
            failures: Failures::new(&config.limits),
            subscriptions: Subscriptions::new(config.limits.filters_max, Arc::clone(&router)),
            router,
            retained: Retained::new(&config.limits, config.state_dir.is_some()),
            counters: Counters::default(),
            clients: Clients::new(config.limits.clients_max, config.limits.absent_sessions_max),
            waiting: Waiting::default(),
            links: AtomicUsize::new(0),
            bridges: OnceLock::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime,
            started: Instant::now(),
            started_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos()),
            origins: AtomicU32::new(0),
            limits: config.limits.clone(),
        }
    }

    /// The users and rules that hold now.
    pub(crate) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate.borrow())
    }

    /// Seconds since the broker started: the clock of message expiry, at home in four bytes for 136 years.
    pub(crate) fn now_s(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// The clock of message expiry and the wall clock.
    pub(crate) fn clock(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            run_s: self.now_s(),
            wall_s: wall.map_or(0, |since| since.as_secs()),
        }
    }

    /// The second after which a message with this expiry is worthless.
    pub(crate) fn deadline(&self, expiry_s: Option<u32>) -> Option<u32> {
        expiry_s.map(|seconds| self.now_s().saturating_add(seconds))
    }

    /// A number for a connection or link, different from all others.
    pub(crate) fn next_origin(&self) -> u32 {
        self.origins.fetch_add(1, Ordering::Relaxed)
    }

    /// A client id for a client that brings none; the start time makes it differ between runs.
    pub(crate) fn assign_client_id(&self, origin: u32) -> String {
        format!("auto-{:x}-{origin:x}", self.started_ns)
    }

    /// Stores a retained message and reports a full store.
    pub(crate) fn keep(&self, envelope: Envelope) -> Kept {
        let now_s = self.now_s();
        let topic = envelope.topic_bytes();
        let kept = self.retained.keep(envelope, now_s);
        if kept == Kept::Full {
            self.counters.retained_refused.bump();
            let topic = String::from_utf8_lossy(&topic);
            let (count_max, bytes_max) = (
                self.limits.retained_count_max,
                self.limits.retained_bytes_max,
            );
            warn!(%topic, count_max, bytes_max, "the retained store is full, a message is not kept");
        }
        kept
    }

    pub(crate) fn bridges(&self) -> impl Iterator<Item = &Tally> {
        self.bridges.get().into_iter().flatten().map(AsRef::as_ref)
    }

    pub(crate) fn stats(&self) -> Stats {
        let (retained_count, retained_bytes) = self.retained.size();
        let presences = self.clients.count();
        let connected = self.bridges().filter(|bridge| bridge.is_connected());
        Stats {
            clients: presences.connected as u64,
            sessions: presences.all as u64,
            absent_sessions: presences.absent as u64,
            queued_messages: self.waiting.count.load(Ordering::Relaxed) as u64,
            queued_bytes: self.waiting.bytes.load(Ordering::Relaxed) as u64,
            subscriptions: self.subscriptions.count() as u64,
            retained_count: retained_count as u64,
            retained_bytes: retained_bytes as u64,
            retained_unsaved: self.retained.unsaved() as u64,
            uptime_seconds: self.started.elapsed().as_secs(),
            bridges_connected: connected.count() as u64,
            ..self.counters.snapshot()
        }
    }
}

#[cfg(test)]
impl Hub {
    /// A hub without a broker around it.
    pub(crate) fn alone(config: &Config) -> Arc<Self> {
        let key = crate::auth::Key::new().unwrap();
        let gate = Gate::read(config, key).unwrap();
        Arc::new(Self::new(config, gate, Handle::current()))
    }
}
