//! One client's connection, from its first byte to its last: one task that owns everything about it.
//!
//! [`connect`] is the handshake, [`inbound`] deals with packets from the client, [`outbound`] with messages to it; this
//! file is the loop around them and the end. It reads and writes any byte stream, so that TLS and WebSocket can stand
//! in front of it.

mod connect;
mod inbound;
mod outbound;
mod wire;

use crate::{
    codec::{self, DecodeError, Version, reason},
    hub::{Hub, Ticket},
    inbox::Inbox,
    message::{Draft, QoS},
    publisher::Publisher,
    router::{Incoming, RouterGone, RouterLink},
};
use connect::Admitted;
use inbound::PendingSubAck;
use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, sync::OwnedSemaphorePermit, time::sleep_until};
use tracing::{debug, warn};
use wire::{OUT_HIGH, Wire};
pub(crate) use wire::{Reader, Writer};

/// Messages taken from the router before the loop looks at the socket again.
const TAKE_MAX: usize = 512;

/// SUBSCRIBE packets that may wait for the router before no more packets are read.
const SUBACKS_MAX: usize = 64;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client said so.
    Disconnected {
        with_will: bool,
    },
    /// The socket closed or failed.
    Lost,
    /// The client sent bytes that are refused.
    Refused(DecodeError),
    /// The client sent a packet that is refused with this MQTT 5 reason code.
    Rejected(u8),
    KeepAlive,
    TakenOver,
    /// The client does not take what is sent to it.
    Slow,
    /// The broker stops.
    Stopped,
    /// The router's thread has died.
    Router,
}

impl From<RouterGone> for End {
    fn from(_: RouterGone) -> Self {
        Self::Router
    }
}

/// A connection whose transport is established.
pub(crate) struct Arrival {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// The name in the certificate that the client proved to own; `None` without one.
    pub(crate) certificate_name: Option<Arc<str>>,
    /// Given back once the handshake is over.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Serves a connection from its first byte to its last.
pub(crate) async fn serve(arrival: Arrival, hub: Arc<Hub>) {
    let _count_panic = CountPanic(Arc::clone(&hub));
    let Arrival {
        reader,
        writer,
        certificate_name,
        place,
    } = arrival;
    let mut wire = Wire::new(reader, writer);
    let Some(admitted) = connect::handshake(&mut wire, certificate_name, &hub).await else {
        return;
    };
    drop(place);
    hub.counters.connected.bump();
    debug!(client_id = %admitted.client_id, user = ?admitted.user, "client connected");
    let Admitted {
        client_id, ticket, ..
    } = &admitted;
    let (client_id, kick) = (Arc::clone(client_id), ticket.kick.clone());
    let (mut session, ticket) = Session::new(wire, hub, admitted);
    let end = session.run(&kick).await;
    debug!(%client_id, ?end, "client disconnected");
    session.finish(end, ticket).await;
}

/// Counts a connection whose task panics: tokio ends that task and no other.
struct CountPanic(Arc<Hub>);

impl Drop for CountPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.counters.panics.bump();
        }
    }
}

struct Session {
    wire: Wire,
    hub: Arc<Hub>,
    version: Version,
    link: RouterLink,
    publisher: Publisher,
    inbox: Inbox,
    will: Option<connect::OwnedWill>,
    keep_alive: Option<Duration>,
    /// The longest packet that the client accepts.
    packet_size_max: usize,
    /// QoS 1 messages that may be under way to the client.
    window: usize,
    inflight: HashSet<u16>,
    last_id: u16,
    /// Packet ids of QoS 2 publications that await their PUBREL: at most [`connect::RECEIVE_MAXIMUM`].
    received: HashSet<u16>,
    subacks: VecDeque<PendingSubAck>,
    /// Complete packets may wait in the read buffer.
    unread: bool,
    held: bool,
    last_heard: Instant,
    /// Counted here and added to the shared counters once a step.
    taken_in: u64,
    delivered: u64,
}

/// What the loop woke up for.
enum Step {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
    Incoming(Result<Incoming, RouterGone>),
    Look,
    Tick,
}

impl Session {
    fn new(wire: Wire, hub: Arc<Hub>, admitted: Admitted) -> (Self, Ticket) {
        let session = Self {
            wire,
            version: admitted.version,
            link: admitted.link,
            publisher: Publisher::new(Arc::clone(&hub), admitted.access, admitted.origin),
            inbox: Inbox::new(Arc::clone(&hub), admitted.origin),
            will: admitted.will,
            keep_alive: admitted.keep_alive,
            packet_size_max: admitted.packet_size_max,
            window: admitted.window,
            inflight: HashSet::new(),
            last_id: 0,
            received: HashSet::new(),
            subacks: VecDeque::new(),
            unread: true,
            held: false,
            last_heard: Instant::now(),
            taken_in: 0,
            delivered: 0,
            hub,
        };
        (session, admitted.ticket)
    }

    async fn run(&mut self, kick: &tokio_util::sync::CancellationToken) -> End {
        let hub = Arc::clone(&self.hub);
        let mut stopped = std::pin::pin!(hub.stop.cancelled());
        let mut kicked = std::pin::pin!(kick.cancelled());
        let mut tick = std::pin::pin!(sleep_until(self.next_tick().into()));
        loop {
            self.send_retained();
            self.wire.begin_write();
            let room_to_answer = self.wire.out.len() < OUT_HIGH && self.subacks.len() < SUBACKS_MAX;
            let can_read = !self.held && room_to_answer;
            if self.unread && can_read {
                if let Err(end) = self.process_input() {
                    return end;
                }
                continue;
            }
            let can_take = self.has_room();
            let held = self.held;
            let Wire {
                reader,
                writer,
                input,
                out,
                read_size,
                ..
            } = &mut self.wire;
            let step = tokio::select! {
                () = &mut stopped => return End::Stopped,
                () = &mut kicked => return End::TakenOver,
                wrote = writer.write(out), if !out.is_empty() => Step::Wrote(wrote),
                read = wire::read_some(reader, input, read_size), if can_read => Step::Read(read),
                incoming = self.link.next(), if can_take => Step::Incoming(incoming),
                () = self.publisher.wait(), if held => Step::Look,
                () = &mut tick => Step::Tick,
            };
            let done = match step {
                Step::Wrote(Ok(count)) if count > 0 => {
                    self.wire.wrote(count);
                    Ok(())
                }
                Step::Read(Ok(count)) if count > 0 => {
                    self.last_heard = Instant::now();
                    self.process_input()
                }
                Step::Wrote(_) | Step::Read(_) => Err(End::Lost),
                Step::Incoming(incoming) => self.take_incoming(incoming),
                Step::Look => {
                    self.held = self.publisher.is_held(&self.link);
                    Ok(())
                }
                Step::Tick => {
                    let checked = self.check_time();
                    tick.as_mut().reset(self.next_tick().into());
                    checked
                }
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// When to look at the clock again: a stalled write is noticed within one and a half times its limit, silence on time.
    fn next_tick(&self) -> Instant {
        let soon = Instant::now() + self.hub.limits.write_timeout / 2;
        self.keep_alive
            .map_or(soon, |limit| soon.min(self.last_heard + limit))
    }

    fn check_time(&self) -> Result<(), End> {
        if self
            .keep_alive
            .is_some_and(|limit| self.last_heard.elapsed() >= limit)
        {
            return Err(End::KeepAlive);
        }
        let limit = self.hub.limits.write_timeout;
        if self
            .wire
            .stalled_since
            .is_some_and(|since| since.elapsed() >= limit)
        {
            return Err(End::Slow);
        }
        Ok(())
    }

    fn take_incoming(&mut self, first: Result<Incoming, RouterGone>) -> Result<(), End> {
        let mut next = Some(first?);
        let mut count = 0;
        while let Some(incoming) = next {
            self.on_incoming(incoming);
            count += 1;
            next = if count < TAKE_MAX && self.has_room() {
                self.link.try_next()?
            } else {
                None
            };
        }
        self.hub
            .counters
            .messages_out
            .add(std::mem::take(&mut self.delivered));
        Ok(())
    }

    /// Counts the end, publishes the will, says goodbye, and gives everything back.
    async fn finish(mut self, end: End, ticket: Ticket) {
        self.count(&end);
        let clean = matches!(end, End::Disconnected { with_will: false } | End::Stopped);
        if let Some(will) = self.will.take().filter(|_| !clean) {
            self.publish_will(&will);
        }
        // From here on the successor of a client that was taken over may go on: it comes after the will.
        drop(ticket);
        let code = match end {
            End::Disconnected { .. } | End::Lost | End::Slow => None,
            End::Refused(error) => Some(error.reason()),
            End::Rejected(code) => Some(code),
            End::KeepAlive => Some(reason::KEEP_ALIVE_TIMEOUT),
            End::TakenOver => Some(reason::TAKEN_OVER),
            End::Stopped => Some(reason::SHUTTING_DOWN),
            End::Router => Some(reason::UNSPECIFIED),
        };
        if let Some(code) = code {
            codec::put_disconnect(&mut self.wire.out, self.version, code);
            self.wire.close().await;
        }
        drop(self.wire);
        self.inbox.close(self.link).await;
    }

    fn count(&self, end: &End) {
        let counters = &self.hub.counters;
        match end {
            End::Disconnected { .. } | End::Stopped => {}
            End::Lost => counters.lost_connections.bump(),
            End::Refused(error) => count_refusal(&self.hub, *error),
            End::Rejected(_) => counters.protocol_errors.bump(),
            End::KeepAlive => counters.keep_alive_timeouts.bump(),
            End::TakenOver => counters.takeovers.bump(),
            End::Slow => {
                counters.slow_disconnects.bump();
                warn!(
                    waiting = self.wire.out.len(),
                    "a client took no bytes for the write timeout and is disconnected"
                );
            }
            End::Router => warn!("the router has stopped; the connection cannot go on"),
        }
    }

    fn publish_will(&mut self, will: &connect::OwnedWill) {
        let draft = Draft {
            qos: will.qos,
            retain: will.retain,
            properties: &will.properties,
            deadline: self.hub.deadline(will.expiry_s),
            payload: &will.payload,
        };
        self.publisher.publish(&mut self.link, &will.topic, &draft);
        if self.link.flush().is_ok() {
            self.hub.counters.wills.bump();
        }
    }
}

/// Counts bytes that were refused, under their kind.
fn count_refusal(hub: &Hub, error: DecodeError) {
    match error {
        DecodeError::Malformed(_) => hub.counters.malformed.bump(),
        DecodeError::Protocol(_) => hub.counters.protocol_errors.bump(),
        DecodeError::TooLarge { .. } => hub.counters.oversize.bump(),
        DecodeError::Version(_) => hub.counters.refused_version.bump(),
    }
    debug!(%error, "bytes from a client are refused");
}

/// The most that is granted: QoS 2 deliveries are not made.
fn granted(qos: QoS) -> QoS {
    qos.min(QoS::AtLeastOnce)
}
