//! Bundles and samples from the coordinator.

use std::time::Duration;

use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::{Bundle, Digest, ModelName};
use semver::Version;

use super::args::{DataArgs, ModelRef};
use crate::api::{ModelDetail, ModelRow};
use crate::cli::args::Global;
use crate::cli::client::{Client, Lines};
use crate::cli::{Exit, Failure};
use crate::forge::{Harvest, Lessons, Span};

/// Samples that are asked for at once: as many as the coordinator gives.
const PAGE: usize = 1_000;
/// How long the next sample may take to come.
const LINE_TIME: Duration = Duration::from_secs(30);

/// A bundle of the registry, the newest of the model unless a version is given.
pub(super) async fn bundle(global: &Global, model: &ModelRef) -> Result<Bundle, Failure> {
    let client = Client::new(global)?;
    let digest = if let Some(version) = &model.version {
        detail(&client, &model.name, version).await?.model.digest
    } else {
        let rows: Vec<ModelRow> = client.get("/v1/models").await?;
        let ours = rows.into_iter().filter(|row| row.name == model.name);
        let newest = ours.max_by(|a, b| a.version.cmp(&b.version));
        let missing = || {
            Failure::new(
                Exit::NotFound,
                format!("the registry has no {}", model.name),
            )
        };
        newest.ok_or_else(missing)?.digest
    };
    by_digest(&client, digest).await
}

/// The bundle of a digest.
pub(in crate::cli) async fn by_digest(client: &Client, digest: Digest) -> Result<Bundle, Failure> {
    let bytes = client
        .bytes(&format!("/v1/artifacts/{digest}"), BUNDLE_BYTES_MAX)
        .await?;
    let found = Digest::of(&bytes);
    if found != digest {
        let text = format!("the coordinator gave {found} where {digest} was asked for");
        return Err(Failure::new(Exit::Failed, text));
    }
    Bundle::read(&bytes).map_err(|error| Failure::failed(&error))
}

/// Whether the registry has a version.
pub(super) async fn has(
    global: &Global,
    name: &ModelName,
    version: &Version,
) -> Result<bool, Failure> {
    let rows: Vec<ModelRow> = Client::new(global)?.get("/v1/models").await?;
    Ok(rows
        .iter()
        .any(|row| row.name == *name && row.version == *version))
}

/// A version with its manifest.
pub(super) async fn detail(
    client: &Client,
    name: &ModelName,
    version: &Version,
) -> Result<ModelDetail, Failure> {
    let version = version.to_string().replace('+', "%2B");
    client.get(&format!("/v1/models/{name}/{version}")).await
}

/// All labelled samples of a model that are wanted, page by page.
pub(super) async fn samples(
    global: &Global,
    model: &ModelName,
    data: &DataArgs,
    span: Span,
) -> Result<Lessons, Failure> {
    let policy = data.policy.map(|policy| serde_json::json!(policy));
    let wanted = [
        ("stream", data.stream.as_ref().map(ToString::to_string)),
        ("site", data.site.as_ref().map(ToString::to_string)),
        ("node", data.node.as_ref().map(ToString::to_string)),
        (
            "policy",
            policy.and_then(|policy| policy.as_str().map(str::to_owned)),
        ),
        ("from", data.from.map(|from| from.to_string())),
        ("to", data.until.map(|to| to.to_string())),
    ];
    let wanted = wanted
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
    let harvest = Harvest::new(model, span, global.server.clone());
    gather(&Client::new(global)?, model, wanted, harvest).await
}

/// All labelled samples of a model that a query asks for, page by page.
pub(in crate::cli) async fn gather(
    client: &Client,
    model: &ModelName,
    mut query: Vec<(&'static str, String)>,
    mut harvest: Harvest,
) -> Result<Lessons, Failure> {
    query.extend([
        ("model", model.to_string()),
        ("labelled", "true".to_owned()),
        ("limit", PAGE.to_string()),
    ]);
    let filters = query.len();
    let mut after: Option<String> = None;
    loop {
        query.truncate(filters);
        query.extend(after.clone().map(|after| ("after", after)));
        let mut lines = in_time(client.lines("/v1/samples", &query)).await?;
        let last = page(&mut lines, &mut harvest).await?;
        if last.is_none() || last == after {
            return Ok(harvest.finish());
        }
        after = last;
    }
}

/// Takes in a page; the id of its last sample.
async fn page(lines: &mut Lines, harvest: &mut Harvest) -> Result<Option<String>, Failure> {
    let mut last = None;
    while let Some(line) = in_time(lines.next()).await? {
        last = Some(harvest.line(&line)?);
    }
    Ok(last)
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let slow = |_| {
        Failure::new(
            Exit::Unreachable,
            format!("the coordinator gave no sample for {LINE_TIME:?}"),
        )
    };
    tokio::time::timeout(LINE_TIME, answer)
        .await
        .map_err(slow)?
}
