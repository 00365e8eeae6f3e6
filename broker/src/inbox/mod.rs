//! The subscriptions of one client or receiver: what it gets, live and retained.
//!
//! # One copy
//!
//! A message that several filters of a subscriber select comes once by the log of each. One copy is delivered, with the
//! terms of all these subscriptions; the others are skipped, and nothing is remembered of a message. Of the
//! subscriptions that select a topic the *primary* is the one in force for longest; its copies are those that count. So
//! the primary of a topic changes only when it is unsubscribed, and messages of one topic keep their order.
//!
//! A copy may be skipped only if the primary's log has the message too, or had and lost it to a lagging reader, which
//! is counted there. Two cases need care.
//!
//! *The primary came into force while the message was routed.* Once the router has confirmed a subscription, the
//! broker's stamp is bumped, and the value is kept as `in_force_from`. A publisher reads the stamp before it makes sure
//! that its routes are those of the present generation, and puts it into the message. If a message's stamp is not below
//! the primary's `in_force_from`, its publisher saw the bump, and hence the generation that includes the primary's log;
//! and it handed the message to the router after that had begun to read this log for the primary. Otherwise nothing is
//! known, and every copy is delivered on its own terms: MQTT allows more than one (MQTT 5, section 3.3.4).
//!
//! *The primary is unsubscribed while copies in its log are unread*, whose twins in the logs of younger filters were
//! skipped. So it goes on as a *ghost*: still read, still primary, but without terms of its own. It ends by marks, one
//! in its own log and one in each of those of the younger filters that overlap with it. All copies of a message are
//! handed to the router together, and so are these marks: a message is before all marks or behind all of them. Behind
//! its mark a younger log ignores the ghost, and the ghost's own log is left when its mark has been read. The marks
//! must wait until every message behind them has a copy in the younger logs. A publisher that has not handed over what
//! it routed before a younger subscription came into force may still bring one without; publishers announce the least
//! stamp of what they hold, and until that is late enough the ghost looks again each time that a mark of its own has
//! come through the router. If a log loses its mark to a lagging reader, it ignores the ghost from there on, or the
//! ghost gets another one: a copy too many, none too few.
//!
//! When the primary is unsubscribed, messages of its last moments may come behind younger ones: the logs are read each
//! at its own pace. Nothing else changes the order of a topic's messages.
//!
//! # Shared subscriptions
//!
//! A message has one copy for a group, so that there is nothing to skip. A member that leaves reads its log until
//! nothing can come any more (all messages it was picked for have been handed to the router, and a mark behind them has
//! been read), and what it finds goes to another member.

mod ending;
mod replay;
mod select;

pub(crate) use select::{Ids, Terms};

use crate::{
    hub::Hub,
    message::{Envelope, QoS},
    router::{RouterGone, RouterLink},
    share::Group,
    subscriptions::{Channel, Seat, Subscriber},
    topic::{self, Wanted},
};
use ending::{Ending, Ghost};
use replay::Replay;
use select::Plans;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tracing::debug;

/// A subscription's key is its slot and, above these bits, the number of the subscription, so that what is left of an
/// earlier one in the same slot is not taken for its own.
const INDEX_BITS: u32 = 20;
const NUMBER_MASK: usize = (1 << 11) - 1;

/// How a subscription wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}

#[derive(Debug)]
struct Slot {
    key: usize,
    /// What was subscribed: the filter, or `$share/NAME/FILTER`.
    name: Arc<str>,
    seat: Seat,
    options: Options,
    /// The offset that follows the last message seen; `None` before the first.
    next_offset: Option<u64>,
    /// The weight of what was taken and is still due.
    taken_bytes: u64,
    /// `None` until the router has confirmed the subscription.
    in_force_from: Option<u64>,
    /// How many other slots have a filter that overlaps with this one; shared ones do not count.
    overlaps: usize,
    ending: Option<Ending>,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
    slots: Vec<Option<Slot>>,
    /// The slot that the last message came by.
    last: usize,
    /// Messages of one subscription that publishers have not been told of.
    unsettled: Due,
    /// The slots that are not ending.
    by_name: HashMap<Arc<str>, usize>,
    /// Subscriptions that the router has still to confirm, in its order.
    unconfirmed: VecDeque<usize>,
    subscribed: usize,
    marked: u64,
    ghosts: Vec<Ghost>,
    plans: Plans,
    replay: Replay,
}

/// What [`Inbox::subscribe`] did; the subscription's key is good for [`Inbox::send_retained`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscribed {
    /// The subscription is new: the router will answer.
    New(usize),
    /// It was there before and has new options.
    Again(usize),
    /// A limit on filters was reached.
    Full,
}

/// A message to deliver.
#[derive(Debug)]
pub(crate) struct Selected {
    pub(crate) envelope: Envelope,
    pub(crate) terms: Terms,
    /// From the retained store rather than live.
    pub(crate) stored: bool,
    pub(crate) due: Due,
}

/// What is owed to publishers for a message: [`Inbox::done`], once it takes no room any more.
#[derive(Debug, Clone)]
#[must_use = "publishers wait until the inbox is told"]
pub(crate) struct Due {
    key: usize,
    weight: u64,
    group: Option<Arc<Group>>,
}

impl Due {
    /// Whether another member of a group may get the message instead.
    pub(crate) fn is_shared(&self) -> bool {
        self.group.is_some()
    }

    /// For a message that is in no log.
    pub(crate) fn none() -> Self {
        Self {
            key: usize::MAX,
            weight: 0,
            group: None,
        }
    }
}

impl Slot {
    fn filter(&self) -> &str {
        &self.seat.channel.filter
    }

    fn channel(&self) -> &Arc<Channel> {
        &self.seat.channel
    }

    /// Whether messages that this slot's subscriber gets may come by both; shared ones never count.
    fn overlaps(&self, other: &Self) -> bool {
        self.key != other.key
            && self.seat.group.is_none()
            && other.seat.group.is_none()
            && topic::overlaps(self.filter(), other.filter())
    }
}

impl Inbox {
    /// An inbox for whoever publishes with the origin `id`. Who says that it `drains` takes all there is whenever publishers
    /// have given up on it.
    pub(crate) fn new(hub: Arc<Hub>, id: u32, drains: bool) -> Self {
        Self {
            hub,
            subscriber: Arc::new(Subscriber::new(id, drains)),
            slots: Vec::new(),
            last: 0,
            unsettled: Due::none(),
            by_name: HashMap::new(),
            unconfirmed: VecDeque::new(),
            subscribed: 0,
            marked: 0,
            ghosts: Vec::new(),
            plans: Plans::default(),
            replay: Replay::default(),
        }
    }

    /// Tells groups whether this subscriber's client is away: another member is preferred then.
    pub(crate) fn set_absent(&self, absent: bool) {
        self.subscriber.set_absent(absent);
    }

    /// Has publishers wait for this subscriber, whose queue fills, or no longer.
    pub(crate) fn press(&self, pressed: bool) {
        self.subscriber.set_pressed(pressed);
        for slot in self.slots.iter().flatten() {
            if pressed {
                slot.channel().press();
            } else {
                // As if it were done with a message just now.
                slot.seat.reader.done(slot.channel(), 0);
            }
        }
    }

    /// Whether publishers do not wait for this subscriber.
    pub(crate) fn is_slow(&self) -> bool {
        self.subscriber.is_slow()
    }

    /// Waits until publishers give up on this subscriber. It may return too early.
    pub(crate) async fn given_up(&self) {
        self.subscriber.given_up().await;
    }

    /// What is subscribed.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// Subscribes, to what the caller has checked, and queues what the router must know.
    pub(crate) fn subscribe(
        &mut self,
        link: &mut RouterLink,
        name: &str,
        wanted: &Wanted<'_>,
        options: Options,
    ) -> Subscribed {
        self.plans.clear();
        if let Some(slot) = self.live_mut(name) {
            slot.options = options;
            return Subscribed::Again(slot.key);
        }
        if let Some(key) = self.revive(link, name, options) {
            return Subscribed::New(key);
        }
        let max = self.hub.limits.filters_per_client_max;
        let in_use = self.slots.iter().flatten().count();
        // What is ending takes a log for another moment: it is allowed once more.
        if self.by_name.len() >= max || in_use >= 2 * max {
            return Subscribed::Full;
        }
        let Some(index) = self.free_index() else {
            return Subscribed::Full;
        };
        let Some(seat) = self.hub.subscriptions.attach(wanted, &self.subscriber) else {
            return Subscribed::Full;
        };
        self.subscribed = self.subscribed.wrapping_add(1);
        let key = index | (self.subscribed & NUMBER_MASK) << INDEX_BITS;
        link.queue_subscribe(&seat.channel.log);
        self.unconfirmed.push_back(key);
        let mut slot = Slot {
            key,
            name: name.into(),
            seat,
            options,
            next_offset: None,
            taken_bytes: 0,
            in_force_from: None,
            overlaps: 0,
            ending: None,
        };
        let mut overlaps = 0;
        for other in self.slots.iter_mut().flatten() {
            if slot.overlaps(other) {
                other.overlaps += 1;
                overlaps += 1;
            }
        }
        slot.overlaps = overlaps;
        self.by_name.insert(Arc::clone(&slot.name), index);
        self.slots[index] = Some(slot);
        Subscribed::New(key)
    }

    fn free_index(&mut self) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        (index < 1 << INDEX_BITS).then_some(index)
    }

    /// Notes that the router has put the next subscription in force: to be called for each `Incoming::Subscribed` of the router.
    pub(crate) fn confirmed(&mut self) {
        self.plans.clear();
        let subscriptions = &self.hub.subscriptions;
        if let Some(key) = self.unconfirmed.pop_front()
            && let Some(Some(slot)) = self.slots.get_mut(index_of(key))
            && slot.key == key
        {
            slot.in_force_from
                .get_or_insert_with(|| subscriptions.put_in_force(&slot.seat));
        }
    }

    /// Whether the router has put this subscription in force.
    pub(crate) fn is_confirmed(&self, key: usize) -> bool {
        !self.unconfirmed.contains(&key)
    }

    /// Ends a subscription, given by what was subscribed; false if there was none.
    pub(crate) fn unsubscribe(&mut self, link: &mut RouterLink, name: &str) -> bool {
        let Some(index) = self.by_name.remove(name) else {
            return false;
        };
        self.plans.clear();
        self.end(link, index);
        true
    }

    /// Takes a live message from the router: counts what the log lost, and drops what is not for this subscriber. What
    /// this makes it tell the router is sent at once. The envelope stays where it is: each move costs.
    pub(crate) fn take(
        &mut self,
        link: &mut RouterLink,
        log: u32,
        offset: u64,
        envelope: &Envelope,
    ) -> Option<(Terms, Due)> {
        let index = self.by_log(log)?;
        let slot = self.slots.get_mut(index)?.as_mut()?;
        let key = slot.key;
        // The rest of a subscription that was there before: see [`crate::router`].
        slot.in_force_from?;
        let expected = slot.next_offset.replace(offset + 1);
        let weight = slot.channel().log.weight(envelope);
        let lost = expected.map_or(0, |expected| offset.saturating_sub(expected));
        if lost > 0 {
            self.jumped(link, index, lost);
        }
        let terms = if envelope.is_mark() {
            self.on_mark(link, index, envelope);
            None
        } else {
            self.examine(link, index, envelope)
        };
        let slot = self.slots.get_mut(index)?.as_mut()?;
        let Some(terms) = terms else {
            slot.seat.reader.done(&slot.seat.channel, weight);
            return None;
        };
        slot.taken_bytes += weight;
        let due = Due {
            key,
            weight,
            group: slot.seat.group.clone(),
        };
        Some((terms, due))
    }

    fn examine(
        &mut self,
        link: &mut RouterLink,
        index: usize,
        envelope: &Envelope,
    ) -> Option<Terms> {
        let slot = self.slots.get(index)?.as_ref()?;
        // A log may hold messages for the filter that it was lent to before. Most filters have no wildcards.
        let is_topic = slot.filter().as_bytes() == envelope.topic();
        if !is_topic && !topic::matches(slot.filter(), envelope.topic_str()) {
            return None;
        }
        if slot.ending.is_some()
            && let Some(group) = slot.seat.group.clone()
        {
            self.pass_on(link, &group, envelope);
            self.flush(link);
            return None;
        }
        self.terms(index, envelope)
    }

    /// Reports a message as dealt with: sent and acknowledged as far as it matters here, or dropped.
    pub(crate) fn done(&mut self, due: &Due) {
        if let Some(Some(slot)) = self.slots.get_mut(index_of(due.key))
            && slot.key == due.key
        {
            slot.taken_bytes = slot.taken_bytes.saturating_sub(due.weight);
            slot.seat.reader.done(&slot.seat.channel, due.weight);
        }
    }

    /// Reports a message as dealt with that may yet be given back: publishers do not wait for it any more, once they
    /// are told by [`Inbox::settle`].
    pub(crate) fn done_for_now(&mut self, due: &mut Due) {
        let weight = std::mem::take(&mut due.weight);
        if self.unsettled.key != due.key {
            self.settle();
            self.unsettled.key = due.key;
        }
        self.unsettled.weight += weight;
    }

    /// Tells publishers of messages that were reported as dealt with: at once for all that were taken in one go.
    pub(crate) fn settle(&mut self) {
        if self.unsettled.weight > 0 {
            let due = std::mem::replace(&mut self.unsettled, Due::none());
            self.done(&due);
        }
    }

    /// Reports a message of a shared subscription that was never sent and will not be: it goes to another member, or is
    /// counted as dropped. The caller flushes the link. Of other subscriptions it only notes that they are done.
    pub(crate) fn give_back(&mut self, link: &mut RouterLink, due: &Due, envelope: &Envelope) {
        self.done(due);
        if let Some(group) = &due.group {
            self.pass_on(link, group, envelope);
        }
    }

    fn pass_on(&self, link: &mut RouterLink, group: &Arc<Group>, envelope: &Envelope) {
        let group = self.hub.subscriptions.group_now(group);
        if let Some((channel, hold)) = group.pick(Some(self.subscriber.id)) {
            channel.count(envelope);
            link.queue_held(hold, envelope);
        } else {
            self.hub.counters.shared_dropped.bump();
            debug!(group = %group.name, filter = %group.filter, "no member is left for a message");
        }
    }

    /// A router that is gone is noticed by whoever reads the link next.
    fn flush(&self, link: &mut RouterLink) {
        if let Err(RouterGone) = link.flush() {
            debug!(id = self.subscriber.id, "the router is gone");
        }
    }

    /// The slot that this log serves: usually the same as that of the last message.
    fn by_log(&mut self, log: u32) -> Option<usize> {
        let serves = |slot: &Option<Slot>| {
            slot.as_ref()
                .is_some_and(|slot| slot.channel().log.number == log)
        };
        if !self.slots.get(self.last).is_some_and(serves) {
            self.last = self.slots.iter().position(serves)?;
        }
        Some(self.last)
    }

    fn find(&self, key: usize) -> Option<&Slot> {
        let slot = self.slots.get(index_of(key))?.as_ref()?;
        (slot.key == key).then_some(slot)
    }

    fn live_mut(&mut self, name: &str) -> Option<&mut Slot> {
        let index = *self.by_name.get(name)?;
        self.slots.get_mut(index)?.as_mut()
    }
}

fn index_of(key: usize) -> usize {
    key & ((1 << INDEX_BITS) - 1)
}

impl Drop for Inbox {
    /// After [`Inbox::close`] there is nothing left; after a panic, no publisher must wait for this subscriber.
    fn drop(&mut self) {
        for slot in self.slots.drain(..).flatten() {
            self.hub.subscriptions.detach(&slot.seat);
        }
    }
}
