//! The engine's thread: windows become predictions.
//!
//! It holds a session of each model's active version and changes it when the slot says so, between two windows: no
//! window meets half of a version. A window that fails costs itself and nothing else.

use std::sync::{Arc, Mutex, PoisonError};

use lamppost_agent_core::label::Predicted;
use lamppost_engine::{Engine, Output, RunError, Session};
use lamppost_models::id::PredictionId;
use lamppost_models::message::Label;
use lamppost_models::{BootId, Digest, StreamName, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::ingest::Job;
use crate::labels::{Event, Labels};
use crate::prediction::{Fixed, Varying, Writer};
use crate::publish::Prediction;
use crate::queue::Queue;
use crate::stats::{StreamStats, is_milestone};

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
    pub(crate) stats: Arc<StreamStats>,
}

/// The thread's state.
pub(crate) struct Scorer {
    boot: BootId,
    queue: Arc<Queue<Job>>,
    models: Vec<Running>,
    streams: Vec<Stream>,
    labels: Labels,
    out: mpsc::Sender<Vec<Prediction>>,
    writer: Writer,
    next_number: u64,
    made: Vec<Prediction>,
    events: Vec<Event>,
}

struct Running {
    model: Model,
    session: Option<Active>,
}

struct Active {
    session: Session,
    /// The slot was told of this version's first inference that worked.
    proven: bool,
    /// What was made since the facts were last brought up to date.
    made: u64,
    last: Timestamp,
}

struct Stream {
    scored: Scored,
    next_seq: u64,
    /// The part of its predictions that stays the same, for the session's version.
    fixed: Option<Fixed>,
}

impl Scorer {
    pub(crate) fn new(
        boot: BootId,
        queue: Arc<Queue<Job>>,
        models: Vec<Model>,
        streams: Vec<Scored>,
        labels: Labels,
        out: mpsc::Sender<Vec<Prediction>>,
    ) -> Self {
        let stream = |scored| Stream {
            scored,
            next_seq: 0,
            fixed: None,
        };
        Self {
            boot,
            queue,
            models: models
                .into_iter()
                .map(|model| Running {
                    model,
                    session: None,
                })
                .collect(),
            streams: streams.into_iter().map(stream).collect(),
            labels,
            out,
            writer: Writer::default(),
            next_number: 0,
            made: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Runs until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        // A version that is there already is warm before the first window comes.
        self.follow_slots(true);
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        while self.queue.take(&mut jobs, BATCH_MAX) {
            self.follow_slots(false);
            for job in jobs.drain(..) {
                self.score(&job);
            }
            if !self.hand_over() {
                tracing::debug!("the publisher is gone");
                return;
            }
        }
    }

    fn follow_slots(&mut self, first: bool) {
        for (index, running) in self.models.iter_mut().enumerate() {
            // When the slots are gone, the agent stops: the last version stays.
            if !first && !running.model.active.has_changed().unwrap_or(false) {
                continue;
            }
            let engine = running.model.active.borrow_and_update().clone();
            running.session = engine.map(|engine| Active {
                session: engine.session(),
                proven: false,
                made: 0,
                last: Timestamp::EPOCH,
            });
            let of_model = self
                .streams
                .iter_mut()
                .filter(|stream| stream.scored.model == index);
            of_model.for_each(|stream| stream.fixed = None);
        }
    }

    fn score(&mut self, job: &Job) {
        let Some(stream) = self.streams.get_mut(job.stream) else {
            return;
        };
        let stats = &stream.scored.stats;
        let Some(running) = self.models.get_mut(stream.scored.model) else {
            return;
        };
        let Some(active) = &mut running.session else {
            stats.no_model.bump();
            return;
        };
        let window = job.window();
        let Some(newest) = window.last() else { return };
        let digest = active.session.engine().digest();
        let output = match active.session.run(window) {
            Ok(output) => output,
            Err(RunError::Unfit(unfit)) => {
                stats.unfit.bump();
                if is_milestone(stats.unfit.get()) {
                    let stream = &stream.scored.name;
                    tracing::warn!(%stream, ts = %newest.ts, unfit = stats.unfit.get(), reason = %unfit, "a window does not suit the model");
                }
                return;
            }
            Err(error @ RunError::Failed(_)) => {
                stats.failed.bump();
                let detail = crate::error_chain(&error);
                if is_milestone(stats.failed.get()) {
                    let stream = &stream.scored.name;
                    tracing::error!(%stream, ts = %newest.ts, failed = stats.failed.get(), detail, "an inference failed");
                }
                (running.model.tell)(Outcome::Failed { digest, detail });
                return;
            }
        };
        if !active.proven {
            active.proven = true;
            (running.model.tell)(Outcome::Worked { digest });
        }
        active.made += 1;
        active.last = newest.ts;
        let id = PredictionId {
            boot: self.boot,
            number: self.next_number,
        };
        self.next_number += 1;
        let target_ts = output.horizon.map(|horizon| newest.ts.after(horizon));
        let latency_us = u64::try_from(job.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        let fixed = stream.fixed.get_or_insert_with(|| {
            Fixed::new(self.boot, &stream.scored.name, active.session.engine())
        });
        let seq = stream.next_seq;
        let varying = Varying {
            number: id.number,
            ts: newest.ts,
            target_ts,
            seq,
            output: &output,
            latency_us,
        };
        let json = self.writer.prediction(fixed, &varying);
        let flat = if stream.scored.flat {
            self.writer.flat(&output)
        } else {
            None
        };
        stream.next_seq += 1;
        stats.predictions.bump();
        self.made.push(Prediction {
            stream: job.stream,
            id,
            seq,
            ts: newest.ts,
            json,
            flat,
        });
        if stream.scored.labelled
            && let Some(said) = said(output)
        {
            let predicted = Predicted {
                id,
                ts: newest.ts,
                target_ts,
                digest,
                said,
            };
            self.events.push(Event::Predicted {
                stream: job.stream,
                predicted,
            });
        }
    }

    /// Passes on what was made; false when nobody takes it any more.
    fn hand_over(&mut self) -> bool {
        for running in &mut self.models {
            if let Some(active) = running.session.as_mut().filter(|active| active.made > 0) {
                let digest = active.session.engine().digest();
                running
                    .model
                    .facts
                    .add(digest, std::mem::take(&mut active.made), active.last);
            }
        }
        let sent = self.made.is_empty()
            || self
                .out
                .blocking_send(std::mem::take(&mut self.made))
                .is_ok();
        self.labels.tell_blocking(std::mem::take(&mut self.events));
        sent
    }
}

/// What a label is compared with: a classification's label, or else the value.
fn said(output: Output) -> Option<Label> {
    match (output.scores, output.label, output.value) {
        (Some(_), Some(label), _) | (_, Some(label), None) => Some(Label::Class(label)),
        (_, _, Some(value)) => Some(Label::Value(value)),
        (_, None, None) => None,
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

    #[test]
    fn an_anomaly_is_compared_by_its_label_only_without_a_value() {
        let none = Output {
            label: None,
            score: None,
            scores: None,
            value: None,
            unit: None,
            horizon: None,
        };
        let class = Output {
            label: Some("jam".to_owned()),
            scores: Some(vec![1.0]),
            ..none.clone()
        };
        assert_eq!(said(class), Some(Label::Class("jam".to_owned())));
        assert_eq!(
            said(Output {
                value: Some(2.0),
                ..none.clone()
            }),
            Some(Label::Value(2.0))
        );
        assert_eq!(said(none), None);
    }
}
