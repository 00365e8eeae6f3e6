//! The way to the coordinator: predictions and reports go up, releases and acknowledgements come down.
//!
//! One task owns all of it. A prediction is sent live and kept in memory until the coordinator says that it is stored;
//! while the link is down, when its acknowledgement is late, or when memory is full, it goes to the outbox and is
//! replayed from there in batches, on topics of their own, until those are acknowledged. With `durability = "always"` it
//! goes to the outbox first and is sent live from there, and its batch is done when all in it are.
//!
//! - [`interface`]: what goes in and comes out;
//! - [`mqtt`]: one connection;
//! - [`pending`]: the live predictions that are not acknowledged;
//! - [`held`]: the batches whose predictions are sent live;
//! - [`feed`]: what comes in, and what is here when a report asks;
//! - [`samples`]: the way of samples into the outbox;
//! - [`spool`]: the outbox on its own thread;
//! - [`replay`]: the batches in flight;
//! - [`sending`]: what goes up, and in which order;
//! - [`backoff`]: when to try again.

mod backoff;
mod feed;
mod held;
mod interface;
mod mqtt;
mod pending;
mod replay;
mod samples;
mod sending;
mod spool;
mod tls;

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lamppost_agent_core::outbox::Now;
use lamppost_agent_core::pace::{Pace, Spent};
use lamppost_models::message::{Ack, BatchRange, NodeState};
use lamppost_models::{Status, Timestamp, Topic, V1};
use tokio::sync::{mpsc, watch};

use crate::publish::Properties;
use crate::trust::{self, Mail};
use backoff::Backoff;
use held::Held;
use interface::Feed;
use mqtt::{Closed, Events, Heard, Outgoing};
use pending::{Limits, Pending, Record};
use replay::Replay;
use sending::{Online, retained, send};
use spool::{Part, Spool, SpoolConfig};

pub(crate) use interface::{
    Delivery, Documents, Identity, Login, Looker, Made, Sight, UplinkConfig, UplinkState,
};
pub(crate) use samples::{SampleBatch, Samples};
pub(crate) use spool::{Door, SpoolState};
pub use tls::TlsError;
pub(crate) use tls::install_provider;

/// How long a stop waits for acknowledgements before it writes to the outbox what has none.
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stop waits for the broker to hang up.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Batches of events in flight: they are few, and a batch tells of many losses.
const EVENTS_WINDOW: usize = 4;
/// What was sent today is noted in so many steps, ahead of the sending: a sudden end costs the budget two at most.
const BUDGET_STEPS: u64 = 256;
/// The step where there is no budget, and only the report tells what was sent.
const UNLIMITED_STEP_BYTES: u64 = 16 << 20;

/// All that the uplink is started with.
pub(crate) struct Start {
    pub(crate) config: UplinkConfig,
    pub(crate) identity: Identity,
    pub(crate) properties: Properties,
    pub(crate) outbox: Door,
    pub(crate) spool_state: watch::Sender<SpoolState>,
    pub(crate) documents: watch::Receiver<Documents>,
    pub(crate) releases: mpsc::Sender<Delivery>,
    pub(crate) trust: trust::Ends,
    pub(crate) state: watch::Sender<UplinkState>,
}

/// The ways into the uplink.
pub(crate) struct Ways {
    pub(crate) made: Made,
    pub(crate) samples: Samples,
    pub(crate) looker: Looker,
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
    trust: trust::Ends,
    question_topic: Arc<str>,
    state: watch::Sender<UplinkState>,
    pending: Pending,
    events: Replay,
    replay: Replay,
    pace: Pace,
    /// When history may go on that the pace held up.
    pace_due: Option<Instant>,
    /// What is noted on the disk as sent today.
    noted: Option<Spent>,
    /// With `durability = "always"`: what was stored and may be sent.
    stored: mpsc::Receiver<Vec<Record>>,
    held: Held,
    /// The number after the last prediction that came here, by stream.
    seen: Vec<u64>,
    /// Since when there is no connection.
    offline_since: Instant,
}

/// Why a connection is over.
enum End {
    /// It broke, for this reason.
    Lost(String),
    /// The agent stops.
    Stopping,
}

impl Uplink {
    /// Prepares the uplink, and gives out where predictions and samples go.
    pub(crate) fn new(start: Start) -> Result<(Self, mpsc::Receiver<Feed>, Ways), UplinkError> {
        let Start {
            config,
            identity,
            properties,
            outbox,
            spool_state,
            documents,
            releases,
            trust,
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
        let (before, sampled) = (outbox.spent(), outbox.sampled());
        let spool_config = SpoolConfig {
            boot: identity.boot,
            streams: identity.streams.clone(),
            durability: config.durability,
            flush: config.flush,
            compress: config.compress,
        };
        let (spool, stored) =
            Spool::start(outbox, spool_config, spool_state).map_err(UplinkError::Thread)?;
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
            spool,
            stored,
            spool_state: spool_watch,
            documents,
            releases,
            trust,
            question_topic: topic(Topic::TimeQuestion(path.clone())),
            state,
            pending: Pending::new(identity.boot, limits),
            events: Replay::new(Part::Events, EVENTS_WINDOW, config.ack_timeout),
            replay: Replay::new(Part::History, config.replay_window, config.ack_timeout),
            pace: Pace::new(config.pace, before, clock()),
            pace_due: None,
            noted: before,
            held: Held::default(),
            seen: vec![0; identity.streams.len()],
            offline_since: Instant::now(),
            properties,
            identity,
            config,
        };
        let (made, incoming, looker) = Made::channel(uplink.state.clone());
        let samples = Samples::new(uplink.spool.commands(), made.hold(), sampled);
        let ways = Ways {
            made,
            samples,
            looker,
        };
        Ok((uplink, incoming, ways))
    }

    /// Runs until `made` ends, which is how the agent stops; nothing that was made is lost then.
    pub(crate) async fn run(mut self, mut made: mpsc::Receiver<Feed>) {
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
                    self.spread_replay(&mut backoff);
                    let end = self.stay_online(&mut online, &mut events, &mut made).await;
                    backoff.was_up(since.elapsed());
                    self.offline_since = Instant::now();
                    if matches!(end, End::Stopping) {
                        self.leave(online, events).await;
                    }
                    end
                }
                Err(end) => end,
            };
            self.state
                .send_modify(|state| (state.connected, state.refused) = (false, None));
            self.events.forget();
            self.replay.forget();
            let unacknowledged = self.pending.take_all();
            self.give_up(unacknowledged).await;
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
        let spent = self.pace.spent(clock());
        self.spool.keep_spent(spent).await;
        self.spool.stop().await;
    }

    /// After a longer outage, history waits a random time: not all of a city's nodes begin at once.
    fn spread_replay(&mut self, backoff: &mut Backoff) {
        let spread = self.config.replay_spread;
        if self.offline_since.elapsed() > spread {
            let delay = spread.mul_f64(backoff.fraction());
            self.replay.delay(Instant::now() + delay);
        }
    }

    /// Waits for the broker's answer; what is made meanwhile goes to the outbox.
    async fn wait_for_connection(
        &mut self,
        events: &mut Events,
        made: &mut mpsc::Receiver<Feed>,
    ) -> Result<usize, End> {
        loop {
            tokio::select! {
                heard = events.hear() => match heard {
                    Heard::Connected { packet_bytes_max } => return Ok(packet_bytes_max),
                    Heard::Lost { reason } => return Err(End::Lost(reason)),
                    Heard::Message { .. } | Heard::Refused { .. } => {}
                },
                feed = made.recv() => match feed {
                    Some(feed) => self.store_feed(feed).await,
                    None => return Err(End::Stopping),
                },
            }
        }
    }

    /// Waits for the next attempt; true if the agent stops meanwhile.
    async fn stay_offline(&mut self, pause: Duration, made: &mut mpsc::Receiver<Feed>) -> bool {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return false,
                feed = made.recv() => match feed {
                    Some(feed) => self.store_feed(feed).await,
                    None => return true,
                },
            }
        }
    }

    async fn stay_online(
        &mut self,
        online: &mut Online,
        events: &mut Events,
        made: &mut mpsc::Receiver<Feed>,
    ) -> End {
        tracing::info!(
            host = self.config.host,
            port = self.config.port,
            "connected to the coordinator"
        );
        // What was asked of another connection is not answered on this one.
        while self.trust.questions.try_recv().is_ok() {}
        self.state
            .send_modify(|state| (state.connected, state.refused) = (true, None));
        if online.requests.subscribe(self.filters()).await.is_err() {
            return End::Lost("the client library gave up".to_owned());
        }
        let mut shown = Documents::default();
        self.show_changes(online, &mut shown);
        // What was stored while there was no connection goes in batches.
        while self.stored.try_recv().is_ok() {}
        loop {
            self.give_up_late().await;
            self.note_spent().await;
            self.pace_due = None;
            let blocked = match self.send_burst(online) {
                Ok(blocked) => blocked,
                Err(Closed) => return End::Lost("the client library gave up".to_owned()),
            };
            self.want_batches().await;
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
                feed = made.recv() => match feed {
                    Some(feed) => self.take_feed(feed).await,
                    None => return End::Stopping,
                },
                Some(records) = self.stored.recv() => self.hold(records).await,
                Some(question) = self.trust.questions.recv() => self.ask(online, question),
                changed = self.documents.changed() => {
                    // The report outlives the uplink; were it gone, there would be nothing new to say.
                    if changed.is_ok() {
                        self.show_changes(online, &mut shown);
                    }
                }
                batches = self.events.answer() => self.events.take(batches, |_| false),
                batches = self.replay.answer() => {
                    // Whatever is sent one by one was said before the outbox answered.
                    while let Ok(records) = self.stored.try_recv() {
                        self.hold(records).await;
                    }
                    self.replay.take(batches, |batch| self.held.has(batch));
                }
                changed = self.spool_state.changed() => if changed.is_err() {
                    return End::Lost("the outbox's thread is gone".to_owned());
                },
                () = sleep_until(due) => {}
            }
        }
    }

    async fn want_batches(&mut self) {
        let (events, history, revision) = {
            let state = self.spool_state.borrow();
            let waiting = |part| state.waiting(part);
            (
                waiting(Part::Events),
                waiting(Part::History),
                state.revision,
            )
        };
        let now = Instant::now();
        self.events.want(&self.spool, events, revision, now).await;
        self.replay.want(&self.spool, history, revision, now).await;
    }

    async fn give_up_late(&mut self) {
        let now = Instant::now();
        let late = self.pending.take_late(now);
        if !late.is_empty() {
            tracing::warn!(
                predictions = late.len(),
                "the coordinator does not acknowledge: they go to the outbox"
            );
            self.give_up(late).await;
        }
        self.events.give_up_late(now);
        self.replay.give_up_late(now);
    }

    /// Notes what was sent today on the disk, ahead of what will be.
    async fn note_spent(&mut self) {
        let step = match self.config.pace.day_bytes {
            Some(day_bytes) => (day_bytes / BUDGET_STEPS).max(1),
            None => UNLIMITED_STEP_BYTES,
        };
        let spent = self.pace.spent(clock());
        let is_noted = self.noted.is_some_and(|noted| {
            noted.since == spent.since && noted.bytes >= spent.bytes.saturating_add(step)
        });
        if !is_noted {
            let noted = Spent {
                bytes: spent.bytes.saturating_add(2 * step),
                ..spent
            };
            self.spool.keep_spent(noted).await;
            self.noted = Some(noted);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let dues = [
            self.pending.next_due(),
            self.events.next_due(),
            self.replay.next_due(),
            self.pace_due,
        ];
        dues.into_iter().flatten().min()
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
                Ok(Topic::Trust) => self.hand_on(Mail::Trust(payload)).await,
                Ok(Topic::Time) => self.hand_on(Mail::Time(payload)).await,
                Ok(Topic::TimeAnswer(path)) if path == self.identity.path => {
                    self.hand_on(Mail::Answer(payload)).await;
                }
                Ok(_) | Err(_) => tracing::debug!(topic, "a message that is none of ours"),
            },
        }
        None
    }

    async fn hand_on(&self, mail: Mail) {
        // It takes no longer than to write a small file; when the task is gone, the agent stops.
        if self.trust.mail.send(mail).await.is_err() {
            tracing::debug!("a trust document or time came while the agent stops");
        }
    }

    async fn acknowledge(&mut self, payload: &[u8]) {
        let ack: Ack = match serde_json::from_slice(payload) {
            Ok(ack) => ack,
            Err(error) => {
                tracing::warn!(%error, "the coordinator sent an acknowledgement that does not parse");
                return;
            }
        };
        let epoch = self.spool.epoch();
        let mut ranges = ack.batches;
        ranges.retain(|range| Some(range.epoch) == epoch);
        for range in &ack.predictions {
            let acknowledged = self.pending.acknowledge(*range);
            tracing::trace!(live = acknowledged.predictions, "acknowledged");
            for batch in acknowledged.batches {
                if self.held.acknowledge(batch)
                    && let Some(epoch) = epoch
                {
                    let (from, to) = (batch, batch);
                    ranges.push(BatchRange { epoch, from, to });
                }
            }
        }
        if !ranges.is_empty() {
            self.events.acknowledge(&ranges);
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
        let path = &self.identity.path;
        // The keys and the time come first, so that releases find them.
        [
            Topic::Trust,
            Topic::Time,
            Topic::TimeAnswer(path.clone()),
            Topic::Ack(path.clone()),
        ]
        .iter()
        .map(|topic| root.format(topic))
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
            tags: self.identity.tags.clone(),
        };
        crate::to_json(&status)
    }

    fn status_message(&self, payload: Bytes) -> Outgoing {
        retained(&self.status_topic, payload)
    }
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

/// Both clocks of the node.
pub(crate) fn clock() -> Now {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Now {
        wall: wall_clock(),
        steady: START.elapsed(),
    }
}
