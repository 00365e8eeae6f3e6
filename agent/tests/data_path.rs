//! Sensor to prediction, on a node without a coordinator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::{Node, TRAFFIC_STREAM, i94, replay, root, traffic, zoo};
use lamppost_engine::{Engine, Limits};
use lamppost_models::message::{NodeState, Quality};
use lamppost_models::{Bundle, Prediction, Reading, Value};

const READINGS: usize = 60;
const WINDOW: usize = 24;

fn readings() -> Vec<Reading> {
    let reading = |row: serde_json::Map<String, serde_json::Value>| Reading {
        ts: row["ts"].as_str().unwrap().parse().unwrap(),
        fields: [(
            "volume".parse().unwrap(),
            Value::Number(row["volume"].as_f64().unwrap()),
        )]
        .into(),
    };
    replay("i94-replay.csv")
        .into_iter()
        .take(READINGS)
        .map(reading)
        .collect()
}

fn engine(name: &str, version: &str) -> Engine {
    Engine::open(
        &Bundle::read(&zoo(name, version)).unwrap(),
        &Limits::default(),
    )
    .unwrap()
}

#[tokio::test]
async fn predictions_are_what_the_engine_says_and_their_error_is_known() {
    let node = Node::start(traffic).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    client.subscribe("city/i94/forecast").await;
    for message in i94(READINGS) {
        client.publish("sensors/i94", message).await;
    }
    let (mut json, mut flat) = (Vec::new(), Vec::new());
    while json.len() + flat.len() < 2 * (READINGS - WINDOW + 1) {
        let heard = client.next().await;
        if heard.topic == "city/i94/forecast" {
            flat.push(heard.payload.parse::<f64>().unwrap());
        } else {
            assert_eq!(
                heard.properties.content_type.as_deref(),
                Some("application/json")
            );
            assert_eq!(heard.properties.payload_format_indicator, Some(1));
            assert!(
                heard
                    .properties
                    .message_expiry_interval
                    .is_some_and(|s| s > 3_500)
            );
            json.push(serde_json::from_str::<Prediction>(&heard.payload).unwrap());
        }
    }
    let readings = readings();
    let mut session = engine("traffic-flow", "1.0.0").session();
    let mut errors = Vec::new();
    for (nth, window) in readings.windows(WINDOW).enumerate() {
        let wanted = session.run(window).unwrap();
        let prediction = &json[nth];
        assert_eq!(prediction.value, wanted.value);
        assert_eq!(Some(flat[nth]), wanted.value);
        assert_eq!(prediction.unit.as_deref(), Some("vehicles/h"));
        assert_eq!(
            (prediction.seq, prediction.id.number),
            (nth as u64, nth as u64)
        );
        assert_eq!(
            (prediction.boot, prediction.id.boot),
            (node.ready.boot, node.ready.boot)
        );
        assert_eq!(prediction.ts, window.last().unwrap().ts);
        assert_eq!(
            prediction.target_ts,
            Some(prediction.ts.offset_ms(3_600_000))
        );
        assert_eq!(prediction.model.version.to_string(), "1.0.0");
        assert!(!prediction.replay);
        if let Some(next) = readings.get(nth + WINDOW) {
            errors
                .push(prediction.value.unwrap() - next.number(&"volume".parse().unwrap()).unwrap());
        }
    }
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    let report = client
        .reported(|report| report.streams[0].counters.labels == errors.len() as u64)
        .await;
    let active = report.models[0].active.as_ref().unwrap();
    assert_eq!(active.predictions, (READINGS - WINDOW + 1) as u64);
    assert_eq!(active.last_inference, Some(readings[READINGS - 1].ts));
    let n = errors.len() as f64;
    let Some(Quality::Error { labels, mae, rmse }) = active.quality else {
        panic!("{active:?}")
    };
    assert_eq!(labels, errors.len() as u64);
    assert!((mae - errors.iter().map(|e| e.abs()).sum::<f64>() / n).abs() < 1e-6);
    assert!((rmse - (errors.iter().map(|e| e * e).sum::<f64>() / n).sqrt()).abs() < 1e-6);
    node.stop().await;
}

#[tokio::test]
async fn csv_lines_and_texts_reach_the_air_model() {
    let node = Node::start(|dir| {
        let bundle = dir.join("air.tar");
        std::fs::write(&bundle, zoo("air-quality", "1.0.0")).unwrap();
        let example =
            std::fs::read_to_string(root().join("configs/apps/air-quality.toml")).unwrap();
        let (_, rest) = example.split_once("[[model]]").unwrap();
        format!(
            "[[model]]{}",
            rest.replace("air-quality-1.0.0.tar", bundle.to_str().unwrap())
        )
    })
    .await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/#")
        .await;
    let text = std::fs::read_to_string(root().join("tests/data/air-replay.csv")).unwrap();
    for line in text.lines().skip(1).take(30) {
        client.publish("sensors/air", line).await;
    }
    let prediction = client.prediction().await;
    assert_eq!(prediction.unit.as_deref(), Some("ug/m3"));
    assert!(prediction.value.unwrap().is_finite());
    let report = client
        .reported(|report| report.streams[0].counters.readings == 30)
        .await;
    let counters = report.streams[0].counters;
    assert_eq!(counters.malformed, 0);
    assert_eq!(counters.predictions + counters.unfit, 7);
    node.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_message_is_counted_and_the_agent_goes_on() {
    let node =
        Node::start(|dir| format!("[engine]\npayload_max = \"200B\"\n{}", traffic(dir))).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/#")
        .await;
    let good = i94(30);
    for message in &good[..25] {
        client.publish("sensors/i94", message.as_str()).await;
    }
    let hour = "2016-12-26T05:00:00-06:00";
    for malformed in [
        "not json".to_owned(),
        "{}".to_owned(),
        format!(r#"{{"ts":"{hour}"}}"#),
        format!(r#"{{"ts":"{hour}","volume":null}}"#),
        format!(r#"{{"ts":"{hour}","volume":"NaN"}}"#),
        format!(r#"{{"ts":"{hour}","volume":1e999}}"#),
        r#"{"ts":"yesterday","volume":1}"#.to_owned(),
        r#"{"ts":"9000-01-01T00:00:00Z","volume":1}"#.to_owned(),
        format!(
            r#"{{"ts":"{hour}","volume":1,"padding":"{}"}}"#,
            "x".repeat(200)
        ),
        String::new(),
    ] {
        client.publish("sensors/i94", malformed).await;
    }
    client.publish("sensors/i94", good[24].as_str()).await;
    client.publish("sensors/i94", good[3].as_str()).await;
    client.publish("sensors/other", good[25].as_str()).await;
    for message in &good[25..] {
        client.publish("sensors/i94", message.as_str()).await;
    }
    let report = client
        .reported(|report| report.streams[0].counters.predictions == 7)
        .await;
    let counters = report.streams[0].counters;
    assert_eq!((counters.readings, counters.malformed), (32, 10));
    assert_eq!(
        (
            counters.duplicate,
            counters.late,
            counters.unfit,
            counters.failed
        ),
        (1, 1, 0, 0)
    );
    client.status(|status| status.state == NodeState::Up).await;
    node.stop().await;
}

#[tokio::test]
async fn readings_that_overtake_each_other_are_put_in_order() {
    let late = TRAFFIC_STREAM.replace("hop = 1 }", "hop = 1, lateness = \"2h\" }");
    let node = Node::start(|dir| {
        traffic(dir);
        format!(
            "[[model]]\nname = \"traffic-flow\"\nbundle = \"{}\"\n{late}",
            dir.join("factory.tar").display()
        )
    })
    .await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    let mut messages = i94(40);
    for pair in messages.chunks_mut(2) {
        pair.reverse();
    }
    for message in messages {
        client.publish("sensors/i94", message).await;
    }
    let readings = readings();
    let mut session = engine("traffic-flow", "1.0.0").session();
    for window in readings[..37].windows(WINDOW) {
        assert_eq!(
            client.prediction().await.value,
            session.run(window).unwrap().value
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn a_gap_makes_windows_unfit() {
    let node = Node::start(traffic).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    let mut messages = i94(50);
    messages.remove(24);
    for message in messages {
        client.publish("sensors/i94", message).await;
    }
    let report = client
        .reported(|report| report.streams[0].counters.readings == 49)
        .await;
    let counters = report.streams[0].counters;
    let done = counters.predictions + counters.unfit;
    let report = if done == 26 {
        report
    } else {
        client
            .reported(|r| r.streams[0].counters.predictions == 3)
            .await
    };
    let counters = report.streams[0].counters;
    assert_eq!((counters.predictions, counters.unfit), (3, 23));
    node.stop().await;
}

#[tokio::test]
async fn without_a_model_the_node_is_degraded_and_says_so() {
    let node = Node::start(|_| TRAFFIC_STREAM.to_owned()).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/status")
        .await;
    let status = client.status(|_| true).await;
    assert!(
        matches!(&status.state, NodeState::Degraded { reason } if reason.contains("traffic-flow")),
        "{status:?}"
    );
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    for message in i94(25) {
        client.publish("sensors/i94", message).await;
    }
    let report = client
        .reported(|report| report.streams[0].counters.no_model == 2)
        .await;
    assert_eq!(report.streams[0].counters.predictions, 0);
    node.stop().await;
}

#[tokio::test]
async fn only_the_agent_publishes_below_the_root() {
    let node = Node::start(traffic).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    client.subscribe("city/#").await;
    client
        .publish(
            "lamppost/v1/nodes/minneapolis/gw-1/pred/i94-volume",
            "forged",
        )
        .await;
    client.publish("city/i94/forecast", "forged").await;
    client.publish("city/other", "allowed").await;
    assert_eq!(client.next().await.payload, "allowed");
    node.stop().await;
}

#[tokio::test]
async fn cloudevents_attributes_are_there_when_wanted() {
    let node = Node::start(|dir| {
        format!(
            "[publish]\ncloudevents = true\nexpiry = \"0s\"\n{}",
            traffic(dir)
        )
    })
    .await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    for message in i94(24) {
        client.publish("sensors/i94", message).await;
    }
    let heard = client.next().await;
    let prediction: Prediction = serde_json::from_str(&heard.payload).unwrap();
    let wanted = [
        ("specversion", "1.0".to_owned()),
        ("id", prediction.id.to_string()),
        ("source", "/nodes/minneapolis/gw-1".to_owned()),
        ("type", "lamppost.prediction.v1".to_owned()),
        ("time", prediction.ts.to_string()),
    ];
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    assert_eq!(heard.properties.user_properties, wanted);
    assert_eq!(heard.properties.message_expiry_interval, None);
    node.stop().await;
}

#[tokio::test]
async fn labels_may_come_from_a_topic_of_their_own() {
    let label = r#"label = { source = { topic = "labels/i94", decode = "csv", time = 0, fields = { count = 1 } }, field = "count" }"#;
    let own = TRAFFIC_STREAM.replace(
        "label = { stream = \"i94-volume\", field = \"volume\", ahead = 1 }",
        label,
    );
    assert!(own.contains("labels/i94"));
    let node = Node::start(|dir| traffic(dir).replace(TRAFFIC_STREAM, &own)).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/#")
        .await;
    for message in i94(30) {
        client.publish("sensors/i94", message).await;
    }
    let prediction = client.prediction().await;
    client.publish("labels/i94", "rubbish").await;
    // The label of the second prediction, and then of the first: they go by the time that they are about.
    let target = prediction.target_ts.unwrap();
    client
        .publish(
            "labels/i94",
            format!("{},{}", target.offset_ms(3_600_000), 1),
        )
        .await;
    client
        .publish(
            "labels/i94",
            format!("{target},{}", prediction.value.unwrap() + 10.0),
        )
        .await;
    let report = client
        .reported(|report| report.streams[0].counters.labels == 2)
        .await;
    assert_eq!(report.streams[0].counters.malformed, 1);
    let Some(Quality::Error { labels: 2, mae, .. }) =
        report.models[0].active.as_ref().unwrap().quality
    else {
        panic!("{report:?}");
    };
    assert!(mae > 5.0);
    node.stop().await;
}

#[tokio::test]
async fn one_message_feeds_each_stream_that_wants_it_once() {
    let wide = TRAFFIC_STREAM
        .replace("sensors/i94", "sensors/+")
        .replace("city/i94", "city/all")
        .replace("i94-volume", "all");
    let node = Node::start(|dir| traffic(dir) + &wide).await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    for message in i94(26) {
        client.publish("sensors/i94", message).await;
    }
    let done = |report: &lamppost_models::Reported| {
        report
            .streams
            .iter()
            .all(|stream| stream.counters.predictions == 3)
    };
    let report = client.reported(done).await;
    for stream in &report.streams {
        assert_eq!(
            (stream.counters.readings, stream.counters.duplicate),
            (26, 0),
            "{}",
            stream.name
        );
    }
    assert_eq!(report.models.len(), 1, "both streams have one model");
    assert_eq!(report.models[0].active.as_ref().unwrap().predictions, 6);
    node.stop().await;
}

#[tokio::test]
async fn a_sign_reads_the_class_of_the_next_hour_as_a_word() {
    let node = Node::start(|dir| {
        let bundle = dir.join("level.tar");
        std::fs::write(&bundle, zoo("traffic-level", "1.0.0")).unwrap();
        let example = std::fs::read_to_string(root().join("configs/apps/congestion.toml")).unwrap();
        let (_, rest) = example.split_once("[[model]]").unwrap();
        format!(
            "[[model]]{}",
            rest.replace("traffic-level-1.0.0.tar", bundle.to_str().unwrap())
        )
    })
    .await;
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    for row in replay("i94-replay.csv").into_iter().take(24) {
        let line = format!("{},{}", row["ts"].as_str().unwrap(), row["volume"]);
        client.publish("sensors/i94/csv", line).await;
    }
    let prediction = client.prediction().await;
    let label = prediction.label.unwrap();
    assert!(["free", "light", "heavy", "jam"].contains(&label.as_str()));
    let scores = prediction.scores.unwrap();
    assert_eq!(prediction.score, scores.iter().copied().reduce(f32::max));
    // Retained: who comes late sees it at once.
    client.subscribe("city/i94/level").await;
    let flat = client.next().await;
    assert_eq!((flat.payload, flat.retain), (label, true));
    node.stop().await;
}
