//! Who did what, in a chain: each entry holds the hash of the one before, so that none can be changed, left out or put in
//! without breaking all that follow.
//!
//! The hash is SHA-256 over bytes that need no JSON: the prefix `lamppost audit v1` and a zero byte, the number and the
//! milliseconds of the time (8 bytes each, big-endian), the hash of the entry before (32 bytes), then actor, act, group, model
//! and words, each with its length in 4 bytes, big-endian, before it; group and model are empty when there is none. The
//! first entry has the number 0 and follows the SHA-256 of the prefix.

use std::fmt;
use std::str::FromStr;

use lamppost_models::{Digest, Timestamp, V1};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::Target;

mod trusted;

pub use trusted::Trusted;

/// Longest name of an actor: `user@host` and room to spare.
pub const ACTOR_BYTES_MAX: usize = 128;
/// Longest words of an entry, in bytes: a decision with all its numbers has some 600.
pub const WORDS_BYTES_MAX: usize = 2048;

const PREFIX: &[u8] = b"lamppost audit v1\0";

/// Who acts: somebody, or the coordinator by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Actor(String);

/// Why a string names no actor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("actor {value:?} is not 1 to 128 printable characters without spaces, like anna@depot")]
pub struct ParseActorError {
    value: String,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A version went to all nodes of a group at once.
    Release,
    /// A campaign began.
    Start,
    /// A further wave began.
    Advance,
    /// A campaign waits for what it does not get by itself.
    Hold,
    /// A wave was approved.
    Approve,
    /// A campaign was paused.
    Pause,
    /// It went on.
    Resume,
    /// It ended, and nodes that have the candidate keep it.
    AbortKeep,
    /// It ended, and nodes that have the candidate go back.
    AbortRevert,
    /// The candidate became the stable version.
    Promote,
    /// A group went back to an earlier version.
    Rollback,
    /// A bundle was revoked.
    Revoke,
    /// A version was pushed to the registry.
    Push,
    /// The keys that sign changed.
    Keys,
}

/// An entry before it has its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Who.
    pub by: Actor,
    /// What.
    pub act: Act,
    /// About what, if about an update topic.
    pub target: Option<Target>,
    /// In words, with the numbers.
    pub words: String,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Format version.
    pub v: V1,
    /// Its place, from 0.
    pub number: u64,
    /// When, by the coordinator's clock.
    pub at: Timestamp,
    /// Who.
    pub by: Actor,
    /// What.
    pub act: Act,
    /// About what, if about an update topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// In words, with the numbers.
    pub words: String,
    /// Hash of the entry before.
    pub before: Digest,
    /// Hash of this one.
    pub hash: Digest,
}

/// The end of the log: all that is needed to go on with it. The default is that of a log with no entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the next entry.
    pub next: u64,
    /// Hash of the last one.
    pub hash: Digest,
}

/// Where a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry is missing, or is not in its place.
    #[error("entry {number} of the audit log is missing: {found} is in its place")]
    Gap {
        /// The one that is missing.
        number: u64,
        /// The one that was found.
        found: u64,
    },
    /// It does not follow from the one before.
    #[error(
        "entry {number} of the audit log does not follow from the one before: one of the two was changed"
    )]
    Before {
        /// Which.
        number: u64,
    },
    /// Its hash is not that of its content.
    #[error("entry {number} of the audit log was changed: its hash does not fit what it says")]
    Content {
        /// Which.
        number: u64,
    },
    /// The log ends too early.
    #[error("the audit log ends before entry {number}, and {next} entries were written")]
    Short {
        /// The first that is missing.
        number: u64,
        /// How many there should be.
        next: u64,
    },
}

impl Actor {
    /// The coordinator by itself.
    pub fn coordinator() -> Self {
        Self("coordinator".to_owned())
    }

    /// Somebody who does not say who.
    pub fn unnamed() -> Self {
        Self("unnamed".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Actor {
    type Err = ParseActorError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let printable = |c: char| !c.is_control() && !c.is_whitespace();
        if !value.is_empty() && value.len() <= ACTOR_BYTES_MAX && value.chars().all(printable) {
            Ok(Self(value.to_owned()))
        } else {
            Err(ParseActorError {
                value: value.chars().take(ACTOR_BYTES_MAX).collect(),
            })
        }
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = String::deserialize(deserializer)?;
        value.parse().map_err(D::Error::custom)
    }
}

impl Act {
    /// The word on the wire and in the hash.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Start => "start",
            Self::Advance => "advance",
            Self::Hold => "hold",
            Self::Approve => "approve",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::AbortKeep => "abort_keep",
            Self::AbortRevert => "abort_revert",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Revoke => "revoke",
            Self::Push => "push",
            Self::Keys => "keys",
        }
    }
}

impl Default for Head {
    fn default() -> Self {
        Self {
            next: 0,
            hash: Digest::of(PREFIX),
        }
    }
}

impl Head {
    /// The entry that a note becomes; words over the limit are cut.
    pub fn entry(&self, note: Note, at: Timestamp) -> Entry {
        let Note {
            by,
            act,
            target,
            mut words,
        } = note;
        let end = words.floor_char_boundary(WORDS_BYTES_MAX);
        words.truncate(end);
        let mut entry = Entry {
            v: V1,
            number: self.next,
            at,
            by,
            act,
            target,
            words,
            before: self.hash,
            hash: self.hash,
        };
        entry.hash = entry.hashed();
        entry
    }

    /// The end once an entry is persisted.
    pub const fn after(entry: &Entry) -> Self {
        Self {
            next: entry.number.saturating_add(1),
            hash: entry.hash,
        }
    }

    /// Checks the entry that comes next, and moves on.
    ///
    /// # Errors
    /// [`Broken`] when it is not the one that was written there.
    pub fn check(&mut self, entry: &Entry) -> Result<(), Broken> {
        let number = self.next;
        if entry.number != number {
            let found = entry.number;
            return Err(Broken::Gap { number, found });
        }
        if entry.before != self.hash {
            return Err(Broken::Before { number });
        }
        if entry.hash != entry.hashed() {
            return Err(Broken::Content { number });
        }
        *self = Self::after(entry);
        Ok(())
    }
}

/// Checks a whole log against its end, and says how many entries it has.
///
/// # Errors
/// [`Broken`] with the first entry that is not what was written.
pub fn verify<'a>(entries: impl IntoIterator<Item = &'a Entry>, end: Head) -> Result<u64, Broken> {
    let mut head = Head::default();
    for entry in entries {
        head.check(entry)?;
    }
    if head.next < end.next {
        let (number, next) = (head.next, end.next);
        return Err(Broken::Short { number, next });
    }
    if head != end {
        let number = end.next.saturating_sub(1);
        return Err(Broken::Content { number });
    }
    Ok(head.next)
}

impl Entry {
    fn hashed(&self) -> Digest {
        let target = self.target.as_ref();
        let group = target.map_or("", |target| target.group.as_str());
        let model = target.map_or("", |target| target.model.as_str());
        let mut bytes = PREFIX.to_vec();
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.at.as_ms().to_be_bytes());
        bytes.extend(self.before.as_bytes());
        for text in [
            self.by.as_str(),
            self.act.as_str(),
            group,
            model,
            &self.words,
        ] {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            bytes.extend(length.to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        Digest::of(&bytes)
    }
}

#[cfg(test)]
mod tests;
