//! What is told of a slot.

use lamppost_models::message::{ActiveSlot, CandidateSlot, ReportedModel, TrialState};

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
            release: self.decisive().map(|remembered| remembered.sequence),
            trial: None,
        }
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
