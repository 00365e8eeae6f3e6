//! What takes its time: downloads, checks and activations, each a job beside the task.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lamppost_agent_core::slot::Input;
use lamppost_agent_core::trial::{Measured, Preflight};
use lamppost_engine::Engine;
use lamppost_models::release::BundleRef;
use lamppost_models::{Digest, ModelName};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::ModelSetup;
use super::artifacts::Artifacts;
use super::check::{self, Checks, Unfit};
use super::driver::Factory;
use super::fetch::{self, FetchError, Fetcher};
use super::shadow::Shadows;

/// Downloads at a time: one fills the link, and two never write the same file.
const FETCHES_MAX: usize = 1;
/// Checks at a time: each may take as much memory as its limit allows.
const CHECKS_MAX: usize = 1;
/// A download tells its progress each time it has come so many hundredths further.
const PROGRESS_PARTS: u64 = 5;

/// What jobs share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) artifacts: Artifacts,
    fetcher: Option<Fetcher>,
    checks: Checks,
    pub(super) shadows: Shadows,
    fetches: Semaphore,
    checking: Semaphore,
}

impl Shared {
    pub(super) fn new(
        artifacts: Artifacts,
        fetcher: Option<Fetcher>,
        checks: Checks,
        shadows: Shadows,
    ) -> Self {
        Self {
            artifacts,
            fetcher,
            checks,
            shadows,
            fetches: Semaphore::new(FETCHES_MAX),
            checking: Semaphore::new(CHECKS_MAX),
        }
    }
}

/// What a job has to say.
pub(super) struct Done {
    pub(super) model: ModelName,
    pub(super) what: What,
}

/// What became of it.
pub(super) enum What {
    Input(Input),
    Checked {
        digest: Digest,
        outcome: Result<(Engine, Preflight), Unfit>,
    },
    Opened {
        activation: u64,
        bundle: BundleRef,
        outcome: Result<Engine, Unfit>,
    },
}

/// What every job needs.
pub(super) struct Job {
    pub(super) setup: Arc<ModelSetup>,
    pub(super) factory: Option<Factory>,
    pub(super) stop: CancellationToken,
    /// Cancelled when the job before is over: only then are its files let go.
    pub(super) before: Option<CancellationToken>,
    pub(super) over: CancellationToken,
}

impl Job {
    /// Waits until the job before is over.
    pub(super) async fn begin(&self) {
        if let Some(before) = &self.before {
            before.cancelled().await;
        }
    }

    /// The factory bundle's file, if that is the bundle.
    fn factory_of(&self, digest: Digest) -> Option<PathBuf> {
        self.factory
            .as_ref()
            .filter(|factory| factory.bundle.digest == digest)
            .map(|factory| factory.path.clone())
    }

    /// Says what became of it.
    pub(super) async fn say(&self, done: &mpsc::Sender<Done>, what: What) {
        self.over.cancel();
        self.tell(done, what).await;
    }

    /// Says something, and goes on.
    pub(super) async fn tell(&self, done: &mpsc::Sender<Done>, what: What) {
        let model = self.setup.name.clone();
        if self
            .stop
            .run_until_cancelled(done.send(Done { model, what }))
            .await
            .is_none()
        {
            tracing::debug!(model = %self.setup.name, "a job was stopped");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// Gets a bundle; what `held` has, the active version, need not come.
pub(super) async fn fetch(
    shared: Arc<Shared>,
    done: mpsc::Sender<Done>,
    job: Job,
    bundle: BundleRef,
    held: Option<BundleRef>,
) {
    job.begin().await;
    let digest = bundle.digest;
    let fetched = match job.stop.run_until_cancelled(shared.fetches.acquire()).await {
        Some(_permit) => get(&shared, &done, &job, &bundle, held).await,
        None => Err(FetchError::Stopped),
    };
    let input = match fetched {
        Ok(fetched_bytes) => Input::Fetched {
            digest,
            fetched_bytes,
        },
        Err(FetchError::Stopped) => return,
        Err(error) => {
            tracing::warn!(model = %job.setup.name, digest = %digest.short(), %error, "a bundle cannot be fetched");
            Input::FetchFailed {
                digest,
                failure: error.failure(),
                detail: error.to_string(),
            }
        }
    };
    job.say(&done, What::Input(input)).await;
}

/// A bundle that is here already is not fetched; one that is the factory's is copied.
async fn get(
    shared: &Shared,
    done: &mpsc::Sender<Done>,
    job: &Job,
    bundle: &BundleRef,
    held: Option<BundleRef>,
) -> Result<u64, FetchError> {
    let (artifacts, wanted, factory) = (
        shared.artifacts.clone(),
        bundle.clone(),
        job.factory_of(bundle.digest),
    );
    let here = fetch::blocking(move || {
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
        return Ok(0);
    }
    let fetcher = shared.fetcher.as_ref().ok_or(FetchError::NoServer)?;
    let step = (bundle.bytes / 100 * PROGRESS_PARTS).max(1);
    let told = AtomicU64::new(0);
    let tell = |received: u64| {
        let before = told.load(Ordering::Relaxed);
        if received < before || received - before >= step {
            told.store(received, Ordering::Relaxed);
            let what = What::Input(Input::Received {
                digest: bundle.digest,
                received,
            });
            // Progress that nobody has time for is old when they have.
            drop(done.try_send(Done {
                model: job.setup.name.clone(),
                what,
            }));
        }
    };
    fetcher.fetch(bundle, held, &job.stop, &tell).await
}

/// Checks and measures a bundle, and the active version beside it where that was not measured before.
pub(super) async fn check(
    shared: Arc<Shared>,
    done: mpsc::Sender<Done>,
    job: Job,
    bundle: BundleRef,
    active: Option<(Digest, Option<Measured>)>,
) {
    job.begin().await;
    let outcome = match job
        .stop
        .run_until_cancelled(shared.checking.acquire())
        .await
    {
        Some(_permit) => check_and_open(&shared, &job, &bundle, active).await,
        None => return,
    };
    job.say(
        &done,
        What::Checked {
            digest: bundle.digest,
            outcome,
        },
    )
    .await;
}

async fn check_and_open(
    shared: &Shared,
    job: &Job,
    bundle: &BundleRef,
    active: Option<(Digest, Option<Measured>)>,
) -> Result<(Engine, Preflight), Unfit> {
    let (artifacts, wanted) = (shared.artifacts.clone(), bundle.clone());
    blocking(move || {
        artifacts
            .verify(&wanted)
            .map_err(|error| Unfit::Damaged(error.to_string()))
    })
    .await?;
    let in_child = |digest| {
        let path = shared.artifacts.path(digest);
        async move { shared.checks.in_child(&path, &job.stop).await }
    };
    let candidate = in_child(bundle.digest).await?;
    let active = match active {
        Some((_, Some(known))) => Some(known),
        // Without it there is nothing to compare with, which the slot takes into account.
        Some((digest, None)) => in_child(digest).await.ok(),
        None => None,
    };
    let engine = open_held(shared, job, bundle).await?;
    Ok((engine, Preflight { candidate, active }))
}

async fn open_held(shared: &Shared, job: &Job, bundle: &BundleRef) -> Result<Engine, Unfit> {
    let (artifacts, bundle, setup) = (
        shared.artifacts.clone(),
        bundle.clone(),
        Arc::clone(&job.setup),
    );
    blocking(move || check::open_held(&artifacts, &bundle, &setup)).await
}

/// Makes a bundle run that passed its check before: from memory, from the folder, or, for the factory bundle, from its
/// own file, which is then checked first.
pub(super) async fn activate(
    shared: Arc<Shared>,
    done: mpsc::Sender<Done>,
    job: Job,
    (activation, bundle, ready): (u64, BundleRef, Option<Result<Engine, Unfit>>),
) {
    let outcome = match (ready, job.factory_of(bundle.digest)) {
        (Some(ready), _) => ready,
        (None, None) => open_held(&shared, &job, &bundle).await,
        (None, Some(path)) => match open_held(&shared, &job, &bundle).await {
            Err(Unfit::Damaged(_)) => match job
                .stop
                .run_until_cancelled(shared.checking.acquire())
                .await
            {
                Some(_permit) => take_in_factory(&shared, &job, &bundle, path).await,
                None => return,
            },
            other => other,
        },
    };
    job.say(
        &done,
        What::Opened {
            activation,
            bundle,
            outcome,
        },
    )
    .await;
}

async fn take_in_factory(
    shared: &Shared,
    job: &Job,
    bundle: &BundleRef,
    path: PathBuf,
) -> Result<Engine, Unfit> {
    shared.checks.in_child(&path, &job.stop).await?;
    let (artifacts, bundle, setup) = (
        shared.artifacts.clone(),
        bundle.clone(),
        Arc::clone(&job.setup),
    );
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unfit> + Send + 'static,
) -> Result<T, Unfit> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Unfit::Undecided(format!(
            "the check was broken off: {error}"
        )))
    })
}
