//! Names and numbers that identify things.
//!
//! A name is 1 to 64 characters of `A-Z a-z 0-9 . _ -` and starts with a letter or a digit, so that it is one level of
//! an MQTT topic, one component of a path and one word on a command line, in all three without escaping.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// Longest name in bytes: room for a device serial or a reverse domain, and still one line in a table.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a string is no valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// The string is empty or longer than [`NAME_BYTES_MAX`].
    #[error("{what} {value:?} has {bytes} bytes, a name has 1 to 64")]
    Length {
        /// The kind of name.
        what: &'static str,
        /// The string, cut for display.
        value: String,
        /// Its length.
        bytes: usize,
    },
    /// The string has a character that a name must not have.
    #[error(
        "{what} {value:?} has {found:?}: use letters, digits, '.', '_' and '-', and start with a letter or digit"
    )]
    Character {
        /// The kind of name.
        what: &'static str,
        /// The string.
        value: String,
        /// The first character that does not fit.
        found: char,
    },
}

fn check_name(what: &'static str, value: &str) -> Result<(), ParseNameError> {
    if value.is_empty() || value.len() > NAME_BYTES_MAX {
        let shown = value.chars().take(NAME_BYTES_MAX).collect();
        return Err(ParseNameError::Length {
            what,
            value: shown,
            bytes: value.len(),
        });
    }
    let wrong = value.chars().enumerate().find(|&(at, c)| {
        let inner = matches!(c, '.' | '_' | '-');
        !(c.is_ascii_alphanumeric() || (inner && at > 0))
    });
    match wrong {
        Some((_, found)) => Err(ParseNameError::Character {
            what,
            value: value.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`ParseNameError`] when the string is not a valid name.
            pub fn new(value: &str) -> Result<Self, ParseNameError> {
                check_name($what, value)?;
                Ok(Self(Arc::from(value)))
            }

            /// The name as a string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = ParseNameError;
            fn from_str(value: &str) -> Result<Self, Self::Err> {
                Self::new(value)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = String::deserialize(deserializer)?;
                Self::new(&value).map_err(D::Error::custom)
            }
        }
    };
}

name!(
    /// One edge machine.
    NodeId, "node"
);
name!(
    /// Where a node stands.
    SiteId, "site"
);
name!(
    /// Nodes that take the same releases.
    GroupId, "group"
);
name!(
    /// A named flow of readings on a node.
    StreamName, "stream"
);
name!(
    /// A model, whatever its version.
    ModelName, "model"
);
name!(
    /// One measured quantity within a reading.
    FieldName, "field"
);

name!(
    /// What a node is tagged with, such as `backhaul`.
    TagName, "tag"
);
name!(
    /// What a tag says, such as `lte-7`.
    TagValue, "tag value"
);
name!(
    /// What allows readings to leave a node: the operator's own reference, such as `council-2026-17`.
    ConsentRef, "consent"
);

/// Why a string is no valid 64-bit identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not 16 lower-case hexadecimal digits")]
pub struct ParseHexIdError {
    what: &'static str,
    value: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(u64);

        impl $type {
            /// Wraps a number that the caller drew at random.
            pub const fn from_u64(value: u64) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn as_u64(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:016x})"), self.0)
            }
        }

        impl FromStr for $type {
            type Err = ParseHexIdError;
            fn from_str(value: &str) -> Result<Self, Self::Err> {
                let digits = value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if value.len() == 16 && digits {
                    if let Ok(number) = u64::from_str_radix(value, 16) {
                        return Ok(Self(number));
                    }
                }
                Err(ParseHexIdError { what: $what, value: value.chars().take(64).collect() })
            }
        }

        crate::as_text!($type);
    };
}

hex_id!(
    /// One run of an agent process, drawn at random when it starts; 16 hexadecimal digits on the wire.
    BootId, "boot id"
);
hex_id!(
    /// One life of a node's outbox, drawn at random when it is created: batch numbers never repeat within it.
    Epoch, "epoch"
);

hex_id!(
    /// One rollout, drawn at random when it is planned.
    RolloutId, "rollout id"
);

hex_id!(
    /// One question for the time, drawn at random when it is asked.
    Nonce, "nonce"
);

/// Names one prediction for ever: the boot that made it and its number within that boot.
///
/// On the wire it is `<boot>-<number>`, for example `9f3a1c2b4d5e6f70-42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PredictionId {
    /// The agent's run.
    pub boot: BootId,
    /// Counts every prediction of that run, over all streams, from 0.
    pub number: u64,
}

/// Why a string is no valid prediction id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("prediction id {value:?} is not <16 hexadecimal digits>-<number>")]
pub struct ParsePredictionIdError {
    value: String,
}

impl fmt::Display for PredictionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.boot, self.number)
    }
}

impl FromStr for PredictionId {
    type Err = ParsePredictionIdError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let parsed = value.split_once('-').and_then(|(boot, number)| {
            let canonical = number
                .parse::<u64>()
                .ok()
                .filter(|n| n.to_string() == number)?;
            Some(Self {
                boot: boot.parse().ok()?,
                number: canonical,
            })
        });
        parsed.ok_or_else(|| ParsePredictionIdError {
            value: value.chars().take(64).collect(),
        })
    }
}

crate::as_text!(PredictionId);
