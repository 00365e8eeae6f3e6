//! What lives as long as one connection of a session.

use super::{
    End,
    aliases::{Given, Name, Taken},
    connect::Will,
    queue::Outgoing,
    wire::Wire,
};
use crate::{
    codec::{self, Delivery, Version, reason},
    hub::Hub,
    message::QoS,
};
use std::time::{Duration, Instant};
use tracing::Span;

pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) version: Version,
    pub(super) will: Option<Will>,
    pub(super) keep_alive: Option<Duration>,
    /// The longest packet that the client accepts.
    pub(super) packet_size_max: usize,
    /// QoS 1 and 2 messages that may be under way to the client.
    pub(super) window: usize,
    pub(super) given: Given,
    pub(super) taken: Taken,
    /// Whether the client asked for its session to be kept, so that it may still change for how long.
    pub(super) asked_to_stay: bool,
    /// Complete packets may wait in the read buffer.
    pub(super) unread: bool,
    pub(super) last_heard: Instant,
    pub(super) span: Span,
}

/// Why a message was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    Expired,
    TooLong(usize),
}

impl Connection {
    /// Makes a message ready for the client, with this packet id if it is not of QoS 0.
    pub(super) fn put(
        &mut self,
        outgoing: &Outgoing,
        packet_id: u16,
        dup: bool,
        hub: &Hub,
    ) -> Result<(), Unsent> {
        let envelope = &outgoing.envelope;
        let left = |deadline: u32| deadline.saturating_sub(hub.now_s());
        let expiry_s = envelope.deadline().map(left);
        // What the client may have got before is sent again whatever its age: only it can end the delivery.
        if expiry_s == Some(0) && !dup {
            return Err(Unsent::Expired);
        }
        let topic = envelope.topic();
        let (properties, payload) = envelope.contents();
        let name = self.taken.name(topic);
        let delivery = Delivery {
            topic: if let Name::Alias(_) = name {
                b""
            } else {
                topic
            },
            topic_alias: match name {
                Name::Topic => None,
                Name::Both(alias) | Name::Alias(alias) => Some(alias),
            },
            qos: outgoing.qos,
            dup: dup && outgoing.qos != QoS::AtMostOnce,
            retain: outgoing.retain,
            packet_id,
            properties,
            expiry_s,
            subscription_ids: outgoing.ids.as_slice(),
            payload,
        };
        let size = delivery.packet_len(self.version);
        if size > self.packet_size_max {
            return Err(Unsent::TooLong(size));
        }
        codec::put_publish(&mut self.wire.out, self.version, &delivery);
        if let Name::Both(alias) = name {
            self.taken.sent(topic, alias);
        }
        Ok(())
    }

    /// Whether the client takes an answer with so many codes, which must be whole or not be sent (MQTT 5, section 3.1.2.11.4).
    pub(super) fn takes_codes(&self, count: usize) -> Result<(), End> {
        if codec::codes_packet_len(count) <= self.packet_size_max {
            Ok(())
        } else {
            Err(End::Rejected(reason::TOO_LARGE))
        }
    }

    /// Says goodbye, if there is something to say, and closes: in bounded time and beside what the session does next.
    /// `kept` is held until then: the new connection's handshake place, so that sockets stay bounded.
    pub(super) fn close(mut self, code: Option<u8>, hub: &Hub, kept: impl Send + 'static) {
        let Some(code) = code else { return };
        codec::put_disconnect(&mut self.wire.out, self.version, code);
        hub.tasks.spawn(async move {
            self.wire.close().await;
            drop(kept);
        });
    }
}
