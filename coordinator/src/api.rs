//! What the HTTP API says, for server and command line alike.

use std::collections::BTreeMap;

use lamppost_coordinator_core::progress::{self, Summary};
use lamppost_coordinator_core::rollout::Rollout;
use lamppost_coordinator_core::{Account, Presence, Shelf};
use lamppost_models::manifest::Task;
use lamppost_models::release::PublicKey;
use lamppost_models::{
    Digest, GroupId, Manifest, ModelName, NodePath, Prediction, Reported, Status, StreamName,
    Timestamp, V1,
};
use semver::Version;
use serde::{Deserialize, Serialize};

mod position;

pub use position::{ParsePositionError, Position};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, with its causes after colons.
    pub error: String,
}

/// A version in the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRow {
    /// Format version.
    pub v: V1,
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
    /// Digest of its bundle.
    pub digest: Digest,
    /// Size of its bundle.
    pub bytes: u64,
    /// What it is for.
    pub task: Task,
    /// One line for people.
    pub summary: String,
    /// When it was pushed, by the coordinator's clock.
    pub pushed_at: Timestamp,
}

/// Answer to a push.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pushed {
    /// False when the same bytes were there already.
    pub created: bool,
    /// The version.
    pub model: ModelRow,
    /// What the preflight found.
    pub preflight: Preflight,
}

/// What the engine found of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preflight {
    /// Golden vectors that came out as they should.
    pub golden_cases: usize,
    /// The largest difference of an output from its golden one.
    pub output_error_max: f64,
    /// Half of the windows took at most this on the coordinator, in microseconds.
    pub median_us: f64,
    /// 99 of 100 windows took at most this on the coordinator, in microseconds.
    pub p99_us: f64,
    /// What the model takes in memory, weights and a run, in bytes.
    pub memory_bytes: u64,
}

/// A version with its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDetail {
    /// The row.
    pub model: ModelRow,
    /// The manifest within the bundle.
    pub manifest: Box<Manifest>,
}

/// Asks for a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// The model.
    pub model: ModelName,
    /// The version that the group is to run.
    pub version: Version,
    /// The group.
    pub group: GroupId,
}

/// A rollout with what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The rollout.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// Whether it is the one that holds.
    pub current: bool,
    /// Its nodes, counted.
    pub summary: Summary,
    /// Its nodes, when one rollout was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<progress::NodeRow>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Where it is.
    #[serde(flatten)]
    pub path: NodePath,
    /// Whether it is there.
    pub presence: Presence,
    /// When it was heard last, by the coordinator's clock.
    pub heard_at: Timestamp,
    /// Its last status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Its last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// What is stored of it, when one node was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Shelf>,
}

/// Stored predictions of a node, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredPredictions {
    /// As many as were asked for, or fewer.
    pub predictions: Vec<StoredPrediction>,
    /// Where to go on: `before=` this gives older ones. Only when it is absent is there nothing older; until then an
    /// answer may be short or empty, since one request reads only so many pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<Position>,
}

/// A stored prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredPrediction {
    /// Its place among those of its node.
    pub position: Position,
    /// When it was stored, by the coordinator's clock.
    pub stored_at: Timestamp,
    /// The prediction.
    #[serde(flatten)]
    pub prediction: Prediction,
}

/// What became of the records of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerView {
    /// Where it is.
    #[serde(flatten)]
    pub path: NodePath,
    /// Whether it is there.
    pub presence: Presence,
    /// When its last report came, by the coordinator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<Timestamp>,
    /// Whether that is longer ago than `inventory.stale_after`: what it says of what the node holds may be out of date.
    pub report_is_old: bool,
    /// Streams without readings for longer than they may be, by its last report.
    pub stale_streams: Vec<StaleStream>,
    /// The counts.
    #[serde(flatten)]
    pub account: Account,
}

/// A stream whose sensor is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleStream {
    /// The stream.
    pub stream: StreamName,
    /// Since when, by the node's clock.
    pub since: Timestamp,
}

/// What became of the records of some nodes, by site and node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// As many as were asked for, or fewer.
    pub nodes: Vec<LedgerView>,
    /// Where to go on: `after=` this gives further ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One message on the bus; a line of `GET /v1/watch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchLine {
    /// When it came, by the coordinator's clock.
    pub at: Timestamp,
    /// Its topic.
    pub topic: String,
    /// Whether it is a retained one, from before the watch began.
    pub retain: bool,
    /// Its payload, if that is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// Its payload, if that is other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its payload, if that is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// How the coordinator is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or what does not work.
    pub status: String,
    /// Its version.
    pub version: String,
    /// Whether it is connected to the broker.
    pub broker_connected: bool,
    /// Nodes in the inventory.
    pub nodes: usize,
    /// Messages from nodes that were refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// The key that signs releases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The public half, as agents are configured with it.
    pub key: PublicKey,
    /// Its id, as envelopes name it.
    pub id: String,
    /// Further keys that sign, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<PublicKey>,
}
