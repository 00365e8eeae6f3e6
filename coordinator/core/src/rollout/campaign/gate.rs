//! Whether a wave may be followed by the next.

use lamppost_models::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Census, Why};
use crate::rollout::betting::Interval;

/// What is known of a campaign at a look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// The wave that is out, from 0; the last one when it is over.
    pub wave: u16,
    /// How many there are.
    pub waves: u16,
    /// Where its nodes are.
    pub census: Census,
    /// Reports that are needed now.
    pub reports_needed: u64,
    /// Until when the wave lasts at least.
    pub soaks_until: Timestamp,
    /// From then on it is judged by the nodes that reported.
    pub deadline: Timestamp,
    /// How much slower the candidate is on the median node, 1 being as fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ratio: Option<f64>,
    /// Labels of both versions since the wave began.
    pub labels: u64,
    /// Candidate against active version, by shadows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<QualityFound>,
    /// Candidate against control nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohorts: Option<QualityFound>,
    /// All that stands against the next wave, the gravest first; empty when nothing does.
    pub against: Vec<Why>,
}

/// What labels show.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QualityFound {
    /// Votes or rounds of votes that it is drawn from.
    pub units: u64,
    /// The candidate's loss as a share of the other's, and between what it lies.
    pub ratio: Interval,
    /// The most it may be.
    pub ratio_max: f64,
    /// What follows.
    pub shown: Shown,
}

/// What is shown with the confidence that the policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// It is no worse than allowed.
    GoodEnough,
    /// It is worse than allowed.
    Worse,
    /// Neither.
    Nothing,
}
