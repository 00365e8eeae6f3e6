//! Releases: taken in, checked, refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::{Client, Coordinator, Node, TRAFFIC_STREAM, i94, nonsense, traffic, zoo};
use lamppost_models::Reported;
use lamppost_models::message::{CandidateSlot, TrialState, Verdict};
use lamppost_models::release::ReleaseKey;

async fn watch(node: &Node) -> Client {
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/#")
        .await;
    client
}

fn runs(report: &Reported, version: &str) -> bool {
    report.models[0]
        .active
        .as_ref()
        .is_some_and(|active| active.version.to_string() == version)
}

fn refused(report: &Reported) -> Option<Verdict> {
    match &report.models[0].candidate {
        Some(CandidateSlot {
            state: TrialState::Refused { verdict, .. },
            ..
        }) => Some(*verdict),
        _ => None,
    }
}

/// Feeds a day and one hour, and gives the version that predicted.
async fn version_that_predicts(client: &mut Client) -> String {
    for message in i94(24) {
        client.publish("sensors/i94", message).await;
    }
    client.prediction().await.model.version.to_string()
}

#[tokio::test]
async fn a_release_is_fetched_checked_and_run_and_runs_again_without_the_coordinator() {
    let mut coordinator = Coordinator::start().await;
    let bundle = zoo("traffic-flow", "1.1.0");
    let release = Coordinator::release("traffic-flow", 1, coordinator.offer(&bundle, &bundle));
    let node = Node::start(|_| coordinator.table() + TRAFFIC_STREAM).await;
    let mut client = watch(&node).await;
    coordinator.publish(&release).await;
    let report = client.reported(|report| runs(report, "1.1.0")).await;
    assert_eq!(report.models[0].release, Some(release.sequence));
    assert_eq!(version_that_predicts(&mut client).await, "1.1.0");
    let dir = node.stop().await;

    coordinator.stop_broker().await;
    let node = Node::start_in(dir, |_| coordinator.table() + TRAFFIC_STREAM).await;
    let mut client = watch(&node).await;
    assert_eq!(version_that_predicts(&mut client).await, "1.1.0");
    node.stop().await;
}

#[tokio::test]
async fn a_newer_release_takes_the_place_of_the_factory_bundle_while_the_stream_runs() {
    let coordinator = Coordinator::start().await;
    let bundle = zoo("traffic-flow", "1.1.0");
    let release = Coordinator::release("traffic-flow", 1, coordinator.offer(&bundle, &bundle));
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let mut client = watch(&node).await;
    let messages = i94(60);
    for message in &messages[..30] {
        client.publish("sensors/i94", message.as_str()).await;
    }
    for _ in 0..7 {
        assert_eq!(client.prediction().await.model.version.to_string(), "1.0.0");
    }
    coordinator.publish(&release).await;
    client.reported(|report| runs(report, "1.1.0")).await;
    for message in &messages[30..] {
        client.publish("sensors/i94", message.as_str()).await;
    }
    let mut versions = Vec::new();
    for seq in 7..37 {
        let prediction = client.prediction().await;
        assert_eq!(prediction.seq, seq, "the stream's count goes on");
        versions.push(prediction.model.version.to_string());
    }
    assert_eq!(versions.last().unwrap(), "1.1.0");
    assert!(
        versions.is_sorted(),
        "one change, and no way back: {versions:?}"
    );
    let report = client
        .reported(|report| report.models[0].previous.is_some())
        .await;
    assert_eq!(
        report.models[0]
            .previous
            .as_ref()
            .unwrap()
            .version
            .to_string(),
        "1.0.0"
    );
    node.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_release_is_refused_and_the_old_version_runs() {
    let coordinator = Coordinator::start().await;
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let mut client = watch(&node).await;
    client.reported(|report| runs(report, "1.0.0")).await;

    let bundle = zoo("traffic-flow", "1.1.0");
    let good = coordinator.offer(&bundle, &bundle);
    let topic = "lamppost/v1/models/all/traffic-flow";
    // Not signed, not by a known key, not JSON, of another model, of a model that no stream names.
    let unsigned =
        serde_json::to_vec(&Coordinator::release("traffic-flow", 1, good.clone())).unwrap();
    coordinator.publish_raw(topic, unsigned).await;
    let stranger = ReleaseKey::from_seed(&[9; 32]);
    coordinator
        .publish_signed(
            &Coordinator::release("traffic-flow", 2, good.clone()),
            &stranger,
        )
        .await;
    coordinator.publish_raw(topic, b"\xff\xfe".to_vec()).await;
    let other = coordinator
        .key
        .sign(&Coordinator::release("air-quality", 3, good.clone()))
        .unwrap();
    coordinator
        .publish_raw(topic, serde_json::to_vec(&other).unwrap())
        .await;
    coordinator
        .publish(&Coordinator::release("unheard-of", 4, good.clone()))
        .await;

    // Not a model at all: everything but the model is right.
    let bundle = nonsense();
    let bad = coordinator.offer(&bundle, &bundle);
    coordinator
        .publish(&Coordinator::release("traffic-flow", 5, bad))
        .await;
    let report = client
        .reported(|report| refused(report) == Some(Verdict::Unusable))
        .await;
    assert!(runs(&report, "1.0.0"));

    // Altered on the way.
    let altered = [&bundle[..bundle.len() - 1], b"x"].concat();
    let whole = zoo("traffic-flow", "1.1.0");
    let mut cut = whole.clone();
    let middle = cut.len() / 2;
    cut[middle] ^= 1;
    assert_ne!(altered, bundle);
    let wrong = coordinator.offer(&whole, &cut);
    coordinator
        .publish(&Coordinator::release("traffic-flow", 6, wrong))
        .await;
    let report = client
        .reported(|report| refused(report) == Some(Verdict::DigestMismatch))
        .await;
    assert!(runs(&report, "1.0.0"));

    // A model for other streams.
    let air = zoo("air-quality", "1.0.0");
    let unsuitable = coordinator.offer(&air, &air);
    coordinator
        .publish(&Coordinator::release("traffic-flow", 7, unsuitable))
        .await;
    let report = client
        .reported(|report| refused(report) == Some(Verdict::Unsuitable))
        .await;
    assert!(runs(&report, "1.0.0"));
    assert_eq!(version_that_predicts(&mut client).await, "1.0.0");

    // Older than what was taken in.
    coordinator
        .publish(&Coordinator::release("traffic-flow", 1, good.clone()))
        .await;
    // And at last a good one.
    coordinator.offer(&whole, &whole);
    coordinator
        .publish(&Coordinator::release("traffic-flow", 8, good))
        .await;
    let report = client.reported(|report| runs(report, "1.1.0")).await;
    assert_eq!(report.models[0].release.unwrap().0, 8);
    node.stop().await;
}
