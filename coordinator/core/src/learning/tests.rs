use proptest::prelude::*;

use super::*;
use crate::rollout::policy::{Bytes, Span};
use lamppost_models::Timestamp;

const HOUR: i64 = 3_600_000;

fn at(hours: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(hours * HOUR)
}

/// A fleet of ten that has doubled its samples; an error as on the day that the version went live.
fn known() -> Known {
    Known {
        trained_on: 4000,
        labelled: 4000,
        collected_bytes: 500_000,
        nodes: 10,
        bundle_bytes: 20_000,
        seconds: 30.0,
        drifted: 0,
        error: Some(ErrorNow {
            before: 100.0,
            now: 100.0,
            labels: 400,
        }),
    }
}

fn outcome(hours: i64, ended: Ended) -> Outcome {
    Outcome {
        at: at(hours),
        samples: 4000,
        expected: 0.1,
        cost: Cost {
            collected_bytes: 1,
            fetched_bytes: 200_000,
            seconds: 30.0,
        },
        ended,
    }
}

fn after(ends: &[(i64, Ended)]) -> Learning {
    let mut learning = Learning::default();
    for (hours, ended) in ends {
        learning.record(outcome(*hours, ended.clone()), &Terms::default());
    }
    learning
}

fn promoted(gain: f64) -> Ended {
    Ended::Promoted { gain }
}

fn failed() -> Ended {
    Ended::Failed {
        why: "no space is left".to_owned(),
    }
}

fn known_with(change: impl Fn(&mut Known)) -> Known {
    let mut known = known();
    change(&mut known);
    known
}

fn error(now: f64, labels: u64) -> ErrorNow {
    ErrorNow {
        before: 100.0,
        now,
        labels,
    }
}

/// What it is called, what was before, what is known, and how the decision begins.
type Case = (&'static str, Learning, Known, &'static str);

fn hold(cases: &[Case]) {
    for (name, learning, known, begins) in cases {
        let decision = learning
            .decide(&Terms::default(), known, at(100))
            .to_string();
        assert!(decision.starts_with(begins), "{name}: {decision}");
    }
}

#[test]
fn a_gain_is_held_against_its_cost() {
    hold(&[
        (
            "twice the samples",
            after(&[]),
            known(),
            "train: 4000 new labelled samples",
        ),
        (
            "too few",
            after(&[]),
            known_with(|known| known.labelled = 300),
            "wait: for 36 more labelled samples: 300 are new since the last attempt, of 336",
        ),
        (
            "few beside many",
            after(&[]),
            known_with(|known| {
                (known.trained_on, known.bundle_bytes) = (400_000, 40_000);
            }),
            "wait: for a gain that pays: the error is 100.0000",
        ),
        (
            "few beside many, and an error that has grown by half",
            after(&[]),
            known_with(|known| {
                (known.trained_on, known.error) = (400_000, Some(error(150.0, 400)));
            }),
            "train: 4000 new",
        ),
        (
            "a grown error over a handful of labels is noise",
            after(&[]),
            known_with(|known| {
                (known.trained_on, known.error, known.bundle_bytes) =
                    (400_000, Some(error(110.0, 4)), 40_000);
            }),
            "wait: for a gain that pays",
        ),
        (
            "unless a node has told it from noise",
            after(&[]),
            known_with(|known| {
                (known.trained_on, known.error, known.drifted) =
                    (400_000, Some(error(110.0, 4)), 1);
            }),
            "train: 4000 new labelled samples; the error is 110.0000, from 100.0000 when it went live (4 labels, drift on 1 node)",
        ),
        (
            "a fleet whose links cost more than it gains",
            after(&[]),
            known_with(|known| known.nodes = 10_000),
            "wait: for a gain that pays",
        ),
    ]);
}

#[test]
fn trainings_have_gaps_and_setbacks_pauses() {
    hold(&[
        (
            "soon after the last",
            after(&[(90, promoted(0.1))]),
            known(),
            "wait: until 1970-01-05T18:00:00Z: the least time between two trainings",
        ),
        (
            "soon after the last, with drift",
            after(&[(90, promoted(0.1))]),
            known_with(|known| known.drifted = 2),
            "train: ",
        ),
        (
            "after one that did not pay",
            after(&[(80, promoted(0.0001))]),
            known_with(|known| known.drifted = 2),
            "wait: until 1970-01-05T08:00:00Z: the last training failed or did not pay",
        ),
        (
            "after two failures, the pause is twice as long",
            after(&[(0, failed()), (70, failed())]),
            known_with(|known| known.labelled = 9000),
            "wait: until 1970-01-05T22:00:00Z: the last 2 trainings failed or did not pay",
        ),
        (
            "the samples of a failure are no reason for the next",
            after(&[(0, failed())]),
            known_with(|known| known.labelled = 4100),
            "wait: for 236 more labelled samples",
        ),
        (
            "three failures",
            after(&[(0, failed()), (10, failed()), (20, failed())]),
            known_with(|known| known.labelled = 100_000),
            "stopped: 3 trainings in a row failed, the last because no space is left; `lamppost loop resume` starts it again",
        ),
        (
            "a success between failures",
            after(&[
                (0, failed()),
                (1, failed()),
                (2, promoted(0.1)),
                (3, failed()),
            ]),
            known_with(|known| known.labelled = 100_000),
            "train: ",
        ),
    ]);
}

#[test]
fn a_day_has_its_budget_and_the_next_another() {
    let terms = Terms {
        bytes_per_day: Some(Bytes(300_000)),
        gap_min: Span::default(),
        ..Terms::default()
    };
    let mut learning = Learning::default();
    assert!(matches!(
        learning.decide(&terms, &known(), at(1)),
        Decision::Train { .. }
    ));
    learning.record(outcome(2, promoted(0.2)), &terms);
    let decision = learning.decide(&terms, &known(), at(3));
    let Decision::Wait { until, words } = decision else {
        panic!("{decision}");
    };
    assert_eq!(until, Some(at(24)));
    assert!(
        words.contains("400000 bytes over the links, bytes_per_day is 300kB"),
        "{words}"
    );
    assert!(matches!(
        learning.decide(&terms, &known(), at(24)),
        Decision::Train { .. }
    ));
    let terms = Terms {
        bytes_per_day: None,
        time_per_day: Some(Span::from_secs(45)),
        ..terms
    };
    let words = learning.decide(&terms, &known(), at(3)).to_string();
    assert!(words.contains("60 s, time_per_day is 45s"), "{words}");
}

#[test]
fn what_is_wanted_is_enough_and_one_less_is_not() {
    let mut known = Known {
        trained_on: 400_000,
        nodes: 50,
        ..known()
    };
    let learning = Learning::default();
    let words = learning
        .decide(&Terms::default(), &known, at(100))
        .to_string();
    let (_, behind) = words.split_once("about ").unwrap();
    let more: u64 = behind.split_once(' ').unwrap().0.parse().unwrap();
    let before = known.labelled;
    known.labelled = before + more - 1;
    assert!(matches!(
        learning.decide(&Terms::default(), &known, at(100)),
        Decision::Wait { .. }
    ));
    known.labelled = before + more;
    assert!(matches!(
        learning.decide(&Terms::default(), &known, at(100)),
        Decision::Train { .. }
    ));
}

#[test]
fn resuming_forgets_failures_and_keeps_what_was_learnt() {
    let mut learning = after(&[(0, failed()), (1, failed()), (2, failed())]);
    let (trust, known) = (
        learning.trust(),
        Known {
            labelled: 9000,
            ..known()
        },
    );
    assert!(matches!(
        learning.decide(&Terms::default(), &known, at(90)),
        Decision::Stopped { .. }
    ));
    learning.resume();
    assert!(matches!(
        learning.decide(&Terms::default(), &known, at(90)),
        Decision::Train { .. }
    ));
    assert!(
        (learning.trust() - trust).abs() < 1e-12 && trust < 0.2,
        "{trust}"
    );
}

#[test]
fn terms_are_read_from_toml_and_what_cannot_be_is_refused() {
    let terms: Terms =
        toml::from_str("samples_min = 10\nbackoff = \"90m\"\nbytes_per_day = \"2MB\"").unwrap();
    assert_eq!(terms.check(), Ok(()));
    assert_eq!((terms.samples_min, terms.failures_max), (10, 3));
    assert_eq!(
        toml::from_str::<Terms>(&toml::to_string(&terms).unwrap()).unwrap(),
        terms
    );
    for (toml, begins) in [
        (
            "samples_min = 0",
            "policy: when.samples_min is 0: 1 to 5000000",
        ),
        (
            "failures_max = 0",
            "policy: when.failures_max is 0: 1 to 20",
        ),
        ("backoff = \"0s\"", "policy: when.backoff is 0s: 1s to 366d"),
        (
            "gap_min = \"400d\"",
            "policy: when.gap_min is 400d: 0s to 366d",
        ),
        (
            "time_per_percent = \"0s\"",
            "policy: when.time_per_percent is 0s",
        ),
        (
            "bytes_per_percent = \"0B\"",
            "policy: when.bytes_per_percent is 0B",
        ),
        ("bytes_per_day = \"0B\"", "policy: when.bytes_per_day is 0B"),
    ] {
        let found = toml::from_str::<Terms>(toml)
            .unwrap()
            .check()
            .unwrap_err()
            .to_string();
        assert!(found.starts_with(begins), "{found}");
    }
    assert!(toml::from_str::<Terms>("sample_min = 10").is_err());
}

fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        (-1.0..1.0).prop_map(promoted),
        (-1.0..0.1).prop_map(|gain| Ended::NotBetter {
            gain,
            why: "it is not".to_owned()
        }),
        Just(failed()),
    ]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..1e6,
        1 => prop::sample::select(vec![0.0, f64::NAN, f64::INFINITY, -1.0, f64::MIN_POSITIVE, f64::MAX]),
    ]
}

prop_compose! {
    fn any_known()(
        trained_on in prop_oneof![0..1_000_000_u64, Just(u64::MAX)],
        labelled in prop_oneof![0..100_000_u64, Just(u64::MAX)],
        nodes in prop_oneof![0..10_000_u64, Just(u64::MAX)],
        (bundle_bytes, collected_bytes, drifted) in (0..1_000_000_u64, 0..1_000_000_u64, 0..3_u64),
        (seconds, before, now, labels) in (number(), number(), number(), 0..10_000_u64),
    ) -> Known {
        Known {
            trained_on, labelled, collected_bytes, nodes, bundle_bytes, seconds, drifted,
            error: Some(ErrorNow { before, now, labels }),
        }
    }
}

proptest! {
    /// Whatever happened and whatever is known: shares are shares, and a training is decided on only with enough new samples,
    /// a gain that pays, and fewer failures than allowed.
    #[test]
    fn decisions_hold_their_promises(
        history in prop::collection::vec((0..200_i64, ended()), 0..50),
        known in any_known(),
        now in 0..400_i64,
    ) {
        let mut history = history;
        history.sort_by_key(|(hours, _)| *hours);
        let (learning, terms) = (after(&history), Terms::default());
        prop_assert!(learning.outcomes().count() <= OUTCOMES_MAX);
        let trust = learning.trust();
        prop_assert!((0.1..=4.0).contains(&trust), "{trust}");
        let reckoning = learning.reckon(&terms, &known);
        for share in [reckoning.growth, reckoning.excess, reckoning.expected] {
            prop_assert!((0.0..=1.0).contains(&share), "{reckoning:?}");
        }
        prop_assert!(reckoning.cost_percent.is_finite() && reckoning.cost_percent >= 0.0);
        match learning.decide(&terms, &known, at(now)) {
            Decision::Train { reckoning, words } => {
                prop_assert!(known.labelled >= terms.samples_min && learning.failures() < terms.failures_max);
                prop_assert!(reckoning.believed_percent() >= reckoning.cost_percent);
                prop_assert!(!words.contains("NaN"), "{words}");
            }
            Decision::Wait { until, .. } => prop_assert!(until.is_none_or(|until| until > at(now))),
            Decision::Stopped { .. } => prop_assert!(learning.failures() >= terms.failures_max),
        }
        // What is remembered survives a file.
        let json = serde_json::to_string(&learning).unwrap();
        let read: Learning = serde_json::from_str(&json).unwrap();
        prop_assert!((read.trust() - trust).abs() < 1e-9);
        let (read, kept) = (read.decide(&terms, &known, at(now)), learning.decide(&terms, &known, at(now)));
        prop_assert_eq!(read.words(), kept.words());
    }

    /// More samples, a greater error or cheaper links never turn a training into a wait.
    #[test]
    fn more_reason_is_never_less(
        (trained_on, labelled, nodes) in (0..100_000_u64, 336..20_000_u64, 0..50_u64),
        (bundle_bytes, labels, drifted) in (0..100_000_u64, 0..2000_u64, 0..2_u64),
        (grown, worse, more) in (0.8..2.0, 1.0..2.0, 0..100_000_u64),
        history in prop::collection::vec((0..200_i64, ended()), 0..3),
    ) {
        let error = |now| Some(ErrorNow { before: 100.0, now, labels });
        let known = Known { trained_on, labelled, nodes, bundle_bytes, drifted, error: error(100.0 * grown), ..known() };
        let mut learning = after(&history);
        learning.resume();
        learning.replaced();
        let trains = |known: &Known| matches!(learning.decide(&Terms::default(), known, at(10_000)), Decision::Train { .. });
        if trains(&known) {
            let reasons = [
                Known { labelled: labelled + more, ..known.clone() },
                Known { error: error(100.0 * grown * worse), ..known.clone() },
                Known { bundle_bytes: bundle_bytes / 2, ..known },
            ];
            for known in &reasons {
                prop_assert!(trains(known), "{known:?}");
            }
        } else {
            let known = Known { nodes: 2 * nodes, ..known };
            prop_assert!(!trains(&known), "{known:?}");
        }
    }
}
