//! What all connections and links of one broker share.

use crate::{
    auth::Gate,
    config::{Config, Limits},
    message::Envelope,
    retained::{Kept, Retained},
    router::Router,
    stats::{Counters, Stats},
    subscriptions::Subscriptions,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    pub(crate) router: Arc<Router>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) retained: Retained,
    pub(crate) counters: Counters,
    pub(crate) clients: Clients,
    /// Links of this process in use.
    pub(crate) links: AtomicUsize,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Handle,
    started: Instant,
    started_ns: u128,
    origins: AtomicU32,
}

impl Hub {
    pub(crate) fn new(config: &Config, runtime: Handle) -> Self {
        let router = Router::obtain(&config.limits);
        Self {
            gate: watch::Sender::new(Arc::new(Gate::new(config))),
            subscriptions: Subscriptions::new(config.limits.filters_max, Arc::clone(&router)),
            router,
            retained: Retained::new(&config.limits),
            counters: Counters::default(),
            clients: Clients::new(config.limits.clients_max),
            links: AtomicUsize::new(0),
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

    pub(crate) fn stats(&self) -> Stats {
        let (retained_count, retained_bytes) = self.retained.size();
        Stats {
            clients: self.clients.count() as u64,
            subscriptions: self.subscriptions.count() as u64,
            retained_count: retained_count as u64,
            retained_bytes: retained_bytes as u64,
            ..self.counters.snapshot()
        }
    }
}

/// The connected clients by their ids.
#[derive(Debug)]
pub(crate) struct Clients {
    max: usize,
    by_id: Mutex<HashMap<Arc<str>, Entry>>,
}

#[derive(Debug)]
struct Entry {
    origin: u32,
    kick: CancellationToken,
    gone: CancellationToken,
}

/// A client's place. Dropping it gives the place back and lets a successor go on.
#[derive(Debug)]
pub(crate) struct Ticket {
    hub: Arc<Hub>,
    client_id: Arc<str>,
    origin: u32,
    /// Cancelled when another client takes the id over.
    pub(crate) kick: CancellationToken,
    gone: CancellationToken,
}

impl Clients {
    fn new(max: usize) -> Self {
        Self {
            max,
            by_id: Mutex::default(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Takes the place of `client_id`. The second value is cancelled once the client that had it before is gone.
    /// `None` if all places are taken.
    pub(crate) fn enter(
        hub: &Arc<Hub>,
        client_id: &Arc<str>,
        origin: u32,
    ) -> Option<(Ticket, Option<CancellationToken>)> {
        let (kick, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut by_id = hub.clients.lock();
        if by_id.len() >= hub.clients.max && !by_id.contains_key(client_id) {
            return None;
        }
        let entry = Entry {
            origin,
            kick: kick.clone(),
            gone: gone.clone(),
        };
        let before = by_id.insert(Arc::clone(client_id), entry).map(|before| {
            before.kick.cancel();
            before.gone
        });
        let ticket = Ticket {
            hub: Arc::clone(hub),
            client_id: Arc::clone(client_id),
            origin,
            kick,
            gone,
        };
        Some((ticket, before))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut by_id = self.hub.clients.lock();
        if by_id
            .get(&self.client_id)
            .is_some_and(|entry| entry.origin == self.origin)
        {
            by_id.remove(&self.client_id);
        }
        self.gone.cancel();
    }
}
