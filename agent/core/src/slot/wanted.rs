//! What releases want, and what they change in the record by themselves: the way back, and which trial is on.

use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::id::RolloutId;
use lamppost_models::message::Verdict;
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::rollout::{Hours, TrialTerms, Who};
use lamppost_models::trial::TrialPhase;
use lamppost_models::{Digest, Timestamp};

use super::{
    DETAIL_CHARS_MAX, Held, Quarantined, Remembered, SlotMachine, SlotRecord, SlotSetup,
    TrialRecord,
};

/// What the release that decides wants of this node.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) bundle: BundleRef,
    pub(super) rollout: Option<RolloutId>,
    pub(super) sequence: Sequence,
    pub(super) terms: TrialTerms,
    pub(super) hours: Option<Hours>,
}

impl TrialRecord {
    fn new(wanted: Wanted, bar: Option<(Verdict, String)>, now: Timestamp) -> Self {
        let phase = match bar {
            None => TrialPhase::Candidate,
            Some((verdict, detail)) => TrialPhase::Refused { verdict, detail },
        };
        Self {
            bundle: wanted.bundle,
            release: wanted.sequence,
            rollout: wanted.rollout,
            since: now,
            terms: wanted.terms,
            phase,
            shadow: None,
            against: None,
            probation: None,
            enough_since: None,
            fetched_bytes: 0,
            ended: false,
            lost: false,
        }
    }

    pub(super) fn is_of(&self, digest: Digest) -> bool {
        self.bundle.digest == digest
    }
}

impl SlotMachine {
    /// The release that decides: that of the first of the node's groups that has one.
    pub(super) fn decisive<'a>(
        setup: &SlotSetup,
        record: &'a SlotRecord,
    ) -> Option<&'a Remembered> {
        setup
            .groups
            .iter()
            .find_map(|group| record.releases.get(group))
    }

    /// What a record's releases want of this node.
    pub(super) fn wanted(setup: &SlotSetup, record: &SlotRecord) -> Option<Wanted> {
        let release = Self::decisive(setup, record)?;
        let (bundle, rollout) = release.wanted(Who {
            path: &setup.path,
            groups: &setup.groups,
            tags: &setup.tags,
        });
        Some(Wanted {
            bundle: bundle.clone(),
            rollout,
            sequence: release.sequence,
            terms: release.trial.clone().unwrap_or_default(),
            hours: release.hours,
        })
    }

    /// Why a bundle must not run on this node, by what is known or written down.
    pub(super) fn bar(&self, digest: Digest) -> Option<(Verdict, String)> {
        self.bar_in(&self.draft, digest)
            .or_else(|| self.bar_in(&self.saved, digest))
    }

    /// As [`Self::bar`], and why it is not even fetched.
    pub(super) fn bar_bundle(&self, bundle: &BundleRef) -> Option<(Verdict, String)> {
        self.bar(bundle.digest).or_else(|| too_large(bundle))
    }

    /// Revocations of any of the node's groups count, whichever decides what runs.
    fn bar_in(&self, record: &SlotRecord, digest: Digest) -> Option<(Verdict, String)> {
        let releases = self
            .setup
            .groups
            .iter()
            .filter_map(|group| Some((group, record.releases.get(group)?)));
        let mut revoking = releases.filter(|(_, release)| release.revoked.contains(&digest));
        if let Some((group, Remembered { sequence, .. })) = revoking.next() {
            let detail = format!("release {sequence} of group {group} revokes it");
            return Some((Verdict::Revoked, detail));
        }
        let entry = record.quarantined(&digest)?;
        Some((entry.verdict, entry.detail.clone()))
    }

    /// Brings the draft to what its releases want, as far as that needs no trial. Calling it again changes nothing.
    pub(super) fn obey(&mut self) {
        self.leave_revoked();
        match Self::wanted(&self.setup, &self.draft) {
            Some(wanted) => {
                if self.draft.active_digest() != Some(wanted.bundle.digest) {
                    self.go_back(wanted.bundle.digest);
                }
                self.keep_trial(wanted);
            }
            // The release was forgotten with its keys: what runs goes on, and so does its probation.
            None => {
                if let Some(trial) = &self.draft.trial
                    && matches!(trial.phase, TrialPhase::Candidate)
                {
                    self.withdraw(trial.bundle.digest);
                }
            }
        }
    }

    fn leave_revoked(&mut self) {
        let revoked = |held: &Held| {
            let bar = self.bar(held.bundle.digest);
            bar.filter(|(verdict, _)| *verdict == Verdict::Revoked)
        };
        let previous = self.draft.previous.as_ref().and_then(revoked);
        let active = self
            .draft
            .active
            .as_ref()
            .and_then(|held| Some((held.bundle.digest, revoked(held)?)));
        if previous.is_some() {
            self.draft.previous = None;
        }
        if let Some((digest, (verdict, detail))) = active {
            self.end_trial(digest, verdict, &detail);
            self.fall_back(Some(digest));
        }
    }

    /// The way back: at once, without a trial, whatever the hour, and before it is written down.
    ///
    /// A bundle in probation that nobody wants any more is left for the one before, whatever is wanted instead: a trial of
    /// another one compares with a version that is known to be good.
    fn go_back(&mut self, wanted: Digest) {
        let Some(digest) = self.draft.active_digest() else {
            return;
        };
        let opens = |held: &Held| {
            let digest = held.bundle.digest;
            self.bar(digest).is_none() && !self.unopened.contains(&digest)
        };
        let meant = |held: &Held| held.bundle.digest == wanted && held.proven;
        let on_probation = self.on_probation(digest);
        let Some(back) = self
            .draft
            .previous
            .clone()
            .filter(|held| opens(held) && (on_probation || meant(held)))
        else {
            return;
        };
        // What is left is the only other one on the disk, so that it is kept; without a new trial it comes back only if this
        // one does not open, or if it had passed its own.
        self.withdraw(digest);
        let barred = self.bar(digest).is_some();
        self.draft.previous = self.draft.active.take().filter(|_| !barred);
        self.draft.active = Some(Held {
            since: self.now,
            ..back
        });
    }

    /// Whether a bundle is active and the way back is open.
    pub(super) fn on_probation(&self, digest: Digest) -> bool {
        let trial = self.draft.trial.as_ref();
        self.draft.active_digest() == Some(digest)
            && trial
                .is_some_and(|trial| trial.is_of(digest) && trial.phase == TrialPhase::Probation)
    }

    /// Begins, goes on with or ends the trial in the draft.
    fn keep_trial(&mut self, wanted: Wanted) {
        let digest = wanted.bundle.digest;
        let bar = self
            .bar_in(&self.draft, digest)
            .or_else(|| too_large(&wanted.bundle));
        let active = self.draft.active_digest() == Some(digest);
        if active && bar.is_none() && self.resume(&wanted) {
            return;
        }
        if let Some(trial) = &mut self.draft.trial {
            let goes_on = match trial.phase {
                TrialPhase::Candidate => !active && bar.is_none(),
                TrialPhase::Probation | TrialPhase::Passed => {
                    bar.is_none() && (active || trial.lost)
                }
                TrialPhase::Refused { .. } | TrialPhase::RolledBack { .. } => bar.is_some(),
                TrialPhase::Withdrawn => false,
            };
            let other = trial.bundle.digest;
            if other == digest && (goes_on || bar.is_some()) {
                match trial.phase {
                    TrialPhase::Candidate => trial.terms = wanted.terms,
                    // The others are those that it was promoted under.
                    TrialPhase::Probation => trial.terms.probation = wanted.terms.probation,
                    TrialPhase::Passed
                    | TrialPhase::Refused { .. }
                    | TrialPhase::RolledBack { .. }
                    | TrialPhase::Withdrawn => {}
                }
                if wanted.rollout.is_some() && trial.rollout != wanted.rollout {
                    trial.rollout = wanted.rollout;
                    trial.release = wanted.sequence;
                }
                if let Some((verdict, detail)) = &bar {
                    self.end_trial(digest, *verdict, detail);
                }
                return;
            }
            self.withdraw(other);
        }
        if !active {
            self.draft.trial = Some(TrialRecord::new(wanted, bar, self.now));
        }
    }

    /// Goes on with the probation of a wanted bundle that became active without a trial, because nothing else was left or since
    /// it is revoked no more. Whether there was anything to go on with.
    fn resume(&mut self, wanted: &Wanted) -> bool {
        let digest = wanted.bundle.digest;
        let Some(active) = self.draft.active.as_mut() else {
            return false;
        };
        let own = self.draft.trial.as_ref();
        let own = own.filter(|trial| trial.is_of(digest));
        let is_on = own.is_some_and(|trial| match trial.phase {
            TrialPhase::Probation | TrialPhase::Passed => true,
            TrialPhase::Candidate
            | TrialPhase::Withdrawn
            | TrialPhase::Refused { .. }
            | TrialPhase::RolledBack { .. } => false,
        });
        if is_on || (own.is_none() && !active.left) {
            return false;
        }
        active.left = false;
        if active.proven {
            // It needs no trial, whatever became of this one.
            if let Some(trial) = &mut self.draft.trial {
                trial.phase = TrialPhase::Withdrawn;
                trial.lost = false;
            }
            return true;
        }
        self.keep_progress();
        let own = self.draft.trial.take().filter(|trial| trial.is_of(digest));
        // Nothing was checked by the other terms before it became active.
        let terms = TrialTerms {
            probation: wanted.terms.probation.clone(),
            ..TrialTerms::default()
        };
        let wanted = Wanted {
            terms,
            ..wanted.clone()
        };
        self.draft.trial = Some(TrialRecord {
            phase: TrialPhase::Probation,
            probation: Some(own.and_then(|trial| trial.probation).unwrap_or_default()),
            ..TrialRecord::new(wanted, None, self.now)
        });
        true
    }

    /// The trial of a bundle ends because it is not wanted any more.
    fn withdraw(&mut self, digest: Digest) {
        self.keep_progress();
        if let Some(trial) = self
            .draft
            .trial
            .as_mut()
            .filter(|trial| trial.is_of(digest))
        {
            trial.lost = false;
            let live = trial.phase == TrialPhase::Probation;
            if live || trial.phase == TrialPhase::Candidate {
                trial.phase = TrialPhase::Withdrawn;
            }
            if let Some(active) = self.draft.active.as_mut().filter(|_| live)
                && active.bundle.digest == digest
            {
                active.left = true;
            }
        }
    }

    /// The trial of a bundle ends badly.
    fn end_trial(&mut self, digest: Digest, verdict: Verdict, detail: &str) {
        self.keep_progress();
        let Some(trial) = self
            .draft
            .trial
            .as_mut()
            .filter(|trial| trial.is_of(digest))
        else {
            return;
        };
        let detail = cut(detail);
        trial.lost = false;
        match trial.phase {
            TrialPhase::Probation | TrialPhase::Passed => {
                trial.phase = TrialPhase::RolledBack { verdict, detail };
            }
            TrialPhase::Candidate | TrialPhase::Withdrawn => {
                trial.phase = TrialPhase::Refused { verdict, detail };
            }
            TrialPhase::Refused { .. } | TrialPhase::RolledBack { .. } => {}
        }
    }

    /// Puts a bundle in quarantine; a trial of it is over.
    pub(super) fn quarantine(&mut self, digest: Digest, verdict: Verdict, detail: &str) {
        self.draft.put_in_quarantine(Quarantined {
            digest,
            verdict,
            detail: cut(detail),
            at: self.now,
            agent: self.setup.agent.clone(),
        });
        self.end_trial(digest, verdict, detail);
    }

    /// Fills the active slot, whose bundle is gone, with the one before or else with the factory bundle.
    pub(super) fn fall_back(&mut self, gone: Option<Digest>) {
        let previous = self.draft.previous.take();
        self.draft.active = previous
            .into_iter()
            .chain(self.factory())
            .find(|held| {
                let digest = held.bundle.digest;
                Some(digest) != gone && self.bar(digest).is_none()
            })
            .map(|held| Held {
                since: self.now,
                ..held
            });
    }

    /// Whether there is another bundle to go back to.
    pub(super) fn has_way_back(&self, from: Digest) -> bool {
        let previous = self.draft.previous.clone();
        let mut others = previous.into_iter().chain(self.factory());
        others.any(|held| held.bundle.digest != from && self.bar(held.bundle.digest).is_none())
    }

    pub(super) fn factory(&self) -> Option<Held> {
        Some(Held {
            bundle: self.setup.factory.clone()?,
            since: self.now,
            proven: false,
            left: false,
        })
    }
}

fn too_large(bundle: &BundleRef) -> Option<(Verdict, String)> {
    let detail = format!(
        "the release names {} bytes, the limit is {BUNDLE_BYTES_MAX}",
        bundle.bytes
    );
    (bundle.bytes > BUNDLE_BYTES_MAX).then_some((Verdict::Unusable, detail))
}

pub(super) fn cut(detail: &str) -> String {
    detail.chars().take(DETAIL_CHARS_MAX).collect()
}
