//! Where a version comes from, and where that came from.

use std::collections::BTreeMap;

use lamppost_models::manifest::Provenance;
use lamppost_models::{Digest, ModelName};
use semver::Version;
use serde::Serialize;

use super::registry::detail;
use crate::api::ModelRow;
use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::{Failure, show, tables};

/// Most generations that are followed: retrained each week, that is a year.
const GENERATIONS_MAX: usize = 52;

/// A version and what it was made from.
#[derive(Serialize)]
pub(in crate::cli) struct Generation {
    pub(in crate::cli) name: ModelName,
    pub(in crate::cli) version: Version,
    pub(in crate::cli) digest: Digest,
    pub(in crate::cli) provenance: Provenance,
}

/// The version first, then its parent, and so on: as far as the registry knows them.
#[derive(Serialize)]
pub(in crate::cli) struct Lineage {
    pub(in crate::cli) generations: Vec<Generation>,
    /// A parent that the registry does not have, or that is one generation too far.
    pub(in crate::cli) unknown: Option<Digest>,
}

pub(in crate::cli) async fn provenance(
    global: &Global,
    name: ModelName,
    version: Version,
) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let rows: Vec<ModelRow> = client.get("/v1/models").await?;
    let by_digest: BTreeMap<Digest, (ModelName, Version)> = rows
        .into_iter()
        .map(|row| (row.digest, (row.name, row.version)))
        .collect();
    let mut lineage = Lineage {
        generations: Vec::new(),
        unknown: None,
    };
    let mut next = Some((name, version));
    while let Some((name, version)) = next {
        let detail = detail(&client, &name, &version).await?;
        let provenance = detail.manifest.provenance;
        let parent = provenance.parent;
        lineage.generations.push(Generation {
            name,
            version,
            digest: detail.model.digest,
            provenance,
        });
        let known = parent.and_then(|parent| by_digest.get(&parent).cloned());
        next = known.filter(|_| lineage.generations.len() < GENERATIONS_MAX);
        if next.is_none() {
            lineage.unknown = parent;
        }
    }
    show(global, &lineage, || tables::lineage(&lineage))
}
