//! Preprocessing against a naive oracle: what the manifest's words say, one number at a time.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use common::{Draft, identity};
use lamppost_engine::{Session, Unfit};
use lamppost_models::{Reading, Timestamp, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// A session of a model with these features over windows of `count` readings.
fn session(
    count: usize,
    step_ms: Option<u64>,
    jitter_ms: u64,
    features: &[Json],
    width: usize,
) -> Session {
    let mut draft = Draft::of(
        &identity(width),
        width,
        width,
        "anomaly",
        json!({"reconstruction": {"threshold": 1.0}}),
    );
    draft.manifest["window"] = json!({"count": count, "step_ms": step_ms, "jitter_ms": jitter_ms});
    draft.manifest["features"] = json!(features);
    // Only opened, so that the golden window need not suit.
    draft.golden["cases"][0]["window"] = json!(
        (0..count)
            .map(|_| json!({"ts": "2026-01-01T00:00:00Z", "fields": {}}))
            .collect::<Vec<_>>()
    );
    draft.open().expect("it opens").session()
}

fn reading(ms: i64, fields: &[(&str, Value)]) -> Reading {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.parse().expect("a field name"), value.clone()));
    Reading {
        ts: Timestamp::from_ms(ms).expect("a time"),
        fields: fields.collect::<BTreeMap<_, _>>(),
    }
}

fn numbers(values: &[f64]) -> Vec<Reading> {
    let at = |at: usize| i64::try_from(at).expect("few") * 1000;
    values
        .iter()
        .enumerate()
        .map(|(index, value)| reading(at(index), &[("x", Value::Number(*value))]))
        .collect()
}

fn assert_near(found: &[f32], wanted: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        let error = (f64::from(*found) - wanted).abs();
        prop_assert!(
            error <= 1e-6 + 1e-6 * wanted.abs(),
            "{} is not near {}",
            found,
            wanted
        );
    }
    Ok(())
}

/// The statistic, from sorted copies and sums, as a textbook has it.
fn statistic(name: &str, values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    match name {
        "mean" => mean,
        "std" => (values
            .iter()
            .map(|value| (value - mean) * (value - mean))
            .sum::<f64>()
            / n)
            .sqrt(),
        "min" => sorted[0],
        "max" => sorted[sorted.len() - 1],
        "sum" => values.iter().sum(),
        "count" => n,
        other => unreachable!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn numbers_come_out_in_the_manifests_order_and_normalised(
        values in prop::collection::vec(-1e6..1e6_f64, 1..40),
        extra in prop::collection::vec(-1e6..1e6_f64, 0..5),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        last in any::<prop::sample::Index>(),
        mean in -100.0..100.0_f64,
        std in 0.1..100.0_f64,
        stat in prop::sample::select(vec!["mean", "std", "min", "max", "sum", "count"]),
    ) {
        let count = values.len();
        let lags: Vec<usize> = picks.iter().map(|pick| pick.index(count)).collect();
        let last = 1 + last.index(count);
        let features = [
            json!({"op": "lag", "field": "x", "lags": lags, "mean": mean, "std": std}),
            json!({"op": "select", "field": "x", "last": last, "mean": mean, "std": std}),
            json!({"op": "aggregate", "field": "x", "stat": stat, "mean": mean, "std": std}),
            json!({"op": "select", "field": "x", "last": 1}),
        ];
        let mut session = session(count, None, 0, &features, lags.len() + last + 2);
        // Older readings than the window needs change the aggregate and nothing else.
        let all = [extra, values.clone()].concat();
        let normalise = |value: &f64| (value - mean) / std;
        let mut wanted: Vec<f64> = lags.iter().map(|lag| normalise(&values[count - 1 - lag])).collect();
        wanted.extend(values[count - last..].iter().map(normalise));
        wanted.push(normalise(&statistic(stat, &all)));
        wanted.push(values[count - 1]);
        assert_near(session.features(&numbers(&all)).expect("it fits"), &wanted)?;
    }

    #[test]
    fn the_calendar_is_that_of_the_target_in_the_zone(
        seconds in 0..4_000_000_000_i64,
        ahead_ms in 0..100_000_000_u64,
        offset_minutes in -14 * 60..=14 * 60_i64,
    ) {
        let zone = format!(
            "{}{:02}:{:02}",
            if offset_minutes < 0 { '-' } else { '+' },
            offset_minutes.abs() / 60,
            offset_minutes.abs() % 60,
        );
        let parts = ["hour_sin", "hour_cos", "weekday_one_hot", "month_sin", "month_cos", "year_sin", "year_cos"];
        let feature = json!({"op": "calendar", "parts": parts, "zone": zone, "ahead_ms": ahead_ms});
        let mut session = session(1, None, 0, &[feature], 13);
        let local_ms = seconds * 1000 + i64::try_from(ahead_ms).expect("small") + offset_minutes * 60_000;
        let (day, ms_of_day) = (local_ms.div_euclid(86_400_000), local_ms.rem_euclid(86_400_000));
        let (month, day_of_year) = civil(day);
        let hour = TAU * ms_of_day as f64 / 86_400_000.0;
        // 1970-01-01 was a Thursday.
        let weekday = (day + 3).rem_euclid(7);
        let mut wanted = vec![hour.sin(), hour.cos()];
        wanted.extend((0..7).map(|at| if at == weekday { 1.0 } else { 0.0 }));
        for angle in [TAU * f64::from(month) / 12.0, TAU * day_of_year as f64 / 365.25] {
            wanted.extend([angle.sin(), angle.cos()]);
        }
        assert_near(session.features(&[reading(seconds * 1000, &[])]).expect("it fits"), &wanted)?;
    }

    #[test]
    fn steps_are_even_exactly_when_each_is_within_the_jitter(
        steps in prop::collection::vec(0..2500_i64, 3),
        older in 0..5000_i64,
        jitter_ms in prop::sample::select(vec![0_u64, 100, 999, 1500]),
    ) {
        let mut session = session(4, Some(1000), jitter_ms, &[json!({"op": "select", "field": "x", "last": 1})], 1);
        // The first step is outside the newest four readings and may be anything.
        let mut window = vec![reading(0, &[])];
        let mut ms = 0;
        for step in std::iter::once(&older).chain(&steps) {
            ms += step;
            window.push(reading(ms, &[("x", Value::Number(1.0))]));
        }
        let off = |step: &&i64| (**step - 1000).unsigned_abs() > jitter_ms;
        let wanted = steps.iter().position(|step| off(&step)).map(|at| (at + 2, steps[at]));
        let found = match session.features(&window) {
            Ok(_) => None,
            Err(Unfit::Step { index, found_ms, .. }) => Some((index, found_ms)),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn an_image_of_the_same_size_is_only_reordered(
        pixels in prop::collection::vec(0.0..=255.0_f32, 3 * 4 * 5),
        channels in prop::collection::vec(0..3_usize, 1..4),
        hwc in any::<bool>(),
    ) {
        let depth = channels.len();
        let feature = json!({
            "op": "image", "field": "frame", "channels": channels, "layout": if hwc { "hwc" } else { "chw" },
            "from": {"width": 4, "height": 5, "channels": 3}, "to": {"width": 4, "height": 5, "channels": depth},
            "mean": vec![10.0; depth], "std": vec![2.0; depth],
        });
        let mut session = session(1, None, 0, &[feature], 20 * depth);
        let mut wanted = vec![0.0; 20 * depth];
        for pixel in 0..20 {
            for (to, from) in channels.iter().enumerate() {
                let at = if hwc { pixel * depth + to } else { to * 20 + pixel };
                wanted[at] = (f64::from(pixels[pixel * 3 + from]) - 10.0) / 2.0;
            }
        }
        let window = [reading(0, &[("frame", Value::Vector(pixels))])];
        assert_near(session.features(&window).expect("it fits"), &wanted)?;
    }
}

/// Month from 0 and day of the year from 0, by counting days.
fn civil(mut day: i64) -> (u8, i64) {
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970;
    while day < 0 {
        year -= 1;
        day += 365 + i64::from(leap(year));
    }
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut left = day;
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    for (month, length) in (0..).zip(lengths) {
        if left < length {
            return (month, day);
        }
        left -= length;
    }
    unreachable!("a year has twelve months")
}

#[test]
fn a_named_zone_observes_daylight_saving() {
    let feature =
        json!({"op": "calendar", "parts": ["hour_sin", "hour_cos"], "zone": "Europe/Berlin"});
    let mut session = session(1, None, 0, &[feature], 2);
    // 04:00 UTC is 05:00 in January and 06:00 in July: a quarter of a turn.
    let mut at = |text: &str| {
        let newest = Reading {
            ts: text.parse().expect("a time"),
            fields: BTreeMap::new(),
        };
        session.features(&[newest]).expect("it fits").to_vec()
    };
    assert!((at("2026-07-01T04:00:00Z")[0] - 1.0).abs() < 1e-6);
    assert!((f64::from(at("2026-01-01T04:00:00Z")[0]) - (TAU * 5.0 / 24.0).sin()).abs() < 1e-6);
    // Half past: the minutes count.
    assert!((f64::from(at("2026-01-01T04:30:00Z")[1]) - (TAU * 5.5 / 24.0).cos()).abs() < 1e-6);
}

#[test]
fn a_category_that_is_not_listed_is_all_zeros() {
    let feature = json!({"op": "one_hot", "field": "wind", "categories": ["NW", "NE", "cv"]});
    let mut session = session(1, None, 0, &[feature], 3);
    let mut of = |text: &str| {
        let window = [reading(0, &[("wind", Value::Text(text.to_owned()))])];
        session.features(&window).expect("it fits").to_vec()
    };
    assert_eq!(of("NE"), [0.0, 1.0, 0.0]);
    assert_eq!(of("ne"), [0.0; 3]);
}

#[test]
fn a_vector_is_normalised_and_must_have_its_length() {
    let feature = json!({"op": "vector", "field": "burst", "length": 3, "mean": 1.0, "std": 2.0});
    let mut session = session(1, None, 0, &[feature], 3);
    let window = |values: &[f32]| [reading(0, &[("burst", Value::Vector(values.to_vec()))])];
    assert_eq!(
        session.features(&window(&[1.0, 3.0, -1.0])),
        Ok(&[0.0, 1.0, -1.0][..])
    );
    let field: lamppost_models::FieldName = "burst".parse().expect("a field name");
    let wanted = Unfit::Length {
        field: field.clone(),
        found: 2,
        wanted: 3,
    };
    assert_eq!(session.features(&window(&[1.0, 2.0])), Err(wanted));
    let error = session
        .features(&window(&[1.0, f32::NAN, 2.0]))
        .expect_err("not a number");
    assert!(
        matches!(error, Unfit::Range { value, .. } if value.is_nan()),
        "{error}"
    );
}

#[test]
fn an_aggregate_skips_readings_without_the_field_and_a_count_may_be_zero() {
    let stat = |stat: &str| json!({"op": "aggregate", "field": "x", "stat": stat});
    let mut both = session(3, None, 0, &[stat("mean"), stat("count")], 2);
    let with = |value: f64| reading(0, &[("x", Value::Number(value))]);
    let without = || reading(0, &[]);
    assert_eq!(
        both.features(&[with(1.0), without(), with(4.0)]),
        Ok(&[2.5, 2.0][..])
    );
    let none = [without(), without(), without()];
    assert_eq!(
        both.features(&none),
        Err(Unfit::Nowhere {
            field: "x".parse().expect("a field name")
        })
    );
    assert_eq!(
        session(3, None, 0, &[stat("count")], 1).features(&none),
        Ok(&[0.0][..])
    );
}

#[test]
fn a_window_that_does_not_suit_is_refused_with_the_place_and_the_field() {
    let mut select = session(
        2,
        None,
        0,
        &[json!({"op": "select", "field": "x", "last": 2})],
        2,
    );
    let field: lamppost_models::FieldName = "x".parse().expect("a field name");
    let one = |value: Value| {
        [
            reading(0, &[("x", Value::Number(0.0))]),
            reading(0, &[("x", value)]),
        ]
    };
    let missing = [reading(0, &[("x", Value::Number(0.0))]), reading(0, &[])];
    assert_eq!(
        select.features(&missing),
        Err(Unfit::Missing {
            index: 1,
            field: field.clone()
        })
    );
    let text = select
        .features(&one(Value::Text("12".to_owned())))
        .expect_err("a text");
    assert_eq!(
        text,
        Unfit::Kind {
            index: 1,
            field: field.clone(),
            found: "text",
            wanted: "number"
        }
    );
    for value in [f64::NAN, f64::INFINITY, 1e39, -1e300] {
        let error = select
            .features(&one(Value::Number(value)))
            .expect_err("no f32");
        assert!(
            matches!(&error, Unfit::Range { index: 1, field: found, .. } if *found == field),
            "{error}"
        );
    }
    assert_eq!(
        select.features::<Reading>(&[]),
        Err(Unfit::Count {
            found: 0,
            wanted: 2,
            limit: 65_536
        })
    );
    assert_eq!(
        select.features(&one(Value::Number(2.0))),
        Ok(&[0.0, 2.0][..]),
        "the session goes on"
    );
}

#[test]
fn a_pixel_outside_0_to_255_is_refused() {
    let size = json!({"width": 2, "height": 1, "channels": 1});
    let feature = json!({
        "op": "image", "field": "frame", "from": size, "to": size, "channels": [0], "layout": "chw",
        "mean": [0.0], "std": [255.0],
    });
    let mut session = session(1, None, 0, &[feature], 2);
    let window = |pixels: [f32; 2]| [reading(0, &[("frame", Value::Vector(pixels.to_vec()))])];
    assert_eq!(session.features(&window([0.0, 255.0])), Ok(&[0.0, 1.0][..]));
    for wrong in [255.5, -1.0, f32::NAN] {
        let error = session
            .features(&window([0.0, wrong]))
            .expect_err("no pixel");
        assert!(matches!(error, Unfit::Range { .. }), "{error}");
    }
}

#[test]
fn constants_that_only_an_f64_can_hold_make_no_infinite_features() {
    let size = json!({"width": 1, "height": 1, "channels": 1});
    let image = |mean: f64, std: f64| {
        json!({
            "op": "image", "field": "frame", "from": size, "to": size, "channels": [0], "layout": "chw",
            "mean": [mean], "std": [std],
        })
    };
    let window = [reading(
        0,
        &[
            ("frame", Value::Vector(vec![7.0])),
            ("x", Value::Number(7.0)),
        ],
    )];
    let select = json!({"op": "select", "field": "x", "last": 1, "std": 1e-300});
    for feature in [image(1e300, 1.0), image(0.0, 1e-300), select] {
        let error = session(1, None, 0, std::slice::from_ref(&feature), 1)
            .features(&window)
            .expect_err("infinite");
        assert!(
            matches!(error, Unfit::Range { index: 0, .. }),
            "{feature}: {error}"
        );
    }
}
