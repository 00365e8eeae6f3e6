//! The handshake: CONNECT in time, within limits, from somebody who may; then the way to the session.

use super::{
    Session,
    aliases::{Given, Taken},
    connection::Connection,
    count_refusal, login,
    registry::{Clients, Found, Ticket},
    wire::{self, Wire},
};
use crate::{
    auth::{Access, Credentials, Gate, Identity},
    codec::{self, Accepted, ConnAck, Connect, DecodeError, Framed, Version, reason},
    hub::Hub,
    message::QoS,
    router::{ConnectError, RouterLink},
    topic,
    transport::HandshakePlace,
};
use bytes::BytesMut;
use futures_util::future::BoxFuture;
use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;
use tracing::{Span, debug, warn};

/// QoS 2 publications that one client may have under way: their packet ids are remembered.
pub(super) const RECEIVE_MAXIMUM: u16 = 1_024;

/// Bytes of a client id: they are held for each session, and go into rules and logs.
const CLIENT_ID_BYTES_MAX: usize = 1_024;

/// Length of a CONNACK that refuses, in MQTT 5.
const REFUSAL_BYTES: usize = 5;

/// How long a client waits for the session of its id to end or to take it. Either is a matter of milliseconds: the
/// session's task never waits for its client.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that was let in and has no session yet.
pub(crate) struct Newcomer {
    pub(super) connection: Box<Connection>,
    pub(super) identity: Identity,
    pub(super) access: Access,
    /// Different for each connection.
    pub(super) origin: u32,
    /// It wants a new session.
    pub(super) clean: bool,
    /// For how long its session is to be kept.
    pub(super) expiry_s: u32,
    /// The users and rules by which it was let in.
    pub(super) gate: Arc<Gate>,
    /// The handshake's place, given back once there is a session.
    pub(super) place: Option<HandshakePlace>,
    terms: Terms,
}

/// What the client did not ask for and is told.
struct Terms {
    assigned_id: bool,
    expiry_s: Option<u32>,
    keep_alive_s: Option<u16>,
}

pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) delay_s: u32,
    pub(super) expiry_s: Option<u32>,
    pub(super) properties: Vec<u8>,
}

/// Why a CONNECT is answered with a refusal.
struct Refusal {
    version: Version,
    code: u8,
    /// When the answer is due.
    not_before: Option<Instant>,
}

/// A client that may have a session.
struct Admitted {
    identity: Identity,
    access: Access,
    gate: Arc<Gate>,
    origin: u32,
    assigned_id: bool,
    will: Option<Will>,
}

/// Reads CONNECT and lets the client in, or answers why not. `None` ends the connection; the reason is counted.
pub(super) async fn handshake(
    mut wire: Wire,
    certificate_name: Option<Arc<str>>,
    place: HandshakePlace,
    hub: &Arc<Hub>,
) -> Option<Box<Newcomer>> {
    let packet = tokio::select! {
        () = hub.stop.cancelled() => return None,
        packet = tokio::time::timeout_at(place.deadline.into(), first_packet(&mut wire, hub)) => packet,
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
        Ok(connect) => admit(hub, &connect, certificate_name, place.peer)
            .await
            .map(|admitted| (connect, admitted)),
        Err(error) => {
            count_refusal(hub, error);
            match error {
                DecodeError::Version(level) => {
                    let version = if level < 5 { Version::V4 } else { Version::V5 };
                    Err(Refusal {
                        version,
                        code: error.reason(),
                        not_before: None,
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
        Ok((connect, admitted)) => {
            Newcomer::new(wire, place, &connect, admitted, hub)
                .within_packet_size(hub)
                .await
        }
        Err(Refusal {
            version,
            code,
            not_before,
        }) => {
            if let Some(until) = not_before {
                login::hold_back(&mut wire, until, hub).await;
            }
            refuse(&mut wire, version, code).await;
            None
        }
    }
}

async fn refuse(wire: &mut Wire, version: Version, code: u8) {
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
}

async fn first_packet(wire: &mut Wire, hub: &Hub) -> Option<BytesMut> {
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
                let packet = BytesMut::from(&wire.input[..length]);
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
    hub: &Arc<Hub>,
    connect: &Connect<'_>,
    certificate_name: Option<Arc<str>>,
    peer: IpAddr,
) -> Result<Admitted, Refusal> {
    let version = connect.version;
    let refuse = |code| Refusal {
        version,
        code,
        not_before: None,
    };
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
    let credentials = Credentials {
        user: connect.login.user,
        password: connect.login.password,
        client_id,
        certificate_name,
    };
    let identity = login::identify(hub, &gate, &credentials, peer)
        .await
        .map_err(|refused| Refusal {
            not_before: refused.not_before,
            ..refuse(refused.code)
        })?;
    let access = gate.access(&identity);
    let will = connect
        .will
        .as_ref()
        .map(|will| check_will(hub, &access, will))
        .transpose()
        .map_err(refuse)?;
    Ok(Admitted {
        identity,
        access,
        gate,
        origin,
        assigned_id: assigned.is_some(),
        will,
    })
}

fn check_will(hub: &Hub, access: &Access, will: &codec::Will<'_>) -> Result<Will, u8> {
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
    Ok(Will {
        topic: will.topic.to_owned(),
        payload: will.payload.to_vec(),
        qos: will.qos,
        retain: will.retain,
        delay_s: will.delay_s,
        expiry_s: will.expiry_s,
        properties: will.properties.clone(),
    })
}

/// The longest time for which a session is kept.
pub(super) fn expiry_max_s(hub: &Hub) -> u32 {
    if hub.limits.absent_sessions_max == 0 {
        return 0;
    }
    u32::try_from(hub.limits.session_expiry_max.as_secs()).unwrap_or(u32::MAX)
}

/// The keep-alive in seconds, and the broker's if that is not the client's: one that MQTT 3.1.1 asks for holds, since
/// it cannot be told another. 0 is none.
fn keep_alive_s(connect: &Connect<'_>, hub: &Hub) -> (u16, Option<u16>) {
    let asked = connect.keep_alive_s;
    let max = u16::try_from(hub.limits.keep_alive_max.as_secs()).unwrap_or(u16::MAX);
    if connect.version == Version::V5 && (asked == 0 || asked > max) {
        (max, Some(max))
    } else {
        (asked, None)
    }
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Newcomer {
    fn new(
        wire: Wire,
        place: HandshakePlace,
        connect: &Connect<'_>,
        admitted: Admitted,
        hub: &Hub,
    ) -> Box<Self> {
        let limits = &hub.limits;
        let (keep_alive_s, told_keep_alive_s) = keep_alive_s(connect, hub);
        let asked_expiry_s = match (connect.version, connect.clean) {
            (Version::V5, _) => connect.session_expiry_s,
            (Version::V4, true) => 0,
            (Version::V4, false) => u32::MAX,
        };
        let expiry_s = asked_expiry_s.min(expiry_max_s(hub));
        let connection = Connection {
            wire,
            version: connect.version,
            will: admitted.will,
            // A client may be silent for one and a half times its keep-alive (MQTT 5, section 3.1.2.10).
            keep_alive: (keep_alive_s > 0)
                .then(|| Duration::from_millis(u64::from(keep_alive_s) * 1_500)),
            packet_size_max: connect
                .packet_size_max
                .map_or(usize::MAX, |size| size as usize),
            window: usize::from(connect.receive_maximum.min(limits.inflight_max)),
            given: Given::new(limits.topic_aliases_max),
            taken: Taken::new(connect.topic_aliases_max.min(limits.topic_aliases_max)),
            asked_to_stay: asked_expiry_s > 0,
            unread: true,
            last_heard: Instant::now(),
            span: Span::current(),
        };
        Box::new(Self {
            connection: Box::new(connection),
            identity: admitted.identity,
            access: admitted.access,
            gate: admitted.gate,
            origin: admitted.origin,
            clean: connect.clean,
            expiry_s,
            place: Some(place),
            terms: Terms {
                assigned_id: admitted.assigned_id,
                expiry_s: (expiry_s != asked_expiry_s).then_some(expiry_s),
                keep_alive_s: told_keep_alive_s,
            },
        })
    }

    /// Turns a client away that takes no packet as long as its CONNACK: every other answer but those to many filters is
    /// shorter.
    async fn within_packet_size(self: Box<Self>, hub: &Hub) -> Option<Box<Self>> {
        let mut connack = BytesMut::new();
        self.put_connack(&mut connack, false, hub);
        let limit = self.connection.packet_size_max;
        if connack.len() <= limit {
            return Some(self);
        }
        hub.counters.refused_packet_size.bump();
        debug!(
            limit,
            least = connack.len(),
            "the client's maximum packet size leaves no room for an answer"
        );
        if limit >= REFUSAL_BYTES {
            self.refuse(reason::TOO_LARGE).await;
        }
        None
    }

    /// Makes the CONNACK ready that lets the client in.
    pub(super) fn accept(&mut self, session_present: bool, hub: &Hub) {
        let mut out = std::mem::take(&mut self.connection.wire.out);
        self.put_connack(&mut out, session_present, hub);
        self.connection.wire.out = out;
        hub.counters.connected.bump();
        debug!(client_id = %self.identity.client_id, user = ?self.identity.user, session_present, "client connected");
    }

    fn put_connack(&self, out: &mut BytesMut, session_present: bool, hub: &Hub) {
        let limits = &hub.limits;
        let accepted = Accepted {
            session_present,
            assigned_client_id: self.terms.assigned_id.then_some(&*self.identity.client_id),
            session_expiry_s: self.terms.expiry_s,
            keep_alive_s: self.terms.keep_alive_s,
            packet_size_max: u32::try_from(limits.packet_bytes_max()).unwrap_or(u32::MAX),
            receive_maximum: RECEIVE_MAXIMUM,
            topic_aliases_max: limits.topic_aliases_max,
        };
        let connack = ConnAck {
            code: reason::SUCCESS,
            accepted: Some(accepted),
        };
        codec::put_connack(out, self.connection.version, &connack);
    }

    async fn refuse(mut self: Box<Self>, code: u8) {
        let connection = &mut *self.connection;
        refuse(&mut connection.wire, connection.version, code).await;
    }
}

/// Finds or makes the session of a client that was let in. Sessions that end call this for those that came too late
/// for them, hence the box.
pub(super) fn settle(newcomer: Box<Newcomer>, hub: Arc<Hub>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let deadline = (Instant::now() + SETTLE_TIMEOUT).into();
        loop {
            match Clients::enter(&hub, &newcomer) {
                Found::Free(ticket) => return open(newcomer, ticket, &hub).await,
                Found::Session(attach) => match timeout_at(deadline, attach.reserve()).await {
                    Ok(Ok(permit)) => return permit.send(newcomer),
                    // The session has ended in between: look again.
                    Ok(Err(_)) => tokio::task::yield_now().await,
                    Err(_) => break,
                },
                Found::Ending(gone) => {
                    if timeout_at(deadline, gone.cancelled()).await.is_err() {
                        break;
                    }
                }
                Found::NotOwner => {
                    hub.counters.refused_owner.bump();
                    debug!(client_id = %newcomer.identity.client_id, "the client id belongs to a session of another user");
                    return newcomer.refuse(reason::NOT_AUTHORIZED).await;
                }
                Found::Full => {
                    hub.counters.refused_clients.bump();
                    let limit = hub.limits.clients_max;
                    warn!(limit, "all places for clients are taken");
                    return newcomer.refuse(reason::QUOTA_EXCEEDED).await;
                }
            }
            if hub.stop.is_cancelled() {
                return newcomer.refuse(reason::SHUTTING_DOWN).await;
            }
        }
        hub.counters.refused_busy.bump();
        warn!(client_id = %newcomer.identity.client_id, "the session of a client id did not yield in time");
        newcomer.refuse(reason::SERVER_BUSY).await;
    })
}

/// Starts a new session.
async fn open(mut newcomer: Box<Newcomer>, ticket: Ticket, hub: &Arc<Hub>) {
    let Some(link) = obtain_link(hub).await else {
        ticket.end().await;
        return newcomer.refuse(reason::SERVER_UNAVAILABLE).await;
    };
    newcomer.accept(false, hub);
    let (session, connection) = Session::new(*newcomer, link, Arc::clone(hub));
    hub.tasks.spawn(session.run(connection, ticket));
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
    let link = tokio::time::timeout(SETTLE_TIMEOUT, obtaining).await;
    if !matches!(link, Ok(Some(_))) {
        hub.counters.refused_links.bump();
        warn!("a client cannot be served: the router has no link for it");
    }
    link.ok().flatten()
}
