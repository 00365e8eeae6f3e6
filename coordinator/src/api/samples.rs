//! Samples, as clients see them.

use std::collections::BTreeMap;

use lamppost_coordinator_core::samples::{SampleId, Sums};
use lamppost_models::message::{Label, Sample, SamplePolicy};
use lamppost_models::{ModelName, NodePath, StreamName, Timestamp};
use serde::{Deserialize, Serialize};

/// A stored sample; a line of `GET /v1/samples`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredSample {
    /// What names it.
    pub id: SampleId,
    /// Where it comes from.
    #[serde(flatten)]
    pub path: NodePath,
    /// The stream.
    pub stream: StreamName,
    /// When it was stored, by the coordinator's clock.
    pub received_at: Timestamp,
    /// Who says what came true.
    pub label_by: Option<LabelBy>,
    /// The sample, with the label that counts.
    pub sample: Sample,
}

/// Who says what came true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelBy {
    /// The node, from its streams.
    Node,
    /// Somebody here; that counts before what the node says.
    Operator,
}

/// What is stored of a model and stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleSummary {
    /// The model.
    pub model: ModelName,
    /// The stream, on whatever nodes.
    pub stream: StreamName,
    /// The counts.
    #[serde(flatten)]
    pub sums: Sums,
    /// Samples by the policy that kept them.
    pub by_policy: BTreeMap<SamplePolicy, u64>,
}

/// A label for a sample; a line of `POST /v1/samples/labels`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleLabel {
    /// The sample.
    pub id: SampleId,
    /// What came true; null takes back what was said here before. It must be there, so that a line that was cut or misspelt
    /// takes nothing back.
    #[serde(deserialize_with = "Option::deserialize")]
    pub label: Option<Label>,
}

/// What became of some labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// Samples that have them now.
    pub labelled: u64,
    /// Samples that are not stored: the first 16.
    pub unknown: Vec<SampleId>,
    /// How many are not stored.
    pub unknown_in_all: u64,
    /// Lines that are no label: the first 16.
    pub refused: Vec<RefusedLine>,
    /// How many lines are no label.
    pub refused_in_all: u64,
}

/// A line that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub error: String,
}

/// Answer to a request to forget samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many were stored and are not any more.
    pub forgotten: u64,
}
