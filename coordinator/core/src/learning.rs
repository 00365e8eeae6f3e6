//! When it is worth training a model again.
//!
//! [`Terms`] are what an operator asks for, [`Known`] what is seen now, [`Learning`] what is remembered: what earlier
//! trainings were expected to gain, what they gained on the edge, and what they cost. [`Learning::decide`] says train, wait
//! or stopped, in words with their numbers.
//!
//! # The rule
//! A training is worth it when the gain that it is expected to bring, in per cent of the error, is at least what it costs,
//! in per cent at the operator's prices: the return on investment of an adaptation (Žliobaitė, Budka and Stahl, "Towards
//! cost-sensitive adaptation: when is it worth updating your predictive model?", Neurocomputing 150, 2015).
//!
//! - *Growth*: errors fall with the number of samples as a power of it, `n^-b` (Hestness et al., arXiv 1712.00409, who find
//!   `b` from 0.07 to 0.35 on real problems; [`CURVE`] lies between). A model trained on `n` samples that gets `m` more is
//!   expected to lose `1 - (n / (n + m))^b` of its error.
//! - *Excess*: of an error that has grown since the version went live, training is expected to win back what was added. A
//!   mean over few labels is noise: unless a change detector on a node has already told the growth from noise, it is shrunk by
//!   `labels / (labels + samples_min)`, as an empirical Bayes estimate of a mean is.
//! - *Trust*: both are multiplied by what earlier trainings gained over what was expected of them, newer ones counting
//!   more ([`MEMORY`]), beside a first one that gained just what was expected ([`PRIOR`]).
//!
//! What samples cost to collect is told and remembered and does not decide: it is spent when the question comes up, and to
//! hold it against a training would put off the one that could make use of most. A node's sampling budget bounds it.
//!
//! # More from the same samples
//! [`between`](between()) cuts the windows between samples out of their readings, where they overlap: one window a day then teaches as
//! much as all of them.
//!
//! # Failures
//! Trainings that fail or gain less than they cost are followed by pauses that double; after some failures in a row the loop
//! stops until somebody resumes it.

mod between;
mod decide;
mod state;
mod terms;

pub use between::{Cut, LATER_MIN, Piece, between};
pub use decide::{Decision, Reckoning};
pub use state::{Cost, Ended, Learning, OUTCOMES_MAX, Outcome, Spent};
pub use terms::Terms;

use lamppost_models::message::ReportedDrift;

use crate::rollout::policy::PolicyError;

/// The exponent of the learning curve.
pub const CURVE: f64 = 0.2;
/// How much an earlier training counts, for each that came after it: half after two.
pub const MEMORY: f64 = 0.7;
/// What the training that never was is taken to have gained, as was expected: a twentieth of the error.
pub const PRIOR: f64 = 0.05;

/// What is known now of a model in a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Samples that the active version was trained from; 0 where nobody knows.
    pub trained_on: u64,
    /// Labelled samples that it was not trained from.
    pub labelled: u64,
    /// Bytes that those took on their way to the centre.
    pub collected_bytes: u64,
    /// Nodes that would fetch a new version.
    pub nodes: u64,
    /// Bytes that a node fetches of a new version.
    pub bundle_bytes: u64,
    /// Seconds that a training takes; 0 before the first.
    pub seconds: f64,
    /// Nodes whose change detector says that errors have grown.
    pub drifted: u64,
    /// Errors of the active version, where labels came.
    pub error: Option<ErrorNow>,
}

/// The error of the active version on the edge, of all nodes together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorNow {
    /// When it went live.
    pub before: f64,
    /// Lately.
    pub now: f64,
    /// Labels that `now` is a mean of.
    pub labels: u64,
}

impl ErrorNow {
    /// As a node reports it; none before there are recent periods to hold against the reference.
    pub fn of(drift: &ReportedDrift) -> Option<Self> {
        let error = drift.error?;
        // Windows of the periods that are not the reference, of which each has a label at most.
        let later = drift.periods.saturating_sub(drift.reference);
        Some(Self {
            before: error.before,
            now: error.now?,
            labels: drift.windows.saturating_mul(later) / drift.periods.max(1),
        })
    }
}

/// Whether a node's change detector says that errors have grown.
pub fn has_grown(drift: &ReportedDrift) -> bool {
    drift.error.is_some_and(|error| error.cusum > error.limit)
}

#[cfg(test)]
mod tests;
