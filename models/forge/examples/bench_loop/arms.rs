//! Ways to go on once a model is live.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use lamppost_agent_core::drift::{DriftMonitor, DriftSpec};
use lamppost_coordinator_core::learning::{
    Cost, Decision, Ended, ErrorNow, Known, Learning, Outcome, Piece, Terms, between, has_grown,
};
use lamppost_coordinator_core::rollout::policy::Bytes;
use lamppost_models::id::PredictionId;
use lamppost_models::message::{Batch, ModelRef, Sample, SampleOrigin, SamplePolicy};
use lamppost_models::{BootId, Digest, Epoch, Prediction, Timestamp, V1};

use crate::i94::{Hours, Window};
use crate::model::Version;

/// Windows on which a node compares a candidate with the active version: two days of hours.
const SHADOW: usize = 48;
/// Greatest error of a candidate, of the active version's: as a rollout's gate has it.
const LOSS_RATIO_MAX: f64 = 1.05;
/// How much later the label is read.
const HORIZON: Duration = Duration::from_hours(1);
/// Level of zstd in the agent's outbox.
const LEVEL: i32 = 3;

/// A way.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Never,
    Always,
    Loop { share: f64 },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Always => f.write_str("always"),
            Self::Loop { share } => write!(f, "loop, {:.0} % of windows", 100.0 * share),
        }
    }
}

/// What came of a way.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    pub(crate) mae: f64,
    pub(crate) trainings: f64,
    pub(crate) live: f64,
    pub(crate) up: f64,
    pub(crate) down: f64,
}

impl Told {
    pub(crate) fn bytes(&self) -> f64 {
        self.up + self.down
    }
}

/// As shipped, but that one per cent less error is worth 10 kB: a node's share in a fleet of a hundred.
fn terms() -> Terms {
    Terms {
        bytes_per_percent: Bytes(10_000),
        ..Terms::default()
    }
}

/// Walks over all windows since 2013.
pub(crate) fn walk(
    hours: &Hours,
    kind: Kind,
    seed: u64,
    tell: bool,
) -> Result<Told, Box<dyn Error>> {
    let (before, after) = hours.windows.split_at(hours.before);
    let mut centre = Centre::new(hours, Version::first(before, seed)?, kind, seed);
    centre.tell = tell;
    let mut day = i64::MIN;
    let mut month = String::new();
    for (at, window) in after.iter().enumerate() {
        if window.day() != day {
            day = window.day();
            centre.collect()?;
            match kind {
                Kind::Never => {}
                Kind::Always => {
                    if !month.is_empty() && window.month() != month {
                        centre.train_always()?;
                    }
                }
                Kind::Loop { .. } => centre.look(window.ts())?,
            }
            month = window.month();
        }
        centre.predict(hours.before + at)?;
    }
    centre.collect()?;
    Ok(Told {
        mae: centre.sum / after.len() as f64,
        trainings: f64::from(centre.trainings),
        live: f64::from(centre.live),
        up: centre.up as f64,
        down: centre.down as f64,
    })
}

/// A version in shadow.
struct Trial {
    version: Version,
    outcome: Outcome,
    /// Sums of errors of the active version and of it, and of how many windows.
    errors: (f64, f64),
    windows: usize,
}

/// Node and centre of one way.
struct Centre<'a> {
    windows: &'a [Window],
    kind: Kind,
    seed: u64,
    /// Whether each training and its outcome are printed.
    tell: bool,
    terms: Terms,
    learning: Learning,
    active: Version,
    trial: Option<Trial>,
    /// All absolute errors.
    sum: f64,
    drift: DriftMonitor,
    /// Windows whose samples wait at the node, those at the centre, and bytes that took since the active version was trained.
    waiting: Vec<usize>,
    stored: Vec<usize>,
    /// Those and what lies between them, in the order of time.
    lessons: Vec<usize>,
    collected: u64,
    seconds: f64,
    bundle_bytes: u64,
    trainings: u32,
    live: u32,
    up: u64,
    down: u64,
}

impl<'a> Centre<'a> {
    fn new(hours: &'a Hours, active: Version, kind: Kind, seed: u64) -> Self {
        Self {
            windows: &hours.windows,
            kind,
            seed,
            tell: false,
            terms: terms(),
            learning: Learning::default(),
            bundle_bytes: active.bundle.len() as u64,
            active,
            trial: None,
            sum: 0.0,
            drift: DriftMonitor::new(DriftSpec::default()),
            waiting: Vec::new(),
            // What the first version was made from is at the centre.
            stored: (0..hours.before).collect(),
            lessons: (0..hours.before).collect(),
            collected: 0,
            seconds: 0.0,
            trainings: 0,
            live: 0,
            up: 0,
            down: 0,
        }
    }

    /// The node predicts, compares and keeps a sample by its policy.
    fn predict(&mut self, at: usize) -> Result<(), Box<dyn Error>> {
        let window = &self.windows[at];
        let error = self.active.error(window)?;
        self.sum += error;
        let engine = self.active.session.engine();
        let digest = engine.digest();
        if let Some(newest) = window.readings.last() {
            self.drift.scored(digest, engine.manifest(), newest);
        }
        self.drift.joined(&digest, window.ts(), error);
        let kept = match self.kind {
            Kind::Never => false,
            Kind::Always => true,
            Kind::Loop { share } => lot(self.seed, at) < share,
        };
        if kept {
            self.waiting.push(at);
        }
        if let Some(trial) = &mut self.trial {
            trial.errors.0 += error;
            trial.errors.1 += trial.version.error(window)?;
            trial.windows += 1;
            if trial.windows == SHADOW {
                self.judge(window.ts());
            }
        }
        Ok(())
    }

    /// A day's samples go to the centre; each has been a batch of its own at the node, for the next came an hour later.
    fn collect(&mut self) -> Result<(), Box<dyn Error>> {
        for at in std::mem::take(&mut self.waiting) {
            let batch = Batch {
                v: V1,
                epoch: Epoch::from_u64(self.seed),
                number: at as u64,
                stream: "i94-volume".parse()?,
                records: vec![self.sample(at)?],
            };
            let bytes = zstd::bulk::compress(&serde_json::to_vec(&batch)?, LEVEL)?.len() as u64;
            self.up += bytes;
            self.collected += bytes;
            self.stored.push(at);
        }
        Ok(())
    }

    /// As the agent writes it.
    fn sample(&mut self, at: usize) -> Result<Sample, Box<dyn Error>> {
        let window = &self.windows[at];
        let (boot, seq) = (BootId::from_u64(self.seed), at as u64);
        let output = self.active.session.run(&window.readings)?;
        let manifest = self.active.session.engine().manifest();
        let prediction = Prediction {
            v: V1,
            id: PredictionId { boot, number: seq },
            ts: window.ts(),
            target_ts: Some(window.ts().offset_ms(3_600_000)),
            stream: "i94-volume".parse()?,
            seq,
            boot,
            model: ModelRef {
                name: manifest.name.clone(),
                version: manifest.version.clone(),
                digest: Digest::of(&self.active.bundle),
            },
            label: None,
            score: None,
            scores: None,
            value: output.value,
            unit: output.unit,
            latency_us: 183,
            replay: false,
        };
        Ok(Sample {
            v: V1,
            ts: window.ts(),
            origin: Some(SampleOrigin {
                boot,
                seq,
                model: manifest.name.clone(),
                policy: if matches!(self.kind, Kind::Always) {
                    SamplePolicy::All
                } else {
                    SamplePolicy::Random
                },
                consent: "council-2026-17".parse()?,
            }),
            window: window
                .readings
                .iter()
                .map(|reading| (**reading).clone())
                .collect(),
            prediction: Some(prediction),
            label: Some(window.truth.clone()),
        })
    }

    /// What the centre can learn from: samples, and the windows between them.
    fn learn(&mut self) {
        let pieces: Vec<Piece<'_>> = self
            .stored
            .iter()
            .map(|&at| Piece {
                window: &self.windows[at].readings,
                label: &self.windows[at].truth,
            })
            .collect();
        let spec = &self.active.session.engine().manifest().window;
        let cuts = between(&pieces, spec, HORIZON);
        let newest = cuts.iter().filter_map(|cut| Some(cut.window.last()?.ts));
        let place = |ts| self.windows.binary_search_by_key(&ts, Window::ts).ok();
        self.lessons = self
            .stored
            .iter()
            .copied()
            .chain(newest.filter_map(place))
            .collect();
        self.lessons.sort_unstable();
    }

    /// The next version goes live, whatever it is like.
    fn train_always(&mut self) -> Result<(), Box<dyn Error>> {
        self.learn();
        let (next, _) = self.active.next(self.windows, &self.lessons, self.seed)?;
        self.trainings += 1;
        self.down += next.fetched(&self.active)?;
        self.go_live(next);
        Ok(())
    }

    /// The loop looks, once a day.
    fn look(&mut self, now: Timestamp) -> Result<(), Box<dyn Error>> {
        if self.trial.is_some() {
            return Ok(());
        }
        self.learn();
        let drift = self.drift.reported();
        let known = Known {
            trained_on: self.active.samples,
            labelled: (self.lessons.len() as u64).saturating_sub(self.active.samples),
            collected_bytes: self.collected,
            nodes: 1,
            bundle_bytes: self.bundle_bytes,
            seconds: self.seconds,
            drifted: drift
                .as_ref()
                .map_or(0, |drift| u64::from(has_grown(drift))),
            error: drift.as_ref().and_then(ErrorNow::of),
        };
        let decision = self.learning.decide(&self.terms, &known, now);
        let Decision::Train { reckoning, .. } = decision else {
            return Ok(());
        };
        if self.tell {
            println!("{now} {decision}");
        }
        let started = Instant::now();
        let (version, (found, was)) = self.active.next(self.windows, &self.lessons, self.seed)?;
        self.trainings += 1;
        self.seconds = started.elapsed().as_secs_f64();
        let fetched_bytes = version.fetched(&self.active)?;
        self.bundle_bytes = fetched_bytes;
        let gain = 1.0 - found / was;
        let better = gain > 0.0;
        let outcome = Outcome {
            at: now,
            samples: known.labelled,
            expected: reckoning.expected,
            cost: Cost {
                collected_bytes: self.collected,
                fetched_bytes: if better { fetched_bytes } else { 0 },
                seconds: self.seconds,
            },
            ended: Ended::NotBetter {
                gain,
                why: format!("held-out error {found:.1}, active {was:.1}"),
            },
        };
        if better {
            self.down += fetched_bytes;
            self.trial = Some(Trial {
                version,
                outcome,
                errors: (0.0, 0.0),
                windows: 0,
            });
        } else {
            self.learning.record(outcome, &self.terms);
        }
        Ok(())
    }

    /// The shadow's verdict.
    fn judge(&mut self, now: Timestamp) {
        let Some(Trial {
            version,
            mut outcome,
            errors: (active, candidate),
            ..
        }) = self.trial.take()
        else {
            return;
        };
        outcome.at = now;
        let ratio = candidate / active;
        outcome.ended = if ratio <= LOSS_RATIO_MAX {
            Ended::Promoted { gain: 1.0 - ratio }
        } else {
            Ended::Refused {
                why: format!("its error is {ratio:.3} of the active version's"),
            }
        };
        if self.tell {
            println!("{now} {outcome:?}");
        }
        let promoted = matches!(outcome.ended, Ended::Promoted { .. });
        self.learning.record(outcome, &self.terms);
        if promoted {
            self.go_live(version);
        }
    }

    fn go_live(&mut self, version: Version) {
        self.active = version;
        self.live += 1;
        self.collected = 0;
    }
}

/// A number from 0 to below 1 for each window: splitmix64 (Steele, Lea and Flood, 2014).
fn lot(seed: u64, at: usize) -> f64 {
    let mut mixed = (seed << 32)
        .wrapping_add(at as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
