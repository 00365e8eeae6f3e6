//! Downloads are bounded: so many at once over one backhaul, whoever asks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::path::Path;

use lamppost_coordinator::api::{Given, Health};
use lamppost_models::message::NodeState;
use lamppost_models::{Digest, Status};
use reqwest::{Method, StatusCode, header};
use support::{Coordinator, Node, config, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// More than the system keeps between two sockets, so that a peer that does not read holds its download open.
const LARGE_BYTES: usize = 48 << 20;

/// Puts an artifact where the coordinator looks for them.
fn place(dir: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    std::fs::write(dir.join("artifacts").join(digest.hex()), bytes).unwrap();
    digest
}

async fn tagged(node: &Node, backhaul: &str) {
    let tags = [("backhaul".parse().unwrap(), backhaul.parse().unwrap())].into();
    let status = Status {
        tags,
        ..support::status(1, NodeState::Up)
    };
    node.say_retained("status", &status).await;
}

/// Asks for an artifact and reads no more than the first bytes of the answer.
async fn hold(coordinator: &Coordinator, address: &str, node: &str) -> TcpStream {
    let mut stream = TcpStream::connect(coordinator.ready.http).await.unwrap();
    let head = format!("GET {address} HTTP/1.1\r\nHost: x\r\nLamppost-Node: {node}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_backhaul_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.http.downloads_per_backhaul = Some(1);
    let coordinator = Coordinator::start(config).await;
    let nodes = [
        Node::connect(coordinator.mqtt(), "gw-1", 1).await,
        Node::connect(coordinator.mqtt(), "gw-2", 1).await,
    ];
    for node in &nodes {
        tagged(node, "lte-7").await;
    }
    eventually("both tags are known", async || {
        let nodes = [
            coordinator.node("gw-1").await?,
            coordinator.node("gw-2").await?,
        ];
        nodes
            .iter()
            .all(|node| {
                node.status
                    .as_ref()
                    .is_some_and(|status| !status.tags.is_empty())
            })
            .then_some(())
    })
    .await;

    let large = format!("/v1/artifacts/{}", place(dir.path(), &vec![7; LARGE_BYTES]));
    let small = place(dir.path(), b"a small one");
    let get = async |node: Option<&str>| {
        let request = coordinator.request(Method::GET, &format!("/v1/artifacts/{small}"));
        let request = node.into_iter().fold(request, |request, node| {
            request.header("lamppost-node", node)
        });
        let response = request.send().await.unwrap();
        let later = response.headers().get(header::RETRY_AFTER).cloned();
        (
            response.status(),
            later.map(|later| later.to_str().unwrap().to_owned()),
        )
    };
    let held = hold(&coordinator, &large, "minneapolis/gw-1").await;
    let (status, later) = get(Some("minneapolis/gw-2")).await;
    assert_eq!(
        (status, later.as_deref()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("10"))
    );
    let head = coordinator
        .request(Method::HEAD, &large)
        .header("lamppost-node", "minneapolis/gw-2");
    assert_eq!(head.send().await.unwrap().status(), StatusCode::OK);
    // Whoever is not known is on none of the backhauls, and shares one place with others that are not.
    assert_eq!(get(None).await.0, StatusCode::OK);
    let stranger = hold(&coordinator, &large, "oslo/nobody").await;
    assert_eq!(get(None).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(Some("gw-1")).await.0, StatusCode::BAD_REQUEST);
    let health: Health = coordinator.get("/v1/health").await;
    assert_eq!(health.refused["backhaul_busy"], 2);

    // A peer that is gone gives its place back, and what it was not sent counts as not given.
    drop((held, stranger));
    eventually("the place is free again", async || {
        (get(Some("minneapolis/gw-2")).await.0 == StatusCode::OK).then_some(())
    })
    .await;
    let given: Vec<Given> = coordinator.get(&format!("/v1/given?digest={small}")).await;
    assert!(given.len() == 1 && given[0].bytes >= 22, "{given:?}");
    drop(nodes);
    coordinator.stop().await;
}
