//! What a bridge counts, for itself and for the broker.

use crate::{hub::Hub, stats::Counter};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tracing::{debug, warn};

/// What one bridge has done since the broker started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgeStats {
    /// Its name.
    pub name: String,
    /// Whether it is connected, with its subscriptions in force.
    pub connected: bool,
    /// Messages that the other broker has taken: acknowledged, or of QoS 0 and written.
    pub sent: u64,
    /// Messages of the other broker that were published here.
    pub received: u64,
    /// Messages dropped: too many waited, the other broker refused them or would have, or their topics do not pass.
    pub dropped: u64,
    /// Messages dropped because they had been here before or had crossed too many bridges.
    pub loops: u64,
    /// Messages that wait for the other broker now, or for its acknowledgement.
    pub waiting: u64,
}

/// The counts of a bridge that live with the broker.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    name: String,
    connected: AtomicBool,
    sent: Counter,
    received: Counter,
    dropped: Counter,
    loops: Counter,
    waiting: AtomicU64,
}

impl Tally {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> BridgeStats {
        BridgeStats {
            name: self.name.clone(),
            connected: self.is_connected(),
            sent: self.sent.get(),
            received: self.received.get(),
            dropped: self.dropped.get(),
            loops: self.loops.get(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// Counts in both places.
#[derive(Debug)]
pub(super) struct Books {
    hub: Arc<Hub>,
    tally: Arc<Tally>,
    /// The queue has been full since it was last half empty: said once.
    overflowing: AtomicBool,
}

impl Books {
    pub(super) fn new(hub: Arc<Hub>, tally: Arc<Tally>) -> Self {
        Self {
            hub,
            tally,
            overflowing: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.tally.name
    }

    pub(super) fn sent(&self) {
        self.hub.counters.bridge_sent.bump();
        self.tally.sent.bump();
    }

    pub(super) fn received(&self) {
        self.hub.counters.bridge_received.bump();
        self.tally.received.bump();
    }

    pub(super) fn dropped(&self, count: u64) {
        self.hub.counters.bridge_dropped.add(count);
        self.tally.dropped.add(count);
    }

    /// Letters yielded because the queue is full.
    pub(super) fn overflowed(&self, count: u64) {
        if count == 0 {
            return;
        }
        self.dropped(count);
        if self.overflowing.swap(true, Ordering::Relaxed) {
            debug!(
                bridge = self.name(),
                count, "messages are dropped from a full queue"
            );
        } else {
            warn!(
                bridge = self.name(),
                "the queue for the other broker is full and its oldest messages are dropped; see queue_bytes_max and \
                 queue_count_max"
            );
        }
    }

    pub(super) fn has_room_again(&self) {
        self.overflowing.store(false, Ordering::Relaxed);
    }

    pub(super) fn looped(&self, topic: &str) {
        debug!(
            bridge = self.name(),
            topic, "a message that goes round in a circle is dropped"
        );
        self.hub.counters.bridge_loops.bump();
        self.tally.loops.bump();
    }

    pub(super) fn expired(&self) {
        self.hub.counters.expired.bump();
    }

    pub(super) fn panicked(&self) {
        self.hub.counters.panics.bump();
    }

    pub(super) fn waiting(&self, count: usize) {
        self.tally.waiting.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn connected(&self, connected: bool) {
        self.tally.connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}
