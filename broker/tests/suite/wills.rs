//! Last wills with a delay, and those of sessions that are taken over.

use crate::common::{Hello, Raw, eventually, expiry, open_config, start, with_limits};
use lamppost_broker::{LinkReceiver, QoS};
use std::time::{Duration, Instant};

/// A client with a will that waits for so long.
fn willing<'a>(properties: &'a [u8], delay: &'a [u8]) -> Hello<'a> {
    Hello {
        v5: true,
        client_id: "c",
        unclean: true,
        properties,
        will: Some(("will", "gone", 1, false)),
        will_properties: delay,
        ..Hello::default()
    }
}

fn delay(seconds: u32) -> Vec<u8> {
    [&[24], &seconds.to_be_bytes()[..]].concat()
}

async fn watch(broker: &lamppost_broker::Broker) -> LinkReceiver {
    let (_, mut receiver) = broker.link("watch").unwrap().split();
    receiver.subscribe("#", QoS::AtLeastOnce).await.unwrap();
    receiver
}

#[tokio::test]
async fn a_will_waits_for_its_delay_or_the_end_of_the_session() {
    let (broker, address) = start(open_config()).await;
    let mut receiver = watch(&broker).await;
    for (expiry_s, delay_s, at_least_s) in [(3_600, 1, 1), (1, 3_600, 1), (0, 3_600, 0)] {
        let (properties, delay) = (expiry(expiry_s), delay(delay_s));
        let mut client = Raw::connect_again(address, &willing(&properties, &delay)).await;
        // A client that asks for its will on leaving gets it in the same way.
        client.send(&[0xe0, 1, 4]).await;
        let since = Instant::now();
        assert_eq!(receiver.recv().await.unwrap().payload, "gone");
        assert!(since.elapsed() >= Duration::from_secs(at_least_s));
    }
    assert_eq!(broker.stats().wills, 3);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_takes_its_delayed_will_back() {
    let (broker, address) = start(open_config()).await;
    let mut receiver = watch(&broker).await;
    let (hour, long) = (expiry(3_600), delay(3_600));
    // From an absence, and by taking over what was there.
    for away in [true, false] {
        let client = Raw::connect_again(address, &willing(&hour, &long)).await;
        if away {
            drop(client);
            eventually(&broker, "absence", |stats| stats.absent_sessions == 1).await;
        }
        let plain = Hello {
            will: None,
            ..willing(&hour, &[])
        };
        let mut again = Raw::connect_again(address, &plain).await;
        again.publish("no will", b"x", 0, false).await;
        assert_eq!(&*receiver.recv().await.unwrap().topic, "no will");
    }
    // A new session ends the old one, and the delay with it.
    drop(Raw::connect_again(address, &willing(&hour, &long)).await);
    eventually(&broker, "absence", |stats| stats.absent_sessions == 1).await;
    let clean = Hello {
        unclean: false,
        ..willing(&hour, &long)
    };
    let client = Raw::connect(address, &clean).await;
    assert_eq!(&*receiver.recv().await.unwrap().topic, "will");
    let plain = Hello {
        will: None,
        ..clean.clone()
    };
    let _second = Raw::connect(address, &plain).await;
    assert_eq!(&*receiver.recv().await.unwrap().topic, "will");
    drop(client);
    assert_eq!(broker.stats().wills, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_will_without_delay_is_published_when_the_session_is_taken_over() {
    let (broker, address) = start(open_config()).await;
    let mut receiver = watch(&broker).await;
    let hour = expiry(3_600);
    for v5 in [false, true] {
        let hello = Hello {
            v5,
            properties: if v5 { &hour } else { &[] },
            ..willing(&hour, &[])
        };
        let _first = Raw::connect_again(address, &hello).await;
        let plain = Hello {
            will: None,
            ..hello.clone()
        };
        let mut second = Raw::connect_again(address, &plain).await;
        second.publish("next", b"x", 0, false).await;
        for topic in ["will", "next"] {
            assert_eq!(&*receiver.recv().await.unwrap().topic, topic);
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_will_of_a_session_that_is_ended_for_want_of_room_is_published() {
    let (broker, address) = start(with_limits(|limits| limits.absent_sessions_max = 1)).await;
    let mut receiver = watch(&broker).await;
    let (hour, long) = (expiry(3_600), delay(3_600));
    drop(Raw::connect(address, &willing(&hour, &long)).await);
    eventually(&broker, "absence", |stats| stats.absent_sessions == 1).await;
    let other = Hello {
        client_id: "other",
        will: None,
        ..willing(&hour, &[])
    };
    drop(Raw::connect(address, &other).await);
    assert_eq!(receiver.recv().await.unwrap().payload, "gone");
    broker.stop().await;
}
