//! Retained messages: the last one of each topic, in memory, complete within its caps.

use crate::{config::Limits, message::Envelope, topic};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many topics one page examines: it bounds the time for which the store is locked.
const EXAMINED_PER_PAGE_MAX: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Retained {
    count_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_topic: BTreeMap<Bytes, Entry>,
    bytes: usize,
    /// Messages ever stored: the number of the last one.
    stored: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    envelope: Envelope,
}

/// What became of a retained publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Stored,
    Cleared,
    /// The store is full: the message goes to present subscribers and is not kept.
    Full,
}

/// A walk over the messages that a filter selects. What is stored after its start it leaves out: the subscription it
/// belongs to gets that live.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The last topic examined; `None` before the first page.
    after: Option<Bytes>,
    until: u64,
}

impl Retained {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            count_max: limits.retained_count_max,
            bytes_max: limits.retained_bytes_max,
            state: Mutex::default(),
        }
    }

    /// Stores `envelope` in place of its topic's message; an empty payload clears the topic.
    pub(crate) fn keep(&self, envelope: Envelope, now_s: u32) -> Kept {
        let topic = envelope.topic_bytes();
        let mut state = self.lock();
        if envelope.payload().is_empty() {
            state.remove(&topic);
            return Kept::Cleared;
        }
        let replaced = state
            .by_topic
            .get(&topic)
            .map(|entry| entry.envelope.weight());
        let fits = |state: &State| {
            state.by_topic.len() - usize::from(replaced.is_some()) < self.count_max
                && state.bytes - replaced.unwrap_or(0) + envelope.weight() <= self.bytes_max
        };
        if !fits(&state) {
            state.drop_expired(now_s);
        }
        if !fits(&state) {
            return Kept::Full;
        }
        state.remove(&topic);
        state.bytes += envelope.weight();
        state.stored += 1;
        let number = state.stored;
        state.by_topic.insert(topic, Entry { number, envelope });
        Kept::Stored
    }

    pub(crate) fn scan(&self) -> Scan {
        Scan {
            after: None,
            until: self.lock().stored,
        }
    }

    /// Appends up to `count` messages that `filter` selects to `page`. Returns false once there are no more.
    pub(crate) fn page(
        &self,
        filter: &str,
        scan: &mut Scan,
        now_s: u32,
        count: usize,
        page: &mut Vec<Envelope>,
    ) -> bool {
        let prefix = topic::literal_prefix(filter);
        let from = match &scan.after {
            Some(topic) => Bound::Excluded(topic.clone()),
            None => Bound::Included(Bytes::copy_from_slice(prefix.as_bytes())),
        };
        let state = self.lock();
        let mut taken = 0;
        let range = state.by_topic.range((from, Bound::Unbounded));
        for (examined, (topic, Entry { number, envelope })) in range.enumerate() {
            if !topic.starts_with(prefix.as_bytes()) {
                return false;
            }
            if examined == EXAMINED_PER_PAGE_MAX || taken == count {
                return true;
            }
            scan.after = Some(topic.clone());
            let alive = envelope.deadline().is_none_or(|deadline| deadline > now_s);
            if alive && *number <= scan.until && topic::matches(filter, envelope.topic_str()) {
                page.push(envelope.clone());
                taken += 1;
            }
        }
        false
    }

    /// The number of messages and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.by_topic.len(), state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the lock is given back, a panic included.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, topic: &Bytes) {
        if let Some(old) = self.by_topic.remove(topic) {
            self.bytes -= old.envelope.weight();
        }
    }

    fn drop_expired(&mut self, now_s: u32) {
        let bytes = &mut self.bytes;
        self.by_topic.retain(|_, Entry { envelope, .. }| {
            let alive = envelope.deadline().is_none_or(|deadline| deadline > now_s);
            if !alive {
                *bytes -= envelope.weight();
            }
            alive
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, Retained};
    use crate::{
        config::Limits,
        message::{Draft, Envelope, QoS, tag_topic},
    };

    fn message(topic: &str, payload: &str, deadline: Option<u32>) -> Envelope {
        let draft = Draft {
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: b"",
            deadline,
            payload: payload.as_bytes(),
        };
        let (meta, body) = draft.seal();
        Envelope {
            meta,
            topic: tag_topic(1, 0, topic),
            body,
        }
    }

    fn store(count: usize, bytes: usize) -> Retained {
        Retained::new(&Limits {
            retained_count_max: count,
            retained_bytes_max: bytes,
            ..Limits::default()
        })
    }

    fn all(store: &Retained, filter: &str, now_s: u32) -> Vec<String> {
        let (mut scan, mut page) = (store.scan(), Vec::new());
        while store.page(filter, &mut scan, now_s, 7, &mut page) {}
        page.iter()
            .map(|envelope| envelope.topic_str().to_owned())
            .collect()
    }

    #[test]
    fn a_scan_is_complete_whatever_its_pages() {
        let store = store(20_000, 10_000_000);
        for n in 0..10_000 {
            assert_eq!(
                store.keep(message(&format!("s/{n:05}/v"), "x", None), 0),
                Kept::Stored
            );
        }
        store.keep(message("r", "x", None), 0);
        assert_eq!(all(&store, "#", 0).len(), 10_001);
        assert_eq!(all(&store, "s/+/v", 0).len(), 10_000);
        assert_eq!(all(&store, "s/00042/#", 0), ["s/00042/v"]);
        assert_eq!(all(&store, "r/#", 0), ["r"]);
        assert_eq!(all(&store, "s/00042/v", 0), ["s/00042/v"]);
        assert!(all(&store, "t/#", 0).is_empty());
    }

    #[test]
    fn caps_hold_and_what_is_replaced_or_cleared_gives_room() {
        let store = store(2, 1_000);
        assert_eq!(store.keep(message("a", "1", None), 0), Kept::Stored);
        assert_eq!(store.keep(message("b", "1", Some(5)), 0), Kept::Stored);
        assert_eq!(store.keep(message("c", "1", None), 0), Kept::Full);
        assert_eq!(store.keep(message("a", "22", None), 0), Kept::Stored);
        assert_eq!(
            store.keep(message("c", "1", None), 5),
            Kept::Stored,
            "b has expired"
        );
        assert_eq!(store.keep(message("a", "", None), 5), Kept::Cleared);
        assert_eq!(all(&store, "#", 5), ["c"]);
        assert_eq!(
            store.keep(message("big", &"x".repeat(1_000), None), 5),
            Kept::Full
        );
        assert_eq!(store.size(), (1, "c".len() + 12 + 1));
    }

    #[test]
    fn a_scan_leaves_out_what_came_after_its_start() {
        let store = store(10, 1_000);
        store.keep(message("a", "1", None), 0);
        store.keep(message("b", "1", None), 0);
        let mut scan = store.scan();
        store.keep(message("a", "2", None), 0);
        store.keep(message("c", "1", None), 0);
        let mut page = Vec::new();
        assert!(!store.page("#", &mut scan, 0, 7, &mut page));
        let topics: Vec<_> = page.iter().map(Envelope::topic_str).collect();
        assert_eq!(topics, ["b"]);
    }

    #[test]
    fn an_expired_message_is_not_seen() {
        let store = store(10, 1_000);
        store.keep(message("a", "1", Some(5)), 0);
        assert_eq!(all(&store, "#", 4), ["a"]);
        assert!(all(&store, "#", 5).is_empty());
    }
}
