//! What is told of a slot.

use lamppost_models::message::{ActiveSlot, CandidateSlot, ReportedModel, TrialState};
use lamppost_models::release::BundleRef;
use lamppost_models::trial::TrialReport;

use super::{Held, SlotMachine, Trial};

impl SlotMachine {
    /// The row of this model in the node's report. Its counters are 0 and its quality is empty: the shell knows them.
    pub fn report(&self) -> ReportedModel {
        let slot = |held: &Held| ActiveSlot {
            version: held.bundle.version.clone(),
            digest: held.bundle.digest,
            since: held.since,
            predictions: 0,
            last_inference: None,
            quality: None,
        };
        ReportedModel {
            name: self.setup.model.clone(),
            active: self.runs().map(slot),
            candidate: self.candidate(),
            previous: self.saved.previous.as_ref().map(slot),
            release: Self::decisive(&self.setup, &self.saved).map(|remembered| remembered.sequence),
            trial: self.trial_report(),
        }
    }

    fn trial_report(&self) -> Option<TrialReport> {
        let record = self.saved.trial.as_ref()?;
        let mut report = TrialReport {
            version: record.bundle.version.clone(),
            digest: record.bundle.digest,
            release: record.release,
            rollout: record.rollout,
            since: record.since,
            phase: record.phase.clone(),
            shadow: record.shadow.clone(),
            probation: record.probation.clone(),
            fetched_bytes: record.fetched_bytes,
        };
        // What is newer than the disk.
        if let Trial::Shadowing { bundle, found, .. } = &self.trial
            && record.is_of(bundle.digest)
        {
            report.shadow = Some(found.clone());
        }
        if let Some(watching) = &self.watching
            && record.is_of(watching.digest)
        {
            report.probation = Some(watching.found.clone());
        }
        Some(report)
    }

    fn waiting(&self, bundle: &BundleRef, what: &str) -> TrialState {
        let hours = self.closed();
        let reason = hours.map_or_else(
            || format!("{what} of version {} is about to begin", bundle.version),
            |(hours, _)| {
                format!(
                    "{what} waits for the hours {hours}, time zone {}",
                    self.setup.zone
                )
            },
        );
        TrialState::Waiting { reason }
    }

    fn candidate(&self) -> Option<CandidateSlot> {
        let (bundle, state) = match &self.trial {
            // A factory bundle has no release and no trial; that it failed is still to be seen.
            Trial::None => {
                let factory = self.setup.factory.as_ref()?;
                let entry = self.saved.quarantined(&factory.digest)?;
                (
                    factory,
                    TrialState::Refused {
                        verdict: entry.verdict,
                        detail: entry.detail.clone(),
                    },
                )
            }
            Trial::Fetching {
                bundle, received, ..
            } => (
                bundle,
                TrialState::Fetching {
                    received: *received,
                    bytes: bundle.bytes,
                },
            ),
            Trial::Closed { bundle, .. } => (bundle, self.waiting(bundle, "the download")),
            Trial::Ready { bundle } => (bundle, self.waiting(bundle, "the change")),
            Trial::Shadowing { bundle, found, .. } => {
                let terms = self.draft.trial.as_ref().map(|record| &record.terms);
                let shadow = terms.and_then(|terms| terms.shadow.as_ref());
                let state = TrialState::Shadowing {
                    windows: found.windows,
                    of: shadow.map_or(0, |shadow| shadow.windows),
                };
                (bundle, state)
            }
            Trial::Checking { bundle, .. } | Trial::Passed { bundle } => {
                (bundle, TrialState::Checking)
            }
            Trial::Waiting {
                bundle,
                verdict,
                detail,
                ..
            }
            | Trial::Refused {
                bundle,
                verdict,
                detail,
            } => (
                bundle,
                TrialState::Refused {
                    verdict: *verdict,
                    detail: detail.clone(),
                },
            ),
        };
        Some(CandidateSlot {
            version: bundle.version.clone(),
            digest: bundle.digest,
            state,
        })
    }
}
