//! Instants and zones.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::time::Duration;

use lamppost_models::Timestamp;
use lamppost_models::time::Zone;
use proptest::prelude::*;

const FIRST_MS: i64 = -62_167_219_200_000;
const LAST_MS: i64 = 253_402_207_200_000;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

proptest! {
    #[test]
    fn every_instant_is_written_in_utc_and_read_back(ms in FIRST_MS..=LAST_MS) {
        let instant = Timestamp::from_ms(ms).expect("in range");
        let text = instant.to_string();
        prop_assert!(text.ends_with('Z') && text.as_bytes()[10] == b'T', "{}", text);
        prop_assert_eq!(text.len(), if ms % 1000 == 0 { 20 } else { 24 });
        prop_assert_eq!(text.parse::<Timestamp>().expect("the same"), instant);
        let json = serde_json::to_string(&instant).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("the same").as_ms(), ms);
    }

    #[test]
    fn moving_an_instant_stays_in_range_and_never_panics(ms in FIRST_MS..=LAST_MS, by in any::<i64>()) {
        let instant = Timestamp::from_ms(ms).expect("in range");
        let moved = instant.offset_ms(by);
        prop_assert!((FIRST_MS..=LAST_MS).contains(&moved.as_ms()));
        prop_assert!(!moved.to_string().is_empty());
        let wanted = (i128::from(ms) + i128::from(by)).clamp(i128::from(FIRST_MS), i128::from(LAST_MS));
        prop_assert_eq!(i128::from(moved.as_ms()), wanted);
        prop_assert_eq!(moved.ms_since(instant), moved.as_ms() - ms);
    }

    #[test]
    fn every_instant_has_a_local_time_in_every_zone(ms in FIRST_MS..=LAST_MS, hours in -14..=14_i32) {
        let zone: Zone = format!("{}{:02}:00", if hours < 0 { '-' } else { '+' }, hours.abs()).parse().expect("a zone");
        let local = zone.local(Timestamp::from_ms(ms).expect("in range"));
        prop_assert!((0.0..24.0).contains(&local.hour) && local.weekday < 7);
        prop_assert!((1..=12).contains(&local.month) && (1..=366).contains(&local.day_of_year));
        let wanted = (ms + i64::from(hours) * 3_600_000).rem_euclid(86_400_000) as f64 / 3_600_000.0;
        prop_assert!((local.hour - wanted).abs() < 1e-6);
    }

    #[test]
    fn a_local_time_without_offset_is_taken_in_the_zone(ms in 0..LAST_MS, minutes in -840..=840_i64) {
        let (hour, minute) = (minutes.abs() / 60, minutes.abs() % 60);
        let zone: Zone = format!("{}{hour:02}:{minute:02}", if minutes < 0 { '-' } else { '+' }).parse().expect("a zone");
        let instant = Timestamp::from_ms(ms).expect("in range");
        let utc = instant.to_string();
        let local = utc.trim_end_matches('Z');
        // What the zone's clock shows at `local` is `minutes` ahead of UTC.
        let wanted = ms - minutes * 60_000;
        if (FIRST_MS..=LAST_MS).contains(&wanted) {
            prop_assert_eq!(zone.parse_instant(local).expect("a time").as_ms(), wanted);
            prop_assert_eq!(zone.parse_instant(&utc).expect("a time"), instant);
        }
    }

    #[test]
    fn any_text_is_a_time_and_a_zone_or_refused_without_a_panic(text in any::<String>()) {
        if let Ok(instant) = text.parse::<Timestamp>() {
            prop_assert_eq!(instant.to_string().parse::<Timestamp>().expect("the same"), instant);
        }
        if let Ok(zone) = text.parse::<Zone>() {
            prop_assert_eq!(zone.to_string(), text);
        }
    }
}

#[test]
fn both_ends_of_the_range_can_be_written() {
    assert_eq!(
        Timestamp::from_ms(FIRST_MS).expect("the first").to_string(),
        "0000-01-01T00:00:00Z"
    );
    assert_eq!(
        Timestamp::from_ms(LAST_MS).expect("the last").to_string(),
        "9999-12-30T22:00:00Z"
    );
    Timestamp::from_ms(LAST_MS + 1).expect_err("after the last");
    Timestamp::from_ms(FIRST_MS - 1).expect_err("before the first");
}

#[test]
fn an_offset_is_converted_and_a_fraction_kept_to_the_millisecond() {
    assert_eq!(
        at("2016-12-31T00:00:00-06:00").to_string(),
        "2016-12-31T06:00:00Z"
    );
    assert_eq!(
        at("2016-12-31T00:00:00.1239Z").to_string(),
        "2016-12-31T00:00:00.123Z"
    );
    assert_eq!(
        Timestamp::EPOCH.offset_ms(-1).to_string(),
        "1969-12-31T23:59:59.999Z"
    );
    assert_eq!(
        Timestamp::EPOCH
            .after(Duration::from_millis(1500))
            .to_string(),
        "1970-01-01T00:00:01.500Z"
    );
    assert_eq!(Timestamp::EPOCH.after(Duration::MAX).as_ms(), LAST_MS);
}

#[test]
fn text_that_is_no_instant_is_refused_and_shown() {
    for wrong in [
        "",
        "yesterday",
        "2026-02-30T00:00:00Z",
        "2026-01-01",
        "2026-01-01T25:00:00Z",
        "1767225600",
    ] {
        let error = wrong.parse::<Timestamp>().expect_err(wrong).to_string();
        assert!(
            error.contains(&format!("{wrong:?}")) && error.contains("RFC 3339"),
            "{error}"
        );
    }
    Zone::utc()
        .parse_instant("2026-01-01T00:00:00 or so")
        .expect_err("trailing words");
}

#[test]
fn a_zone_is_an_offset_utc_or_a_name_of_the_built_in_database() {
    let noon = at("2026-07-01T12:00:00Z");
    for (name, hour) in [
        ("UTC", 12.0),
        ("Z", 12.0),
        ("-06:00", 6.0),
        ("+05:45", 17.75),
        ("Europe/Berlin", 14.0),
        ("America/Chicago", 7.0),
        ("Asia/Shanghai", 20.0),
    ] {
        let zone: Zone = name.parse().expect(name);
        assert!(
            (zone.local(noon).hour - hour).abs() < 1e-9,
            "{name}: {:?}",
            zone.local(noon)
        );
        assert_eq!(
            serde_json::to_string(&zone).expect("JSON"),
            format!("{name:?}")
        );
    }
    for wrong in [
        "",
        "Mars/Olympus",
        "+6:00",
        "+06",
        "+0600",
        "+15:00",
        "-06:60",
        "+0a:00",
        "+06:00 ",
        "+é0:0",
    ] {
        let error = wrong.parse::<Zone>().expect_err(wrong).to_string();
        assert!(
            error.contains("neither an offset such as -06:00"),
            "{error}"
        );
    }
}

#[test]
fn clocks_that_are_put_forward_and_back_are_followed() {
    let berlin: Zone = "Europe/Berlin".parse().expect("a zone");
    // Clocks went from 02:00 to 03:00 at 01:00 UTC.
    assert!((berlin.local(at("2026-03-29T00:59:59Z")).hour - 1.999_722).abs() < 1e-5);
    assert!((berlin.local(at("2026-03-29T01:00:00Z")).hour - 3.0).abs() < 1e-9);
    // 02:30 does not exist on that day, and 02:30 on the day they go back exists twice: both are read.
    berlin.parse_instant("2026-03-29T02:30:00").expect("a time");
    assert_eq!(
        berlin.parse_instant("2026-10-25T02:30:00").expect("a time"),
        at("2026-10-25T00:30:00Z")
    );
}
