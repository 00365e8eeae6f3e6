//! Retained messages over restarts: stops, kills, damage, and a disk that refuses.

use crate::{
    common::{DEADLINE, Raw, eventually, in_time, open_config, publish_bytes, start, with_limits},
    observe::{http, request},
};
use lamppost_broker::{Broker, Config, Publish, PublishProperties, StartError};
use lamppost_store::{Options, Store, Write};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use tokio::time::sleep;

fn with_state(dir: &Path) -> Config {
    Config {
        state_dir: Some(dir.join("state")),
        retained_flush_interval: Duration::from_millis(10),
        ..open_config()
    }
}

/// Everything that is retained, as a new subscriber gets it: so many messages and no more.
async fn retained(address: SocketAddr, count: usize) -> HashMap<String, Vec<u8>> {
    let mut client = Raw::named(address, true, "reader").await;
    assert_eq!(client.subscribe(&[("#", 0)]).await, [0]);
    let mut all = HashMap::new();
    for _ in 0..count {
        let message = client.receive().await;
        assert!(message.retain);
        assert!(all.insert(message.topic, message.payload).is_none());
    }
    client.ping().await;
    all
}

fn map(entries: &[(&str, &str)]) -> HashMap<String, Vec<u8>> {
    let own = |(topic, payload): &(&str, &str)| ((*topic).to_owned(), payload.as_bytes().to_vec());
    entries.iter().map(own).collect()
}

async fn publish(broker: &Broker, entries: &[(&str, &str)]) {
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let all = entries
        .iter()
        .map(|(topic, payload)| Publish::new(*topic, (*payload).to_owned()).retained());
    publisher.publish_many(all).await.unwrap();
}

async fn saved(broker: &Broker) {
    eventually(broker, "saving", |stats| stats.retained_unsaved == 0).await;
}

/// The program, with the addresses it names.
struct Program {
    child: Child,
    mqtt: SocketAddr,
    metrics: SocketAddr,
}

impl Program {
    /// Starts it through a shell in which a file that grows over the limit is an error and not the end.
    fn start(dir: &Path) -> Self {
        let file = dir.join("broker.toml");
        let state = dir.join("state");
        let text = format!(
            "listen = \"127.0.0.1:0\"\nallow_anonymous = true\nmetrics_listen = \"127.0.0.1:0\"\n\
             retained_flush_interval = \"50ms\"\nstate_dir = {:?}\n",
            state.display().to_string()
        );
        fs::write(&file, text).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" --config \"$1\""])
            .arg(env!("CARGO_BIN_EXE_lamppost-broker"))
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut after = |prefix: &str| {
            let line = lines.next().unwrap().unwrap();
            line.strip_prefix(prefix).unwrap().to_owned()
        };
        let mqtt = after("listening on ").parse().unwrap();
        let metrics = after("metrics on http://");
        let metrics = metrics.strip_suffix("/metrics").unwrap().parse().unwrap();
        Self {
            child,
            mqtt,
            metrics,
        }
    }

    async fn metric(&self, name: &str) -> u64 {
        let (_, _, page) = http(self.metrics, &request("GET", "/metrics")).await;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("lamppost_broker_{name} ")));
        line.unwrap().parse().unwrap()
    }

    async fn until(&self, name: &str, condition: impl Fn(u64) -> bool) {
        let since = Instant::now();
        loop {
            let value = self.metric(name).await;
            if condition(value) {
                return;
            }
            assert!(since.elapsed() < DEADLINE, "{name} is {value}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn publish(&self, messages: impl Iterator<Item = (String, Vec<u8>)>) {
        let mut client = Raw::named(self.mqtt, false, "filler").await;
        let mut bytes = Vec::new();
        for (topic, payload) in messages {
            bytes.extend(publish_bytes(false, &topic, &payload, 0, true, 0));
            if bytes.len() > 16_384 {
                client.send(&bytes).await;
                client.ping().await;
                bytes.clear();
            }
        }
        client.send(&bytes).await;
        client.ping().await;
    }

    fn limit_files(&self, current: Option<u64>) {
        let pid = Pid::from_child(&self.child);
        let limit = Rlimit {
            current,
            maximum: None,
        };
        prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    }
}

impl Drop for Program {
    /// SIGKILL, whatever the test came to.
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path());
    let value = |n: usize| (format!("r/{n}"), format!("value {n}").into_bytes());
    program.publish((0..10_000).map(value)).await;
    program
        .until("retained_unsaved", |unsaved| unsaved == 0)
        .await;
    // Some are cleared, some replaced: the disk must not bring the old ones back.
    let cleared = (0..100).map(|n| (format!("r/{n}"), Vec::new()));
    let replaced = (100..200).map(|n| (format!("r/{n}"), b"new".to_vec()));
    program.publish(cleared.chain(replaced)).await;
    program
        .until("retained_unsaved", |unsaved| unsaved == 0)
        .await;
    assert_eq!(program.metric("retained_messages").await, 9_900);
    drop(program);

    let since = Instant::now();
    let program = Program::start(dir.path());
    println!(
        "started with 9,900 retained messages in {:?}",
        since.elapsed()
    );
    assert_eq!(program.metric("retained_unsaved").await, 0);
    let mut late = Raw::named(program.mqtt, true, "late").await;
    assert_eq!(late.subscribe(&[("r/+", 0)]).await, [0]);
    let mut seen = HashSet::new();
    while seen.len() < 9_900 {
        let message = late.receive().await;
        let n: usize = message.topic[2..].parse().unwrap();
        let wanted = match n {
            0..100 => panic!("{n} was cleared"),
            100..200 => b"new".to_vec(),
            _ => value(n).1,
        };
        assert!(message.retain && message.payload == wanted, "{message:?}");
        assert!(seen.insert(n), "twice");
    }
    late.ping().await;
    // Retain Handling over the restored ones: 2 never, 1 only for a new subscription, 0 always.
    let mut client = Raw::named(program.mqtt, true, "client").await;
    assert_eq!(client.subscribe(&[("r/500", 0x20)]).await, [0]);
    client.ping().await;
    assert_eq!(client.subscribe(&[("r/500", 0x10)]).await, [0]);
    client.ping().await;
    assert_eq!(client.subscribe(&[("r/501", 0x10)]).await, [0]);
    assert_eq!(client.receive().await.payload, b"value 501");
    assert_eq!(client.subscribe(&[("r/500", 0)]).await, [0]);
    assert_eq!(client.receive().await.payload, b"value 500");
}

#[tokio::test]
async fn a_stop_writes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        retained_flush_interval: Duration::from_hours(1),
        ..with_state(dir.path())
    };
    for round in 0..3 {
        let (broker, address) = start(config.clone()).await;
        if round == 1 {
            let wanted = map(&[("a", "1"), ("b", "2")]);
            assert_eq!(retained(address, 2).await, wanted);
            publish(&broker, &[("a", ""), ("c", "3")]).await;
            assert_eq!(broker.stats().retained_unsaved, 2);
        } else if round == 0 {
            publish(&broker, &[("a", "1"), ("b", "2")]).await;
        } else {
            assert_eq!(retained(address, 2).await, map(&[("b", "2"), ("c", "3")]));
            assert_eq!(broker.stats().retained_unsaved, 0);
        }
        in_time("stopping", broker.stop()).await;
    }
}

#[tokio::test]
async fn properties_qos_and_expiry_survive() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = start(with_state(dir.path())).await;
    let (publisher, _receiver) = broker.link("own").unwrap().split();
    let message = |topic: &str, expiry_s: u64| {
        let properties = PublishProperties {
            content_type: Some("text".to_owned()),
            message_expiry: Some(Duration::from_secs(expiry_s)),
            ..PublishProperties::default()
        };
        Publish::new(topic, "x")
            .retained()
            .qos(lamppost_broker::QoS::AtLeastOnce)
            .properties(properties)
    };
    publisher.publish(message("long", 600)).await.unwrap();
    publisher.publish(message("short", 1)).await.unwrap();
    saved(&broker).await;
    broker.stop().await;
    let over = SystemTime::now() + Duration::from_millis(2_100);
    while SystemTime::now() < over {
        sleep(Duration::from_millis(50)).await;
    }

    let (broker, address) = start(with_state(dir.path())).await;
    let stats = broker.stats();
    assert_eq!((stats.retained_count, stats.expired), (1, 1));
    let mut client = Raw::named(address, true, "client").await;
    assert_eq!(client.subscribe(&[("+", 1)]).await, [1]);
    let kept = client.receive().await;
    assert_eq!(
        (kept.topic.as_str(), kept.qos, kept.retain),
        ("long", 1, true)
    );
    let expiry = kept
        .properties
        .windows(5)
        .find(|five| five[0] == 2)
        .unwrap();
    let left = u32::from_be_bytes(expiry[1..].try_into().unwrap());
    assert!((500..=598).contains(&left), "{left}: the time away counts");
    assert!(
        kept.properties
            .windows(7)
            .any(|bytes| bytes == b"\x03\x00\x04text")
    );
    saved(&broker).await;
    broker.stop().await;
    let store = Store::open(dir.path().join("state/retained"), &Options::state())
        .unwrap()
        .store;
    assert_eq!(
        store.get(b"short").unwrap(),
        None,
        "what has expired is deleted"
    );
}

#[tokio::test]
async fn records_that_cannot_be_read_are_left_out_and_old_ones_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/retained");
    let open = || Store::open(&path, &Options::state()).unwrap().store;
    fs::create_dir_all(dir.path().join("state")).unwrap();
    let store = open();
    store
        .commit(&[
            Write::put("good", b"\x01\x01\0\0\0\0old".to_vec()),
            Write::put("bad", b"\x63".to_vec()),
            Write::put("no/+/topic", b"\x01\x01\0\0\0\0x".to_vec()),
        ])
        .unwrap();
    store.close();
    let (broker, address) = start(with_state(dir.path())).await;
    assert_eq!(broker.stats().retained_corrupt, 2);
    assert_eq!(retained(address, 1).await, map(&[("good", "old")]));
    saved(&broker).await;
    broker.stop().await;
    let keys: Vec<_> = open()
        .scan_prefix(b"")
        .map(|entry| entry.unwrap().0)
        .collect();
    assert_eq!(keys, [b"good"]);
}

#[tokio::test]
async fn a_store_damaged_as_a_whole_is_moved_away() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = start(with_state(dir.path())).await;
    publish(&broker, &[("a", "1")]).await;
    broker.stop().await;
    let log = dir.path().join("state/retained/db");
    fs::write(&log, vec![0x5a; 100_000]).unwrap();

    let (broker, address) = start(with_state(dir.path())).await;
    let stats = broker.stats();
    assert_eq!((stats.retained_stores_lost, stats.retained_count), (1, 0));
    assert!(dir.path().join("state/quarantine").is_dir());
    publish(&broker, &[("b", "2")]).await;
    broker.stop().await;
    let (broker, address_2) = start(with_state(dir.path())).await;
    assert_ne!(address, address_2);
    assert_eq!(broker.stats().retained_stores_lost, 0);
    assert_eq!(retained(address_2, 1).await, map(&[("b", "2")]));
    broker.stop().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Broker::start(with_state(&dir.path().join("file")))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StartError::State { .. }));
    assert!(
        text.contains("file/state") && text.contains("state_dir"),
        "{text}"
    );

    let (broker, _) = start(with_state(dir.path())).await;
    let error = Broker::start(with_state(dir.path())).await.unwrap_err();
    assert!(matches!(error, StartError::State { .. }), "in use: {error}");
    broker.stop().await;
}

#[tokio::test]
async fn what_is_too_large_for_the_disk_stays_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = with_limits(|limits| limits.payload_bytes_max = 2 * 1024 * 1024);
    config.state_dir = Some(dir.path().join("state"));
    config.retained_flush_interval = Duration::from_millis(10);
    let (broker, address) = start(config.clone()).await;
    let (long, large) = ("t".repeat(257), "x".repeat(1_100_000));
    publish(&broker, &[("a", "small"), (&"u".repeat(256), "x")]).await;
    saved(&broker).await;
    publish(&broker, &[("a", &large), (&long, "x")]).await;
    saved(&broker).await;
    assert_eq!(broker.stats().retained_unsavable, 2);
    let kept = retained(address, 3).await;
    assert_eq!(kept.len(), 3);
    assert_eq!(kept["a"].len(), large.len());
    broker.stop().await;
    // The small message is gone from the disk as well: it is not what the topic had.
    let (broker, address) = start(config).await;
    assert_eq!(retained(address, 1).await, map(&[(&"u".repeat(256), "x")]));
    broker.stop().await;
}

#[tokio::test]
async fn caps_that_were_lowered_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = start(with_state(dir.path())).await;
    publish(&broker, &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    broker.stop().await;
    let mut config = with_state(dir.path());
    config.limits.retained_count_max = 2;
    let (broker, address) = start(config).await;
    publish(&broker, &[("d", "4"), ("a", "5")]).await;
    assert_eq!(broker.stats().retained_refused, 1);
    let wanted = map(&[("a", "5"), ("b", "2"), ("c", "3")]);
    assert_eq!(retained(address, 3).await, wanted);
    broker.stop().await;
}

#[tokio::test]
async fn a_disk_that_refuses_is_tried_until_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path());
    program
        .publish([("first".to_owned(), b"1".to_vec())].into_iter())
        .await;
    program
        .until("retained_unsaved", |unsaved| unsaved == 0)
        .await;
    let size = fs::metadata(dir.path().join("state/retained/db"))
        .unwrap()
        .len();
    program.limit_files(Some(size + 100_000));
    let value = |n: usize| (format!("r/{n}"), vec![b'x'; 4_000]);
    program.publish((0..1_000).map(value)).await;
    program
        .until("retained_save_failures_total", |count| count > 0)
        .await;
    // The memory serves on, and goes on taking.
    program
        .publish(
            [
                ("first".to_owned(), Vec::new()),
                ("last".to_owned(), b"2".to_vec()),
            ]
            .into_iter(),
        )
        .await;
    assert_eq!(program.metric("retained_messages").await, 1_001);
    assert_eq!(retained(program.mqtt, 1_001).await.len(), 1_001);
    assert!(program.metric("retained_unsaved").await > 0);
    program.limit_files(None);
    program
        .until("retained_unsaved", |unsaved| unsaved == 0)
        .await;
    drop(program);

    let program = Program::start(dir.path());
    let kept = retained(program.mqtt, 1_001).await;
    assert_eq!(kept.len(), 1_001);
    assert!(!kept.contains_key("first") && kept["last"] == b"2");
}
