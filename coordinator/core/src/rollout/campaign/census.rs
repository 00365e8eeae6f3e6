//! Where the nodes of a campaign are.

use std::collections::BTreeSet;
use std::time::Duration;

use lamppost_models::message::{ReportedModel, TrialState, Verdict};
use lamppost_models::rollout::{Candidate, Cohort, Who};
use lamppost_models::trial::{Comparison, TrialPhase, Watch};
use lamppost_models::{GroupId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Campaign;
use crate::inventory::{Inventory, NodeEntry};
use crate::rollout::{Book, Target};

/// Crashes of one node that count: a node that lies, or has a fault of its own, has no more than this to say.
pub const CRASHES_PER_NODE_MAX: u64 = 3;
/// Below this, times of inference are as good as each other: no stream waits for a millisecond, and scheduling alone makes
/// such times differ by more than any limit.
const LATENCY_FLOOR_US: u64 = 1000;

/// The nodes of a campaign, counted. Unreachable ones are those of which nothing final is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Nodes that take the group's releases and use the model.
    pub group: u64,
    /// Those that are held back to compare with.
    pub control: u64,
    /// Those that are exposed, by this wave and those before.
    pub nodes: u64,
    /// Exposed, and done with the trial: the candidate is active for good.
    pub passed: u64,
    /// Exposed, and done with the trial: refused, or gone back.
    pub failed: u64,
    /// Exposed, and the candidate is active with the way back open.
    pub live: u64,
    /// Exposed, and fetching, checking, shadowing.
    pub trying: u64,
    /// Exposed, and said nothing of it yet, or waits for its hours.
    pub waiting: u64,
    /// Exposed, and not to be reached.
    pub unreachable: u64,
    /// Crashes of agents in probation, of each node [`CRASHES_PER_NODE_MAX`] at most.
    pub crashes: u64,
}

/// What one look at the inventory finds.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) census: Census,
    /// Nodes that the next wave exposes, in all; this one's where there is no byte budget, which alone asks for it.
    pub(super) next_nodes: u64,
    /// How much slower the candidate is, a node each.
    pub(super) latency: Vec<f64>,
    /// Whether any node of the group has labels.
    pub(super) labelled: bool,
}

/// Where an exposed node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Passed,
    Failed,
    Live,
    Trying,
    Waiting,
}

impl Census {
    /// Nodes whose trial is over.
    pub const fn reported(&self) -> u64 {
        self.passed + self.failed
    }

    /// Nodes that began with it, done or not.
    pub const fn started(&self) -> u64 {
        self.reported() + self.live + self.trying
    }

    /// Nodes that can be reached and are not done.
    pub const fn pending(&self) -> u64 {
        self.live + self.trying + self.waiting
    }
}

/// The groups that have a release of a model, so that the deciding one of a node is found without a copy.
pub(in crate::rollout) fn groups_with<'a>(
    book: &'a Book,
    target: &Target,
) -> BTreeSet<&'a GroupId> {
    book.all_current()
        .filter(|rollout| rollout.target.model == target.model)
        .map(|rollout| &rollout.target.group)
        .collect()
}

/// Whether a node takes the releases of a target, and what it says of the model. A node that has not reported yet is taken to
/// use it.
pub(in crate::rollout) fn concerned<'a>(
    entry: &'a NodeEntry,
    target: &Target,
    deciding: impl Fn(&'a [GroupId]) -> Option<&'a GroupId>,
) -> Option<(Who<'a>, Option<&'a ReportedModel>)> {
    let status = entry.status.as_ref()?;
    if *deciding(&status.groups)? != target.group {
        return None;
    }
    let reported = entry.reported.as_ref();
    let of_model = |row: &&ReportedModel| row.name == target.model;
    let row = reported.and_then(|reported| reported.models.iter().find(of_model));
    if reported.is_some() && row.is_none() {
        return None;
    }
    let who = Who {
        path: &entry.path,
        groups: &status.groups,
        tags: &status.tags,
    };
    Some((who, row))
}

/// Counts the nodes of a campaign.
pub(super) fn survey(
    campaign: &Campaign,
    wave: u16,
    book: &Book,
    inventory: &Inventory,
    now: Timestamp,
    stale_after: Duration,
) -> Survey {
    let groups_with = groups_with(book, &campaign.target);
    let candidate = campaign.candidate(wave);
    // Only a budget asks who comes next; hashing each node's name once more would be half of the cost of a look.
    let budget = campaign.policy.bytes_per_day.is_some();
    let next = budget.then(|| campaign.candidate(wave + 1));
    let mut survey = Survey::default();
    for entry in inventory.nodes() {
        let Some((who, row)) = concerned(entry, &campaign.target, |groups| {
            groups.iter().find(|group| groups_with.contains(group))
        }) else {
            continue;
        };
        let reachable = || entry.presence(now, stale_after).reachable();
        survey.count(campaign, &candidate, next.as_ref(), who, row, reachable);
    }
    survey
}

impl Survey {
    fn count(
        &mut self,
        campaign: &Campaign,
        candidate: &Candidate,
        next: Option<&Candidate>,
        who: Who<'_>,
        row: Option<&ReportedModel>,
        reachable: impl Fn() -> bool,
    ) {
        self.census.group += 1;
        self.labelled |= row.is_some_and(labelled);
        let cohort = candidate.cohort(who);
        match cohort {
            Cohort::Candidate => self.next_nodes += 1,
            Cohort::Control | Cohort::Later => {
                self.census.control += u64::from(cohort == Cohort::Control);
                let joins = next.is_some_and(|next| next.cohort(who) == Cohort::Candidate);
                self.next_nodes += u64::from(joins);
                return;
            }
        }
        self.census.nodes += 1;
        let standing = standing(campaign, row);
        match standing {
            Standing::Passed => self.census.passed += 1,
            Standing::Failed => self.census.failed += 1,
            Standing::Live | Standing::Trying | Standing::Waiting if !reachable() => {
                self.census.unreachable += 1;
            }
            Standing::Live => self.census.live += 1,
            Standing::Trying => self.census.trying += 1,
            Standing::Waiting => self.census.waiting += 1,
        }
        let trial = row.and_then(|row| row.trial.as_ref());
        let Some(trial) = trial.filter(|trial| trial.digest == campaign.to.digest) else {
            return;
        };
        let watch = trial.probation.as_ref();
        let crashes = watch.map_or(0, |watch| watch.crashes);
        self.census.crashes += crashes.min(CRASHES_PER_NODE_MAX);
        let ratio = trial.shadow.as_ref().and_then(in_shadow);
        self.latency
            .extend(ratio.or_else(|| watch.and_then(in_probation)));
    }
}

fn labelled(row: &ReportedModel) -> bool {
    let slots = row.active.iter().chain(&row.previous);
    slots.into_iter().any(|slot| slot.quality.is_some())
}

fn in_shadow(shadow: &Comparison) -> Option<f64> {
    slower(
        shadow.candidate.latency_p99_us,
        shadow.active.latency_p99_us,
    )
}

fn in_probation(watch: &Watch) -> Option<f64> {
    slower(watch.active.latency_p99_us, watch.before.latency_p99_us)
}

fn slower(candidate_us: u64, active_us: u64) -> Option<f64> {
    let floored = |us: u64| us.max(LATENCY_FLOOR_US) as f64;
    (candidate_us > 0 && active_us > 0).then(|| floored(candidate_us) / floored(active_us))
}

/// Where an exposed node is, by what it says.
pub(super) fn standing(campaign: &Campaign, row: Option<&ReportedModel>) -> Standing {
    let Some(row) = row else {
        return Standing::Waiting;
    };
    let wanted = campaign.to.digest;
    let trial = row.trial.as_ref().filter(|trial| trial.digest == wanted);
    if row
        .active
        .as_ref()
        .is_some_and(|active| active.digest == wanted)
    {
        return match trial.map(|trial| &trial.phase) {
            Some(TrialPhase::Probation | TrialPhase::Candidate) => Standing::Live,
            // A node that went back and has it again was made to; it is as any other that runs it.
            Some(
                TrialPhase::Passed
                | TrialPhase::Withdrawn
                | TrialPhase::Refused { .. }
                | TrialPhase::RolledBack { .. },
            )
            | None => Standing::Passed,
        };
    }
    let slot = row.candidate.as_ref().filter(|slot| slot.digest == wanted);
    match slot.map(|slot| &slot.state) {
        // The node tries again to fetch what was not available.
        Some(TrialState::Refused {
            verdict: Verdict::Unavailable,
            ..
        }) => Standing::Trying,
        Some(TrialState::Refused { .. }) => Standing::Failed,
        Some(TrialState::Waiting { .. }) => Standing::Waiting,
        Some(TrialState::Fetching { .. } | TrialState::Checking | TrialState::Shadowing { .. }) => {
            Standing::Trying
        }
        None => match trial.filter(|trial| trial.rollout == Some(campaign.id)) {
            None => Standing::Waiting,
            Some(trial) => match &trial.phase {
                TrialPhase::Refused { verdict, .. } | TrialPhase::RolledBack { verdict, .. }
                    if *verdict != Verdict::Unavailable =>
                {
                    Standing::Failed
                }
                TrialPhase::Refused { .. }
                | TrialPhase::RolledBack { .. }
                | TrialPhase::Candidate
                | TrialPhase::Probation => Standing::Trying,
                TrialPhase::Passed | TrialPhase::Withdrawn => Standing::Waiting,
            },
        },
    }
}
