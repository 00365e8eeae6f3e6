//! What travels on the topics as JSON.
//!
//! Each message carries a format version; readers refuse another version and ignore fields that they do not know, so
//! that a newer writer may add some.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{
    BootId, ConsentRef, Epoch, FieldName, GroupId, ModelName, PredictionId, StreamName,
};
use crate::ledger::{Class, Waiting};
use crate::reading::Reading;
use crate::release::Sequence;
use crate::rollout::Tags;
use crate::time::Timestamp;
use crate::topic::NodePath;
use crate::trial::TrialReport;
use crate::version::V1;

mod trust;

pub use trust::{Intake, ReportedTrust};

/// Longest JSON text of one message, in bytes: a batch of 7 KiB, unpacked, stays well below.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// A model in a certain version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// Its name.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
    /// The digest of its bundle.
    pub digest: Digest,
}

/// A published result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Format version.
    pub v: V1,
    /// Names this prediction, everywhere and for ever.
    pub id: PredictionId,
    /// Event time of the newest reading in the window.
    pub ts: Timestamp,
    /// The instant that a forecast is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ts: Option<Timestamp>,
    /// The stream it was made on.
    pub stream: StreamName,
    /// Counts the predictions of this stream in this run of the agent, from 0: a gap is a loss.
    pub seq: u64,
    /// The agent's run.
    pub boot: BootId,
    /// What made it.
    pub model: ModelRef,
    /// The most likely label of a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The score of that label, 0 to 1 when the model ends in a softmax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// The scores of all labels, in the manifest's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<f32>>,
    /// The value of a regression, a forecast or an anomaly score, in `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The unit of `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// From the arrival of the reading that completed the window to the end of inference, in microseconds.
    pub latency_us: u64,
    /// True when it comes from the outbox after an outage.
    pub replay: bool,
}

/// Records of one stream, stored, sent and acknowledged together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch<R> {
    /// Format version.
    pub v: V1,
    /// The outbox it comes from.
    pub epoch: Epoch,
    /// Its number in that outbox; grows, and is never used again.
    pub number: u64,
    /// The stream of all its records.
    pub stream: StreamName,
    /// The records, oldest first.
    pub records: Vec<R>,
}

/// Predictions replayed after an outage.
pub type PredictionBatch = Batch<Prediction>;
/// Samples for training.
pub type SampleBatch = Batch<Sample>;

/// A window kept for training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Format version.
    pub v: V1,
    /// Event time of the newest reading in the window.
    pub ts: Timestamp,
    /// Where it comes from, and why it was kept; agents always say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<SampleOrigin>,
    /// The readings, oldest first, with the fields that the node may give away.
    pub window: Vec<Reading>,
    /// What the node predicted on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// What came true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
}

/// Where a sample comes from, and why it was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleOrigin {
    /// The agent's run.
    pub boot: BootId,
    /// Counts the samples of this stream in this run, from 0: what the ledger knows the sample by.
    pub seq: u64,
    /// The model that the stream's windows go to.
    pub model: ModelName,
    /// Why it was kept.
    pub policy: SamplePolicy,
    /// What allows its readings to leave the node: the operator's reference, as the node's configuration has it.
    pub consent: ConsentRef,
}

/// Which windows are kept for training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplePolicy {
    /// Every one.
    All,
    /// A share of them, by lot.
    Random,
    /// Those that the model is least sure of.
    Uncertain,
    /// Those on which the candidate in shadow and the active version differ.
    Disagreeing,
    /// Those unlike what has been seen.
    Rare,
}

/// A ground truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// Of a regression or a forecast, in the prediction's unit.
    Value(f64),
    /// Of a classification.
    Class(String),
}

/// What the coordinator has stored durably: only then does the node forget it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Format version.
    pub v: V1,
    /// Live predictions, by the number within their id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<PredictionRange>,
    /// Batches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<BatchRange>,
}

/// Predictions of one run, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictionRange {
    /// The agent's run.
    pub boot: BootId,
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
}

/// Batches of one outbox, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRange {
    /// The outbox.
    pub epoch: Epoch,
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
}

/// Whether a node is there; retained, and the node's last will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Format version.
    pub v: V1,
    /// The state.
    #[serde(flatten)]
    pub state: NodeState,
    /// The agent's run. A `down` of another run than the last `up` is old news.
    pub boot: BootId,
    /// When this was written, by the node's clock; for the last will, when the connection was made.
    pub at: Timestamp,
    /// The agent's version.
    pub agent: String,
    /// The groups whose releases the node takes, the first that has one for a model decides.
    pub groups: Vec<GroupId>,
    /// What it is tagged with.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

/// Whether a node works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    /// All streams have a running model.
    Up,
    /// The node runs, and something it should do it cannot.
    Degraded {
        /// What, in words.
        reason: String,
    },
    /// The node stopped, or its connection broke.
    Down,
}

/// What a node says of itself; retained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Format version.
    pub v: V1,
    /// The agent's run.
    pub boot: BootId,
    /// When this was written, by the node's clock.
    pub at: Timestamp,
    /// A row for each model that the node's streams name.
    pub models: Vec<ReportedModel>,
    /// A row for each stream.
    pub streams: Vec<ReportedStream>,
    /// The outbox.
    pub outbox: ReportedOutbox,
    /// Whom the node believes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<ReportedTrust>,
}

/// A model on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedModel {
    /// Its name.
    pub name: ModelName,
    /// What runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveSlot>,
    /// What is wanted and does not run, yet or at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateSlot>,
    /// The version that ran before the active one, with the quality it ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ActiveSlot>,
    /// The newest release that was taken in, whatever became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Sequence>,
    /// The last trial, under way or over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialReport>,
}

/// A version that runs, or ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSlot {
    /// The version.
    pub version: Version,
    /// The digest of its bundle.
    pub digest: Digest,
    /// When it was activated, by the node's clock.
    pub since: Timestamp,
    /// Predictions that it made, in this run of the agent.
    pub predictions: u64,
    /// Event time of its last prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_inference: Option<Timestamp>,
    /// How right it was, where labels came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// How right a version was, over the labels that came in this run of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Quality {
    /// Of values.
    Error {
        /// Labels compared.
        labels: u64,
        /// Mean absolute error, in the prediction's unit.
        mae: f64,
        /// Root of the mean squared error, in the prediction's unit.
        rmse: f64,
    },
    /// Of labels.
    Accuracy {
        /// Labels compared.
        labels: u64,
        /// Share that was right, 0 to 1.
        accuracy: f64,
    },
}

/// A version that is wanted and does not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateSlot {
    /// The version.
    pub version: Version,
    /// The digest of its bundle.
    pub digest: Digest,
    /// How far it is.
    #[serde(flatten)]
    pub state: TrialState,
}

/// How far a candidate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TrialState {
    /// Its bundle is on the way.
    Fetching {
        /// Bytes that are here.
        received: u64,
        /// Bytes in all.
        bytes: u64,
    },
    /// It is wanted, and is not fetched or does not go live before the node's hours for changes.
    Waiting {
        /// What for, in words.
        reason: String,
    },
    /// Its bundle is here and is being checked.
    Checking,
    /// It runs beside the active version.
    Shadowing {
        /// Windows that both had.
        windows: u64,
        /// Windows that are asked for.
        of: u64,
    },
    /// It was refused, and the active version goes on.
    Refused {
        /// Which check failed.
        verdict: Verdict,
        /// What was found, in words.
        detail: String,
    },
}

/// Why a candidate was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The artifact could not be fetched; it is tried again.
    Unavailable,
    /// The bytes are not those that the release names.
    DigestMismatch,
    /// The bundle or its model does not open, or goes over a limit.
    Unusable,
    /// The bundle is for other streams than the node has.
    Unsuitable,
    /// The golden vectors came out differently.
    GoldenMismatch,
    /// It takes longer than the release allows.
    TooSlow,
    /// It takes more memory than the release allows.
    TooLarge,
    /// Its inferences fail: an error, an output that is not finite, or no answer in time.
    Failing,
    /// The process that ran it crashed.
    Crashed,
    /// Its predictions differ too much from the active version's.
    Disagrees,
    /// Its error is greater than the release allows.
    Worse,
    /// A release revoked it.
    Revoked,
}

/// Counters of a stream, in this run of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedStream {
    /// Its name.
    pub name: StreamName,
    /// The model that its windows go to.
    pub model: ModelName,
    /// Event time of the newest reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reading: Option<Timestamp>,
    /// Since when no reading has come, once that is longer than the stream may be silent; by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<Timestamp>,
    /// Whether its predictions stay on the node: the ledger waits for none of them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
    /// Whether its readings and errors are still those that the active version met at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<ReportedDrift>,
    /// What happened, each from 0.
    #[serde(flatten)]
    pub counters: StreamCounters,
}

/// A stream's drift, as seen from the version that runs. Periods and times are those of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedDrift {
    /// The bundle that runs; another one begins anew.
    pub digest: Digest,
    /// Event time of its first window.
    pub since: Timestamp,
    /// Windows that it scored since.
    pub windows: u64,
    /// Periods that are over since.
    pub periods: u64,
    /// So many of these, the first ones, are the reference.
    pub reference: u64,
    /// Fields that the model reads, the one that is farthest above its limit first, at most 8. None until there are recent
    /// periods to hold against the reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<ReportedShift>,
    /// The error, where labels come, once its reference is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ReportedErrorDrift>,
    /// Since when there is drift; missing while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted_at: Option<Timestamp>,
    /// What has drifted, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// How far the distribution of a field has moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedShift {
    /// The field.
    pub field: FieldName,
    /// Population stability index of the recent periods against the reference.
    pub psi: f64,
    /// What chance does not reach.
    pub limit: f64,
    /// Whether it was above the limit for long enough.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drifts: bool,
}

/// How far the error has grown: the mean absolute error in the prediction's unit, or the share of wrong labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedErrorDrift {
    /// In the reference.
    pub before: f64,
    /// In the recent periods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<f64>,
    /// The detector's sum.
    pub cusum: f64,
    /// From which sum on there is drift.
    pub limit: f64,
}

/// What happened to the messages of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamCounters {
    /// Messages that became readings.
    pub readings: u64,
    /// Messages that did not: not the configured format, a field missing, not finite, or over the size limit.
    pub malformed: u64,
    /// Readings behind the watermark.
    pub late: u64,
    /// Readings with the event time of one before.
    pub duplicate: u64,
    /// Windows that the model refused: uneven steps, a missing field, a value out of range.
    pub unfit: u64,
    /// Windows dropped because the engine was behind.
    pub dropped: u64,
    /// Windows dropped because no version of the model runs.
    pub no_model: u64,
    /// Inferences that failed.
    pub failed: u64,
    /// Predictions made, which is the `seq` of the next one.
    pub predictions: u64,
    /// Labels that met their prediction.
    pub labels: u64,
    /// Predictions whose label did not come in time.
    pub unlabelled: u64,
    /// Samples kept, which is the `seq` of the next one.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples: u64,
    /// Windows that a policy chose and the day's budget had no bytes for.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples_over_budget: u64,
    /// Windows that a policy chose and that are larger than a batch.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples_over_size: u64,
    /// Samples that went without their label, for too many waited for theirs.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples_crowded: u64,
    /// Samples that were dropped before they had a number, for the outbox was held up.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples_dropped: u64,
}

/// What waits for the link, and what was lost waiting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedOutbox {
    /// Batches that wait.
    pub batches: u64,
    /// Records within them.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records evicted because the outbox was full, since the outbox was made.
    pub evicted: u64,
    /// Records that grew too old, since the outbox was made.
    pub expired: u64,
    /// Batches that a damaged disk lost, since the outbox was made.
    pub lost_batches: u64,
    /// Records that could not be written, in this run of the agent.
    pub unwritten: u64,
    /// The newest losses, at most 16, oldest first.
    pub gaps: Vec<Gap>,
    /// What each class has, the one that matters most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<ReportedLane>,
    /// All that the node still has, on its disk or in memory, by number; at most [`WAITING_RANGES_MAX`] ranges in all,
    /// oldest first.
    ///
    /// [`WAITING_RANGES_MAX`]: crate::ledger::WAITING_RANGES_MAX
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiting>,
    /// Whether ranges of `waiting` were joined with what is between them, for there were too many.
    #[serde(skip_serializing_if = "is_false")]
    pub waiting_joined: bool,
    /// Bytes that were sent to the coordinator today.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<ReportedBudget>,
}

/// A class of records in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedLane {
    /// The class.
    pub class: Class,
    /// Batches that wait.
    pub batches: u64,
    /// Records within them.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Most bytes on disk.
    pub cap_bytes: u64,
    /// When the oldest batch that waits was stored, or an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
}

/// What may be sent to the coordinator in a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedBudget {
    /// When the day began, by the node's clock.
    pub since: Timestamp,
    /// Bytes of records that were sent since, live ones and history.
    pub used_bytes: u64,
    /// From how many on history and samples wait for the next day; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Batches that will never come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The outbox.
    pub epoch: Epoch,
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
    /// Records within them, where known.
    pub records: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why batches will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The outbox was full.
    Evicted,
    /// They grew too old.
    Expired,
    /// The disk lost them.
    Damaged,
}

/// A row of the coordinator's inventory: what a node last said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Where it is.
    #[serde(flatten)]
    pub path: NodePath,
    /// Its last status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Its last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
}
