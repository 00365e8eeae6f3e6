//! What the engine's thread works on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamppost_agent_core::label::Predicted;
use lamppost_engine::{Output, RunError, Session};
use lamppost_models::id::PredictionId;
use lamppost_models::{BootId, Digest, Timestamp};
use rustix::thread::Pid;
use tokio::sync::mpsc;

use super::{Model, Outcome, Scored};
use crate::ingest::Job;
use crate::labels::{Event, Labels};
use crate::prediction::{Fixed, Varying, Writer};
use crate::publish::Prediction;
use crate::samples::{By, Offer, Offers};
use crate::slots::said;
use crate::stats::is_milestone;
use crate::tap::{Ran, Said, Tapped, micros};

/// How long a model rests after an inference without an end, so that its slot can put another version in its place.
const REST: Duration = Duration::from_secs(2);

/// What the engine's thread works on.
pub(super) struct State {
    boot: BootId,
    /// Counts the threads: the one whose turn it is not has been left behind.
    turn: u64,
    thread: Option<Pid>,
    /// The inference under way.
    under_way: Option<UnderWay>,
    /// Inferences begun so far.
    begun: u64,
    jobs: VecDeque<Job>,
    models: Vec<Running>,
    streams: Vec<Stream>,
    /// Where to pass on what was made, until the end.
    ways: Option<Ways>,
    writer: Writer,
    next_number: u64,
    made: Vec<Prediction>,
    events: Vec<Event>,
}

struct Ways {
    labels: Labels,
    out: mpsc::Sender<Vec<Prediction>>,
}

/// An inference under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// Which, of all so far.
    pub(super) number: u64,
    stream: usize,
    digest: Digest,
}

/// A window and the session that it is for, on their own while the model computes.
pub(super) struct Inference {
    job: Job,
    active: Active,
    /// The trial that is told of it.
    pub(super) tapped: Option<Tapped>,
}

struct Running {
    model: Model,
    session: Option<Active>,
    /// Its last inference came to no end: it rests until then.
    rests: Option<Instant>,
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

impl Inference {
    /// Lets the model compute.
    pub(super) fn run(&mut self) -> Result<Output, RunError> {
        self.active.session.run(self.job.window())
    }
}

impl State {
    pub(super) fn new(
        boot: BootId,
        models: Vec<Model>,
        streams: Vec<Scored>,
        labels: Labels,
        out: mpsc::Sender<Vec<Prediction>>,
    ) -> Self {
        let running = |model| Running {
            model,
            session: None,
            rests: None,
        };
        let stream = |scored| Stream {
            scored,
            next_seq: 0,
            fixed: None,
        };
        Self {
            boot,
            turn: 0,
            thread: None,
            under_way: None,
            begun: 0,
            jobs: VecDeque::new(),
            models: models.into_iter().map(running).collect(),
            streams: streams.into_iter().map(stream).collect(),
            ways: Some(Ways { labels, out }),
            writer: Writer::default(),
            next_number: 0,
            made: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Which thread's turn it is.
    pub(super) const fn turn(&self) -> u64 {
        self.turn
    }

    /// The inference under way.
    pub(super) const fn under_way(&self) -> Option<UnderWay> {
        self.under_way
    }

    /// A thread begins.
    pub(super) fn begin(&mut self, turn: u64) {
        if turn == self.turn {
            self.thread = Some(rustix::thread::gettid());
            // A version that is there already is warm before the first window comes.
            self.follow_slots(turn == 0);
        }
    }

    /// Takes in windows, and what the slots changed meanwhile.
    pub(super) fn take(&mut self, jobs: &mut Vec<Job>) {
        self.jobs.extend(jobs.drain(..));
        self.follow_slots(false);
    }

    fn follow_slots(&mut self, first: bool) {
        for (index, running) in self.models.iter_mut().enumerate() {
            // When the slots are gone, the agent stops: the last version stays.
            let changed = first || running.model.active.has_changed().unwrap_or(false);
            let rested = running.rests.is_some_and(|until| until <= Instant::now());
            if !changed && !rested {
                continue;
            }
            running.rests = None;
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

    /// The next window, with the session that it is for.
    pub(super) fn next(&mut self) -> Option<Inference> {
        while let Some(job) = self.jobs.pop_front() {
            let Some(stream) = self.streams.get(job.stream) else {
                continue;
            };
            let Some(running) = self.models.get_mut(stream.scored.model) else {
                continue;
            };
            let Some(active) = running.session.take() else {
                stream.scored.stats.no_model.bump();
                continue;
            };
            self.begun += 1;
            self.under_way = Some(UnderWay {
                number: self.begun,
                stream: job.stream,
                digest: active.session.engine().digest(),
            });
            return Some(Inference {
                job,
                active,
                tapped: running.model.tap.look(),
            });
        }
        None
    }

    /// Takes in what became of a window; `took` is its processor time, where a trial is told of it.
    pub(super) fn done(
        &mut self,
        inference: Inference,
        result: Result<Output, RunError>,
        took: Option<Duration>,
    ) {
        self.under_way = None;
        let Inference {
            job,
            mut active,
            tapped,
        } = inference;
        let digest = active.session.engine().digest();
        let ran = match result {
            Ok(output) => self.predict(&job, &mut active, output, took),
            Err(error) => self.failed(&job, digest, &error),
        };
        if let (Some(tapped), Some(ran)) = (tapped, ran) {
            tapped.scored(digest, job.stream, job.window(), ran);
        }
        let model = self
            .streams
            .get(job.stream)
            .map(|stream| stream.scored.model);
        if let Some(running) = model.and_then(|model| self.models.get_mut(model)) {
            running.session = Some(active);
        }
    }

    fn failed(&self, job: &Job, digest: Digest, error: &RunError) -> Option<Ran> {
        let stream = self.streams.get(job.stream)?;
        let (name, stats) = (&stream.scored.name, &stream.scored.stats);
        let ts = job.window().last()?.ts;
        match error {
            RunError::Unfit(unfit) => {
                stats.unfit.bump();
                if is_milestone(stats.unfit.get()) {
                    tracing::warn!(stream = %name, %ts, unfit = stats.unfit.get(), reason = %unfit, "a window does not suit the model");
                }
                None
            }
            RunError::Failed(_) => {
                stats.failed.bump();
                let detail = crate::error_chain(error);
                if is_milestone(stats.failed.get()) {
                    tracing::error!(stream = %name, %ts, failed = stats.failed.get(), detail, "an inference failed");
                }
                let running = self.models.get(stream.scored.model)?;
                (running.model.tell)(Outcome::Failed { digest, detail });
                Some(Ran::Failed)
            }
        }
    }

    fn predict(
        &mut self,
        job: &Job,
        active: &mut Active,
        output: Output,
        took: Option<Duration>,
    ) -> Option<Ran> {
        let stream = self.streams.get_mut(job.stream)?;
        let running = self.models.get(stream.scored.model)?;
        let newest = job.window().last()?;
        let ts = newest.ts;
        let digest = active.session.engine().digest();
        if !active.proven {
            active.proven = true;
            (running.model.tell)(Outcome::Worked { digest });
        }
        active.made += 1;
        active.last = ts;
        if let Some(drift) = &stream.scored.drift {
            drift.scored(active.session.engine(), newest);
        }
        let id = PredictionId {
            boot: self.boot,
            number: self.next_number,
        };
        self.next_number += 1;
        let target_ts = output.horizon.map(|horizon| ts.after(horizon));
        let fixed = stream.fixed.get_or_insert_with(|| {
            Fixed::new(self.boot, &stream.scored.name, active.session.engine())
        });
        let seq = stream.next_seq;
        let varying = Varying {
            number: id.number,
            ts,
            target_ts,
            seq,
            output: &output,
            latency_us: micros(job.arrived.elapsed()),
        };
        let json = self.writer.prediction(fixed, &varying);
        let Offers { scored, compared } = stream.scored.offers;
        let (scored, compared) = (
            scored.then(|| (json.clone(), output.scores.clone())),
            (compared && took.is_some()).then(|| json.clone()),
        );
        let flat = if stream.scored.flat {
            self.writer.flat(&output)
        } else {
            None
        };
        stream.next_seq += 1;
        stream.scored.stats.predictions.bump();
        self.made.push(Prediction {
            stream: job.stream,
            id,
            seq,
            ts,
            json,
            flat,
        });
        let labelled = stream.scored.labelled;
        if !labelled && took.is_none() && scored.is_none() {
            return None;
        }
        let label = said(output);
        let predicted = label.clone().map(|said| Predicted {
            id,
            ts,
            target_ts,
            digest,
            said,
        });
        let offer = compared.and_then(|json| Some(Box::new((predicted.clone()?, json))));
        self.tell(job, predicted, labelled, scored);
        took.map(|took| {
            Ran::Well(Said {
                id,
                ts,
                label,
                took_us: micros(took),
                labelled,
                offer,
            })
        })
    }

    /// Tells of a prediction whoever waits for its label, and then whoever may keep its window.
    fn tell(
        &mut self,
        job: &Job,
        predicted: Option<Predicted>,
        labelled: bool,
        scored: Option<(Bytes, Option<Vec<f32>>)>,
    ) {
        let (Some(predicted), stream) = (predicted, job.stream) else {
            return;
        };
        let offer = scored.map(|(json, scores)| Offer {
            predicted: predicted.clone(),
            json,
            window: job.window().to_vec(),
            by: By::Engine { scores },
        });
        if labelled {
            self.events.push(Event::Predicted { stream, predicted });
        }
        self.events.extend(offer.map(|offer| Event::Offered {
            stream,
            offer: Box::new(offer),
        }));
    }

    /// Passes on what was made; false when nobody takes it any more.
    pub(super) fn hand_over(&mut self) -> bool {
        for running in &mut self.models {
            if let Some(active) = running.session.as_mut().filter(|active| active.made > 0) {
                let digest = active.session.engine().digest();
                running
                    .model
                    .facts
                    .add(digest, std::mem::take(&mut active.made), active.last);
            }
        }
        let (made, events) = (
            std::mem::take(&mut self.made),
            std::mem::take(&mut self.events),
        );
        let Some(Ways { labels, out }) = &self.ways else {
            return false;
        };
        let sent = made.is_empty() || out.blocking_send(made).is_ok();
        labels.tell_blocking(events);
        sent
    }

    /// Nothing more is made: whoever takes it ends, though a thread that was left behind may still be there.
    pub(super) fn close(&mut self) {
        self.ways = None;
    }

    /// Gives up on the inference under way, if it still is the one of that number: it is counted as failed, and the slot is told.
    /// The next thread has the turn, which is given, with the thread that is left behind.
    pub(super) fn leave_behind(&mut self, number: u64, detail: &str) -> Option<(u64, Option<Pid>)> {
        let UnderWay { stream, digest, .. } = self
            .under_way
            .take_if(|under_way| under_way.number == number)?;
        self.turn += 1;
        if let Some(stream) = self.streams.get(stream) {
            stream.scored.stats.failed.bump();
            let model = stream.scored.model;
            if let Some(running) = self.models.get_mut(model) {
                running.rests = Some(Instant::now() + REST);
                if let Some(tapped) = running.model.tap.look() {
                    tapped.stuck(digest);
                }
                let detail = detail.to_owned();
                (running.model.tell)(Outcome::Stuck { digest, detail });
            }
        }
        Some((self.turn, self.thread.take()))
    }
}
