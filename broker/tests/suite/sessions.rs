//! The life of a connection: keep-alive, takeover, last will, slow subscribers.

use crate::common::{Hello, Raw, eventually, in_time, open_config, start, with_limits};
use lamppost_broker::{Publish, QoS};
use std::time::{Duration, Instant};

#[tokio::test]
async fn silence_beyond_the_keep_alive_ends_a_connection() {
    let (broker, address) = start(open_config()).await;
    let mut forever = Raw::named(address, false, "forever").await;
    let since = Instant::now();
    for (v5, code) in [(false, None), (true, Some(0x8d))] {
        let hello = Hello {
            v5,
            client_id: "silent",
            keep_alive_s: 1,
            ..Hello::default()
        };
        let mut silent = Raw::connect(address, &hello).await;
        assert_eq!(silent.closed().await, code);
    }
    assert!(
        since.elapsed() >= Duration::from_secs(3),
        "not before one and a half times the keep-alive"
    );
    assert_eq!(broker.stats().keep_alive_timeouts, 2);
    // A keep-alive of 0 is none at all.
    forever.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn the_later_client_takes_the_id_over() {
    let (broker, address) = start(open_config()).await;
    let (_, mut receiver) = broker.link("watch").unwrap().split();
    receiver.subscribe("gone/#", QoS::AtMostOnce).await.unwrap();
    for (v5, code) in [(false, None), (true, Some(0x8e))] {
        let will = Some(("gone/first", "taken over", 0, true));
        let mut first = Raw::connect(
            address,
            &Hello {
                v5,
                client_id: "same",
                will,
                ..Hello::default()
            },
        )
        .await;
        let mut second = Raw::named(address, v5, "same").await;
        // The will of the first comes before anything of the second, so that a status is not undone.
        assert_eq!(second.publish_acked("gone/first", b"back", true).await, 0);
        assert_eq!(first.closed().await, code);
        second.ping().await;
        for payload in ["taken over", "back"] {
            assert_eq!(receiver.recv().await.unwrap().payload, payload);
        }
        second.send(&[0xe0, 0]).await;
        assert_eq!(second.closed().await, None);
        eventually(&broker, "both gone", |stats| stats.clients == 0).await;
    }
    assert_eq!(broker.stats().takeovers, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_takes_leave() {
    let (broker, address) = start(open_config()).await;
    let (_, mut receiver) = broker.link("watch").unwrap().split();
    receiver
        .subscribe("will/#", QoS::AtLeastOnce)
        .await
        .unwrap();
    for v5 in [false, true] {
        let hello = |topic| Hello {
            v5,
            client_id: topic,
            will: Some((topic, "down", 1, true)),
            ..Hello::default()
        };
        let mut polite = Raw::connect(address, &hello("will/polite")).await;
        polite.send(&[0xe0, 0]).await;
        assert_eq!(polite.closed().await, None);
        drop(Raw::connect(address, &hello("will/lost")).await);
        let mut rude = Raw::connect(address, &hello("will/rude")).await;
        rude.send(&[0xf0, 0]).await;
        rude.closed().await;
        let mut topics = Vec::new();
        for _ in 0..2 {
            let message = receiver.recv().await.unwrap();
            assert_eq!(
                (&message.payload[..], message.qos, message.retain),
                (&b"down"[..], QoS::AtLeastOnce, false)
            );
            topics.push(message.topic.to_string());
        }
        topics.sort();
        assert_eq!(topics, ["will/lost", "will/rude"]);
        // Being retained, the will waits for whoever asks later.
        let mut late = Raw::named(address, v5, "late").await;
        assert_eq!(late.subscribe(&[("will/lost", 0)]).await, [0]);
        assert!(late.receive().await.retain);
    }
    assert_eq!(broker.stats().wills, 4);
    broker.stop().await;
}

#[tokio::test]
async fn a_will_asked_for_on_leaving_is_published() {
    let (broker, address) = start(open_config()).await;
    let (_, mut receiver) = broker.link("watch").unwrap().split();
    receiver.subscribe("will", QoS::AtMostOnce).await.unwrap();
    let hello = Hello {
        v5: true,
        client_id: "c",
        will: Some(("will", "as asked", 0, false)),
        ..Hello::default()
    };
    let mut client = Raw::connect(address, &hello).await;
    client.send(&[0xe0, 1, 4]).await;
    assert_eq!(receiver.recv().await.unwrap().payload, "as asked");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_disconnected_and_others_are_served() {
    const COUNT: u32 = 400;
    let config = with_limits(|limits| limits.write_timeout = Duration::from_millis(300));
    let (broker, address) = start(config).await;
    let mut stuck = Raw::named(address, false, "stuck").await;
    assert_eq!(stuck.subscribe(&[("flood", 0)]).await, [0]);
    let (publisher, mut receiver) = broker.link("fast").unwrap().split();
    receiver.subscribe("flood", QoS::AtMostOnce).await.unwrap();
    // More than the sockets' buffers hold, which the system lets grow to some megabytes.
    let flood = tokio::spawn(async move {
        for n in 0..COUNT {
            let mut payload = vec![0; 100_000];
            payload[..4].copy_from_slice(&n.to_be_bytes());
            publisher
                .publish(Publish::new("flood", payload))
                .await
                .unwrap();
        }
    });
    for n in 0..COUNT {
        let message = in_time("the fast subscriber", receiver.recv())
            .await
            .unwrap();
        assert_eq!(message.payload[..4], n.to_be_bytes());
    }
    flood.await.unwrap();
    eventually(&broker, "the end of the stuck client", |stats| {
        stats.slow_disconnects == 1
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_reaches_a_subscriber_that_keeps_pace_without_a_gap() {
    const COUNT: u32 = 20_000;
    let (broker, address) = start(open_config()).await;
    for qos in [0u8, 1] {
        let mut subscriber = Raw::named(address, false, "subscriber").await;
        assert_eq!(subscriber.subscribe(&[("flood/#", qos)]).await, [qos]);
        let publisher = tokio::spawn(async move {
            let mut publisher = Raw::named(address, false, "publisher").await;
            for n in 0..COUNT {
                let id = u16::try_from(n % 60_000).unwrap() + 1;
                let bytes = crate::common::publish_bytes(
                    false,
                    "flood/x",
                    &n.to_be_bytes(),
                    qos,
                    false,
                    id,
                );
                publisher.send(&bytes).await;
                if qos == 1 && n % 64 == 63 {
                    for _ in 0..64 {
                        assert_eq!(publisher.read().await.unwrap().first, 0x40);
                    }
                }
            }
            publisher
        });
        for n in 0..COUNT {
            assert_eq!(subscriber.receive().await.payload, n.to_be_bytes());
        }
        publisher.await.unwrap();
        eventually(&broker, "both gone", |stats| stats.clients <= 1).await;
    }
    assert_eq!(broker.stats().lost_slow_subscriber, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_acknowledges_nothing_gets_its_window_and_no_more() {
    let (broker, address) = start(open_config()).await;
    let hello = Hello {
        v5: true,
        client_id: "window",
        properties: &[33, 0, 3],
        ..Hello::default()
    };
    let mut client = Raw::connect(address, &hello).await;
    assert_eq!(client.subscribe(&[("q", 1)]).await, [1]);
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    publisher
        .publish_many((0..10u8).map(|n| Publish::new("q", vec![n]).qos(QoS::AtLeastOnce)))
        .await
        .unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let packet = client.read().await.unwrap();
        assert_eq!(packet.first, 0x32);
        ids.push([packet.body[3], packet.body[4]]);
    }
    client.ping().await;
    // Acknowledged out of order, each makes room for one more.
    for id in ids.into_iter().rev() {
        client.send(&[&[0x40, 2], &id[..]].concat()).await;
        assert_eq!(client.read().await.unwrap().first, 0x32);
    }
    client.ping().await;
    broker.stop().await;
}
