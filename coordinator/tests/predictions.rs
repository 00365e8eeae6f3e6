//! Stored predictions over the API, page by page; and a coordinator that is dropped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use lamppost_coordinator::api::{
    LedgerPage, LedgerView, Position, StoredPrediction, StoredPredictions,
};
use support::{Coordinator, DEADLINE, Node, config, eventually};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const STORED: u64 = 3_000;

async fn ask(
    coordinator: &Coordinator,
    limit: usize,
    before: Option<Position>,
) -> StoredPredictions {
    let before = before.map_or(String::new(), |before| format!("&before={before}"));
    coordinator
        .get(&format!(
            "/v1/predictions?node=minneapolis/gw-1&stream=i94&limit={limit}{before}"
        ))
        .await
}

/// Pages back through everything, and has the node make another prediction before each request but the first.
async fn page_back(
    coordinator: &Coordinator,
    node: &Node,
    limit: usize,
    next: &mut u64,
) -> Vec<StoredPrediction> {
    let first = ask(coordinator, limit, None).await;
    let (mut rows, mut older) = (first.predictions, first.older);
    while older.is_some() {
        node.predict(*next).await;
        *next += 1;
        let more = ask(coordinator, limit, older).await;
        assert!(more.older.is_none() || more.predictions.len() == limit);
        rows.extend(more.predictions);
        older = more.older;
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_paged_back_through_without_gap_or_repeat_while_more_comes() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    for number in 0..STORED {
        node.predict(number).await;
    }
    node.acked_up_to(STORED - 1).await;
    let mut next = STORED;
    for limit in [7, 1_000] {
        let rows = page_back(&coordinator, &node, limit, &mut next).await;
        let numbers: Vec<u64> = rows.iter().map(|row| row.prediction.id.number).collect();
        let newest = numbers[0];
        // The broker keeps the order of a node's messages, so that newest first is highest number first.
        assert_eq!(numbers, (0..=newest).rev().collect::<Vec<_>>());
        assert!(newest >= STORED - 1 && rows.is_sorted_by(|a, b| a.position > b.position));
    }
    assert!(next > STORED + 400, "more came meanwhile: {next}");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ledgers_come_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    for node in ["gw-2", "gw-1"] {
        let mut node = Node::connect(coordinator.mqtt(), node, 1).await;
        node.predict(0).await;
        node.acked_up_to(0).await;
    }
    let first: LedgerPage = coordinator.get("/v1/ledger?limit=1").await;
    let next = first.next.unwrap();
    assert_eq!(
        (first.nodes[0].path.to_string(), &*next),
        ("minneapolis/gw-1".to_owned(), "minneapolis/gw-1")
    );
    let rest: LedgerPage = coordinator
        .get(&format!("/v1/ledger?limit=1&since=1h&after={next}"))
        .await;
    assert_eq!(
        (rest.nodes[0].path.to_string(), rest.next),
        ("minneapolis/gw-2".to_owned(), None)
    );
    let one: LedgerView = coordinator.get("/v1/ledger/minneapolis/gw-2").await;
    assert_eq!(one.account.streams[0].tally.delivered, 1);
    // Without a report nothing can be missing.
    assert!(!one.account.reported && one.account.missing.is_empty());
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_dropped_gives_back_its_data_and_its_ports() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    node.predict(0).await;
    let ready = coordinator.ready;
    coordinator.abandon().await;
    for port in [ready.http, ready.mqtt.unwrap()] {
        eventually("a closed port", async || {
            TcpStream::connect(port).await.is_err().then_some(())
        })
        .await;
    }
    let mut again = config(dir.path());
    again.http.listen = ready.http;
    // Told to stop from the beginning, it still opens all that it needs.
    let stopped = CancellationToken::new();
    stopped.cancel();
    eventually("a coordinator on the same data", async || {
        let (ready, _) = tokio::sync::oneshot::channel();
        lamppost_coordinator::run(again.clone(), stopped.clone(), ready)
            .await
            .ok()
    })
    .await;
}

#[test]
fn a_runtime_with_a_coordinator_can_be_dropped() {
    let (sender, dropped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // Nobody says anything to it, so that the owner of the state has nothing to do and waits.
        let _running = runtime.block_on(Coordinator::start(config(dir.path())));
        // This waits for all threads that block, such as the owner's.
        drop(runtime);
        sender.send(()).unwrap();
    });
    dropped.recv_timeout(DEADLINE).unwrap();
}
