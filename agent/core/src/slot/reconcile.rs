//! The one place where it is said what follows from what is on disk.

use lamppost_models::bundle::BUNDLE_BYTES_MAX;

use super::{BundleRef, Digest, Effect, Held, Running, Saving, SlotMachine, Trial, Verdict};

/// What should run.
enum Next<'a> {
    /// This one.
    Run(&'a Held),
    /// None.
    Nothing,
    /// What runs, until more is on disk.
    Stay,
}

impl SlotMachine {
    pub(super) fn go_on(&mut self) {
        if self.draft != self.saved
            && let Saving::Idle = self.saving
        {
            self.save(1);
        }
        self.reconcile();
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
            self.saving = Saving::Waiting { tries };
            self.effects
                .push_back(Effect::RetryAfter(self.setup.backoff.delay(tries)));
        }
    }

    /// Says what follows from what is on disk. It changes nothing that is on disk, so that it may be called at any time.
    fn reconcile(&mut self) {
        self.reconcile_running();
        self.reconcile_trial();
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
            .is_some_and(|held| self.saved.quarantined(&held.bundle.digest).is_some())
        {
            self.effects.push_back(Effect::Deactivate);
            self.running = Running::Nothing;
        }
        let next = match self.next_to_run() {
            Next::Stay => return,
            Next::Nothing => None,
            Next::Run(next) => Some(next.clone()),
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

    /// What should run: that which is on disk as the active one.
    ///
    /// When that does not open, the bundle that is fallen back to need not be written down first: it is on disk as the
    /// one before, or configured, and every start comes to the same.
    fn next_to_run(&self) -> Next<'_> {
        let opens = |held: &&Held| !self.unopened.contains(&held.bundle.digest);
        match &self.saved.active {
            None => return Next::Nothing,
            Some(active) if opens(&active) => return Next::Run(active),
            Some(_) => {}
        }
        let previous = self.saved.previous.as_ref().map(|held| &held.bundle);
        let mut known = previous.into_iter().chain(&self.setup.factory);
        match self.draft.active.as_ref().filter(opens) {
            Some(next) if known.any(|bundle| bundle.digest == next.bundle.digest) => {
                Next::Run(next)
            }
            Some(_) | None => Next::Stay,
        }
    }

    fn reconcile_trial(&mut self) {
        let wanted = self.decisive().map(|remembered| remembered.stable.clone());
        let wanted = wanted.filter(|wanted| Some(wanted.digest) != self.saved.active_digest());
        let under_way = self.under_way();
        if let Some(digest) = under_way {
            let passed = matches!(self.trial, Trial::Passed { .. });
            if wanted
                .as_ref()
                .is_some_and(|wanted| wanted.digest == digest)
            {
                return;
            }
            if !passed {
                self.effects.push_back(Effect::Cancel(digest));
            }
        }
        let Some(bundle) = wanted else {
            self.trial = Trial::None;
            return;
        };
        if let Some(entry) = self.draft.quarantined(&bundle.digest) {
            self.trial = Trial::Refused {
                bundle,
                verdict: entry.verdict,
                detail: entry.detail.clone(),
            };
        } else if bundle.bytes > BUNDLE_BYTES_MAX {
            let detail = format!(
                "the release names {} bytes, the limit is {BUNDLE_BYTES_MAX}",
                bundle.bytes
            );
            self.trial = Trial::Refused {
                bundle,
                verdict: Verdict::Unusable,
                detail,
            };
        } else {
            self.fetch(bundle, 0);
        }
    }

    /// The bundle on trial, unless the trial is over.
    fn under_way(&self) -> Option<Digest> {
        match &self.trial {
            Trial::Fetching { bundle, .. }
            | Trial::Checking { bundle, .. }
            | Trial::Waiting { bundle, .. }
            | Trial::Passed { bundle } => Some(bundle.digest),
            Trial::None | Trial::Refused { .. } => None,
        }
    }

    pub(super) fn fetch(&mut self, bundle: BundleRef, tries: u32) {
        self.effects.push_back(Effect::Fetch(bundle.clone()));
        self.trial = Trial::Fetching {
            bundle,
            received: 0,
            tries,
        };
    }
}
