//! Bundles that must run nowhere in a group any more.

use std::fmt;
use std::str::FromStr;

use lamppost_models::Digest;
use lamppost_models::release::{BundleRef, REVOKED_MAX};
use semver::Version;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::act::{before, note};
use super::{Campaigns, Refusal, Step, Why, words};
use crate::rollout::audit::{Act, Actor};
use crate::rollout::{Book, Cause, Change, PlanError, Rollout, Target, Terms};

/// Longest reason, in bytes: a sentence or two, so that the words of an audit entry hold it whole.
pub const REASON_BYTES_MAX: usize = 512;

/// Why a bundle is revoked, in the words of who does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reason(String);

/// Why a string is no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a reason is 1 to {REASON_BYTES_MAX} bytes of text on one line, and this one has {bytes}: say in a sentence what is wrong with the bundle"
)]
pub struct ParseReasonError {
    bytes: usize,
}

/// A bundle to revoke.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// In which group, of which model.
    pub target: Target,
    /// Its version.
    pub version: Version,
    /// It.
    pub digest: Digest,
    /// What the group is to run instead, if that is what it runs.
    pub to: Option<BundleRef>,
    /// Why.
    pub reason: Reason,
    /// Who revokes it.
    pub by: Actor,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Reason {
    type Err = ParseReasonError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let text = value.trim();
        if text.is_empty() || text.len() > REASON_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(ParseReasonError { bytes: text.len() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = String::deserialize(deserializer)?;
        value.parse().map_err(D::Error::custom)
    }
}

/// What the group runs of a bundle that is revoked.
enum Now {
    /// All nodes run it that no candidate means.
    Stable {
        /// What they are to run instead.
        to: BundleRef,
    },
    /// Some nodes try it.
    Candidate,
    /// Nobody is told to run it.
    Neither,
}

impl Campaigns {
    /// Plans that a bundle runs nowhere in a group any more. Where it is the candidate it is taken back, and where it is the
    /// stable version all nodes go to `to`, in the same step. A rollout under way from it or to it ends with that.
    ///
    /// # Errors
    /// [`Refusal`] when the group runs nothing of the model, the bundle is revoked already, or `to` is missing, not needed or
    /// revoked itself.
    pub fn plan_revoke(
        &self,
        book: &Book,
        revocation: &Revocation,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        let (target, digest) = (&revocation.target, revocation.digest);
        let Some(current) = book.current(target) else {
            let Target { group, model } = target.clone();
            return Err(PlanError::NoRelease { group, model }.into());
        };
        let place = revocation.place(current)?;
        let change = Change::Revoke(digest);
        let mut next = book.plan_change(target, change, Cause::Revoke, terms)?;
        let words = revocation.words(current, &next, &place);
        match place {
            Now::Neither => {}
            Now::Candidate => (next.candidate, next.trial, next.hours) = (None, None, None),
            Now::Stable { to } => {
                next.replaces = before(book, target, &to);
                (next.stable, next.candidate) = (to, None);
                (next.trial, next.hours) = (None, None);
            }
        }
        let touched = self
            .under_way(target)
            .is_some_and(|campaign| [campaign.from.digest, campaign.to.digest].contains(&digest));
        let note = note(&revocation.by, Act::Revoke, target, words);
        if touched {
            return Ok(self.ending_with(target, next, note, Why::Revoked, terms.now));
        }
        Ok(Step {
            campaign: None,
            rollout: Some(next),
            note,
        })
    }
}

impl Revocation {
    /// What the group runs of it.
    fn place(&self, current: &Rollout) -> Result<Now, Refusal> {
        let Target { group, model } = self.target.clone();
        let digest = self.digest;
        if current.revoked.contains(&digest) {
            let sequence = current.sequence;
            return Err(Refusal::RevokedAlready {
                group,
                model,
                digest,
                sequence,
            });
        }
        let runs = current.stable.version.clone();
        let to = self.to.as_ref();
        if current.stable.digest != digest {
            if let Some(to) = to {
                return Err(Refusal::Settled {
                    group,
                    model,
                    runs,
                    to: to.version.clone(),
                });
            }
            let candidate = current.candidate.as_ref();
            let tried = candidate.is_some_and(|candidate| candidate.bundle.digest == digest);
            return Ok(if tried { Now::Candidate } else { Now::Neither });
        }
        match to.filter(|to| to.digest != digest) {
            None => Err(Refusal::Homeless {
                group,
                model,
                version: runs,
            }),
            Some(to) if current.revoked.contains(&to.digest) => Err(Refusal::Revoked {
                group,
                model,
                version: to.version.clone(),
            }),
            Some(to) => Ok(Now::Stable { to: to.clone() }),
        }
    }

    fn words(&self, current: &Rollout, next: &Rollout, place: &Now) -> String {
        let Self {
            by,
            reason,
            version,
            digest,
            ..
        } = self;
        let then = match place {
            Now::Stable { to } => format!("all nodes go to {} at once", to.version),
            Now::Candidate => format!(
                "nodes that try it go back to {}, and its rollout ends",
                current.stable.version
            ),
            Now::Neither => "the release that holds does not name it".to_owned(),
        };
        let dropped = current
            .revoked
            .iter()
            .filter(|known| !next.revoked.contains(known))
            .map(|known| {
                format!(
                    "; a release lists {REVOKED_MAX} revocations, so that the oldest, {known}, is forgotten"
                )
            });
        let dropped: String = dropped.collect();
        format!(
            "{by} revoked {version} of {} ({digest}): {reason}; {then}{dropped}",
            words::about(&self.target)
        )
    }
}
