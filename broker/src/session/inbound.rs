//! Packets from the client.

use super::{
    End, Session,
    aliases::Refused,
    connect::{RECEIVE_MAXIMUM, expiry_max_s},
    connection::Connection,
    inflight::Awaits,
    wire::{self, OUT_HIGH},
};
use crate::{
    auth::Reading,
    codec::{self, DecodeError, Framed, Packet, PublishPacket, SubscribeFilter, Version, reason},
    inbox::{Options, Subscribed},
    message::{Draft, QoS},
    publisher::Published,
    topic::{self, Wanted},
};
use bytes::BytesMut;
use tracing::debug;

/// Publications between two looks at whether the publisher must wait.
const HOLD_CHECK: usize = 128;

/// A SUBSCRIBE whose filters are not all in force yet.
pub(super) struct PendingSubAck {
    packet_id: u16,
    codes: Vec<u8>,
    /// Filters that the router has still to confirm.
    waiting: usize,
    /// Slots whose retained messages are due after the SUBACK.
    retained: Vec<usize>,
    /// The connection that awaits it is still there.
    wanted: bool,
}

impl PendingSubAck {
    /// Notes that the connection that awaits it has ended.
    pub(super) fn orphan(&mut self) {
        self.wanted = false;
    }
}

impl Session {
    /// Deals with the complete packets in the read buffer, as far as answers fit and the publisher need not wait.
    pub(super) fn process_input(&mut self, conn: &mut Connection) -> Result<(), End> {
        let mut input = std::mem::take(&mut conn.wire.input);
        let (consumed, outcome) = self.process(conn, &input);
        wire::consumed(&mut input, consumed);
        conn.wire.input = input;
        let flushed = self.link.flush();
        let counters = &self.hub.counters;
        self.taken_in
            .settle(&counters.messages_in, &counters.payload_bytes_in);
        outcome?;
        flushed?;
        self.held = self.publisher.is_held(&self.link);
        Ok(())
    }

    fn process(&mut self, conn: &mut Connection, input: &BytesMut) -> (usize, Result<(), End>) {
        let limit = self.hub.limits.packet_bytes_max();
        let mut at = 0;
        let mut packets = 0;
        loop {
            packets += 1;
            if conn.wire.out.len() >= OUT_HIGH || packets > HOLD_CHECK || self.publisher.sees_lag()
            {
                conn.unread = true;
                return (at, Ok(()));
            }
            let frame = match codec::frame(&input[at..], limit) {
                Ok(Framed::Complete(frame)) => frame,
                Ok(Framed::Partial(_)) => {
                    conn.unread = false;
                    return (at, Ok(()));
                }
                Err(error) => return (at, Err(End::Refused(error))),
            };
            let done = codec::decode(&frame, conn.version)
                .map_err(End::Refused)
                .and_then(|packet| self.on_packet(conn, packet));
            at += frame.length;
            if let Err(end) = done {
                return (at, Err(end));
            }
        }
    }

    fn on_packet(&mut self, conn: &mut Connection, packet: Packet<'_>) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => return self.on_publish(conn, &publish),
            Packet::PubAck(packet_id) => {
                if !self.inflight.end(packet_id, Awaits::Ack) {
                    debug!(packet_id, "an acknowledgement of nothing");
                }
            }
            Packet::PubRec { packet_id, refused } => self.on_pubrec(conn, packet_id, refused),
            Packet::PubRel(packet_id) => {
                let known = self.received.remove(&packet_id);
                put_answer(conn, 0x70, packet_id, known);
            }
            Packet::PubComp(packet_id) => {
                if !self.inflight.end(packet_id, Awaits::Comp) {
                    debug!(packet_id, "a completion of nothing");
                }
            }
            Packet::Subscribe {
                packet_id,
                subscription_id,
                filters,
            } => {
                return self.on_subscribe(conn, packet_id, subscription_id, &filters);
            }
            Packet::Unsubscribe { packet_id, filters } => {
                conn.takes_codes(filters.len())?;
                let mut codes = Vec::with_capacity(filters.len());
                for filter in filters {
                    let existed = self.inbox.unsubscribe(&mut self.link, filter);
                    codes.push(if existed {
                        reason::SUCCESS
                    } else {
                        reason::NO_SUBSCRIPTION
                    });
                }
                codec::put_unsuback(&mut conn.wire.out, conn.version, packet_id, &codes);
            }
            Packet::PingReq => codec::put_pingresp(&mut conn.wire.out),
            Packet::Disconnect {
                with_will,
                session_expiry_s,
            } => return Err(self.on_disconnect(conn, with_will, session_expiry_s)),
        }
        Ok(())
    }

    fn on_pubrec(&mut self, conn: &mut Connection, packet_id: u16, refused: bool) {
        if refused {
            // The delivery ends here (MQTT 5, section 4.3.3).
            if !self.inflight.end(packet_id, Awaits::Rec) {
                debug!(packet_id, "a refusal of nothing");
            }
            return;
        }
        let known = self.inflight.received(packet_id);
        put_answer(conn, 0x62, packet_id, known);
    }

    fn on_disconnect(
        &mut self,
        conn: &Connection,
        with_will: bool,
        session_expiry_s: Option<u32>,
    ) -> End {
        if let Some(seconds) = session_expiry_s {
            // What was to end with its connection cannot be kept after all (MQTT 5, section 3.14.2.2.2).
            if seconds > 0 && !conn.asked_to_stay {
                return End::Rejected(reason::PROTOCOL_ERROR);
            }
            self.expiry_s = seconds.min(expiry_max_s(&self.hub));
        }
        End::Disconnected { with_will }
    }

    fn on_publish(
        &mut self,
        conn: &mut Connection,
        publish: &PublishPacket<'_>,
    ) -> Result<(), End> {
        let limit = self.hub.limits.payload_bytes_max;
        if publish.payload.len() > limit {
            return Err(End::Refused(DecodeError::TooLarge {
                size: publish.payload.len(),
                limit,
            }));
        }
        let topic = match publish.topic_alias {
            None if publish.topic.is_empty() && conn.version == Version::V5 => {
                return Err(End::Rejected(reason::PROTOCOL_ERROR));
            }
            None => publish.topic,
            Some(alias) => match conn.given.resolve(alias, publish.topic) {
                Ok(topic) => topic,
                Err(Refused::Invalid) => return Err(End::Rejected(reason::TOPIC_ALIAS_INVALID)),
                Err(Refused::Unknown) => return Err(End::Rejected(reason::PROTOCOL_ERROR)),
                Err(Refused::TooLong) => return Err(End::Rejected(reason::QUOTA_EXCEEDED)),
            },
        };
        let PublishPacket { qos, packet_id, .. } = *publish;
        let (out, version) = (&mut conn.wire.out, conn.version);
        if qos == QoS::ExactlyOnce {
            if self.received.contains(&packet_id) {
                // A repetition: it was published when it came first.
                codec::put_ack(out, version, 0x50, packet_id, reason::SUCCESS);
                return Ok(());
            }
            if self.received.len() >= usize::from(RECEIVE_MAXIMUM) {
                return Err(End::Rejected(reason::RECEIVE_MAXIMUM));
            }
        }
        let draft = Draft {
            qos,
            retain: publish.retain,
            properties: publish.properties.as_slice(),
            deadline: self.hub.deadline(publish.expiry_s),
            payload: publish.payload,
        };
        let code = match self.publisher.publish(&mut self.link, topic, &draft) {
            Published::Accepted {
                filters: 0,
                kept: None,
            } => reason::NO_MATCHING_SUBSCRIBERS,
            Published::Accepted { .. } => reason::SUCCESS,
            Published::Denied => reason::NOT_AUTHORIZED,
            Published::InvalidTopic => return Err(End::Rejected(reason::TOPIC_INVALID)),
        };
        if code != reason::NOT_AUTHORIZED {
            self.taken_in.note(publish.payload.len());
        }
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => codec::put_ack(out, version, 0x40, packet_id, code),
            QoS::ExactlyOnce => {
                // MQTT 3.1.1 cannot be told of a refusal, so that its handshake runs to the end.
                if code < reason::UNSPECIFIED || version == Version::V4 {
                    self.received.insert(packet_id);
                }
                codec::put_ack(out, version, 0x50, packet_id, code);
            }
        }
        Ok(())
    }

    fn on_subscribe(
        &mut self,
        conn: &mut Connection,
        packet_id: u16,
        subscription_id: Option<u32>,
        filters: &[SubscribeFilter<'_>],
    ) -> Result<(), End> {
        conn.takes_codes(filters.len())?;
        let mut pending = PendingSubAck {
            packet_id,
            codes: Vec::with_capacity(filters.len()),
            waiting: 0,
            retained: Vec::new(),
            wanted: true,
        };
        let mut outcome = Ok(());
        for wanted in filters {
            let code = match self.check_filter(wanted.filter) {
                Err(code) => code,
                Ok(parts) if parts.group.is_some() && wanted.no_local => {
                    // MQTT 5, section 3.8.3.1. What came before it is subscribed, and the router will say so.
                    pending.orphan();
                    outcome = Err(End::Rejected(reason::PROTOCOL_ERROR));
                    break;
                }
                Ok(parts) => self.subscribe(wanted, &parts, subscription_id, &mut pending),
            };
            pending.codes.push(code);
        }
        if self.pressed_since.is_some() {
            // New subscriptions are to be waited for as well.
            self.inbox.press(true);
        }
        self.subacks.push_back(pending);
        self.send_subacks(Some(conn));
        outcome
    }

    fn check_filter<'a>(&mut self, text: &'a str) -> Result<Wanted<'a>, u8> {
        let counters = &self.hub.counters;
        let Some(wanted) = topic::wanted(text) else {
            counters.filters_invalid.bump();
            return Err(reason::FILTER_INVALID);
        };
        let reading = self.publisher.access().reading(&wanted);
        self.withholds |= reading == Reading::InPart;
        if reading == Reading::Nothing {
            counters.denied_subscribes.bump();
            debug!(filter = text, "subscription denied");
            // The code that does not tell whether a rule, and what it guards, exists.
            return Err(reason::UNSPECIFIED);
        }
        Ok(wanted)
    }

    fn subscribe(
        &mut self,
        wanted: &SubscribeFilter<'_>,
        parts: &Wanted<'_>,
        subscription_id: Option<u32>,
        pending: &mut PendingSubAck,
    ) -> u8 {
        let options = Options {
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            subscription_id,
        };
        // Retain handling (MQTT 5, section 3.8.3.1): 0 always, 1 for a new subscription, 2 never.
        let (index, new) = match self
            .inbox
            .subscribe(&mut self.link, wanted.filter, parts, options)
        {
            Subscribed::New(index) => (index, true),
            Subscribed::Again(index) => (index, false),
            Subscribed::Full => {
                self.hub.counters.filters_refused.bump();
                debug!(filter = wanted.filter, "a limit on filters is reached");
                return reason::QUOTA_EXCEEDED;
            }
        };
        pending.waiting += usize::from(new);
        if wanted.retain_handling == 0 || (wanted.retain_handling == 1 && new) {
            pending.retained.push(index);
        }
        options.qos as u8
    }

    /// Notes that the router has put one more subscription in force.
    pub(super) fn on_subscribed(&mut self, conn: Option<&mut Connection>) {
        self.inbox.confirmed();
        if let Some(first) = self.subacks.front_mut() {
            first.waiting = first.waiting.saturating_sub(1);
        }
        self.send_subacks(conn);
    }

    /// Answers, in order, the SUBSCRIBE packets whose filters are all in force.
    fn send_subacks(&mut self, mut conn: Option<&mut Connection>) {
        while self
            .subacks
            .front()
            .is_some_and(|pending| pending.waiting == 0)
        {
            let Some(pending) = self.subacks.pop_front() else {
                return;
            };
            let Some(conn) = conn.as_deref_mut().filter(|_| pending.wanted) else {
                continue;
            };
            codec::put_suback(
                &mut conn.wire.out,
                conn.version,
                pending.packet_id,
                &pending.codes,
            );
            for index in pending.retained {
                self.inbox.send_retained(index);
            }
        }
    }
}

/// Answers a packet of a QoS 2 exchange, which may be of one that is not known.
fn put_answer(conn: &mut Connection, first: u8, packet_id: u16, known: bool) {
    let code = if known {
        reason::SUCCESS
    } else {
        reason::PACKET_ID_NOT_FOUND
    };
    codec::put_ack(&mut conn.wire.out, conn.version, first, packet_id, code);
}
