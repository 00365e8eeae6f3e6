//! What an operator sees: `$SYS` topics, and metrics over HTTP.

use crate::{
    common::{DEADLINE, Raw, eventually, in_time, open_config, start},
    interop::skip,
};
use lamppost_broker::{Action, Broker, Config, Effect, Publish, QoS, Rule, StartError, Who};
use std::{
    collections::HashMap,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn quick_sys() -> Config {
    Config {
        sys_interval: Duration::from_millis(20),
        ..open_config()
    }
}

fn with_metrics() -> Config {
    Config {
        metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..open_config()
    }
}

/// Sends a request's bytes and returns the status, the head and the body.
pub(crate) async fn http(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut answer = String::new();
    in_time("an HTTP answer", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

pub(crate) fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

/// Reads `$SYS` messages until those that are wanted have been seen with their values, in whatever order.
async fn until_seen(client: &mut Raw, wanted: &[(&str, &str)]) {
    let mut seen = HashMap::new();
    let has = |seen: &HashMap<String, String>, topic: &str, value: &str| {
        seen.get(&format!("$SYS/broker/{topic}"))
            .is_some_and(|v| v == value)
    };
    let since = Instant::now();
    while !wanted.iter().all(|(topic, value)| has(&seen, topic, value)) {
        assert!(since.elapsed() < DEADLINE, "{seen:#?}");
        let message = client.receive().await;
        seen.insert(message.topic, String::from_utf8(message.payload).unwrap());
    }
}

#[tokio::test]
async fn sys_topics_tell_what_happens() {
    let (broker, address) = start(quick_sys()).await;
    let mut watcher = Raw::named(address, true, "watcher").await;
    assert_eq!(watcher.subscribe(&[("$SYS/#", 0)]).await, [0]);
    let version = format!("lamppost-broker version {}", env!("CARGO_PKG_VERSION"));
    until_seen(
        &mut watcher,
        &[
            ("version", &version),
            ("clients/connected", "1"),
            ("clients/total", "1"),
            ("clients/maximum", "1"),
            ("subscriptions/count", "1"),
            ("retained messages/count", "0"),
            ("publish/messages/dropped", "0"),
        ],
    )
    .await;
    let mut client = Raw::named(address, false, "client").await;
    assert_eq!(client.subscribe(&[("a", 0)]).await, [0]);
    assert_eq!(client.publish_acked("b", b"12345", true).await, 0);
    until_seen(
        &mut watcher,
        &[
            ("clients/connected", "2"),
            ("clients/maximum", "2"),
            ("subscriptions/count", "2"),
            ("retained messages/count", "1"),
            ("store/messages/count", "1"),
            ("publish/messages/received", "1"),
            ("publish/bytes/received", "5"),
        ],
    )
    .await;
    drop(client);
    until_seen(
        &mut watcher,
        &[("clients/connected", "1"), ("subscriptions/count", "1")],
    )
    .await;
    let stats = broker.stats();
    assert_eq!(stats.retained_count, 1, "the broker's own do not count");
    broker.stop().await;
}

#[tokio::test]
async fn sys_topics_are_retained_hidden_from_wildcards_and_closed_to_publishers() {
    let (broker, address) = start(Config {
        sys_interval: Duration::from_hours(1),
        ..open_config()
    })
    .await;
    let (_publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver
        .subscribe("$SYS/broker/version", QoS::AtMostOnce)
        .await
        .unwrap();
    let version = in_time("the version", receiver.recv()).await.unwrap();
    assert!(version.payload.starts_with(b"lamppost-broker version "));
    // They are published only now and then: what comes now is retained.
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("$SYS/broker/uptime", 0)]).await, [0]);
    let uptime = client.receive().await;
    assert!(
        uptime.retain && uptime.payload.ends_with(b" seconds"),
        "{uptime:?}"
    );
    assert_eq!(
        client.publish_acked("$SYS/broker/uptime", b"x", true).await,
        0x87
    );
    assert_eq!(
        client.subscribe(&[("#", 0), ("+/broker/uptime", 0)]).await,
        [0, 0]
    );
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn sys_topics_can_be_denied_and_turned_off() {
    let deny = Rule {
        effect: Effect::Deny,
        who: Who::Any,
        action: Action::Subscribe,
        filter: "$SYS/#".into(),
    };
    let (broker, address) = start(Config {
        rules: vec![deny],
        ..quick_sys()
    })
    .await;
    let mut client = Raw::named(address, true, "client").await;
    let codes = client
        .subscribe(&[("$SYS/#", 0), ("$SYS/broker/uptime", 0), ("#", 0)])
        .await;
    assert_eq!(codes, [0x80, 0x80, 0]);
    broker.stop().await;

    let (broker, address) = start(Config {
        sys_interval: Duration::ZERO,
        ..open_config()
    })
    .await;
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("$SYS/#", 0)]).await, [0]);
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn packets_and_bytes_are_counted_on_the_wire() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, false, "client").await;
    assert_eq!(client.subscribe(&[("a", 1)]).await, [1]);
    client.publish("a", b"123", 0, false).await;
    client.receive().await;
    client.ping().await;
    // CONNECT 20, SUBSCRIBE 8, PUBLISH 8, PINGREQ 2; CONNACK 4, SUBACK 5, PUBLISH 8, PINGRESP 2.
    let wanted = (4, 38, 4, 19);
    let counted = |stats: &lamppost_broker::Stats| {
        (
            stats.packets_in,
            stats.bytes_in,
            stats.packets_out,
            stats.bytes_out,
        )
    };
    eventually(&broker, "packets and bytes", |stats| {
        counted(stats) == wanted
    })
    .await;
    let stats = broker.stats();
    assert_eq!((stats.payload_bytes_in, stats.payload_bytes_out), (3, 3));
    broker.stop().await;
}

#[tokio::test]
async fn metrics_are_served_and_nothing_else() {
    let (broker, _) = start(with_metrics()).await;
    let address = broker.metrics_addr().unwrap();
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    publisher
        .publish(Publish::new("a", "12345").retained())
        .await
        .unwrap();

    let (status, head, body) = http(address, &request("GET", "/metrics")).await;
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    for line in [
        "# TYPE lamppost_broker_refused_total counter",
        "lamppost_broker_refused_total{reason=\"password\"} 0",
        "lamppost_broker_dropped_total{reason=\"slow_subscriber\"} 0",
        "lamppost_broker_messages_in_total 1",
        "lamppost_broker_payload_bytes_in_total 5",
        "lamppost_broker_retained_messages 1",
    ] {
        assert!(body.lines().any(|found| found == line), "{line}\n{body}");
    }
    let (status, head, body) = http(address, &request("HEAD", "/metrics")).await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: "), "{head}");
    let (status, _, body) = http(address, &request("GET", "/healthz")).await;
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert_eq!(http(address, &request("GET", "/")).await.0, 404);
    let (status, head, _) = http(address, &request("POST", "/metrics")).await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    assert_eq!(http(address, "nonsense\r\n\r\n").await.0, 400);
    broker.stop().await;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is free"
    );
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_out_for_long_nor_stop_the_broker() {
    let (broker, mqtt) = start(with_metrics()).await;
    let address = broker.metrics_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut client = Raw::named(mqtt, true, "client").await;
    client.ping().await;
    assert_eq!(http(address, &request("GET", "/healthz")).await.0, 200);
    in_time("stopping", broker.stop()).await;
}

#[tokio::test]
async fn a_metrics_port_in_use_is_named() {
    let (broker, address) = start(open_config()).await;
    let error = Broker::start(Config {
        metrics_listen: Some(address),
        ..open_config()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    let program = std::env::var("LAMPPOST_TEST_PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let exists = Command::new(&program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if exists.is_err() {
        return skip("promtool (Debian: prometheus; or set LAMPPOST_TEST_PROMTOOL)");
    }
    let (broker, _) = start(with_metrics()).await;
    let (_, _, page) = http(broker.metrics_addr().unwrap(), &request("GET", "/metrics")).await;
    let checked = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(program)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, page.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    });
    let output = in_time("promtool", checked).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    broker.stop().await;
}
