//! What the shell tells a slot.

use std::time::Duration;

use lamppost_models::Digest;
use lamppost_models::message::Verdict;
use lamppost_models::trial::{Comparison, Watch};

use crate::trial::Preflight;

/// What became of something, told by the shell. What is not expected, or not any more, is ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The record of [`Effect::Save`] is on disk, durably.
    ///
    /// [`Effect::Save`]: super::Effect::Save
    Saved,
    /// The record of [`Effect::Save`] could not be written; what is on disk is the one before, or it.
    ///
    /// [`Effect::Save`]: super::Effect::Save
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
        /// Bytes that came over the link since [`Effect::Fetch`]; the rest was on the disk.
        ///
        /// [`Effect::Fetch`]: super::Effect::Fetch
        fetched_bytes: u64,
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
    /// How the candidate and the active version did on the same windows, in all since [`Effect::Shadow`]. After each failure
    /// of the candidate, and otherwise as often as is cheap: every few windows, and at least once a minute if there were any.
    ///
    /// [`Effect::Shadow`]: super::Effect::Shadow
    Shadowed {
        /// The candidate.
        digest: Digest,
        /// How they did.
        comparison: Comparison,
    },
    /// The candidate does not run beside the active version any more, and not because it was to stop.
    ShadowEnded {
        /// The candidate.
        digest: Digest,
        /// Why.
        end: ShadowEnd,
    },
    /// The bundle of [`Effect::Activate`] runs.
    ///
    /// [`Effect::Activate`]: super::Effect::Activate
    Activated {
        /// The bundle.
        digest: Digest,
    },
    /// The bundle of [`Effect::Activate`] does not run; what ran before goes on.
    ///
    /// [`Effect::Activate`]: super::Effect::Activate
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
    /// An inference of the running version does not come to an end. In probation it is the version's fault and the node goes
    /// back; later it is ignored, for then the machine is the likelier cause.
    Stuck {
        /// The bundle.
        digest: Digest,
        /// What happened, in words.
        detail: String,
    },
    /// How the running version did, in all since [`Effect::Watch`]; its crashes are the machine's to count, and what is said
    /// of them is ignored. `before` counts once it has met more labels than what is known of that version from the shadow. As often
    /// as [`Input::Shadowed`].
    ///
    /// [`Effect::Watch`]: super::Effect::Watch
    Watched {
        /// The bundle.
        digest: Digest,
        /// How it did.
        watch: Watch,
    },
    /// The agent is about to end on purpose: what it wishes to save now is the last. A run that ends without it counts as
    /// a crash.
    Stopping,
    /// The time of [`Effect::RetryAfter`] is over.
    ///
    /// [`Effect::RetryAfter`]: super::Effect::RetryAfter
    Retry,
}

/// Why a bundle is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// The server, the link or the disk.
    Unavailable,
    /// The server has enough to do, and asks to be left alone for that long.
    Busy {
        /// How long; some chance is added, so that not all come back at once.
        after: Duration,
    },
    /// What came is not what the release names. That says something about the way, not about the bundle: it is tried
    /// again, and not put in quarantine.
    DigestMismatch,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckOutcome {
    /// All is well, as far as the terms of the trial allow what was measured.
    Passed(Preflight),
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

/// Why a candidate does not run beside the active version any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowEnd {
    /// It is the candidate's fault: it crashed, took too much memory, or answered with garbage.
    Refused {
        /// What it did.
        verdict: Verdict,
        /// What was found, in words.
        detail: String,
    },
    /// It is not: there was no process to be had, say. The trial is taken up again later.
    Undecided {
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
