//! The subscriptions of one client or receiver: what it gets, live and retained.

use crate::{
    hub::Hub,
    message::{Envelope, QoS},
    retained::Scan,
    router::{Incoming, RouterLink},
    subscriptions::{Channel, Reader},
    topic,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tracing::warn;

/// Retained messages fetched from the store at a time.
const PAGE: usize = 64;

/// How long a link that is given back may take to drain.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a subscription wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}

/// What a message's delivery owes to the subscriptions that selected it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) qos: QoS,
    pub(crate) retain_as_published: bool,
    pub(crate) ids: Option<u32>,
}

/// A message that its log's publishers still count as not read; to be given to [`Inbox::done`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Due {
    slot: usize,
    serial: u64,
    weight: u64,
}

#[derive(Debug)]
struct Slot {
    /// Different for each use of the slot.
    serial: u64,
    channel: Arc<Channel>,
    reader: Arc<Reader>,
    options: Options,
    /// The offset that follows the last message seen; `None` before the first.
    next_offset: Option<u64>,
    scan: Option<Scan>,
}

impl Options {
    fn terms(self) -> Terms {
        Terms {
            qos: self.qos,
            retain_as_published: self.retain_as_published,
            ids: self.subscription_id,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Inbox {
    hub: Arc<Hub>,
    /// The number of the publisher whose messages the no-local option leaves out.
    origin: u32,
    serials: u64,
    slots: Vec<Option<Slot>>,
    by_filter: HashMap<Arc<str>, usize>,
    /// Slots whose retained messages are still to be sent.
    scanning: VecDeque<usize>,
    page: VecDeque<(usize, Envelope)>,
}

/// What [`Inbox::subscribe`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscribed {
    /// The filter is new: the router will answer.
    New(usize),
    /// The filter was subscribed before and has new options.
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
    /// `None` for a message from the retained store, which is in no log.
    pub(crate) due: Option<Due>,
}

impl Inbox {
    pub(crate) fn new(hub: Arc<Hub>, origin: u32) -> Self {
        Self {
            hub,
            origin,
            serials: 0,
            slots: Vec::new(),
            by_filter: HashMap::new(),
            scanning: VecDeque::new(),
            page: VecDeque::new(),
        }
    }

    /// Subscribes to a filter, which the caller has checked, and queues what the router must know.
    pub(crate) fn subscribe(
        &mut self,
        link: &mut RouterLink,
        filter: &str,
        options: Options,
    ) -> Subscribed {
        if let Some(&index) = self.by_filter.get(filter) {
            if let Some(Some(slot)) = self.slots.get_mut(index) {
                slot.options = options;
            }
            return Subscribed::Again(index);
        }
        if self.by_filter.len() >= self.hub.limits.filters_per_client_max {
            return Subscribed::Full;
        }
        let Some((channel, reader)) = self.hub.subscriptions.attach(filter) else {
            return Subscribed::Full;
        };
        let index = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        link.queue_subscribe(&channel.log, index);
        self.by_filter.insert(Arc::clone(&channel.filter), index);
        self.serials += 1;
        self.slots[index] = Some(Slot {
            serial: self.serials,
            channel,
            reader,
            options,
            next_offset: None,
            scan: None,
        });
        Subscribed::New(index)
    }

    /// Ends a subscription; false if there was none.
    pub(crate) fn unsubscribe(&mut self, link: &mut RouterLink, filter: &str) -> bool {
        let Some(index) = self.by_filter.remove(filter) else {
            return false;
        };
        if let Some(slot) = self.slots.get_mut(index).and_then(Option::take) {
            link.queue_unsubscribe(&slot.channel.log);
            self.hub.subscriptions.detach(&slot.channel, &slot.reader);
        }
        self.page.retain(|(owner, _)| *owner != index);
        self.scanning.retain(|owner| *owner != index);
        true
    }

    /// Begins to send the retained messages of a subscription, anew if it is at it already.
    pub(crate) fn send_retained(&mut self, index: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(index)
            && slot.scan.replace(self.hub.retained.scan()).is_none()
        {
            self.scanning.push_back(index);
        }
    }

    /// The next retained message that is due.
    pub(crate) fn next_retained(&mut self) -> Option<Selected> {
        loop {
            if let Some((index, envelope)) = self.page.pop_front() {
                if let Some(Some(slot)) = self.slots.get(index)
                    && !(slot.options.no_local && envelope.origin() == self.origin)
                {
                    return Some(Selected {
                        envelope,
                        terms: slot.options.terms(),
                        stored: true,
                        due: None,
                    });
                }
                continue;
            }
            let index = *self.scanning.front()?;
            let mut found = Vec::with_capacity(PAGE);
            let more = match self.slots.get_mut(index) {
                Some(Some(Slot {
                    channel,
                    scan: Some(scan),
                    ..
                })) => self.hub.retained.page(
                    &channel.filter,
                    scan,
                    self.hub.now_s(),
                    PAGE,
                    &mut found,
                ),
                _ => false,
            };
            if !more {
                self.scanning.pop_front();
                if let Some(Some(slot)) = self.slots.get_mut(index) {
                    slot.scan = None;
                }
            }
            self.page
                .extend(found.into_iter().map(|envelope| (index, envelope)));
        }
    }

    /// Whether retained messages are still to be sent.
    pub(crate) fn has_retained(&self) -> bool {
        !self.page.is_empty() || !self.scanning.is_empty()
    }

    /// Takes a live message from the router: counts what the log lost, and drops what is not for this subscriber.
    pub(crate) fn take(
        &mut self,
        index: usize,
        offset: u64,
        envelope: Envelope,
    ) -> Option<Selected> {
        let slot = self.slots.get_mut(index)?.as_mut()?;
        if let Some(expected) = slot.next_offset
            && offset > expected
        {
            let lost = offset - expected;
            self.hub.counters.lost_slow_subscriber.add(lost);
            slot.reader.jumped(&slot.channel);
            warn!(filter = %slot.channel.filter, lost, "a subscriber was too slow and lost messages");
        }
        slot.next_offset = Some(offset + 1);
        let weight = slot.channel.log.weight(envelope.body.len());
        let own = slot.options.no_local && envelope.origin() == self.origin;
        // A log may hold messages for the filter that it was lent to before.
        if own || !topic::matches(&slot.channel.filter, envelope.topic_str()) {
            slot.reader.done(&slot.channel, weight);
            return None;
        }
        Some(Selected {
            envelope,
            terms: slot.options.terms(),
            stored: false,
            due: Some(Due {
                slot: index,
                serial: slot.serial,
                weight,
            }),
        })
    }

    /// Reports that a message needs no more room: publishers that wait for this subscriber may go on.
    pub(crate) fn done(&mut self, due: Due) {
        if let Some(Some(slot)) = self.slots.get(due.slot)
            && slot.serial == due.serial
        {
            slot.reader.done(&slot.channel, due.weight);
        }
    }

    /// Has publishers wait for this subscriber, whose queue fills, or no longer.
    pub(crate) fn press(&self, pressed: bool) {
        for slot in self.slots.iter().flatten() {
            slot.reader.press(&slot.channel, pressed);
        }
    }

    /// Whether publishers of some filter have given up waiting for this subscriber, so that its log may soon go on
    /// without it.
    pub(crate) fn is_slow(&self) -> bool {
        let mut slots = self.slots.iter().flatten();
        slots.any(|slot| slot.reader.is_slow())
    }

    /// The filters that are subscribed.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_filter.keys()
    }

    /// Ends all subscriptions and gives the link back to the router once it has drained.
    pub(crate) async fn close(mut self, mut link: RouterLink) {
        for slot in self.slots.drain(..).flatten() {
            link.queue_unsubscribe(&slot.channel.log);
            self.hub.subscriptions.detach(&slot.channel, &slot.reader);
        }
        link.queue_fence();
        let drained = async {
            link.flush()?;
            while !matches!(link.next().await?, Incoming::Fence) {}
            Ok::<_, crate::router::RouterGone>(())
        };
        if let Ok(Ok(())) = tokio::time::timeout(RECYCLE_TIMEOUT, drained).await {
            self.hub.router.release(link);
        } else {
            self.hub.counters.links_abandoned.bump();
            warn!("a router link did not drain and is given up");
        }
    }
}

impl Drop for Inbox {
    /// After [`Inbox::close`] there is nothing left; after a panic, no publisher must wait for this subscriber.
    fn drop(&mut self) {
        for slot in self.slots.drain(..).flatten() {
            self.hub.subscriptions.detach(&slot.channel, &slot.reader);
        }
    }
}
