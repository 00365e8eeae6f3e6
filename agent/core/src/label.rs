//! Predictions wait for what came true, and each version's error is summed up.
//!
//! Neither order is assumed between a prediction and its label: the engine may be behind the stream. So both wait for
//! the other, within bounds: predictions as pending, labels as history.

use std::collections::BTreeMap;

use lamppost_models::id::PredictionId;
use lamppost_models::message::{Label, Quality};
use lamppost_models::{Digest, Timestamp, Value};

use crate::span;

mod spec;
mod tally;
#[cfg(test)]
mod tests;
mod waiting;

pub use spec::{LabelFrom, LabelSpec, LabelSpecError};
pub use tally::{Compared, Losses};

use tally::Tallies;
use waiting::{Key, Waiting};

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

/// What a candidate said of a window, beside what the active version said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadowed {
    /// The candidate's prediction, under the id of the active version's.
    pub candidate: Predicted,
    /// What the active version said.
    pub active: Label,
}

/// How wrong both were, on one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The candidate.
    pub digest: Digest,
    /// Its loss: the absolute error, or 1 for a wrong class.
    pub candidate: f64,
    /// The active version's.
    pub active: f64,
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

/// What is known of a prediction's label by now.
#[derive(Clone, Debug, PartialEq)]
pub enum Outlook {
    /// The prediction waits for it.
    Waits,
    /// It is this one.
    Came(Label),
    /// None came that it can be compared with, and it waits no longer.
    Never,
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
    pending: Waiting<Predicted>,
    /// What a candidate said; of it only the pairs that it makes are told.
    shadowed: Waiting<Shadowed>,
    pairs: Vec<Pair>,
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
            pending: Waiting::default(),
            shadowed: Waiting::default(),
            pairs: Vec::new(),
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
                let (key, bound) = (self.key(&predicted), (now, self.pending_max));
                self.counts.unlabelled += self.pending.wait(key, predicted, steps_left, bound);
                None
            }
        }
    }

    /// Takes in what a candidate said, after or before its label; the pair that it makes is one of [`Self::take_pairs`].
    /// Neither the counts nor any version's quality change by it.
    pub fn shadowed(&mut self, shadowed: Shadowed, now: Timestamp) {
        self.expire(now);
        match self.find(&shadowed.candidate) {
            Found::Label(_, label) => self.pair(&shadowed, label),
            Found::Never => {}
            Found::NotYet { steps_left } => {
                let (key, bound) = (self.key(&shadowed.candidate), (now, self.pending_max));
                self.shadowed.wait(key, shadowed, steps_left, bound);
            }
        }
    }

    /// How wrong candidate and active version were where labels came since this was last asked. There are at most as many
    /// as predictions may wait, when it is asked after each label.
    pub fn take_pairs(&mut self) -> Vec<Pair> {
        std::mem::take(&mut self.pairs)
    }

    /// Forgets what a candidate said: its trial is over.
    pub fn forget_shadowed(&mut self) {
        self.shadowed = Waiting::default();
        self.pairs.clear();
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
        let (live, beside) = self.decided(ts);
        self.history.insert(ts, label);
        if self.history.len() > HISTORY_MAX {
            self.history.pop_first();
            self.history_cut = true;
        }
        for key in live {
            match self.pending.get(&key).map(|predicted| self.find(predicted)) {
                Some(Found::Label(ts, label)) => {
                    if let Some(predicted) = self.pending.remove(&key) {
                        self.join(predicted, ts, label)
                            .into_iter()
                            .for_each(&mut out);
                    }
                }
                Some(Found::Never) => {
                    self.pending.remove(&key);
                    self.counts.unlabelled += 1;
                }
                Some(Found::NotYet { .. }) | None => {}
            }
        }
        for key in beside {
            let found = self.shadowed.get(&key);
            let label = match found.map(|shadowed| self.find(&shadowed.candidate)) {
                Some(Found::Label(_, label)) => label,
                Some(Found::Never) => None,
                Some(Found::NotYet { .. }) | None => continue,
            };
            if let Some(shadowed) = self.shadowed.remove(&key) {
                self.pair(&shadowed, label);
            }
        }
    }

    /// Gives up predictions that waited for longer than the configured age, by the node's clock.
    pub fn expire(&mut self, now: Timestamp) {
        self.counts.unlabelled += self.pending.expire(now, self.age_ms);
        self.shadowed.expire(now, self.age_ms);
    }

    /// What is known of the label of a prediction that was taken in.
    pub fn outlook(&self, predicted: &Predicted) -> Outlook {
        if self.pending.get(&self.key(predicted)).is_some() {
            return Outlook::Waits;
        }
        match self.find(predicted) {
            Found::Label(_, Some(label)) if Compared::of(&predicted.said, &label).is_some() => {
                Outlook::Came(label)
            }
            Found::Label(..) | Found::Never | Found::NotYet { .. } => Outlook::Never,
        }
    }

    /// How right a bundle was so far, when a label came to one of its predictions.
    pub fn quality(&self, digest: &Digest) -> Option<Quality> {
        self.tallies.quality(digest)
    }

    /// How wrong a bundle was so far, in sums that can be told apart from those of an earlier time.
    pub fn losses(&self, digest: &Digest) -> Losses {
        self.tallies.losses(digest)
    }

    /// How many predictions wait.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What happened so far.
    pub const fn counts(&self) -> LabelCounts {
        self.counts
    }

    fn key(&self, predicted: &Predicted) -> Key {
        let at = match self.rule {
            Rule::Steps { .. } => predicted.ts,
            Rule::Target { .. } => predicted.target_ts.unwrap_or(predicted.ts),
        };
        (at, predicted.id)
    }

    /// The predictions that a label at `ts` may decide, the active versions' and the candidate's.
    fn decided(&mut self, ts: Timestamp) -> (Vec<Key>, Vec<Key>) {
        match self.rule {
            Rule::Steps { .. } => (self.pending.count_step(ts), self.shadowed.count_step(ts)),
            Rule::Target { tolerance_ms } => {
                // For what waits between the label before and this one, either is the nearest. What lies before was
                // decided when that one came, or waits for one that is nearer than it.
                let before = self.history.range(..ts).next_back();
                let from =
                    before.map_or(Timestamp::EPOCH.offset_ms(i64::MIN), |(before, _)| *before);
                let to = ts.offset_ms(tolerance_ms);
                (
                    self.pending.between(from, to),
                    self.shadowed.between(from, to),
                )
            }
        }
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

    fn pair(&mut self, shadowed: &Shadowed, label: Option<Label>) {
        let Some(label) = label else { return };
        let loss = |said: &Label| Compared::of(said, &label).map(Compared::loss);
        if let (Some(candidate), Some(active)) =
            (loss(&shadowed.candidate.said), loss(&shadowed.active))
        {
            self.pairs.push(Pair {
                digest: shadowed.candidate.digest,
                candidate,
                active,
            });
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

impl AsRef<Predicted> for Predicted {
    fn as_ref(&self) -> &Predicted {
        self
    }
}

impl AsRef<Predicted> for Shadowed {
    fn as_ref(&self) -> &Predicted {
        &self.candidate
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
