//! Rollouts wave by wave: each step is one commit of campaign, release and audit entry, and is taken into memory after it.

use lamppost_coordinator_core::NodeEntry;
use lamppost_coordinator_core::rollout::Target;
use lamppost_coordinator_core::rollout::audit::Actor;
use lamppost_coordinator_core::rollout::campaign::{
    self, Action, Around, Campaign, Decision, Ending, Step,
};
use lamppost_coordinator_core::rollout::evidence::{EvidenceHead, EvidenceRow, Touched};
use lamppost_models::id::RolloutId;
use lamppost_models::{Digest, NodePath, Timestamp};
use lamppost_store::{StoreError, Write};

use super::{RolloutError, State, json, keys};
use crate::downloads::{self, Downloads};

/// Steps of a campaign that follow one another in one look; a campaign with no soak and no gate comes to its end so.
const STEPS_PER_LOOK_MAX: usize = 16;
/// How often campaigns are looked at when no report came: soaks and deadlines are minutes.
const LOOK_MS: i64 = 5_000;
/// Nodes whose last report is looked at again for one commit, when the store is opened.
const RELOADED_MAX: usize = 256;
/// Rows of campaigns that are forgotten which are deleted in one look, so that no commit is huge.
const SWEPT_MAX: usize = 1_000;

impl State {
    /// Reads the campaigns and what their nodes showed, and looks at every node's last report: evidence that was lost comes again
    /// from there.
    pub(super) fn load_campaigns(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let campaigns = self.read_all::<Campaign>(keys::CAMPAIGNS)?;
        let under_way = campaigns
            .iter()
            .filter(|campaign| campaign.state.stage().is_some());
        let ids: Vec<RolloutId> = under_way.map(|campaign| campaign.id).collect();
        for campaign in campaigns {
            self.campaigns.restore(campaign);
        }
        for id in &ids {
            let head = self.read_one::<EvidenceHead>(&keys::evidence_head(*id))?;
            let rows = self.evidence_rows(*id)?;
            self.campaigns
                .restore_evidence(*id, head.unwrap_or_default(), rows);
        }
        if ids.is_empty() {
            return Ok(());
        }
        let paths: Vec<NodePath> = self
            .inventory
            .nodes()
            .map(|entry| entry.path.clone())
            .collect();
        for paths in paths.chunks(RELOADED_MAX) {
            let mut writes = Vec::new();
            for path in paths {
                writes.extend(self.note_evidence(path, now));
            }
            self.commit(&writes)?;
        }
        Ok(())
    }

    fn evidence_rows(&mut self, id: RolloutId) -> Result<Vec<(NodePath, EvidenceRow)>, StoreError> {
        let prefix = keys::evidence_rows(id);
        let (mut rows, mut damaged) = (Vec::new(), 0_u64);
        for entry in self.store.scan_prefix(prefix.as_bytes()) {
            let row = match entry {
                Ok((key, value)) => keys::parse_path(key.get(prefix.len()..).unwrap_or_default())
                    .zip(serde_json::from_slice(&value).ok()),
                Err(StoreError::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            };
            match row {
                Some(row) => rows.push(row),
                None => damaged += 1,
            }
        }
        for _ in 0..damaged {
            self.counters.note("damaged_record");
        }
        if damaged > 0 {
            tracing::error!(rollout = %id, damaged, "what nodes showed is damaged and is skipped: it comes again with their reports");
        }
        Ok(rows)
    }

    /// Takes a report of a node as evidence; what changes is to be in the commit of the report.
    pub(super) fn note_evidence(&mut self, path: &NodePath, now: Timestamp) -> Vec<Write> {
        let Some(entry) = self.inventory.get(path) else {
            return Vec::new();
        };
        let touched = self.campaigns.on_report(&self.book, entry, now);
        let mut writes = Vec::new();
        for Touched { id, rows, head } in touched {
            self.stirred = true;
            writes.extend(
                rows.iter()
                    .map(|(path, row)| Write::put(keys::evidence_row(id, path), json(row))),
            );
            writes.extend(head.map(|head| Write::put(keys::evidence_head(id), json(&head))));
        }
        writes
    }

    /// Looks at every campaign that is under way and takes the steps that are due; says how many releases changed. Called often:
    /// it does something when a report came or some seconds are over.
    pub(crate) fn look(
        &mut self,
        downloads: &Downloads,
        now: Timestamp,
    ) -> Result<usize, RolloutError> {
        let since = self.looked_at.map(|looked_at| now.ms_since(looked_at));
        // A clock that was set back must not end it for years.
        let due = since.is_none_or(|since| !(0..LOOK_MS).contains(&since));
        if !due && !self.stirred {
            return Ok(0);
        }
        self.looked_at = Some(now);
        self.stirred = false;
        if due {
            self.sweep()?;
        }
        let targets: Vec<Target> = self
            .campaigns
            .all_under_way()
            .map(|campaign| campaign.target.clone())
            .collect();
        let mut released = 0;
        for target in targets {
            released += self.look_at(&target, downloads, now)?;
        }
        Ok(released)
    }

    fn look_at(
        &mut self,
        target: &Target,
        downloads: &Downloads,
        now: Timestamp,
    ) -> Result<usize, RolloutError> {
        let mut released = 0;
        for _ in 0..STEPS_PER_LOOK_MAX {
            let Some(decision) = self.decision(target, downloads, now) else {
                break;
            };
            let Decision {
                id, words, step, ..
            } = decision;
            let Some(step) = step else { break };
            let (group, model) = (&target.group, &target.model);
            tracing::info!(%group, %model, rollout = %id, act = step.note.act.as_str(), words, "rollout");
            released += usize::from(step.rollout.is_some());
            self.take_step(step, now)?;
        }
        Ok(released)
    }

    /// What a look at the campaign of a target comes to now.
    pub(crate) fn decision(
        &self,
        target: &Target,
        downloads: &Downloads,
        now: Timestamp,
    ) -> Option<Decision> {
        let digest = self.campaigns.current(target)?.to.digest;
        let around = self.around(target, downloads.given_today(digest, now), now);
        self.campaigns
            .tick(&self.book, &self.inventory, target, &around)
    }

    /// Does what somebody wants of the campaign under way. It is durable when this returns, and not published.
    pub(crate) fn act(
        &mut self,
        target: &Target,
        action: &Action,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), RolloutError> {
        let terms = self.terms(target, now);
        let step = self
            .campaigns
            .plan_action(&self.book, target, action, by, terms)?;
        self.take_step(step, now)
    }

    /// Commits a step as a whole, and takes it into memory.
    pub(super) fn take_step(&mut self, step: Step, now: Timestamp) -> Result<(), RolloutError> {
        let (mut writes, log) = self.append(step.note.clone(), now)?;
        if let Some(campaign) = &step.campaign {
            writes.push(Write::put(keys::campaign(campaign), json(campaign)));
            // What its nodes showed is swept later.
            writes.extend(
                self.campaigns
                    .displaced_by(campaign)
                    .map(|oldest| Write::delete(keys::campaign(oldest))),
            );
        }
        if let Some(rollout) = &step.rollout {
            writes.push(Write::put(keys::rollout(rollout), json(rollout)));
            writes.extend(
                self.book
                    .displaced_by(rollout)
                    .map(|oldest| Write::delete(keys::rollout(oldest))),
            );
        }
        self.commit(&writes)?;
        self.log = log;
        self.campaigns.apply(&step);
        if let Some(rollout) = step.rollout {
            self.book.apply(rollout);
        }
        self.stirred = true;
        Ok(())
    }

    pub(super) fn around(&self, target: &Target, bytes_today: u64, now: Timestamp) -> Around {
        Around {
            terms: self.terms(target, now),
            stale_after: self.settings.stale_after,
            bytes_today,
        }
    }

    /// Under which bounds a node fetches an artifact: its backhaul, and the strictest of the rollouts that spread it.
    pub(crate) fn download_terms(
        &self,
        node: Option<&NodePath>,
        digest: Digest,
    ) -> downloads::Terms {
        let status = node
            .and_then(|node| self.inventory.get(node))
            .and_then(|entry: &NodeEntry| entry.status.as_ref());
        let backhaul = status.and_then(|status| status.tags.get("backhaul").cloned());
        let spreads = |campaign: &&Campaign| {
            let aborted = matches!(
                campaign.state,
                campaign::State::Aborted {
                    how: Ending::Reverted,
                    ..
                }
            );
            campaign.to.digest == digest && !aborted
        };
        let policies = || self.campaigns.all().filter(spreads).map(|of| &of.policy);
        downloads::Terms {
            backhaul,
            at_once_max: policies()
                .filter_map(|policy| policy.downloads_per_backhaul)
                .min(),
            bytes_per_day: policies()
                .filter_map(|policy| policy.bytes_per_day)
                .map(|bytes| bytes.0)
                .min(),
        }
    }

    /// Deletes what nodes showed to campaigns that are forgotten.
    fn sweep(&mut self) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        let mut from = keys::EVIDENCE.as_bytes().to_vec();
        let end = keys::behind(keys::EVIDENCE);
        // From campaign to campaign: the rows of those that are known are not read.
        while keys.len() < SWEPT_MAX {
            let Some((key, _)) = self.store.first(&from, &end)? else {
                break;
            };
            let id = keys::parse_evidence(&key);
            if let Some(id) = id.filter(|id| self.campaigns.get(*id).is_some()) {
                from = keys::behind(&keys::evidence(id));
            } else {
                from = [&key, &[0][..]].concat();
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        tracing::debug!(
            rows = keys.len(),
            "what nodes showed to forgotten rollouts is deleted"
        );
        let writes: Vec<Write> = keys.into_iter().map(Write::delete).collect();
        self.commit(&writes)
    }
}

#[cfg(test)]
mod tests;
