//! Which filters are subscribed, by whom, and how far each subscriber lags.
//!
//! The logs are bounded and the oldest messages go first, so somebody must yield when a publisher is faster than a
//! subscriber. The rule: a subscriber that catches up fast enough (half a log within [`HOLD_MAX`]) slows publishers
//! down and loses nothing; a slower one loses the oldest messages, each counted, and slows nobody until it has caught up.

use crate::{
    message::Envelope,
    router::{Log, Router},
    topic,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// How long a publisher waits for a lagging subscriber before that one counts as slow.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(250);

/// Shares of a log, as divisors: publishers are held above 1/2, go on below 1/4, and look every 1/16.
const HIGH: u64 = 2;
const LOW: u64 = 4;
const LOOK: u64 = 16;

#[derive(Debug)]
pub(crate) struct Subscriptions {
    filters_max: usize,
    router: Arc<Router>,
    /// Changes whenever `table` does: publishers keep what they looked up until then.
    generation: AtomicU64,
    table: RwLock<HashMap<Arc<str>, Arc<Channel>>>,
}

/// A subscribed filter and the log that serves it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) filter: Arc<str>,
    pub(crate) log: Arc<Log>,
    log_bytes: u64,
    readers: RwLock<Vec<Arc<Reader>>>,
    /// Some reader was seen above the high mark.
    congested: AtomicBool,
    /// Wakes publishers once readers have caught up.
    room: Notify,
}

/// One subscriber's progress in a log.
#[derive(Debug)]
pub(crate) struct Reader {
    done_bytes: AtomicU64,
    slow: AtomicBool,
    /// What this reader has taken is about to overflow its queue: it counts as lagging, whatever the log says.
    pressed: AtomicBool,
}

impl Subscriptions {
    pub(crate) fn new(filters_max: usize, router: Arc<Router>) -> Self {
        Self {
            filters_max,
            router,
            generation: AtomicU64::new(0),
            table: RwLock::default(),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a subscriber to a filter; `None` if the filter is new and one too many.
    pub(crate) fn attach(&self, filter: &str) -> Option<(Arc<Channel>, Arc<Reader>)> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let channel = if let Some(channel) = table.get(filter) {
            Arc::clone(channel)
        } else {
            if table.len() >= self.filters_max {
                return None;
            }
            let filter: Arc<str> = filter.into();
            let channel = Arc::new(Channel {
                filter: Arc::clone(&filter),
                log: self.router.borrow_log(),
                log_bytes: self.router.log_bytes(),
                readers: RwLock::default(),
                congested: AtomicBool::new(false),
                room: Notify::new(),
            });
            table.insert(filter, Arc::clone(&channel));
            self.generation.fetch_add(1, Ordering::Release);
            channel
        };
        let reader = Arc::new(Reader {
            done_bytes: AtomicU64::new(channel.log.sent_bytes()),
            slow: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
        });
        channel
            .readers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&reader));
        Some((channel, reader))
    }

    /// Subscriptions in force: a filter counts once for each subscriber.
    pub(crate) fn count(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let readers = |channel: &Arc<Channel>| {
            let readers = channel.readers.read();
            readers.unwrap_or_else(PoisonError::into_inner).len()
        };
        table.values().map(readers).sum()
    }

    /// Takes a subscriber away; the last one frees the filter and its log.
    pub(crate) fn detach(&self, channel: &Arc<Channel>, reader: &Arc<Reader>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut readers = channel
            .readers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        readers.retain(|other| !Arc::ptr_eq(other, reader));
        if readers.is_empty() && table.remove(&channel.filter).is_some() {
            self.router.return_log(Arc::clone(&channel.log));
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// The channels whose filters select `topic`, and the generation for which that holds.
    ///
    /// It looks at every filter, of which there are `filters_max` at most; publishers remember the answer.
    pub(crate) fn route(&self, topic: &str) -> (u64, Vec<Arc<Channel>>) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let channels = table
            .values()
            .filter(|channel| topic::matches(&channel.filter, topic))
            .map(Arc::clone)
            .collect();
        (self.generation(), channels)
    }
}

impl Channel {
    /// Counts a message that goes into the log. Returns true if the publisher should see whether readers lag.
    pub(crate) fn count(&self, envelope: &Envelope) -> bool {
        let (before, after) = self.log.count(self.log.weight(envelope.body.len()));
        let step = (self.log_bytes / LOOK).max(1);
        if before / step != after / step && self.lag() > self.log_bytes / HIGH {
            self.congested.store(true, Ordering::Relaxed);
        }
        self.congested.load(Ordering::Relaxed)
    }

    /// Whether a reader that is not slow still lags; if none does, publishers may go on.
    pub(crate) fn still_lags(&self) -> bool {
        let lags = self.lag() > self.log_bytes / LOW;
        if !lags {
            self.congested.store(false, Ordering::Relaxed);
        }
        lags
    }

    /// Waits until a reader that lagged has caught up. It may miss that, so that callers look again after a while.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    /// Gives up on the readers that lag.
    pub(crate) fn mark_slow(&self) {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        for reader in readers
            .iter()
            .filter(|reader| reader.lag(&self.log) > self.log_bytes / LOW)
        {
            reader.slow.store(true, Ordering::Relaxed);
        }
        self.congested.store(false, Ordering::Relaxed);
    }

    /// The greatest lag of a reader that is not slow.
    fn lag(&self) -> u64 {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        let waited_for = readers
            .iter()
            .filter(|reader| !reader.slow.load(Ordering::Relaxed));
        waited_for
            .map(|reader| reader.lag(&self.log))
            .max()
            .unwrap_or(0)
    }
}

impl Reader {
    fn lag(&self, log: &Log) -> u64 {
        if self.pressed.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        log.sent_bytes()
            .saturating_sub(self.done_bytes.load(Ordering::Relaxed))
    }

    /// Records that this reader, the only writer here, is done with a message of its channel.
    pub(crate) fn done(&self, channel: &Channel, weight: u64) {
        self.done_bytes.fetch_add(weight, Ordering::Relaxed);
        self.review(channel);
    }

    /// Has publishers wait for this reader, or no longer.
    pub(crate) fn press(&self, channel: &Channel, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
        if pressed {
            channel.congested.store(true, Ordering::Relaxed);
        } else {
            self.review(channel);
        }
    }

    /// Whether publishers have given up waiting for this reader.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    fn review(&self, channel: &Channel) {
        let slow = self.slow.load(Ordering::Relaxed);
        let awaited = channel.congested.load(Ordering::Relaxed);
        if (slow || awaited) && self.lag(&channel.log) <= channel.log_bytes / LOW {
            self.slow.store(false, Ordering::Relaxed);
            if awaited {
                channel.room.notify_waiters();
            }
        }
    }

    /// Records that the log went on without this reader, which now stands at the oldest message that is left.
    pub(crate) fn jumped(&self, channel: &Channel) {
        let oldest = channel.log.sent_bytes().saturating_sub(channel.log_bytes);
        self.done_bytes.fetch_max(oldest, Ordering::Relaxed);
    }
}
