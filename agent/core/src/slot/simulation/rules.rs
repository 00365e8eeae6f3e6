//! What must hold after each event, with each record that is written, and at rest.

use lamppost_models::message::{CandidateSlot, TrialState};
use lamppost_models::rollout::Who;
use lamppost_models::trial::TrialPhase;

use super::super::tests::{digest, setup};
use super::world::{
    CRASHES_BESIDE, FACTORY, FAILS_CHECK, FAILS_INFERENCE, FAILS_OPENING, GOOD, PROBATION_WINDOWS,
    SHADOW_WINDOWS, SLOW, WORSE, WORSE_LIVE, World, number_of,
};
use super::*;

impl World {
    /// With each record that is written.
    pub(super) fn check_record(&mut self, record: &SlotRecord) {
        let empty = SlotRecord::new(record.model.clone());
        let before = self.disk.clone().unwrap_or(empty);
        assert!(
            record.generation >= before.generation,
            "a record's generation grows"
        );
        for (group, known) in &before.releases {
            let sequence = record.releases.get(group).map(|known| known.sequence);
            assert!(
                sequence >= Some(known.sequence),
                "{group} went back from {} to {sequence:?}",
                known.sequence
            );
        }
        if record.generation.is_multiple_of(8) {
            let json = serde_json::to_string(record).unwrap();
            assert_eq!(serde_json::from_str::<SlotRecord>(&json).unwrap(), *record);
        }
        let (Some(trial), was) = (&record.trial, &before.trial) else {
            return;
        };
        let was = was
            .as_ref()
            .filter(|was| was.bundle == trial.bundle && was.since == trial.since);
        // Or it went back to it, which begins with its probation.
        let held = [&before.active, &before.previous].into_iter().flatten();
        let mut held = held.map(|held| held.bundle.digest);
        let back = match was {
            None => held.any(|digest| trial.is_of(digest)),
            Some(_) => held.next().is_some_and(|digest| trial.is_of(digest)),
        };
        let was = was.map_or(TrialPhase::Candidate, |was| was.phase.clone());
        let live = |phase: &TrialPhase| {
            matches!(
                phase,
                TrialPhase::Probation | TrialPhase::Passed | TrialPhase::RolledBack { .. }
            )
        };
        if was == TrialPhase::Candidate && live(&trial.phase) && !back {
            self.check_promotion(&before, record, trial);
        }
        if trial.phase == TrialPhase::Passed && was != TrialPhase::Passed {
            Self::check_passed(trial);
        }
    }

    fn check_promotion(&mut self, before: &SlotRecord, record: &SlotRecord, trial: &TrialRecord) {
        let number = number_of(&trial.bundle.digest);
        let in_force = record.releases.iter();
        let in_force = in_force.map(|(group, known)| (group.clone(), known.sequence.0));
        assert!(
            self.promotions.insert((in_force.collect(), number)),
            "bundle {number} is promoted for the second time by the same releases"
        );
        assert!(number != FAILS_CHECK, "it did not pass its check");
        assert!(
            trial.terms.latency_us_max.is_none() || number != SLOW,
            "it takes longer than the terms allow"
        );
        // Where nothing runs that may go on there is nothing to compare with.
        let runs = before.active_digest().is_some_and(|digest| {
            let barred = self.revoked(digest)
                || record.quarantined(&digest).is_some()
                || self.machine.unopened.contains(&digest);
            self.cell.is_some() && self.has(digest) && !barred
        });
        if trial.terms.shadow.is_some() && runs {
            let shadow = trial.shadow.as_ref().expect("it ran in shadow");
            assert!(shadow.windows >= SHADOW_WINDOWS, "{shadow:?}");
            assert!(shadow.candidate.failures < 2, "{shadow:?}");
            assert!(![FAILS_INFERENCE, CRASHES_BESIDE].contains(&number));
            assert!(
                number != WORSE || shadow.candidate.loss.n < crate::trial::LABELS_MIN,
                "{shadow:?}"
            );
        }
    }

    fn check_passed(trial: &TrialRecord) {
        let number = number_of(&trial.bundle.digest);
        assert!(number != FAILS_INFERENCE && number != FAILS_OPENING);
        if trial.terms.probation.is_some() {
            let watch = trial.probation.as_ref().expect("it was watched");
            assert!(watch.windows >= PROBATION_WINDOWS, "{watch:?}");
            assert!(watch.active.failures < 2, "{watch:?}");
            let bad = [WORSE, WORSE_LIVE].contains(&number);
            assert!(
                !bad || watch.active.loss.n < crate::trial::LABELS_MIN,
                "{watch:?}"
            );
        }
    }

    /// Where something runs, a download is begun in its hours only.
    pub(super) fn check_hours(&self) {
        let hours = SlotMachine::wanted(&self.machine.setup, &self.machine.draft)
            .and_then(|wanted| wanted.hours);
        let Some(hours) = hours else { return };
        let hour = self.now.as_ms().rem_euclid(24 * 3_600_000) / 3_600_000;
        assert!(
            [2, 3].contains(&hour) || self.machine.draft.active.is_none(),
            "a download begins at {}, hours are {hours}",
            self.now
        );
    }

    fn revoked(&self, digest: Digest) -> bool {
        let mut newest = self.newest.values();
        newest.any(|release| release.revoked.contains(&digest))
    }

    /// After each event.
    pub(super) fn check(&mut self) {
        let record = self.machine.record();
        if let Some(cell) = self.cell {
            let number = number_of(&cell);
            assert!(
                self.checked.contains(&cell),
                "bundle {number} runs unchecked"
            );
            assert!(
                record.quarantined(&cell).is_none(),
                "bundle {number} runs in quarantine"
            );
            assert!(!self.revoked(cell), "bundle {number} runs and is revoked");
        }
        assert_eq!(
            self.machine.report().active.map(|active| active.digest),
            self.cell,
            "the report says what runs"
        );
        let opening = self
            .jobs
            .iter()
            .any(|job| matches!(job, Effect::Activate(_)));
        if let Some(good) = self.good {
            let barred = self.revoked(good) || record.quarantined(&good).is_some();
            if barred {
                self.good = None;
            } else {
                assert!(
                    self.cell.is_some() || opening,
                    "bundle {} is good and on the disk, and nothing runs",
                    number_of(&good)
                );
            }
        }
        let proven = self
            .machine
            .record()
            .active
            .iter()
            .find(|active| active.proven);
        let proven = proven.map(|held| held.bundle.digest);
        if let Some(proven) = proven.filter(|proven| self.has(*proven) && !self.revoked(*proven)) {
            self.good = Some(proven);
        }
        assert!(
            self.jobs.len() <= 2,
            "one trial and one activation at a time: {:?}",
            self.jobs
        );
        let beside = self.shadow.as_ref().map(|(digest, _)| *digest);
        let shadowing = match &self.machine.trial {
            Trial::Shadowing { bundle, .. } => Some(bundle.digest),
            Trial::None
            | Trial::Closed { .. }
            | Trial::Fetching { .. }
            | Trial::Checking { .. }
            | Trial::Waiting { .. }
            | Trial::Ready { .. }
            | Trial::Passed { .. }
            | Trial::Refused { .. } => None,
        };
        assert_eq!(beside, shadowing, "what runs beside is what the slot tries");
        let watched = self.watch.as_ref().map(|(digest, _)| *digest);
        assert!(watched.is_none() || watched == self.cell);
    }

    /// Whether nothing is under way that time alone would move on.
    pub(super) fn is_quiet(&self) -> bool {
        let trial = self.machine.record().trial.as_ref();
        let over = trial.is_none_or(|trial| {
            !matches!(trial.phase, TrialPhase::Candidate | TrialPhase::Probation)
        });
        over && self.alarm.is_none()
            && self.jobs.is_empty()
            && matches!(self.machine.trial, Trial::None | Trial::Refused { .. })
    }

    /// When the world has been kind for long enough.
    pub(super) fn check_rest(&self) {
        let record = self.machine.record();
        let setup = setup(None);
        let mut groups = setup.groups.iter();
        let release = groups.find_map(|group| {
            let sequence = record.releases.get(group)?.sequence.0;
            Some(&self.taken[&(group.clone(), sequence)])
        });
        let wanted = release.map(|release| {
            let who = Who {
                path: &setup.path,
                groups: &setup.groups,
                tags: &setup.tags,
            };
            release.wanted(who).0.digest
        });
        if let Some(wanted) = wanted {
            self.check_wanted(record, wanted);
        } else {
            let factory = digest(FACTORY);
            let runs = self.factory && !self.revoked(factory);
            assert_eq!(self.cell, runs.then_some(factory));
        }
        assert_eq!(
            self.disk.as_ref().map_or(0, |disk| disk.generation),
            record.generation,
            "all is on the disk"
        );
        let held = [&record.active, &record.previous];
        let held = held.into_iter().flatten().count();
        assert!(
            self.files.len() <= held,
            "{} files for {held} bundles",
            self.files.len()
        );
        if let Some(trial) = &record.trial {
            assert!(
                trial.phase != TrialPhase::Candidate,
                "a trial without an end: {trial:?}"
            );
        }
    }

    /// It runs, or it was refused with a verdict.
    fn check_wanted(&self, record: &SlotRecord, wanted: Digest) {
        let number = number_of(&wanted);
        if self.cell == Some(wanted) {
            let bad = [FAILS_CHECK, FAILS_INFERENCE, FAILS_OPENING];
            assert!(!bad.contains(&number), "bundle {number} was not found out");
            let trial = record.trial.as_ref().filter(|trial| trial.is_of(wanted));
            // It was proven before, and became active once more without a trial.
            let proven = record.active.as_ref().is_some_and(|held| held.proven);
            let needless = |trial: &&TrialRecord| proven && trial.phase == TrialPhase::Withdrawn;
            if let Some(trial) = trial.filter(|trial| !needless(trial)) {
                assert_eq!(trial.phase, TrialPhase::Passed, "{trial:?}");
            }
            return;
        }
        let report = self.machine.report();
        let refused = matches!(
            report.candidate,
            Some(CandidateSlot { digest, state: TrialState::Refused { .. }, .. }) if digest == wanted
        );
        assert!(refused, "bundle {number}: {:?}", report.candidate);
        if self.revoked(wanted) {
            return;
        }
        let verdict = record.quarantined(&wanted).map(|entry| entry.verdict);
        // The power went too often in its probation, as far as the node can tell.
        let unlucky = verdict == Some(Verdict::Crashed);
        assert!(
            verdict.is_some() && (unlucky || !GOOD.contains(&number)),
            "bundle {number} has verdict {verdict:?}"
        );
    }
}
