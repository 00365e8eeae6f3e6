//! Links inside the process.

use crate::common::{DEADLINE, Raw, eventually, in_time, open_config, start, with_limits};
use lamppost_broker::{Broker, Config, LinkError, Publish, PublishProperties, QoS};

#[tokio::test]
async fn properties_reach_links_and_clients() {
    let (broker, address) = start(open_config()).await;
    let (publisher, mut receiver) = broker.link("own").unwrap().split();
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("p/#", 1)]).await, [1]);
    receiver.subscribe("p/+", QoS::AtLeastOnce).await.unwrap();
    let properties = PublishProperties {
        content_type: Some("application/json".into()),
        payload_is_utf8: true,
        user_properties: vec![("ce-id".into(), "7".into())],
        response_topic: Some("answers".into()),
        correlation_data: Some("42".into()),
        message_expiry: None,
    };
    publisher
        .publish(
            Publish::new("p/1", "{}")
                .qos(QoS::AtLeastOnce)
                .properties(properties.clone()),
        )
        .await
        .unwrap();
    let message = receiver.recv().await.unwrap();
    assert_eq!(
        (&*message.topic, message.qos, message.retain),
        ("p/1", QoS::AtLeastOnce, false)
    );
    assert_eq!(message.properties(), properties);
    let wire = client.receive().await;
    assert!(
        wire.properties
            .starts_with(b"\x01\x01\x03\x00\x10application/json"),
        "{wire:?}"
    );
    // And from a client to a link.
    client
        .send(&crate::common::packet(
            0x30,
            b"\x00\x03p/2\x09\x08\x00\x01a\x09\x00\x02idx",
        ))
        .await;
    let message = receiver.recv().await.unwrap();
    assert_eq!(message.payload, "x");
    assert_eq!(message.properties().response_topic.as_deref(), Some("a"));
    assert_eq!(
        message.properties().correlation_data.as_deref(),
        Some(&b"id"[..])
    );
    broker.stop().await;
}

#[tokio::test]
async fn the_quality_of_service_is_the_lesser_of_both() {
    let (broker, _) = start(open_config()).await;
    let (publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("high", QoS::ExactlyOnce).await.unwrap();
    receiver.subscribe("low", QoS::AtMostOnce).await.unwrap();
    for (topic, sent, got) in [
        ("high", QoS::AtMostOnce, QoS::AtMostOnce),
        ("high", QoS::ExactlyOnce, QoS::ExactlyOnce),
        ("low", QoS::AtLeastOnce, QoS::AtMostOnce),
    ] {
        publisher
            .publish(Publish::new(topic, "x").qos(sent))
            .await
            .unwrap();
        assert_eq!(receiver.recv().await.unwrap().qos, got);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_many_holds_back_for_a_receiver_that_keeps_pace() {
    const COUNT: usize = 200_000;
    let (broker, _) = start(open_config()).await;
    let (publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("n/#", QoS::AtMostOnce).await.unwrap();
    let sending = tokio::spawn(async move {
        publisher
            .publish_many((0..COUNT).map(|n| Publish::new(format!("n/{}", n % 7), n.to_string())))
            .await
    });
    let mut batch = Vec::new();
    let mut next = 0;
    while next < COUNT {
        batch.clear();
        assert!(in_time("receiving", receiver.recv_many(&mut batch, 256)).await > 0);
        for message in &batch {
            assert_eq!(message.payload, next.to_string());
            assert_eq!(*message.topic, format!("n/{}", next % 7));
            next += 1;
        }
    }
    sending.await.unwrap().unwrap();
    assert_eq!(broker.stats().lost_slow_subscriber, 0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_reads_loses_messages_and_holds_nobody_for_long() {
    const COUNT: usize = 20_000;
    let (broker, _) = start(open_config()).await;
    let (publisher, mut idle) = broker.link("idle").unwrap().split();
    idle.subscribe("n", QoS::AtLeastOnce).await.unwrap();
    let payload = "x".repeat(200);
    let all = (0..COUNT).map(|_| Publish::new("n", payload.clone()).qos(QoS::AtLeastOnce));
    in_time("publishing", publisher.publish_many(all))
        .await
        .unwrap();
    // A message on a second filter marks the end: the first one's remainder lies before it.
    let mut received = 0;
    let mut batch = Vec::new();
    loop {
        batch.clear();
        match tokio::time::timeout(DEADLINE, idle.recv_many(&mut batch, 1_000)).await {
            Ok(count) if count > 0 => received += count as u64,
            other => panic!("{other:?} after {received}"),
        }
        if received + broker.stats().lost_slow_subscriber >= COUNT as u64 {
            break;
        }
    }
    assert_eq!(received + broker.stats().lost_slow_subscriber, COUNT as u64);
    assert!(broker.stats().lost_slow_subscriber > 0);
    broker.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let config = with_limits(|limits| {
        limits.payload_bytes_max = 10;
        limits.filters_max = 1;
        limits.links_max = 2;
    });
    let (broker, _) = start(config).await;
    let (publisher, mut receiver) = broker.link("own").unwrap().split();
    assert!(matches!(
        broker.link("second"),
        Err(LinkError::TooManyLinks(2))
    ));
    for topic in ["", "a/+", "#"] {
        let error = publisher
            .publish(Publish::new(topic, "x"))
            .await
            .unwrap_err();
        assert!(matches!(error, LinkError::InvalidTopic(_)), "{error}");
    }
    let error = publisher
        .publish(Publish::new("a", "12345678901"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            LinkError::PayloadTooLarge {
                size: 11,
                limit: 10
            }
        ),
        "{error}"
    );
    let long = PublishProperties {
        content_type: Some("x".repeat(70_000)),
        ..PublishProperties::default()
    };
    let error = publisher
        .publish(Publish::new("a", "").properties(long))
        .await
        .unwrap_err();
    assert!(
        matches!(error, LinkError::PropertyTooLarge { size: 70_000 }),
        "{error}"
    );
    assert!(matches!(
        receiver.subscribe("a#", QoS::AtMostOnce).await,
        Err(LinkError::InvalidFilter(_))
    ));
    receiver.subscribe("a", QoS::AtMostOnce).await.unwrap();
    assert!(matches!(
        receiver.subscribe("b", QoS::AtMostOnce).await,
        Err(LinkError::TooManyFilters(_))
    ));
    assert!(receiver.unsubscribe("a").unwrap() && !receiver.unsubscribe("a").unwrap());
    receiver.subscribe("b", QoS::AtMostOnce).await.unwrap();
    drop((publisher, receiver));
    let since = std::time::Instant::now();
    while broker.link("third").is_err() {
        assert!(since.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_stopped_broker_ends_its_links() {
    let broker = Broker::start(Config {
        listen: None,
        ..open_config()
    })
    .await
    .unwrap();
    assert_eq!(broker.local_addr(), None);
    let (publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("a", QoS::AtMostOnce).await.unwrap();
    let waiting = tokio::spawn(async move { receiver.recv().await });
    broker.stop().await;
    assert_eq!(in_time("the end", waiting).await.unwrap(), None);
    assert!(matches!(
        publisher.publish(Publish::new("a", "x")).await,
        Err(LinkError::Stopped)
    ));
}

#[tokio::test]
async fn filters_that_come_and_go_leave_nothing_behind() {
    let (broker, address) = start(with_limits(|limits| limits.filters_max = 3)).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    for round in 0..200 {
        let mut client = Raw::named(address, round % 2 == 0, "client").await;
        let filters: Vec<String> = (0..3).map(|n| format!("round/{round}/{n}")).collect();
        let wanted: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
        assert_eq!(client.subscribe(&wanted).await, [0, 0, 0]);
        // A log that was lent to another filter before brings nothing of it.
        let stale = format!("round/{}/0", round - 1);
        publisher
            .publish_many([
                Publish::new(stale, "stale"),
                Publish::new(filters[1].as_str(), "fresh"),
            ])
            .await
            .unwrap();
        assert_eq!(client.receive().await.payload, b"fresh");
        client.send(&[0xe0, 0]).await;
        eventually(&broker, "its end", |stats| stats.clients == 0).await;
    }
    assert_eq!(broker.stats().links_abandoned, 0);
    broker.stop().await;
}
