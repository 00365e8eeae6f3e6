//! What a node remembers of a model's slot over restarts.

use std::collections::BTreeMap;

use lamppost_models::id::{GroupId, ModelName};
use lamppost_models::message::Verdict;
use lamppost_models::release::{BundleRef, Release, Sequence};
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
}

/// A bundle that is on the node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Which.
    pub bundle: BundleRef,
    /// When it was activated, by the node's clock.
    pub since: Timestamp,
    /// Whether an inference has worked since.
    pub proven: bool,
}

/// A release that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Its place among the releases of its group: an older one is refused.
    pub sequence: Sequence,
    /// What it wants.
    pub stable: BundleRef,
    /// Ids of the keys that signed it. Once too few of them are trusted, it is forgotten with its number. Empty in a record
    /// that was written before keys were remembered: it stands for ever, as it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
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
        let remembered = Remembered {
            sequence: release.sequence,
            stable: release.stable.clone(),
            keys: keys.to_vec(),
        };
        self.releases.insert(release.group.clone(), remembered);
    }

    pub(super) fn put_in_quarantine(&mut self, entry: Quarantined) {
        self.quarantine.retain(|known| known.digest != entry.digest);
        if self.quarantine.len() >= QUARANTINE_MAX {
            self.quarantine.remove(0);
        }
        self.quarantine.push(entry);
    }
}
