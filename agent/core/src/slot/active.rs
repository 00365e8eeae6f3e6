//! The active version: what became of its activation, how its inferences go, and its probation.

use lamppost_models::Digest;
use lamppost_models::message::Verdict;
use lamppost_models::trial::{Side, TrialPhase, Watch};

use super::alarm::since;
use super::{ActivateFailure, CRASHES_ALONE_MAX, Running, SlotMachine};
use crate::trial::{self, Judgement, Refusal};

impl SlotMachine {
    pub(super) fn activated(&mut self, digest: Digest) {
        if let Running::Opening { next, .. } = &self.running
            && next.bundle.digest == digest
        {
            self.running = Running::Runs {
                held: next.clone(),
                failures: 0,
                worked: false,
            };
        }
    }

    pub(super) fn activate_failed(
        &mut self,
        digest: Digest,
        failure: ActivateFailure,
        detail: &str,
    ) {
        let Running::Opening { now: before, next } = &self.running else {
            return;
        };
        if next.bundle.digest != digest {
            return;
        }
        self.running = match before.clone() {
            Some(held) => Running::Runs {
                held,
                failures: 0,
                worked: false,
            },
            None => Running::Nothing,
        };
        match failure {
            ActivateFailure::Refused(verdict) => self.quarantine(digest, verdict, detail),
            ActivateFailure::Damaged => {
                if let Some(trial) = self
                    .draft
                    .trial
                    .as_mut()
                    .filter(|trial| trial.is_of(digest))
                {
                    trial.lost = matches!(trial.phase, TrialPhase::Probation | TrialPhase::Passed);
                }
            }
        }
        if !self.unopened.contains(&digest) {
            self.unopened.push(digest);
        }
        if self.draft.active_digest() == Some(digest) {
            self.fall_back(Some(digest));
        }
    }

    pub(super) fn inference_worked(&mut self, digest: Digest) {
        match &mut self.running {
            Running::Runs { held, worked, .. } if held.bundle.digest == digest => *worked = true,
            Running::Nothing | Running::Opening { .. } | Running::Runs { .. } => return,
        }
        if self.on_probation(digest) {
            return;
        }
        // It may have been replaced in the draft already.
        let (active, previous) = (&mut self.draft.active, &mut self.draft.previous);
        let held = [active, previous].into_iter().flatten();
        for held in held.filter(|held| held.bundle.digest == digest) {
            held.proven |= !held.left;
        }
    }

    pub(super) fn inference_failed(&mut self, digest: Digest, detail: &str) {
        let active = self.draft.active.as_ref();
        if active.is_none_or(|held| held.bundle.digest != digest || held.proven) {
            return;
        }
        let Running::Runs {
            held,
            failures,
            worked: false,
        } = &mut self.running
        else {
            return;
        };
        if held.bundle.digest != digest {
            return;
        }
        *failures = failures.saturating_add(1);
        if *failures >= self.setup.failures_max {
            let detail = format!("its first {failures} inferences failed: {detail}");
            self.roll_back(digest, Verdict::Unusable, &detail);
        }
    }

    pub(super) fn stuck(&mut self, digest: Digest, detail: &str) {
        if self.on_probation(digest) {
            self.roll_back(digest, Verdict::Failing, detail);
        }
    }

    pub(super) fn watched(&mut self, digest: Digest, watch: &Watch) {
        let Some(watching) = self
            .watching
            .as_mut()
            .filter(|known| known.digest == digest)
        else {
            return;
        };
        watching.found = trial::watch_sum(&watching.before, watch);
        // Beside the candidate the version before may have met few labels; the shell may know of more.
        let known = watching.found.before;
        if known == Side::default() || watch.before.loss.n > known.loss.n {
            watching.found.before = watch.before;
        }
    }

    /// A run that did not end on purpose is held against a version in probation.
    pub(super) fn count_crash(&mut self) {
        let active = self.draft.active_digest();
        let Some(trial) = &mut self.draft.trial else {
            return;
        };
        let on_probation =
            trial.phase == TrialPhase::Probation && active == Some(trial.bundle.digest);
        if on_probation && !trial.ended {
            let watch = trial.probation.get_or_insert_default();
            watch.crashes = watch.crashes.saturating_add(1);
        }
        trial.ended = false;
    }

    /// The run ends on purpose.
    pub(super) fn stopping(&mut self) {
        self.keep_progress();
        if let Some(trial) = &mut self.draft.trial {
            trial.ended = trial.phase == TrialPhase::Probation;
        }
    }

    pub(super) fn advance_probation(&mut self) {
        let Some(digest) = self.draft.active_digest() else {
            return;
        };
        if !self.on_probation(digest) {
            return;
        }
        let way_back = self.has_way_back(digest);
        let (runs, worked) = match &self.running {
            Running::Runs { held, worked, .. } => (held.bundle.digest == digest, *worked),
            Running::Nothing | Running::Opening { .. } => (false, false),
        };
        let live = self
            .watching
            .as_ref()
            .filter(|known| known.digest == digest);
        let Some(record) = &mut self.draft.trial else {
            return;
        };
        let found = live.map(|known| &known.found).or(record.probation.as_ref());
        let judgement = match &record.terms.probation {
            None => Judgement::Met,
            Some(terms) => {
                let mut terms = terms.clone();
                if !way_back {
                    terms.crashes = terms.crashes.max(CRASHES_ALONE_MAX);
                }
                let found = found.cloned().unwrap_or_default();
                trial::probation(
                    &record.terms,
                    &terms,
                    &found,
                    since(record.enough_since, self.now),
                )
            }
        };
        match judgement {
            Judgement::Refused(Refusal { verdict, detail }) => {
                self.roll_back(digest, verdict, &format!("in probation, {detail}"));
            }
            // What does not run shows nothing, and what has not worked in this run of the agent has not passed.
            Judgement::Met if runs && worked => {
                self.keep_progress();
                self.pass(digest);
            }
            Judgement::Labels if runs && record.enough_since.is_none() => {
                record.enough_since = Some(self.now);
                self.keep_progress();
            }
            Judgement::NotYet => {
                record.enough_since = None;
                self.keep_progress_now_and_then();
            }
            Judgement::Met | Judgement::Labels => self.keep_progress_now_and_then(),
        }
    }

    fn pass(&mut self, digest: Digest) {
        if let Some(trial) = &mut self.draft.trial {
            trial.phase = TrialPhase::Passed;
            trial.enough_since = None;
        }
        if let Some(active) = self
            .draft
            .active
            .as_mut()
            .filter(|held| held.bundle.digest == digest)
        {
            active.proven = true;
        }
    }

    fn roll_back(&mut self, digest: Digest, verdict: Verdict, detail: &str) {
        self.quarantine(digest, verdict, detail);
        self.fall_back(Some(digest));
    }
}
