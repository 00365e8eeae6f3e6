//! Bridges between brokers of this process. A connection passes a gate of the test's own, which cuts it and leads it
//! elsewhere, so that an outage begins and ends when the test says so.

use crate::common::{DEADLINE, Hello, Raw, eventually, in_time, open_config, start};
use lamppost_broker::{
    Bridge, BridgePassword, BridgeRoute, BridgeStats, BridgeTls, BridgeVersion, Broker, Config,
    LinkReceiver, Message, Publish, PublishProperties, QoS, StartError,
};
use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Where connections are led to; cut while there is nowhere.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
}

impl Gate {
    pub(crate) async fn new(target: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, watched) = watch::channel(target);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, watched.clone()));
            }
        });
        Self { address, target }
    }

    pub(crate) fn lead(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn pass(mut near: TcpStream, mut target: watch::Receiver<Option<SocketAddr>>) {
    let Some(address) = *target.borrow_and_update() else {
        return;
    };
    let Ok(mut far) = TcpStream::connect(address).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = target.changed() => {}
    }
}

pub(crate) fn route(filter: &str, local_prefix: &str, remote_prefix: &str) -> BridgeRoute {
    BridgeRoute {
        filter: filter.into(),
        qos: QoS::AtLeastOnce,
        local_prefix: local_prefix.into(),
        remote_prefix: remote_prefix.into(),
        allow_protected: true,
    }
}

pub(crate) fn bridge(name: &str, address: SocketAddr) -> Bridge {
    Bridge {
        name: name.into(),
        host: address.ip().to_string(),
        port: address.port(),
        tls: None,
        login: None,
        client_id: format!("{name}-bridge"),
        version: BridgeVersion::V5,
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_hours(1),
        notification_topic: None,
        queue_bytes_max: 4 << 20,
        queue_count_max: 16_384,
        outward: Vec::new(),
        inward: Vec::new(),
    }
}

/// What `bridge` with `outward` entries gets: those may not say `allow_protected`.
pub(crate) fn out(mut bridge: Bridge, routes: &[(&str, &str, &str)]) -> Bridge {
    bridge.outward = routes
        .iter()
        .map(|(filter, local, remote)| BridgeRoute {
            allow_protected: false,
            ..route(filter, local, remote)
        })
        .collect();
    bridge
}

pub(crate) fn config(id: &str, bridges: Vec<Bridge>) -> Config {
    Config {
        broker_id: Some(id.into()),
        bridges,
        ..open_config()
    }
}

pub(crate) async fn bridge_is(
    broker: &Broker,
    what: &str,
    condition: impl Fn(&BridgeStats) -> bool,
) {
    let since = Instant::now();
    while !condition(&broker.bridges()[0]) {
        assert!(since.elapsed() < DEADLINE, "{what}: {:?}", broker.bridges());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn receiver(broker: &Broker, filter: &str) -> LinkReceiver {
    let (_, mut receiver) = broker.link("test").unwrap().split();
    receiver.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    receiver
}

async fn next(receiver: &mut LinkReceiver) -> Message {
    in_time("a message", receiver.recv()).await.unwrap()
}

pub(crate) async fn publish(broker: &Broker, publish: Publish) {
    let (publisher, _) = broker.link("test").unwrap().split();
    publisher
        .publish(publish.qos(QoS::AtLeastOnce))
        .await
        .unwrap();
}

pub(crate) async fn publish_numbers(broker: &Broker, topic: &str, numbers: std::ops::Range<usize>) {
    let (publisher, _) = broker.link("test").unwrap().split();
    let all = numbers.map(|n| Publish::new(topic, n.to_string()).qos(QoS::AtLeastOnce));
    in_time("publishing", publisher.publish_many(all))
        .await
        .unwrap();
}

/// Receives until every number below `count` has come, in whatever order and number.
pub(crate) async fn all_numbers(receiver: &mut LinkReceiver, count: usize) {
    let mut missing: HashSet<String> = (0..count).map(|n| n.to_string()).collect();
    while !missing.is_empty() {
        let message = next(receiver).await;
        missing.remove(std::str::from_utf8(&message.payload).unwrap());
    }
}

#[tokio::test]
async fn messages_pass_both_ways_under_their_other_names() {
    for version in [BridgeVersion::V4, BridgeVersion::V5] {
        let (far, address) = start(open_config()).await;
        let mut bridge = out(bridge("hall", address), &[("#", "lamps/", "site/7/")]);
        bridge.version = version;
        bridge.inward = vec![route("cmd/+", "hall/", "all/")];
        let (near, _) = start(config("near", vec![bridge])).await;
        let mut there = receiver(&far, "site/#").await;
        let mut here = receiver(&near, "hall/#").await;
        bridge_is(&near, "connected", |stats| stats.connected).await;
        assert_eq!(near.stats().bridges_connected, 1);
        let properties = PublishProperties {
            content_type: Some("text/plain".into()),
            payload_is_utf8: true,
            response_topic: Some("answers".into()),
            correlation_data: Some("7".into()),
            user_properties: vec![("a".into(), "b".into())],
            message_expiry: None,
        };
        let message =
            |topic: &str| Publish::new(topic, topic.to_owned()).properties(properties.clone());
        publish(&near, message("lamps/1/state")).await;
        publish(&far, message("all/cmd/on")).await;
        publish(&far, message("all/other/on")).await;
        for (receiver, topic, payload, hop) in [
            (&mut there, "site/7/1/state", "lamps/1/state", "near.out"),
            (&mut here, "hall/cmd/on", "all/cmd/on", "near.in"),
        ] {
            let message = next(receiver).await;
            assert_eq!(
                (&*message.topic, &message.payload[..]),
                (topic, payload.as_bytes())
            );
            assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false));
            let mut wanted = match version {
                BridgeVersion::V5 => properties.clone(),
                BridgeVersion::V4 => PublishProperties::default(),
            };
            if version == BridgeVersion::V5 || hop == "near.in" {
                let mark = ("lamppost-bridge-hops".to_owned(), hop.to_owned());
                wanted.user_properties.push(mark);
            }
            assert_eq!(message.properties(), wanted, "{topic}");
        }
        bridge_is(&near, "counted", |stats| {
            (stats.sent, stats.received) == (1, 1)
        })
        .await;
        assert_eq!(near.stats().bridge_dropped, 0);
        near.stop().await;
        far.stop().await;
    }
}

#[tokio::test]
async fn the_rest_of_its_time_goes_with_a_message() {
    let (far, address) = start(open_config()).await;
    let (near, _) = start(config(
        "near",
        vec![out(bridge("hall", address), &[("a", "", "")])],
    ))
    .await;
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("a", 1)]).await, [1]);
    let expiry = PublishProperties {
        message_expiry: Some(Duration::from_secs(1_000)),
        ..PublishProperties::default()
    };
    publish(&near, Publish::new("a", "x").properties(expiry)).await;
    let properties = client.receive().await.properties;
    let at = properties.iter().position(|&byte| byte == 2).unwrap();
    let left = u32::from_be_bytes(properties[at + 1..at + 5].try_into().unwrap());
    assert!((900..=1_000).contains(&left), "{left}");
    near.stop().await;
    far.stop().await;
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

#[tokio::test]
async fn retained_messages_are_kept_on_both_sides_and_sent_to_each_new_broker() {
    let (far, address) = start(open_config()).await;
    let gate = Gate::new(Some(address)).await;
    let mut bridge = out(bridge("hall", gate.address), &[("up/#", "", "")]);
    bridge.inward = vec![route("down/#", "", "")];
    let (near, _) = start(Config {
        sys_interval: Duration::ZERO,
        ..config("near", vec![bridge])
    })
    .await;
    bridge_is(&near, "connected", |stats| stats.connected).await;
    publish(&near, Publish::new("up/1", "x").retained()).await;
    publish(&near, Publish::new("up/2", "x").retained()).await;
    publish(&near, Publish::new("other", "x").retained()).await;
    publish(&far, Publish::new("down/1", "x").retained()).await;
    eventually(&far, "kept there", |stats| stats.retained_count == 3).await;
    eventually(&near, "kept here", |stats| stats.retained_count == 4).await;
    publish(&near, Publish::new("up/2", "").retained()).await;
    eventually(&far, "cleared there", |stats| stats.retained_count == 2).await;
    // A broker that knows nothing, and brings more retained messages than are fetched at a time.
    let (other, other_address) = start(open_config()).await;
    for n in 0..300 {
        publish(&near, Publish::new(format!("up/more/{n}"), "x").retained()).await;
    }
    gate.lead(Some(other_address));
    eventually(&other, "sent again", |stats| stats.retained_count == 301).await;
    assert_eq!(near.stats().retained_count, 303);
    for broker in [near, far, other] {
        broker.stop().await;
    }
}

/// Every message in the batch of a round, until `count` of them have come.
async fn take(receiver: &mut LinkReceiver, count: usize) {
    for _ in 0..count {
        next(receiver).await;
    }
}

/// What makes no storm: each round of one message comes to an end, with the same few copies.
async fn rounds(brokers: &[Broker], loops: &[u64], copies: &[usize]) {
    let mut watchers = Vec::new();
    for broker in brokers {
        watchers.push(receiver(broker, "#").await);
        bridge_is(broker, "connected", |stats| stats.connected).await;
    }
    for round in 1..=5 {
        publish(&brokers[0], Publish::new("t", "x")).await;
        for ((broker, watcher), (loops, copies)) in brokers
            .iter()
            .zip(&mut watchers)
            .zip(loops.iter().zip(copies))
        {
            take(watcher, *copies).await;
            eventually(broker, "loops", |stats| stats.bridge_loops == loops * round).await;
        }
    }
    // All that was sent on has come back by now and been found; nothing more is under way.
    publish(&brokers[0], Publish::new("end", "x")).await;
    for (watcher, copies) in watchers.iter_mut().zip(copies) {
        for _ in 0..*copies {
            assert_eq!(&*next(watcher).await.topic, "end");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_bridged_to_each_other_make_no_storm() {
    let gates = [Gate::new(None).await, Gate::new(None).await];
    let mut brokers = Vec::new();
    for (n, id) in ["a", "b"].into_iter().enumerate() {
        let mut bridge = out(bridge(id, gates[1 - n].address), &[("#", "", "")]);
        bridge.inward = vec![route("#", "", "")];
        let (broker, address) = start(config(id, vec![bridge])).await;
        gates[n].lead(Some(address));
        brokers.push(broker);
    }
    // There are two bridges, so that the message comes to `b` twice, and each of those comes back once.
    rounds(&brokers, &[1, 1], &[3, 2]).await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_three_makes_no_storm() {
    let gates = [
        Gate::new(None).await,
        Gate::new(None).await,
        Gate::new(None).await,
    ];
    let mut brokers = Vec::new();
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        let bridge = out(bridge(id, gates[(n + 1) % 3].address), &[("#", "", "")]);
        let (broker, address) = start(config(id, vec![bridge])).await;
        gates[n].lead(Some(address));
        brokers.push(broker);
    }
    rounds(&brokers, &[1, 0, 0], &[2, 1, 1]).await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_three_that_fetches_makes_no_storm() {
    let gates = [
        Gate::new(None).await,
        Gate::new(None).await,
        Gate::new(None).await,
    ];
    let mut brokers = Vec::new();
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        let mut bridge = bridge(id, gates[(n + 1) % 3].address);
        bridge.inward = vec![route("#", "", "")];
        let (broker, address) = start(config(id, vec![bridge])).await;
        gates[n].lead(Some(address));
        brokers.push(broker);
    }
    // From `a` to `c`, which fetches from it, to `b` and to `a`; `c` finds that it has had it.
    rounds(&brokers, &[0, 0, 1], &[2, 1, 1]).await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test]
async fn two_bridges_of_one_broker_pass_messages_on() {
    let (left, left_address) = start(open_config()).await;
    let (right, right_address) = start(open_config()).await;
    let mut first = bridge("left", left_address);
    first.inward = vec![route("#", "", "")];
    let (middle, _) = start(config(
        "middle",
        vec![first, out(bridge("right", right_address), &[("#", "", "")])],
    ))
    .await;
    eventually(&middle, "both", |stats| stats.bridges_connected == 2).await;
    let mut there = receiver(&right, "#").await;
    publish(&left, Publish::new("t", "x")).await;
    let message = next(&mut there).await;
    let hops = &message.properties().user_properties;
    assert_eq!(hops[0].1, "middle.in middle.out");
    for broker in [middle, left, right] {
        broker.stop().await;
    }
}

#[tokio::test]
async fn the_state_is_told_on_both_sides() {
    let (far, address) = start(open_config()).await;
    let gate = Gate::new(Some(address)).await;
    let mut bridge = out(bridge("hall", gate.address), &[("a", "", "")]);
    bridge.notification_topic = Some("gates/7".into());
    let (near, _) = start(config("near", vec![bridge])).await;
    let mut here = receiver(&near, "$SYS/broker/connection/hall/state").await;
    let mut there = receiver(&far, "gates/7").await;
    let until = async |receiver: &mut LinkReceiver, payload: &str| {
        while next(receiver).await.payload != payload {}
    };
    until(&mut here, "1").await;
    until(&mut there, "1").await;
    gate.lead(None);
    until(&mut here, "0").await;
    until(&mut there, "0").await;
    gate.lead(Some(address));
    until(&mut here, "1").await;
    until(&mut there, "1").await;
    in_time("stopping", near.stop()).await;
    until(&mut there, "0").await;
    assert_eq!(far.stats().wills, 1);
    far.stop().await;
}

#[tokio::test]
async fn a_remote_reaches_no_topic_that_it_was_not_given() {
    let (far, address) = start(open_config()).await;
    let mut bridge = bridge("hall", address);
    bridge.inward = vec![route("#", "", "in/")];
    let (near, _) = start(Config {
        sys_interval: Duration::ZERO,
        ..config("near", vec![bridge])
    })
    .await;
    let mut here = receiver(&near, "#").await;
    bridge_is(&near, "connected", |stats| stats.connected).await;
    for topic in ["in/$SYS/broker/version", "in/", "in", "in/a"] {
        publish(&far, Publish::new(topic, topic.to_owned()).retained()).await;
    }
    assert_eq!(&*next(&mut here).await.topic, "a");
    assert_eq!(
        (near.bridges()[0].received, near.bridges()[0].dropped),
        (1, 3)
    );
    assert_eq!(near.stats().retained_count, 1);
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
    login.login = Some(lamppost_broker::BridgeLogin {
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
        users: vec![lamppost_broker::User {
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
        bridge.login = Some(lamppost_broker::BridgeLogin {
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
