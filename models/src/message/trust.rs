//! Whom a node believes, and what it refused to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::trust::TrustVersion;

/// Whom a node believes, and what it took in and refused in this run of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedTrust {
    /// The newest trust document; none where the configuration names the release keys, or before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<TrustVersion>,
    /// Releases.
    pub releases: Intake,
    /// Trust documents.
    pub documents: Intake,
    /// Signed times.
    pub times: Intake,
    /// What time it is at least, by the signed times; none before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Timestamp>,
    /// Seconds since a signed time told that, or since the start of the agent that remembered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_s: Option<u64>,
}

/// What was new and believed, and what was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Intake {
    /// How many were taken in.
    pub taken: u64,
    /// How many were refused, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
}
