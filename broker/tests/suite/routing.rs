//! Who gets a message, and how often: filters that overlap, subscriptions that come and go, subscribers that stall.

use crate::common::{
    DEADLINE, Packet, Raw, eventually, in_time, open_config, packet, publish_bytes, start,
    with_limits,
};
use lamppost_broker::{
    Broker, LinkPublisher, LinkReceiver, Message, Publish, QoS, SubscribeOptions,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

const NO_LOCAL: u8 = 0b0100;
const AS_PUBLISHED: u8 = 0b1000;

fn subscribe_bytes(filter: &str, options: u8, id: Option<u8>) -> Vec<u8> {
    let mut body = vec![0, 9];
    match id {
        None => body.push(0),
        Some(id) => body.extend([2, 0x0b, id]),
    }
    body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
    body.extend(filter.as_bytes());
    body.push(options);
    packet(0x82, &body)
}

/// Subscribes at MQTT 5 with an identifier.
async fn subscribe(client: &mut Raw, filter: &str, options: u8, id: u8) {
    client
        .send(&subscribe_bytes(filter, options, Some(id)))
        .await;
    let answer = client.read().await.expect("a SUBACK");
    assert_eq!((answer.first, answer.body[3]), (0x90, options & 3));
}

async fn unsubscribe(client: &mut Raw, filter: &str) {
    let mut body = vec![0, 8];
    if client.v5 {
        body.push(0);
    }
    body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
    body.extend(filter.as_bytes());
    client.send(&packet(0xa2, &body)).await;
    assert_eq!(client.read().await.expect("an UNSUBACK").first, 0xb0);
}

/// The identifiers in a publication's properties, when there is nothing else.
fn ids(properties: &[u8]) -> Vec<u8> {
    let pairs = properties.chunks(2);
    pairs
        .map(|pair| {
            assert_eq!(pair[0], 0x0b, "{properties:?}");
            pair[1]
        })
        .collect()
}

#[tokio::test]
async fn filters_that_overlap_give_one_copy_with_the_terms_of_all() {
    let (broker, address) = start(open_config()).await;
    let mut publisher = Raw::named(address, true, "publisher").await;
    let mut client = Raw::named(address, true, "five").await;
    subscribe(&mut client, "o/+", 0, 3).await;
    subscribe(&mut client, "o/#", 1, 4).await;
    subscribe(&mut client, "o/x", AS_PUBLISHED, 5).await;
    subscribe(&mut client, "p/#", 1, 6).await;
    let mut old = Raw::named(address, false, "four").await;
    assert_eq!(old.subscribe(&[("o/+", 0), ("o/x", 1)]).await, [0, 1]);
    for (topic, expected, retain) in [
        ("o/x", vec![3, 4, 5], true),
        ("o/y", vec![3, 4], false),
        ("o/y/z", vec![4], false),
        ("p/x", vec![6], false),
    ] {
        assert_eq!(publisher.publish_acked(topic, b"1", true).await, 0);
        let message = client.receive().await;
        assert_eq!(message.topic, topic);
        let mut found = ids(&message.properties);
        found.sort_unstable();
        assert_eq!((found, message.qos, message.retain), (expected, 1, retain));
        client.ping().await;
    }
    for (topic, qos) in [("o/x", 1), ("o/y", 0)] {
        let message = old.receive().await;
        assert_eq!((&*message.topic, message.qos), (topic, qos));
    }
    old.ping().await;
    // Without the oldest, the next one carries the messages; new options hold at once.
    unsubscribe(&mut client, "o/+").await;
    subscribe(&mut client, "o/x", 0, 7).await;
    assert_eq!(client.receive().await.payload, b"1", "retained, anew");
    assert_eq!(publisher.publish_acked("o/x", b"2", true).await, 0);
    let message = client.receive().await;
    assert_eq!(ids(&message.properties), [4, 7]);
    assert!(!message.retain);
    client.ping().await;
    assert_eq!(broker.stats().subscriptions, 5);
    broker.stop().await;
}

#[tokio::test]
async fn no_local_leaves_out_only_the_subscriptions_that_ask_for_it() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, true, "own").await;
    let mut other = Raw::named(address, true, "other").await;
    subscribe(&mut client, "n/+", NO_LOCAL | 1, 3).await;
    subscribe(&mut client, "n/#", 0, 4).await;
    subscribe(&mut client, "m", NO_LOCAL, 5).await;
    client.publish("n/x", b"own", 0, false).await;
    client.publish("m", b"own", 0, false).await;
    let message = client.receive().await;
    assert_eq!((ids(&message.properties), message.qos), (vec![4], 0));
    client.ping().await;
    for topic in ["n/x", "m"] {
        assert_eq!(other.publish_acked(topic, b"other", false).await, 0);
        let message = client.receive().await;
        assert_eq!(message.payload, b"other");
        let expected = if topic == "m" { vec![5] } else { vec![3, 4] };
        assert_eq!(ids(&message.properties), expected);
    }
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_link_can_leave_its_own_messages_out_and_keep_the_retain_flag() {
    let (broker, _) = start(open_config()).await;
    let (own, mut receiver) = broker.link("bridge").unwrap().split();
    let (other, _receiver) = broker.link("other").unwrap().split();
    let options = SubscribeOptions::new(QoS::AtLeastOnce)
        .no_local()
        .retain_as_published();
    receiver.subscribe_with("b/#", options).await.unwrap();
    assert!(
        receiver
            .subscribe_with("$share/g/b", options)
            .await
            .is_err()
    );
    own.publish(Publish::new("b/x", "own")).await.unwrap();
    other
        .publish(Publish::new("b/x", "other").retained())
        .await
        .unwrap();
    other.publish(Publish::new("b/x", "last")).await.unwrap();
    for (payload, retain) in [("other", true), ("last", false)] {
        let message = in_time("receiving", receiver.recv()).await.unwrap();
        assert_eq!(
            (&message.payload[..], message.retain),
            (payload.as_bytes(), retain)
        );
    }
    broker.stop().await;
}

/// A small generator, so that a failure can be repeated with its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Filters that all select `s/n`, and that overlap in different ways.
const FILTERS: [&str; 5] = ["s/n", "s/+", "s/#", "+/n", "s/n/#"];

/// Numbers of a publisher that may be under way: far less than a log holds, so that none is lost to slowness.
const AHEAD_MAX: u32 = 500;

/// Publishes numbers, marked with the publisher's, no further ahead of `received` than allowed.
async fn publish_numbers(
    publisher: LinkPublisher,
    lane: u32,
    count: u32,
    received: Arc<AtomicU32>,
) {
    let mut next = 0;
    while next < count {
        let end = count.min(received.load(Ordering::Acquire) + AHEAD_MAX);
        let batch = (next..end).map(|number| Publish::new("s/n", format!("{lane} {number}")));
        publisher.publish_many(batch).await.unwrap();
        if next == end {
            tokio::time::sleep(std::time::Duration::from_micros(100)).await;
        }
        next = end;
    }
}

/// The numbers that arrived from each publisher.
#[derive(Debug, Default)]
struct Log {
    lanes: BTreeMap<u32, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    next: u32,
    /// Numbers below `next` that have not come yet.
    missing: BTreeSet<u32>,
    repeated: u32,
    received: Arc<AtomicU32>,
}

impl Log {
    fn note(&mut self, payload: &[u8]) {
        let (lane, number) = std::str::from_utf8(payload)
            .unwrap()
            .split_once(' ')
            .unwrap();
        let lane = self.lanes.entry(lane.parse().unwrap()).or_default();
        let number: u32 = number.parse().unwrap();
        if number >= lane.next {
            lane.missing.extend(lane.next..number);
            lane.next = number + 1;
        } else if !lane.missing.remove(&number) {
            lane.repeated += 1;
        }
        let complete = lane.missing.first().copied().unwrap_or(lane.next);
        lane.received.store(complete, Ordering::Release);
    }

    fn start(&mut self, broker: &Broker, lanes: u32, count: u32) {
        for number in 0..lanes {
            let lane = self.lanes.entry(number).or_default();
            let (publisher, _) = broker.link(&format!("lane-{number}")).unwrap().split();
            let received = Arc::clone(&lane.received);
            tokio::spawn(publish_numbers(publisher, number, count, received));
        }
    }

    fn is_complete(&self, count: u32) -> bool {
        let mut lanes = self.lanes.values();
        lanes.all(|lane| lane.next == count && lane.missing.is_empty())
    }

    fn repeated(&self) -> u32 {
        self.lanes.values().map(|lane| lane.repeated).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_changes_overlapping_filters_misses_no_message() {
    const COUNT: u32 = 15_000;
    for seed in [1, 2, 3] {
        let (broker, _) = start(open_config()).await;
        // Others on the same filters: then a log is there before this subscriber asks for it, and routes do not change.
        let (_, mut bystander) = broker.link("bystander").unwrap().split();
        for filter in &FILTERS[..3] {
            bystander.subscribe(filter, QoS::AtMostOnce).await.unwrap();
        }
        let bystander = tokio::spawn(async move { while bystander.recv().await.is_some() {} });
        let (_, mut receiver) = broker.link("changing").unwrap().split();
        let mut dice = Dice(seed);
        let mut active = vec![0];
        receiver
            .subscribe(FILTERS[0], QoS::AtMostOnce)
            .await
            .unwrap();
        let mut log = Log::default();
        log.start(&broker, 2, COUNT);
        let mut changes = 0;
        while !log.is_complete(COUNT) {
            for _ in 0..dice.below(40) {
                if log.is_complete(COUNT) {
                    break;
                }
                let message = receive(&mut receiver, &log, seed).await;
                log.note(&message.payload);
            }
            change_link(&mut receiver, &mut active, &mut dice).await;
            changes += 1;
        }
        let stats = broker.stats();
        assert_eq!(stats.lost_slow_subscriber, 0, "seed {seed}: {stats:?}");
        assert!(changes > 100, "{changes}");
        // Without the choice of one copy there would be more than one too many for each message.
        let repeated = log.repeated();
        assert!(repeated < COUNT, "{repeated} copies too many, seed {seed}");
        broker.stop().await;
        bystander.await.unwrap();
    }
}

/// The next message, or a failure that says which ones are missing.
async fn receive(receiver: &mut LinkReceiver, log: &Log, seed: u64) -> Message {
    match tokio::time::timeout(DEADLINE, receiver.recv()).await {
        Ok(Some(message)) => message,
        other => panic!("{other:?}, seed {seed}: {:?}", log.lanes),
    }
}

/// Adds a filter or takes one away, never the last one.
async fn change_link(receiver: &mut LinkReceiver, active: &mut Vec<usize>, dice: &mut Dice) {
    let filter = dice.below(FILTERS.len());
    match active.iter().position(|&other| other == filter) {
        None => {
            receiver
                .subscribe(FILTERS[filter], QoS::AtMostOnce)
                .await
                .unwrap();
            active.push(filter);
        }
        Some(at) if active.len() > 1 => {
            assert!(receiver.unsubscribe(FILTERS[filter]).unwrap());
            active.remove(at);
        }
        Some(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_changes_overlapping_filters_misses_no_message() {
    const COUNT: u32 = 15_000;
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, true, "changing").await;
    assert_eq!(client.subscribe(&[(FILTERS[0], 0)]).await, [0]);
    let mut dice = Dice(7);
    let mut active = vec![0];
    let mut log = Log::default();
    log.start(&broker, 2, COUNT);
    let mut asked = None;
    while !log.is_complete(COUNT) {
        if asked.is_none() && dice.below(20) == 0 {
            let filter = dice.below(FILTERS.len());
            let known = active.contains(&filter);
            if !known || active.len() > 1 {
                let bytes = if known {
                    active.retain(|&other| other != filter);
                    let length = [0, u8::try_from(FILTERS[filter].len()).unwrap()];
                    let body = [&[0, 9, 0][..], &length, FILTERS[filter].as_bytes()].concat();
                    packet(0xa2, &body)
                } else {
                    subscribe_bytes(FILTERS[filter], 0, None)
                };
                client.send(&bytes).await;
                asked = (!known).then_some(filter).or(Some(usize::MAX));
            }
        }
        let packet = client.read().await.expect("a packet");
        match packet.first {
            0x30 => {
                // The topic is three bytes long, and there are no properties.
                log.note(&packet.body[6..]);
            }
            0x90 | 0xb0 => {
                // Only now does the new one count: MQTT promises nothing before the SUBACK.
                active.extend(asked.take().filter(|&filter| filter != usize::MAX));
            }
            _ => panic!("{packet:?}"),
        }
    }
    assert_eq!(broker.stats().lost_slow_subscriber, 0);
    let repeated = log.repeated();
    assert!(repeated < COUNT, "{repeated} copies too many");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_stalls_again_and_again_is_waited_for_once_in_five_seconds() {
    const ROUNDS: u64 = 8;
    const FLOOD: u64 = 400;
    let (broker, _) = start(with_limits(|limits| {
        limits.log_bytes_per_filter = 64 * 1024;
    }))
    .await;
    let (publisher, mut good) = broker.link("good").unwrap().split();
    let (_, mut bad) = broker.link("bad").unwrap().split();
    good.subscribe("t/#", QoS::AtMostOnce).await.unwrap();
    for filter in ["t/0", "t/1"] {
        bad.subscribe(filter, QoS::AtMostOnce).await.unwrap();
    }
    let reading = tokio::spawn(async move {
        for _ in 0..ROUNDS * FLOOD {
            good.recv().await.unwrap();
        }
    });
    let since = Instant::now();
    let mut read = 0;
    for round in 0..ROUNDS {
        // Two logs full: the bad one lags. Being slow by one filter it is slow by the other.
        let flood = (0..FLOOD).map(|_| Publish::new(format!("t/{}", round % 2), vec![1; 330]));
        in_time("publishing", publisher.publish_many(flood))
            .await
            .unwrap();
        // Then it catches up, and must be told apart from one that keeps pace all the same.
        while read + broker.stats().lost_slow_subscriber < (round + 1) * FLOOD {
            let mut batch = Vec::new();
            read += in_time("catching up", bad.recv_many(&mut batch, 1_000)).await as u64;
        }
    }
    in_time("the good one, who loses nothing", reading)
        .await
        .unwrap();
    let (waited_for, elapsed) = (broker.stats().slow_subscribers, since.elapsed());
    assert!(broker.stats().lost_slow_subscriber > 0);
    assert!(
        (1..=1 + elapsed.as_secs() / 5).contains(&waited_for),
        "waited for {waited_for} times in {elapsed:?}"
    );
    broker.stop().await;
}

#[tokio::test]
async fn filters_come_and_go_and_leave_nothing() {
    let (broker, address) = start(with_limits(|limits| limits.filters_max = 4)).await;
    let mut client = Raw::named(address, true, "client").await;
    for round in 0..50 {
        for filter in ["a/#", "a/+", "a/b", "$share/g/a/b"] {
            assert_eq!(client.subscribe(&[(filter, 1)]).await, [1], "round {round}");
        }
        assert_eq!(client.subscribe(&[("a", 1)]).await, [0x97]);
        for filter in ["a/#", "a/+", "$share/g/a/b", "a/b"] {
            unsubscribe(&mut client, filter).await;
        }
        // What ends reads its log to a mark first.
        eventually(&broker, "the ends", |stats| stats.subscriptions == 0).await;
    }
    client.send(&[0xe0, 0]).await;
    assert_eq!(client.read().await, None::<Packet>);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_publishes_and_unsubscribes_in_one_go_gets_nothing_twice() {
    let (broker, address) = start(open_config()).await;
    let mut client = Raw::named(address, false, "client").await;
    for _ in 0..50 {
        assert_eq!(client.subscribe(&[("t", 0)]).await, [0]);
        client.publish("t", b"one", 0, false).await;
        assert_eq!(client.receive().await.payload, b"one");
        client.ping().await;
        let publish = publish_bytes(false, "t", b"late", 0, false, 0);
        let unsubscribe = packet(0xa2, b"\x00\x08\x00\x01t");
        client.send(&[publish, unsubscribe].concat()).await;
        assert_eq!(client.read().await.unwrap().first, 0xb0);
    }
    broker.stop().await;
}
