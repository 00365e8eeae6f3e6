//! A node: its disk, its slot machine, and a shell that does what the machine wishes.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_agent_core::slot::{
    ActivateFailure, Backoff, CheckOutcome, Effect, FAILURES_MAX_DEFAULT, FetchFailure, Input,
    ShadowEnd, SlotMachine, SlotRecord, SlotSetup,
};
use lamppost_agent_core::trial::{Measured, Preflight};
use lamppost_models::message::{NodeState, Quality, ReportedModel, ReportedOutbox, Verdict};
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::{Tags, Who};
use lamppost_models::time::Zone;
use lamppost_models::trial::{Comparison, Moments, Side, Watch};
use lamppost_models::{
    BootId, Digest, GroupId, ModelName, NodePath, Reported, Status, Timestamp, V1,
};

use crate::rng::Rng;
use crate::version::{Bundles, Nature};

/// A node, whether its agent runs or not.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: NodePath,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) tags: Tags,
    pub(crate) zone: Zone,
    model: ModelName,
    pub(crate) disk: Disk,
    /// What its clock is ahead.
    pub(crate) clock_ms: i64,
    pub(crate) link: bool,
    /// Its sensor says nothing.
    pub(crate) silent: bool,
    /// Of a hundred windows, so many get a label.
    pub(crate) labelled: u64,
    /// The first version's mean error here.
    loss: f64,
    /// Counts the agent's runs.
    pub(crate) life: u64,
    pub(crate) live: Option<Live>,
    /// Bundles that passed their check here, or ran here before.
    pub(crate) checked: BTreeSet<Digest>,
}

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) record: Option<SlotRecord>,
    pub(crate) files: BTreeSet<Digest>,
    pub(crate) full: bool,
}

/// A run of the agent.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) machine: SlotMachine,
    /// What runs.
    pub(crate) cell: Option<Digest>,
    /// Jobs under way, by number.
    pub(crate) jobs: BTreeMap<u64, Effect>,
    next_job: u64,
    /// Counts the alarms that were set: an older one is no more.
    pub(crate) alarm: u64,
    shadow: Option<(Digest, Comparison)>,
    watch: Option<(Digest, Watch)>,
    /// How each version did, in this run.
    sides: BTreeMap<Digest, (u64, Side)>,
    told_worked: Option<Digest>,
}

/// What is to happen because of an effect.
#[derive(Debug)]
pub(crate) enum Follow {
    /// Nothing.
    Nothing,
    /// The machine is told at once.
    Tell(Input),
    /// A job ends after so many milliseconds.
    Job(u64, u64),
    /// The alarm rings after so many milliseconds.
    Alarm(u64, u64),
}

/// How the world stands to a job that ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Luck {
    /// The coordinator serves.
    pub(crate) served: bool,
    /// Nothing goes wrong by chance.
    pub(crate) kind: bool,
}

impl Node {
    pub(crate) fn new(at: usize, model: &ModelName, rng: &mut Rng) -> Self {
        let name = |text: String| text.parse();
        let mut groups: Vec<GroupId> = vec!["all".parse().expect("a name")];
        if rng.chance(20) {
            groups.push("canary".parse().expect("a name"));
        }
        let backhaul = format!("lte-{}", rng.below(3));
        let zones = ["UTC", "Europe/Berlin", "America/Chicago", "+09:00"];
        Self {
            path: NodePath {
                site: "city".parse().expect("a name"),
                node: format!("gw-{at}").parse().expect("a name"),
            },
            groups,
            tags: Tags::from([(
                "backhaul".parse().expect("a name"),
                name(backhaul).expect("a name"),
            )]),
            zone: zones[rng.index(0, 3)].parse().expect("a zone"),
            model: model.clone(),
            disk: Disk::default(),
            clock_ms: 0,
            link: true,
            silent: false,
            labelled: [0, 50, 90, 100][rng.index(0, 3)],
            loss: 5.0 + rng.below(20) as f64,
            life: 0,
            live: None,
            checked: BTreeSet::new(),
        }
    }

    pub(crate) fn who(&self) -> Who<'_> {
        Who {
            path: &self.path,
            groups: &self.groups,
            tags: &self.tags,
        }
    }

    pub(crate) fn clock(&self, now: Timestamp) -> Timestamp {
        now.offset_ms(self.clock_ms)
    }

    /// The agent starts, from what is on the disk.
    pub(crate) fn start(&mut self, now: Timestamp) {
        self.life += 1;
        let setup = SlotSetup {
            model: self.model.clone(),
            path: self.path.clone(),
            groups: self.groups.clone(),
            tags: self.tags.clone(),
            zone: self.zone.clone(),
            factory: None,
            agent: "1".to_owned(),
            backoff: Backoff::new(self.life),
            failures_max: FAILURES_MAX_DEFAULT,
        };
        self.live = Some(Live {
            machine: SlotMachine::start(setup, self.disk.record.clone(), self.clock(now)),
            cell: None,
            jobs: BTreeMap::new(),
            next_job: 0,
            alarm: 0,
            shadow: None,
            watch: None,
            sides: BTreeMap::new(),
            told_worked: None,
        });
    }

    /// Does what the machine wishes, or begins to.
    pub(crate) fn perform(&mut self, effect: Effect, rng: &mut Rng, kind: bool) -> Follow {
        let Some(live) = &mut self.live else {
            return Follow::Nothing;
        };
        match effect {
            Effect::Save(record) => {
                let written = !self.disk.full || rng.chance(10);
                let known = !self.disk.full && (kind || !rng.chance(2));
                if written {
                    self.disk.record = Some(record);
                }
                return Follow::Tell(if known {
                    Input::Saved
                } else {
                    Input::SaveFailed
                });
            }
            Effect::Fetch(ref bundle) => {
                let ms = 1_000 + bundle.bytes / 20;
                return live.job(effect, ms);
            }
            Effect::Check(_) => return live.job(effect, 1_000 + rng.below(9_000)),
            Effect::Activate(_) => {
                live.jobs
                    .retain(|_, job| !matches!(job, Effect::Activate(_)));
                return live.job(effect, 100 + rng.below(900));
            }
            Effect::Shadow { bundle, .. } => {
                live.shadow = Some((bundle.digest, Comparison::default()));
            }
            Effect::StopShadow(digest) => {
                live.shadow.take_if(|(of, _)| *of == digest);
            }
            Effect::Watch(digest) => {
                let before = live
                    .machine
                    .record()
                    .previous
                    .as_ref()
                    .and_then(|held| live.sides.get(&held.bundle.digest));
                let before = before.map_or_else(Side::default, |(_, side)| *side);
                let watch = Watch {
                    before,
                    ..Watch::default()
                };
                live.watch = Some((digest, watch));
            }
            Effect::StopWatch(digest) => {
                live.watch.take_if(|(of, _)| *of == digest);
            }
            Effect::Cancel(digest) => live.jobs.retain(|_, job| match job {
                Effect::Fetch(bundle) | Effect::Check(bundle) => bundle.digest != digest,
                _ => true,
            }),
            Effect::Deactivate => {
                live.jobs
                    .retain(|_, job| !matches!(job, Effect::Activate(_)));
                live.cell = None;
            }
            Effect::Sweep => {
                let keeps = live.machine.keeps();
                self.disk.files.retain(|digest| keeps.contains(digest));
            }
            Effect::RetryAfter(after) => {
                live.alarm += 1;
                let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                return Follow::Alarm(live.alarm, ms.max(1));
            }
        }
        Follow::Nothing
    }

    /// What a job comes to.
    pub(crate) fn finish(
        &mut self,
        job: u64,
        bundles: &Bundles,
        luck: Luck,
        rng: &mut Rng,
    ) -> Option<Input> {
        let live = self.live.as_mut()?;
        let detail = "as it happens".to_owned();
        Some(match live.jobs.remove(&job)? {
            Effect::Fetch(BundleRef { digest, bytes, .. }) => {
                let failure = if !luck.kind && rng.chance(3) {
                    Some(FetchFailure::DigestMismatch)
                } else if !luck.kind && rng.chance(10) {
                    let after = std::time::Duration::from_secs(30);
                    Some(FetchFailure::Busy { after })
                } else if self.disk.full || !self.link || !luck.served {
                    Some(FetchFailure::Unavailable)
                } else {
                    None
                };
                if let Some(failure) = failure {
                    Input::FetchFailed {
                        digest,
                        failure,
                        detail,
                    }
                } else {
                    self.disk.files.insert(digest);
                    Input::Fetched {
                        digest,
                        fetched_bytes: bytes,
                    }
                }
            }
            Effect::Check(BundleRef { digest, .. }) => {
                let nature = bundles.nature(&digest);
                let outcome = if !luck.kind && rng.chance(5) {
                    CheckOutcome::Undecided { detail }
                } else if !self.disk.files.contains(&digest) {
                    CheckOutcome::Damaged { detail }
                } else if nature == Nature::BadGolden {
                    CheckOutcome::Refused {
                        verdict: Verdict::GoldenMismatch,
                        detail,
                    }
                } else {
                    self.checked.insert(digest);
                    let active = live.cell.map(|active| measured(bundles.nature(&active)));
                    CheckOutcome::Passed(Preflight {
                        candidate: measured(nature),
                        active,
                    })
                };
                Input::Checked { digest, outcome }
            }
            Effect::Activate(BundleRef { digest, .. }) => {
                if self.disk.files.contains(&digest) {
                    live.cell = Some(digest);
                    live.told_worked = None;
                    Input::Activated { digest }
                } else {
                    Input::ActivateFailed {
                        digest,
                        failure: ActivateFailure::Damaged,
                        detail,
                    }
                }
            }
            _ => return None,
        })
    }

    /// A window is scored. Says what the machine is told, and whether the agent dies of it.
    pub(crate) fn window(&mut self, bundles: &Bundles, rng: &mut Rng) -> (Vec<Input>, bool) {
        let Some(live) = &mut self.live else {
            return (Vec::new(), false);
        };
        let Some(active) = live.cell else {
            return (Vec::new(), false);
        };
        let mut inputs = Vec::new();
        let nature = bundles.nature(&active);
        if nature == Nature::CrashesLive && rng.chance(20) {
            return (inputs, true);
        }
        let noise = self.loss * (1 + rng.below(200)) as f64 / 100.0;
        let label = rng.chance(self.labelled);
        let failed = nature == Nature::Failing && rng.chance(50);
        let loss = noise * nature.loss();
        let (count, side) = live.sides.entry(active).or_default();
        *count += 1;
        note(side, nature, failed, label.then_some(loss));
        let told = |detail| Input::InferenceFailed {
            digest: active,
            detail,
        };
        if failed {
            inputs.push(told("its output is not finite".to_owned()));
        } else if live.told_worked != Some(active) {
            live.told_worked = Some(active);
            inputs.push(Input::InferenceWorked { digest: active });
        }
        if let Some((digest, watch)) = live.watch.as_mut().filter(|(of, _)| *of == active) {
            watch.windows += 1;
            note(&mut watch.active, nature, failed, label.then_some(loss));
            inputs.push(Input::Watched {
                digest: *digest,
                watch: watch.clone(),
            });
        }
        if let Some((digest, comparison)) = &mut live.shadow {
            let candidate = bundles.nature(digest);
            let died = candidate == Nature::CrashesInShadow && rng.chance(30);
            if died {
                inputs.push(Input::ShadowEnded {
                    digest: *digest,
                    end: ShadowEnd::Refused {
                        verdict: Verdict::Crashed,
                        detail: "its process died of signal 11".to_owned(),
                    },
                });
                live.shadow = None;
            } else {
                let theirs = noise * candidate.loss() * (90 + rng.below(21)) as f64 / 100.0;
                let fails = candidate == Nature::Failing && rng.chance(50);
                comparison.windows += 1;
                note(
                    &mut comparison.active,
                    nature,
                    failed,
                    label.then_some(loss),
                );
                note(
                    &mut comparison.candidate,
                    candidate,
                    fails,
                    label.then_some(theirs),
                );
                comparison.disagreement.add((theirs - loss).abs());
                if label && !fails && !failed {
                    comparison.loss_difference.add(theirs - loss);
                }
                inputs.push(Input::Shadowed {
                    digest: *digest,
                    comparison: comparison.clone(),
                });
            }
        }
        (inputs, false)
    }

    pub(crate) fn status(&self, now: Timestamp, up: bool) -> Status {
        Status {
            v: V1,
            state: if up { NodeState::Up } else { NodeState::Down },
            boot: BootId::from_u64(self.life),
            at: self.clock(now),
            agent: "1".to_owned(),
            groups: self.groups.clone(),
            tags: self.tags.clone(),
        }
    }

    pub(crate) fn report(&self, now: Timestamp) -> Option<Reported> {
        let live = self.live.as_ref()?;
        let mut row = live.machine.report();
        live.count(&mut row);
        Some(Reported {
            v: V1,
            boot: BootId::from_u64(self.life),
            at: self.clock(now),
            models: vec![row],
            streams: Vec::new(),
            outbox: ReportedOutbox::default(),
            trust: None,
        })
    }
}

impl Live {
    fn job(&mut self, effect: Effect, ms: u64) -> Follow {
        let number = self.next_job;
        self.next_job += 1;
        self.jobs.insert(number, effect);
        Follow::Job(number, ms)
    }

    /// Puts the shell's counters into a row.
    fn count(&self, row: &mut ReportedModel) {
        for slot in [&mut row.active, &mut row.previous].into_iter().flatten() {
            if let Some((count, side)) = self.sides.get(&slot.digest) {
                slot.predictions = *count;
                slot.quality = quality(&side.loss);
            }
        }
    }
}

fn measured(nature: Nature) -> Measured {
    let (latency_p50_us, latency_p99_us) = nature.latency_us();
    Measured {
        inferences: 200,
        latency_p50_us,
        latency_p99_us,
        memory_bytes: 1 << 20,
    }
}

fn note(side: &mut Side, nature: Nature, failed: bool, loss: Option<f64>) {
    (side.latency_p50_us, side.latency_p99_us) = nature.latency_us();
    if failed {
        side.failures += 1;
    } else if let Some(loss) = loss {
        side.loss.add(loss);
    }
}

fn quality(loss: &Moments) -> Option<Quality> {
    let n = loss.n as f64;
    (loss.n > 0).then(|| Quality::Error {
        labels: loss.n,
        mae: loss.mean,
        rmse: (loss.m2 / n + loss.mean * loss.mean).sqrt(),
    })
}
