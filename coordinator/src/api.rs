//! What the HTTP API says, for server and command line alike.

use std::collections::BTreeMap;

use lamppost_coordinator_core::progress::{self, Summary};
use lamppost_coordinator_core::rollout::audit::{Entry, Head};
use lamppost_coordinator_core::rollout::campaign::{Assessment, Campaign, Ending, Verdict};
use lamppost_coordinator_core::rollout::plan::Plan;
use lamppost_coordinator_core::rollout::policy::Policy;
use lamppost_coordinator_core::rollout::{Rollout, Target};
use lamppost_coordinator_core::{Account, Presence, Shelf};
use lamppost_models::manifest::Task;
use lamppost_models::release::{BundleRef, PublicKey};
use lamppost_models::{
    Digest, GroupId, Manifest, ModelName, NodePath, Prediction, Reported, Status, StreamName,
    Timestamp, V1,
};
use semver::Version;
use serde::{Deserialize, Serialize};

mod position;
mod revoke;
mod samples;

pub use position::{ParsePositionError, Position};
pub use revoke::{BundleName, ParseBundleNameError, RevokeBundle};
pub use samples::{
    Forgotten, LabelBy, Labelled, RefusedLine, SampleLabel, SampleSummary, StoredSample,
};

/// The header that says who asks, for the audit log: `user@host`, say.
pub const BY_HEADER: &str = "lamppost-by";

/// Nodes in one answer, at most, and when no number is asked for: some 2 MB of JSON.
pub const NODES_MAX: usize = 1_000;

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

/// Asks for a rollout, or for its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// The model.
    pub model: ModelName,
    /// The version that the group is to run.
    pub version: Version,
    /// The group.
    pub group: GroupId,
    /// The waves. Without, and when it is not to be all at once either, a group of several nodes that run a version already goes
    /// by the built-in policy, and everybody else all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<Policy>>,
    /// The whole group now, with no waves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_at_once: bool,
}

/// What a rollout would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum RolloutPlan {
    /// It goes wave by wave.
    Waves {
        /// By this policy.
        policy: Box<Policy>,
        /// So.
        plan: Plan,
    },
    /// It reaches the whole group at once.
    AllAtOnce {
        /// What it is about.
        #[serde(flatten)]
        target: Target,
        /// What the group runs, if anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<BundleRef>,
        /// What it is to run.
        to: BundleRef,
        /// Nodes that take it.
        nodes: u64,
        /// Those that cannot be reached now.
        unreachable: u64,
        /// Bytes that all fetch together at most.
        bytes: u64,
        /// Why at once.
        why: String,
    },
}

/// Asks for the end of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortRollout {
    /// What becomes of nodes that have the candidate.
    pub how: Ending,
}

/// Asks for the way back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollBack {
    /// To this version of the registry; without, to what the group ran before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

/// A rollout with what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The rollout.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// Whether it is the one that holds.
    pub current: bool,
    /// Its nodes, counted; of the rollout that holds.
    pub summary: Summary,
    /// Its nodes, or some of them, when one rollout was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<progress::NodeRow>,
    /// The waves of the group: those under way, or the last that were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<Box<CampaignView>>,
    /// What to think of, when it was started just now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A rollout wave by wave, with a look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CampaignView {
    /// The rollout.
    pub campaign: Campaign,
    /// What follows from the numbers now, while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The same in words.
    pub words: String,
    /// The numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<Assessment>,
    /// Bytes of the candidate's bundle that were given out today (UTC).
    pub bytes_today: u64,
}

/// Some entries of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// In their order.
    pub entries: Vec<Entry>,
    /// What the oldest entry that is kept follows.
    pub base: Head,
    /// The end of the log.
    pub head: Head,
    /// Where to go on: `from=` this gives further ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What a check of the audit log found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCheck {
    /// Whether it is what was written.
    pub whole: bool,
    /// Entries that are what was written, from the oldest on.
    pub entries: u64,
    /// Number of the oldest entry that is kept.
    pub oldest: u64,
    /// The end of what is whole: to be noted elsewhere, since whoever can write the store can write all of it anew.
    pub head: Head,
    /// The first entry that is not what was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// Bytes of an artifact that were given out on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Days since 1970-01-01, by UTC.
    pub day: i64,
    /// The artifact.
    pub digest: Digest,
    /// The bytes.
    pub bytes: u64,
}

impl RolloutView {
    /// A rollout that holds no more.
    pub(crate) fn before(rollout: Rollout) -> Self {
        Self {
            rollout,
            current: false,
            summary: Summary::default(),
            nodes: Vec::new(),
            campaign: None,
            warnings: Vec::new(),
        }
    }
}

impl StartRollout {
    /// What it is about.
    pub fn target(&self) -> Target {
        Target {
            group: self.group.clone(),
            model: self.model.clone(),
        }
    }
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
    /// Messages from nodes that were refused, and downloads that had to wait, by reason.
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
