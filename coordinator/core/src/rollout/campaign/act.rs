//! What people do to campaigns.

use lamppost_models::release::BundleRef;

use super::{Action, Campaign, Campaigns, Refusal, Start, Step};
use crate::rollout::audit::Actor;
use crate::rollout::{Book, Target, Terms};

impl Campaigns {
    /// Plans that a campaign begins with its first wave.
    ///
    /// # Errors
    /// [`Refusal`] when the policy cannot be, another campaign is under way, the group runs nothing yet, or runs this already.
    pub fn plan_start(&self, book: &Book, start: Start, terms: Terms) -> Result<Step, Refusal> {
        todo!()
    }

    /// Plans what somebody does to the campaign under way.
    ///
    /// # Errors
    /// [`Refusal`] when there is none, or it is in a state that does not fit.
    pub fn plan_action(
        &self,
        book: &Book,
        target: &Target,
        action: &Action,
        by: &Actor,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        todo!()
    }

    /// Plans that a group goes to another version at once, back to an earlier one say: to `to`, or without it to what came
    /// before the version that is stable now. A campaign under way ends with it.
    ///
    /// # Errors
    /// [`Refusal`] when there is nothing to go back to, the group runs it already, or it is revoked.
    pub fn plan_rollback(
        &self,
        book: &Book,
        target: &Target,
        to: Option<BundleRef>,
        by: &Actor,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        todo!()
    }

    /// Plans that a whole group runs a version at once, with no waves: the first release of a model, say.
    ///
    /// # Errors
    /// [`Refusal`] when a campaign is under way, the group runs it already, or it is revoked.
    pub fn plan_release(
        &self,
        book: &Book,
        target: &Target,
        to: BundleRef,
        by: &Actor,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        todo!()
    }
}
