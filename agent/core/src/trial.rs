//! Whether a version may replace another: what was found of it against the terms that its release sets.
//!
//! Nothing here is statistics for a fleet: that is the coordinator's, over all nodes. A node keeps out what is plainly
//! worse on its own stream, and says why with the numbers.

use std::time::Duration;

use lamppost_models::message::Verdict;
use lamppost_models::rollout::{Probation, Shadow, TrialTerms};
use lamppost_models::trial::{Comparison, Moments, Side, Watch};

/// A 99th percentile up to which no version is called slower than another, in microseconds: below a millisecond it tells what
/// else the machine did (a preemption, a cold cache), and not which network is larger. Whoever must have less sets
/// `latency_us_max`.
pub const LATENCY_FLOOR_US: u64 = 1000;
/// Inferences from which on the 99th percentile is looked at: that of fewer is their maximum, which a single preemption decides.
/// Until then the median is compared.
pub const LATENCY_INFERENCES_MIN: u64 = 100;
/// Labels from which on errors are compared, even where the terms ask for fewer: of four, one odd hour is a quarter.
pub const LABELS_MIN: u64 = 8;
/// Standard errors of the difference that are left for chance: of versions that are equally good, a trial without them would
/// refuse half wherever the terms allow no more error, and with two of them one in forty. What is worse by less than that the
/// coordinator finds out over many nodes.
const STANDARD_ERRORS: f64 = 2.0;

/// What a bundle took on this very machine, over its golden windows and when warm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Inferences.
    pub inferences: u64,
    /// Median of the inference time.
    pub latency_p50_us: u64,
    /// 99th percentile of the inference time.
    pub latency_p99_us: u64,
    /// Memory that opening and running it added.
    pub memory_bytes: u64,
}

/// What a check measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preflight {
    /// The candidate.
    pub candidate: Measured,
    /// The active version at the same time, where it could be measured.
    pub active: Option<Measured>,
}

/// A version that does not meet the terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which check failed.
    pub verdict: Verdict,
    /// What was found, in words.
    pub detail: String,
}

/// What follows from what was found so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// There is too little.
    NotYet,
    /// There are enough windows, and labels are waited for.
    Labels,
    /// The terms are met.
    Met,
    /// They are not.
    Refused(Refusal),
}

/// Judges what a check measured.
pub fn preflight(terms: &TrialTerms, found: &Preflight) -> Judgement {
    let of = |measured: &Measured| Latency {
        inferences: measured.inferences,
        p50_us: measured.latency_p50_us,
        p99_us: measured.latency_p99_us,
    };
    let memory = found.candidate.memory_bytes;
    match terms.memory_bytes_max {
        Some(max) if memory > max => {
            let detail = format!("opening and running it took {memory} bytes, the limit is {max}");
            return refused(Verdict::TooLarge, detail);
        }
        Some(_) | None => {}
    }
    let before = found.active.as_ref().map(of);
    slow(terms, of(&found.candidate), before).map_or(Judgement::Met, Judgement::Refused)
}

/// Judges a candidate beside the active version. `waited` is how long there have been enough windows.
pub fn shadow(
    terms: &TrialTerms,
    shadow: &Shadow,
    found: &Comparison,
    waited: Duration,
) -> Judgement {
    let Comparison {
        windows,
        candidate,
        active,
        ..
    } = found;
    if let Some(refusal) = failing(candidate, shadow.failures, *windows) {
        return Judgement::Refused(refusal);
    }
    if *windows < shadow.windows {
        return Judgement::NotYet;
    }
    let labels = candidate.loss.n.min(active.loss.n);
    if labels < shadow.labels && waited < Duration::from_secs(shadow.time_s_max) {
        return Judgement::Labels;
    }
    let latency = |side| Latency::of(side, *windows);
    let slow = || slow(terms, latency(candidate), Some(latency(active)));
    let disagrees = || disagrees(shadow.disagreement_max, &found.disagreement);
    let worse = || {
        // On the same windows, so that what makes an hour hard is hard for both.
        let noise = STANDARD_ERRORS * standard_error(&found.loss_difference);
        worse(
            shadow.error_ratio_max,
            &candidate.loss,
            &active.loss,
            noise,
            "the active version's on the same windows",
        )
    };
    slow()
        .or_else(disagrees)
        .or_else(worse)
        .map_or(Judgement::Met, Judgement::Refused)
}

/// Judges a new active version. `waited` is how long there have been enough windows.
pub fn probation(
    terms: &TrialTerms,
    probation: &Probation,
    found: &Watch,
    waited: Duration,
) -> Judgement {
    let Watch {
        windows,
        crashes,
        active,
        before,
    } = found;
    if *crashes >= probation.crashes.max(1) {
        let detail = format!(
            "the agent ended {crashes} times without being told to, {} are the limit",
            probation.crashes
        );
        return refused(Verdict::Crashed, detail);
    }
    if let Some(refusal) = failing(active, probation.failures, *windows) {
        return Judgement::Refused(refusal);
    }
    if *windows < probation.windows {
        return Judgement::NotYet;
    }
    if active.loss.n < probation.labels && waited < Duration::from_secs(probation.time_s_max) {
        return Judgement::Labels;
    }
    let timed = before.latency_p99_us > 0;
    let slow = || {
        let before = timed.then(|| Latency::of(before, LATENCY_INFERENCES_MIN));
        slow(terms, Latency::of(active, *windows), before)
    };
    let worse = || {
        // On other windows, at another time of the day.
        let noise =
            STANDARD_ERRORS * standard_error(&active.loss).hypot(standard_error(&before.loss));
        worse(
            probation.error_ratio_max,
            &active.loss,
            &before.loss,
            noise,
            "that of the version before",
        )
    };
    slow()
        .or_else(worse)
        .map_or(Judgement::Met, Judgement::Refused)
}

/// The windows of two runs of the agent taken together.
///
/// Quantiles cannot be added up: those of the run with more windows are kept, for both sides, so that they were measured at
/// the same time.
pub fn comparison_sum(first: &Comparison, second: &Comparison) -> Comparison {
    let larger = if first.windows > second.windows {
        first
    } else {
        second
    };
    let side = |first: &Side, second: &Side, larger: &Side| side_sum(first, second, larger);
    Comparison {
        windows: first.windows.saturating_add(second.windows),
        left_out: first.left_out.saturating_add(second.left_out),
        candidate: side(&first.candidate, &second.candidate, &larger.candidate),
        active: side(&first.active, &second.active, &larger.active),
        disagreement: moments_sum(&first.disagreement, &second.disagreement),
        loss_difference: moments_sum(&first.loss_difference, &second.loss_difference),
    }
}

/// The windows of two runs of the agent taken together, quantiles as in [`comparison_sum`]. Crashes and the version before are
/// those of `first`.
pub fn watch_sum(first: &Watch, second: &Watch) -> Watch {
    let larger = if first.windows > second.windows {
        first
    } else {
        second
    };
    Watch {
        windows: first.windows.saturating_add(second.windows),
        crashes: first.crashes,
        active: side_sum(&first.active, &second.active, &larger.active),
        before: first.before,
    }
}

fn side_sum(first: &Side, second: &Side, larger: &Side) -> Side {
    Side {
        failures: first.failures.saturating_add(second.failures),
        latency_p50_us: larger.latency_p50_us,
        latency_p99_us: larger.latency_p99_us,
        loss: moments_sum(&first.loss, &second.loss),
    }
}

/// Moments of two sets of values taken together (Chan, Golub and LeVeque, "Updating formulae", 1979).
fn moments_sum(first: &Moments, second: &Moments) -> Moments {
    let n = first.n.saturating_add(second.n);
    if n == 0 {
        return Moments::default();
    }
    let share = real(second.n) / real(n);
    let apart = second.mean - first.mean;
    Moments {
        n,
        mean: first.mean + apart * share,
        m2: first.m2 + second.m2 + apart * apart * real(first.n) * share,
    }
}

/// Inference times of one side.
#[derive(Clone, Copy)]
struct Latency {
    inferences: u64,
    p50_us: u64,
    p99_us: u64,
}

impl Latency {
    const fn of(side: &Side, inferences: u64) -> Self {
        Self {
            inferences,
            p50_us: side.latency_p50_us,
            p99_us: side.latency_p99_us,
        }
    }
}

fn slow(terms: &TrialTerms, candidate: Latency, before: Option<Latency>) -> Option<Refusal> {
    let tail = candidate.inferences >= LATENCY_INFERENCES_MIN
        && before.is_none_or(|before| before.inferences >= LATENCY_INFERENCES_MIN);
    let (name, pick): (_, fn(Latency) -> u64) = if tail {
        ("99th percentile", |latency| latency.p99_us)
    } else {
        ("median", |latency| latency.p50_us)
    };
    let (us, inferences) = (pick(candidate), candidate.inferences);
    if let Some(max) = terms.latency_us_max
        && us > max
    {
        return Some(Refusal {
            verdict: Verdict::TooSlow,
            detail: format!(
                "the {name} of {inferences} inferences is {us} us, the limit is {max} us"
            ),
        });
    }
    let (ratio, before) = terms.latency_ratio_max.zip(before.map(pick))?;
    let limit = (real(before) * ratio).max(real(LATENCY_FLOOR_US));
    above(real(us), limit).then(|| Refusal {
        verdict: Verdict::TooSlow,
        detail: format!(
            "the {name} of {inferences} inferences is {us} us, the limit is {limit:.0} us: {ratio} times the {before} us \
             of the active version, and never below {LATENCY_FLOOR_US} us"
        ),
    })
}

fn failing(side: &Side, max: u64, windows: u64) -> Option<Refusal> {
    (side.failures >= max.max(1)).then(|| Refusal {
        verdict: Verdict::Failing,
        detail: format!(
            "{} of its inferences failed beside {windows} windows that both had, the limit is {max}",
            side.failures
        ),
    })
}

fn disagrees(max: Option<f64>, found: &Moments) -> Option<Refusal> {
    let max = max.filter(|max| found.n > 0 && above(found.mean, *max))?;
    Some(Refusal {
        verdict: Verdict::Disagrees,
        detail: format!(
            "its predictions differ from the active version's by {:.4} on average over {} windows, the limit is {max}",
            found.mean, found.n
        ),
    })
}

fn worse(
    ratio: Option<f64>,
    candidate: &Moments,
    before: &Moments,
    noise: f64,
    whose: &str,
) -> Option<Refusal> {
    let ratio = ratio.filter(|_| candidate.n.min(before.n) >= LABELS_MIN)?;
    let limit = before.mean * ratio + noise;
    above(candidate.mean, limit).then(|| Refusal {
        verdict: Verdict::Worse,
        detail: format!(
            "its mean error is {:.4} over {} labels, the limit is {limit:.4}: {ratio} times {whose}, {:.4}, and {noise:.4} \
             for chance",
            candidate.mean, candidate.n, before.mean
        ),
    })
}

fn standard_error(moments: &Moments) -> f64 {
    if moments.n == 0 {
        return 0.0;
    }
    (moments.variance() / real(moments.n)).sqrt()
}

/// What is no number is above every limit.
fn above(value: f64, limit: f64) -> bool {
    value > limit || value.is_nan() || limit.is_nan()
}

const fn refused(verdict: Verdict, detail: String) -> Judgement {
    Judgement::Refused(Refusal { verdict, detail })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 windows or microseconds do not come"
)]
const fn real(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
