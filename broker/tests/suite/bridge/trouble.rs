//! Outages, full queues, brokers that do what they should not, and stopping through all of it.

use super::{
    Gate, all_numbers, bridge, bridge_is, config, next, out, publish_numbers, receiver, route,
};
use crate::common::{Hello, Raw, eventually, in_time, open_config, start};
use lamppost_broker::{
    BridgeLogin, BridgePassword, BridgeTls, BridgeVersion, Broker, Config, Publish, StartError,
    User,
};
use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_passes_both_ways_at_once() {
    const COUNT: usize = 5_000;
    for version in [BridgeVersion::V4, BridgeVersion::V5] {
        let (far, address) = start(open_config()).await;
        let mut bridge = out(bridge("hall", address), &[("out", "", "")]);
        bridge.inward = vec![route("in", "", "")];
        bridge.version = version;
        let (near, _) = start(config("near", vec![bridge])).await;
        let (mut there, mut here) = (receiver(&far, "out").await, receiver(&near, "in").await);
        bridge_is(&near, "connected", |stats| stats.connected).await;
        tokio::join!(
            publish_numbers(&near, "out", 0..COUNT),
            publish_numbers(&far, "in", 0..COUNT),
            all_numbers(&mut there, COUNT),
            all_numbers(&mut here, COUNT),
        );
        bridge_is(&near, "all acknowledged", |stats| stats.waiting == 0).await;
        let stats = &near.bridges()[0];
        assert_eq!((stats.sent, stats.received), (COUNT as u64, COUNT as u64));
        near.stop().await;
        far.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_qos_1_is_lost_in_outages() {
    const COUNT: usize = 3_000;
    for version in [BridgeVersion::V4, BridgeVersion::V5] {
        let (far, address) = start(open_config()).await;
        let (other, other_address) = start(open_config()).await;
        let gate = Gate::new(None).await;
        let mut bridge = out(bridge("hall", gate.address), &[("n/#", "", "")]);
        bridge.version = version;
        let (near, _) = start(config("near", vec![bridge])).await;
        let (mut there, mut elsewhere) =
            (receiver(&far, "n/#").await, receiver(&other, "n/#").await);
        // Before the first connection, in the middle of one, after it was cut, and over one to another broker.
        publish_numbers(&near, "n/x", 0..COUNT / 2).await;
        gate.lead(Some(address));
        bridge_is(&near, "on its way", |stats| stats.sent > 0).await;
        gate.lead(None);
        publish_numbers(&near, "n/x", COUNT / 2..COUNT).await;
        bridge_is(&near, "cut", |stats| !stats.connected).await;
        gate.lead(Some(other_address));
        let mut missing: HashSet<String> = (0..COUNT).map(|n| n.to_string()).collect();
        while !missing.is_empty() {
            let message = in_time("a message", async {
                tokio::select! {
                    message = there.recv() => message,
                    message = elsewhere.recv() => message,
                }
            });
            let message = message.await.unwrap();
            missing.remove(std::str::from_utf8(&message.payload).unwrap());
        }
        bridge_is(&near, "all acknowledged", |stats| stats.waiting == 0).await;
        let stats = &near.bridges()[0];
        assert_eq!((stats.sent, stats.dropped), (COUNT as u64, 0));
        for broker in [near, far, other] {
            broker.stop().await;
        }
    }
}

#[tokio::test]
async fn a_full_queue_drops_qos_0_and_then_the_oldest() {
    let (far, address) = start(open_config()).await;
    let gate = Gate::new(None).await;
    let mut bridge = out(bridge("hall", gate.address), &[("n", "", "")]);
    bridge.queue_count_max = 10;
    let (near, _) = start(config("near", vec![bridge])).await;
    let mut there = receiver(&far, "n").await;
    let (publisher, _) = near.link("test").unwrap().split();
    for n in 0..5 {
        publisher
            .publish(Publish::new("n", format!("zero {n}")))
            .await
            .unwrap();
    }
    publish_numbers(&near, "n", 0..20).await;
    bridge_is(&near, "full", |stats| {
        (stats.dropped, stats.waiting) == (15, 10)
    })
    .await;
    gate.lead(Some(address));
    for n in 10..20 {
        assert_eq!(next(&mut there).await.payload, n.to_string());
    }
    near.stop().await;
    far.stop().await;
}

/// Accepts connections, writes `answer` to each, and says nothing more.
async fn deaf(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(answer).await.unwrap();
            open.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn brokers_stop_whatever_the_other_one_does() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let connack = deaf(&[0x20, 3, 0, 0, 0]).await;
    for address in [deaf(&[]).await, nobody, connack] {
        let bridge = out(bridge("hall", address), &[("n", "", "")]);
        let (near, _) = start(config("near", vec![bridge])).await;
        publish_numbers(&near, "n", 0..10).await;
        bridge_is(&near, "waiting", |stats| {
            stats.waiting == 10 && stats.connected == (address == connack)
        })
        .await;
        let since = Instant::now();
        in_time("stopping", near.stop()).await;
        // A task that did not end would be waited for that long.
        assert!(since.elapsed() < Duration::from_secs(8), "{address}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_mqtt_are_survived() {
    // A CONNACK, then: a packet type that does not exist, an acknowledgement of nothing, a PUBREL of nothing, a
    // publication of QoS 3, one without a topic, and one whose properties are cut short.
    let mut bridges = Vec::new();
    for (n, answer) in [
        &b"\x20\x03\x00\x00\x00\xf0\x00"[..],
        b"\x20\x03\x00\x00\x00\x40\x02\xff\xff",
        b"\x20\x03\x00\x00\x00\x62\x02\x00\x01",
        b"\x20\x03\x00\x00\x00\x36\x05\x00\x01a\x00\x01",
        b"\x20\x03\x00\x00\x00\x30\x03\x00\x00\x00",
        b"\x20\x03\x00\x00\x00\x30\x05\x00\x01a\x7f\x26",
        b"\x20\x00",
        b"\xff\xff\xff\xff\xff",
    ]
    .into_iter()
    .enumerate()
    {
        let mut bridge = out(
            bridge(&format!("b{n}"), deaf(answer).await),
            &[("n", "", "")],
        );
        bridge.inward = vec![route("a", "", "")];
        bridges.push(bridge);
    }
    let (far, address) = start(open_config()).await;
    bridges.insert(0, out(bridge("good", address), &[("n", "", "")]));
    let (near, _) = start(config("near", bridges)).await;
    let mut there = receiver(&far, "n").await;
    publish_numbers(&near, "n", 0..100).await;
    all_numbers(&mut there, 100).await;
    in_time("stopping", near.stop()).await;
    far.stop().await;
}

#[tokio::test]
async fn what_waits_goes_out_before_the_broker_stops() {
    let (far, address) = start(open_config()).await;
    let gate = Gate::new(None).await;
    let (near, _) = start(config(
        "near",
        vec![out(bridge("hall", gate.address), &[("n", "", "")])],
    ))
    .await;
    publish_numbers(&near, "n", 0..1_000).await;
    bridge_is(&near, "waiting", |stats| stats.waiting == 1_000).await;
    let mut there = receiver(&far, "n").await;
    gate.lead(Some(address));
    bridge_is(&near, "on its way", |stats| stats.sent > 0).await;
    let stopping = tokio::spawn(near.stop());
    all_numbers(&mut there, 1_000).await;
    in_time("stopping", stopping).await.unwrap();
    far.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_its_files_stops_the_start() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let mut tls = out(bridge("hall", address), &[("a", "", "")]);
    tls.tls = Some(BridgeTls {
        ca_file: Some("no/such/ca.pem".into()),
        certificate: None,
    });
    let mut login = out(bridge("hall", address), &[("a", "", "")]);
    login.login = Some(BridgeLogin {
        user: "me".into(),
        password: BridgePassword::File("no/such/password".into()),
    });
    for (bridge, file) in [(tls, "no/such/ca.pem"), (login, "no/such/password")] {
        let error = Broker::start(config("near", vec![bridge]))
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Bridge(_)));
        let text = error.to_string();
        assert!(text.contains("hall") && text.contains(file), "{text}");
    }
}

#[tokio::test]
async fn a_password_is_shown_and_a_refusal_is_survived() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let (far, address) = start(Config {
        users: vec![User {
            name: "gate".into(),
            password: "secret".into(),
        }],
        allow_anonymous: false,
        ..open_config()
    })
    .await;
    let mut bridges = Vec::new();
    for (name, password) in [
        ("right", BridgePassword::File(file)),
        ("wrong", BridgePassword::Text("guess".into())),
    ] {
        let mut bridge = out(bridge(name, address), &[("a", "", "")]);
        bridge.login = Some(BridgeLogin {
            user: "gate".into(),
            password,
        });
        bridges.push(bridge);
    }
    let (near, _) = start(config("near", bridges)).await;
    eventually(&far, "both tried", |stats| {
        stats.refused_password >= 1 && stats.connected == 1
    })
    .await;
    eventually(&near, "one of them", |stats| stats.bridges_connected == 1).await;
    let hello = Hello {
        client_id: "x",
        login: Some(("gate", "secret")),
        ..Hello::default()
    };
    let mut client = Raw::connect(address, &hello).await;
    client.ping().await;
    near.stop().await;
    far.stop().await;
}
