//! What is remembered of earlier trainings.

use std::collections::VecDeque;

use lamppost_models::Timestamp;
use serde::{Deserialize, Serialize};

use super::{MEMORY, PRIOR, Terms};

/// Outcomes that are kept: the 32nd counts for a hundred-thousandth of the newest.
pub const OUTCOMES_MAX: usize = 32;
/// Trust is kept within these: one lucky training is no reason to expect a tenfold gain, and one that gained nothing none to
/// expect none for ever.
const TRUST: (f64, f64) = (0.1, 4.0);
/// Longest pause: a year, after which even what never paid may be tried again.
const PAUSE_MAX_S: u64 = 366 * 86_400;
const DAY_MS: i64 = 86_400_000;

/// What a training cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Bytes that new samples took to the centre.
    pub collected_bytes: u64,
    /// Bytes that nodes fetched.
    pub fetched_bytes: u64,
    /// Seconds of training and compressing.
    pub seconds: f64,
}

impl Cost {
    /// At the operator's prices, in per cent of the error; what was collected is not in it.
    pub fn percent(&self, terms: &Terms) -> f64 {
        self.fetched_bytes as f64 / terms.bytes_per_percent.0.max(1) as f64
            + self.seconds / terms.time_per_percent.as_secs().max(1) as f64
    }
}

/// How a training ended. Gains are shares of the error before, negative where it became worse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum Ended {
    /// The edge took it.
    Promoted {
        /// By the edge's own labels where it had any, else by held-out samples.
        gain: f64,
    },
    /// It is not better than what runs, or than a naive forecast, on held-out samples; nothing was pushed.
    NotBetter {
        /// What it would have gained.
        gain: f64,
        /// Against what, with the numbers.
        why: String,
    },
    /// The edge did not take it.
    Refused {
        /// Why.
        why: String,
    },
    /// Something else went wrong: no version came of it.
    Failed {
        /// What.
        why: String,
    },
}

/// A training that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// When it was over.
    pub at: Timestamp,
    /// Labelled samples that were new to it.
    pub samples: u64,
    /// The gain that was expected, before trust.
    pub expected: f64,
    /// What it cost.
    pub cost: Cost,
    /// How it ended.
    #[serde(flatten)]
    pub ended: Ended,
}

impl Outcome {
    const fn failed(&self) -> bool {
        !matches!(self.ended, Ended::Promoted { .. })
    }

    /// What the fleet has of it: nothing if the version never went live.
    const fn gain(&self) -> f64 {
        match self.ended {
            Ended::Promoted { gain } if gain > 0.0 => gain,
            Ended::Promoted { .. }
            | Ended::NotBetter { .. }
            | Ended::Refused { .. }
            | Ended::Failed { .. } => 0.0,
        }
    }

    /// Whether it gained what it cost.
    fn paid(&self, terms: &Terms) -> bool {
        !self.failed() && 100.0 * self.gain() >= self.cost.percent(terms)
    }
}

/// What a day (UTC) has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Days since 1970-01-01.
    pub day: i64,
    /// Bytes that nodes fetched.
    pub bytes: u64,
    /// Seconds of training.
    pub seconds: f64,
}

impl Spent {
    /// Of the day of `now`.
    #[must_use]
    pub fn on(&self, now: Timestamp) -> Self {
        let day = now.as_ms().div_euclid(DAY_MS);
        if day == self.day {
            *self
        } else {
            Self {
                day,
                ..Self::default()
            }
        }
    }

    /// When the next day begins.
    pub(super) fn over(&self) -> Timestamp {
        Timestamp::EPOCH.offset_ms(self.day.saturating_add(1).saturating_mul(DAY_MS))
    }
}

/// What a loop remembers of one model in one group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// Trainings that are over, oldest first.
    outcomes: VecDeque<Outcome>,
    /// Of the labelled samples that the active version was not trained from: those that an attempt without success had already.
    tried: u64,
    /// What today has cost.
    spent: Spent,
    /// Failures in a row.
    failures: u32,
    /// Failures and trainings that did not pay, in a row.
    setbacks: u32,
}

impl Learning {
    /// All outcomes that are kept, oldest first.
    pub fn outcomes(&self) -> impl DoubleEndedIterator<Item = &Outcome> {
        self.outcomes.iter()
    }

    /// What the day of `now` has cost.
    pub fn spent(&self, now: Timestamp) -> Spent {
        self.spent.on(now)
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// What a gain that is expected may be believed to be, as a factor.
    pub fn trust(&self) -> f64 {
        let (mut gained, mut expected) = (PRIOR, PRIOR);
        let mut weight = 1.0;
        for outcome in self.outcomes.iter().rev() {
            gained += weight * outcome.gain().min(1.0);
            expected += weight * outcome.expected.clamp(0.0, 1.0);
            weight *= MEMORY;
        }
        (gained / expected).clamp(TRUST.0, TRUST.1)
    }

    /// Labelled samples that no attempt has had.
    pub(super) const fn fresh(&self, labelled: u64) -> u64 {
        labelled.saturating_sub(self.tried)
    }

    /// Takes in how a training ended. After a failure the samples that it had are no reason for another.
    pub fn record(&mut self, outcome: Outcome, terms: &Terms) {
        let failed = outcome.failed();
        self.tried = if failed {
            self.tried.max(outcome.samples)
        } else {
            0
        };
        self.failures = if failed {
            self.failures.saturating_add(1)
        } else {
            0
        };
        self.setbacks = if outcome.paid(terms) {
            0
        } else {
            self.setbacks.saturating_add(1)
        };
        self.spent = self.spent.on(outcome.at);
        self.spent.bytes = self.spent.bytes.saturating_add(outcome.cost.fetched_bytes);
        self.spent.seconds += outcome.cost.seconds.max(0.0);
        self.outcomes.push_back(outcome);
        while self.outcomes.len() > OUTCOMES_MAX {
            self.outcomes.pop_front();
        }
    }

    /// Somebody else put another version in place: what was tried with the one before says nothing of it.
    pub const fn replaced(&mut self) {
        self.tried = 0;
    }

    /// Somebody wants it to go on after failures.
    pub const fn resume(&mut self) {
        self.failures = 0;
        self.setbacks = 0;
    }

    /// When an attempt may follow the last one: a gap, longer after setbacks; `drifted` waives the gap and not the pause.
    pub(super) fn ready_at(&self, terms: &Terms, drifted: bool) -> Option<Timestamp> {
        let last = self.outcomes.back()?;
        let gap = if drifted { 0 } else { terms.gap_min.as_secs() };
        let pause = match self.setbacks {
            0 => 0,
            many => {
                let doubled = 1_u64.checked_shl(many - 1).unwrap_or(u64::MAX);
                terms
                    .backoff
                    .as_secs()
                    .saturating_mul(doubled)
                    .min(PAUSE_MAX_S)
            }
        };
        let ms = i64::try_from(gap.max(pause).saturating_mul(1000)).unwrap_or(i64::MAX);
        Some(last.at.offset_ms(ms))
    }

    /// Setbacks in a row.
    pub(super) const fn setbacks(&self) -> u32 {
        self.setbacks
    }
}
