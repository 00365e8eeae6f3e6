//! How many artifacts go out at once over one backhaul, and how many bytes of each on one day.
//!
//! A place is held from the beginning of an answer to its end, whether that comes by the last byte or by a peer that is
//! gone. What is over a bound is asked for again later: nothing waits here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamppost_models::id::TagValue;
use lamppost_models::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// When a node whose backhaul is full asks again: a small model takes some seconds over a slow link, and nodes add jitter.
const BUSY_RETRY_S: u64 = 10;
/// When a node asks again on a day whose bytes are spent, at the latest: the budget may have been raised.
const SPENT_RETRY_S_MAX: u64 = 3600;
const DAY_MS: i64 = 86_400_000;

/// A day of UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Day(pub(crate) i64);

/// Under which bounds a download is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// What the node's tag `backhaul` says; none for a node without one, and for whoever is not known.
    pub(crate) backhaul: Option<TagValue>,
    /// Most downloads at once over it, by the policy of a rollout.
    pub(crate) at_once_max: Option<u32>,
    /// Most bytes of the artifact on a day, by the policy of a rollout.
    pub(crate) bytes_per_day: Option<u64>,
}

/// Why a download has to wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Busy {
    #[error("{at_once_max} downloads over {} are under way, the limit: ask again in {retry_s} s", of(backhaul.as_ref()))]
    Backhaul {
        backhaul: Option<TagValue>,
        at_once_max: u32,
        retry_s: u64,
    },
    #[error(
        "{given} of {bytes_per_day} bytes of this artifact were given out today (UTC), and {wanted} more are over the limit of its rollout: ask again in {retry_s} s"
    )]
    Spent {
        given: u64,
        wanted: u64,
        bytes_per_day: u64,
        retry_s: u64,
    },
}

/// What is under way, and what was given out.
pub(crate) struct Downloads {
    /// Most at once over one backhaul, whatever is rolled out.
    at_once_max: Option<u32>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Downloads under way; as many entries as there are connections at most.
    active: BTreeMap<Option<TagValue>, u32>,
    today: Option<Day>,
    /// Bytes that were given out today, and those promised to downloads under way; as many entries as there are versions.
    given: BTreeMap<Digest, u64>,
    /// What was given out and is not in the store yet.
    unsaved: BTreeMap<(Day, Digest), u64>,
    refused: Refusals,
}

/// Downloads that had to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// Because their backhaul was full.
    pub(crate) backhaul: u64,
    /// Because the bytes of the day were spent.
    pub(crate) spent: u64,
}

/// A download under way.
pub(crate) struct Pass {
    downloads: Arc<Downloads>,
    digest: Digest,
    backhaul: Option<TagValue>,
    day: Day,
    /// Bytes that are promised and not sent.
    left: u64,
    sent: u64,
}

fn of(backhaul: Option<&TagValue>) -> String {
    backhaul.map_or_else(
        || "no backhaul that is known".to_owned(),
        |name| format!("backhaul {name}"),
    )
}

impl Day {
    pub(crate) const fn of(at: Timestamp) -> Self {
        Self(at.as_ms().div_euclid(DAY_MS))
    }
}

impl Busy {
    /// Seconds until it should be tried again.
    pub(crate) const fn retry_s(&self) -> u64 {
        match self {
            Self::Backhaul { retry_s, .. } | Self::Spent { retry_s, .. } => *retry_s,
        }
    }
}

impl Downloads {
    /// With the bound of the configuration, and what was given out today in an earlier life.
    pub(crate) fn new(
        at_once_max: Option<u32>,
        now: Timestamp,
        given: BTreeMap<Digest, u64>,
    ) -> Self {
        let counts = Counts {
            today: Some(Day::of(now)),
            given,
            ..Counts::default()
        };
        Self {
            at_once_max,
            counts: Mutex::new(counts),
        }
    }

    /// Lets `length` bytes of an artifact go out, if there is room.
    ///
    /// # Errors
    /// [`Busy`] when a bound is reached; it is counted.
    pub(crate) fn admit(
        self: &Arc<Self>,
        digest: Digest,
        length: u64,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Pass, Busy> {
        let Terms {
            backhaul,
            at_once_max,
            bytes_per_day,
        } = terms;
        let mut counts = self.counts();
        counts.turn_to(Day::of(now));
        let given = counts.given.get(&digest).copied().unwrap_or(0);
        if let Some(bytes_per_day) =
            bytes_per_day.filter(|most| given.saturating_add(length) > *most)
        {
            counts.refused.spent += 1;
            let midnight_ms = DAY_MS - now.as_ms().rem_euclid(DAY_MS);
            let retry_s = u64::try_from(midnight_ms / 1000 + 1).unwrap_or(SPENT_RETRY_S_MAX);
            return Err(Busy::Spent {
                given,
                wanted: length,
                bytes_per_day,
                retry_s: retry_s.min(SPENT_RETRY_S_MAX),
            });
        }
        let under_way = counts.active.get(&backhaul).copied().unwrap_or(0);
        let most = [self.at_once_max, at_once_max].into_iter().flatten().min();
        if let Some(at_once_max) = most.filter(|most| under_way >= *most) {
            counts.refused.backhaul += 1;
            return Err(Busy::Backhaul {
                backhaul,
                at_once_max,
                retry_s: BUSY_RETRY_S,
            });
        }
        *counts.active.entry(backhaul.clone()).or_default() += 1;
        *counts.given.entry(digest).or_default() += length;
        drop(counts);
        Ok(Pass {
            downloads: Arc::clone(self),
            digest,
            backhaul,
            day: Day::of(now),
            left: length,
            sent: 0,
        })
    }

    /// Bytes of an artifact that were given out today, with those of downloads under way.
    pub(crate) fn given_today(&self, digest: Digest, now: Timestamp) -> u64 {
        let mut counts = self.counts();
        counts.turn_to(Day::of(now));
        counts.given.get(&digest).copied().unwrap_or(0)
    }

    /// What was given out since this was asked last, by day and artifact, to be added to what the store has.
    pub(crate) fn take_unsaved(&self) -> BTreeMap<(Day, Digest), u64> {
        std::mem::take(&mut self.counts().unsaved)
    }

    /// Gives back what could not be stored.
    pub(crate) fn put_back(&self, unsaved: BTreeMap<(Day, Digest), u64>) {
        let mut counts = self.counts();
        for (what, bytes) in unsaved {
            *counts.unsaved.entry(what).or_default() += bytes;
        }
    }

    pub(crate) fn refusals(&self) -> Refusals {
        self.counts().refused
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn turn_to(&mut self, day: Day) {
        if self.today.is_none_or(|today| today < day) {
            self.today = Some(day);
            self.given.clear();
        }
    }
}

impl Pass {
    /// Notes that so many bytes went out.
    pub(crate) const fn sent(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.sent = self.sent.saturating_add(bytes);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = self.downloads.counts();
        if let Some(under_way) = counts.active.get_mut(&self.backhaul) {
            *under_way = under_way.saturating_sub(1);
            if *under_way == 0 {
                counts.active.remove(&self.backhaul);
            }
        }
        if counts.today == Some(self.day)
            && let Some(given) = counts.given.get_mut(&self.digest)
        {
            *given = given.saturating_sub(self.left);
        }
        if self.sent > 0 {
            *counts.unsaved.entry((self.day, self.digest)).or_default() += self.sent;
        }
    }
}

#[cfg(test)]
mod tests;
