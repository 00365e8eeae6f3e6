//! Starting and stopping a broker.

use crate::{
    accept,
    config::{Config, ConfigError},
    hub::Hub,
    link::{Link, LinkError},
    stats::Stats,
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
}

/// A running MQTT broker. Dropping it stops it too, without waiting for its end.
#[derive(Debug)]
pub struct Broker {
    hub: Arc<Hub>,
    local_addr: Option<SocketAddr>,
}

impl Broker {
    /// Starts a broker on the current tokio runtime. Once it returns, clients can connect.
    ///
    /// # Errors
    /// If the configuration is not valid or its address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let listener = match config.listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| StartError::Listen { address, source })?)
            }
            None => None,
        };
        let local_addr = listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        if listener.is_some() && !config.allow_anonymous && config.users.is_empty() {
            warn!("there are no users and anonymous clients are not allowed: nobody can connect");
        }
        let hub = Arc::new(Hub::new(&config, Handle::current()));
        if let Some(listener) = listener {
            hub.tasks.spawn(accept::run(listener, Arc::clone(&hub)));
        }
        info!(address = ?local_addr, "the broker is running");
        Ok(Self { hub, local_addr })
    }

    /// Where clients connect; `None` if the broker does not listen.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
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

impl Drop for Broker {
    fn drop(&mut self) {
        self.hub.stop.cancel();
        self.hub.tasks.close();
    }
}
