use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A stream whose event times are in seconds.
struct Bench {
    windower: Windower,
    readings: Vec<i64>,
    windows: Vec<Vec<i64>>,
}

fn reading(at_s: i64) -> Reading {
    Reading {
        ts: Timestamp::EPOCH.offset_ms(at_s * 1000),
        fields: BTreeMap::new(),
    }
}

fn seconds(reading: &Reading) -> i64 {
    reading.ts.as_ms() / 1000
}

impl Bench {
    fn new(spec: serde_json::Value) -> Self {
        let spec: WindowSpec = serde_json::from_value(spec).unwrap();
        Self {
            windower: Windower::new(&spec),
            readings: Vec::new(),
            windows: Vec::new(),
        }
    }

    fn collect(readings: &mut Vec<i64>, windows: &mut Vec<Vec<i64>>, passed: &Passed<'_>) {
        match passed {
            Passed::Reading(reading) => readings.push(seconds(reading)),
            Passed::Window(window) => {
                windows.push(window.iter().map(|reading| seconds(reading)).collect());
            }
        }
    }

    fn event(&mut self, at_s: i64) -> Taken {
        let Self {
            windower,
            readings,
            windows,
        } = self;
        windower.push(reading(at_s), |passed| {
            Self::collect(readings, windows, &passed);
        })
    }

    fn flush(&mut self) {
        let Self {
            windower,
            readings,
            windows,
        } = self;
        windower.flush(|passed| Self::collect(readings, windows, &passed));
    }

    #[track_caller]
    fn events(&mut self, all: &[i64]) {
        for &at_s in all {
            assert_eq!(self.event(at_s), Taken::Kept, "reading at {at_s}");
        }
    }

    #[track_caller]
    fn expect_windows(&mut self, wanted: &[&[i64]]) {
        assert_eq!(self.windows, wanted);
        self.windows.clear();
    }
}

#[test]
fn windows_by_count_come_with_each_hop() {
    let mut bench = Bench::new(json!({"count": 3}));
    bench.events(&[1, 2]);
    bench.expect_windows(&[]);
    bench.events(&[3, 4, 9]);
    bench.expect_windows(&[&[1, 2, 3], &[2, 3, 4], &[3, 4, 9]]);
    assert_eq!(bench.readings, [1, 2, 3, 4, 9]);

    let mut bench = Bench::new(json!({"count": 2, "hop": 3}));
    bench.events(&[1, 2, 3, 4, 5, 6, 7, 8]);
    bench.expect_windows(&[&[1, 2], &[4, 5], &[7, 8]]);
}

#[test]
fn windows_by_time_close_when_the_watermark_reaches_their_end() {
    let mut bench = Bench::new(json!({"duration": "10s"}));
    bench.events(&[1, 5, 9]);
    bench.expect_windows(&[]);
    bench.events(&[10]);
    bench.expect_windows(&[&[1, 5, 9]]);
    bench.events(&[12, 39]);
    // Nothing came from 20 to 30.
    bench.expect_windows(&[&[10, 12]]);
    bench.events(&[4_000_000_000]);
    bench.expect_windows(&[&[39]]);
}

#[test]
fn windows_by_time_overlap_by_their_hop() {
    let mut bench = Bench::new(json!({"duration": "10s", "hop": "5s"}));
    bench.events(&[1, 6, 11, 16]);
    bench.expect_windows(&[&[1], &[1, 6], &[6, 11]]);
    let mut bench = Bench::new(json!({"duration": "2s", "hop": "10s"}));
    bench.events(&[1, 7, 8, 9, 10, 18, 21]);
    bench.expect_windows(&[&[8, 9], &[18]]);
}

#[test]
fn times_before_1970_have_windows_too() {
    let mut bench = Bench::new(json!({"duration": "10s"}));
    bench.events(&[-15, -11, -10, 0]);
    bench.expect_windows(&[&[-15, -11], &[-10]]);
}

#[test]
fn readings_within_the_lateness_take_their_place() {
    let mut bench = Bench::new(json!({"count": 2, "lateness": "5s"}));
    bench.events(&[10, 13, 12, 11]);
    assert_eq!(bench.readings, Vec::<i64>::new());
    bench.events(&[16]);
    assert_eq!(bench.readings, [10, 11]);
    bench.expect_windows(&[&[10, 11]]);
    assert_eq!(bench.event(10), Taken::Late);
    assert_eq!(bench.event(11), Taken::Duplicate);
    assert_eq!(bench.event(12), Taken::Duplicate);
    bench.events(&[14, 20]);
    assert_eq!(bench.readings, [10, 11, 12, 13, 14]);
    bench.expect_windows(&[&[11, 12], &[12, 13], &[13, 14]]);
    let counts = WindowCounts {
        late: 1,
        duplicate: 2,
        ..WindowCounts::default()
    };
    assert_eq!(bench.windower.counts(), counts);
    assert_eq!(bench.windower.waiting(), 2);
    bench.flush();
    assert_eq!(bench.windower.waiting(), 0);
    bench.expect_windows(&[&[14, 16], &[16, 20]]);
    assert_eq!(bench.event(19), Taken::Late);
}

#[test]
fn without_lateness_a_reading_passes_at_once_and_what_is_older_is_late() {
    let mut bench = Bench::new(json!({"count": 1}));
    bench.events(&[10]);
    bench.expect_windows(&[&[10]]);
    assert_eq!(bench.event(10), Taken::Duplicate);
    assert_eq!(bench.event(9), Taken::Late);
    bench.events(&[11]);
    bench.expect_windows(&[&[11]]);
}

#[test]
fn equal_event_times_can_be_kept() {
    for lateness in ["0s", "5s"] {
        let mut bench = Bench::new(json!({"count": 2, "lateness": lateness, "duplicates": "keep"}));
        bench.events(&[10, 10, 10, 11]);
        bench.flush();
        bench.expect_windows(&[&[10, 10], &[10, 10], &[10, 11]]);
    }
}

#[test]
fn when_too_many_wait_the_oldest_pass_early_and_none_is_lost() {
    let mut bench = Bench::new(json!({"count": 1, "lateness": "100s", "reorder_max": 3}));
    bench.events(&[10, 12, 14]);
    bench.expect_windows(&[]);
    bench.events(&[16, 13]);
    bench.expect_windows(&[&[10], &[12]]);
    assert_eq!(bench.event(11), Taken::Late);
    assert_eq!(
        bench.windower.counts(),
        WindowCounts {
            late: 1,
            hurried: 2,
            ..WindowCounts::default()
        }
    );
    bench.flush();
    bench.expect_windows(&[&[13], &[14], &[16]]);
}

#[test]
fn a_window_by_time_that_holds_too_many_loses_the_oldest_and_counts_them() {
    let spec: WindowSpec = serde_json::from_value(json!({"duration": "1day"})).unwrap();
    let mut windower = Windower::new(&spec);
    let mut windows = Vec::new();
    let total = i64::try_from(spec::TIME_WINDOW_COUNT_MAX).unwrap() + 10;
    for ms in (0..total).chain([86_400_000]) {
        let reading = Reading {
            ts: Timestamp::EPOCH.offset_ms(ms),
            fields: BTreeMap::new(),
        };
        let taken = windower.push(reading, |passed| {
            if let Passed::Window(window) = passed {
                windows.push((window[0].ts.as_ms(), window.len()));
            }
        });
        assert_eq!(taken, Taken::Kept);
    }
    assert_eq!(windows, [(10, spec::TIME_WINDOW_COUNT_MAX)]);
    assert_eq!(windower.counts().crowded, 10);
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    for (spec, wanted) in [
        (json!({}), "set one of them"),
        (json!({"count": 2, "duration": "1s"}), "set one of them"),
        (json!({"count": 0}), "count is 0"),
        (json!({"count": 65_537}), "count is 65537"),
        (json!({"count": 2, "hop": 0}), "hop is 0"),
        (json!({"count": 2, "hop": "1s"}), "one by duration by time"),
        (
            json!({"duration": "1s", "hop": 2}),
            "a window by count hops by readings",
        ),
        (json!({"duration": "0s"}), "duration is 0ns"),
        (json!({"duration": "1us"}), "whole milliseconds"),
        (
            json!({"duration": "1day", "hop": "1s"}),
            "take a longer hop",
        ),
        (json!({"duration": "2years"}), "duration is"),
        (json!({"duration": 10}), "string"),
        (json!({"duration": "ten"}), "is no duration"),
        (json!({"count": 2, "lateness": "2years"}), "lateness is"),
        (json!({"count": 2, "reorder_max": 0}), "reorder_max is 0"),
        (json!({"count": 2, "stride": 1}), "unknown field `stride`"),
        (json!({"count": 2, "hop": -1}), "hop must be"),
    ] {
        let found = serde_json::from_value::<WindowSpec>(spec.clone())
            .unwrap_err()
            .to_string();
        assert!(
            found.contains(wanted),
            "{spec}: {found:?} should say {wanted:?}"
        );
    }
}

#[test]
fn a_configuration_reads_back_as_it_was_written() {
    for spec in [
        json!({"count": 24, "hop": 2, "lateness": "10m", "duplicates": "keep"}),
        json!({"duration": "1h", "hop": "10m", "reorder_max": 5}),
    ] {
        let read: WindowSpec = serde_json::from_value(spec).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(serde_json::from_value::<WindowSpec>(written).unwrap(), read);
    }
}

/// What should come of it, the long way: sort what is not late, then cut.
fn oracle(cut: Cut, lateness: i64, events: &[i64]) -> (Vec<i64>, Vec<Vec<i64>>, u64, u64) {
    let mut kept = BTreeSet::new();
    let (mut newest, mut late, mut duplicate) = (i64::MIN, 0, 0);
    for &event in events {
        if newest != i64::MIN && event < newest - lateness {
            late += 1;
        } else if !kept.insert(event) {
            duplicate += 1;
        }
        newest = newest.max(event);
    }
    let sorted: Vec<i64> = kept.into_iter().collect();
    let windows = match cut {
        Cut::Count { count, hop } => sorted
            .windows(count)
            .step_by(hop)
            .map(<[i64]>::to_vec)
            .collect(),
        Cut::Time { duration, hop } => {
            let (duration, hop) = (
                duration.as_secs().cast_signed(),
                hop.as_secs().cast_signed(),
            );
            // Flushed at the end: what ends by the newest reading is closed.
            let ends = (-2000..=newest).filter(|end| end % hop == 0);
            ends.map(|end| {
                sorted
                    .iter()
                    .copied()
                    .filter(|ts| (end - duration..end).contains(ts))
                    .collect()
            })
            .filter(|window: &Vec<i64>| !window.is_empty())
            .collect()
        }
    };
    (sorted, windows, late, duplicate)
}

fn cuts() -> impl Strategy<Value = Cut> {
    let spans = (1_u64..20, 1_u64..20).prop_map(|(duration, hop)| Cut::Time {
        duration: Duration::from_secs(duration),
        hop: Duration::from_secs(hop),
    });
    prop_oneof![
        (1_usize..6, 1_usize..8).prop_map(|(count, hop)| Cut::Count { count, hop }),
        spans
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn windows_are_those_of_a_naive_oracle(
        cut in cuts(),
        lateness in 0_i64..12,
        steps in proptest::collection::vec((0_i64..30, -14_i64..6), 1..60),
    ) {
        let mut clock = -200;
        let events: Vec<i64> = steps.iter().map(|(step, jitter)| {
            clock += if *step > 25 { *step * 3 } else { *step / 6 };
            clock + jitter
        }).collect();
        let spec = match cut {
            Cut::Count { count, hop } => WindowSpec::by_count(count, hop),
            Cut::Time { duration, hop } => WindowSpec::by_time(duration, hop),
        };
        let spec = spec.unwrap().with_lateness(Duration::from_secs(lateness.cast_unsigned())).unwrap();
        let mut bench = Bench { windower: Windower::new(&spec), readings: Vec::new(), windows: Vec::new() };
        let mut taken = Vec::new();
        for &event in &events {
            taken.push(bench.event(event));
        }
        bench.flush();
        let (readings, windows, late, duplicate) = oracle(cut, lateness, &events);
        prop_assert_eq!(&bench.readings, &readings);
        prop_assert_eq!(&bench.windows, &windows);
        let counts = bench.windower.counts();
        prop_assert_eq!((counts.late, counts.duplicate, counts.hurried, counts.crowded), (late, duplicate, 0, 0));
        prop_assert_eq!(taken.iter().filter(|taken| **taken == Taken::Kept).count(), readings.len());
    }
}
