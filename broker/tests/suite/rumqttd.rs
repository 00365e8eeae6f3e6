//! What brings stock rumqttd 0.20.0 down or makes it wrong, and that this broker withstands it.
//!
//! Each test says in its first line what stock does, with the place in rumqttd's source. Whatever it did to the broker,
//! a client that comes afterwards must be served.

use crate::common::{
    Hello, Packet, Raw, in_time, open_config, packet, publish_bytes, start, with_limits,
};
use lamppost_broker::{Broker, Publish, QoS};
use std::{collections::HashMap, net::SocketAddr};

/// Two fresh clients reach each other, and no task of the broker has panicked.
async fn serves(broker: &Broker, address: SocketAddr) {
    for v5 in [false, true] {
        let mut subscriber = Raw::named(address, v5, "fresh-subscriber").await;
        assert_eq!(subscriber.subscribe(&[("fresh/#", 1)]).await, [1]);
        let mut publisher = Raw::named(address, v5, "fresh-publisher").await;
        assert_eq!(
            publisher.publish_acked("fresh/one", b"served", false).await,
            0
        );
        assert_eq!(subscriber.receive().await.payload, b"served");
    }
    assert_eq!(broker.stats().panics, 0);
}

/// A client whose session goes on when it is away, in either version.
fn kept(v5: bool, client_id: &str) -> Hello<'_> {
    Hello {
        v5,
        client_id,
        unclean: true,
        properties: if v5 { &[17, 0, 0, 14, 16] } else { &[] },
        ..Hello::default()
    }
}

/// Stock: `unreachable!()` at an MQTT 5 CONNACK or UNSUBACK with a body (protocol/v5/mod.rs:429).
#[tokio::test]
async fn packets_that_only_servers_send_do_not_panic() {
    let (broker, address) = start(open_config()).await;
    let attacks = [
        packet(0x20, &[0, 0, 0]),
        packet(0xb0, &[0, 1, 0, 0]),
        packet(0x90, &[0, 1, 0, 0]),
        packet(0xd0, &[0]),
        packet(0xf0, &[0x18, 0]),
        packet(0x00, &[0]),
    ];
    for v5 in [false, true] {
        for attack in &attacks {
            let mut stranger = Raw::open(address, v5).await;
            stranger.send(attack).await;
            assert_eq!(
                stranger.read().await,
                None,
                "{attack:02x?} instead of CONNECT"
            );
            let mut client = Raw::named(address, v5, "attacker").await;
            client.send(attack).await;
            assert_eq!(client.closed().await.is_some(), v5, "{attack:02x?}");
        }
    }
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: `topic[..1]` cuts the first letter of a topic in two and takes the router's thread with it
/// (protocol/mod.rs:658).
#[tokio::test]
async fn topics_may_begin_with_any_letter() {
    let (broker, address) = start(open_config()).await;
    let topics = ["\u{fc}ber/1", "\u{20ac}", "\u{1f4a1}/an", "\u{7f}x"];
    for v5 in [false, true] {
        let mut client = Raw::named(address, v5, "letters").await;
        assert_eq!(client.subscribe(&[("#", 0)]).await, [0]);
        for topic in topics {
            client.publish(topic, topic.as_bytes(), 0, false).await;
            let message = client.receive().await;
            assert_eq!(
                (message.topic.as_str(), &message.payload[..]),
                (topic, topic.as_bytes())
            );
        }
    }
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: a link that says it is ready after its connection has gone meets `unwrap()` in the router's thread
/// (router/scheduler.rs:62, from `Event::Ready` in router/routing.rs).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_while_much_is_due_to_them_harm_nobody() {
    let (broker, address) = start(open_config()).await;
    let burst: Vec<u8> = (0..1_000)
        .flat_map(|_| publish_bytes(false, "burst", &[0; 100], 0, false, 0))
        .collect();
    let mut publisher = Raw::named(address, false, "publisher").await;
    for round in 0..30 {
        let names = ["one", "two", "three"];
        let mut doomed = Vec::new();
        for name in names {
            let mut client = Raw::connect(
                address,
                &Hello {
                    v5: round % 2 == 0,
                    client_id: name,
                    ..Hello::default()
                },
            )
            .await;
            assert_eq!(client.subscribe(&[("burst", 0)]).await, [0]);
            doomed.push(client);
        }
        publisher.send(&burst).await;
        // One leaves politely in the middle, one without a word, one by an error.
        assert_eq!(doomed[0].receive().await.payload, [0; 100]);
        doomed[0].send_lossy(&[0xe0, 0]).await;
        doomed[1].send_lossy(&[0x00, 0]).await;
        drop(doomed);
    }
    publisher.ping().await;
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: `expect("group must exists")` in the router's thread, when the last member of a shared subscription has a
/// persistent session and leaves with messages that it has not acknowledged (router/routing.rs:512).
#[tokio::test]
async fn the_last_member_of_a_group_may_leave_with_messages_under_way() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let mut member = Raw::connect(address, &kept(v5, "member")).await;
        assert_eq!(member.subscribe(&[("$share/g/t", 1)]).await, [1]);
        let mut publisher = Raw::named(address, v5, "publisher").await;
        assert_eq!(publisher.publish_acked("t", b"x", false).await, 0);
        assert_eq!(member.read().await.unwrap().first, 0x32);
        drop(member);
        serves(&broker, address).await;
        // The session is ended, so that the other version finds none.
        drop(Raw::named(address, v5, "member").await);
    }
    broker.stop().await;
}

/// Stock: an acknowledgement out of order ends the connection, and takes another message's place before it is looked
/// at (router/iobufs.rs `register_ack`, router/routing.rs:769); so does an unknown one.
#[tokio::test]
async fn acknowledgements_may_come_in_any_order() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let mut client = Raw::named(address, v5, "client").await;
        assert_eq!(client.subscribe(&[("t", 1)]).await, [1]);
        client.send(&packet(0x40, &[0, 99])).await;
        client.ping().await;
        let mut ids = Vec::new();
        let (publisher, _receiver) = broker.link("own").unwrap().split();
        for n in 0..5u8 {
            publisher
                .publish(Publish::new("t", vec![n]).qos(QoS::AtLeastOnce))
                .await
                .unwrap();
            let message = client.read().await.unwrap();
            assert_eq!(message.first, 0x32);
            ids.push([message.body[3], message.body[4]]);
        }
        for at in [4, 0, 2, 2, 3, 1] {
            client.send(&packet(0x40, &ids[at])).await;
        }
        client.ping().await;
    }
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: PUBREL with a reason code is ignored (the pattern in router/routing.rs:799), one of an unknown id ends the
/// connection (router/routing.rs:813).
#[tokio::test]
async fn every_release_is_answered() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, true, "client").await;
    client.publish("t", b"x", 2, false).await;
    assert_eq!(client.read().await.unwrap().first, 0x50);
    client.send(&packet(0x62, &[0, 77, 0, 0])).await;
    assert_eq!(
        client.read().await,
        Some(Packet {
            first: 0x70,
            body: vec![0, 77]
        })
    );
    client.send(&packet(0x62, &[0, 78, 0x92, 0])).await;
    assert_eq!(
        client.read().await,
        Some(Packet {
            first: 0x70,
            body: vec![0, 78, 0x92]
        })
    );
    let mut old = Raw::named(address, false, "old").await;
    old.send(&packet(0x62, &[0, 9])).await;
    assert_eq!(
        old.read().await,
        Some(Packet {
            first: 0x70,
            body: vec![0, 9]
        })
    );
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: one alias for each filter, so that under `t/+` all messages come under the first one's topic
/// (router/routing.rs, `set_new_alias(&request.filter)` and `publish.topic.clear()`).
#[tokio::test]
async fn an_alias_stands_for_one_topic() {
    let (broker, address) = start(open_config()).await;
    let hello = Hello {
        v5: true,
        client_id: "aliases",
        properties: &[34, 0, 10],
        ..Hello::default()
    };
    let mut client = Raw::connect(address, &hello).await;
    assert_eq!(client.subscribe(&[("t/+", 0)]).await, [0]);
    let mut known: HashMap<Vec<u8>, String> = HashMap::new();
    for round in 0..40 {
        let topic = format!("t/{}", round % 13);
        client.publish(&topic, topic.as_bytes(), 0, false).await;
        let message = client.receive().await;
        let meant = match message.properties.strip_prefix(&[0x23]) {
            Some(alias) if message.topic.is_empty() => known[alias].clone(),
            Some(alias) => {
                known.insert(alias.to_vec(), message.topic.clone());
                message.topic
            }
            None => message.topic,
        };
        assert_eq!(meant.as_bytes(), message.payload);
    }
    broker.stop().await;
}

/// Stock: checks aliases after it has acknowledged the publication (router/routing.rs:588 before
/// `validate_and_set_topic_alias`), and its codec lets a topic be empty without one.
#[tokio::test]
async fn aliases_out_of_place_end_their_connection_only() {
    let (broker, address) = start(open_config()).await;
    let with_alias = |topic: &[u8], alias: u16| {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic);
        body.extend([0, 1, 3, 0x23]);
        body.extend(alias.to_be_bytes());
        packet(0x32, &body)
    };
    let attacks = [
        with_alias(b"", 1),
        with_alias(b"t", 0),
        with_alias(b"t", u16::MAX),
        with_alias(b"", u16::MAX),
        with_alias(b"", 0),
        packet(0x32, &[0, 0, 0, 1, 0]),
    ];
    for attack in attacks {
        let mut client = Raw::named(address, true, "attacker").await;
        client.send(&attack).await;
        // The very next packet, with no acknowledgement before it.
        assert_eq!(client.read().await.unwrap().first, 0xe0, "{attack:02x?}");
        assert_eq!(client.read().await, None);
    }
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: takes any filter that does not begin with `$` (router/routing.rs:1719; `valid_filter` is never called), takes
/// `$share/g` for a filter, and answers one bad filter with a short SUBACK and the end of the connection.
#[tokio::test]
async fn bad_filters_are_refused_one_by_one() {
    let (broker, address) = start(open_config()).await;
    let bad = [
        "",
        "a/#/b",
        "a#",
        "+a",
        "$share",
        "$share/",
        "$share/g",
        "$share//a",
        "$share/g/",
        "$share/+/a",
        "$share/g/a/#/b",
    ];
    let mut filters: Vec<(&str, u8)> = bad.iter().map(|filter| (*filter, 1)).collect();
    filters.push(("good", 1));
    for v5 in [false, true] {
        let mut client = Raw::named(address, v5, "client").await;
        let codes = client.subscribe(&filters).await;
        assert_eq!(codes.len(), filters.len());
        for (code, (filter, _)) in codes.iter().zip(&filters) {
            // "$share" alone is a filter like any other: what begins a shared one is "$share/".
            let fine = matches!(*filter, "good" | "$share");
            assert_eq!(
                *code,
                if fine {
                    1
                } else if v5 {
                    0x8f
                } else {
                    0x80
                },
                "{filter:?}"
            );
        }
        let unsubscribe = [
            &[0, 3][..],
            if v5 { &[0] } else { &[] },
            b"\x00\x08$share/g\x00\x00",
        ]
        .concat();
        client.send(&packet(0xa2, &unsubscribe)).await;
        assert_eq!(client.read().await.unwrap().first, 0xb0);
        assert_eq!(client.publish_acked("good", b"x", false).await, 0);
        assert_eq!(client.receive().await.payload, b"x");
    }
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: of the retained messages a new subscriber gets as many as fit into its window (router/routing.rs:1469).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_retained_messages_reach_a_new_subscriber() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("filler").unwrap().split();
    let all = (0..500u16).map(|n| {
        Publish::new(format!("r/{n}"), n.to_be_bytes().to_vec())
            .qos(QoS::AtLeastOnce)
            .retained()
    });
    publisher.publish_many(all).await.unwrap();
    for (v5, qos) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut late = Raw::named(address, v5, "late").await;
        assert_eq!(late.subscribe(&[("r/+", qos)]).await, [qos]);
        let mut seen = vec![false; 500];
        for _ in 0..500 {
            let message = late.receive().await;
            let n = usize::from(u16::from_be_bytes([message.payload[0], message.payload[1]]));
            assert!(
                message.retain
                    && message.topic == format!("r/{n}")
                    && !std::mem::replace(&mut seen[n], true),
                "{n}"
            );
        }
        late.ping().await;
    }
    broker.stop().await;
}

/// Stock: an empty message without RETAIN takes the retained one away (router/routing.rs:1230).
#[tokio::test]
async fn an_empty_message_without_retain_leaves_the_retained_one() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, false, "client").await;
    client.publish("t", b"kept", 0, true).await;
    client.publish("t", b"", 0, false).await;
    assert_eq!(client.subscribe(&[("t", 0)]).await, [0]);
    assert_eq!(client.receive().await.payload, b"kept");
    broker.stop().await;
}

/// Stock: a reader that lags behind the log jumps to its head, with a line in its own log (segments/mod.rs:186); of
/// 40,000 messages a stalled subscriber got 9,939.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stalled_reader_loses_is_counted() {
    const SENT: u32 = 40_000;
    let (broker, _address) = start(open_config()).await;
    let (publisher, mut receiver) = broker.link("stalled").unwrap().split();
    receiver.subscribe("flood", QoS::AtMostOnce).await.unwrap();
    let flood =
        (0..SENT).map(|n| Publish::new("flood", [&n.to_be_bytes()[..], &[0; 200]].concat()));
    in_time("a flood that nobody reads", publisher.publish_many(flood))
        .await
        .unwrap();
    let (mut received, mut next) = (0u64, 0);
    while next < SENT {
        let message = in_time("the last message", receiver.recv()).await.unwrap();
        let n = u32::from_be_bytes([
            message.payload[0],
            message.payload[1],
            message.payload[2],
            message.payload[3],
        ]);
        assert!(n >= next, "{n} after {next}");
        (received, next) = (received + 1, n + 1);
    }
    let lost = broker.stats().lost_slow_subscriber;
    assert!(lost > 0, "the log of 256 KiB cannot hold 8 MB");
    assert_eq!(received + lost, u64::from(SENT));
    broker.stop().await;
}

/// Stock: QoS 1 messages for a subscriber that stalls are lost with the log's oldest segment (segments/mod.rs:186).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_loses_no_qos_1_message_within_its_queue() {
    // About 300 bytes each with what the queue adds: twice the log's 256 KiB, and within the queue's 1 MiB.
    const SENT: u32 = 2_000;
    let (broker, address) = start(open_config()).await;
    let mut stalled = Raw::named(address, false, "stalled").await;
    assert_eq!(stalled.subscribe(&[("flood", 1)]).await, [1]);
    let (publisher, _receiver) = broker.link("publisher").unwrap().split();
    let flood = (0..SENT).map(|n| {
        Publish::new("flood", [&n.to_be_bytes()[..], &[0; 200]].concat()).qos(QoS::AtLeastOnce)
    });
    in_time("a flood that nobody reads", publisher.publish_many(flood))
        .await
        .unwrap();
    for n in 0..SENT {
        let message = stalled.receive().await;
        assert_eq!(
            (message.qos, &message.payload[..4]),
            (1, &n.to_be_bytes()[..])
        );
    }
    assert_eq!(broker.stats().lost_slow_subscriber, 0);
    broker.stop().await;
}

/// Stock: a connection reads nothing while it writes (link/remote.rs, `writev` in the loop), and loses what the log
/// drops meanwhile. Here a subscriber that reads nothing costs the one beside it no message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_reads_nothing_stops_no_other() {
    const SENT: u32 = 10_000;
    let (broker, address) = start(open_config()).await;
    let mut stuck = Raw::named(address, false, "stuck").await;
    assert_eq!(stuck.subscribe(&[("flood", 1)]).await, [1]);
    let mut good = Raw::named(address, false, "good").await;
    assert_eq!(good.subscribe(&[("flood", 0)]).await, [0]);
    let (publisher, _receiver) = broker.link("publisher").unwrap().split();
    let flood = tokio::spawn(async move {
        let flood = (0..SENT).map(|n| {
            Publish::new("flood", [&n.to_be_bytes()[..], &[0; 1_000]].concat())
                .qos(QoS::AtLeastOnce)
        });
        publisher.publish_many(flood).await.unwrap();
    });
    for n in 0..SENT {
        assert_eq!(good.receive().await.payload[..4], n.to_be_bytes());
    }
    in_time("the publisher", flood).await.unwrap();
    serves(&broker, address).await;
    broker.stop().await;
}

/// Stock: keeps a log for every filter ever subscribed (router/logs.rs:159).
#[tokio::test]
async fn five_thousand_filters_in_turn_leave_nothing() {
    let config = with_limits(|limits| limits.filters_max = 4);
    let (broker, address) = start(config).await;
    let mut client = Raw::named(address, true, "client").await;
    for n in 0..5_000 {
        let filter = format!("turn/{n}/+");
        assert_eq!(client.subscribe(&[(&filter, 0)]).await, [0], "{filter}");
        let length = u8::try_from(filter.len()).unwrap();
        let unsubscribe = [&[0, 3, 0, 0, length][..], filter.as_bytes()].concat();
        client.send(&packet(0xa2, &unsubscribe)).await;
        assert_eq!(
            client.read().await,
            Some(Packet {
                first: 0xb0,
                body: vec![0, 3, 0, 0]
            })
        );
    }
    // All four places are free.
    assert_eq!(
        client
            .subscribe(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0)])
            .await,
        [0, 0, 0, 0, 0x97]
    );
    drop(client);
    broker.stop().await;
}

/// Stock: refuses a keep-alive of 0 (link/remote.rs:202).
#[tokio::test]
async fn a_keep_alive_of_zero_is_accepted() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let hello = Hello {
            v5,
            client_id: "forever",
            keep_alive_s: 0,
            ..Hello::default()
        };
        Raw::connect(address, &hello).await.ping().await;
    }
    broker.stop().await;
}

/// Stock: a QoS 2 message that comes again before its PUBREL is recorded and delivered again (router/routing.rs:599,
/// router/logs.rs `AckLog::pubrec`).
#[tokio::test]
async fn a_repeated_qos_2_message_is_delivered_once() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let mut subscriber = Raw::named(address, v5, "subscriber").await;
        assert_eq!(subscriber.subscribe(&[("t", 0)]).await, [0]);
        let mut publisher = Raw::named(address, v5, "publisher").await;
        let mut message = publish_bytes(v5, "t", b"once", 2, false, 5);
        for _ in 0..3 {
            publisher.send(&message).await;
            assert_eq!(
                publisher.read().await.unwrap(),
                Packet {
                    first: 0x50,
                    body: vec![0, 5]
                }
            );
            message[0] |= 8;
        }
        publisher.send(&packet(0x62, &[0, 5])).await;
        assert_eq!(
            publisher.read().await.unwrap(),
            Packet {
                first: 0x70,
                body: vec![0, 5]
            }
        );
        publisher.publish("t", b"mark", 0, false).await;
        assert_eq!(subscriber.receive().await.payload, b"once");
        assert_eq!(subscriber.receive().await.payload, b"mark");
    }
    broker.stop().await;
}

/// Stock: no UNSUBACK for a filter that nobody ever subscribed (router/routing.rs:718).
#[tokio::test]
async fn unsubscribing_an_unknown_filter_is_answered() {
    let (broker, address) = start(open_config()).await;
    let mut old = Raw::named(address, false, "old").await;
    old.send(&packet(0xa2, b"\x00\x03\x00\x04none")).await;
    assert_eq!(
        old.read().await,
        Some(Packet {
            first: 0xb0,
            body: vec![0, 3]
        })
    );
    let mut new = Raw::named(address, true, "new").await;
    new.send(&packet(0xa2, b"\x00\x03\x00\x00\x04none\x00\x04none"))
        .await;
    assert_eq!(
        new.read().await,
        Some(Packet {
            first: 0xb0,
            body: vec![0, 3, 0, 0x11, 0x11]
        })
    );
    broker.stop().await;
}

/// Stock: raises every message to the subscription's QoS (router/routing.rs:1564).
#[tokio::test]
async fn qos_0_stays_qos_0() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let mut client = Raw::named(address, v5, "client").await;
        assert_eq!(client.subscribe(&[("t", 1)]).await, [1]);
        client.publish("t", b"x", 0, false).await;
        let message = client.receive().await;
        assert_eq!((message.qos, message.packet_id), (0, 0));
        client.ping().await;
    }
    broker.stop().await;
}
