//! The slot of a model: which bundle runs on this node, which should, and what is done about the difference.
//!
//! A [`SlotMachine`] takes in releases and what became of its own wishes, and hands out [`Effect`]s. Whatever changes is
//! written into a draft of the [`SlotRecord`]; only when the shell says that the draft is on disk does the machine act on
//! it. So a node that is cut off at any point goes on from its record, with or without a link:
//!
//! ```text
//!  wanted by a release
//!        |
//!  +-----v----+ fetched  +----------+ passed  +-----------+  terms met  +-----------+  terms met   +--------+
//!  | Fetching | -------> | Checking | ------> | Shadowing | ----------> | Probation | -----------> | Passed |
//!  +--^----|--+          +----------+         +-----------+  promoted   +-----------+              +--------+
//!     |    v failed           | refused             | refused                | refused: back to the one before
//!   Waiting                   v                     v                        v
//!                         quarantine <--------------+------------------------+
//! ```
//!
//! What a trial needs comes with the release as terms: without a shadow a candidate is promoted after its check, without
//! a probation it has passed with its first inference. Beside the record stands how far a trial is and what it found, so
//! that it goes on over restarts; which release's terms count is told by [`TrialRecord`].
//!
//! These rules hold at every instant, whatever is lost, repeated, cut off or full (`simulation`):
//!
//! - a sequence number that was taken in is never followed by an older one of the same group;
//! - once a version has passed, one that has passed all checks is active, unless each that the node has is revoked or damaged;
//! - what runs is neither in quarantine nor revoked by a release of any of the node's groups;
//! - a release promotes a bundle at most once, and none whose trial did not meet its terms, except where nothing runs that it
//!   could be compared with;
//! - at rest the node runs what the newest release wants, or has refused it with a verdict.
//!
//! Three things do not wait for the record, because every start comes to the same: leaving a bundle that is revoked or
//! refused, going back to the version before, and running what is configured. The way back needs no trial either, and no hours:
//! it is taken when a release wants the version before, which had passed, or when a version in probation is wanted no more.
//!
//! The machine has no clock: it knows the time that it was last told, and asks to be woken ([`Effect::RetryAfter`]).

use std::collections::VecDeque;

use lamppost_models::id::{GroupId, ModelName};
use lamppost_models::message::Verdict;
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::{Tags, TrialTerms};
use lamppost_models::time::Zone;
use lamppost_models::topic::NodePath;
use lamppost_models::trial::{Comparison, Watch};
use lamppost_models::{Digest, Timestamp};

mod active;
mod alarm;
mod backoff;
mod candidate;
mod effect;
mod input;
mod machine;
mod reconcile;
mod record;
mod refusal;
mod report;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod wanted;

use alarm::Wait;

pub use backoff::Backoff;
pub use effect::Effect;
pub use input::{ActivateFailure, CheckOutcome, FetchFailure, Input, ShadowEnd};
pub use record::{
    DETAIL_CHARS_MAX, GROUPS_MAX, Held, QUARANTINE_MAX, Quarantined, Remembered, SlotRecord,
    TrialRecord,
};
pub use refusal::{ReleaseRefusal, Taken};

/// What a slot is told once, when the agent starts.
#[derive(Clone, Debug)]
pub struct SlotSetup {
    /// The model.
    pub model: ModelName,
    /// The node's name.
    pub path: NodePath,
    /// The node's groups: the first that has a release decides.
    pub groups: Vec<GroupId>,
    /// What the node is tagged with.
    pub tags: Tags,
    /// Where its hours for changes are counted.
    pub zone: Zone,
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

/// How often progress of a trial is written down, in seconds, beside its end: a crash costs at most so much of it, and a
/// week of trials a thousand writes of some kilobytes.
pub const KEEP_S: u64 = 600;

/// Crashes in probation from which on a version is refused where there is none to go back to, if its release sets fewer: power
/// cuts count as crashes, and a gateway that is being installed sees some.
pub const CRASHES_ALONE_MAX: u64 = 10;

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
    /// The terms under which the candidate was checked last.
    checked: Option<TrialTerms>,
    watching: Option<Watching>,
    /// Bundles that did not open: they are not tried again until the record names another one as active. No more than
    /// that one, the one before, and the factory's.
    unopened: Vec<Digest>,
    effects: VecDeque<Effect>,
    /// What the shell was last told to keep; `None` before the first time.
    kept: Option<Vec<Digest>>,
    /// When the shell was asked to wake the machine.
    alarm: Option<Timestamp>,
    /// When progress was last taken into the draft.
    kept_at: Timestamp,
    /// What the shell last said the time is.
    now: Timestamp,
}

/// The way of the draft to the disk.
#[derive(Debug)]
enum Saving {
    /// Nothing is under way.
    Idle,
    /// The shell is writing, for the so-manieth time.
    Writing { record: Box<SlotRecord>, tries: u32 },
    /// The last try failed, and the next one waits.
    Waiting { tries: u32, wait: Wait },
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
        /// Whether an inference has worked since.
        worked: bool,
    },
}

/// What is done about a bundle that is wanted and does not run.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each model")]
enum Trial {
    None,
    /// It is fetched once the hours for that come.
    Closed {
        bundle: BundleRef,
        tries: u32,
    },
    Fetching {
        bundle: BundleRef,
        received: u64,
        tries: u32,
    },
    Checking {
        bundle: BundleRef,
        tries: u32,
        fetched_bytes: u64,
    },
    /// It could not be had or tried, and is taken up again.
    Waiting {
        bundle: BundleRef,
        verdict: Verdict,
        detail: String,
        tries: u32,
        wait: Wait,
        /// Whether a server asked for it.
        asked: bool,
    },
    /// It runs beside the active version.
    Shadowing {
        bundle: BundleRef,
        tries: u32,
        against: Digest,
        /// What earlier runs of the agent found.
        before: Comparison,
        /// That and what this one found.
        found: Comparison,
    },
    /// It met its terms, and goes live once the hours for that come.
    Ready {
        bundle: BundleRef,
    },
    /// It is the active one, as soon as that is on disk.
    Passed {
        bundle: BundleRef,
    },
    Refused {
        bundle: BundleRef,
        verdict: Verdict,
        detail: String,
    },
}

/// A version in probation.
#[derive(Debug)]
struct Watching {
    digest: Digest,
    /// What earlier runs of the agent found.
    before: Watch,
    /// That and what this one found.
    found: Watch,
}
