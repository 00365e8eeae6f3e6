use proptest::prelude::*;

use super::*;
use lamppost_models::Value;

const HOUR_MS: i64 = 3_600_000;

pub(super) fn manifest(name: &str) -> Manifest {
    let path = format!("../../models/zoo/{name}/1.0.0/manifest.json");
    Manifest::parse(&std::fs::read(path).unwrap()).unwrap()
}

fn digest(version: u8) -> Digest {
    Digest::of(&[version])
}

pub(super) fn hour(hour: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(hour * HOUR_MS)
}

pub(super) fn reading(at: i64, field: &str, value: Value) -> Reading {
    Reading {
        ts: hour(at),
        fields: [(field.parse().unwrap(), value)].into(),
    }
}

/// Three days are the reference, one day is held against it.
fn short() -> DriftSpec {
    DriftSpec {
        reference: 3,
        recent: 1,
        ..DriftSpec::default()
    }
}

/// A monitor that met a value an hour for so many hours.
fn after(
    manifest: &Manifest,
    field: &str,
    hours: i64,
    value: impl Fn(i64) -> Value,
) -> DriftMonitor {
    let mut monitor = DriftMonitor::new(short());
    for at in 0..hours {
        monitor.scored(digest(1), manifest, &reading(at, field, value(at)));
    }
    monitor
}

fn row(monitor: &DriftMonitor, field: &str) -> lamppost_models::message::ReportedShift {
    let reported = monitor.reported().unwrap();
    let mut rows = reported.features.into_iter();
    rows.find(|row| row.field.as_str() == field).unwrap()
}

#[test]
fn a_day_like_those_before_is_none_and_another_one_is() {
    let flow = manifest("traffic-flow");
    let like = |at: i64| Value::Number((at % 24 * 100) as f64);
    let calm = after(&flow, "volume", 24 * 5, like);
    assert_eq!(calm.drifted_at(), None);
    assert!(row(&calm, "volume").psi < 0.01);
    let halved = |at: i64| Value::Number((at % 24 * if at < 72 { 100 } else { 50 }) as f64);
    let drifted = after(&flow, "volume", 24 * 4 + 1, halved);
    assert_eq!(drifted.drifted_at(), Some(hour(96)));
    let reported = drifted.reported().unwrap();
    assert_eq!(
        (reported.windows, reported.periods, reported.reference),
        (97, 4, 3)
    );
    assert_eq!(reported.since, hour(0));
    assert!(reported.features[0].drifts);
    assert!(
        reported
            .what
            .unwrap()
            .starts_with("volume is not distributed as at first: PSI")
    );
}

#[test]
fn a_drift_that_is_over_is_taken_back() {
    let flow = manifest("traffic-flow");
    let one_day = |at: i64| Value::Number((at % 24 + if at / 24 == 3 { 500 } else { 0 }) as f64);
    assert!(after(&flow, "volume", 97, one_day).drifted_at().is_some());
    let over = after(&flow, "volume", 121, one_day);
    assert_eq!(
        (over.drifted_at(), over.reported().unwrap().what),
        (None, None)
    );
}

#[test]
fn a_field_that_never_changed_shows_a_change_to_either_side_and_its_absence() {
    let flow = manifest("traffic-flow");
    for changed in [
        Value::Number(6.999),
        Value::Number(7.001),
        Value::Number(f64::NAN),
        Value::Number(f64::INFINITY),
        Value::Vector(Vec::new()),
    ] {
        let value = |at: i64| {
            if at < 72 {
                Value::Number(7.0)
            } else {
                changed.clone()
            }
        };
        let monitor = after(&flow, "volume", 97, value);
        assert!(monitor.drifted_at().is_some(), "{changed:?}");
    }
    let constant = after(&flow, "volume", 97, |_| Value::Number(7.0));
    assert_eq!(
        (constant.drifted_at(), row(&constant, "volume").psi),
        (None, 0.0)
    );
}

#[test]
fn texts_are_compared_by_category_and_what_is_not_listed_is_one_too() {
    let air = manifest("air-quality");
    let wind = |old: &'static str, new: &'static str| {
        let value = move |at: i64| Value::Text(if at < 72 { old } else { new }.to_owned());
        after(&air, "wind", 97, value).drifted_at().is_some()
    };
    assert!(wind("NW", "SE"));
    assert!(wind("NW", "no direction"));
    assert!(!wind("NW", "NW"));
    assert!(!wind("up", "down"));
}

#[test]
fn another_version_begins_anew_and_labels_of_the_one_before_do_not_count() {
    let flow = manifest("traffic-flow");
    let mut monitor = after(&flow, "volume", 97, |at| {
        Value::Number(if at < 72 { 1.0 } else { 2.0 })
    });
    monitor.scored(digest(2), &flow, &reading(97, "volume", Value::Number(2.0)));
    monitor.joined(&digest(1), hour(97), 5.0);
    let reported = monitor.reported().unwrap();
    assert_eq!(reported.digest, digest(2));
    assert_eq!(
        (reported.since, reported.windows, reported.periods),
        (hour(97), 1, 0)
    );
    assert_eq!((reported.drifted_at, reported.error), (None, None));
}

#[test]
fn a_reading_from_a_far_future_ends_one_period_and_no_more() {
    let flow = manifest("traffic-flow");
    let mut monitor = after(&flow, "volume", 10, |_| Value::Number(1.0));
    let far = Reading {
        ts: "9000-01-01T00:00:00Z".parse().unwrap(),
        ..reading(0, "volume", Value::Number(1.0))
    };
    monitor.scored(digest(1), &flow, &far);
    for at in 10..48 {
        monitor.scored(digest(1), &flow, &reading(at, "volume", Value::Number(1.0)));
    }
    assert_eq!(monitor.reported().unwrap().periods, 2);
}

#[test]
fn an_error_that_grows_is_drift_and_one_that_is_back_is_not() {
    let flow = manifest("traffic-flow");
    let mut monitor = DriftMonitor::new(DriftSpec {
        reference: 8,
        recent: 2,
        ..DriftSpec::default()
    });
    let mut day = 0;
    let mut days = |monitor: &mut DriftMonitor, count: i64, error: f64| {
        for _ in 0..count * 24 {
            monitor.scored(
                digest(1),
                &flow,
                &reading(day, "volume", Value::Number(1.0)),
            );
            monitor.joined(
                &digest(1),
                hour(day),
                error * if day % 24 == 8 { 4.0 } else { 1.0 },
            );
            day += 1;
        }
    };
    days(&mut monitor, 20, 10.0);
    assert_eq!(monitor.drifted_at(), None);
    let error = monitor.reported().unwrap().error.unwrap();
    assert!((error.before - 11.25).abs() < 1e-9 && (error.now.unwrap() - 11.25).abs() < 1e-9);
    days(&mut monitor, 5, 20.0);
    assert_eq!(monitor.drifted_at(), None, "four days are over");
    days(&mut monitor, 1, 20.0);
    let reported = monitor.reported().unwrap();
    assert_eq!(reported.drifted_at, Some(hour(25 * 24)));
    assert_eq!(
        reported.what.unwrap(),
        "the error grew from 11.2500 to 22.5000"
    );
    days(&mut monitor, 20, 10.0);
    assert_eq!(monitor.drifted_at(), None);
}

/// Whatever a sensor may send.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0..20_i32).prop_map(|number| Value::Number(f64::from(number))),
        2 => proptest::num::f64::ANY.prop_map(Value::Number),
        1 => prop_oneof![Just("NW"), Just("SE"), Just("?")].prop_map(|text| Value::Text(text.into())),
        1 => proptest::collection::vec(proptest::num::f32::ANY, 0..4).prop_map(Value::Vector),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_report_has_numbers_and_what_is_kept_is_bounded(
        steps in proptest::collection::vec((any_value(), any_value(), -30_i64..90, proptest::num::f64::ANY), 1..1500),
        cut in 0..1500_usize,
    ) {
        let air = manifest("air-quality");
        let mut monitor = DriftMonitor::new(short());
        let mut at = 0_i64;
        for (nth, (pm25, wind, minutes, loss)) in steps.into_iter().enumerate() {
            at += minutes;
            let newest = Reading {
                ts: Timestamp::EPOCH.offset_ms(at * 60_000),
                fields: [("pm25".parse().unwrap(), pm25), ("wind".parse().unwrap(), wind)].into(),
            };
            monitor.scored(digest(1), &air, &newest);
            monitor.joined(&digest(1), newest.ts, loss);
            if nth == cut {
                let kept = serde_json::to_vec(&monitor).unwrap();
                prop_assert!(kept.len() < 200_000);
                monitor = serde_json::from_slice(&kept).unwrap();
            }
        }
        let reported = monitor.reported().unwrap();
        prop_assert!(reported.features.len() <= REPORTED_FIELDS_MAX);
        for row in &reported.features {
            prop_assert!(row.psi.is_finite() && row.psi >= 0.0 && row.limit.is_finite() && row.limit >= 0.25);
        }
        if let Some(error) = reported.error {
            prop_assert!(error.before.is_finite() && error.now.is_none_or(f64::is_finite) && error.cusum <= 16.0);
        }
        prop_assert_eq!(reported.drifted_at.is_some(), reported.what.is_some());
    }

    #[test]
    fn a_restart_in_between_changes_nothing(cut in 1..400_i64, change in 72..300_i64) {
        let flow = manifest("traffic-flow");
        let mut whole = DriftMonitor::new(short());
        let mut cut_in_two = whole.clone();
        for at in 0..400 {
            if at == cut {
                cut_in_two = serde_json::from_slice(&serde_json::to_vec(&cut_in_two).unwrap()).unwrap();
            }
            let value = (at * 7919 % 24 + if at > change { 9 } else { 0 }) as f64;
            for monitor in [&mut whole, &mut cut_in_two] {
                monitor.scored(digest(1), &flow, &reading(at, "volume", Value::Number(value)));
                monitor.joined(&digest(1), hour(at), value);
            }
        }
        prop_assert_eq!(whole.drifted_at(), cut_in_two.drifted_at());
        prop_assert_eq!(whole.reported().unwrap().windows, cut_in_two.reported().unwrap().windows);
        let (a, b) = (row(&whole, "volume"), row(&cut_in_two, "volume"));
        prop_assert!((a.psi - b.psi).abs() < 1e-9 && (a.limit - b.limit).abs() < 1e-9);
    }
}
