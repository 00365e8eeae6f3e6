//! A sensor that counts otherwise than at first is reported, over a restart of the agent.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::path::Path;

use common::{Client, Node, traffic};
use lamppost_models::message::ReportedDrift;
use lamppost_models::{Reported, Timestamp};

const REPORTED: &str = "lamppost/v1/nodes/minneapolis/gw-1/reported";

fn short(dir: &Path) -> String {
    let drift = "period = \"1d\"\nreference = 4\nrecent = 1";
    format!("{}\n[stream.drift]\n{drift}\n", traffic(dir))
}

fn hour(at: i64) -> Timestamp {
    let start: Timestamp = "2017-01-01T00:00:00Z".parse().unwrap();
    start.offset_ms(at * 3_600_000)
}

fn drift(report: &Reported) -> Option<&ReportedDrift> {
    report.streams[0].drift.as_ref()
}

async fn publish(client: &mut Client, hours: std::ops::Range<i64>, volume: impl Fn(i64) -> i64) {
    for at in hours {
        let message = serde_json::json!({ "ts": hour(at), "volume": volume(at) });
        client.publish("sensors/i94", message.to_string()).await;
    }
}

#[tokio::test]
async fn a_shift_is_reported_and_a_restart_forgets_nothing() {
    let each_day = |at: i64| 1_000 + at % 24 * 100;
    let node = Node::start(short).await;
    let mut client = node.client();
    client.subscribe(REPORTED).await;
    publish(&mut client, 0..130, each_day).await;
    let report = client
        .reported(|report| drift(report).is_some_and(|drift| drift.windows == 107))
        .await;
    let learnt = drift(&report).unwrap();
    assert_eq!(
        (learnt.since, learnt.periods, learnt.reference),
        (hour(23), 4, 4)
    );
    assert_eq!((learnt.drifted_at, &learnt.what), (None, &None));
    let dir = node.stop().await;

    let node = Node::start_in(dir, short).await;
    let mut client = node.client();
    client.subscribe(REPORTED).await;
    publish(&mut client, 130..168, each_day).await;
    publish(&mut client, 168..194, |_| 4_000).await;
    let report = client
        .reported(|report| drift(report).is_some_and(|drift| drift.windows == 107 + 41))
        .await;
    let drifted = drift(&report).unwrap();
    assert_eq!((drifted.since, drifted.periods), (hour(23), 6));
    assert_eq!(drifted.drifted_at, Some(hour(192)));
    assert_eq!(drifted.features[0].field.as_str(), "volume");
    assert!(drifted.features[0].psi > drifted.features[0].limit);
    let what = drifted.what.as_deref().unwrap();
    assert!(
        what.starts_with("volume is not distributed as at first"),
        "{what}"
    );
    assert_eq!(
        drifted.digest,
        report.models[0].active.as_ref().unwrap().digest
    );
    node.stop().await;
}

#[tokio::test]
async fn labels_tell_the_error_and_who_wants_no_drift_has_none() {
    let node = Node::start(short).await;
    let mut client = node.client();
    client.subscribe(REPORTED).await;
    publish(&mut client, 0..150, |at| 1_000 + at % 24 * 100).await;
    let report = client
        .reported(|report| {
            drift(report).is_some_and(|drift| drift.error.is_some_and(|error| error.now.is_some()))
        })
        .await;
    let error = drift(&report).unwrap().error.unwrap();
    assert!(error.before > 0.0 && (error.now.unwrap() / error.before - 1.0).abs() < 0.5);
    node.stop().await;

    let node = Node::start(|dir| short(dir).replace("\"1d\"", "\"none\"")).await;
    let mut client = node.client();
    client.subscribe(REPORTED).await;
    publish(&mut client, 0..30, |at| at).await;
    let report = client
        .reported(|report| report.streams[0].counters.predictions == 7)
        .await;
    assert_eq!(drift(&report), None);
    node.stop().await;
}
