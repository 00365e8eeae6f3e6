//! What is known now: what runs, how right it is on the edge, and what could be learned from.

use std::collections::BTreeMap;

use lamppost_coordinator_core::Presence;
use lamppost_coordinator_core::learning::{ErrorNow, Known, Piece, between, has_grown};
use lamppost_models::message::ReportedDrift;
use lamppost_models::release::BundleRef;
use lamppost_models::{Bundle, Digest, Manifest, ModelName, Timestamp};
use semver::Version;

use super::memory::{Live, Memory};
use super::policy::LoopPolicy;
use super::rollout;
use crate::api::{ModelRow, NodeView, SampleSummary};
use crate::cli::client::Client;
use crate::cli::forge::{by_digest, gather};
use crate::cli::{Exit, Failure};
use crate::forge::{Harvest, Lesson, Lessons, Span};

/// A look.
pub(super) struct Seen {
    pub(super) active: Bundle,
    pub(super) known: Known,
    pub(super) lessons: Lessons,
    /// What a version that is trained now would be called.
    pub(super) version: Version,
    /// Bytes of all samples of the model at the centre.
    pub(super) sample_bytes: u64,
}

impl Seen {
    /// What is remembered of a version that is trained now.
    pub(super) fn live(&self, digest: Digest) -> Live {
        Live {
            digest,
            lessons: self.lessons.all.len() as u64,
            newest: newest(&self.lessons),
            sample_bytes: self.sample_bytes,
        }
    }
}

/// Looks at everything; why nothing can be done now, in words, where that is so.
pub(super) async fn look(
    client: &Client,
    policy: &LoopPolicy,
    memory: &Memory,
) -> Result<Result<Seen, String>, Failure> {
    let LoopPolicy { model, group, .. } = policy;
    let views = rollout::views(client, policy).await?;
    let Some(current) = views.iter().find(|view| view.current) else {
        return Ok(Err(format!(
            "for a first version of {model} in group {group}: `lamppost rollout start`"
        )));
    };
    if current.rollout.candidate.is_some() {
        return Ok(Err(format!(
            "for a rollout of {model} in group {group} that is under way"
        )));
    }
    let BundleRef { digest, bytes, .. } = current.rollout.stable;
    let summary: Vec<SampleSummary> = client.get("/v1/samples/summary").await?;
    let of_model = summary.iter().filter(|row| row.model == *model);
    let sample_bytes = of_model.map(|row| row.sums.bytes).sum();
    let active = by_digest(client, digest).await?;
    let lessons = lessons(client, policy, active.manifest()).await?;
    let nodes = client.nodes().await?;
    let (trained_on, since) = trained_on(memory, active.manifest(), digest);
    let (drifted, error) = errors(&nodes, model, digest);
    let here = |node: &&NodeView| {
        let groups = node.status.as_ref().map(|status| status.groups.as_slice());
        !matches!(node.presence, Presence::Down { .. })
            && groups.is_some_and(|groups| groups.contains(group))
    };
    let last = memory.learning.outcomes().next_back();
    let collected = memory
        .live
        .as_ref()
        .filter(|live| live.digest == digest)
        .map_or(0, |live| live.sample_bytes);
    let known = Known {
        trained_on,
        labelled: lessons
            .all
            .iter()
            .filter(|lesson| since.is_none_or(|since| lesson.ts > since))
            .count() as u64,
        collected_bytes: u64::saturating_sub(sample_bytes, collected),
        nodes: nodes.iter().filter(here).count() as u64,
        bundle_bytes: bytes,
        seconds: last.map_or(0.0, |outcome| outcome.cost.seconds),
        drifted,
        error,
    };
    let version = next_version(client, model, &active.manifest().version).await?;
    Ok(Ok(Seen {
        active,
        known,
        lessons,
        version,
        sample_bytes,
    }))
}

/// Samples that a version was trained from, and the event time of the newest: as is remembered, or as its bundle says.
fn trained_on(memory: &Memory, manifest: &Manifest, digest: Digest) -> (u64, Option<Timestamp>) {
    if let Some(live) = memory.live.as_ref().filter(|live| live.digest == digest) {
        return (live.lessons, Some(live.newest));
    }
    let provenance = &manifest.provenance;
    if let Some(samples) = &provenance.samples {
        return (samples.count, Some(samples.to));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count, and saturating"
    )]
    let count = provenance
        .metrics
        .get("train_windows")
        .map_or(0, |windows| *windows as u64);
    (count, None)
}

/// Nodes whose errors drift, and the error of the version on all nodes that have a reference, each weighing the same.
pub(super) fn errors(
    nodes: &[NodeView],
    model: &ModelName,
    digest: Digest,
) -> (u64, Option<ErrorNow>) {
    let reported = nodes.iter().filter_map(|node| node.reported.as_ref());
    let drifts: Vec<Vec<&ReportedDrift>> = reported
        .map(|reported| {
            let streams = reported
                .streams
                .iter()
                .filter(|stream| stream.model == *model);
            let drifts = streams.filter_map(|stream| stream.drift.as_ref());
            drifts.filter(|drift| drift.digest == digest).collect()
        })
        .collect();
    let grown = |node: &&Vec<&ReportedDrift>| node.iter().any(|drift| has_grown(drift));
    let drifted = drifts.iter().filter(grown).count() as u64;
    let errors: Vec<ErrorNow> = drifts
        .iter()
        .flatten()
        .filter_map(|drift| ErrorNow::of(drift))
        .collect();
    let mean = |of: fn(&ErrorNow) -> f64| errors.iter().map(of).sum::<f64>() / errors.len() as f64;
    let error = (!errors.is_empty()).then(|| ErrorNow {
        before: mean(|error| error.before),
        now: mean(|error| error.now),
        labels: errors.iter().map(|error| error.labels).sum(),
    });
    (drifted, error)
}

/// Labelled samples as the policy wants them, with the windows between them.
async fn lessons(
    client: &Client,
    policy: &LoopPolicy,
    manifest: &Manifest,
) -> Result<Lessons, Failure> {
    let query = policy
        .samples
        .stream
        .as_ref()
        .map(|stream| ("stream", stream.to_string()));
    let harvest = Harvest::new(&policy.model, Span::default(), client.server().to_owned());
    let mut lessons = gather(client, &policy.model, query.into_iter().collect(), harvest).await?;
    if policy.samples.between {
        let cut = cuts(&lessons.all, manifest);
        lessons.all.extend(cut);
    }
    if let Some(span) = policy.samples.newest {
        let from = newest(&lessons)
            .offset_ms(-i64::try_from(span.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX));
        lessons.all.retain(|lesson| lesson.ts >= from);
    }
    Ok(lessons)
}

fn newest(lessons: &Lessons) -> Timestamp {
    lessons
        .all
        .iter()
        .map(|lesson| lesson.ts)
        .max()
        .unwrap_or(Timestamp::EPOCH)
}

/// The windows between samples, of each stream of each node by itself.
fn cuts(lessons: &[Lesson], manifest: &Manifest) -> Vec<Lesson> {
    let Some(horizon) = manifest.output.kind.horizon() else {
        return Vec::new();
    };
    let mut streams: BTreeMap<&str, Vec<&Lesson>> = BTreeMap::new();
    for lesson in lessons {
        // An id is site/node/stream/boot-seq.
        let stream = lesson.id.rsplit_once('/').map_or("", |(stream, _)| stream);
        streams.entry(stream).or_default().push(lesson);
    }
    let mut all = Vec::new();
    for (stream, lessons) in streams {
        let pieces: Vec<Piece<'_>> = lessons
            .iter()
            .map(|lesson| Piece {
                window: &lesson.window,
                label: &lesson.label,
            })
            .collect();
        for cut in between(&pieces, &manifest.window, horizon) {
            let Some(ts) = cut.window.last().map(|reading| reading.ts) else {
                continue;
            };
            all.push(Lesson {
                id: format!("{stream}/between-{ts}"),
                node: lessons[0].node.clone(),
                ts,
                window: cut.window,
                label: cut.label,
            });
        }
    }
    all
}

/// The next minor version after all that the registry has.
async fn next_version(
    client: &Client,
    model: &ModelName,
    active: &Version,
) -> Result<Version, Failure> {
    let rows: Vec<ModelRow> = client.get("/v1/models").await?;
    let ours = rows
        .into_iter()
        .filter(|row| row.name == *model)
        .map(|row| row.version);
    let newest = ours.max().unwrap_or_else(|| active.clone());
    let minor = newest.minor.checked_add(1);
    let minor =
        minor.ok_or_else(|| Failure::new(Exit::Failed, format!("no version follows {newest}")))?;
    Ok(Version::new(newest.major, minor, 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, streams: &serde_json::Value) -> NodeView {
        serde_json::from_value(json!({
            "site": "city", "node": name, "presence": { "state": "up" }, "heard_at": "2017-03-01T00:00:00Z",
            "reported": {
                "v": 1, "boot": "9f3a1c2b4d5e6f70", "at": "2017-03-01T00:00:00Z", "models": [], "streams": streams, "outbox": {}
            }
        }))
        .unwrap()
    }

    fn stream(digest: Digest, now: f64, cusum: f64) -> serde_json::Value {
        json!({
            "name": "s", "model": "flow",
            "drift": {
                "digest": digest, "since": "2017-01-01T00:00:00Z", "windows": 400, "periods": 40, "reference": 28,
                "error": { "before": 100.0, "now": now, "cusum": cusum, "limit": 10.0 }
            }
        })
    }

    #[test]
    fn errors_are_of_the_version_that_runs_and_weigh_the_same() {
        let (ours, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let nodes = [
            node("a", &json!([stream(ours, 150.0, 12.0)])),
            node("b", &json!([stream(ours, 110.0, 2.0)])),
            node("c", &json!([stream(other, 900.0, 99.0)])),
            node("d", &json!([{ "name": "s", "model": "flow" }])),
        ];
        let model = "flow".parse().unwrap();
        let (drifted, error) = errors(&nodes, &model, ours);
        assert_eq!(drifted, 1);
        assert_eq!(
            error,
            Some(ErrorNow {
                before: 100.0,
                now: 130.0,
                labels: 240
            })
        );
        assert_eq!(errors(&nodes, &"level".parse().unwrap(), ours), (0, None));
    }
}
