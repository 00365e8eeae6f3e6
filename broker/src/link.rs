//! Links: clients inside this process. They are trusted (no rule applies), and a message costs them no socket.

use crate::{
    auth::Access,
    codec::properties,
    hub::Hub,
    inbox::{Inbox, Options, Selected, Subscribed},
    message::{Draft, Message, Publish, QoS},
    publisher::{self, Published, Publisher},
    router::{Incoming, RouterLink},
    topic,
};
use bytes::BytesMut;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};
use thiserror::Error;

/// How long a link waits for a router that does not move. Only a router that has died takes so long.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Publications handed to the router at a time: half of what may wait there, so that two batches overlap.
const BATCH: usize = 256;

/// Why a link could not do what it was asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The broker has been stopped.
    #[error("the broker has stopped")]
    Stopped,
    /// All links are in use.
    #[error("all {0} links of the broker are in use; raise limits.links_max")]
    TooManyLinks(usize),
    /// The topic is empty or has a wildcard.
    #[error("{0:?} is not a topic: it must not be empty and has no + and no #")]
    InvalidTopic(String),
    /// The filter is malformed.
    #[error(
        "{0:?} is not a topic filter: + fills a whole level, # only the last one; shared is $share/NAME/FILTER"
    )]
    InvalidFilter(String),
    /// No Local was asked for with a shared subscription.
    #[error("{0:?} is a shared subscription, which MQTT allows no option no_local for")]
    SharedNoLocal(String),
    /// The payload is longer than the broker's limit.
    #[error("a payload of {size} bytes exceeds limits.payload_bytes_max, which is {limit}")]
    PayloadTooLarge {
        /// The payload's length.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A property does not fit into MQTT's format.
    #[error("a property of {size} bytes is longer than the 65,535 bytes that MQTT allows")]
    PropertyTooLarge {
        /// The property's length.
        size: usize,
    },
    /// A limit on filters was reached.
    #[error(
        "no room for the filter {0:?}; raise limits.filters_max or limits.filters_per_client_max"
    )]
    TooManyFilters(String),
}

/// A client inside this process, to be split into its two halves.
#[derive(Debug)]
pub struct Link {
    publisher: LinkPublisher,
    receiver: LinkReceiver,
}

impl Link {
    pub(crate) fn new(hub: &Arc<Hub>, client_id: &str) -> Result<Self, LinkError> {
        if hub.stop.is_cancelled() {
            return Err(LinkError::Stopped);
        }
        let origin = hub.next_origin();
        let lane = Lane {
            publisher: Publisher::new(Arc::clone(hub), Access::trusted(), origin),
            link: Lease::take(hub)?,
            scratch: BytesMut::new(),
        };
        let name: Arc<str> = client_id.into();
        let publisher = LinkPublisher {
            hub: Arc::clone(hub),
            name: Arc::clone(&name),
            lane: Arc::new(Mutex::new(lane)),
        };
        let receiver = LinkReceiver {
            name,
            inbox: Some(Inbox::new(Arc::clone(hub), origin, false)),
            link: Lease::take(hub)?,
            early: VecDeque::new(),
            hub: Arc::clone(hub),
            last_topic: None,
        };
        Ok(Self {
            publisher,
            receiver,
        })
    }

    /// Parts the link. The publisher can be cloned; each half ends by being dropped.
    pub fn split(self) -> (LinkPublisher, LinkReceiver) {
        (self.publisher, self.receiver)
    }
}

/// A router link of this process, counted, and given back when dropped.
struct Lease {
    hub: Arc<Hub>,
    link: Option<RouterLink>,
}

impl Lease {
    fn take(hub: &Arc<Hub>) -> Result<Self, LinkError> {
        let max = hub.limits.links_max;
        let room = |count: usize| (count < max).then_some(count + 1);
        hub.links
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .map_err(|_| LinkError::TooManyLinks(max))?;
        let mut lease = Self {
            hub: Arc::clone(hub),
            link: None,
        };
        lease.link = Some(
            hub.router
                .link()
                .map_err(|_| LinkError::TooManyLinks(max))?,
        );
        Ok(lease)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.hub.links.fetch_sub(1, Ordering::Relaxed);
        if let Some(link) = self.link.take() {
            self.hub.router.release(link);
        }
    }
}

/// Publishes into the broker. Clones share one place in the order of messages.
#[derive(Debug, Clone)]
pub struct LinkPublisher {
    hub: Arc<Hub>,
    name: Arc<str>,
    lane: Arc<Mutex<Lane>>,
}

#[derive(Debug)]
struct Lane {
    publisher: Publisher,
    link: Lease,
    scratch: BytesMut,
}

impl LinkPublisher {
    /// The name that was given to the link.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number under which its messages are known to be its own.
    pub(crate) fn origin(&self) -> u32 {
        self.lock().publisher.origin()
    }

    /// Publishes a message. It waits while subscribers that keep pace are catching up, at most a quarter of a second
    /// at a time; when it returns, the message is on its way to all subscribers and, if retained, kept.
    ///
    /// # Errors
    /// If the broker has stopped, or the message breaks a limit: then nothing was published.
    pub async fn publish(&self, publish: Publish) -> Result<(), LinkError> {
        self.publish_many(std::iter::once(publish)).await
    }

    /// Publishes messages in their order, handing many to the router at once.
    ///
    /// # Errors
    /// As [`LinkPublisher::publish`]; the messages before the one that breaks a limit have been published.
    pub async fn publish_many(
        &self,
        publications: impl IntoIterator<Item = Publish>,
    ) -> Result<(), LinkError> {
        let mut publications = publications.into_iter().peekable();
        while publications.peek().is_some() {
            self.wait_for_room().await?;
            let mut lane = self.lock();
            let mut outcome = Ok(());
            for publish in publications.by_ref().take(BATCH) {
                outcome = lane.publish(&self.hub, &publish);
                if outcome.is_err() || lane.publisher.sees_lag() {
                    break;
                }
            }
            lane.flush()?;
            outcome?;
        }
        Ok(())
    }

    async fn wait_for_room(&self) -> Result<(), LinkError> {
        let since = Instant::now();
        loop {
            if self.hub.stop.is_cancelled() || since.elapsed() > ROUTER_TIMEOUT {
                return Err(LinkError::Stopped);
            }
            let awaited = {
                let mut lane = self.lock();
                if !lane.is_held() {
                    return Ok(());
                }
                lane.publisher.awaited()
            };
            publisher::wait_for(awaited).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn publish(&mut self, hub: &Hub, publish: &Publish) -> Result<(), LinkError> {
        let limit = hub.limits.payload_bytes_max;
        if publish.payload.len() > limit {
            return Err(LinkError::PayloadTooLarge {
                size: publish.payload.len(),
                limit,
            });
        }
        let properties = &publish.properties;
        if let Some(size) =
            properties::longest(properties).filter(|&size| size > usize::from(u16::MAX))
        {
            return Err(LinkError::PropertyTooLarge { size });
        }
        self.scratch.clear();
        properties::encode_publish(properties, &mut self.scratch);
        let expiry_s = properties
            .message_expiry
            .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX));
        let draft = Draft {
            qos: publish.qos,
            retain: publish.retain,
            properties: &self.scratch,
            deadline: hub.deadline(expiry_s),
            payload: &publish.payload,
        };
        let link = self.link.link.as_mut().ok_or(LinkError::Stopped)?;
        match self.publisher.publish(link, &publish.topic, &draft) {
            Published::Accepted { .. } => {
                hub.counters.messages_in.bump();
                let bytes = publish.payload.len() as u64;
                hub.counters.payload_bytes_in.add(bytes);
                Ok(())
            }
            Published::Denied | Published::InvalidTopic => {
                Err(LinkError::InvalidTopic(publish.topic.clone()))
            }
        }
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        let link = self.link.link.as_mut().ok_or(LinkError::Stopped)?;
        link.flush().map_err(|_| LinkError::Stopped)
    }

    fn is_held(&mut self) -> bool {
        self.link
            .link
            .as_ref()
            .is_some_and(|link| self.publisher.is_held(link))
    }
}

/// How a receiver wants the messages of a filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    no_retained: bool,
}

impl SubscribeOptions {
    /// Asks for messages of this quality of service at most.
    pub fn new(qos: QoS) -> Self {
        Self {
            qos,
            ..Self::default()
        }
    }

    /// Leaves out what the publisher of the same link publishes. Not for shared subscriptions.
    #[must_use]
    pub fn no_local(mut self) -> Self {
        self.no_local = true;
        self
    }

    /// Has [`Message::retain`] say of live messages, too, whether they were published as retained.
    #[must_use]
    pub fn retain_as_published(mut self) -> Self {
        self.retain_as_published = true;
        self
    }

    /// Leaves the retained messages out that are there already.
    #[must_use]
    pub fn no_retained(mut self) -> Self {
        self.no_retained = true;
        self
    }
}

/// Receives from the broker what its filters select. A message that several of its filters select comes once, with the
/// greatest of their qualities of service.
///
/// A receiver that reads too slowly loses the oldest messages, counted in
/// [`Stats::lost_slow_subscriber`](crate::Stats::lost_slow_subscriber).
#[derive(Debug)]
pub struct LinkReceiver {
    name: Arc<str>,
    /// `None` only while it is being dropped.
    inbox: Option<Inbox>,
    link: Lease,
    /// Live messages that came while a subscription was waited for: two buffers of the router's at most, since the
    /// router answers a subscription in its next turn.
    early: VecDeque<Selected>,
    hub: Arc<Hub>,
    /// Readings come in runs of one topic: its text is made once.
    last_topic: Option<Arc<str>>,
}

impl LinkReceiver {
    /// The name that was given to the link.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Subscribes to a filter. When it returns, no later message is missed; the retained ones come with the next reads.
    ///
    /// `$share/NAME/FILTER` makes the receiver a member of the group NAME: each message that FILTER selects goes to one
    /// member, link or client. Retained messages are not sent to groups.
    ///
    /// # Errors
    /// If the filter is malformed, a limit on filters is reached, or the broker has stopped.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<(), LinkError> {
        self.subscribe_with(filter, SubscribeOptions::new(qos))
            .await
    }

    /// As [`LinkReceiver::subscribe`], with options.
    ///
    /// # Errors
    /// As [`LinkReceiver::subscribe`], and if `no_local` is asked for with a shared subscription.
    pub async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<(), LinkError> {
        let wanted =
            topic::wanted(filter).ok_or_else(|| LinkError::InvalidFilter(filter.to_owned()))?;
        if options.no_local && wanted.group.is_some() {
            return Err(LinkError::SharedNoLocal(filter.to_owned()));
        }
        let no_retained = options.no_retained;
        let options = Options {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            subscription_id: None,
        };
        let (Some(inbox), Some(link)) = (self.inbox.as_mut(), self.link.link.as_mut()) else {
            return Err(LinkError::Stopped);
        };
        let subscribed = inbox.subscribe(link, filter, &wanted, options);
        link.flush().map_err(|_| LinkError::Stopped)?;
        let key = match subscribed {
            Subscribed::Full => return Err(LinkError::TooManyFilters(filter.to_owned())),
            Subscribed::Again(key) | Subscribed::New(key) => key,
        };
        while self
            .inbox
            .as_ref()
            .is_some_and(|inbox| !inbox.is_confirmed(key))
        {
            let incoming = self.next_incoming().await.ok_or(LinkError::Stopped)?;
            if let Some(selected) = self.accept(incoming) {
                self.early.push_back(selected);
            }
        }
        if let Some(inbox) = self.inbox.as_mut()
            && !no_retained
        {
            inbox.send_retained(key);
        }
        Ok(())
    }

    /// Ends a subscription, given as it was subscribed. Returns false if there was none. What waits for a member of a
    /// group goes to the others with the next reads.
    ///
    /// # Errors
    /// If the broker has stopped.
    pub fn unsubscribe(&mut self, filter: &str) -> Result<bool, LinkError> {
        let (Some(inbox), Some(link)) = (self.inbox.as_mut(), self.link.link.as_mut()) else {
            return Err(LinkError::Stopped);
        };
        let existed = inbox.unsubscribe(link, filter);
        link.flush().map_err(|_| LinkError::Stopped)?;
        Ok(existed)
    }

    /// The next message; `None` once the broker has stopped. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready() {
                self.count(std::slice::from_ref(&message));
                return Some(message);
            }
            let incoming = self.next_incoming().await?;
            if let Some(selected) = self.accept(incoming)
                && let Some(message) = self.hand_out(&selected)
            {
                self.count(std::slice::from_ref(&message));
                return Some(message);
            }
        }
    }

    fn count(&self, messages: &[Message]) {
        let bytes = messages.iter().map(|message| message.payload.len() as u64);
        let counters = &self.hub.counters;
        counters.payload_bytes_out.add(bytes.sum());
        counters.messages_out.add(messages.len() as u64);
    }

    /// Waits for a message and appends it and those that are there with it to `batch`, `max` in all. Returns their
    /// number; 0 once the broker has stopped, or if `max` is 0. Cancel-safe.
    pub async fn recv_many(&mut self, batch: &mut Vec<Message>, max: usize) -> usize {
        if max == 0 {
            return 0;
        }
        let Some(first) = self.recv().await else {
            return 0;
        };
        batch.push(first);
        let from = batch.len();
        let mut count = 1;
        while count < max {
            if let Some(message) = self.try_take() {
                batch.push(message);
                count += 1;
            } else {
                break;
            }
        }
        self.count(batch.get(from..).unwrap_or_default());
        count
    }

    /// A message that is there already.
    fn try_take(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready() {
                return Some(message);
            }
            let incoming = self.link.link.as_mut()?.try_next().ok()??;
            if let Some(selected) = self.accept(incoming)
                && let Some(message) = self.hand_out(&selected)
            {
                return Some(message);
            }
        }
    }

    /// A message that was received before, or a retained one.
    fn ready(&mut self) -> Option<Message> {
        while let Some(selected) = self.early.pop_front() {
            if let Some(message) = self.hand_out(&selected) {
                return Some(message);
            }
        }
        while let Some(selected) = self.inbox.as_mut()?.next_retained() {
            if let Some(message) = self.hand_out(&selected) {
                return Some(message);
            }
        }
        None
    }

    async fn next_incoming(&mut self) -> Option<Incoming> {
        let link = self.link.link.as_mut()?;
        tokio::select! {
            biased;
            () = self.hub.stop.cancelled() => None,
            incoming = link.next() => incoming.ok(),
        }
    }

    fn accept(&mut self, incoming: Incoming) -> Option<Selected> {
        let (inbox, link) = (self.inbox.as_mut()?, self.link.link.as_mut()?);
        match incoming {
            Incoming::Message {
                log,
                offset,
                envelope,
            } => {
                let (terms, due) = inbox.take(link, log, offset, &envelope)?;
                Some(Selected {
                    envelope,
                    terms,
                    stored: false,
                    due,
                })
            }
            Incoming::Subscribed => {
                inbox.confirmed();
                None
            }
            Incoming::Fence => None,
        }
    }

    fn hand_out(&mut self, selected: &Selected) -> Option<Message> {
        let Selected {
            envelope,
            terms,
            stored,
            due,
        } = selected;
        self.inbox.as_mut()?.done(due);
        if envelope
            .deadline()
            .is_some_and(|deadline| deadline <= self.hub.now_s())
        {
            self.hub.counters.expired.bump();
            return None;
        }
        let topic = match &self.last_topic {
            Some(topic) if topic.as_bytes() == envelope.topic() => Arc::clone(topic),
            _ => {
                let topic: Arc<str> = envelope.topic_str().into();
                self.last_topic = Some(Arc::clone(&topic));
                topic
            }
        };
        let (raw_properties, payload) = envelope.parts();
        Some(Message {
            topic,
            payload,
            qos: envelope.qos().min(terms.qos),
            retain: *stored || (terms.retain_as_published && envelope.retain()),
            deadline: envelope.deadline(),
            raw_properties,
        })
    }
}

impl Drop for LinkReceiver {
    fn drop(&mut self) {
        if let (Some(mut inbox), Some(mut link)) = (self.inbox.take(), self.link.link.take()) {
            for Selected { envelope, due, .. } in self.early.drain(..) {
                inbox.give_back(&mut link, &due, &envelope);
            }
            // The runtime may be gone by now; then the process ends too and nothing needs to be given back.
            self.hub
                .tasks
                .spawn_on(inbox.close(link), &self.hub.runtime);
        }
    }
}
