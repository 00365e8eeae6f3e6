//! Train, wait or stopped, in words.

use std::fmt;

use lamppost_models::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CURVE, Cost, Known, Learning, Terms};

/// What a training is expected to gain and to cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reckoning {
    /// Share of the error that more samples take away.
    pub growth: f64,
    /// Share of the error that was added since the version went live.
    pub excess: f64,
    /// Both together.
    pub expected: f64,
    /// What earlier trainings gained of what was expected of them.
    pub trust: f64,
    /// What it costs.
    pub cost: Cost,
    /// The same in per cent of the error, at the operator's prices.
    pub cost_percent: f64,
}

impl Reckoning {
    /// What is believed of what is expected, in per cent of the error.
    pub fn believed_percent(&self) -> f64 {
        100.0 * (self.trust * self.expected).min(1.0)
    }

    fn pays(&self) -> bool {
        let believed = self.believed_percent();
        believed > 0.0 && believed >= self.cost_percent
    }
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// Train.
    Train {
        /// What it is expected to bring.
        reckoning: Reckoning,
        /// Why, with the numbers.
        words: String,
    },
    /// Not yet.
    Wait {
        /// When to look again at the latest, where time alone is what is missing.
        until: Option<Timestamp>,
        /// What for, with the numbers.
        words: String,
    },
    /// Not until somebody says so.
    Stopped {
        /// Why, and what starts it again.
        words: String,
    },
}

impl Decision {
    /// Why, with the numbers.
    pub fn words(&self) -> &str {
        match self {
            Self::Train { words, .. } | Self::Wait { words, .. } | Self::Stopped { words } => words,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Train { .. } => "train",
            Self::Wait { .. } => "wait",
            Self::Stopped { .. } => "stopped",
        };
        write!(f, "{what}: {}", self.words())
    }
}

impl Learning {
    /// What is to be done now, by these terms and what is known.
    pub fn decide(&self, terms: &Terms, known: &Known, now: Timestamp) -> Decision {
        if self.failures() >= terms.failures_max {
            return Decision::Stopped {
                words: self.stopped(),
            };
        }
        let fresh = self.fresh(known.labelled);
        if let Some(missing) = terms
            .samples_min
            .checked_sub(fresh)
            .filter(|left| *left > 0)
        {
            let words = format!(
                "for {missing} more labelled samples: {fresh} are new since the last attempt, of {} that are asked for",
                terms.samples_min
            );
            return Decision::Wait { until: None, words };
        }
        if let Some(at) = self.ready_at(terms, known.drifted > 0)
            && at > now
        {
            let why = match self.setbacks() {
                0 => "the least time between two trainings".to_owned(),
                1 => "the last training failed or did not pay".to_owned(),
                many => format!("the last {many} trainings failed or did not pay"),
            };
            let words = format!("until {at}: {why}");
            return Decision::Wait {
                until: Some(at),
                words,
            };
        }
        let reckoning = self.reckon(terms, known);
        if let Some(words) = self.over_budget(terms, &reckoning, now) {
            let until = Some(self.spent(now).over());
            return Decision::Wait { until, words };
        }
        let gain = gain_words(known, &reckoning);
        if reckoning.pays() {
            let words = format!("{fresh} new labelled samples; {gain}");
            return Decision::Train { reckoning, words };
        }
        let more = match samples_wanted(known, terms, &reckoning) {
            Some(more) => format!(
                "; about {more} more labelled samples would make it worth it, or an error that grows"
            ),
            None => "; no number of samples makes it worth it, an error that grows may".to_owned(),
        };
        Decision::Wait {
            until: None,
            words: format!("for a gain that pays: {gain}{more}"),
        }
    }

    /// What a training now is expected to gain and to cost.
    pub fn reckon(&self, terms: &Terms, known: &Known) -> Reckoning {
        let trained = trained_on(known, terms) as f64;
        let growth = 1.0 - (trained / (trained + known.labelled as f64)).powf(CURVE);
        let excess = known.error.map_or(0.0, |error| {
            let added = 1.0 - error.before / error.now;
            let labels = error.labels as f64;
            let sure = if known.drifted > 0 {
                1.0
            } else {
                labels / (labels + terms.samples_min as f64)
            };
            // A ratio of errors that are 0 or no numbers tells nothing.
            if added.is_finite() && added > 0.0 {
                sure * added.min(1.0)
            } else {
                0.0
            }
        });
        let cost = Cost {
            collected_bytes: known.collected_bytes,
            fetched_bytes: known.nodes.saturating_mul(known.bundle_bytes),
            seconds: if known.seconds.is_finite() {
                known.seconds.max(0.0)
            } else {
                0.0
            },
        };
        Reckoning {
            growth,
            excess,
            expected: 1.0 - (1.0 - growth) * (1.0 - excess),
            trust: self.trust(),
            cost,
            cost_percent: cost.percent(terms),
        }
    }

    fn stopped(&self) -> String {
        let last = self.outcomes().next_back();
        let why = last.map_or_else(String::new, |outcome| match &outcome.ended {
            super::Ended::NotBetter { why, .. }
            | super::Ended::Refused { why }
            | super::Ended::Failed { why } => format!(", the last because {why}"),
            super::Ended::Promoted { .. } => String::new(),
        });
        format!(
            "{} trainings in a row failed{why}; `lamppost loop resume` starts it again",
            self.failures()
        )
    }

    fn over_budget(&self, terms: &Terms, reckoning: &Reckoning, now: Timestamp) -> Option<String> {
        let spent = self.spent(now);
        let cost = &reckoning.cost;
        let bytes = spent.bytes.saturating_add(cost.fetched_bytes);
        if let Some(limit) = terms.bytes_per_day.filter(|limit| bytes > limit.0) {
            return Some(format!(
                "until tomorrow (UTC): with {} bytes more, today's new versions would have taken {bytes} bytes over the links, bytes_per_day is {limit}",
                cost.fetched_bytes
            ));
        }
        let seconds = spent.seconds + cost.seconds;
        let over = |limit: &crate::rollout::policy::Span| seconds > limit.as_secs() as f64;
        terms.time_per_day.filter(over).map(|limit| {
            format!(
                "until tomorrow (UTC): with {:.0} s more, today's trainings would have taken {seconds:.0} s, time_per_day is {limit}",
                cost.seconds
            )
        })
    }
}

/// Samples that the active version was trained from, at least as many as anybody would train from.
fn trained_on(known: &Known, terms: &Terms) -> u64 {
    known.trained_on.max(terms.samples_min)
}

fn gain_words(known: &Known, reckoning: &Reckoning) -> String {
    let error = known.error.map_or_else(
        || "no error is known from the edge".to_owned(),
        |error| {
            let drift = match known.drifted {
                0 => String::new(),
                1 => ", drift on 1 node".to_owned(),
                many => format!(", drift on {many} nodes"),
            };
            format!(
                "the error is {:.4}, from {:.4} when it went live ({} labels{drift})",
                error.now, error.before, error.labels
            )
        },
    );
    let Reckoning { cost, .. } = reckoning;
    format!(
        "{error}; expected gain {:.2} % (samples {:.2} %, grown error {:.2} %, trust {:.2}) for {} bytes to {} nodes and {:.0} s, worth {:.2} %; {} bytes were collected",
        reckoning.believed_percent(),
        100.0 * reckoning.growth,
        100.0 * reckoning.excess,
        reckoning.trust,
        cost.fetched_bytes,
        known.nodes,
        cost.seconds,
        reckoning.cost_percent,
        cost.collected_bytes,
    )
}

/// How many more labelled samples would make growth alone enough; none where no number does.
fn samples_wanted(known: &Known, terms: &Terms, reckoning: &Reckoning) -> Option<u64> {
    let expected = reckoning.cost_percent / 100.0 / reckoning.trust;
    let growth = 1.0 - (1.0 - expected) / (1.0 - reckoning.excess);
    if !(0.0..1.0).contains(&growth) {
        return None;
    }
    let trained = trained_on(known, terms) as f64;
    let wanted = trained * ((1.0 - growth).powf(-1.0 / CURVE) - 1.0) - known.labelled as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 1 and a number that an f64 holds exactly"
    )]
    (wanted < 1e12).then(|| wanted.ceil().max(1.0) as u64)
}
