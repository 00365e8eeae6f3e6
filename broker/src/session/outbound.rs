//! Messages to the client.

use super::{Session, wire::OUT_HIGH};
use crate::{
    codec::{self, Delivery},
    inbox::Selected,
    message::QoS,
    router::Incoming,
};
use tracing::debug;

impl Session {
    /// Whether another message may be made ready for the client.
    pub(super) fn has_room(&self) -> bool {
        self.wire.out.len() < OUT_HIGH && self.inflight.len() < self.window
    }

    /// Makes retained messages ready that are due.
    pub(super) fn send_retained(&mut self) {
        if !self.inbox.has_retained() {
            return;
        }
        while self.has_room() {
            match self.inbox.next_retained() {
                Some(selected) => self.deliver(&selected),
                None => break,
            }
        }
        self.hub
            .counters
            .messages_out
            .add(std::mem::take(&mut self.delivered));
    }

    pub(super) fn on_incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Message {
                slot,
                offset,
                envelope,
            } => {
                if let Some(selected) = self.inbox.take(&mut self.link, slot, offset, envelope) {
                    self.deliver(&selected);
                    self.inbox.done(&selected.due);
                }
            }
            Incoming::Subscribed => self.on_subscribed(),
            Incoming::Fence => {}
        }
    }

    fn deliver(&mut self, selected: &Selected) {
        let Selected {
            envelope,
            terms,
            stored,
            due: _,
        } = selected;
        let expiry_s = match envelope.deadline() {
            None => None,
            Some(deadline) => match deadline.saturating_sub(self.hub.now_s()) {
                0 => {
                    self.hub.counters.expired.bump();
                    return;
                }
                left => Some(left),
            },
        };
        let mut delivery = Delivery {
            topic: envelope.topic(),
            qos: envelope.qos().min(terms.qos),
            // Live messages carry no retain flag unless the subscription asks for it (MQTT 5, section 3.3.1.3).
            retain: *stored || (terms.retain_as_published && envelope.retain()),
            packet_id: 0,
            properties: envelope.properties(),
            expiry_s,
            subscription_ids: terms.ids.as_slice(),
            payload: envelope.payload(),
        };
        let size = delivery.packet_len(self.version);
        if size > self.packet_size_max {
            self.hub.counters.dropped_oversize.bump();
            debug!(
                size,
                limit = self.packet_size_max,
                "a message is longer than the client accepts"
            );
            return;
        }
        if delivery.qos != QoS::AtMostOnce {
            delivery.packet_id = self.next_id();
        }
        codec::put_publish(&mut self.wire.out, self.version, &delivery);
        self.delivered += 1;
    }

    /// A packet id that is not under way: the window is smaller than the number of ids, so that there is one.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.inflight.insert(self.last_id) {
                return self.last_id;
            }
        }
    }
}
