//! The way to the coordinator: predictions and reports go up, releases and acknowledgements come down.
//!
//! One task owns all of it. A prediction is sent live and kept in memory until the coordinator says that it is stored;
//! while the link is down, when its acknowledgement is late, or when memory is full, it goes to the outbox and is
//! replayed from there in batches, on topics of their own, until those are acknowledged.
//!
//! - [`interface`]: what goes in and comes out;
//! - [`mqtt`]: one connection;
//! - [`pending`]: the live predictions that are not acknowledged;
//! - [`spool`]: the outbox on its own thread;
//! - [`replay`]: the batches in flight;
//! - [`sending`]: what goes up, and in which order;
//! - [`backoff`]: when to try again.

mod backoff;
mod interface;
mod mqtt;
mod pending;
mod replay;
mod sending;
mod spool;
mod tls;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lamppost_models::message::{Ack, NodeState, PredictionRange};
use lamppost_models::{Status, Timestamp, Topic, V1};
use tokio::sync::{mpsc, watch};

use crate::outbox::Outbox;
use crate::publish::{Prediction, Properties};
use backoff::Backoff;
use mqtt::{Closed, Events, Heard, Outgoing};
use pending::{Limits, Pending, Record};
use replay::Replay;
use sending::{Online, retained, send};
use spool::Spool;

pub(crate) use interface::{Delivery, Documents, Identity, Login, Made, UplinkConfig, UplinkState};
pub(crate) use spool::SpoolState;
pub use tls::TlsError;
pub(crate) use tls::install_provider;

/// How long a stop waits for acknowledgements before it writes to the outbox what has none.
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stop waits for the broker to hang up.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// All that the uplink is started with.
pub(crate) struct Start {
    pub(crate) config: UplinkConfig,
    pub(crate) identity: Identity,
    pub(crate) properties: Properties,
    pub(crate) outbox: Outbox,
    pub(crate) spool_state: watch::Sender<SpoolState>,
    pub(crate) documents: watch::Receiver<Documents>,
    pub(crate) releases: mpsc::Sender<Delivery>,
    pub(crate) state: watch::Sender<UplinkState>,
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No thread for the outbox.
    #[error("the outbox's thread does not start")]
    Thread(#[source] std::io::Error),
}

/// The task's state.
pub(crate) struct Uplink {
    config: UplinkConfig,
    identity: Identity,
    properties: Properties,
    source: Arc<str>,
    topics: Vec<Arc<str>>,
    status_topic: Arc<str>,
    reported_topic: Arc<str>,
    target: mqtt::Target,
    spool: Spool,
    spool_state: watch::Receiver<SpoolState>,
    documents: watch::Receiver<Documents>,
    releases: mpsc::Sender<Delivery>,
    state: watch::Sender<UplinkState>,
    pending: Pending,
    replay: Replay,
}

/// Why a connection is over.
enum End {
    /// It broke, for this reason.
    Lost(String),
    /// The agent stops.
    Stopping,
}

impl Uplink {
    /// Prepares the uplink, and gives out where predictions go.
    pub(crate) fn new(
        start: Start,
    ) -> Result<(Self, mpsc::Receiver<Vec<Prediction>>, Made), UplinkError> {
        let Start {
            config,
            identity,
            properties,
            outbox,
            spool_state,
            documents,
            releases,
            state,
        } = start;
        let tls = config
            .tls
            .then(|| tls::client(config.ca_file.as_deref()))
            .transpose()?;
        let topic = |topic: Topic| Arc::from(identity.root.format(&topic));
        let path = &identity.path;
        let target = mqtt::Target {
            host: config.host.clone(),
            port: config.port,
            tls,
            // A second agent of the same name takes the place of the first, as MQTT has it.
            client_id: format!("{}.{}", path.site, path.node),
            login: config.login.clone(),
            keep_alive: config.keep_alive,
            connect_timeout: config.connect_timeout,
        };
        let spool_watch = spool_state.subscribe();
        let spool = Spool::start(outbox, identity.streams.clone(), config.flush, spool_state);
        let limits = Limits {
            records: config.memory_records_max,
            bytes: config.memory_bytes_max,
            ack_timeout: config.ack_timeout,
        };
        let uplink = Self {
            source: Arc::from(format!("/nodes/{path}")),
            topics: identity
                .streams
                .iter()
                .map(|name| topic(Topic::Prediction(path.clone(), name.clone())))
                .collect(),
            status_topic: topic(Topic::Status(path.clone())),
            reported_topic: topic(Topic::Reported(path.clone())),
            target,
            spool: spool.map_err(UplinkError::Thread)?,
            spool_state: spool_watch,
            documents,
            releases,
            state,
            pending: Pending::new(identity.boot, limits),
            replay: Replay::new(config.replay_window, config.ack_timeout),
            properties,
            identity,
            config,
        };
        let (made, incoming) = Made::channel(uplink.state.clone());
        Ok((uplink, incoming, made))
    }

    /// Runs until `made` ends, which is how the agent stops; nothing that was made is lost then.
    pub(crate) async fn run(mut self, mut made: mpsc::Receiver<Vec<Prediction>>) {
        let mut backoff = Backoff::new(
            self.config.retry_min,
            self.config.retry_max,
            self.identity.boot.as_u64(),
        );
        loop {
            let will = self.status_message(self.last_words());
            let (requests, mut events) = mqtt::connect(&self.target, &will);
            let end = match self.wait_for_connection(&mut events, &mut made).await {
                Ok(packet_bytes_max) => {
                    let mut online = Online {
                        requests,
                        packet_bytes_max,
                        urgent: VecDeque::new(),
                    };
                    let since = Instant::now();
                    let end = self.stay_online(&mut online, &mut events, &mut made).await;
                    backoff.was_up(since.elapsed());
                    if matches!(end, End::Stopping) {
                        self.leave(online, events).await;
                    }
                    end
                }
                Err(end) => end,
            };
            self.state
                .send_modify(|state| (state.connected, state.refused) = (false, None));
            self.replay.forget();
            let unacknowledged = self.pending.take_all();
            self.spool.store(unacknowledged).await;
            let End::Lost(reason) = end else { break };
            if self.spool_state.has_changed().is_err() {
                tracing::error!("the outbox's thread is gone: the uplink ends");
                break;
            }
            let pause = backoff.next();
            tracing::info!(
                reason,
                pause_ms = pause.as_millis(),
                "no connection to the coordinator"
            );
            if self.stay_offline(pause, &mut made).await {
                break;
            }
        }
        self.spool.stop().await;
    }

    /// Waits for the broker's answer; what is made meanwhile goes to the outbox.
    async fn wait_for_connection(
        &mut self,
        events: &mut Events,
        made: &mut mpsc::Receiver<Vec<Prediction>>,
    ) -> Result<usize, End> {
        loop {
            tokio::select! {
                heard = events.hear() => match heard {
                    Heard::Connected { packet_bytes_max } => return Ok(packet_bytes_max),
                    Heard::Lost { reason } => return Err(End::Lost(reason)),
                    Heard::Message { .. } | Heard::Refused { .. } => {}
                },
                batch = made.recv() => match batch {
                    Some(batch) => self.spool.store(records(batch).collect()).await,
                    None => return Err(End::Stopping),
                },
            }
        }
    }

    /// Waits for the next attempt; true if the agent stops meanwhile.
    async fn stay_offline(
        &self,
        pause: Duration,
        made: &mut mpsc::Receiver<Vec<Prediction>>,
    ) -> bool {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return false,
                batch = made.recv() => match batch {
                    Some(batch) => self.spool.store(records(batch).collect()).await,
                    None => return true,
                },
            }
        }
    }

    async fn stay_online(
        &mut self,
        online: &mut Online,
        events: &mut Events,
        made: &mut mpsc::Receiver<Vec<Prediction>>,
    ) -> End {
        tracing::info!(
            host = self.config.host,
            port = self.config.port,
            "connected to the coordinator"
        );
        self.state
            .send_modify(|state| (state.connected, state.refused) = (true, None));
        if online.requests.subscribe(self.filters()).await.is_err() {
            return End::Lost("the client library gave up".to_owned());
        }
        let mut shown = Documents::default();
        self.show_changes(online, &mut shown);
        loop {
            self.give_up_late().await;
            let blocked = match self.send_burst(online) {
                Ok(blocked) => blocked,
                Err(Closed) => return End::Lost("the client library gave up".to_owned()),
            };
            let (waiting, revision) = {
                let state = self.spool_state.borrow();
                (state.reported.batches, state.revision)
            };
            self.replay.want(&self.spool, waiting, revision).await;
            let due = self.next_due();
            tokio::select! {
                heard = events.hear() => {
                    if let Some(reason) = self.obey(heard).await {
                        return End::Lost(reason);
                    }
                }
                outcome = send(&online.requests, blocked.as_ref()), if blocked.is_some() => match (outcome, blocked) {
                    (Ok(()), Some(next)) => self.note_sent(online, &next),
                    _ => return End::Lost("the client library gave up".to_owned()),
                },
                batch = made.recv() => match batch {
                    Some(batch) => self.take_in(batch).await,
                    None => return End::Stopping,
                },
                changed = self.documents.changed() => {
                    // The report outlives the uplink; were it gone, there would be nothing new to say.
                    if changed.is_ok() {
                        self.show_changes(online, &mut shown);
                    }
                }
                batches = self.replay.answer() => self.replay.take(batches),
                changed = self.spool_state.changed() => if changed.is_err() {
                    return End::Lost("the outbox's thread is gone".to_owned());
                },
                () = sleep_until(due) => {}
            }
        }
    }

    async fn take_in(&mut self, batch: Vec<Prediction>) {
        let now = Instant::now();
        records(batch).for_each(|record| self.pending.push(record, now));
        let excess = self.pending.take_excess();
        if !excess.is_empty() {
            tracing::debug!(
                predictions = excess.len(),
                "the uplink is slow: predictions go to the outbox"
            );
            self.spool.store(excess).await;
        }
    }

    async fn give_up_late(&mut self) {
        let now = Instant::now();
        let late = self.pending.take_late(now);
        if !late.is_empty() {
            tracing::warn!(
                predictions = late.len(),
                "the coordinator does not acknowledge: they go to the outbox"
            );
            self.spool.store(late).await;
        }
        self.replay.give_up_late(now);
    }

    fn next_due(&self) -> Option<Instant> {
        self.pending
            .next_due()
            .into_iter()
            .chain(self.replay.next_due())
            .min()
    }

    /// Does what was heard; the reason when the connection is over.
    async fn obey(&mut self, heard: Heard) -> Option<String> {
        match heard {
            Heard::Lost { reason } => return Some(reason),
            Heard::Connected { .. } => {}
            Heard::Refused { reason } => {
                tracing::warn!(reason, "the coordinator's broker refused");
                self.state.send_modify(|state| state.refused = Some(reason));
            }
            Heard::Message { topic, payload } => match self.identity.root.parse(&topic) {
                Ok(Topic::Ack(path)) if path == self.identity.path => {
                    self.acknowledge(&payload).await;
                }
                Ok(Topic::Release { group, model }) => {
                    // The slots take a release in no time; when they are gone, the agent stops.
                    if self
                        .releases
                        .send(Delivery {
                            group,
                            model,
                            payload,
                        })
                        .await
                        .is_err()
                    {
                        tracing::debug!("a release came while the agent stops");
                    }
                }
                Ok(_) | Err(_) => tracing::debug!(topic, "a message that is none of ours"),
            },
        }
        None
    }

    async fn acknowledge(&mut self, payload: &[u8]) {
        let ack: Ack = match serde_json::from_slice(payload) {
            Ok(ack) => ack,
            Err(error) => {
                tracing::warn!(%error, "the coordinator sent an acknowledgement that does not parse");
                return;
            }
        };
        let live: usize = ack
            .predictions
            .iter()
            .map(|range: &PredictionRange| self.pending.acknowledge(*range))
            .sum();
        tracing::trace!(live, batches = ack.batches.len(), "acknowledged");
        let epoch = self.spool.epoch();
        let ranges: Vec<_> = ack
            .batches
            .into_iter()
            .filter(|range| range.epoch == epoch)
            .collect();
        if !ranges.is_empty() {
            self.replay.acknowledge(&ranges);
            self.spool.acknowledge(ranges).await;
        }
    }

    /// Waits for the last acknowledgements, says that the node goes down, and hangs up.
    async fn leave(&mut self, mut online: Online, mut events: Events) {
        let last_acks = async {
            while self.pending.len() > 0 {
                let Ok(blocked) = self.send_burst(&mut online) else {
                    return;
                };
                tokio::select! {
                    heard = events.hear() => if self.obey(heard).await.is_some() {
                        return;
                    },
                    outcome = send(&online.requests, blocked.as_ref()), if blocked.is_some() => match (outcome, blocked) {
                        (Ok(()), Some(next)) => self.note_sent(&mut online, &next),
                        _ => return,
                    },
                }
            }
        };
        if tokio::time::timeout(LAST_ACKS_TIMEOUT, last_acks)
            .await
            .is_err()
        {
            tracing::debug!(
                predictions = self.pending.len(),
                "the coordinator did not acknowledge all before the stop"
            );
        }
        let goodbye = self.status_message(self.last_words());
        let left = async {
            if online.requests.publish(&goodbye).await.is_ok()
                && online.requests.disconnect().await.is_ok()
            {
                while !matches!(events.hear().await, Heard::Lost { .. }) {}
            }
        };
        if tokio::time::timeout(LEAVE_TIMEOUT, left).await.is_err() {
            tracing::debug!("the coordinator's broker did not hang up");
        }
    }

    fn filters(&self) -> Vec<String> {
        let root = &self.identity.root;
        let own = root.format(&Topic::Ack(self.identity.path.clone()));
        std::iter::once(own)
            .chain(
                self.identity
                    .groups
                    .iter()
                    .map(|group| root.releases_filter(group)),
            )
            .collect()
    }

    /// The status that says that the node is down.
    fn last_words(&self) -> Bytes {
        let status = Status {
            v: V1,
            state: NodeState::Down,
            boot: self.identity.boot,
            at: wall_clock(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            groups: self.identity.groups.clone(),
        };
        crate::to_json(&status)
    }

    fn status_message(&self, payload: Bytes) -> Outgoing {
        retained(&self.status_topic, payload)
    }
}

fn records(batch: Vec<Prediction>) -> impl Iterator<Item = Record> {
    batch.into_iter().map(
        |Prediction {
             stream,
             id,
             ts,
             json,
             ..
         }| Record {
            number: id.number,
            stream,
            ts,
            json,
        },
    )
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The node's clock; 1970 when it is set to before that.
pub(crate) fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis())
        .ok()
        .and_then(|ms| Timestamp::from_ms(ms).ok())
        .unwrap_or(Timestamp::EPOCH)
}
