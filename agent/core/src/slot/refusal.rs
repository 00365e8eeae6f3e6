//! What becomes of a release.

use lamppost_models::Timestamp;
use lamppost_models::id::{GroupId, ModelName};
use lamppost_models::release::Sequence;

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    New,
    /// It is the one that is known.
    Known,
}

/// Why a release is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefusal {
    /// It came on another topic than its own.
    #[error("release of {model} for {group} came on the topic of {topic_model} for {topic_group}")]
    WrongTopic {
        /// The release's group.
        group: GroupId,
        /// The release's model.
        model: ModelName,
        /// The topic's group.
        topic_group: GroupId,
        /// The topic's model.
        topic_model: ModelName,
    },
    /// It is for a group that the node is not in.
    #[error("release is for group {group}, which this node is not in")]
    OtherGroup {
        /// The release's group.
        group: GroupId,
    },
    /// One with a higher number was taken in before.
    #[error(
        "release {sequence} is older than release {known} of the same group, which was taken in before"
    )]
    Stale {
        /// The release's number.
        sequence: Sequence,
        /// The highest one that was taken in.
        known: Sequence,
    },
    /// One with the same number and other content was taken in before.
    #[error(
        "release {sequence} differs from the release {sequence} of the same group that was taken in before"
    )]
    Conflicting {
        /// The number of both.
        sequence: Sequence,
    },
    /// It has expired.
    #[error("release {sequence} expired at {expires_at}, it is {now}")]
    Expired {
        /// The release's number.
        sequence: Sequence,
        /// When it expired.
        expires_at: Timestamp,
        /// The node's clock.
        now: Timestamp,
    },
}

impl ReleaseRefusal {
    /// One word for the reason, to count by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::WrongTopic { .. } => "wrong-topic",
            Self::OtherGroup { .. } => "other-group",
            Self::Stale { .. } => "stale",
            Self::Conflicting { .. } => "conflicting",
            Self::Expired { .. } => "expired",
        }
    }
}
