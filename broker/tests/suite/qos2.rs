//! QoS 2 to clients and from them, and packet ids that nobody knows.

use crate::common::{Hello, Packet, Raw, expiry, open_config, packet, publish_bytes, start};
use lamppost_broker::{Publish, QoS};

fn once(topic: &str, payload: &'static str) -> Publish {
    Publish::new(topic, payload).qos(QoS::ExactlyOnce)
}

#[tokio::test]
async fn a_delivery_of_qos_2_takes_its_four_packets() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    for v5 in [false, true] {
        let mut client = Raw::named(address, v5, "client").await;
        assert_eq!(client.subscribe(&[("q", 2)]).await, [2]);
        publisher.publish(once("q", "one")).await.unwrap();
        let message = client.receive_only().await;
        assert_eq!((&*message.payload, message.qos), (&b"one"[..], 2));
        let id = message.packet_id;
        client.ack(0x50, id).await;
        assert_eq!(client.expect_ack(0x62, id).await, 0);
        // Asked again, the broker says again what it has said.
        client.ack(0x50, id).await;
        assert_eq!(client.expect_ack(0x62, id).await, 0);
        client.ack(0x70, id).await;
        client.ping().await;
        // From now on the id is unknown, in each direction.
        client.ack(0x50, id).await;
        let code = if v5 { 0x92 } else { 0 };
        assert_eq!(client.expect_ack(0x62, id).await, code);
        client.ack(0x62, 99).await;
        assert_eq!(client.expect_ack(0x70, 99).await, code);
        for unknown in [0x40, 0x70] {
            client.ack(unknown, 99).await;
        }
        client.ping().await;
        assert_eq!(broker.stats().queued_messages, 0);
    }
    broker.stop().await;
}

#[tokio::test]
async fn each_packet_ends_only_what_awaits_it() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let hello = Hello {
        v5: true,
        client_id: "client",
        properties: &[33, 0, 2],
        ..Hello::default()
    };
    let mut client = Raw::connect(address, &hello).await;
    assert_eq!(client.subscribe(&[("q/#", 2)]).await, [2]);
    publisher.publish(once("q/2", "two")).await.unwrap();
    publisher
        .publish(Publish::new("q/1", "one").qos(QoS::AtLeastOnce))
        .await
        .unwrap();
    publisher.publish(once("q/2", "next")).await.unwrap();
    let two = client.receive_only().await.packet_id;
    let one = client.receive_only().await.packet_id;
    // PUBACK for QoS 2, PUBREC and PUBCOMP for QoS 1: nothing ends, so that the window stays full.
    client.ack(0x40, two).await;
    client.ack(0x70, one).await;
    client.ack(0x70, two).await;
    client.ack(0x50, one).await;
    assert_eq!(client.expect_ack(0x62, one).await, 0x92);
    client.ping().await;
    // The window has room after PUBCOMP, not after PUBREC.
    client.ack(0x50, two).await;
    assert_eq!(client.expect_ack(0x62, two).await, 0);
    client.ping().await;
    client.ack(0x70, two).await;
    let next = client.receive_only().await;
    assert_eq!(next.payload, b"next");
    // A PUBREC that refuses ends the delivery without PUBREL.
    let [high, low] = next.packet_id.to_be_bytes();
    client.send(&packet(0x50, &[high, low, 0x83])).await;
    client.ping().await;
    client.ack(0x50, next.packet_id).await;
    assert_eq!(client.expect_ack(0x62, next.packet_id).await, 0x92);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_gets_all_of_it_again_in_order() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    for v5 in [false, true] {
        let properties = if v5 { expiry(1_000) } else { vec![] };
        let hello = Hello {
            v5,
            client_id: if v5 { "five" } else { "four" },
            unclean: true,
            properties: &properties,
            ..Hello::default()
        };
        let mut client = Raw::connect(address, &hello).await;
        assert_eq!(client.subscribe(&[("q", 2)]).await, [2]);
        publisher.publish(once("q", "received")).await.unwrap();
        for payload in ["one", "two"] {
            publisher
                .publish(Publish::new("q", payload).qos(QoS::AtLeastOnce))
                .await
                .unwrap();
        }
        publisher.publish(once("q", "three")).await.unwrap();
        let received = client.receive_only().await;
        assert!(!received.dup);
        let mut rest = Vec::new();
        for _ in 0..3 {
            rest.push(client.receive_only().await);
        }
        client.ack(0x50, received.packet_id).await;
        assert_eq!(client.expect_ack(0x62, received.packet_id).await, 0);
        // Nothing is sent again as long as the connection lasts.
        client.ping().await;
        drop(client);
        // The second time, the client takes one at a time.
        for window in [100u8, 1] {
            let narrow = [&expiry(1_000)[..], &[33, 0, window]].concat();
            let hello = Hello {
                properties: if v5 { &narrow } else { &[] },
                ..hello.clone()
            };
            let mut client = Raw::connect_again(address, &hello).await;
            assert_eq!(client.expect_ack(0x62, received.packet_id).await, 0);
            let at_once = if v5 && window == 1 { 0 } else { 3 };
            for before in rest.iter().take(at_once) {
                let again = client.receive_only().await;
                assert!(again.dup);
                let same = (again.packet_id, &again.payload, again.qos);
                assert_eq!(same, (before.packet_id, &before.payload, before.qos));
            }
            client.ping().await;
            if at_once == 0 {
                client.ack(0x70, received.packet_id).await;
                for before in &rest {
                    let again = client.receive_only().await;
                    assert_eq!((again.packet_id, again.dup), (before.packet_id, true));
                    if again.qos == 1 {
                        client.ack(0x40, again.packet_id).await;
                    }
                }
                client.ping().await;
            }
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_has_begun_to_publish_it_can_end_later() {
    let (broker, address) = start(open_config()).await;
    let mut subscriber = Raw::named(address, false, "subscriber").await;
    assert_eq!(subscriber.subscribe(&[("q", 0)]).await, [0]);
    for v5 in [false, true] {
        let properties = if v5 { expiry(1_000) } else { vec![] };
        let hello = Hello {
            v5,
            client_id: if v5 { "five" } else { "four" },
            unclean: true,
            properties: &properties,
            ..Hello::default()
        };
        let mut publisher = Raw::connect(address, &hello).await;
        let first = publish_bytes(v5, "q", b"once", 2, false, 5);
        publisher.send(&first).await;
        assert_eq!(publisher.expect_ack(0x50, 5).await, 0);
        assert_eq!(subscriber.receive().await.payload, b"once");
        drop(publisher);
        let mut publisher = Raw::connect_again(address, &hello).await;
        publisher.send(&[&[0x3c], &first[1..]].concat()).await;
        assert_eq!(publisher.expect_ack(0x50, 5).await, 0);
        publisher.ack(0x62, 5).await;
        assert_eq!(publisher.expect_ack(0x70, 5).await, 0);
        // The id is free for another message.
        publisher
            .send(&publish_bytes(v5, "q", b"other", 2, false, 5))
            .await;
        assert_eq!(publisher.expect_ack(0x50, 5).await, 0);
        assert_eq!(subscriber.receive().await.payload, b"other");
    }
    broker.stop().await;
}

#[tokio::test]
async fn more_qos_2_publications_than_announced_end_the_connection() {
    let (broker, address) = start(open_config()).await;
    let mut publisher = Raw::named(address, true, "publisher").await;
    for id in 1..=1_024 {
        publisher
            .send(&publish_bytes(true, "q", b"x", 2, false, id))
            .await;
        assert_eq!(publisher.expect_ack(0x50, id).await, 0x10);
    }
    // One that is released makes room for one.
    publisher.ack(0x62, 7).await;
    assert_eq!(publisher.expect_ack(0x70, 7).await, 0);
    for id in 2_000..2_002 {
        publisher
            .send(&publish_bytes(true, "q", b"x", 2, false, id))
            .await;
    }
    assert_eq!(
        publisher.read().await,
        Some(Packet {
            first: 0x50,
            body: vec![0x07, 0xd0, 0x10]
        })
    );
    assert_eq!(publisher.closed().await, Some(0x93));
    broker.stop().await;
}
