//! What a node found on trial of a version, for the coordinator's gates.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::RolloutId;
use crate::message::Verdict;
use crate::release::Sequence;
use crate::time::Timestamp;

/// Number, mean and spread of values that came one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moments {
    /// How many.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of the squared differences to the mean.
    pub m2: f64,
}

/// The last trial of a model on a node, under way or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialReport {
    /// The version.
    pub version: Version,
    /// The digest of its bundle.
    pub digest: Digest,
    /// The release that wanted it.
    pub release: Sequence,
    /// The rollout it is part of; none for a release to the whole group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// When it began, by the node's clock.
    pub since: Timestamp,
    /// How far it is.
    #[serde(flatten)]
    pub phase: TrialPhase,
    /// Beside the active version, in shadow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Comparison>,
    /// As the active version, in probation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation: Option<Watch>,
    /// Bytes of the bundle that were fetched; the rest was on the disk.
    #[serde(default)]
    pub fetched_bytes: u64,
}

/// How far a trial is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum TrialPhase {
    /// It is fetched, checked or run in shadow; [`crate::message::CandidateSlot`] says which.
    Candidate,
    /// It is active, and the way back is open.
    Probation,
    /// It is active for good.
    Passed,
    /// It was refused before it went live.
    Refused {
        /// Which check failed.
        verdict: Verdict,
        /// What was found, in words.
        detail: String,
    },
    /// It was active, and the node went back.
    RolledBack {
        /// Which check failed.
        verdict: Verdict,
        /// What was found, in words.
        detail: String,
    },
    /// It was no longer wanted before it was over.
    Withdrawn,
}

/// A candidate and the active version on the same windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Comparison {
    /// Windows that both had.
    pub windows: u64,
    /// Windows that the candidate was not given, to stay within its share of the processor.
    pub left_out: u64,
    /// The candidate.
    pub candidate: Side,
    /// The active version.
    pub active: Side,
    /// Difference of their predictions: absolute, in their unit, or 1 for another label.
    pub disagreement: Moments,
    /// The candidate's loss less the active version's, window by window: below 0, the candidate is better.
    pub loss_difference: Moments,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// Inferences that failed.
    pub failures: u64,
    /// Median of the inference time.
    pub latency_p50_us: u64,
    /// 99th percentile of the inference time.
    pub latency_p99_us: u64,
    /// Loss where a label came: the absolute error in the prediction's unit, or 1 for a wrong label.
    pub loss: Moments,
}

/// A new active version under watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// Windows it had.
    pub windows: u64,
    /// Crashes of the agent meanwhile.
    pub crashes: u64,
    /// How it did.
    pub active: Side,
    /// How the version before did, when it was replaced.
    pub before: Side,
}

impl Moments {
    /// Takes in a value, by Welford's update (Technometrics 4, 1962); one that is not finite is passed over.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.n += 1;
        let before = value - self.mean;
        #[expect(clippy::cast_precision_loss, reason = "2^53 values do not come")]
        let n = self.n as f64;
        self.mean += before / n;
        self.m2 += before * (value - self.mean);
    }

    /// The variance with n - 1 in the denominator; 0 for fewer than two values.
    pub fn variance(&self) -> f64 {
        if self.n < 2 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "2^53 values do not come")]
        let n = self.n as f64;
        self.m2 / (n - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_values() {
        let mut moments = Moments::default();
        for value in [
            2.0,
            4.0,
            f64::NAN,
            4.0,
            4.0,
            5.0,
            5.0,
            7.0,
            9.0,
            f64::INFINITY,
        ] {
            moments.add(value);
        }
        assert_eq!(moments.n, 8);
        assert!((moments.mean - 5.0).abs() < 1e-12);
        assert!((moments.variance() - 32.0 / 7.0).abs() < 1e-12);
    }
}
