//! Rollouts: persisted, then applied; the caller publishes.

use lamppost_coordinator_core::progress::{self, Summary};
use lamppost_coordinator_core::rollout::{PlanError, Rollout, Target, Terms};
use lamppost_models::release::BundleRef;
use lamppost_models::{ModelName, Timestamp};
use lamppost_store::{StoreError, Write};
use semver::Version;

use super::{State, json, keys};
use crate::api::RolloutView;

/// Why a rollout does not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolloutError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the registry has no {name} {version}: push it with `lamppost model push`")]
    NoModel { name: ModelName, version: Version },
    #[error("the store cannot take it in")]
    Store(#[from] StoreError),
}

impl State {
    /// Decides that a group runs a version of the registry. It is durable when this returns, and not published.
    pub(crate) fn start(
        &mut self,
        target: &Target,
        version: &Version,
        now: Timestamp,
    ) -> Result<Rollout, RolloutError> {
        let Some(row) = self.model(&target.model, version) else {
            return Err(RolloutError::NoModel {
                name: target.model.clone(),
                version: version.clone(),
            });
        };
        let bundle = BundleRef {
            version: row.version.clone(),
            digest: row.digest,
            bytes: row.bytes,
        };
        let rollout = self
            .book
            .plan_start(target, bundle, self.terms(target, now))?;
        self.persist_and_apply(rollout)
    }

    /// Decides that a group runs again what it ran before. It is durable when this returns, and not published.
    pub(crate) fn roll_back(
        &mut self,
        target: &Target,
        now: Timestamp,
    ) -> Result<Rollout, RolloutError> {
        let rollout = self.book.plan_rollback(target, self.terms(target, now))?;
        self.persist_and_apply(rollout)
    }

    /// Gives every release that expires soon a new life.
    pub(crate) fn renew(&mut self, now: Timestamp) -> Result<Vec<Rollout>, RolloutError> {
        let due = self.book.due(now);
        let lifetime = self.settings.release_lifetime;
        due.into_iter()
            .map(|rollout| self.persist_and_apply(rollout.renewed(now, lifetime)))
            .collect()
    }

    fn terms(&self, target: &Target, now: Timestamp) -> Terms {
        let seen = self.inventory.newest_release(&target.model);
        Terms {
            now,
            lifetime: self.settings.release_lifetime,
            seen,
        }
    }

    fn persist_and_apply(&mut self, rollout: Rollout) -> Result<Rollout, RolloutError> {
        let mut writes = vec![Write::put(keys::rollout(&rollout), json(&rollout))];
        writes.extend(
            self.book
                .displaced_by(&rollout)
                .map(|oldest| Write::delete(keys::rollout(oldest))),
        );
        self.commit(&writes)?;
        self.book.apply(rollout.clone());
        Ok(rollout)
    }

    /// How far a rollout is, with its nodes when they are asked for.
    pub(crate) fn view(&self, rollout: &Rollout, with_nodes: bool, now: Timestamp) -> RolloutView {
        let current = self
            .book
            .current(&rollout.target)
            .is_some_and(|current| current.sequence == rollout.sequence);
        let nodes = progress::rows(
            rollout,
            &self.book,
            &self.inventory,
            now,
            self.settings.stale_after,
        );
        RolloutView {
            rollout: rollout.clone(),
            current,
            summary: Summary::of(&nodes),
            nodes: if with_nodes { nodes } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests;
