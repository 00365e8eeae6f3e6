//! What the nodes of a campaign showed so far, from what is new in each report.
//!
//! Reports are retained, come at least once, may be old, and may be lies. A node's counters are cumulative, so that only
//! what a report adds to the one before counts; one that is older than the last, or says the same, adds nothing. A node can
//! move what is found only by its votes, and a vote is a number between -1 and 1, whatever it says.
//!
//! The loss C of the candidate and the loss A of the version it is compared with, over the labels of one vote, become the
//! **vote** (C - ρA) / (C + ρA), cut at ± c and divided by c, where ρ is the policy's `loss_ratio_max`: no units, as much
//! above 0 for twice the loss as below it for half of it, and 0 on average when C behaves like ρA. Three tests are made of votes:
//!
//! - **nodes**: each node votes once, when its shadow is over or has a block of labels. The errors within a node may depend
//!   on each other as they like. It speaks for the time in which the nodes voted: nodes that err together, because it rained
//!   everywhere, are as many votes as there are nodes.
//! - **rounds**: each node votes once a block of labels, and the mean of a round's votes is one observation. It needs no independence
//!   between nodes, only that a block tells little of the next; a small fleet has no other. A round closes when more
//!   than half of the nodes that ever had labels voted in it, so that none can run ahead of the rest.
//! - **pairs**: each node that runs the candidate is paired with a control node when it begins, and both are compared
//!   with themselves before: C is the growth of the one's loss, A that of the other's. The hash drew the cohorts at random, so
//!   that what befalls all nodes befalls both sides. Each pair votes once.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_models::id::RolloutId;
use lamppost_models::rollout::Cohort;
use lamppost_models::trial::{TrialPhase, TrialReport};
use lamppost_models::{BootId, Digest, ModelName, NodePath, Timestamp};
use serde::{Deserialize, Serialize};

use super::betting::Bets;
use super::policy::Quality;
use crate::inventory::NodeEntry;

mod found;
mod pairs;
mod sums;

pub use found::{Found, Shown};
pub use pairs::{Pair, Side};
pub(super) use sums::told;
pub use sums::{Sums, Track};

/// A report that is older than the last one of the same run is an old one, unless it is older by more than this: then
/// the node's clock was set back.
const CLOCK_STEP_MS: i64 = 3_600_000;
/// Labels that a vote has at least, also where a shadow is over earlier: below, it is noise.
const VOTE_LABELS_MIN: u64 = 10;
/// What a vote is cut at: a loss of 22 % more or less says as much as one of ten times more. The narrower it is, the less one
/// node can say, and the sooner many nodes show a small difference; half and twice of it were tried, and one node needs about
/// as many labels with each.
const CUT: f64 = 0.1;

/// What a report changed in the evidence of a campaign. The rows are to be persisted with it; the head with them or later, every
/// few seconds say, and never before them: what a crash then loses is votes, and none counts twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Touched {
    /// The campaign.
    pub id: RolloutId,
    /// The rows that changed, two at most.
    pub rows: Vec<(NodePath, EvidenceRow)>,
    /// The head, when it changed; a few kilobytes.
    pub head: Option<EvidenceHead>,
}

/// What all nodes showed together; some kilobytes at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvidenceHead {
    /// Labels of both versions that came in shadows, and of candidates in pairs.
    pub labels: u64,
    /// When the last one came, by the coordinator's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_label: Option<Timestamp>,
    /// Nodes that ever had labels in shadow.
    pub voters: u64,
    /// The votes of nodes.
    pub nodes: Bets,
    /// The means of rounds.
    pub rounds: Bets,
    /// The votes of pairs.
    pub pairs: Bets,
    /// The number of the round that is open, from 1.
    pub round: u32,
    /// Votes in it.
    pub votes: u64,
    /// Their sum.
    pub sum: f64,
    /// Reports that were passed over since their numbers cannot be: a loss below 0, or not finite.
    pub implausible: u64,
}

/// What is remembered of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// The agent's run that was last heard of.
    pub boot: BootId,
    /// When its last report was written.
    pub at: Timestamp,
    /// Losses in shadow, of this trial.
    #[serde(default)]
    pub shadow: Track,
    /// When that trial began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Timestamp>,
    /// Losses since its last vote in a round.
    #[serde(default)]
    pub open: Sums,
    /// All losses until its vote as a node.
    #[serde(default)]
    pub whole: Sums,
    /// The last round in which it voted, 0 for none.
    #[serde(default)]
    pub round: u32,
    /// Whether it voted as a node.
    #[serde(default)]
    pub voted: bool,
    /// Its part in a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
}

/// How evidence is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// What the policy asks for.
    pub(super) quality: &'a Quality,
    /// The bundle on trial.
    pub(super) to: Digest,
    /// The bundle it is compared with.
    pub(super) from: Digest,
    /// The coordinator's clock.
    pub(super) now: Timestamp,
}

/// What the nodes of a campaign showed so far. Some 350 bytes a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    head: EvidenceHead,
    // In boxes, since a tree's leaves are half empty.
    rows: BTreeMap<NodePath, Box<EvidenceRow>>,
    /// Control nodes without a partner; kept beside the rows, from which they can be told.
    free: BTreeSet<NodePath>,
}

impl Evidence {
    /// As it was persisted.
    pub(super) fn restored(
        head: EvidenceHead,
        rows: impl IntoIterator<Item = (NodePath, EvidenceRow)>,
    ) -> Self {
        let rows = rows.into_iter().map(|(path, row)| (path, Box::new(row)));
        let rows: BTreeMap<_, _> = rows.collect();
        let free = rows
            .iter()
            .filter(|(_, row)| row.pair.as_ref().is_some_and(Pair::free_control));
        let free = free.map(|(path, _)| path.clone()).collect();
        Self { head, rows, free }
    }

    pub(super) const fn head(&self) -> &EvidenceHead {
        &self.head
    }

    /// Keeps only what all showed together: the campaign is over.
    pub(super) fn forget_nodes(&mut self) {
        self.rows.clear();
        self.free.clear();
    }

    /// Takes in what a node of the campaign reports; says which rows changed, none when nothing did.
    pub(super) fn on_report(
        &mut self,
        reading: Reading<'_>,
        cohort: Cohort,
        trial: Option<&TrialReport>,
        entry: &NodeEntry,
        model: &ModelName,
    ) -> Vec<NodePath> {
        let Some(report) = entry.current_report() else {
            return Vec::new();
        };
        let mut row = match self.rows.get(&entry.path) {
            Some(row) if row.boot == report.boot && stale(row.at, report.at) => return Vec::new(),
            Some(row) => row.as_ref().clone(),
            None => EvidenceRow::new(report.boot, report.at),
        };
        let before = row.clone();
        let restarted = row.boot != report.boot;
        (row.boot, row.at) = (report.boot, report.at);
        if let Some(trial) = trial {
            self.on_trial(reading, trial, &mut row);
        }
        let mut changed = Vec::new();
        let slots = report.models.iter().find(|slots| slots.name == *model);
        if let Some(slots) = slots {
            changed = self.on_slots(reading, cohort, &entry.path, slots, restarted, &mut row);
        }
        // The time of a report alone is not worth a write: it is told again by the next one.
        let timeless = EvidenceRow {
            boot: row.boot,
            at: row.at,
            ..before
        };
        if timeless != row {
            changed.push(entry.path.clone());
        }
        self.rows.insert(entry.path.clone(), Box::new(row));
        changed
    }

    pub(super) fn row(&self, path: &NodePath) -> Option<&EvidenceRow> {
        self.rows.get(path).map(Box::as_ref)
    }

    /// Shadow losses of a trial: votes of the node and of its rounds.
    fn on_trial(&mut self, reading: Reading<'_>, trial: &TrialReport, row: &mut EvidenceRow) {
        let Some(shadow) = &trial.shadow else {
            return;
        };
        let Some(now) = Sums::of(&shadow.candidate.loss, &shadow.active.loss) else {
            self.head.implausible = self.head.implausible.saturating_add(1);
            return;
        };
        if row.trial != Some(trial.since) {
            row.shadow = Track::default();
            row.trial = Some(trial.since);
        }
        let new = row.shadow.advance(now);
        if new.labels > 0 {
            if row.whole.labels == 0 && row.round == 0 && !row.voted {
                self.head.voters = self.head.voters.saturating_add(1);
            }
            self.head.labels = self.head.labels.saturating_add(new.labels);
            self.head.last_label = Some(reading.now);
            row.open.add(new);
            row.whole.add(new);
        }
        let over = match trial.phase {
            TrialPhase::Candidate => false,
            TrialPhase::Probation
            | TrialPhase::Passed
            | TrialPhase::Refused { .. }
            | TrialPhase::RolledBack { .. }
            | TrialPhase::Withdrawn => true,
        };
        let block = reading.quality.block.max(1);
        let enough = if over {
            VOTE_LABELS_MIN.min(block)
        } else {
            block
        };
        let ratio = reading.quality.loss_ratio_max;
        if !row.voted
            && row.whole.labels >= enough
            && let Some(vote) = row.whole.vote(ratio)
        {
            row.voted = true;
            self.head.nodes.push(vote);
        }
        let open = self.head.round.max(1);
        if row.open.labels >= block
            && row.round < open
            && let Some(vote) = row.open.vote(ratio)
        {
            (self.head.round, row.round) = (open, open);
            row.open = Sums::default();
            self.head.votes += 1;
            self.head.sum += vote;
            self.close_round();
        }
    }

    /// Ends the round when more than half of the nodes that ever had labels voted in it.
    fn close_round(&mut self) {
        let head = &mut self.head;
        if head.votes <= head.voters / 2 {
            return;
        }
        head.rounds.push(head.sum / head.votes as f64);
        (head.votes, head.sum) = (0, 0.0);
        head.round = head.round.saturating_add(1);
    }
}

const fn stale(last: Timestamp, at: Timestamp) -> bool {
    let behind_ms = last.ms_since(at);
    0 <= behind_ms && behind_ms <= CLOCK_STEP_MS
}

impl EvidenceRow {
    const fn new(boot: BootId, at: Timestamp) -> Self {
        Self {
            boot,
            at,
            shadow: Track::ZERO,
            trial: None,
            open: Sums::ZERO,
            whole: Sums::ZERO,
            round: 0,
            voted: false,
            pair: None,
        }
    }
}

#[cfg(test)]
mod tests;
