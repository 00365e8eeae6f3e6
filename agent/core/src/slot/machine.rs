//! What comes in: the record at the start, releases, and what became of the slot's own wishes.

use std::collections::VecDeque;

use lamppost_models::id::{GroupId, ModelName};
use lamppost_models::message::Verdict;
use lamppost_models::release::Release;
use lamppost_models::{Digest, Timestamp};

use super::{
    Effect, Held, Input, ReleaseRefusal, Remembered, Running, Saving, SlotMachine, SlotRecord,
    SlotSetup, Taken, Trial,
};

impl SlotMachine {
    /// Goes on from the record on disk, or starts with none.
    pub fn start(setup: SlotSetup, saved: Option<SlotRecord>, now: Timestamp) -> Self {
        let saved = saved.unwrap_or_else(|| SlotRecord::new(setup.model.clone()));
        let mut draft = saved.clone();
        // The streams may have changed since, and another version of the agent may be able to run it.
        draft
            .quarantine
            .retain(|entry| entry.verdict != Verdict::Unsuitable && entry.agent == setup.agent);
        let mut machine = Self {
            setup,
            saved,
            draft,
            saving: Saving::Idle,
            running: Running::Nothing,
            trial: Trial::None,
            checked: None,
            watching: None,
            unopened: Vec::new(),
            effects: VecDeque::new(),
            kept: None,
            alarm: None,
            kept_at: now,
            now,
        };
        machine.count_crash();
        machine.take_up_factory();
        if machine.draft.active.is_none() {
            machine.fall_back(None);
        }
        machine.go_on();
        machine
    }

    /// Without a release the factory bundle is what is wanted, and it may be another one than last time.
    fn take_up_factory(&mut self) {
        let Some(factory) = self.factory() else {
            return;
        };
        let digest = factory.bundle.digest;
        let released = Self::decisive(&self.setup, &self.draft).is_some();
        let active = self.draft.active_digest() == Some(digest);
        if !released && !active && self.draft.quarantined(&digest).is_none() {
            self.promote(factory);
        }
    }

    /// Takes a release in whose signatures were verified; `signers` are the ids of the trusted keys that signed it.
    ///
    /// # Errors
    /// [`ReleaseRefusal`] when it is not for this slot, older than one that was taken in, or expired.
    pub fn release(
        &mut self,
        topic_group: &GroupId,
        topic_model: &ModelName,
        release: &Release,
        signers: &[String],
        now: Timestamp,
    ) -> Result<Taken, ReleaseRefusal> {
        self.now = now;
        let Release {
            group,
            model,
            sequence,
            expires_at,
            ..
        } = release;
        let sequence = *sequence;
        if group != topic_group || model != topic_model || *model != self.setup.model {
            return Err(ReleaseRefusal::WrongTopic {
                group: group.clone(),
                model: model.clone(),
                topic_group: topic_group.clone(),
                topic_model: topic_model.clone(),
            });
        }
        if !self.setup.groups.contains(group) {
            return Err(ReleaseRefusal::OtherGroup {
                group: group.clone(),
            });
        }
        if let Some(known) = self.draft.releases.get_mut(group) {
            if sequence < known.sequence {
                return Err(ReleaseRefusal::Stale {
                    sequence,
                    known: known.sequence,
                });
            }
            if sequence == known.sequence {
                let again = Remembered::of(release, signers);
                // Signed anew before it expires, it is still the same release; by other keys, maybe: that of before may be
                // revoked next.
                if known.wants_as(&again) {
                    known.keys = again.keys;
                    // It comes again when the link is back: a reason not to wait any longer for what it wants.
                    self.retry(true);
                    self.go_on();
                    return Ok(Taken::Known);
                }
                // An agent before trials kept but a part of it.
                if known.whole || known.stable != again.stable {
                    return Err(ReleaseRefusal::Conflicting { sequence });
                }
            }
        }
        if now >= *expires_at {
            return Err(ReleaseRefusal::Expired {
                sequence,
                expires_at: *expires_at,
                now,
            });
        }
        self.draft.remember(release, signers, &self.setup.groups);
        if self.draft.active.is_none() {
            // It may be that what was revoked is not any more, even before it was written down that it is.
            self.fall_back(None);
            let saved = self.saved.active.clone().filter(|held| {
                let digest = held.bundle.digest;
                self.bar(digest).is_none() && !self.unopened.contains(&digest)
            });
            self.draft.active = self.draft.active.take().or(saved);
        }
        self.go_on();
        Ok(Taken::New)
    }

    /// Forgets the releases that would not be taken in any more, since of the keys that signed them fewer than `threshold` are
    /// in `trusted`. Whoever has stolen a key may have used up the numbers; without this, no release could follow its. What
    /// runs goes on.
    pub fn trust_changed(&mut self, trusted: &[String], threshold: usize) {
        self.draft.releases.retain(|_, known| {
            let still = known.keys.iter().filter(|key| trusted.contains(key));
            known.keys.is_empty() || still.count() >= threshold
        });
        self.go_on();
    }

    /// Takes in what became of something. What is not expected any more is ignored.
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        self.now = now;
        match input {
            Input::Saved => self.saved(),
            Input::SaveFailed => self.save_failed(),
            Input::Received { digest, received } => self.received(digest, received),
            Input::Fetched {
                digest,
                fetched_bytes,
            } => self.fetched(digest, fetched_bytes),
            Input::FetchFailed {
                digest,
                failure,
                detail,
            } => self.fetch_failed(digest, failure, &detail),
            Input::Checked { digest, outcome } => self.checked(digest, outcome),
            Input::Shadowed { digest, comparison } => self.shadowed(digest, &comparison),
            Input::ShadowEnded { digest, end } => self.shadow_ended(digest, &end),
            Input::Activated { digest } => self.activated(digest),
            Input::ActivateFailed {
                digest,
                failure,
                detail,
            } => self.activate_failed(digest, failure, &detail),
            Input::InferenceWorked { digest } => self.inference_worked(digest),
            Input::InferenceFailed { digest, detail } => self.inference_failed(digest, &detail),
            Input::Stuck { digest, detail } => self.stuck(digest, &detail),
            Input::Watched { digest, watch } => self.watched(digest, &watch),
            Input::Stopping => self.stopping(),
            Input::Retry => {
                self.alarm = None;
                self.retry(false);
            }
        }
        self.go_on();
    }

    /// The next thing for the shell to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The bundles whose files, whole or in part, must stay on disk.
    pub fn keeps(&self) -> Vec<Digest> {
        let records = [&self.saved, &self.draft];
        let held = records
            .iter()
            .flat_map(|record| [&record.active, &record.previous])
            .flatten();
        let running = match &self.running {
            Running::Nothing => [None, None],
            Running::Opening { now, next } => [now.as_ref(), Some(next)],
            Running::Runs { held, .. } => [Some(held), None],
        };
        let trial = match &self.trial {
            Trial::Closed { bundle, .. }
            | Trial::Fetching { bundle, .. }
            | Trial::Checking { bundle, .. }
            | Trial::Waiting { bundle, .. }
            | Trial::Shadowing { bundle, .. }
            | Trial::Ready { bundle }
            | Trial::Passed { bundle } => Some(bundle.digest),
            Trial::None | Trial::Refused { .. } => None,
        };
        let mut keeps: Vec<Digest> = held
            .chain(running.into_iter().flatten())
            .map(|held| held.bundle.digest)
            .chain(trial)
            .collect();
        keeps.sort_unstable();
        keeps.dedup();
        keeps
    }

    /// What is on disk.
    pub const fn record(&self) -> &SlotRecord {
        &self.saved
    }

    /// What is on disk as soon as it can be written.
    pub const fn draft(&self) -> &SlotRecord {
        &self.draft
    }

    /// What runs.
    pub(super) const fn runs(&self) -> Option<&Held> {
        match &self.running {
            Running::Nothing => None,
            Running::Opening { now, .. } => now.as_ref(),
            Running::Runs { held, .. } => Some(held),
        }
    }
}
