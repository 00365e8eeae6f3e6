//! What time it is at least, and whether what comes from the coordinator is fresh.
//!
//! A gateway's clock may say 1970 after a power cut, or 2099 with a broken battery, and whoever holds the link may hold back
//! what he likes. So expiry is judged by signed times. Any of them is a lower bound of now, which a clock that never jumps
//! carries on and the disk remembers. One that answers a question of this run proves that it was signed after the question:
//! now is between it and the time that has gone by since the question was asked, and the wall clock counts within that.
//!
//! Whoever holds messages back cannot answer. When no answer came for [`FreshConfig::freeze_after`] although the link was up,
//! that is suspected, and said. Time without a link does not count, and does not start the count again.

use std::time::Duration;

use lamppost_models::id::Nonce;
use lamppost_models::trust::TrustVersion;
use lamppost_models::{SignedTime, Timestamp};
use serde::{Deserialize, Serialize};

use crate::outbox::Now;

/// Questions within the time after which an unanswered node is suspicious: two may be lost.
const QUESTIONS: u32 = 3;
/// Attempts within the time between two questions.
const ATTEMPTS: u32 = 5;
/// How often the bound is written down: a restart without a clock goes back by no more.
pub const SAVE_EVERY: Duration = Duration::from_hours(1);
/// How long a newer trust document may be on its way, once a time told of it.
const TRUST_GRACE: Duration = Duration::from_mins(1);

/// How a clock is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshConfig {
    /// After so long with a link and without an answer, messages are suspected to be held back.
    pub freeze_after: Duration,
}

/// What is written down of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTime {
    /// It is later than this.
    pub time: Timestamp,
    /// Ids of the keys that said so: once all of them are revoked, it is forgotten.
    pub keys: Vec<String>,
}

/// The clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreshClock {
    config: FreshConfig,
    /// The latest time that was signed.
    bound: Option<Bound>,
    /// The question that waits for an answer.
    asked: Option<Asked>,
    /// When a question was asked last.
    asked_at: Option<Duration>,
    fresh: Option<Fresh>,
    /// Since when there is a link.
    link_since: Option<Duration>,
    /// For how long there was a link before that, since the last answered question.
    unproven: Duration,
    /// What was written down last, and when.
    saved_at: Option<Duration>,
    /// The newest trust document that the coordinator told of, and when it did first.
    told: Option<(TrustVersion, Duration)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    time: Timestamp,
    /// When it held, by the steady clock.
    at: Duration,
    keys: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    nonce: Nonce,
    at: Duration,
}

/// The last answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fresh {
    time: Timestamp,
    asked_at: Duration,
    answered_at: Duration,
    keys: Vec<String>,
}

/// Why messages seem to be held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// No answer came.
    NoAnswer {
        /// For so long or longer, while there was a link.
        at_least: Duration,
    },
    /// The coordinator has a newer trust document than ever came.
    NoTrust {
        /// The newest one that it has.
        told: TrustVersion,
    },
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It answers nothing.
    #[error("the time answers no question")]
    NoNonce,
    /// It answers another question: one that was answered, that another node asked, or that is too old.
    #[error("the time answers a question that does not wait for an answer")]
    OtherNonce,
}

impl FreshClock {
    /// Starts with what was written down.
    pub fn start(config: FreshConfig, saved: Option<SavedTime>, steady: Duration) -> Self {
        let bound = saved.map(|SavedTime { time, keys }| Bound {
            time,
            at: steady,
            keys,
        });
        Self {
            config,
            bound,
            asked: None,
            asked_at: None,
            fresh: None,
            link_since: None,
            unproven: Duration::ZERO,
            saved_at: None,
            told: None,
        }
    }

    /// What time it is: the wall clock's, within what is known. Releases expire by it.
    pub fn now(&self, Now { wall, steady }: Now) -> Timestamp {
        let Some(lower) = self.lower(steady) else {
            return wall;
        };
        match &self.fresh {
            Some(fresh) => {
                let upper = fresh.time.after(steady.saturating_sub(fresh.asked_at));
                wall.clamp(lower, upper.max(lower))
            }
            None => wall.max(lower),
        }
    }

    /// It is that time or later, if any time was ever signed.
    pub fn lower(&self, steady: Duration) -> Option<Timestamp> {
        let bound = self.bound.as_ref()?;
        Some(bound.time.after(steady.saturating_sub(bound.at)))
    }

    /// What time it is at least, and how long ago a signed time told that; after a restart, how long ago that was.
    pub fn bound(&self, steady: Duration) -> Option<(Timestamp, Duration)> {
        let bound = self.bound.as_ref()?;
        Some((self.lower(steady)?, steady.saturating_sub(bound.at)))
    }

    /// Takes in a time that came unasked: it may be old.
    pub fn take(&mut self, time: &SignedTime, signers: &[String], steady: Duration) {
        self.raise(time.time, signers, steady);
        self.note_told(time.trust, steady);
    }

    /// Takes in the answer to a question.
    ///
    /// # Errors
    /// [`AnswerError`] when no question of this nonce waits. Nothing is believed then.
    pub fn answer(
        &mut self,
        time: &SignedTime,
        signers: &[String],
        steady: Duration,
    ) -> Result<(), AnswerError> {
        let nonce = time.nonce.ok_or(AnswerError::NoNonce)?;
        let waiting = self.asked.take_if(|asked| asked.nonce == nonce);
        let asked = waiting.ok_or(AnswerError::OtherNonce)?;
        self.raise(time.time, signers, steady);
        self.note_told(time.trust, steady);
        self.fresh = Some(Fresh {
            time: time.time,
            asked_at: asked.at,
            answered_at: steady,
            keys: signers.to_vec(),
        });
        self.unproven = Duration::ZERO;
        self.link_since = self.link_since.map(|since| since.max(asked.at));
        Ok(())
    }

    /// Notes a question: the one before does not wait any more.
    pub fn asked(&mut self, nonce: Nonce, steady: Duration) {
        self.asked = Some(Asked { nonce, at: steady });
        self.asked_at = Some(steady);
    }

    /// Notes whether there is a link.
    pub fn link(&mut self, up: bool, steady: Duration) {
        match (self.link_since, up) {
            (None, true) => {
                self.link_since = Some(steady);
                // A new link is asked at once.
                self.asked_at = None;
            }
            (Some(since), false) => {
                self.unproven = self.unproven.saturating_add(steady.saturating_sub(since));
                self.link_since = None;
                self.asked = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Puts the next question off, since none could be drawn.
    pub const fn not_asked(&mut self, steady: Duration) {
        self.asked_at = Some(steady);
    }

    /// When the next question is to be asked; `None` while there is no link.
    pub fn ask_at(&self) -> Option<Duration> {
        let since = self.link_since?;
        let every = self.config.freeze_after / QUESTIONS;
        let again = self.asked_at.map(|at| at.saturating_add(every / ATTEMPTS));
        let next = match (&self.fresh, self.asked) {
            (Some(fresh), None) => fresh.answered_at.saturating_add(every),
            (Some(_), Some(_)) | (None, _) => since,
        };
        // On a new link it is asked at once, whatever was answered before.
        match again {
            None => Some(since),
            Some(again) => Some(next.max(again)),
        }
    }

    /// Forgets what was said by keys none of which is in `trusted`: a thief may have said that it is late.
    pub fn trust_changed(&mut self, trusted: &[String]) {
        let gone = |keys: &[String]| !keys.iter().any(|key| trusted.contains(key));
        self.bound.take_if(|bound| gone(&bound.keys));
        self.fresh.take_if(|fresh| gone(&fresh.keys));
    }

    /// Why messages seem to be held back, if they do; `known` is the newest trust document that came.
    pub fn suspicion(&self, known: Option<TrustVersion>, steady: Duration) -> Option<Suspicion> {
        let up = |since| steady.saturating_sub(since);
        let during = self
            .unproven
            .saturating_add(self.link_since.map_or(Duration::ZERO, up));
        if during >= self.config.freeze_after {
            return Some(Suspicion::NoAnswer {
                at_least: self.config.freeze_after,
            });
        }
        let (told, since) = self.told?;
        let late = known.is_some_and(|known| known < told) && up(since) >= TRUST_GRACE;
        late.then_some(Suspicion::NoTrust { told })
    }

    /// What is to be written down now, if it is time; [`FreshClock::saved`] once it is.
    pub fn to_save(&self, steady: Duration) -> Option<SavedTime> {
        let due = |at| steady.saturating_sub(at) >= SAVE_EVERY;
        let Bound { keys, .. } = self
            .bound
            .as_ref()
            .filter(|_| self.saved_at.is_none_or(due))?;
        Some(SavedTime {
            time: self.lower(steady)?,
            keys: keys.clone(),
        })
    }

    /// Notes that it was written down.
    pub const fn saved(&mut self, steady: Duration) {
        self.saved_at = Some(steady);
    }

    /// Has it written down again soon: what is on the disk was forgotten.
    pub const fn unsaved(&mut self) {
        self.saved_at = None;
    }

    fn raise(&mut self, time: Timestamp, signers: &[String], steady: Duration) {
        if self.lower(steady).is_none_or(|lower| lower < time) {
            self.bound = Some(Bound {
                time,
                at: steady,
                keys: signers.to_vec(),
            });
        }
    }

    fn note_told(&mut self, trust: Option<TrustVersion>, steady: Duration) {
        if let Some(told) = trust
            && self.told.is_none_or(|(known, _)| known < told)
        {
            self.told = Some((told, steady));
        }
    }
}

#[cfg(test)]
mod tests;
