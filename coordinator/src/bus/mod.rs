//! The way to the nodes: the embedded broker or an external one, behind one front.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lamppost_models::TopicRoot;
use lamppost_models::topic::NodeTopicKind;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Broker, Config};

mod embedded;
mod external;
mod tls;

pub use external::ExternalError;
pub use tls::TlsError;
pub(crate) use tls::install_provider;

/// Messages from nodes that wait for the owner of the state: four rounds. When they are full the bus waits, and the
/// broker drops what it cannot hold; nodes send again what is not acknowledged.
const INBOX_MAX: usize = 1_024;
/// What the coordinator listens to.
const KINDS: [NodeTopicKind; 6] = [
    NodeTopicKind::Status,
    NodeTopicKind::Reported,
    NodeTopicKind::Prediction,
    NodeTopicKind::PredictionHistory,
    NodeTopicKind::Sample,
    NodeTopicKind::Events,
];

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
}

/// A message to send, QoS 1, its payload JSON.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
    /// After this time the broker forgets it.
    pub(crate) expiry: Option<Duration>,
}

/// Why the bus does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartBusError {
    /// The embedded broker does not start.
    #[error("the embedded broker does not start")]
    Broker(#[from] lamppost_broker::StartError),
    /// The embedded broker gives no link.
    #[error("the embedded broker gives no link")]
    Link(#[from] lamppost_broker::LinkError),
    /// The external broker cannot be spoken to.
    #[error("the external broker cannot be spoken to")]
    External(#[from] ExternalError),
}

/// Why something cannot be sent or watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    #[error("there is no connection to the broker at the moment")]
    NotConnected,
    #[error("{filter:?} is no topic filter: + stands for a whole level, # for the last ones")]
    Filter { filter: String },
    #[error("the embedded broker refuses")]
    Link(#[from] lamppost_broker::LinkError),
}

/// The way to the nodes; clones share it.
#[derive(Clone)]
pub(crate) struct Bus {
    side: Arc<Side>,
    connections: watch::Receiver<u64>,
}

enum Side {
    Embedded(Box<embedded::Side>),
    External(external::Side),
}

/// What a filter selects, as it comes.
pub(crate) enum Watch {
    Embedded(Box<lamppost_broker::LinkReceiver>),
    External(external::Watch),
}

impl Bus {
    /// Starts the bus. What nodes say comes out of the receiver until `stop`.
    pub(crate) async fn start(
        config: &Config,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Message>), StartBusError> {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let (up, connections) = watch::channel(0);
        let filters = filters(&config.root);
        let side = match &config.broker {
            Broker::Embedded(embedded) => Side::Embedded(Box::new(
                embedded::Side::start(embedded, config, filters, sender, up, (tasks, stop)).await?,
            )),
            Broker::External(external) => Side::External(external::Side::start(
                external,
                filters,
                sender,
                up,
                (tasks, stop),
            )?),
        };
        Ok((
            Self {
                side: Arc::new(side),
                connections,
            },
            inbox,
        ))
    }

    /// Sends a message: it is handed to the broker, or to the client's queue. What must arrive is sent again by its
    /// owner when the connection is new, or when nobody acknowledged it.
    pub(crate) async fn publish(&self, outgoing: Outgoing) -> Result<(), BusError> {
        match &*self.side {
            Side::Embedded(side) => side.publish(outgoing).await,
            Side::External(side) => side.publish(outgoing).await,
        }
    }

    /// Listens to what `filter` selects, retained messages first.
    pub(crate) async fn watch(&self, filter: &str) -> Result<Watch, BusError> {
        if !is_filter(filter) {
            return Err(BusError::Filter {
                filter: filter.chars().take(160).collect(),
            });
        }
        Ok(match &*self.side {
            Side::Embedded(side) => Watch::Embedded(Box::new(side.watch(filter).await?)),
            Side::External(side) => Watch::External(side.watch(filter).await?),
        })
    }

    /// Counts connections to the broker; 0 while there is none.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Whether there is a connection now.
    pub(crate) fn connected(&self) -> bool {
        *self.connections.borrow() != 0
    }

    /// Where the embedded broker listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &*self.side {
            Side::Embedded(side) => side.address(),
            Side::External(_) => None,
        }
    }

    /// Stops the embedded broker, or takes leave of the external one, once what was sent is out.
    pub(crate) async fn stop(&self) {
        match &*self.side {
            Side::Embedded(side) => side.stop().await,
            Side::External(side) => side.stop().await,
        }
    }
}

impl Watch {
    /// The next message; `None` when there will be none.
    pub(crate) async fn recv(&mut self) -> Option<Message> {
        match self {
            Self::Embedded(receiver) => receiver.recv().await.map(embedded::of_link),
            Self::External(watch) => watch.recv().await,
        }
    }
}

fn filters(root: &TopicRoot) -> Vec<String> {
    KINDS
        .into_iter()
        .map(|kind| root.nodes_filter(kind))
        .collect()
}

/// Whether `filter` is well formed by MQTT 5, section 4.7, and no shared subscription.
fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let good = |(index, level): (usize, &&str)| match *level {
        "#" => index + 1 == levels.len(),
        "+" => true,
        level => !level.contains(['+', '#', '\0']),
    };
    !filter.is_empty()
        && filter.len() <= 1_024
        && !filter.starts_with("$share/")
        && levels.iter().enumerate().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["#", "+", "a/+/b/#", "/", "$SYS/#"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "a#", "#/a", "a+/b", "$share/g/a", "a\0"] {
            assert!(!is_filter(bad), "{bad:?}");
        }
    }
}
