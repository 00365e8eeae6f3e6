//! A sensor and a subscriber as a stock MQTT client would be, in no way special to Lamppost.
//!
//! rumqttc is used here and nowhere else in this package.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::wait::{self, TooLate};

/// Requests that may wait in rumqttc: a burst of sensor messages, after which a publish waits.
const REQUESTS_MAX: usize = 64;
/// Messages that may wait for their reader: more than a minute of the demo's three nodes together.
const MESSAGES_MAX: usize = 16_384;
/// Largest message either way.
const PACKET_BYTES_MAX: usize = 1024 * 1024;
/// Pause before connecting again.
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// How long a subscriber waits for its first subscription to be confirmed.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a broker is and how to get in.
#[derive(Clone, Debug)]
pub struct BrokerAddr {
    /// Its TCP address.
    pub addr: SocketAddr,
    /// User name and password, where it asks for them.
    pub login: Option<(String, String)>,
}

impl BrokerAddr {
    /// A broker that asks for no password.
    pub const fn open(addr: SocketAddr) -> Self {
        Self { addr, login: None }
    }

    fn options(&self, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, self.addr.ip().to_string(), self.addr.port());
        options
            .set_keep_alive(Duration::from_secs(15))
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        options
    }
}

/// Why a client cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its connection task is gone.
    #[error("mqtt client is closed")]
    Closed,
    /// The broker refuses a filter.
    #[error("broker refuses the subscription to {filter:?}")]
    Refused {
        /// The filter.
        filter: String,
    },
    /// Something did not come in time.
    #[error(transparent)]
    TooLate(#[from] TooLate),
}

/// Ends the connection's task with its client.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Publishes with QoS 1.
#[derive(Debug)]
pub struct Sensor {
    client: AsyncClient,
    acknowledged: watch::Receiver<u64>,
    sent: u64,
    _connection: Connection,
}

impl Sensor {
    /// Starts a client that connects by itself.
    pub fn connect(broker: &BrokerAddr, client_id: &str) -> Self {
        let (client, events) = AsyncClient::new(broker.options(client_id), REQUESTS_MAX);
        let (counter, acknowledged) = watch::channel(0);
        let connection = Connection(tokio::spawn(count_acknowledgements(events, counter)));
        Self {
            client,
            acknowledged,
            sent: 0,
            _connection: connection,
        }
    }

    /// Hands a message to the client; waits while its queue is full.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the client's task is gone or the topic is not one to publish on.
    pub async fn publish(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), ClientError> {
        self.publish_with(topic, payload, false).await
    }

    /// The same for a retained message.
    ///
    /// # Errors
    /// As [`Sensor::publish`].
    pub async fn publish_retained(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), ClientError> {
        self.publish_with(topic, payload, true).await
    }

    async fn publish_with(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
        retain: bool,
    ) -> Result<(), ClientError> {
        let sent = self
            .client
            .publish(topic, QoS::AtLeastOnce, retain, payload.into())
            .await;
        sent.map_err(|_| ClientError::Closed)?;
        self.sent += 1;
        Ok(())
    }

    /// Messages handed to the client so far.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Waits until the broker has acknowledged all that was published.
    ///
    /// # Errors
    /// [`TooLate`] when it has not until `deadline`.
    pub async fn settle(&self, deadline: Instant) -> Result<(), TooLate> {
        let (sent, acknowledged) = (self.sent, &self.acknowledged);
        let what = format!("acknowledgement of {sent} messages");
        wait::until(&what, deadline, || {
            let done = (*acknowledged.borrow() >= sent).then_some(());
            std::future::ready(done)
        })
        .await
    }
}

async fn count_acknowledgements(mut events: EventLoop, counter: watch::Sender<u64>) {
    while !counter.is_closed() {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => counter.send_modify(|count| *count += 1),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "sensor connection");
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    }
}

/// A message that a subscriber received.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Whether the broker had kept it.
    pub retained: bool,
}

/// Receives what is published on some filters, with QoS 1; connects and subscribes again when its connection breaks.
#[derive(Debug)]
pub struct Subscriber {
    messages: mpsc::Receiver<Message>,
    _connection: Connection,
}

/// Whether the broker took the subscriptions.
#[derive(Clone, Debug)]
enum Subscribed {
    Waiting,
    Yes,
    Refused(String),
}

impl Subscriber {
    /// Connects and subscribes; what is published after the return is received.
    ///
    /// # Errors
    /// [`ClientError`] when the broker refuses a filter or is not there within 20 s.
    pub async fn connect(
        broker: &BrokerAddr,
        client_id: &str,
        filters: &[&str],
    ) -> Result<Self, ClientError> {
        let (client, events) =
            AsyncClient::new(broker.options(client_id), REQUESTS_MAX.max(filters.len()));
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let (told, state) = watch::channel(Subscribed::Waiting);
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        let connection = Connection(tokio::spawn(receive(client, events, filters, sender, told)));
        let outcome = wait::until("subscription", Instant::now() + SUBSCRIBE_TIMEOUT, || {
            let state = state.borrow().clone();
            std::future::ready(match state {
                Subscribed::Waiting => None,
                Subscribed::Yes => Some(Ok(())),
                Subscribed::Refused(filter) => Some(Err(ClientError::Refused { filter })),
            })
        });
        outcome.await??;
        Ok(Self {
            messages,
            _connection: connection,
        })
    }

    /// The next message.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the client's task is gone.
    pub async fn next(&mut self) -> Result<Message, ClientError> {
        self.messages.recv().await.ok_or(ClientError::Closed)
    }

    /// A message that is here already, if any.
    pub fn try_next(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Receives until `found` gives a value for a message; the others are dropped.
    ///
    /// # Errors
    /// [`ClientError`] when there is none until `deadline`; `what` is named in it.
    pub async fn until<T>(
        &mut self,
        what: &str,
        deadline: Instant,
        mut found: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T, ClientError> {
        let search = async {
            loop {
                if let Some(value) = found(&self.next().await?) {
                    return Ok(value);
                }
            }
        };
        match tokio::time::timeout_at(deadline, search).await {
            Ok(outcome) => outcome,
            Err(_) => Err(
                wait::until(what, deadline, || std::future::ready(None::<T>))
                    .await
                    .map_or_else(Into::into, |_| ClientError::Closed),
            ),
        }
    }
}

async fn receive(
    client: AsyncClient,
    mut events: EventLoop,
    filters: Vec<String>,
    sender: mpsc::Sender<Message>,
    told: watch::Sender<Subscribed>,
) {
    let mut confirmed = 0;
    let mut asked = Vec::new();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                (confirmed, asked) = (0, Vec::new());
                for filter in &filters {
                    if client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
                        tracing::warn!(filter, "subscription could not be queued");
                    }
                }
            }
            Ok(Event::Outgoing(Outgoing::Subscribe(id))) => asked.push(id),
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                let refused = ack
                    .return_codes
                    .iter()
                    .any(|code| matches!(code, rumqttc::SubscribeReasonCode::Failure));
                if refused {
                    let at = asked.iter().position(|&id| id == ack.pkid);
                    let filter = at
                        .and_then(|at| filters.get(at))
                        .cloned()
                        .unwrap_or_default();
                    told.send_replace(Subscribed::Refused(filter));
                    return;
                }
                confirmed += 1;
                if confirmed == filters.len() {
                    told.send_replace(Subscribed::Yes);
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let message = Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                    retained: publish.retain,
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "subscriber connection");
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    }
}
