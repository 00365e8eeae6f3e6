//! Windows that are kept for training: chosen, held until their label came, numbered, and handed to the outbox.
//!
//! The task that joins labels works on it, for it alone knows which window waits for which label. Nothing here waits for the
//! disk or the link: what finds no room is dropped and counted before it has a number, so that the ledger misses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lamppost_agent_core::label::{Compared, Joined, LabelJoin, Outlook, Predicted};
use lamppost_agent_core::pace::Spent;
use lamppost_agent_core::sampling::{Budget, Draft, Giving, Room, Sampler, Seen};
use lamppost_models::id::PredictionId;
use lamppost_models::message::{Label, SamplePolicy};
use lamppost_models::{BootId, ModelName, Reading};

use crate::config::{Sample, Stream};
use crate::outbox::fits_a_batch;
use crate::stats::{Counter, StreamStats, is_milestone};
use crate::tap::WINDOWS_MAX;
use crate::uplink::{SampleBatch, Samples, clock};

/// Chosen windows of a stream that wait for their label, and their bytes: a label that comes a day late on a stream where
/// twenty windows an hour are chosen, of a kilobyte each.
const ROOM_MAX: usize = 512;
const ROOM_BYTES_MAX: usize = 512 << 10;
/// Windows that are remembered as chosen: a candidate says what it thinks of a window when so many later ones may have
/// been scored, and one beside them.
const CHOSEN_MAX: usize = WINDOWS_MAX + 1;
/// What was used of the day's budget is noted in so many steps, ahead of the use: a sudden end costs the budget one at most.
const BUDGET_STEPS: u64 = 64;
/// How long a stop waits for the outbox to take what waited for labels.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// What of a stream is offered: nothing, unless a policy asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    /// Each window that was scored.
    pub(crate) scored: bool,
    /// Each window that a candidate was given.
    pub(crate) compared: bool,
}

/// A window that may be chosen.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The prediction of the active version.
    pub(crate) predicted: Predicted,
    /// Its JSON.
    pub(crate) json: Bytes,
    /// The readings, oldest first.
    pub(crate) window: Vec<Arc<Reading>>,
    pub(crate) by: By,
}

/// Who offers a window.
#[derive(Debug)]
pub(crate) enum By {
    /// The engine, as it scored it; with the scores of all labels, of a classification.
    Engine { scores: Option<Vec<f32>> },
    /// A candidate's trial, with what the candidate said.
    Trial { candidate: Label },
}

/// The streams that are sampled, and the way to the outbox. The default keeps nothing.
#[derive(Default)]
pub(crate) struct Keeping {
    /// By place in the configuration.
    streams: Vec<Option<Sampling>>,
    samples: Option<Samples>,
}

/// A stream that is sampled.
pub(crate) struct Sampling {
    stream: usize,
    stats: Arc<StreamStats>,
    giving: Giving,
    /// Whether the label may leave the node, so that it is worth waiting for.
    gives_label: bool,
    /// Whether predictions may.
    gives_prediction: bool,
    sampler: Sampler,
    budget: Budget,
    day_bytes: u64,
    /// What is noted on the disk as used today.
    noted: Option<Spent>,
    room: Room<Waiting>,
    chosen: VecDeque<PredictionId>,
    ready: Vec<Ready>,
    next_seq: u64,
    /// How many predictions the label join had given up when this was last looked at.
    given_up: u64,
}

struct Waiting {
    draft: Draft,
    predicted: Predicted,
}

struct Ready {
    draft: Draft,
    label: Option<Label>,
}

impl Offers {
    /// What the policies of a stream ask for.
    pub(crate) fn of(sample: Option<&Sample>) -> Self {
        let asks = |compared: bool| {
            let mut policies = sample.iter().flat_map(|sample| sample.shares.keys());
            policies.any(|policy| (*policy == SamplePolicy::Disagreeing) == compared)
        };
        Self {
            scored: asks(false),
            compared: asks(true),
        }
    }
}

impl Keeping {
    pub(crate) fn new(streams: Vec<Option<Sampling>>, samples: Samples) -> Self {
        Self {
            streams,
            samples: Some(samples),
        }
    }

    /// Takes a window in, with what is known of its label.
    pub(crate) fn offered(&mut self, stream: usize, offer: Offer, outlook: Outlook) {
        if let Some(sampling) = self.of(stream) {
            sampling.offered(offer, outlook);
        }
    }

    /// A label came.
    pub(crate) fn joined(&mut self, stream: usize, joined: &Joined) {
        if let Some(sampling) = self.of(stream) {
            sampling.joined(joined);
        }
    }

    /// Hands on what is ready, and what waits in vain.
    pub(crate) fn settle<'a>(&mut self, join_of: impl Fn(usize) -> Option<&'a LabelJoin>) {
        let Some(samples) = &self.samples else { return };
        for sampling in self.streams.iter_mut().flatten() {
            if let Some(join) = join_of(sampling.stream) {
                sampling.release(join);
            }
            sampling.hand_over(samples);
        }
    }

    /// Hands over all that waits, as it is; nothing is kept from now on.
    pub(crate) async fn finish(&mut self) {
        let Self { streams, samples } = std::mem::take(self);
        let Some(samples) = samples else { return };
        for mut sampling in streams.into_iter().flatten() {
            let batch = sampling.last_batch();
            let count = batch.records.len() as u64;
            let sent = tokio::time::timeout(LAST_TIMEOUT, samples.send(batch)).await;
            if sent == Ok(true) {
                sampling.stats.samples.add(count);
            } else {
                tracing::error!(
                    samples = count,
                    "the outbox does not take samples: they are lost"
                );
                sampling.stats.samples_dropped.add(count);
            }
        }
    }

    fn of(&mut self, stream: usize) -> Option<&mut Sampling> {
        self.streams.get_mut(stream)?.as_mut()
    }
}

impl Sampling {
    /// Samples a stream as it is configured; `None` where it is not.
    pub(crate) fn new(
        (at, stream): (usize, &Stream),
        (boot, model): (BootId, &ModelName),
        stats: &Arc<StreamStats>,
        before: Option<Spent>,
    ) -> Option<Self> {
        let sample = stream.sample.as_ref()?;
        // Two streams of one node draw differently, and so do two nodes.
        let seed = boot.as_u64().wrapping_add((at as u64) << 32);
        let label = stream.label.as_ref().map(|label| label.spec.field());
        Some(Self {
            stream: at,
            stats: Arc::clone(stats),
            giving: Giving {
                boot,
                model: model.clone(),
                fields: sample.fields.clone(),
                consent: sample.consent.clone(),
            },
            gives_label: label.is_some_and(|field| sample.fields.contains(field)),
            gives_prediction: stream.live,
            sampler: Sampler::new(
                &sample.shares,
                stream.decoder.fields().into_iter().cloned(),
                seed,
            ),
            budget: Budget::new(sample.day_bytes, before, clock()),
            day_bytes: sample.day_bytes,
            noted: before,
            room: Room::new(ROOM_MAX, ROOM_BYTES_MAX),
            chosen: VecDeque::new(),
            ready: Vec::new(),
            next_seq: 0,
            given_up: 0,
        })
    }

    fn offered(&mut self, offer: Offer, outlook: Outlook) {
        let id = offer.predicted.id;
        let policy = match &offer.by {
            By::Engine { scores } => self.sampler.choose(&Seen {
                id,
                window: &offer.window,
                scores: scores.as_deref(),
            }),
            By::Trial { candidate } => self.sampler.compare(&offer.predicted.said, candidate),
        };
        if let Outlook::Came(label) = &outlook {
            self.learn(&offer.predicted, label);
        }
        if let Some(policy) = policy.filter(|_| !self.chosen.contains(&id)) {
            self.keep(policy, offer, outlook);
        }
    }

    fn keep(&mut self, policy: SamplePolicy, offer: Offer, outlook: Outlook) {
        let prediction = self.gives_prediction.then_some(&*offer.json);
        let Some(draft) = Draft::new(&self.giving, policy, &offer.window, prediction) else {
            return;
        };
        let bytes = draft.bytes();
        if !fits_a_batch(bytes, || draft.clone().finish(u64::MAX, None)) {
            self.refuse(
                &self.stats.samples_over_size,
                "a window is too large for a sample",
            );
            return;
        }
        if !self.budget.take(bytes as u64, clock()) {
            self.refuse(
                &self.stats.samples_over_budget,
                "the day's bytes for samples are used up for now",
            );
            return;
        }
        if self.chosen.len() == CHOSEN_MAX {
            self.chosen.pop_front();
        }
        let predicted = offer.predicted;
        self.chosen.push_back(predicted.id);
        let label = match outlook {
            Outlook::Waits if self.gives_label => {
                let id = predicted.id;
                let pushed_out = self.room.put(id, Waiting { draft, predicted }, bytes);
                self.stats.samples_crowded.add(pushed_out.len() as u64);
                let ready = pushed_out.into_iter().map(|waiting| waiting.ready(None));
                self.ready.extend(ready);
                return;
            }
            Outlook::Came(label) if self.gives_label => Some(label),
            Outlook::Waits | Outlook::Came(_) | Outlook::Never => None,
        };
        self.ready.push(Ready { draft, label });
    }

    fn joined(&mut self, joined: &Joined) {
        self.learn(&joined.predicted, &joined.label);
        if let Some(waiting) = self.room.take(&joined.predicted.id) {
            self.ready.push(waiting.ready(Some(joined.label.clone())));
        }
    }

    fn learn(&mut self, predicted: &Predicted, label: &Label) {
        if let Some(compared) = Compared::of(&predicted.said, label) {
            self.sampler.learn(predicted.id, compared.loss());
        }
    }

    /// Lets those go that the label join gave up.
    fn release(&mut self, join: &LabelJoin) {
        let counts = join.counts();
        let given_up = counts.unlabelled + counts.mismatched;
        if given_up == self.given_up {
            return;
        }
        self.given_up = given_up;
        let over = self
            .room
            .take_if(|waiting| join.outlook(&waiting.predicted) != Outlook::Waits);
        self.ready
            .extend(over.into_iter().map(|waiting| waiting.ready(None)));
    }

    fn hand_over(&mut self, samples: &Samples) {
        if self.ready.is_empty() {
            return;
        }
        let Some(room) = samples.reserve() else {
            let dropped = self.ready.drain(..).count() as u64;
            self.stats.samples_dropped.add(dropped);
            tracing::warn!(dropped, "the outbox is held up and did not take samples");
            return;
        };
        let records = self.number();
        let count = records.len() as u64;
        let spent = self.note(self.day_bytes / BUDGET_STEPS);
        room.send(SampleBatch {
            stream: self.stream,
            records,
            spent,
        });
        // After they are on their way: whoever counts finds them there.
        self.stats.samples.add(count);
    }

    fn last_batch(&mut self) -> SampleBatch {
        let waiting = self.room.take_if(|_| true);
        self.ready
            .extend(waiting.into_iter().map(|waiting| waiting.ready(None)));
        self.noted = None;
        SampleBatch {
            stream: self.stream,
            records: self.number(),
            spent: self.note(0),
        }
    }

    fn number(&mut self) -> Vec<(u64, Bytes)> {
        let from = self.next_seq;
        let ready = (from..).zip(self.ready.drain(..));
        let records: Vec<_> = ready
            .map(|(seq, Ready { draft, label })| (seq, draft.finish(seq, label.as_ref()).into()))
            .collect();
        self.next_seq += records.len() as u64;
        records
    }

    /// What is to be noted of the budget: what was used, and a step of what will be.
    fn note(&mut self, step: u64) -> Option<Spent> {
        let spent = self.budget.spent(clock());
        let is_noted = |noted: &Spent| noted.since == spent.since && noted.bytes >= spent.bytes;
        if self.noted.as_ref().is_some_and(is_noted) {
            return None;
        }
        self.noted = Some(Spent {
            bytes: spent.bytes.saturating_add(step),
            ..spent
        });
        self.noted
    }

    fn refuse(&self, counter: &Counter, reason: &'static str) {
        counter.bump();
        if is_milestone(counter.get()) {
            tracing::warn!(model = %self.giving.model, stream = self.stream, windows = counter.get(), reason, "windows are not kept");
        }
    }
}

impl Waiting {
    fn ready(self, label: Option<Label>) -> Ready {
        Ready {
            draft: self.draft,
            label,
        }
    }
}
