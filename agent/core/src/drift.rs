//! Whether the world has moved away from what a version met when it went live.
//!
//! The first so many periods (days, unless configured) after a version went live are the **reference**. Later periods are held
//! against it in two ways, once a period:
//!
//! - `shift`: are the fields that the model reads distributed otherwise? Population stability index over quantile bins.
//! - `errors`: has the error grown where labels come? One-sided CUSUM (Page 1954) on the mean error of each period.
//!
//! Both look at whole periods, and the reference is a whole number of them: traffic has its day and its week, and hours that are
//! compared with other hours always differ. What is seen of a field is the newest reading's value, in the sensor's own unit:
//! older readings of the window were the newest once, and the calendar does not drift.
//!
//! Memory is bounded by [`ROWS_MAX`], [`FIELDS_MAX`], [`BINS_MAX`] and [`PERIODS_MAX`]: while the reference is collected at most
//! 1,024 rows of 16 values, then 64 periods of 16 times 32 counters; each some 160 kB, and a few kB as a rule. All of it can be
//! written down and read again, so that a restart costs nothing. A window of 6 fields costs some 2 us in an unoptimised build
//! (`what_a_window_costs`), which is why it is on by default.

use std::time::Duration;

use lamppost_models::message::ReportedDrift;
use lamppost_models::{Digest, Manifest, Reading, Timestamp};
use serde::{Deserialize, Serialize};

use crate::span;

mod errors;
mod periods;
mod shift;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use errors::Errors;
use shift::Shift;

/// Most fields of a model that are looked at, the first ones of its manifest.
pub const FIELDS_MAX: usize = 16;
/// Most bins of a field: ten quantiles, of which those that many readings share have a bin of their own, and one for what is
/// missing; or the categories, those behind the thirtieth together.
pub const BINS_MAX: usize = 32;
/// Most rows that stand for the reference while it is collected. Their own sampling error adds 10/1024 to a PSI whose limit is
/// 0.25 at least.
pub const ROWS_MAX: usize = 1024;
/// Most periods of a reference.
pub const PERIODS_MAX: usize = 64;
/// Most fields in a report, the worst ones.
pub const REPORTED_FIELDS_MAX: usize = 8;

/// What is compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftSpec {
    /// A turn of whatever repeats itself: a day for traffic.
    #[serde(with = "span")]
    pub period: Duration,
    /// So many periods after a version went live are the reference, at most [`PERIODS_MAX`]: whole weeks, where a week repeats
    /// itself too.
    pub reference: usize,
    /// So many of the newest periods are held against it, at most half of the reference.
    pub recent: usize,
}

impl Default for DriftSpec {
    /// Four weeks, of which the newest week is held against.
    fn default() -> Self {
        Self {
            period: Duration::from_hours(24),
            reference: 28,
            recent: 7,
        }
    }
}

/// Watches one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftMonitor {
    spec: DriftSpec,
    watch: Option<Watch>,
}

/// What was seen of the version that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Watch {
    digest: Digest,
    /// Event time of the first window.
    since: Timestamp,
    windows: u64,
    shift: Shift,
    errors: Errors,
    /// Event time of the window, or of the prediction whose label came, at which drift began.
    drifted_at: Option<Timestamp>,
}

impl DriftMonitor {
    /// Starts with nothing.
    pub const fn new(spec: DriftSpec) -> Self {
        Self { spec, watch: None }
    }

    /// What it looks for.
    pub const fn spec(&self) -> &DriftSpec {
        &self.spec
    }

    /// Since when there is drift, if there is.
    pub fn drifted_at(&self) -> Option<Timestamp> {
        self.watch.as_ref()?.drifted_at
    }

    /// Takes in the newest reading of a window that the active version, `digest`, scored. Another version than before begins
    /// anew.
    pub fn scored(&mut self, digest: Digest, manifest: &Manifest, newest: &Reading) {
        if self
            .watch
            .as_ref()
            .is_none_or(|watch| watch.digest != digest)
        {
            self.watch = Some(Watch {
                digest,
                since: newest.ts,
                windows: 0,
                shift: Shift::new(manifest, &digest),
                errors: Errors::default(),
                drifted_at: None,
            });
        }
        if let Some(watch) = &mut self.watch {
            watch.windows += 1;
            if watch.shift.take(&self.spec, newest) {
                watch.judge(&self.spec, newest.ts);
            }
        }
    }

    /// Takes in how wrong a prediction of `digest` was whose newest reading was of `ts`. Those of a version that no longer runs
    /// do not count.
    pub fn joined(&mut self, digest: &Digest, ts: Timestamp, loss: f64) {
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.digest == *digest)
            && watch.errors.take(&self.spec, ts, loss)
        {
            watch.judge(&self.spec, ts);
        }
    }

    /// What there is to tell; `None` before the first window.
    pub fn reported(&self) -> Option<ReportedDrift> {
        let watch = self.watch.as_ref()?;
        let mut what = watch.shift.words(&self.spec);
        what.extend(watch.errors.words());
        let mut features = watch.shift.reported(&self.spec);
        features.truncate(REPORTED_FIELDS_MAX);
        Some(ReportedDrift {
            digest: watch.digest,
            since: watch.since,
            windows: watch.windows,
            periods: watch.shift.periods(),
            reference: self.spec.reference as u64,
            features,
            error: watch.errors.reported(),
            drifted_at: watch.drifted_at,
            what: (!what.is_empty()).then(|| what.join("; ")),
        })
    }
}

impl Watch {
    fn judge(&mut self, spec: &DriftSpec, ts: Timestamp) {
        let drifts = self.shift.drifts(spec) || self.errors.drifts();
        self.drifted_at = drifts.then(|| self.drifted_at.unwrap_or(ts));
    }
}
