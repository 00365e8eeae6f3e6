//! A shell that does what a slot wishes, in a world that is often unkind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lamppost_models::release::Release;
use lamppost_models::rollout::{Candidate, Exposure, Probation, Shadow, Share, TrialTerms};
use lamppost_models::trial::{Comparison, Watch};

use super::super::tests::{bundle, digest, model, release, setup};
use super::*;
use crate::trial::{Measured, Preflight};

/// What bundles are like, by number.
pub(super) const GOOD: [u64; 2] = [0, 1];
pub(super) const FAILS_CHECK: u64 = 2;
pub(super) const FAILS_INFERENCE: u64 = 3;
pub(super) const FAILS_OPENING: u64 = 4;
pub(super) const FACTORY: u64 = 5;
/// Its labels show that it is worse, beside the active version.
pub(super) const WORSE: u64 = 6;
/// Its process ends in shadow.
pub(super) const CRASHES_BESIDE: u64 = 7;
/// Its labels show that it is worse, but only when it is live.
pub(super) const WORSE_LIVE: u64 = 8;
/// The agent ends with it.
pub(super) const CRASHES_AGENT: u64 = 9;
/// Its check shows that it takes long.
pub(super) const SLOW: u64 = 10;
pub(super) const BUNDLES: u64 = 11;

pub(super) const SHADOW_WINDOWS: u64 = 4;
pub(super) const PROBATION_WINDOWS: u64 = 5;
const LABELS: u64 = 9;
pub(super) const YEAR_S: u64 = 365 * 24 * 3600;
/// The hours of releases that have some; the world begins outside of them.
const HOURS: &str = "daily 02:00-04:00";

#[derive(Clone, Copy, Debug)]
pub(super) enum Delivery {
    Once,
    Lost,
    Twice,
    /// After it comes what was true before it.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    None,
    Shadow,
    Probation,
    Both,
}

/// What a release wants.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) stable: u64,
    /// And whether the node is meant.
    pub(super) candidate: Option<(u64, bool)>,
    pub(super) terms: Terms,
    pub(super) hours: bool,
    pub(super) revoked: Option<u64>,
}

pub(super) struct World {
    pub(super) factory: bool,
    pub(super) machine: SlotMachine,
    pub(super) disk: Option<SlotRecord>,
    pub(super) files: BTreeSet<Digest>,
    pub(super) jobs: Vec<Effect>,
    /// What runs.
    pub(super) cell: Option<Digest>,
    pub(super) shadow: Option<(Digest, Comparison)>,
    pub(super) watch: Option<(Digest, Watch)>,
    pub(super) checked: BTreeSet<Digest>,
    pub(super) disk_fails: Option<bool>,
    pub(super) crash_in: Option<usize>,
    /// A proven bundle that was active when it was last looked at, whose file is there.
    pub(super) good: Option<Digest>,
    /// The releases that were taken in, by group and number.
    pub(super) taken: BTreeMap<(GroupId, u64), Release>,
    /// The newest of each group, in this run of the agent.
    pub(super) newest: BTreeMap<GroupId, Release>,
    /// Which releases were in force when which bundle was promoted.
    pub(super) promotions: BTreeSet<(Vec<(GroupId, u64)>, u64)>,
    pub(super) alarm: Option<Duration>,
    pub(super) now: Timestamp,
    pub(super) kind: bool,
}

pub(super) fn number_of(digest: &Digest) -> u64 {
    (0..BUNDLES)
        .find(|number| super::super::tests::digest(*number) == *digest)
        .unwrap()
}

fn terms(terms: Terms) -> Option<TrialTerms> {
    let shadow = Shadow {
        windows: SHADOW_WINDOWS,
        labels: LABELS,
        time_s_max: 3600,
        failures: 2,
        error_ratio_max: Some(1.2),
        ..Shadow::default()
    };
    let probation = Probation {
        windows: PROBATION_WINDOWS,
        labels: LABELS,
        time_s_max: 1800,
        failures: 2,
        crashes: 2,
        error_ratio_max: Some(1.2),
    };
    (terms != Terms::None).then(|| TrialTerms {
        latency_us_max: Some(5000),
        shadow: matches!(terms, Terms::Shadow | Terms::Both).then_some(shadow),
        probation: matches!(terms, Terms::Probation | Terms::Both).then_some(probation),
        ..TrialTerms::default()
    })
}

impl World {
    pub(super) fn new(factory: bool) -> Self {
        let setup = setup(factory.then_some(FACTORY));
        let mut world = Self {
            factory,
            machine: SlotMachine::start(setup, None, Timestamp::EPOCH),
            disk: None,
            files: BTreeSet::new(),
            jobs: Vec::new(),
            cell: None,
            shadow: None,
            watch: None,
            checked: BTreeSet::from([digest(FACTORY)]),
            disk_fails: None,
            crash_in: None,
            good: None,
            taken: BTreeMap::new(),
            newest: BTreeMap::new(),
            promotions: BTreeSet::new(),
            alarm: None,
            now: Timestamp::EPOCH,
            kind: false,
        };
        world.settle();
        world
    }

    fn input(&mut self, input: Input) {
        self.machine.handle(input, self.now);
    }

    /// Does what the shell does at once, and keeps the rest as jobs. The power may go in between.
    pub(super) fn settle(&mut self) {
        loop {
            if self.crash_in == Some(0) {
                self.crash();
            }
            self.crash_in = self.crash_in.map(|left| left - 1);
            let Some(effect) = self.machine.next_effect() else {
                break;
            };
            match effect {
                Effect::Save(record) => self.save(record),
                Effect::Cancel(digest) => self.jobs.retain(|job| {
                    !matches!(job, Effect::Fetch(bundle) | Effect::Check(bundle) if bundle.digest == digest)
                }),
                Effect::Activate(_) => {
                    self.jobs.retain(|job| !matches!(job, Effect::Activate(_)));
                    self.jobs.push(effect);
                }
                Effect::Deactivate => {
                    self.jobs.retain(|job| !matches!(job, Effect::Activate(_)));
                    self.cell = None;
                }
                Effect::Sweep => {
                    let keeps = self.machine.keeps();
                    self.files.retain(|digest| keeps.contains(digest));
                }
                Effect::Fetch(_) => {
                    self.check_hours();
                    self.jobs.push(effect);
                }
                Effect::Check(_) => self.jobs.push(effect),
                Effect::Shadow { bundle, .. } => {
                    assert!(self.shadow.is_none(), "one process at a time");
                    assert!(self.checked.contains(&bundle.digest), "unchecked in shadow");
                    self.shadow = Some((bundle.digest, Comparison::default()));
                }
                Effect::StopShadow(digest) => {
                    // It may have ended by itself in the same moment.
                    if let Some((beside, _)) = self.shadow.take() {
                        assert_eq!(beside, digest);
                    }
                }
                Effect::Watch(digest) => {
                    assert!(self.watch.is_none(), "one watch at a time");
                    self.watch = Some((digest, Watch::default()));
                }
                Effect::StopWatch(digest) => {
                    assert_eq!(self.watch.take().map(|(watched, _)| watched), Some(digest));
                }
                Effect::RetryAfter(delay) => {
                    assert!(delay > Duration::ZERO);
                    self.alarm = Some(delay);
                }
            }
        }
    }

    fn save(&mut self, record: SlotRecord) {
        let written = self.disk_fails.take();
        if written != Some(false) {
            self.check_record(&record);
            self.disk = Some(record);
        }
        let saved = if written.is_none() {
            Input::Saved
        } else {
            Input::SaveFailed
        };
        self.input(saved);
    }

    pub(super) fn release(&mut self, canary: bool, sequence: u64, wish: &Wish) {
        let group: GroupId = if canary { "canary" } else { "all" }.parse().unwrap();
        let mut release = release(&group, sequence, wish.stable);
        release.expires_at = self.now.offset_ms(1);
        release.candidate = wish.candidate.map(|(number, meant)| Candidate {
            bundle: bundle(number),
            rollout: "0123456789abcdef".parse().unwrap(),
            exposure: Exposure {
                nodes: meant.then(|| setup(None).path).into_iter().collect(),
                ..Exposure::default()
            },
            control: Share::NONE,
        });
        release.trial = terms(wish.terms);
        release.hours = wish.hours.then(|| HOURS.parse().unwrap());
        release.revoked = wish.revoked.map(digest).into_iter().collect();
        let known = self.disk.as_ref();
        let known = known.and_then(|disk| disk.releases.get(&group).cloned());
        let taken = self
            .machine
            .release(&group, &model(), &release, &[], self.now);
        if taken == Ok(Taken::New) {
            assert!(
                known.is_none_or(|known| known.sequence < release.sequence),
                "an older release was taken in"
            );
            self.taken
                .insert((group.clone(), sequence), release.clone());
            self.newest.insert(group, release);
        }
    }

    pub(super) fn job(&mut self, which: usize, kind: bool) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs.remove(which % self.jobs.len());
        let detail = "as it happens".to_owned();
        let input = match job {
            Effect::Fetch(BundleRef { digest, .. }) if kind => {
                let fetched_bytes = u64::from(self.files.insert(digest));
                Input::Fetched {
                    digest,
                    fetched_bytes,
                }
            }
            Effect::Fetch(BundleRef { digest, .. }) => {
                let after = Duration::from_secs(90);
                let failure = if which.is_multiple_of(2) {
                    FetchFailure::Unavailable
                } else {
                    FetchFailure::Busy { after }
                };
                Input::FetchFailed {
                    digest,
                    failure,
                    detail,
                }
            }
            Effect::Check(BundleRef { digest, .. }) => {
                let outcome = self.check_outcome(digest, kind);
                if matches!(outcome, CheckOutcome::Passed(_)) {
                    self.checked.insert(digest);
                }
                Input::Checked { digest, outcome }
            }
            Effect::Activate(BundleRef { digest, .. }) => self.activate(digest),
            Effect::Save(_)
            | Effect::Shadow { .. }
            | Effect::StopShadow(_)
            | Effect::Cancel(_)
            | Effect::Watch(_)
            | Effect::StopWatch(_)
            | Effect::Deactivate
            | Effect::Sweep
            | Effect::RetryAfter(_) => panic!("{job:?} is no job"),
        };
        self.input(input);
    }

    fn check_outcome(&self, digest: Digest, kind: bool) -> CheckOutcome {
        let detail = "as it happens".to_owned();
        let took = |us| {
            CheckOutcome::Passed(Preflight {
                candidate: Measured {
                    inferences: 200,
                    latency_p50_us: us,
                    latency_p99_us: us,
                    memory_bytes: 1,
                },
                active: None,
            })
        };
        match number_of(&digest) {
            _ if !kind => CheckOutcome::Undecided { detail },
            _ if !self.files.contains(&digest) => CheckOutcome::Damaged { detail },
            FAILS_CHECK => CheckOutcome::Refused {
                verdict: Verdict::Unusable,
                detail,
            },
            SLOW => took(6000),
            _ => took(100),
        }
    }

    fn activate(&mut self, digest: Digest) -> Input {
        let detail = "as it happens".to_owned();
        let here = self.has(digest);
        if here && number_of(&digest) != FAILS_OPENING {
            self.cell = Some(digest);
            return Input::Activated { digest };
        }
        let failure = if here {
            ActivateFailure::Refused(Verdict::Unusable)
        } else {
            ActivateFailure::Damaged
        };
        Input::ActivateFailed {
            digest,
            failure,
            detail,
        }
    }

    pub(super) fn has(&self, digest: Digest) -> bool {
        self.files.contains(&digest) || (self.factory && number_of(&digest) == FACTORY)
    }

    /// The file of the factory bundle is no bundle of ours, so that it stays.
    pub(super) fn damage(&mut self, which: usize) {
        let lost = self.files.iter().nth(which % self.files.len().max(1));
        if let Some(lost) = lost.copied() {
            self.files.remove(&lost);
            self.good = None;
        }
    }

    pub(super) fn window(&mut self, delivery: Delivery) {
        let Some(digest) = self.cell else { return };
        let number = number_of(&digest);
        if number == CRASHES_AGENT && !self.kind && matches!(delivery, Delivery::Once) {
            self.crash();
            return;
        }
        let fails = number == FAILS_INFERENCE;
        if fails {
            let detail = "as always".to_owned();
            self.input(Input::InferenceFailed { digest, detail });
        } else {
            self.input(Input::InferenceWorked { digest });
        }
        self.watch_window(fails, delivery);
        self.shadow_window(delivery);
    }

    fn watch_window(&mut self, fails: bool, delivery: Delivery) {
        let Some((digest, watch)) = &mut self.watch else {
            return;
        };
        let stale = watch.clone();
        watch.windows += 1;
        watch.active.failures += u64::from(fails);
        watch.active.loss.add(loss(*digest, true));
        watch.before.loss = losses(12);
        let told = [&*watch, &stale].map(|watch| Input::Watched {
            digest: *digest,
            watch: watch.clone(),
        });
        self.deliver(told, delivery);
    }

    fn shadow_window(&mut self, delivery: Delivery) {
        let Some((digest, comparison)) = &mut self.shadow else {
            return;
        };
        let digest = *digest;
        if number_of(&digest) == CRASHES_BESIDE {
            self.shadow = None;
            let end = ShadowEnd::Refused {
                verdict: Verdict::Crashed,
                detail: "signal 11".to_owned(),
            };
            self.input(Input::ShadowEnded { digest, end });
            return;
        }
        let stale = comparison.clone();
        comparison.windows += 1;
        comparison.candidate.failures += u64::from(number_of(&digest) == FAILS_INFERENCE);
        comparison.candidate.loss.add(loss(digest, false));
        comparison.active.loss.add(1.0);
        comparison.loss_difference.add(loss(digest, false) - 1.0);
        let told = [&*comparison, &stale].map(|comparison| Input::Shadowed {
            digest,
            comparison: comparison.clone(),
        });
        self.deliver(told, delivery);
    }

    fn deliver(&mut self, [new, stale]: [Input; 2], delivery: Delivery) {
        match delivery {
            Delivery::Lost => {}
            Delivery::Once => self.input(new),
            Delivery::Twice => {
                self.input(new.clone());
                self.input(new);
            }
            Delivery::Stale => {
                self.input(new);
                self.input(stale);
            }
        }
    }

    pub(super) fn shadow_gone(&mut self) {
        if let Some((digest, _)) = self.shadow.take() {
            let detail = "no process to be had".to_owned();
            let end = ShadowEnd::Undecided { detail };
            self.input(Input::ShadowEnded { digest, end });
        }
    }

    pub(super) fn pass(&mut self, s: u64) {
        let passed = Duration::from_secs(s);
        self.now = self.now.after(passed).min(latest());
        match self.alarm {
            Some(left) if left <= passed => {
                self.alarm = None;
                self.input(Input::Retry);
            }
            Some(left) => self.alarm = left.checked_sub(passed),
            None => {}
        }
    }

    pub(super) fn set_clock(&mut self, s: i64) {
        self.now = self
            .now
            .offset_ms(s * 1000)
            .clamp(Timestamp::EPOCH, latest());
    }

    pub(super) fn restart(&mut self) {
        self.input(Input::Stopping);
        self.settle();
        self.crash();
    }

    pub(super) fn crash(&mut self) {
        self.crash_in = None;
        self.jobs.clear();
        self.cell = None;
        self.shadow = None;
        self.watch = None;
        self.alarm = None;
        let releases = self.disk.iter().flat_map(|disk| &disk.releases);
        self.newest = releases
            .map(|(group, known)| {
                let key = (group.clone(), known.sequence.0);
                (group.clone(), self.taken[&key].clone())
            })
            .collect();
        let factory = self.factory.then_some(FACTORY);
        self.machine = SlotMachine::start(setup(factory), self.disk.clone(), self.now);
    }
}

/// A thousand years on: more than a history has.
fn latest() -> Timestamp {
    Timestamp::EPOCH.offset_ms(31_557_600_000_000)
}

fn loss(digest: Digest, live: bool) -> f64 {
    match number_of(&digest) {
        WORSE => 2.0,
        WORSE_LIVE if live => 2.0,
        _ => 1.0,
    }
}

fn losses(n: u64) -> lamppost_models::trial::Moments {
    lamppost_models::trial::Moments {
        n,
        mean: 1.0,
        m2: 0.0,
    }
}
