//! The task that joins predictions with their labels, and keeps windows for training until theirs came.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamppost_agent_core::label::{LabelJoin, LabelSpec, Losses, Outlook, Predicted, Shadowed};
use lamppost_models::message::Quality;
use lamppost_models::{Digest, ModelName, Timestamp, Value};
use tokio::sync::{mpsc, oneshot};

use crate::drift::Drift;
use crate::samples::{Keeping, Offer};
use crate::stats::{Counter, StreamStats};
use crate::tap::Beside;
use crate::uplink::wall_clock;

/// Batches of events that wait; a sender waits beyond, since a label that were lost would shift those behind it.
const EVENTS_MAX: usize = 64;
/// Bundles of a stream whose quality is told: the active one, the one before, and a few that a rollback may bring back.
const DIGESTS_MAX: usize = 8;

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A prediction was made on a stream.
    Predicted { stream: usize, predicted: Predicted },
    /// A reading passed that may be a label of a stream's predictions.
    Label {
        stream: usize,
        ts: Timestamp,
        value: Option<Value>,
    },
    /// A candidate was given a window of a stream.
    Shadowed {
        stream: usize,
        shadowed: Shadowed,
        /// Where its losses are counted.
        beside: Arc<Beside>,
    },
    /// A window may be kept for training; its prediction was told before.
    Offered { stream: usize, offer: Box<Offer> },
}

enum Message {
    Events(Vec<Event>),
    Keep(Keeping),
    StopKeeping(oneshot::Sender<()>),
    Ask(oneshot::Sender<Qualities>),
    Losses(Digest, oneshot::Sender<Losses>),
}

/// How right each bundle was, over all streams, by model.
pub(crate) type Qualities = BTreeMap<ModelName, Vec<(Digest, Quality)>>;

/// The way to the task.
#[derive(Clone, Debug)]
pub(crate) struct Labels(mpsc::Sender<Message>);

/// A stream as the task sees it.
pub(crate) struct Labelled {
    pub(crate) model: ModelName,
    pub(crate) spec: Option<LabelSpec>,
    pub(crate) stats: Arc<StreamStats>,
    /// What errors are told to.
    pub(crate) drift: Option<Drift>,
}

struct Join {
    model: ModelName,
    labels: LabelJoin,
    stats: Arc<StreamStats>,
    digests: Vec<Digest>,
    drift: Option<Drift>,
    /// Labels and unlabelled predictions that the stream's counters have.
    counted: (u64, u64),
    /// The trial whose candidate was given windows last.
    beside: Option<Arc<Beside>>,
}

impl Labels {
    /// Starts the task; it ends when all of its senders are gone.
    pub(crate) fn start(streams: Vec<Labelled>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let joins = streams.into_iter().map(|stream| {
            stream.spec.map(|spec| Join {
                model: stream.model,
                labels: LabelJoin::new(&spec),
                stats: stream.stats,
                digests: Vec::new(),
                drift: stream.drift,
                counted: (0, 0),
                beside: None,
            })
        });
        (Self(sender), run(joins.collect(), receiver))
    }

    /// Tells events, from a task.
    pub(crate) async fn tell(&self, events: Vec<Event>) {
        // The task goes last; were it gone, nobody would be left to ask for qualities.
        if !events.is_empty() && self.0.send(Message::Events(events)).await.is_err() {
            tracing::debug!("labels came after the end");
        }
    }

    /// Tells events, from a thread that may block.
    pub(crate) fn tell_blocking(&self, events: Vec<Event>) {
        if !events.is_empty() && self.0.blocking_send(Message::Events(events)).is_err() {
            tracing::debug!("predictions came after the end");
        }
    }

    /// Keeps windows from now on.
    pub(crate) async fn keep(&self, keeping: Keeping) {
        if self.0.send(Message::Keep(keeping)).await.is_err() {
            tracing::debug!("there is no task that would keep samples");
        }
    }

    /// Hands over the windows that wait for labels, and keeps no more.
    pub(crate) async fn stop_keeping(&self) {
        let (reply, done) = oneshot::channel();
        let sent = self.0.send(Message::StopKeeping(reply)).await.is_ok();
        if !sent || done.await.is_err() {
            tracing::error!("the label join is gone: samples that waited for labels are lost");
        }
    }

    /// How right each bundle is by now.
    pub(crate) async fn qualities(&self) -> Qualities {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Message::Ask(reply)).await.is_err() {
            return Qualities::new();
        }
        answer.await.unwrap_or_default()
    }

    /// How wrong a bundle was by now, over all streams.
    pub(crate) async fn losses(&self, digest: Digest) -> Losses {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Message::Losses(digest, reply)).await.is_err() {
            return Losses::default();
        }
        answer.await.unwrap_or_default()
    }
}

async fn run(mut joins: Vec<Option<Join>>, mut messages: mpsc::Receiver<Message>) {
    let mut keeping = Keeping::default();
    while let Some(message) = messages.recv().await {
        match message {
            Message::Events(events) => {
                let now = wall_clock();
                for event in events {
                    take(&mut joins, &mut keeping, event, now);
                }
                joins.iter_mut().flatten().for_each(Join::count);
                keeping.settle(|stream| Some(&joins.get(stream)?.as_ref()?.labels));
            }
            Message::Keep(new) => keeping = new,
            Message::StopKeeping(done) => {
                keeping.finish().await;
                if done.send(()).is_err() {
                    tracing::trace!("nobody waits for the last samples");
                }
            }
            Message::Losses(digest, reply) => {
                let losses = joins
                    .iter()
                    .flatten()
                    .map(|join| join.labels.losses(&digest));
                let sum = losses.fold(Losses::default(), Losses::and);
                if reply.send(sum).is_err() {
                    tracing::trace!("whoever asked for losses is gone");
                }
            }
            Message::Ask(reply) => {
                let now = wall_clock();
                for join in joins.iter_mut().flatten() {
                    join.labels.expire(now);
                    join.count();
                }
                keeping.settle(|stream| Some(&joins.get(stream)?.as_ref()?.labels));
                // Whoever asked may be gone.
                drop(reply.send(qualities(&joins)));
            }
        }
    }
}

fn take(joins: &mut [Option<Join>], keeping: &mut Keeping, event: Event, now: Timestamp) {
    let (Event::Predicted { stream, .. }
    | Event::Label { stream, .. }
    | Event::Shadowed { stream, .. }
    | Event::Offered { stream, .. }) = event;
    let join = joins.get_mut(stream).and_then(Option::as_mut);
    match (event, join) {
        (Event::Offered { offer, .. }, join) => {
            let outlook = join.map_or(Outlook::Never, |join| join.labels.outlook(&offer.predicted));
            keeping.offered(stream, *offer, outlook);
        }
        (Event::Predicted { predicted, .. }, Some(join)) => {
            if !join.digests.contains(&predicted.digest) {
                if join.digests.len() == DIGESTS_MAX {
                    join.digests.remove(0);
                }
                join.digests.push(predicted.digest);
            }
            if let Some(joined) = join.labels.predicted(predicted, now) {
                tracing::trace!(?joined, "a label was there before its prediction");
                if let Some(drift) = &join.drift {
                    drift.joined(&joined);
                }
            }
        }
        (Event::Label { ts, value, .. }, Some(join)) => {
            let drift = &join.drift;
            join.labels.label(ts, value.as_ref(), |joined| {
                tracing::trace!(?joined, "a label came");
                keeping.joined(stream, &joined);
                if let Some(drift) = drift {
                    drift.joined(&joined);
                }
            });
            join.tell_pairs();
        }
        (
            Event::Shadowed {
                shadowed, beside, ..
            },
            Some(join),
        ) => {
            if join
                .beside
                .as_ref()
                .is_none_or(|known| !Arc::ptr_eq(known, &beside))
            {
                join.labels.forget_shadowed();
                join.beside = Some(beside);
            }
            join.labels.shadowed(shadowed, now);
            join.tell_pairs();
        }
        // A stream without labels.
        (_, None) => {}
    }
}

impl Join {
    /// Passes on what a candidate's predictions came to.
    fn tell_pairs(&mut self) {
        if let Some(beside) = &self.beside {
            let pairs = self.labels.take_pairs();
            if !pairs.is_empty() {
                beside.labelled(&pairs);
            }
        }
    }

    fn count(&mut self) {
        let counts = self.labels.counts();
        let now = (counts.joined, counts.unlabelled + counts.mismatched);
        let add =
            |counter: &Counter, now: u64, before: u64| counter.add(now.saturating_sub(before));
        add(&self.stats.labels, now.0, self.counted.0);
        add(&self.stats.unlabelled, now.1, self.counted.1);
        self.counted = now;
    }
}

fn qualities(joins: &[Option<Join>]) -> Qualities {
    let mut all = Qualities::new();
    for join in joins.iter().flatten() {
        let of_model = all.entry(join.model.clone()).or_default();
        for digest in &join.digests {
            let Some(quality) = join.labels.quality(digest) else {
                continue;
            };
            match of_model.iter_mut().find(|(known, _)| known == digest) {
                Some((_, sum)) => *sum = together(*sum, quality),
                None => of_model.push((*digest, quality)),
            }
        }
    }
    all
}

/// The quality over two streams' labels.
fn together(a: Quality, b: Quality) -> Quality {
    let mean = |a: f64, of_a: u64, b: f64, of_b: u64| {
        (a * of_a as f64 + b * of_b as f64) / (of_a + of_b) as f64
    };
    match (a, b) {
        (
            Quality::Error {
                labels: m,
                mae,
                rmse,
            },
            Quality::Error {
                labels: n,
                mae: mae_b,
                rmse: rmse_b,
            },
        ) => Quality::Error {
            labels: m + n,
            mae: mean(mae, m, mae_b, n),
            rmse: mean(rmse * rmse, m, rmse_b * rmse_b, n).sqrt(),
        },
        (
            Quality::Accuracy {
                labels: m,
                accuracy,
            },
            Quality::Accuracy {
                labels: n,
                accuracy: other,
            },
        ) => Quality::Accuracy {
            labels: m + n,
            accuracy: mean(accuracy, m, other, n),
        },
        // A bundle predicts values or classes, not both; its manifest says which.
        (Quality::Error { .. }, Quality::Accuracy { .. })
        | (Quality::Accuracy { .. }, Quality::Error { .. }) => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_two_streams_add_up() {
        let errors = |numbers: &[f64]| {
            let n = numbers.len() as f64;
            Quality::Error {
                labels: numbers.len() as u64,
                mae: numbers.iter().map(|e| e.abs()).sum::<f64>() / n,
                rmse: (numbers.iter().map(|e| e * e).sum::<f64>() / n).sqrt(),
            }
        };
        let Quality::Error { labels, mae, rmse } =
            together(errors(&[1.0, -3.0]), errors(&[2.0, 2.0, -7.0]))
        else {
            panic!("errors stay errors");
        };
        assert_eq!(labels, 5);
        assert!((mae - 3.0).abs() < 1e-12);
        assert!((rmse - (67.0_f64 / 5.0).sqrt()).abs() < 1e-12);
    }
}
