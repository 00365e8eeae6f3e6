//! A forecaster of the zoo, trained further on later readings, with the preprocessing that its manifest describes.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{assert_close, onnxruntime, tract, train_quietly};
use lamppost_engine::{Engine, Limits};
use lamppost_forge::{DataSet, Loss, Network, Recipe, Schedule, Split, Targets, evaluate};
use lamppost_models::manifest::OutputKind;
use lamppost_models::reading::Value;
use lamppost_models::{Bundle, FieldName, Reading};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bundle(name: &str, version: &str) -> Bundle {
    let folder = root().join("models/zoo").join(name).join(version);
    let read = |file: &str| std::fs::read(folder.join(file)).expect("a file of the zoo");
    let packed = Bundle::pack(
        &read("manifest.json"),
        &read("model.onnx"),
        &read("golden.json"),
    )
    .expect("parts that agree");
    Bundle::read(&packed).expect("a bundle")
}

/// Features by the engine, targets as the model gives them, and the time of each forecast.
fn samples(engine: &Engine) -> (DataSet, Vec<i64>) {
    let OutputKind::Value { scale, offset, .. } = engine.manifest().output.kind else {
        panic!("a value");
    };
    let field: FieldName = "volume".parse().expect("a name");
    let text = std::fs::read_to_string(root().join("tests/data/i94-replay.csv")).expect("readings");
    let readings: Vec<Reading> = text
        .lines()
        .skip(1)
        .map(|line| {
            let mut cells = line.split(',');
            let ts = cells
                .next()
                .and_then(|cell| cell.parse().ok())
                .expect("a time");
            let volume = cells
                .next()
                .and_then(|cell| cell.parse().ok())
                .expect("a volume");
            Reading {
                ts,
                fields: BTreeMap::from([(field.clone(), Value::Number(volume))]),
            }
        })
        .collect();
    let mut session = engine.session();
    let (mut features, mut values, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for window in readings.windows(25) {
        // Windows with a gap do not fit, neither here nor on a node.
        let (past, next) = (&window[..24], &window[24]);
        if next.ts.as_ms() - past[23].ts.as_ms() != 3_600_000 {
            continue;
        }
        let Ok(row) = session.features(past) else {
            continue;
        };
        features.extend_from_slice(row);
        let volume = next.number(&field).expect("a volume");
        #[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
        values.push(((volume - offset) / scale) as f32);
        times.push(next.ts.as_ms());
    }
    let width = engine.manifest().input.shape.iter().product();
    (
        DataSet::new(width, features, Targets::Values { width: 1, values }).expect("samples"),
        times,
    )
}

#[test]
fn traffic_flow_trained_further_is_better_on_later_months() {
    let bundle = bundle("traffic-flow", "1.0.0");
    let engine = Engine::open(&bundle, &Limits::default()).expect("it opens");
    let (data, times) = samples(&engine);
    // Trained until February 2018, stopped by the spring, judged on the summer: nothing of the future before it.
    let at = |text: &str| {
        text.parse::<lamppost_models::Timestamp>()
            .expect("a time")
            .as_ms()
    };
    let day = 24 * 3_600_000;
    let outer = data
        .split_by_time(&times, at("2018-06-01T00:00:00Z"), day)
        .expect("two parts");
    let seen: Vec<i64> = times
        .iter()
        .copied()
        .filter(|&time| time < at("2018-05-31T00:00:00Z"))
        .collect();
    let inner = outer
        .train
        .split_by_time(&seen, at("2018-02-01T00:00:00Z"), day)
        .expect("two parts");
    let test = Split::new(inner.train.clone(), outer.valid)
        .expect("sets that fit")
        .valid;

    let mut network = Network::open(bundle.model()).expect("it opens");
    let before = evaluate(&network, &test, Loss::Mae)
        .expect("a measure")
        .mae
        .expect("an error");
    let recipe = Recipe {
        epochs: 15,
        rate: 5e-4,
        schedule: Schedule::Cosine { floor: 0.0 },
        ..Recipe::new(Loss::Huber { delta: 1.0 }, 1)
    };
    let outcome = train_quietly(&mut network, &inner, &recipe, None);
    let after = evaluate(&network, &test, Loss::Mae)
        .expect("a measure")
        .mae
        .expect("an error");
    println!(
        "{} training windows, {} test windows: MAE {before:.4} before, {after:.4} after ({} epochs), in deviations",
        inner.train.len(),
        test.len(),
        outcome.best_epoch
    );
    assert!(after < 0.95 * before, "{before} before, {after} after");

    // The file is the old one but for its weights.
    let file = network.to_onnx();
    assert_eq!(file.len(), bundle.model().len());
    let untouched = Network::open(bundle.model()).expect("it opens");
    assert_eq!(untouched.to_onnx(), bundle.model());
    let names = |network: &Network| {
        network
            .parameters()
            .iter()
            .map(|parameter| parameter.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&Network::open(&file).expect("it opens")),
        names(&untouched)
    );
    let samples = &test.features()[..test.width() * 20];
    let ours = network.predict(samples).expect("outputs");
    assert_close(&tract(&file, &network, samples), &ours, 1e-4);
    if let Some(theirs) = onnxruntime(&file, samples) {
        assert_close(&theirs, &ours, 1e-4);
    }
}

#[test]
fn every_model_of_the_zoo_opens_and_comes_back_as_it_was() {
    for (name, version) in [
        ("traffic-flow", "1.0.0"),
        ("traffic-flow", "1.1.0"),
        ("traffic-level", "1.0.0"),
        ("air-quality", "1.0.0"),
    ] {
        let bundle = bundle(name, version);
        let network = Network::open(bundle.model()).expect("it opens");
        assert_eq!(network.to_onnx(), bundle.model(), "{name} {version}");
        for case in &bundle.golden().cases {
            assert_close(
                &network.predict(&case.features).expect("outputs"),
                &case.outputs,
                1e-4,
            );
        }
    }
}
