//! Output tensors and what they mean, on models whose output is their input.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use common::{Draft, floats, identity, model, node, readings};
use lamppost_engine::{ANOMALY, NORMAL, Output, RunError, RunFailure};
use serde_json::{Value, json};

fn run(draft: &Draft, values: &[f64]) -> Result<Output, RunError> {
    draft
        .open()
        .expect("it opens")
        .session()
        .run(&readings(values))
}

fn labels(activation: &str, values: &[f64]) -> Output {
    let names: Vec<String> = (0..values.len()).map(|at| format!("label-{at}")).collect();
    let kind = json!({"labels": {"names": names, "activation": activation}});
    let draft = Draft::of(
        &identity(values.len()),
        values.len(),
        values.len(),
        "classification",
        kind,
    );
    run(&draft, values).expect("it runs")
}

fn near(found: &[f32], wanted: &[f32]) {
    let close = found
        .iter()
        .zip(wanted)
        .all(|(found, wanted)| (found - wanted).abs() < 1e-6);
    assert!(
        close && found.len() == wanted.len(),
        "{found:?} is not near {wanted:?}"
    );
}

#[test]
fn softmax_makes_scores_that_sum_to_one() {
    let output = labels("softmax", &[0.0, 1.0, 0.0]);
    let e = std::f32::consts::E;
    near(
        output.scores.as_deref().expect("scores"),
        &[1.0 / (e + 2.0), e / (e + 2.0), 1.0 / (e + 2.0)],
    );
    assert_eq!(output.label.as_deref(), Some("label-1"));
    assert_eq!(output.score, output.scores.map(|scores| scores[1]));
}

#[test]
fn softmax_of_large_numbers_does_not_overflow() {
    let output = labels("softmax", &[1e30, -1e30, 1e30]);
    near(output.scores.as_deref().expect("scores"), &[0.5, 0.0, 0.5]);
    assert_eq!(
        output.label.as_deref(),
        Some("label-0"),
        "the first of equals"
    );
}

#[test]
fn sigmoid_scores_each_label_by_itself() {
    let output = labels("sigmoid", &[0.0, -200.0, 200.0]);
    near(output.scores.as_deref().expect("scores"), &[0.5, 0.0, 1.0]);
    assert_eq!(
        (output.label.as_deref(), output.score),
        (Some("label-2"), Some(1.0))
    );
}

#[test]
fn without_activation_the_numbers_are_the_scores() {
    let output = labels("none", &[-3.0, -1.0, -2.0]);
    assert_eq!(output.scores.as_deref(), Some(&[-3.0, -1.0, -2.0][..]));
    assert_eq!(
        (output.label.as_deref(), output.score),
        (Some("label-1"), Some(-1.0))
    );
}

#[test]
fn a_value_is_scaled_shifted_and_has_its_unit() {
    let value = |kind: Value, task: &str| Draft::of(&identity(1), 1, 1, task, kind);
    let draft = value(
        json!({"value": {"unit": "ug/m3", "scale": 10.0, "offset": -5.0}}),
        "regression",
    );
    let wanted = Output {
        label: None,
        score: None,
        scores: None,
        value: Some(15.0),
        unit: Some("ug/m3".into()),
        horizon: None,
    };
    assert_eq!(run(&draft, &[2.0]), Ok(wanted));
    let kind = json!({"value": {"unit": "x", "scale": 1.0, "offset": 0.0, "horizon_ms": 1500}});
    let output = run(&value(kind, "forecasting"), &[2.0]).expect("it runs");
    assert_eq!(output.horizon, Some(std::time::Duration::from_millis(1500)));
}

#[test]
fn a_value_that_overflows_its_scale_is_a_failure_and_no_prediction() {
    let kind = json!({"value": {"unit": "x", "scale": 1e300, "offset": 0.0}});
    let error =
        run(&Draft::of(&identity(1), 1, 1, "regression", kind), &[1e30]).expect_err("infinite");
    assert_eq!(
        error,
        RunError::Failed(RunFailure::NotFinite {
            index: 0,
            value: f64::INFINITY
        })
    );
}

#[test]
fn a_score_is_an_anomaly_from_the_threshold_on() {
    let draft = Draft::of(
        &identity(1),
        1,
        1,
        "anomaly",
        json!({"score": {"threshold": 0.5}}),
    );
    for (value, label) in [(0.25, NORMAL), (0.5, ANOMALY), (0.75, ANOMALY)] {
        let wanted = Output {
            label: Some(label.to_owned()),
            score: None,
            scores: None,
            value: Some(value),
            unit: None,
            horizon: None,
        };
        assert_eq!(run(&draft, &[value]), Ok(wanted));
    }
}

#[test]
fn a_reconstruction_is_scored_by_its_mean_squared_error() {
    // Whatever comes in, the model thinks it should have been 1, 2, 3, 4.
    let zero = floats("zero", &[1], &[0.0]);
    let usual = floats("usual", &[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let nodes = vec![
        node("Mul", &["features", "zero"], "nothing", vec![]),
        node("Add", &["nothing", "usual"], "out", vec![]),
    ];
    let made = model(4, 4, nodes, vec![zero, usual]);
    let draft = Draft::of(
        &made,
        4,
        4,
        "anomaly",
        json!({"reconstruction": {"threshold": 2.0}}),
    );
    let output = run(&draft, &[1.0, 2.0, 3.0, 6.0]).expect("it runs");
    assert_eq!(
        (output.value, output.label.as_deref()),
        (Some(1.0), Some(NORMAL))
    );
    let output = run(&draft, &[1.0, 0.0, 3.0, 6.0]).expect("it runs");
    assert_eq!(
        (output.value, output.label.as_deref()),
        (Some(2.0), Some(ANOMALY))
    );
}
