//! A coordinator that is killed at random points while a node sends: what was acknowledged is stored, once, and the
//! ledger accounts for the rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lamppost_coordinator::api::{LedgerView, StoredPredictions, StoredSample};
use lamppost_models::ledger::{Class, EventBatch, LedgerEvent, LedgerEventKind, LossReason, Lost};
use lamppost_models::message::{
    ReportedLane, ReportedOutbox, ReportedStream, SampleBatch, StreamCounters,
};
use lamppost_models::{Ack, Prediction, PredictionBatch, Reported, V1};
use rumqttc::v5::mqttbytes::QoS;
use support::server::Server;
use support::{Heard, Node, ROOT, epoch, now, path, prediction, sample};

/// Lives of the coordinator that end by SIGKILL.
const KILLS: u64 = 12;
/// What a life adds: records sent live, batches, records in each, as many samples, and one record that the node gives up.
const LIVE: u64 = 30;
const BATCHES: u64 = 5;
const BATCH: u64 = 4;

/// What a node keeps until it is acknowledged.
#[derive(Default)]
struct Outbox {
    next: u64,
    live: BTreeSet<u64>,
    batches: BTreeMap<u64, (String, Vec<u8>)>,
    next_batch: u64,
    next_sample: u64,
    lost: u64,
}

impl Outbox {
    /// Makes the records of a life. Odd batches are compressed.
    fn produce(&mut self, node: &Node) {
        for _ in 0..LIVE {
            self.live.insert(self.next);
            self.next += 1;
        }
        for _ in 0..BATCHES {
            let records = self.next..self.next + BATCH;
            self.next += BATCH;
            let record = |number| Prediction {
                replay: true,
                ..prediction(node.boot, number)
            };
            let batch = PredictionBatch {
                v: V1,
                epoch: epoch(),
                number: self.next_batch,
                stream: "i94".parse().unwrap(),
                records: records.map(record).collect(),
            };
            let mut payload = serde_json::to_vec(&batch).unwrap();
            if self.next_batch % 2 == 1 {
                payload = zstd::bulk::compress(&payload, 3).unwrap();
            }
            self.keep("pred-hist/i94", payload);
            let samples = self.next_sample..self.next_sample + BATCH;
            self.next_sample += BATCH;
            let batch = SampleBatch {
                v: V1,
                epoch: epoch(),
                number: self.next_batch,
                stream: "i94".parse().unwrap(),
                records: samples.map(|seq| sample(node.boot, seq)).collect(),
            };
            self.keep("sample/i94", serde_json::to_vec(&batch).unwrap());
        }
        let lost = Lost {
            class: Class::Prediction,
            stream: "i94".parse().unwrap(),
            boot: node.boot,
            from: self.next,
            to: self.next,
            records: 1,
            reason: LossReason::Evicted,
        };
        self.next += 1;
        self.lost += 1;
        let event = LedgerEvent {
            v: V1,
            at: now(),
            event: LedgerEventKind::Lost(lost),
        };
        let batch = EventBatch {
            v: V1,
            epoch: epoch(),
            number: self.next_batch,
            records: vec![event],
        };
        self.keep("events", serde_json::to_vec(&batch).unwrap());
    }

    fn keep(&mut self, below: &str, payload: Vec<u8>) {
        self.batches
            .insert(self.next_batch, (below.to_owned(), payload));
        self.next_batch += 1;
    }

    fn forget(&mut self, ack: &Ack) {
        for range in &ack.predictions {
            self.live
                .retain(|number| !(range.from..=range.to).contains(number));
        }
        for range in &ack.batches {
            self.batches
                .retain(|number, _| !(range.from..=range.to).contains(number));
        }
    }

    /// Sends all that is kept and hears acknowledgements, until nothing is kept or the connection breaks.
    async fn exchange(&mut self, node: &mut Node) {
        let topic = |below: &str| format!("{ROOT}/nodes/{}/{below}", node.path);
        let live = self.live.iter().map(|number| {
            let json = serde_json::to_vec(&prediction(node.boot, *number)).unwrap();
            (topic("pred/i94"), json)
        });
        let batches = self.batches.values();
        let batches = batches.map(|(below, payload)| (topic(below), payload.clone()));
        for (topic, payload) in live.chain(batches).collect::<Vec<_>>() {
            let sent = node
                .client
                .mqtt
                .publish(topic, QoS::AtLeastOnce, false, payload);
            if sent.await.is_err() {
                return;
            }
        }
        let acks = format!("{ROOT}/nodes/{}/ack", node.path);
        while !self.live.is_empty() || !self.batches.is_empty() {
            match node.client.hear().await {
                Heard::Message { topic, payload, .. } if topic == acks => {
                    self.forget(&serde_json::from_slice(&payload).unwrap());
                }
                Heard::Lost(_) => return,
                Heard::Message { .. }
                | Heard::Connected
                | Heard::Subscribed(_)
                | Heard::Published(_) => {}
            }
        }
    }
}

/// Says that the node used so many numbers, and holds nothing.
async fn report(node: &Node, used: u64, samples: u64) {
    let stream = ReportedStream {
        name: "i94".parse().unwrap(),
        model: "traffic-flow".parse().unwrap(),
        last_reading: None,
        stale_since: None,
        local: false,
        drift: None,
        counters: StreamCounters {
            predictions: used,
            samples,
            ..StreamCounters::default()
        },
    };
    let lane = |class| ReportedLane {
        class,
        batches: 0,
        records: 0,
        bytes: 0,
        cap_bytes: 1 << 20,
        oldest: None,
    };
    let reported = Reported {
        v: V1,
        boot: node.boot,
        at: now(),
        models: Vec::new(),
        streams: vec![stream],
        outbox: ReportedOutbox {
            lanes: Class::ALL.map(lane).to_vec(),
            ..ReportedOutbox::default()
        },
        trust: None,
    };
    node.say_retained("reported", &reported).await;
}

/// The node's ledger, once it shows what was reported.
async fn ledger(server: &Server, produced: u64) -> (Option<i32>, LedgerView) {
    support::eventually("a report in the ledger", async || {
        let output = server.run(&["ledger", "minneapolis/gw-1", "--json"]);
        let mut views: Vec<LedgerView> = serde_json::from_slice(&output.stdout).unwrap();
        let view = views.remove(0);
        let row = view.account.streams.first()?;
        (view.account.reported && row.tally.produced == produced)
            .then(|| (output.status.code(), view.clone()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_points_it_stores_once_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::default();
    // Steps of 37 scatter the moments over 0 to 120 ms: before, within and after the first rounds.
    let moment = |life: u64| Duration::from_millis((life * 37 + 11) % 120);
    for life in 0..KILLS {
        let server = Server::start(dir.path());
        let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
        outbox.produce(&node);
        tokio::select! {
            () = tokio::time::sleep(moment(life)) => {}
            () = outbox.exchange(&mut node) => {}
        }
        server.kill();
    }
    let server = Server::start(dir.path());
    let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
    outbox.exchange(&mut node).await;
    assert!(outbox.live.is_empty() && outbox.batches.is_empty());

    let page = ["prediction", "ls", "minneapolis/gw-1", "--limit", "1000"];
    let found: StoredPredictions = server.json(&page);
    assert_eq!(found.older, None);
    let rows = found.predictions.iter();
    let mut numbers: Vec<u64> = rows.map(|row| row.prediction.seq).collect();
    numbers.sort_unstable();
    let file = dir.path().join("samples.ndjson");
    server.good(&["samples", "export", "-o", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text.lines().map(serde_json::from_str::<StoredSample>);
    let samples: Vec<u64> = rows.map(|row| row.unwrap().id.seq).collect();
    assert_eq!(samples, (0..outbox.next_sample).collect::<Vec<_>>());
    // The last number of each life was given up.
    let a_life = LIVE + BATCHES * BATCH + 1;
    let made = (0..outbox.next).filter(|number| number % a_life != a_life - 1);
    assert_eq!(numbers, made.collect::<Vec<_>>());

    report(&node, outbox.next, outbox.next_sample).await;
    let (code, view) = ledger(&server, outbox.next).await;
    let tally = view.account.streams[0].tally;
    assert_eq!((code, view.path), (Some(0), path("gw-1")));
    assert_eq!(
        (
            tally.delivered,
            tally.evicted,
            tally.missing,
            tally.in_flight
        ),
        (outbox.next - KILLS, KILLS, 0, 0)
    );

    let samples = &view.account.streams[1];
    assert_eq!(samples.class, Class::Sample);
    let whole = outbox.next_sample;
    assert_eq!(
        (samples.tally.produced, samples.tally.delivered),
        (whole, whole)
    );

    // Numbers that the node used and does not account for.
    report(&node, outbox.next + 1, outbox.next_sample + 2).await;
    let (code, view) = ledger(&server, outbox.next + 1).await;
    assert_eq!((code, view.account.missing.len()), (Some(7), 2));
    let samples = &view.account.missing[1];
    assert_eq!(
        (samples.class, samples.from, samples.to),
        (Class::Sample, outbox.next_sample, outbox.next_sample + 1)
    );
    let output = server.run(&["ledger", "--since", "1h", "--stream", "i94"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let wanted = format!("numbers {0} to {0} (1)", outbox.next);
    assert!(
        output.status.code() == Some(7) && text.contains(&wanted),
        "{text}"
    );
    let other = server.good(&["ledger", "--stream", "other"]);
    assert!(!other.contains("missing:"), "{other}");
    server.terminate();
}
