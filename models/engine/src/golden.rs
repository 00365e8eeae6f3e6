//! The golden vectors: does this machine compute what the model's maker computed?

use std::time::{Duration, Instant};

use lamppost_models::manifest::{Golden, GoldenSpec};
use serde::{Deserialize, Serialize};

use crate::engine::Session;
use crate::error::{RunError, RunFailure};

/// How close this machine came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldenReport {
    /// Cases that agree.
    pub cases: usize,
    /// The largest difference of any feature.
    pub feature_error_max: f64,
    /// The largest difference of any output.
    pub output_error_max: f64,
}

/// Why a model does not reproduce its golden vectors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GoldenError {
    /// A number differs.
    #[error(
        "golden case {case}: {tensor}[{index}] is {found}, it should be {wanted} within {tolerance}"
    )]
    Differs {
        /// Which case, from 0.
        case: usize,
        /// `features` or `outputs`.
        tensor: &'static str,
        /// Which element, from 0.
        index: usize,
        /// What came out.
        found: f32,
        /// What should have.
        wanted: f32,
        /// How far it may be off.
        tolerance: f64,
    },
    /// A case cannot be run.
    #[error("golden case {case} does not run")]
    Run {
        /// Which case, from 0.
        case: usize,
        /// Why.
        #[source]
        source: RunError,
    },
    /// It took too long.
    #[error("golden check took longer than {limit:?}, with {done} cases done")]
    Deadline {
        /// The limit.
        limit: Duration,
        /// Cases that agree.
        done: usize,
    },
}

pub(crate) fn check(
    session: &mut Session,
    golden: &Golden,
    limit: Duration,
) -> Result<GoldenReport, GoldenError> {
    let start = Instant::now();
    let spec = session.engine().manifest().golden.clone();
    let mut report = GoldenReport {
        cases: 0,
        feature_error_max: 0.0,
        output_error_max: 0.0,
    };
    if let Some(first) = golden.cases.first() {
        warm_up(session, &first.features).map_err(|source| GoldenError::Run {
            case: 0,
            source: source.into(),
        })?;
    }
    for (case, wanted) in golden.cases.iter().enumerate() {
        if start.elapsed() > limit {
            return Err(GoldenError::Deadline {
                limit,
                done: report.cases,
            });
        }
        let fail = |source| GoldenError::Run { case, source };
        let features = session
            .features(&wanted.window)
            .map_err(|unfit| fail(unfit.into()))?;
        let error = compare(&spec, (case, "features"), features, &wanted.features)?;
        report.feature_error_max = report.feature_error_max.max(error);
        // From the golden features, so that an error of the preprocessing within the tolerance does not add up.
        session.set_features(&wanted.features);
        let outputs = session.infer().map_err(|failure| fail(failure.into()))?;
        let error = compare(&spec, (case, "outputs"), outputs, &wanted.outputs)?;
        report.output_error_max = report.output_error_max.max(error);
        session.run(&wanted.window).map_err(fail)?;
        report.cases += 1;
    }
    Ok(report)
}

/// The first run allocates scratch memory and takes up to 70 times as long as the later ones.
fn warm_up(session: &mut Session, features: &[f32]) -> Result<(), RunFailure> {
    session.set_features(features);
    session.infer().map(|_| ())
}

/// The largest difference, when all are within the tolerance.
fn compare(
    spec: &GoldenSpec,
    at: (usize, &'static str),
    found: &[f32],
    wanted: &[f32],
) -> Result<f64, GoldenError> {
    let mut largest = 0.0_f64;
    for (index, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let tolerance = spec.abs_tolerance + spec.rel_tolerance * f64::from(wanted).abs();
        let error = (f64::from(found) - f64::from(wanted)).abs();
        // What is not finite agrees with nothing.
        if !error.is_finite() || error > tolerance {
            let (case, tensor) = at;
            return Err(GoldenError::Differs {
                case,
                tensor,
                index,
                found,
                wanted,
                tolerance,
            });
        }
        largest = largest.max(error);
    }
    Ok(largest)
}
