//! Packets from the client.

use super::{End, Session, granted, wire};
use crate::{
    codec::{self, DecodeError, Framed, Packet, PublishPacket, SubscribeFilter, Version, reason},
    inbox::{Options, Subscribed},
    message::{Draft, QoS},
    publisher::Published,
    topic::{self, Wanted},
};
use bytes::BytesMut;
use tracing::debug;

use super::connect::RECEIVE_MAXIMUM;
use super::wire::OUT_HIGH;

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
}

impl Session {
    /// Deals with the complete packets in the read buffer, as far as answers fit and the publisher need not wait.
    pub(super) fn process_input(&mut self) -> Result<(), End> {
        let mut input = std::mem::take(&mut self.wire.input);
        let (consumed, outcome) = self.process(&input);
        wire::consumed(&mut input, consumed);
        self.wire.input = input;
        let flushed = self.link.flush();
        self.hub
            .counters
            .messages_in
            .add(std::mem::take(&mut self.taken_in));
        outcome?;
        flushed?;
        self.held = self.publisher.is_held(&self.link);
        Ok(())
    }

    fn process(&mut self, input: &BytesMut) -> (usize, Result<(), End>) {
        let limit = self.hub.limits.packet_bytes_max();
        let mut at = 0;
        let mut packets = 0;
        loop {
            packets += 1;
            if self.wire.out.len() >= OUT_HIGH || packets > HOLD_CHECK || self.publisher.sees_lag()
            {
                self.unread = true;
                return (at, Ok(()));
            }
            let frame = match codec::frame(&input[at..], limit) {
                Ok(Framed::Complete(frame)) => frame,
                Ok(Framed::Partial(_)) => {
                    self.unread = false;
                    return (at, Ok(()));
                }
                Err(error) => return (at, Err(End::Refused(error))),
            };
            let done = codec::decode(&frame, self.version)
                .map_err(End::Refused)
                .and_then(|packet| self.on_packet(packet));
            at += frame.length;
            if let Err(end) = done {
                return (at, Err(end));
            }
        }
    }

    fn on_packet(&mut self, packet: Packet<'_>) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => return self.on_publish(&publish),
            Packet::PubAck(packet_id) => {
                if !self.inflight.remove(&packet_id) {
                    debug!(packet_id, "an acknowledgement of nothing");
                }
            }
            Packet::PubRel(packet_id) => {
                let known = self.received.remove(&packet_id);
                let code = if known {
                    reason::SUCCESS
                } else {
                    reason::PACKET_ID_NOT_FOUND
                };
                codec::put_ack(&mut self.wire.out, self.version, 0x70, packet_id, code);
            }
            // Nothing of QoS 2 is ever sent to a client.
            Packet::PubRec(_) | Packet::PubComp(_) => {
                return Err(End::Rejected(reason::PROTOCOL_ERROR));
            }
            Packet::Subscribe {
                packet_id,
                subscription_id,
                filters,
            } => {
                return self.on_subscribe(packet_id, subscription_id, &filters);
            }
            Packet::Unsubscribe { packet_id, filters } => {
                let mut codes = Vec::with_capacity(filters.len());
                for filter in filters {
                    let existed = self.inbox.unsubscribe(&mut self.link, filter);
                    codes.push(if existed {
                        reason::SUCCESS
                    } else {
                        reason::NO_SUBSCRIPTION
                    });
                }
                codec::put_unsuback(&mut self.wire.out, self.version, packet_id, &codes);
            }
            Packet::PingReq => codec::put_pingresp(&mut self.wire.out),
            Packet::Disconnect { with_will } => return Err(End::Disconnected { with_will }),
        }
        Ok(())
    }

    fn on_publish(&mut self, publish: &PublishPacket<'_>) -> Result<(), End> {
        let limit = self.hub.limits.payload_bytes_max;
        if publish.payload.len() > limit {
            return Err(End::Refused(DecodeError::TooLarge {
                size: publish.payload.len(),
                limit,
            }));
        }
        if publish.topic_alias {
            return Err(End::Rejected(reason::TOPIC_ALIAS_INVALID));
        }
        let PublishPacket { qos, packet_id, .. } = *publish;
        if qos == QoS::ExactlyOnce {
            if self.received.contains(&packet_id) {
                // A repetition: it was published when it came first.
                codec::put_ack(
                    &mut self.wire.out,
                    self.version,
                    0x50,
                    packet_id,
                    reason::SUCCESS,
                );
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
        let code = match self
            .publisher
            .publish(&mut self.link, publish.topic, &draft)
        {
            Published::Accepted {
                filters: 0,
                kept: None,
            } => reason::NO_MATCHING_SUBSCRIBERS,
            Published::Accepted { .. } => reason::SUCCESS,
            Published::Denied => reason::NOT_AUTHORIZED,
            Published::InvalidTopic => return Err(End::Rejected(reason::TOPIC_INVALID)),
        };
        self.taken_in += u64::from(code != reason::NOT_AUTHORIZED);
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                codec::put_ack(&mut self.wire.out, self.version, 0x40, packet_id, code);
            }
            QoS::ExactlyOnce => {
                // MQTT 3.1.1 cannot be told of a refusal, so that its handshake runs to the end.
                if code < reason::UNSPECIFIED || self.version == Version::V4 {
                    self.received.insert(packet_id);
                }
                codec::put_ack(&mut self.wire.out, self.version, 0x50, packet_id, code);
            }
        }
        Ok(())
    }

    fn on_subscribe(
        &mut self,
        packet_id: u16,
        subscription_id: Option<u32>,
        filters: &[SubscribeFilter<'_>],
    ) -> Result<(), End> {
        let mut pending = PendingSubAck {
            packet_id,
            codes: Vec::with_capacity(filters.len()),
            waiting: 0,
            retained: Vec::new(),
        };
        for wanted in filters {
            let code = match self.check_filter(wanted.filter) {
                Err(code) => code,
                // MQTT 5, section 3.8.3.1.
                Ok(parts) if parts.group.is_some() && wanted.no_local => {
                    return Err(End::Rejected(reason::PROTOCOL_ERROR));
                }
                Ok(parts) => self.subscribe(wanted, &parts, subscription_id, &mut pending),
            };
            pending.codes.push(code);
        }
        self.subacks.push_back(pending);
        self.send_subacks();
        Ok(())
    }

    fn check_filter<'a>(&self, text: &'a str) -> Result<Wanted<'a>, u8> {
        let counters = &self.hub.counters;
        let Some(wanted) = topic::wanted(text) else {
            counters.filters_invalid.bump();
            return Err(reason::FILTER_INVALID);
        };
        if !self.publisher.access().may_subscribe(wanted.filter) {
            counters.denied_subscribes.bump();
            debug!(filter = text, "subscription denied");
            return Err(reason::NOT_AUTHORIZED);
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
            qos: granted(wanted.qos),
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
    pub(super) fn on_subscribed(&mut self) {
        self.inbox.confirmed();
        if let Some(first) = self.subacks.front_mut() {
            first.waiting = first.waiting.saturating_sub(1);
        }
        self.send_subacks();
    }

    /// Answers, in order, the SUBSCRIBE packets whose filters are all in force.
    fn send_subacks(&mut self) {
        while self
            .subacks
            .front()
            .is_some_and(|pending| pending.waiting == 0)
        {
            let Some(pending) = self.subacks.pop_front() else {
                return;
            };
            codec::put_suback(
                &mut self.wire.out,
                self.version,
                pending.packet_id,
                &pending.codes,
            );
            for index in pending.retained {
                self.inbox.send_retained(index);
            }
        }
    }
}
