//! The steps of a candidate until it is promoted or refused.

use std::time::Duration;

use lamppost_models::Digest;
use lamppost_models::message::Verdict;
use lamppost_models::release::BundleRef;
use lamppost_models::trial::{Comparison, TrialPhase, Watch};

use super::alarm::{BUSY_MAX, Wait, since};
use super::wanted::cut;
use super::{
    CheckOutcome, Effect, FetchFailure, Held, KEEP_S, ShadowEnd, SlotMachine, Trial, Watching,
};
use crate::trial::{self, Judgement, Preflight, Refusal};

impl SlotMachine {
    /// Gets a bundle, or waits for the hours in which that may be begun.
    pub(super) fn fetch(&mut self, bundle: BundleRef, tries: u32) {
        if self.closed().is_some() {
            self.trial = Trial::Closed { bundle, tries };
            return;
        }
        self.effects.push_back(Effect::Fetch(bundle.clone()));
        self.trial = Trial::Fetching {
            bundle,
            received: 0,
            tries,
        };
    }

    pub(super) fn received(&mut self, digest: Digest, bytes: u64) {
        if let Trial::Fetching {
            bundle, received, ..
        } = &mut self.trial
            && bundle.digest == digest
        {
            *received = bytes.min(bundle.bytes);
        }
    }

    pub(super) fn fetched(&mut self, digest: Digest, fetched_bytes: u64) {
        if let Trial::Fetching { bundle, tries, .. } = &self.trial
            && bundle.digest == digest
        {
            self.effects.push_back(Effect::Check(bundle.clone()));
            self.trial = Trial::Checking {
                bundle: bundle.clone(),
                tries: *tries,
                fetched_bytes,
            };
        }
    }

    pub(super) fn fetch_failed(&mut self, digest: Digest, failure: FetchFailure, detail: &str) {
        let Trial::Fetching { bundle, tries, .. } = &self.trial else {
            return;
        };
        if bundle.digest != digest {
            return;
        }
        let (bundle, tries) = (bundle.clone(), tries.saturating_add(1));
        let backoff = &self.setup.backoff;
        let (verdict, length) = match failure {
            FetchFailure::Unavailable => (Verdict::Unavailable, backoff.delay(tries)),
            FetchFailure::DigestMismatch => (Verdict::DigestMismatch, backoff.delay(tries)),
            FetchFailure::Busy { after } => {
                let after = backoff.spread(after.min(BUSY_MAX), tries);
                (Verdict::Unavailable, after)
            }
        };
        let asked = matches!(failure, FetchFailure::Busy { .. });
        self.wait(bundle, (verdict, detail), (tries, length, asked));
    }

    /// The trial waits and is then taken up again from the start: what is on disk already is not fetched twice.
    fn wait(
        &mut self,
        bundle: BundleRef,
        (verdict, detail): (Verdict, &str),
        (tries, length, asked): (u32, Duration, bool),
    ) {
        self.trial = Trial::Waiting {
            bundle,
            verdict,
            detail: cut(detail),
            tries,
            wait: Wait::new(self.now, length),
            asked,
        };
    }

    fn wait_undecided(&mut self, bundle: BundleRef, tries: u32, detail: &str) {
        let tries = tries.saturating_add(1);
        let length = self.setup.backoff.delay(tries);
        self.wait(
            bundle,
            (Verdict::Unavailable, detail),
            (tries, length, false),
        );
    }

    pub(super) fn checked(&mut self, digest: Digest, outcome: CheckOutcome) {
        let Trial::Checking {
            bundle,
            tries,
            fetched_bytes,
        } = &self.trial
        else {
            return;
        };
        if bundle.digest != digest {
            return;
        }
        let (bundle, tries, fetched_bytes) = (bundle.clone(), *tries, *fetched_bytes);
        if let Some(trial) = self
            .draft
            .trial
            .as_mut()
            .filter(|trial| trial.is_of(digest))
        {
            trial.fetched_bytes = trial.fetched_bytes.saturating_add(fetched_bytes);
        }
        match outcome {
            CheckOutcome::Passed(found) => self.measured(bundle, tries, &found),
            CheckOutcome::Refused { verdict, detail } => self.refuse(bundle, verdict, &detail),
            CheckOutcome::Undecided { detail } | CheckOutcome::Damaged { detail } => {
                self.wait_undecided(bundle, tries, &detail);
            }
        }
    }

    fn measured(&mut self, bundle: BundleRef, tries: u32, found: &Preflight) {
        let terms = self.draft.trial.as_ref().map(|trial| &trial.terms);
        self.checked = terms.cloned();
        match terms.map(|terms| trial::preflight(terms, found)) {
            Some(Judgement::Refused(Refusal { verdict, detail })) => {
                self.effects.push_back(Effect::Cancel(bundle.digest));
                self.refuse(bundle, verdict, &format!("in its check, {detail}"));
            }
            Some(Judgement::Met | Judgement::NotYet | Judgement::Labels) | None => {
                self.shadow(bundle, tries);
            }
        }
    }

    /// Runs a candidate that was checked beside the active version, or lets it take its place where there is nothing to
    /// compare or it was compared before.
    fn shadow(&mut self, bundle: BundleRef, tries: u32) {
        let (Some(against), Some(record)) = (self.draft.active_digest(), &mut self.draft.trial)
        else {
            self.change(bundle);
            return;
        };
        let Some(terms) = record.terms.shadow.clone().filter(|_| !record.lost) else {
            self.change(bundle);
            return;
        };
        if record.against != Some(against) {
            record.against = Some(against);
            record.shadow = None;
            record.enough_since = None;
        }
        let before = record.shadow.clone().unwrap_or_default();
        let waited = since(record.enough_since, self.now);
        if trial::shadow(&record.terms, &terms, &before, waited) == Judgement::Met {
            self.change(bundle);
            return;
        }
        self.effects.push_back(Effect::Shadow {
            bundle: bundle.clone(),
            terms,
        });
        self.kept_at = self.now;
        self.trial = Trial::Shadowing {
            bundle,
            tries,
            against,
            found: before.clone(),
            before,
        };
    }

    pub(super) fn shadowed(&mut self, digest: Digest, comparison: &Comparison) {
        if let Trial::Shadowing {
            bundle,
            before,
            found,
            ..
        } = &mut self.trial
            && bundle.digest == digest
        {
            *found = trial::comparison_sum(before, comparison);
        }
    }

    pub(super) fn shadow_ended(&mut self, digest: Digest, end: &ShadowEnd) {
        let Trial::Shadowing { bundle, tries, .. } = &self.trial else {
            return;
        };
        if bundle.digest != digest {
            return;
        }
        let (bundle, tries) = (bundle.clone(), *tries);
        self.keep_progress();
        // It may be the end of one before, and another has been begun since.
        self.effects.push_back(Effect::StopShadow(digest));
        self.effects.push_back(Effect::Cancel(digest));
        match end {
            ShadowEnd::Refused { verdict, detail } => self.refuse(bundle, *verdict, detail),
            ShadowEnd::Undecided { detail } => self.wait_undecided(bundle, tries, detail),
        }
    }

    /// Does what has become possible: hours may have opened, a wait may be over, and a shadow may have seen enough.
    pub(super) fn advance_candidate(&mut self) {
        match &self.trial {
            Trial::Closed { bundle, tries } if self.closed().is_none() => {
                self.fetch(bundle.clone(), *tries);
            }
            Trial::Waiting {
                bundle,
                wait,
                tries,
                ..
            } if wait.left(self.now).is_none() => self.fetch(bundle.clone(), *tries),
            // The terms and the active version may have changed while it waited.
            Trial::Ready { bundle } if self.closed().is_none() => {
                let bundle = bundle.clone();
                self.shadow(bundle, 0);
            }
            Trial::Shadowing { .. } => self.judge_shadow(),
            Trial::Closed { .. }
            | Trial::Waiting { .. }
            | Trial::Ready { .. }
            | Trial::None
            | Trial::Fetching { .. }
            | Trial::Checking { .. }
            | Trial::Passed { .. }
            | Trial::Refused { .. } => {}
        }
    }

    fn judge_shadow(&mut self) {
        let Trial::Shadowing {
            bundle,
            tries,
            against,
            found,
            ..
        } = &self.trial
        else {
            return;
        };
        let (bundle, tries) = (bundle.clone(), *tries);
        let (digest, against) = (bundle.digest, *against);
        let Some(record) = self
            .draft
            .trial
            .as_mut()
            .filter(|trial| trial.is_of(digest))
        else {
            return;
        };
        if self.draft.active.as_ref().map(|held| held.bundle.digest) != Some(against) {
            // It was compared with a version that is gone.
            self.effects.push_back(Effect::StopShadow(digest));
            self.shadow(bundle, tries);
            return;
        }
        let judgement = match &record.terms.shadow {
            Some(terms) => {
                let waited = since(record.enough_since, self.now);
                trial::shadow(&record.terms, terms, found, waited)
            }
            None => Judgement::Met,
        };
        match judgement {
            Judgement::NotYet => {
                record.enough_since = None;
                self.keep_progress_now_and_then();
            }
            Judgement::Labels => {
                if record.enough_since.is_none() {
                    record.enough_since = Some(self.now);
                    self.keep_progress();
                }
                self.keep_progress_now_and_then();
            }
            Judgement::Met => {
                self.keep_progress();
                self.effects.push_back(Effect::StopShadow(digest));
                self.change(bundle);
            }
            Judgement::Refused(Refusal { verdict, detail }) => {
                self.keep_progress();
                self.effects.push_back(Effect::StopShadow(digest));
                self.effects.push_back(Effect::Cancel(digest));
                self.refuse(bundle, verdict, &format!("in shadow, {detail}"));
            }
        }
    }

    fn refuse(&mut self, bundle: BundleRef, verdict: Verdict, detail: &str) {
        self.quarantine(bundle.digest, verdict, detail);
        self.trial = Trial::Refused {
            bundle,
            verdict,
            detail: cut(detail),
        };
    }

    /// Lets a candidate that met its terms take the place of the active version, or waits for the hours in which it may.
    fn change(&mut self, bundle: BundleRef) {
        if self.closed().is_some() {
            self.trial = Trial::Ready { bundle };
            return;
        }
        self.trial = Trial::Passed {
            bundle: bundle.clone(),
        };
        let mut proven = false;
        if let Some(trial) = self
            .draft
            .trial
            .as_mut()
            .filter(|trial| trial.is_of(bundle.digest))
        {
            if trial.phase == TrialPhase::Candidate {
                let shadow = trial.shadow.as_ref().filter(|shadow| shadow.windows > 0);
                trial.probation = Some(Watch {
                    before: shadow.map(|shadow| shadow.active).unwrap_or_default(),
                    ..Watch::default()
                });
                trial.phase = TrialPhase::Probation;
                trial.enough_since = None;
            }
            proven = trial.phase == TrialPhase::Passed;
            trial.ended = false;
            trial.lost = false;
        }
        self.promote(Held {
            bundle,
            since: self.now,
            proven,
            left: false,
        });
    }

    /// Makes a bundle active. What is kept to go back to is the last one that is known to be good, not one that did not get so
    /// far as to show it.
    pub(super) fn promote(&mut self, held: Held) {
        let digest = held.bundle.digest;
        let keep = self
            .draft
            .previous
            .as_ref()
            .is_some_and(|previous| previous.bundle.digest != digest && previous.proven);
        if let Some(replaced) = self.draft.active.replace(held)
            && (replaced.proven || !keep)
        {
            self.draft.previous = Some(replaced);
        }
    }

    /// Takes what is known of a trial in this run of the agent into the draft.
    pub(super) fn keep_progress(&mut self) {
        self.kept_at = self.now;
        let Some(record) = &mut self.draft.trial else {
            return;
        };
        if let Trial::Shadowing { bundle, found, .. } = &self.trial
            && record.is_of(bundle.digest)
        {
            record.shadow = Some(found.clone());
        }
        if let Some(Watching { digest, found, .. }) = &self.watching
            && record.is_of(*digest)
            && record.phase == TrialPhase::Probation
        {
            record.probation = Some(found.clone());
        }
    }

    pub(super) fn keep_progress_now_and_then(&mut self) {
        let passed = self.now.ms_since(self.kept_at);
        // A clock that was set back must not put it off.
        if passed < 0 || passed.unsigned_abs() >= KEEP_S * 1000 {
            self.keep_progress();
        }
    }
}
