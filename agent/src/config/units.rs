//! Sizes as people write them: `"64KB"`, `"256MB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number of bytes: `"64KB"`, `"256MB"`, `"1GiB"`, or a bare number.
///
/// `KB`, `MB` and `GB` are powers of 1000, `KiB`, `MiB` and `GiB` powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) u64);

const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Why a text is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no size: write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"256MB\""
)]
pub(super) struct ParseBytesError {
    text: String,
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let factor = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| *factor);
        let bytes = factor
            .zip(number.parse::<u64>().ok())
            .and_then(|(factor, number)| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| ParseBytesError {
            text: text.chars().take(64).collect(),
        })
    }
}

/// With the largest unit that divides the number.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .into_iter()
            .filter(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor)
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"256MB\", or a number of bytes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes)
                    .map(Bytes)
                    .map_err(|_| E::custom(format_args!("size {bytes} is negative")))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A number of bytes, or `"none"` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<Bytes>);

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(bytes) => bytes.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Limit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", or a size such as \"256MB\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Limit, E> {
                if text == "none" {
                    return Ok(Limit(None));
                }
                text.parse()
                    .map(|bytes| Limit(Some(bytes)))
                    .map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Limit, E> {
                Ok(Limit(Some(Bytes(bytes))))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Limit, E> {
                u64::try_from(bytes)
                    .map(|bytes| Limit(Some(Bytes(bytes))))
                    .map_err(|_| E::custom(format_args!("size {bytes} is negative")))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A time, or `"none"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience(pub(super) Option<Duration>);

impl Serialize for Patience {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => serializer.collect_str(&humantime::format_duration(time)),
            None => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Patience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            return Ok(Self(None));
        }
        let time = humantime::parse_duration(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(Some(time)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("0B", 0),
            ("64KB", 64_000),
            ("64KiB", 65_536),
            ("256MB", 256_000_000),
            ("1 GiB", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "MB",
            "1",
            "1.5MB",
            "-1MB",
            "1TB",
            "99999999999GB",
            "1 M B",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_may_be_none() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Table {
            limit: Limit,
            patience: Patience,
        }
        for (text, bytes, time) in [
            ("limit = \"none\"\npatience = \"none\"\n", None, None),
            (
                "limit = \"20MB\"\npatience = \"5m\"\n",
                Some(Bytes(20_000_000)),
                Some(Duration::from_mins(5)),
            ),
        ] {
            let table: Table = toml::from_str(text).unwrap();
            assert_eq!(
                (table.limit, table.patience),
                (Limit(bytes), Patience(time))
            );
            assert_eq!(toml::to_string(&table).unwrap(), text);
        }
        for wrong in ["limit = \"no\"", "limit = -1", "limit = true"] {
            let text = format!("{wrong}\npatience = \"none\"");
            assert!(toml::from_str::<Table>(&text).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_it_was_written(bytes: u64) {
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }
}
