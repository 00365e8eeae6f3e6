//! What the nodes of a campaign showed so far, from what is new in each report.

use lamppost_models::id::RolloutId;
use lamppost_models::{BootId, NodePath, Timestamp};
use serde::{Deserialize, Serialize};

/// What a report changed in the evidence of a campaign; to be persisted with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Touched {
    /// The campaign.
    pub id: RolloutId,
    /// The rows that changed, two at most.
    pub rows: Vec<(NodePath, EvidenceRow)>,
    /// The head, when it changed.
    pub head: Option<EvidenceHead>,
}

/// What all nodes showed together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvidenceHead {
    /// Labels of both versions that came.
    pub labels: u64,
}

/// What is remembered of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// The agent's run that it last heard of.
    pub boot: BootId,
    /// When that report was written.
    pub at: Timestamp,
}

/// What the nodes of a campaign showed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    head: EvidenceHead,
}
