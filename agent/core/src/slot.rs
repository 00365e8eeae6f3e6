//! The slot of a model: which bundle runs on this node, which should, and what is done about the difference.
//!
//! A [`SlotMachine`] takes in releases and what became of its own wishes, and hands out [`Effect`]s. Whatever changes
//! is written into a draft of the [`SlotRecord`]; only when the shell says that the draft is on disk does the machine
//! act on it. So a node that is cut off at any point goes on from its record, and the rules hold at every instant:
//!
//! - a sequence number that was taken in is never followed by an older one of the same group;
//! - a bundle is active only after it passed all checks, and the last good one stays until then;
//! - a bundle that failed is in quarantine and does not run again.
//!
//! ```text
//!                 wanted by a release
//!                        |
//!   fetch failed   +-----v-----+  fetched   +----------+  passed    +--------+  first inference  +--------+
//!  +-------------- |  Fetching | ---------> | Checking | ---------> | Active | ----------------> | proven |
//!  |     retry     +-----^-----+            +----------+            +--------+                   +--------+
//!  v                     |                       | refused               | inferences fail: roll back to
//! Waiting ---------------+                       v                       v the one before
//!                                           quarantine <-----------------+
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use lamppost_models::id::{GroupId, ModelName};
use lamppost_models::message::{ActiveSlot, CandidateSlot, ReportedModel, TrialState, Verdict};
use lamppost_models::release::{BundleRef, Release, Sequence};
use lamppost_models::{Digest, Timestamp};

mod backoff;
mod machine;
mod reconcile;
mod record;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use record::{
    DETAIL_CHARS_MAX, GROUPS_MAX, Held, QUARANTINE_MAX, Quarantined, Remembered, SlotRecord,
};

/// What a slot is told once, when the agent starts.
#[derive(Clone, Debug)]
pub struct SlotSetup {
    /// The model.
    pub model: ModelName,
    /// The node's groups: the first that has a release decides.
    pub groups: Vec<GroupId>,
    /// What runs as long as there is no release.
    pub factory: Option<BundleRef>,
    /// The agent's version: a bundle that another version refused is tried again.
    pub agent: String,
    /// How long to wait before a failed fetch, check or write is tried again.
    pub backoff: Backoff,
    /// How many inferences may fail before the first that works, until the bundle is rolled back.
    pub failures_max: u32,
}

/// Inferences that may fail after an activation, unless configured otherwise: one may meet an odd window, three in a
/// row without one that works are the model's fault.
pub const FAILURES_MAX_DEFAULT: u32 = 3;

/// The slot of one model.
#[derive(Debug)]
pub struct SlotMachine {
    setup: SlotSetup,
    /// What is on disk.
    saved: SlotRecord,
    /// What should be.
    draft: SlotRecord,
    saving: Saving,
    running: Running,
    trial: Trial,
    /// Bundles that did not open: they are not tried again until the record names another one as active. No more than
    /// that one, the one before, and the factory's.
    unopened: Vec<Digest>,
    effects: VecDeque<Effect>,
    /// What the shell was last told to keep; `None` before the first time.
    kept: Option<Vec<Digest>>,
}

/// The way of the draft to the disk.
#[derive(Debug)]
enum Saving {
    /// Nothing is under way.
    Idle,
    /// The shell is writing, for the so-manieth time.
    Writing { record: Box<SlotRecord>, tries: u32 },
    /// The last try failed, and the next one waits.
    Waiting { tries: u32 },
}

/// What the shell's engine holds.
#[derive(Debug)]
enum Running {
    Nothing,
    /// The shell is opening `next`; `now` goes on until it is open.
    Opening {
        now: Option<Held>,
        next: Held,
    },
    Runs {
        held: Held,
        failures: u32,
    },
}

/// What is done about a bundle that is wanted and does not run.
#[derive(Debug)]
enum Trial {
    None,
    Fetching {
        bundle: BundleRef,
        received: u64,
        tries: u32,
    },
    Checking {
        bundle: BundleRef,
        tries: u32,
    },
    Waiting {
        bundle: BundleRef,
        verdict: Verdict,
        detail: String,
        tries: u32,
    },
    Passed {
        bundle: BundleRef,
    },
    Refused {
        bundle: BundleRef,
        verdict: Verdict,
        detail: String,
    },
}

/// What became of something, told by the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The record of [`Effect::Save`] is on disk, durably.
    Saved,
    /// The record of [`Effect::Save`] could not be written; what is on disk is the one before, or it.
    SaveFailed,
    /// So many bytes of the wanted bundle are here.
    Received {
        /// The bundle.
        digest: Digest,
        /// Bytes in all.
        received: u64,
    },
    /// The wanted bundle is on disk, with the right digest.
    Fetched {
        /// The bundle.
        digest: Digest,
    },
    /// The wanted bundle is not here.
    FetchFailed {
        /// The bundle.
        digest: Digest,
        /// Why.
        failure: FetchFailure,
        /// What happened, in words.
        detail: String,
    },
    /// The check came to an end.
    Checked {
        /// The bundle.
        digest: Digest,
        /// What it came to.
        outcome: CheckOutcome,
    },
    /// The bundle of [`Effect::Activate`] runs.
    Activated {
        /// The bundle.
        digest: Digest,
    },
    /// The bundle of [`Effect::Activate`] does not run; what ran before goes on.
    ActivateFailed {
        /// The bundle.
        digest: Digest,
        /// Why.
        failure: ActivateFailure,
        /// What happened, in words.
        detail: String,
    },
    /// An inference worked.
    InferenceWorked {
        /// The bundle.
        digest: Digest,
    },
    /// An inference failed, although its window suits the model.
    InferenceFailed {
        /// The bundle.
        digest: Digest,
        /// What happened, in words.
        detail: String,
    },
    /// The time of [`Effect::RetryAfter`] is over, or there is reason to believe that it would work now.
    Retry,
}

/// Why a bundle is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// The server, the link or the disk.
    Unavailable,
    /// What came is not what the release names. That says something about the way, not about the bundle: it is tried
    /// again, and not put in quarantine.
    DigestMismatch,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// All is well.
    Passed,
    /// The bundle is no good.
    Refused {
        /// Which check failed.
        verdict: Verdict,
        /// What was found, in words.
        detail: String,
    },
    /// The check could not be made, which is not the bundle's fault.
    Undecided {
        /// What happened, in words.
        detail: String,
    },
    /// The file is not there, or its bytes have changed since it was fetched.
    Damaged {
        /// What happened, in words.
        detail: String,
    },
}

/// Why a bundle that is held does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivateFailure {
    /// The file is not there, or its bytes have changed: it is fetched again.
    Damaged,
    /// It does not open, or its golden vectors come out differently: it goes into quarantine.
    Refused(Verdict),
}

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write the record durably; then [`Input::Saved`] or [`Input::SaveFailed`].
    Save(SlotRecord),
    /// Get the bundle onto the disk; then [`Input::Fetched`] or [`Input::FetchFailed`].
    Fetch(BundleRef),
    /// Check the bundle, and keep its engine ready; then [`Input::Checked`].
    Check(BundleRef),
    /// Stop fetching or checking: it is not wanted any more, and no input about it is expected.
    Cancel(Digest),
    /// Let the bundle run in place of what runs, in one step; then [`Input::Activated`] or [`Input::ActivateFailed`].
    Activate(BundleRef),
    /// Let nothing run.
    Deactivate,
    /// Delete what is not among [`SlotMachine::keeps`], over all models.
    Sweep,
    /// Send [`Input::Retry`] after that time; a newer one takes its place.
    RetryAfter(Duration),
}

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

impl SlotMachine {
    /// The row of this model in the node's report. Its counters are 0 and its quality is empty: the shell knows them.
    pub fn report(&self) -> ReportedModel {
        let slot = |held: &Held| ActiveSlot {
            version: held.bundle.version.clone(),
            digest: held.bundle.digest,
            since: held.since,
            predictions: 0,
            last_inference: None,
            quality: None,
        };
        ReportedModel {
            name: self.setup.model.clone(),
            active: self.runs().map(slot),
            candidate: self.candidate(),
            previous: self.saved.previous.as_ref().map(slot),
            release: self.decisive().map(|remembered| remembered.sequence),
            trial: None,
        }
    }

    fn candidate(&self) -> Option<CandidateSlot> {
        let (bundle, state) = match &self.trial {
            // A factory bundle has no release and no trial; that it failed is still to be seen.
            Trial::None => {
                let factory = self.setup.factory.as_ref()?;
                let entry = self.saved.quarantined(&factory.digest)?;
                (
                    factory,
                    TrialState::Refused {
                        verdict: entry.verdict,
                        detail: entry.detail.clone(),
                    },
                )
            }
            Trial::Fetching {
                bundle, received, ..
            } => (
                bundle,
                TrialState::Fetching {
                    received: *received,
                    bytes: bundle.bytes,
                },
            ),
            Trial::Checking { bundle, .. } | Trial::Passed { bundle } => {
                (bundle, TrialState::Checking)
            }
            Trial::Waiting {
                bundle,
                verdict,
                detail,
                ..
            }
            | Trial::Refused {
                bundle,
                verdict,
                detail,
            } => (
                bundle,
                TrialState::Refused {
                    verdict: *verdict,
                    detail: detail.clone(),
                },
            ),
        };
        Some(CandidateSlot {
            version: bundle.version.clone(),
            digest: bundle.digest,
            state,
        })
    }
}
