//! Bridges between brokers of this process. A connection passes a gate of the test's own, which cuts it and leads it
//! elsewhere, so that an outage begins and ends when the test says so.

mod loops;
mod mosquitto;
mod trouble;

use crate::common::{DEADLINE, Raw, eventually, in_time, open_config, start};
use lamppost_broker::{
    Bridge, BridgeRoute, BridgeStats, BridgeVersion, Broker, Config, LinkReceiver, Message,
    Publish, PublishProperties, QoS,
};
use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Where connections are led to; cut while there is nowhere.
struct Gate {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
}

impl Gate {
    async fn new(target: Option<SocketAddr>) -> Self {
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

    fn lead(&self, target: Option<SocketAddr>) {
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

fn route(filter: &str, local_prefix: &str, remote_prefix: &str) -> BridgeRoute {
    BridgeRoute {
        filter: filter.into(),
        qos: QoS::AtLeastOnce,
        local_prefix: local_prefix.into(),
        remote_prefix: remote_prefix.into(),
        allow_protected: true,
    }
}

fn bridge(name: &str, address: SocketAddr) -> Bridge {
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
fn out(mut bridge: Bridge, routes: &[(&str, &str, &str)]) -> Bridge {
    bridge.outward = routes
        .iter()
        .map(|(filter, local, remote)| BridgeRoute {
            allow_protected: false,
            ..route(filter, local, remote)
        })
        .collect();
    bridge
}

fn config(id: &str, bridges: Vec<Bridge>) -> Config {
    Config {
        broker_id: Some(id.into()),
        bridges,
        ..open_config()
    }
}

async fn bridge_is(broker: &Broker, what: &str, condition: impl Fn(&BridgeStats) -> bool) {
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

async fn publish(broker: &Broker, publish: Publish) {
    let (publisher, _) = broker.link("test").unwrap().split();
    publisher
        .publish(publish.qos(QoS::AtLeastOnce))
        .await
        .unwrap();
}

async fn publish_numbers(broker: &Broker, topic: &str, numbers: std::ops::Range<usize>) {
    let (publisher, _) = broker.link("test").unwrap().split();
    let all = numbers.map(|n| Publish::new(topic, n.to_string()).qos(QoS::AtLeastOnce));
    in_time("publishing", publisher.publish_many(all))
        .await
        .unwrap();
}

/// Receives until every number below `count` has come, in whatever order and number.
async fn all_numbers(receiver: &mut LinkReceiver, count: usize) {
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
