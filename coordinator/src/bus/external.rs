//! A broker somewhere else: the one home of rumqttc.
//!
//! A connection lives until it breaks and is never revived: the library forgets what was in flight then, so that a new
//! client is made, with growing pauses. Its owner publishes again what must be there: releases are retained and sent
//! anew on every connection, acknowledgements come again with the records. The library's event loop is polled by one task
//! that does nothing else, since a poll that is cut off may leave half a packet behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, Filter, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::tls::{self, TlsError};
use super::{BusError, Message, Outgoing};
use crate::config::External;

/// Publications between us and the library.
const REQUESTS_MAX: usize = 64;
/// Publications on the wire and not acknowledged; the library allots room for all of them.
const IN_FLIGHT_MAX: u16 = 100;
/// Largest packet that is taken: a message of a node with its topic and properties.
const INCOMING_BYTES_MAX: u32 = 320 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A ping goes out each keep-alive: a poll that takes longer than two of them hangs on a broker that stopped reading.
const STALL_TIME: Duration = Duration::from_secs(75);
/// How long the queue of messages may be full before the connection is given up; less than one and a half keep-alives.
const INBOX_TIME: Duration = Duration::from_secs(20);
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// Messages of a watcher that wait to be written to its HTTP connection; a slow one loses further ones.
const WATCH_MAX: usize = 1_024;
/// How long the last messages may take to go out.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Why the broker cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The system has no random numbers for a client id.
    #[error("the system gives no random numbers for a client id")]
    Random(#[source] std::io::Error),
}

pub(super) struct Side {
    target: Arc<Target>,
    client: watch::Receiver<Option<AsyncClient>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The connection does not outlive the last one who could speak through it.
    _stop_on_drop: DropGuard,
    /// Numbers watches, so that each is a client of its own to the broker.
    watches: AtomicU64,
}

/// Where and as whom to connect.
struct Target {
    external: External,
    tls: Option<Arc<rustls::ClientConfig>>,
    client_id: String,
}

/// What a filter selects on a connection of its own, which ends with this.
pub(crate) struct Watch {
    messages: mpsc::Receiver<Message>,
    _end: DropGuard,
}

/// What is done with a connection's messages.
struct Ears {
    filters: Vec<String>,
    messages: mpsc::Sender<Message>,
    /// Whether a full queue holds the connection up, or loses messages.
    patient: bool,
}

impl Side {
    pub(super) fn start(
        external: &External,
        filters: Vec<String>,
        inbox: mpsc::Sender<Message>,
        up: watch::Sender<u64>,
        (tasks, stop): (&TaskTracker, &CancellationToken),
    ) -> Result<Self, ExternalError> {
        let tls = if external.url.tls {
            Some(tls::client(external.ca_file.as_deref())?)
        } else {
            None
        };
        let mut random = [0; 4];
        getrandom::fill(&mut random)
            .map_err(|error| ExternalError::Random(std::io::Error::other(error)))?;
        let client_id = format!("lamppost-{:08x}", u32::from_le_bytes(random));
        let target = Arc::new(Target {
            external: external.clone(),
            tls,
            client_id,
        });
        let (sender, client) = watch::channel(None);
        let ears = Ears {
            filters,
            messages: inbox,
            patient: true,
        };
        // Messages stop with the coordinator; the connection outlives it, so that the last acknowledgements go out.
        let leave = CancellationToken::new();
        tasks.spawn(keep_connected(
            Arc::clone(&target),
            ears,
            (sender, up),
            (stop.clone(), leave.clone()),
        ));
        Ok(Self {
            target,
            client,
            tasks: tasks.clone(),
            stop: leave.clone(),
            _stop_on_drop: leave.drop_guard(),
            watches: AtomicU64::new(0),
        })
    }

    pub(super) async fn publish(&self, outgoing: Outgoing) -> Result<(), BusError> {
        let client = self.client.borrow().clone().ok_or(BusError::NotConnected)?;
        let Outgoing {
            topic,
            payload,
            retain,
            expiry,
        } = outgoing;
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some("application/json".to_owned()),
            message_expiry_interval: expiry
                .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
            ..PublishProperties::default()
        };
        let sent = client
            .publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties)
            .await;
        sent.map_err(|_| BusError::NotConnected)
    }

    /// Listens on a connection of its own; no message is missed after this returned.
    pub(super) async fn watch(&self, filter: &str) -> Result<Watch, BusError> {
        let (messages, receiver) = mpsc::channel(WATCH_MAX);
        let number = self.watches.fetch_add(1, Ordering::Relaxed);
        let ears = Ears {
            filters: vec![filter.to_owned()],
            messages,
            patient: false,
        };
        let until = self.stop.child_token();
        let watch = Watch {
            messages: receiver,
            _end: until.clone().drop_guard(),
        };
        let target = Arc::clone(&self.target);
        let (connected, mut seen) = watch::channel(None);
        self.tasks.spawn(async move {
            let client_id = format!("{}-watch-{number}", target.client_id);
            let (client, eventloop) = AsyncClient::new(options(&target, &client_id), REQUESTS_MAX);
            let reason = tokio::select! {
                () = until.cancelled() => return,
                reason = drive(eventloop, &client, &ears, (&connected, &until)) => reason,
            };
            tracing::info!(reason, "a watch has ended");
        });
        match tokio::time::timeout(CONNECT_TIME, seen.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => Ok(watch),
            Ok(Err(_)) | Err(_) => Err(BusError::NotConnected),
        }
    }

    pub(super) async fn stop(&self) {
        let client = self.client.borrow().clone();
        if let Some(client) = client {
            // What was handed over before goes out first; the broker answers by closing the connection.
            let mut gone = self.client.clone();
            let leave = async {
                if client.disconnect().await.is_ok() {
                    drop(gone.wait_for(Option::is_none).await);
                }
            };
            drop(tokio::time::timeout(LEAVE_TIME, leave).await);
        }
        self.stop.cancel();
    }
}

impl Watch {
    pub(super) async fn recv(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

async fn keep_connected(
    target: Arc<Target>,
    ears: Ears,
    (client_slot, up): (watch::Sender<Option<AsyncClient>>, watch::Sender<u64>),
    (quiet, leave): (CancellationToken, CancellationToken),
) {
    let (mut pause, mut connections) = (PAUSE_FIRST, 0);
    while !leave.is_cancelled() {
        let (client, eventloop) =
            AsyncClient::new(options(&target, &target.client_id), REQUESTS_MAX);
        let (connected, mut seen) = watch::channel(None);
        let announce = async {
            if seen.wait_for(Option::is_some).await.is_ok() {
                connections += 1;
                tracing::info!(broker = %target.external.url, "connected to the broker");
                client_slot.send_replace(Some(client.clone()));
                up.send_replace(connections);
            }
            std::future::pending::<String>().await
        };
        let reason = tokio::select! {
            () = leave.cancelled() => String::new(),
            reason = drive(eventloop, &client, &ears, (&connected, &quiet)) => reason,
            reason = announce => reason,
        };
        let was_connected = client_slot.send_replace(None).is_some();
        up.send_replace(0);
        if leave.is_cancelled() || quiet.is_cancelled() {
            break;
        }
        pause = if was_connected {
            PAUSE_FIRST
        } else {
            (pause * 2).min(PAUSE_LAST)
        };
        tracing::warn!(broker = %target.external.url, reason, ?pause, "no connection to the broker; it is tried again");
        tokio::select! {
            () = quiet.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Runs a connection until it ends, and says why it did.
async fn drive(
    mut eventloop: EventLoop,
    client: &AsyncClient,
    ears: &Ears,
    (connected, quiet): (&watch::Sender<Option<()>>, &CancellationToken),
) -> String {
    loop {
        let incoming = match tokio::time::timeout(STALL_TIME, eventloop.poll()).await {
            Ok(Ok(Event::Incoming(incoming))) => incoming,
            Ok(Ok(Event::Outgoing(_))) => continue,
            Ok(Err(error)) => return crate::error::chain(&error),
            Err(_) => return format!("the broker did not answer for {} s", STALL_TIME.as_secs()),
        };
        match incoming {
            Incoming::ConnAck(_) => {
                let filters = ears
                    .filters
                    .iter()
                    .map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
                if client.try_subscribe_many(filters).is_err() {
                    return "the client's queue is full at once".to_owned();
                }
            }
            Incoming::SubAck(ack) => {
                let refused = ack
                    .return_codes
                    .iter()
                    .find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                if let Some(refused) = refused {
                    return format!("the broker refuses a subscription: {refused:?}");
                }
                connected.send_replace(Some(()));
            }
            Incoming::Publish(publish) if !quiet.is_cancelled() => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                let message = Message {
                    topic,
                    payload: publish.payload,
                    retain: publish.retain,
                };
                if let Err(reason) = ears.hear(message, quiet).await {
                    return reason;
                }
            }
            Incoming::PubAck(ack) => {
                tracing::trace!(reason = ?ack.reason, "publication acknowledged");
            }
            Incoming::Publish(_)
            | Incoming::Auth(_)
            | Incoming::Connect(..)
            | Incoming::PingReq(_)
            | Incoming::PingResp(_)
            | Incoming::Subscribe(_)
            | Incoming::PubRec(_)
            | Incoming::PubRel(_)
            | Incoming::PubComp(_)
            | Incoming::Unsubscribe(_)
            | Incoming::UnsubAck(_)
            | Incoming::Disconnect(_) => {}
        }
    }
}

impl Ears {
    async fn hear(&self, message: Message, quiet: &CancellationToken) -> Result<(), String> {
        if !self.patient {
            return match self.messages.try_send(message) {
                Ok(()) => Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::debug!("a watcher is too slow and misses a message");
                    Ok(())
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    Err("nobody watches any more".to_owned())
                }
            };
        }
        tokio::select! {
            () = quiet.cancelled() => Ok(()),
            sent = tokio::time::timeout(INBOX_TIME, self.messages.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("the coordinator is stopping".to_owned()),
                Err(_) => Err(format!("messages could not be stored for {} s", INBOX_TIME.as_secs())),
            },
        }
    }
}

fn options(target: &Target, client_id: &str) -> MqttOptions {
    let url = &target.external.url;
    let mut options = MqttOptions::new(client_id, &url.host, url.port);
    if let Some(tls) = &target.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
            Arc::clone(tls),
        )));
    }
    if let Some((user, password)) = &url.login {
        options.set_credentials(user, password);
    }
    options.set_clean_start(true).set_keep_alive(KEEP_ALIVE);
    options.set_connection_timeout(CONNECT_TIME.as_secs());
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
    let mut connect = ConnectProperties::new();
    connect.max_packet_size = Some(INCOMING_BYTES_MAX);
    options.set_connect_properties(connect);
    options
}
