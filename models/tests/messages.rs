//! Messages: versions, fields that a later writer adds, and bytes that are no message.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use common::{golden, golden_json};
use lamppost_models::ledger::{Class, Durability, EventBatch, LedgerEventKind, LossReason};
use lamppost_models::message::{
    Label, NodeRow, NodeState, PredictionBatch, Quality, SampleBatch, TrialState, Verdict,
};
use lamppost_models::{Ack, Envelope, Prediction, Reading, Release, Reported, Status, Value};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

/// A message type: its golden file, the key of its version, and how it reads and writes.
struct Kind {
    file: &'static str,
    version: &'static str,
    read: fn(&Json) -> Result<Json, String>,
}

const fn kind<T: Serialize + DeserializeOwned>(file: &'static str, version: &'static str) -> Kind {
    Kind {
        file,
        version,
        read: read::<T>,
    }
}

/// Reads a message and writes it again.
fn read<T: Serialize + DeserializeOwned>(json: &Json) -> Result<Json, String> {
    let message: T = serde_json::from_str(&json.to_string()).map_err(|error| error.to_string())?;
    let text = serde_json::to_string(&message).expect("it writes");
    Ok(serde_json::from_str(&text).expect("JSON"))
}

const KINDS: [Kind; 10] = [
    kind::<Prediction>("prediction-forecast.json", "v"),
    kind::<PredictionBatch>("prediction-batch.json", "v"),
    kind::<SampleBatch>("sample-batch.json", "v"),
    kind::<Ack>("ack.json", "v"),
    kind::<Status>("status-degraded.json", "v"),
    kind::<Reported>("reported.json", "v"),
    kind::<Reported>("reported-ledger.json", "v"),
    kind::<EventBatch>("event-batch.json", "v"),
    kind::<Envelope>("release-envelope.json", "v"),
    kind::<Release>("release.json", "schema"),
];

/// Adds an unknown field to every object within `json`, except where the keys themselves are data.
fn add_unknown(json: &mut Json) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(add_unknown),
        Json::Object(map) => {
            for (name, inner) in map.iter_mut() {
                if name != "fields" {
                    add_unknown(inner);
                }
            }
            map.insert(
                "added_later".to_owned(),
                json!({"by": ["a", "newer", "writer"], "n": 1}),
            );
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

#[test]
fn fields_that_a_newer_writer_adds_anywhere_are_ignored() {
    for kind in KINDS {
        let mut newer = golden_json(kind.file);
        add_unknown(&mut newer);
        let written = (kind.read)(&newer).unwrap_or_else(|error| panic!("{}: {error}", kind.file));
        assert_eq!(written, golden_json(kind.file), "{}", kind.file);
    }
}

#[test]
fn another_version_is_refused_and_the_error_says_which_is_read() {
    for kind in KINDS {
        for version in [json!(0), json!(2), json!(u64::MAX)] {
            let mut other = golden_json(kind.file);
            other[kind.version] = version.clone();
            let error = (kind.read)(&other).expect_err(kind.file);
            let words = format!(
                "format version {version} is not supported, this build reads version 1: upgrade the reader"
            );
            assert!(error.contains(&words), "{}: {error}", kind.file);
        }
        for version in [json!("1"), json!(1.5), json!(null), json!(-1), json!(true)] {
            let mut other = golden_json(kind.file);
            other[kind.version] = version;
            (kind.read)(&other).expect_err(kind.file);
        }
        let mut none = golden_json(kind.file);
        none.as_object_mut()
            .expect("an object")
            .remove(kind.version);
        let error = (kind.read)(&none).expect_err(kind.file);
        assert!(
            error.contains(&format!("missing field `{}`", kind.version)),
            "{}: {error}",
            kind.file
        );
    }
}

#[test]
fn a_record_of_another_version_within_a_batch_is_refused_too() {
    let mut batch = golden_json("prediction-batch.json");
    batch["records"][1]["v"] = json!(2);
    let error = read::<PredictionBatch>(&batch).expect_err("a record of version 2");
    assert!(error.contains("format version 2"), "{error}");
}

#[test]
fn golden_messages_mean_what_they_say() {
    let status = |file| {
        serde_json::from_slice::<Status>(&golden(file))
            .expect("a status")
            .state
    };
    assert_eq!(status("status-up.json"), NodeState::Up);
    assert_eq!(status("status-down.json"), NodeState::Down);
    assert_eq!(
        status("status-degraded.json"),
        NodeState::Degraded {
            reason: "stream i94-volume: no model".to_owned()
        }
    );

    let reported: Reported = serde_json::from_slice(&golden("reported.json")).expect("a report");
    let quality = reported.models[0]
        .active
        .as_ref()
        .and_then(|slot| slot.quality);
    assert_eq!(
        quality,
        Some(Quality::Error {
            labels: 1199,
            mae: 168.75,
            rmse: 255.25
        })
    );
    let state = |model: usize| {
        reported.models[model]
            .candidate
            .as_ref()
            .map(|slot| slot.state.clone())
    };
    assert_eq!(
        state(0),
        Some(TrialState::Fetching {
            received: 4096,
            bytes: 36864
        })
    );
    assert!(matches!(
        state(1),
        Some(TrialState::Refused {
            verdict: Verdict::GoldenMismatch,
            ..
        })
    ));
    assert_eq!(state(2), Some(TrialState::Checking));
    assert_eq!(reported.streams[0].counters.unfit, 23);

    let samples: SampleBatch =
        serde_json::from_slice(&golden("sample-batch.json")).expect("samples");
    assert_eq!(samples.records[0].label, Some(Label::Value(4287.0)));
    assert_eq!(
        samples.records[1].label,
        Some(Label::Class("heavy".to_owned()))
    );
    assert_eq!(samples.records[2].label, None);
    let fields = &samples.records[1].window[0].fields;
    assert_eq!(fields["burst"], Value::Vector(vec![0.5, -0.25, 0.0]));
    assert_eq!(fields["weather"], Value::Text("Clouds".to_owned()));

    let row: NodeRow = serde_json::from_slice(&golden("node-row.json")).expect("a row");
    assert_eq!(row.path.to_string(), "minneapolis/gw-1");
    assert_eq!(row.reported, Some(reported));
}

#[test]
fn ledger_events_and_what_waits_mean_what_they_say() {
    let batch: EventBatch = serde_json::from_slice(&golden("event-batch.json")).expect("events");
    let [evicted, _, ended] = batch.records.as_slice() else {
        panic!("{batch:?}");
    };
    let LedgerEventKind::Lost(lost) = &evicted.event else {
        panic!("{evicted:?}");
    };
    assert_eq!(
        (lost.class, lost.from, lost.to, lost.records, lost.reason),
        (Class::Prediction, 17, 52, 30, LossReason::Evicted)
    );
    let LedgerEventKind::Ended(ended) = &ended.event else {
        panic!("{ended:?}");
    };
    assert_eq!((ended.clean, ended.durability), (false, Durability::Outage));

    let reported: Reported =
        serde_json::from_slice(&golden("reported-ledger.json")).expect("a report");
    assert_eq!(
        reported.outbox.waiting[0].ranges,
        [(1100, 1160), (1190, 1199)]
    );
    assert!(reported.outbox.waiting_joined && reported.streams[1].local);
    assert!(Class::ALL.is_sorted() && LossReason::ALL.is_sorted());
    for class in Class::ALL {
        assert_eq!(json!(class), class.to_string());
    }
    for reason in LossReason::ALL {
        assert_eq!(json!(reason), reason.to_string());
    }
}

#[test]
fn counters_that_an_older_agent_does_not_know_are_zero() {
    let mut older = golden_json("reported.json");
    let stream = older["streams"][0].as_object_mut().expect("an object");
    stream.remove("unlabelled");
    stream.remove("no_model");
    older["outbox"] = json!({});
    let reported: Reported = serde_json::from_value(older).expect("a report");
    assert_eq!(
        (
            reported.streams[0].counters.no_model,
            reported.streams[0].counters.readings
        ),
        (0, 1225)
    );
    assert_eq!(reported.outbox.gaps, []);
}

#[test]
fn counters_of_samples_are_there_where_there_are_any() {
    let mut reported: Reported =
        serde_json::from_value(golden_json("reported.json")).expect("a report");
    reported.streams[0].counters.samples = 7;
    let written = serde_json::to_value(&reported).expect("a report");
    assert_eq!(written["streams"][0]["samples"], json!(7));
    assert_eq!(written["streams"][0].get("samples_dropped"), None);
    let read: Reported = serde_json::from_value(written).expect("a report");
    assert_eq!(read, reported);
}

#[test]
fn words_outside_the_vocabulary_are_refused() {
    for (file, pointer, value) in [
        ("status-up.json", "/state", json!("sideways")),
        (
            "reported.json",
            "/models/1/candidate/verdict",
            json!("tired"),
        ),
        (
            "reported.json",
            "/models/0/active/quality/kind",
            json!("vibes"),
        ),
        ("reported.json", "/outbox/gaps/0/reason", json!("lost")),
        ("prediction-forecast.json", "/model/version", json!("1.1")),
        (
            "prediction-forecast.json",
            "/id",
            json!("9f3a1c2b4d5e6f70-042"),
        ),
        ("prediction-forecast.json", "/ts", json!("yesterday")),
        ("prediction-forecast.json", "/latency_us", json!(-1)),
        ("ack.json", "/predictions/0/from", json!(1.5)),
        ("event-batch.json", "/records/0/reason", json!("bored")),
        ("event-batch.json", "/records/0/class", json!("report")),
        ("event-batch.json", "/records/2/durability", json!("mostly")),
        ("event-batch.json", "/records/2/event", json!("begun")),
        ("event-batch.json", "/records/0/from", json!(-1)),
    ] {
        let mut wrong = golden_json(file);
        *wrong.pointer_mut(pointer).expect(pointer) = value;
        let read = match file {
            "status-up.json" => read::<Status>(&wrong),
            "reported.json" => read::<Reported>(&wrong),
            "ack.json" => read::<Ack>(&wrong),
            "event-batch.json" => read::<EventBatch>(&wrong),
            _ => read::<Prediction>(&wrong),
        };
        read.expect_err(pointer);
    }
}

proptest! {
    #[test]
    fn any_text_in_place_of_a_message_is_refused_without_a_panic(text in any::<String>()) {
        prop_assert!(serde_json::from_str::<Prediction>(&text).is_err());
        prop_assert!(serde_json::from_str::<Reported>(&text).is_err());
    }

    #[test]
    fn readings_are_read_back_as_they_were_written(
        ms in 0..4_000_000_000_000_i64,
        number in prop::num::f64::NORMAL | prop::num::f64::ZERO,
        text in any::<String>(),
        vector in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..20),
    ) {
        let values = [("n", Value::Number(number)), ("t", Value::Text(text)), ("v", Value::Vector(vector))];
        let fields = values.map(|(name, value)| (name.parse().expect("a name"), value));
        let reading = Reading { ts: lamppost_models::Timestamp::from_ms(ms).expect("in range"), fields: fields.into() };
        let json = serde_json::to_string(&reading).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Reading>(&json).expect("the same"), reading);
    }

    #[test]
    fn a_prediction_survives_any_numbers(
        seq in any::<u64>(),
        latency_us in any::<u64>(),
        value in prop::num::f64::NORMAL | prop::num::f64::ZERO,
        scores in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..10),
        label in any::<String>(),
    ) {
        let mut prediction: Prediction = serde_json::from_slice(&golden("prediction-forecast.json")).expect("a prediction");
        prediction.seq = seq;
        prediction.latency_us = latency_us;
        prediction.value = Some(value);
        prediction.score = scores.first().copied();
        prediction.scores = Some(scores);
        prediction.label = Some(label);
        let json = serde_json::to_string(&prediction).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Prediction>(&json).expect("the same"), prediction);
    }
}
