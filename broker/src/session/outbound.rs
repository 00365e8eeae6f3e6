//! Messages to the client: at once if nothing stands before them, by way of the queue if something does.

use super::{
    End, PAUSE_MAX, Session,
    connection::{Connection, Unsent},
    inflight::Again,
    queue::Outgoing,
    wire::OUT_HIGH,
};
use crate::{
    codec::{self, reason},
    hub::Hub,
    message::{Envelope, QoS},
    router::Incoming,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tracing::{debug, warn};

/// Shares of a queue's bounds, as divisors: publishers are asked to wait above 1/2 and released below 1/4. The half that
/// is left takes what is on its way when they are asked.
const HIGH: usize = 2;
const LOW: usize = 4;

/// What this session adds to the hub's sums of waiting messages. Dropping it takes that back.
pub(super) struct Account {
    hub: Arc<Hub>,
    count: usize,
    bytes: usize,
}

impl Account {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            count: 0,
            bytes: 0,
        }
    }

    fn set(&mut self, count: usize, bytes: usize) {
        let waiting = &self.hub.waiting;
        if count != self.count {
            // Wrapping sums: what is taken off was added before.
            let more = count.wrapping_sub(self.count);
            waiting.count.fetch_add(more, Ordering::Relaxed);
            self.count = count;
        }
        if bytes != self.bytes {
            let more = bytes.wrapping_sub(self.bytes);
            waiting.bytes.fetch_add(more, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }

    /// What all other sessions have waiting.
    fn others_bytes(&self) -> usize {
        let all = self.hub.waiting.bytes.load(Ordering::Relaxed);
        all.wrapping_sub(self.bytes)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

impl Session {
    pub(super) fn on_incoming(
        &mut self,
        conn: &mut Connection,
        incoming: Incoming,
    ) -> Result<(), End> {
        match incoming {
            Incoming::Message {
                log,
                offset,
                envelope,
            } => {
                if let Some(outgoing) = self.take(log, offset, envelope) {
                    return self.offer(conn, outgoing);
                }
            }
            Incoming::Subscribed => self.on_subscribed(Some(conn)),
            Incoming::Fence => {}
        }
        Ok(())
    }

    /// Takes a live message. From here on it is the queue's bounds that have publishers wait, not the log's; the caller
    /// settles the inbox when it has taken what there is.
    pub(super) fn take(&mut self, log: u32, offset: u64, envelope: Envelope) -> Option<Outgoing> {
        let (terms, mut due) = self.inbox.take(&mut self.link, log, offset, &envelope)?;
        self.inbox.done_for_now(&mut due);
        (!self.is_withheld(&envelope)).then(|| Outgoing::live(envelope, terms, due))
    }

    /// Whether the rules deny this message to the client although a subscription selects it; counted.
    fn is_withheld(&self, envelope: &Envelope) -> bool {
        let withheld = self.withholds && !self.publisher.access().may_read(envelope.topic_str());
        if withheld {
            self.hub.counters.withheld.bump();
        }
        withheld
    }

    fn offer(&mut self, conn: &mut Connection, outgoing: Outgoing) -> Result<(), End> {
        let open = outgoing.qos == QoS::AtMostOnce || self.window_is_open(conn);
        if open && self.queue.is_empty() && conn.wire.out.len() < OUT_HIGH {
            self.send(conn, outgoing);
            return Ok(());
        }
        self.queue.push(outgoing, self.hub.now_s());
        if self.make_room() {
            Ok(())
        } else {
            Err(End::Overrun)
        }
    }

    /// Whether another message of QoS 1 or 2 may be sent. What waits for acknowledgements takes memory as the queue does,
    /// and is bounded as it is.
    fn window_is_open(&self, conn: &Connection) -> bool {
        let bytes_max = self.hub.limits.queue_bytes_max;
        self.inflight.has_room(conn.window, bytes_max)
    }

    /// Makes ready what can be sent now: deliveries to be repeated, then queued and retained messages by turns, so that
    /// neither holds the other up.
    pub(super) fn pump(&mut self, conn: &mut Connection) {
        self.repeat(conn);
        loop {
            let queued = self.send_queued(conn);
            let retained = self.send_retained(conn);
            if !queued && !retained {
                break;
            }
        }
        self.count_delivered();
    }

    /// Repeats what a client that has come back may not have got.
    fn repeat(&mut self, conn: &mut Connection) {
        while conn.wire.out.len() < OUT_HIGH {
            let Some(again) = self.inflight.again(conn.window) else {
                return;
            };
            match again {
                Again::PubRel(id) => {
                    codec::put_ack(&mut conn.wire.out, conn.version, 0x62, id, reason::SUCCESS);
                    self.inflight.sent_again();
                }
                Again::Publish(id, outgoing) => match conn.put(outgoing, id, true, &self.hub) {
                    Ok(()) => {
                        self.delivered.note(outgoing.envelope.payload().len());
                        self.inflight.sent_again();
                    }
                    Err(unsent) => {
                        count_unsent(&self.hub, conn, unsent);
                        self.inflight.skip();
                    }
                },
            }
        }
    }

    fn send_queued(&mut self, conn: &mut Connection) -> bool {
        if self.queue.is_empty() || conn.wire.out.len() >= OUT_HIGH {
            return false;
        }
        let open = self.window_is_open(conn);
        match self.queue.pop(open) {
            Some(outgoing) => {
                self.send(conn, outgoing);
                true
            }
            None => false,
        }
    }

    fn send_retained(&mut self, conn: &mut Connection) -> bool {
        if !self.inbox.has_retained()
            || conn.wire.out.len() >= OUT_HIGH
            || !self.window_is_open(conn)
        {
            return false;
        }
        match self.inbox.next_retained() {
            Some(selected) => {
                if !self.is_withheld(&selected.envelope) {
                    self.send(conn, Outgoing::retained(selected));
                }
                true
            }
            None => false,
        }
    }

    /// Makes a message ready; those of QoS 1 and 2 are kept until they are acknowledged.
    fn send(&mut self, conn: &mut Connection, outgoing: Outgoing) {
        let packet_id = match outgoing.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.inflight.next_id(),
        };
        match conn.put(&outgoing, packet_id, false, &self.hub) {
            Ok(()) => {
                self.delivered.note(outgoing.envelope.payload().len());
                if outgoing.qos != QoS::AtMostOnce {
                    self.inflight.enter(outgoing);
                }
            }
            Err(unsent) => count_unsent(&self.hub, conn, unsent),
        }
    }

    pub(super) fn count_delivered(&mut self) {
        let counters = &self.hub.counters;
        self.delivered
            .settle(&counters.messages_out, &counters.payload_bytes_out);
    }

    /// Brings the hub's sums up to date, and has publishers wait while the queue fills.
    pub(super) fn balance(&mut self) {
        self.settle_account();
        let pressed = self.pressed_since.is_some();
        if pressed != self.is_filled(if pressed { LOW } else { HIGH }) {
            self.pressed_since = (!pressed).then(Instant::now);
            self.inbox.press(!pressed);
        }
    }

    /// Brings the hub's sums up to date.
    pub(super) fn settle_account(&mut self) {
        let count = self.queue.len() + self.inflight.len();
        let bytes = self.queue.bytes() + self.inflight.bytes();
        self.account.set(count, bytes);
    }

    /// Whether the queue is filled so far that publishers have to wait.
    pub(super) fn is_filling(&self) -> bool {
        self.is_filled(HIGH)
    }

    /// Whether nothing should be taken from the router now: the socket is full or the queue fills, only just, and
    /// publishers wait for this client, so that the logs lose nothing. Once they have given up, everything is taken, so
    /// that it is here that is decided what is dropped.
    pub(super) fn is_paused(&self, conn: &Connection) -> bool {
        let recent =
            |since: Option<Instant>| since.is_some_and(|since| since.elapsed() < PAUSE_MAX);
        let full = conn.wire.out.len() >= OUT_HIGH && recent(conn.wire.stalled_since);
        (full || recent(self.pressed_since)) && !self.inbox.is_slow()
    }

    fn is_filled(&self, share: usize) -> bool {
        let limits = &self.hub.limits;
        self.queue.bytes() > limits.queue_bytes_max / share
            || self.queue.len() > limits.queue_count_max / share
    }

    /// Whether the queue is over a bound.
    ///
    /// Three quarters of the bytes for all are whoever needs them first; of the last quarter each session that there can
    /// be has its share, so that no session loses anything because others hoard.
    fn is_overfull(&self) -> bool {
        let limits = &self.hub.limits;
        let bytes = self.queue.bytes();
        if self.queue.len() > limits.queue_count_max || bytes > limits.queue_bytes_max {
            return true;
        }
        let total = limits.queue_bytes_total_max;
        let share = total / 4 / (limits.clients_max + limits.absent_sessions_max);
        let own = bytes + self.inflight.bytes();
        own > share && self.account.others_bytes() + own > total - total / 4
    }

    /// Brings the queue within its bounds by what has expired, then by QoS 0, oldest first. False if that does not do.
    pub(super) fn make_room(&mut self) -> bool {
        self.settle_account();
        if !self.is_overfull() {
            return true;
        }
        self.sweep();
        while self.is_overfull() {
            if self.queue.pop_low().is_none() {
                return false;
            }
            self.hub.counters.dropped_queue_qos0.bump();
        }
        self.settle_account();
        true
    }

    /// Does what [`Session::make_room`] does, and then gives up QoS 1 and 2, oldest first.
    pub(super) fn make_room_at_any_price(&mut self) {
        if self.make_room() {
            return;
        }
        let mut dropped = 0;
        while self.is_overfull() {
            if self.queue.pop_high().is_none() {
                break;
            }
            dropped += 1;
        }
        if self.hub.counters.dropped_queue.get() == 0 && dropped > 0 {
            warn!(client_id = %self.identity.client_id, "more messages wait for an absent client than may, the oldest are dropped; this is said once and counted from now on");
        }
        self.hub.counters.dropped_queue.add(dropped);
        self.settle_account();
    }

    /// Drops what has waited too long or has expired; at most once a second.
    pub(super) fn sweep(&mut self) {
        let now_s = self.hub.now_s();
        if self.queue.is_empty() || now_s == self.swept_s {
            return;
        }
        self.swept_s = now_s;
        let age_max_s = u32::try_from(self.hub.limits.queue_age_max.as_secs()).unwrap_or(u32::MAX);
        let mut aged = 0;
        let since_s = now_s.saturating_sub(age_max_s);
        while self.queue.pop_older(since_s).is_some() {
            aged += 1;
        }
        let expired = self.queue.take_expired(now_s);
        self.hub.counters.expired.add(expired.len() as u64);
        if aged > 0 {
            self.hub.counters.dropped_age.add(aged);
            debug!(client_id = %self.identity.client_id, aged, "messages have waited too long and are dropped");
        }
    }
}

fn count_unsent(hub: &Hub, conn: &Connection, unsent: Unsent) {
    match unsent {
        Unsent::Expired => hub.counters.expired.bump(),
        Unsent::TooLong(size) => {
            hub.counters.dropped_oversize.bump();
            debug!(
                size,
                limit = conn.packet_size_max,
                "a message is longer than the client accepts"
            );
        }
    }
}
