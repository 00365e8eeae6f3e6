//! The way into the broker, for clients and links alike: topic rules, retained store, logs, and the brake.

use crate::{
    auth::Access,
    hub::Hub,
    message::{Draft, Envelope, Head},
    retained::Kept,
    router::{BACKLOG_MAX, RouterLink},
    subscriptions::{Channel, HOLD_MAX, Routes},
    topic,
};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tracing::debug;

/// How often a publisher that is held looks again, whatever it is told.
const HOLD_POLL: Duration = Duration::from_millis(1);

/// Topics whose routes one publisher remembers. A gateway's sensors publish to fewer; beyond it forgets and looks again.
const ROUTES_MAX: usize = 512;

#[derive(Debug)]
pub(crate) struct Publisher {
    hub: Arc<Hub>,
    access: Access,
    origin: u32,
    /// The least stamp of what is queued and not flushed.
    announced: Arc<AtomicU64>,
    routes: HashMap<Box<str>, Route>,
    /// Channels with readers that this publisher waits for.
    lagging: Vec<Arc<Channel>>,
    held_since: Option<Instant>,
}

#[derive(Debug)]
struct Route {
    allowed: bool,
    head: Head,
    /// The stamp in `head`.
    stamp: u64,
    routes: Routes,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It went to this many subscribed filters and groups.
    Accepted {
        filters: usize,
        kept: Option<Kept>,
    },
    Denied,
    InvalidTopic,
}

impl Publisher {
    pub(crate) fn new(hub: Arc<Hub>, access: Access, origin: u32) -> Self {
        Self {
            announced: hub.subscriptions.register_publisher(),
            hub,
            access,
            origin,
            routes: HashMap::new(),
            lagging: Vec::new(),
            held_since: None,
        }
    }

    pub(crate) fn origin(&self) -> u32 {
        self.origin
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Replaces what this publisher may do.
    pub(crate) fn set_access(&mut self, access: Access) {
        self.access = access;
        self.routes.clear();
    }

    /// Queues a publication on `link`, which is always the same; the caller flushes it before it waits for anything.
    pub(crate) fn publish(
        &mut self,
        link: &mut RouterLink,
        name: &str,
        draft: &Draft<'_>,
    ) -> Published {
        link.announce(|| self.hub.subscriptions.announce(&self.announced));
        // In this order: a message's stamp says that the subscriptions in force by then were seen.
        let stamp = self.hub.subscriptions.stamp();
        let generation = self.hub.subscriptions.generation();
        if self
            .routes
            .get(name)
            .is_none_or(|route| route.routes.generation != generation)
            && !self.learn(name)
        {
            return Published::InvalidTopic;
        }
        let Some(route) = self.routes.get_mut(name) else {
            return Published::InvalidTopic;
        };
        if route.stamp != stamp {
            route.stamp = stamp;
            route.head = Head::new(self.origin, stamp, name);
        }
        if !route.allowed {
            self.hub.counters.denied_publishes.bump();
            debug!(topic = name, "publication denied");
            return Published::Denied;
        }
        let envelope = draft.seal(&route.head);
        // First the store, then the log: a subscriber that begins in between sees the message twice rather than never.
        let kept = draft.retain.then(|| self.hub.keep(envelope.clone()));
        let mut filters = route.routes.channels.len();
        for channel in &route.routes.channels {
            count(&mut self.lagging, channel, &envelope);
            link.queue_publish(&channel.log, &envelope);
        }
        for group in &route.routes.groups {
            if let Some((channel, hold)) = group.pick(None) {
                filters += 1;
                count(&mut self.lagging, &channel, &envelope);
                link.queue_held(hold, &envelope);
            }
        }
        Published::Accepted { filters, kept }
    }

    /// Looks the topic up; false if it is not a topic.
    fn learn(&mut self, name: &str) -> bool {
        if !topic::is_topic(name) {
            return false;
        }
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let routes = self.hub.subscriptions.route(name);
        if let Some(route) = self.routes.get_mut(name) {
            route.routes = routes;
            return true;
        }
        let stamp = 0;
        let route = Route {
            allowed: self.access.may_publish(name),
            head: Head::new(self.origin, stamp, name),
            stamp,
            routes,
        };
        self.routes.insert(name.into(), route);
        true
    }

    /// Waits for a moment at which asking [`Publisher::is_held`] again makes sense.
    pub(crate) async fn wait(&self) {
        wait_for(self.awaited()).await;
    }

    /// The channel with a lagging reader, if that is what this publisher is held for.
    pub(crate) fn awaited(&self) -> Option<Arc<Channel>> {
        self.lagging.first().map(Arc::clone)
    }

    /// Whether a subscriber lags behind what was published just now: no more should be added before
    /// [`Publisher::is_held`] has been asked.
    pub(crate) fn sees_lag(&self) -> bool {
        !self.lagging.is_empty()
    }

    /// Whether this publisher must wait before it publishes more: for the router to fetch what it was given, or for a
    /// subscriber that is catching up.
    pub(crate) fn is_held(&mut self, link: &RouterLink) -> bool {
        if self.lagging.is_empty() && link.backlog() < BACKLOG_MAX {
            self.held_since = None;
            return false;
        }
        self.lagging.retain(|channel| channel.still_lags());
        let behind = link.backlog() >= BACKLOG_MAX;
        if self.lagging.is_empty() {
            self.held_since = None;
            return behind;
        }
        if self.held_since.get_or_insert_with(Instant::now).elapsed() >= HOLD_MAX {
            for channel in self.lagging.drain(..) {
                let marked = channel.mark_slow();
                self.hub.counters.slow_subscribers.add(marked);
                debug!(filter = %channel.filter, marked, "subscribers are too slow to be waited for");
            }
            self.held_since = None;
            return behind;
        }
        true
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.hub.subscriptions.forget_publisher(&self.announced);
    }
}

/// Counts a message that goes into a channel, and notes the channel if its readers lag.
fn count(lagging: &mut Vec<Arc<Channel>>, channel: &Arc<Channel>, envelope: &Envelope) {
    if channel.count(envelope) && !lagging.iter().any(|known| Arc::ptr_eq(known, channel)) {
        lagging.push(Arc::clone(channel));
    }
}

/// Waits for room in a channel or, what else a publisher may be held for, for the router's next turns.
pub(crate) async fn wait_for(channel: Option<Arc<Channel>>) {
    let again = tokio::time::sleep(HOLD_POLL);
    match channel {
        None => again.await,
        Some(channel) => tokio::select! {
            () = channel.room() => {}
            () = again => {}
        },
    }
}
