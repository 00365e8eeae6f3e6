//! What the votes show.

use serde::{Deserialize, Serialize};

use super::Evidence;
use super::sums::ratio_of;
use crate::rollout::betting::{Bets, Interval};
use crate::rollout::policy::Quality;

/// What labels show.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Votes, or rounds of votes, that it is drawn from.
    pub units: u64,
    /// The candidate's loss as a share of the other's, and between what it lies.
    pub ratio: Interval,
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

impl Evidence {
    /// Candidate against active version in shadows: by nodes and by rounds, each at half of the policy's alpha.
    pub(in crate::rollout) fn by_nodes(&self, quality: &Quality) -> Found {
        found(&self.head.nodes, quality, quality.alpha / 2.0)
    }

    /// See [`Self::by_nodes`].
    pub(in crate::rollout) fn by_rounds(&self, quality: &Quality) -> Found {
        found(&self.head.rounds, quality, quality.alpha / 2.0)
    }

    /// Candidate against control nodes, at the policy's alpha.
    pub(in crate::rollout) fn by_pairs(&self, quality: &Quality) -> Found {
        found(&self.head.pairs, quality, quality.alpha)
    }
}

fn found(bets: &Bets, quality: &Quality, alpha: f64) -> Found {
    let votes = bets.interval(alpha);
    let shown = if votes.low > 0.0 {
        Shown::Worse
    } else if votes.high < 0.0 {
        Shown::GoodEnough
    } else {
        Shown::Nothing
    };
    let ratio = |vote| ratio_of(vote, quality.loss_ratio_max);
    Found {
        units: bets.len() as u64,
        ratio: Interval {
            estimate: ratio(votes.estimate),
            low: ratio(votes.low),
            high: ratio(votes.high),
        },
        shown,
    }
}
