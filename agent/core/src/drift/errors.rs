//! Whether the error has grown: a one-sided CUSUM on the mean error of each period.
//!
//! E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954). With the mean and the spread of the reference's periods, a
//! period's mean error becomes a score; what it has above [`SLACK`] is summed up, never below 0, and above [`LIMIT`] there is
//! drift. The slack and the limit are large as these charts go, for two reasons: mean and spread are estimated, of some 28
//! periods, and the errors of neighbouring days are not independent. `simulation` states the rates: of 200 nodes whose daily
//! errors have a correlation of 0 (0.3, 0.6), 1 (11, 64) have a false alarm within half a year; an error that doubles is seen
//! after 5 days, one that grows by a half after 10.
//!
//! ADWIN (Bifet and Gavaldà 2007) on each error as it comes is the other candidate. It takes errors to be independent, so
//! that a bad week is a change: on the errors of a simple forecast of I-94 it has an alarm within eight weeks from 30 of 42
//! starts on, this has 2.

use std::collections::VecDeque;

use lamppost_models::Timestamp;
use lamppost_models::message::ReportedErrorDrift;
use serde::{Deserialize, Serialize};

use super::DriftSpec;
use super::periods::{Open, least};

/// What a score may have without being summed up, in spreads.
const SLACK: f64 = 1.0;
/// From which sum on there is drift, in spreads.
const LIMIT: f64 = 8.0;
/// Largest score of one period: a holiday, or one wild value, is not a drift. So it takes five periods.
const SCORE_MAX: f64 = 3.0;
/// Largest sum: a period as good as before takes [`SLACK`] from it, so that drift ends within eight of them.
const SUM_MAX: f64 = 2.0 * LIMIT;
/// Least spread, as a share of the mean: errors that are nearer to each other are the same to an operator.
const SPREAD_SHARE_MIN: f64 = 0.05;
/// Largest error that is told apart: sums and squares of such stay numbers.
const LOSS_MAX: f64 = 1e100;

/// The errors of one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Errors {
    open: Open,
    /// Sum of the open period's errors.
    total: f64,
    /// Mean error of each period of the reference.
    reference: Vec<f64>,
    /// Labels within these periods.
    labels: u64,
    complete: bool,
    /// Mean error of the newest periods behind the reference.
    recent: VecDeque<f64>,
    sum: f64,
}

impl Errors {
    /// Takes in an error; true when a period is over that was held against the reference.
    pub(super) fn take(&mut self, spec: &DriftSpec, ts: Timestamp, loss: f64) -> bool {
        if loss.is_nan() {
            return false;
        }
        let count = self.open.count;
        let over = self.open.turns(ts, spec.period, least(self.usual()));
        if over {
            self.close(spec, count);
        }
        self.total += loss.clamp(0.0, LOSS_MAX);
        over && !self.recent.is_empty()
    }

    /// Labels that a period of the reference had, once it is complete.
    fn usual(&self) -> u64 {
        if self.complete {
            self.labels / (self.reference.len() as u64).max(1)
        } else {
            0
        }
    }

    fn close(&mut self, spec: &DriftSpec, count: u64) {
        let mean = std::mem::take(&mut self.total) / count.max(1) as f64;
        if !self.complete {
            self.reference.push(mean);
            self.labels += count;
            self.complete = self.reference.len() >= spec.reference;
            return;
        }
        let (before, spread) = self.before();
        // Where no error ever was, any is out of all proportion.
        let score = ((mean - before) / spread.max(f64::MIN_POSITIVE)).clamp(-SCORE_MAX, SCORE_MAX);
        self.sum = (self.sum + score - SLACK).clamp(0.0, SUM_MAX);
        self.recent.push_back(mean);
        while self.recent.len() > spec.recent {
            self.recent.pop_front();
        }
    }

    /// Mean and spread of the reference's periods.
    fn before(&self) -> (f64, f64) {
        let mean = mean(self.reference.iter());
        let squares: f64 = self.reference.iter().map(|one| (one - mean).powi(2)).sum();
        let freedom = self.reference.len().saturating_sub(1).max(1) as f64;
        (
            mean,
            (squares / freedom).sqrt().max(SPREAD_SHARE_MIN * mean),
        )
    }

    pub(super) fn drifts(&self) -> bool {
        self.sum > LIMIT
    }

    /// What there is to tell, once the reference is complete.
    pub(super) fn reported(&self) -> Option<ReportedErrorDrift> {
        self.complete.then(|| ReportedErrorDrift {
            before: self.before().0,
            now: (!self.recent.is_empty()).then(|| mean(self.recent.iter())),
            cusum: self.sum,
            limit: LIMIT,
        })
    }

    pub(super) fn words(&self) -> Option<String> {
        let error = self.reported().filter(|_| self.drifts())?;
        Some(format!(
            "the error grew from {:.4} to {:.4}",
            error.before, error.now?
        ))
    }
}

fn mean<'a>(values: impl ExactSizeIterator<Item = &'a f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}
