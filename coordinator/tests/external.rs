//! An external broker: Debian's mosquitto, with and without TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lamppost_coordinator::Config;
use lamppost_coordinator::api::Health;
use lamppost_coordinator::config::{Broker, External};
use lamppost_coordinator_core::Presence;
use support::{Coordinator, DEADLINE, Node, bundle, config, eventually};

/// Whether the programs are there. Without them the test says loudly that it did not run, or fails if it must run.
fn available(programs: &[&str]) -> bool {
    for program in programs {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&dirs).chain([PathBuf::from("/usr/sbin")]);
        if !places.any(|dir| dir.join(program).exists()) {
            let must = std::env::var("LAMPPOST_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
            assert!(
                !must,
                "{program} is not installed, and LAMPPOST_REQUIRE_INTEROP=1 wants this test"
            );
            eprintln!(
                "SKIPPED: {program} is not installed; LAMPPOST_REQUIRE_INTEROP=1 makes this a failure"
            );
            return false;
        }
    }
    true
}

struct Mosquitto {
    child: Child,
    address: SocketAddr,
}

impl Mosquitto {
    fn start(dir: &Path, address: SocketAddr, more: &str) -> Self {
        let file = dir.join("mosquitto.conf");
        let port = address.port();
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n{more}");
        std::fs::write(&file, text).unwrap();
        let program = if Path::new("/usr/sbin/mosquitto").exists() {
            "/usr/sbin/mosquitto"
        } else {
            "mosquitto"
        };
        let mut command = Command::new(program);
        let mut child = command
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ends = Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(
                child.try_wait().unwrap().is_none() && Instant::now() < ends,
                "mosquitto does not start"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn external(data_dir: &Path, url: &str, ca_file: Option<PathBuf>) -> Config {
    let broker = Broker::External(External {
        url: url.parse().unwrap(),
        ca_file,
    });
    Config {
        broker,
        ..config(data_dir)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_over_mosquitto_that_is_restarted() {
    if !available(&["mosquitto"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start(dir.path(), free_address(), "");
    let address = mosquitto.address;
    let coordinator = Coordinator::start(external(
        &dir.path().join("data"),
        &format!("mqtt://{address}"),
        None,
    ))
    .await;
    assert_eq!(coordinator.ready.mqtt, None);
    let key = coordinator.key().await;
    coordinator.push(bundle("1.0.0")).await;
    let started = coordinator.start_rollout("1.0.0").await.rollout;
    let mut node = Node::connect(address, "gw-1", 1).await;
    assert_eq!(node.release(key).await, started.release());
    for number in 0..100 {
        node.predict(number).await;
    }
    node.acked_up_to(99).await;
    assert_eq!(
        coordinator.stored("gw-1").await,
        (0..100).collect::<Vec<_>>()
    );
    let mut watch = coordinator
        .http
        .get(format!(
            "http://{}/v1/watch?filter=lamppost%2Fv1%2Fmodels%2F%23",
            coordinator.ready.http
        ))
        .send()
        .await
        .unwrap();
    let mut seen = String::new();
    while !seen.contains("\"retain\":true") {
        let chunk = tokio::time::timeout(DEADLINE, watch.chunk())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    drop((watch, node));
    eventually("the last will has come", async || {
        coordinator
            .node("gw-1")
            .await
            .filter(|view| matches!(view.presence, Presence::Down { .. }))
    })
    .await;

    // The broker forgets everything; the coordinator comes back and says again what holds.
    drop(mosquitto);
    eventually("the loss is noticed", async || {
        let response = coordinator
            .request(reqwest::Method::GET, "/v1/health")
            .send()
            .await
            .unwrap();
        (response.status().as_u16() == 503).then_some(())
    })
    .await;
    let _mosquitto = Mosquitto::start(dir.path(), address, "");
    let mut node = Node::connect(address, "gw-1", 2).await;
    assert_eq!(node.release(key).await, started.release());
    eventually("the connection is back", async || {
        Some(coordinator.get::<Health>("/v1/health").await).filter(|health| health.broker_connected)
    })
    .await;
    node.predict(0).await;
    node.acked_up_to(0).await;
    coordinator.stop().await;
}

/// A certificate authority, and a certificate of it for 127.0.0.1.
fn certificates(dir: &Path) {
    let run = |args: &str| {
        let output = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::write(
        dir.join("ext"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    run(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
    );
    run(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=server",
    );
    run(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile ext",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_mosquitto_with_a_private_authority() {
    if !available(&["mosquitto", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let (plain, path) = (free_address(), dir.path().display());
    let tls = free_address();
    // Clients of the test speak without TLS on the first port, the coordinator with it on the second.
    let second = format!(
        "listener {} 127.0.0.1\ncertfile {path}/server.pem\nkeyfile {path}/server.key\nuser root\n",
        tls.port()
    );
    let _mosquitto = Mosquitto::start(dir.path(), plain, &second);
    let url = format!("mqtts://127.0.0.1:{}", tls.port());
    let coordinator = Coordinator::start(external(
        &dir.path().join("data"),
        &url,
        Some(dir.path().join("ca.pem")),
    ))
    .await;
    let mut node = Node::connect(plain, "gw-1", 1).await;
    eventually("the coordinator hears the node", async || {
        coordinator.node("gw-1").await
    })
    .await;
    node.predict(0).await;
    node.acked_up_to(0).await;
    coordinator.stop().await;

    // Without the authority the broker is not trusted, and nothing is sent.
    let stranger = Coordinator::start(external(&dir.path().join("other"), &url, None)).await;
    let response = stranger
        .request(reqwest::Method::GET, "/v1/health")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 503);
    stranger.stop().await;
}
