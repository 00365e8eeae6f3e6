//! Releases as they come: opened with the keys that are trusted, and judged by the time that is known.

use lamppost_agent_core::keyring::NoTrust;
use lamppost_agent_core::slot::{Input, ReleaseRefusal, Taken};
use lamppost_models::Envelope;
use lamppost_models::release::{EnvelopeError, Verified};

use super::task::Task;
use crate::stats::is_milestone;
use crate::uplink::Delivery;

/// Why a release is not taken in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    NoTrust(#[from] NoTrust),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Slot(#[from] ReleaseRefusal),
}

impl Task {
    /// Takes in what came from an update topic, or refuses it.
    pub(super) async fn release(&mut self, delivery: Delivery) {
        let Delivery {
            group,
            model,
            payload,
        } = &delivery;
        if payload.is_empty() {
            self.counts.bump("withdrawn");
            tracing::info!(%group, %model, "a release was withdrawn; what it named goes on");
            return;
        }
        if !self.drivers.contains_key(model) {
            self.counts.bump("other-model");
            tracing::debug!(%group, %model, "a release of a model that no stream names");
            return;
        }
        match self.take_in(&delivery) {
            Ok((Verified { release, .. }, taken)) => {
                let (sequence, version) = (release.sequence, &release.stable.version);
                match taken {
                    Taken::New => {
                        self.counts.bump(super::NEW);
                        tracing::info!(%group, %model, %sequence, %version, "a release was taken in");
                    }
                    Taken::Known => {
                        self.counts.bump("known");
                        tracing::debug!(%group, %model, %sequence, %version, "a release is known already");
                    }
                }
                let model = model.clone();
                self.offers.taken(delivery, sequence, release.expires_at);
                self.settle(&model).await;
            }
            Err(refusal) => {
                let (kind, reason) = (refusal.kind(), crate::error_chain(&refusal));
                let count = self.counts.bump(kind);
                if is_milestone(count) {
                    tracing::warn!(%group, %model, kind, count, reason, "a release was refused");
                }
                self.offers.refused(delivery);
            }
        }
        self.counts.show(self.offers.lapses());
    }

    fn take_in(&mut self, delivery: &Delivery) -> Result<(Verified, Taken), Refusal> {
        let Delivery {
            group,
            model,
            payload,
        } = delivery;
        let (verified, now) = {
            let view = self.believed.0.borrow();
            let now = view.now();
            (
                Envelope::verify(payload, view.keyring.release_role(now)?)?,
                now,
            )
        };
        let Verified { release, signers } = &verified;
        let driver = self
            .drivers
            .get_mut(model)
            .ok_or_else(|| ReleaseRefusal::OtherGroup {
                group: group.clone(),
            })?;
        let taken = driver
            .machine
            .release(group, model, release, signers, now)?;
        Ok((verified, taken))
    }

    /// Looks again at what was refused, since other keys are trusted now or the time is known better; forgets the releases
    /// whose keys are not trusted any more.
    pub(super) async fn believe(&mut self) {
        self.look_at_time().await;
        let (revision, role) = {
            let view = self.believed.0.borrow_and_update();
            (view.revision, view.keyring.time_role().cloned())
        };
        if revision == self.revision && role == self.trusted {
            return;
        }
        self.revision = revision;
        let changed = role != self.trusted;
        if changed && let Some(role) = &role {
            let models: Vec<_> = self.drivers.keys().cloned().collect();
            for model in models {
                if let Some(driver) = self.drivers.get_mut(&model) {
                    driver.machine.trust_changed(&role.ids(), role.threshold());
                }
                self.settle(&model).await;
            }
        }
        self.trusted = role;
        for delivery in self.offers.take_again(changed) {
            self.release(delivery).await;
        }
        self.counts.show(self.offers.lapses());
    }

    /// Hours may have opened, since a signed time says that it is later than the node's clock does.
    async fn look_at_time(&mut self) {
        let models: Vec<_> = self.drivers.keys().cloned().collect();
        for model in models {
            self.input(&model, Input::Retry).await;
        }
    }
}

impl Refusal {
    /// One word for the reason, to count by.
    const fn kind(&self) -> &'static str {
        match self {
            Self::NoTrust(none) => none.kind(),
            Self::Slot(refusal) => refusal.kind(),
            Self::Envelope(error) => match error {
                EnvelopeError::TooLarge { .. } => "too-large",
                EnvelopeError::NotSigned(_) => "unsigned",
                EnvelopeError::Malformed { .. } => "malformed",
                EnvelopeError::UnknownKey { .. } => "unknown-key",
                EnvelopeError::Signature { .. } => "altered",
                EnvelopeError::Signatures { .. } => "too-many-signatures",
                EnvelopeError::TooFew { .. } => "too-few-signatures",
                EnvelopeError::Role(_) => "no-keys",
                EnvelopeError::Release(_) => "no-release",
            },
        }
    }
}
