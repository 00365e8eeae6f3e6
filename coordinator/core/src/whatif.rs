//! What a rollout would come to on a fleet, played before it begins: the engine is the one of [`crate::rollout::campaign`], its
//! reports come from simulated nodes, and its clock and all chance from a seed.
//!
//! What a node does here is a model of what an agent does, and simpler:
//!
//! - it hears of a release a second after it, unless it is away, which it then is for the whole run;
//! - it waits for the policy's hours (in UTC), for one of the places of its backhaul, and for the bytes of the day; then it
//!   downloads at the rate of its backhaul, all bytes of the bundle, and checks it for `node::CHECK`;
//! - windows and labels come evenly, as many an hour as is said. Losses are those of normal errors of the same spread for both
//!   versions, which agree in part, times [`Behaviour`]'s ratio and a factor of the node's own of some per cent;
//! - it goes through shadow and probation by the policy's terms, and refuses what is slower, crashes, or has an error that is
//!   larger than the terms allow by more than two standard errors; then it is done;
//! - it reports at once when its state changes, and otherwise as often as is said.
//!
//! The coordinator looks every `world::LOOK_MS`. Waves that wait for somebody are approved at once.
//!
//! - `opening`: how a run begins; `node`: a node; `depot`: who may download; `world`: what happens when.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lamppost_models::id::TagValue;
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::{Share, Tags};
use lamppost_models::{GroupId, NodePath, Timestamp};
use serde::{Deserialize, Serialize};

use crate::rollout::campaign::{Ending, Refusal, Why};
use crate::rollout::plan::Plan;
use crate::rollout::policy::{Bytes, Policy, Span};
use crate::rollout::{Book, Target};

mod depot;
mod node;
mod opening;
mod rng;
mod world;

/// Most nodes of one run: each look of the coordinator is at all of them, and a larger fleet behaves as one of this size does.
pub const NODES_MAX: usize = 20_000;

/// What is played.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What groups run; with a release of the model for the group.
    pub book: Book,
    /// The nodes that take that release.
    pub nodes: Vec<Member>,
    /// Group and model.
    pub target: Target,
    /// What the group is to run.
    pub to: BundleRef,
    /// How it spreads; without one, as a rollout without a policy does: the built-in one, after a first wave of one node.
    pub policy: Option<Policy>,
    /// How good it is.
    pub candidate: Behaviour,
    /// How fast downloads are.
    pub rates: Rates,
    /// How many of the nodes are away besides those that are away already.
    pub away: Share,
    /// How often a node reports.
    pub report_every: Duration,
    /// Windows of a node in an hour.
    pub windows_per_hour: f64,
    /// Labels of a node in an hour.
    pub labels_per_hour: f64,
    /// When it begins.
    pub begins: Timestamp,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where it is.
    pub path: NodePath,
    /// Its groups.
    pub groups: Vec<GroupId>,
    /// Its tags.
    pub tags: Tags,
    /// Whether it is there.
    pub reachable: bool,
}

/// How good a candidate is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// As good as what runs.
    Fine,
    /// Its error is larger by so many per cent.
    Worse(f64),
    /// It crashes at its first window.
    Crashes,
    /// It takes so many times as long.
    Slow(f64),
}

/// Why a string is no [`Behaviour`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "candidate {value:?} is not fine, crashes, worse=PER CENT (such as worse=20, above -100) or slow=TIMES (such as slow=2, above 0)"
)]
pub struct ParseBehaviourError {
    value: String,
}

/// How many bytes one download brings in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Where nothing else is said.
    pub rate: Bytes,
    /// By what the tag `backhaul` says.
    #[serde(default)]
    pub backhaul: BTreeMap<TagValue, Bytes>,
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of which seed.
    pub seed: u64,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// When, since the beginning.
    pub took: Span,
    /// The last decision, in its words.
    pub words: String,
    /// The waves that began.
    pub waves: Vec<Begun>,
    /// Nodes that were exposed before the end, at most.
    pub exposed: u64,
    /// Nodes on which the candidate made predictions that somebody saw, before the end.
    pub live: u64,
    /// Bytes that all nodes fetched, those of the promotion included.
    pub bytes: u64,
    /// The same by what the tag `backhaul` says; nodes without one are under `-`.
    pub bytes_by_backhaul: BTreeMap<String, u64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// The candidate became the stable version.
    Promoted,
    /// It ended without.
    Aborted {
        /// Why.
        why: Why,
        /// What became of the nodes that had it.
        how: Ending,
    },
    /// It went on for longer than is played.
    Open,
}

/// A wave that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its number, from 1.
    pub wave: u16,
    /// When, since the beginning.
    pub after: Span,
    /// Nodes that were exposed from then on, in all.
    pub nodes: u64,
}

impl Scenario {
    /// Plays one run.
    ///
    /// # Errors
    /// [`Refusal`] when no rollout could begin so.
    pub fn run(&self, seed: u64) -> Result<Outcome, Refusal> {
        Ok(world::World::begin(self, seed)?.play())
    }

    /// What `lamppost rollout plan` says of the same, for one of the seeds: the hash draws the cohorts.
    ///
    /// # Errors
    /// The same [`Refusal`]s, and policies that this fleet cannot meet.
    pub fn plan(&self, seed: u64) -> Result<Plan, Refusal> {
        opening::plan(self, seed)
    }
}

impl Rates {
    /// Of a node with these tags.
    fn of(&self, tags: &Tags) -> f64 {
        let backhaul = tags.get(depot::BACKHAUL);
        let rate = backhaul.and_then(|backhaul| self.backhaul.get(backhaul));
        rate.unwrap_or(&self.rate).0.max(1) as f64
    }
}

impl Behaviour {
    /// Its loss, the active version's being 1.
    const fn loss_ratio(self) -> f64 {
        match self {
            Self::Worse(per_cent) => 1.0 + per_cent / 100.0,
            Self::Fine | Self::Crashes | Self::Slow(_) => 1.0,
        }
    }

    const fn latency_ratio(self) -> f64 {
        match self {
            Self::Slow(times) => times,
            Self::Fine | Self::Crashes | Self::Worse(_) => 1.0,
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine => f.write_str("fine"),
            Self::Worse(per_cent) => write!(f, "worse={per_cent}"),
            Self::Crashes => f.write_str("crashes"),
            Self::Slow(times) => write!(f, "slow={times}"),
        }
    }
}

impl FromStr for Behaviour {
    type Err = ParseBehaviourError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().ok().filter(|number: &f64| number.is_finite());
        let found = match value.split_once('=') {
            None if value == "fine" => Some(Self::Fine),
            None if value == "crashes" => Some(Self::Crashes),
            Some(("worse", text)) => number(text)
                .filter(|per_cent| *per_cent > -100.0)
                .map(Self::Worse),
            Some(("slow", text)) => number(text).filter(|times| *times > 0.0).map(Self::Slow),
            None | Some(_) => None,
        };
        found.ok_or_else(|| ParseBehaviourError {
            value: value.chars().take(64).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
