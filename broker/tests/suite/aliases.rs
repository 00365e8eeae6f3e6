//! Topic aliases, in both directions.

use crate::common::{Hello, Raw, expiry, open_config, publish_with, start, told};

/// An MQTT 5 client with these properties in its CONNECT.
fn client<'a>(client_id: &'a str, properties: &'a [u8]) -> Hello<'a> {
    Hello {
        v5: true,
        client_id,
        unclean: true,
        properties,
        ..Hello::default()
    }
}

#[tokio::test]
async fn a_clients_alias_stands_for_its_last_topic() {
    let (broker, address) = start(open_config()).await;
    let mut subscriber = Raw::named(address, false, "subscriber").await;
    assert_eq!(subscriber.subscribe(&[("#", 2)]).await, [2]);
    let (mut publisher, answer) = Raw::try_connect(address, &client("publisher", &[])).await;
    assert_eq!(told(&answer, 34), Some(32));
    let alias = |number: u8| [0x23, 0, number];
    for (topic, number, wanted) in [
        ("a", 1, "a"),
        ("", 1, "a"),
        ("b", 32, "b"),
        ("", 32, "b"),
        ("c", 1, "c"),
        ("", 1, "c"),
        ("", 32, "b"),
    ] {
        let bytes = publish_with(topic, &alias(number), b"x", 0, 0);
        publisher.send(&bytes).await;
        let received = subscriber.receive().await;
        assert_eq!((&*received.topic, &*received.payload), (wanted, &b"x"[..]));
    }
    // A repetition is not published again, and its alias counts all the same.
    for topic in ["d", "e"] {
        publisher
            .send(&publish_with(topic, &alias(1), b"once", 2, 7))
            .await;
        assert_eq!(publisher.expect_ack(0x50, 7).await, 0);
    }
    publisher
        .send(&publish_with("", &alias(1), b"after", 0, 0))
        .await;
    assert_eq!(subscriber.receive().await.topic, "d");
    assert_eq!(subscriber.receive().await.topic, "e");
    broker.stop().await;
}

#[tokio::test]
async fn an_alias_that_stands_for_nothing_ends_the_connection() {
    let (broker, address) = start(open_config()).await;
    let kept = expiry(1_000);
    for (what, topic, number, code) in [
        ("0", "a", Some(0), 0x94),
        ("over the maximum", "a", Some(33), 0x94),
        ("not given", "", Some(2), 0x82),
        ("none, and no topic", "", None, 0x82),
    ] {
        // What an earlier connection of the same session gave is forgotten.
        let mut before = Raw::connect_again(address, &client("publisher", &kept)).await;
        before
            .send(&publish_with("known", &[0x23, 0, 2], b"x", 1, 5))
            .await;
        assert_eq!(before.expect_ack(0x40, 5).await, 0x10);
        let mut publisher = Raw::connect_again(address, &client("publisher", &kept)).await;
        let properties = number.map_or(vec![], |number| vec![0x23, 0, number]);
        publisher
            .send(&publish_with(topic, &properties, b"x", 0, 0))
            .await;
        assert_eq!(publisher.closed().await, Some(code), "{what}");
    }
    // Aliases for more topic bytes than one connection may have remembered.
    let mut greedy = Raw::named(address, true, "greedy").await;
    let long = "x".repeat(60_000);
    for number in 1..=2 {
        greedy
            .send(&publish_with(&long, &[0x23, 0, number], b"x", 0, 0))
            .await;
        if number == 1 {
            greedy.ping().await;
        }
        // The same topic again takes the same bytes again.
    }
    assert_eq!(greedy.closed().await, Some(0x97));
    assert_eq!(broker.stats().protocol_errors, 5);
    broker.stop().await;
}

#[tokio::test]
async fn the_broker_gives_aliases_to_the_first_topics() {
    let (broker, address) = start(open_config()).await;
    let kept = [&[34, 0, 2], &expiry(1_000)[..]].concat();
    let mut first = Raw::connect_again(address, &client("subscriber", &kept)).await;
    assert_eq!(first.subscribe(&[("#", 2)]).await, [2]);
    let mut publisher = Raw::named(address, true, "publisher").await;
    let alias = |number: u8| vec![0x23, 0, number];
    let mut unacknowledged = Vec::new();
    for (topic, qos, sent, properties) in [
        ("a", 0, "a", alias(1)),
        ("a", 1, "", alias(1)),
        ("b", 2, "b", alias(2)),
        ("c", 1, "c", vec![]),
        ("b", 0, "", alias(2)),
        ("a", 1, "", alias(1)),
        ("c", 0, "c", vec![]),
    ] {
        publisher.publish(topic, b"x", qos, false).await;
        if qos > 0 {
            let _answer = publisher.read().await.unwrap();
        }
        let received = first.receive_only().await;
        assert_eq!(
            (&*received.topic, received.qos, &received.properties),
            (sent, qos, &properties)
        );
        if qos > 0 {
            unacknowledged.push((topic, qos));
        }
    }
    // Over a new connection, everything is named anew; this client wants one alias.
    let one = [&[34, 0, 1], &expiry(1_000)[..]].concat();
    let mut second = Raw::connect_again(address, &client("subscriber", &one)).await;
    let mut known = false;
    for (topic, qos) in unacknowledged {
        let received = second.receive_only().await;
        let aliased = topic == "a";
        let wanted = if aliased && known { "" } else { topic };
        known |= aliased;
        let properties = if aliased { alias(1) } else { vec![] };
        assert_eq!(
            (&*received.topic, received.qos, received.dup),
            (wanted, qos, true)
        );
        assert_eq!(received.properties, properties);
    }
    // A client that does not say wants none.
    let none = expiry(1_000);
    let mut third = Raw::connect_again(address, &client("subscriber", &none)).await;
    for topic in ["a", "b", "c", "a"] {
        let received = third.receive_only().await;
        assert_eq!((&*received.topic, received.properties.len()), (topic, 0));
    }
    broker.stop().await;
}
