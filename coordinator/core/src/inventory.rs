//! What each node last said, and whether it can still be believed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use lamppost_models::message::NodeState;
use lamppost_models::release::Sequence;
use lamppost_models::{BootId, ModelName, NodePath, Reported, Status, Timestamp, V1};
use serde::{Deserialize, Serialize};

mod shared;

use shared::Shared;

/// All nodes that were heard of: some 1,700 bytes each, with one model, one stream and a trial.
#[derive(Clone, Debug)]
pub struct Inventory {
    // In boxes, since a tree's leaves are half empty.
    nodes: BTreeMap<NodePath, Box<NodeEntry>>,
    shared: Shared,
    nodes_max: usize,
}

/// What one node last said. Persisted after every change, apart from `heard_at`, which may lag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Format version.
    pub v: V1,
    /// Where it is.
    pub path: NodePath,
    /// When anything came from it, by the coordinator's clock.
    pub heard_at: Timestamp,
    /// When its status last changed, by the coordinator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_since: Option<Timestamp>,
    /// Its last status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Its last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// When that came, by the coordinator's clock; may lag in the store as `heard_at` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<Timestamp>,
}

/// Whether a node is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Presence {
    /// It runs.
    Up,
    /// It runs, and something it should do it cannot.
    Degraded {
        /// What, in its words.
        reason: String,
    },
    /// It stopped, or its connection broke.
    Down {
        /// Since when, by the coordinator's clock.
        since: Timestamp,
    },
    /// It said that it runs, and was not heard for longer than the limit.
    Stale {
        /// When it was heard last.
        since: Timestamp,
    },
    /// It never said how it is.
    Unknown,
}

impl Presence {
    /// Whether the node can be expected to act.
    pub const fn reachable(&self) -> bool {
        match self {
            Self::Up | Self::Degraded { .. } => true,
            Self::Down { .. } | Self::Stale { .. } | Self::Unknown => false,
        }
    }

    /// The state as one word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded { .. } => "degraded",
            Self::Down { .. } => "down",
            Self::Stale { .. } => "stale",
            Self::Unknown => "unknown",
        }
    }
}

/// What a message did to the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry changed and must be persisted.
    Changed,
    /// Only the time of hearing changed.
    Heard,
    /// The message was of an earlier run of the agent, and is ignored.
    OldNews,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {path} is not taken into the inventory: it holds {nodes_max} nodes, the limit of inventory.nodes_max"
)]
pub struct InventoryFull {
    /// The node.
    pub path: NodePath,
    /// The limit.
    pub nodes_max: usize,
}

impl Inventory {
    /// An inventory of no nodes that takes up to `nodes_max`.
    pub fn new(nodes_max: usize) -> Self {
        Self {
            nodes: BTreeMap::new(),
            shared: Shared::default(),
            nodes_max,
        }
    }

    /// Takes in an entry that was persisted in an earlier life, whatever the limit.
    pub fn restore(&mut self, mut entry: NodeEntry) {
        self.shared.path(&mut entry.path);
        if let Some(status) = &mut entry.status {
            self.shared.status(status);
        }
        if let Some(report) = &mut entry.reported {
            self.shared.report(report);
        }
        self.nodes.insert(entry.path.clone(), Box::new(entry));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All entries by site and node.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.values().map(Box::as_ref)
    }

    /// The entries behind that of a node, or all, by site and node.
    pub fn behind(&self, node: Option<&NodePath>) -> impl Iterator<Item = &NodeEntry> {
        let from = node.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.nodes.range::<NodePath, _>((from, Bound::Unbounded));
        behind.map(|(_, entry)| entry.as_ref())
    }

    /// The entry of one node.
    pub fn get(&self, path: &NodePath) -> Option<&NodeEntry> {
        self.nodes.get(path).map(Box::as_ref)
    }

    /// Takes in a status.
    ///
    /// A `down` of another run than the last `up` is ignored: it is the last will of a connection that was replaced.
    ///
    /// # Errors
    /// [`InventoryFull`] when the node is new and there are too many.
    pub fn on_status(
        &mut self,
        path: &NodePath,
        mut status: Status,
        now: Timestamp,
    ) -> Result<Change, InventoryFull> {
        self.shared.status(&mut status);
        let entry = self.entry(path, now)?;
        let down = status.state == NodeState::Down;
        if let Some(last) = &entry.status {
            if down && last.state != NodeState::Down && last.boot != status.boot {
                return Ok(Change::OldNews);
            }
            if *last == status {
                entry.hear(now, down);
                return Ok(Change::Heard);
            }
        }
        let same = entry
            .status
            .as_ref()
            .is_some_and(|last| (&last.state, last.boot) == (&status.state, status.boot));
        if !same {
            entry.status_since = Some(now);
        }
        entry.hear(now, down);
        entry.status = Some(status);
        Ok(Change::Changed)
    }

    /// Takes in a report.
    ///
    /// A report of another run than that of both the last status and the last report is ignored: it is a retained one
    /// that came late.
    ///
    /// # Errors
    /// [`InventoryFull`] when the node is new and there are too many.
    pub fn on_reported(
        &mut self,
        path: &NodePath,
        mut report: Reported,
        now: Timestamp,
    ) -> Result<Change, InventoryFull> {
        self.shared.report(&mut report);
        let entry = self.entry(path, now)?;
        let known = entry.running_boot();
        let agreed = entry.reported.as_ref().map(|last| last.boot) == known;
        if agreed && known.is_some_and(|boot| boot != report.boot) {
            return Ok(Change::OldNews);
        }
        entry.hear(now, false);
        entry.reported_at = entry.reported_at.max(Some(now));
        if entry.reported.as_ref() == Some(&report) {
            return Ok(Change::Heard);
        }
        entry.reported = Some(report);
        Ok(Change::Changed)
    }

    /// Notes that a prediction came from a node; one that never said how it is gets an entry by it.
    ///
    /// # Errors
    /// [`InventoryFull`] when the node is new and there are too many.
    pub fn on_record(&mut self, path: &NodePath, now: Timestamp) -> Result<Change, InventoryFull> {
        let known = self.nodes.contains_key(path);
        self.entry(path, now)?.hear(now, false);
        Ok(if known {
            Change::Heard
        } else {
            Change::Changed
        })
    }

    /// The newest release of `model` that any node says it took in; 0 for none.
    pub fn newest_release(&self, model: &ModelName) -> Sequence {
        let reported = self
            .nodes
            .values()
            .filter_map(|entry| entry.reported.as_ref());
        let rows = reported
            .flat_map(|reported| &reported.models)
            .filter(|row| row.name == *model);
        rows.filter_map(|row| row.release)
            .max()
            .unwrap_or(Sequence(0))
    }

    fn entry(&mut self, path: &NodePath, now: Timestamp) -> Result<&mut NodeEntry, InventoryFull> {
        let full = self.nodes.len() >= self.nodes_max;
        if full && !self.nodes.contains_key(path) {
            return Err(InventoryFull {
                path: path.clone(),
                nodes_max: self.nodes_max,
            });
        }
        let mut path = path.clone();
        self.shared.path(&mut path);
        let new = |path: &NodePath| {
            Box::new(NodeEntry {
                v: V1,
                path: path.clone(),
                heard_at: now,
                status_since: None,
                status: None,
                reported: None,
                reported_at: None,
            })
        };
        Ok(self.nodes.entry(path).or_insert_with_key(new))
    }
}

impl NodeEntry {
    /// Whether the node is there, given how long it may be silent.
    pub fn presence(&self, now: Timestamp, stale_after: Duration) -> Presence {
        let Some(status) = &self.status else {
            return Presence::Unknown;
        };
        let silent_ms = now.ms_since(self.heard_at);
        let stale =
            u128::try_from(silent_ms).is_ok_and(|silent_ms| silent_ms > stale_after.as_millis());
        match &status.state {
            NodeState::Down => Presence::Down {
                since: self.status_since.unwrap_or(self.heard_at),
            },
            NodeState::Up | NodeState::Degraded { .. } if stale => Presence::Stale {
                since: self.heard_at,
            },
            NodeState::Up => Presence::Up,
            NodeState::Degraded { reason } => Presence::Degraded {
                reason: reason.clone(),
            },
        }
    }

    /// The last report, unless another run has followed that has not reported yet: a late report of the one before says
    /// nothing of what the node holds now.
    pub fn current_report(&self) -> Option<&Reported> {
        let running = self.running_boot();
        let report = self.reported.as_ref();
        report.filter(|report| running.is_none_or(|boot| boot == report.boot))
    }

    /// The run of the last status that was not a `down`.
    fn running_boot(&self) -> Option<BootId> {
        self.status
            .as_ref()
            .filter(|status| status.state != NodeState::Down)
            .map(|status| status.boot)
    }

    /// A last will is the broker's word, not the node's.
    fn hear(&mut self, now: Timestamp, by_last_will: bool) {
        if !by_last_will {
            self.heard_at = self.heard_at.max(now);
        }
    }
}

#[cfg(test)]
mod tests;
