//! MQTT 5.

use super::{
    Ack, Busy, CONNECT_TIME, Heard, IN_FLIGHT_MAX, RECEIVE_MAX, REQUESTS_MAX, Step, Target, Terms,
    window,
};
use crate::{
    bridge::letter::Letter,
    message::{PublishProperties, QoS},
};
use rumqttc::{
    NetworkOptions, Outgoing, TlsConfiguration, Transport,
    v5::{
        AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, StateError,
        mqttbytes::{
            self, QoS as WireQoS,
            v5::{
                ConnAck, ConnectProperties, Filter, LastWill, PubAckReason, Publish,
                PublishProperties as WireProperties, SubscribeReasonCode,
            },
        },
    },
};
use std::{sync::Arc, time::Duration};

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
        let will = LastWill::new(
            &*will.topic,
            payload,
            WireQoS::AtLeastOnce,
            will.retain,
            None,
        );
        options.set_last_will(will);
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let expiry_s = u32::try_from(target.session_expiry.as_secs()).unwrap_or(u32::MAX);
    let connect = ConnectProperties {
        session_expiry_interval: Some(expiry_s),
        receive_maximum: Some(RECEIVE_MAX),
        max_packet_size: u32::try_from(target.packet_bytes_max).ok(),
        ..ConnectProperties::new()
    };
    options
        .set_keep_alive(target.keep_alive)
        .set_connection_timeout(CONNECT_TIME.as_secs())
        .set_clean_start(!resume)
        .set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX)
        .set_manual_acks(true)
        .set_network_options(network)
        .set_connect_properties(connect);
    let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
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
        let filters = filters.iter().map(|(filter, qos)| Filter {
            // What we publish there must not come back, and whether a message is retained must be seen.
            nolocal: true,
            preserve_retain: true,
            ..Filter::new(filter.clone(), wire(*qos))
        });
        self.0.try_subscribe_many(filters).map_err(|_| Busy)
    }

    pub(super) fn publish(
        &self,
        letter: &Letter,
        qos: QoS,
        retain: bool,
        now_s: u32,
    ) -> Result<(), Busy> {
        let properties = &letter.properties;
        let properties = WireProperties {
            payload_format_indicator: properties.payload_is_utf8.then_some(1),
            message_expiry_interval: letter
                .deadline
                .map(|deadline| deadline.saturating_sub(now_s)),
            topic_alias: None,
            response_topic: properties.response_topic.clone(),
            correlation_data: properties.correlation_data.clone(),
            user_properties: properties.user_properties.clone(),
            subscription_identifiers: Vec::new(),
            content_type: properties.content_type.clone(),
        };
        let sent = self.0.try_publish_with_properties(
            &*letter.topic,
            wire(qos),
            retain,
            letter.payload.clone(),
            properties,
        );
        sent.map_err(|_| Busy)
    }

    pub(super) fn disconnect(&self) -> Result<(), Busy> {
        self.0.try_disconnect().map_err(|_| Busy)
    }
}

impl Loop {
    pub(super) fn acknowledge(&self, ack: Ack) -> Result<(), Busy> {
        let mut publish = Publish::new("", wire(ack.qos), Vec::new(), None);
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
            Incoming::ConnAck(ack) => connected(&ack),
            Incoming::SubAck(ack) => {
                let codes = self.filters.iter().zip(ack.return_codes);
                let refused = codes
                    .filter(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_)))
                    .map(|(filter, code)| format!("{filter} ({code:?})"))
                    .collect();
                Step::Heard(Heard::Subscribed { refused })
            }
            Incoming::PubAck(ack) => {
                let taken = matches!(
                    ack.reason,
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers
                );
                Step::Heard(Heard::Acked {
                    packet_id: ack.pkid,
                    refused: (!taken).then(|| format!("{:?}", ack.reason)),
                })
            }
            Incoming::Publish(publish) => message(publish),
            Incoming::Connect(..)
            | Incoming::PubRec(_)
            | Incoming::PubRel(_)
            | Incoming::PubComp(_)
            | Incoming::Subscribe(_)
            | Incoming::Unsubscribe(_)
            | Incoming::UnsubAck(_)
            | Incoming::PingReq(_)
            | Incoming::PingResp(_)
            | Incoming::Disconnect(_)
            | Incoming::Auth(_) => Step::Nothing,
        }
    }
}

fn connected(ack: &ConnAck) -> Step {
    let properties = ack.properties.as_ref();
    let size_max = properties.and_then(|properties| properties.max_packet_size);
    let qos_max = properties.and_then(|properties| properties.max_qos);
    let retain = properties.and_then(|properties| properties.retain_available);
    let heard = Heard::Connected(Terms {
        window: window(properties.and_then(|properties| properties.receive_max)),
        packet_bytes_max: size_max
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(usize::MAX),
        qos_max: match qos_max {
            Some(0) => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        },
        retain: retain != Some(0),
        resumed: ack.session_present,
    });
    match properties.and_then(|properties| properties.server_keep_alive) {
        Some(seconds) => Step::KeepAlive(Duration::from_secs(u64::from(seconds)), heard),
        None => Step::Heard(heard),
    }
}

fn message(publish: Publish) -> Step {
    let qos = QoS::from_bits(publish.qos as u8).unwrap_or_default();
    let ack = Ack {
        packet_id: publish.pkid,
        qos,
    };
    let properties = publish.properties.unwrap_or_default();
    let expiry = properties.message_expiry_interval;
    let letter = String::from_utf8(publish.topic.to_vec()).map(|topic| Letter {
        topic,
        payload: publish.payload,
        qos,
        retain: publish.retain,
        properties: PublishProperties {
            content_type: properties.content_type,
            payload_is_utf8: properties.payload_format_indicator == Some(1),
            message_expiry: expiry.map(|seconds| Duration::from_secs(u64::from(seconds))),
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
        },
        deadline: None,
    });
    Step::Message(letter.ok(), ack)
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
