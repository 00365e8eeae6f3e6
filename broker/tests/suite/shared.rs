//! Shared subscriptions.

use crate::common::{DEADLINE, Raw, eventually, in_time, open_config, packet, start, with_limits};
use lamppost_broker::{Action, Broker, Effect, LinkReceiver, Message, Publish, QoS, Rule, Who};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

async fn member(broker: &Broker, name: &str, what: &str) -> LinkReceiver {
    let (_, mut receiver) = broker.link(name).unwrap().split();
    receiver.subscribe(what, QoS::AtLeastOnce).await.unwrap();
    receiver
}

fn number(message: &Message) -> u32 {
    std::str::from_utf8(&message.payload)
        .unwrap()
        .parse()
        .unwrap()
}

/// Reads until `count` different numbers are there; none may come twice.
async fn read_numbers(receiver: &mut LinkReceiver, numbers: &mut BTreeSet<u32>, count: usize) {
    while numbers.len() < count {
        let message = in_time("receiving", receiver.recv()).await.unwrap();
        assert!(numbers.insert(number(&message)), "{message:?} came twice");
    }
}

fn numbered(range: std::ops::Range<u32>) -> impl Iterator<Item = Publish> {
    range.map(|n| Publish::new("s/x", n.to_string()).qos(QoS::AtLeastOnce))
}

#[tokio::test]
async fn each_group_gets_a_copy_and_its_members_take_turns() {
    const COUNT: u32 = 300;
    let (broker, address) = start(open_config()).await;
    let (publisher, mut plain) = broker.link("plain").unwrap().split();
    plain.subscribe("s/+", QoS::AtLeastOnce).await.unwrap();
    let mut clients = Vec::new();
    for (name, v5) in [("one", true), ("two", false), ("three", true)] {
        let mut client = Raw::named(address, v5, name).await;
        assert_eq!(client.subscribe(&[("$share/g/s/#", 1)]).await, [1]);
        clients.push(client);
    }
    let mut other = member(&broker, "other", "$share/h/s/#").await;
    publisher.publish_many(numbered(0..COUNT)).await.unwrap();
    let mut all = BTreeSet::new();
    for client in &mut clients {
        for _ in 0..COUNT / 3 {
            let message = client.receive().await;
            let payload = String::from_utf8(message.payload).unwrap();
            assert!(all.insert(payload.parse::<u32>().unwrap()));
        }
        client.ping().await;
    }
    assert_eq!(all.len(), COUNT as usize);
    read_numbers(&mut other, &mut BTreeSet::new(), COUNT as usize).await;
    read_numbers(&mut plain, &mut BTreeSet::new(), COUNT as usize).await;
    // A member that unsubscribes by the whole string leaves all to the others.
    clients[0]
        .send(&packet(0xa2, b"\x00\x03\x00\x00\x0c$share/g/s/#"))
        .await;
    let answer = clients[0].read().await.unwrap();
    assert_eq!((answer.first, &answer.body[2..]), (0xb0, &[0, 0][..]));
    publisher.publish_many(numbered(0..4)).await.unwrap();
    for client in &mut clients[1..] {
        client.receive().await;
        client.receive().await;
        client.ping().await;
    }
    clients[0].ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_a_shared_subscription_may_not_be_is_refused() {
    let mut config = open_config();
    config.rules = vec![Rule {
        effect: Effect::Deny,
        who: Who::Any,
        action: Action::Subscribe,
        filter: "secret/#".into(),
    }];
    let (broker, address) = start(config).await;
    let mut publisher = Raw::named(address, true, "publisher").await;
    assert_eq!(publisher.publish_acked("s/x", b"kept", true).await, 0);
    let mut client = Raw::named(address, true, "client").await;
    let filters = [
        ("$share/g", 1),
        ("$share//s", 1),
        ("$share/g+/s", 1),
        ("$share/g/s#", 1),
        ("$share/g/secret/x", 1),
        ("$share/g/#", 1),
        ("$share/g/s/#", 1),
    ];
    assert_eq!(
        client.subscribe(&filters).await,
        [0x8f, 0x8f, 0x8f, 0x8f, 0x80, 0x80, 1]
    );
    // No retained message came, now or when it is subscribed again.
    client.ping().await;
    assert_eq!(client.subscribe(&[("$share/g/s/#", 0)]).await, [0]);
    client.ping().await;
    // No Local is a protocol error.
    let body = b"\x00\x09\x00\x00\x0a$share/g/t\x04";
    client.send(&packet(0x82, body)).await;
    assert_eq!(client.closed().await, Some(0x82));
    broker.stop().await;
}

#[tokio::test]
async fn what_a_member_leaves_unread_goes_to_the_others() {
    const COUNT: u32 = 1_000;
    let (broker, _) = start(open_config()).await;
    let (publisher, _receiver) = broker.link("publisher").unwrap().split();
    let mut stays = member(&broker, "stays", "$share/g/s/+").await;
    let gone = member(&broker, "gone", "$share/g/s/+").await;
    let mut leaves = member(&broker, "leaves", "$share/g/s/+").await;
    publisher.publish_many(numbered(0..COUNT)).await.unwrap();
    drop(gone);
    // The subscription ends, the receiver goes on.
    assert!(leaves.unsubscribe("$share/g/s/+").unwrap());
    assert!(!leaves.unsubscribe("$share/g/s/+").unwrap());
    leaves.subscribe("else", QoS::AtMostOnce).await.unwrap();
    let reading = tokio::spawn(async move { leaves.recv().await });
    let mut numbers = BTreeSet::new();
    read_numbers(&mut stays, &mut numbers, COUNT as usize).await;
    publisher.publish(Publish::new("else", "x")).await.unwrap();
    assert_eq!(
        in_time("else", reading).await.unwrap().unwrap().payload,
        "x"
    );
    assert_eq!(broker.stats().shared_dropped, 0);
    // The last one has nobody to leave them to.
    publisher.publish_many(numbered(0..10)).await.unwrap();
    drop(stays);
    eventually(&broker, "the loss", |stats| stats.shared_dropped == 10).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_each_message_arrives_once() {
    const COUNT: u32 = 20_000;
    let (broker, _) = start(open_config()).await;
    let broker = Arc::new(broker);
    let (publisher, _receiver) = broker.link("publisher").unwrap().split();
    let mut stays = member(&broker, "stays", "$share/g/s/+").await;
    let received = Arc::new(AtomicU32::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut comers = Vec::new();
    for name in ["a", "b"] {
        let (broker, received, stop) = (
            Arc::clone(&broker),
            Arc::clone(&received),
            Arc::clone(&stop),
        );
        comers.push(tokio::spawn(async move {
            let mut numbers = Vec::new();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let mut comer = member(&broker, name, "$share/g/s/+").await;
                // It reads a part of what it is given, and leaves the rest behind.
                for _ in 0..round % 50 {
                    let patience = Duration::from_millis(20);
                    let Ok(Some(message)) = tokio::time::timeout(patience, comer.recv()).await
                    else {
                        break;
                    };
                    numbers.push(number(&message));
                    received.fetch_add(1, Ordering::AcqRel);
                }
            }
            (numbers, round)
        }));
    }
    let counted = Arc::clone(&received);
    let sending = tokio::spawn(async move {
        let mut next = 0;
        while next < COUNT {
            let end = COUNT.min(counted.load(Ordering::Acquire) + 300).max(next);
            publisher.publish_many(numbered(next..end)).await.unwrap();
            if next == end {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            next = end;
        }
    });
    let mut all = Vec::new();
    let since = Instant::now();
    while received.load(Ordering::Acquire) < COUNT {
        let patience = Duration::from_millis(20);
        if let Ok(message) = tokio::time::timeout(patience, stays.recv()).await {
            all.push(number(&message.unwrap()));
            received.fetch_add(1, Ordering::AcqRel);
        }
        assert!(
            since.elapsed() < 2 * DEADLINE,
            "{} of {COUNT}: {:?}",
            received.load(Ordering::Relaxed),
            broker.stats()
        );
    }
    stop.store(true, Ordering::Relaxed);
    sending.await.unwrap();
    for comer in comers {
        let (numbers, rounds) = in_time("a member's end", comer).await.unwrap();
        assert!(rounds > 10, "{rounds}");
        all.extend(numbers);
    }
    all.sort_unstable();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
    let stats = broker.stats();
    assert_eq!((stats.shared_dropped, stats.lost_slow_subscriber), (0, 0));
    Arc::into_inner(broker).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_read_is_passed_by() {
    const COUNT: u32 = 5_000;
    let (broker, _) = start(with_limits(|limits| {
        limits.log_bytes_per_filter = 64 * 1024;
    }))
    .await;
    let (publisher, _receiver) = broker.link("publisher").unwrap().split();
    let mut good = member(&broker, "good", "$share/g/s/+").await;
    let idle = member(&broker, "idle", "$share/g/s/+").await;
    let reading = tokio::spawn(async move {
        let mut numbers = BTreeSet::new();
        read_numbers(&mut good, &mut numbers, COUNT as usize).await;
        good
    });
    in_time("publishing", publisher.publish_many(numbered(0..COUNT)))
        .await
        .unwrap();
    assert_eq!(
        broker.stats().lost_slow_subscriber,
        0,
        "it was not filled up"
    );
    // It has no more than half its log, which goes to the other when it leaves.
    drop(idle);
    in_time("the rest", reading).await.unwrap();
    broker.stop().await;
}
