//! The one owner of the state: a thread of its own, since the store blocks.
//!
//! It takes messages from the bus in rounds, each one commit, and acknowledges after it; between rounds it answers
//! questions. When the store fails it is opened anew, with growing pauses; until then questions get an error, messages
//! wait in their bounded queue, and nothing is acknowledged.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lamppost_models::Topic;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Message, Outgoing};
use crate::clock::now;
use crate::state::{Counters, Incoming, NodeAck, Settings, State};

/// Questions that wait; each is one HTTP request, and a further one waits for a place.
const CALLS_MAX: usize = 64;
/// Messages of a round: with 250 bytes each and 10 ms a commit, some 25,000 predictions a second.
const ROUND_MESSAGES_MAX: usize = 256;
/// Bytes of a round, unpacked: a quarter of what the store takes in one commit, so that marks and inventory fit too.
const ROUND_BYTES_MAX: usize = 1 << 20;
/// How long a round waits for more messages: an acknowledgement comes at most that much later, and a slow trickle costs
/// at most 20 commits a second.
const ROUND_TIME: Duration = Duration::from_millis(50);
/// Pauses between attempts to open the store anew.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
const REOPEN_LAST: Duration = Duration::from_secs(30);
/// How long one acknowledgement may wait for the bus.
const ACK_TIME: Duration = Duration::from_secs(5);

type Call = Box<dyn FnOnce(Result<&mut State, Unavailable>) + Send>;

/// The store does not work at the moment.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the coordinator's store does not work at the moment: {cause}")]
pub(crate) struct Unavailable {
    cause: Arc<str>,
}

/// A way to ask the owner of the state.
#[derive(Clone)]
pub(crate) struct Centre {
    calls: mpsc::Sender<Call>,
}

impl Centre {
    /// Runs `ask` on the state, when its turn comes.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (sender, answer) = oneshot::channel();
        let call: Call = Box::new(move |state| {
            // Nobody waits for the answer when the client hung up.
            drop(sender.send(state.map(ask)));
        });
        let gone = || Unavailable {
            cause: "the coordinator is stopping".into(),
        };
        self.calls.send(call).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// The owner of the state.
pub(crate) struct Owner {
    dir: PathBuf,
    settings: Settings,
    /// `None` while the store does not work.
    state: Option<State>,
    calls: mpsc::Receiver<Call>,
    inbox: mpsc::Receiver<Message>,
    bus: Bus,
    round: Vec<Incoming>,
    round_bytes: usize,
    round_ends: Option<Instant>,
    reopen: Option<Reopen>,
    /// Counts of earlier states, since a state that is opened anew starts at nothing.
    counters: Counters,
    /// The last round was refused as a whole: its messages are taken in one by one, to find the culprit.
    singly: bool,
}

struct Reopen {
    at: Instant,
    pause: Duration,
    cause: Arc<str>,
}

impl Owner {
    pub(crate) fn new(
        dir: PathBuf,
        state: State,
        inbox: mpsc::Receiver<Message>,
        bus: Bus,
    ) -> (Centre, Self) {
        let (sender, calls) = mpsc::channel(CALLS_MAX);
        let settings = state.settings.clone();
        let owner = Self {
            dir,
            settings,
            state: Some(state),
            calls,
            inbox,
            bus,
            round: Vec::with_capacity(ROUND_MESSAGES_MAX),
            round_bytes: 0,
            round_ends: None,
            reopen: None,
            counters: Counters::default(),
            singly: false,
        };
        (Centre { calls: sender }, owner)
    }

    /// Runs until `stop`, then takes in what is in the queue. To be run on a thread that may block.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let collecting = self.state.is_some() && self.room();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(call) = self.calls.recv() => self.answer(call),
                Some(message) = self.inbox.recv(), if collecting => self.collect(message),
                () = at(self.round_ends), if self.state.is_some() => self.finish_round().await,
                () = at(self.reopen.as_ref().map(|reopen| reopen.at)) => self.try_reopen(),
            }
            if self.state.is_some() && !self.room() {
                self.finish_round().await;
            }
        }
        self.drain().await;
    }

    fn room(&self) -> bool {
        self.round.len() < ROUND_MESSAGES_MAX && self.round_bytes < ROUND_BYTES_MAX
    }

    fn answer(&mut self, call: Call) {
        match (&mut self.state, &self.reopen) {
            (Some(state), _) => call(Ok(state)),
            (None, Some(reopen)) => call(Err(Unavailable {
                cause: Arc::clone(&reopen.cause),
            })),
            (None, None) => call(Err(Unavailable {
                cause: "it is being opened".into(),
            })),
        }
        self.check_state("a question could not be answered");
    }

    fn collect(&mut self, message: Message) {
        let Message { topic, payload, .. } = message;
        let message = Incoming { topic, payload };
        self.round_bytes += message.unpacked_bytes();
        self.round.push(message);
        self.round_ends
            .get_or_insert_with(|| Instant::now() + ROUND_TIME);
    }

    async fn finish_round(&mut self) {
        self.round_ends = None;
        let Some(state) = &mut self.state else { return };
        let messages = if self.singly { 1 } else { self.round.len() };
        let part = self.round.get(..messages).unwrap_or_default();
        match state.ingest(part, now()) {
            Ok(acks) => {
                self.taken(messages);
                self.acknowledge(acks).await;
            }
            Err(error) if refuses(&error) && messages <= 1 => {
                tracing::error!(%error, "a message that the store does not take is dropped");
                state.counters.note("store");
                self.taken(messages);
                self.check_state("a message was refused");
            }
            Err(error) => {
                self.singly = refuses(&error);
                tracing::error!(
                    error = crate::error::chain(&error),
                    "nothing of this round was stored"
                );
                self.round_ends = Some(Instant::now());
                self.check_state(&crate::error::chain(&error));
            }
        }
    }

    /// Drops the first messages of the round, which are done.
    fn taken(&mut self, messages: usize) {
        self.round.drain(..messages.min(self.round.len()));
        self.round_bytes = self.round.iter().map(Incoming::unpacked_bytes).sum();
        if self.round.is_empty() {
            self.singly = false;
        } else {
            self.round_ends = Some(Instant::now());
        }
    }

    async fn acknowledge(&mut self, acks: Vec<NodeAck>) {
        for NodeAck { path, ack } in acks {
            let topic = self.settings.root.format(&Topic::Ack(path));
            let Ok(payload) = serde_json::to_vec(&ack) else {
                continue;
            };
            let outgoing = Outgoing {
                topic,
                payload: payload.into(),
                retain: false,
                expiry: None,
            };
            let sent = tokio::time::timeout(ACK_TIME, self.bus.publish(outgoing)).await;
            // The node sends again what was not acknowledged, and gets another acknowledgement then.
            let error = match sent {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the bus does not take it in time".to_owned(),
            };
            tracing::debug!(error, "an acknowledgement is not sent");
            if let Some(state) = &mut self.state {
                state.counters.note("ack_not_sent");
            }
        }
    }

    /// Lets go of a state whose memory may differ from the disk.
    fn check_state(&mut self, cause: &str) {
        if let Some(state) = self.state.take_if(|state| state.stopped()) {
            self.counters = state.counters.clone();
            // The store must be closed before it is opened again.
            drop(state);
            self.reopen = Some(Reopen {
                at: Instant::now(),
                pause: REOPEN_FIRST,
                cause: cause.into(),
            });
        }
    }

    fn try_reopen(&mut self) {
        match State::open(&self.dir, self.settings.clone()) {
            Ok(mut state) => {
                tracing::info!("the store is open again");
                state.counters.add(&std::mem::take(&mut self.counters));
                (self.state, self.reopen) = (Some(state), None);
            }
            Err(error) => {
                let cause = crate::error::chain(&error);
                let pause = self
                    .reopen
                    .as_ref()
                    .map_or(REOPEN_FIRST, |reopen| reopen.pause);
                tracing::error!(error = cause, pause = ?pause, "the store does not open; it is tried again");
                let later = (pause * 2).min(REOPEN_LAST);
                self.reopen = Some(Reopen {
                    at: Instant::now() + pause,
                    pause: later,
                    cause: cause.into(),
                });
            }
        }
    }

    /// Takes in what has arrived and answers what was asked, once: the node sends again what is left.
    async fn drain(&mut self) {
        self.calls.close();
        while let Ok(call) = self.calls.try_recv() {
            self.answer(call);
        }
        self.inbox.close();
        while self.state.is_some() {
            while self.room() {
                let Ok(message) = self.inbox.try_recv() else {
                    break;
                };
                self.collect(message);
            }
            if self.round.is_empty() {
                break;
            }
            self.finish_round().await;
        }
        // Dropping the state closes the store and waits for its files.
        self.state = None;
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Whether the store works and does not want these writes.
const fn refuses(error: &lamppost_store::StoreError) -> bool {
    use lamppost_store::StoreError as E;
    match error {
        E::Key { .. } | E::Value { .. } | E::Commit { .. } => true,
        E::Corrupt { .. } | E::Read { .. } | E::Write { .. } | E::Stopped { .. } => false,
    }
}

#[cfg(test)]
mod tests;
