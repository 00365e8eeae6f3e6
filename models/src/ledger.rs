//! What a node tells of its records by number, so that each is delivered or accounted for.
//!
//! A record is known by its run of the agent, its class, its stream and its `seq`, which grows by one from 0. A node
//! reports how many it made ([`StreamCounters::predictions`](crate::message::StreamCounters::predictions)) and which it
//! still has ([`Waiting`]); what will never come is a [`LedgerEvent`], a record that is itself delivered. So at the
//! coordinator nothing is left of `0..made` once what was delivered, lost and waits is taken away, or it is missing.

use serde::{Deserialize, Serialize};

use crate::id::{BootId, Epoch, StreamName};
use crate::time::Timestamp;
use crate::version::V1;

/// Most ranges that one report tells of what waits: with a few digits each, 4 KiB of a retained message.
pub const WAITING_RANGES_MAX: usize = 64;

/// What a record is, the one that matters most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A [`LedgerEvent`].
    Event,
    /// A prediction.
    Prediction,
    /// A sample for training.
    Sample,
}

impl Class {
    /// All of them, the one that matters most first.
    pub const ALL: [Self; 3] = [Self::Event, Self::Prediction, Self::Sample];

    /// The word of the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Prediction => "prediction",
            Self::Sample => "sample",
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that the coordinator's ledger must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEvent {
    /// Format version.
    pub v: V1,
    /// When it was noticed, by the node's clock.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: LedgerEventKind,
}

/// What a [`LedgerEvent`] tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LedgerEventKind {
    /// Records that will never come.
    Lost(Lost),
    /// A run of the agent that is over.
    Ended(Ended),
}

/// Records that will never come. Those in the range that were delivered nevertheless are not lost.
///
/// The same loss may be told twice, and ranges may overlap, after a crash between a loss and the note of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What they are.
    pub class: Class,
    /// Their stream.
    pub stream: StreamName,
    /// The run of the agent that made them.
    pub boot: BootId,
    /// First `seq`.
    pub from: u64,
    /// Last `seq`, at least `from`.
    pub to: u64,
    /// How many of them the node knows to be lost, at most `to - from + 1`.
    pub records: u64,
    /// Why.
    pub reason: LossReason,
}

/// Why records will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The outbox was full.
    Evicted,
    /// They grew too old.
    Expired,
    /// The disk lost them.
    Damaged,
    /// The disk was full, or failed, when they should have been written.
    Unwritten,
    /// The uplink, or a queue before it, did not take them.
    Dropped,
    /// The event that told of them had to go itself; why they were lost is not known any more.
    Forgotten,
}

impl LossReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Evicted,
        Self::Expired,
        Self::Damaged,
        Self::Unwritten,
        Self::Dropped,
        Self::Forgotten,
    ];

    /// The word of the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Damaged => "damaged",
            Self::Unwritten => "unwritten",
            Self::Dropped => "dropped",
            Self::Forgotten => "forgotten",
        }
    }
}

impl std::fmt::Display for LossReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A run of the agent that is over; told by the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The run.
    pub boot: BootId,
    /// Whether it wrote down all it had before it stopped.
    pub clean: bool,
    /// What it promised of a sudden end.
    pub durability: Durability,
}

/// When a record is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Once it could not be delivered: a sudden end loses what was in memory.
    Outage,
    /// Before it is sent: a sudden end loses what was made within the last interval of writing, which was sent nowhere.
    Always,
}

/// Events, stored, sent and acknowledged together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBatch {
    /// Format version.
    pub v: V1,
    /// The outbox it comes from.
    pub epoch: Epoch,
    /// Its number in that outbox, among those of all batches.
    pub number: u64,
    /// The events, oldest first.
    pub records: Vec<LedgerEvent>,
}

/// Records that a node still has, on its disk or in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What they are.
    pub class: Class,
    /// Their stream.
    pub stream: StreamName,
    /// The run of the agent that made them.
    pub boot: BootId,
    /// First and last `seq` of each stretch, ascending.
    pub ranges: Vec<(u64, u64)>,
}
