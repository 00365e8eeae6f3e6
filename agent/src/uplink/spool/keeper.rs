//! What the outbox's thread does.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamppost_agent_core::outbox::{Class, Run, Waiters};
use lamppost_models::ledger::{Durability, LossReason};
use lamppost_models::{Epoch, Prediction};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::door::Door;
use super::{Command, Dropped, Part, Sight, SpoolConfig, SpoolState, Wire, clock};
use crate::outbox::{Appended, Cursor, OutboxError, StoredBatch};
use crate::uplink::pending::Record;

/// Records that are collected before they are stored together: two batches of the outbox, about.
const COLLECT_MAX: usize = 128;
/// How often age and cap are looked after when nothing else happens.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Fast, and within a twentieth of the best ratio, as in the outbox.
const ZSTD_LEVEL: i32 = 3;

/// The thread's state.
pub(super) struct Keeper {
    door: Door,
    epoch: Arc<OnceLock<Epoch>>,
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
    pub(super) fn new(
        door: Door,
        epoch: Arc<OnceLock<Epoch>>,
        config: SpoolConfig,
        state: watch::Sender<SpoolState>,
        stored: mpsc::Sender<Vec<Record>>,
    ) -> Self {
        Self {
            door,
            epoch,
            durable: vec![0; config.streams.len()],
            config,
            state,
            stored,
            collected: Vec::new(),
            oldest: None,
            revision: 0,
        }
    }

    pub(super) fn run(mut self, handle: &Handle, mut commands: mpsc::Receiver<Command>) {
        self.begin();
        let mut swept = Instant::now();
        loop {
            let wait = self.due(swept).saturating_duration_since(Instant::now());
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
            if matches!(&self.door, Door::Shut(shut) if shut.due() <= Instant::now()) {
                self.try_open();
            }
        }
        self.store();
    }

    /// When there is something to do, whether or not anybody asks.
    fn due(&self, swept: Instant) -> Instant {
        let flush = self.oldest.map(|since| since + self.config.flush);
        let open = match &self.door {
            Door::Open(_) => None,
            Door::Shut(shut) => Some(shut.due()),
        };
        let dues = [flush, open, Some(swept + SWEEP_EVERY)];
        dues.into_iter().flatten().min().unwrap_or(swept)
    }

    /// Begins this run with an outbox that is open.
    fn begin(&mut self) {
        if let Door::Open(outbox) = &mut self.door {
            // It opens once, and keeps its epoch.
            self.epoch.get_or_init(|| outbox.epoch());
            outbox.begin_run(self.config.boot, self.config.durability, clock());
        }
        self.sweep();
    }

    fn try_open(&mut self) {
        if let Door::Shut(shut) = &mut self.door {
            match shut.try_open(&self.config.streams, self.config.boot) {
                Some(outbox) => {
                    self.door = Door::Open(Box::new(outbox));
                    self.begin();
                }
                None => self.show(None),
            }
        }
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
                if let Door::Open(outbox) = &mut self.door {
                    let acknowledged = outbox.acknowledge(&ranges, clock());
                    self.note("acknowledge", acknowledged);
                }
            }
            Command::Spent(spent) => {
                if let Door::Open(outbox) = &mut self.door {
                    let kept = outbox.keep_spent(spent);
                    self.note("keep the day's budget", kept);
                }
            }
            Command::Look { sight, reply } => {
                let sight = self.look(*sight);
                // The report may have given up.
                drop(reply.send(sight));
            }
            Command::Flush(done) => {
                self.try_open();
                self.store();
                if let Door::Open(outbox) = &mut self.door {
                    let ended = outbox.end_run();
                    self.note("note the end of the run", ended);
                }
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for the flush any more");
                }
            }
        }
    }

    fn peek(&mut self, part: Part, mut cursor: Cursor, max: usize) -> Vec<Wire> {
        let Door::Open(outbox) = &mut self.door else {
            return Vec::new();
        };
        let found = match part {
            Part::Events => outbox.peek_events(cursor, max),
            Part::History => outbox.peek_history(cursor, max),
        };
        let epoch = outbox.epoch();
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
            // What was given up while it waited comes before what was sent earlier.
            records.sort_by_key(|record| record.seq);
            let appended = self.append(stream, &records);
            if let (Some(durable), Some(last)) = (self.durable.get_mut(stream), records.last()) {
                *durable = (*durable).max(last.seq + 1);
            }
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

    /// Stores records of one stream; what the disk does not take is lost, and will be told.
    fn append(&mut self, stream: usize, records: &[Record]) -> Option<Appended> {
        let name = self.config.streams.get(stream)?.clone();
        self.revision += 1;
        match &mut self.door {
            Door::Open(outbox) => {
                let replays: Vec<_> = records
                    .iter()
                    .map(|record| as_replay(&record.json))
                    .collect();
                let appended = outbox.append(Class::Prediction, &name, &replays, clock());
                self.note("write", appended)
            }
            Door::Shut(shut) => {
                if let ([first, ..], [.., last]) = (records, records) {
                    let (range, count) = ((first.seq, last.seq), records.len() as u64);
                    shut.lose(stream, range, count, LossReason::Unwritten);
                    tracing::warn!(records = count, "the outbox is not open: records are lost");
                }
                self.show(None);
                None
            }
        }
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
            let (class, reason) = (Class::Prediction, LossReason::Dropped);
            match &mut self.door {
                Door::Open(outbox) => {
                    let run = Run {
                        stream,
                        boot: self.config.boot,
                        from: one.from,
                        to: one.to,
                    };
                    outbox.tell_lost(class, run, one.records, reason);
                }
                Door::Shut(shut) => {
                    shut.lose(one.stream, (one.from, one.to), one.records, reason);
                }
            }
            if let Some(durable) = self.durable.get_mut(one.stream) {
                *durable = (*durable).max(one.to + 1);
            }
        }
        self.sweep();
    }

    fn look(&self, mut sight: Sight) -> Sight {
        let mut waiters = match &self.door {
            Door::Open(outbox) => outbox.waiters(),
            Door::Shut(shut) => shut.waiters(&self.config.streams, self.config.boot),
        };
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
        if let Door::Open(outbox) = &mut self.door {
            let swept = outbox.sweep(clock());
            self.note("sweep", swept);
        } else {
            self.show(None);
        }
    }

    /// Brings the state up to date after an operation.
    fn note<T>(&mut self, operation: &'static str, outcome: Result<T, OutboxError>) -> Option<T> {
        let (done, failing) = match outcome {
            Ok(done) => (Some(done), None),
            Err(error) => {
                let reason = crate::error_chain(&error);
                tracing::warn!(operation, reason, "the outbox failed");
                (None, Some(reason))
            }
        };
        self.show(failing);
        done
    }

    /// Shows what the outbox says of itself; `failing` is why it does not do what it should.
    fn show(&self, failing: Option<String>) {
        let failing = match &self.door {
            Door::Open(_) => failing,
            Door::Shut(shut) => Some(shut.reason().to_owned()),
        };
        let state = SpoolState {
            reported: self.door.report(),
            revision: self.revision,
            failing,
        };
        self.state.send_if_modified(|old| {
            let changed = *old != state;
            *old = state;
            changed
        });
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
