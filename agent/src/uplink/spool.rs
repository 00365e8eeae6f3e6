//! The outbox's own thread: the disk never holds up a task.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamppost_agent_core::outbox::Class;
use lamppost_models::message::{BatchRange, ReportedOutbox};
use lamppost_models::{Epoch, Prediction, StreamName};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::pending::Record;
use super::wall_clock;
use crate::outbox::{Outbox, StoredBatch};

/// Commands that wait: a few, each with many records, so that a disk that takes a second stalls nobody.
const COMMANDS_MAX: usize = 32;
/// Records that are collected before they are stored together: two batches of the outbox, about.
const COLLECT_MAX: usize = 128;
/// How often age and cap are looked after when nothing else happens.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

enum Command {
    Store(Vec<Record>),
    Peek {
        after: Option<u64>,
        max: usize,
        reply: oneshot::Sender<Vec<StoredBatch>>,
    },
    Acknowledge(Vec<BatchRange>),
    Flush(oneshot::Sender<()>),
}

/// What the outbox says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpoolState {
    /// For the report.
    pub(crate) reported: ReportedOutbox,
    /// Grows with every write, and with every sweep, so that a read that failed is tried again.
    pub(crate) revision: u64,
    /// Why the last write or read failed, until one succeeds.
    pub(crate) failing: Option<String>,
}

/// The handle of the thread. Dropped, the thread stores what it has and ends.
pub(super) struct Spool {
    commands: mpsc::Sender<Command>,
    epoch: Epoch,
    thread: JoinHandle<()>,
}

impl Spool {
    /// Starts the thread; `state` is kept up to date by it.
    pub(super) fn start(
        outbox: Outbox,
        streams: Vec<StreamName>,
        flush: Duration,
        state: watch::Sender<SpoolState>,
    ) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let epoch = outbox.epoch();
        let keeper = Keeper {
            outbox,
            streams,
            flush,
            state,
            collected: Vec::new(),
            oldest: None,
            revision: 0,
        };
        let handle = Handle::current();
        let thread = std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || keeper.run(&handle, receiver))?;
        Ok(Self {
            commands,
            epoch,
            thread,
        })
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Hands records over to be stored within a flush interval.
    pub(super) async fn store(&self, records: Vec<Record>) {
        let count = records.len();
        if count > 0 && self.commands.send(Command::Store(records)).await.is_err() {
            tracing::error!(
                records = count,
                "the outbox's thread is gone: records are lost"
            );
        }
    }

    /// Asks for the oldest batches behind `after`; the answer comes by the channel.
    pub(super) async fn peek(
        &self,
        after: Option<u64>,
        max: usize,
    ) -> oneshot::Receiver<Vec<StoredBatch>> {
        let (reply, answer) = oneshot::channel();
        // Without a thread the answer's sender is gone, which the receiver sees.
        if self
            .commands
            .send(Command::Peek { after, max, reply })
            .await
            .is_err()
        {
            tracing::error!("the outbox's thread is gone: nothing can be replayed");
        }
        answer
    }

    pub(super) async fn acknowledge(&self, ranges: Vec<BatchRange>) {
        if self
            .commands
            .send(Command::Acknowledge(ranges))
            .await
            .is_err()
        {
            tracing::error!("the outbox's thread is gone: an acknowledgement is lost");
        }
    }

    /// Stores what was handed over, and ends the thread.
    pub(super) async fn stop(self) {
        let (done, stored) = oneshot::channel();
        let sent = self.commands.send(Command::Flush(done)).await.is_ok();
        if sent && stored.await.is_err() {
            tracing::error!("the outbox's thread ended before it stored all");
        }
        drop(self.commands);
        if tokio::task::spawn_blocking(move || self.thread.join())
            .await
            .is_ok_and(|joined| joined.is_err())
        {
            tracing::error!("the outbox's thread panicked");
        }
    }
}

struct Keeper {
    outbox: Outbox,
    streams: Vec<StreamName>,
    flush: Duration,
    state: watch::Sender<SpoolState>,
    collected: Vec<Record>,
    /// Since when the oldest of the collected records waits.
    oldest: Option<Instant>,
    revision: u64,
}

impl Keeper {
    fn run(mut self, handle: &Handle, mut commands: mpsc::Receiver<Command>) {
        self.sweep();
        let mut swept = Instant::now();
        loop {
            let until_flush = self
                .oldest
                .map(|since| (since + self.flush).saturating_duration_since(Instant::now()));
            let wait = until_flush.unwrap_or(SWEEP_EVERY);
            match handle.block_on(async { tokio::time::timeout(wait, commands.recv()).await }) {
                Ok(Some(command)) => self.obey(command),
                Ok(None) => break,
                Err(_) => {}
            }
            if self
                .oldest
                .is_some_and(|since| since.elapsed() >= self.flush)
                || self.collected.len() >= COLLECT_MAX
            {
                self.store();
            }
            if swept.elapsed() >= SWEEP_EVERY {
                self.sweep();
                swept = Instant::now();
            }
        }
        self.store();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Store(records) => {
                self.oldest.get_or_insert_with(Instant::now);
                self.collected.extend(records);
            }
            Command::Peek { after, max, reply } => {
                // What was made before what is on the disk's end shall not overtake it.
                let found = self.outbox.peek(after, max);
                let batches = self.note("read", found).unwrap_or_default();
                // Whoever asked may have lost its connection since.
                drop(reply.send(batches));
            }
            Command::Acknowledge(ranges) => {
                let acknowledged = self.outbox.acknowledge(&ranges, wall_clock());
                self.note("acknowledge", acknowledged);
            }
            Command::Flush(done) => {
                self.store();
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the flush any more");
                }
            }
        }
    }

    /// Stores the collected records, stream by stream, each in its order.
    fn store(&mut self) {
        self.oldest = None;
        if self.collected.is_empty() {
            return;
        }
        let mut by_stream: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for record in std::mem::take(&mut self.collected) {
            by_stream
                .entry(record.stream)
                .or_default()
                .push(as_replay(&record.json));
        }
        for (stream, records) in by_stream {
            let Some(name) = self.streams.get(stream).cloned() else {
                continue;
            };
            let stored = self
                .outbox
                .append(Class::Prediction, &name, &records, wall_clock());
            self.revision += 1;
            self.note("write", stored);
        }
    }

    fn sweep(&mut self) {
        self.revision += 1;
        let swept = self.outbox.sweep(wall_clock());
        self.note("sweep", swept);
    }

    /// Brings the state up to date after an operation.
    fn note<T>(
        &mut self,
        operation: &'static str,
        outcome: Result<T, crate::outbox::OutboxError>,
    ) -> Option<T> {
        let (done, failing) = match outcome {
            Ok(done) => (Some(done), None),
            Err(error) => {
                let reason = crate::error_chain(&error);
                tracing::warn!(operation, reason, "the outbox failed");
                (None, Some(reason))
            }
        };
        let state = SpoolState {
            reported: self.outbox.report(),
            revision: self.revision,
            failing,
        };
        self.state.send_if_modified(|old| {
            let changed = *old != state;
            *old = state;
            changed
        });
        done
    }
}

/// The same prediction, marked as replayed.
fn as_replay(json: &Bytes) -> Vec<u8> {
    let replayed = serde_json::from_slice::<Prediction>(json).and_then(|prediction| {
        serde_json::to_vec(&Prediction {
            replay: true,
            ..prediction
        })
    });
    // What the agent wrote itself parses; were it not so, the outbox would refuse and count it.
    replayed.unwrap_or_else(|_| json.to_vec())
}
