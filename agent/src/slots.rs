//! Releases are taken in, bundles are fetched, checked and activated, and a good model keeps running.
//!
//! What is decided is decided by [`lamppost_agent_core::slot`]; this is its shell. One task owns the slots of all
//! models (`task`, `driver`): it verifies releases (`releases`, `offers`), writes down what is to be remembered (`record`),
//! and starts `jobs`: a download (`fetch`) into the folder of bundles (`artifacts`), a check, first in a process made for
//! it and then in this one (`check`), and a candidate beside the active version in a process of its own (`shadow`). The
//! engine's thread follows a `watch` for each model, which changes in one step.
//!
//! ```text
//! <data_dir>/slots/<model>.json        what is remembered; .json.old is the one before
//! <data_dir>/artifacts/<hex>.tar       a bundle, whole, by its digest
//! <data_dir>/artifacts/<hex>.part      the beginning of one
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lamppost_agent_core::slot::{Backoff, FAILURES_MAX_DEFAULT};
use lamppost_engine::Engine;
use lamppost_models::message::{Intake, ReportedModel};
use lamppost_models::rollout::Tags;
use lamppost_models::time::Zone;
use lamppost_models::{Digest, FieldName, GroupId, ModelName, NodePath, StreamName, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::labels::Labels;
use crate::scorer::Outcome;
use crate::tap::Tap;
use crate::trust::Believed;
use crate::uplink::Delivery;

mod artifacts;
mod check;
mod driver;
mod fetch;
mod jobs;
mod offers;
mod record;
mod releases;
mod shadow;
mod task;
#[cfg(test)]
mod tests;

pub use check::check_bundle_main;
pub(crate) use shadow::said;
pub use shadow::shadow_bundle_main;

use offers::Lapse;
use task::Task;

/// Releases that wait for the task: one of each model and group of a large node.
const RELEASES_MAX: usize = 64;
/// First successes that wait for the task. There is one for each activation of a model.
const WORKED_MAX: usize = 256;
/// Inferences without an end that wait for the task: each costs a thread, of which there are few.
const STUCK_MAX: usize = 16;
/// Failures that wait for the task. More are dropped: a model that fails goes on failing.
const FAILED_MAX: usize = 64;

/// What the slots are told when they start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the node keeps what must outlive it.
    pub data_dir: PathBuf,
    /// The node.
    pub path: NodePath,
    /// The node's groups: the first that has a release for a model decides.
    pub groups: Vec<GroupId>,
    /// What the node is tagged with.
    pub tags: Tags,
    /// Where its hours for changes are counted.
    pub time_zone: Zone,
    /// Who may sign releases, and what time it is.
    pub believed: Believed,
    /// Where artifacts are: `http://host:port`; without it, only what is on the disk already can run.
    pub server: Option<String>,
    /// Whom an `https` server's certificate must come from; without it, whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// How fast artifacts may come; without it, as fast as they do.
    pub rate_bytes_per_s: Option<u64>,
    /// The models that the streams name.
    pub models: Vec<ModelSetup>,
    /// The program that checks a bundle.
    pub checker: Checker,
    /// What the same program is started with to run a candidate beside the active version; the file comes after it.
    pub shadow_args: Vec<OsString>,
    /// How long an inference may take.
    pub stuck_after: Duration,
    /// How long to wait before something is tried again.
    pub backoff: Backoff,
    /// How many inferences may fail before the first that works, until a bundle is rolled back.
    pub failures_max: u32,
}

/// A model that streams name.
#[derive(Clone, Debug)]
pub struct ModelSetup {
    /// The model.
    pub name: ModelName,
    /// The bundle that runs until a release comes.
    pub factory: Option<PathBuf>,
    /// The streams that name it, with the fields of their readings.
    pub streams: Vec<(StreamName, Vec<FieldName>)>,
}

/// The program that checks a bundle: it is started with `args` and the file, and prints what it found.
#[derive(Clone, Debug)]
pub struct Checker {
    /// The program; `None` for the running one.
    pub program: Option<PathBuf>,
    /// Its arguments; the file comes after them.
    pub args: Vec<OsString>,
    /// Most address space that it may have.
    pub memory_bytes: u64,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why the slots do not start.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// A folder cannot be made or listed.
    #[error("{} cannot be used", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A record cannot be read, though it is there.
    #[error("the slot record {} cannot be read", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A factory bundle is none.
    #[error("the factory bundle {} of model {model} is refused: {reason}", path.display())]
    Factory {
        /// The model.
        model: ModelName,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file of trusted certificates is none.
    #[error("coordinator.ca_file {} holds no certificates in PEM: {reason}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no program to check bundles with.
    #[error("the running program's own path, which bundles are checked with, cannot be found")]
    Program(#[source] std::io::Error),
    /// No HTTP client.
    #[error("the HTTP client cannot be set up: {reason}")]
    Http {
        /// Why.
        reason: String,
    },
    /// A thread ended that should not.
    #[error("the start of the slots was broken off")]
    Broken,
}

/// Releases that were taken in.
const NEW: &str = "new";
/// Releases that were neither taken in nor refused.
const NOTHING_NEW: [&str; 3] = ["known", "withdrawn", "other-model"];

/// What became of releases, by reason.
#[derive(Debug, Default)]
struct Counts {
    kinds: Mutex<BTreeMap<&'static str, u64>>,
    /// When each one that was taken in expires.
    lapses: Mutex<Vec<Lapse>>,
}

impl Counts {
    /// Counts one and says how many there are now.
    fn bump(&self, reason: &'static str) -> u64 {
        let mut counts = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(reason).or_default();
        *count += 1;
        *count
    }

    /// For the report.
    fn intake(&self) -> Intake {
        let counts = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = counts
            .iter()
            .filter(|(kind, _)| **kind != NEW && !NOTHING_NEW.contains(kind));
        Intake {
            taken: counts.get(NEW).copied().unwrap_or(0),
            refused: refused
                .map(|(kind, count)| ((*kind).to_owned(), *count))
                .collect(),
        }
    }

    fn show(&self, lapses: Vec<Lapse>) {
        *self.lapses.lock().unwrap_or_else(PoisonError::into_inner) = lapses;
    }
}

/// What became of releases and when they expire, for the report.
#[derive(Clone, Debug)]
pub(crate) struct Lapses(Arc<Counts>);

impl Lapses {
    /// The releases that have expired by `now`, though nothing newer came, in words.
    pub(crate) fn reasons(&self, now: Timestamp) -> Vec<String> {
        let lapses = self.0.lapses.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = lapses.iter().filter(|lapse| lapse.expires_at <= now);
        let text = |lapse: &Lapse| {
            let Lapse {
                group,
                model,
                sequence,
                expires_at,
            } = lapse;
            format!(
                "release {sequence} of {model} for {group} expired at {expires_at} and nothing newer came: it may be held back"
            )
        };
        expired.map(text).collect()
    }

    /// How many were taken in and refused.
    pub(crate) fn intake(&self) -> Intake {
        self.0.intake()
    }
}

/// The slots of all models, running.
#[derive(Debug)]
pub struct Slots {
    /// In the configuration's order.
    models: Vec<Seen>,
    releases: mpsc::Sender<Delivery>,
    worked: mpsc::Sender<(ModelName, Digest)>,
    failed: mpsc::Sender<(ModelName, Digest, String)>,
    stuck: mpsc::Sender<(ModelName, Digest, String)>,
    counts: Arc<Counts>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What others see of a model's slot.
#[derive(Clone, Debug)]
struct Seen {
    name: ModelName,
    active: watch::Receiver<Option<Engine>>,
    row: watch::Receiver<ReportedModel>,
    tap: Arc<Tap>,
}

/// The task's ends of the channels.
struct Inbox {
    releases: mpsc::Receiver<Delivery>,
    worked: mpsc::Receiver<(ModelName, Digest)>,
    failed: mpsc::Receiver<(ModelName, Digest, String)>,
    stuck: mpsc::Receiver<(ModelName, Digest, String)>,
}

impl Slots {
    /// Starts the slots: what ran last runs again as soon as it is loaded, whether there is a coordinator or not.
    ///
    /// # Errors
    /// [`SlotsError`] when a folder, a record or a factory bundle cannot be read, or the configuration cannot be.
    pub(crate) async fn start(config: Config, labels: Labels) -> Result<Self, SlotsError> {
        crate::uplink::install_provider();
        let (releases, releases_in) = mpsc::channel(RELEASES_MAX);
        let (worked, worked_in) = mpsc::channel(WORKED_MAX);
        let (failed, failed_in) = mpsc::channel(FAILED_MAX);
        let (stuck, stuck_in) = mpsc::channel(STUCK_MAX);
        let counts = Arc::new(Counts::default());
        let stop = CancellationToken::new();
        let inbox = Inbox {
            releases: releases_in,
            worked: worked_in,
            failed: failed_in,
            stuck: stuck_in,
        };
        let (task, models) = Task::open(config, labels, Arc::clone(&counts), stop.clone()).await?;
        let task = tokio::spawn(task.run(inbox));
        Ok(Self {
            models,
            releases,
            worked,
            failed,
            stuck,
            counts,
            stop,
            task,
        })
    }

    /// Takes releases from `incoming`, until it is closed.
    pub(crate) fn follow(&self, mut incoming: mpsc::Receiver<Delivery>) {
        let (releases, stop) = (self.releases.clone(), self.stop.clone());
        tokio::spawn(async move {
            let forward = async {
                while let Some(delivery) = incoming.recv().await {
                    if releases.send(delivery).await.is_err() {
                        return;
                    }
                }
            };
            stop.run_until_cancelled(forward).await;
        });
    }

    /// The version that runs, of the model at that place in [`Config::models`].
    pub fn active(&self, at: usize) -> watch::Receiver<Option<Engine>> {
        self.models[at].active.clone()
    }

    /// The row in the report, without the counters, of the model at that place in [`Config::models`].
    pub fn row(&self, at: usize) -> watch::Receiver<ReportedModel> {
        self.models[at].row.clone()
    }

    /// Where a trial of the model at that place in [`Config::models`] listens in.
    pub(crate) fn tap(&self, at: usize) -> Arc<Tap> {
        Arc::clone(&self.models[at].tap)
    }

    /// Tells the slot of the model at that place in [`Config::models`] how inferences went, from any thread and without
    /// waiting.
    pub(crate) fn tell(&self, at: usize) -> Box<dyn Fn(Outcome) + Send> {
        let (model, worked, failed, stuck) = (
            self.models[at].name.clone(),
            self.worked.clone(),
            self.failed.clone(),
            self.stuck.clone(),
        );
        Box::new(move |outcome| match outcome {
            Outcome::Worked { digest } => {
                if worked.try_send((model.clone(), digest)).is_err() {
                    tracing::debug!(%model, "the slots have stopped or are behind");
                }
            }
            Outcome::Failed { digest, detail } => {
                // Dropped when there are too many: a model that fails goes on failing.
                if failed.try_send((model.clone(), digest, detail)).is_err() {
                    tracing::trace!(%model, "more failures than the slots look at");
                }
            }
            Outcome::Stuck { digest, detail } => {
                if stuck.try_send((model.clone(), digest, detail)).is_err() {
                    tracing::warn!(%model, "the slots have stopped or are behind");
                }
            }
        })
    }

    /// When the releases that were taken in expire.
    pub(crate) fn lapses(&self) -> Lapses {
        Lapses(Arc::clone(&self.counts))
    }

    /// How many releases were taken in, known already, or refused, by reason.
    pub fn release_counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts
            .kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the slots end by themselves, which they do not unless something is wrong.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the slots' task failed");
        }
    }

    /// Stops downloads and checks, and waits for the end. What is on the disk goes on from there at the next start.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if !self.task.is_finished() {
            self.ended().await;
        }
    }
}

impl Config {
    /// What the agent's configuration says of the slots.
    pub(crate) fn of(config: &crate::Config, believed: Believed) -> Self {
        let coordinator = config.coordinator.as_ref();
        let setup = |(index, model): (usize, &crate::config::Model)| ModelSetup {
            name: model.name.clone(),
            factory: model.factory.clone(),
            streams: config
                .streams
                .iter()
                .filter(|stream| stream.model == index)
                .map(|stream| {
                    (
                        stream.name.clone(),
                        stream.decoder.fields().into_iter().cloned().collect(),
                    )
                })
                .collect(),
        };
        let args = |command: &str| {
            let mut args = config.self_prefix.clone();
            args.push(command.into());
            args
        };
        Self {
            data_dir: config.data_dir.clone(),
            path: config.path.clone(),
            groups: config.groups.clone(),
            tags: config.tags.clone(),
            time_zone: config.time_zone.clone(),
            believed,
            server: coordinator.map(|coordinator| coordinator.http.clone()),
            ca_file: coordinator.and_then(|coordinator| coordinator.ca_file.clone()),
            rate_bytes_per_s: config.artifacts.rate_bytes_per_s,
            models: config.models.iter().enumerate().map(setup).collect(),
            checker: Checker {
                program: config.self_program.clone(),
                args: args("check-bundle"),
                memory_bytes: config.artifacts.check_memory_bytes,
                timeout: config.artifacts.check_timeout,
            },
            shadow_args: args("shadow-bundle"),
            stuck_after: config.stuck_after,
            // Without chance, nodes wait alike; that is no reason not to start.
            backoff: Backoff::new(getrandom::u64().unwrap_or_default()),
            failures_max: FAILURES_MAX_DEFAULT,
        }
    }
}
