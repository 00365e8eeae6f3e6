//! One client's session: one task that owns everything about it, and outlives the connection if the client wants that.
//!
//! [`connect`] is the handshake and the way to the session; [`registry`] knows who has which. While the client is there
//! ([`Session::stay`]), [`inbound`] deals with packets from it and [`outbound`] with messages to it; when it leaves,
//! [`absence`] decides what becomes of its will and its session, and waits for it. What a session keeps is its
//! subscriptions, the messages in [`queue`] and [`inflight`], and the ids in `received`; what goes with the connection
//! is in [`connection`], its topic [`aliases`] among them.
//!
//! It reads and writes any byte stream ([`wire`]), so that TLS and WebSocket can stand in front of it.

mod absence;
mod aliases;
mod connect;
mod connection;
mod inbound;
mod inflight;
mod login;
mod metered;
mod outbound;
mod queue;
mod registry;
mod wire;

use crate::{
    auth::{Gate, Identity, Reading},
    codec::DecodeError,
    hub::Hub,
    inbox::Inbox,
    publisher::Publisher,
    router::{Incoming, RouterGone, RouterLink},
    stats::Tally,
    subscriptions::HOLD_MAX,
    topic,
    transport::{AddressPlace, HandshakePlace},
};
use absence::PendingWill;
use connect::Newcomer;
use connection::Connection;
use futures_util::FutureExt;
use inbound::PendingSubAck;
use inflight::Inflight;
use outbound::Account;
use queue::Queue;
pub(crate) use registry::Clients;
use registry::Ticket;
use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{sleep, sleep_until},
};
use tracing::{Instrument, debug, debug_span};
use wire::{OUT_HIGH, Wire};
pub(crate) use wire::{Reader, Writer};

/// Messages taken from the router before the loop looks at the socket again.
const TAKE_MAX: usize = 512;

/// SUBSCRIBE packets that may wait for the router before no more packets are read.
const SUBACKS_MAX: usize = 64;

/// For how long a session whose client is busy leaves messages in the router's logs, where they cost least, while
/// publishers wait for it: until the last of them has given up. See [`Session::is_paused`].
const PAUSE_MAX: Duration = HOLD_MAX.saturating_mul(2);

/// How often such a session looks at the clock. What else ends the pause wakes it.
const PAUSE_POLL: Duration = Duration::from_millis(100);

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
    /// The session goes on over another connection, or ends for a new one.
    TakenOver(Option<Box<Newcomer>>),
    /// The client does not take what is sent to it.
    Slow,
    /// More waits for the client than may.
    Overrun,
    /// The client is no longer admitted.
    Revoked,
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

/// What a session does when a connection has ended.
enum Next {
    /// It goes on over another one.
    Resume(Box<Newcomer>),
    /// It waits for the client.
    Wait,
    /// It ends; the connection that wanted to go on with it gets a new session.
    End(Option<Box<Newcomer>>),
}

/// A connection whose transport is established.
pub(crate) struct Arrival {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// The name in the certificate that the client proved to own; `None` without one.
    pub(crate) certificate_name: Option<Arc<str>>,
    /// Given back once the handshake is over.
    pub(crate) place: HandshakePlace,
    /// Given back once the connection is closed.
    pub(crate) address_place: Option<AddressPlace>,
}

/// Serves a connection until it is in a session's hands.
pub(crate) async fn serve(arrival: Arrival, hub: Arc<Hub>) {
    let _count_panic = CountPanic(Arc::clone(&hub));
    let (wire, certificate_name, place) = Wire::new(arrival, &hub);
    if let Some(newcomer) = connect::handshake(wire, certificate_name, place, &hub).await {
        connect::settle(newcomer, hub).await;
    }
}

/// Counts a task that panics: tokio ends that task and no other.
struct CountPanic(Arc<Hub>);

impl Drop for CountPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.counters.panics.bump();
        }
    }
}

/// A session, without its connection.
struct Session {
    hub: Arc<Hub>,
    identity: Identity,
    link: RouterLink,
    publisher: Publisher,
    inbox: Inbox,
    queue: Queue,
    inflight: Inflight,
    account: Account,
    /// Packet ids of QoS 2 publications that await their PUBREL: at most [`connect::RECEIVE_MAXIMUM`].
    received: HashSet<u16>,
    subacks: VecDeque<PendingSubAck>,
    /// Some subscription is allowed in part only: each message is held against the rules.
    withholds: bool,
    /// For how long the session is kept when the client is away.
    expiry_s: u32,
    will: Option<PendingWill>,
    gate: watch::Receiver<Arc<Gate>>,
    held: bool,
    /// Since when publishers are asked to wait because the queue fills.
    pressed_since: Option<Instant>,
    /// When the queue was last searched for messages that have expired.
    swept_s: u32,
    /// Counted here and added to the shared counters once a step.
    taken_in: Tally,
    delivered: Tally,
}

/// What the loop woke up for.
enum Step {
    Kicked,
    Attached(Option<Box<Newcomer>>),
    Gate,
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
    Incoming(Result<Incoming, RouterGone>),
    Look,
    Tick,
}

impl Session {
    fn new(newcomer: Newcomer, link: RouterLink, hub: Arc<Hub>) -> (Box<Self>, Box<Connection>) {
        let Newcomer {
            connection,
            identity,
            access,
            origin,
            expiry_s,
            gate: admitted_by,
            ..
        } = newcomer;
        let mut gate = hub.gate.subscribe();
        if !Arc::ptr_eq(&gate.borrow(), &admitted_by) {
            gate.mark_changed();
        }
        let session = Self {
            identity,
            link,
            publisher: Publisher::new(Arc::clone(&hub), access, origin),
            inbox: Inbox::new(Arc::clone(&hub), origin, true),
            queue: Queue::default(),
            inflight: Inflight::default(),
            account: Account::new(Arc::clone(&hub)),
            received: HashSet::new(),
            subacks: VecDeque::new(),
            withholds: false,
            expiry_s,
            will: None,
            gate,
            held: false,
            pressed_since: None,
            swept_s: 0,
            taken_in: Tally::default(),
            delivered: Tally::default(),
            hub,
        };
        (Box::new(session), connection)
    }

    /// Serves the client, its first connection and all later ones.
    async fn run(mut self: Box<Self>, first: Box<Connection>, mut ticket: Ticket) {
        let _count_panic = CountPanic(Arc::clone(&self.hub));
        let mut here = Some(first);
        let late = loop {
            let next = if let Some(connection) = here.take() {
                let span = connection.span.clone();
                self.stay(connection, &mut ticket).instrument(span).await
            } else {
                let span = debug_span!("absent", client_id = %self.identity.client_id);
                Box::pin(self.wait(&mut ticket)).instrument(span).await
            };
            match next {
                Next::Resume(newcomer) => {
                    ticket.place.back();
                    here = Some(self.resume(*newcomer));
                }
                Next::Wait => ticket.place.away(),
                Next::End(late) => break late,
            }
        };
        // Boxed, as waiting is, so that a connected client does not pay for what comes later.
        Box::pin(self.finish(ticket, late)).await;
    }

    /// Goes on over another connection.
    fn resume(&mut self, mut newcomer: Newcomer) -> Box<Connection> {
        newcomer.accept(true, &self.hub);
        self.hub.counters.sessions_resumed.bump();
        let Newcomer {
            connection,
            identity,
            access,
            expiry_s,
            ..
        } = newcomer;
        self.identity = identity;
        self.publisher.set_access(access);
        // The client may have come by another way, with other rights.
        self.gate.mark_changed();
        self.expiry_s = expiry_s;
        self.held = false;
        self.inflight.begin_again();
        self.inbox.set_absent(false);
        connection
    }

    /// Serves one connection from its CONNACK to its end.
    async fn stay(&mut self, mut connection: Box<Connection>, ticket: &mut Ticket) -> Next {
        let end = loop {
            match self.serve(&mut connection, ticket).await {
                Ok(()) if self.review() => {}
                Ok(()) => break End::Revoked,
                Err(end) => break end,
            }
        };
        debug!(client_id = %self.identity.client_id, ?end, "client disconnected");
        self.leave(connection, end)
    }

    /// The loop around a connection. It returns without an error when the rules may have changed.
    async fn serve(&mut self, conn: &mut Connection, ticket: &mut Ticket) -> Result<(), End> {
        let mut gate = self.gate.clone();
        let mut changed = std::pin::pin!(gate.changed());
        let mut kicked = std::pin::pin!(ticket.kick.cancelled());
        let mut tick = std::pin::pin!(sleep_until(self.next_tick(conn).into()));
        loop {
            self.pump(conn);
            self.balance();
            conn.wire.begin_write();
            let room_to_answer = conn.wire.out.len() < OUT_HIGH && self.subacks.len() < SUBACKS_MAX;
            let can_read = !self.held && room_to_answer;
            if conn.unread && can_read {
                self.process_input(conn)?;
                continue;
            }
            let paused = self.is_paused(conn);
            let held = self.held;
            let Wire {
                reader,
                writer,
                input,
                out,
                read_size,
                ..
            } = &mut conn.wire;
            // What is ready is written before anything else is waited for, if the socket takes anything.
            let at_once = if out.is_empty() {
                None
            } else {
                writer.write(out).now_or_never()
            };
            let step = if let Some(wrote) = at_once {
                Step::Wrote(wrote)
            } else {
                tokio::select! {
                    () = &mut kicked => Step::Kicked,
                    newcomer = ticket.attach.recv() => Step::Attached(newcomer),
                    _ = &mut changed => Step::Gate,
                    wrote = writer.write(out), if !out.is_empty() => Step::Wrote(wrote),
                    read = wire::read_some(reader, input, read_size), if can_read => Step::Read(read),
                    incoming = self.link.next(), if !paused => Step::Incoming(incoming),
                    () = pause(&self.inbox), if paused => continue,
                    () = self.publisher.wait(), if held => Step::Look,
                    () = &mut tick => Step::Tick,
                }
            };
            match step {
                Step::Kicked if self.hub.stop.is_cancelled() => return Err(End::Stopped),
                Step::Kicked => return Err(End::TakenOver(None)),
                Step::Attached(newcomer) => return Err(End::TakenOver(newcomer)),
                Step::Gate => return Ok(()),
                Step::Wrote(Ok(count)) if count > 0 => conn.wire.wrote(count),
                Step::Read(Ok(count)) if count > 0 => {
                    conn.last_heard = Instant::now();
                    self.process_input(conn)?;
                }
                Step::Wrote(_) | Step::Read(_) => return Err(End::Lost),
                Step::Incoming(incoming) => self.take_incoming(conn, incoming)?,
                Step::Look => self.held = self.publisher.is_held(&self.link),
                Step::Tick => {
                    self.check_time(conn)?;
                    tick.as_mut().reset(self.next_tick(conn).into());
                }
            }
        }
    }

    /// When to look at the clock again: a stalled write is noticed within one and a half times its limit, silence on time.
    fn next_tick(&self, conn: &Connection) -> Instant {
        let soon = Instant::now() + self.hub.limits.write_timeout / 2;
        conn.keep_alive
            .map_or(soon, |limit| soon.min(conn.last_heard + limit))
    }

    fn check_time(&mut self, conn: &Connection) -> Result<(), End> {
        if conn
            .keep_alive
            .is_some_and(|limit| conn.last_heard.elapsed() >= limit)
        {
            return Err(End::KeepAlive);
        }
        let limit = self.hub.limits.write_timeout;
        if conn
            .wire
            .stalled_since
            .is_some_and(|since| since.elapsed() >= limit)
        {
            return Err(End::Slow);
        }
        self.sweep();
        Ok(())
    }

    fn take_incoming(
        &mut self,
        conn: &mut Connection,
        first: Result<Incoming, RouterGone>,
    ) -> Result<(), End> {
        let taken = self.take_all(conn, first);
        self.inbox.settle();
        self.count_delivered();
        taken
    }

    fn take_all(
        &mut self,
        conn: &mut Connection,
        first: Result<Incoming, RouterGone>,
    ) -> Result<(), End> {
        let mut next = Some(first?);
        let mut count = 0;
        while let Some(incoming) = next {
            self.on_incoming(conn, incoming)?;
            count += 1;
            // A full buffer is written first, unless the socket takes nothing, as the queue tells.
            let stop = conn.wire.out.len() >= OUT_HIGH && self.queue.is_empty();
            next = if count < TAKE_MAX && !stop && !self.is_filling() {
                self.link.try_next()?
            } else {
                None
            };
        }
        Ok(())
    }

    /// Looks at rules that may have changed: what is no longer allowed ends. False if the client is no longer admitted.
    fn review(&mut self) -> bool {
        let gate = Arc::clone(&self.gate.borrow_and_update());
        let access = gate.access(&self.identity);
        let mut withholds = false;
        let refused: Vec<Arc<str>> = self
            .inbox
            .names()
            .filter(|name| {
                let reading = topic::wanted(name).map(|wanted| access.reading(&wanted));
                withholds |= reading == Some(Reading::InPart);
                reading.is_none_or(|reading| reading == Reading::Nothing)
            })
            .map(Arc::clone)
            .collect();
        self.withholds = withholds;
        // The will of a client that has to leave is decided by the new rules too.
        self.publisher.set_access(access);
        for filter in refused {
            self.inbox.unsubscribe(&mut self.link, &filter);
            self.hub.counters.revoked_subscriptions.bump();
            debug!(client_id = %self.identity.client_id, %filter, "a subscription is no longer allowed and ends");
        }
        // A dead router is noticed by whoever reads from it.
        let flushed = self.link.flush().is_ok();
        flushed && gate.still_admits(&self.identity)
    }
}

/// Waits for a moment at which a pause may be over.
async fn pause(inbox: &Inbox) {
    tokio::select! {
        () = inbox.given_up() => {}
        () = sleep(PAUSE_POLL) => {}
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

#[cfg(test)]
mod tests;
