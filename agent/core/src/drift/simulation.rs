//! How often there is a false alarm, and how long a true one takes: the detectors that were chosen beside those that were not,
//! on series whose readings depend on each other and on recorded ones.

use super::tests::{hour, manifest, reading};
use super::*;
use lamppost_models::Value;

const DAY: usize = 24;
/// The default's reference and recent periods, in hours.
const REFERENCE: usize = 28 * DAY;
const RECENT: usize = 7 * DAY;

/// A generator for tests, with normal deviates (Box and Muller).
struct Rng(u64);

impl Rng {
    fn uniform(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (self.uniform(), self.uniform());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

/// Hourly values with a day, each like the one before by `rho`.
fn sensor(seed: u64, days: usize, rho: f64) -> Vec<f64> {
    let mut rng = Rng(seed);
    let mut x = rng.normal();
    let value = |at: usize| {
        x = rho * x + (1.0 - rho * rho).sqrt() * rng.normal();
        x + 2.0 * (at as f64 / DAY as f64 * std::f64::consts::TAU).sin()
    };
    (0..days * DAY).map(value).collect()
}

/// The hour at which the monitor first says that there is drift, of hourly values and of errors.
fn first_alarm(values: &[(i64, f64)], errors: bool) -> Option<i64> {
    let flow = manifest("traffic-flow");
    let digest = Digest::of(b"version");
    let mut monitor = DriftMonitor::new(DriftSpec::default());
    for (at, value) in values {
        let volume = if errors { 0.0 } else { *value };
        monitor.scored(
            digest,
            &flow,
            &reading(*at, "volume", Value::Number(volume)),
        );
        if errors {
            monitor.joined(&digest, hour(*at), *value);
        }
        if monitor.drifted_at().is_some() {
            return Some(*at);
        }
    }
    None
}

/// A number of hours in the type of event times.
fn signed(hours: usize) -> i64 {
    i64::try_from(hours).unwrap()
}

fn hourly(values: &[f64]) -> Vec<(i64, f64)> {
    (0..).zip(values.iter().copied()).collect()
}

/// Kolmogorov-Smirnov of each week against the reference, at a level of 0.1 % by the published critical value for independent
/// values, above it on each of seven days in a row as the monitor asks for.
fn kolmogorov_smirnov_alarms(values: &[f64]) -> bool {
    let mut reference = values[..REFERENCE].to_vec();
    reference.sort_by(f64::total_cmp);
    let (n, m) = (REFERENCE as f64, RECENT as f64);
    let critical = 1.949 * ((n + m) / (n * m)).sqrt();
    let mut above = 0;
    for end in (REFERENCE + RECENT..=values.len()).step_by(DAY) {
        let mut week = values[end - RECENT..end].to_vec();
        week.sort_by(f64::total_cmp);
        let share = |sorted: &[f64], value: f64| {
            sorted.partition_point(|other| *other <= value) as f64 / sorted.len() as f64
        };
        let distance = reference
            .iter()
            .chain(&week)
            .map(|value| (share(&reference, *value) - share(&week, *value)).abs())
            .fold(0.0, f64::max);
        above = if distance > critical { above + 1 } else { 0 };
        if above == 7 {
            return true;
        }
    }
    false
}

/// ADWIN (Bifet and Gavaldà 2007, with the normal approximation of its equation 3.1) at its usual 0.002, looking once a day at
/// cuts between days for an error that grew.
fn adwin_alarms(errors: &[f64]) -> bool {
    (2..=errors.len() / DAY).any(|days| {
        let window = &errors[..days * DAY];
        let n = window.len() as f64;
        let mean = window.iter().sum::<f64>() / n;
        let variance = window.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let mut before = 0.0;
        (1..days).any(|cut| {
            before += window[(cut - 1) * DAY..cut * DAY].iter().sum::<f64>();
            let (n0, n1) = ((cut * DAY) as f64, n - (cut * DAY) as f64);
            let harmonic = 1.0 / (1.0 / n0 + 1.0 / n1);
            let log = (2.0 * n.ln() / 0.002).ln();
            let bound = (2.0 / harmonic * variance * log).sqrt() + 2.0 / (3.0 * harmonic) * log;
            (mean * n - before) / n1 - before / n0 > bound
        })
    })
}

/// A column of a recording, by the hour.
fn recorded(file: &str, column: usize) -> Vec<(i64, f64)> {
    let text = std::fs::read_to_string(format!("../../tests/data/{file}")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let ts: Timestamp = cells[0].parse().unwrap();
        Some((ts.as_ms() / 3_600_000, cells[column].parse().ok()?))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Eight weeks from each second week on.
fn starts(series: &[(i64, f64)]) -> Vec<Vec<(i64, f64)>> {
    let (first, last) = (series[0].0, series[series.len() - 1].0);
    let starts = (first..)
        .step_by(14 * DAY)
        .take_while(|from| from + 56 * 24 <= last);
    let weeks = |from: i64| {
        let within = from..from + 56 * 24;
        let part = series.iter().filter(|(at, _)| within.contains(at));
        part.copied().collect()
    };
    starts.map(weeks).collect()
}

/// Errors of a forecast that needs no model: last week's hour, and most of what this hour differs from it by.
fn i94_errors() -> Vec<(i64, f64)> {
    let series = recorded("i94-replay.csv", 1);
    let volume: std::collections::BTreeMap<i64, f64> = series.iter().copied().collect();
    let error = |(at, value): &(i64, f64)| {
        let [week, hour, week_and_hour] = [168, 1, 169].map(|back| volume.get(&(at - back)));
        Some((*at, (value - week? - 0.7 * (hour? - week_and_hour?)).abs()))
    };
    series.iter().filter_map(error).collect()
}

fn median(mut delays: Vec<i64>) -> i64 {
    delays.sort_unstable();
    delays[delays.len() / 2]
}

#[test]
#[ignore = "a measurement: cargo test -p lamppost-agent-core what_a_window_costs -- --ignored --nocapture"]
fn what_a_window_costs() {
    const WINDOWS: i64 = 200_000;
    let (air, digest) = (manifest("air-quality"), Digest::of(b"version"));
    let readings: Vec<Reading> = (0..WINDOWS)
        .map(|at| {
            let mut newest = reading(at, "wind", Value::Text("NW".to_owned()));
            for (nth, field) in ["pm25", "dewp", "temp", "pres", "iws"]
                .into_iter()
                .enumerate()
            {
                let value = (at * 7919 % (24 + signed(nth))) as f64;
                newest
                    .fields
                    .insert(field.parse().unwrap(), Value::Number(value));
            }
            newest
        })
        .collect();
    let mut monitor = DriftMonitor::new(DriftSpec::default());
    let begun = std::time::Instant::now();
    for newest in &readings {
        monitor.scored(digest, &air, newest);
    }
    let each = begun.elapsed() / u32::try_from(WINDOWS).unwrap();
    let kept = serde_json::to_vec(&monitor).unwrap().len();
    println!("a window of 6 fields: {each:?}; written down: {kept} B");
    assert_eq!(
        monitor.reported().unwrap().windows,
        u64::try_from(WINDOWS).unwrap()
    );
}

#[test]
fn chance_makes_no_shift_of_a_sensor_whose_hours_depend_on_each_other() {
    const NODES: u64 = 60;
    for (rho, most, least_ks) in [(0.0, 0, 0), (0.8, 2, 3), (0.95, 7, 30)] {
        let quarters: Vec<Vec<f64>> = (0..NODES).map(|seed| sensor(seed, 28 + 90, rho)).collect();
        let alarms = |alarm: &dyn Fn(&[f64]) -> bool| quarters.iter().filter(|q| alarm(q)).count();
        let ours = alarms(&|quarter| first_alarm(&hourly(quarter), false).is_some());
        let ks = alarms(&kolmogorov_smirnov_alarms);
        println!("rho {rho}: PSI {ours}, Kolmogorov-Smirnov {ks} of {NODES} nodes in 90 days");
        assert!(ours <= most, "rho {rho}: {ours} of {NODES} nodes");
        assert!(ks >= least_ks, "rho {rho}: Kolmogorov-Smirnov {ks}");
    }
}

#[test]
fn a_shift_is_seen_within_three_weeks() {
    const NODES: u64 = 30;
    for (rho, shift) in [(0.8, 2.0), (0.95, 2.0), (0.95, 4.0)] {
        let delay = |seed: u64| {
            let mut values = sensor(seed, 28 + 90, rho);
            let from = REFERENCE + RECENT;
            values[from..].iter_mut().for_each(|value| *value += shift);
            Some((first_alarm(&hourly(&values), false)? - signed(from)) / 24)
        };
        let delays: Vec<i64> = (0..NODES).filter_map(delay).collect();
        let (seen, delay) = (delays.len(), median(delays));
        println!("rho {rho}, shift {shift}: {seen} of {NODES} seen, after {delay} days");
        assert!(
            seen as u64 >= NODES - 2 && delay <= 21,
            "{seen} after {delay} days"
        );
    }
}

#[test]
fn neighbouring_months_of_traffic_are_alike_and_a_sensor_that_counts_otherwise_is_seen() {
    let months = starts(&recorded("i94-replay.csv", 1));
    let false_alarms = months
        .iter()
        .filter(|months| first_alarm(months, false).is_some());
    let (alarms, all) = (false_alarms.count(), months.len());
    println!("I-94: {alarms} of {all} starts with an alarm within four weeks");
    assert!(all >= 40 && alarms <= 2, "{alarms} of {all}");
    for (fault, change) in [
        (
            "a lane lost",
            (|volume: f64| volume * 0.6) as fn(f64) -> f64,
        ),
        ("stuck", |_| 2_000.0),
    ] {
        let delay = |months: &Vec<(i64, f64)>| {
            let from = months[0].0 + signed(REFERENCE);
            let change = |(at, volume): &(i64, f64)| {
                (*at, if *at < from { *volume } else { change(*volume) })
            };
            let changed: Vec<_> = months.iter().map(change).collect();
            Some((first_alarm(&changed, false)? - from) / 24)
        };
        let delays: Vec<i64> = months.iter().filter_map(delay).collect();
        let (seen, delay) = (delays.len(), median(delays));
        println!("{fault}: {seen} of {all} seen, after {delay} days");
        assert!(
            seen * 10 >= all * 9 && delay <= 15,
            "{fault}: {seen} of {all}, {delay} days"
        );
    }
}

#[test]
fn errors_that_depend_on_each_other_are_told_from_errors_that_grow() {
    const NODES: u64 = 200;
    let half_a_year = |seed: u64, rho: f64, growth: f64| -> Vec<(i64, f64)> {
        let (mut rng, mut x) = (Rng(seed), 0.0);
        let mut day = |day: usize| {
            x = rho * x + (1.0 - rho * rho).sqrt() * rng.normal();
            let weekday = if day % 7 < 5 { 1.0 } else { 0.8 };
            100.0 * weekday * (0.25 * x).exp() * if day < 28 { 1.0 } else { growth }
        };
        let days: Vec<f64> = (0..28 + 180).map(&mut day).collect();
        let hour = |at: usize| {
            (
                signed(at),
                days[at / DAY] * if at % DAY == 8 { 3.0 } else { 1.0 },
            )
        };
        (0..days.len() * DAY).map(hour).collect()
    };
    for (rho, most) in [(0.0, 4), (0.3, 24), (0.6, 80)] {
        let alarms =
            (0..NODES).filter(|seed| first_alarm(&half_a_year(*seed, rho, 1.0), true).is_some());
        let alarms = alarms.count();
        println!(
            "daily errors, rho {rho}: {alarms} of {NODES} nodes with a false alarm in 180 days"
        );
        assert!(alarms <= most, "rho {rho}: {alarms} of {NODES}");
    }
    for (growth, most_days) in [(1.5, 14), (2.0, 7)] {
        let delay = |seed| {
            Some((first_alarm(&half_a_year(seed, 0.3, growth), true)? - signed(REFERENCE)) / 24)
        };
        let delays: Vec<i64> = (0..NODES / 4).filter_map(delay).collect();
        let (seen, delay) = (delays.len(), median(delays));
        println!(
            "an error {growth} times as great: {seen} of {} seen, after {delay} days",
            NODES / 4
        );
        assert!(
            seen as u64 >= NODES / 4 - 2 && delay <= most_days,
            "{growth}: {seen}, {delay} days"
        );
    }
}

#[test]
fn the_errors_of_a_forecast_of_traffic_do_not_grow_by_themselves() {
    let parts = starts(&i94_errors());
    let ours = parts
        .iter()
        .filter(|part| first_alarm(part, true).is_some())
        .count();
    let hours = |part: &Vec<(i64, f64)>| part.iter().map(|(_, error)| *error).collect::<Vec<_>>();
    let adwin = parts
        .iter()
        .filter(|part| adwin_alarms(&hours(part)))
        .count();
    println!(
        "errors on I-94, {} starts, eight weeks: CUSUM {ours}, ADWIN {adwin}",
        parts.len()
    );
    assert!(
        ours <= 4 && adwin >= 20,
        "CUSUM {ours}, ADWIN {adwin} of {}",
        parts.len()
    );
}
