//! What the engine's thread tells of a model while a trial runs: nothing otherwise, and then it waits for nobody.
//!
//! Beside the active version ([`Beside`]): each window that was scored, with what the active version made of it, so that a
//! candidate can be given the same. In probation ([`Watching`]): how the active version does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lamppost_agent_core::label::{Pair, Predicted};
use lamppost_agent_core::latency::LatencyHistogram;
use lamppost_models::id::PredictionId;
use lamppost_models::message::Label;
use lamppost_models::trial::{Comparison, Moments, Side, Watch};
use lamppost_models::{Digest, Reading, Timestamp};
use tokio::sync::Notify;

/// Windows that wait for a candidate: what a burst of messages brings at once. Each holds readings that the stream's next
/// windows mostly hold as well.
pub(crate) const WINDOWS_MAX: usize = 64;

/// A model's tap; off unless a trial runs.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    /// Whether there is anything inside: read once a window.
    on: AtomicBool,
    inside: Mutex<Inside>,
}

#[derive(Clone, Debug, Default)]
struct Inside {
    beside: Option<Arc<Beside>>,
    watching: Option<Arc<Watching>>,
}

/// What takes part in a window.
#[derive(Debug)]
pub(crate) struct Tapped(Inside);

/// A window that was scored by the active version.
#[derive(Debug)]
pub(crate) struct Given {
    /// The stream, by its place in the configuration.
    pub(crate) stream: usize,
    /// The readings, oldest first.
    pub(crate) window: Vec<Arc<Reading>>,
    /// What the active version made of it.
    pub(crate) active: Ran,
}

/// What became of a window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ran {
    /// It gave a prediction.
    Well(Said),
    /// The inference failed.
    Failed,
}

/// A prediction, as far as it is compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    /// The active version's prediction.
    pub(crate) id: PredictionId,
    /// Event time of the window.
    pub(crate) ts: Timestamp,
    /// What it said; `None` where there is nothing that a label is compared with.
    pub(crate) label: Option<Label>,
    /// How long it took, in microseconds of processor time.
    pub(crate) took_us: u64,
    /// Whether a label will come.
    pub(crate) labelled: bool,
    /// The whole prediction and its JSON, where the stream's samples ask for what a candidate says of it.
    pub(crate) offer: Option<Box<(Predicted, Bytes)>>,
}

/// What a candidate made of a window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answered {
    /// It gave a prediction.
    Well {
        /// What it said.
        label: Option<Label>,
        /// How long it took, in microseconds of processor time.
        took_us: u64,
    },
    /// The inference failed, or no answer came in time.
    Failed,
}

/// A candidate beside the active version.
#[derive(Debug)]
pub(crate) struct Beside {
    waiting: Mutex<VecDeque<Given>>,
    came: Notify,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    found: Comparison,
    candidate: LatencyHistogram,
    active: LatencyHistogram,
}

/// The active version in its probation.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) digest: Digest,
    /// How the version before did, once that is known.
    before: OnceLock<Side>,
    seen: Mutex<(Watch, LatencyHistogram)>,
}

impl Tap {
    /// What takes part in the next window; `None`, at the cost of a load, while no trial runs.
    pub(crate) fn look(&self) -> Option<Tapped> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        Some(Tapped(lock(&self.inside).clone()))
    }

    /// Runs a candidate beside the active version from now on, or none.
    pub(crate) fn put_beside(&self, beside: Option<Arc<Beside>>) {
        self.change(|inside| inside.beside = beside);
    }

    /// Watches the active version from now on, or not.
    pub(crate) fn watch(&self, watching: Option<Arc<Watching>>) {
        self.change(|inside| inside.watching = watching);
    }

    fn change(&self, change: impl FnOnce(&mut Inside)) {
        let mut inside = lock(&self.inside);
        change(&mut inside);
        let on = inside.beside.is_some() || inside.watching.is_some();
        self.on.store(on, Ordering::Relaxed);
    }
}

impl Tapped {
    /// Takes in what version `digest` made of a window.
    pub(crate) fn scored(
        &self,
        digest: Digest,
        stream: usize,
        window: &[Arc<Reading>],
        active: Ran,
    ) {
        if let Some(watching) = self.0.watching.as_ref().filter(|w| w.digest == digest) {
            watching.scored(&active);
        }
        if let Some(beside) = &self.0.beside {
            beside.give(Given {
                stream,
                window: window.to_vec(),
                active,
            });
        }
    }

    /// An inference of version `digest` came to no end.
    pub(crate) fn stuck(&self, digest: Digest) {
        if let Some(watching) = self.0.watching.as_ref().filter(|w| w.digest == digest) {
            watching.scored(&Ran::Failed);
        }
    }
}

impl Default for Beside {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            came: Notify::new(),
            tally: Mutex::default(),
        }
    }
}

impl Beside {
    /// Hands over a window; the oldest that waits is left out when there are too many.
    fn give(&self, given: Given) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == WINDOWS_MAX {
            waiting.pop_front();
            self.leave_out();
        }
        waiting.push_back(given);
        drop(waiting);
        self.came.notify_one();
    }

    /// The next window, when there is one.
    pub(crate) async fn next(&self) -> Given {
        loop {
            let came = self.came.notified();
            if let Some(given) = lock(&self.waiting).pop_front() {
                return given;
            }
            came.await;
        }
    }

    /// Counts a window that the candidate was not given.
    pub(crate) fn leave_out(&self) {
        lock(&self.tally).found.left_out += 1;
    }

    /// Counts a window that both had.
    pub(crate) fn answered(&self, active: &Ran, candidate: &Answered) {
        let mut tally = lock(&self.tally);
        let Tally {
            found,
            candidate: candidate_times,
            active: active_times,
        } = &mut *tally;
        found.windows += 1;
        let said_by_active = match active {
            Ran::Well(said) => {
                active_times.add(said.took_us);
                said.label.as_ref()
            }
            Ran::Failed => {
                found.active.failures += 1;
                None
            }
        };
        match candidate {
            Answered::Well { label, took_us } => {
                candidate_times.add(*took_us);
                if let Some((a, b)) = said_by_active.zip(label.as_ref()) {
                    found.disagreement.add(difference(a, b));
                }
            }
            Answered::Failed => found.candidate.failures += 1,
        }
    }

    /// Takes in how wrong both were where a label came.
    pub(crate) fn labelled(&self, pairs: &[Pair]) {
        let found = &mut lock(&self.tally).found;
        for pair in pairs {
            found.candidate.loss.add(pair.candidate);
            found.active.loss.add(pair.active);
            found.loss_difference.add(pair.candidate - pair.active);
        }
    }

    /// How the two did so far.
    pub(crate) fn comparison(&self) -> Comparison {
        let tally = lock(&self.tally);
        let mut found = tally.found.clone();
        fill(&mut found.candidate, &tally.candidate);
        fill(&mut found.active, &tally.active);
        found
    }
}

impl Watching {
    /// Begins to watch a version.
    pub(crate) fn new(digest: Digest) -> Self {
        Self {
            digest,
            before: OnceLock::new(),
            seen: Mutex::default(),
        }
    }

    /// Says how the version before did; the first word counts.
    pub(crate) fn came_after(&self, before: Side) {
        self.before.get_or_init(|| before);
    }

    fn scored(&self, active: &Ran) {
        let (watch, times) = &mut *lock(&self.seen);
        watch.windows += 1;
        match active {
            Ran::Well(said) => times.add(said.took_us),
            Ran::Failed => watch.active.failures += 1,
        }
    }

    /// How it did so far, with the losses that its labels came to.
    pub(crate) fn watch(&self, loss: Moments) -> Watch {
        let (watch, times) = &*lock(&self.seen);
        let mut watch = watch.clone();
        fill(&mut watch.active, times);
        watch.active.loss = loss;
        watch.before = self.before.get().copied().unwrap_or_default();
        watch
    }
}

/// Processor time in whole microseconds.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn fill(side: &mut Side, times: &LatencyHistogram) {
    side.latency_p50_us = times.quantile_us(0.5);
    side.latency_p99_us = times.quantile_us(0.99);
}

/// The absolute difference of two values, or 1 for two classes that are not the same. A value and a class are as different as
/// can be.
fn difference(a: &Label, b: &Label) -> f64 {
    match (a, b) {
        (Label::Value(a), Label::Value(b)) => (a - b).abs(),
        (Label::Class(a), Label::Class(b)) => f64::from(u8::from(a != b)),
        (Label::Value(_), Label::Class(_)) | (Label::Class(_), Label::Value(_)) => 1.0,
    }
}

/// A holder that panicked left whole numbers, so that its lock can be taken over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use lamppost_models::BootId;

    use super::*;

    fn well(number: u64, value: f64, took_us: u64) -> Ran {
        let id = PredictionId {
            boot: BootId::from_u64(1),
            number,
        };
        Ran::Well(Said {
            id,
            ts: Timestamp::EPOCH,
            label: Some(Label::Value(value)),
            took_us,
            labelled: true,
            offer: None,
        })
    }

    fn digest() -> Digest {
        Digest::of(b"active")
    }

    #[tokio::test]
    async fn the_newest_windows_wait_and_the_others_are_left_out() {
        let (tap, beside) = (Tap::default(), Arc::new(Beside::default()));
        assert!(tap.look().is_none());
        tap.put_beside(Some(Arc::clone(&beside)));
        for number in 0..WINDOWS_MAX as u64 + 3 {
            let tapped = tap.look().unwrap();
            tapped.scored(digest(), 0, &[], well(number, 1.0, 10));
        }
        assert_eq!(beside.comparison().left_out, 3);
        let Ran::Well(said) = beside.next().await.active else {
            panic!("it went well")
        };
        assert_eq!(said.id.number, 3);
        tap.put_beside(None);
        assert!(tap.look().is_none());
    }

    #[test]
    fn both_sides_are_counted_on_the_windows_that_both_had() {
        let beside = Beside::default();
        let value = |value, took_us| Answered::Well {
            label: Some(Label::Value(value)),
            took_us,
        };
        beside.answered(&well(0, 10.0, 100), &value(12.0, 300));
        beside.answered(&well(1, 10.0, 100), &value(6.0, 300));
        beside.answered(&well(2, 10.0, 100), &Answered::Failed);
        beside.answered(&Ran::Failed, &value(6.0, 300));
        beside.labelled(&[Pair {
            digest: digest(),
            candidate: 3.0,
            active: 1.0,
        }]);
        let found = beside.comparison();
        assert_eq!((found.windows, found.left_out), (4, 0));
        assert_eq!((found.candidate.failures, found.active.failures), (1, 1));
        assert_eq!(found.disagreement.n, 2);
        assert!((found.disagreement.mean - 3.0).abs() < 1e-12);
        assert!((found.loss_difference.mean - 2.0).abs() < 1e-12);
        let near = |us: u64, wanted: u64| us.abs_diff(wanted) * 32 <= wanted;
        assert!(
            near(found.candidate.latency_p99_us, 300) && near(found.active.latency_p50_us, 100)
        );
    }

    #[test]
    fn only_the_version_in_probation_is_watched() {
        let tap = Tap::default();
        let watching = Arc::new(Watching::new(digest()));
        tap.watch(Some(Arc::clone(&watching)));
        let tapped = tap.look().unwrap();
        tapped.scored(digest(), 0, &[], well(0, 1.0, 10));
        tapped.scored(digest(), 0, &[], Ran::Failed);
        tapped.scored(Digest::of(b"the one before"), 0, &[], Ran::Failed);
        tapped.stuck(digest());
        let watch = watching.watch(Moments::default());
        assert_eq!((watch.windows, watch.active.failures), (3, 2));
    }
}
