//! The steps of a campaign, as releases of the book.

use lamppost_models::Digest;
use lamppost_models::release::{BundleRef, REVOKED_MAX};
use lamppost_models::rollout::{Candidate, Hours, TrialTerms};

use super::{Book, Cause, PlanError, Rollout, Target, Terms};

/// What a step changes in the release that holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Some nodes are to try a candidate.
    Expose {
        /// It, with its exposure.
        candidate: Candidate,
        /// What they check.
        trial: Option<TrialTerms>,
        /// When they change.
        hours: Option<Hours>,
    },
    /// All are to run another bundle, on the terms given.
    Settle {
        /// Which.
        stable: BundleRef,
        /// What they check.
        trial: Option<TrialTerms>,
        /// When they change.
        hours: Option<Hours>,
    },
    /// Nobody is to try a candidate any more.
    Withdraw,
    /// A bundle must not run.
    Revoke(Digest),
}

impl Book {
    /// Plans a step that builds on the release that holds.
    ///
    /// # Errors
    /// [`PlanError::NoRelease`] when there is none.
    pub fn plan_change(
        &self,
        target: &Target,
        change: Change,
        cause: Cause,
        terms: Terms,
    ) -> Result<Rollout, PlanError> {
        let Some(current) = self.current(target) else {
            let Target { group, model } = target.clone();
            return Err(PlanError::NoRelease { group, model });
        };
        let mut next = Rollout {
            sequence: terms.after(Some(current)),
            cause,
            started_at: terms.now,
            issued_at: terms.now,
            expires_at: terms.now.after(terms.lifetime),
            ..current.clone()
        };
        match change {
            Change::Expose {
                candidate,
                trial,
                hours,
            } => {
                (next.candidate, next.trial, next.hours) = (Some(candidate), trial, hours);
            }
            Change::Settle {
                stable,
                trial,
                hours,
            } => {
                // What comes before a wave is what came before its stable version: a rollback of what the candidate became
                // goes to the version that it replaced.
                next.replaces = Some(current.sequence);
                (next.stable, next.candidate) = (stable, None);
                (next.trial, next.hours) = (trial, hours);
            }
            Change::Withdraw => (next.candidate, next.trial, next.hours) = (None, None, None),
            Change::Revoke(digest) => {
                next.revoked.retain(|known| *known != digest);
                next.revoked.push(digest);
                let over = next.revoked.len().saturating_sub(REVOKED_MAX);
                next.revoked.drain(..over);
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
