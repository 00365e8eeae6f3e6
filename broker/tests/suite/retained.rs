//! Retained messages over the wire.

use crate::common::{Raw, open_config, start, with_limits};
use lamppost_broker::{Publish, PublishProperties, QoS};
use std::{collections::HashSet, time::Duration};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_reach_a_new_subscriber() {
    let (broker, address) = start(open_config()).await;
    let (publisher, mut receiver) = broker.link("filler").unwrap().split();
    let all = (0..10_000).map(|n| {
        Publish::new(format!("r/{n}"), format!("value {n}"))
            .qos(QoS::AtLeastOnce)
            .retained()
    });
    publisher.publish_many(all).await.unwrap();
    assert_eq!(broker.stats().retained_count, 10_000);
    for (v5, qos) in [(false, 0), (true, 1)] {
        let mut late = Raw::named(address, v5, "late").await;
        assert_eq!(
            late.subscribe(&[("r/+", qos)]).await,
            [qos],
            "SUBACK comes first"
        );
        let mut seen = HashSet::new();
        while seen.len() < 10_000 {
            let message = late.receive().await;
            assert!(message.retain && message.qos == qos, "{message:?}");
            assert_eq!(
                message.payload,
                format!("value {}", &message.topic[2..]).into_bytes()
            );
            assert!(seen.insert(message.topic), "twice");
        }
    }
    receiver.subscribe("#", QoS::AtMostOnce).await.unwrap();
    let mut batch = Vec::new();
    while batch.len() < 10_000 {
        assert!(receiver.recv_many(&mut batch, 512).await > 0);
    }
    assert!(
        batch
            .iter()
            .all(|message| message.retain && message.qos == QoS::AtMostOnce)
    );
    broker.stop().await;
}

#[tokio::test]
async fn live_messages_carry_no_flag_and_empty_ones_clear() {
    let (broker, address) = start(open_config()).await;
    for v5 in [false, true] {
        let mut client = Raw::named(address, v5, "client").await;
        assert_eq!(client.subscribe(&[("r", 1)]).await, [1]);
        client.publish("r", b"one", 0, true).await;
        let live = client.receive().await;
        assert_eq!(
            (&live.payload[..], live.retain, live.qos),
            (&b"one"[..], false, 0)
        );
        // Subscribing again brings the kept one again.
        assert_eq!(client.subscribe(&[("r", 1)]).await, [1]);
        let kept = client.receive().await;
        assert_eq!(
            (&kept.payload[..], kept.retain, kept.qos),
            (&b"one"[..], true, 0)
        );
        client.publish("r", b"", 0, true).await;
        assert!(
            client.receive().await.payload.is_empty(),
            "the clearing message itself is delivered"
        );
        assert_eq!(client.subscribe(&[("r", 1)]).await, [1]);
        client.ping().await;
        assert_eq!(broker.stats().retained_count, 0);
    }
    broker.stop().await;
}

#[tokio::test]
async fn retain_handling_of_mqtt_5() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, true, "client").await;
    client.publish("r", b"kept", 0, true).await;
    assert_eq!(client.subscribe(&[("r", 0x20)]).await, [0]);
    client.ping().await;
    assert_eq!(client.subscribe(&[("r", 0x10)]).await, [0]);
    client.ping().await;
    assert_eq!(client.subscribe(&[("+", 0x10)]).await, [0]);
    assert!(client.receive().await.retain);
    broker.stop().await;
}

#[tokio::test]
async fn a_full_store_delivers_and_does_not_keep() {
    let (broker, address) = start(with_limits(|limits| limits.retained_count_max = 1)).await;
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("#", 0)]).await, [0]);
    client.publish("a", b"1", 0, true).await;
    client.publish("b", b"2", 0, true).await;
    assert_eq!(client.receive().await.topic, "a");
    assert_eq!(client.receive().await.topic, "b");
    let stats = broker.stats();
    assert_eq!((stats.retained_count, stats.retained_refused), (1, 1));
    broker.stop().await;
}

#[tokio::test]
async fn an_expired_message_is_not_delivered() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let expiring = |topic: &str, seconds| {
        let message_expiry = Some(Duration::from_secs(seconds));
        let properties = PublishProperties {
            message_expiry,
            ..PublishProperties::default()
        };
        Publish::new(topic, "x").retained().properties(properties)
    };
    publisher
        .publish_many([expiring("r/gone", 0), expiring("r/stays", 600)])
        .await
        .unwrap();
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("r/#", 0)]).await, [0]);
    let message = client.receive().await;
    assert_eq!(message.topic, "r/stays");
    assert_eq!(message.properties[..3], [2, 0, 0]);
    client.ping().await;
    broker.stop().await;
}
