//! What inputs do: they change the draft of the record or the progress of a trial, and then let the slot go on.

use lamppost_models::release::Release;

use super::{
    ActivateFailure, CheckOutcome, DETAIL_CHARS_MAX, Digest, Effect, FetchFailure, GroupId, Held,
    Input, ModelName, Quarantined, ReleaseRefusal, Remembered, Running, Saving, SlotMachine,
    SlotRecord, SlotSetup, Taken, Timestamp, Trial, VecDeque, Verdict,
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
            unopened: Vec::new(),
            effects: VecDeque::new(),
            kept: None,
        };
        let active = machine.draft.active_digest();
        match machine.setup.factory.clone() {
            // Without a release the factory bundle is what is wanted, and it may be another one than last time.
            Some(factory) if machine.decisive().is_none() && Some(factory.digest) != active => {
                if machine.draft.quarantined(&factory.digest).is_none() {
                    machine.promote(Held {
                        bundle: factory,
                        since: now,
                        proven: false,
                    });
                }
            }
            Some(_) | None => {}
        }
        if machine.draft.active.is_none() {
            machine.fall_back(None, now);
        }
        machine.go_on();
        machine
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
                // Signed anew before it expires, it is still the same release.
                if known.stable != release.stable {
                    return Err(ReleaseRefusal::Conflicting { sequence });
                }
                // By other keys, maybe: that of before may be revoked next.
                known.keys = signers.to_vec();
                // It comes again when the link is back: a reason not to wait any longer for what it wants.
                self.retry();
                self.go_on();
                return Ok(Taken::Known);
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
        match input {
            Input::Saved => self.saved(),
            Input::SaveFailed => self.save_failed(),
            Input::Received { digest, received } => self.received(digest, received),
            Input::Fetched { digest, .. } => self.fetched(digest),
            Input::FetchFailed {
                digest,
                failure,
                detail,
            } => {
                let verdict = match failure {
                    FetchFailure::Unavailable | FetchFailure::Busy { .. } => Verdict::Unavailable,
                    FetchFailure::DigestMismatch => Verdict::DigestMismatch,
                };
                self.wait(digest, verdict, &detail);
            }
            Input::Checked { digest, outcome } => self.checked(digest, outcome, now),
            Input::Activated { digest } => self.activated(digest),
            Input::ActivateFailed {
                digest,
                failure,
                detail,
            } => self.activate_failed(digest, failure, &detail, now),
            Input::InferenceWorked { digest } => self.inference_worked(digest),
            Input::InferenceFailed { digest, detail } => {
                self.inference_failed(digest, &detail, now);
            }
            Input::Retry => self.retry(),
            Input::Shadowed { .. }
            | Input::ShadowEnded { .. }
            | Input::Stuck { .. }
            | Input::Watched { .. }
            | Input::Stopping => {}
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
            Trial::Fetching { bundle, .. }
            | Trial::Checking { bundle, .. }
            | Trial::Waiting { bundle, .. }
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

    /// What runs.
    pub(super) const fn runs(&self) -> Option<&Held> {
        match &self.running {
            Running::Nothing => None,
            Running::Opening { now, .. } => now.as_ref(),
            Running::Runs { held, .. } => Some(held),
        }
    }

    /// The release that decides: that of the first of the node's groups that has one.
    pub(super) fn decisive(&self) -> Option<&Remembered> {
        self.setup
            .groups
            .iter()
            .find_map(|group| self.saved.releases.get(group))
    }

    fn received(&mut self, digest: Digest, bytes: u64) {
        if let Trial::Fetching {
            bundle, received, ..
        } = &mut self.trial
            && bundle.digest == digest
        {
            *received = bytes.min(bundle.bytes);
        }
    }

    fn fetched(&mut self, digest: Digest) {
        if let Trial::Fetching { bundle, tries, .. } = &self.trial
            && bundle.digest == digest
        {
            self.effects.push_back(Effect::Check(bundle.clone()));
            self.trial = Trial::Checking {
                bundle: bundle.clone(),
                tries: *tries,
            };
        }
    }

    /// The trial waits and is then taken up again from the start: what is on disk already is not fetched twice.
    fn wait(&mut self, digest: Digest, verdict: Verdict, detail: &str) {
        if let Trial::Fetching { bundle, tries, .. } | Trial::Checking { bundle, tries } =
            &self.trial
            && bundle.digest == digest
        {
            let tries = tries.saturating_add(1);
            self.effects
                .push_back(Effect::RetryAfter(self.setup.backoff.delay(tries)));
            self.trial = Trial::Waiting {
                bundle: bundle.clone(),
                verdict,
                detail: cut(detail),
                tries,
            };
        }
    }

    fn checked(&mut self, digest: Digest, outcome: CheckOutcome, now: Timestamp) {
        let bundle = match &self.trial {
            Trial::Checking { bundle, .. } if bundle.digest == digest => bundle.clone(),
            Trial::None
            | Trial::Fetching { .. }
            | Trial::Checking { .. }
            | Trial::Waiting { .. }
            | Trial::Passed { .. }
            | Trial::Refused { .. } => return,
        };
        match outcome {
            CheckOutcome::Passed(_) => {
                self.trial = Trial::Passed {
                    bundle: bundle.clone(),
                };
                self.promote(Held {
                    bundle,
                    since: now,
                    proven: false,
                });
            }
            CheckOutcome::Refused { verdict, detail } => {
                self.quarantine(digest, verdict, &detail, now);
                self.trial = Trial::Refused {
                    bundle,
                    verdict,
                    detail: cut(&detail),
                };
            }
            CheckOutcome::Undecided { detail } | CheckOutcome::Damaged { detail } => {
                self.wait(digest, Verdict::Unavailable, &detail);
            }
        }
    }

    /// Makes a bundle active that passed all checks. What is kept to roll back to is the last one that is known to be
    /// good, not one that did not get so far as to show it.
    fn promote(&mut self, held: Held) {
        let digest = held.bundle.digest;
        let keep = self
            .draft
            .previous
            .as_ref()
            .is_some_and(|previous| previous.bundle.digest != digest);
        if let Some(replaced) = self.draft.active.replace(held)
            && (replaced.proven || !keep)
        {
            self.draft.previous = Some(replaced);
        }
    }

    fn activated(&mut self, digest: Digest) {
        if let Running::Opening { next, .. } = &self.running
            && next.bundle.digest == digest
        {
            self.running = Running::Runs {
                held: next.clone(),
                failures: 0,
            };
        }
    }

    fn activate_failed(
        &mut self,
        digest: Digest,
        failure: ActivateFailure,
        detail: &str,
        now: Timestamp,
    ) {
        let Running::Opening { now: before, next } = &self.running else {
            return;
        };
        if next.bundle.digest != digest {
            return;
        }
        self.running = match before.clone() {
            Some(held) => Running::Runs { held, failures: 0 },
            None => Running::Nothing,
        };
        if let ActivateFailure::Refused(verdict) = failure {
            self.quarantine(digest, verdict, detail, now);
        }
        if !self.unopened.contains(&digest) {
            self.unopened.push(digest);
        }
        if self.draft.active_digest() == Some(digest) {
            self.fall_back(Some(digest), now);
        }
    }

    fn inference_worked(&mut self, digest: Digest) {
        if let Running::Runs { held, .. } = &mut self.running
            && held.bundle.digest == digest
        {
            held.proven = true;
            // It may have been replaced in the draft already.
            let SlotRecord {
                active, previous, ..
            } = &mut self.draft;
            for held in [active, previous]
                .into_iter()
                .flatten()
                .filter(|held| held.bundle.digest == digest)
            {
                held.proven = true;
            }
        }
    }

    fn inference_failed(&mut self, digest: Digest, detail: &str, now: Timestamp) {
        let Running::Runs { held, failures } = &mut self.running else {
            return;
        };
        if held.bundle.digest != digest || held.proven {
            return;
        }
        *failures = failures.saturating_add(1);
        if *failures < self.setup.failures_max || self.draft.active_digest() != Some(digest) {
            return;
        }
        let detail = format!("its first {failures} inferences failed: {detail}");
        self.quarantine(digest, Verdict::Unusable, &detail, now);
        self.fall_back(Some(digest), now);
    }

    fn retry(&mut self) {
        if let Saving::Waiting { tries } = self.saving {
            self.save(tries.saturating_add(1));
        }
        if let Trial::Waiting { bundle, tries, .. } = &self.trial {
            self.fetch(bundle.clone(), *tries);
        }
    }

    fn quarantine(&mut self, digest: Digest, verdict: Verdict, detail: &str, now: Timestamp) {
        let entry = Quarantined {
            digest,
            verdict,
            detail: cut(detail),
            at: now,
            agent: self.setup.agent.clone(),
        };
        self.draft.put_in_quarantine(entry);
    }

    /// Fills the active slot, whose bundle is gone, with the one before or else with the factory bundle.
    fn fall_back(&mut self, gone: Option<Digest>, now: Timestamp) {
        let previous = self
            .draft
            .previous
            .take()
            .map(|held| Held { since: now, ..held });
        let factory = self.setup.factory.clone().map(|bundle| Held {
            bundle,
            since: now,
            proven: false,
        });
        self.draft.active = previous.into_iter().chain(factory).find(|held| {
            let digest = held.bundle.digest;
            Some(digest) != gone && self.draft.quarantined(&digest).is_none()
        });
    }
}

fn cut(detail: &str) -> String {
    detail.chars().take(DETAIL_CHARS_MAX).collect()
}
