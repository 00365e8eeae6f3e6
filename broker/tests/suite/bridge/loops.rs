//! Messages that could go round in a circle.

use super::{Gate, bridge, bridge_is, config, next, out, publish, receiver, route};
use crate::common::{eventually, open_config, start};
use lamppost_broker::{Broker, LinkReceiver, Publish};

/// Every message in the batch of a round, until `count` of them have come.
async fn take(receiver: &mut LinkReceiver, count: usize) {
    for _ in 0..count {
        next(receiver).await;
    }
}

/// What makes no storm: each round of one message comes to an end, with the same few copies.
async fn rounds(brokers: &[Broker], loops: &[u64], copies: &[usize]) {
    let mut watchers = Vec::new();
    for broker in brokers {
        watchers.push(receiver(broker, "#").await);
        bridge_is(broker, "connected", |stats| stats.connected).await;
    }
    for round in 1..=5 {
        publish(&brokers[0], Publish::new("t", "x")).await;
        for ((broker, watcher), (loops, copies)) in brokers
            .iter()
            .zip(&mut watchers)
            .zip(loops.iter().zip(copies))
        {
            take(watcher, *copies).await;
            eventually(broker, "loops", |stats| stats.bridge_loops == loops * round).await;
        }
    }
    // All that was sent on has come back by now and been found; nothing more is under way.
    publish(&brokers[0], Publish::new("end", "x")).await;
    for (watcher, copies) in watchers.iter_mut().zip(copies) {
        for _ in 0..*copies {
            assert_eq!(&*next(watcher).await.topic, "end");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_bridged_to_each_other_make_no_storm() {
    let gates = [Gate::new(None).await, Gate::new(None).await];
    let mut brokers = Vec::new();
    for (n, id) in ["a", "b"].into_iter().enumerate() {
        let mut bridge = out(bridge(id, gates[1 - n].address), &[("#", "", "")]);
        bridge.inward = vec![route("#", "", "")];
        let (broker, address) = start(config(id, vec![bridge])).await;
        gates[n].lead(Some(address));
        brokers.push(broker);
    }
    // There are two bridges, so that the message comes to `b` twice, and each of those comes back once.
    rounds(&brokers, &[1, 1], &[3, 2]).await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_three_makes_no_storm() {
    let gates = [
        Gate::new(None).await,
        Gate::new(None).await,
        Gate::new(None).await,
    ];
    let mut brokers = Vec::new();
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        let bridge = out(bridge(id, gates[(n + 1) % 3].address), &[("#", "", "")]);
        let (broker, address) = start(config(id, vec![bridge])).await;
        gates[n].lead(Some(address));
        brokers.push(broker);
    }
    rounds(&brokers, &[1, 0, 0], &[2, 1, 1]).await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_three_that_fetches_makes_no_storm() {
    let gates = [
        Gate::new(None).await,
        Gate::new(None).await,
        Gate::new(None).await,
    ];
    let mut brokers = Vec::new();
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        let mut bridge = bridge(id, gates[(n + 1) % 3].address);
        bridge.inward = vec![route("#", "", "")];
        let (broker, address) = start(config(id, vec![bridge])).await;
        gates[n].lead(Some(address));
        brokers.push(broker);
    }
    // From `a` to `c`, which fetches from it, to `b` and to `a`; `c` finds that it has had it.
    rounds(&brokers, &[0, 0, 1], &[2, 1, 1]).await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test]
async fn two_bridges_of_one_broker_pass_messages_on() {
    let (left, left_address) = start(open_config()).await;
    let (right, right_address) = start(open_config()).await;
    let mut first = bridge("left", left_address);
    first.inward = vec![route("#", "", "")];
    let (middle, _) = start(config(
        "middle",
        vec![first, out(bridge("right", right_address), &[("#", "", "")])],
    ))
    .await;
    eventually(&middle, "both", |stats| stats.bridges_connected == 2).await;
    let mut there = receiver(&right, "#").await;
    publish(&left, Publish::new("t", "x")).await;
    let message = next(&mut there).await;
    let hops = &message.properties().user_properties;
    assert_eq!(hops[0].1, "middle.in middle.out");
    for broker in [middle, left, right] {
        broker.stop().await;
    }
}
