//! Bridges: connections to other brokers, over which messages pass out and in.
//!
//! The way of a message that goes out: a receiving link takes it, which is read all the time so that it holds nobody
//! up; `letter` gives it its name at the other broker; `hops` marks it, or finds that it goes round in a circle; it
//! waits in the `outbox` and goes over the `remote` connection, which `run` keeps up. The way in: the task that drives
//! the connection hands it to the `intake`, which publishes it through the bridge's own link, and acknowledges it only
//! then. `books` counts.
//!
//! What is promised: a message of QoS 1 arrives at least once, as long as the queue's bounds hold and this process
//! lives. The queue is in memory. QoS 2 passes as QoS 1.
//!
//! What keeps messages from going round: this broker does not give a bridge back what it brought in; with MQTT 5 the
//! other one is asked for the same (No Local), and the mark works over any number of brokers. MQTT 3.1.1 has neither,
//! so that its filters must be apart, and a circle of such bridges over several brokers is not noticed.

mod backoff;
mod books;
mod hops;
mod intake;
mod letter;
mod outbox;
mod phase;
mod remote;
mod run;
mod tls;

use crate::{
    config::{self, BridgePassword, Config},
    hub::Hub,
    link::{Link, LinkError, LinkPublisher, SubscribeOptions},
    message::{Publish, QoS},
};
use backoff::Backoff;
use books::Books;
pub use books::BridgeStats;
pub(crate) use books::Tally;
use intake::Intake;
use letter::{Letter, Route};
use outbox::Outbox;
use remote::Target;
use run::Runner;
use std::{path::Path, sync::Arc};
use thiserror::Error;
use tokio::sync::watch;
use tracing::debug;

/// Where an error came from, whatever library it was.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a bridge cannot be set up. What the network does is no such reason.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// A file cannot be read or does not hold what it should.
    #[error("bridge {bridge:?}: {file} cannot be used")]
    File {
        /// The bridge's name.
        bridge: String,
        /// The file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: Source,
    },
    /// TLS cannot be set up with the files.
    #[error("bridge {bridge:?}: TLS cannot be set up with its certificates")]
    Tls {
        /// The bridge's name.
        bridge: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// There is no authority to trust.
    #[error(
        "bridge {0:?}: the system has no trusted certificates; name the other broker's authority in ca_file"
    )]
    NothingTrusted(String),
    /// The bridge cannot be linked to this broker.
    #[error("bridge {bridge:?}: it cannot be linked to this broker")]
    Link {
        /// The bridge's name.
        bridge: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers for a broker_id")]
    Random(#[source] Source),
}

/// Sets all bridges up, which does not wait for any other broker.
pub(crate) async fn start(config: &Config, hub: &Arc<Hub>) -> Result<(), BridgeError> {
    if config.bridges.is_empty() {
        return Ok(());
    }
    let broker_id: Arc<str> = match &config.broker_id {
        Some(id) => id.as_str().into(),
        None => format!("{:016x}", random()?).into(),
    };
    let (mut tallies, mut runners) = (Vec::new(), Vec::new());
    for bridge in &config.bridges {
        let tally = Arc::new(Tally::new(&bridge.name));
        tallies.push(Arc::clone(&tally));
        runners.push(prepare(bridge, hub, tally, &broker_id).await?);
    }
    // Nothing has set it before: a hub is started once.
    if hub.bridges.set(tallies).is_err() {
        debug!("the bridges were counted already");
    }
    let tell_state = !config.sys_interval.is_zero();
    for (runner, up) in runners {
        if tell_state {
            let name = runner.name().to_owned();
            hub.tasks.spawn(herald(name, runner.publisher(), up));
        }
        hub.tasks.spawn(runner.run());
    }
    Ok(())
}

async fn prepare(
    bridge: &config::Bridge,
    hub: &Arc<Hub>,
    tally: Arc<Tally>,
    broker_id: &Arc<str>,
) -> Result<(Runner, watch::Receiver<bool>), BridgeError> {
    let failed = |source| BridgeError::Link {
        bridge: bridge.name.clone(),
        source,
    };
    let target = target(bridge, hub.limits.packet_bytes_max()).await?;
    let link = Link::new(hub, &format!("bridge {}", bridge.name)).map_err(failed)?;
    let (publisher, mut receiver) = link.split();
    for entry in &bridge.outward {
        // Retained messages are fetched from the store for each connection.
        let options = SubscribeOptions::new(entry.qos)
            .no_local()
            .retain_as_published()
            .no_retained();
        let subscribed = receiver.subscribe_with(&entry.local(), options).await;
        subscribed.map_err(failed)?;
    }
    let books = Arc::new(Books::new(Arc::clone(hub), tally));
    let (state, up) = watch::channel(false);
    let runner = Runner {
        intake: Intake {
            books: Arc::clone(&books),
            publisher,
            routes: bridge.inward.iter().map(Route::inward).collect(),
            broker_id: Arc::clone(broker_id),
        },
        books,
        notice: bridge
            .notification_topic
            .as_ref()
            .map(|topic| notice(topic, false)),
        target,
        routes: bridge.outward.iter().map(Route::outward).collect(),
        receiver: (!bridge.outward.is_empty()).then_some(receiver),
        batch: Vec::new(),
        outbox: Outbox::new(bridge.queue_bytes_max, bridge.queue_count_max),
        state,
        backoff: Backoff::new(random()?),
        resume: true,
    };
    Ok((runner, up))
}

/// Reads the files away from the tasks that serve clients.
async fn target(bridge: &config::Bridge, packet_bytes_max: usize) -> Result<Target, BridgeError> {
    let name = bridge.name.clone();
    let bridge = bridge.clone();
    let reading = tokio::task::spawn_blocking(move || read_target(&bridge, packet_bytes_max));
    reading.await.unwrap_or_else(|error| {
        Err(BridgeError::Tls {
            bridge: name,
            source: error.into(),
        })
    })
}

fn read_target(bridge: &config::Bridge, packet_bytes_max: usize) -> Result<Target, BridgeError> {
    let tls = match &bridge.tls {
        Some(files) => Some(tls::client(&bridge.name, files)?),
        None => None,
    };
    let login = match &bridge.login {
        Some(login) => {
            let password = match &login.password {
                BridgePassword::Text(text) => text.clone(),
                BridgePassword::File(file) => password(&bridge.name, file)?,
            };
            Some((login.user.clone(), password))
        }
        None => None,
    };
    let entries = bridge.inward.iter();
    Ok(Target {
        host: bridge.host.clone(),
        port: bridge.port,
        tls,
        client_id: bridge.client_id.clone(),
        login,
        version: bridge.version,
        keep_alive: bridge.keep_alive,
        session_expiry: bridge.session_expiry,
        will: bridge
            .notification_topic
            .as_ref()
            .map(|topic| notice(topic, false)),
        filters: entries.map(|entry| (entry.remote(), entry.qos)).collect(),
        packet_bytes_max,
    })
}

fn password(bridge: &str, file: &Path) -> Result<String, BridgeError> {
    let text = std::fs::read_to_string(file).map_err(|source| BridgeError::File {
        bridge: bridge.to_owned(),
        file: file.display().to_string(),
        source: source.into(),
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn random() -> Result<u64, BridgeError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| BridgeError::Random(std::io::Error::other(error).into()))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Says at the other broker whether the bridge is up.
fn notice(topic: &str, up: bool) -> Letter {
    Letter {
        topic: topic.to_owned(),
        payload: word(up).into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        ..Letter::default()
    }
}

fn word(up: bool) -> &'static str {
    if up { "1" } else { "0" }
}

/// Says at this broker whether the bridge is up.
async fn herald(name: String, publisher: LinkPublisher, mut up: watch::Receiver<bool>) {
    let topic = format!("$SYS/broker/connection/{name}/state");
    loop {
        let word = word(*up.borrow_and_update());
        let said = publisher
            .publish(Publish::new(&*topic, word).qos(QoS::AtLeastOnce).retained())
            .await;
        if let Err(error) = said {
            debug!(bridge = name, %error, "the bridge's state is not told");
            return;
        }
        if up.changed().await.is_err() {
            return;
        }
    }
}
