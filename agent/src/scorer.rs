//! The engine's thread: windows become predictions.
//!
//! It holds a session of each model's active version and changes it when the slot says so, between two windows: no
//! window meets half of a version. A window that fails costs itself and nothing else.
//!
//! An inference that comes to no end cannot be interrupted. So all that the thread works on (`state`) is behind a lock which
//! it lets go of while a model computes, and when that takes too long (`watchdog`), another thread takes over where it was:
//! what was made, what waits and all counts go on, the window alone is lost. The thread that is left behind yields to
//! everything else, and ends at last if the inference does. Starting the process anew would be simpler and cost every
//! client of the node's broker its connection, and every stream its windows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lamppost_engine::{Engine, thread_time};
use lamppost_models::{BootId, Digest, StreamName, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::drift::Drift;
use crate::ingest::Job;
use crate::labels::Labels;
use crate::publish::Prediction;
use crate::queue::Queue;
use crate::samples::Offers;
use crate::stats::StreamStats;
use crate::tap::Tap;

mod state;
mod watchdog;

use state::State;

/// Windows taken from the queue at a time, so predictions published together.
const BATCH_MAX: usize = 256;
/// Versions of a model that are accounted for: the active one, the one before, and a few that a rollback may bring back.
const VERSIONS_MAX: usize = 8;

/// What became of an inference, for the slot's judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The first one of a version in this run worked.
    Worked { digest: Digest },
    /// One failed, although its window suits the model.
    Failed { digest: Digest, detail: String },
    /// One does not come to an end.
    Stuck { digest: Digest, detail: String },
}

/// What is known of a model's versions.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<Vec<Fact>>);

/// What a version did in this run of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) digest: Digest,
    pub(crate) predictions: u64,
    /// Event time of its last prediction.
    pub(crate) last_inference: Timestamp,
}

impl Facts {
    /// What a version did.
    pub(crate) fn of(&self, digest: &Digest) -> Option<Fact> {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        facts.iter().find(|fact| fact.digest == *digest).copied()
    }

    fn add(&self, digest: Digest, predictions: u64, last_inference: Timestamp) {
        let mut facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fact) = facts.iter_mut().find(|fact| fact.digest == digest) {
            fact.predictions += predictions;
            fact.last_inference = last_inference;
            return;
        }
        if facts.len() == VERSIONS_MAX {
            facts.remove(0);
        }
        facts.push(Fact {
            digest,
            predictions,
            last_inference,
        });
    }
}

/// A model as the thread sees it.
pub(crate) struct Model {
    /// The version that runs, by the slot's word; `None` while there is none.
    pub(crate) active: watch::Receiver<Option<Engine>>,
    /// Tells the slot how inferences went.
    pub(crate) tell: Box<dyn Fn(Outcome) + Send>,
    pub(crate) facts: Arc<Facts>,
    /// Where a trial listens in.
    pub(crate) tap: Arc<Tap>,
}

/// A stream as the thread sees it.
pub(crate) struct Scored {
    pub(crate) name: StreamName,
    /// The model, by its place among the models.
    pub(crate) model: usize,
    /// Whether its predictions wait for labels.
    pub(crate) labelled: bool,
    /// Whether a flat topic takes the bare value.
    pub(crate) flat: bool,
    /// What its samples ask for.
    pub(crate) offers: Offers,
    /// What its windows are told to.
    pub(crate) drift: Option<Drift>,
    pub(crate) stats: Arc<StreamStats>,
}

/// What the thread, those that took over before it, and the watchdog share.
struct Shared {
    queue: Arc<Queue<Job>>,
    state: Mutex<State>,
    /// Cancelled when no thread goes on.
    over: CancellationToken,
}

/// The engine, before it starts.
pub(crate) struct Scorer(Arc<Shared>);

impl Scorer {
    pub(crate) fn new(
        boot: BootId,
        queue: Arc<Queue<Job>>,
        models: Vec<Model>,
        streams: Vec<Scored>,
        labels: Labels,
        out: mpsc::Sender<Vec<Prediction>>,
    ) -> Self {
        Self(Arc::new(Shared {
            queue,
            state: Mutex::new(State::new(boot, models, streams, labels, out)),
            over: CancellationToken::new(),
        }))
    }

    /// Starts the thread, and what looks after it. It ends once the queue is closed and empty; then, or when it failed, the
    /// token is cancelled. An inference may take as long as `stuck_after`.
    pub(crate) fn start(self, stuck_after: Duration) -> std::io::Result<CancellationToken> {
        let over = self.0.over.clone();
        spawn(&self.0, 0)?;
        tokio::spawn(watchdog::run(self.0, stuck_after));
        Ok(over)
    }
}

/// Starts the thread whose turn it is.
fn spawn(shared: &Arc<Shared>, turn: u64) -> std::io::Result<()> {
    let end = End {
        shared: Arc::clone(shared),
        turn,
    };
    let work = move || end.shared.work(turn);
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(work)?;
    Ok(())
}

/// Says that the engine is over when its thread ends, however it ends; not when another one has taken over.
struct End {
    shared: Arc<Shared>,
    turn: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.shared.lock().turn() == self.turn {
            self.shared.end();
        }
    }
}

impl Shared {
    /// Works until the queue is closed and empty, nobody takes predictions any more, or another thread took over.
    fn work(&self, turn: u64) {
        let mut taken = Vec::with_capacity(BATCH_MAX);
        self.lock().begin(turn);
        loop {
            self.score_all(turn);
            let mut state = self.lock();
            if state.turn() != turn {
                return;
            }
            if !state.hand_over() {
                tracing::debug!("the publisher is gone");
                return;
            }
            drop(state);
            if !self.queue.take(&mut taken, BATCH_MAX) {
                return;
            }
            self.lock().take(&mut taken);
        }
    }

    /// Scores what was taken from the queue.
    fn score_all(&self, turn: u64) {
        let mut state = self.lock();
        while state.turn() == turn {
            let Some(mut inference) = state.next() else {
                return;
            };
            drop(state);
            let begun = inference.tapped.is_some().then(thread_time);
            let result = inference.run();
            let took = begun.map(|begun| thread_time().saturating_sub(begun));
            state = self.lock();
            if state.turn() != turn {
                return;
            }
            state.done(inference, result, took);
        }
    }

    fn end(&self) {
        self.lock().close();
        self.over.cancel();
    }

    /// A holder that panicked is an end of the engine; until then, what is told of it may be read.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_kept_of_the_newest_versions() {
        let facts = Facts::default();
        let digest = |number: usize| Digest::of(&number.to_le_bytes());
        for number in 0..=VERSIONS_MAX {
            facts.add(digest(number), 1, Timestamp::EPOCH);
        }
        assert_eq!(facts.of(&digest(0)), None);
        facts.add(digest(3), 4, Timestamp::EPOCH.offset_ms(7));
        let fact = facts.of(&digest(3)).unwrap();
        assert_eq!((fact.predictions, fact.last_inference.as_ms()), (5, 7));
    }
}
