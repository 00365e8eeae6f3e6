//! What happened to the messages of each stream: counted where it happens, read by the report.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use lamppost_models::Timestamp;
use lamppost_models::message::StreamCounters;

/// A number that only grows. Counting is relaxed: a report may be a few behind, and nothing is decided on it.
///
/// Each has a cache line of its own, for the intake and the engine count on different cores.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one stream, by the names of the report.
#[derive(Debug)]
pub(crate) struct StreamStats {
    pub(crate) readings: Counter,
    pub(crate) malformed: Counter,
    pub(crate) late: Counter,
    pub(crate) duplicate: Counter,
    pub(crate) unfit: Counter,
    pub(crate) dropped: Counter,
    pub(crate) no_model: Counter,
    pub(crate) failed: Counter,
    pub(crate) predictions: Counter,
    pub(crate) labels: Counter,
    pub(crate) unlabelled: Counter,
    pub(crate) samples: Counter,
    pub(crate) samples_over_budget: Counter,
    pub(crate) samples_over_size: Counter,
    pub(crate) samples_crowded: Counter,
    pub(crate) samples_dropped: Counter,
    last_reading_ms: AtomicI64,
    /// When the newest reading came, in milliseconds of the steady clock; 0 before the first.
    last_arrival_ms: AtomicU64,
}

impl Default for StreamStats {
    fn default() -> Self {
        Self {
            readings: Counter::default(),
            malformed: Counter::default(),
            late: Counter::default(),
            duplicate: Counter::default(),
            unfit: Counter::default(),
            dropped: Counter::default(),
            no_model: Counter::default(),
            failed: Counter::default(),
            predictions: Counter::default(),
            labels: Counter::default(),
            unlabelled: Counter::default(),
            samples: Counter::default(),
            samples_over_budget: Counter::default(),
            samples_over_size: Counter::default(),
            samples_crowded: Counter::default(),
            samples_dropped: Counter::default(),
            last_reading_ms: AtomicI64::new(i64::MIN),
            last_arrival_ms: AtomicU64::new(0),
        }
    }
}

impl StreamStats {
    /// Notes the event time of a reading; the newest counts.
    pub(crate) fn reading_at(&self, ts: Timestamp) {
        self.last_reading_ms
            .fetch_max(ts.as_ms(), Ordering::Relaxed);
    }

    /// Notes that readings came just now, by the steady clock.
    pub(crate) fn arrived_at(&self, steady: Duration) {
        let ms = u64::try_from(steady.as_millis()).unwrap_or(u64::MAX);
        self.last_arrival_ms.store(ms, Ordering::Relaxed);
    }

    /// When the newest reading came; the start of the clock before the first.
    pub(crate) fn last_arrival(&self) -> Duration {
        Duration::from_millis(self.last_arrival_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn last_reading(&self) -> Option<Timestamp> {
        Timestamp::from_ms(self.last_reading_ms.load(Ordering::Relaxed)).ok()
    }

    pub(crate) fn snapshot(&self) -> StreamCounters {
        StreamCounters {
            readings: self.readings.get(),
            malformed: self.malformed.get(),
            late: self.late.get(),
            duplicate: self.duplicate.get(),
            unfit: self.unfit.get(),
            dropped: self.dropped.get(),
            no_model: self.no_model.get(),
            failed: self.failed.get(),
            predictions: self.predictions.get(),
            labels: self.labels.get(),
            unlabelled: self.unlabelled.get(),
            samples: self.samples.get(),
            samples_over_budget: self.samples_over_budget.get(),
            samples_over_size: self.samples_over_size.get(),
            samples_crowded: self.samples_crowded.get(),
            samples_dropped: self.samples_dropped.get(),
        }
    }
}

/// Whether a count is worth a line in the log: 1, 10, 100 and so on, so that a sensor gone mad fills no disk.
pub(crate) const fn is_milestone(count: u64) -> bool {
    count > 0 && 10_u64.pow(count.ilog10()) == count
}
