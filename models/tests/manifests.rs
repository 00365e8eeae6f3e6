//! Every way in which a manifest can contradict itself.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::time::Duration;

use common::{golden, golden_json};
use lamppost_models::Manifest;
use lamppost_models::manifest::{MANIFEST_BYTES_MAX, ManifestError, ShapeError};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The error of a golden manifest with the value at `pointer` replaced.
fn refused(file: &str, pointer: &str, value: Value) -> ManifestError {
    parse(file, pointer, value).expect_err(pointer)
}

fn parse(file: &str, pointer: &str, value: Value) -> Result<Manifest, ManifestError> {
    let mut manifest = golden_json(file);
    match manifest.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => panic!("{file} has nothing at {pointer}"),
    }
    Manifest::parse(manifest.to_string().as_bytes())
}

#[track_caller]
fn assert_says(file: &str, pointer: &str, value: Value, words: &str) {
    let error = refused(file, pointer, value);
    assert!(
        error.to_string().contains(words),
        "{words:?} is not in: {error}"
    );
}

const FORECAST: &str = "manifest-forecast.json";
const CLASSES: &str = "manifest-classification.json";
const REGRESSION: &str = "manifest-regression.json";
const SCORE: &str = "manifest-score.json";
const RECONSTRUCTION: &str = "manifest-reconstruction.json";

#[test]
fn a_manifest_over_the_limit_is_refused() {
    let mut large = golden(FORECAST);
    large.resize(MANIFEST_BYTES_MAX + 1, b' ');
    let error = Manifest::parse(&large).expect_err("too large");
    assert_eq!(
        error.to_string(),
        "manifest has 262145 bytes, the limit is 262144"
    );
}

#[test]
fn another_version_a_wrong_type_and_an_unknown_key_are_refused() {
    let cause = |error: ManifestError| {
        let ManifestError::Json(source) = error else {
            panic!("{error}")
        };
        source.to_string()
    };
    let error = cause(refused(FORECAST, "/schema", json!(2)));
    assert!(
        error.contains(
            "format version 2 is not supported, this build reads version 1: upgrade the reader"
        ),
        "{error}"
    );
    for (pointer, value, words) in [
        (
            "/task",
            json!("translation"),
            "unknown variant `translation`",
        ),
        ("/version", json!("1.0"), "minor"),
        ("/name", json!("a b"), "has ' '"),
        ("/input/dtype", json!("f16"), "unknown variant `f16`"),
        ("/features/0/op", json!("cube"), "unknown variant `cube`"),
        (
            "/features/9/zone",
            json!("Mars/Olympus"),
            "neither an offset",
        ),
        ("/window/count", json!(-1), "invalid value"),
        ("/model/digest", json!("md5:0"), "is not sha256:"),
        ("/golden", json!({"digest": "x"}), "is not sha256:"),
    ] {
        let error = cause(refused(FORECAST, pointer, value));
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
    for place in [
        "",
        "/window",
        "/features/0",
        "/output",
        "/output/kind/value",
        "/golden",
        "/provenance",
        "/model",
    ] {
        let mut manifest = golden_json(FORECAST);
        manifest.pointer_mut(place).expect(place)["extra"] = json!(1);
        let error = cause(Manifest::parse(manifest.to_string().as_bytes()).expect_err(place));
        assert!(error.contains("unknown field `extra`"), "{place}: {error}");
    }
}

#[test]
fn a_model_file_over_the_limit_is_refused() {
    assert_says(
        FORECAST,
        "/model/bytes",
        json!(67_108_865),
        "model file has 67108865 bytes, the limit is 67108864",
    );
}

#[test]
fn shapes_without_a_batch_of_one_or_of_no_or_too_many_elements_are_refused() {
    for (shape, wanted) in [
        (json!([]), ShapeError::Batch),
        (json!([2, 15]), ShapeError::Batch),
        (json!([1, 0]), ShapeError::Size),
        (json!([1, 4_194_305]), ShapeError::Size),
        (
            json!([1, 4_294_967_296_u64, 4_294_967_296_u64]),
            ShapeError::Size,
        ),
        (json!([1, 1, 1, 1, 1, 1, 30]), ShapeError::Size),
    ] {
        for (pointer, side) in [("/input/shape", "input"), ("/output/shape", "output")] {
            let error = refused(FORECAST, pointer, shape.clone());
            let ManifestError::Shape { tensor, source, .. } = error else {
                panic!("{shape}: {error}")
            };
            assert_eq!((tensor, source), (side, wanted.clone()), "{shape}");
        }
    }
}

#[test]
fn a_window_of_no_or_too_many_readings_is_refused() {
    for count in [0, 65_537] {
        let words = format!("window.count is {count}, it must be 1 to 65536");
        assert_says(FORECAST, "/window/count", json!(count), &words);
    }
}

#[test]
fn features_that_cannot_be_computed_are_refused_with_their_place() {
    for (pointer, value, words) in [
        (
            "/features/0/last",
            json!(25),
            "features[0]: last is 25, the window has 24 readings",
        ),
        ("/features/0/last", json!(0), "features[0]: last is 0"),
        (
            "/features/1/lags",
            json!([0, 24]),
            "features[1]: lag 24 is outside a window of 24 readings",
        ),
        (
            "/features/0/std",
            json!(0.0),
            "features[0]: mean 3268.4 must be finite, std 0 finite and not 0",
        ),
        (
            "/features/1/std",
            json!(0.0),
            "features[1]: mean 0 must be finite, std 0",
        ),
        ("/features/2/std", json!(-0.0), "features[2]: "),
        ("/features/10/std", json!(0), "features[10]: "),
        (
            "/features/10/length",
            json!(4_194_305),
            "features[10]: makes more than 4194304 numbers",
        ),
        (
            "/features/10/length",
            json!(4_194_300),
            "features[10]: with it, the features make more than 4194304 numbers",
        ),
    ] {
        assert_says(FORECAST, pointer, value, words);
    }
    for (pointer, value, words) in [
        ("/features/0/from/width", json!(0), "image from"),
        ("/features/0/to/height", json!(100_000_000), "image to"),
        (
            "/features/0/channels",
            json!([0, 1]),
            "channels, mean and std must have 3 entries each",
        ),
        (
            "/features/0/mean",
            json!([1.0]),
            "channels, mean and std must have 3 entries each",
        ),
        (
            "/features/0/std",
            json!([1.0, 0.0, 1.0]),
            "std 0 finite and not 0",
        ),
        (
            "/features/0/channels",
            json!([0, 1, 3]),
            "channel 3 is not in an image of 3 channels",
        ),
    ] {
        assert_says(CLASSES, pointer, value, words);
    }
}

#[test]
fn features_that_do_not_fill_the_input_are_refused() {
    assert_says(
        FORECAST,
        "/features/0/last",
        json!(2),
        "features make 29 numbers, the input tensor has 30",
    );
    assert_says(
        FORECAST,
        "/input/shape",
        json!([1, 31]),
        "features make 30 numbers, the input tensor has 31",
    );
    assert_says(FORECAST, "/features", json!([]), "features make 0 numbers");
}

#[test]
fn an_output_that_does_not_go_with_the_task_is_refused() {
    for (file, task) in [
        (FORECAST, "classification"),
        (FORECAST, "anomaly"),
        (CLASSES, "regression"),
        (CLASSES, "anomaly"),
        (SCORE, "classification"),
        (RECONSTRUCTION, "forecasting"),
    ] {
        assert_says(file, "/task", json!(task), "does not go with this kind");
    }
    assert_says(
        REGRESSION,
        "/task",
        json!("forecasting"),
        "a forecast needs horizon_ms above 0",
    );
    assert_says(
        FORECAST,
        "/output/kind/value/horizon_ms",
        json!(0),
        "a forecast needs horizon_ms above 0",
    );
    parse(FORECAST, "/task", json!("regression")).expect("a regression may look ahead");
}

#[test]
fn an_output_of_another_size_than_its_meaning_is_refused() {
    assert_says(
        FORECAST,
        "/output/shape",
        json!([1, 2]),
        "a value is one element, the tensor has 2",
    );
    assert_says(
        SCORE,
        "/output/shape",
        json!([1, 2]),
        "a score is one element, the tensor has 2",
    );
    assert_says(
        RECONSTRUCTION,
        "/output/shape",
        json!([1, 3]),
        "a reconstruction has the input's 2 elements, not 3",
    );
    assert_says(
        CLASSES,
        "/output/shape",
        json!([1, 4]),
        "3 labels for a tensor of 4 elements",
    );
}

#[test]
fn numbers_and_labels_that_make_no_sense_are_refused() {
    let value = "/output/kind/value";
    for scale in [json!(0.0), json!(-0.0)] {
        assert_says(
            FORECAST,
            &format!("{value}/scale"),
            scale,
            "must be finite and not 0",
        );
    }
    let names = "/output/kind/labels/names";
    assert_says(
        CLASSES,
        names,
        json!([]),
        "0 labels, a classification has 1 to 10000",
    );
    assert_says(CLASSES, names, json!(vec!["x"; 10_001]), "10001 labels");
    assert_says(
        CLASSES,
        names,
        json!(["cars", "empty", "cars"]),
        r#"label "cars" is there twice"#,
    );
}

#[test]
fn tolerances_that_are_negative_or_above_one_are_refused() {
    for tolerance in [-0.001, 1.001, 1e300] {
        for pointer in ["/golden/abs_tolerance", "/golden/rel_tolerance"] {
            assert_says(
                FORECAST,
                pointer,
                json!(tolerance),
                "must be finite, not negative and at most 1",
            );
        }
    }
}

#[test]
fn fields_are_listed_once_and_in_order() {
    let fields = |file| -> Vec<String> {
        let manifest = Manifest::parse(&golden(file)).expect("it is good");
        manifest.fields().iter().map(ToString::to_string).collect()
    };
    assert_eq!(fields(FORECAST), ["volume", "wind", "burst"]);
    assert_eq!(fields(CLASSES), ["frame"]);
}

#[test]
fn what_may_be_left_out_has_its_documented_default() {
    let mut short = golden_json(REGRESSION);
    short["features"] = json!([{"op": "select", "field": "x", "last": 1}]);
    short["provenance"] =
        json!({"created_at": "2026-11-24T00:00:00Z", "trainer": "t", "data": "d"});
    let manifest = Manifest::parse(short.to_string().as_bytes()).expect("it is good");
    let written = serde_json::to_value(&manifest).expect("JSON");
    assert_eq!(
        written["features"][0],
        json!({"op": "select", "field": "x", "last": 1, "mean": 0.0, "std": 1.0})
    );
    assert_eq!(written["provenance"]["metrics"], json!({}));
    assert_eq!(
        (manifest.window.step_ms, manifest.window.jitter_ms),
        (None, 0)
    );
    assert_eq!(manifest.output.kind.horizon(), None);
    let forecast = Manifest::parse(&golden(FORECAST)).expect("it is good");
    assert_eq!(
        forecast.output.kind.horizon(),
        Some(Duration::from_hours(1))
    );
}

proptest! {
    #[test]
    fn a_manifest_with_any_value_replaced_is_good_or_refused_without_a_panic(
        pick in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just(json!(null)),
            Just(json!(u64::MAX)),
            Just(json!(-1)),
            Just(json!(1e308)),
            Just(json!([])),
            Just(json!({})),
            Just(json!("")),
            (0..100_000_u64).prop_map(|number| json!(number)),
        ],
        file in prop::sample::select(vec![FORECAST, CLASSES, SCORE, RECONSTRUCTION]),
    ) {
        let pointers = leaves("", &golden_json(file));
        let pointer = &pointers[pick.index(pointers.len())];
        if let Ok(manifest) = parse(file, pointer, value) {
            // Whatever passes keeps the promises that an engine builds on.
            let made: usize = manifest.features.iter().map(|feature| feature.width().expect("bounded")).sum();
            prop_assert_eq!(made, manifest.input_elements());
            let text = serde_json::to_vec(&manifest).expect("JSON");
            prop_assert_eq!(Manifest::parse(&text).expect("what was written"), manifest);
        }
    }
}

/// The JSON pointers of all values within `value`.
fn leaves(at: &str, value: &Value) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (index.to_string(), item))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(name, item)| (name.clone(), item))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    };
    let below = inner.iter().flat_map(|(name, item)| {
        let pointer = format!("{at}/{name}");
        std::iter::once(pointer.clone()).chain(leaves(&pointer, item))
    });
    below.collect()
}
