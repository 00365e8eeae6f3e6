//! A version on its way to the edge: pushed once, rolled out once, until there is a verdict.

use std::time::Duration;

use lamppost_coordinator_core::learning::{Cost, Ended};
use lamppost_coordinator_core::rollout::campaign::State;
use lamppost_models::trial::Moments;
use lamppost_models::{Bundle, Digest};

use super::memory::UnderWay;
use super::policy::LoopPolicy;
use crate::api::{NodeView, RolloutView, StartRollout};
use crate::cli::client::Client;
use crate::cli::{Exit, Failure, model};

/// How often the verdict is asked for: gates look at labels, which come by minutes or hours.
const PERIOD: Duration = Duration::from_secs(2);

/// All rollouts of the model in the group that the coordinator remembers; none where there never was one.
pub(super) async fn views(
    client: &Client,
    policy: &LoopPolicy,
) -> Result<Vec<RolloutView>, Failure> {
    let path = format!("/v1/rollouts/{}/{}", policy.group, policy.model);
    match client.get(&path).await {
        Err(failure) if failure.exit == Exit::NotFound => Ok(Vec::new()),
        views => views,
    }
}

/// Brings a bundle to the registry and to the edge, and waits for what becomes of it there. What has been done before
/// a kill is found done: a registry takes the same bytes once, and a rollout of this version is never started again.
pub(super) async fn bring(
    client: &Client,
    policy: &LoopPolicy,
    under_way: &UnderWay,
    bytes: Vec<u8>,
) -> Result<(Cost, Ended), Failure> {
    let digest = under_way.live.digest;
    let bundle = Bundle::read(&bytes).map_err(|error| Failure::failed(&error))?;
    if bundle.digest() != digest {
        let text = format!(
            "the bundle under way is {}, it should be {digest}",
            bundle.digest()
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    model::upload(client, bytes).await?;
    if !views(client, policy)
        .await?
        .iter()
        .any(|view| is_of(view, digest))
    {
        let wanted = StartRollout {
            model: policy.model.clone(),
            version: under_way.version.clone(),
            group: policy.group.clone(),
            policy: policy.rollout.clone(),
            all_at_once: false,
        };
        let _started: RolloutView = client.post("/v1/rollouts", &wanted).await?;
    }
    loop {
        if let Some(taken) = verdict(&views(client, policy).await?, digest) {
            let nodes = client.nodes().await?;
            let (fetched_bytes, edge) = on_trial(&nodes, digest);
            let cost = Cost {
                fetched_bytes,
                ..under_way.cost
            };
            let gain = edge.unwrap_or(under_way.gain);
            return Ok((cost, taken.err().unwrap_or(Ended::Promoted { gain })));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whether a rollout is or was about these bytes.
fn is_of(view: &RolloutView, digest: Digest) -> bool {
    let campaign = view
        .campaign
        .as_ref()
        .is_some_and(|view| view.campaign.to.digest == digest);
    let candidate = view
        .rollout
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.bundle.digest == digest);
    campaign || candidate || view.rollout.stable.digest == digest
}

/// Whether the edge took it, once that is known.
fn verdict(views: &[RolloutView], digest: Digest) -> Option<Result<(), Ended>> {
    let current = views.iter().find(|view| view.current)?;
    let campaign = current
        .campaign
        .as_ref()
        .filter(|view| view.campaign.to.digest == digest);
    if let Some(view) = campaign {
        return match &view.campaign.state {
            State::Running { .. } | State::Held { .. } | State::Paused { .. } => None,
            State::Promoted { .. } => Some(Ok(())),
            State::Aborted { .. } => Some(Err(Ended::Refused {
                why: view.words.clone(),
            })),
        };
    }
    if current.rollout.stable.digest != digest {
        let stable = &current.rollout.stable.version;
        return Some(Err(Ended::Refused {
            why: format!("another release took its place: {stable}"),
        }));
    }
    // It went to all at once.
    let summary = current.summary;
    if !summary.settled() {
        return None;
    }
    if summary.refused == 0 {
        return Some(Ok(()));
    }
    let why = format!("{} of {} nodes refused it", summary.refused, summary.nodes);
    Some(Err(Ended::Refused { why }))
}

/// Bytes that nodes fetched of it, and the gain by their own labels, on the windows that both versions had.
fn on_trial(nodes: &[NodeView], digest: Digest) -> (u64, Option<f64>) {
    let reported = nodes.iter().filter_map(|node| node.reported.as_ref());
    let trials = reported.flat_map(|reported| {
        reported
            .models
            .iter()
            .filter_map(|model| model.trial.as_ref())
    });
    let (mut fetched, mut candidate, mut active) = (0_u64, 0.0, 0.0);
    for trial in trials.filter(|trial| trial.digest == digest) {
        fetched = fetched.saturating_add(trial.fetched_bytes);
        if let Some(shadow) = &trial.shadow {
            let sum = |loss: Moments| loss.mean * loss.n as f64;
            candidate += sum(shadow.candidate.loss);
            active += sum(shadow.active.loss);
        }
    }
    (fetched, (active > 0.0).then(|| 1.0 - candidate / active))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gain_is_that_of_all_labels_of_all_nodes() {
        let digest = Digest::of(b"new");
        let trial = |digest: Digest, labels: u64, candidate: f64, active: f64| {
            let side = |mean: f64| json!({ "loss": { "n": labels, "mean": mean, "m2": 0.0 } });
            json!({
                "version": "1.1.0", "digest": digest, "release": 3, "since": "2017-01-01T00:00:00Z", "phase": "passed",
                "shadow": { "windows": labels, "candidate": side(candidate), "active": side(active) }, "fetched_bytes": 500
            })
        };
        let node = |trial: &serde_json::Value| -> NodeView {
            serde_json::from_value(json!({
                "site": "city", "node": "a", "presence": { "state": "up" }, "heard_at": "2017-03-01T00:00:00Z",
                "reported": {
                    "v": 1, "boot": "9f3a1c2b4d5e6f70", "at": "2017-03-01T00:00:00Z",
                    "models": [{ "name": "flow", "trial": trial }], "streams": [], "outbox": {}
                }
            }))
            .unwrap()
        };
        let nodes = [
            node(&trial(digest, 30, 90.0, 100.0)),
            node(&trial(digest, 10, 50.0, 100.0)),
            node(&trial(Digest::of(b"old"), 99, 1.0, 100.0)),
        ];
        let (fetched, gain) = on_trial(&nodes, digest);
        assert_eq!(fetched, 1000);
        assert!((gain.unwrap() - 0.2).abs() < 1e-12, "{gain:?}");
        let unlabelled = [node(&trial(digest, 0, 0.0, 0.0))];
        assert_eq!(on_trial(&unlabelled, digest), (500, None));
    }
}
