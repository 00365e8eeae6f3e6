//! What a simulated node says of itself.

use lamppost_models::ModelName;
use lamppost_models::message::{
    ActiveSlot, CandidateSlot, Quality, ReportedModel, TrialState, Verdict,
};
use lamppost_models::release::BundleRef;
use lamppost_models::trial::{Comparison, Moments, Side, TrialPhase, TrialReport, Watch};

use super::{Common, Node, Phase, at, windows};
use crate::whatif::Scenario;

/// The active version's 99th percentile: above what agents take for noise.
const P99_US: u64 = 5_000;

impl Node {
    /// Its row in a report.
    pub(in crate::whatif) fn row(&self, common: &Common<'_>, now_ms: i64) -> ReportedModel {
        let Scenario { to, target, .. } = common.scenario;
        let slot = |bundle: &BundleRef, loss: &Moments| ActiveSlot {
            version: bundle.version.clone(),
            digest: bundle.digest,
            since: at(common, self.trial.map_or(0, |(since_ms, _)| since_ms)),
            predictions: 0,
            last_inference: None,
            quality: (loss.n > 0).then_some(Quality::Error {
                labels: loss.n,
                mae: loss.mean,
                rmse: loss.mean,
            }),
        };
        let from = slot(&common.from, &self.from_loss);
        let (active, previous) = if self.live() {
            (slot(to, &self.to_loss), Some(from))
        } else {
            (from, None)
        };
        let state = self.state(common, now_ms);
        ReportedModel {
            name: ModelName::clone(&target.model),
            active: Some(active),
            candidate: state.map(|state| CandidateSlot {
                version: to.version.clone(),
                digest: to.digest,
                state,
            }),
            previous,
            release: self.trial.map(|(_, sequence)| sequence),
            trial: self.trial_report(common, now_ms),
        }
    }

    fn state(&self, common: &Common<'_>, now_ms: i64) -> Option<TrialState> {
        let bytes = common.scenario.to.bytes;
        Some(match &self.phase {
            Phase::Before | Phase::Probation { .. } | Phase::Passed => return None,
            Phase::Closed { .. } => TrialState::Waiting {
                reason: "for its hours".to_owned(),
            },
            Phase::Queued | Phase::Fetching { .. } => TrialState::Fetching { received: 0, bytes },
            Phase::Checking { .. } => TrialState::Checking,
            Phase::Shadow { since_ms } => TrialState::Shadowing {
                windows: windows(common, *since_ms, now_ms),
                of: common
                    .terms
                    .shadow
                    .as_ref()
                    .map_or(0, |shadow| shadow.windows),
            },
            Phase::Failed { verdict, .. } => TrialState::Refused {
                verdict: *verdict,
                detail: String::new(),
            },
        })
    }

    fn trial_report(&self, common: &Common<'_>, now_ms: i64) -> Option<TrialReport> {
        let (since_ms, release) = self.trial?;
        let Scenario { to, candidate, .. } = common.scenario;
        let phase = match &self.phase {
            Phase::Before => return None,
            Phase::Closed { .. }
            | Phase::Queued
            | Phase::Fetching { .. }
            | Phase::Checking { .. }
            | Phase::Shadow { .. } => TrialPhase::Candidate,
            Phase::Probation { .. } => TrialPhase::Probation,
            Phase::Passed => TrialPhase::Passed,
            Phase::Failed { verdict, live } => {
                let (verdict, detail) = (*verdict, String::new());
                if *live {
                    TrialPhase::RolledBack { verdict, detail }
                } else {
                    TrialPhase::Refused { verdict, detail }
                }
            }
        };
        let slower = (P99_US as f64 * candidate.latency_ratio()).min(1e15);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number below 1e15"
        )]
        let candidate_us = slower as u64;
        let side = |p99_us, loss| Side {
            failures: 0,
            latency_p50_us: p99_us / 2,
            latency_p99_us: p99_us,
            loss,
        };
        let crashed = matches!(
            self.phase,
            Phase::Failed {
                verdict: Verdict::Crashed,
                live: true
            }
        );
        let crashes = common.terms.probation.as_ref().map_or(0, |at| at.crashes);
        let was_live = self.live() || matches!(self.phase, Phase::Failed { live: true, .. });
        Some(TrialReport {
            version: to.version.clone(),
            digest: to.digest,
            release,
            rollout: Some(common.id),
            since: at(common, since_ms),
            phase,
            shadow: self
                .shadow
                .filter(|shadow| shadow.windows > 0)
                .map(|shadow| Comparison {
                    windows: shadow.windows,
                    left_out: 0,
                    candidate: side(candidate_us, shadow.candidate),
                    active: side(P99_US, shadow.active),
                    disagreement: Moments::default(),
                    loss_difference: shadow.difference,
                }),
            probation: was_live.then(|| Watch {
                windows: windows(common, since_ms, now_ms),
                crashes: if crashed { crashes } else { 0 },
                active: side(candidate_us, self.to_loss),
                before: side(P99_US, self.from_loss),
            }),
            fetched_bytes: to.bytes,
        })
    }
}
