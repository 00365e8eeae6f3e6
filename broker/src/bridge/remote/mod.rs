//! The other broker: the one home of rumqttc in this crate.
//!
//! A connection lives until it breaks and is never revived, since the library forgets what was in flight when the other
//! broker has no session: the [`Outbox`](super::outbox::Outbox) keeps it. The library's event loop is polled by a task
//! that cuts no poll off, which might leave half a packet behind; that task publishes what comes in and acknowledges
//! it then. What the library must not meet, its callers see to: a packet id that is still in use, a packet that the
//! other broker is not ready to take, and QoS 2, whose handshake it does not take up again over the next connection.

mod v4;
mod v5;

use super::{
    intake::{Intake, Stopping},
    letter::Letter,
};
use crate::{config::BridgeVersion, message::QoS};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Requests between us and the library; it takes one at a time and says so.
const REQUESTS_MAX: usize = 64;
/// Letters on the wire and not acknowledged. Brokers take 20 to 100 at a time; the library allots room for each.
const IN_FLIGHT_MAX: u16 = 64;
/// Messages of QoS 1 that the other broker may have on the way to us.
const RECEIVE_MAX: u16 = 64;
/// What a connection says and its bridge has not dealt with.
const HEARD_MAX: usize = 64;
/// TCP, TLS and CONNACK together, and the answer to our subscriptions.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Where and as whom to connect, and what to ask for.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) client_id: String,
    pub(super) login: Option<(String, String)>,
    pub(super) version: BridgeVersion,
    pub(super) keep_alive: Duration,
    pub(super) session_expiry: Duration,
    /// What the other broker says in our name when we vanish.
    pub(super) will: Option<Letter>,
    pub(super) filters: Vec<(String, QoS)>,
    /// The longest packet that we take.
    pub(super) packet_bytes_max: usize,
}

/// What the other broker is ready to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Packet ids that may be in use, see [`Outbox::span`](super::outbox::Outbox::span).
    pub(super) window: u64,
    pub(super) packet_bytes_max: usize,
    pub(super) qos_max: QoS,
    pub(super) retain: bool,
    /// It has kept the session of an earlier connection.
    pub(super) resumed: bool,
}

/// What a connection says.
#[derive(Debug)]
pub(super) enum Heard {
    /// The other broker has taken us in.
    Connected(Terms),
    /// It has answered our subscriptions; these it refuses.
    Subscribed { refused: Vec<String> },
    /// The library has taken some other request, such as an acknowledgement: there is room for another one.
    Room,
    /// The next one of what was handed over has been written under this packet id, zero for QoS 0.
    Sent(u16),
    /// The other broker has taken a letter, or refused it.
    Acked {
        packet_id: u16,
        refused: Option<String>,
    },
    /// The client library has panicked; nothing comes after this.
    Panicked,
    /// The connection ended; nothing comes after this.
    Lost {
        reason: String,
        /// The other broker has sent what it should not, which it may repeat if the session is resumed.
        broken: bool,
    },
}

/// What the event loop of either version has done.
enum Step {
    Heard(Heard),
    /// A message came; `None` if its topic is not text.
    Message(Option<Letter>, Ack),
    /// The other broker keeps us for so long at most without a packet.
    KeepAlive(Duration, Heard),
    /// A request of ours other than a letter was taken.
    Room,
    Nothing,
}

/// What an acknowledgement needs.
#[derive(Debug, Clone, Copy)]
struct Ack {
    packet_id: u16,
    qos: QoS,
}

/// The requests of a connection.
pub(super) enum Requests {
    V4(v4::Requests),
    V5(v5::Requests),
}

/// The library has no room for another request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

enum Loop {
    V4(Box<v4::Loop>),
    V5(Box<v5::Loop>),
}

/// What a connection says. It is cut when this is dropped.
pub(super) struct Events {
    heard: mpsc::Receiver<Heard>,
    _driver: AbortOnDropHandle<()>,
}

/// Opens a connection, `resume` with the session of the last one.
pub(super) fn connect(
    target: &Target,
    resume: bool,
    intake: Intake,
    tasks: &TaskTracker,
) -> (Requests, Events) {
    let (requests, events) = match target.version {
        BridgeVersion::V4 => {
            let (requests, events) = v4::open(target, resume);
            (Requests::V4(requests), Loop::V4(Box::new(events)))
        }
        BridgeVersion::V5 => {
            let (requests, events) = v5::open(target, resume);
            (Requests::V5(requests), Loop::V5(Box::new(events)))
        }
    };
    let (sender, heard) = mpsc::channel(HEARD_MAX);
    let driving = tasks.spawn(drive(events, intake, sender, target.keep_alive));
    let events = Events {
        heard,
        _driver: AbortOnDropHandle::new(driving),
    };
    (requests, events)
}

impl Requests {
    pub(super) fn subscribe(&self, filters: &[(String, QoS)]) -> Result<(), Busy> {
        match self {
            Self::V4(requests) => requests.subscribe(filters),
            Self::V5(requests) => requests.subscribe(filters),
        }
    }

    /// Hands a letter over, as far as the other broker's terms go.
    pub(super) fn publish(&self, letter: &Letter, terms: &Terms, now_s: u32) -> Result<(), Busy> {
        let qos = letter.qos.min(terms.qos_max);
        let retain = letter.retain && terms.retain;
        match self {
            Self::V4(requests) => requests.publish(letter, qos, retain),
            Self::V5(requests) => requests.publish(letter, qos, retain, now_s),
        }
    }

    /// Takes leave behind all that was handed over; the other broker hangs up then.
    pub(super) fn disconnect(&self) -> Result<(), Busy> {
        match self {
            Self::V4(requests) => requests.disconnect(),
            Self::V5(requests) => requests.disconnect(),
        }
    }
}

impl Events {
    /// The next event. Cancel-safe.
    pub(super) async fn hear(&mut self) -> Heard {
        self.heard.recv().await.unwrap_or(Heard::Panicked)
    }
}

impl Loop {
    async fn next(&mut self) -> Step {
        match self {
            Self::V4(events) => events.next().await,
            Self::V5(events) => events.next().await,
        }
    }

    fn acknowledge(&self, ack: Ack) -> Result<(), Busy> {
        match self {
            Self::V4(events) => events.acknowledge(ack),
            Self::V5(events) => events.acknowledge(ack),
        }
    }
}

/// Runs a connection to its end.
///
/// It waits for the subscribers here, a quarter of a second at a time, and for the bridge, which always listens; never
/// for the other broker with a message in its hands. So two brokers that are bridged to each other cannot wait for each
/// other.
async fn drive(mut events: Loop, intake: Intake, heard: mpsc::Sender<Heard>, keep_alive: Duration) {
    // A ping goes out each keep-alive and must be answered before the next one: a poll that takes longer than two of
    // them hangs on a broker that stopped reading.
    let patience = |keep_alive: Duration| keep_alive * 2 + CONNECT_TIME;
    let mut stall = patience(keep_alive);
    // At most one for each packet id.
    let mut acks = VecDeque::new();
    loop {
        while let Some(ack) = acks.pop_front() {
            if events.acknowledge(ack).is_err() {
                // There are requests that the library will take and tell of: then it is tried again.
                acks.push_front(ack);
                break;
            }
        }
        let step = match tokio::time::timeout(stall, events.next()).await {
            Ok(step) => step,
            Err(_) => Step::Heard(Heard::Lost {
                reason: format!("no answer for {} s", stall.as_secs()),
                broken: false,
            }),
        };
        let say = match step {
            Step::Nothing => continue,
            Step::Room => {
                // If there is no place for it, something else is there that wakes the bridge.
                drop(heard.try_send(Heard::Room));
                continue;
            }
            Step::KeepAlive(longer, say) => {
                stall = patience(keep_alive.max(longer));
                say
            }
            Step::Heard(say) => say,
            Step::Message(letter, ack) => {
                let taken = if let Some(letter) = letter {
                    intake.take(letter).await
                } else {
                    intake.refuse("", "its topic is not UTF-8");
                    Ok(())
                };
                match taken {
                    Ok(()) if ack.qos != QoS::AtMostOnce => acks.push_back(ack),
                    Ok(()) | Err(Stopping) => {}
                }
                continue;
            }
        };
        let last = matches!(say, Heard::Lost { .. });
        if heard.send(say).await.is_err() || last {
            return;
        }
    }
}

/// The span of packet ids that may be in use: one less than the library's own limit, at which it would hold our
/// acknowledgements back as well.
fn window(receive_max: Option<u16>) -> u64 {
    let limit = receive_max.unwrap_or(u16::MAX).min(IN_FLIGHT_MAX);
    u64::from(limit.saturating_sub(1).max(1))
}
