//! Retained messages: the last one of each topic, in memory, complete within its caps.
//!
//! With a folder for it, [`disk`] writes what has changed behind the publishers' backs, in the form that [`record`] has.
//! `$SYS` topics are the broker's own: they are kept like others, but neither saved nor counted.

mod disk;
mod record;

pub(crate) use disk::{Disk, Saver};
pub(crate) use record::Now;

use crate::{config::Limits, message::Envelope, topic};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many topics one page examines: it bounds the time for which the store is locked.
const EXAMINED_PER_PAGE_MAX: usize = 1_024;

/// How the topics begin that only the broker publishes.
const SYS_PREFIX: &[u8] = b"$SYS/";

/// Topics of the broker's own that are kept. It publishes about fifty.
const SYS_TOPICS_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Retained {
    count_max: usize,
    bytes_max: usize,
    /// Whether there is a disk to tell of changes.
    saved: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_topic: BTreeMap<Bytes, Entry>,
    /// Messages that count, and their bytes.
    count: usize,
    bytes: usize,
    /// Messages ever stored: the number of the last one.
    stored: u64,
    /// Topics whose record on the disk is not what it should be. A topic without a message is among them only if the
    /// disk has a record of it, so that there are at most as many as there are messages here and records there.
    changed: HashSet<Bytes>,
    /// Topics that are on their way to the disk.
    saving: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    envelope: Envelope,
    /// The disk may have a record of this topic.
    on_disk: bool,
}

/// A topic whose record must be written, or deleted where there is no message.
#[derive(Debug, Clone)]
struct Change {
    topic: Bytes,
    envelope: Option<Envelope>,
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
    pub(crate) fn new(limits: &Limits, saved: bool) -> Self {
        Self {
            count_max: limits.retained_count_max,
            bytes_max: limits.retained_bytes_max,
            saved,
            state: Mutex::default(),
        }
    }

    /// Stores `envelope` in place of its topic's message; an empty payload clears the topic.
    pub(crate) fn keep(&self, envelope: Envelope, now_s: u32) -> Kept {
        let topic = envelope.topic_bytes();
        let mut state = self.lock();
        if envelope.payload().is_empty() {
            let on_disk = state.remove(&topic);
            self.note_change(&mut state, topic, on_disk);
            return Kept::Cleared;
        }
        if !self.fits(&state, &topic, envelope.weight()) {
            self.drop_expired(&mut state, now_s);
        }
        if !self.fits(&state, &topic, envelope.weight()) {
            return Kept::Full;
        }
        let on_disk = state.put(topic.clone(), envelope);
        if self.saved && !is_own(&topic) {
            // A topic that was cleared and still waits has a record to be replaced.
            let waited = !state.changed.insert(topic.clone());
            if let Some(entry) = state.by_topic.get_mut(&topic) {
                entry.on_disk = on_disk.unwrap_or(waited);
            }
        }
        Kept::Stored
    }

    fn fits(&self, state: &State, topic: &Bytes, weight: usize) -> bool {
        let replaced = state.by_topic.get(topic);
        if is_own(topic) {
            let own = state.by_topic.len() - state.count;
            return replaced.is_some() || own < SYS_TOPICS_MAX;
        }
        let replaced_weight = replaced.map_or(0, |entry| entry.envelope.weight());
        // What takes no more room than before fits even where lowered caps left too much behind.
        (replaced.is_some() || state.count < self.count_max)
            && (weight <= replaced_weight
                || state.bytes - replaced_weight + weight <= self.bytes_max)
    }

    /// Notes that a topic has lost its message, if it had one; `on_disk` is what [`State::remove`] said.
    fn note_change(&self, state: &mut State, topic: Bytes, on_disk: Option<bool>) {
        match on_disk {
            Some(true) if self.saved => drop(state.changed.insert(topic)),
            // The disk never heard of it and need not.
            Some(false) => drop(state.changed.remove(&topic)),
            // Nothing was there: if the topic waits, a record is to be deleted.
            Some(true) | None => {}
        }
    }

    fn drop_expired(&self, state: &mut State, now_s: u32) {
        let expired: Vec<Bytes> = state
            .by_topic
            .iter()
            .filter(|(_, entry)| !is_alive(&entry.envelope, now_s))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in expired {
            let on_disk = state.remove(&topic);
            self.note_change(state, topic, on_disk);
        }
    }

    /// Puts back a message that the disk had. The caps do not apply: it was within them when it was stored, and caps
    /// that were lowered keep out what is new.
    fn restore(&self, envelope: Envelope) {
        let topic = envelope.topic_bytes();
        let mut state = self.lock();
        state.put(topic.clone(), envelope);
        if let Some(entry) = state.by_topic.get_mut(&topic) {
            entry.on_disk = true;
        }
    }

    /// Notes topics whose records are to be deleted unless there are messages for them.
    fn note_strays(&self, topics: impl IntoIterator<Item = Bytes>) {
        self.lock().changed.extend(topics);
    }

    /// Notes that the disk may hold anything: `topics` are there, and every message is to be written anew.
    fn note_unknown(&self, topics: impl IntoIterator<Item = Bytes>) {
        let mut state = self.lock();
        let State {
            by_topic, changed, ..
        } = &mut *state;
        changed.extend(topics);
        for (topic, entry) in by_topic.iter_mut().filter(|(topic, _)| !is_own(topic)) {
            entry.on_disk = true;
            changed.insert(topic.clone());
        }
    }

    /// Takes all topics whose records must be written. They count as unsaved until [`Retained::saved`].
    fn take_changed(&self) -> VecDeque<Bytes> {
        let mut state = self.lock();
        let topics: VecDeque<Bytes> = std::mem::take(&mut state.changed).into_iter().collect();
        state.saving = topics.len();
        topics
    }

    /// Takes what the next of `topics` have now: at most `count`, and at most one message over `bytes`.
    fn next_changes(
        &self,
        topics: &mut VecDeque<Bytes>,
        count: usize,
        bytes: usize,
    ) -> Vec<Change> {
        let mut state = self.lock();
        let mut weight = 0;
        let mut changes = Vec::new();
        while changes.len() < count && weight <= bytes {
            let Some(topic) = topics.pop_front() else {
                break;
            };
            let envelope = state.by_topic.get_mut(&topic).map(|entry| {
                entry.on_disk = true;
                entry.envelope.clone()
            });
            weight += topic.len() + envelope.as_ref().map_or(0, Envelope::weight);
            changes.push(Change { topic, envelope });
        }
        changes
    }

    /// Notes that the records of this many topics are written.
    fn saved(&self, count: usize) {
        let mut state = self.lock();
        state.saving = state.saving.saturating_sub(count);
    }

    /// Takes back topics that were taken and whose records were not written.
    fn not_saved(&self, topics: impl Iterator<Item = Bytes>) {
        let mut state = self.lock();
        state.saving = 0;
        for topic in topics {
            // A message that came meanwhile may replace a record: whether it does is not known.
            if let Some(entry) = state.by_topic.get_mut(&topic) {
                entry.on_disk = true;
            }
            state.changed.insert(topic);
        }
    }

    /// Topics whose records are not what they should be.
    pub(crate) fn unsaved(&self) -> usize {
        let state = self.lock();
        state.changed.len() + state.saving
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
        for (examined, (topic, entry)) in range.enumerate() {
            let Entry {
                number, envelope, ..
            } = entry;
            if !topic.starts_with(prefix.as_bytes()) {
                return false;
            }
            if examined == EXAMINED_PER_PAGE_MAX || taken == count {
                return true;
            }
            scan.after = Some(topic.clone());
            if is_alive(envelope, now_s)
                && *number <= scan.until
                && topic::matches(filter, envelope.topic_str())
            {
                page.push(envelope.clone());
                taken += 1;
            }
        }
        false
    }

    /// The number of messages and their bytes, without the broker's own.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.count, state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the lock is given back, a panic included.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts a message in place of its topic's. Says whether there was one, and whether the disk may have it.
    fn put(&mut self, topic: Bytes, envelope: Envelope) -> Option<bool> {
        let before = self.remove(&topic);
        if !is_own(&topic) {
            self.count += 1;
            self.bytes += envelope.weight();
        }
        self.stored += 1;
        let entry = Entry {
            number: self.stored,
            envelope,
            on_disk: false,
        };
        self.by_topic.insert(topic, entry);
        before
    }

    /// Removes a topic's message. Says whether there was one, and whether the disk may have it.
    fn remove(&mut self, topic: &Bytes) -> Option<bool> {
        let old = self.by_topic.remove(topic)?;
        if !is_own(topic) {
            self.count -= 1;
            self.bytes -= old.envelope.weight();
        }
        Some(old.on_disk)
    }
}

/// Whether a topic is the broker's own.
fn is_own(topic: &Bytes) -> bool {
    topic.starts_with(SYS_PREFIX)
}

fn is_alive(envelope: &Envelope, now_s: u32) -> bool {
    envelope.deadline().is_none_or(|deadline| deadline > now_s)
}

#[cfg(test)]
mod tests;
