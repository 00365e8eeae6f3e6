//! The coordinator in one piece: opens, starts, waits, stops.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lamppost_coordinator_core::rollout::audit::Actor;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifacts::{Artifacts, Sweep};
use crate::bus::{self, Bus, Message, StartBusError};
use crate::centre::{Centre, Owner};
use crate::clock::now;
use crate::config::{Config, ConfigError};
use crate::downloads::{Day, Downloads};
use crate::driver::Driver;
use crate::encodings::Encodings;
use crate::files;
use crate::http::{self, Api, Room};
use crate::key::{KeyError, Signers};
use crate::releases::ReleaseTask;
use crate::state::{OpenStateError, Settings, State};
use crate::trust::announce::Announcer;
use crate::trust::answers::Answerer;
use crate::trust::{Authority, InstallError};

/// Who uses the data directory; true while the store in it is locked.
const CLAIM: &str = "running.json";
/// How long stopping may take: requests under way, the last commits, the broker's clients.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How long requests under way may take then: a download that is cut is resumed.
const STOP_API_TIME: Duration = Duration::from_secs(2);

/// Where the coordinator listens; JSON in the ready file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The HTTP API.
    pub http: SocketAddr,
    /// The embedded broker, if that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<SocketAddr>,
}

/// Why the coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be.
    #[error("the configuration is refused")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("{}: {action}", path.display())]
    DataDir {
        /// What could not be used.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another coordinator runs on the same data directory.
    #[error(
        "data directory {} is in use by another coordinator{other}: stop that one first, or give this one a data_dir of its own", path.display()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The other one, as far as it is known.
        other: String,
    },
    /// The store does not open.
    #[error(transparent)]
    State(#[from] OpenStateError),
    /// There is no key to sign with.
    #[error("there is no key to sign releases with")]
    Key(#[from] KeyError),
    /// Nodes would not believe what the keys sign.
    #[error("the trust documents do not fit this coordinator")]
    Trust(#[from] InstallError),
    /// The bus does not start.
    #[error(transparent)]
    Bus(#[from] StartBusError),
    /// The address of the API cannot be had.
    #[error("http.listen {address} cannot be had: is another coordinator running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part ended that should run for ever.
    #[error("{part} ended unexpectedly")]
    Ended {
        /// Which.
        part: &'static str,
    },
    /// Not everything stopped in time.
    #[error("not everything stopped within {STOP_TIME:?}; what was acknowledged is safe")]
    StopTime,
}

/// Runs a coordinator until `shutdown`; says where it listens once it serves. When the future is dropped, everything is told
/// to stop too, but nobody waits for it.
///
/// # Errors
/// [`RunError`] when it cannot start, or a part of it ended by itself.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<(), RunError> {
    config.validate()?;
    bus::install_provider();
    let parts = open(&config).await?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let _stop_on_drop = stop.clone().drop_guard();
    // Bound before the broker starts, so that a port in use is found before anything is said to anybody.
    let address = config.http.listen;
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|source| RunError::Listen { address, source })?;
    let local = listener
        .local_addr()
        .map_err(|source| RunError::Listen { address, source })?;
    let (bus, inbox) = Bus::start(&config, &tasks, &stop).await?;
    let addresses = Ready {
        http: local,
        mqtt: bus.address(),
    };
    let running = start(&config, parts, (&bus, inbox), listener, (&tasks, &stop));

    write_claim(&config.data_dir, addresses)?;
    if let Some(path) = &config.ready_file {
        write_ready(path, addresses)?;
    }
    tracing::info!(http = %addresses.http, mqtt = ?addresses.mqtt, "the coordinator is running");
    if ready.send(addresses).is_err() {
        tracing::trace!("nobody waits for the addresses");
    }

    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        part = running.ended() => Err(RunError::Ended { part }),
    };
    let stopped = tokio::time::timeout(STOP_TIME, stop_all(running, bus, tasks, stop)).await;
    ended.and(stopped.map_err(|_| RunError::StopTime))
}

/// What is on the disk, opened.
struct Parts {
    state: State,
    state_dir: PathBuf,
    artifacts: Arc<Artifacts>,
    downloads: Arc<Downloads>,
    authority: Arc<Authority>,
}

async fn open(config: &Config) -> Result<Parts, RunError> {
    let (data_dir, settings) = (config.data_dir.clone(), Settings::of(config));
    let signers = config.release_signers.clone();
    let at_once_max = config.http.downloads_per_backhaul;
    let opening = move || open_blocking(&data_dir, settings, &signers, at_once_max);
    let opened = tokio::task::spawn_blocking(opening).await;
    opened.unwrap_or(Err(RunError::Ended {
        part: "the opening of the data directory",
    }))
}

fn open_blocking(
    data_dir: &Path,
    settings: Settings,
    signers: &[PathBuf],
    at_once_max: Option<u32>,
) -> Result<Parts, RunError> {
    let failed = |path: &Path, action| {
        let path = path.to_owned();
        move |source| RunError::DataDir {
            path,
            action,
            source,
        }
    };
    std::fs::create_dir_all(data_dir).map_err(failed(data_dir, "make the data directory"))?;
    // The store keeps other processes out, so that it comes first.
    let state_dir = data_dir.join("state");
    let mut state = State::open(&state_dir, settings).map_err(|error| taken(data_dir, error))?;
    let signers = Arc::new(Signers::load(data_dir, signers)?);
    let authority = Arc::new(Authority::open(data_dir, signers)?);
    // Other signers of the configuration, or documents that were installed while it was down.
    let by = Actor::coordinator();
    state
        .note_keys(&authority.trusted(), &by, now())
        .map_err(OpenStateError::Read)?;
    let known: BTreeMap<_, _> = state.models().map(|row| (row.digest, row.bytes)).collect();
    let dir = data_dir.join("artifacts");
    let complete = state.complete();
    let opened = Artifacts::open(dir.clone(), &known, complete);
    let (artifacts, sweep) = opened.map_err(failed(&dir, "open the artifacts"))?;
    let Sweep {
        partial,
        orphans,
        missing,
    } = sweep;
    if partial + orphans > 0 {
        let kept = if complete {
            "deleted"
        } else {
            "kept, since versions may have been lost with the store"
        };
        tracing::info!(
            partial,
            orphans,
            orphans_are = kept,
            "uploads that were not finished are deleted"
        );
    }
    for digest in missing {
        tracing::error!(%digest, "an artifact is missing or has another size: nodes cannot fetch it until its bundle is pushed again");
    }
    let today = state
        .given_on(Day::of(now()))
        .map_err(OpenStateError::Read)?;
    Ok(Parts {
        state,
        state_dir,
        artifacts: Arc::new(artifacts),
        downloads: Arc::new(Downloads::new(at_once_max, now(), today)),
        authority,
    })
}

/// What a coordinator that runs leaves in its data directory for another one that is started on it.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    pid: u32,
    #[serde(flatten)]
    ready: Ready,
}

/// Names the coordinator that has the store open, if that is why it does not open.
fn taken(data_dir: &Path, error: OpenStateError) -> RunError {
    if !matches!(
        error,
        OpenStateError::Open(lamppost_store::OpenError::Busy { .. })
    ) {
        return error.into();
    }
    let claim = std::fs::read(data_dir.join(CLAIM)).ok();
    let claim = claim.and_then(|json| serde_json::from_slice::<Claim>(&json).ok());
    let other = claim.map_or_else(String::new, |Claim { pid, ready }| {
        format!(" (process {pid}, its API on http://{})", ready.http)
    });
    RunError::Taken {
        path: data_dir.to_owned(),
        other,
    }
}

fn write_claim(data_dir: &Path, ready: Ready) -> Result<(), RunError> {
    let path = data_dir.join(CLAIM);
    let failed = |source| RunError::DataDir {
        path: path.clone(),
        action: "write who uses the data directory",
        source,
    };
    let pid = std::process::id();
    let json = serde_json::to_vec(&Claim { pid, ready }).map_err(|error| failed(error.into()))?;
    files::write_whole(&path, &json, 0o644).map_err(failed)
}

/// The tasks that run for ever, and what ends the API before the rest.
struct Running {
    owner: tokio::task::JoinHandle<()>,
    server: tokio::task::JoinHandle<()>,
    releases: tokio::task::JoinHandle<()>,
    driver: tokio::task::JoinHandle<()>,
    /// Ends the API and what it started, first; `stop` of [`run`] ends it as well.
    stop_api: CancellationToken,
    api_tasks: TaskTracker,
}

fn start(
    config: &Config,
    parts: Parts,
    (bus, inbox): (&Bus, mpsc::Receiver<Message>),
    listener: TcpListener,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> Running {
    let Parts {
        state,
        state_dir,
        artifacts,
        downloads,
        authority,
    } = parts;
    let (stop_api, api_tasks) = (stop.child_token(), TaskTracker::new());
    let (centre, owner) = Owner::new(state_dir, state, inbox, bus.clone());
    let runtime = tokio::runtime::Handle::current();
    let until = stop.clone();
    let owner = tasks.spawn_blocking(move || runtime.block_on(owner.run(until)));
    announce(config, &authority, bus, (tasks, &stop_api));
    let (releases, task) = ReleaseTask::new(
        Arc::clone(authority.signers()),
        config.root.clone(),
        Centre::clone(&centre),
        bus.clone(),
    );
    let releases_task = tasks.spawn(task.run(stop_api.clone()));
    let driver = Driver {
        centre: Centre::clone(&centre),
        downloads: Arc::clone(&downloads),
        releases: releases.clone(),
    };
    let driver = tasks.spawn(driver.run(stop_api.clone()));
    let api = Api {
        centre,
        encodings: Encodings::new(Arc::clone(&artifacts)),
        artifacts,
        downloads,
        releases,
        bus: bus.clone(),
        authority,
        checker: config.checker.clone(),
        token: config.http.token.clone(),
        stop: stop_api.clone(),
        room: Room::new(),
    };
    let router = http::router(Arc::new(api));
    let serve = http::serve::serve(
        listener,
        router,
        config.http.connections_max,
        api_tasks.clone(),
        stop_api.clone(),
    );
    let server = tasks.spawn(serve);
    Running {
        owner,
        server,
        releases: releases_task,
        driver,
        stop_api,
        api_tasks,
    }
}

/// Starts what tells nodes of keys and time; a node does without for a while.
fn announce(
    config: &Config,
    authority: &Arc<Authority>,
    bus: &Bus,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) {
    let announcer = Announcer {
        authority: Arc::clone(authority),
        root: config.root.clone(),
        bus: bus.clone(),
    };
    let answerer = Answerer {
        authority: Arc::clone(authority),
        root: config.root.clone(),
        bus: bus.clone(),
    };
    tasks.spawn(announcer.run(stop.clone()));
    tasks.spawn(answerer.run(stop.clone()));
}

impl Running {
    /// Waits for a part that ends, which none should, and names it.
    async fn ended(&self) -> &'static str {
        loop {
            for (part, task) in [
                ("the owner of the state", &self.owner),
                ("the HTTP API", &self.server),
                ("the release task", &self.releases),
                ("the driver of rollouts", &self.driver),
            ] {
                if task.is_finished() {
                    return part;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// First the API, so that nothing new comes in; then the inbox and the owner, whose last acknowledgements still find the
/// bus; then the bus.
async fn stop_all(running: Running, bus: Bus, tasks: TaskTracker, stop: CancellationToken) {
    running.stop_api.cancel();
    running.api_tasks.close();
    if tokio::time::timeout(STOP_API_TIME, running.api_tasks.wait())
        .await
        .is_err()
    {
        tracing::info!(
            requests = running.api_tasks.len(),
            "requests under way are cut"
        );
    }
    stop.cancel();
    if let Err(error) = running.owner.await {
        tracing::error!(%error, "the owner of the state panicked");
    }
    bus.stop().await;
    tasks.close();
    tasks.wait().await;
    tracing::info!("the coordinator has stopped");
}

fn write_ready(path: &Path, ready: Ready) -> Result<(), RunError> {
    let failed = |source| RunError::DataDir {
        path: path.to_owned(),
        action: "write the ready file",
        source,
    };
    let json = serde_json::to_vec(&ready).map_err(|error| failed(error.into()))?;
    files::write_whole(path, &json, 0o644).map_err(failed)
}
