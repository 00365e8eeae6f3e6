//! What a node remembers of a model's slot over restarts.

use std::collections::BTreeMap;

use lamppost_models::id::{GroupId, ModelName, RolloutId};
use lamppost_models::message::Verdict;
use lamppost_models::release::{BundleRef, Release, Sequence};
use lamppost_models::rollout::{Candidate, Cohort, Hours, TrialTerms, Who};
use lamppost_models::trial::{Comparison, TrialPhase, Watch};
use lamppost_models::{Digest, Timestamp, V1};
use serde::{Deserialize, Serialize};

/// Most digests in quarantine; the oldest goes first. A fleet that refuses 32 bundles of one model in a row has another
/// problem, and a forgotten digest is checked again before it runs.
pub const QUARANTINE_MAX: usize = 32;
/// Most groups whose releases are remembered, those of the node's configuration first.
pub const GROUPS_MAX: usize = 64;
/// Longest detail of a refusal, in characters: what a table still shows.
pub const DETAIL_CHARS_MAX: usize = 300;

/// What is on disk for a model: nothing takes effect before it is written here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRecord {
    /// Format version.
    pub schema: V1,
    /// The model.
    pub model: ModelName,
    /// Grows with each write.
    pub generation: u64,
    /// What runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Held>,
    /// The last good one before it, to roll back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Held>,
    /// The newest release of each group.
    #[serde(default)]
    pub releases: BTreeMap<GroupId, Remembered>,
    /// Bundles that failed, the oldest first.
    #[serde(default)]
    pub quarantine: Vec<Quarantined>,
    /// The last trial, under way or over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRecord>,
}

/// A bundle that is on the node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Which.
    pub bundle: BundleRef,
    /// When it was activated, by the node's clock.
    pub since: Timestamp,
    /// Whether its trial is over; where it has none, whether an inference has worked since.
    pub proven: bool,
    /// Whether it was left in its probation, or that was cut short: then it is not proven before it is tried again.
    #[serde(default)]
    pub left: bool,
}

/// A release that was taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Its place among the releases of its group: an older one is refused.
    pub sequence: Sequence,
    /// What it wants on nodes that the candidate is not meant for.
    pub stable: BundleRef,
    /// What it wants on others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// What is checked before a bundle replaces another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialTerms>,
    /// When a bundle may be fetched and put in place of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Bundles that must not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Digest>,
    /// Whether it is remembered in whole. Agents before trials kept `stable` only: the rest is taken in when it comes again.
    #[serde(default)]
    pub whole: bool,
    /// Ids of the keys that signed it. Once too few of them are trusted, it is forgotten with its number. Empty in a record
    /// that was written before keys were remembered: it stands for ever, as it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// A trial, as far as it must outlive the agent's run. A node without a link goes on from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRecord {
    /// The bundle.
    pub bundle: BundleRef,
    /// The release that wanted it; of several of the same rollout, the first.
    pub release: Sequence,
    /// The rollout that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// When it began, by the node's clock.
    pub since: Timestamp,
    /// What is checked: the terms of the newest release that wanted the bundle before it was promoted, and its probation of the
    /// newest before that was over.
    #[serde(default)]
    pub terms: TrialTerms,
    /// How far it is.
    pub phase: TrialPhase,
    /// How it did in shadow; written every [`KEEP_S`] seconds, and at its end.
    ///
    /// [`KEEP_S`]: super::KEEP_S
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Comparison>,
    /// The version that it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Digest>,
    /// How it did as the active version; written as `shadow` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation: Option<Watch>,
    /// Since when there have been enough windows, in the phase it is in, and labels are waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enough_since: Option<Timestamp>,
    /// Bytes of the bundle that were fetched.
    #[serde(default)]
    pub fetched_bytes: u64,
    /// Whether, in probation, the agent's run ended on purpose. The next one takes it back.
    #[serde(default)]
    pub ended: bool,
    /// Whether its file was lost while it was active: it is fetched again, and the trial goes on from where it was.
    #[serde(default)]
    pub lost: bool,
}

/// A bundle that failed and is not tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// Which.
    pub digest: Digest,
    /// What it failed.
    pub verdict: Verdict,
    /// What was found, in words.
    pub detail: String,
    /// When, by the node's clock.
    pub at: Timestamp,
    /// The agent's version: another one tries again.
    pub agent: String,
}

impl SlotRecord {
    /// That of a model of which nothing is known.
    pub const fn new(model: ModelName) -> Self {
        Self {
            schema: V1,
            model,
            generation: 0,
            active: None,
            previous: None,
            releases: BTreeMap::new(),
            quarantine: Vec::new(),
            trial: None,
        }
    }

    /// The entry of a digest in quarantine.
    pub fn quarantined(&self, digest: &Digest) -> Option<&Quarantined> {
        self.quarantine.iter().find(|entry| entry.digest == *digest)
    }

    /// The digest that runs.
    pub fn active_digest(&self) -> Option<Digest> {
        self.active.as_ref().map(|held| held.bundle.digest)
    }

    pub(super) fn remember(&mut self, release: &Release, keys: &[String], groups: &[GroupId]) {
        if self.releases.len() >= GROUPS_MAX && !self.releases.contains_key(&release.group) {
            let foreign = self
                .releases
                .keys()
                .find(|group| !groups.contains(group))
                .cloned();
            if let Some(foreign) = foreign {
                self.releases.remove(&foreign);
            }
        }
        self.releases
            .insert(release.group.clone(), Remembered::of(release, keys));
    }

    pub(super) fn put_in_quarantine(&mut self, entry: Quarantined) {
        self.quarantine.retain(|known| known.digest != entry.digest);
        if self.quarantine.len() >= QUARANTINE_MAX {
            self.quarantine.remove(0);
        }
        self.quarantine.push(entry);
    }
}

impl Remembered {
    pub(super) fn of(release: &Release, keys: &[String]) -> Self {
        Self {
            sequence: release.sequence,
            stable: release.stable.clone(),
            candidate: release.candidate.clone(),
            trial: release.trial.clone(),
            hours: release.hours,
            revoked: release.revoked.clone(),
            whole: true,
            keys: keys.to_vec(),
        }
    }

    /// Whether both want the same, whoever signed them.
    pub(super) fn wants_as(&self, other: &Self) -> bool {
        let keys = other.keys.clone();
        *other
            == Self {
                keys,
                ..self.clone()
            }
    }

    /// What a node is to run, and the rollout if it is the candidate: as [`Release::wanted`].
    pub fn wanted(&self, who: Who<'_>) -> (&BundleRef, Option<RolloutId>) {
        let exposed = |candidate: &&Candidate| candidate.cohort(who) == Cohort::Candidate;
        match self.candidate.as_ref().filter(exposed) {
            Some(candidate) => (&candidate.bundle, Some(candidate.rollout)),
            None => (&self.stable, None),
        }
    }
}
