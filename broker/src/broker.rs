//! Starting and stopping a broker.

use crate::{
    accept::{self, Entrance},
    config::{Config, ConfigError, Listener},
    hub::Hub,
    link::{Link, LinkError},
    stats::Stats,
    transport::{Places, TlsDoor, TlsError, Transport},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
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
}

/// A running MQTT broker. Dropping it stops it too, without waiting for its end.
#[derive(Debug)]
pub struct Broker {
    hub: Arc<Hub>,
    local_addrs: Vec<SocketAddr>,
    tls: Vec<Arc<TlsDoor>>,
}

impl Broker {
    /// Starts a broker on the current tokio runtime. Once it returns, clients can connect.
    ///
    /// # Errors
    /// If the configuration is not valid, an address cannot be listened on, or a certificate cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let places = Arc::new(Places::new(&config.limits));
        let (mut entrances, mut local_addrs, mut tls) = (Vec::new(), Vec::new(), Vec::new());
        let mut nobody = !config.allow_anonymous && config.users.is_empty();
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
        let hub = Arc::new(Hub::new(&config, Handle::current()));
        for entrance in entrances {
            hub.tasks.spawn(accept::run(entrance, Arc::clone(&hub)));
        }
        info!(addresses = ?local_addrs, "the broker is running");
        Ok(Self {
            hub,
            local_addrs,
            tls,
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

    /// Makes a client inside this process. `client_id` is for logs only: it takes no network client's place. The call
    /// may block for a few milliseconds.
    ///
    /// # Errors
    /// If the broker has stopped or all links are in use.
    pub fn link(&self, client_id: &str) -> Result<Link, LinkError> {
        Link::new(&self.hub, client_id)
    }

    /// What the broker has done since it started.
    pub fn stats(&self) -> Stats {
        self.hub.stats()
    }

    /// Stops: takes no new connections, tells MQTT 5 clients, ends all tasks, and frees the port. Last wills are not
    /// published: it is the broker that leaves, not its clients.
    pub async fn stop(self) {
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
        info!("the broker has stopped");
    }
}

async fn open(wanted: Listener, places: &Arc<Places>) -> Result<Entrance, StartError> {
    let address = wanted.address;
    let transport =
        Transport::open(wanted).map_err(|source| StartError::Tls { address, source })?;
    let bound = TcpListener::bind(address).await;
    Ok(Entrance {
        listener: bound.map_err(|source| StartError::Listen { address, source })?,
        transport: Arc::new(transport),
        places: Arc::clone(places),
    })
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.hub.stop.cancel();
        self.hub.tasks.close();
    }
}
