//! The readings that are sent, each with an event time of its own, by which its prediction is recognised.

use std::io::Write as _;

/// Days from 0000-03-01 to 0100-01-01, where the series begins: no reading may be of the future, and a long run takes
/// millions of hours.
const FIRST_DAY: u64 = 36_465;
/// Readings until 2026.
pub(crate) const READINGS_MAX: u64 = 16_800_000;
/// A week of hourly volumes is repeated.
const HOURS_A_WEEK: u64 = 168;

/// Appends the JSON of reading number `index`: one an hour, volumes that follow the hour of the day.
pub(crate) fn put_json(out: &mut Vec<u8>, index: u64) {
    let (days, hour) = (FIRST_DAY + index / 24, index % 24);
    let (year, month, day) = civil_from_days(days);
    let volume = 400 + (hour * (24 - hour)) * 36 + (index % HOURS_A_WEEK) * 3;
    let temp = index % 30;
    let written = write!(
        out,
        "{{\"ts\":\"{year:04}-{month:02}-{day:02}T{hour:02}:00:00Z\",\"volume\":{volume}.0,\"temp\":{temp}.5}}"
    );
    debug_assert!(written.is_ok(), "a vector takes all");
}

/// The number of the reading whose event time `json` carries as `"ts"`; `None` when it carries none of ours.
pub(crate) fn index_of(json: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"ts\":\"";
    let at = json.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let text = json.get(at..at + "0100-01-01T00".len())?;
    let number = |from: usize, to: usize| -> Option<u64> {
        text[from..to].iter().try_fold(0, |sum, byte| {
            byte.is_ascii_digit()
                .then(|| sum * 10 + u64::from(byte - b'0'))
        })
    };
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
    Some(days.checked_sub(FIRST_DAY)? * 24 + number(11, 13)?)
}

/// Year, month and day of a day since 0000-03-01, by H. Hinnant, "chrono-compatible low-level date algorithms".
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The reverse.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era)
}

/// Fails when a reading's own JSON does not give its number back.
pub(crate) fn self_check() -> anyhow::Result<()> {
    // Leap days, centuries without one, and the far end of a long run.
    for index in (0..200_000).chain([2_629_800, 8_000_000, READINGS_MAX - 1]) {
        let mut json = Vec::new();
        put_json(&mut json, index);
        anyhow::ensure!(
            index_of(&json) == Some(index),
            "reading {index} reads back wrong: {}",
            json.escape_ascii()
        );
    }
    Ok(())
}
