//! MQTT 3.1.1.

use super::{
    Ack, Busy, CONNECT_TIME, Heard, IN_FLIGHT_MAX, REQUESTS_MAX, Step, Target, Terms, window,
};
use crate::{bridge::letter::Letter, message::QoS};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, LastWill, MqttOptions,
    NetworkOptions, Outgoing, Publish, StateError, SubscribeFilter, SubscribeReasonCode,
    TlsConfiguration, Transport,
    mqttbytes::{self, QoS as WireQoS},
};
use std::sync::Arc;

/// The longest packet that goes out: MQTT's own limit. The other broker's is not told, so that ours holds.
const OUTGOING_BYTES_MAX: usize = 268_435_455;

pub(crate) struct Requests(AsyncClient);

pub(super) struct Loop {
    client: AsyncClient,
    events: EventLoop,
    filters: Vec<String>,
}

pub(super) fn open(target: &Target, resume: bool) -> (Requests, Loop) {
    let mut options = MqttOptions::new(&target.client_id, &target.host, target.port);
    if let Some(tls) = &target.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    if let Some((user, password)) = &target.login {
        options.set_credentials(user, password);
    }
    if let Some(will) = &target.will {
        let payload = will.payload.to_vec();
        let will = LastWill::new(&*will.topic, payload, WireQoS::AtLeastOnce, will.retain);
        options.set_last_will(will);
    }
    options
        .set_keep_alive(target.keep_alive)
        .set_clean_session(!resume)
        .set_inflight(IN_FLIGHT_MAX)
        .set_manual_acks(true)
        .set_max_packet_size(target.packet_bytes_max, OUTGOING_BYTES_MAX);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIME.as_secs());
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    events.set_network_options(network);
    let events = Loop {
        client: client.clone(),
        events,
        filters: target
            .filters
            .iter()
            .map(|(filter, _)| filter.clone())
            .collect(),
    };
    (Requests(client), events)
}

impl Requests {
    pub(super) fn subscribe(&self, filters: &[(String, QoS)]) -> Result<(), Busy> {
        let filters = filters
            .iter()
            .map(|(filter, qos)| SubscribeFilter::new(filter.clone(), wire(*qos)));
        self.0.try_subscribe_many(filters).map_err(|_| Busy)
    }

    pub(super) fn publish(&self, letter: &Letter, qos: QoS, retain: bool) -> Result<(), Busy> {
        // The library wants a vector of its own.
        let sent = self
            .0
            .try_publish(&*letter.topic, wire(qos), retain, letter.payload.to_vec());
        sent.map_err(|_| Busy)
    }

    pub(super) fn disconnect(&self) -> Result<(), Busy> {
        self.0.try_disconnect().map_err(|_| Busy)
    }
}

impl Loop {
    pub(super) fn acknowledge(&self, ack: Ack) -> Result<(), Busy> {
        let mut publish = Publish::new("", wire(ack.qos), Vec::new());
        publish.pkid = ack.packet_id;
        self.client.try_ack(&publish).map_err(|_| Busy)
    }

    pub(super) async fn next(&mut self) -> Step {
        match self.events.poll().await {
            Ok(Event::Incoming(incoming)) => self.incoming(incoming),
            Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => {
                Step::Heard(Heard::Sent(packet_id))
            }
            Ok(Event::Outgoing(_)) => Step::Room,
            Err(error) => Step::Heard(Heard::Lost {
                broken: is_broken(&error),
                reason: error.to_string(),
            }),
        }
    }

    fn incoming(&self, incoming: Incoming) -> Step {
        match incoming {
            Incoming::ConnAck(ack) => Step::Heard(Heard::Connected(Terms {
                window: window(None),
                packet_bytes_max: OUTGOING_BYTES_MAX,
                qos_max: QoS::AtLeastOnce,
                retain: true,
                resumed: ack.session_present,
            })),
            Incoming::SubAck(ack) => {
                let codes = self.filters.iter().zip(ack.return_codes);
                let refused = codes
                    .filter(|(_, code)| matches!(code, SubscribeReasonCode::Failure))
                    .map(|(filter, _)| filter.clone())
                    .collect();
                Step::Heard(Heard::Subscribed { refused })
            }
            Incoming::PubAck(ack) => Step::Heard(Heard::Acked {
                packet_id: ack.pkid,
                refused: None,
            }),
            Incoming::Publish(publish) => {
                let qos = QoS::from_bits(publish.qos as u8).unwrap_or_default();
                let ack = Ack {
                    packet_id: publish.pkid,
                    qos,
                };
                let letter = Letter {
                    topic: publish.topic,
                    payload: publish.payload,
                    qos,
                    retain: publish.retain,
                    ..Letter::default()
                };
                Step::Message(Some(letter), ack)
            }
            Incoming::Connect(_)
            | Incoming::PubRec(_)
            | Incoming::PubRel(_)
            | Incoming::PubComp(_)
            | Incoming::Subscribe(_)
            | Incoming::Unsubscribe(_)
            | Incoming::UnsubAck(_)
            | Incoming::PingReq
            | Incoming::PingResp
            | Incoming::Disconnect => Step::Nothing,
        }
    }
}

fn wire(qos: QoS) -> WireQoS {
    match qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce => WireQoS::AtLeastOnce,
        QoS::ExactlyOnce => WireQoS::ExactlyOnce,
    }
}

/// Whether the other broker sent what it should not, rather than that the network failed.
fn is_broken(error: &ConnectionError) -> bool {
    let ConnectionError::MqttState(error) = error else {
        return false;
    };
    if let StateError::Deserialization(error) = error {
        return !matches!(error, mqttbytes::Error::Io(_));
    }
    matches!(error, StateError::Unsolicited(_) | StateError::WrongPacket)
}
