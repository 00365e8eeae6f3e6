//! Retained messages on their way to one subscriber, fetched page by page.

use super::{Due, Inbox, Selected};
use crate::{message::Envelope, retained::Scan};
use std::collections::VecDeque;

/// Retained messages fetched from the store at a time.
const PAGE: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Subscriptions whose retained messages are still to be sent.
    scanning: VecDeque<(usize, Scan)>,
    page: VecDeque<(usize, Envelope)>,
}

impl Replay {
    pub(super) fn forget(&mut self, key: usize) {
        self.page.retain(|(owner, _)| *owner != key);
        self.scanning.retain(|(owner, _)| *owner != key);
    }
}

impl Inbox {
    /// Begins to send the retained messages of a subscription, anew if it is at it already. Shared subscriptions get
    /// none (MQTT 5, section 4.8.2).
    pub(crate) fn send_retained(&mut self, key: usize) {
        let Some(slot) = self.find(key).filter(|slot| slot.seat.group.is_none()) else {
            return;
        };
        let key = slot.key;
        let scan = self.hub.retained.scan();
        let scanning = &mut self.replay.scanning;
        match scanning.iter_mut().find(|(owner, _)| *owner == key) {
            Some((_, running)) => *running = scan,
            None => scanning.push_back((key, scan)),
        }
    }

    /// The next retained message that is due.
    pub(crate) fn next_retained(&mut self) -> Option<Selected> {
        loop {
            if let Some((key, envelope)) = self.replay.page.pop_front() {
                let own = envelope.origin() == self.subscriber.id;
                if let Some(terms) = self.find(key).and_then(|slot| slot.terms(own)) {
                    return Some(Selected {
                        envelope,
                        terms,
                        stored: true,
                        due: Due::none(),
                    });
                }
                continue;
            }
            let (key, mut scan) = self.replay.scanning.pop_front()?;
            let Some(slot) = self.find(key) else {
                continue;
            };
            let mut found = Vec::with_capacity(PAGE);
            let now_s = self.hub.now_s();
            let more = self
                .hub
                .retained
                .page(slot.filter(), &mut scan, now_s, PAGE, &mut found);
            if more {
                self.replay.scanning.push_front((key, scan));
            }
            let owned = found.into_iter().map(|envelope| (key, envelope));
            self.replay.page.extend(owned);
        }
    }

    /// Whether retained messages are still to be sent.
    pub(crate) fn has_retained(&self) -> bool {
        !self.replay.page.is_empty() || !self.replay.scanning.is_empty()
    }
}
