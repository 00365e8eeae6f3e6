//! The edges of the protocol, in bytes of our own.

use crate::common::{
    Hello, Packet, Raw, eventually, open_config, packet, publish_bytes, start, with_limits,
};
use std::time::Duration;

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let (broker, address) = start(with_limits(|limits| {
        limits.handshake_timeout = Duration::from_millis(50);
    }))
    .await;
    let mut silent = Raw::open(address, false).await;
    assert_eq!(silent.read().await, None);
    let mut slow = Raw::open(address, false).await;
    slow.send(
        &Hello {
            client_id: "c",
            ..Hello::default()
        }
        .bytes()[..9],
    )
    .await;
    assert_eq!(slow.read().await, None);
    eventually(&broker, "two timeouts", |stats| {
        stats.handshake_timeouts == 2
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn a_wrong_first_packet_is_closed_without_an_answer() {
    let (broker, address) = start(open_config()).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xc0, 0],
        &[0x30, 3, 0, 1, b'a'],
        &[0x20, 2, 0, 0],
    ] {
        let mut client = Raw::open(address, false).await;
        client.send(bytes).await;
        assert_eq!(client.read().await, None, "{bytes:?}");
    }
    eventually(&broker, "four errors", |stats| {
        stats.protocol_errors == 4 && stats.connected == 0
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn other_versions_are_told_so() {
    let (broker, address) = start(open_config()).await;
    let mut old = Raw::open(address, false).await;
    old.send(&packet(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01c"))
        .await;
    assert_eq!(
        old.read().await,
        Some(Packet {
            first: 0x20,
            body: vec![0, 1]
        })
    );
    let mut new = Raw::open(address, true).await;
    new.send(&packet(0x10, b"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01c"))
        .await;
    assert_eq!(
        new.read().await,
        Some(Packet {
            first: 0x20,
            body: vec![0, 0x84, 0]
        })
    );
    assert_eq!(broker.stats().refused_version, 2);
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_must_not_send_ends_its_connection_only() {
    let (broker, address) = start(open_config()).await;
    let mut witness = Raw::named(address, false, "witness").await;
    let cases: [(&str, Vec<u8>, u8); 12] = [
        ("CONNACK", packet(0x20, &[0, 0]), 0x82),
        ("SUBACK", packet(0x90, &[0, 1, 0]), 0x82),
        ("PINGRESP", packet(0xd0, &[]), 0x82),
        (
            "a second CONNECT",
            Hello {
                v5: true,
                client_id: "x",
                ..Hello::default()
            }
            .bytes(),
            0x82,
        ),
        ("AUTH", packet(0xf0, &[]), 0x82),
        ("type 0", packet(0x00, &[]), 0x81),
        (
            "a length of five bytes",
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x7f],
            0x81,
        ),
        ("a publication cut short", packet(0x30, &[0, 9, b'a']), 0x81),
        ("QoS 3", packet(0x36, &[0, 1, b'a', 0, 1, 0]), 0x81),
        (
            "a wildcard in a topic",
            publish_bytes(true, "a/+", b"x", 0, false, 0),
            0x90,
        ),
        (
            "a topic alias of 0",
            packet(0x30, &[0, 1, b'a', 3, 0x23, 0, 0]),
            0x94,
        ),
        (
            "a topic alias over the maximum",
            packet(0x30, &[0, 1, b'a', 3, 0x23, 0, 33]),
            0x94,
        ),
    ];
    for (what, bytes, code) in cases {
        for v5 in [true, false] {
            let mut client = Raw::named(address, v5, "case").await;
            client.send(&bytes).await;
            if v5 {
                assert_eq!(client.closed().await, Some(code), "{what}");
            } else if !what.starts_with("a topic alias") {
                assert_eq!(client.closed().await, None, "{what}");
            }
        }
    }
    witness.ping().await;
    let stats = broker.stats();
    assert_eq!(stats.panics, 0);
    assert!(
        stats.malformed >= 8 && stats.protocol_errors >= 12,
        "{stats:?}"
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_over_the_limit_is_refused_by_its_header() {
    let (broker, address) = start(with_limits(|limits| limits.payload_bytes_max = 1_000)).await;
    let mut fits = Raw::named(address, true, "fits").await;
    assert_eq!(fits.publish_acked("a", &[0; 1_000], false).await, 0x10);
    let mut long = Raw::named(address, true, "long").await;
    long.publish("a", &[0; 1_001], 1, false).await;
    assert_eq!(long.closed().await, Some(0x95));
    let mut huge = Raw::named(address, true, "huge").await;
    // 256 MiB announced, five bytes sent.
    huge.send(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(huge.closed().await, Some(0x95));
    let mut first = Raw::open(address, false).await;
    first.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(first.read().await, None);
    eventually(&broker, "three refusals", |stats| stats.oversize == 3).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_malformed_connections_leave_it_serving() {
    let (broker, address) = start(open_config()).await;
    let mut subscriber = Raw::named(address, false, "subscriber").await;
    assert_eq!(subscriber.subscribe(&[("a", 0)]).await, [0]);
    // A small generator of our own keeps the bytes the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    for round in 0..3_000 {
        let mut client = Raw::open(address, round % 2 == 0).await;
        let mut hello = Hello {
            v5: round % 2 == 0,
            client_id: "fuzz",
            ..Hello::default()
        }
        .bytes();
        match round % 3 {
            // Noise from the start.
            0 => hello = (0..40).map(|_| byte()).collect(),
            // A CONNECT with a few bytes changed.
            1 => {
                for _ in 0..3 {
                    let at = usize::from(byte()) % hello.len();
                    hello[at] = byte();
                }
            }
            // A good CONNECT and a bad packet behind it.
            _ => {
                let body: Vec<u8> = (0..20).map(|_| byte()).collect();
                hello.extend(packet(byte(), &body));
            }
        }
        client.send_lossy(&hello).await;
    }
    let mut publisher = Raw::named(address, true, "publisher").await;
    assert_eq!(publisher.publish_acked("a", b"still here", false).await, 0);
    let message = subscriber.receive().await;
    assert_eq!(
        (message.topic.as_str(), &message.payload[..]),
        ("a", &b"still here"[..])
    );
    let stats = broker.stats();
    assert_eq!(stats.panics, 0);
    assert!(stats.malformed + stats.protocol_errors > 1_000, "{stats:?}");
    broker.stop().await;
}

#[tokio::test]
async fn an_empty_client_id_is_assigned_where_the_version_allows() {
    let (broker, address) = start(open_config()).await;
    let (_client, answer) = Raw::try_connect(
        address,
        &Hello {
            v5: true,
            ..Hello::default()
        },
    )
    .await;
    assert_eq!(answer[1], 0);
    let at = answer
        .windows(3)
        .position(|bytes| bytes[0] == 18 && bytes[1] == 0)
        .expect("an assigned id");
    assert!(answer[at + 3..].starts_with(b"auto-"));
    let (_client, answer) = Raw::try_connect(address, &Hello::default()).await;
    assert_eq!(answer, [0, 0]);
    let (mut refused, answer) = Raw::try_connect(
        address,
        &Hello {
            unclean: true,
            ..Hello::default()
        },
    )
    .await;
    assert_eq!(answer, [0, 2]);
    assert_eq!(refused.read().await, None);
    broker.stop().await;
}

#[tokio::test]
async fn qos_handshakes_run_to_their_end() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let mut subscriber = Raw::named(address, v5, "subscriber").await;
        assert_eq!(
            subscriber.subscribe(&[("q/#", 2), ("bad/#/x", 0)]).await[0],
            2
        );
        let mut publisher = Raw::named(address, v5, "publisher").await;
        let twice = publish_bytes(v5, "q/2", b"two", 2, false, 5);
        publisher.send(&twice).await;
        assert_eq!(
            publisher.read().await,
            Some(Packet {
                first: 0x50,
                body: vec![0, 5]
            })
        );
        // Sent again before its release, it is acknowledged and not published again.
        publisher.send(&[&[0x3c], &twice[1..]].concat()).await;
        assert_eq!(
            publisher.read().await,
            Some(Packet {
                first: 0x50,
                body: vec![0, 5]
            })
        );
        publisher.send(&packet(0x62, &[0, 5])).await;
        assert_eq!(
            publisher.read().await,
            Some(Packet {
                first: 0x70,
                body: vec![0, 5]
            })
        );
        assert_eq!(publisher.publish_acked("q/1", b"one", false).await, 0);
        publisher.publish("q/0", b"none", 0, false).await;
        for (topic, qos) in [("q/2", 2), ("q/1", 1), ("q/0", 0)] {
            let message = subscriber.receive().await;
            assert_eq!(
                (message.topic.as_str(), message.qos, message.retain),
                (topic, qos, false)
            );
        }
        publisher.send(&packet(0x62, &[0, 5])).await;
        let again = publisher.read().await.unwrap();
        assert_eq!(again.body, if v5 { vec![0, 5, 0x92] } else { vec![0, 5] });
    }
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions_are_refused_one_by_one() {
    let (broker, address) = start(with_limits(|limits| limits.filters_per_client_max = 2)).await;
    let filters = [
        ("a", 0),
        ("$share//a", 0),
        ("a/#/b", 1),
        ("b", 1),
        ("a", 1),
        ("c", 0),
    ];
    let mut v5 = Raw::named(address, true, "five").await;
    assert_eq!(v5.subscribe(&filters).await, [0, 0x8f, 0x8f, 1, 1, 0x97]);
    let mut v4 = Raw::named(address, false, "four").await;
    assert_eq!(v4.subscribe(&filters).await, [0, 0x80, 0x80, 1, 1, 0x80]);
    let stats = broker.stats();
    assert_eq!((stats.filters_invalid, stats.filters_refused), (4, 2));
    // An ended subscription gives its room back, and ending one that is not there is answered too.
    v5.send(&packet(0xa2, b"\x00\x03\x00\x00\x01a\x00\x01z"))
        .await;
    assert_eq!(
        v5.read().await,
        Some(Packet {
            first: 0xb0,
            body: vec![0, 3, 0, 0, 0x11]
        })
    );
    assert_eq!(v5.subscribe(&[("c", 0)]).await, [0]);
    v4.send(&packet(0xa2, b"\x00\x03\x00\x01z")).await;
    assert_eq!(
        v4.read().await,
        Some(Packet {
            first: 0xb0,
            body: vec![0, 3]
        })
    );
    broker.stop().await;
}

#[tokio::test]
async fn properties_and_options_of_mqtt_5_are_kept() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, true, "both").await;
    // No local and retain as published.
    assert_eq!(
        client
            .subscribe(&[("own", 0b100), ("kept", 0b1000), ("plain", 0)])
            .await,
        [0, 0, 0]
    );
    client.publish("own", b"not to me", 0, false).await;
    client.publish("kept", b"flagged", 0, true).await;
    client.publish("plain", b"unflagged", 0, true).await;
    let properties = b"\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01t\x26\x00\x01k\x00\x01v";
    let mut body = b"\x00\x05plain".to_vec();
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend(properties);
    body.extend(b"rich");
    client.send(&packet(0x30, &body)).await;
    let kept = client.receive().await;
    assert_eq!((kept.topic.as_str(), kept.retain), ("kept", true));
    let plain = client.receive().await;
    assert_eq!((plain.topic.as_str(), plain.retain), ("plain", false));
    let rich = client.receive().await;
    assert_eq!(rich.payload, b"rich");
    let text = rich.properties;
    assert!(
        text.starts_with(b"\x01\x01\x03\x00\x01t\x26\x00\x01k\x00\x01v\x02\x00\x00\x00"),
        "{text:?}"
    );
    assert!((58..=60).contains(text.last().unwrap()));
    broker.stop().await;
}

#[tokio::test]
async fn a_client_gets_no_packet_longer_than_it_accepts() {
    let (broker, address) = start(open_config()).await;
    let hello = Hello {
        v5: true,
        client_id: "small",
        properties: &[39, 0, 0, 0, 40],
        ..Hello::default()
    };
    let mut small = Raw::connect(address, &hello).await;
    assert_eq!(small.subscribe(&[("a", 0)]).await, [0]);
    small.publish("a", &[b'x'; 100], 0, false).await;
    small.publish("a", b"short", 0, false).await;
    assert_eq!(small.receive().await.payload, b"short");
    assert_eq!(broker.stats().dropped_oversize, 1);
    broker.stop().await;
}
