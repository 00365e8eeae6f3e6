//! Spans, sizes, shares, tags and nodes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer};
use serde::ser::Serializer;

/// A length of time in whole seconds, written as `90s`, `5m`, `2h` or `1d 12h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

/// A number of bytes, written as `500kB`, `2GB` (thousands) or `64MiB` (1,024s).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Why a text in a policy is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {what}: write it like {like}")]
pub struct ParseTextError {
    value: String,
    what: &'static str,
    like: &'static str,
}

const SPAN_UNITS: [(&str, u64); 5] = [
    ("w", 604_800),
    ("d", 86_400),
    ("h", 3600),
    ("m", 60),
    ("s", 1),
];
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn error(value: &str, what: &'static str, like: &'static str) -> ParseTextError {
    ParseTextError {
        value: value.chars().take(64).collect(),
        what,
        like,
    }
}

impl Span {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// So many hours.
    pub const fn from_hours(hours: u64) -> Self {
        Self(hours.saturating_mul(3600))
    }

    /// Its seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Self::from_secs(span.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut left = self.0;
        let mut gap = "";
        // Weeks are read, and written as days: `14d` is easier than `2w`.
        for (unit, seconds) in SPAN_UNITS.iter().skip(1) {
            let count = left / seconds;
            left %= seconds;
            if count > 0 {
                write!(f, "{gap}{count}{unit}")?;
                gap = " ";
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = ParseTextError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let wrong = || error(value, "length of time", "90s, 5m, 2h or 1d 12h");
        let mut seconds = 0_u64;
        let mut words = value.split_ascii_whitespace().peekable();
        words.peek().ok_or_else(wrong)?;
        for word in words {
            let of_word = with_unit(word, &SPAN_UNITS).ok_or_else(wrong)?;
            seconds = seconds.checked_add(of_word).ok_or_else(wrong)?;
        }
        Ok(Self(seconds))
    }
}

fn with_unit(word: &str, units: &[(&str, u64)]) -> Option<u64> {
    let at = word.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = word.split_at(at);
    let unit = unit.trim_start();
    let (_, size) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*size)
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        let (unit, size) = BYTE_UNITS.iter().find(whole).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for Bytes {
    type Err = ParseTextError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        with_unit(value.trim(), &BYTE_UNITS)
            .map(Self)
            .ok_or_else(|| error(value, "number of bytes", "500kB, 2GB or 64MiB"))
    }
}

lamppost_models::as_text!(Span);
lamppost_models::as_text!(Bytes);

/// A share as `5 %`, with at most two decimals.
pub(super) mod share {
    use lamppost_models::rollout::Share;

    use super::{Deserialize, Deserializer, ParseTextError, Serializer, error};
    use serde::de::Error as _;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde asks for"
    )]
    pub(in super::super) fn serialize<S: Serializer>(
        share: &Share,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(share)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Share, D::Error> {
        let value = String::deserialize(deserializer)?;
        parse(&value).map_err(D::Error::custom)
    }

    pub(super) fn parse(value: &str) -> Result<Share, ParseTextError> {
        let wrong = || error(value, "share of 0 to 100 per cent", "\"5 %\" or \"0.25 %\"");
        let number = value.trim().strip_suffix('%').ok_or_else(wrong)?.trim();
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || part.len() > 2 || !digits(whole) || !digits(part)
        {
            return Err(wrong());
        }
        let part = format!("{part:0<2}");
        let hundredths = format!("{whole}{part}").parse().map_err(|_| wrong())?;
        Share::new(hundredths).map_err(|_| wrong())
    }
}

pub(super) mod share_option {
    use lamppost_models::rollout::Share;

    use super::{Deserialize, Deserializer, Serializer, share};
    use serde::de::Error as _;

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde asks for"
    )]
    pub(in super::super) fn serialize<S: Serializer>(
        share: &Option<Share>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match share {
            Some(share) => serializer.collect_str(share),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Share>, D::Error> {
        let value = Option::<String>::deserialize(deserializer)?;
        let parsed = value.as_deref().map(share::parse).transpose();
        parsed.map_err(D::Error::custom)
    }
}

/// Tags as `name=value`.
pub(super) mod tags {
    use lamppost_models::rollout::Tag;

    use super::{Deserialize, Deserializer, ParseTextError, Serializer, error};
    use serde::de::Error as _;

    pub(in super::super) fn serialize<S: Serializer>(
        tags: &[Tag],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            tags.iter()
                .map(|Tag { name, value }| format!("{name}={value}")),
        )
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Tag>, D::Error> {
        let values = Vec::<String>::deserialize(deserializer)?;
        let parsed = values.iter().map(|value| parse(value)).collect();
        let parsed: Result<_, ParseTextError> = parsed;
        parsed.map_err(D::Error::custom)
    }

    fn parse(value: &str) -> Result<Tag, ParseTextError> {
        let parsed = value.split_once('=').and_then(|(name, value)| {
            Some(Tag {
                name: name.parse().ok()?,
                value: value.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| error(value, "tag", "backhaul=lte-7"))
    }
}

/// Nodes as `site/node`.
pub(super) mod nodes {
    use lamppost_models::NodePath;

    use super::{Deserialize, Deserializer, ParseTextError, Serializer, error};
    use serde::de::Error as _;

    pub(in super::super) fn serialize<S: Serializer>(
        nodes: &[NodePath],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(nodes.iter().map(ToString::to_string))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<NodePath>, D::Error> {
        let values = Vec::<String>::deserialize(deserializer)?;
        let parsed = values.iter().map(|value| parse(value)).collect();
        let parsed: Result<_, ParseTextError> = parsed;
        parsed.map_err(D::Error::custom)
    }

    fn parse(value: &str) -> Result<NodePath, ParseTextError> {
        let parsed = value.split_once('/').and_then(|(site, node)| {
            Some(NodePath {
                site: site.parse().ok()?,
                node: node.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| error(value, "node", "site/node"))
    }
}
