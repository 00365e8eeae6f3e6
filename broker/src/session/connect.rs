//! The handshake: CONNECT in time, within limits, from somebody who may.

use super::{
    count_refusal,
    wire::{self, Wire},
};
use crate::{
    auth::{Access, Credentials, LoginRefused},
    codec::{self, Accepted, ConnAck, Connect, DecodeError, Framed, Version, Will, reason},
    hub::{Clients, Hub, Ticket},
    message::QoS,
    router::{ConnectError, RouterLink},
    topic,
};
use std::{sync::Arc, time::Duration};
use tracing::{debug, warn};

/// QoS 2 publications that one client may have under way: their packet ids are remembered.
pub(super) const RECEIVE_MAXIMUM: u16 = 1_024;

/// Bytes of a client id: they are held for each connection, and go into rules and logs.
const CLIENT_ID_BYTES_MAX: usize = 1_024;

/// How long a client waits for the one whose id it takes over to publish its will. That one is woken at once.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client waits for a router link: as long as one that is given back may take to drain.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that was let in.
pub(super) struct Admitted {
    pub(super) version: Version,
    pub(super) client_id: Arc<str>,
    pub(super) user: Option<Arc<str>>,
    pub(super) access: Access,
    pub(super) origin: u32,
    pub(super) will: Option<OwnedWill>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) packet_size_max: usize,
    pub(super) window: usize,
    pub(super) ticket: Ticket,
    pub(super) link: RouterLink,
}

pub(super) struct OwnedWill {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) expiry_s: Option<u32>,
    pub(super) properties: Vec<u8>,
}

/// Why a CONNECT is answered with a refusal.
struct Refusal {
    version: Version,
    code: u8,
}

/// Reads CONNECT and lets the client in, or answers why not. `None` ends the connection; the reason is counted.
pub(super) async fn handshake(
    wire: &mut Wire,
    certificate_name: Option<Arc<str>>,
    hub: &Arc<Hub>,
) -> Option<Admitted> {
    let packet = tokio::select! {
        () = hub.stop.cancelled() => return None,
        packet = tokio::time::timeout(hub.limits.handshake_timeout, first_packet(wire, hub)) => packet,
    };
    let Ok(packet) = packet else {
        hub.counters.handshake_timeouts.bump();
        debug!("no complete CONNECT in time");
        return None;
    };
    let packet = packet?;
    let decoded = match codec::frame(&packet, packet.len()) {
        Ok(Framed::Complete(frame)) => codec::decode_connect(&frame),
        Ok(Framed::Partial(_)) => return None,
        Err(error) => Err(error),
    };
    let outcome = match decoded {
        Ok(connect) => admit(wire, hub, &connect, certificate_name).await,
        Err(error) => {
            count_refusal(hub, error);
            match error {
                DecodeError::Version(level) => {
                    let version = if level < 5 { Version::V4 } else { Version::V5 };
                    Err(Refusal {
                        version,
                        code: error.reason(),
                    })
                }
                // What is not CONNECT gets no answer: it may not even be MQTT.
                DecodeError::Malformed(_)
                | DecodeError::Protocol(_)
                | DecodeError::TooLarge { .. } => return None,
            }
        }
    };
    match outcome {
        Ok(admitted) => Some(admitted),
        Err(Refusal { version, code }) => {
            debug!(code, "CONNECT refused");
            codec::put_connack(
                &mut wire.out,
                version,
                &ConnAck {
                    code,
                    accepted: None,
                },
            );
            wire.close().await;
            None
        }
    }
}

async fn first_packet(wire: &mut Wire, hub: &Hub) -> Option<bytes::BytesMut> {
    loop {
        // Anything else than CONNECT is refused at its first byte, before the rest is read.
        if wire.input.first().is_some_and(|&first| first != 0x10) {
            count_refusal(
                hub,
                DecodeError::Protocol("the first packet is not CONNECT"),
            );
            return None;
        }
        match codec::frame(&wire.input, hub.limits.packet_bytes_max()) {
            Ok(Framed::Complete(frame)) => {
                let length = frame.length;
                let packet = bytes::BytesMut::from(&wire.input[..length]);
                wire::consumed(&mut wire.input, length);
                return Some(packet);
            }
            Ok(Framed::Partial(_)) => {}
            Err(error) => {
                count_refusal(hub, error);
                return None;
            }
        }
        if !matches!(wire.read().await, Ok(count) if count > 0) {
            hub.counters.lost_connections.bump();
            return None;
        }
    }
}

async fn admit(
    wire: &mut Wire,
    hub: &Arc<Hub>,
    connect: &Connect<'_>,
    certificate_name: Option<Arc<str>>,
) -> Result<Admitted, Refusal> {
    let version = connect.version;
    let refuse = |code| Refusal { version, code };
    let origin = hub.next_origin();
    let counters = &hub.counters;
    if connect.auth_method {
        counters.refused_auth_method.bump();
        return Err(refuse(reason::BAD_AUTH_METHOD));
    }
    let assigned = connect
        .client_id
        .is_empty()
        .then(|| hub.assign_client_id(origin));
    let unnamed_session = assigned.is_some() && version == Version::V4 && !connect.clean;
    if unnamed_session || connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        counters.refused_client_id.bump();
        return Err(refuse(reason::CLIENT_ID_INVALID));
    }
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let gate = hub.gate();
    let identity = gate
        .admit(&Credentials {
            user: connect.login.user,
            password: connect.login.password,
            client_id,
            certificate_name,
        })
        .await
        .map_err(|refused| {
            let (counter, code) = match refused {
                LoginRefused::Password => (&counters.refused_password, reason::BAD_PASSWORD),
                LoginRefused::Anonymous => (&counters.refused_anonymous, reason::NOT_AUTHORIZED),
                LoginRefused::ClientId => (&counters.refused_client_id, reason::CLIENT_ID_INVALID),
            };
            counter.bump();
            refuse(code)
        })?;
    let access = gate.access(&identity);
    let will = connect
        .will
        .as_ref()
        .map(|will| check_will(hub, &access, will))
        .transpose()
        .map_err(refuse)?;
    let Some((ticket, before)) = Clients::enter(hub, &identity.client_id, origin) else {
        counters.refused_clients.bump();
        warn!(
            limit = hub.limits.clients_max,
            "all places for clients are taken"
        );
        return Err(refuse(reason::QUOTA_EXCEEDED));
    };
    if let Some(gone) = before
        && tokio::time::timeout(TAKEOVER_TIMEOUT, gone.cancelled())
            .await
            .is_err()
    {
        warn!(
            client_id,
            "the client that was taken over did not end in time"
        );
    }
    let Some(link) = obtain_link(hub).await else {
        return Err(refuse(reason::SERVER_UNAVAILABLE));
    };
    let limits = &hub.limits;
    let packet_bytes_max = limits.packet_bytes_max();
    let accepted = Accepted {
        assigned_client_id: assigned.as_deref(),
        packet_size_max: u32::try_from(packet_bytes_max).unwrap_or(u32::MAX),
        receive_maximum: RECEIVE_MAXIMUM,
    };
    codec::put_connack(
        &mut wire.out,
        version,
        &ConnAck {
            code: reason::SUCCESS,
            accepted: Some(accepted),
        },
    );
    Ok(Admitted {
        version,
        client_id: identity.client_id,
        user: identity.user,
        access,
        origin,
        will,
        // A client may be silent for one and a half times its keep-alive (MQTT 5, section 3.1.2.10); 0 turns it off.
        keep_alive: (connect.keep_alive_s > 0)
            .then(|| Duration::from_millis(u64::from(connect.keep_alive_s) * 1_500)),
        packet_size_max: connect
            .packet_size_max
            .map_or(usize::MAX, |size| size as usize),
        window: usize::from(connect.receive_maximum.min(limits.inflight_max)),
        ticket,
        link,
    })
}

fn check_will(hub: &Hub, access: &Access, will: &Will<'_>) -> Result<OwnedWill, u8> {
    if !topic::is_topic(will.topic) {
        hub.counters.refused_will.bump();
        return Err(reason::TOPIC_INVALID);
    }
    if will.payload.len() > hub.limits.payload_bytes_max {
        hub.counters.refused_will.bump();
        return Err(reason::TOO_LARGE);
    }
    if !access.may_publish(will.topic) {
        hub.counters.refused_will.bump();
        return Err(reason::NOT_AUTHORIZED);
    }
    // A session ends with its connection, and with it any delay of the will (MQTT 5, section 3.1.3.2.2).
    if will.delay_s > 0 {
        debug!(
            delay_s = will.delay_s,
            "the will's delay is cut short by the end of the session"
        );
    }
    Ok(OwnedWill {
        topic: will.topic.to_owned(),
        payload: will.payload.to_vec(),
        qos: will.qos,
        retain: will.retain,
        expiry_s: will.expiry_s,
        properties: will.properties.clone(),
    })
}

/// Takes a link, if need be one that a client that has just left is giving back: under a storm of short connections more
/// of them are on their way back than there is slack for.
async fn obtain_link(hub: &Arc<Hub>) -> Option<RouterLink> {
    let obtaining = async {
        loop {
            if let Some(link) = hub.router.idle_link() {
                return Some(link);
            }
            let router = Arc::clone(&hub.router);
            match tokio::task::spawn_blocking(move || router.link()).await {
                Ok(Ok(link)) => return Some(link),
                Ok(Err(ConnectError::Full(_))) => hub.router.released().await,
                Ok(Err(ConnectError::Gone(_))) | Err(_) => return None,
            }
        }
    };
    let link = tokio::time::timeout(LINK_TIMEOUT, obtaining).await;
    if !matches!(link, Ok(Some(_))) {
        hub.counters.refused_links.bump();
        warn!("a client cannot be served: the router has no link for it");
    }
    link.ok().flatten()
}
