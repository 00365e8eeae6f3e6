//! The task that owns the slots: it drives their machines and does what they wish.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lamppost_agent_core::slot::{
    CheckOutcome, Effect, Input, SlotMachine, SlotRecord, SlotSetup, Taken,
};
use lamppost_engine::Engine;
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::message::ReportedModel;
use lamppost_models::release::{BundleRef, EnvelopeError, PublicKey};
use lamppost_models::{Bundle, Digest, Envelope, ModelName};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::artifacts::Artifacts;
use super::check::{self, Checks, Unfit};
use super::fetch::{FetchError, Fetcher};
use super::record::Records;
use super::{Config, Counts, Inbox, ModelSetup, SlotsError, Watched};
use crate::stats::is_milestone;
use crate::uplink::{Delivery, wall_clock};

/// What jobs have to say, waiting for the task.
const DONE_MAX: usize = 64;
/// Downloads at a time: one fills the link, and two never write the same file.
const FETCHES_MAX: usize = 1;
/// Checks at a time: each may take as much memory as its limit allows.
const CHECKS_MAX: usize = 1;
/// A download tells its progress each time it has come that many parts of a hundred further.
const PROGRESS_PARTS: u64 = 5;
/// How long jobs may take to end at a stop. A bundle that is being opened cannot be interrupted.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The task's state.
pub(super) struct Task {
    keys: Vec<PublicKey>,
    records: Records,
    shared: Arc<Shared>,
    drivers: BTreeMap<ModelName, Driver>,
    counts: Arc<Counts>,
    jobs: TaskTracker,
    done: mpsc::Sender<Done>,
    done_in: mpsc::Receiver<Done>,
    stop: CancellationToken,
}

/// What jobs share.
#[derive(Debug)]
struct Shared {
    artifacts: Artifacts,
    fetcher: Option<Fetcher>,
    checks: Checks,
    fetches: Semaphore,
    checking: Semaphore,
}

/// A model's slot and what is done for it.
struct Driver {
    setup: Arc<ModelSetup>,
    machine: SlotMachine,
    factory: Option<Factory>,
    active: watch::Sender<Option<Engine>>,
    row: watch::Sender<ReportedModel>,
    /// The engine of a bundle that passed its check, until it is activated.
    ready: Option<Engine>,
    /// The download or check under way.
    trial: Option<Trial>,
    /// Counts activations: what an older one comes to is no more wanted.
    activation: u64,
    retry_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Factory {
    bundle: BundleRef,
    path: PathBuf,
}

struct Trial {
    stop: CancellationToken,
    /// Cancelled when the job is over.
    over: CancellationToken,
}

/// What a job has to say.
struct Done {
    model: ModelName,
    what: What,
}

enum What {
    Input(Input),
    Checked { digest: Digest, outcome: Result<Engine, Unfit> },
    Opened { activation: u64, bundle: BundleRef, outcome: Result<Engine, Unfit> },
}

impl Task {
    /// Reads what is on the disk.
    pub(super) async fn open(
        config: Config,
        counts: Arc<Counts>,
        stop: CancellationToken,
    ) -> Result<(Self, Vec<Watched>), SlotsError> {
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(config, counts, stop));
        opened.await.map_err(|_| SlotsError::Broken)?
    }

    fn open_blocking(
        config: Config,
        counts: Arc<Counts>,
        stop: CancellationToken,
    ) -> Result<(Self, Vec<Watched>), SlotsError> {
        let folder = |name: &str| {
            let path = config.data_dir.join(name);
            (path.clone(), move |source| SlotsError::Folder { path, source })
        };
        let (path, wrong) = folder("slots");
        let records = Records::open(path).map_err(wrong)?;
        let (path, wrong) = folder("artifacts");
        let artifacts = Artifacts::open(path).map_err(wrong)?;
        let fetcher = match &config.server {
            Some(server) => {
                Some(Fetcher::new(server, config.ca_file.as_deref(), artifacts.clone(), config.rate_bytes_per_s)?)
            }
            None => None,
        };
        let checks = Checks::new(&config.checker).map_err(SlotsError::Program)?;
        let (fetches, checking) = (Semaphore::new(FETCHES_MAX), Semaphore::new(CHECKS_MAX));
        let shared = Arc::new(Shared { artifacts, fetcher, checks, fetches, checking });
        let mut drivers = BTreeMap::new();
        let mut watched = Vec::new();
        for setup in &config.models {
            let read = records.load(&setup.name);
            let record = read.map_err(|source| SlotsError::Record { path: records.path(&setup.name), source })?;
            let (driver, seen) = Driver::new(&config, setup, record)?;
            drivers.insert(setup.name.clone(), driver);
            watched.push(seen);
        }
        let (done, done_in) = mpsc::channel(DONE_MAX);
        let jobs = TaskTracker::new();
        Ok((Self { keys: config.keys, records, shared, drivers, counts, jobs, done, done_in, stop }, watched))
    }

    /// Runs until it is stopped.
    pub(super) async fn run(mut self, mut inbox: Inbox) {
        let models: Vec<ModelName> = self.drivers.keys().cloned().collect();
        for model in &models {
            self.settle(model).await;
        }
        while !self.stop.is_cancelled() {
            let retry_at = self.drivers.values().filter_map(|driver| driver.retry_at).min();
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
                Some(delivery) = inbox.releases.recv() => self.release(delivery).await,
                Some((model, digest)) = inbox.worked.recv() => {
                    self.input(&model, Input::InferenceWorked { digest }).await;
                }
                Some((model, digest, detail)) = inbox.failed.recv() => {
                    self.input(&model, Input::InferenceFailed { digest, detail }).await;
                }
            }
        }
        self.end().await;
    }

    async fn end(self) {
        for trial in self.drivers.values().filter_map(|driver| driver.trial.as_ref()) {
            trial.stop.cancel();
        }
        self.jobs.close();
        // Whoever has something to say must not wait for a reader.
        drop(self.done_in);
        if tokio::time::timeout(STOP_TIMEOUT, self.jobs.wait()).await.is_err() {
            tracing::warn!(jobs = self.jobs.len(), "jobs of the slots did not end in time and are left alone");
        }
    }

    async fn retry(&mut self) {
        let now = Instant::now();
        let due = |driver: &Driver| driver.retry_at.is_some_and(|at| at <= now);
        let models: Vec<ModelName> =
            self.drivers.iter().filter(|(_, driver)| due(driver)).map(|(model, _)| model.clone()).collect();
        for model in models {
            if let Some(driver) = self.drivers.get_mut(&model) {
                driver.retry_at = None;
            }
            self.input(&model, Input::Retry).await;
        }
    }

    async fn release(&mut self, Delivery { group, model, payload }: Delivery) {
        if payload.is_empty() {
            self.counts.bump("withdrawn");
            tracing::info!(%group, %model, "a release was withdrawn; what it named goes on");
            return;
        }
        let Some(driver) = self.drivers.get_mut(&model) else {
            self.counts.bump("other-model");
            tracing::debug!(%group, %model, "a release of a model that no stream names");
            return;
        };
        let (kind, reason) = match Envelope::open(&payload, &self.keys) {
            Err(error) => (envelope_kind(&error), crate::error_chain(&error)),
            Ok(release) => match driver.machine.release(&group, &model, &release, wall_clock()) {
                Ok(taken) => {
                    let (sequence, version) = (release.sequence, &release.stable.version);
                    match taken {
                        Taken::New => {
                            self.counts.bump("new");
                            tracing::info!(%group, %model, %sequence, %version, "a release was taken in");
                        }
                        Taken::Known => {
                            self.counts.bump("known");
                            tracing::debug!(%group, %model, %sequence, %version, "a release is known already");
                        }
                    }
                    self.settle(&model).await;
                    return;
                }
                Err(refusal) => (refusal.kind(), refusal.to_string()),
            },
        };
        let count = self.counts.bump(kind);
        if is_milestone(count) {
            tracing::warn!(%group, %model, kind, count, reason, "a release was refused");
        }
    }

    async fn done(&mut self, Done { model, what }: Done) {
        let Some(driver) = self.drivers.get_mut(&model) else { return };
        let input = match what {
            What::Input(input) => input,
            What::Checked { digest, outcome } => Input::Checked { digest, outcome: driver.checked(digest, outcome) },
            What::Opened { activation, bundle, outcome } => match driver.opened(activation, &bundle, outcome) {
                Some(input) => input,
                None => return,
            },
        };
        self.input(&model, input).await;
    }

    async fn input(&mut self, model: &ModelName, input: Input) {
        if let Some(driver) = self.drivers.get_mut(model) {
            driver.machine.handle(input, wall_clock());
            self.settle(model).await;
        }
    }

    /// Does what the machine of a model wishes, until it wishes nothing.
    async fn settle(&mut self, model: &ModelName) {
        while let Some(effect) = self.drivers.get_mut(model).and_then(|driver| driver.machine.next_effect()) {
            if let Effect::Save(record) = effect {
                let input = self.save(record).await;
                if let Some(driver) = self.drivers.get_mut(model) {
                    driver.machine.handle(input, wall_clock());
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
        let keep: Vec<Digest> = self.drivers.values().flat_map(|driver| driver.machine.keeps()).collect();
        let artifacts = self.shared.artifacts.clone();
        let swept = tokio::task::spawn_blocking(move || artifacts.sweep(&keep)).await;
        match swept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "bundles that are not needed any more were deleted"),
            Err(error) => tracing::warn!(%error, "bundles that are not needed any more cannot be deleted"),
        }
    }

    fn carry_out(&mut self, model: &ModelName, effect: Effect) {
        let Some(driver) = self.drivers.get_mut(model) else { return };
        match effect {
            Effect::Fetch(bundle) => {
                tracing::info!(%model, version = %bundle.version, digest = %bundle.digest.short(), bytes = bundle.bytes, "a bundle is wanted");
                let job = driver.job(&self.stop);
                self.jobs.spawn(fetch(Arc::clone(&self.shared), self.done.clone(), job, bundle));
            }
            Effect::Check(bundle) => {
                let job = driver.job(&self.stop);
                self.jobs.spawn(check(Arc::clone(&self.shared), self.done.clone(), job, bundle));
            }
            Effect::Cancel(digest) => {
                tracing::info!(%model, digest = %digest.short(), "a bundle is not wanted any more");
                if let Some(trial) = &driver.trial {
                    trial.stop.cancel();
                }
            }
            Effect::Activate(bundle) => {
                driver.activation += 1;
                let activation = driver.activation;
                let outcome = driver.ready.take().filter(|ready| ready.digest() == bundle.digest).map(Ok);
                let job = driver.activation_job(&self.stop);
                self.jobs.spawn(activate(Arc::clone(&self.shared), self.done.clone(), job, (activation, bundle, outcome)));
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
            Effect::Save(_) | Effect::Sweep => {}
        }
    }
}

impl Driver {
    fn new(config: &Config, setup: &ModelSetup, record: Option<SlotRecord>) -> Result<(Self, Watched), SlotsError> {
        let model = &setup.name;
        let factory = match &setup.factory {
            Some(path) => {
                let wrong = |reason| SlotsError::Factory { model: model.clone(), path: path.clone(), reason };
                let bundle = describe(path, model).map_err(wrong)?;
                Some(Factory { bundle, path: path.clone() })
            }
            None => None,
        };
        let machine = SlotMachine::start(
            SlotSetup {
                model: model.clone(),
                groups: config.groups.clone(),
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
        Ok((driver, Watched { name: model.clone(), active: active_out, row: row_out }))
    }

    /// What a check came to; its engine waits for the activation.
    fn checked(&mut self, digest: Digest, outcome: Result<Engine, Unfit>) -> CheckOutcome {
        let model = &self.setup.name;
        match outcome {
            Ok(engine) => {
                self.ready = Some(engine);
                CheckOutcome::Passed
            }
            Err(unfit) => {
                tracing::warn!(%model, digest = %digest.short(), ?unfit, "a bundle did not pass; what runs goes on");
                unfit.into_outcome()
            }
        }
    }

    /// What an activation came to: the one step in which the model changes.
    fn opened(&mut self, activation: u64, bundle: &BundleRef, outcome: Result<Engine, Unfit>) -> Option<Input> {
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
                Some(Input::ActivateFailed { digest, failure, detail })
            }
        }
    }

    /// Ends the job before and makes way for the next one.
    fn job(&mut self, stop: &CancellationToken) -> Job {
        let (own_stop, over) = (stop.child_token(), CancellationToken::new());
        let next = Trial { stop: own_stop.clone(), over: over.clone() };
        let before = self.trial.replace(next).map(|before| {
            before.stop.cancel();
            before.over
        });
        Job { setup: Arc::clone(&self.setup), factory: self.factory.clone(), stop: own_stop, before, over }
    }

    /// An activation goes on beside a trial.
    fn activation_job(&self, stop: &CancellationToken) -> Job {
        Job {
            setup: Arc::clone(&self.setup),
            factory: self.factory.clone(),
            stop: stop.child_token(),
            before: None,
            over: CancellationToken::new(),
        }
    }
}

/// What every job needs.
struct Job {
    setup: Arc<ModelSetup>,
    factory: Option<Factory>,
    stop: CancellationToken,
    /// Cancelled when the job before is over: only then are its files let go.
    before: Option<CancellationToken>,
    over: CancellationToken,
}

impl Job {
    async fn begin(&self) {
        if let Some(before) = &self.before {
            before.cancelled().await;
        }
    }

    /// The factory bundle's file, if that is the bundle.
    fn factory_of(&self, digest: Digest) -> Option<PathBuf> {
        self.factory.as_ref().filter(|factory| factory.bundle.digest == digest).map(|factory| factory.path.clone())
    }

    async fn say(&self, done: &mpsc::Sender<Done>, what: What) {
        self.over.cancel();
        let model = self.setup.name.clone();
        if self.stop.run_until_cancelled(done.send(Done { model, what })).await.is_none() {
            tracing::debug!(model = %self.setup.name, "a job was stopped");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

async fn fetch(shared: Arc<Shared>, done: mpsc::Sender<Done>, job: Job, bundle: BundleRef) {
    job.begin().await;
    let digest = bundle.digest;
    let fetched = match job.stop.run_until_cancelled(shared.fetches.acquire()).await {
        Some(_permit) => get(&shared, &done, &job, &bundle).await,
        None => Err(FetchError::Stopped),
    };
    let input = match fetched {
        Ok(()) => Input::Fetched { digest },
        Err(FetchError::Stopped) => return,
        Err(error) => {
            tracing::warn!(model = %job.setup.name, digest = %digest.short(), %error, "a bundle cannot be fetched");
            Input::FetchFailed { digest, failure: error.failure(), detail: error.to_string() }
        }
    };
    job.say(&done, What::Input(input)).await;
}

/// A bundle that is here already is not fetched; one that is the factory's is copied.
async fn get(shared: &Shared, done: &mpsc::Sender<Done>, job: &Job, bundle: &BundleRef) -> Result<(), FetchError> {
    let (artifacts, wanted, factory) = (shared.artifacts.clone(), bundle.clone(), job.factory_of(bundle.digest));
    let here = super::fetch::blocking(move || {
        if artifacts.verify(&wanted).is_ok() {
            return Ok(true);
        }
        match factory.map(std::fs::read).transpose()? {
            Some(bytes) if Digest::of(&bytes) == wanted.digest => {
                artifacts.import(&bytes, wanted.digest)?;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    });
    if here.await? {
        return Ok(());
    }
    let fetcher = shared.fetcher.as_ref().ok_or(FetchError::NoServer)?;
    let step = (bundle.bytes / 100 * PROGRESS_PARTS).max(1);
    let told = std::sync::atomic::AtomicU64::new(0);
    let tell = |received: u64| {
        let before = told.load(std::sync::atomic::Ordering::Relaxed);
        if received < before || received - before >= step {
            told.store(received, std::sync::atomic::Ordering::Relaxed);
            let what = What::Input(Input::Received { digest: bundle.digest, received });
            // Progress that nobody has time for is old when they have.
            drop(done.try_send(Done { model: job.setup.name.clone(), what }));
        }
    };
    fetcher.fetch(bundle, &job.stop, &tell).await
}

async fn check(shared: Arc<Shared>, done: mpsc::Sender<Done>, job: Job, bundle: BundleRef) {
    job.begin().await;
    let outcome = match job.stop.run_until_cancelled(shared.checking.acquire()).await {
        Some(_permit) => check_and_open(&shared, &job, &bundle).await,
        None => return,
    };
    job.say(&done, What::Checked { digest: bundle.digest, outcome }).await;
}

async fn check_and_open(shared: &Shared, job: &Job, bundle: &BundleRef) -> Result<Engine, Unfit> {
    let (artifacts, wanted) = (shared.artifacts.clone(), bundle.clone());
    blocking(move || artifacts.verify(&wanted).map_err(|error| Unfit::Damaged(error.to_string()))).await?;
    shared.checks.in_child(&shared.artifacts.path(bundle.digest), &job.stop).await?;
    open_held(shared, job, bundle).await
}

async fn open_held(shared: &Shared, job: &Job, bundle: &BundleRef) -> Result<Engine, Unfit> {
    let (artifacts, bundle, setup) = (shared.artifacts.clone(), bundle.clone(), Arc::clone(&job.setup));
    blocking(move || check::open_held(&artifacts, &bundle, &setup)).await
}

/// Makes a bundle run that passed its check before: from memory, from the folder, or, for the factory bundle, from its
/// own file, which is then checked first.
async fn activate(
    shared: Arc<Shared>,
    done: mpsc::Sender<Done>,
    job: Job,
    (activation, bundle, ready): (u64, BundleRef, Option<Result<Engine, Unfit>>),
) {
    let outcome = match (ready, job.factory_of(bundle.digest)) {
        (Some(ready), _) => ready,
        (None, None) => open_held(&shared, &job, &bundle).await,
        (None, Some(path)) => match open_held(&shared, &job, &bundle).await {
            Err(Unfit::Damaged(_)) => match job.stop.run_until_cancelled(shared.checking.acquire()).await {
                Some(_permit) => take_in_factory(&shared, &job, &bundle, path).await,
                None => return,
            },
            other => other,
        },
    };
    job.say(&done, What::Opened { activation, bundle, outcome }).await;
}

async fn take_in_factory(shared: &Shared, job: &Job, bundle: &BundleRef, path: PathBuf) -> Result<Engine, Unfit> {
    shared.checks.in_child(&path, &job.stop).await?;
    let (artifacts, bundle, setup) = (shared.artifacts.clone(), bundle.clone(), Arc::clone(&job.setup));
    blocking(move || {
        let bytes = std::fs::read(&path).map_err(|error| Unfit::Damaged(format!("{}: {error}", path.display())))?;
        if Digest::of(&bytes) != bundle.digest {
            return Err(Unfit::Damaged(format!("{} has changed since the agent started", path.display())));
        }
        let engine = check::open(&bytes, &bundle, &setup)?;
        if let Err(error) = artifacts.import(&bytes, bundle.digest) {
            tracing::warn!(path = %path.display(), %error, "the factory bundle cannot be copied, and runs from its own file");
        }
        Ok(engine)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Unfit> + Send + 'static) -> Result<T, Unfit> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Unfit::Undecided(format!("the check was broken off: {error}"))))
}

/// Reads what a factory bundle is.
fn describe(path: &std::path::Path, model: &ModelName) -> Result<BundleRef, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > BUNDLE_BYTES_MAX {
        return Err(format!("it has {size} bytes, the limit is {BUNDLE_BYTES_MAX}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let bundle = Bundle::read(&bytes).map_err(|error| crate::error_chain(&error))?;
    let manifest = bundle.manifest();
    if manifest.name != *model {
        return Err(format!("it is of model {}", manifest.name));
    }
    Ok(BundleRef { version: manifest.version.clone(), digest: bundle.digest(), bytes: bytes.len() as u64 })
}

const fn envelope_kind(error: &EnvelopeError) -> &'static str {
    match error {
        EnvelopeError::TooLarge { .. } => "too-large",
        EnvelopeError::NotSigned(_) => "unsigned",
        EnvelopeError::Malformed { .. } => "malformed",
        EnvelopeError::UnknownKey { .. } => "unknown-key",
        EnvelopeError::Signature { .. } => "altered",
        EnvelopeError::Release(_) => "no-release",
    }
}
