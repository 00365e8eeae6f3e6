//! A model's slot, and what the task holds for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamppost_agent_core::slot::{CheckOutcome, Input, SlotMachine, SlotRecord, SlotSetup};
use lamppost_agent_core::trial::{Measured, Preflight};
use lamppost_engine::Engine;
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::message::ReportedModel;
use lamppost_models::release::BundleRef;
use lamppost_models::trial::Side;
use lamppost_models::{Bundle, Digest, ModelName};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check::Unfit;
use super::jobs::Job;
use super::{Config, ModelSetup, Seen, SlotsError};
use crate::tap::{Beside, Tap, Watching};

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
    tap: Arc<Tap>,
    shadow: Option<Shadowing>,
    watch: Option<(Digest, CancellationToken)>,
    /// What versions took on this machine, the newest last.
    measured: Vec<(Digest, Measured)>,
    /// How the active version did beside the last candidate.
    beside: Option<(Digest, Side)>,
}

/// Versions whose measurement is remembered: the active one, its candidate, and the one before.
const MEASURED_MAX: usize = 3;

/// A candidate in shadow.
struct Shadowing {
    digest: Digest,
    /// The active version that it was beside.
    active: Option<Digest>,
    stop: CancellationToken,
    beside: Arc<Beside>,
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
    ) -> Result<(Self, Seen), SlotsError> {
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
            config.believed.now(),
        );
        let tap = Arc::<Tap>::default();
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
            tap: Arc::clone(&tap),
            shadow: None,
            watch: None,
            measured: Vec::new(),
            beside: None,
        };
        Ok((
            driver,
            Seen {
                name: model.clone(),
                active: active_out,
                row: row_out,
                tap,
            },
        ))
    }

    /// What a check came to; its engine waits for the activation.
    pub(super) fn checked(
        &mut self,
        digest: Digest,
        outcome: Result<(Engine, Preflight), Unfit>,
    ) -> CheckOutcome {
        let model = &self.setup.name;
        match outcome {
            Ok((engine, preflight)) => {
                self.ready = Some(engine);
                let active = self.machine.record().active_digest();
                let active = active.zip(preflight.active);
                for (digest, measured) in active.into_iter().chain([(digest, preflight.candidate)])
                {
                    self.measured.retain(|(known, _)| *known != digest);
                    if self.measured.len() == MEASURED_MAX {
                        self.measured.remove(0);
                    }
                    self.measured.push((digest, measured));
                }
                CheckOutcome::Passed(preflight)
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

    /// The active version, with what it took on this machine, as far as that is known.
    pub(super) fn active_measured(&self) -> Option<(Digest, Option<Measured>)> {
        let active = self.machine.record().active_digest()?;
        let known = self.measured.iter().find(|(digest, _)| *digest == active);
        Some((active, known.map(|(_, measured)| *measured)))
    }

    /// Ends the shadow before and makes way for the next one.
    pub(super) fn shadow(
        &mut self,
        digest: Digest,
        stop: &CancellationToken,
    ) -> (Job, Arc<Beside>) {
        self.stop_shadow();
        let (job, beside) = (self.beside_job(stop), Arc::<Beside>::default());
        self.tap.put_beside(Some(Arc::clone(&beside)));
        self.shadow = Some(Shadowing {
            digest,
            active: self.machine.record().active_digest(),
            stop: job.stop.clone(),
            beside: Arc::clone(&beside),
        });
        (job, beside)
    }

    /// Ends the shadow of a candidate, if there is one.
    pub(super) fn stop_shadow_of(&mut self, digest: Digest) {
        if self
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.digest == digest)
        {
            self.stop_shadow();
        }
    }

    fn stop_shadow(&mut self) {
        self.tap.put_beside(None);
        if let Some(shadow) = self.shadow.take() {
            shadow.stop.cancel();
            let side = shadow.beside.comparison().active;
            self.beside = shadow.active.map(|digest| (digest, side));
        }
    }

    /// Begins to watch the active version; gives the version before, with how it did beside this one.
    pub(super) fn watch(
        &mut self,
        digest: Digest,
        stop: &CancellationToken,
    ) -> (Job, Arc<Watching>, Option<(Digest, Side)>) {
        self.stop_watch();
        let (job, watching) = (self.beside_job(stop), Arc::new(Watching::new(digest)));
        self.tap.watch(Some(Arc::clone(&watching)));
        self.watch = Some((digest, job.stop.clone()));
        let previous = self.machine.record().previous.as_ref();
        let before = previous.map(|held| {
            let digest = held.bundle.digest;
            let known = self.beside.filter(|(known, _)| *known == digest);
            known.unwrap_or((digest, Side::default()))
        });
        (job, watching, before)
    }

    /// Ends the watch over a version, if there is one.
    pub(super) fn stop_watch_of(&mut self, digest: Digest) {
        if self
            .watch
            .as_ref()
            .is_some_and(|(watched, _)| *watched == digest)
        {
            self.stop_watch();
        }
    }

    fn stop_watch(&mut self) {
        self.tap.watch(None);
        if let Some((_, stop)) = self.watch.take() {
            stop.cancel();
        }
    }

    /// Ends what goes on beside the trial.
    pub(super) fn stop_all(&mut self) {
        self.stop_shadow();
        self.stop_watch();
        if let Some(trial) = &self.trial {
            trial.stop.cancel();
        }
    }

    /// A job that goes on beside a trial's downloads and checks: an activation, a shadow, a watch.
    pub(super) fn beside_job(&self, stop: &CancellationToken) -> Job {
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
