//! Subscriptions that end: what is unread in their logs, and what that means for the others.

use super::{Inbox, Options, Slot};
use crate::{
    message::Envelope,
    router::{Incoming, RouterGone, RouterLink},
    subscriptions::Channel,
};
use std::{sync::Arc, time::Duration};
use tracing::warn;

/// How long a link that is given back may take to drain.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(5);

/// An unsubscribed slot that is read to its mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) mark: u64,
    /// Nothing can come behind the mark.
    pub(super) last: bool,
}

/// An unsubscribed filter as the logs of younger filters see it until they come to their marks.
#[derive(Debug)]
pub(super) struct Ghost {
    pub(super) key: usize,
    pub(super) filter: Arc<str>,
    pub(super) in_force_from: u64,
    /// The mark in the younger logs, `None` as long as there is none.
    pub(super) mark: Option<u64>,
    pub(super) awaited_by: Vec<usize>,
}

impl Inbox {
    /// Ends the slot, at once if nothing depends on what is unread in its log.
    pub(super) fn end(&mut self, link: &mut RouterLink, index: usize) {
        let Some(Some(slot)) = self.slots.get(index) else {
            return;
        };
        let (key, in_force_from) = (slot.key, slot.in_force_from);
        self.replay.forget(key);
        if slot.seat.group.is_some() {
            self.hub.subscriptions.leave(&slot.seat);
            self.mark(link, index);
            return;
        }
        let Some(in_force_from) = in_force_from else {
            return self.remove(link, index);
        };
        let younger: Vec<usize> = self
            .slots
            .iter()
            .flatten()
            .filter(|other| other.in_force_from.is_none_or(|from| from > in_force_from))
            .filter(|other| slot.overlaps(other))
            .map(|other| other.key)
            .collect();
        if younger.is_empty() {
            return self.remove(link, index);
        }
        self.ghosts.push(Ghost {
            key,
            filter: Arc::clone(&slot.channel().filter),
            in_force_from,
            mark: None,
            awaited_by: younger,
        });
        self.mark(link, index);
    }

    /// Queues a mark, the next one, for the log of an ending slot.
    pub(super) fn mark(&mut self, link: &mut RouterLink, index: usize) {
        self.marked += 1;
        let number = self.marked;
        let mark = Envelope::mark(self.subscriber.id, number);
        let Some(Some(slot)) = self.slots.get(index) else {
            return;
        };
        let key = slot.key;
        // What is held or not settled now may come to the router behind the mark.
        let mut last = !slot.channel().log.is_held() && link.is_fetched();
        put(link, slot.channel(), &mark);
        if let Some(at) = self.ghosts.iter().position(|ghost| ghost.key == key) {
            let heirs: Vec<&Slot> = self.ghosts[at]
                .awaited_by
                .iter()
                .filter_map(|&key| self.find(key))
                .collect();
            last = heirs.iter().all(|heir| {
                let settled = |from| self.hub.subscriptions.is_settled(from);
                heir.in_force_from.is_some_and(settled)
            }) && link.is_fetched();
            if last {
                for heir in heirs {
                    put(link, heir.channel(), &mark);
                }
                self.ghosts[at].mark = Some(number);
            }
        }
        if let Some(Some(slot)) = self.slots.get_mut(index) {
            slot.ending = Some(Ending { mark: number, last });
        }
    }

    pub(super) fn remove(&mut self, link: &mut RouterLink, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else {
            return;
        };
        link.queue_unsubscribe(&slot.seat.channel.log);
        for other in self.slots.iter_mut().flatten() {
            if slot.overlaps(other) {
                other.overlaps -= 1;
            }
        }
        self.pass(slot.key, None);
        self.hub.subscriptions.detach(&slot.seat);
    }

    /// Takes an ending slot into use again: its log was read without a gap. Members of groups begin anew.
    pub(super) fn revive(
        &mut self,
        link: &mut RouterLink,
        name: &str,
        options: Options,
    ) -> Option<usize> {
        let index = self.slots.iter().position(|slot| {
            slot.as_ref()
                .is_some_and(|slot| slot.seat.group.is_none() && *slot.name == *name)
        })?;
        let slot = self.slots.get_mut(index)?.as_mut()?;
        slot.ending = None;
        slot.options = options;
        // The router confirms a subscription that it has as it does a new one.
        link.queue_subscribe(&slot.seat.channel.log);
        let key = slot.key;
        self.by_name.insert(Arc::clone(&slot.name), index);
        self.unconfirmed.push_back(key);
        self.ghosts.retain(|ghost| ghost.key != key);
        Some(key)
    }

    /// Counts messages that the log lost before this slot read them; a mark may have been among them.
    ///
    /// Where filters overlap some may have been copies that would have been skipped: the count is an upper bound.
    pub(super) fn jumped(&mut self, link: &mut RouterLink, index: usize, lost: u64) {
        let Some(Some(slot)) = self.slots.get(index) else {
            return;
        };
        self.hub.counters.lost_slow_subscriber.add(lost);
        slot.seat.reader.jumped(slot.channel(), slot.taken_bytes);
        warn!(
            filter = slot.filter(),
            lost, "a subscriber was too slow and lost messages"
        );
        let ending = slot.ending.is_some();
        self.pass(slot.key, None);
        if ending {
            self.mark(link, index);
            self.flush(link);
        }
    }

    pub(super) fn on_mark(&mut self, link: &mut RouterLink, index: usize, mark: &Envelope) {
        let Some(Some(slot)) = self.slots.get(index) else {
            return;
        };
        if mark.origin() != self.subscriber.id {
            return;
        }
        match slot.ending {
            Some(ending) if ending.mark == mark.stamp() => {
                if ending.last {
                    self.remove(link, index);
                } else {
                    self.mark(link, index);
                }
                self.flush(link);
            }
            _ => self.pass(slot.key, Some(mark.stamp())),
        }
    }

    /// Notes that the slot with this key has come to a ghost's mark, or must not rely on any ghost.
    pub(super) fn pass(&mut self, key: usize, mark: Option<u64>) {
        for ghost in &mut self.ghosts {
            if mark.is_none() || mark == ghost.mark {
                ghost.awaited_by.retain(|waiting| *waiting != key);
            }
        }
        self.ghosts.retain(|ghost| !ghost.awaited_by.is_empty());
    }

    /// Ends all subscriptions and gives the link back to the router once it has drained; members of groups pass on what
    /// they find.
    pub(crate) async fn close(mut self, mut link: RouterLink) {
        self.by_name.clear();
        for index in 0..self.slots.len() {
            match &self.slots[index] {
                Some(slot) if slot.seat.group.is_none() => self.remove(&mut link, index),
                Some(slot) if slot.ending.is_none() => self.end(&mut link, index),
                _ => {}
            }
        }
        let drained = tokio::time::timeout(RECYCLE_TIMEOUT, self.drain(&mut link)).await;
        if let Ok(Ok(())) = drained {
            self.hub.router.release(link);
        } else {
            self.hub.counters.links_abandoned.bump();
            warn!("a router link did not drain and is given up");
        }
    }

    async fn drain(&mut self, link: &mut RouterLink) -> Result<(), RouterGone> {
        link.flush()?;
        while self.slots.iter().any(Option::is_some) {
            match link.next().await? {
                Incoming::Message {
                    log,
                    offset,
                    envelope,
                } => {
                    if let Some((_, due)) = self.take(link, log, offset, &envelope) {
                        self.give_back(link, &due, &envelope);
                    }
                }
                Incoming::Subscribed => self.confirmed(),
                Incoming::Fence => {}
            }
        }
        link.queue_fence();
        link.flush()?;
        while !matches!(link.next().await?, Incoming::Fence) {}
        Ok(())
    }
}

fn put(link: &mut RouterLink, channel: &Channel, mark: &Envelope) {
    channel.count(mark);
    link.queue_publish(&channel.log, mark);
}
