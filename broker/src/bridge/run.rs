//! The life of a bridge: connect, hand out what waits, connect again.

use super::{
    backoff::Backoff,
    books::Books,
    hops::{self, Way},
    intake::Intake,
    letter::{Letter, Mapped, Route, map},
    outbox::{Acked, Outbox},
    phase::{End, Phase, Sync},
    remote::{self, CONNECT_TIME, Heard, Requests, Target, Terms},
    word,
};
use crate::{
    codec::properties,
    hub::Hub,
    link::{LinkPublisher, LinkReceiver},
    message::{Envelope, Message},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

/// Messages taken from the receiver at a time.
const BATCH: usize = 256;
/// Retained messages fetched at a time.
const PAGE: usize = 64;
/// How long a broker that stops waits for the other one to take what waits: a quarter of what it waits for its tasks.
const LEAVE_TIME: Duration = Duration::from_secs(2);

pub(super) struct Runner {
    pub(super) books: Arc<Books>,
    pub(super) target: Target,
    pub(super) intake: Intake,
    pub(super) routes: Vec<Route>,
    /// `None` if nothing goes out, and once this broker has stopped.
    pub(super) receiver: Option<LinkReceiver>,
    pub(super) batch: Vec<Message>,
    pub(super) outbox: Outbox,
    pub(super) state: watch::Sender<bool>,
    pub(super) backoff: Backoff,
    /// What says at the other broker whether the bridge is up.
    pub(super) notice: Option<Letter>,
    /// Whether the next connection takes up the session of the last one.
    pub(super) resume: bool,
}

impl Runner {
    pub(super) fn name(&self) -> &str {
        self.books.name()
    }

    pub(super) fn publisher(&self) -> LinkPublisher {
        self.intake.publisher.clone()
    }

    fn hub(&self) -> &Arc<Hub> {
        self.books.hub()
    }

    /// Runs until the broker stops.
    pub(super) async fn run(mut self) {
        let stop = self.hub().stop.clone();
        while !stop.is_cancelled() {
            let End { reason, held } = self.connection().await;
            self.state.send_replace(false);
            self.books.connected(false);
            let lost = self.outbox.land();
            if lost > 0 {
                self.books.dropped(lost);
                debug!(
                    bridge = self.name(),
                    lost, "messages of QoS 0 were lost with the connection"
                );
            }
            if stop.is_cancelled() {
                break;
            }
            let pause = self.backoff.pause(held);
            warn!(
                bridge = self.name(), host = %self.target.host, port = self.target.port, reason,
                pause_ms = pause.as_millis(), waiting = self.outbox.count(),
                "no connection to the other broker; it is tried again"
            );
            self.rest(Instant::now() + pause).await;
        }
        let left = self.outbox.count();
        if left > 0 {
            self.books.dropped(left as u64);
            warn!(
                bridge = self.name(),
                left, "messages that the other broker did not take are lost"
            );
        }
        self.books.waiting(0);
    }

    /// Takes in what is to go out while there is no connection.
    async fn rest(&mut self, until: Instant) {
        let stop = self.hub().stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(until) => return,
                count = gather(&mut self.receiver, &mut self.batch) => self.enqueue(count),
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> End {
        let stop = self.hub().stop.clone();
        let resume = self.resume && !self.target.session_expiry.is_zero();
        let (requests, mut events) =
            remote::connect(&self.target, resume, self.intake.clone(), &self.hub().tasks);
        let mut phase = Phase::Connecting;
        loop {
            self.advance(&requests, &mut phase);
            self.books.waiting(self.outbox.count());
            let until = phase.deadline();
            let leaving = matches!(phase, Phase::Leaving { .. });
            tokio::select! {
                heard = events.hear() => {
                    if let Some(end) = self.on_heard(heard, &requests, &mut phase) {
                        return end;
                    }
                }
                count = gather(&mut self.receiver, &mut self.batch) => self.enqueue(count),
                () = stop.cancelled(), if !leaving => {
                    let Phase::Open { terms, .. } = phase else {
                        return phase.ended("this broker stops");
                    };
                    let until = Instant::now() + LEAVE_TIME;
                    phase = Phase::Leaving { terms, until, said: false };
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    return phase.ended("the other broker does not answer");
                }
            }
        }
    }

    /// Puts what the receiver has given into the outbox.
    fn enqueue(&mut self, count: usize) {
        if count == 0 {
            self.receiver = None;
        }
        let mut batch = std::mem::take(&mut self.batch);
        for message in batch.drain(..) {
            let letter = Letter {
                properties: message.properties(),
                topic: message.topic.as_ref().to_owned(),
                payload: message.payload,
                qos: message.qos,
                retain: message.retain,
                deadline: message.deadline,
            };
            self.post(letter);
        }
        self.batch = batch;
    }

    /// Gives a letter its name at the other broker and its mark, and has it wait.
    fn post(&mut self, mut letter: Letter) {
        match map(&self.routes, &letter.topic) {
            Mapped::To(topic) => {
                let properties = &mut letter.properties.user_properties;
                if hops::cross(properties, &self.intake.broker_id, Way::Out).is_err() {
                    self.books.looped(&letter.topic);
                    return;
                }
                letter.topic = topic;
                let yielded = self.outbox.push(letter);
                self.books.overflowed(yielded);
            }
            Mapped::NotSelected => {}
            Mapped::Unfit => self.discard(
                &letter.topic,
                "without its prefix it is no topic to publish to",
            ),
        }
    }

    fn discard(&self, topic: &str, reason: &str) {
        debug!(
            bridge = self.name(),
            topic, reason, "a message for the other broker is dropped"
        );
        self.books.dropped(1);
    }

    /// Hands out what waits and fetches what is to wait, as far as the connection allows.
    fn advance(&mut self, requests: &Requests, phase: &mut Phase) {
        match phase {
            Phase::Connecting | Phase::Subscribing { .. } => {}
            Phase::Open { terms, sync, .. } => loop {
                self.hand_out(requests, terms);
                if !self.outbox.is_half_empty() {
                    return;
                }
                self.books.has_room_again();
                if sync.is_none() {
                    return;
                }
                self.fetch(sync);
            },
            Phase::Leaving { terms, said, .. } => {
                self.hand_out(requests, terms);
                if !*said && self.outbox.is_idle() {
                    self.notify(requests, terms, false);
                    *said = requests.disconnect().is_ok();
                }
            }
        }
    }

    fn hand_out(&mut self, requests: &Requests, terms: &Terms) {
        let now_s = self.hub().now_s();
        while self.outbox.span() < terms.window {
            let Some(letter) = self.outbox.front() else {
                return;
            };
            if letter.deadline.is_some_and(|deadline| deadline <= now_s) {
                self.books.expired();
                self.outbox.discard();
            } else if letter.packet_bytes() > terms.packet_bytes_max {
                self.discard(&letter.topic, "it is longer than the other broker accepts");
                self.outbox.discard();
            } else if requests.publish(letter, terms, now_s).is_ok() {
                self.outbox.hand();
            } else {
                // The library says when it has taken a request: then it goes on.
                return;
            }
        }
    }

    /// Fetches some retained messages.
    fn fetch(&mut self, walk: &mut Option<Sync>) {
        let Some((at, route)) = walk
            .as_mut()
            .and_then(|at| self.routes.get(at.route).map(|route| (at, route)))
        else {
            *walk = None;
            return;
        };
        let (hub, own) = (self.books.hub(), self.intake.publisher.origin());
        let mut page = Vec::with_capacity(PAGE);
        let more = hub
            .retained
            .page(&route.from, &mut at.scan, hub.now_s(), PAGE, &mut page);
        let qos = route.qos;
        if !more {
            at.route += 1;
            at.scan = hub.retained.scan();
        }
        // What the bridge itself brought in is at the other broker already.
        for envelope in page.iter().filter(|envelope| envelope.origin() != own) {
            let mut letter = stored(envelope);
            letter.qos = letter.qos.min(qos);
            self.post(letter);
        }
    }

    fn on_heard(&mut self, heard: Heard, requests: &Requests, phase: &mut Phase) -> Option<End> {
        match heard {
            Heard::Connected(terms) => {
                self.resume = true;
                if self.target.filters.is_empty() {
                    self.open(requests, terms, phase);
                } else if requests.subscribe(&self.target.filters).is_err() {
                    return Some(phase.ended("the client library takes no subscription"));
                } else {
                    let until = Instant::now() + CONNECT_TIME;
                    *phase = Phase::Subscribing { terms, until };
                }
            }
            Heard::Subscribed { refused } => {
                for filter in refused {
                    warn!(
                        bridge = self.name(),
                        filter, "the other broker refuses a subscription"
                    );
                }
                if let Phase::Subscribing { terms, .. } = *phase {
                    self.open(requests, terms, phase);
                }
            }
            // What waits is handed out before the next event in any case.
            Heard::Room => {}
            Heard::Sent(packet_id) => {
                if self.outbox.sent(packet_id) {
                    self.books.sent();
                }
            }
            Heard::Acked { packet_id, refused } => match (self.outbox.acked(packet_id), refused) {
                (Acked::Letter, None) => self.books.sent(),
                (Acked::Letter, Some(reason)) => self.discard("", &format!("refused: {reason}")),
                (Acked::Notice, Some(reason)) => {
                    warn!(
                        bridge = self.name(),
                        reason, "the other broker refuses the notification"
                    );
                }
                (Acked::Notice | Acked::Unknown, _) => {}
            },
            Heard::Panicked => {
                self.books.panicked();
                return Some(self.broken("the client library panicked", phase));
            }
            Heard::Lost {
                reason,
                broken: true,
            } => return Some(self.broken(&reason, phase)),
            Heard::Lost {
                reason,
                broken: false,
            } => return Some(phase.ended(&reason)),
        }
        None
    }

    /// Ends a connection over which came what should not, and which the other broker might send again.
    fn broken(&mut self, reason: &str, phase: &Phase) -> End {
        if phase.terms().is_some_and(|terms| terms.resumed) {
            warn!(
                bridge = self.name(),
                reason, "the session at the other broker is given up"
            );
            self.resume = false;
        }
        phase.ended(reason)
    }

    fn open(&mut self, requests: &Requests, terms: Terms, phase: &mut Phase) {
        info!(
            bridge = self.name(), host = %self.target.host, port = self.target.port,
            resumed = terms.resumed, waiting = self.outbox.count(), "connected to the other broker"
        );
        self.notify(requests, &terms, true);
        let scan = self.hub().retained.scan();
        *phase = Phase::Open {
            terms,
            since: Instant::now(),
            sync: Some(Sync { route: 0, scan }),
        };
        self.books.connected(true);
        self.state.send_replace(true);
    }

    fn notify(&mut self, requests: &Requests, terms: &Terms, up: bool) {
        let Some(notice) = &self.notice else {
            return;
        };
        let notice = Letter {
            payload: word(up).into(),
            ..notice.clone()
        };
        // The library has taken all that was handed over before, so that it has room.
        if requests.publish(&notice, terms, 0).is_ok() {
            self.outbox.hand_notice();
        } else {
            debug!(bridge = self.name(), "the notification finds no room");
        }
    }
}

/// Waits for messages that are to go out; never returns if there can be none. Cancel-safe.
async fn gather(receiver: &mut Option<LinkReceiver>, batch: &mut Vec<Message>) -> usize {
    match receiver {
        Some(receiver) => receiver.recv_many(batch, BATCH).await,
        None => std::future::pending().await,
    }
}

fn stored(envelope: &Envelope) -> Letter {
    let (raw, payload) = envelope.parts();
    Letter {
        topic: envelope.topic_str().to_owned(),
        payload,
        qos: envelope.qos(),
        retain: true,
        properties: properties::decode_publish(&raw),
        deadline: envelope.deadline(),
    }
}
