//! Messages that wait for a client: what goes first, and what is given up first.

use crate::common::{Hello, Raw, eventually, expiry, open_config, start, with_limits};
use lamppost_broker::{Broker, LinkPublisher, Publish, PublishProperties, QoS};
use std::{net::SocketAddr, time::Duration};

fn staying<'a>(client_id: &'a str, properties: &'a [u8]) -> Hello<'a> {
    Hello {
        v5: true,
        client_id,
        unclean: true,
        properties,
        ..Hello::default()
    }
}

/// Leaves an absent session behind that is subscribed to `filter` at QoS 1.
async fn leave_session(broker: &Broker, address: SocketAddr, client_id: &str, filter: &str) {
    let away = broker.stats().absent_sessions + 1;
    let hour = expiry(3_600);
    let mut client = Raw::connect(address, &staying(client_id, &hour)).await;
    assert_eq!(client.subscribe(&[(filter, 1)]).await, [1]);
    drop(client);
    eventually(broker, "absence", |stats| stats.absent_sessions == away).await;
}

async fn return_to(address: SocketAddr, client_id: &str) -> Raw {
    let hour = expiry(3_600);
    let (client, answer) = Raw::try_connect(address, &staying(client_id, &hour)).await;
    assert_eq!(answer[..2], [1, 0], "the session is there");
    client
}

fn numbered(topic: &str, n: u32, length: usize) -> Publish {
    let mut payload = vec![0; length.max(4)];
    payload[..4].copy_from_slice(&n.to_be_bytes());
    Publish::new(topic, payload).qos(QoS::AtLeastOnce)
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

async fn publish_numbers(publisher: &LinkPublisher, topic: &str, count: u32, length: usize) {
    for n in 0..count {
        publisher.publish(numbered(topic, n, length)).await.unwrap();
    }
}

#[tokio::test]
async fn an_absent_client_loses_the_oldest_over_the_count() {
    let (broker, address) = start(with_limits(|limits| limits.queue_count_max = 5)).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    leave_session(&broker, address, "c", "q").await;
    publish_numbers(&publisher, "q", 8, 4).await;
    eventually(&broker, "three losses", |stats| {
        (stats.queued_messages, stats.dropped_queue) == (5, 3)
    })
    .await;
    let mut client = return_to(address, "c").await;
    for n in 3..8 {
        assert_eq!(number(&client.receive().await.payload), n);
    }
    client.ping().await;
    eventually(&broker, "an empty queue", |stats| {
        (stats.queued_messages, stats.queued_bytes) == (0, 0)
    })
    .await;
    let stats = broker.stats();
    assert_eq!(stats.overrun_disconnects, 0);
    assert_eq!(stats.slow_subscribers, 0, "nobody waits for who is away");
    broker.stop().await;
}

#[tokio::test]
async fn an_absent_client_loses_the_oldest_over_the_bytes() {
    let (broker, address) = start(with_limits(|limits| limits.queue_bytes_max = 10_000)).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    leave_session(&broker, address, "c", "q").await;
    publish_numbers(&publisher, "q", 30, 1_000).await;
    eventually(&broker, "all of them", |stats| {
        stats.queued_messages + stats.dropped_queue == 30
    })
    .await;
    let stats = broker.stats();
    assert!((8_000..=10_000).contains(&stats.queued_bytes), "{stats:?}");
    let kept = u32::try_from(stats.queued_messages).unwrap();
    assert!(kept >= 5, "{stats:?}");
    let mut client = return_to(address, "c").await;
    for n in 30 - kept..30 {
        assert_eq!(number(&client.receive().await.payload), n);
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_full_window_holds_qos_0_not_up_and_order_is_kept() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let hello = staying("c", &[33, 0, 1]);
    let mut client = Raw::connect(address, &hello).await;
    assert_eq!(client.subscribe(&[("q", 2)]).await, [2]);
    for n in 0..6u32 {
        let qos = [QoS::AtLeastOnce, QoS::AtMostOnce, QoS::ExactlyOnce][(n % 3) as usize];
        publisher
            .publish(numbered("q", n, 4).qos(qos))
            .await
            .unwrap();
    }
    let mut numbers = Vec::new();
    let mut awaited = Vec::new();
    for _ in 0..3 {
        let message = client.receive_only().await;
        numbers.push(number(&message.payload));
        if message.qos > 0 {
            awaited.push(message);
        }
    }
    assert_eq!(numbers, [0, 1, 4]);
    client.ping().await;
    // Each that ends lets the next of QoS 1 and 2 go.
    for n in [2, 3, 5] {
        let before = awaited.pop().unwrap();
        if before.qos == 1 {
            client.ack(0x40, before.packet_id).await;
        } else {
            client.ack(0x50, before.packet_id).await;
            assert_eq!(client.expect_ack(0x62, before.packet_id).await, 0);
            client.ack(0x70, before.packet_id).await;
        }
        let next = client.receive_only().await;
        assert_eq!(number(&next.payload), n);
        awaited.push(next);
        client.ping().await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_acknowledges_nothing_is_told_that_it_does_not_keep_pace() {
    let (broker, address) = start(with_limits(|limits| limits.queue_count_max = 10)).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let properties = [&expiry(3_600)[..], &[33, 0, 1]].concat();
    let mut client = Raw::connect(address, &staying("c", &properties)).await;
    assert_eq!(client.subscribe(&[("q", 1)]).await, [1]);
    let first = {
        publisher.publish(numbered("q", 0, 4)).await.unwrap();
        client.receive_only().await
    };
    let mut last = 0;
    while broker.stats().overrun_disconnects == 0 {
        last += 1;
        publisher.publish(numbered("q", last, 4)).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.closed().await, Some(0x97));
    // What is kept are the latest, and the one that is under way.
    eventually(&broker, "all that was published", |stats| {
        stats.queued_messages == 11 && stats.dropped_queue + 10 == u64::from(last)
    })
    .await;
    let mut client = return_to(address, "c").await;
    let again = client.receive().await;
    assert_eq!((again.packet_id, again.dup), (first.packet_id, true));
    for n in last - 9..=last {
        assert_eq!(number(&client.receive().await.payload), n);
    }
    client.ping().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_too_slowly_loses_qos_0_and_nothing_else() {
    const COUNT: u32 = 40;
    let config = with_limits(|limits| limits.write_timeout = Duration::from_mins(10));
    let (broker, address) = start(config).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let mut client = Raw::named(address, true, "slow").await;
    assert_eq!(client.subscribe(&[("big", 0), ("small", 1)]).await, [0, 1]);
    // More than the sockets' buffers hold, so that much has to be given up.
    for n in 0..COUNT {
        publisher.publish(numbered("small", n, 4)).await.unwrap();
        for _ in 0..40 {
            publisher
                .publish(Publish::new("big", vec![b'x'; 20_000]))
                .await
                .unwrap();
        }
    }
    publisher
        .publish(numbered("small", COUNT, 4))
        .await
        .unwrap();
    eventually(&broker, "losses of QoS 0", |stats| {
        stats.dropped_queue_qos0 > 0
    })
    .await;
    let mut next = 0;
    while next <= COUNT {
        let message = client.receive().await;
        if message.topic == "small" {
            assert_eq!(number(&message.payload), next);
            next += 1;
        }
    }
    let stats = broker.stats();
    assert_eq!((stats.overrun_disconnects, stats.slow_disconnects), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn what_expires_while_it_waits_is_dropped_and_the_rest_has_less_time_left() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    leave_session(&broker, address, "c", "q").await;
    for (n, seconds) in [(0, 1), (1, 100), (2, 1)] {
        let properties = PublishProperties {
            message_expiry: Some(Duration::from_secs(seconds)),
            ..PublishProperties::default()
        };
        let message = numbered("q", n, 4).properties(properties);
        publisher.publish(message).await.unwrap();
    }
    eventually(&broker, "two expired", |stats| {
        (stats.expired, stats.queued_messages) == (2, 1)
    })
    .await;
    let mut client = return_to(address, "c").await;
    let left = client.receive().await;
    assert_eq!(number(&left.payload), 1);
    let [2, 0, 0, 0, seconds] = left.properties[..] else {
        panic!("{left:?}")
    };
    assert!((60..100).contains(&seconds), "{seconds}");
    broker.stop().await;
}

#[tokio::test]
async fn what_has_waited_too_long_is_dropped() {
    let config = with_limits(|limits| limits.queue_age_max = Duration::from_secs(1));
    let (broker, address) = start(config).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    leave_session(&broker, address, "c", "q").await;
    publish_numbers(&publisher, "q", 3, 4).await;
    eventually(&broker, "their age", |stats| {
        (stats.dropped_age, stats.queued_messages) == (3, 0)
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn all_queues_together_are_bounded_and_each_has_its_share() {
    const SESSIONS: u32 = 8;
    const TOTAL: usize = 256 * 1_024;
    let config = with_limits(|limits| {
        limits.queue_bytes_total_max = TOTAL;
        limits.clients_max = 8;
        limits.absent_sessions_max = 8;
    });
    let (broker, address) = start(config).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    // The first half has the bytes before the second half is there.
    for half in 0..2u32 {
        for n in 0..SESSIONS / 2 {
            let id = format!("c{}", half * SESSIONS / 2 + n);
            leave_session(&broker, address, &id, "q").await;
        }
        publish_numbers(&publisher, "q", 200, 1_000).await;
        let copies = u64::from(200 * SESSIONS / 2 * (1 + 2 * half));
        eventually(&broker, "all copies", |stats| {
            // A message counts for the moment in which it is decided whether it stays.
            let moment = u64::from(SESSIONS) * 2_000;
            assert!(stats.queued_bytes <= TOTAL as u64 + moment, "{stats:?}");
            stats.queued_messages + stats.dropped_queue == copies
        })
        .await;
    }
    let bytes = broker.stats().queued_bytes;
    assert!(bytes > TOTAL as u64 / 2 && bytes <= TOTAL as u64, "{bytes}");
    for n in 0..SESSIONS {
        let mut client = return_to(address, &format!("c{n}")).await;
        let mut count = 1;
        while number(&client.receive().await.payload) != 199 {
            count += 1;
        }
        assert!(count >= 2, "session {n} has {count}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn large_messages_under_way_are_bounded_too() {
    let (broker, address) = start(with_limits(|limits| limits.queue_bytes_max = 100_000)).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let mut client = Raw::named(address, true, "c").await;
    assert_eq!(client.subscribe(&[("q", 1)]).await, [1]);
    publish_numbers(&publisher, "q", 6, 40_000).await;
    // Three are over the bound together: the window is closed by bytes long before it is by count.
    let mut ids = Vec::new();
    for n in 0..3 {
        let message = client.receive_only().await;
        assert_eq!(number(&message.payload), n);
        ids.push(message.packet_id);
    }
    client.ping().await;
    for n in 3..6 {
        client.ack(0x40, ids.remove(0)).await;
        let message = client.receive_only().await;
        assert_eq!(number(&message.payload), n);
        ids.push(message.packet_id);
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_waited_for_a_member_of_a_group_goes_to_another() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    leave_session(&broker, address, "a", "$share/g/q").await;
    publish_numbers(&publisher, "q", 5, 4).await;
    eventually(&broker, "a queue", |stats| stats.queued_messages == 5).await;
    let mut other = Raw::named(address, true, "b").await;
    assert_eq!(other.subscribe(&[("$share/g/q", 1)]).await, [1]);
    // A new session in its place ends the first one.
    let _client = Raw::named(address, true, "a").await;
    for n in 0..5 {
        assert_eq!(number(&other.receive().await.payload), n);
    }
    let stats = broker.stats();
    assert_eq!((stats.dropped_session_end, stats.shared_dropped), (0, 0));
    broker.stop().await;
}
