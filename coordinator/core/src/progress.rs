//! How far each node of a group has come with a rollout.

use std::time::Duration;

use lamppost_models::message::{CandidateSlot, Quality, ReportedModel, TrialState, Verdict};
use lamppost_models::rollout::{Cohort, Who};
use lamppost_models::{Digest, GroupId, NodePath, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::inventory::{Inventory, NodeEntry, Presence};
use crate::rollout::{Book, Rollout};

/// How far one node has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeProgress {
    /// It runs the version.
    Running {
        /// Since when, by the node's clock.
        since: Timestamp,
        /// Predictions made with it.
        predictions: u64,
        /// How right it is, where labels came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quality: Option<Quality>,
    },
    /// The bundle is on the way.
    Fetching {
        /// Bytes that are there.
        received: u64,
        /// Bytes in all.
        bytes: u64,
    },
    /// The node waits with it, for its hours for changes, say.
    PutOff {
        /// What for, in the node's words.
        reason: String,
    },
    /// The bundle is being checked.
    Checking,
    /// It runs beside the active version.
    Shadowing {
        /// Windows that both had.
        windows: u64,
        /// Windows that are asked for.
        of: u64,
    },
    /// The node refused it and goes on with what it ran.
    Refused {
        /// Which check failed.
        verdict: Verdict,
        /// What was found, in the node's words.
        detail: String,
    },
    /// It said nothing of this rollout yet.
    Waiting {
        /// What it runs now, if anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<Version>,
    },
    /// An earlier one of its groups has a release of this model, which it takes.
    DecidedBy {
        /// That group.
        group: GroupId,
    },
    /// None of its streams uses the model.
    Unconcerned,
    /// It cannot be expected to act. This is not a failure.
    Unreachable {
        /// When it was heard last.
        since: Timestamp,
        /// What it ran then, if anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<Version>,
    },
}

/// One node's part in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// The node.
    #[serde(flatten)]
    pub path: NodePath,
    /// On which side it is, while there is a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Cohort>,
    /// How far it is with what is meant for it.
    #[serde(flatten)]
    pub progress: NodeProgress,
}

/// Nodes of a rollout, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// All that take the group's releases and use the model.
    pub nodes: u64,
    /// Those that run the version that is meant for them.
    pub running: u64,
    /// Those that fetch, check, or have not said anything yet.
    pub pending: u64,
    /// Those that refused it.
    pub refused: u64,
    /// Those that cannot be reached.
    pub unreachable: u64,
}

impl Summary {
    /// Counts `rows`.
    pub fn of(rows: &[NodeRow]) -> Self {
        let mut summary = Self::default();
        for row in rows {
            summary.count(row);
        }
        summary
    }

    /// Counts one more.
    pub const fn count(&mut self, row: &NodeRow) {
        match row.progress {
            NodeProgress::DecidedBy { .. } | NodeProgress::Unconcerned => return,
            NodeProgress::Running { .. } => self.running += 1,
            NodeProgress::Refused { .. } if row.progress.settled() => self.refused += 1,
            NodeProgress::Fetching { .. }
            | NodeProgress::PutOff { .. }
            | NodeProgress::Checking
            | NodeProgress::Shadowing { .. }
            | NodeProgress::Refused { .. }
            | NodeProgress::Waiting { .. } => self.pending += 1,
            NodeProgress::Unreachable { .. } => self.unreachable += 1,
        }
        self.nodes += 1;
    }

    /// Whether nothing more is to be expected of the nodes that can be reached.
    pub const fn settled(&self) -> bool {
        self.pending == 0
    }
}

impl NodeProgress {
    /// Whether nothing more is to be expected of the node.
    pub const fn settled(&self) -> bool {
        match self {
            // The node tries again to fetch what was not available.
            Self::Refused { verdict, .. } => !matches!(verdict, Verdict::Unavailable),
            Self::Running { .. } | Self::DecidedBy { .. } | Self::Unconcerned => true,
            Self::Fetching { .. }
            | Self::PutOff { .. }
            | Self::Checking
            | Self::Shadowing { .. }
            | Self::Waiting { .. }
            | Self::Unreachable { .. } => false,
        }
    }
}

/// The part of every node that takes releases of the rollout's group, by site and node.
pub fn rows<'a>(
    rollout: &'a Rollout,
    book: &'a Book,
    inventory: &'a Inventory,
    now: Timestamp,
    stale: Duration,
) -> impl Iterator<Item = NodeRow> + 'a {
    let row = move |entry: &NodeEntry| {
        let progress = of_node(rollout, book, entry, &entry.presence(now, stale))?;
        Some(NodeRow {
            path: entry.path.clone(),
            cohort: cohort(rollout, entry),
            progress,
        })
    };
    inventory.nodes().filter_map(row)
}

/// On which side of the candidate a node is, `None` while there is no candidate.
fn cohort(rollout: &Rollout, entry: &NodeEntry) -> Option<Cohort> {
    let (candidate, status) = (rollout.candidate.as_ref()?, entry.status.as_ref()?);
    Some(candidate.cohort(Who {
        path: &entry.path,
        groups: &status.groups,
        tags: &status.tags,
    }))
}

/// What a node is to run.
fn wanted(rollout: &Rollout, entry: &NodeEntry) -> Digest {
    match (&rollout.candidate, cohort(rollout, entry)) {
        (Some(candidate), Some(Cohort::Candidate)) => candidate.bundle.digest,
        (_, Some(Cohort::Candidate | Cohort::Control | Cohort::Later) | None) => {
            rollout.stable.digest
        }
    }
}

/// The part of one node, `None` when it is not in the group.
fn of_node(
    rollout: &Rollout,
    book: &Book,
    entry: &NodeEntry,
    presence: &Presence,
) -> Option<NodeProgress> {
    let (group, model) = (&rollout.target.group, &rollout.target.model);
    let groups = &entry.status.as_ref()?.groups;
    if !groups.contains(group) {
        return None;
    }
    if let Some(deciding) = book
        .deciding(model, groups)
        .filter(|deciding| *deciding != group)
    {
        return Some(NodeProgress::DecidedBy {
            group: deciding.clone(),
        });
    }
    let reported = entry.reported.as_ref();
    let row = reported.and_then(|reported| reported.models.iter().find(|row| row.name == *model));
    if reported.is_some() && row.is_none() {
        return Some(NodeProgress::Unconcerned);
    }
    if !presence.reachable() {
        return Some(NodeProgress::Unreachable {
            since: entry.heard_at,
            running: row.and_then(running),
        });
    }
    Some(of_row(wanted(rollout, entry), row))
}

fn running(row: &ReportedModel) -> Option<Version> {
    row.active.as_ref().map(|active| active.version.clone())
}

fn of_row(wanted: Digest, row: Option<&ReportedModel>) -> NodeProgress {
    let Some(row) = row else {
        return NodeProgress::Waiting { running: None };
    };
    if let Some(active) = row.active.as_ref().filter(|active| active.digest == wanted) {
        let (since, predictions, quality) = (active.since, active.predictions, active.quality);
        return NodeProgress::Running {
            since,
            predictions,
            quality,
        };
    }
    match row
        .candidate
        .as_ref()
        .filter(|candidate| candidate.digest == wanted)
    {
        Some(CandidateSlot {
            state: TrialState::Fetching { received, bytes },
            ..
        }) => NodeProgress::Fetching {
            received: *received,
            bytes: *bytes,
        },
        Some(CandidateSlot {
            state: TrialState::Checking,
            ..
        }) => NodeProgress::Checking,
        Some(CandidateSlot {
            state: TrialState::Waiting { reason },
            ..
        }) => NodeProgress::PutOff {
            reason: reason.clone(),
        },
        Some(CandidateSlot {
            state: TrialState::Shadowing { windows, of },
            ..
        }) => NodeProgress::Shadowing {
            windows: *windows,
            of: *of,
        },
        Some(CandidateSlot {
            state: TrialState::Refused { verdict, detail },
            ..
        }) => NodeProgress::Refused {
            verdict: *verdict,
            detail: detail.clone(),
        },
        None => NodeProgress::Waiting {
            running: running(row),
        },
    }
}

#[cfg(test)]
mod tests;
