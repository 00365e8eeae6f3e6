//! What a rollout would do, before it begins.

use std::collections::BTreeMap;

use lamppost_models::id::{TagName, TagValue};
use lamppost_models::message::ReportedModel;
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::{Cohort, Who};
use lamppost_models::{GroupId, NodePath};
use serde::{Deserialize, Serialize};

use super::campaign::{Around, Campaign, Campaigns, Refusal, Start, concerned, groups_with};
use super::policy::{Approve, Span};
use super::{Book, Target};
use crate::inventory::{Inventory, NodeEntry};

mod estimate;
mod warnings;

/// Most nodes that a wave's plan names; the rest is counted.
pub const PLAN_NAMES_MAX: usize = 20;

/// What a rollout would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is about.
    pub target: Target,
    /// What the group runs.
    pub from: BundleRef,
    /// What it is to run.
    pub to: BundleRef,
    /// The policy's name.
    pub policy: String,
    /// Nodes that take the group's releases and use the model.
    pub nodes: u64,
    /// Those that cannot be reached now.
    pub unreachable: u64,
    /// Those that are held back to compare with.
    pub control: u64,
    /// The waves.
    pub waves: Vec<PlannedWave>,
    /// What follows the last wave: those that the promotion brings, control nodes among them.
    pub promoted: u64,
    /// Bytes that all nodes fetch together at most; what they hold already is not fetched.
    pub bytes: u64,
    /// How long it takes at least, by what is known.
    pub at_least: Span,
    /// What the estimate does not know, in words.
    pub unknown: Vec<String>,
    /// What to think of before it begins, in words.
    pub warnings: Vec<String>,
}

/// A wave of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedWave {
    /// Who it is for, in words.
    pub who: String,
    /// Nodes that are exposed from then on, in all.
    pub nodes: u64,
    /// Those that it adds.
    pub added: u64,
    /// Of these, those that cannot be reached now.
    pub unreachable: u64,
    /// Names of those it adds, at most [`PLAN_NAMES_MAX`].
    pub names: Vec<NodePath>,
    /// Bytes that they fetch at most.
    pub bytes: u64,
    /// How long it takes at least, by what is known.
    pub at_least: Span,
    /// Who lets what follows begin.
    pub approve: Approve,
}

/// What earlier rollouts took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Bytes that one download brings in a second.
    pub bytes_per_s: Option<f64>,
    /// From the beginning of a trial to the version being active, on the median node.
    pub trial: Option<Span>,
}

/// What a plan needs to know of the fleet, by one look at it.
#[derive(Debug, Default)]
struct Fleet {
    nodes: u64,
    unreachable: u64,
    control: u64,
    /// By wave; the last place is for those that only the promotion brings.
    waves: Vec<Added>,
    /// Nodes of the group by each of its further groups.
    groups: BTreeMap<GroupId, u64>,
    /// And by each tag.
    tags: BTreeMap<(TagName, TagValue), u64>,
    /// Nodes that the policy names and that are there.
    named: Vec<NodePath>,
    /// Whether any of them has labels.
    labelled: bool,
    /// Nodes with a tag `backhaul`.
    backhauled: u64,
}

/// Nodes that a wave adds.
#[derive(Clone, Debug, Default)]
struct Added {
    nodes: u64,
    unreachable: u64,
    names: Vec<NodePath>,
    /// By what the tag `backhaul` says.
    by_backhaul: BTreeMap<TagValue, u64>,
}

impl Campaigns {
    /// What a rollout would do now.
    ///
    /// # Errors
    /// The same [`Refusal`]s as [`Campaigns::plan_start`], and policies that this fleet cannot meet.
    pub fn plan(
        &self,
        book: &Book,
        inventory: &Inventory,
        start: &Start,
        pace: Pace,
        around: &Around,
    ) -> Result<Plan, Refusal> {
        let from = self.check_start(book, start)?.stable.clone();
        let step = self.plan_start(book, start.clone(), around.terms)?;
        let Some(campaign) = step.campaign else {
            let (group, model) = (start.target.group.clone(), start.target.model.clone());
            return Err(Refusal::None { group, model });
        };
        let fleet = Fleet::look(&campaign, book, inventory, around);
        warnings::refuse(&campaign, &fleet)?;
        let mut waves = Vec::new();
        let mut exposed: u64 = 0;
        for (number, (wave, added)) in campaign.policy.waves.iter().zip(&fleet.waves).enumerate() {
            exposed += added.nodes;
            waves.push(PlannedWave {
                who: super::campaign::who(wave),
                nodes: exposed,
                added: added.nodes,
                unreachable: added.unreachable,
                names: added.names.clone(),
                bytes: added.nodes.saturating_mul(campaign.to.bytes),
                at_least: estimate::wave(&campaign, number, added, pace),
                approve: wave.approve,
            });
        }
        let at_least: u64 = waves.iter().map(|wave| wave.at_least.as_secs()).sum();
        let promoted = fleet.waves.last().map_or(0, |last| last.nodes);
        Ok(Plan {
            target: start.target.clone(),
            from,
            to: start.to.clone(),
            policy: campaign.policy.name.clone(),
            nodes: fleet.nodes,
            unreachable: fleet.unreachable,
            control: fleet.control,
            bytes: fleet.nodes.saturating_mul(campaign.to.bytes),
            at_least: Span::from_secs(at_least),
            unknown: estimate::unknown(&campaign, &fleet, pace),
            warnings: warnings::warnings(&campaign, &fleet, &waves),
            waves,
            promoted,
        })
    }

    /// The node that a first wave of one node should have: the one that can be reached and comes first in the hash, so that the
    /// waves by share that follow hold it too.
    pub fn first_node(
        book: &Book,
        inventory: &Inventory,
        start: &Start,
        around: &Around,
    ) -> Option<NodePath> {
        let groups_with = groups_with(book, &start.target);
        let reachable = |entry: &&NodeEntry| {
            let presence = entry.presence(around.terms.now, around.stale_after);
            let concerned = concerned(entry, &start.target, |groups| {
                groups.iter().find(|group| groups_with.contains(group))
            });
            presence.reachable() && concerned.is_some()
        };
        let nodes = inventory.nodes().filter(reachable);
        nodes
            .map(|entry| &entry.path)
            .min_by_key(|path| lamppost_models::rollout::place(start.id, path))
            .cloned()
    }
}

impl Fleet {
    fn look(campaign: &Campaign, book: &Book, inventory: &Inventory, around: &Around) -> Self {
        let groups_with = groups_with(book, &campaign.target);
        let waves = campaign.policy.waves.len();
        let mut fleet = Self {
            waves: vec![Added::default(); waves + 1],
            ..Self::default()
        };
        let numbers = (0..waves).map(|wave| u16::try_from(wave).unwrap_or(u16::MAX));
        let named = campaign.policy.exposure(waves).nodes;
        let candidates: Vec<_> = numbers.map(|wave| campaign.candidate(wave)).collect();
        for entry in inventory.nodes() {
            let Some((who, row)) = concerned(entry, &campaign.target, |groups| {
                groups.iter().find(|group| groups_with.contains(group))
            }) else {
                continue;
            };
            let reachable = entry
                .presence(around.terms.now, around.stale_after)
                .reachable();
            let cohorts = candidates.iter().map(|candidate| candidate.cohort(who));
            let cohorts: Vec<Cohort> = cohorts.collect();
            fleet.add(&cohorts, who, row, reachable);
            if named.contains(who.path) {
                fleet.named.push(who.path.clone());
            }
        }
        fleet
    }

    fn add(
        &mut self,
        cohorts: &[Cohort],
        who: Who<'_>,
        row: Option<&ReportedModel>,
        reachable: bool,
    ) {
        self.nodes += 1;
        self.unreachable += u64::from(!reachable);
        self.control += u64::from(cohorts.last() == Some(&Cohort::Control));
        self.labelled |= row
            .and_then(|row| row.active.as_ref())
            .is_some_and(|active| active.quality.is_some());
        for group in who.groups {
            *self.groups.entry(group.clone()).or_default() += 1;
        }
        for (name, value) in who.tags.iter() {
            let tag = (name.clone(), value.clone());
            *self.tags.entry(tag).or_default() += 1;
        }
        let backhaul = who.tags.get("backhaul");
        self.backhauled += u64::from(backhaul.is_some());
        let first = cohorts
            .iter()
            .position(|cohort| *cohort == Cohort::Candidate);
        let Some(wave) = self.waves.get_mut(first.unwrap_or(cohorts.len())) else {
            return;
        };
        wave.nodes += 1;
        wave.unreachable += u64::from(!reachable);
        if wave.names.len() < PLAN_NAMES_MAX {
            wave.names.push(who.path.clone());
        }
        if let Some(backhaul) = backhaul {
            *wave.by_backhaul.entry(backhaul.clone()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests;
