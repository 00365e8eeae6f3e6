//! The outbox's own thread: the disk never holds up a task.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamppost_agent_core::outbox::{Class, Run, Waiters};
use lamppost_agent_core::pace::Spent;
use lamppost_models::ledger::{Durability, LossReason};
use lamppost_models::message::{BatchRange, ReportedOutbox};
use lamppost_models::{BootId, Epoch, Prediction, StreamName};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock;
use super::interface::{Dropped, Sight};
use super::pending::Record;
use crate::outbox::{Appended, Cursor, Outbox, StoredBatch};

/// Commands that wait: a few, each with many records, so that a disk that takes a second stalls nobody.
const COMMANDS_MAX: usize = 32;
/// Records that are collected before they are stored together: two batches of the outbox, about.
const COLLECT_MAX: usize = 128;
/// How often age and cap are looked after when nothing else happens.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Stores whose records wait to be sent one by one. Of what finds no room the batch is sent, later.
const STORED_MAX: usize = 64;
/// Fast, and within a twentieth of the best ratio, as in the outbox.
const ZSTD_LEVEL: i32 = 3;

enum Command {
    Store(Vec<Record>),
    Dropped(Vec<Dropped>),
    Peek {
        part: Part,
        after: Cursor,
        max: usize,
        reply: oneshot::Sender<Vec<Wire>>,
    },
    Acknowledge(Vec<BatchRange>),
    Spent(Spent),
    Look {
        sight: Box<Sight>,
        reply: oneshot::Sender<Sight>,
    },
    Flush(oneshot::Sender<()>),
}

/// A part of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Events of the ledger, which wait for nothing.
    Events,
    /// Predictions, then samples.
    History,
}

/// A batch as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) number: u64,
    /// Where the outbox is read on behind it.
    pub(super) cursor: Cursor,
    pub(super) class: Class,
    pub(super) stream: Option<StreamName>,
    pub(super) payload: Bytes,
    /// Whether the payload is a zstd frame.
    pub(super) packed: bool,
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

impl SpoolState {
    /// Batches of a part that wait.
    pub(super) fn waiting(&self, part: Part) -> u64 {
        let lanes = self.reported.lanes.iter();
        lanes
            .filter(|lane| (lane.class == Class::Event) == (part == Part::Events))
            .map(|lane| lane.batches)
            .sum()
    }
}

/// How the thread works.
#[derive(Clone, Debug)]
pub(super) struct SpoolConfig {
    pub(super) boot: BootId,
    pub(super) streams: Vec<StreamName>,
    pub(super) durability: Durability,
    pub(super) flush: Duration,
    pub(super) compress: bool,
}

/// The handle of the thread. Dropped, the thread stores what it has and ends.
pub(super) struct Spool {
    commands: mpsc::Sender<Command>,
    epoch: Epoch,
    thread: JoinHandle<()>,
}

impl Spool {
    /// Starts the thread; `state` is kept up to date by it. By the receiver come the records that were stored first and
    /// are to be sent now.
    pub(super) fn start(
        outbox: Outbox,
        config: SpoolConfig,
        state: watch::Sender<SpoolState>,
    ) -> std::io::Result<(Self, mpsc::Receiver<Vec<Record>>)> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (stored, stored_receiver) = mpsc::channel(STORED_MAX);
        let epoch = outbox.epoch();
        let keeper = Keeper {
            outbox,
            durable: vec![0; config.streams.len()],
            config,
            state,
            stored,
            collected: Vec::new(),
            oldest: None,
            revision: 0,
        };
        let handle = Handle::current();
        let thread = std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || keeper.run(&handle, receiver))?;
        let spool = Self {
            commands,
            epoch,
            thread,
        };
        Ok((spool, stored_receiver))
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

    /// Hands over what is lost, so that the coordinator is told.
    pub(super) async fn drop_numbers(&self, dropped: Vec<Dropped>) {
        self.ask(Command::Dropped(dropped), "a loss is not told")
            .await;
    }

    /// Asks for the batches behind `after`; the answer comes by the channel.
    pub(super) async fn peek(
        &self,
        part: Part,
        after: Cursor,
        max: usize,
    ) -> oneshot::Receiver<Vec<Wire>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Peek {
            part,
            after,
            max,
            reply,
        };
        // Without a thread the answer's sender is gone, which the receiver sees.
        self.ask(command, "nothing can be replayed").await;
        answer
    }

    pub(super) async fn acknowledge(&self, ranges: Vec<BatchRange>) {
        self.ask(Command::Acknowledge(ranges), "an acknowledgement is lost")
            .await;
    }

    /// Writes down what was sent today.
    pub(super) async fn keep_spent(&self, spent: Spent) {
        self.ask(Command::Spent(spent), "the day's budget is not kept")
            .await;
    }

    /// Adds what the outbox has, and answers whoever asked.
    pub(super) async fn look(&self, sight: Sight, reply: oneshot::Sender<Sight>) {
        let sight = Box::new(sight);
        self.ask(Command::Look { sight, reply }, "a report is not whole")
            .await;
    }

    async fn ask(&self, command: Command, loss: &'static str) {
        if self.commands.send(command).await.is_err() {
            tracing::error!(loss, "the outbox's thread is gone");
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
    config: SpoolConfig,
    state: watch::Sender<SpoolState>,
    stored: mpsc::Sender<Vec<Record>>,
    collected: Vec<Record>,
    /// Since when the oldest of the collected records waits.
    oldest: Option<Instant>,
    /// The number after the last one that is on the disk, or was told as lost, by stream.
    durable: Vec<u64>,
    revision: u64,
}

impl Keeper {
    fn run(mut self, handle: &Handle, mut commands: mpsc::Receiver<Command>) {
        self.outbox
            .begin_run(self.config.boot, self.config.durability, clock());
        self.sweep();
        let mut swept = Instant::now();
        loop {
            let until_flush = self
                .oldest
                .map(|since| (since + self.config.flush).saturating_duration_since(Instant::now()));
            let wait = until_flush.unwrap_or(SWEEP_EVERY);
            match handle.block_on(async { tokio::time::timeout(wait, commands.recv()).await }) {
                Ok(Some(command)) => self.obey(command),
                Ok(None) => break,
                Err(_) => {}
            }
            if self
                .oldest
                .is_some_and(|since| since.elapsed() >= self.config.flush)
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
            Command::Dropped(dropped) => self.tell(&dropped),
            Command::Peek {
                part,
                after,
                max,
                reply,
            } => {
                let batches = self.peek(part, after, max);
                // Whoever asked may have lost its connection since.
                drop(reply.send(batches));
            }
            Command::Acknowledge(ranges) => {
                let acknowledged = self.outbox.acknowledge(&ranges, clock());
                self.note("acknowledge", acknowledged);
            }
            Command::Spent(spent) => {
                let kept = self.outbox.keep_spent(spent);
                self.note("keep the day's budget", kept);
            }
            Command::Look { sight, reply } => {
                let sight = self.look(*sight);
                // The report may have given up.
                drop(reply.send(sight));
            }
            Command::Flush(done) => {
                self.store();
                let ended = self.outbox.end_run();
                self.note("note the end of the run", ended);
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the flush any more");
                }
            }
        }
    }

    fn peek(&mut self, part: Part, mut cursor: Cursor, max: usize) -> Vec<Wire> {
        let found = match part {
            Part::Events => self.outbox.peek_events(cursor, max),
            Part::History => self.outbox.peek_history(cursor, max),
        };
        let epoch = self.outbox.epoch();
        let compress = self.config.compress;
        let batches = self.note("read", found).unwrap_or_default();
        let wire = |batch: StoredBatch| {
            cursor.pass(&batch);
            wire(batch, cursor, epoch, compress)
        };
        batches.into_iter().map(wire).collect()
    }

    /// Stores the collected records, stream by stream, each in its order.
    fn store(&mut self) {
        self.oldest = None;
        if self.collected.is_empty() {
            return;
        }
        let mut by_stream: BTreeMap<usize, Vec<Record>> = BTreeMap::new();
        for record in std::mem::take(&mut self.collected) {
            by_stream.entry(record.stream).or_default().push(record);
        }
        let mut stored = Vec::new();
        for (stream, mut records) in by_stream {
            let Some(name) = self.config.streams.get(stream).cloned() else {
                continue;
            };
            // What was given up while it waited comes before what was sent earlier.
            records.sort_by_key(|record| record.seq);
            let replays: Vec<_> = records
                .iter()
                .map(|record| as_replay(&record.json))
                .collect();
            let appended = self
                .outbox
                .append(Class::Prediction, &name, &replays, clock());
            self.revision += 1;
            if let (Some(durable), Some(last)) = (self.durable.get_mut(stream), records.last()) {
                *durable = (*durable).max(last.seq + 1);
            }
            let appended = self.note("write", appended);
            if self.config.durability == Durability::Always {
                stored.extend(match appended {
                    Some(appended) => in_batches(records, &appended),
                    // What the disk did not take may still be delivered, which then counts.
                    None => records,
                });
            }
        }
        self.hand_back(stored);
    }

    /// Gives records that were stored first back, to be sent.
    fn hand_back(&self, mut stored: Vec<Record>) {
        if stored.is_empty() {
            return;
        }
        stored.sort_by_key(|record| record.number);
        let count = stored.len();
        if self.stored.try_send(stored).is_err() {
            tracing::debug!(
                predictions = count,
                "the uplink is busy: they go in batches"
            );
        }
    }

    fn tell(&mut self, dropped: &[Dropped]) {
        for one in dropped {
            let Some(stream) = self.config.streams.get(one.stream).cloned() else {
                continue;
            };
            let run = Run {
                stream,
                boot: self.config.boot,
                from: one.from,
                to: one.to,
            };
            self.outbox
                .tell_lost(Class::Prediction, run, one.records, LossReason::Dropped);
            if let Some(durable) = self.durable.get_mut(one.stream) {
                *durable = (*durable).max(one.to + 1);
            }
        }
        self.sweep();
    }

    fn look(&self, mut sight: Sight) -> Sight {
        let mut waiters = self.outbox.waiters();
        self.add_to(&mut waiters, &self.collected);
        waiters.extend(&sight.waiters);
        sight.waiters = waiters;
        if self.config.durability == Durability::Always {
            sight.durable = Some(self.durable.clone());
        }
        sight
    }

    fn add_to(&self, waiters: &mut Waiters, records: &[Record]) {
        for record in records {
            if let Some(stream) = self.config.streams.get(record.stream) {
                let (boot, seq) = (self.config.boot, record.seq);
                waiters.add(Class::Prediction, stream, boot, seq, seq);
            }
        }
    }

    fn sweep(&mut self) {
        self.revision += 1;
        let swept = self.outbox.sweep(clock());
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

/// Notes in which batch each record is. Where some were refused that is not known: their batches go as they are.
fn in_batches(records: Vec<Record>, appended: &Appended) -> Vec<Record> {
    if appended.refused > 0 {
        return Vec::new();
    }
    let batches = appended.numbers.iter().zip(&appended.counts);
    let batches = batches.flat_map(|(number, count)| (0..*count).map(move |_| *number));
    records
        .into_iter()
        .zip(batches)
        .map(|(record, batch)| Record {
            batch: Some(batch),
            ..record
        })
        .collect()
}

fn wire(batch: StoredBatch, cursor: Cursor, epoch: Epoch, compress: bool) -> Wire {
    let json = batch.message(epoch);
    // Whatever the compressor cannot make smaller goes as it is.
    let packed = compress
        .then(|| zstd::bulk::compress(&json, ZSTD_LEVEL).ok())
        .flatten()
        .filter(|packed| packed.len() < json.len());
    Wire {
        number: batch.number,
        cursor,
        class: batch.class,
        stream: batch.stream,
        packed: packed.is_some(),
        payload: packed.unwrap_or(json).into(),
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
