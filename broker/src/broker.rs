//! Starting and stopping a broker.

use crate::{
    accept::{self, Entrance},
    auth::{Gate, Key},
    bridge::{self, BridgeError, BridgeStats},
    config::{Config, ConfigError, Listener},
    hub::Hub,
    link::{Link, LinkError},
    metrics,
    retained::{Disk, Saver},
    stats::Stats,
    sys,
    transport::{Places, TlsDoor, TlsError, Transport},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{net::TcpListener, runtime::Handle};
use tracing::{info, warn};

/// How long [`Broker::stop`] waits for connections to end. Each has one second for its last bytes, and links drain
/// within five.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a broker did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not valid.
    #[error("the broker's configuration is not valid")]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; is the port in use by another program?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A listener's certificates cannot be used.
    #[error("the listener {address} cannot do TLS")]
    Tls {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// The retained messages cannot be kept on the disk.
    #[error(
        "cannot keep retained messages in {}: the folder must be writable, on a disk with room, and no other broker's; \
         mend that, or set state_dir = \"none\"",
         path.display()
     )]
    State {
        /// `state_dir`.
        path: PathBuf,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A bridge cannot be set up.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The system gives no random bytes, which passwords in memory are kept safe with.
    #[error("{0}")]
    Random(String),
}

/// Why a new configuration was not taken over, or not all of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// It is not valid together with what does not change. Nothing has changed.
    #[error("the new configuration is not valid; the old one goes on")]
    Config(#[from] ConfigError),
    /// The users and rules have changed, but the files of a listener cannot be used, which goes on with those it has.
    #[error("users and rules were read again, but a listener keeps its old certificates")]
    Tls(#[from] TlsError),
}

/// A running MQTT broker. Dropping it stops it too, without waiting for its end.
#[derive(Debug)]
pub struct Broker {
    hub: Arc<Hub>,
    local_addrs: Vec<SocketAddr>,
    metrics_addr: Option<SocketAddr>,
    tls: Vec<Arc<TlsDoor>>,
    /// What writes retained messages to the disk; `None` without a folder for them.
    saver: Option<Saver>,
    /// What it was started with, users and rules apart.
    config: Config,
}

impl Broker {
    /// Starts a broker on the current tokio runtime. Once it returns, clients can connect.
    ///
    /// # Errors
    /// If the configuration is not valid, an address cannot be listened on, or a certificate or `state_dir` cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let places = Arc::new(Places::new(&config.limits));
        let (mut entrances, mut local_addrs, mut tls) = (Vec::new(), Vec::new(), Vec::new());
        let key = Key::new().map_err(|error| StartError::Random(error.to_string()))?;
        let gate = read_gate(&config, key).await?;
        let mut nobody = gate.is_shut();
        for wanted in config.all_listeners() {
            nobody &= !wanted.knows_certificates();
            let entrance = open(wanted, &places).await?;
            local_addrs.extend(entrance.listener.local_addr());
            tls.extend(entrance.transport.tls.clone());
            entrances.push(entrance);
        }
        if nobody && !entrances.is_empty() {
            warn!("there are no users and anonymous clients are not allowed: nobody can connect");
        }
        let metrics_listener = match config.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let metrics_addr = metrics_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let hub = Arc::new(Hub::new(&config, gate, Handle::current()));
        let saver = match &config.state_dir {
            Some(path) => {
                let saver = open_state(path, &hub, config.retained_flush_interval).await;
                Some(saver.map_err(|source| StartError::State {
                    path: path.clone(),
                    source,
                })?)
            }
            None => None,
        };
        if let Some(listener) = metrics_listener {
            hub.tasks.spawn(metrics::run(listener, Arc::clone(&hub)));
        }
        if !config.sys_interval.is_zero() {
            hub.tasks
                .spawn(sys::run(Arc::clone(&hub), config.sys_interval));
        }
        if let Err(error) = bridge::start(&config, &hub).await {
            hub.stop.cancel();
            return Err(error.into());
        }
        for entrance in entrances {
            hub.tasks.spawn(accept::run(entrance, Arc::clone(&hub)));
        }
        info!(addresses = ?local_addrs, metrics = ?metrics_addr, "the broker is running");
        Ok(Self {
            hub,
            local_addrs,
            metrics_addr,
            tls,
            saver,
            config: Config {
                users: Vec::new(),
                rules: Vec::new(),
                ..config
            },
        })
    }

    /// Where clients connect, at the first listener; `None` if the broker does not listen.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addrs.first().copied()
    }

    /// Where clients connect: at `listen`, if it is given, and at the listeners in their order.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Reads the files of all TLS listeners again: certificates, keys, authorities, revocations. They hold for
    /// connections from now on. A listener whose files cannot be used keeps those it has, and the others go on.
    ///
    /// # Errors
    /// The first listener's files that cannot be used; all of them are logged.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        // All are tried before the first failure is told.
        let results: Vec<_> = self.tls.iter().map(|door| door.reload()).collect();
        results.into_iter().collect()
    }

    /// Where Prometheus reads metrics, at `/metrics`; `None` if `metrics_listen` is off.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Makes a client inside this process. `client_id` is for logs only: it takes no network client's place. The call
    /// may block for a few milliseconds.
    ///
    /// # Errors
    /// If the broker has stopped or all links are in use.
    pub fn link(&self, client_id: &str) -> Result<Link, LinkError> {
        Link::new(&self.hub, client_id)
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What the broker has done since it started.
    pub fn stats(&self) -> Stats {
        self.hub.stats()
    }

    /// What each bridge has done, in the order of the configuration.
    pub fn bridges(&self) -> Vec<BridgeStats> {
        self.hub.bridges().map(bridge::Tally::stats).collect()
    }

    /// Takes over users, rules, `default_access`, `protected` and anonymous access of another configuration, and reads
    /// the file of users and the files of TLS listeners again. What differs besides holds from the next start on, and a
    /// warning names it. Clients that would not be let in any more are disconnected, and subscriptions that are no
    /// longer allowed end.
    ///
    /// # Errors
    /// If the configuration is not valid: then nothing has changed. Or if certificates cannot be used.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let (config, ignored) = self.config.with_access_of(config);
        config.validate()?;
        let gate = read_gate(&config, self.hub.gate().key()).await?;
        if !ignored.is_empty() {
            warn!(keys = ?ignored, "what has changed here holds from the next start on");
        }
        self.hub.gate.send_replace(Arc::new(gate));
        info!("users and rules were read again");
        Ok(self.reload_certificates()?)
    }

    /// Stops: takes no new connections, tells MQTT 5 clients, ends all tasks, and frees the port. Last wills are not
    /// published: it is the broker that leaves, not its clients. Retained messages are on the disk when this returns,
    /// unless the disk refuses or takes too long, which is logged.
    pub async fn stop(mut self) {
        self.hub.stop.cancel();
        self.hub.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.hub.tasks.wait())
            .await
            .is_err()
        {
            warn!(
                tasks = self.hub.tasks.len(),
                "some connections did not end in time"
            );
        }
        if let Some(saver) = self.saver.take() {
            saver.finish().await;
        }
        info!("the broker has stopped");
    }
}

/// Reads the users' file where that may block.
async fn read_gate(config: &Config, key: Key) -> Result<Gate, ConfigError> {
    let wanted = config.clone();
    match tokio::task::spawn_blocking(move || Gate::read(&wanted, key)).await {
        Ok(gate) => gate,
        // The runtime is shutting down, or reading panicked: then it does so where it is seen.
        Err(_) => Gate::read(config, key),
    }
}

async fn open(wanted: Listener, places: &Arc<Places>) -> Result<Entrance, StartError> {
    let address = wanted.address;
    let transport =
        Transport::open(wanted).map_err(|source| StartError::Tls { address, source })?;
    Ok(Entrance {
        listener: bind(address).await?,
        transport: Arc::new(transport),
        places: Arc::clone(places),
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Listen { address, source })
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.hub.stop.cancel();
        self.hub.tasks.close();
    }
}

/// Opens the store of retained messages, fills the memory from it, and has changes written from now on.
async fn open_state(
    path: &Path,
    hub: &Arc<Hub>,
    interval: Duration,
) -> Result<Saver, Box<dyn std::error::Error + Send + Sync>> {
    let (path, hub) = (path.to_owned(), Arc::clone(hub));
    let opened = tokio::task::spawn_blocking(move || -> Result<Saver, Box<_>> {
        let disk = Disk::open(&path, &hub)?;
        disk.load(&hub)?;
        Ok(Saver::start(disk, hub, interval)?)
    });
    opened.await?
}
