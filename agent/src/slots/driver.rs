//! A model's slot, and what the task holds for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamppost_agent_core::slot::{CheckOutcome, Input, SlotMachine, SlotRecord, SlotSetup};
use lamppost_agent_core::trial::Preflight;
use lamppost_engine::Engine;
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::message::ReportedModel;
use lamppost_models::release::BundleRef;
use lamppost_models::{Bundle, Digest, ModelName};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check::Unfit;
use super::jobs::Job;
use super::{Config, ModelSetup, SlotsError, Watched};
use crate::uplink::wall_clock;

/// A model's slot and what is done for it.
pub(super) struct Driver {
    setup: Arc<ModelSetup>,
    pub(super) machine: SlotMachine,
    factory: Option<Factory>,
    pub(super) active: watch::Sender<Option<Engine>>,
    pub(super) row: watch::Sender<ReportedModel>,
    /// The engine of a bundle that passed its check, until it is activated.
    pub(super) ready: Option<Engine>,
    /// The download or check under way.
    pub(super) trial: Option<Trial>,
    /// Counts activations: what an older one comes to is no more wanted.
    pub(super) activation: u64,
    pub(super) retry_at: Option<Instant>,
}

/// A bundle that is configured and not released.
#[derive(Clone, Debug)]
pub(super) struct Factory {
    pub(super) bundle: BundleRef,
    pub(super) path: PathBuf,
}

/// A download or check under way.
pub(super) struct Trial {
    pub(super) stop: CancellationToken,
    /// Cancelled when the job is over.
    over: CancellationToken,
}

impl Driver {
    pub(super) fn new(
        config: &Config,
        setup: &ModelSetup,
        record: Option<SlotRecord>,
    ) -> Result<(Self, Watched), SlotsError> {
        let model = &setup.name;
        let factory = match &setup.factory {
            Some(path) => {
                let wrong = |reason| SlotsError::Factory {
                    model: model.clone(),
                    path: path.clone(),
                    reason,
                };
                let bundle = describe(path, model).map_err(wrong)?;
                Some(Factory {
                    bundle,
                    path: path.clone(),
                })
            }
            None => None,
        };
        let machine = SlotMachine::start(
            SlotSetup {
                model: model.clone(),
                path: config.path.clone(),
                groups: config.groups.clone(),
                tags: config.tags.clone(),
                zone: config.time_zone.clone(),
                factory: factory.as_ref().map(|factory| factory.bundle.clone()),
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                backoff: config.backoff,
                failures_max: config.failures_max,
            },
            record,
            wall_clock(),
        );
        let (active, active_out) = watch::channel(None);
        let (row, row_out) = watch::channel(machine.report());
        let driver = Self {
            setup: Arc::new(setup.clone()),
            machine,
            factory,
            active,
            row,
            ready: None,
            trial: None,
            activation: 0,
            retry_at: None,
        };
        Ok((
            driver,
            Watched {
                name: model.clone(),
                active: active_out,
                row: row_out,
            },
        ))
    }

    /// What a check came to; its engine waits for the activation.
    pub(super) fn checked(
        &mut self,
        digest: Digest,
        outcome: Result<Engine, Unfit>,
    ) -> CheckOutcome {
        let model = &self.setup.name;
        match outcome {
            Ok(engine) => {
                self.ready = Some(engine);
                CheckOutcome::Passed(Preflight::default())
            }
            Err(unfit) => {
                tracing::warn!(%model, digest = %digest.short(), ?unfit, "a bundle did not pass; what runs goes on");
                unfit.into_outcome()
            }
        }
    }

    /// What an activation came to: the one step in which the model changes.
    pub(super) fn opened(
        &mut self,
        activation: u64,
        bundle: &BundleRef,
        outcome: Result<Engine, Unfit>,
    ) -> Option<Input> {
        if activation != self.activation {
            return None;
        }
        let (model, digest) = (&self.setup.name, bundle.digest);
        match outcome {
            Ok(engine) => {
                self.active.send_replace(Some(engine));
                tracing::info!(%model, version = %bundle.version, digest = %digest.short(), "a version runs");
                Some(Input::Activated { digest })
            }
            Err(unfit) => {
                tracing::error!(%model, version = %bundle.version, digest = %digest.short(), ?unfit, "a version cannot run");
                let (failure, detail) = unfit.into_failure();
                Some(Input::ActivateFailed {
                    digest,
                    failure,
                    detail,
                })
            }
        }
    }

    /// Ends the job before and makes way for the next one.
    pub(super) fn job(&mut self, stop: &CancellationToken) -> Job {
        let (own_stop, over) = (stop.child_token(), CancellationToken::new());
        let next = Trial {
            stop: own_stop.clone(),
            over: over.clone(),
        };
        let before = self.trial.replace(next).map(|before| {
            before.stop.cancel();
            before.over
        });
        Job {
            setup: Arc::clone(&self.setup),
            factory: self.factory.clone(),
            stop: own_stop,
            before,
            over,
        }
    }

    /// An activation goes on beside a trial.
    pub(super) fn activation_job(&self, stop: &CancellationToken) -> Job {
        Job {
            setup: Arc::clone(&self.setup),
            factory: self.factory.clone(),
            stop: stop.child_token(),
            before: None,
            over: CancellationToken::new(),
        }
    }
}

/// Reads what a factory bundle is.
fn describe(path: &Path, model: &ModelName) -> Result<BundleRef, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > BUNDLE_BYTES_MAX {
        return Err(format!(
            "it has {size} bytes, the limit is {BUNDLE_BYTES_MAX}"
        ));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let bundle = Bundle::read(&bytes).map_err(|error| crate::error_chain(&error))?;
    let manifest = bundle.manifest();
    if manifest.name != *model {
        return Err(format!("it is of model {}", manifest.name));
    }
    Ok(BundleRef {
        version: manifest.version.clone(),
        digest: bundle.digest(),
        bytes: bytes.len() as u64,
    })
}
