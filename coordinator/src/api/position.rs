//! Where a prediction is stored, as clients say it.

use std::fmt;
use std::str::FromStr;

/// The place of a stored prediction among those of its node; what is stored later has a greater one.
///
/// On the wire it is `<page>.<index>`, for example `42.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The page that it is in.
    pub page: u64,
    /// Its place within the page, from 0.
    pub index: u64,
}

/// Why a string is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "position {value:?} is not <page>.<index>, two whole numbers: take one that an answer gave"
)]
pub struct ParsePositionError {
    value: String,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.page, self.index)
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        // `u64` alone would take a sign.
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        let parsed = value.split_once('.').and_then(|(page, index)| {
            Some(Self {
                page: number(page)?,
                index: number(index)?,
            })
        });
        parsed.ok_or_else(|| ParsePositionError {
            value: value.chars().take(64).collect(),
        })
    }
}

lamppost_models::as_text!(Position);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_two_numbers_and_nothing_else() {
        let position = Position { page: 42, index: 7 };
        assert_eq!(serde_json::to_string(&position).unwrap(), "\"42.7\"");
        assert_eq!(
            serde_json::from_str::<Position>("\"42.7\"").unwrap(),
            position
        );
        let last = Position {
            page: u64::MAX,
            index: u64::MAX,
        };
        assert_eq!(last.to_string().parse(), Ok(last));
        for wrong in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "1.2.3",
            "+1.2",
            "1.-2",
            " 1.2",
            "18446744073709551616.0",
        ] {
            let error = wrong.parse::<Position>().unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
        let long = "9".repeat(5_000).parse::<Position>().unwrap_err();
        assert!(long.to_string().len() < 200, "{long}");
    }

    #[test]
    fn is_ordered_as_it_was_stored() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        assert!(at("9.1000") < at("10.0") && at("10.9") < at("10.10"));
    }
}
