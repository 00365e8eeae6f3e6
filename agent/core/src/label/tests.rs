use lamppost_models::BootId;
use lamppost_models::trial::Moments;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::EPOCH;

/// Event times are in seconds, and a prediction's number is its time.
struct Bench {
    join: LabelJoin,
    joined: Vec<(u64, i64, f64)>,
}

fn at(at_s: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(at_s * 1000)
}

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn prediction(ts: i64, target: Option<i64>, said: Label) -> Predicted {
    let id = PredictionId {
        boot: BootId::from_u64(1),
        number: ts.cast_unsigned(),
    };
    Predicted {
        id,
        ts: at(ts),
        target_ts: target.map(at),
        digest: digest("v1"),
        said,
    }
}

impl Bench {
    fn new(mut spec: serde_json::Value) -> Self {
        spec["stream"] = json!("s");
        spec["field"] = json!("x");
        let spec: LabelSpec = serde_json::from_value(spec).unwrap();
        Self {
            join: LabelJoin::new(&spec),
            joined: Vec::new(),
        }
    }

    fn note(&mut self, joined: &Joined) {
        let Compared::Error(error) = joined.compared else {
            panic!("{joined:?} compares values")
        };
        self.joined.push((
            joined.predicted.id.number,
            joined.label_ts.as_ms() / 1000,
            error,
        ));
    }

    fn predict(&mut self, ts: i64, target: Option<i64>, said: f64) {
        if let Some(joined) = self
            .join
            .predicted(prediction(ts, target, Label::Value(said)), NOW)
        {
            self.note(&joined);
        }
    }

    fn label(&mut self, ts: i64, value: f64) {
        let mut all = Vec::new();
        self.join
            .label(at(ts), Some(&Value::Number(value)), |joined| {
                all.push(joined);
            });
        for joined in &all {
            self.note(joined);
        }
    }

    fn no_label(&mut self, ts: i64) {
        self.join
            .label(at(ts), None, |joined| panic!("{joined:?} has no label"));
    }

    #[track_caller]
    fn expect(&mut self, wanted: &[(u64, i64, f64)]) {
        assert_eq!(self.joined, wanted);
        self.joined.clear();
    }

    #[track_caller]
    fn expect_counts(&self, joined: u64, unlabelled: u64, pending: usize) {
        let counts = self.join.counts();
        assert_eq!(
            (counts.joined, counts.unlabelled, self.join.pending()),
            (joined, unlabelled, pending)
        );
    }
}

#[test]
fn the_next_reading_is_the_label_one_step_ahead() {
    let mut bench = Bench::new(json!({"ahead": 1}));
    bench.label(10, 1.0);
    bench.predict(10, None, 5.0);
    bench.expect(&[]);
    bench.label(20, 4.0);
    bench.expect(&[(10, 20, 1.0)]);
    // The engine was behind: the label is there before the prediction.
    bench.label(30, 1.0);
    bench.label(40, 9.0);
    bench.predict(20, None, 2.0);
    bench.expect(&[(20, 30, 1.0)]);
    bench.predict(30, None, 2.0);
    bench.expect(&[(30, 40, -7.0)]);
    bench.expect_counts(3, 0, 0);
}

#[test]
fn steps_are_counted_from_each_prediction() {
    let mut bench = Bench::new(json!({"ahead": 3}));
    for ts in 0..6_i64 {
        bench.label(ts, 100.0 + ts as f64);
        bench.predict(ts, None, 0.0);
    }
    bench.expect(&[(0, 3, -103.0), (1, 4, -104.0), (2, 5, -105.0)]);
    bench.expect_counts(3, 0, 3);
    // A reading out of order counts for nothing.
    bench.label(2, 0.0);
    assert_eq!(bench.join.counts().ignored, 1);
    bench.expect_counts(3, 0, 3);
}

#[test]
fn a_reading_without_the_field_is_a_step_without_a_label() {
    let mut bench = Bench::new(json!({"ahead": 1}));
    bench.predict(10, None, 5.0);
    bench.no_label(20);
    bench.predict(20, None, 5.0);
    bench.label(30, 5.0);
    bench.expect(&[(20, 30, 0.0)]);
    bench.expect_counts(1, 1, 0);
}

#[test]
fn a_step_must_be_near_the_target_where_a_tolerance_says_so() {
    let mut bench = Bench::new(json!({"ahead": 1, "tolerance": "2s"}));
    bench.predict(10, Some(20), 5.0);
    bench.label(22, 5.0);
    bench.predict(22, Some(32), 5.0);
    bench.label(60, 5.0);
    bench.expect(&[(10, 22, 0.0)]);
    bench.expect_counts(1, 1, 0);
}

#[test]
fn without_steps_the_label_is_the_nearest_to_the_target() {
    let mut bench = Bench::new(json!({"tolerance": "3s"}));
    bench.predict(10, Some(20), 0.0);
    bench.label(18, 1.0);
    bench.expect(&[]);
    bench.label(21, 2.0);
    bench.expect(&[(10, 21, -2.0)]);
    bench.predict(11, Some(19), 0.0);
    bench.expect(&[(11, 18, -1.0)]);
    bench.predict(40, None, 0.0);
    bench.label(40, 3.0);
    bench.expect(&[(40, 40, -3.0)]);
    // Too far on both sides, until one that was overtaken comes.
    bench.predict(50, None, 0.0);
    bench.label(46, 4.0);
    bench.label(54, 5.0);
    bench.expect_counts(3, 0, 1);
    bench.label(52, 6.0);
    bench.expect(&[(50, 52, -6.0)]);
    bench.label(52, 7.0);
    assert_eq!(bench.join.counts().ignored, 1);
}

#[test]
fn without_a_tolerance_the_label_is_at_the_target() {
    let mut bench = Bench::new(json!({}));
    bench.predict(10, Some(20), 0.0);
    bench.label(19, 1.0);
    bench.label(21, 1.0);
    bench.expect_counts(0, 0, 1);
    bench.label(20, 1.0);
    bench.expect(&[(10, 20, -1.0)]);
}

#[test]
fn what_waits_is_bounded_by_count_and_by_age() {
    let mut bench = Bench::new(json!({"age": "60s", "pending_max": 3}));
    for ts in 0..5 {
        bench.predict(ts, None, 0.0);
    }
    bench.expect_counts(0, 2, 3);
    bench.join.expire(NOW.offset_ms(60_000));
    bench.expect_counts(0, 2, 3);
    bench.join.expire(NOW.offset_ms(60_001));
    bench.expect_counts(0, 5, 0);
    bench.label(4, 0.0);
    bench.expect(&[]);
}

#[test]
fn the_history_is_bounded_and_a_prediction_behind_it_has_no_label() {
    let mut bench = Bench::new(json!({"ahead": 1}));
    let count = i64::try_from(HISTORY_MAX).unwrap() + 10;
    (0..count).for_each(|ts| bench.label(ts, 0.0));
    bench.predict(3, None, 0.0);
    bench.expect_counts(0, 1, 0);
    bench.predict(20, None, 0.0);
    bench.expect(&[(20, 21, 0.0)]);
}

#[test]
fn quality_is_summed_up_by_bundle() {
    let mut bench = Bench::new(json!({}));
    for (ts, said, value) in [(1, 3.0, 0.0), (2, 0.0, 4.0)] {
        bench.predict(ts, None, said);
        bench.label(ts, value);
    }
    let mut other = prediction(3, None, Label::Value(1.0));
    other.digest = digest("v2");
    assert_eq!(bench.join.predicted(other, NOW), None);
    bench.label(3, 1.0);
    let rmse = (25.0_f64 / 2.0).sqrt();
    assert_eq!(
        bench.join.quality(&digest("v1")),
        Some(Quality::Error {
            labels: 2,
            mae: 3.5,
            rmse
        })
    );
    assert_eq!(
        bench.join.quality(&digest("v2")),
        Some(Quality::Error {
            labels: 1,
            mae: 0.0,
            rmse: 0.0
        })
    );
    assert_eq!(bench.join.quality(&digest("v3")), None);
}

#[test]
fn classes_are_right_or_wrong_and_nothing_else_is_compared() {
    let mut bench = Bench::new(json!({}));
    let mut right = Vec::new();
    for (ts, class) in [(1, "low"), (2, "high"), (3, "low")] {
        assert_eq!(
            bench
                .join
                .predicted(prediction(ts, None, Label::Class("low".to_owned())), NOW),
            None
        );
        bench
            .join
            .label(at(ts), Some(&Value::Text(class.to_owned())), |joined| {
                right.push(joined.compared);
            });
    }
    assert_eq!(
        right,
        [
            Compared::Same(true),
            Compared::Same(false),
            Compared::Same(true)
        ]
    );
    let accuracy = 2.0 / 3.0;
    assert_eq!(
        bench.join.quality(&digest("v1")),
        Some(Quality::Accuracy {
            labels: 3,
            accuracy
        })
    );
    assert_eq!(
        bench
            .join
            .predicted(prediction(4, None, Label::Class("low".to_owned())), NOW),
        None
    );
    bench.label(4, 1.0);
    assert_eq!(bench.join.counts().mismatched, 1);
    assert_eq!(
        bench
            .join
            .predicted(prediction(5, None, Label::Value(1.0)), NOW),
        None
    );
    bench
        .join
        .label(at(5), Some(&Value::Vector(vec![1.0])), |joined| {
            panic!("{joined:?}")
        });
    assert_eq!(bench.join.counts().unlabelled, 1);
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let source = json!({"topic": "t", "decode": "json", "time": "/t", "fields": {"x": "/x"}});
    for (spec, wanted) in [
        (json!({"field": "x"}), "set one of them"),
        (
            json!({"field": "x", "stream": "s", "source": source}),
            "set one of them",
        ),
        (
            json!({"field": "x", "source": source, "ahead": 1}),
            "leave ahead out",
        ),
        (
            json!({"field": "x", "stream": "s", "ahead": 0}),
            "ahead is 0",
        ),
        (
            json!({"field": "x", "stream": "s", "ahead": 1001}),
            "ahead is 1001",
        ),
        (
            json!({"field": "x", "stream": "s", "pending_max": 0}),
            "pending_max is 0",
        ),
        (
            json!({"field": "x", "stream": "s", "age": "long"}),
            "is no duration",
        ),
        (
            json!({"field": "x", "stream": "s", "after": 1}),
            "unknown field `after`",
        ),
        (json!({"stream": "s"}), "missing field `field`"),
    ] {
        let found = serde_json::from_value::<LabelSpec>(spec.clone())
            .unwrap_err()
            .to_string();
        assert!(
            found.contains(wanted),
            "{spec}: {found:?} should say {wanted:?}"
        );
    }
    let read: LabelSpec =
        serde_json::from_value(json!({"field": "x", "source": source, "tolerance": "1m"})).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(serde_json::from_value::<LabelSpec>(written).unwrap(), read);
}

proptest! {
    /// However the engine's delay interleaves them, the pairs are the same as when all labels are known.
    #[test]
    fn pairs_do_not_depend_on_which_comes_first(
        gaps in proptest::collection::vec(1_i64..9, 2..40),
        delay in 0_usize..8,
        ahead in proptest::option::of(1_usize..4),
        tolerance in 0_i64..6,
    ) {
        let times: Vec<i64> = gaps.iter().scan(0, |clock, gap| { *clock += gap; Some(*clock) }).collect();
        let horizon = 7;
        let mut spec = json!({"tolerance": format!("{tolerance}s")});
        if let Some(ahead) = ahead {
            spec["ahead"] = json!(ahead);
        }
        let mut bench = Bench::new(spec);
        for (index, &ts) in times.iter().enumerate() {
            bench.label(ts, ts as f64);
            if let Some(&late) = index.checked_sub(delay).and_then(|index| times.get(index)) {
                bench.predict(late, Some(late + horizon), 0.0);
            }
        }
        for &late in &times[times.len().saturating_sub(delay)..] {
            bench.predict(late, Some(late + horizon), 0.0);
        }
        let wanted = times.iter().filter_map(|&ts| {
            let target = ts + horizon;
            let label = match ahead {
                Some(ahead) => times.iter().copied().filter(|&label| label > ts).nth(ahead - 1),
                None if times.last() < Some(&target) => None,
                None => times.iter().copied().min_by_key(|label| ((label - target).abs(), *label)),
            };
            label.filter(|label| (label - target).abs() <= tolerance).map(|label| (ts.cast_unsigned(), label))
        });
        let mut found: Vec<(u64, i64)> = bench.joined.iter().map(|(number, label, _)| (*number, *label)).collect();
        found.sort_unstable();
        prop_assert_eq!(found, wanted.collect::<Vec<_>>());
    }
}

/// What a candidate said of the window that ends at `ts`, beside what the active version said.
fn beside(ts: i64, target: Option<i64>, candidate: f64, active: f64) -> Shadowed {
    let said = Label::Value(candidate);
    Shadowed {
        candidate: Predicted {
            digest: digest("candidate"),
            ..prediction(ts, target, said)
        },
        active: Label::Value(active),
    }
}

#[test]
fn a_candidate_and_the_active_version_meet_the_same_label() {
    for spec in [json!({"ahead": 1}), json!({"tolerance": "1s"})] {
        let mut bench = Bench::new(spec.clone());
        let join = &mut bench.join;
        // One is answered before its label comes, one after, and one never.
        let target = |ts: i64| spec.get("tolerance").map(|_| ts + 10);
        join.predicted(prediction(10, target(10), Label::Value(5.0)), NOW);
        join.shadowed(beside(10, target(10), 8.0, 5.0), NOW);
        assert_eq!(join.take_pairs(), []);
        join.label(at(20), Some(&Value::Number(6.0)), |_| {});
        let pair = |candidate, active| Pair {
            digest: digest("candidate"),
            candidate,
            active,
        };
        assert_eq!(join.take_pairs(), [pair(2.0, 1.0)], "{spec}");
        join.label(at(30), Some(&Value::Number(0.0)), |_| {});
        join.shadowed(beside(20, target(20), -4.0, 1.5), NOW);
        assert_eq!(join.take_pairs(), [pair(4.0, 1.5)], "{spec}");
        // Only the active version's predictions are counted, and only they make its quality.
        assert_eq!(join.counts().joined, 1);
        assert_eq!(join.quality(&digest("candidate")), None);
        join.shadowed(beside(30, target(30), 1.0, 1.0), NOW);
        join.forget_shadowed();
        join.label(at(40), Some(&Value::Number(0.0)), |_| {});
        assert_eq!(join.take_pairs(), []);
    }
}

#[test]
fn what_is_known_of_a_label_is_told_at_any_time() {
    let mut bench = Bench::new(json!({"ahead": 1, "pending_max": 1}));
    let join = &mut bench.join;
    let said = |ts| prediction(ts, None, Label::Value(5.0));
    assert_eq!(join.outlook(&said(10)), Outlook::Never, "nobody waits");
    join.predicted(said(10), NOW);
    assert_eq!(join.outlook(&said(10)), Outlook::Waits);
    join.label(at(20), Some(&Value::Number(6.0)), |_| {});
    assert_eq!(join.outlook(&said(10)), Outlook::Came(Label::Value(6.0)));
    join.predicted(said(20), NOW);
    join.predicted(said(21), NOW);
    assert_eq!(join.outlook(&said(20)), Outlook::Never, "it was given up");
    join.label(at(30), Some(&Value::Text("low".to_owned())), |_| {});
    assert_eq!(join.outlook(&said(21)), Outlook::Never, "of another kind");
    join.predicted(said(30), NOW);
    join.label(at(40), None, |_| {});
    assert_eq!(join.outlook(&said(30)), Outlook::Never, "without a value");
}

#[test]
fn what_a_candidate_said_takes_no_place_from_what_the_active_version_said() {
    let mut bench = Bench::new(json!({"ahead": 1}));
    let join = &mut bench.join;
    join.predicted(prediction(1, None, Label::Value(0.0)), NOW);
    let many = i64::try_from(2 * join.pending_max).unwrap();
    for ts in 1..many {
        join.shadowed(beside(ts, None, 0.0, 0.0), NOW);
    }
    assert_eq!((join.pending(), join.counts().unlabelled), (1, 0));
    assert!(join.shadowed.len() <= join.pending_max);
}

#[test]
fn losses_are_told_apart_from_those_of_an_earlier_time() {
    let mut bench = Bench::new(json!({"ahead": 1}));
    for (ts, said) in [(1, 1.0), (2, 3.0), (3, 5.0)] {
        bench.predict(ts, None, said);
    }
    let join = &mut bench.join;
    let label = |join: &mut LabelJoin, ts| join.label(at(ts), Some(&Value::Number(0.0)), |_| {});
    label(join, 2);
    let base = join.losses(&digest("v1"));
    label(join, 3);
    label(join, 4);
    let all = join.losses(&digest("v1")).moments();
    assert_eq!((all.n, all.mean), (3, 3.0));
    assert!((all.variance() - 4.0).abs() < 1e-9);
    let since = join.losses(&digest("v1")).since(base).moments();
    assert_eq!((since.n, since.mean), (2, 4.0));
    assert!((since.variance() - 2.0).abs() < 1e-9);
    let both = join.losses(&digest("v1")).and(base).moments();
    assert_eq!((both.n, both.mean), (4, 2.5));
    assert_eq!(
        join.losses(&digest("unheard of")).moments(),
        Moments::default()
    );
}
