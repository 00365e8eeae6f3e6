//! Random events, crashes among them, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::tests::{bundle, digest, model, release, setup};
use super::*;
use crate::trial::Preflight;
use std::time::Duration;

/// What bundles are like, by number.
const GOOD: [u64; 2] = [0, 1];
const FAILS_CHECK: u64 = 2;
const FAILS_INFERENCE: u64 = 3;
const FAILS_OPENING: u64 = 4;
const FACTORY: u64 = 5;

#[derive(Clone, Debug)]
enum Event {
    /// A release of some group with some number and bundle.
    Release {
        canary: bool,
        sequence: u64,
        bundle: u64,
    },
    /// A job comes to its end; which one, and whether the world was kind to it.
    Job { which: usize, kind: bool },
    /// An inference, as the bundle makes it.
    Inference,
    /// Time passes.
    Retry,
    /// The power goes.
    Crash,
    /// The disk loses a bundle.
    Damage { which: usize },
    /// The disk refuses the next record; whether it has it all the same.
    DiskFails { written: bool },
}

struct World {
    factory: bool,
    machine: SlotMachine,
    disk: Option<SlotRecord>,
    files: BTreeSet<Digest>,
    jobs: Vec<Effect>,
    cell: Option<Digest>,
    checked: BTreeSet<Digest>,
    disk_fails: Option<bool>,
    /// It is on the disk that a bundle worked, and no file was lost since.
    was_good: bool,
    now: Timestamp,
}

fn number_of(digest: &Digest) -> u64 {
    (0..=FACTORY)
        .find(|number| super::tests::digest(*number) == *digest)
        .unwrap()
}

fn is_good(digest: &Digest) -> bool {
    GOOD.contains(&number_of(digest))
}

impl World {
    fn new(factory: bool) -> Self {
        let setup = setup(factory.then_some(FACTORY));
        let mut world = Self {
            factory,
            machine: SlotMachine::start(setup, None, Timestamp::EPOCH),
            disk: None,
            files: BTreeSet::new(),
            jobs: Vec::new(),
            cell: None,
            checked: BTreeSet::from([digest(FACTORY)]),
            disk_fails: None,
            was_good: false,
            now: Timestamp::EPOCH,
        };
        world.settle();
        world
    }

    /// Does what the shell does at once, and keeps the rest as jobs.
    fn settle(&mut self) {
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::Save(record) => self.save(record),
                Effect::Cancel(digest) => self.jobs.retain(|job| match job {
                    Effect::Fetch(bundle) | Effect::Check(bundle) => bundle.digest != digest,
                    Effect::Save(_)
                    | Effect::Cancel(_)
                    | Effect::Activate(_)
                    | Effect::Deactivate
                    | Effect::Sweep
                    | Effect::RetryAfter(_) => true,
                    Effect::Shadow { .. }
                    | Effect::StopShadow(_)
                    | Effect::Watch(_)
                    | Effect::StopWatch(_) => true,
                }),
                Effect::Activate(_) | Effect::Deactivate => {
                    self.jobs.retain(|job| !matches!(job, Effect::Activate(_)));
                    if effect == Effect::Deactivate {
                        self.cell = None;
                    } else {
                        self.jobs.push(effect);
                    }
                }
                Effect::Sweep => {
                    let keeps = self.machine.keeps();
                    self.files.retain(|digest| keeps.contains(digest));
                }
                Effect::Fetch(_) | Effect::Check(_) => self.jobs.push(effect),
                Effect::Shadow { .. }
                | Effect::StopShadow(_)
                | Effect::Watch(_)
                | Effect::StopWatch(_) => {}
                Effect::RetryAfter(delay) => assert!(delay > Duration::ZERO),
            }
        }
    }

    fn save(&mut self, record: SlotRecord) {
        let written = self.disk_fails.take();
        if written != Some(false) {
            self.check_record(&record);
            self.disk = Some(record);
        }
        let input = if written.is_none() {
            Input::Saved
        } else {
            Input::SaveFailed
        };
        self.machine.handle(input, self.now);
    }

    fn check_record(&self, record: &SlotRecord) {
        let Some(before) = &self.disk else { return };
        assert!(
            record.generation >= before.generation,
            "a record's generation grows"
        );
        for (group, known) in &before.releases {
            let sequence = record
                .releases
                .get(group)
                .map(|remembered| remembered.sequence);
            assert!(
                sequence >= Some(known.sequence),
                "{group} went back from {} to {sequence:?}",
                known.sequence
            );
        }
    }

    fn job(&mut self, which: usize, kind: bool) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs.remove(which % self.jobs.len());
        let detail = "as it happens".to_owned();
        let input = match job {
            Effect::Fetch(BundleRef { digest, .. }) if kind => {
                self.files.insert(digest);
                Input::Fetched {
                    digest,
                    fetched_bytes: 0,
                }
            }
            Effect::Fetch(BundleRef { digest, .. }) => Input::FetchFailed {
                digest,
                failure: FetchFailure::Unavailable,
                detail,
            },
            Effect::Check(BundleRef { digest, .. }) => {
                let outcome = match number_of(&digest) {
                    _ if !kind => CheckOutcome::Undecided { detail },
                    _ if !self.files.contains(&digest) => CheckOutcome::Damaged { detail },
                    FAILS_CHECK => CheckOutcome::Refused {
                        verdict: Verdict::Unusable,
                        detail,
                    },
                    _ => CheckOutcome::Passed(Preflight::default()),
                };
                if outcome == CheckOutcome::Passed(Preflight::default()) {
                    self.checked.insert(digest);
                }
                Input::Checked { digest, outcome }
            }
            Effect::Activate(BundleRef { digest, .. }) => {
                let here =
                    self.files.contains(&digest) || (self.factory && number_of(&digest) == FACTORY);
                if !here {
                    Input::ActivateFailed {
                        digest,
                        failure: ActivateFailure::Damaged,
                        detail,
                    }
                } else if number_of(&digest) == FAILS_OPENING {
                    Input::ActivateFailed {
                        digest,
                        failure: ActivateFailure::Refused(Verdict::Unusable),
                        detail,
                    }
                } else {
                    self.cell = Some(digest);
                    Input::Activated { digest }
                }
            }
            Effect::Save(_)
            | Effect::Cancel(_)
            | Effect::Deactivate
            | Effect::Sweep
            | Effect::Shadow { .. }
            | Effect::StopShadow(_)
            | Effect::Watch(_)
            | Effect::StopWatch(_)
            | Effect::RetryAfter(_) => {
                panic!("{job:?} is no job")
            }
        };
        self.machine.handle(input, self.now);
    }

    fn crash(&mut self) {
        self.jobs.clear();
        self.cell = None;
        self.machine = SlotMachine::start(
            setup(self.factory.then_some(FACTORY)),
            self.disk.clone(),
            self.now,
        );
    }

    fn inference(&mut self) {
        let Some(digest) = self.cell else { return };
        let input = if number_of(&digest) == FAILS_INFERENCE {
            Input::InferenceFailed {
                digest,
                detail: "as always".to_owned(),
            }
        } else {
            Input::InferenceWorked { digest }
        };
        self.machine.handle(input, self.now);
    }

    fn event(&mut self, event: &Event) {
        self.now = self.now.offset_ms(1);
        match *event {
            Event::Release {
                canary,
                sequence,
                bundle,
            } => {
                let group = if canary { "canary" } else { "all" }.parse().unwrap();
                let mut release = release(&group, sequence, bundle);
                release.expires_at = self.now.offset_ms(1);
                let known = self
                    .disk
                    .as_ref()
                    .and_then(|disk| disk.releases.get(&group).cloned());
                let taken = self
                    .machine
                    .release(&group, &model(), &release, &[], self.now);
                if taken == Ok(Taken::New) {
                    assert!(
                        known.is_none_or(|known| known.sequence < release.sequence),
                        "an older release was taken in"
                    );
                }
            }
            Event::Job { which, kind } => self.job(which, kind),
            Event::Inference => self.inference(),
            Event::Retry => self.machine.handle(Input::Retry, self.now),
            Event::Crash => self.crash(),
            Event::Damage { which } => {
                if let Some(lost) = self
                    .files
                    .iter()
                    .nth(which % self.files.len().max(1))
                    .copied()
                {
                    self.files.remove(&lost);
                    self.was_good = false;
                }
            }
            Event::DiskFails { written } => self.disk_fails = Some(written),
        }
        self.settle();
        self.check();
    }

    fn check(&mut self) {
        let proven = self
            .machine
            .record()
            .active
            .iter()
            .find(|active| active.proven);
        self.was_good |= proven.is_some_and(|held| self.files.contains(&held.bundle.digest));
        if let Some(cell) = &self.cell {
            assert!(
                self.checked.contains(cell),
                "bundle {} runs unchecked",
                number_of(cell)
            );
            let quarantined = self.machine.record().quarantined(cell);
            assert!(
                quarantined.is_none(),
                "bundle {} runs in quarantine",
                number_of(cell)
            );
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
        assert!(
            !self.was_good || self.cell.is_some() || opening,
            "a good bundle ran, and now none does"
        );
        assert!(
            self.jobs.len() <= 2,
            "one trial and one activation at a time: {:?}",
            self.jobs
        );
    }

    /// From here on the world is kind: the node must come to what it should run.
    fn come_to_rest(&mut self) {
        self.disk_fails = None;
        for _ in 0..100 {
            self.event(&Event::Retry);
            // A job may bring another, but not for ever.
            for _ in 0..20 {
                self.event(&Event::Job {
                    which: 0,
                    kind: true,
                });
            }
            assert_eq!(self.jobs, [], "jobs that bring themselves about again");
            self.event(&Event::Inference);
        }
        let record = self.machine.record();
        let groups = setup(None).groups;
        let wanted = groups
            .iter()
            .find_map(|group| record.releases.get(group))
            .map(|release| release.stable.digest);
        match wanted {
            Some(wanted) if is_good(&wanted) => {
                assert_eq!(self.cell, Some(wanted), "the wanted bundle runs");
            }
            Some(wanted) => {
                assert!(
                    record.quarantined(&wanted).is_some(),
                    "bundle {} was found out",
                    number_of(&wanted)
                );
                assert!(self.cell != Some(wanted));
            }
            None => assert_eq!(self.cell, self.factory.then_some(digest(FACTORY))),
        }
        assert_eq!(
            self.disk.as_ref().map_or(0, |disk| disk.generation),
            record.generation,
            "all is on the disk"
        );
        let held = [&record.active, &record.previous]
            .into_iter()
            .flatten()
            .count();
        assert!(
            self.files.len() <= held,
            "{} files for {held} bundles",
            self.files.len()
        );
    }
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<bool>(), 0_u64..12, 0..=FAILS_OPENING)
            .prop_map(|(canary, sequence, bundle)| Event::Release { canary, sequence, bundle }),
        12 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, kind)| Event::Job { which, kind }),
        5 => Just(Event::Inference),
        3 => Just(Event::Retry),
        1 => Just(Event::Crash),
        1 => any::<usize>().prop_map(|which| Event::Damage { which }),
        1 => any::<bool>().prop_map(|written| Event::DiskFails { written }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_the_rules_hold(factory: bool, events in proptest::collection::vec(events(), 0..120)) {
        let mut world = World::new(factory);
        for event in &events {
            world.event(event);
        }
        world.come_to_rest();
    }
}

#[test]
fn the_worlds_bundles_are_all_different() {
    let all: BTreeMap<Digest, u64> = (0..=FACTORY)
        .map(|number| (bundle(number).digest, number))
        .collect();
    assert_eq!(all.len(), 6);
}
/// A crash between the rollback and the deletion of its bundle left the file behind for ever.
#[test]
fn a_start_deletes_what_nothing_names_any_more() {
    let mut world = World::new(false);
    let job = Event::Job {
        which: 0,
        kind: true,
    };
    let release = Event::Release {
        canary: false,
        sequence: 0,
        bundle: FAILS_INFERENCE,
    };
    let before = [release, job.clone(), job.clone(), job];
    let rollback = [
        Event::Inference,
        Event::Inference,
        Event::DiskFails { written: true },
        Event::Inference,
    ];
    for event in before.iter().chain(&rollback) {
        world.event(event);
    }
    assert_eq!(
        world.files.len(),
        1,
        "the file is there until it is known that the record is"
    );
    world.event(&Event::Crash);
    assert_eq!(world.files.len(), 0);
}
