//! The home of rumqttd: its router used as a set of bounded logs with many readers, and nothing else.
//!
//! What the front must know of rumqttd 0.20.0, and how this module deals with it:
//!
//! - It keeps a log for every filter ever subscribed, remembers every topic ever published, and has one bad state for a
//!   link that leaves while it is scheduled. So neither MQTT filters nor topics reach it: a filter of ours borrows a
//!   numbered [`Log`], the log's name is the only topic the router sees, and logs and links are pooled, never removed.
//! - Its thread cannot be stopped. So routers are pooled too: a broker that starts takes one that is not in use.
//! - QoS above 0 has a fixed window, insists on ordered acknowledgements, and raises publications to the
//!   subscription's QoS. So everything passes through it at QoS 0, and QoS is the front's business.
//! - It clones a message's topic, payload and properties for each reader. So messages have no properties, the topic is
//!   the log's name, which is static and takes no reference count, and all else is in the payload.
//! - What it sends to a link comes in the order of its deeds: a log's messages for a subscription behind its SUBACK, and
//!   none behind the UNSUBACK. So a message belongs to the log's present subscription once that is confirmed.
//! - It takes all that waits on a link in one go. So packets that were queued together are dealt with together, and
//!   either all or none of them come before those of another link.
//! - A link that publishes to a log which it reads, and unsubscribes in the same go, keeps a read request that nobody
//!   knows of: the next subscription gets everything twice. So an UNSUBSCRIBE goes before all publications that wait.
//! - A send to it can block while its channel of 1,000 events is full, but its thread never waits for a link, so that
//!   such a wait lasts one turn of its loop. A link has one event under way at most, whatever the number of packets.

use crate::{config::Limits, message::Envelope};
use bytes::Bytes;
use futures_util::FutureExt;
use rumqttd::{
    Forward, Notification, RouterConfig, Strategy,
    local::{LinkBuilder, LinkRx, LinkTx},
    protocol::{Filter, Packet, PingReq, Publish, QoS, RetainForwardRule, Subscribe, Unsubscribe},
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use thiserror::Error;
use tokio::sync::Notify;

/// Segments a log has. When the newest is full the oldest goes, so that three quarters of a log are always there.
const SEGMENTS: usize = 4;

/// What a log's name begins with; its number follows.
const LOG_PREFIX: &str = "l";

/// Messages that the router reads from a log for a link in one turn. With its own mark of 200 notifications, a link
/// that does not read holds 200 + 128 messages at most.
const READ_BATCH: u64 = 128;

/// Packets that may wait for the router from one link before its publisher is held: a few turns of the router's loop.
pub(crate) const BACKLOG_MAX: usize = 1_024;

/// The router's thread is gone, which only a bug in it can bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the router has stopped")]
pub(crate) struct RouterGone;

/// No further link fits into this router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ConnectError {
    #[error("the router has no room for another link, its limit is {0}")]
    Full(usize),
    #[error(transparent)]
    Gone(#[from] RouterGone),
}

/// Every router of this process. One that only this list holds is free.
static ROUTERS: Mutex<Vec<Arc<Router>>> = Mutex::new(Vec::new());

type Connect = dyn Fn(&str) -> Result<(LinkTx, LinkRx), RouterGone> + Send + Sync;

pub(crate) struct Router {
    shape: Shape,
    connect: Box<Connect>,
    links: Mutex<Links>,
    /// Wakes one of those that wait for a link.
    released: Notify,
    logs: Mutex<Logs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    links_max: usize,
    log_bytes: usize,
}

#[derive(Default)]
struct Links {
    idle: Vec<RouterLink>,
    made: usize,
}

#[derive(Default)]
struct Logs {
    idle: Vec<Arc<Log>>,
    made: u32,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// One of the router's logs, with counts that go on when it is lent to another filter.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) number: u32,
    name: &'static str,
    sent_bytes: AtomicU64,
    holds: AtomicUsize,
}

/// Says that a message for this log is under way to the router.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Log>);

impl Hold {
    pub(crate) fn new(log: &Arc<Log>) -> Self {
        log.holds.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(log))
    }
}

/// Says which stamps may be under way to the router: this one and later ones.
#[derive(Debug)]
pub(crate) struct Announcement(Arc<AtomicU64>);

/// What a publisher's cell holds while nothing is under way.
pub(crate) const NOTHING: u64 = u64::MAX;

impl Announcement {
    pub(crate) fn new(cell: &Arc<AtomicU64>, stamp: u64) -> Self {
        cell.store(stamp, Ordering::SeqCst);
        Self(Arc::clone(cell))
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.0.store(NOTHING, Ordering::SeqCst);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Log {
    /// What a message of this log weighs by the router's own reckoning.
    pub(crate) fn weight(&self, envelope: &Envelope) -> u64 {
        (4 + self.name.len() + envelope.weight()) as u64
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Counts a message; returns the sum before and after.
    pub(crate) fn count(&self, weight: u64) -> (u64, u64) {
        let before = self.sent_bytes.fetch_add(weight, Ordering::Relaxed);
        (before, before + weight)
    }

    /// Whether a message with a [`Hold`] has still to be handed to the router.
    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }
}

impl Router {
    /// Takes a free router of the right shape, or starts one.
    pub(crate) fn obtain(limits: &Limits) -> Arc<Self> {
        let shape = Shape {
            // A client that leaves gives its link back a moment later: the slack bridges that moment. The $SYS topics
            // have one.
            links_max: limits.clients_max
                + limits.absent_sessions_max
                + limits.links_max
                + limits.handshakes_max
                + 1,
            log_bytes: limits.log_bytes_per_filter,
        };
        let mut routers = lock(&ROUTERS);
        if let Some(free) = routers
            .iter()
            .find(|router| router.shape == shape && Arc::strong_count(router) == 1)
        {
            return Arc::clone(free);
        }
        let router = Arc::new(Self::spawn(shape));
        routers.push(Arc::clone(&router));
        router
    }

    fn spawn(shape: Shape) -> Self {
        let config = RouterConfig {
            max_connections: shape.links_max,
            max_outgoing_packet_count: READ_BATCH,
            max_segment_size: shape.log_bytes / SEGMENTS,
            max_segment_count: SEGMENTS,
            custom_segment: None,
            initialized_filters: None,
            shared_subscriptions_strategy: Strategy::RoundRobin,
        };
        let events = rumqttd::Router::new(0, config).spawn();
        let connect = move |name: &str| {
            let (tx, rx, _) = LinkBuilder::new(name, events.clone())
                .build()
                .map_err(|_| RouterGone)?;
            // Room for 200 packets, of which a link that says little needs none: it grows again if it does.
            *tx.buffer() = VecDeque::new();
            Ok((tx, rx))
        };
        Self {
            shape,
            connect: Box::new(connect),
            links: Mutex::default(),
            released: Notify::new(),
            logs: Mutex::default(),
        }
    }

    pub(crate) fn idle_link(&self) -> Option<RouterLink> {
        lock(&self.links).idle.pop()
    }

    /// Takes an idle link or makes one; the latter blocks for a turn of the router's loop.
    pub(crate) fn link(&self) -> Result<RouterLink, ConnectError> {
        let mut links = lock(&self.links);
        if let Some(link) = links.idle.pop() {
            return Ok(link);
        }
        if links.made >= self.shape.links_max {
            return Err(ConnectError::Full(self.shape.links_max));
        }
        let (tx, rx) = (self.connect)(&format!("link-{}", links.made))?;
        links.made += 1;
        Ok(RouterLink {
            tx,
            rx,
            outbox: VecDeque::new(),
            endings: Vec::new(),
            holds: Vec::new(),
            announcement: None,
            wake_due: false,
        })
    }

    /// Gives back a link that has no subscriptions and nothing on its way.
    pub(crate) fn release(&self, link: RouterLink) {
        lock(&self.links).idle.push(link);
        self.released.notify_one();
    }

    /// Waits until a link is given back, at once if one was since the last wait.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }

    pub(crate) fn borrow_log(&self) -> Arc<Log> {
        let mut logs = lock(&self.logs);
        if let Some(log) = logs.idle.pop() {
            return log;
        }
        let number = logs.made;
        logs.made += 1;
        Arc::new(Log {
            number,
            // The router keeps the log for ever, and so is its name kept.
            name: format!("{LOG_PREFIX}{number}").leak(),
            sent_bytes: AtomicU64::new(0),
            holds: AtomicUsize::new(0),
        })
    }

    pub(crate) fn return_log(&self, log: Arc<Log>) {
        lock(&self.logs).idle.push(log);
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.shape.log_bytes as u64
    }
}

/// A connection to the router. Packets are queued and then sent together.
pub(crate) struct RouterLink {
    tx: LinkTx,
    rx: LinkRx,
    outbox: VecDeque<Packet>,
    /// UNSUBSCRIBE packets, to go before what waits already.
    endings: Vec<Unsubscribe>,
    /// What packets in the outbox hold until they have been handed over.
    holds: Vec<Hold>,
    announcement: Option<Announcement>,
    /// The router has stopped sending until it is woken; kept here so that a cancelled wait forgets nothing.
    wake_due: bool,
}

impl fmt::Debug for RouterLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterLink")
            .field("outbox", &self.outbox.len())
            .finish_non_exhaustive()
    }
}

/// What the router hands out.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message {
        /// The number of the log that it came by.
        log: u32,
        /// The message's place in its log.
        offset: u64,
        envelope: Envelope,
    },
    /// A subscription is in force; these come in the order in which they were queued.
    Subscribed,
    /// All packets queued before [`RouterLink::queue_fence`] have been dealt with.
    Fence,
}

impl RouterLink {
    pub(crate) fn queue_publish(&mut self, log: &Log, envelope: &Envelope) {
        let name = Bytes::from_static(log.name.as_bytes());
        let publish = Publish::new(name, envelope.clone().into_bytes(), false);
        self.outbox.push_back(Packet::Publish(publish, None));
    }

    /// As [`RouterLink::queue_publish`], with a hold that ends once the router has been told.
    pub(crate) fn queue_held(&mut self, hold: Hold, envelope: &Envelope) {
        self.queue_publish(&hold.0, envelope);
        self.holds.push(hold);
    }

    /// Announces, until the next flush, what is going to be queued. There is one publisher to a link.
    pub(crate) fn announce(&mut self, announcement: impl FnOnce() -> Announcement) {
        self.announcement.get_or_insert_with(announcement);
    }

    pub(crate) fn queue_subscribe(&mut self, log: &Log) {
        let filter = Filter {
            path: log.name.to_owned(),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let subscribe = Subscribe {
            pkid: 1,
            filters: vec![filter],
        };
        self.outbox.push_back(Packet::Subscribe(subscribe, None));
    }

    pub(crate) fn queue_unsubscribe(&mut self, log: &Log) {
        let unsubscribe = Unsubscribe {
            pkid: 1,
            filters: vec![log.name.to_owned()],
        };
        if !put_behind_subscribe(&mut self.outbox, &unsubscribe) {
            self.endings.push(unsubscribe);
        }
    }

    pub(crate) fn queue_fence(&mut self) {
        self.outbox.push_back(Packet::PingReq(PingReq));
    }

    /// Hands the queued packets over, all at once.
    pub(crate) fn flush(&mut self) -> Result<(), RouterGone> {
        let handed_over = self.hand_over();
        self.holds.clear();
        self.announcement = None;
        handed_over
    }

    fn hand_over(&mut self) -> Result<(), RouterGone> {
        if self.outbox.is_empty() && self.endings.is_empty() {
            return Ok(());
        }
        // Sending adds a packet and wakes the router, which may have taken the others by then. So the packet sent is
        // none of them, unless there is only one.
        let only = if self.outbox.len() == 1 && self.endings.is_empty() {
            self.outbox.pop_back()
        } else {
            None
        };
        {
            let mut buffer = self.tx.buffer();
            // What lies there was announced and will be fetched together with what is added now. A router that has
            // stopped fetches nothing: past the mark it is told again, which fails if it is gone.
            let announced = !buffer.is_empty() && buffer.len() < 2 * BACKLOG_MAX;
            for ending in self.endings.drain(..) {
                if !put_behind_subscribe(&mut buffer, &ending) {
                    buffer.push_front(Packet::Unsubscribe(ending, None));
                }
            }
            buffer.extend(self.outbox.drain(..));
            if announced {
                buffer.extend(only);
                return Ok(());
            }
        }
        let last = only.unwrap_or_else(nothing);
        // `send` is async in name only: it completes at the first poll.
        match self.tx.send(last).now_or_never() {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(RouterGone),
        }
    }

    /// Whether the router has fetched all that was handed over: only then what is handed over next comes to it behind
    /// what other links have handed over by now. Otherwise it rides on an earlier wake-up, which may stand before theirs.
    pub(crate) fn is_fetched(&self) -> bool {
        self.backlog() == 0
    }

    /// Packets that the router has not fetched.
    pub(crate) fn backlog(&self) -> usize {
        self.tx.buffer().len()
    }

    /// The next thing from the router. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Incoming, RouterGone> {
        loop {
            if self.wake_due {
                // Boxed, since it is large and each session's task has room for this future.
                let woken = Box::pin(self.rx.wake()).await;
                woken.map_err(|_| RouterGone)?;
                self.wake_due = false;
            }
            let mut received = self.rx.next().await.map_err(|_| RouterGone)?;
            if let Some(incoming) = self.sort(&mut received)? {
                return Ok(incoming);
            }
        }
    }

    /// What the router has handed out already, without waiting.
    pub(crate) fn try_next(&mut self) -> Result<Option<Incoming>, RouterGone> {
        // As `next`, whose future would be large.
        while !self.wake_due {
            match self.rx.next().now_or_never() {
                None => return Ok(None),
                Some(Err(_)) => return Err(RouterGone),
                Some(Ok(mut received)) => {
                    if let Some(incoming) = self.sort(&mut received)? {
                        return Ok(Some(incoming));
                    }
                }
            }
        }
        // Whoever waits next wakes the router.
        Ok(None)
    }

    /// Looks at a notification, which is large, where it lies. `None` is a wake-up without content.
    fn sort(
        &mut self,
        received: &mut Option<Notification>,
    ) -> Result<Option<Incoming>, RouterGone> {
        match received {
            Some(Notification::Forward(forward)) => return Ok(message(forward)),
            Some(Notification::Unschedule) => self.wake_due = true,
            Some(Notification::DeviceAck(_)) => {
                match received.take().and_then(Option::<Packet>::from) {
                    Some(Packet::SubAck(..)) => return Ok(Some(Incoming::Subscribed)),
                    Some(Packet::PingResp(_)) => return Ok(Some(Incoming::Fence)),
                    _ => {}
                }
            }
            Some(Notification::Disconnect(..)) => return Err(RouterGone),
            None
            | Some(
                Notification::ReplicaData { .. }
                | Notification::ReplicaAcks { .. }
                | Notification::Shadow(_),
            ) => {}
        }
        Ok(None)
    }
}

/// Puts an UNSUBSCRIBE right behind the last SUBSCRIBE of the same log; false if there is none.
fn put_behind_subscribe(packets: &mut VecDeque<Packet>, ending: &Unsubscribe) -> bool {
    let of_same_log = |packet: &Packet| {
        let Packet::Subscribe(subscribe, _) = packet else {
            return false;
        };
        let mut filters = subscribe.filters.iter();
        filters.any(|filter| ending.filters.contains(&filter.path))
    };
    let Some(at) = packets.iter().rposition(of_same_log) else {
        return false;
    };
    packets.insert(at + 1, Packet::Unsubscribe(ending.clone(), None));
    true
}

/// A packet that the router takes and does nothing about.
fn nothing() -> Packet {
    let unsubscribe = Unsubscribe {
        pkid: 1,
        filters: Vec::new(),
    };
    Packet::Unsubscribe(unsubscribe, None)
}

fn message(forward: &mut Forward) -> Option<Incoming> {
    Some(Incoming::Message {
        log: number(&forward.publish.topic)?,
        offset: forward.cursor?.1,
        envelope: Envelope::from_bytes(std::mem::take(&mut forward.publish.payload)),
    })
}

/// The number in a log's name.
fn number(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(LOG_PREFIX.as_bytes())?;
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Pools hold no state that a panic could leave half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
