//! What groups run: started, rolled back and renewed; persisted, then applied; the caller publishes.

use std::collections::BTreeSet;

use lamppost_coordinator_core::progress::{self, Summary};
use lamppost_coordinator_core::rollout::audit::Actor;
use lamppost_coordinator_core::rollout::campaign::{Campaigns, Refusal, Revocation, Start};
use lamppost_coordinator_core::rollout::plan::{Pace, Plan};
use lamppost_coordinator_core::rollout::policy::{Policy, Wave};
use lamppost_coordinator_core::rollout::{PlanError, Rollout, Target, Terms};
use lamppost_models::id::RolloutId;
use lamppost_models::release::BundleRef;
use lamppost_models::{Digest, GroupId, ModelName, NodePath, Timestamp};
use lamppost_store::{StoreError, Write};
use semver::Version;

use super::{State, json, keys};
use crate::api::{BundleName, CampaignView, RevokeBundle, RolloutPlan, RolloutView, StartRollout};
use crate::downloads::Downloads;

/// Groups that a refusal names.
const GROUPS_NAMED_MAX: usize = 8;

/// Why a rollout does not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolloutError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the registry has no {name} {version}: push it with `lamppost model push`")]
    NoModel { name: ModelName, version: Version },
    #[error(
        "no version of {name} in the registry, no release of group {group} that is remembered and no node's report has the bundle {digest}: `lamppost model ls --json` has the digests"
    )]
    NoBundle {
        name: ModelName,
        group: GroupId,
        digest: Digest,
    },
    #[error("a rollout is all at once or follows a policy, not both: leave one of them out")]
    Contradiction,
    #[error(
        "no node that was heard of is in group {group}, {known}; to have it run by nodes that come later, use --all-at-once (\"all_at_once\": true)"
    )]
    NobodyIn { group: GroupId, known: String },
    #[error(
        "policy: bytes_per_day is {bytes_per_day}, and one bundle of {name} {version} has {bytes} bytes: raise it, or no node ever gets it"
    )]
    Budget {
        name: ModelName,
        version: Version,
        bytes: u64,
        bytes_per_day: u64,
    },
    #[error("the store cannot take it in")]
    Store(#[from] StoreError),
}

/// Which nodes an answer has: by site and node, those behind one, so many at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodePage {
    pub(crate) after: Option<NodePath>,
    pub(crate) limit: usize,
}

/// How a version reaches the nodes of a group.
enum How {
    /// All of them now, and why.
    AtOnce(&'static str),
    Waves(Box<Policy>),
}

impl State {
    /// Decides that a group comes to run a version of the registry: at once, or wave by wave. It is durable when this returns, and
    /// not published. Gives what is to be thought of.
    pub(crate) fn start(
        &mut self,
        wanted: StartRollout,
        by: Actor,
        id: RolloutId,
        now: Timestamp,
    ) -> Result<Vec<String>, RolloutError> {
        let target = wanted.target();
        let to = self.bundle(&target.model, &wanted.version)?;
        let terms = self.terms(&target, now);
        let (step, warnings) = match self.how(wanted, (id, &target, &to), now)? {
            How::AtOnce(_) => {
                let release = self
                    .campaigns
                    .plan_release(&self.book, &target, to, &by, terms)?;
                (release, Vec::new())
            }
            How::Waves(policy) => {
                let start = Start {
                    id,
                    target,
                    to,
                    policy: *policy,
                    by,
                };
                let plan = self.plan_waves(&start, now)?;
                let first = self.campaigns.plan_start(&self.book, start, terms)?;
                (first, plan.warnings)
            }
        };
        self.take_step(step, now)?;
        Ok(warnings)
    }

    /// What [`start`](Self::start) would do.
    pub(crate) fn plan(
        &self,
        wanted: StartRollout,
        id: RolloutId,
        now: Timestamp,
    ) -> Result<RolloutPlan, RolloutError> {
        let target = wanted.target();
        let to = self.bundle(&target.model, &wanted.version)?;
        match self.how(wanted, (id, &target, &to), now)? {
            How::Waves(policy) => {
                let start = Start {
                    id,
                    target,
                    to,
                    policy: *policy,
                    by: Actor::coordinator(),
                };
                let plan = self.plan_waves(&start, now)?;
                let policy = Box::new(start.policy);
                Ok(RolloutPlan::Waves { policy, plan })
            }
            How::AtOnce(why) => {
                let (by, terms) = (Actor::coordinator(), self.terms(&target, now));
                // It is refused here for whatever would refuse it then.
                self.campaigns
                    .plan_release(&self.book, &target, to.clone(), &by, terms)?;
                let Summary {
                    nodes, unreachable, ..
                } = self.summary(&target, now);
                Ok(RolloutPlan::AllAtOnce {
                    from: self
                        .book
                        .current(&target)
                        .map(|current| current.stable.clone()),
                    bytes: nodes.saturating_mul(to.bytes),
                    target,
                    to,
                    nodes,
                    unreachable,
                    why: why.to_owned(),
                })
            }
        }
    }

    /// Decides that a group runs at once what it ran before, or another version. It is durable when this returns, and not
    /// published.
    pub(crate) fn roll_back(
        &mut self,
        target: &Target,
        version: Option<&Version>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), RolloutError> {
        let to = version
            .map(|version| self.bundle(&target.model, version))
            .transpose()?;
        let terms = self.terms(target, now);
        let step = self
            .campaigns
            .plan_rollback(&self.book, target, to, by, terms)?;
        self.take_step(step, now)
    }

    /// Decides that a bundle runs nowhere in a group any more. It is durable when this returns, and not published.
    pub(crate) fn revoke(
        &mut self,
        target: &Target,
        wanted: RevokeBundle,
        by: Actor,
        now: Timestamp,
    ) -> Result<(), RolloutError> {
        let RevokeBundle { bundle, reason, to } = wanted;
        let (version, digest) = match bundle {
            BundleName::Version(version) => {
                let digest = self.bundle(&target.model, &version)?.digest;
                (version, digest)
            }
            BundleName::Digest(digest) => (self.known(target, digest)?, digest),
        };
        let to = to
            .map(|version| self.bundle(&target.model, &version))
            .transpose()?;
        let revocation = Revocation {
            target: target.clone(),
            version,
            digest,
            to,
            reason,
            by,
        };
        let terms = self.terms(target, now);
        let step = self.campaigns.plan_revoke(&self.book, &revocation, terms)?;
        self.take_step(step, now)
    }

    /// The version that a digest has in the registry, in a release that is remembered, or on a node: the registry may have been lost.
    fn known(&self, target: &Target, digest: Digest) -> Result<Version, RolloutError> {
        let mut rows = self.models().filter(|row| row.name == target.model);
        if let Some(row) = rows.find(|row| row.digest == digest) {
            return Ok(row.version.clone());
        }
        let released = self.book.history(target).flat_map(|rollout| {
            let candidate = rollout.candidate.as_ref();
            std::iter::once(&rollout.stable).chain(candidate.map(|candidate| &candidate.bundle))
        });
        let released = released.map(|bundle| (bundle.digest, &bundle.version));
        // What a thief of a key released is known from the nodes alone.
        let rows = self.inventory.nodes().filter_map(|entry| {
            let mut rows = entry.reported.as_ref()?.models.iter();
            rows.find(|row| row.name == target.model)
        });
        let reported = rows.flat_map(|row| {
            let slots = row.active.iter().chain(&row.previous);
            let slots = slots.map(|slot| (slot.digest, &slot.version));
            slots.chain(
                row.candidate
                    .iter()
                    .map(|slot| (slot.digest, &slot.version)),
            )
        });
        let mut found = released
            .chain(reported)
            .filter(|(known, _)| *known == digest);
        let found = found.next().map(|(_, version)| version.clone());
        found.ok_or_else(|| RolloutError::NoBundle {
            name: target.model.clone(),
            group: target.group.clone(),
            digest,
        })
    }

    /// Gives every release that expires soon a new life.
    pub(crate) fn renew(&mut self, now: Timestamp) -> Result<Vec<Rollout>, RolloutError> {
        let due = self.book.due(now);
        let lifetime = self.settings.release_lifetime;
        due.into_iter()
            .map(|rollout| {
                let renewed = rollout.renewed(now, lifetime);
                self.commit(&[Write::put(keys::rollout(&renewed), json(&renewed))])?;
                self.book.apply(renewed.clone());
                Ok(renewed)
            })
            .collect()
    }

    pub(super) fn terms(&self, target: &Target, now: Timestamp) -> Terms {
        let seen = self.inventory.newest_release(&target.model);
        Terms {
            now,
            lifetime: self.settings.release_lifetime,
            seen,
        }
    }

    fn bundle(&self, name: &ModelName, version: &Version) -> Result<BundleRef, RolloutError> {
        let row = self.model(name, version);
        let row = row.ok_or_else(|| RolloutError::NoModel {
            name: name.clone(),
            version: version.clone(),
        })?;
        Ok(BundleRef {
            version: row.version.clone(),
            digest: row.digest,
            bytes: row.bytes,
        })
    }

    /// Without a word on it, a new version of what several nodes run goes by the built-in policy: a mistake then meets the first
    /// wave alone. The first version, and a single node, have nothing to compare with.
    fn how(
        &self,
        wanted: StartRollout,
        (id, target, to): (RolloutId, &Target, &BundleRef),
        now: Timestamp,
    ) -> Result<How, RolloutError> {
        let StartRollout {
            policy,
            all_at_once,
            ..
        } = wanted;
        let explicit = policy.is_some();
        if all_at_once {
            return if explicit {
                Err(RolloutError::Contradiction)
            } else {
                Ok(How::AtOnce("that is asked for"))
            };
        }
        let groups = self.groups();
        // Before the first node speaks, a group without nodes is no mistake.
        if !groups.contains(&target.group) && (explicit || !groups.is_empty()) {
            let named: Vec<&str> = groups
                .iter()
                .take(GROUPS_NAMED_MAX)
                .map(|group| group.as_str())
                .collect();
            let known = match (named.len(), groups.len()) {
                (0, _) => "and no node was heard of".to_owned(),
                (some, all) if some < all => {
                    format!("they are in {} and {} more", named.join(", "), all - some)
                }
                _ => format!("they are in {}", named.join(", ")),
            };
            let group = target.group.clone();
            return Err(RolloutError::NobodyIn { group, known });
        }
        Ok(match policy {
            Some(policy) => How::Waves(policy),
            None if self.book.current(target).is_none() => {
                How::AtOnce("the group runs no version of it yet")
            }
            None if self.summary(target, now).nodes < 2 => {
                How::AtOnce("fewer than two nodes of the group use it")
            }
            None => How::Waves(Box::new(self.canary(id, target, to, now))),
        })
    }

    /// The built-in policy with a first wave of a single node: in a small group 5 % may be nobody.
    fn canary(&self, id: RolloutId, target: &Target, to: &BundleRef, now: Timestamp) -> Policy {
        let mut start = Start {
            id,
            target: target.clone(),
            to: to.clone(),
            policy: Policy::canary(),
            by: Actor::coordinator(),
        };
        let around = self.around(target, 0, now);
        let node = Campaigns::first_node(&self.book, &self.inventory, &start, &around);
        let like = start.policy.waves.first().cloned();
        let alone = node.zip(like).map(|(node, like)| Wave {
            share: None,
            nodes: vec![node],
            ..like
        });
        start.policy.waves.splice(0..0, alone);
        start.policy
    }

    fn plan_waves(&self, start: &Start, now: Timestamp) -> Result<Plan, RolloutError> {
        let Start {
            target, to, policy, ..
        } = start;
        if let Some(budget) = policy.bytes_per_day.filter(|budget| budget.0 < to.bytes) {
            return Err(RolloutError::Budget {
                name: target.model.clone(),
                version: to.version.clone(),
                bytes: to.bytes,
                bytes_per_day: budget.0,
            });
        }
        let around = self.around(target, 0, now);
        let pace = Pace::measured(&self.inventory, target);
        let planned = self
            .campaigns
            .plan(&self.book, &self.inventory, start, pace, &around);
        Ok(planned?)
    }

    /// All groups that nodes are in.
    fn groups(&self) -> BTreeSet<&GroupId> {
        let statuses = self
            .inventory
            .nodes()
            .filter_map(|entry| entry.status.as_ref());
        statuses.flat_map(|status| &status.groups).collect()
    }

    /// The nodes that take what a target releases, counted.
    fn summary(&self, target: &Target, now: Timestamp) -> Summary {
        let stale = self.settings.stale_after;
        self.book.current(target).map_or_else(
            || {
                let in_group = |entry: &&lamppost_coordinator_core::NodeEntry| {
                    let status = entry.status.as_ref();
                    status.is_some_and(|status| status.groups.contains(&target.group))
                };
                let members = self.inventory.nodes().filter(in_group);
                let mut summary = Summary::default();
                for entry in members {
                    summary.nodes += 1;
                    if !entry.presence(now, stale).reachable() {
                        summary.unreachable += 1;
                    }
                }
                summary
            },
            |current| {
                let mut summary = Summary::default();
                progress::rows(current, &self.book, &self.inventory, now, stale)
                    .for_each(|row| summary.count(&row));
                summary
            },
        )
    }

    /// How far the rollout that holds is, with the nodes that are asked for.
    pub(crate) fn view(
        &self,
        rollout: &Rollout,
        wanted: &NodePage,
        downloads: &Downloads,
        now: Timestamp,
    ) -> RolloutView {
        let stale = self.settings.stale_after;
        let (mut summary, mut nodes) = (Summary::default(), Vec::new());
        for row in progress::rows(rollout, &self.book, &self.inventory, now, stale) {
            summary.count(&row);
            if nodes.len() < wanted.limit
                && wanted.after.as_ref().is_none_or(|after| row.path > *after)
            {
                nodes.push(row);
            }
        }
        RolloutView {
            rollout: rollout.clone(),
            current: true,
            summary,
            nodes,
            campaign: self.campaign_view(&rollout.target, downloads, now),
            warnings: Vec::new(),
        }
    }

    /// The campaign of a target that is under way, or the last one, with a look at it.
    fn campaign_view(
        &self,
        target: &Target,
        downloads: &Downloads,
        now: Timestamp,
    ) -> Option<Box<CampaignView>> {
        let campaign = self.campaigns.current(target)?.clone();
        let bytes_today = downloads.given_today(campaign.to.digest, now);
        let under_way = campaign.state.stage().is_some();
        let decision = self.decision(target, downloads, now);
        let (verdict, words, assessment) = match decision {
            Some(decision) => (
                under_way.then_some(decision.verdict),
                decision.words,
                Some(decision.assessment),
            ),
            None => (None, String::new(), None),
        };
        Some(Box::new(CampaignView {
            campaign,
            verdict,
            words,
            assessment,
            bytes_today,
        }))
    }
}

#[cfg(test)]
mod tests;
