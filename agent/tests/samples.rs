//! What leaves a node for training: what a policy names, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use common::onnx::{Does, bundle};
use common::{Acks, Coordinator, Inbox, Node};
use lamppost_models::ledger::Class;
use lamppost_models::message::{Label, SamplePolicy};
use lamppost_models::rollout::{Candidate, Exposure, Shadow, Share, TrialTerms};
use lamppost_models::{BootId, Sample, Timestamp, Value};

/// The model says so much more than the newest volume: what it says is no reading.
const MORE: f32 = 3_333.0;
const EVERY: &str = "{ all = 1 }";

/// The stream, and what it keeps.
fn stream(dir: &Path, sample: &str) -> String {
    let path = dir.join("factory.tar");
    std::fs::write(&path, bundle("1.0.0", Does::Persists { more: MORE })).unwrap();
    format!(
        r#"
        [[model]]
        name = "traffic-flow"
        bundle = "{}"
        [[stream]]
        name = "gate-7"
        model = "traffic-flow"
        window = {{ count = 3, hop = 1 }}
        label = {{ stream = "gate-7", field = "volume", ahead = 1 }}
        {sample}
        [stream.source]
        topic = "sensors/gate"
        decode = "json"
        time = "/ts"
        [stream.source.fields]
        volume = {{ at = "/v", kind = "number" }}
        noise = {{ at = "/n", kind = "number" }}
        plate = {{ at = "/p", kind = "text" }}
        "#,
        path.display()
    )
}

fn keeps(fields: &str, keep: &str, bytes: &str) -> String {
    format!(
        r#"sample = {{ consent = "council-2026-17", fields = [{fields}], keep = {keep}, bytes_per_day = "{bytes}" }}"#
    )
}

fn volume(hour: i64) -> f64 {
    7_000.125 + hour as f64
}

/// What of an hour's reading must not be seen: the text of its values.
fn secrets(hour: i64) -> [String; 2] {
    [
        format!("{}", 0.618_034 + hour as f64),
        format!("B-XY {}", 40_000 + hour),
    ]
}

async fn feed(node: &Node, hours: Range<i64>) {
    let mut client = node.client();
    for hour in hours {
        let [noise, plate] = secrets(hour);
        let ts = Timestamp::EPOCH.offset_ms(hour * 3_600_000);
        let message = format!(
            r#"{{"ts":"{ts}","v":{},"n":{noise},"p":"{plate}"}}"#,
            volume(hour)
        );
        client.publish("sensors/gate", message).await;
    }
}

/// Whether a text is in any message on the coordinator's broker.
fn on_the_wire(inbox: &Inbox, text: &str) -> Option<String> {
    let found = inbox.wire.iter().find(|(topic, payload)| {
        topic.contains(text)
            || payload
                .windows(text.len())
                .any(|part| part == text.as_bytes())
    });
    found.map(|(topic, payload)| format!("{text} in {topic}: {}", String::from_utf8_lossy(payload)))
}

/// The samples of a run, each once, by number.
fn samples(inbox: &Inbox, boot: BootId) -> Vec<Sample> {
    let all = inbox.samples.iter().flat_map(|batch| &batch.records);
    let of_boot = all.filter(|sample| sample.origin.as_ref().unwrap().boot == boot);
    // A batch may come twice.
    let by_seq = of_boot.map(|sample| (sample.origin.as_ref().unwrap().seq, sample.clone()));
    by_seq.collect::<BTreeMap<_, _>>().into_values().collect()
}

async fn until_samples(coordinator: &Coordinator, boot: BootId, count: usize) -> Vec<Sample> {
    coordinator
        .until("samples come", |inbox| {
            let samples = samples(inbox, boot);
            (samples.len() >= count).then_some(samples)
        })
        .await
}

/// Waits until the coordinator has a report that fits.
async fn until_reported<T>(
    coordinator: &Coordinator,
    boot: BootId,
    what: &str,
    fits: impl Fn(&lamppost_models::Reported) -> Option<T>,
) -> T {
    let newest = |inbox: &Inbox| {
        let mut reports = inbox.reported.iter().rev();
        reports.find(|report| report.boot == boot).and_then(&fits)
    };
    coordinator.until(what, newest).await
}

/// Live predictions, and some that were replayed after an outage.
async fn live_and_history(coordinator: &mut Coordinator, node: &Node) {
    let boot = node.ready.boot;
    feed(node, 0..12).await;
    coordinator
        .until("live", |inbox| (inbox.live.len() >= 10).then_some(()))
        .await;
    coordinator.stop_broker().await;
    feed(node, 12..30).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    client
        .reported(|report| report.streams[0].counters.predictions == 28)
        .await;
    coordinator.start_broker().await;
    coordinator
        .until("history", |inbox| (!inbox.batches.is_empty()).then_some(()))
        .await;
    until_reported(coordinator, boot, "all is told", |report| {
        let told = report.streams[0].counters.labels == 27 && report.outbox.waiting.is_empty();
        told.then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_policy_nothing_of_a_reading_is_on_the_wire() {
    let mut coordinator = Coordinator::start().await;
    let node = Node::start(|dir| coordinator.table() + &stream(dir, "")).await;
    live_and_history(&mut coordinator, &node).await;
    node.stop().await;
    coordinator.look(|inbox| {
        assert!(inbox.wire.len() > 20 && inbox.samples.is_empty());
        for name in ["noise", "plate", "\"volume\"", "\"fields\"", "/sample/"] {
            assert_eq!(on_the_wire(inbox, name), None);
        }
        for hour in 0..30 {
            let volume = volume(hour).to_string();
            for text in secrets(hour).iter().chain([&volume]) {
                assert_eq!(on_the_wire(inbox, text), None);
            }
        }
        // The look would find what is there.
        let said = (volume(11) + f64::from(MORE)).to_string();
        assert!(on_the_wire(inbox, &said).is_some());
    });
}

#[tokio::test]
async fn with_a_policy_its_fields_leave_with_their_labels_and_no_others() {
    let mut coordinator = Coordinator::start().await;
    let sample = keeps(r#""volume""#, EVERY, "100MB");
    let node = Node::start(|dir| coordinator.table() + &stream(dir, &sample)).await;
    let boot = node.ready.boot;
    live_and_history(&mut coordinator, &node).await;
    let came = until_samples(&coordinator, boot, 27).await;
    for (sample, hour) in came.iter().zip(2..) {
        assert_eq!(sample.ts.as_ms(), hour * 3_600_000);
        assert_eq!(sample.label, Some(Label::Value(volume(hour + 1))));
        let numbers: Vec<_> = sample
            .window
            .iter()
            .map(|reading| &reading.fields)
            .collect();
        for (fields, hour) in numbers.iter().zip(hour - 2..) {
            let all: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value))
                .collect();
            assert_eq!(all, [("volume", &Value::Number(volume(hour)))]);
        }
        assert_eq!(numbers.len(), 3);
        let prediction = sample.prediction.as_ref().unwrap();
        assert_eq!((prediction.boot, prediction.ts), (boot, sample.ts));
        let origin = sample.origin.as_ref().unwrap();
        assert_eq!(origin.policy, SamplePolicy::All);
        assert_eq!(origin.consent.as_str(), "council-2026-17");
    }
    // The ledger finds all of them: numbered, delivered, and none waits.
    until_reported(
        &coordinator,
        boot,
        "27 samples, none of them waits",
        |report| {
            let counters = report.streams[0].counters;
            (counters.samples == 27 && report.outbox.waiting.is_empty()).then_some(())
        },
    )
    .await;

    // The last one waits for its label: a clean stop keeps it as it is, and the next run sends it.
    let dir = node.stop().await;
    let node = Node::start_in(dir, |dir| coordinator.table() + &stream(dir, "")).await;
    let came = until_samples(&coordinator, boot, 28).await;
    assert_eq!(
        (came[27].ts.as_ms(), &came[27].label),
        (29 * 3_600_000, &None)
    );
    node.stop().await;
    coordinator.look(|inbox| {
        for name in ["noise", "plate"] {
            assert_eq!(on_the_wire(inbox, name), None);
        }
        for text in (0..30).flat_map(secrets) {
            assert_eq!(on_the_wire(inbox, &text), None);
        }
        assert!(on_the_wire(inbox, "7005.125").is_some());
    });
}

#[tokio::test]
async fn a_label_whose_field_may_not_leave_stays() {
    let coordinator = Coordinator::start().await;
    let sample = keeps(r#""noise""#, EVERY, "100MB") + "\npublish = { live = false }";
    let node = Node::start(|dir| coordinator.table() + &stream(dir, &sample)).await;
    feed(&node, 0..12).await;
    let came = until_samples(&coordinator, node.ready.boot, 10).await;
    // Neither do predictions that are not published, nor does anything wait for a label that stays.
    assert!(
        came.iter()
            .all(|sample| sample.label.is_none() && sample.prediction.is_none())
    );
    node.stop().await;
    coordinator.look(|inbox| {
        for hour in 0..12 {
            assert_eq!(on_the_wire(inbox, &volume(hour).to_string()), None);
        }
        assert!(on_the_wire(inbox, &secrets(5)[0]).is_some());
    });
}

#[tokio::test]
async fn samples_that_wait_for_the_link_are_told_by_number_and_come_after() {
    let coordinator = Coordinator::start().await;
    coordinator.acknowledge(Acks::None);
    let sample = keeps(r#""volume""#, EVERY, "100MB");
    let table = coordinator
        .table()
        .replace("ack_timeout = \"1s\"", "ack_timeout = \"1h\"");
    let node = Node::start(|dir| table + &stream(dir, &sample)).await;
    let boot = node.ready.boot;
    feed(&node, 0..20).await;
    until_reported(&coordinator, boot, "17 samples wait", |report| {
        let mut waiting = report.outbox.waiting.iter();
        let waiting = waiting.find(|waiting| waiting.class == Class::Sample)?;
        let counters = report.streams[0].counters;
        let whole = waiting.ranges == [(0, 16)] && counters.samples == 17;
        (whole && waiting.boot == boot).then_some(())
    })
    .await;
    let dir = node.stop().await;
    coordinator.acknowledge(Acks::All);
    let node = Node::start_in(dir, |dir| coordinator.table() + &stream(dir, &sample)).await;
    let came = until_samples(&coordinator, boot, 18).await;
    assert_eq!(came.len(), 18);
    until_reported(&coordinator, node.ready.boot, "nothing waits", |report| {
        report.outbox.waiting.is_empty().then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn the_days_bytes_hold_over_a_restart_and_what_they_cost_is_counted() {
    let coordinator = Coordinator::start().await;
    let sample = keeps(r#""volume""#, EVERY, "64KB");
    let today = || {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs()
            / 86_400
    };
    let begun = today();
    let node = Node::start(|dir| coordinator.table() + &stream(dir, &sample)).await;
    let first = node.ready.boot;
    feed(&node, 0..200).await;
    until_reported(&coordinator, first, "the budget is used up", |report| {
        let counters = report.streams[0].counters;
        let all = counters.samples + counters.samples_over_budget >= 197;
        (all && counters.samples > 0 && counters.samples_over_budget > 0).then_some(())
    })
    .await;
    let dir = node.stop().await;
    let note = std::fs::read_to_string(dir.path().join("data/outbox/sampled")).unwrap();
    assert!(note.starts_with("lamppost-sampled 1 gate-7 "), "{note}");
    let node = Node::start_in(dir, |dir| coordinator.table() + &stream(dir, &sample)).await;
    let second = node.ready.boot;
    feed(&node, 200..400).await;
    until_reported(&coordinator, second, "all are judged", |report| {
        let counters = report.streams[0].counters;
        (counters.samples + counters.samples_over_budget >= 197).then_some(())
    })
    .await;
    until_reported(&coordinator, second, "all came", |report| {
        report.outbox.waiting.is_empty().then_some(())
    })
    .await;
    node.stop().await;
    if begun == today() {
        coordinator.look(|inbox| {
            let (first, second) = (samples(inbox, first), samples(inbox, second));
            let all = first.iter().chain(&second);
            let bytes: usize = all.map(|one| serde_json::to_vec(one).unwrap().len()).sum();
            assert!(bytes > 1_000 && bytes <= 64_000, "{bytes}");
        });
    }
}

#[tokio::test]
async fn windows_on_which_a_candidate_says_something_else_are_kept() {
    let coordinator = Coordinator::start().await;
    let sample = keeps(r#""volume""#, "{ disagreeing = 1 }", "100MB");
    let node = Node::start(|dir| coordinator.table() + &stream(dir, &sample)).await;
    let boot = node.ready.boot;
    feed(&node, 0..10).await;
    until_reported(&coordinator, boot, "nothing is beside it", |report| {
        let counters = report.streams[0].counters;
        (counters.predictions == 8 && counters.samples == 0).then_some(())
    })
    .await;
    let offer = |version: &str, more: f32| {
        let bytes = bundle(version, Does::Persists { more });
        coordinator.offer(&bytes, &bytes)
    };
    let candidate = Candidate {
        bundle: offer("1.1.0", MORE + 7.0),
        rollout: "0000000000000007".parse().unwrap(),
        exposure: Exposure {
            share: Share::ALL,
            ..Exposure::default()
        },
        control: Share::NONE,
    };
    let shadow = Shadow {
        windows: 1_000,
        cpu_share: 1.0,
        ..Shadow::default()
    };
    let mut release = Coordinator::release("traffic-flow", 1, offer("1.0.0", MORE));
    release.candidate = Some(candidate);
    release.trial = Some(TrialTerms {
        shadow: Some(shadow),
        probation: None,
        ..TrialTerms::default()
    });
    coordinator.publish(&release).await;
    let mut hour = 10;
    let came = loop {
        feed(&node, hour..hour + 5).await;
        hour += 5;
        let came = coordinator.look(|inbox| samples(inbox, boot));
        if came.iter().filter(|sample| sample.label.is_some()).count() >= 10 {
            break came;
        }
        assert!(hour < 1_000, "the candidate runs beside the active version");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    for sample in came {
        let at = sample.ts.as_ms() / 3_600_000;
        assert_eq!(sample.origin.unwrap().policy, SamplePolicy::Disagreeing);
        let said = sample.prediction.unwrap();
        assert_eq!(said.model.version.to_string(), "1.0.0");
        assert!(
            sample
                .label
                .is_none_or(|label| label == Label::Value(volume(at + 1)))
        );
    }
    node.stop().await;
}
