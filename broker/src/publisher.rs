//! The way into the broker, for clients and links alike: topic rules, retained store, logs, and the brake.

use crate::{
    auth::Access,
    hub::Hub,
    message::{Draft, Envelope, tag_topic},
    retained::Kept,
    router::{BACKLOG_MAX, RouterLink},
    subscriptions::{Channel, HOLD_MAX},
    topic,
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::Arc,
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
    routes: HashMap<Box<str>, Route>,
    /// Channels with readers that this publisher waits for.
    lagging: Vec<Arc<Channel>>,
    held_since: Option<Instant>,
}

#[derive(Debug)]
struct Route {
    allowed: bool,
    tagged: Bytes,
    generation: u64,
    channels: Vec<Arc<Channel>>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It went to this many subscribed filters.
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
            hub,
            access,
            origin,
            routes: HashMap::new(),
            lagging: Vec::new(),
            held_since: None,
        }
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Replaces what this publisher may do.
    pub(crate) fn set_access(&mut self, access: Access) {
        self.access = access;
        self.routes.clear();
    }

    /// Queues a publication on `link`; the caller flushes it.
    pub(crate) fn publish(
        &mut self,
        link: &mut RouterLink,
        name: &str,
        draft: &Draft<'_>,
    ) -> Published {
        let generation = self.hub.subscriptions.generation();
        if self
            .routes
            .get(name)
            .is_none_or(|route| route.generation != generation)
            && !self.learn(name)
        {
            return Published::InvalidTopic;
        }
        let Some(route) = self.routes.get(name) else {
            return Published::InvalidTopic;
        };
        if !route.allowed {
            self.hub.counters.denied_publishes.bump();
            debug!(topic = name, "publication denied");
            return Published::Denied;
        }
        let (meta, body) = draft.seal();
        let envelope = Envelope {
            meta,
            topic: route.tagged.clone(),
            body,
        };
        // First the store, then the log: a subscriber that begins in between sees the message twice rather than never.
        let kept = draft.retain.then(|| self.hub.keep(envelope.clone()));
        for channel in &route.channels {
            if channel.count(&envelope)
                && !self.lagging.iter().any(|known| Arc::ptr_eq(known, channel))
            {
                self.lagging.push(Arc::clone(channel));
            }
            link.queue_publish(&channel.log, &envelope);
        }
        Published::Accepted {
            filters: route.channels.len(),
            kept,
        }
    }

    /// Looks the topic up; false if it is not a topic.
    fn learn(&mut self, name: &str) -> bool {
        if !topic::is_topic(name) {
            return false;
        }
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let (generation, channels) = self.hub.subscriptions.route(name);
        if let Some(route) = self.routes.get_mut(name) {
            route.generation = generation;
            route.channels = channels;
            return true;
        }
        let route = Route {
            allowed: self.access.may_publish(name),
            tagged: tag_topic(self.origin, name),
            generation,
            channels,
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
                debug!(filter = %channel.filter, "subscribers are too slow to be waited for");
                channel.mark_slow();
            }
            self.held_since = None;
            return behind;
        }
        true
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
