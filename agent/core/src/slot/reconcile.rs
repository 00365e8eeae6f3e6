//! The one place where it is said what follows from the record and its draft.

use lamppost_models::rollout::TrialTerms;

use super::alarm::Wait;
use super::{Digest, Effect, Held, Running, Saving, SlotMachine, Trial, Watching};

/// What should run.
enum Next {
    /// This one.
    Run(Held),
    /// None.
    Nothing,
    /// What runs, until more is on disk.
    Stay,
}

impl SlotMachine {
    pub(super) fn go_on(&mut self) {
        self.obey();
        self.advance_candidate();
        self.advance_probation();
        if self.draft != self.saved
            && let Saving::Idle = self.saving
        {
            self.save(1);
        }
        self.reconcile();
        self.set_alarm();
    }

    pub(super) fn save(&mut self, tries: u32) {
        self.draft.generation = self.saved.generation.saturating_add(1);
        self.effects.push_back(Effect::Save(self.draft.clone()));
        self.saving = Saving::Writing {
            record: Box::new(self.draft.clone()),
            tries,
        };
    }

    pub(super) fn saved(&mut self) {
        match std::mem::replace(&mut self.saving, Saving::Idle) {
            Saving::Writing { record, .. } => {
                self.draft.generation = record.generation;
                if record.active_digest() != self.saved.active_digest() {
                    self.unopened.clear();
                }
                self.saved = *record;
            }
            // Nobody asked for it.
            other @ (Saving::Idle | Saving::Waiting { .. }) => self.saving = other,
        }
    }

    pub(super) fn save_failed(&mut self) {
        if let Saving::Writing { tries, .. } = self.saving {
            let wait = Wait::new(self.now, self.setup.backoff.delay(tries));
            self.saving = Saving::Waiting { tries, wait };
        }
    }

    /// Takes up what waits: what has waited long enough, or, where there is reason to believe that it would work now, all but
    /// what a server asked to wait.
    pub(super) fn retry(&mut self, all: bool) {
        if let Saving::Waiting { tries, wait } = self.saving
            && (all || wait.left(self.now).is_none())
        {
            self.save(tries.saturating_add(1));
        }
        if let Trial::Waiting {
            bundle,
            tries,
            asked: false,
            ..
        } = &self.trial
            && all
        {
            self.fetch(bundle.clone(), *tries);
        }
    }

    /// Says what follows from the record and its draft. It changes neither, so that it may be called at any time.
    fn reconcile(&mut self) {
        self.reconcile_running();
        self.reconcile_trial();
        self.reconcile_watch();
        let keeps = self.keeps();
        // What is kept anew is not there yet: only what is not kept any more is a reason to delete.
        let gone = |kept: &Vec<Digest>| kept.iter().any(|digest| !keeps.contains(digest));
        if self.kept.as_ref().is_none_or(gone) {
            self.effects.push_back(Effect::Sweep);
        }
        self.kept = Some(keeps);
    }

    fn reconcile_running(&mut self) {
        if self
            .runs()
            .is_some_and(|held| self.bar(held.bundle.digest).is_some())
        {
            self.effects.push_back(Effect::Deactivate);
            self.running = Running::Nothing;
        }
        let next = match self.next_to_run() {
            Next::Stay => {
                self.stop_opening_what_is_barred();
                return;
            }
            Next::Nothing => None,
            Next::Run(next) => Some(next),
        };
        let under_way = match &self.running {
            Running::Nothing => None,
            Running::Opening { next, .. } => Some(next.bundle.digest),
            Running::Runs { held, .. } => Some(held.bundle.digest),
        };
        if next.as_ref().map(|next| next.bundle.digest) == under_way {
            return;
        }
        let now = self.runs().cloned();
        if let Some(next) = next {
            self.effects
                .push_back(Effect::Activate(next.bundle.clone()));
            self.running = Running::Opening { now, next };
        } else {
            self.effects.push_back(Effect::Deactivate);
            self.running = Running::Nothing;
        }
    }

    fn stop_opening_what_is_barred(&mut self) {
        if let Running::Opening { next, .. } = &self.running
            && self.bar(next.bundle.digest).is_some()
        {
            self.effects.push_back(Effect::Deactivate);
            self.running = Running::Nothing;
        }
    }

    /// What should run: that which is on disk as the active one.
    ///
    /// The way back need not be written down first: what is gone back to is on disk as the one before, or configured, and a
    /// node that is cut off meanwhile starts with the version that it was about to leave, and leaves it again.
    fn next_to_run(&self) -> Next {
        if self.mark_is_on_its_way() {
            return Next::Stay;
        }
        let opens = |held: &&Held| {
            let digest = held.bundle.digest;
            !self.unopened.contains(&digest) && self.bar(digest).is_none()
        };
        let held = [&self.saved.active, &self.saved.previous];
        let mut known = held
            .into_iter()
            .flatten()
            .map(|held| &held.bundle)
            .chain(&self.setup.factory);
        // What is promoted is no way back, even to a bundle that is still on the disk from an earlier trial.
        let back = |held: &&Held| {
            let digest = held.bundle.digest;
            let active = self.saved.active_digest() == Some(digest);
            active || !self.on_probation(digest) && known.any(|bundle| bundle.digest == digest)
        };
        let next = self.draft.active.as_ref().filter(opens);
        match (next.filter(back), &self.saved.active) {
            (Some(next), _) => Next::Run(next.clone()),
            (_, None) => Next::Nothing,
            (_, Some(active)) if opens(&active) => Next::Run(active.clone()),
            (_, Some(_)) if self.runs().is_some() => Next::Stay,
            // What is meant is not on the disk yet, and what is there as active does not open: the one before stands in.
            (_, Some(_)) => {
                let stand_ins = self
                    .saved
                    .previous
                    .clone()
                    .into_iter()
                    .chain(self.factory());
                let mut stand_ins = stand_ins.filter(|held| opens(&held));
                stand_ins.next().map_or(Next::Stay, Next::Run)
            }
        }
    }

    /// Whether it is being written down, for the first time, that the agent has begun to run a version in probation: a
    /// version that ends the agent whenever it runs would otherwise never be counted. A disk that refuses it does not keep
    /// a node from running.
    fn mark_is_on_its_way(&self) -> bool {
        let (Some(saved), Some(draft)) = (&self.saved.trial, &self.draft.trial) else {
            return false;
        };
        let crashes = |probation: &Option<lamppost_models::trial::Watch>| {
            probation.as_ref().map_or(0, |watch| watch.crashes)
        };
        let marked =
            saved.ended == draft.ended && crashes(&saved.probation) == crashes(&draft.probation);
        let first = matches!(self.saving, Saving::Writing { tries: 1, .. });
        matches!(self.running, Running::Nothing)
            && self.saved.active_digest() == Some(saved.bundle.digest)
            && !marked
            && first
    }

    fn reconcile_trial(&mut self) {
        let of = |record| Self::wanted(&self.setup, record).map(|wanted| wanted.bundle);
        // What is wanted on the disk and still wanted now.
        let wanted = of(&self.saved).filter(|wanted| Some(wanted) == of(&self.draft).as_ref());
        let wanted = wanted.filter(|wanted| Some(wanted.digest) != self.saved.active_digest());
        let bar = wanted.as_ref().and_then(|bundle| self.bar_bundle(bundle));
        if let Some(digest) = self.under_way() {
            let same = wanted
                .as_ref()
                .is_some_and(|wanted| wanted.digest == digest);
            if same && bar.is_none() && !self.must_be_checked_again() {
                return;
            }
            if matches!(self.trial, Trial::Shadowing { .. }) {
                self.keep_progress();
                self.effects.push_back(Effect::StopShadow(digest));
            }
            if !matches!(self.trial, Trial::Passed { .. }) {
                self.effects.push_back(Effect::Cancel(digest));
            }
        }
        self.trial = match (wanted, bar) {
            (None, _) => Trial::None,
            (Some(bundle), Some((verdict, detail))) => Trial::Refused {
                bundle,
                verdict,
                detail,
            },
            (Some(bundle), None) => {
                self.fetch(bundle, 0);
                return;
            }
        };
    }

    /// Whether a candidate has passed its check under terms that are not those of now.
    fn must_be_checked_again(&self) -> bool {
        let is_past = matches!(self.trial, Trial::Shadowing { .. } | Trial::Ready { .. });
        let limits = |terms: &TrialTerms| {
            (
                terms.latency_ratio_max,
                terms.latency_us_max,
                terms.memory_bytes_max,
            )
        };
        let now = self.draft.trial.as_ref().map(|trial| limits(&trial.terms));
        is_past && self.checked.as_ref().map(limits) != now
    }

    /// The bundle on trial, unless the trial is over.
    fn under_way(&self) -> Option<Digest> {
        match &self.trial {
            Trial::Passed { bundle } => {
                Some(bundle.digest).filter(|digest| self.draft.active_digest() == Some(*digest))
            }
            Trial::Closed { bundle, .. }
            | Trial::Fetching { bundle, .. }
            | Trial::Checking { bundle, .. }
            | Trial::Waiting { bundle, .. }
            | Trial::Shadowing { bundle, .. }
            | Trial::Ready { bundle } => Some(bundle.digest),
            Trial::None | Trial::Refused { .. } => None,
        }
    }

    /// A version in probation is watched while it runs.
    fn reconcile_watch(&mut self) {
        let runs = match &self.running {
            Running::Runs { held, .. } => Some(held.bundle.digest),
            Running::Nothing | Running::Opening { .. } => None,
        };
        let record = self.draft.trial.as_ref();
        let watched = record.filter(|record| record.terms.probation.is_some());
        let digest = runs.filter(|digest| watched.is_some() && self.on_probation(*digest));
        if self.watching.as_ref().map(|watching| watching.digest) == digest {
            return;
        }
        if let Some(watching) = self.watching.take() {
            self.effects.push_back(Effect::StopWatch(watching.digest));
        }
        if let Some(digest) = digest {
            let before = record
                .and_then(|record| record.probation.clone())
                .unwrap_or_default();
            self.effects.push_back(Effect::Watch(digest));
            self.watching = Some(Watching {
                digest,
                found: before.clone(),
                before,
            });
        }
    }
}
