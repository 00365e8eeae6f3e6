//! The registry's list: which versions of which models there are.

use lamppost_coordinator_core::rollout::audit::{Act, Actor, Note};
use lamppost_models::{Digest, ModelName};
use lamppost_store::{StoreError, Write};
use semver::Version;

use super::{State, json, keys};
use crate::api::ModelRow;

/// Most versions of all models together; the list is in memory, some 500 bytes each.
const MODEL_VERSIONS_MAX: usize = 10_000;
/// Longest version as text: it stands in a key and in tables.
pub(crate) const VERSION_BYTES_MAX: usize = 64;

/// Why a version is not taken into the registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error(
        "{name} {version} is already there as {there}, the pushed bundle is {pushed}: a version never changes, push it under another number"
    )]
    Conflict {
        name: ModelName,
        version: Version,
        there: Digest,
        pushed: Digest,
    },
    #[error("the registry has {MODEL_VERSIONS_MAX} versions, the limit")]
    Full,
    #[error("the store cannot take it in")]
    Store(#[from] StoreError),
}

impl State {
    /// Takes a version in whose artifact is in its place; `false` when it was there with the same bytes.
    pub(crate) fn add_model(&mut self, row: &ModelRow, by: Actor) -> Result<bool, ModelError> {
        if let Some(there) = self.model(&row.name, &row.version) {
            if there.digest == row.digest {
                return Ok(false);
            }
            let (name, version) = (row.name.clone(), row.version.clone());
            return Err(ModelError::Conflict {
                name,
                version,
                there: there.digest,
                pushed: row.digest,
            });
        }
        if self.models().count() >= MODEL_VERSIONS_MAX {
            return Err(ModelError::Full);
        }
        let note = Note {
            by,
            act: Act::Push,
            target: None,
            words: format!("{} {} ({})", row.name, row.version, row.digest),
        };
        let (mut writes, log) = self.append(note, row.pushed_at)?;
        writes.push(Write::put(keys::model(&row.name, &row.version), json(row)));
        self.commit(&writes)?;
        self.log = log;
        self.models
            .entry(row.name.clone())
            .or_default()
            .insert(row.version.clone(), row.clone());
        Ok(true)
    }

    /// One version.
    pub(crate) fn model(&self, name: &ModelName, version: &Version) -> Option<&ModelRow> {
        self.models.get(name)?.get(version)
    }

    /// All versions, by name and version.
    pub(crate) fn models(&self) -> impl Iterator<Item = &ModelRow> {
        self.models.values().flat_map(|versions| versions.values())
    }
}
