//! The bundles of the zoo, through the whole engine.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::sync::Arc;

use common::{Draft, ZOO, readings};
use lamppost_engine::{
    CheckError, CheckReport, Engine, GoldenError, Limits, Output, RunError, Session, Unfit,
    check_bundle_bytes,
};
use lamppost_models::Reading;
use serde_json::json;

fn windows(engine: &Draft) -> Vec<Vec<Reading>> {
    engine
        .bundle()
        .golden()
        .cases
        .iter()
        .map(|case| case.window.clone())
        .collect()
}

#[test]
fn every_zoo_bundle_opens_and_reproduces_its_golden_vectors() {
    for (name, version) in ZOO {
        let draft = Draft::zoo(name, version);
        let engine = draft
            .open()
            .unwrap_or_else(|error| panic!("{name} {version}: {error}"));
        let report = engine
            .check_golden()
            .unwrap_or_else(|error| panic!("{name} {version}: {error}"));
        assert_eq!(report.cases, 8, "{name} {version}");
        assert!(
            report.feature_error_max < 1e-6,
            "{name} {version}: {report:?}"
        );
        assert_eq!(engine.manifest().name.as_str(), name);
        assert_eq!(engine.digest(), draft.bundle().digest());
    }
}

#[test]
fn the_check_of_a_whole_bundle_reports_golden_latency_and_memory_as_json() {
    let report = check_bundle_bytes(
        &Draft::zoo("traffic-flow", "1.0.0").pack(),
        &Limits::default(),
    )
    .expect("it is good");
    assert_eq!(report.golden.cases, 8);
    assert_eq!(report.latency.runs, 200);
    assert!(
        report.latency.median_us > 0.0 && report.latency.p99_us >= report.latency.median_us,
        "{report:?}"
    );
    // 35-64-32-1 has 4,417 weights of 4 bytes.
    assert!(
        (4417 * 4..4417 * 4 + 100).contains(&report.memory.weight_bytes),
        "{report:?}"
    );
    assert!(
        (4 * 35..100_000).contains(&report.memory.run_bytes),
        "{report:?}"
    );
    #[cfg(target_os = "linux")]
    assert!(
        report
            .memory
            .process_peak_bytes
            .is_some_and(|bytes| bytes > report.memory.weight_bytes)
    );
    let text = serde_json::to_string(&report).expect("JSON");
    assert_eq!(
        serde_json::from_str::<CheckReport>(&text).expect("the same"),
        report
    );
}

#[test]
fn a_bundle_whose_model_was_trained_on_after_its_golden_vectors_were_made_fails_the_check() {
    let mut draft = Draft::zoo("traffic-flow", "1.0.0");
    draft.model = Draft::zoo("traffic-flow", "1.1.0").model;
    let error = check_bundle_bytes(&draft.pack(), &Limits::default()).expect_err("other weights");
    let CheckError::Golden(GoldenError::Differs {
        case: 0,
        tensor: "outputs",
        index: 0,
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
}

#[test]
fn other_normalisation_constants_show_as_other_features() {
    let mut draft = Draft::zoo("traffic-flow", "1.0.0");
    draft.manifest["features"][0]["mean"] = json!(3000.0);
    let error = draft
        .open()
        .expect("it opens")
        .check_golden()
        .expect_err("other features");
    assert!(
        matches!(
            error,
            GoldenError::Differs {
                case: 0,
                tensor: "features",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_golden_check_over_its_time_says_how_far_it_came() {
    let limits = Limits {
        golden_time: std::time::Duration::ZERO,
        ..Limits::default()
    };
    let engine = Draft::zoo("air-quality", "1.0.0")
        .open_within(&limits)
        .expect("it opens");
    assert_eq!(
        engine.check_golden(),
        Err(GoldenError::Deadline {
            limit: limits.golden_time,
            done: 0
        })
    );
}

#[test]
fn a_forecast_has_value_unit_and_horizon_and_a_classification_label_and_scores() {
    let flow = Draft::zoo("traffic-flow", "1.1.0");
    let window = &windows(&flow)[0];
    let output = flow
        .open()
        .expect("it opens")
        .session()
        .run(window)
        .expect("it runs");
    assert_eq!(
        (output.unit.as_deref(), output.horizon.map(|h| h.as_secs())),
        (Some("vehicles/h"), Some(3600))
    );
    // The golden output of the first case, de-normalised as the manifest says.
    let raw = f64::from(flow.bundle().golden().cases[0].outputs[0]);
    assert!(
        (output.value.expect("a value") - (raw * 1960.8 + 3234.1)).abs() < 2.0,
        "{output:?}"
    );
    assert_eq!(
        (output.label, output.score, output.scores),
        (None, None, None)
    );

    let level = Draft::zoo("traffic-level", "1.0.0");
    let output = level
        .open()
        .expect("it opens")
        .session()
        .run(&windows(&level)[0])
        .expect("it runs");
    let scores = output.scores.expect("scores");
    assert_eq!(scores.len(), 4);
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    let best = scores.iter().copied().fold(0.0, f32::max);
    assert_eq!(output.score, Some(best));
    assert!(["free", "light", "heavy", "jam"].contains(&output.label.expect("a label").as_str()));
    assert_eq!(
        (output.value, output.unit, output.horizon),
        (None, None, None)
    );
}

#[test]
fn an_hour_missing_from_the_window_is_named_and_the_session_goes_on() {
    let draft = Draft::zoo("traffic-flow", "1.0.0");
    let mut session = draft.open().expect("it opens").session();
    let whole = windows(&draft)[0].clone();
    let mut gap = whole.clone();
    for reading in &mut gap[..5] {
        reading.ts = reading.ts.offset_ms(-3_600_000);
    }
    let unfit = Unfit::Step {
        index: 5,
        found_ms: 7_200_000,
        step_ms: 3_600_000,
        jitter_ms: 0,
    };
    assert_eq!(session.run(&gap), Err(RunError::Unfit(unfit)));
    let unfit = Unfit::Count {
        found: 23,
        wanted: 24,
        limit: 65_536,
    };
    assert_eq!(session.run(&whole[1..]), Err(RunError::Unfit(unfit)));
    let unfit = session
        .run(&readings(&[1.0; 24]))
        .expect_err("other readings");
    assert!(
        matches!(unfit, RunError::Unfit(Unfit::Step { .. })),
        "{unfit}"
    );
    session.run(&whole).expect("the whole window still runs");
}

#[test]
fn readings_behind_an_arc_and_longer_windows_give_the_same_result() {
    let draft = Draft::zoo("traffic-flow", "1.0.0");
    let mut session = draft.open().expect("it opens").session();
    let window = windows(&draft)[0].clone();
    let plain = session.run(&window).expect("it runs");
    let mut older = window[0].clone();
    older.ts = older.ts.offset_ms(-1);
    let shared: Vec<Arc<Reading>> = std::iter::once(older).chain(window).map(Arc::new).collect();
    assert_eq!(session.run(&shared), Ok(plain));
}

#[test]
fn an_engine_is_shared_by_threads_whose_results_are_the_same() {
    fn shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn movable<T: Send + 'static>(_: &T) {}
    let draft = Draft::zoo("air-quality", "1.0.0");
    let engine = draft.open().expect("it opens");
    shareable(&engine);
    movable(&engine.session());
    let windows = Arc::new(windows(&draft));
    let run = |engine: Engine| {
        let windows = Arc::clone(&windows);
        std::thread::spawn(move || {
            let mut session: Session = engine.session();
            let run = |_| {
                windows
                    .iter()
                    .map(|window| session.run(window).expect("it runs"))
                    .collect()
            };
            (0..50).map(run).collect::<Vec<Vec<Output>>>()
        })
    };
    let (one, two) = (run(engine.clone()), run(engine));
    let (one, two) = (one.join().expect("no panic"), two.join().expect("no panic"));
    assert_eq!(one, two);
    assert!(one.iter().all(|round| *round == one[0]));
}

#[test]
fn a_warm_session_allocates_for_tracts_own_tensors_and_the_result_alone() {
    let draft = Draft::zoo("traffic-flow", "1.0.0");
    let mut session = draft.open().expect("it opens").session();
    let window = windows(&draft)[0].clone();
    for _ in 0..3 {
        session.run(&window).expect("it runs");
    }
    let features = allocation_counter::measure(|| {
        session.features(&window).expect("they fit");
    });
    assert_eq!(
        features.count_total, 0,
        "preprocessing allocates: {features:?}"
    );
    let run = allocation_counter::measure(|| {
        session.run(&window).expect("it runs");
    });
    println!("allocations of one run: {run:?}");
    assert_eq!(run.count_current, 0, "a run keeps memory: {run:?}");
    // One for the unit; the rest are tract's, a few for each of its five nodes.
    assert!(run.count_total <= 40, "{run:?}");
}
