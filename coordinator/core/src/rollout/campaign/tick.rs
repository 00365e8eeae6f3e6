//! What a look at the campaigns comes to.

use super::{Around, Campaign, Campaigns, Decision, Step};
use crate::inventory::{Inventory, NodeEntry};
use crate::rollout::evidence::{EvidenceHead, EvidenceRow, Touched};
use crate::rollout::{Book, Target};
use lamppost_models::NodePath;
use lamppost_models::id::RolloutId;

impl Campaigns {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a step that is persisted.
    pub fn apply(&mut self, step: &Step) {
        todo!()
    }

    /// The remembered campaign that there is no room for when `campaign` is applied; to be deleted in the same commit, with its
    /// evidence.
    pub fn displaced_by(&self, campaign: &Campaign) -> Option<&Campaign> {
        todo!()
    }

    /// Takes in a campaign that was persisted in an earlier life; in the order of their start. Then evidence, if it was
    /// persisted: [`Self::restore_evidence`]; else feed every node of the inventory to [`Self::on_report`].
    pub fn restore(&mut self, campaign: Campaign) {
        todo!()
    }

    /// Takes in evidence that was persisted with the reports it came from.
    pub fn restore_evidence(
        &mut self,
        id: RolloutId,
        head: EvidenceHead,
        rows: impl IntoIterator<Item = (NodePath, EvidenceRow)>,
    ) {
        todo!()
    }

    /// Takes in what a node reports, after the inventory did: what is new in it becomes evidence for the campaigns under way.
    /// Says what changed, to be persisted in the same commit as the node's entry.
    pub fn on_report(&mut self, book: &Book, entry: &NodeEntry, around: &Around) -> Vec<Touched> {
        todo!()
    }

    /// Looks at the campaign of a target, `None` when there never was one. It is cheap enough for every report; its step, if
    /// it has one, is to be persisted and applied before it is looked at again.
    pub fn tick(
        &self,
        book: &Book,
        inventory: &Inventory,
        target: &Target,
        around: &Around,
    ) -> Option<Decision> {
        todo!()
    }

    /// The campaign of a target that is under way, or else the last one.
    pub fn current(&self, target: &Target) -> Option<&Campaign> {
        todo!()
    }

    /// The campaign of a target that is under way.
    pub fn under_way(&self, target: &Target) -> Option<&Campaign> {
        todo!()
    }

    /// The campaigns that are under way, by group and model.
    pub fn all_under_way(&self) -> impl Iterator<Item = &Campaign> {
        std::iter::empty()
    }

    /// All that are remembered, by group and model, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Campaign> {
        std::iter::empty()
    }

    /// One by its id.
    pub fn get(&self, id: RolloutId) -> Option<&Campaign> {
        todo!()
    }
}
