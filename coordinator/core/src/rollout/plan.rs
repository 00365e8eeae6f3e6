//! What a rollout would do, before it begins.

use lamppost_models::NodePath;
use lamppost_models::release::BundleRef;
use serde::{Deserialize, Serialize};

use super::campaign::{Around, Campaigns, Refusal, Start};
use super::policy::{Approve, Span};
use super::{Book, Target};
use crate::inventory::Inventory;

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

impl Pace {
    /// What the last trials of a model on the nodes took.
    pub fn measured(inventory: &Inventory, target: &Target) -> Self {
        todo!()
    }
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
        todo!()
    }
}

#[cfg(test)]
mod tests;
