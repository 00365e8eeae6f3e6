//! Coordinator and nodes over the embedded broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use lamppost_coordinator::api::{Health, NodeView, RolloutView, WatchLine};
use lamppost_coordinator_core::Presence;
use lamppost_coordinator_core::progress::NodeProgress;
use lamppost_coordinator_core::rollout::{Cause, Rollout};
use lamppost_models::message::{
    BatchRange, CandidateSlot, NodeState, PredictionRange, ReportedModel, TrialState, Verdict,
};
use lamppost_models::release::Sequence;
use lamppost_models::{BootId, Digest};
use lamppost_store::{Options, Store, Write};
use reqwest::{Method, StatusCode};
use support::{
    Client, Coordinator, Heard, Node, PASSWORD, ROOT, bundle, config, epoch, eventually, path,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_seen_coming_and_going_and_remembered_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    node.report(Vec::new()).await;
    let view: NodeView = eventually("the node is up with its report", async || {
        coordinator
            .node("gw-1")
            .await
            .filter(|view| view.presence == Presence::Up && view.reported.is_some())
    })
    .await;
    assert_eq!(view.status.unwrap().boot, BootId::from_u64(1));

    // Cut without a goodbye: the last will speaks.
    drop(node);
    eventually("the node is down", async || {
        coordinator
            .node("gw-1")
            .await
            .filter(|view| matches!(view.presence, Presence::Down { .. }))
    })
    .await;
    coordinator.stop().await;

    let coordinator = Coordinator::start(config(dir.path())).await;
    let view = coordinator.node("gw-1").await.unwrap();
    assert!(matches!(view.presence, Presence::Down { .. }) && view.reported.is_some());
    let shown: NodeView = coordinator.get("/v1/nodes/minneapolis/gw-1").await;
    assert_eq!(shown.stored.unwrap().records, 0);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_stored_once_and_acknowledged_also_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    for number in 0..400 {
        node.predict(number).await;
    }
    node.acked_up_to(399).await;
    assert_eq!(
        coordinator.stored("gw-1").await,
        (0..400).collect::<Vec<_>>(),
        "what is acknowledged is stored"
    );
    drop(node);
    coordinator.stop().await;

    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 2).await;
    // What the node is not sure of comes again in batches, with something new in them, and each batch twice.
    for _ in 0..2 {
        node.send_batch(0, &[(1, 398), (1, 399), (1, 400)]).await;
        node.send_batch(1, &[(1, 401)]).await;
    }
    let mut acked = std::collections::BTreeSet::new();
    while acked.len() < 2 {
        for BatchRange {
            epoch: of,
            from,
            to,
        } in node.ack().await.batches
        {
            assert_eq!(of, epoch());
            acked.extend(from..=to);
        }
    }
    node.predict(0).await;
    let live = PredictionRange {
        boot: BootId::from_u64(2),
        from: 0,
        to: 0,
    };
    while !node.ack().await.predictions.contains(&live) {}
    let mut wanted: Vec<u64> = (0..402).collect();
    wanted.insert(0, 0);
    assert_eq!(coordinator.stored("gw-1").await, wanted);
    let view: NodeView = coordinator.get("/v1/nodes/minneapolis/gw-1").await;
    let stored = view.stored.unwrap();
    assert_eq!(
        (stored.stored, stored.replayed, stored.duplicates),
        (403, 2, 2 + 4)
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_reaches_nodes_early_and_late_and_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let key = coordinator.key().await;
    for version in ["1.0.0", "1.1.0"] {
        coordinator.push(bundle(version)).await;
    }
    let mut early = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    let started = coordinator.start_rollout("1.0.0").await;
    assert_eq!(started.rollout.sequence, Sequence(1));
    let release = early.release(key).await;
    assert_eq!(
        (release.sequence, &release.stable),
        (Sequence(1), &started.rollout.stable)
    );
    early.report_running(&release.stable).await;

    coordinator.start_rollout("1.1.0").await;
    let release = early.release(key).await;
    assert_eq!(
        (release.sequence, release.stable.version.to_string()),
        (Sequence(2), "1.1.0".to_owned())
    );
    let mut late = Node::connect(coordinator.mqtt(), "gw-2", 1).await;
    assert_eq!(
        late.release(key).await,
        release,
        "one retained message tells a late node everything"
    );
    let again = serde_json::json!({ "model": "traffic-flow", "version": "1.1.0", "group": "all", "all_at_once": true });
    let (status, text) = coordinator
        .refused(
            coordinator
                .request(Method::POST, "/v1/rollouts")
                .json(&again),
        )
        .await;
    assert!(status == 409 && text.contains("already"), "{text}");

    early.report_running(&release.stable).await;
    late.report(vec![refusing(release.stable.digest)]).await;
    let view: RolloutView = eventually("both nodes are done", async || {
        Some(coordinator.rollout().await)
            .filter(|view| view.summary.nodes == 2 && view.summary.settled())
    })
    .await;
    assert_eq!((view.summary.running, view.summary.refused), (1, 1));
    let refused = view
        .nodes
        .iter()
        .find(|row| row.path == path("gw-2"))
        .unwrap();
    assert!(
        matches!(&refused.progress, NodeProgress::Refused { verdict: Verdict::Unusable, detail } if detail == "too big")
    );

    let response = coordinator
        .request(Method::POST, "/v1/rollouts/all/traffic-flow/rollback")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let release = early.release(key).await;
    assert_eq!(
        (release.sequence, release.stable.version.to_string()),
        (Sequence(3), "1.0.0".to_owned())
    );
    let rollback = coordinator.request(Method::POST, "/v1/rollouts/all/traffic-flow/rollback");
    let (status, text) = coordinator.refused(rollback).await;
    assert!(
        status == 409 && text.contains("cannot be rolled back"),
        "{text}"
    );
    drop((early, late));
    coordinator.stop().await;

    // The embedded broker forgets, the coordinator does not.
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 2).await;
    assert_eq!(node.release(key).await, release);
    let views: Vec<RolloutView> = coordinator.get("/v1/rollouts/all/traffic-flow").await;
    assert_eq!(
        views
            .iter()
            .map(|view| view.rollout.sequence.0)
            .collect::<Vec<_>>(),
        [3, 2, 1]
    );
    assert_eq!(views[0].rollout.cause, Cause::Rollback { of: Sequence(2) });
    assert_eq!(
        coordinator
            .get::<Vec<RolloutView>>("/v1/rollouts")
            .await
            .len(),
        1
    );
    coordinator.stop().await;
}

fn refusing(digest: Digest) -> ReportedModel {
    let state = TrialState::Refused {
        verdict: Verdict::Unusable,
        detail: "too big".to_owned(),
    };
    let candidate = Some(CandidateSlot {
        version: semver::Version::new(1, 1, 0),
        digest,
        state,
    });
    ReportedModel {
        name: "traffic-flow".parse().unwrap(),
        active: None,
        candidate,
        previous: None,
        release: None,
        trial: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_signed_anew_when_it_is_about_to_expire() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    coordinator.push(bundle("1.0.0")).await;
    let started = coordinator.start_rollout("1.0.0").await.rollout;
    coordinator.stop().await;

    // A restart alone changes nothing: nodes get the very bytes that they know.
    let coordinator = Coordinator::start(config(dir.path())).await;
    let key = coordinator.key().await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    assert_eq!(node.release(key).await, started.release());
    drop(node);
    coordinator.stop().await;

    // The coordinator was away until the release had expired.
    let store = Store::open(dir.path().join("state"), &Options::state())
        .unwrap()
        .store;
    let (record, value) = store.scan_prefix(b"rollout/").next().unwrap().unwrap();
    let mut old: Rollout = serde_json::from_slice(&value).unwrap();
    (old.issued_at, old.expires_at) = (
        "2020-01-01T00:00:00Z".parse().unwrap(),
        "2020-01-31T00:00:00Z".parse().unwrap(),
    );
    store
        .commit(&[Write::put(record, serde_json::to_vec(&old).unwrap())])
        .unwrap();
    store.close();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 2).await;
    loop {
        let release = node.release(key).await;
        assert_eq!(
            (release.sequence, &release.stable),
            (started.sequence, &started.stable)
        );
        if release.expires_at > started.expires_at {
            break;
        }
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_speaks_for_itself_alone_and_viewers_only_read() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    let gw_1 = path("gw-1");
    for filter in [
        "#".to_owned(),
        format!("{ROOT}/#"),
        format!("{ROOT}/nodes/minneapolis/gw-2/ack"),
        format!("{ROOT}/nodes/+/+/pred/#"),
    ] {
        assert!(
            !node.client.subscribe(&filter).await,
            "a node must not read {filter}"
        );
    }
    let mut viewer = Client::connect(
        coordinator.mqtt(),
        "viewer",
        Some(("dashboard", "of the viewer")),
        None,
    );
    let mut anonymous = Client::connect(coordinator.mqtt(), "anonymous", None, None);
    for reader in [&mut viewer, &mut anonymous] {
        assert!(reader.subscribe(&format!("{ROOT}/nodes/#")).await);
        assert!(!reader.subscribe("#").await);
        for below in [
            "nodes/minneapolis/gw-1/status",
            "nodes/minneapolis/gw-1/pred/i94",
            "models/all/traffic-flow",
            "nodes/dashboard/gw-1/status",
        ] {
            assert!(
                !reader
                    .try_publish(&format!("{ROOT}/{below}"), b"forged")
                    .await,
                "{below}"
            );
        }
    }
    for topic in [
        format!("{ROOT}/nodes/minneapolis/gw-2/status"),
        format!("{ROOT}/nodes/minneapolis/gw-2/pred/i94"),
        format!("{ROOT}/nodes/{gw_1}/ack"),
        format!("{ROOT}/models/all/traffic-flow"),
        "elsewhere".to_owned(),
    ] {
        assert!(!node.client.try_publish(&topic, b"forged").await, "{topic}");
    }
    node.predict(0).await;
    node.acked_up_to(0).await;
    // All that a reader sees is what the node may say.
    for reader in [&mut viewer, &mut anonymous] {
        loop {
            let (topic, payload, _) = reader.message().await;
            assert_ne!(payload, b"forged", "{topic}");
            if topic.ends_with("/ack") {
                break;
            }
        }
    }
    let nodes: Vec<NodeView> = coordinator.get("/v1/nodes").await;
    assert_eq!(nodes.len(), 1);
    for (user, password) in [
        ("minneapolis/gw-1", "wrong"),
        ("minneapolis/gw-9", PASSWORD),
    ] {
        let mut stranger =
            Client::connect(coordinator.mqtt(), "stranger", Some((user, password)), None);
        assert!(matches!(stranger.hear().await, Heard::Lost(_)), "{user}");
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_counted_and_the_coordinator_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    for (below, payload) in [
        ("pred/i94", "{"),
        ("status", "\u{0}"),
        ("reported", "[]"),
        ("pred-hist/i94", "{\"v\":9}"),
    ] {
        node.client
            .publish(
                &format!("{ROOT}/nodes/{}/{below}", node.path),
                payload.as_bytes().to_vec(),
            )
            .await;
    }
    node.say("pred/other", &support::prediction(node.boot, 5))
        .await;
    node.predict(0).await;
    node.acked_up_to(0).await;
    let health: Health = coordinator.get("/v1/health").await;
    assert_eq!(health.status, "ok");
    assert_eq!((health.refused["json"], health.refused["stream"]), (4, 1));
    assert_eq!(coordinator.stored("gw-1").await, [0]);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_retained_messages_and_then_live_ones() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    eventually("the node is up", async || coordinator.node("gw-1").await).await;
    let filter = "lamppost%2Fv1%2Fnodes%2F%2B%2F%2B%2F%23";
    let mut response = coordinator
        .http
        .get(format!(
            "http://{}/v1/watch?filter={filter}",
            coordinator.ready.http
        ))
        .send()
        .await
        .unwrap();
    let mut buffer = Vec::new();
    let mut next = async || -> WatchLine {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return serde_json::from_slice(&line).unwrap();
                }
                continue;
            }
            let chunk = tokio::time::timeout(support::DEADLINE, response.chunk())
                .await
                .unwrap()
                .unwrap();
            buffer.extend_from_slice(&chunk.unwrap());
        }
    };
    let status = next().await;
    assert!(
        status.retain && status.topic.ends_with("gw-1/status"),
        "{status:?}"
    );
    assert_eq!(status.json.unwrap()["state"], "up");
    node.predict(7).await;
    let prediction = next().await;
    assert!(!prediction.retain && prediction.topic.ends_with("gw-1/pred/i94"));
    assert_eq!(prediction.json.unwrap()["seq"], 7);
    assert!(next().await.topic.ends_with("gw-1/ack"));
    drop(node);
    let down = next().await;
    assert_eq!(
        down.json.unwrap()["state"],
        serde_json::to_value(NodeState::Down).unwrap()["state"]
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_stores_what_has_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    for number in 0..50 {
        node.predict(number).await;
    }
    let first = node.ack().await;
    coordinator.stop().await;
    let coordinator = Coordinator::start(config(dir.path())).await;
    let stored = coordinator.stored("gw-1").await;
    let acked: Vec<u64> = first
        .predictions
        .iter()
        .flat_map(|range| range.from..=range.to)
        .collect();
    assert!(
        !acked.is_empty() && acked.iter().all(|number| stored.contains(number)),
        "{acked:?} {stored:?}"
    );
    coordinator.stop().await;
}
