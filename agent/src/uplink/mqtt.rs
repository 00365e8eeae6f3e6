//! The connection to the coordinator's broker: the one home of rumqttc.
//!
//! A connection lives from one [`connect`] to its end and is never revived: the library clears what was in flight when
//! a session is gone, so that whoever needs a record keeps it until the coordinator itself acknowledges it. A task of
//! its own drives the library's event loop, because a poll that is cut off may leave a packet unflushed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, Filter, LastWill, PubAckReason, Publish, PublishProperties,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ClientError, Event, EventLoop, Incoming, MqttOptions};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Login;

/// Requests between us and the library: one batch of live predictions, so that the task is woken once for many.
const REQUESTS_MAX: usize = 64;
/// Unacknowledged packets on the wire. The library allots room for this many up front, with its default of 65,535 it
/// is 15 MB; the brokers we know take 20 to 100 at a time.
const IN_FLIGHT_MAX: u16 = 100;
/// Events between the library and us.
const HEARD_MAX: usize = 64;
/// Largest packet we take: an acknowledgement or a release in its envelope, with room to grow.
const INCOMING_BYTES_MAX: u32 = 256 * 1024;
/// Fixed header, packet id and lengths of a publish packet, at most.
const PACKET_OVERHEAD_BYTES: usize = 32;

/// Where and as whom to connect.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) client_id: String,
    pub(super) login: Option<Login>,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
}

/// A message to be sent, QoS 1.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) properties: Properties,
}

/// The MQTT 5 properties that we send.
#[derive(Clone, Debug, Default)]
pub(super) struct Properties {
    pub(super) json: bool,
    pub(super) user: Vec<(String, String)>,
}

/// What a connection says.
#[derive(Debug)]
pub(super) enum Heard {
    /// The broker took us in.
    Connected {
        /// Largest packet that it takes, in bytes.
        packet_bytes_max: usize,
    },
    /// A message came.
    Message { topic: String, payload: Bytes },
    /// The broker refused a publication or a subscription.
    Refused { reason: String },
    /// The connection ended; nothing comes after this.
    Lost { reason: String },
}

/// Opens a connection: one half asks, the other one hears. It is cut when the second one is dropped.
pub(super) fn connect(target: &Target, will: &Outgoing) -> (Requests, Events) {
    let (client, eventloop) = AsyncClient::new(options(target, will), REQUESTS_MAX);
    let (sender, heard) = mpsc::channel(HEARD_MAX);
    // A ping goes out each keep-alive and must be answered before the next one: a poll that takes longer than two of
    // them hangs on a broker that stopped reading.
    let stall = target.keep_alive * 2 + target.connect_timeout;
    let driver = AbortOnDropHandle::new(tokio::spawn(drive(eventloop, sender, stall)));
    (
        Requests { client },
        Events {
            heard,
            _driver: driver,
        },
    )
}

/// What can be asked of a connection.
pub(super) struct Requests {
    client: AsyncClient,
}

/// What a connection says.
pub(super) struct Events {
    heard: mpsc::Receiver<Heard>,
    _driver: AbortOnDropHandle<()>,
}

/// The connection's requests go nowhere any more.
#[derive(Debug)]
pub(super) struct Closed;

impl Events {
    /// The next event; may be cancelled without loss.
    pub(super) async fn hear(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            None => Heard::Lost {
                reason: "the client library gave up".to_owned(),
            },
        }
    }
}

impl Requests {
    /// Subscribes with QoS 1.
    pub(super) async fn subscribe(
        &self,
        filters: impl IntoIterator<Item = String>,
    ) -> Result<(), Closed> {
        let filters: Vec<_> = filters
            .into_iter()
            .map(|filter| Filter::new(filter, QoS::AtLeastOnce))
            .collect();
        self.client
            .subscribe_many(filters)
            .await
            .map_err(|_| Closed)
    }

    /// Hands a message to the library if there is room now; false if there is none.
    ///
    /// That it was sent, let alone arrived, is not said.
    pub(super) fn try_publish(&self, message: &Outgoing) -> Result<bool, Closed> {
        let properties = properties(&message.properties);
        let (topic, payload) = (&*message.topic, message.payload.clone());
        match self.client.try_publish_with_properties(
            topic,
            QoS::AtLeastOnce,
            message.retain,
            payload,
            properties,
        ) {
            Ok(()) => Ok(true),
            Err(ClientError::TryRequest(_)) => Ok(false),
            Err(ClientError::Request(_)) => Err(Closed),
        }
    }

    /// Hands a message to the library once there is room.
    ///
    /// When it is cancelled, the message may still have been taken.
    pub(super) async fn publish(&self, message: &Outgoing) -> Result<(), Closed> {
        let properties = properties(&message.properties);
        let (topic, payload) = (&*message.topic, message.payload.clone());
        let sent = self.client.publish_with_properties(
            topic,
            QoS::AtLeastOnce,
            message.retain,
            payload,
            properties,
        );
        sent.await.map_err(|_| Closed)
    }

    /// Takes leave behind all that was handed over; the broker hangs up then.
    pub(super) async fn disconnect(&self) -> Result<(), Closed> {
        self.client.disconnect().await.map_err(|_| Closed)
    }
}

impl Outgoing {
    /// The size of its packet, at most.
    pub(super) fn packet_bytes(&self) -> usize {
        let user = self
            .properties
            .user
            .iter()
            .map(|(key, value)| key.len() + value.len() + 5)
            .sum::<usize>();
        self.topic.len() + self.payload.len() + user + PACKET_OVERHEAD_BYTES
    }
}

fn options(target: &Target, will: &Outgoing) -> MqttOptions {
    let mut options = MqttOptions::new(&target.client_id, &target.host, target.port);
    if let Some(tls) = &target.tls {
        options.set_transport(Transport::tls_with_config(
            rumqttc::TlsConfiguration::Rustls(Arc::clone(tls)),
        ));
    }
    if let Some(Login { username, password }) = &target.login {
        options.set_credentials(username, password);
    }
    options.set_clean_start(true);
    // The library asserts at least 5 s; the configuration holds to that.
    options.set_keep_alive(target.keep_alive.max(Duration::from_secs(5)));
    options.set_connection_timeout(target.connect_timeout.as_secs().max(1));
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
    let mut connect = ConnectProperties::new();
    connect.max_packet_size = Some(INCOMING_BYTES_MAX);
    options.set_connect_properties(connect);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let payload = will.payload.to_vec();
    options.set_last_will(LastWill::new(
        &*will.topic,
        payload,
        QoS::AtLeastOnce,
        will.retain,
        None,
    ));
    options
}

fn properties(properties: &Properties) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: properties.json.then_some(1),
        content_type: properties.json.then(|| "application/json".to_owned()),
        user_properties: properties.user.clone(),
        ..PublishProperties::default()
    }
}

async fn drive(mut eventloop: EventLoop, heard: mpsc::Sender<Heard>, stall: Duration) {
    loop {
        let say = match tokio::time::timeout(stall, eventloop.poll()).await {
            Ok(Ok(Event::Incoming(incoming))) => of_incoming(incoming),
            Ok(Ok(Event::Outgoing(_))) => None,
            Ok(Err(error)) => Some(Heard::Lost {
                reason: error.to_string(),
            }),
            Err(_) => Some(Heard::Lost {
                reason: format!("no answer for {} s", stall.as_secs()),
            }),
        };
        let Some(say) = say else { continue };
        let last = matches!(say, Heard::Lost { .. });
        if heard.send(say).await.is_err() || last {
            return;
        }
    }
}

fn of_incoming(incoming: Incoming) -> Option<Heard> {
    match incoming {
        Incoming::ConnAck(ConnAck { properties, .. }) => {
            let limit = properties.and_then(|properties| properties.max_packet_size);
            let limit = limit.and_then(|limit| usize::try_from(limit).ok());
            Some(Heard::Connected {
                packet_bytes_max: limit.unwrap_or(usize::MAX),
            })
        }
        Incoming::Publish(Publish { topic, payload, .. }) => Some(Heard::Message {
            topic: String::from_utf8_lossy(&topic).into_owned(),
            payload,
        }),
        Incoming::PubAck(ack)
            if !matches!(
                ack.reason,
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers
            ) =>
        {
            Some(Heard::Refused {
                reason: format!("a publication, for the reason {:?}", ack.reason),
            })
        }
        Incoming::SubAck(ack) => {
            let refused = ack
                .return_codes
                .iter()
                .find(|code| !matches!(code, SubscribeReasonCode::Success(_)))?;
            Some(Heard::Refused {
                reason: format!("a subscription, for the reason {refused:?}"),
            })
        }
        Incoming::Connect(..)
        | Incoming::PubAck(_)
        | Incoming::PingReq(_)
        | Incoming::PingResp(_)
        | Incoming::Subscribe(_)
        | Incoming::PubRec(_)
        | Incoming::PubRel(_)
        | Incoming::PubComp(_)
        | Incoming::Unsubscribe(_)
        | Incoming::UnsubAck(_)
        | Incoming::Disconnect(_)
        | Incoming::Auth(_) => None,
    }
}
