//! A simulated node: how far it is with the candidate, and what it says of it.

use std::time::Duration;

use lamppost_models::Timestamp;
use lamppost_models::id::RolloutId;
use lamppost_models::message::Verdict;
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::trial::Moments;

use super::rng::Rng;
use super::{Behaviour, Member, Scenario};

mod told;

/// How long the check of a bundle takes: golden vectors and latency, in a process of its own.
pub(super) const CHECK: Duration = Duration::from_secs(3);
/// How much nodes differ in how they take to a candidate: a standard deviation, of the ratio of losses.
const NODES_DIFFER: f64 = 0.05;
/// How far the errors of both versions agree, as a correlation: both see the same readings.
const AGREEMENT: f64 = 0.8;
/// Labels that a node had before.
const LABELS_BEFORE: u64 = 200;
/// Labels from which on a node compares errors, as agents do.
const LABELS_MIN: u64 = 8;
/// Standard errors that a node leaves for chance, as agents do.
const STANDARD_ERRORS: f64 = 2.0;

/// What all nodes of a run have in common.
#[derive(Debug)]
pub(super) struct Common<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) id: RolloutId,
    pub(super) from: BundleRef,
    pub(super) terms: lamppost_models::rollout::TrialTerms,
}

/// How far a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It runs what it ran, and is to run nothing else.
    Before,
    /// It waits for its hours.
    Closed {
        opens_ms: i64,
    },
    /// It waits for a place.
    Queued,
    Fetching {
        until_ms: i64,
    },
    Checking {
        until_ms: i64,
    },
    Shadow {
        since_ms: i64,
    },
    Probation {
        since_ms: i64,
    },
    Passed,
    /// It refused it, or went back.
    Failed {
        verdict: Verdict,
        live: bool,
    },
}

/// What a node asks of the depot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A place.
    Asks,
    /// Nothing more: its download is over.
    Fetched,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) member: Member,
    pub(super) phase: Phase,
    /// The one time at which it acts next.
    pub(super) wake_ms: Option<i64>,
    rng: Rng,
    /// The candidate's loss here, the active version's being 1.
    ratio: f64,
    /// When its trial began, by which release.
    trial: Option<(i64, Sequence)>,
    /// Up to when labels were drawn, and the part of one that is left over.
    drawn_ms: i64,
    left: f64,
    from_loss: Moments,
    to_loss: Moments,
    shadow: Option<Shadowed>,
}

/// Losses on the same windows.
#[derive(Clone, Copy, Debug, Default)]
struct Shadowed {
    candidate: Moments,
    active: Moments,
    difference: Moments,
    /// The candidate's loss less the most that the terms allow.
    excess: Moments,
    windows: u64,
}

impl Node {
    pub(super) fn new(common: &Common<'_>, member: Member, mut rng: Rng) -> Self {
        let differs = (NODES_DIFFER * rng.normal()).exp();
        let mut node = Self {
            member,
            phase: Phase::Before,
            wake_ms: None,
            ratio: common.scenario.candidate.loss_ratio() * differs,
            rng,
            trial: None,
            drawn_ms: 0,
            left: 0.0,
            from_loss: Moments::default(),
            to_loss: Moments::default(),
            shadow: None,
        };
        if common.scenario.labels_per_hour > 0.0 {
            for _ in 0..LABELS_BEFORE {
                let (active, _) = node.losses();
                node.from_loss.add(active);
            }
        }
        node
    }

    /// Its trial begins.
    pub(super) fn begin(&mut self, now_ms: i64, sequence: Sequence) {
        self.trial = Some((now_ms, sequence));
        self.drawn_ms = now_ms;
    }

    /// The candidate runs beside the active version.
    pub(super) fn shadow(&mut self, now_ms: i64) {
        self.shadow = Some(Shadowed::default());
        (self.drawn_ms, self.left) = (now_ms, 0.0);
        self.phase = Phase::Shadow { since_ms: now_ms };
    }

    /// The candidate takes the active version's place.
    fn go_live(&mut self, common: &Common<'_>, now_ms: i64) {
        self.to_loss = Moments::default();
        (self.drawn_ms, self.left) = (now_ms, 0.0);
        self.phase = if common.terms.probation.is_some() {
            Phase::Probation { since_ms: now_ms }
        } else {
            Phase::Passed
        };
    }

    pub(super) const fn live(&self) -> bool {
        matches!(self.phase, Phase::Probation { .. } | Phase::Passed)
    }

    /// Does what it is time for; says what that asks of the depot.
    pub(super) fn turn(&mut self, common: &Common<'_>, now_ms: i64) -> Option<Turn> {
        let failed = |verdict, live| Phase::Failed { verdict, live };
        match self.phase {
            Phase::Closed { opens_ms } if opens_ms <= now_ms => {
                self.phase = Phase::Queued;
                return Some(Turn::Asks);
            }
            Phase::Fetching { until_ms } if until_ms <= now_ms => {
                let until_ms = now_ms + ms(CHECK);
                self.phase = Phase::Checking { until_ms };
                return Some(Turn::Fetched);
            }
            Phase::Checking { until_ms } if until_ms <= now_ms => match check(common) {
                Some(verdict) => self.phase = failed(verdict, false),
                None if common.terms.shadow.is_some() => self.shadow(now_ms),
                None => self.go_live(common, now_ms),
            },
            Phase::Shadow { since_ms } if self.done_ms(common, since_ms) <= now_ms => {
                match self.judge_shadow(common) {
                    Some(verdict) => self.phase = failed(verdict, false),
                    None => self.go_live(common, now_ms),
                }
            }
            Phase::Probation { since_ms } if self.done_ms(common, since_ms) <= now_ms => {
                let verdict = self.judge_probation(common);
                self.phase = verdict.map_or(Phase::Passed, |verdict| failed(verdict, true));
            }
            Phase::Before
            | Phase::Closed { .. }
            | Phase::Queued
            | Phase::Fetching { .. }
            | Phase::Checking { .. }
            | Phase::Shadow { .. }
            | Phase::Probation { .. }
            | Phase::Passed
            | Phase::Failed { .. } => {}
        }
        None
    }

    /// When a shadow or probation that began at `since_ms` is over.
    pub(super) fn done_ms(&self, common: &Common<'_>, since_ms: i64) -> i64 {
        let Scenario {
            windows_per_hour,
            labels_per_hour,
            candidate,
            ..
        } = common.scenario;
        let shadow = common.terms.shadow.as_ref();
        let probation = common.terms.probation.as_ref();
        let (windows, labels, time_s_max, crashes) = if let Phase::Shadow { .. } = self.phase {
            shadow.map_or((0, 0, 0, 1), |at| (at.windows, at.labels, at.time_s_max, 1))
        } else {
            probation.map_or((0, 0, 0, 1), |at| {
                (at.windows, at.labels, at.time_s_max, at.crashes)
            })
        };
        if *candidate == Behaviour::Crashes {
            return since_ms.saturating_add(takes_ms(crashes, *windows_per_hour));
        }
        let had_windows = takes_ms(windows, *windows_per_hour);
        let longest = had_windows.saturating_add(ms(Duration::from_secs(time_s_max)));
        let had_labels = takes_ms(labels, *labels_per_hour);
        since_ms.saturating_add(had_windows.max(had_labels.min(longest)))
    }

    /// Draws the labels that came up to now.
    pub(super) fn observe(&mut self, common: &Common<'_>, now_ms: i64) {
        let hours = (now_ms - self.drawn_ms).max(0) as f64 / 3_600_000.0;
        self.drawn_ms = now_ms;
        self.left += hours * common.scenario.labels_per_hour;
        let shadow = common.terms.shadow.as_ref();
        let most = shadow.and_then(|shadow| shadow.error_ratio_max);
        let shadowing = if let Phase::Shadow { since_ms } = self.phase {
            Some(since_ms)
        } else {
            None
        };
        while self.left >= 1.0 {
            self.left -= 1.0;
            let (active, candidate) = self.losses();
            if self.live() {
                self.to_loss.add(candidate);
                continue;
            }
            self.from_loss.add(active);
            if let Some(shadow) = self.shadow.as_mut().filter(|_| shadowing.is_some()) {
                shadow.active.add(active);
                shadow.candidate.add(candidate);
                shadow.difference.add(candidate - active);
                shadow.excess.add(candidate - most.unwrap_or(1.0) * active);
            }
        }
        if let (Some(since_ms), Some(shadow)) = (shadowing, self.shadow.as_mut()) {
            shadow.windows = windows(common, since_ms, now_ms);
        }
    }

    /// What a shadow that is over comes to.
    fn judge_shadow(&self, common: &Common<'_>) -> Option<Verdict> {
        if common.scenario.candidate == Behaviour::Crashes {
            return Some(Verdict::Crashed);
        }
        let limit = common.terms.shadow.as_ref()?.error_ratio_max;
        let excess = self.shadow?.excess;
        let worse = limit.is_some() && beyond(excess.mean, excess.variance() / excess.n as f64);
        (worse && excess.n >= LABELS_MIN).then_some(Verdict::Worse)
    }

    /// What a probation that is over comes to.
    fn judge_probation(&self, common: &Common<'_>) -> Option<Verdict> {
        if common.scenario.candidate == Behaviour::Crashes {
            return Some(Verdict::Crashed);
        }
        let limit = common.terms.probation.as_ref()?.error_ratio_max?;
        let before = self.shadow.map_or(self.from_loss, |shadow| shadow.active);
        let now = self.to_loss;
        if now.n.min(before.n) < LABELS_MIN {
            return None;
        }
        let spread =
            now.variance() / now.n as f64 + limit * limit * before.variance() / before.n as f64;
        beyond(now.mean - limit * before.mean, spread).then_some(Verdict::Worse)
    }

    /// Losses of the active version and of the candidate on one label.
    fn losses(&mut self) -> (f64, f64) {
        let (shared, own) = (self.rng.normal(), self.rng.normal());
        let other = AGREEMENT * shared + (1.0 - AGREEMENT * AGREEMENT).sqrt() * own;
        (shared.abs(), self.ratio * other.abs())
    }
}

/// What the check of the bundle comes to.
fn check(common: &Common<'_>) -> Option<Verdict> {
    let ratio = common.scenario.candidate.latency_ratio();
    let limit = common.terms.latency_ratio_max;
    limit
        .is_some_and(|limit| ratio > limit)
        .then_some(Verdict::TooSlow)
}

/// Whether a difference is above 0 by more than chance.
fn beyond(mean: f64, variance: f64) -> bool {
    mean > STANDARD_ERRORS * variance.max(0.0).sqrt()
}

fn windows(common: &Common<'_>, since_ms: i64, now_ms: i64) -> u64 {
    let hours = (now_ms - since_ms).max(0) as f64 / 3_600_000.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and no time is below 0"
    )]
    let windows = (hours * common.scenario.windows_per_hour) as u64;
    windows
}

/// How long so many take at so many an hour: for ever at none.
fn takes_ms(count: u64, per_hour: f64) -> i64 {
    if count == 0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float cast saturates, which is for ever"
    )]
    let takes_ms = (count as f64 / per_hour * 3_600_000.0).ceil() as i64;
    takes_ms
}

pub(super) fn at(common: &Common<'_>, after_ms: i64) -> Timestamp {
    common.scenario.begins.offset_ms(after_ms)
}

pub(super) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
