//! Rollouts wave by wave: what a campaign is, what people and the clock do to it, and how each step explains itself.
//!
//! Everything here plans: it takes the state, an input and the time, and hands out a [`Step`]. The shell persists the
//! step's campaign, its release and its audit note in one commit, then applies it with [`Campaigns::apply`] and
//! [`super::Book::apply`], and only then publishes. Whatever is not applied can be planned again.

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_models::id::RolloutId;
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::{Digest, GroupId, ModelName, Timestamp, V1};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::audit::{Actor, Note};
use super::evidence::Evidence;
use super::policy::{OnFail, Policy, PolicyError};
use super::{PlanError, Rollout, Target, Terms};

mod act;
mod census;
mod gate;
mod revoke;
mod tick;
mod words;

pub use census::{CRASHES_PER_NODE_MAX, Census};
pub(super) use census::{concerned, groups_with};
pub use gate::Assessment;
pub use revoke::{ParseReasonError, REASON_BYTES_MAX, Reason, Revocation};
pub(super) use words::{count, who};

/// Most campaigns that are remembered of a target, the current one included.
pub const CAMPAIGNS_PER_TARGET_MAX: usize = 16;
/// Most steps that a campaign remembers; the audit log has them all.
pub const STEPS_MAX: usize = 64;

/// One rollout of a candidate, from its first wave to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// Format version.
    pub v: V1,
    /// Its name, which is hashed with the nodes' names.
    pub id: RolloutId,
    /// What it is about.
    pub target: Target,
    /// What the group ran when it began, and goes back to.
    pub from: BundleRef,
    /// What the group is to run.
    pub to: BundleRef,
    /// How it spreads.
    pub policy: Policy,
    /// Who started it.
    #[serde(rename = "started_by")]
    pub by: Actor,
    /// When, by the coordinator's clock.
    pub started_at: Timestamp,
    /// How far it is. In an object of its own: some states have a time and an actor of theirs.
    pub state: State,
    /// What was done, oldest first; at most [`STEPS_MAX`].
    pub steps: Vec<Done>,
}

/// How far a campaign is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// A wave is out.
    Running {
        /// Which.
        stage: Stage,
    },
    /// A wave is out, and something stands against the next one. When `why` passes by itself, so does this; otherwise it
    /// waits for somebody.
    Held {
        /// Which.
        stage: Stage,
        /// Since when.
        at: Timestamp,
        /// What stands against it.
        why: Why,
        /// In words.
        words: String,
    },
    /// A wave is out, and somebody wants no further step.
    Paused {
        /// Which.
        stage: Stage,
        /// Since when.
        at: Timestamp,
        /// Who.
        by: Actor,
    },
    /// The candidate is the stable version.
    Promoted {
        /// Since when.
        at: Timestamp,
        /// Who did it.
        by: Actor,
    },
    /// It is over without.
    Aborted {
        /// Since when.
        at: Timestamp,
        /// Who did it.
        by: Actor,
        /// What became of the nodes that had it.
        how: Ending,
        /// Why.
        why: Why,
    },
}

/// A wave that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its number, from 0.
    pub wave: u16,
    /// Since when.
    pub since: Timestamp,
    /// Labels that had come when it began.
    #[serde(default)]
    pub labels_before: u64,
    /// Nodes that were exposed when it began.
    #[serde(default)]
    pub nodes_before: u64,
    /// Who agreed to what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Actor>,
}

/// What becomes of nodes that have the candidate of a campaign that is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// They keep it.
    Kept,
    /// They go back.
    Reverted,
}

/// Why a campaign does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The wave is not old enough.
    Soaking,
    /// Nodes are not done with their trial.
    Reports,
    /// The deadline is over, and too few nodes reported.
    TooFewReports,
    /// Too few labels came, or they stopped.
    Labels,
    /// The labels show neither that it is good enough nor that it is too bad.
    Inconclusive,
    /// Somebody must agree.
    Approval,
    /// The bytes of the day are given out.
    ByteBudget,
    /// Too many nodes refused it or went back.
    Failed,
    /// Too many agents crashed with it.
    Crashes,
    /// It is too slow.
    Slow,
    /// It is shown to be worse than the policy allows.
    Worse,
    /// It was revoked.
    Revoked,
    /// The update topic has another release.
    Superseded,
    /// Somebody paused it.
    Paused,
    /// Somebody ended it.
    Operator,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
    /// The release that it made, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
    /// In words.
    pub words: String,
}

/// What somebody does to a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// No further step.
    Pause,
    /// Further steps, after a pause or a hold.
    Resume,
    /// What follows this wave may begin once its gate is passed.
    Approve,
    /// It ends.
    Abort {
        /// What becomes of nodes that have the candidate.
        how: Ending,
    },
    /// The candidate becomes the stable version now, whatever waves and gates are left.
    Promote,
}

/// What is to be persisted in one commit, applied, and then published.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The campaign as it is afterwards; none when a group goes to a version without one.
    pub campaign: Option<Campaign>,
    /// The new release, where it changes.
    pub rollout: Option<Rollout>,
    /// For the audit log.
    pub note: Note,
}

/// What a look at a campaign comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The campaign.
    pub id: RolloutId,
    /// What it is about.
    pub target: Target,
    /// What follows.
    pub verdict: Verdict,
    /// In one to three sentences, with the numbers.
    pub words: String,
    /// The numbers.
    pub assessment: Assessment,
    /// What is to be done; none when nothing changes, which is what most looks come to.
    pub step: Option<Step>,
}

/// What follows from a look at a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The next wave begins.
    Advance {
        /// Its number, from 0.
        wave: u16,
    },
    /// The candidate becomes the stable version.
    Promote,
    /// It stays as it is.
    Hold {
        /// Why.
        why: Why,
    },
    /// It ends.
    Abort {
        /// Why.
        why: Why,
        /// What becomes of nodes that have the candidate.
        how: Ending,
    },
}

/// What a look at a campaign needs besides the campaign.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// Time, release lifetime, newest sequence seen.
    pub terms: Terms,
    /// How long a node may be silent.
    pub stale_after: Duration,
    /// Bytes of the candidate's bundle that were given out today (UTC).
    pub bytes_today: u64,
}

/// A campaign to begin.
#[derive(Clone, Debug)]
pub struct Start {
    /// Drawn at random.
    pub id: RolloutId,
    /// What it is about.
    pub target: Target,
    /// What the group is to run.
    pub to: BundleRef,
    /// How it spreads.
    pub policy: Policy,
    /// Who starts it.
    pub by: Actor,
}

/// Why an action is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The policy cannot be.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The book refuses it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There is nothing to compare with.
    #[error(
        "group {group} runs no version of {model} yet, so that there is nothing to compare a candidate with: start the first one with `lamppost rollout start {model} {version} --group {group} --all-at-once`"
    )]
    First {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
    },
    /// Another one is under way.
    #[error(
        "{model} in group {group} has rollout {id} to {version} under way, {state}: abort or promote it first"
    )]
    UnderWay {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The other one.
        id: RolloutId,
        /// Where to.
        version: Version,
        /// How far it is, in a word.
        state: &'static str,
    },
    /// There is none.
    #[error(
        "{model} in group {group} has no rollout under way: `lamppost rollout ls` shows what there is"
    )]
    None {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
    },
    /// Nobody would take it.
    #[error(
        "no node that was ever heard of takes releases of {model} for group {group}: `lamppost node ls` shows the groups of each"
    )]
    Nobody {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
    },
    /// It does not fit the state.
    #[error("rollout {id} of {model} in group {group} is {state}: {mend}")]
    State {
        /// The campaign.
        id: RolloutId,
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// How far it is, in a word.
        state: &'static str,
        /// What can be done.
        mend: &'static str,
    },
    /// The bundle is revoked.
    #[error(
        "{model} {version} is revoked in group {group}: no node would run it; push a new version"
    )]
    Revoked {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
    },
    /// It is revoked, and is to be revoked again.
    #[error(
        "{digest} of {model} is revoked in group {group} already, by the release that holds (sequence {sequence})"
    )]
    RevokedAlready {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The bundle.
        digest: Digest,
        /// The release.
        sequence: Sequence,
    },
    /// The group would be left with nothing to run.
    #[error(
        "{model} {version} is what group {group} runs: say with --to VERSION (\"to\") which other version it is to run instead"
    )]
    Homeless {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
    },
    /// The group would go to another version without need.
    #[error(
        "group {group} runs {model} {runs}, which is not the bundle to revoke: leave out --to {to} (\"to\"), or go there with `lamppost rollout rollback {model} --group {group} --to {to}`"
    )]
    Settled {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// What it runs.
        runs: Version,
        /// Where it was to go.
        to: Version,
    },
}

/// All campaigns that are remembered.
#[derive(Clone, Debug, Default)]
pub struct Campaigns {
    /// Oldest first; the last is the current one.
    of_target: BTreeMap<Target, Vec<Kept>>,
}

/// A campaign with what its nodes showed so far.
#[derive(Clone, Debug)]
struct Kept {
    campaign: Campaign,
    evidence: Evidence,
}

impl State {
    /// The wave that is out, while it is not over.
    pub const fn stage(&self) -> Option<&Stage> {
        match self {
            Self::Running { stage } | Self::Held { stage, .. } | Self::Paused { stage, .. } => {
                Some(stage)
            }
            Self::Promoted { .. } | Self::Aborted { .. } => None,
        }
    }

    /// In a word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Held { .. } => "held",
            Self::Paused { .. } => "paused",
            Self::Promoted { .. } => "promoted",
            Self::Aborted {
                how: Ending::Kept, ..
            } => "aborted, kept where it is",
            Self::Aborted {
                how: Ending::Reverted,
                ..
            } => "aborted, reverted",
        }
    }
}

impl Why {
    /// Whether it says that the candidate is not good.
    pub const fn fails(self) -> bool {
        match self {
            Self::Failed | Self::Crashes | Self::Slow | Self::Worse => true,
            Self::Soaking
            | Self::Reports
            | Self::TooFewReports
            | Self::Labels
            | Self::Inconclusive
            | Self::Approval
            | Self::ByteBudget
            | Self::Revoked
            | Self::Superseded
            | Self::Paused
            | Self::Operator => false,
        }
    }

    /// Whether it is more than the course of a wave: somebody should hear of it.
    const fn worth_a_step(self) -> bool {
        match self {
            Self::Soaking | Self::Reports | Self::ByteBudget | Self::Paused => false,
            Self::TooFewReports
            | Self::Labels
            | Self::Inconclusive
            | Self::Approval
            | Self::Failed
            | Self::Crashes
            | Self::Slow
            | Self::Worse
            | Self::Revoked
            | Self::Superseded
            | Self::Operator => true,
        }
    }
}

impl From<OnFail> for Option<Ending> {
    fn from(on_fail: OnFail) -> Self {
        match on_fail {
            OnFail::AbortRevert => Some(Ending::Reverted),
            OnFail::AbortKeep => Some(Ending::Kept),
            OnFail::Hold => None,
        }
    }
}

#[cfg(test)]
pub(in crate::rollout) mod tests;
