//! Which version of a model a group runs, and what it ran before.
//!
//! Every step is planned here, then persisted by the shell, then applied here, and only then published: a coordinator
//! that is killed between any two of these goes on from what it persisted.

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_models::id::RolloutId;
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::rollout::{Candidate, Hours, TrialTerms};
use lamppost_models::{Digest, GroupId, ModelName, Release, Timestamp, V1};
use semver::Version;
use serde::{Deserialize, Serialize};

pub mod audit;
pub mod betting;
pub mod campaign;
pub mod evidence;
pub mod plan;
pub mod policy;
mod steps;

pub use steps::Change;

/// Most rollouts that are remembered of a model in a group: a rollback reaches that far, and a history reads well.
pub const HISTORY_MAX: usize = 64;
/// Most pairs of a group and a model: the retained releases of all take some 10 MB in the broker.
pub const UPDATE_TOPICS_MAX: usize = 10_000;

/// A model in a group: what an update topic is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// Who takes the releases.
    pub group: GroupId,
    /// The model.
    pub model: ModelName,
}

/// One step in the life of a model in a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Format version.
    pub v: V1,
    /// What it is about.
    #[serde(flatten)]
    pub target: Target,
    /// Its place, which is that of its release.
    pub sequence: Sequence,
    /// What every node of the group is to run that is not meant by the candidate.
    pub stable: BundleRef,
    /// What some nodes of the group are to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// What a node checks before and after it changes to another bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialTerms>,
    /// When nodes download and change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Bundles that must not run, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Digest>,
    /// What it replaced, and a rollback of it restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Sequence>,
    /// What made it.
    #[serde(flatten)]
    pub cause: Cause,
    /// When it was started, by the coordinator's clock.
    pub started_at: Timestamp,
    /// When its release was signed last.
    pub issued_at: Timestamp,
    /// When that signature expires.
    pub expires_at: Timestamp,
}

/// What made a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Somebody started it.
    Start,
    /// Somebody rolled another one back.
    Rollback {
        /// Which one.
        of: Sequence,
    },
    /// A campaign exposed more nodes to its candidate.
    Wave {
        /// The campaign.
        rollout: RolloutId,
        /// The wave, from 0.
        wave: u16,
    },
    /// A campaign made its candidate the stable version.
    Promote {
        /// The campaign.
        rollout: RolloutId,
    },
    /// A campaign took its candidate back.
    Abort {
        /// The campaign.
        rollout: RolloutId,
    },
    /// Somebody revoked a bundle.
    Revoke,
}

/// Why a step cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The group already runs this very bundle.
    #[error(
        "{model} {version} is already the release of group {group} (sequence {sequence}): there is nothing to start"
    )]
    Already {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
        /// The rollout that did it.
        sequence: Sequence,
    },
    /// The group has no release of this model.
    #[error(
        "group {group} has no release of {model}: start one with `lamppost rollout start {model} VERSION --group {group}`"
    )]
    NoRelease {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
    },
    /// There is nothing before the current rollout.
    #[error(
        "{model} in group {group} cannot be rolled back: no version that came before sequence {sequence} is remembered"
    )]
    NothingBefore {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
        /// The current rollout.
        sequence: Sequence,
    },
    /// There are too many update topics.
    #[error(
        "{UPDATE_TOPICS_MAX} models in groups have a release, the limit: group {group} cannot have one of {model} too"
    )]
    TooManyTopics {
        /// The group.
        group: GroupId,
        /// The model.
        model: ModelName,
    },
}

/// Under which terms a step is taken.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The coordinator's clock.
    pub now: Timestamp,
    /// How long the release is valid.
    pub lifetime: Duration,
    /// The newest sequence that any node says it took in of this model, 0 for none. A coordinator that lost its book must
    /// go on above it, or its releases would be refused as old ones.
    pub seen: Sequence,
}

impl Terms {
    fn after(&self, current: Option<&Rollout>) -> Sequence {
        let last = current.map_or(self.seen, |current| current.sequence.max(self.seen));
        Sequence(last.0.saturating_add(1))
    }
}

/// All rollouts, by what they are about.
#[derive(Clone, Debug, Default)]
pub struct Book {
    histories: BTreeMap<Target, BTreeMap<Sequence, Rollout>>,
}

impl Rollout {
    /// The release that says so.
    pub fn release(&self) -> Release {
        Release {
            schema: V1,
            group: self.target.group.clone(),
            model: self.target.model.clone(),
            sequence: self.sequence,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            stable: self.stable.clone(),
            candidate: self.candidate.clone(),
            trial: self.trial.clone(),
            hours: self.hours,
            revoked: self.revoked.clone(),
        }
    }

    /// From when on the release should be signed anew: two thirds of its life are over, so that a coordinator that is
    /// away for a third of it leaves no node without a valid release.
    pub fn renewal_due(&self) -> Timestamp {
        let life_ms = self.expires_at.ms_since(self.issued_at).max(0);
        self.issued_at.offset_ms(life_ms / 3 * 2)
    }

    /// The same rollout with a fresh signature time; the sequence stays, since nothing else changed.
    #[must_use]
    pub fn renewed(&self, now: Timestamp, lifetime: Duration) -> Self {
        Self {
            issued_at: now,
            expires_at: now.after(lifetime),
            ..self.clone()
        }
    }
}

impl Book {
    /// A book with no rollouts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans that every node of the group runs `bundle`.
    ///
    /// # Errors
    /// [`PlanError`] when they already do, or there are too many update topics.
    pub fn plan_start(
        &self,
        target: &Target,
        bundle: BundleRef,
        terms: Terms,
    ) -> Result<Rollout, PlanError> {
        let current = self.current(target);
        let Target { group, model } = target.clone();
        match current {
            Some(current) if current.stable == bundle && current.candidate.is_none() => {
                let (version, sequence) = (bundle.version, current.sequence);
                return Err(PlanError::Already {
                    group,
                    model,
                    version,
                    sequence,
                });
            }
            None if self.histories.len() >= UPDATE_TOPICS_MAX => {
                return Err(PlanError::TooManyTopics { group, model });
            }
            Some(_) | None => {}
        }
        Ok(Rollout {
            v: V1,
            target: target.clone(),
            sequence: terms.after(current),
            stable: bundle,
            candidate: None,
            trial: None,
            hours: None,
            revoked: current.map_or_else(Vec::new, |current| current.revoked.clone()),
            replaces: current.map(|current| current.sequence),
            cause: Cause::Start,
            started_at: terms.now,
            issued_at: terms.now,
            expires_at: terms.now.after(terms.lifetime),
        })
    }

    /// Plans that the group runs again what the current rollout replaced; a further rollback goes further back.
    ///
    /// # Errors
    /// [`PlanError`] when there is no current rollout, or nothing before it.
    pub fn plan_rollback(&self, target: &Target, terms: Terms) -> Result<Rollout, PlanError> {
        let Target { group, model } = target.clone();
        let Some(current) = self.current(target) else {
            return Err(PlanError::NoRelease { group, model });
        };
        let sequence = current.sequence;
        let before = current
            .replaces
            .and_then(|replaced| self.get(target, replaced));
        let Some(before) = before else {
            return Err(PlanError::NothingBefore {
                group,
                model,
                sequence,
            });
        };
        Ok(Rollout {
            sequence: terms.after(Some(current)),
            stable: before.stable.clone(),
            candidate: None,
            trial: None,
            hours: None,
            replaces: before.replaces,
            cause: Cause::Rollback { of: sequence },
            started_at: terms.now,
            issued_at: terms.now,
            expires_at: terms.now.after(terms.lifetime),
            ..current.clone()
        })
    }

    /// The remembered rollout that there is no room for when `rollout` is applied; to be deleted in the same commit.
    pub fn displaced_by(&self, rollout: &Rollout) -> Option<&Rollout> {
        let history = self.histories.get(&rollout.target)?;
        let full = history.len() >= HISTORY_MAX && !history.contains_key(&rollout.sequence);
        if full { history.values().next() } else { None }
    }

    /// Takes in a rollout that is persisted.
    pub fn apply(&mut self, rollout: Rollout) {
        let history = self.histories.entry(rollout.target.clone()).or_default();
        history.insert(rollout.sequence, rollout);
        while history.len() > HISTORY_MAX {
            history.pop_first();
        }
    }

    /// The rollout that holds for a model in a group.
    pub fn current(&self, target: &Target) -> Option<&Rollout> {
        self.histories.get(target)?.values().next_back()
    }

    /// A remembered rollout.
    pub fn get(&self, target: &Target, sequence: Sequence) -> Option<&Rollout> {
        self.histories.get(target)?.get(&sequence)
    }

    /// The rollouts that hold, by group and model.
    pub fn all_current(&self) -> impl Iterator<Item = &Rollout> {
        self.histories
            .values()
            .filter_map(|history| history.values().next_back())
    }

    /// All remembered rollouts of a model in a group, oldest first.
    pub fn history(&self, target: &Target) -> impl Iterator<Item = &Rollout> {
        self.histories
            .get(target)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The rollouts that hold and whose release should be signed anew.
    pub fn due(&self, now: Timestamp) -> Vec<Rollout> {
        self.all_current()
            .filter(|rollout| rollout.renewal_due() <= now)
            .cloned()
            .collect()
    }

    /// The group among `groups`, in their order, whose release of `model` a node takes.
    pub fn deciding<'a>(&self, model: &ModelName, groups: &'a [GroupId]) -> Option<&'a GroupId> {
        let has = |group: &&GroupId| {
            let target = Target {
                group: (*group).clone(),
                model: model.clone(),
            };
            self.histories.contains_key(&target)
        };
        groups.iter().find(has)
    }
}

#[cfg(test)]
mod tests;
