//! The way to the coordinator: live, through outages, and over restarts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::collections::BTreeSet;

use common::{Acks, Coordinator, Node, i94, traffic};
use lamppost_models::id::PredictionId;
use lamppost_models::message::NodeState;
use lamppost_models::{BootId, Prediction};

const FIRST: usize = 24;

/// The predictions that came by replay, each once, in the order of their first coming.
fn replayed(coordinator: &Coordinator) -> Vec<Prediction> {
    coordinator.look(|inbox| {
        let mut seen = BTreeSet::new();
        let records = inbox.batches.iter().flat_map(|batch| &batch.records);
        records
            .filter(|record| seen.insert(record.id))
            .cloned()
            .collect()
    })
}

fn ids(boot: BootId, numbers: impl Iterator<Item = u64>) -> Vec<PredictionId> {
    numbers
        .map(|number| PredictionId { boot, number })
        .collect()
}

async fn feed(node: &Node, messages: &[String]) {
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    for message in messages {
        client.publish("sensors/i94", message.as_str()).await;
    }
}

/// Waits until the node has made so many predictions in all.
async fn made(node: &Node, count: u64) {
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    client
        .reported(|report| report.streams[0].counters.predictions == count)
        .await;
}

#[tokio::test]
async fn live_predictions_and_reports_reach_the_coordinator() {
    let coordinator = Coordinator::start().await;
    // However slow the machine: an acknowledgement that comes late leaves its prediction to the replay.
    let table = coordinator
        .table()
        .replace("ack_timeout = \"1s\"", "ack_timeout = \"1h\"");
    let node = Node::start(|dir| table + &traffic(dir)).await;
    let boot = node.ready.boot;
    coordinator
        .until("the node is up", |inbox| {
            inbox
                .statuses
                .iter()
                .any(|status| status.state == NodeState::Up && status.boot == boot)
                .then_some(())
        })
        .await;
    feed(&node, &i94(FIRST + 9)).await;
    coordinator
        .until("all came", |inbox| (inbox.live.len() == 10).then_some(()))
        .await;
    coordinator.look(|inbox| {
        let came: Vec<_> = inbox.live.iter().map(|prediction| prediction.id).collect();
        assert_eq!(came, ids(boot, 0..10));
        assert!(inbox.live.iter().all(|prediction| !prediction.replay));
    });
    coordinator
        .until("the report came", |inbox| {
            inbox
                .reported
                .iter()
                .any(|report| report.streams[0].counters.predictions == 10)
                .then_some(())
        })
        .await;
    node.stop().await;
    let last = coordinator
        .until("the goodbye came", |inbox| {
            inbox
                .statuses
                .last()
                .filter(|status| status.state == NodeState::Down)
                .cloned()
        })
        .await;
    assert_eq!(last.boot, boot);
    coordinator.look(|inbox| {
        assert!(
            inbox.batches.is_empty(),
            "what is acknowledged is not replayed"
        );
    });
}

#[tokio::test]
async fn what_is_predicted_in_an_outage_arrives_after_it_in_order_and_once() {
    let mut coordinator = Coordinator::start().await;
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let boot = node.ready.boot;
    let messages = i94(FIRST + 100);
    feed(&node, &messages[..FIRST + 9]).await;
    coordinator
        .until("ten came live", |inbox| {
            (inbox.live.len() == 10).then_some(())
        })
        .await;
    coordinator.stop_broker().await;
    feed(&node, &messages[FIRST + 9..FIRST + 69]).await;
    made(&node, 70).await;
    coordinator.start_broker().await;
    coordinator
        .until("sixty came by replay", |inbox| {
            let records = inbox.batches.iter().flat_map(|batch| &batch.records);
            let new: BTreeSet<_> = records
                .map(|record| record.id)
                .filter(|id| id.number >= 10)
                .collect();
            (new.len() == 60).then_some(())
        })
        .await;
    feed(&node, &messages[FIRST + 69..FIRST + 99]).await;
    coordinator
        .until("the rest came live", |inbox| {
            (inbox.live.len() == 40).then_some(())
        })
        .await;

    let replayed = replayed(&coordinator);
    // An acknowledgement that went down with the link leaves a prediction that comes twice, under one id.
    let order: Vec<_> = replayed
        .iter()
        .map(|prediction| prediction.id)
        .filter(|id| id.number >= 10)
        .collect();
    assert_eq!(order, ids(boot, 10..70));
    assert!(replayed.iter().all(|prediction| prediction.replay));
    coordinator.look(|inbox| {
        let live: Vec<_> = inbox.live.iter().map(|prediction| prediction.id).collect();
        assert_eq!(live, ids(boot, (0..10).chain(70..100)));
    });
    // All is acknowledged, and the outbox is empty.
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    client
        .reported(|report| report.outbox.batches == 0 && report.outbox.records == 0)
        .await;
    node.stop().await;
}

#[tokio::test]
async fn an_agent_restarted_in_the_outage_still_delivers() {
    let mut coordinator = Coordinator::start().await;
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let first_boot = node.ready.boot;
    coordinator
        .until("the node is up", |inbox| inbox.statuses.last().map(|_| ()))
        .await;
    coordinator.stop_broker().await;
    let messages = i94(FIRST + 40);
    feed(&node, &messages[..FIRST + 19]).await;
    made(&node, 20).await;
    let dir = node.stop().await;

    let node = Node::start_in(dir, |dir| coordinator.table() + &traffic(dir)).await;
    let second_boot = node.ready.boot;
    assert_ne!(first_boot, second_boot);
    feed(&node, &messages[5..FIRST + 14]).await;
    made(&node, 10).await;
    coordinator.start_broker().await;
    coordinator
        .until("all came", |inbox| {
            (inbox
                .batches
                .iter()
                .map(|batch| batch.records.len())
                .sum::<usize>()
                >= 30)
                .then_some(())
        })
        .await;
    let came: Vec<_> = replayed(&coordinator)
        .iter()
        .map(|prediction| prediction.id)
        .collect();
    let wanted: Vec<_> = ids(first_boot, 0..20)
        .into_iter()
        .chain(ids(second_boot, 0..10))
        .collect();
    assert_eq!(came, wanted);
    coordinator.look(|inbox| assert!(inbox.live.is_empty()));
    node.stop().await;
}

#[tokio::test]
async fn without_an_acknowledgement_a_prediction_is_sent_again_under_its_id() {
    let coordinator = Coordinator::start().await;
    coordinator.acknowledge(Acks::None);
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let boot = node.ready.boot;
    feed(&node, &i94(FIRST + 4)).await;
    coordinator
        .until("five came live", |inbox| {
            (inbox.live.len() == 5).then_some(())
        })
        .await;
    coordinator
        .until("the first came by replay, and again", |inbox| {
            let first = inbox.batches.first()?.number;
            (inbox
                .batches
                .iter()
                .filter(|batch| batch.number == first)
                .count()
                >= 2)
                .then_some(())
        })
        .await;
    coordinator.acknowledge(Acks::All);
    coordinator
        .until("all came by replay", |inbox| {
            let records = inbox.batches.iter().flat_map(|batch| &batch.records);
            let ids: BTreeSet<_> = records.map(|record| record.id).collect();
            (ids.len() == 5).then_some(())
        })
        .await;
    let came: Vec<_> = replayed(&coordinator)
        .iter()
        .map(|prediction| prediction.id)
        .collect();
    assert_eq!(came, ids(boot, 0..5));
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    client.reported(|report| report.outbox.batches == 0).await;
    node.stop().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_at_a_stop_is_delivered_by_the_next_run() {
    let coordinator = Coordinator::start().await;
    coordinator.acknowledge(Acks::None);
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let boot = node.ready.boot;
    feed(&node, &i94(FIRST + 2)).await;
    coordinator
        .until("three came live", |inbox| {
            (inbox.live.len() == 3).then_some(())
        })
        .await;
    let dir = node.stop().await;
    coordinator.acknowledge(Acks::All);
    let node = Node::start_in(dir, |dir| coordinator.table() + &traffic(dir)).await;
    coordinator
        .until("they came by replay", |inbox| {
            (!inbox.batches.is_empty()).then_some(())
        })
        .await;
    let came: Vec<_> = replayed(&coordinator)
        .iter()
        .map(|prediction| prediction.id)
        .collect();
    assert_eq!(came, ids(boot, 0..3));
    node.stop().await;
}

#[tokio::test]
async fn more_than_memory_holds_goes_to_the_outbox() {
    let coordinator = Coordinator::start().await;
    coordinator.acknowledge(Acks::Batches);
    let table = coordinator.table().replace(
        "ack_timeout = \"1s\"",
        "ack_timeout = \"1h\"\nmemory_records = 4",
    );
    let node = Node::start(|dir| table + &traffic(dir)).await;
    feed(&node, &i94(FIRST + 19)).await;
    coordinator
        .until("sixteen came by replay", |inbox| {
            (inbox
                .batches
                .iter()
                .map(|batch| batch.records.len())
                .sum::<usize>()
                >= 16)
                .then_some(())
        })
        .await;
    node.stop().await;
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_last_will() {
    let coordinator = Coordinator::start().await;
    let dir = tempfile::TempDir::new().unwrap();
    let text = common::config_text(dir.path(), &(coordinator.table() + &traffic(dir.path())));
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_lamppost-agent"))
        .arg("--config")
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let up = coordinator
        .until("the node is up", |inbox| {
            inbox
                .statuses
                .iter()
                .find(|status| status.state == NodeState::Up)
                .cloned()
        })
        .await;
    agent.kill().await.unwrap();
    let down = coordinator
        .until("the will came", |inbox| {
            inbox
                .statuses
                .last()
                .filter(|status| status.state == NodeState::Down)
                .cloned()
        })
        .await;
    assert_eq!(down.boot, up.boot);
}
