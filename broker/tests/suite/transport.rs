//! Several listeners, bounds for each address, and clients nobody here wrote over TLS and WebSocket.
use crate::{
    certificates::{Authority, Identity, is_served, only, over_websocket},
    common::{Raw, eventually, in_time, open_config, start, with_limits},
    interop::{assert_ok, check_stats, config, exists, run, runs, script, skip},
};
use lamppost_broker::{Broker, Config, Listener, QoS};
use std::{env, net::SocketAddr, process::Command};
use tokio::{io::AsyncReadExt, net::TcpStream};

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn all_listeners_lead_to_one_broker() {
    let authority = Authority::new();
    let listeners = vec![
        authority.listener(None),
        Listener::tcp(loopback()),
        over_websocket(Listener::tcp(loopback())),
    ];
    let (broker, first) = start(Config {
        listeners,
        ..open_config()
    })
    .await;
    let addresses = broker.local_addrs().to_vec();
    assert_eq!((addresses.len(), addresses[0]), (4, first));
    let mut subscriber = Raw::named(first, false, "subscriber").await;
    subscriber.subscribe(&[("a", 0)]).await;
    let mut publisher = Raw::named(addresses[2], true, "publisher").await;
    publisher.publish("a", b"x", 0, false).await;
    assert_eq!(subscriber.receive().await.payload, b"x");
    assert!(is_served(addresses[1], &authority.client_config(None)).await);
    in_time("stopping", broker.stop()).await;
    for address in addresses {
        assert!(TcpStream::connect(address).await.is_err());
    }
}

/// Whether a new connection is closed at once.
async fn is_closed(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut byte = [0];
    in_time("the end", stream.read(&mut byte))
        .await
        .unwrap_or(0)
        == 0
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let (broker, address) = start(with_limits(|limits| {
        limits.connections_per_address_max = 2;
        limits.loopback_exempt = false;
    }))
    .await;
    let _one = Raw::named(address, true, "one").await;
    let two = Raw::named(address, true, "two").await;
    assert!(is_closed(address).await);
    assert_eq!(broker.stats().refused_address, 1);
    drop(two);
    eventually(&broker, "the end", |stats| stats.clients == 1).await;
    // The place is given back with the connection, a moment after the client's.
    loop {
        let mut three = Raw::open(address, true).await;
        let hello = crate::common::Hello {
            v5: true,
            ..Default::default()
        };
        three.send_lossy(&hello.bytes()).await;
        if three.read().await.is_some() {
            break;
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_address_connects_so_often() {
    let (broker, address) = start(with_limits(|limits| {
        limits.connects_per_second_max = 1;
        limits.loopback_exempt = false;
    }))
    .await;
    let _burst = (
        Raw::named(address, true, "one").await,
        Raw::named(address, true, "two").await,
    );
    // However slow this machine is, one of these comes within a second of another.
    while broker.stats().refused_rate == 0 {
        let _refused_or_not = TcpStream::connect(address).await.unwrap();
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_address_has_half_of_the_handshakes() {
    let (broker, address) = start(with_limits(|limits| {
        limits.handshakes_max = 4;
        limits.loopback_exempt = false;
    }))
    .await;
    let _waiting = (
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    );
    assert!(is_closed(address).await);
    assert_eq!(broker.stats().refused_address_handshakes, 1);
    broker.stop().await;
}

#[tokio::test]
async fn loopback_is_exempt() {
    let (broker, address) = start(with_limits(|limits| {
        limits.connections_per_address_max = 1;
        limits.connects_per_second_max = 1;
    }))
    .await;
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(Raw::named(address, true, &number.to_string()).await);
    }
    assert_eq!(broker.stats().clients, 10);
    broker.stop().await;
}

/// `config()` of the other scenarios at this listener only.
fn behind(listener: Listener) -> Config {
    Config {
        listen: None,
        listeners: vec![listener],
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqttjs_over_websocket() {
    let modules = env::var("LAMPPOST_TEST_NODE_MODULES").unwrap_or_default();
    let authority = Authority::new();
    let ca_file = authority.file();
    let envs = [
        ("NODE_PATH", modules.as_str()),
        ("NODE_EXTRA_CA_CERTS", ca_file.to_str().unwrap()),
    ];
    if !runs("node", &["-e", "require('mqtt').connectAsync.call"], &envs) {
        return skip("node with MQTT.js 5 (set LAMPPOST_TEST_NODE_MODULES)");
    }
    for (url, listener) in [
        (
            "ws://127.0.0.1/mqtt",
            over_websocket(Listener::tcp(loopback())),
        ),
        (
            "wss://127.0.0.1/mqtt",
            over_websocket(authority.listener(None)),
        ),
        ("mqtts://127.0.0.1", authority.listener(None)),
    ] {
        for version in ["4", "5"] {
            let (broker, address) = start(behind(listener.clone())).await;
            let mut command = Command::new("node");
            command
                .arg(script("mqttjs_client.js"))
                .args([&address.port().to_string(), version, url])
                .envs(envs);
            assert_ok(&run(command).await, &format!("{url} {version}"));
            check_stats(&broker);
            broker.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho_over_websocket() {
    let python = env::var("LAMPPOST_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = "from paho.mqtt.client import CallbackAPIVersion";
    if !runs(&python, &["-c", import], &[]) {
        return skip("paho-mqtt 2 for Python (set LAMPPOST_TEST_PYTHON)");
    }
    for version in ["3", "5"] {
        let listener = over_websocket(Listener::tcp(loopback()));
        let (broker, address) = start(behind(listener)).await;
        let mut command = Command::new(&python);
        command.arg(script("paho_client.py")).args([
            &address.port().to_string(),
            version,
            "websockets",
        ]);
        assert_ok(&run(command).await, version);
        check_stats(&broker);
        broker.stop().await;
    }
}

fn mosquitto(
    program: &str,
    address: SocketAddr,
    authority: &Authority,
    identity: Option<&Identity>,
    arguments: &str,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-h", "127.0.0.1", "-p", &address.port().to_string()])
        .arg("--cafile")
        .arg(authority.file());
    if let Some(identity) = identity {
        command
            .arg("--cert")
            .arg(&identity.certificate_file)
            .arg("--key")
            .arg(&identity.key_file);
    }
    command.args(arguments.split_whitespace());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_with_certificates() {
    if !["mosquitto_pub", "mosquitto_sub"].into_iter().all(exists) {
        return skip("mosquitto_pub and mosquitto_sub (Debian: mosquitto-clients)");
    }
    let authority = Authority::new();
    let (broker, address) = start(only(authority.listener(Some(true)))).await;
    let known = authority.client("lamp-7");
    let stranger = Authority::new();
    let unknown = stranger.client("lamp-7");
    for version in ["mqttv311", "mqttv5"] {
        mosquitto_talks(&broker, address, &authority, &known, version).await;
        for identity in [None, Some(&unknown)] {
            let arguments = format!("-V {version} -t m/x -m x");
            let command = mosquitto("mosquitto_pub", address, &authority, identity, &arguments);
            assert!(!run(command).await.status.success());
        }
    }
    eventually(&broker, "the failures", |stats| stats.tls_failures == 4).await;
    broker.stop().await;
}

async fn mosquitto_talks(
    broker: &Broker,
    address: SocketAddr,
    authority: &Authority,
    identity: &Identity,
    version: &str,
) {
    let (_publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("m/#", QoS::AtLeastOnce).await.unwrap();
    let arguments = format!("-V {version} -t m/kept -m from-mosquitto -q 1 -r");
    let command = mosquitto(
        "mosquitto_pub",
        address,
        authority,
        Some(identity),
        &arguments,
    );
    assert_ok(&run(command).await, version);
    let message = in_time("a message", receiver.recv()).await.unwrap();
    assert_eq!(message.payload, "from-mosquitto");
    let arguments = format!("-V {version} -t m/kept -C 1");
    let command = mosquitto(
        "mosquitto_sub",
        address,
        authority,
        Some(identity),
        &arguments,
    );
    let output = run(command).await;
    assert_ok(&output, version);
    assert_eq!(output.stdout, b"from-mosquitto\n");
}
