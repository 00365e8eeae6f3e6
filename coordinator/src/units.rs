//! Values that people write with a unit: `"30d"`, `"64MiB"`.

use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// A duration such as `"90s"` or `"30d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// A number of bytes such as `"64MiB"`: KB, MB, GB count in 1000, KiB, MiB, GiB in 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?.trim_end();
    number
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| number.parse::<u64>().ok()?.checked_mul(factor))?
}

/// Bytes for people, in the largest unit that leaves at least one, with one decimal.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let amount = bytes as f64;
    match units.into_iter().find(|(_, factor)| amount >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", amount / factor),
        None => format!("{bytes} B"),
    }
}

/// A span for people, in its largest unit alone: `5s`, `12m`, `3h`, `40d`.
pub(crate) fn human_span_ms(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |error| {
            D::Error::custom(format_args!(
                "{text:?} is no duration ({error}): write one such as \"90s\" or \"30d\""
            ))
        };
        humantime::parse_duration(&text).map(Self).map_err(wrong)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            D::Error::custom(format_args!(
                "{text:?} is no size: write a whole number with a unit, such as \"64MiB\""
            ))
        };
        parse_size(&text).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("64MiB", 64 << 20),
            ("2 GB", 2_000_000_000),
            ("7KB", 7_000),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "64", "MB", "-1MB", "1.5MB", "99999999999GiB", "1PB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn people_read_one_unit() {
        assert_eq!(
            [0, 999, 1_500, 12_345_678].map(human_bytes),
            ["0 B", "999 B", "1.5 kB", "12.3 MB"]
        );
        assert_eq!(
            [-5, 119_999, 120_000, 7_200_000, 172_800_000].map(human_span_ms),
            ["0s", "119s", "2m", "2h", "2d"]
        );
    }
}
