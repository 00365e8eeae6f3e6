//! Sessions that outlive their connections: kept, gone on with, taken over, ended.

use crate::common::{
    Hello, Raw, eventually, expiry, in_time, open_config, start, told, with_limits,
};
use lamppost_broker::{Config, LinkPublisher, Publish, QoS, User};
use std::time::Duration;

/// A client that wants its session kept: by its expiry in MQTT 5, by clean session 0 in 3.1.1.
fn staying<'a>(v5: bool, client_id: &'a str, properties: &'a [u8]) -> Hello<'a> {
    Hello {
        v5,
        client_id,
        unclean: true,
        properties: if v5 { properties } else { &[] },
        ..Hello::default()
    }
}

async fn publish(publisher: &LinkPublisher, topic: &str, payload: &str, qos: QoS) {
    let message = Publish::new(topic, payload.to_owned()).qos(qos);
    publisher.publish(message).await.unwrap();
}

/// Whether the answer to a CONNECT says that there was a session.
fn is_present(answer: &[u8]) -> bool {
    assert_eq!(answer[1], 0, "CONNACK");
    answer[0] == 1
}

#[tokio::test]
async fn a_client_that_comes_back_finds_subscriptions_and_messages() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let hour = expiry(3_600);
    for v5 in [false, true] {
        let id = if v5 { "five" } else { "four" };
        let hello = staying(v5, id, &hour);
        let (mut client, answer) = Raw::try_connect(address, &hello).await;
        assert!(!is_present(&answer));
        assert_eq!(client.subscribe(&[("q/+", 2)]).await, [2]);
        drop(client);
        eventually(&broker, "the client's absence", |stats| {
            let all = 1 + u64::from(v5);
            (stats.clients, stats.absent_sessions, stats.sessions) == (0, all, all)
        })
        .await;
        for n in 0..3 {
            publish(&publisher, "q/0", "lost", QoS::AtMostOnce).await;
            publish(&publisher, "q/1", &format!("one {n}"), QoS::AtLeastOnce).await;
            publish(&publisher, "q/2", &format!("two {n}"), QoS::ExactlyOnce).await;
        }
        eventually(&broker, "queued messages", |stats| {
            stats.queued_messages == 6 && stats.queued_bytes > 0
        })
        .await;
        let (mut client, answer) = Raw::try_connect(address, &hello).await;
        assert!(is_present(&answer));
        for n in 0..3 {
            let (one, two) = (client.receive().await, client.receive().await);
            assert_eq!(one.payload, format!("one {n}").as_bytes());
            assert_eq!(two.payload, format!("two {n}").as_bytes());
            assert_eq!((one.qos, one.dup, two.qos, two.dup), (1, false, 2, false));
        }
        publish(&publisher, "q/0", "live", QoS::AtMostOnce).await;
        assert_eq!(client.receive().await.payload, b"live");
        // Without a clean start it is ended by one with.
        let hello = Hello {
            unclean: false,
            ..hello
        };
        let (mut client, answer) = Raw::try_connect(address, &hello).await;
        assert!(!is_present(&answer));
        publish(&publisher, "q/0", "nobody's", QoS::AtMostOnce).await;
        client.ping().await;
        client.send(&[0xe0, 0]).await;
        client.closed().await;
        // A DISCONNECT without an expiry leaves the session of MQTT 5 as it was.
        let mut hello = staying(v5, id, &[]);
        hello.properties = &[];
        let (_client, answer) = Raw::try_connect(address, &hello).await;
        assert_eq!(is_present(&answer), v5);
    }
    let stats = broker.stats();
    assert_eq!(stats.dropped_absent_qos0, 6);
    assert_eq!(stats.sessions_resumed, 3);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_connection_if_the_client_says_nothing_else() {
    let (broker, address) = start(open_config()).await;
    for (v5, unclean) in [(false, false), (true, false), (true, true)] {
        for _ in 0..2 {
            let hello = Hello {
                unclean,
                ..staying(v5, "brief", &[])
            };
            let (mut client, answer) = Raw::try_connect(address, &hello).await;
            assert!(!is_present(&answer));
            if v5 {
                assert_eq!(told(&answer, 17), None, "it is what the client asked for");
            }
            client.send(&[0xe0, 0]).await;
            client.closed().await;
            eventually(&broker, "its end", |stats| stats.sessions == 0).await;
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_session_expires_and_its_messages_are_counted() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let second = expiry(1);
    let hello = staying(true, "short", &second);
    let mut client = Raw::connect(address, &hello).await;
    assert_eq!(client.subscribe(&[("q", 1)]).await, [1]);
    drop(client);
    eventually(&broker, "absence", |stats| stats.absent_sessions == 1).await;
    publish(&publisher, "q", "late", QoS::AtLeastOnce).await;
    eventually(&broker, "expiry", |stats| {
        (stats.sessions, stats.sessions_expired) == (0, 1)
    })
    .await;
    eventually(&broker, "the end of its queue", |stats| {
        (stats.queued_messages, stats.queued_bytes) == (0, 0) && stats.dropped_session_end == 1
    })
    .await;
    let (_client, answer) = Raw::try_connect(address, &hello).await;
    assert!(!is_present(&answer));
    broker.stop().await;
}

#[tokio::test]
async fn the_longest_expiry_is_told_and_holds() {
    let config = with_limits(|limits| limits.session_expiry_max = Duration::from_secs(1));
    let (broker, address) = start(config).await;
    for (asked, wanted) in [(0, None), (1, None), (2, Some(1)), (u32::MAX, Some(1))] {
        let properties = expiry(asked);
        let (_client, answer) = Raw::try_connect(address, &staying(true, "c", &properties)).await;
        assert_eq!(told(&answer, 17), wanted, "{asked}");
    }
    // One of MQTT 3.1.1 asks for ever.
    drop(Raw::connect(address, &staying(false, "four", &[])).await);
    eventually(&broker, "the expiry of both", |stats| {
        stats.sessions_expired == 2 && stats.sessions == 0
    })
    .await;
    broker.stop().await;
    // With no room for absent sessions at all, none is promised.
    let (broker, address) = start(with_limits(|limits| limits.absent_sessions_max = 0)).await;
    let properties = expiry(60);
    let (_client, answer) = Raw::try_connect(address, &staying(true, "c", &properties)).await;
    assert_eq!(told(&answer, 17), Some(0));
    broker.stop().await;
}

#[tokio::test]
async fn a_client_changes_its_expiry_as_it_leaves() {
    let (broker, address) = start(open_config()).await;
    for (at_first, at_last, code, present) in [
        (0, 60, Some(0x82), false),
        (60, 0, None, false),
        (1, 3_600, None, true),
        (60, 60, None, true),
    ] {
        let properties = expiry(at_first);
        let hello = staying(true, "c", &properties);
        let mut client = Raw::connect(address, &hello).await;
        let goodbye = [&[0xe0, 7, 0, 5], &expiry(at_last)[..]].concat();
        client.send(&goodbye).await;
        assert_eq!(client.closed().await, code);
        eventually(&broker, "its absence", |stats| stats.clients == 0).await;
        let (mut client, answer) = Raw::try_connect(address, &hello).await;
        assert_eq!(is_present(&answer), present, "{at_first} {at_last}");
        // Nothing is left for the next case.
        client.send(&[0xe0, 7, 0, 5, 17, 0, 0, 0, 0]).await;
        client.closed().await;
        eventually(&broker, "its end", |stats| stats.sessions == 0).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn one_absent_session_too_many_ends_the_oldest() {
    let (broker, address) = start(with_limits(|limits| limits.absent_sessions_max = 2)).await;
    let hour = expiry(3_600);
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        drop(Raw::connect(address, &staying(true, id, &hour)).await);
        let away = u64::try_from(n + 1).unwrap().min(2);
        eventually(&broker, "absence", |stats| {
            stats.absent_sessions == away && stats.clients == 0
        })
        .await;
    }
    eventually(&broker, "one end", |stats| {
        (stats.sessions, stats.sessions_evicted) == (2, 1)
    })
    .await;
    for (id, present) in [("c", true), ("b", true), ("a", false)] {
        let (client, answer) = Raw::try_connect(address, &staying(true, id, &hour)).await;
        assert_eq!(is_present(&answer), present, "{id}");
        std::mem::forget(client);
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_connection_takes_a_session_over_with_what_was_under_way() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let hour = expiry(3_600);
    for v5 in [false, true] {
        let id = if v5 { "five" } else { "four" };
        let hello = staying(v5, id, &hour);
        let mut first = Raw::connect(address, &hello).await;
        assert_eq!(first.subscribe(&[("q", 1)]).await, [1]);
        publish(&publisher, "q", "under way", QoS::AtLeastOnce).await;
        let before = first.receive_only().await;
        let (mut second, answer) = Raw::try_connect(address, &hello).await;
        assert!(is_present(&answer));
        assert_eq!(first.closed().await, v5.then_some(0x8e));
        let again = second.receive().await;
        assert_eq!(
            (again.packet_id, &again.payload, again.dup),
            (before.packet_id, &before.payload, true)
        );
        publish(&publisher, "q", "next", QoS::AtLeastOnce).await;
        let next = second.receive().await;
        assert_eq!((&*next.payload, next.dup), (&b"next"[..], false));
        second.ping().await;
    }
    // What ends with its connection is not there for the next one, even if that comes before.
    let hello = staying(true, "brief", &[]);
    let mut first = Raw::connect(address, &hello).await;
    assert_eq!(first.subscribe(&[("q", 1)]).await, [1]);
    let (mut second, answer) = Raw::try_connect(address, &hello).await;
    assert!(!is_present(&answer));
    assert_eq!(first.closed().await, Some(0x8e));
    publish(&publisher, "q", "nobody's", QoS::AtLeastOnce).await;
    second.ping().await;
    assert_eq!(broker.stats().takeovers, 3);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_goes_on_in_another_version() {
    let (broker, address) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let hour = expiry(3_600);
    let mut four = Raw::connect(address, &staying(false, "c", &[])).await;
    assert_eq!(four.subscribe(&[("q", 1)]).await, [1]);
    publish(&publisher, "q", "kept", QoS::AtLeastOnce).await;
    assert!(!four.receive_only().await.dup);
    let mut five = Raw::connect_again(address, &staying(true, "c", &hour)).await;
    let again = five.receive_only().await;
    assert_eq!((&*again.payload, again.dup), (&b"kept"[..], true));
    let mut four = Raw::connect_again(address, &staying(false, "c", &[])).await;
    assert_eq!(four.receive().await.payload, b"kept");
    broker.stop().await;
}

#[tokio::test]
async fn a_client_id_belongs_to_whoever_has_its_session() {
    let user = |name: &str| User {
        name: name.into(),
        password: "secret".into(),
    };
    let config = Config {
        users: vec![user("ada"), user("bob")],
        ..open_config()
    };
    let (broker, address) = start(config).await;
    let hour = expiry(3_600);
    let owners = [None, Some(("ada", "secret")), Some(("bob", "secret"))];
    for (n, owner) in owners.into_iter().enumerate() {
        let id = format!("c{n}");
        let hello = |login, v5, unclean| Hello {
            unclean,
            login,
            ..staying(v5, &id, &hour)
        };
        let mut client = Raw::connect(address, &hello(owner, true, true)).await;
        for there in [true, false] {
            for other in owners {
                for (v5, unclean, code) in [
                    (true, true, 0x87),
                    (true, false, 0x87),
                    (false, true, 5),
                    (false, false, 5),
                ] {
                    if other != owner {
                        let hello = hello(other, v5, unclean);
                        let (_client, answer) = Raw::try_connect(address, &hello).await;
                        assert_eq!(answer[..2], [0, code]);
                    }
                }
            }
            if there {
                client.ping().await;
                client.send(&[0xe0, 0]).await;
                client.closed().await;
                eventually(&broker, "absence", |stats| stats.clients == 0).await;
            }
        }
        let (_client, answer) = Raw::try_connect(address, &hello(owner, true, true)).await;
        assert!(is_present(&answer));
    }
    assert_eq!(broker.stats().refused_owner, 48);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_may_want_one_session() {
    let (broker, address) = start(open_config()).await;
    let mut tasks = Vec::new();
    for n in 0..60u32 {
        tasks.push(tokio::spawn(async move {
            let properties = expiry(if n % 3 == 0 { 0 } else { 3_600 });
            let hello = Hello {
                unclean: n % 4 != 0,
                ..staying(n % 2 == 0, "wanted", &properties)
            };
            let mut client = Raw::open(address, hello.v5).await;
            client.send(&hello.bytes()).await;
            // Another may have taken the session before the answer was sent.
            if let Some(answer) = client.read().await {
                assert_eq!((answer.first, answer.body[1]), (0x20, 0));
            }
            if n % 5 == 0 {
                client.closed().await;
            }
        }));
    }
    // Whoever waits for its end, and happens to be the last, gets it from here.
    in_time("their end", async {
        while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
            let hello = staying(true, "wanted", &[]);
            let mut client = Raw::open(address, true).await;
            client.send(&hello.bytes()).await;
            let _answer = client.read().await;
        }
    })
    .await;
    for task in tasks {
        task.await.unwrap();
    }
    eventually(&broker, "the end of all", |stats| {
        (stats.clients, stats.sessions) == (0, 0)
    })
    .await;
    let stats = broker.stats();
    assert_eq!((stats.panics, stats.refused_busy), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_stops_ends_absent_sessions_without_a_word() {
    let (broker, address) = start(open_config()).await;
    let (_publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("#", QoS::AtMostOnce).await.unwrap();
    let hour = expiry(3_600);
    for n in 0..20 {
        let id = format!("c{n}");
        let hello = Hello {
            will: Some(("will", "gone", 0, false)),
            will_properties: &[24, 0, 0, 1, 0],
            ..staying(true, &id, &hour)
        };
        let mut client = Raw::connect(address, &hello).await;
        assert_eq!(client.subscribe(&[("a", 1)]).await, [1]);
    }
    eventually(&broker, "absence", |stats| stats.absent_sessions == 20).await;
    in_time("stopping", broker.stop()).await;
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test]
async fn the_broker_sets_the_keep_alive_where_the_client_may_be_told() {
    let config = with_limits(|limits| limits.keep_alive_max = Duration::from_mins(1));
    let (broker, address) = start(config).await;
    for (asked, wanted) in [
        (0, Some(60)),
        (1, None),
        (60, None),
        (61, Some(60)),
        (u16::MAX, Some(60)),
    ] {
        let hello = Hello {
            v5: true,
            client_id: "c",
            keep_alive_s: asked,
            ..Hello::default()
        };
        let (_client, answer) = Raw::try_connect(address, &hello).await;
        assert_eq!(told(&answer, 19), wanted, "{asked}");
    }
    broker.stop().await;
    // The broker's holds, not the client's.
    let config = with_limits(|limits| limits.keep_alive_max = Duration::from_secs(1));
    let (broker, address) = start(config).await;
    let mut four = Raw::named(address, false, "four").await;
    let mut five = Raw::named(address, true, "five").await;
    assert_eq!(five.closed().await, Some(0x8d));
    four.ping().await;
    broker.stop().await;
}
