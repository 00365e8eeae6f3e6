//! What the outbox's thread does.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lamppost_agent_core::outbox::{Class, Run, Waiters};
use lamppost_agent_core::pace::Spent;
use lamppost_models::ledger::{Durability, LossReason};
use lamppost_models::{Epoch, Prediction, StreamName};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::door::Door;
use super::{Command, Dropped, Part, Sight, SpoolConfig, SpoolState, Wire, clock};
use crate::outbox::{Appended, Cursor, OutboxError, StoredBatch};
use crate::uplink::interface::Durable;
use crate::uplink::pending::Record;
use crate::uplink::samples::SampleBatch;

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
    /// Samples that are collected, by stream, with their numbers.
    samples: BTreeMap<usize, Vec<(u64, Bytes)>>,
    /// What was used of the samples' budgets.
    sampled: BTreeMap<StreamName, Spent>,
    /// Since when the oldest of the collected records waits.
    oldest: Option<Instant>,
    durable: Durable,
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
            durable: Durable {
                predictions: vec![0; config.streams.len()],
                samples: vec![0; config.streams.len()],
            },
            config,
            state,
            stored,
            collected: Vec::new(),
            samples: BTreeMap::new(),
            sampled: BTreeMap::new(),
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
                Ok(Some(command)) => {
                    if self.obey(command).is_break() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => {}
            }
            if self
                .oldest
                .is_some_and(|since| since.elapsed() >= self.config.flush)
                || self.collected.len() + self.samples.values().map(Vec::len).sum::<usize>()
                    >= COLLECT_MAX
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
            for (stream, spent) in outbox.sampled() {
                self.sampled.entry(stream).or_insert(spent);
            }
            let streams = &self.config.streams;
            self.sampled.retain(|stream, _| streams.contains(stream));
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

    /// Does what is asked; breaks with the last command.
    fn obey(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Samples(batch) => self.collect(batch),
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
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes in samples, and notes what they used of their budget before they are stored.
    fn collect(&mut self, batch: SampleBatch) {
        let SampleBatch {
            stream,
            records,
            spent,
        } = batch;
        if let (Some(spent), Some(name)) = (spent, self.config.streams.get(stream)) {
            self.sampled.insert(name.clone(), spent);
            if let Door::Open(outbox) = &self.door {
                let kept = outbox.keep_sampled(&self.sampled);
                self.note("keep the samples' budgets", kept);
            }
        }
        if !records.is_empty() {
            self.oldest.get_or_insert_with(Instant::now);
            self.samples.entry(stream).or_default().extend(records);
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
        self.store_samples();
        let mut by_stream: BTreeMap<usize, Vec<Record>> = BTreeMap::new();
        for record in std::mem::take(&mut self.collected) {
            by_stream.entry(record.stream).or_default().push(record);
        }
        let mut stored = Vec::new();
        for (stream, mut records) in by_stream {
            // What was given up while it waited comes before what was sent earlier.
            records.sort_by_key(|record| record.seq);
            let texts = records
                .iter()
                .map(|record| (record.seq, as_replay(&record.json)));
            let appended = self.append(Class::Prediction, stream, texts.collect());
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

    fn store_samples(&mut self) {
        for (stream, records) in std::mem::take(&mut self.samples) {
            self.append(Class::Sample, stream, records);
        }
    }

    /// Stores records of one stream, with their numbers, which grow; what the disk does not take is lost, and will be told.
    fn append<R: AsRef<[u8]>>(
        &mut self,
        class: Class,
        stream: usize,
        records: Vec<(u64, R)>,
    ) -> Option<Appended> {
        let name = self.config.streams.get(stream)?.clone();
        self.revision += 1;
        let (seqs, texts): (Vec<u64>, Vec<R>) = records.into_iter().unzip();
        let (first, last) = (*seqs.first()?, *seqs.last()?);
        let appended = match &mut self.door {
            Door::Open(outbox) => {
                let appended = outbox.append(class, &name, &texts, clock());
                self.note("write", appended)
            }
            Door::Shut(shut) => {
                let count = seqs.len() as u64;
                let reason = LossReason::Unwritten;
                shut.lose((class, stream), (first, last), count, reason);
                tracing::warn!(records = count, "the outbox is not open: records are lost");
                self.show(None);
                None
            }
        };
        self.note_durable(class, stream, last);
        appended
    }

    fn note_durable(&mut self, class: Class, stream: usize, last: u64) {
        let durable = match class {
            Class::Prediction => &mut self.durable.predictions,
            Class::Sample => &mut self.durable.samples,
            // They have no numbers.
            Class::Event => return,
        };
        if let Some(durable) = durable.get_mut(stream) {
            *durable = (*durable).max(last + 1);
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
                    let key = (class, one.stream);
                    shut.lose(key, (one.from, one.to), one.records, reason);
                }
            }
            self.note_durable(class, one.stream, one.to);
        }
        self.sweep();
    }

    fn look(&self, mut sight: Sight) -> Sight {
        let mut waiters = match &self.door {
            Door::Open(outbox) => outbox.waiters(),
            Door::Shut(shut) => shut.waiters(&self.config.streams, self.config.boot),
        };
        self.add_collected(&mut waiters);
        waiters.extend(&sight.waiters);
        sight.waiters = waiters;
        if self.config.durability == Durability::Always {
            sight.durable = Some(self.durable.clone());
        }
        sight
    }

    fn add_collected(&self, waiters: &mut Waiters) {
        let predictions = self.collected.iter();
        let predictions = predictions.map(|record| (Class::Prediction, record.stream, record.seq));
        let samples = self.samples.iter().flat_map(|(stream, records)| {
            records
                .iter()
                .map(|(seq, _)| (Class::Sample, *stream, *seq))
        });
        for (class, stream, seq) in predictions.chain(samples) {
            if let Some(stream) = self.config.streams.get(stream) {
                waiters.add(class, stream, self.config.boot, seq, seq);
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
