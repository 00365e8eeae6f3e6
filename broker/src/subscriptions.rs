//! Which filters are subscribed, by whom, and how far each subscriber lags.
//!
//! The logs are bounded and the oldest messages go first, so somebody must yield when a publisher is faster than a
//! subscriber. The rule: a subscriber that catches up fast enough (half a log within [`HOLD_MAX`]) slows publishers
//! down and loses nothing; a slower one loses the oldest messages, each counted, and slows nobody until it has caught
//! up and [`SLOW_MIN_MS`] have passed. It is the subscriber that is slow, with all its filters, so that one of them costs a
//! publisher a twentieth of its time at most.

use crate::{
    filters::Filters,
    message::Envelope,
    router::{Announcement, Log, NOTHING, Router},
    share::Group,
    topic::Wanted,
};
use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How long a publisher waits for a lagging subscriber before that one counts as slow.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(250);

/// How long a subscriber counts as slow at least: twenty times [`HOLD_MAX`].
const SLOW_MIN_MS: u64 = 5_000;

/// Shares of a log, as divisors: publishers are held above 1/2, go on below 1/4, and look every 1/16.
const HIGH: u64 = 2;
const LOW: u64 = 4;
const LOOK: u64 = 16;

#[derive(Debug)]
pub(crate) struct Subscriptions {
    filters_max: usize,
    router: Arc<Router>,
    /// Changes whenever publishers must look their routes up again.
    generation: AtomicU64,
    /// Grows with every subscription that comes into force; see [`crate::inbox`] for what it is good for.
    stamp: AtomicU64,
    count: AtomicUsize,
    /// For each publisher the least stamp of what it has not handed to the router yet.
    publishing: RwLock<Vec<Arc<AtomicU64>>>,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    filters: Filters<Selecting>,
    /// Logs in use: one a filter, and one a member of a group.
    logs: usize,
}

/// What a filter leads to.
#[derive(Debug, Default)]
struct Selecting {
    channel: Option<Arc<Channel>>,
    groups: Vec<Arc<Group>>,
}

/// Where a topic's messages go.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// The state of the table for which this holds.
    pub(crate) generation: u64,
    pub(crate) channels: Vec<Arc<Channel>>,
    pub(crate) groups: Vec<Arc<Group>>,
}

/// A subscribed filter, or a member of a group, and the log that serves it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) filter: Arc<str>,
    pub(crate) log: Arc<Log>,
    log_bytes: u64,
    readers: RwLock<Vec<Arc<Reader>>>,
    /// Some reader was seen above the high mark.
    congested: AtomicBool,
    /// Wakes publishers once readers have caught up.
    room: Notify,
}

/// One subscriber's progress in a log.
#[derive(Debug)]
pub(crate) struct Reader {
    done_bytes: AtomicU64,
    /// Publishers gave up on it, and it has not caught up since.
    behind: AtomicBool,
    pub(crate) subscriber: Arc<Subscriber>,
}

/// A client or receiver, as its publishers see it.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// The number that marks what it publishes itself.
    pub(crate) id: u32,
    /// It takes whatever its logs have, as soon as publishers have given up on it, and decides itself what to drop.
    drains: bool,
    started: Instant,
    /// Milliseconds after `started` until which it counts as slow at least; zero while it does not.
    slow_until_ms: AtomicU64,
    /// Its readers that are behind.
    behind: AtomicUsize,
    absent: AtomicBool,
    /// What it has taken is about to overflow its queue: it counts as lagging, whatever its logs say.
    pressed: AtomicBool,
    /// Told when publishers give up on it.
    given_up: Notify,
}

/// One subscriber's place at a filter.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) channel: Arc<Channel>,
    pub(crate) reader: Arc<Reader>,
    pub(crate) group: Option<Arc<Group>>,
}

impl Subscriptions {
    pub(crate) fn new(filters_max: usize, router: Arc<Router>) -> Self {
        Self {
            filters_max,
            router,
            generation: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            publishing: RwLock::default(),
            table: RwLock::default(),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The stamp of a message published now: to be read after an announcement, before [`Subscriptions::generation`].
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::SeqCst)
    }

    pub(crate) fn register_publisher(&self) -> Arc<AtomicU64> {
        let cell = Arc::new(AtomicU64::new(NOTHING));
        self.publishing
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&cell));
        cell
    }

    pub(crate) fn forget_publisher(&self, cell: &Arc<AtomicU64>) {
        self.publishing
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !Arc::ptr_eq(other, cell));
    }

    /// Says that the publisher begins to queue messages, with the present stamp or a later one.
    pub(crate) fn announce(&self, cell: &Arc<AtomicU64>) -> Announcement {
        Announcement::new(cell, self.stamp())
    }

    /// Whether all messages with stamps below `stamp` have been handed to the router. A publisher whose announcement is
    /// not seen here reads its stamps after this, and finds none below.
    pub(crate) fn is_settled(&self, stamp: u64) -> bool {
        let publishing = self
            .publishing
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        publishing
            .iter()
            .all(|cell| cell.load(Ordering::SeqCst) >= stamp)
    }

    /// Notes that the router has put a subscription in force. Messages with the stamp returned, or a later one, reach it.
    pub(crate) fn put_in_force(&self, seat: &Seat) -> u64 {
        if let Some(group) = &seat.group {
            group.put_in_force(&seat.channel);
        }
        self.stamp.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of subscriptions.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds a subscriber to a filter; `None` if that takes a log and all are in use.
    pub(crate) fn attach(&self, wanted: &Wanted<'_>, subscriber: &Arc<Subscriber>) -> Option<Seat> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.filters.get(wanted.filter);
        let takes_log = wanted.group.is_some() || known.is_none_or(|at| at.channel.is_none());
        if takes_log {
            if table.logs >= self.filters_max {
                return None;
            }
            table.logs += 1;
        }
        let (filter, selecting) = table.filters.entry(wanted.filter);
        let (channel, group) = match wanted.group {
            None => {
                let channel = selecting
                    .channel
                    .get_or_insert_with(|| self.channel(filter));
                (Arc::clone(channel), None)
            }
            Some(name) => (self.channel(filter), Some(selecting.group(name, filter))),
        };
        let reader = Arc::new(Reader {
            done_bytes: AtomicU64::new(channel.log.sent_bytes()),
            behind: AtomicBool::new(false),
            subscriber: Arc::clone(subscriber),
        });
        if let Some(group) = &group {
            group.join(&channel, &reader);
        }
        channel.add(&reader);
        if takes_log {
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            channel,
            reader,
            group,
        })
    }

    fn channel(&self, filter: &Arc<str>) -> Arc<Channel> {
        Arc::new(Channel {
            filter: Arc::clone(filter),
            log: self.router.borrow_log(),
            log_bytes: self.router.log_bytes(),
            readers: RwLock::default(),
            congested: AtomicBool::new(false),
            room: Notify::new(),
        })
    }

    /// Takes a subscriber away; the last one frees the filter and its log.
    pub(crate) fn detach(&self, seat: &Seat) {
        self.leave(seat);
        self.count.fetch_sub(1, Ordering::Relaxed);
        let Seat {
            channel, reader, ..
        } = seat;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if !channel.remove(reader) {
            return;
        }
        table.logs -= 1;
        self.router.return_log(Arc::clone(&channel.log));
        if seat.group.is_none() {
            let change = |at: &mut Selecting| at.channel = None;
            self.change(&mut table, &channel.filter, change);
        }
    }

    /// Takes a member out of its group, if it is in one: it gets nothing new, what its log holds is left to it.
    pub(crate) fn leave(&self, seat: &Seat) {
        let Some(group) = &seat.group else {
            return;
        };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if group.leave(&seat.channel) {
            let change = |at: &mut Selecting| at.groups.retain(|other| !Arc::ptr_eq(other, group));
            self.change(&mut table, &group.filter, change);
        }
    }

    fn change(&self, table: &mut Table, filter: &str, change: impl FnOnce(&mut Selecting)) {
        if table.filters.get(filter).is_none() {
            return;
        }
        let (_, selecting) = table.filters.entry(filter);
        change(selecting);
        if selecting.channel.is_none() && selecting.groups.is_empty() {
            table.filters.remove(filter);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Where messages to `topic` go; publishers remember the answer.
    pub(crate) fn route(&self, topic: &str) -> Routes {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut routes = Routes {
            generation: self.generation(),
            ..Routes::default()
        };
        table.filters.matching(topic, |selecting| {
            routes
                .channels
                .extend(selecting.channel.iter().map(Arc::clone));
            routes
                .groups
                .extend(selecting.groups.iter().map(Arc::clone));
        });
        routes
    }

    /// The group that stands now where `group` stood: its last member may have left and another have founded it anew.
    pub(crate) fn group_now(&self, group: &Arc<Group>) -> Arc<Group> {
        if group.is_empty() {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            let selecting = table.filters.get(&group.filter);
            if let Some(other) = selecting.and_then(|at| at.find(&group.name)) {
                return Arc::clone(other);
            }
        }
        Arc::clone(group)
    }
}

impl Selecting {
    fn find(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| *group.name == *name)
    }

    fn group(&mut self, name: &str, filter: &Arc<str>) -> Arc<Group> {
        if let Some(group) = self.find(name) {
            return Arc::clone(group);
        }
        let group = Arc::new(Group::new(name, Arc::clone(filter)));
        self.groups.push(Arc::clone(&group));
        group
    }
}

impl Channel {
    /// Counts a message that goes into the log. Returns true if the publisher should see whether readers lag.
    pub(crate) fn count(&self, envelope: &Envelope) -> bool {
        let (before, after) = self.log.count(self.log.weight(envelope));
        let step = (self.log_bytes / LOOK).max(1);
        if before / step != after / step && self.is_high(self.lag()) {
            self.congested.store(true, Ordering::Relaxed);
        }
        self.congested.load(Ordering::Relaxed)
    }

    pub(crate) fn is_high(&self, lag: u64) -> bool {
        lag > self.log_bytes / HIGH
    }

    fn is_low(&self, lag: u64) -> bool {
        lag <= self.log_bytes / LOW
    }

    /// Whether a reader that is not slow still lags; if none does, publishers may go on.
    pub(crate) fn still_lags(&self) -> bool {
        let lags = !self.is_low(self.lag());
        if !lags {
            self.congested.store(false, Ordering::Relaxed);
        }
        lags
    }

    /// Has publishers look at the readers, of which one fills its queue.
    pub(crate) fn press(&self) {
        self.congested.store(true, Ordering::Relaxed);
    }

    /// Waits until a reader that lagged has caught up. It may miss that, so that callers look again after a while.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    /// Gives up on the readers that lag; returns how many there are.
    pub(crate) fn mark_slow(&self) -> u64 {
        let mut marked = 0;
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        for reader in readers
            .iter()
            .filter(|reader| !reader.subscriber.is_slow() && !self.is_low(reader.lag(&self.log)))
        {
            if !reader.behind.swap(true, Ordering::Relaxed) {
                reader.subscriber.behind.fetch_add(1, Ordering::Relaxed);
            }
            reader.subscriber.mark_slow();
            marked += 1;
        }
        self.congested.store(false, Ordering::Relaxed);
        marked
    }

    /// The greatest lag of a reader that is waited for. A slow one that drains its logs is given the moment that its
    /// task needs for that, whatever waits behind it: else the log would lose what its queue has room for.
    fn lag(&self) -> u64 {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        let lags = readers.iter().filter_map(|reader| {
            if !reader.subscriber.is_slow() {
                Some(reader.lag(&self.log))
            } else if reader.subscriber.drains {
                Some(reader.untaken(&self.log))
            } else {
                None
            }
        });
        lags.max().unwrap_or(0)
    }

    fn add(&self, reader: &Arc<Reader>) {
        self.readers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(reader));
    }

    /// Returns whether that was the last reader.
    fn remove(&self, reader: &Arc<Reader>) -> bool {
        let mut readers = self.readers.write().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|other| !Arc::ptr_eq(other, reader));
        reader.caught_up();
        readers.is_empty()
    }
}

impl Reader {
    pub(crate) fn lag(&self, log: &Log) -> u64 {
        if self.subscriber.pressed.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        self.untaken(log)
    }

    fn untaken(&self, log: &Log) -> u64 {
        log.sent_bytes()
            .saturating_sub(self.done_bytes.load(Ordering::Relaxed))
    }

    /// Records that this reader, the only writer here, is done with messages of this weight.
    pub(crate) fn done(&self, channel: &Channel, weight: u64) {
        self.done_bytes.fetch_add(weight, Ordering::Relaxed);
        let behind = self.behind.load(Ordering::Relaxed);
        let awaited = channel.congested.load(Ordering::Relaxed);
        if (behind || awaited) && channel.is_low(self.untaken(&channel.log)) {
            let pressed = self.subscriber.pressed.load(Ordering::Relaxed);
            if !pressed {
                self.caught_up();
            }
            if awaited && (!pressed || self.subscriber.is_slow()) {
                channel.room.notify_waiters();
            }
        }
    }

    fn caught_up(&self) {
        if self.behind.swap(false, Ordering::Relaxed) {
            self.subscriber.behind.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Records that the log went on without this reader, which now stands at the oldest message that is left and has
    /// still to be done with `taken_bytes` from before.
    pub(crate) fn jumped(&self, channel: &Channel, taken_bytes: u64) {
        let oldest = channel.log.sent_bytes().saturating_sub(channel.log_bytes);
        let done = oldest.saturating_sub(taken_bytes);
        self.done_bytes.fetch_max(done, Ordering::Relaxed);
    }
}

impl Subscriber {
    pub(crate) fn new(id: u32, drains: bool) -> Self {
        Self {
            id,
            drains,
            started: Instant::now(),
            slow_until_ms: AtomicU64::new(0),
            behind: AtomicUsize::new(0),
            absent: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            given_up: Notify::new(),
        }
    }

    pub(crate) fn set_absent(&self, absent: bool) {
        self.absent.store(absent, Ordering::Relaxed);
    }

    /// Has publishers wait for this subscriber. The channels have to be told: [`Channel::press`].
    pub(crate) fn set_pressed(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
    }

    /// Waits until publishers give up on this subscriber; at once if they did since the last time.
    pub(crate) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.absent.load(Ordering::Relaxed)
    }

    /// Whether publishers do not wait for it.
    pub(crate) fn is_slow(&self) -> bool {
        let until_ms = self.slow_until_ms.load(Ordering::Relaxed);
        if until_ms == 0 {
            return false;
        }
        if self.behind.load(Ordering::Relaxed) > 0 || self.elapsed_ms() < until_ms {
            return true;
        }
        // Unless it was marked again just now. Either way the next one to ask gets the answer.
        let _changed =
            self.slow_until_ms
                .compare_exchange(until_ms, 0, Ordering::Relaxed, Ordering::Relaxed);
        false
    }

    fn mark_slow(&self) {
        let until_ms = self.elapsed_ms().saturating_add(SLOW_MIN_MS);
        self.slow_until_ms.store(until_ms, Ordering::Relaxed);
        self.given_up.notify_one();
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ordering, SLOW_MIN_MS, Subscriber};

    #[test]
    fn a_slow_subscriber_is_waited_for_again_once_it_has_caught_up_and_some_time_has_passed() {
        let subscriber = Subscriber::new(1, false);
        assert!(!subscriber.is_slow());
        subscriber.behind.store(1, Ordering::Relaxed);
        subscriber.mark_slow();
        let until_ms = subscriber.slow_until_ms.load(Ordering::Relaxed);
        assert!(until_ms >= SLOW_MIN_MS && subscriber.is_slow());
        subscriber.behind.store(0, Ordering::Relaxed);
        assert!(subscriber.is_slow(), "it has caught up, but too soon");
        // As if the time had passed.
        while subscriber.elapsed_ms() < 1 {
            std::thread::yield_now();
        }
        subscriber.slow_until_ms.store(1, Ordering::Relaxed);
        subscriber.behind.store(1, Ordering::Relaxed);
        assert!(
            subscriber.is_slow(),
            "the time has passed, but it is behind"
        );
        subscriber.behind.store(0, Ordering::Relaxed);
        assert!(!subscriber.is_slow());
    }
}
