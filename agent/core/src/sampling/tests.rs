use std::collections::BTreeSet;
use std::time::Duration;

use lamppost_models::{BootId, Sample, Timestamp, Value};
use proptest::prelude::*;

use super::*;
use crate::outbox::Now;
use crate::pace::Spent;

const BOOT: BootId = BootId::from_u64(7);
/// A midnight.
const MIDNIGHT_MS: i64 = 1_800_057_600_000;
const HOUR_MS: i64 = 3_600_000;

fn id(number: u64) -> PredictionId {
    PredictionId { boot: BOOT, number }
}

fn field(name: &str) -> FieldName {
    name.parse().unwrap()
}

fn sampler(shares: &[(SamplePolicy, f64)]) -> Sampler {
    Sampler::new(
        &shares.iter().copied().collect(),
        [field("x"), field("y")],
        5,
    )
}

fn window(x: f64, y: f64) -> Vec<Arc<Reading>> {
    let fields = [
        (field("x"), Value::Number(x)),
        (field("y"), Value::Number(y)),
    ];
    vec![Arc::new(Reading {
        ts: Timestamp::EPOCH,
        fields: fields.into(),
    })]
}

/// Numbers between 0 and 1 that look like chance.
fn noise(at: u64) -> f64 {
    crate::mix::chance(at.wrapping_add(1 << 40))
}

fn choose(
    sampler: &mut Sampler,
    number: u64,
    window: &[Arc<Reading>],
    scores: Option<&[f32]>,
) -> Option<SamplePolicy> {
    sampler.choose(&Seen {
        id: id(number),
        window,
        scores,
    })
}

#[test]
fn of_a_classification_the_least_sure_are_kept() {
    let mut sampler = sampler(&[(SamplePolicy::Uncertain, 0.1)]);
    let window = window(0.0, 0.0);
    let (mut kept, mut kept_unsure) = (0, 0);
    for at in 0..2_000 {
        let unsure = at % 20 == 0;
        let first = if unsure { 0.40 } else { 0.7 } + noise(at) * 0.05;
        #[expect(clippy::cast_possible_truncation, reason = "a score")]
        let first = first as f32;
        let scores = [first, 0.38, 1.0 - first - 0.38];
        if choose(&mut sampler, at, &window, Some(&scores)).is_some() {
            kept += 1;
            kept_unsure += i32::from(unsure);
        }
    }
    assert!((150..250).contains(&kept), "{kept} of 2,000, a tenth");
    assert!(kept_unsure >= 95, "{kept_unsure} of 100 that are hard");
    assert!((margin(&[0.9]) - 0.8).abs() < 1e-6 && margin(&[0.5]).abs() < 1e-6);
}

#[test]
fn of_values_those_are_kept_where_the_model_was_wrong_of_late() {
    let mut sampler = sampler(&[(SamplePolicy::Uncertain, 0.2)]);
    let (mut kept_hard, mut kept_easy) = (0, 0);
    for at in 0..3_000 {
        // One half of the windows is hard, by their x.
        let hard = noise(at) < 0.5;
        let x = if hard { 50.0 } else { -50.0 } + noise(at + 10_000);
        let kept = choose(&mut sampler, at, &window(x, noise(at + 20_000)), None).is_some();
        if at >= 500 {
            kept_hard += i32::from(kept && hard);
            kept_easy += i32::from(kept && !hard);
        } else if at < 8 {
            assert!(!kept, "nothing is known yet");
        }
        // Labels come three windows later.
        if at >= 3 {
            let was_hard = noise(at - 3) < 0.5;
            sampler.learn(id(at - 3), if was_hard { 8.0 } else { 1.0 } + noise(at));
        }
    }
    assert!(kept_hard > 350, "{kept_hard}, a fifth of 2,500 is 500");
    assert!(
        kept_easy * 10 < kept_hard,
        "{kept_easy} easy, {kept_hard} hard"
    );
}

#[test]
fn the_rare_are_kept_and_what_becomes_usual_is_not_rare() {
    let mut sampler = sampler(&[(SamplePolicy::Rare, 0.05)]);
    let mut far = 0;
    for at in 0..2_000 {
        let is_far = at > 300 && at % 50 == 0;
        let x = if is_far { 40.0 } else { 0.0 } + noise(at);
        let kept = choose(&mut sampler, at, &window(x, 1e9 * noise(at + 9_000)), None).is_some();
        far += i32::from(is_far && kept);
    }
    assert!(far >= 30, "{far} of 33 that are far off");
    // From now on all are there.
    let mut kept = 0;
    for at in 2_000..4_000 {
        let x = 40.0 + noise(at);
        let keeps = choose(&mut sampler, at, &window(x, 1e9 * noise(at + 9_000)), None).is_some();
        kept += i32::from(keeps && at >= 3_000);
    }
    assert!(kept < 100, "{kept} of 1,000");
}

#[test]
fn where_both_say_the_same_nothing_is_kept() {
    let mut sampler = sampler(&[(SamplePolicy::Disagreeing, 1.0)]);
    let (a, b) = (Label::Class("a".to_owned()), Label::Class("b".to_owned()));
    for _ in 0..50 {
        assert_eq!(sampler.compare(&a, &a), None);
    }
    assert_eq!(sampler.compare(&a, &b), Some(SamplePolicy::Disagreeing));
    assert_eq!(
        sampler.compare(&Label::Value(1.0), &Label::Value(1.0)),
        None
    );
    assert!(
        sampler
            .compare(&Label::Value(1.0), &Label::Value(1.5))
            .is_some()
    );
    assert!(
        sampler
            .compare(&Label::Value(f64::NAN), &Label::Value(1.5))
            .is_none()
    );
    assert!(choose(&mut sampler, 0, &window(0.0, 0.0), None).is_none());
}

#[test]
fn the_policy_that_says_most_is_told_and_the_same_seed_chooses_the_same() {
    let shares = [
        (SamplePolicy::All, 1.0),
        (SamplePolicy::Random, 0.5),
        (SamplePolicy::Uncertain, 0.2),
    ];
    let run = || {
        let mut sampler = sampler(&shares);
        let chosen = (0..400).map(|at| {
            let window = window(noise(at), 0.0);
            #[expect(clippy::cast_possible_truncation, reason = "a score")]
            let scores = [noise(at) as f32, 0.5];
            choose(&mut sampler, at, &window, Some(&scores)).unwrap()
        });
        chosen.collect::<Vec<_>>()
    };
    let chosen = run();
    assert_eq!(chosen, run());
    let count = |which| chosen.iter().filter(|one| **one == which).count();
    assert!((50..110).contains(&count(SamplePolicy::Uncertain)));
    assert!((120..200).contains(&count(SamplePolicy::Random)));
    assert!((120..200).contains(&count(SamplePolicy::All)));
}

#[test]
fn numbers_out_of_all_bounds_do_no_harm() {
    let mut sampler = sampler(&[(SamplePolicy::Rare, 0.5), (SamplePolicy::Uncertain, 0.5)]);
    for at in 0..600 {
        let x = [0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 1.0][usize::try_from(at % 5).unwrap()];
        choose(&mut sampler, at, &window(x, -x), None);
        sampler.learn(id(at), f64::MAX);
        choose(&mut sampler, at, &[], Some(&[]));
        choose(&mut sampler, at, &window(x, x), Some(&[f32::NAN, f32::NAN]));
    }
    assert!(sampler.learning.len() <= LEARNING_MAX);
}

proptest! {
    /// Over many windows each policy keeps its share, whatever the scores are, ties and all.
    #[test]
    fn a_share_is_a_share(share in 0.02_f64..0.9, kinds in 1_u64..1_000, seed: u64) {
        let (mut rank, mut lot) = (Rank::default(), Lot::new(seed));
        let rounds = 4_000;
        let kept = (0..rounds).filter(|at| {
            let score = (noise(seed.wrapping_add(*at)) * kinds as f64).floor();
            rank.of(score, &mut lot) < share
        });
        let kept = kept.count() as f64 / rounds as f64;
        // Six standard deviations.
        let off = 6.0 * (share * (1.0 - share) / rounds as f64).sqrt();
        prop_assert!((kept - share).abs() < off + 0.005, "{} of {}", kept, share);
    }

    /// No day has more than its budget, no hour more than its part and an hour's, over restarts and jumps of the clock; and
    /// what would fit is not refused.
    #[test]
    fn the_budget_holds(
        day_bytes in 1_000_u64..1_000_000,
        steps in proptest::collection::vec((0_i64..3 * HOUR_MS, 0.0_f64..0.05, any::<bool>(), 0_i64..40), 1..300),
    ) {
        let mut ms = 0;
        let now = |ms: i64, jump_ms: i64| Now {
            wall: Timestamp::from_ms(MIDNIGHT_MS + ms + jump_ms).unwrap(),
            steady: Duration::from_millis(ms.unsigned_abs()),
        };
        let mut budget = Budget::new(day_bytes, None, now(0, 0));
        let (mut used, mut day) = (0_u64, 0);
        for (more_ms, part, restarts, jump_days) in steps {
            ms += more_ms;
            // Only a restart looks at the clock anew, and then it is right.
            let jump_ms = if restarts { 0 } else { jump_days * 24 * HOUR_MS };
            if restarts {
                let before = budget.spent(now(ms, 0));
                budget = Budget::new(day_bytes, Some(before), now(ms, 0));
            }
            if ms / (24 * HOUR_MS) != day {
                (day, used) = (ms / (24 * HOUR_MS), 0);
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the budget")]
            let bytes = (day_bytes as f64 * part) as u64 + 1;
            let part_ms = (ms % (24 * HOUR_MS) + HOUR_MS).min(24 * HOUR_MS);
            let allowed = u128::from(day_bytes) * u128::from(part_ms.unsigned_abs()) / u128::from((24 * HOUR_MS).unsigned_abs());
            let fits = u128::from(used + bytes) <= allowed;
            prop_assert_eq!(budget.take(bytes, now(ms, jump_ms)), fits);
            used += if fits { bytes } else { 0 };
            prop_assert!(used <= day_bytes);
            prop_assert_eq!(budget.spent(now(ms, jump_ms)).bytes, used);
        }
    }

    /// The room is never over its bounds, and nobody in it is lost or doubled.
    #[test]
    fn the_room_has_bounds(steps in proptest::collection::vec((0..4_u8, 0..60_u64, 1..400_usize), 1..200)) {
        let mut room = Room::new(8, 1_000);
        let (mut put, mut out) = (Vec::new(), Vec::new());
        for (step, at, bytes) in steps {
            match step {
                0 | 1 => {
                    put.push((at, bytes));
                    out.extend(room.put(id(at), (at, bytes), bytes));
                }
                2 => out.extend(room.take(&id(at))),
                _ => out.extend(room.take_if(|(number, _)| *number < at)),
            }
            prop_assert!(room.len() <= 8 && room.bytes() <= 1_000);
        }
        out.extend(room.take_if(|_| true));
        prop_assert!(room.is_empty() && room.bytes() == 0);
        put.sort_unstable();
        out.sort_unstable();
        prop_assert_eq!(out, put);
    }
}

#[test]
fn a_budget_that_is_used_up_begins_anew_at_midnight() {
    let at = |ms: i64| Now::from(Timestamp::from_ms(MIDNIGHT_MS + ms).unwrap());
    let mut budget = Budget::new(2_400, None, at(0));
    assert!(
        budget.take(100, at(0)) && !budget.take(1, at(0)),
        "an hour's worth"
    );
    assert!(
        budget.take(2_300, at(23 * HOUR_MS)),
        "what was left of the day"
    );
    assert!(!budget.take(1, at(24 * HOUR_MS - 1)));
    let spent = budget.spent(at(24 * HOUR_MS - 1));
    let mut restarted = Budget::new(2_400, Some(spent), at(24 * HOUR_MS - 1));
    assert!(!restarted.take(1, at(24 * HOUR_MS - 1)));
    for budget in [&mut budget, &mut restarted] {
        assert!(budget.take(100, at(24 * HOUR_MS)) && !budget.take(100, at(24 * HOUR_MS)));
    }
    // A clock that was never set lets no day begin.
    let boot = |s| Now {
        wall: Timestamp::EPOCH,
        steady: Duration::from_secs(s),
    };
    let mut unset = Budget::new(
        1_000,
        Some(Spent {
            since: Timestamp::EPOCH,
            bytes: 400,
        }),
        boot(0),
    );
    assert!(unset.take(600, boot(1)) && !unset.take(1, boot(200_000)));
}

fn giving(fields: &[&str]) -> Giving {
    Giving {
        boot: BOOT,
        model: "traffic-flow".parse().unwrap(),
        fields: fields
            .iter()
            .map(|name| field(name))
            .collect::<BTreeSet<_>>(),
        consent: "council-2026-17".parse().unwrap(),
    }
}

fn reading(ms: i64, fields: &[(&str, Value)]) -> Arc<Reading> {
    let fields = fields
        .iter()
        .map(|(name, value)| (field(name), value.clone()));
    Arc::new(Reading {
        ts: Timestamp::from_ms(ms).unwrap(),
        fields: fields.collect(),
    })
}

#[test]
fn a_draft_becomes_the_sample_that_readers_parse_and_has_no_other_field() {
    let window = [
        reading(
            0,
            &[
                ("temp", Value::Number(271.5)),
                ("plate", Value::Text("B-XY 1".to_owned())),
            ],
        ),
        reading(
            3_600_123,
            &[
                ("temp", Value::Number(-0.1)),
                ("kind", Value::Text("a \"quoted\"\n".to_owned())),
            ],
        ),
        reading(
            7_200_000,
            &[
                ("plate", Value::Text("B-XY 2".to_owned())),
                ("burst", Value::Vector(vec![0.1, -2.0])),
            ],
        ),
    ];
    let draft = Draft::new(
        &giving(&["temp", "kind", "burst"]),
        SamplePolicy::Rare,
        &window,
        None,
    )
    .unwrap();
    let most = draft.bytes();
    let json = draft.finish(u64::MAX, Some(&Label::Value(-f64::MAX)));
    assert!(json.len() <= most, "{} of {most}", json.len());
    let text = String::from_utf8(json.clone()).unwrap();
    assert!(!text.contains("plate") && !text.contains("B-XY"), "{text}");
    let sample: Sample = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        serde_json::to_vec(&sample).unwrap(),
        json,
        "byte for byte as serde writes it"
    );
    assert_eq!((sample.ts.as_ms(), sample.window.len()), (7_200_000, 3));
    assert_eq!(sample.origin.as_ref().unwrap().seq, u64::MAX);
    assert_eq!(sample.window[1].fields.len(), 2);

    let none = Draft::new(&giving(&["other"]), SamplePolicy::All, &window, None);
    assert!(none.is_none(), "nothing of it may leave");
    assert!(Draft::new(&giving(&["temp"]), SamplePolicy::All, &[], None).is_none());
}

#[test]
fn the_prediction_and_a_class_go_with_it() {
    let prediction = r#"{"v":1,"id":"0000000000000007-3","ts":"1970-01-01T00:00:00Z","stream":"s","seq":3,"boot":"0000000000000007","model":{"name":"m","version":"1.0.0","digest":"sha256:3b21000000000000000000000000000000000000000000000000000000000000"},"label":"jam","score":0.5,"scores":[0.5,0.5],"latency_us":7,"replay":false}"#;
    let window = [reading(0, &[("temp", Value::Number(1.0))])];
    let draft = Draft::new(
        &giving(&["temp"]),
        SamplePolicy::Uncertain,
        &window,
        Some(prediction.as_bytes()),
    )
    .unwrap();
    let without = draft.clone().finish(0, None);
    let sample: Sample = serde_json::from_slice(&without).unwrap();
    assert_eq!((sample.label, sample.prediction.unwrap().seq), (None, 3));
    let json = draft.finish(1, Some(&Label::Class("a \"jam\"".to_owned())));
    let sample: Sample = serde_json::from_slice(&json).unwrap();
    assert_eq!(sample.label, Some(Label::Class("a \"jam\"".to_owned())));
    assert_eq!(serde_json::to_vec(&sample).unwrap(), json);
}
