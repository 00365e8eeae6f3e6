//! A client that leaves: its will, and its session, which may wait for it.

use super::{
    Connection, End, Next, Session, TAKE_MAX, connect::Will, count_refusal, queue::Outgoing,
    registry::Ticket,
};
use crate::{
    codec::reason,
    hub::Hub,
    message::{Draft, QoS},
    publisher::Published,
    router::{Incoming, RouterGone},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep_until;
use tracing::{debug, warn};

/// How often an absent session looks for messages that have waited too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A will that is published unless the client comes back first.
pub(super) struct PendingWill {
    will: Will,
    due: Instant,
}

impl Session {
    /// Ends a connection: counts why and says so, and decides what becomes of the will and the session.
    pub(super) fn leave(&mut self, mut conn: Box<Connection>, end: End) -> Next {
        self.count(&end, &conn);
        for pending in &mut self.subacks {
            pending.orphan();
        }
        let stays = self.expiry_s > 0
            && match &end {
                End::Disconnected { .. }
                | End::Lost
                | End::Refused(_)
                | End::Rejected(_)
                | End::KeepAlive
                | End::Slow
                | End::Overrun
                | End::TakenOver(Some(_)) => true,
                End::TakenOver(None) | End::Revoked | End::Stopped | End::Router => false,
            };
        let will_is_void = matches!(end, End::Disconnected { with_will: false } | End::Stopped);
        if let Some(will) = conn.will.take().filter(|_| !will_is_void) {
            let delay = Duration::from_secs(u64::from(will.delay_s.min(self.expiry_s)));
            if !stays || delay.is_zero() {
                self.publish_will(&will);
            } else {
                // If the session goes on over another connection already, this is taken back (MQTT 5, section 3.1.3.2.2).
                let due = Instant::now() + delay;
                self.will = Some(PendingWill { will, due });
            }
        }
        let code = match &end {
            End::Disconnected { .. } | End::Lost | End::Slow => None,
            End::Refused(error) => Some(error.reason()),
            End::Rejected(code) => Some(*code),
            End::KeepAlive => Some(reason::KEEP_ALIVE_TIMEOUT),
            End::TakenOver(_) => Some(reason::TAKEN_OVER),
            End::Overrun => Some(reason::QUOTA_EXCEEDED),
            End::Revoked => Some(reason::ADMINISTRATIVE_ACTION),
            End::Stopped => Some(reason::SHUTTING_DOWN),
            End::Router => Some(reason::UNSPECIFIED),
        };
        match end {
            End::TakenOver(Some(mut newcomer)) if stays => {
                self.will = None;
                conn.close(code, &self.hub, newcomer.place.take());
                Next::Resume(newcomer)
            }
            End::TakenOver(late) => {
                conn.close(code, &self.hub, ());
                Next::End(late)
            }
            End::Disconnected { .. }
            | End::Lost
            | End::Refused(_)
            | End::Rejected(_)
            | End::KeepAlive
            | End::Slow
            | End::Overrun
            | End::Revoked
            | End::Stopped
            | End::Router => {
                conn.close(code, &self.hub, ());
                if stays { Next::Wait } else { Next::End(None) }
            }
        }
    }

    fn count(&self, end: &End, conn: &Connection) {
        let counters = &self.hub.counters;
        let client_id = &*self.identity.client_id;
        match end {
            End::Disconnected { .. } | End::Stopped => {}
            End::Lost => counters.lost_connections.bump(),
            End::Refused(error) => count_refusal(&self.hub, *error),
            End::Rejected(_) => counters.protocol_errors.bump(),
            End::KeepAlive => counters.keep_alive_timeouts.bump(),
            End::TakenOver(_) => counters.takeovers.bump(),
            End::Slow => {
                counters.slow_disconnects.bump();
                let waiting = conn.wire.out.len();
                warn!(
                    client_id,
                    waiting, "a client took no bytes for the write timeout and is disconnected"
                );
            }
            End::Overrun => {
                counters.overrun_disconnects.bump();
                let (messages, bytes) = (self.queue.len(), self.queue.bytes());
                warn!(
                    client_id,
                    messages, bytes, "a client does not keep pace and is disconnected"
                );
            }
            End::Revoked => {
                counters.revoked_clients.bump();
                debug!(client_id, "a client is no longer admitted");
            }
            End::Router => warn!("the router has stopped; the connection cannot go on"),
        }
    }

    fn publish_will(&mut self, will: &Will) {
        let draft = Draft {
            qos: will.qos,
            retain: will.retain,
            properties: &will.properties,
            deadline: self.hub.deadline(will.expiry_s),
            payload: &will.payload,
        };
        let published = self.publisher.publish(&mut self.link, &will.topic, &draft);
        let flushed = self.link.flush().is_ok();
        if flushed && matches!(published, Published::Accepted { .. }) {
            self.hub.counters.wills.bump();
        }
    }

    /// Waits for the client to come back, keeps what it is to get, and does what falls due.
    pub(super) async fn wait(&mut self, ticket: &mut Ticket) -> Next {
        let hub = Arc::clone(&self.hub);
        let expiry = Instant::now() + Duration::from_secs(u64::from(self.expiry_s));
        self.settle_queue();
        self.inbox.set_absent(true);
        let mut gate = self.gate.clone();
        loop {
            let mut soon = expiry.min(Instant::now() + SWEEP_INTERVAL);
            if let Some(pending) = &self.will {
                soon = soon.min(pending.due);
            }
            // In this order, so that neither a flood of messages nor a client in haste keeps the rest from being seen.
            tokio::select! {
                biased;
                () = ticket.kick.cancelled() => {
                    return self.cease(!hub.stop.is_cancelled());
                }
                newcomer = ticket.attach.recv() => {
                    // The will waited for this not to happen.
                    self.will = None;
                    return newcomer.map_or(Next::End(None), Next::Resume);
                }
                _ = gate.changed() => {
                    if !self.review() {
                        hub.counters.revoked_clients.bump();
                        debug!("the absent client is no longer admitted");
                        return self.cease(true);
                    }
                }
                () = sleep_until(soon.into()) => {
                    self.publish_due_will();
                    if Instant::now() >= expiry {
                        hub.counters.sessions_expired.bump();
                        debug!("the client was away for too long, its session ends");
                        return self.cease(true);
                    }
                    self.sweep();
                }
                incoming = self.link.next() => {
                    if self.keep(incoming).is_err() {
                        warn!("the router has stopped; the session cannot go on");
                        return self.cease(false);
                    }
                    tokio::task::yield_now().await;
                }
            }
            self.settle_account();
        }
    }

    /// Prepares the queue for a client that is away: nobody waits for it, and QoS 0 is not kept.
    fn settle_queue(&mut self) {
        let mut dropped = 0;
        while self.queue.pop_low().is_some() {
            dropped += 1;
        }
        self.hub.counters.dropped_absent_qos0.add(dropped);
        if self.pressed_since.take().is_some() {
            self.inbox.press(false);
        }
        self.make_room_at_any_price();
        self.settle_account();
    }

    /// Keeps what comes for a client that is away.
    fn keep(&mut self, first: Result<Incoming, RouterGone>) -> Result<(), RouterGone> {
        let kept = self.keep_all(first);
        self.inbox.settle();
        kept
    }

    fn keep_all(&mut self, first: Result<Incoming, RouterGone>) -> Result<(), RouterGone> {
        let mut next = Some(first?);
        let mut count = 0;
        while let Some(incoming) = next {
            match incoming {
                Incoming::Message {
                    log,
                    offset,
                    envelope,
                } => {
                    if let Some(outgoing) = self.take(log, offset, envelope) {
                        self.keep_message(outgoing);
                    }
                }
                Incoming::Subscribed => self.on_subscribed(None),
                Incoming::Fence => {}
            }
            count += 1;
            next = if count < TAKE_MAX {
                self.link.try_next()?
            } else {
                None
            };
        }
        Ok(())
    }

    fn keep_message(&mut self, outgoing: Outgoing) {
        if outgoing.qos == QoS::AtMostOnce {
            self.hub.counters.dropped_absent_qos0.bump();
            return;
        }
        self.queue.push(outgoing, self.hub.now_s());
        self.make_room_at_any_price();
    }

    fn publish_due_will(&mut self) {
        if let Some(pending) = self.will.take_if(|pending| pending.due <= Instant::now()) {
            self.publish_will(&pending.will);
        }
    }

    /// Ends an absent session: with it, the delay of its will (MQTT 5, section 3.1.3.2.2).
    fn cease(&mut self, with_will: bool) -> Next {
        if let Some(pending) = self.will.take().filter(|_| with_will) {
            self.publish_will(&pending.will);
        }
        Next::End(None)
    }

    /// Gives everything back. `late` is a connection that was handed over when the session could not go on.
    pub(super) async fn finish(
        mut self: Box<Self>,
        ticket: Ticket,
        late: Option<Box<super::Newcomer>>,
    ) {
        let mut dropped = self.inflight.messages();
        while let Some(unsent) = self.queue.pop_high() {
            // A shared one goes to another member of its group, which counts it if there is none.
            dropped += usize::from(!unsent.due.is_shared());
            self.inbox
                .give_back(&mut self.link, &unsent.due, &unsent.envelope);
        }
        if self.link.flush().is_err() {
            debug!("the router has stopped");
        }
        self.hub.counters.dropped_session_end.add(dropped as u64);
        let hub = Arc::clone(&self.hub);
        // From here on the successor may go on: it comes after the will.
        ticket.end().await;
        if let Some(newcomer) = late {
            resettle(newcomer, &hub);
        }
        let Self {
            inbox,
            link,
            account,
            ..
        } = *self;
        drop(account);
        inbox.close(link).await;
    }
}

fn resettle(newcomer: Box<super::Newcomer>, hub: &Arc<Hub>) {
    hub.tasks
        .spawn(super::connect::settle(newcomer, Arc::clone(hub)));
}
