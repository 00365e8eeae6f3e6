//! The broker in this process, with the rules that hold for nodes and viewers.

use std::net::SocketAddr;

use lamppost_broker::{
    Action, Broker, Config as BrokerConfig, Effect, Limits, LinkPublisher, LinkReceiver, Publish,
    PublishProperties, QoS, Rule, User, Who,
};
use lamppost_coordinator_core::rollout::UPDATE_TOPICS_MAX;
use lamppost_models::TopicRoot;
use lamppost_models::message::MESSAGE_BYTES_MAX;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BusError, Message, Outgoing, StartBusError};
use crate::config::{Config, Embedded};

/// Links of this process: inbox, publisher, the questions for the time, and two for each watcher that the API lets in.
const LINKS_MAX: usize = 128;
/// Filters of a client: a node has one for each of its groups, and four for acknowledgements, trust and time.
const FILTERS_PER_CLIENT_MAX: usize = 20;
/// What waits for the subscribers of one filter: four seconds of 1,000 predictions a second.
const LOG_BYTES_PER_FILTER: usize = 1 << 20;
/// All retained messages: status and report of 10,000 nodes with 12 kB each, and 10,000 releases.
const RETAINED_BYTES_MAX: usize = 256 << 20;

pub(super) struct Side {
    /// `None` once it is stopped.
    broker: Mutex<Option<Broker>>,
    address: Option<SocketAddr>,
    publisher: LinkPublisher,
}

impl Side {
    pub(super) async fn start(
        embedded: &Embedded,
        config: &Config,
        filters: Vec<String>,
        inbox: mpsc::Sender<Message>,
        up: watch::Sender<u64>,
        (tasks, stop): (&TaskTracker, &CancellationToken),
    ) -> Result<Self, StartBusError> {
        let broker = Broker::start(broker_config(
            embedded,
            &config.root,
            config.inventory.nodes_max,
        ))
        .await?;
        let (publisher, mut receiver) = broker.link("coordinator")?.split();
        for filter in &filters {
            receiver.subscribe(filter, QoS::AtLeastOnce).await?;
        }
        tasks.spawn(listen(receiver, inbox, up, stop.clone()));
        Ok(Self {
            address: broker.local_addr(),
            broker: Mutex::new(Some(broker)),
            publisher,
        })
    }

    pub(super) const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub(super) async fn publish(&self, outgoing: Outgoing) -> Result<(), BusError> {
        let Outgoing {
            topic,
            payload,
            retain,
            expiry,
        } = outgoing;
        let properties = PublishProperties {
            content_type: Some("application/json".to_owned()),
            payload_is_utf8: true,
            message_expiry: expiry,
            ..PublishProperties::default()
        };
        Ok(self
            .publisher
            .publish(Publish {
                topic,
                payload,
                qos: QoS::AtLeastOnce,
                retain,
                properties,
            })
            .await?)
    }

    pub(super) async fn watch(&self, filter: &str) -> Result<LinkReceiver, BusError> {
        let link = match &*self.broker.lock().await {
            Some(broker) => broker.link("watch")?,
            None => return Err(BusError::NotConnected),
        };
        let (_, mut receiver) = link.split();
        receiver.subscribe(filter, QoS::AtLeastOnce).await?;
        Ok(receiver)
    }

    pub(super) async fn stop(&self) {
        let broker = self.broker.lock().await.take();
        if let Some(broker) = broker {
            broker.stop().await;
        }
    }
}

async fn listen(
    mut receiver: LinkReceiver,
    inbox: mpsc::Sender<Message>,
    up: watch::Sender<u64>,
    stop: CancellationToken,
) {
    up.send_replace(1);
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => break,
            message = receiver.recv() => message,
        };
        let Some(message) = message else {
            tracing::error!("the embedded broker has stopped");
            break;
        };
        let sent = tokio::select! {
            () = stop.cancelled() => break,
            sent = inbox.send(of_link(message)) => sent,
        };
        if sent.is_err() {
            break;
        }
    }
    up.send_replace(0);
}

pub(super) fn of_link(message: lamppost_broker::Message) -> Message {
    Message {
        topic: message.topic.as_ref().to_owned(),
        payload: message.payload,
        retain: message.retain,
    }
}

/// The broker's configuration: who may do what, and how much.
fn broker_config(embedded: &Embedded, root: &TopicRoot, nodes_max: usize) -> BrokerConfig {
    let node_users = embedded.nodes.iter().map(|node| User {
        name: node.path().to_string(),
        password: node.password.clone(),
    });
    let viewers = embedded.viewers.iter().map(|viewer| User {
        name: viewer.user.clone(),
        password: viewer.password.clone(),
    });
    let defaults = Limits::default();
    BrokerConfig {
        listen: Some(embedded.listen),
        allow_anonymous: embedded.anonymous_viewers,
        expose_anonymous: false,
        users: node_users.chain(viewers).collect(),
        rules: rules(embedded, root),
        default_access: Effect::Deny,
        protected: vec![format!("{root}/#")],
        limits: Limits {
            clients_max: embedded.clients_max,
            links_max: LINKS_MAX,
            payload_bytes_max: MESSAGE_BYTES_MAX,
            filters_per_client_max: FILTERS_PER_CLIENT_MAX,
            filters_max: (embedded.clients_max * FILTERS_PER_CLIENT_MAX).clamp(256, 100_000),
            log_bytes_per_filter: LOG_BYTES_PER_FILTER,
            // Two of each node, the releases, trust and time.
            retained_count_max: 2 * nodes_max + UPDATE_TOPICS_MAX + 2,
            retained_bytes_max: RETAINED_BYTES_MAX,
            ..defaults
        },
        ..BrokerConfig::default()
    }
}

/// Viewers first, since a viewer is a user too, whose name must not become a place below `nodes/`.
fn rules(embedded: &Embedded, root: &TopicRoot) -> Vec<Rule> {
    let rule = |effect, who, action, filter: String| Rule {
        effect,
        who,
        action,
        filter,
    };
    let everything = || format!("{root}/#");
    let mut rules = Vec::new();
    let viewers = embedded
        .viewers
        .iter()
        .map(|viewer| Who::User(viewer.user.clone()));
    for who in viewers.chain([Who::Anonymous]) {
        rules.push(rule(
            Effect::Deny,
            who.clone(),
            Action::Publish,
            "#".to_owned(),
        ));
        rules.push(rule(Effect::Allow, who, Action::Subscribe, everything()));
    }
    rules.push(rule(
        Effect::Deny,
        Who::Users,
        Action::Publish,
        format!("{root}/nodes/%u/ack"),
    ));
    // What the coordinator says to a node, nobody else does.
    rules.push(rule(
        Effect::Deny,
        Who::Users,
        Action::Publish,
        format!("{root}/nodes/%u/time/answer"),
    ));
    rules.push(rule(
        Effect::Allow,
        Who::Users,
        Action::Publish,
        format!("{root}/nodes/%u/#"),
    ));
    rules.push(rule(
        Effect::Allow,
        Who::Users,
        Action::Subscribe,
        format!("{root}/models/#"),
    ));
    rules.push(rule(
        Effect::Allow,
        Who::Users,
        Action::Subscribe,
        format!("{root}/nodes/%u/ack"),
    ));
    for below in ["trust", "time", "nodes/%u/time/answer"] {
        let filter = format!("{root}/{below}");
        rules.push(rule(Effect::Allow, Who::Users, Action::Subscribe, filter));
    }
    rules
}
