//! Predictions wait for what came true, and each version's error is summed up.
//!
//! Neither order is assumed between a prediction and its label: the engine may be behind the stream. So both wait for
//! the other, within bounds: predictions as pending, labels as history.

use std::collections::{BTreeMap, VecDeque};

use lamppost_models::id::PredictionId;
use lamppost_models::message::{Label, Quality};
use lamppost_models::{Digest, Timestamp, Value};

use crate::span;

mod spec;
mod tally;
#[cfg(test)]
mod tests;

pub use spec::{LabelFrom, LabelSpec, LabelSpecError};
pub use tally::Compared;

use tally::Tallies;

/// A prediction, as far as its label matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Which.
    pub id: PredictionId,
    /// Event time of the newest reading in its window.
    pub ts: Timestamp,
    /// The instant that a forecast is about.
    pub target_ts: Option<Timestamp>,
    /// The bundle that made it.
    pub digest: Digest,
    /// What it said.
    pub said: Label,
}

/// A prediction and its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// The prediction.
    pub predicted: Predicted,
    /// Event time of the label.
    pub label_ts: Timestamp,
    /// What came true.
    pub label: Label,
    /// How far they are apart.
    pub compared: Compared,
}

/// What happened so far; each grows from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Predictions that met their label.
    pub joined: u64,
    /// Predictions whose label did not come in time, or not with a value.
    pub unlabelled: u64,
    /// Predictions whose label is of another kind: a class where a value was predicted, or the reverse.
    pub mismatched: u64,
    /// Labels not used: of an instant that has one already, or out of order where steps are counted.
    pub ignored: u64,
}

/// Joins the predictions of one stream with their labels.
#[derive(Debug)]
pub struct LabelJoin {
    rule: Rule,
    pending_max: usize,
    age_ms: i64,
    /// Labels by event time; `None` is a reading without the field, which still counts as a step.
    history: BTreeMap<Timestamp, Option<Label>>,
    /// True once a label was dropped from the history.
    history_cut: bool,
    /// Predictions by what they wait for, the oldest first, and by their id.
    pending: BTreeMap<(Timestamp, PredictionId), Pending>,
    /// Pending predictions by arrival, to find the oldest; some may be joined already.
    arrivals: VecDeque<(Timestamp, (Timestamp, PredictionId))>,
    tallies: Tallies,
    counts: LabelCounts,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The label is the reading so many steps after the window's newest.
    Steps {
        ahead: usize,
        tolerance_ms: Option<i64>,
    },
    /// The label is the one nearest to the prediction's target, and no farther.
    Target { tolerance_ms: i64 },
}

#[derive(Debug)]
struct Pending {
    predicted: Predicted,
    /// Readings still to come, the label included; used by [`Rule::Steps`] alone.
    steps_left: usize,
}

/// What the history says about a prediction.
enum Found {
    Label(Timestamp, Option<Label>),
    Never,
    NotYet { steps_left: usize },
}

/// Labels kept for predictions that are still in the engine's queue: more than the queue holds, and more than the steps
/// that a label may be ahead.
const HISTORY_MAX: usize = 4 * spec::AHEAD_MAX;

impl LabelJoin {
    /// Starts with nothing.
    pub fn new(spec: &LabelSpec) -> Self {
        let tolerance_ms = spec.tolerance().map(span::ms);
        let rule = match spec.ahead() {
            Some(ahead) => Rule::Steps {
                ahead,
                tolerance_ms,
            },
            None => Rule::Target {
                tolerance_ms: tolerance_ms.unwrap_or(0),
            },
        };
        Self {
            rule,
            pending_max: spec.pending_max(),
            age_ms: span::ms(spec.age()),
            history: BTreeMap::new(),
            history_cut: false,
            pending: BTreeMap::new(),
            arrivals: VecDeque::new(),
            tallies: Tallies::default(),
            counts: LabelCounts::default(),
        }
    }

    /// Takes a prediction in. When its label is here already, the pair comes back at once.
    pub fn predicted(&mut self, predicted: Predicted, now: Timestamp) -> Option<Joined> {
        self.expire(now);
        match self.find(&predicted) {
            Found::Label(ts, label) => self.join(predicted, ts, label),
            Found::Never => {
                self.counts.unlabelled += 1;
                None
            }
            Found::NotYet { steps_left } => {
                self.wait(
                    Pending {
                        predicted,
                        steps_left,
                    },
                    now,
                );
                None
            }
        }
    }

    /// Takes a label in and hands to `out` the pairs that it makes.
    ///
    /// `value` is the label field of the reading at `ts`, if the reading has it. Labels that are counted in steps must
    /// come in the order of their times, as a [`crate::window::Windower`] passes readings; others may come in any.
    pub fn label(&mut self, ts: Timestamp, value: Option<&Value>, mut out: impl FnMut(Joined)) {
        let label = value.and_then(as_label);
        let newest = self.history.last_key_value().map(|(newest, _)| *newest);
        let usable = match self.rule {
            Rule::Steps { .. } => newest.is_none_or(|newest| newest < ts),
            Rule::Target { .. } => !self.history.contains_key(&ts),
        };
        if !usable {
            self.counts.ignored += 1;
            return;
        }
        let decided = match self.rule {
            Rule::Steps { .. } => self.count_step(ts),
            Rule::Target { tolerance_ms } => self.reached(ts, tolerance_ms),
        };
        self.history.insert(ts, label);
        if self.history.len() > HISTORY_MAX {
            self.history.pop_first();
            self.history_cut = true;
        }
        for key in decided {
            let Some(pending) = self.pending.get(&key) else {
                continue;
            };
            match self.find(&pending.predicted) {
                Found::Label(ts, label) => {
                    if let Some(pending) = self.pending.remove(&key) {
                        self.join(pending.predicted, ts, label)
                            .into_iter()
                            .for_each(&mut out);
                    }
                }
                Found::Never => {
                    self.pending.remove(&key);
                    self.counts.unlabelled += 1;
                }
                Found::NotYet { .. } => {}
            }
        }
    }

    /// Gives up predictions that waited for longer than the configured age, by the node's clock.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(&(since, key)) = self.arrivals.front() {
            let waits = self.pending.contains_key(&key);
            if waits && now.ms_since(since) <= self.age_ms {
                break;
            }
            self.arrivals.pop_front();
            if waits {
                self.pending.remove(&key);
                self.counts.unlabelled += 1;
            }
        }
    }

    /// How right a bundle was so far, when a label came to one of its predictions.
    pub fn quality(&self, digest: &Digest) -> Option<Quality> {
        self.tallies.quality(digest)
    }

    /// How many predictions wait.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What happened so far.
    pub const fn counts(&self) -> LabelCounts {
        self.counts
    }

    fn key(&self, predicted: &Predicted) -> (Timestamp, PredictionId) {
        let at = match self.rule {
            Rule::Steps { .. } => predicted.ts,
            Rule::Target { .. } => predicted.target_ts.unwrap_or(predicted.ts),
        };
        (at, predicted.id)
    }

    fn wait(&mut self, pending: Pending, now: Timestamp) {
        let key = self.key(&pending.predicted);
        self.pending.insert(key, pending);
        self.arrivals.push_back((now, key));
        // Entries of joined predictions stay in `arrivals` until they come to its front: it holds at most the double.
        while self.pending.len() > self.pending_max || self.arrivals.len() > 2 * self.pending_max {
            let Some((_, oldest)) = self.arrivals.pop_front() else {
                break;
            };
            if self.pending.remove(&oldest).is_some() {
                self.counts.unlabelled += 1;
            }
        }
    }

    /// The pending predictions that a reading at `ts` is the last step for; the others are one step nearer.
    fn count_step(&mut self, ts: Timestamp) -> Vec<(Timestamp, PredictionId)> {
        self.pending
            .range_mut(..(ts, FIRST_ID))
            .filter_map(|(key, pending)| {
                pending.steps_left = pending.steps_left.saturating_sub(1);
                (pending.steps_left == 0).then_some(*key)
            })
            .collect()
    }

    /// The pending predictions for which a label at `ts` is the nearest before or after the target.
    fn reached(&self, ts: Timestamp, tolerance_ms: i64) -> Vec<(Timestamp, PredictionId)> {
        // What lies before the label before was decided when that one came, or waits for one that is nearer than it.
        let before = self.history.range(..ts).next_back();
        let from = before.map_or(Timestamp::EPOCH.offset_ms(i64::MIN), |(before, _)| *before);
        let to = ts.offset_ms(tolerance_ms);
        self.pending
            .range((from, FIRST_ID)..=(to, LAST_ID))
            .map(|(key, _)| *key)
            .collect()
    }

    fn find(&self, predicted: &Predicted) -> Found {
        match self.rule {
            Rule::Steps {
                ahead,
                tolerance_ms,
            } => self.find_step(predicted, ahead, tolerance_ms),
            Rule::Target { tolerance_ms } => self.find_target(predicted, tolerance_ms),
        }
    }

    fn find_step(&self, predicted: &Predicted, ahead: usize, tolerance_ms: Option<i64>) -> Found {
        // What was dropped from the history may have been a step.
        if self.history_cut
            && self
                .history
                .first_key_value()
                .is_some_and(|(oldest, _)| predicted.ts < *oldest)
        {
            return Found::Never;
        }
        let mut steps = 0;
        for (ts, label) in self.history.range(predicted.ts.offset_ms(1)..) {
            steps += 1;
            if steps == ahead {
                let off_ms = predicted
                    .target_ts
                    .map_or(0, |target| ts.ms_since(target).abs());
                let near = tolerance_ms.is_none_or(|tolerance_ms| off_ms <= tolerance_ms);
                return if near {
                    Found::Label(*ts, label.clone())
                } else {
                    Found::Never
                };
            }
        }
        Found::NotYet {
            steps_left: ahead - steps,
        }
    }

    fn find_target(&self, predicted: &Predicted, tolerance_ms: i64) -> Found {
        let target = predicted.target_ts.unwrap_or(predicted.ts);
        let Some(after) = self.history.range(target..).next() else {
            return Found::NotYet { steps_left: 0 };
        };
        let before = self.history.range(..target).next_back();
        let distance_ms = |ts: &Timestamp| ts.ms_since(target).abs();
        let nearest = before
            .into_iter()
            .chain([after])
            .min_by_key(|(ts, _)| distance_ms(ts));
        match nearest.filter(|(ts, _)| distance_ms(ts) <= tolerance_ms) {
            Some((ts, label)) => Found::Label(*ts, label.clone()),
            // A label that was overtaken on the way may still come.
            None => Found::NotYet { steps_left: 0 },
        }
    }

    fn join(
        &mut self,
        predicted: Predicted,
        label_ts: Timestamp,
        label: Option<Label>,
    ) -> Option<Joined> {
        let Some(label) = label else {
            self.counts.unlabelled += 1;
            return None;
        };
        let Some(compared) = Compared::of(&predicted.said, &label) else {
            self.counts.mismatched += 1;
            return None;
        };
        self.counts.joined += 1;
        self.tallies.add(predicted.digest, compared);
        Some(Joined {
            predicted,
            label_ts,
            label,
            compared,
        })
    }
}

/// A label has a value or a class; a vector is neither.
fn as_label(value: &Value) -> Option<Label> {
    match value {
        Value::Number(number) => Some(Label::Value(*number)),
        Value::Text(text) => Some(Label::Class(text.clone())),
        Value::Vector(_) => None,
    }
}

const FIRST_ID: PredictionId = PredictionId {
    boot: lamppost_models::BootId::from_u64(0),
    number: 0,
};
const LAST_ID: PredictionId = PredictionId {
    boot: lamppost_models::BootId::from_u64(u64::MAX),
    number: u64::MAX,
};
