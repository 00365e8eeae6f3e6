//! What a slot wishes.

use std::time::Duration;

use lamppost_models::Digest;
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::Shadow;

use super::SlotRecord;

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a few at a time, each taken apart at once"
)]
pub enum Effect {
    /// Write the record durably; then [`Input::Saved`] or [`Input::SaveFailed`].
    ///
    /// [`Input::Saved`]: super::Input::Saved
    /// [`Input::SaveFailed`]: super::Input::SaveFailed
    Save(SlotRecord),
    /// Get the bundle onto the disk; then [`Input::Fetched`] or [`Input::FetchFailed`].
    ///
    /// [`Input::Fetched`]: super::Input::Fetched
    /// [`Input::FetchFailed`]: super::Input::FetchFailed
    Fetch(BundleRef),
    /// Check and measure the bundle, and keep its engine ready; then [`Input::Checked`].
    ///
    /// [`Input::Checked`]: super::Input::Checked
    Check(BundleRef),
    /// Run the bundle, which was checked, beside the running version and compare the two, counting from 0; then
    /// [`Input::Shadowed`] again and again, until [`Effect::StopShadow`] or [`Input::ShadowEnded`].
    ///
    /// [`Input::Shadowed`]: super::Input::Shadowed
    /// [`Input::ShadowEnded`]: super::Input::ShadowEnded
    Shadow {
        /// The bundle.
        bundle: BundleRef,
        /// What it is given and how far it may go.
        terms: Shadow,
    },
    /// Let the bundle not run beside the active version any more. Its engine stays ready until it is activated or
    /// [`Effect::Cancel`] comes.
    StopShadow(Digest),
    /// Stop fetching or checking, and let a ready engine go: the bundle is not wanted any more, and no input about it is
    /// expected.
    Cancel(Digest),
    /// Let the bundle run in place of what runs, in one step; then [`Input::Activated`] or [`Input::ActivateFailed`].
    ///
    /// [`Input::Activated`]: super::Input::Activated
    /// [`Input::ActivateFailed`]: super::Input::ActivateFailed
    Activate(BundleRef),
    /// Count how the running version does, from 0; then [`Input::Watched`] again and again, until [`Effect::StopWatch`].
    ///
    /// [`Input::Watched`]: super::Input::Watched
    Watch(Digest),
    /// Its probation is over.
    StopWatch(Digest),
    /// Let nothing run.
    Deactivate,
    /// Delete what is not among [`SlotMachine::keeps`], over all models.
    ///
    /// [`SlotMachine::keeps`]: super::SlotMachine::keeps
    Sweep,
    /// Send [`Input::Retry`] after that time; a newer one takes its place.
    ///
    /// [`Input::Retry`]: super::Input::Retry
    RetryAfter(Duration),
}
