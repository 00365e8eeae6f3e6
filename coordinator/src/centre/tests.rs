use std::path::Path;

use lamppost_models::message::PredictionRange;
use lamppost_models::{Ack, BootId};
use lamppost_store::StoreError;
use tokio_util::task::TaskTracker;

use super::*;
use crate::bus::Watch;
use crate::config::{Broker, Config, Embedded};
use crate::state::testing::{all, disk_full, open};

/// An owner with an embedded broker, and what is heard of its acknowledgements.
struct World {
    centre: Centre,
    messages: mpsc::Sender<Message>,
    acks: Watch,
    bus: Bus,
    stop: CancellationToken,
    owner: std::thread::JoinHandle<()>,
}

impl World {
    async fn start(dir: &Path) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let broker = Broker::Embedded(Embedded {
            listen,
            ..Embedded::default()
        });
        let config = Config {
            broker,
            ..Config::default()
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (bus, _) = Bus::start(&config, &tasks, &stop).await.unwrap();
        let acks = bus.watch("lamppost/v1/nodes/+/+/ack").await.unwrap();
        let (messages, inbox) = mpsc::channel(8);
        let (centre, owner) = Owner::new(dir.join("state"), open(dir), inbox, bus.clone());
        let (runtime, until) = (tokio::runtime::Handle::current(), stop.clone());
        let owner = std::thread::spawn(move || runtime.block_on(owner.run(until)));
        Self {
            centre,
            messages,
            acks,
            bus,
            stop,
            owner,
        }
    }

    async fn predict(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let payload = format!(
                r#"{{"v":1,"id":"0000000000000001-{number}","ts":"2026-11-24T08:00:00Z","stream":"i94","seq":{number},
                "boot":"0000000000000001","latency_us":1,"replay":false,"model":{{"name":"flow","version":"1.0.0",
                "digest":"sha256:fc4883270efe2d9945b82200517e4003b03326e1723fbe75a499148ad5652ef4"}}}}"#
            );
            let topic = "lamppost/v1/nodes/s/a/pred/i94".to_owned();
            self.messages
                .send(Message {
                    topic,
                    payload: payload.into(),
                    retain: false,
                })
                .await
                .unwrap();
        }
    }

    /// Waits until exactly the numbers up to `last` are acknowledged, each once.
    async fn acked(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        let mut acked = Vec::new();
        while acked.len() < numbers.clone().count() {
            let message = tokio::time::timeout(Duration::from_secs(30), self.acks.recv())
                .await
                .unwrap()
                .unwrap();
            let ack: Ack = serde_json::from_slice(&message.payload).unwrap();
            for PredictionRange { boot, from, to } in ack.predictions {
                assert_eq!(boot, BootId::from_u64(1));
                acked.extend(from..=to);
            }
        }
        acked.sort_unstable();
        assert_eq!(acked, numbers.collect::<Vec<_>>());
    }

    async fn stored(&self) -> usize {
        let path = lamppost_models::NodePath {
            site: "s".parse().unwrap(),
            node: "a".parse().unwrap(),
        };
        self.centre
            .call(move |state| state.predictions(&path, &all()).unwrap())
            .await
            .unwrap()
            .predictions
            .len()
    }

    async fn fail_next(&self, error: StoreError) {
        self.centre
            .call(|state| state.fail_next_commit = Some(error))
            .await
            .unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::task::spawn_blocking(move || self.owner.join().unwrap())
            .await
            .unwrap();
        self.bus.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_acknowledges_nothing_and_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::start(dir.path()).await;
    world
        .centre
        .call(|state| state.counters.note("json"))
        .await
        .unwrap();
    world.fail_next(disk_full()).await;
    world.predict(0..5).await;
    world.acked(0..=4).await;
    assert_eq!(world.stored().await, 5);
    let counted = world
        .centre
        .call(|state| state.counters.of("json"))
        .await
        .unwrap();
    assert_eq!(counted, 1, "counts outlive a store that is opened anew");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_too_much_is_taken_in_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::start(dir.path()).await;
    world
        .fail_next(StoreError::Commit {
            writes: 5_000,
            bytes: 1,
            writes_max: 4_096,
            bytes_max: 1,
        })
        .await;
    world.predict(0..20).await;
    world.acked(0..=19).await;
    assert_eq!(world.stored().await, 20);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_queue_at_the_end_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::start(dir.path()).await;
    world.predict(0..8).await;
    world.stop().await;
    let path = lamppost_models::NodePath {
        site: "s".parse().unwrap(),
        node: "a".parse().unwrap(),
    };
    assert_eq!(
        open(dir.path())
            .predictions(&path, &all())
            .unwrap()
            .predictions
            .len(),
        8
    );
}
