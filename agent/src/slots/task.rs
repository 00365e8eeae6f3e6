//! The task that owns the slots: it drives their machines and does what they wish.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use lamppost_agent_core::slot::{Effect, Input, SlotRecord};
use lamppost_models::key::Role;
use lamppost_models::{Digest, ModelName};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::artifacts::Artifacts;
use super::check::Checks;
use super::driver::Driver;
use super::fetch::Fetcher;
use super::jobs::{self, Done, Shared, What};
use super::offers::Offers;
use super::record::Records;
use super::shadow::{self, Shadows};
use super::{Config, Counts, Inbox, Seen, SlotsError};
use crate::labels::Labels;
use crate::trust::Believed;

/// What jobs have to say, waiting for the task.
const DONE_MAX: usize = 64;
/// How long jobs may take to end at a stop. A bundle that is being opened cannot be interrupted.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The task's state.
pub(super) struct Task {
    pub(super) believed: Believed,
    /// What was believed when releases were last looked at.
    pub(super) revision: u64,
    pub(super) trusted: Option<Role>,
    pub(super) offers: Offers,
    records: Records,
    shared: Arc<Shared>,
    pub(super) drivers: BTreeMap<ModelName, Driver>,
    labels: Labels,
    pub(super) counts: Arc<Counts>,
    jobs: TaskTracker,
    done: mpsc::Sender<Done>,
    done_in: mpsc::Receiver<Done>,
    stop: CancellationToken,
}

impl Task {
    /// Reads what is on the disk.
    pub(super) async fn open(
        config: Config,
        labels: Labels,
        counts: Arc<Counts>,
        stop: CancellationToken,
    ) -> Result<(Self, Vec<Seen>), SlotsError> {
        let open = move || Self::open_blocking(config, labels, counts, stop);
        let opened = tokio::task::spawn_blocking(open);
        opened.await.map_err(|_| SlotsError::Broken)?
    }

    fn open_blocking(
        config: Config,
        labels: Labels,
        counts: Arc<Counts>,
        stop: CancellationToken,
    ) -> Result<(Self, Vec<Seen>), SlotsError> {
        let folder = |name: &str| {
            let path = config.data_dir.join(name);
            (path.clone(), move |source| SlotsError::Folder {
                path,
                source,
            })
        };
        let (path, wrong) = folder("slots");
        let records = Records::open(path).map_err(wrong)?;
        let (path, wrong) = folder("artifacts");
        let artifacts = Artifacts::open(path).map_err(wrong)?;
        let fetcher = match &config.server {
            Some(server) => Some(Fetcher::new(
                server,
                config.ca_file.as_deref(),
                artifacts.clone(),
                config.rate_bytes_per_s,
                &config.path,
            )?),
            None => None,
        };
        let checks = Checks::new(&config.checker).map_err(SlotsError::Program)?;
        let shadows = Shadows::new(&checks, config.shadow_args.clone(), config.stuck_after);
        let shared = Arc::new(Shared::new(artifacts, fetcher, checks, shadows));
        let mut drivers = BTreeMap::new();
        let mut watched = Vec::new();
        for setup in &config.models {
            let read = records.load(&setup.name);
            let record = read.map_err(|source| SlotsError::Record {
                path: records.path(&setup.name),
                source,
            })?;
            let (driver, seen) = Driver::new(&config, setup, record)?;
            drivers.insert(setup.name.clone(), driver);
            watched.push(seen);
        }
        let (done, done_in) = mpsc::channel(DONE_MAX);
        let jobs = TaskTracker::new();
        Ok((
            Self {
                believed: config.believed,
                revision: 0,
                trusted: None,
                offers: Offers::new(config.groups.clone()),
                records,
                shared,
                drivers,
                labels,
                counts,
                jobs,
                done,
                done_in,
                stop,
            },
            watched,
        ))
    }

    /// Runs until it is stopped.
    pub(super) async fn run(mut self, mut inbox: Inbox) {
        let models: Vec<ModelName> = self.drivers.keys().cloned().collect();
        for model in &models {
            self.settle(model).await;
        }
        // The configuration's keys may be others than those of the last run.
        self.believe().await;
        while !self.stop.is_cancelled() {
            let retry_at = self
                .drivers
                .values()
                .filter_map(|driver| driver.retry_at)
                .min();
            let retry = async {
                match retry_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = retry => self.retry().await,
                Some(done) = self.done_in.recv() => self.done(done).await,
                // It ends with the agent alone.
                Ok(()) = self.believed.0.changed() => self.believe().await,
                Some(delivery) = inbox.releases.recv() => self.release(delivery).await,
                Some((model, digest)) = inbox.worked.recv() => {
                    self.input(&model, Input::InferenceWorked { digest }).await;
                }
                Some((model, digest, detail)) = inbox.failed.recv() => {
                    self.input(&model, Input::InferenceFailed { digest, detail }).await;
                }
                Some((model, digest, detail)) = inbox.stuck.recv() => {
                    self.input(&model, Input::Stuck { digest, detail }).await;
                }
            }
        }
        self.end().await;
    }

    async fn end(mut self) {
        let models: Vec<ModelName> = self.drivers.keys().cloned().collect();
        for model in &models {
            self.input(model, Input::Stopping).await;
        }
        self.drivers.values_mut().for_each(Driver::stop_all);
        self.jobs.close();
        // Whoever has something to say must not wait for a reader.
        drop(self.done_in);
        if tokio::time::timeout(STOP_TIMEOUT, self.jobs.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                jobs = self.jobs.len(),
                "jobs of the slots did not end in time and are left alone"
            );
        }
    }

    async fn retry(&mut self) {
        let now = Instant::now();
        let due = |driver: &Driver| driver.retry_at.is_some_and(|at| at <= now);
        let models: Vec<ModelName> = self
            .drivers
            .iter()
            .filter(|(_, driver)| due(driver))
            .map(|(model, _)| model.clone())
            .collect();
        for model in models {
            if let Some(driver) = self.drivers.get_mut(&model) {
                driver.retry_at = None;
            }
            self.input(&model, Input::Retry).await;
        }
    }

    async fn done(&mut self, Done { model, what }: Done) {
        let Some(driver) = self.drivers.get_mut(&model) else {
            return;
        };
        let input = match what {
            What::Input(input) => input,
            What::Checked { digest, outcome } => Input::Checked {
                digest,
                outcome: driver.checked(digest, outcome),
            },
            What::Opened {
                activation,
                bundle,
                outcome,
            } => match driver.opened(activation, &bundle, outcome) {
                Some(input) => input,
                None => return,
            },
        };
        self.input(&model, input).await;
    }

    pub(super) async fn input(&mut self, model: &ModelName, input: Input) {
        if let Some(driver) = self.drivers.get_mut(model) {
            driver.machine.handle(input, self.believed.now());
            self.settle(model).await;
        }
    }

    /// Does what the machine of a model wishes, until it wishes nothing.
    pub(super) async fn settle(&mut self, model: &ModelName) {
        while let Some(effect) = self
            .drivers
            .get_mut(model)
            .and_then(|driver| driver.machine.next_effect())
        {
            if let Effect::Save(record) = effect {
                let input = self.save(record).await;
                if let Some(driver) = self.drivers.get_mut(model) {
                    driver.machine.handle(input, self.believed.now());
                }
            } else if effect == Effect::Sweep {
                self.sweep().await;
            } else {
                self.carry_out(model, effect);
            }
        }
        if let Some(driver) = self.drivers.get_mut(model) {
            let row = driver.machine.report();
            driver.row.send_if_modified(|shown| {
                let changed = *shown != row;
                *shown = row;
                changed
            });
        }
    }

    async fn save(&self, record: SlotRecord) -> Input {
        let (records, model) = (self.records.clone(), record.model.clone());
        let saved = tokio::task::spawn_blocking(move || records.save(&record)).await;
        match saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => Input::Saved,
            Err(error) => {
                tracing::error!(%model, %error, "the slot record cannot be written: nothing changes until it can");
                Input::SaveFailed
            }
        }
    }

    async fn sweep(&self) {
        let keep: Vec<Digest> = self
            .drivers
            .values()
            .flat_map(|driver| driver.machine.keeps())
            .collect();
        let artifacts = self.shared.artifacts.clone();
        let swept = tokio::task::spawn_blocking(move || artifacts.sweep(&keep)).await;
        match swept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "bundles that are not needed any more were deleted"),
            Err(error) => {
                tracing::warn!(%error, "bundles that are not needed any more cannot be deleted");
            }
        }
    }

    fn carry_out(&mut self, model: &ModelName, effect: Effect) {
        let Some(driver) = self.drivers.get_mut(model) else {
            return;
        };
        match effect {
            Effect::Fetch(bundle) => {
                tracing::info!(%model, version = %bundle.version, digest = %bundle.digest.short(), bytes = bundle.bytes, "a bundle is wanted");
                let job = driver.job(&self.stop);
                let held = driver.machine.record().active.as_ref();
                let held = held.map(|held| held.bundle.clone());
                self.jobs.spawn(jobs::fetch(
                    Arc::clone(&self.shared),
                    self.done.clone(),
                    job,
                    bundle,
                    held,
                ));
            }
            Effect::Check(bundle) => {
                let job = driver.job(&self.stop);
                let active = driver.active_measured();
                self.jobs.spawn(jobs::check(
                    Arc::clone(&self.shared),
                    self.done.clone(),
                    job,
                    bundle,
                    active,
                ));
            }
            Effect::Cancel(digest) => {
                tracing::info!(%model, digest = %digest.short(), "a bundle is not wanted any more");
                driver.ready = None;
                driver.stop_shadow_of(digest);
                if let Some(trial) = &driver.trial {
                    trial.stop.cancel();
                }
            }
            Effect::Activate(bundle) => {
                driver.activation += 1;
                let activation = driver.activation;
                let outcome = driver
                    .ready
                    .take()
                    .filter(|ready| ready.digest() == bundle.digest)
                    .map(Ok);
                let job = driver.beside_job(&self.stop);
                self.jobs.spawn(jobs::activate(
                    Arc::clone(&self.shared),
                    self.done.clone(),
                    job,
                    (activation, bundle, outcome),
                ));
            }
            Effect::Deactivate => {
                driver.activation += 1;
                driver.active.send_replace(None);
                tracing::warn!(%model, "no version runs");
            }
            Effect::RetryAfter(delay) => {
                tracing::debug!(%model, ?delay, "it is tried again later");
                driver.retry_at = Some(Instant::now() + delay);
            }
            Effect::Shadow { bundle, terms } => {
                let (job, beside) = driver.shadow(bundle.digest, &self.stop);
                let run = shadow::Run {
                    shared: Arc::clone(&self.shared),
                    done: self.done.clone(),
                    job,
                    bundle,
                    terms,
                    beside,
                    labels: self.labels.clone(),
                };
                self.jobs.spawn(run.run());
            }
            Effect::StopShadow(digest) => driver.stop_shadow_of(digest),
            Effect::Watch(digest) => {
                let (job, watching, before) = driver.watch(digest, &self.stop);
                let watched = shadow::Watched {
                    done: self.done.clone(),
                    job,
                    watching,
                    before,
                    labels: self.labels.clone(),
                };
                self.jobs.spawn(watched.run());
            }
            Effect::StopWatch(digest) => driver.stop_watch_of(digest),
            Effect::Save(_) | Effect::Sweep => {}
        }
    }
}
