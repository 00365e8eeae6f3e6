//! The durable queue for what must not be lost while the link is down.
//!
//! [`Outbox::append`] returns when its records are on the disk; [`Outbox::peek`] shows the batches that wait, for a window
//! of several in flight; [`Outbox::acknowledge`] forgets what the coordinator has stored. All calls block.
//!
//! Batches live in generations (see [`lamppost_agent_core::outbox`] for the rules, `shelf` for the files): small
//! databases that are only ever appended to, one for each class, run of the agent and 16 MiB, and deleted as a whole
//! when everything in them is done. What is done, and what was lost, stands in the newest generation. Nothing is
//! appended to a generation that saw a crash or a failed write. A batch may come twice after a crash, never under two
//! numbers.
//!
//! What goes, goes oldest first, the class that matters least before the others: over the byte caps by generation, over
//! the age by batch. What the disk lost is noticed by the counts that the next generation keeps of the one before.
//! All of it is told by number in events of the ledger, which are written down with the loss itself and wait here until
//! the coordinator has them.
//!
//! - `lanes`: writing, making room, and the change of generations;
//! - `reading`, `recovery`: batches read back, and what an earlier run left;
//! - `runs`: which runs of the agent ended how;
//! - `generation`, `batch`, `shelf`: the forms on the disk.

mod batch;
mod error;
mod generation;
mod lanes;
mod reading;
mod recovery;
mod runs;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use lamppost_agent_core::outbox::{
    self as rules, Book, Caps, Class, Finished, Meta, Now, Piece, Run, Waiters,
};
use lamppost_agent_core::pace::Spent;
use lamppost_models::ledger::LossReason;
use lamppost_models::message::{BatchRange, ReportedOutbox};
use lamppost_models::{Epoch, StreamName, Timestamp};
use lamppost_store::Store;

pub use batch::StoredBatch;
pub(crate) use batch::fits_a_batch;
pub use error::OutboxError;
use generation::Written;
use runs::Runs;
use shelf::Shelf;

/// Smallest cap: eight generations of the smallest useful size.
pub const CAP_BYTES_MIN: u64 = 16 << 20;
/// Most batches that are shown at once.
const PEEK_MAX: usize = 64;
/// What the report says that events may take: the bound of their number, with the longest names.
const EVENTS_CAP_BYTES: u64 = 1 << 20;

/// The outbox's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Most bytes on the disk, in all, at least [`CAP_BYTES_MIN`].
    pub cap_bytes: u64,
    /// Limits of predictions.
    pub predictions: LaneLimits,
    /// Limits of samples.
    pub samples: LaneLimits,
    /// Bytes of the file system that the outbox leaves free.
    pub free_reserve_bytes: u64,
}

/// The limits of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Most bytes on the disk, at least [`CAP_BYTES_MIN`].
    pub cap_bytes: u64,
    /// Batches that waited longer are dropped.
    pub age_max: Duration,
}

impl OutboxConfig {
    /// Limits that are the same for each class.
    pub const fn new(cap_bytes: u64, age_max: Duration, free_reserve_bytes: u64) -> Self {
        let lane = LaneLimits { cap_bytes, age_max };
        Self {
            cap_bytes,
            predictions: lane,
            samples: lane,
            free_reserve_bytes,
        }
    }

    const fn lane(&self, class: Class) -> LaneLimits {
        match class {
            // They are no generations, and wait for ever.
            Class::Event => LaneLimits {
                cap_bytes: EVENTS_CAP_BYTES,
                age_max: Duration::MAX,
            },
            Class::Prediction => self.predictions,
            Class::Sample => self.samples,
        }
    }

    /// The caps, with room for what comes in one lane.
    fn caps(&self, coming: Option<(Class, u64)>) -> Caps {
        let need = coming.map_or(0, |(_, need)| need);
        let lane = |class: Class| {
            let need = coming.filter(|(of, _)| *of == class).map_or(0, |_| need);
            (class, self.lane(class).cap_bytes.saturating_sub(need))
        };
        Caps {
            all_bytes: self.cap_bytes.saturating_sub(need),
            lane_bytes: [Class::Prediction, Class::Sample].map(lane).into(),
        }
    }
}

/// What [`Outbox::append`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// The batches, in order.
    pub numbers: Vec<u64>,
    /// How many records each has; those that were refused are in none.
    pub counts: Vec<u32>,
    /// Records that were not taken, for they are no JSON or larger than a batch; counted as unwritten.
    pub refused: u64,
}

/// How far the batches of each class were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    events: Option<u64>,
    predictions: Option<u64>,
    samples: Option<u64>,
}

impl Cursor {
    /// Goes on behind a batch.
    pub fn pass(&mut self, batch: &StoredBatch) {
        *(match batch.lane {
            Class::Event => &mut self.events,
            Class::Prediction => &mut self.predictions,
            Class::Sample => &mut self.samples,
        }) = Some(batch.number);
    }

    /// As far as both were.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            events: self.events.min(other.events),
            predictions: self.predictions.min(other.predictions),
            samples: self.samples.min(other.samples),
        }
    }
}

/// Behind one number in each class.
impl From<Option<u64>> for Cursor {
    fn from(after: Option<u64>) -> Self {
        Self {
            events: after,
            predictions: after,
            samples: after,
        }
    }
}

/// A generation that is open.
#[derive(Debug)]
struct Active {
    generation: u32,
    store: Store,
}

/// The durable queue.
pub struct Outbox {
    config: OutboxConfig,
    shelf: Shelf,
    book: Book,
    /// What the speaker has of the book.
    written: Written,
    /// The newest generation that was made; the next one is newer, whatever became of it.
    newest: u32,
    /// The generations that are written to. A class has none before its first batch, and after a failure.
    actives: BTreeMap<Class, Active>,
    /// The class whose active generation is the newest and takes the book; `None` after a failure.
    speaker: Option<Class>,
    /// An older generation that is open for reading.
    reader: Option<Active>,
    /// Records that could not be written, in this run.
    unwritten: u64,
    runs: Runs,
    /// How many records of a class fitted into a batch last time.
    guesses: BTreeMap<Class, usize>,
    /// Free bytes of a file system. A field, so that a test can fill the disk.
    free_bytes: fn(&Path) -> io::Result<u64>,
}

impl Outbox {
    /// Opens the outbox in a directory of its own, and makes it if it is not there.
    ///
    /// `fresh_epoch` names a new outbox, and is drawn at random by the caller; an outbox that exists keeps its own.
    ///
    /// # Errors
    /// [`OutboxError`] when the configuration is impossible, another process has the outbox, it was written by another
    /// version, or the disk cannot be read now: a disk without a free byte is such a case, so try again later. Damage is
    /// no error: it is counted, and the rest goes on.
    pub fn open(
        dir: &Path,
        config: OutboxConfig,
        fresh_epoch: Epoch,
        now: impl Into<Now>,
    ) -> Result<Self, OutboxError> {
        let now = now.into();
        for cap_bytes in [
            config.cap_bytes,
            config.predictions.cap_bytes,
            config.samples.cap_bytes,
        ] {
            if cap_bytes < CAP_BYTES_MIN {
                return Err(OutboxError::Cap {
                    cap_bytes,
                    limit: CAP_BYTES_MIN,
                });
            }
        }
        let shelf = Shelf::open(dir)?;
        let note = shelf.note();
        let mut book = Book::new(note.map_or(fresh_epoch, |note| note.epoch));
        book.look(now);
        let newest = note.map_or(0, |note| note.newest);
        let mut outbox = Self {
            config,
            shelf,
            book,
            written: Written::default(),
            newest,
            guesses: BTreeMap::new(),
            actives: BTreeMap::new(),
            speaker: None,
            reader: None,
            unwritten: 0,
            runs: Runs::default(),
            free_bytes: shelf::free_bytes,
        };
        outbox.recover(note)?;
        // A full disk is no reason not to send what is there: the next append tries again.
        if let Err(error) = outbox.rotate(Class::Prediction, now.wall) {
            tracing::warn!(%error, "the outbox cannot make a generation to write to");
        }
        Ok(outbox)
    }

    /// Names this outbox.
    pub fn epoch(&self) -> Epoch {
        self.book.epoch()
    }

    /// Stores records of one stream, each a JSON text, oldest first. They are on the disk when this returns.
    ///
    /// Records with `boot` and `seq`, or with an `origin` that has them, are known by these: what becomes of them is told by
    /// number.
    ///
    /// # Errors
    /// [`OutboxError::Unwritten`] when the disk is full or failed: the first records may be stored, the rest was shed,
    /// counted and told. A later call tries a new generation.
    pub fn append<R: AsRef<[u8]>>(
        &mut self,
        class: Class,
        stream: &StreamName,
        records: &[R],
        now: impl Into<Now>,
    ) -> Result<Appended, OutboxError> {
        let now = now.into();
        self.book.look(now);
        let (batches, refused) = self.cut(class, stream, records, now);
        let numbers = self.store(class, &batches, now.wall)?;
        if refused > 0 || self.book.events().has_loose() {
            self.save_or_warn();
        }
        let counts = batches.iter().map(|(meta, _)| meta.records).collect();
        Ok(Appended {
            numbers,
            counts,
            refused,
        })
    }

    /// Cuts records into batches; those that cannot be stored are counted and told.
    fn cut<R: AsRef<[u8]>>(
        &mut self,
        class: Class,
        stream: &StreamName,
        records: &[R],
        now: Now,
    ) -> (Vec<(Meta, Vec<u8>)>, u64) {
        let read = |record: &R| batch::read_key(record.as_ref());
        let keys: Vec<_> = records.iter().map(read).collect();
        let mut refused = keys.iter().filter(|key| key.is_err()).count() as u64;
        let whole: Vec<(&[u8], _)> = records
            .iter()
            .zip(keys)
            .filter_map(|(record, key)| Some((record.as_ref(), key.ok()?)))
            .collect();
        let mut batches = Vec::new();
        let boot = |key: &Option<batch::Numbered>| key.map(|key| key.boot);
        for part in whole.chunk_by(|one, other| boot(&one.1) == boot(&other.1)) {
            let (texts, keys): (Vec<&[u8]>, Vec<_>) = part.iter().copied().unzip();
            let raw_bytes: Vec<usize> = texts.iter().map(|record| record.len() + 1).collect();
            let guess = self
                .guesses
                .entry(class)
                .or_insert(batch::LIMITS.records_max);
            for piece in rules::split(&raw_bytes, batch::LIMITS, guess, |range| {
                batch::pack(&batch::array(&texts[range]))
            }) {
                match piece {
                    Piece::Batch { records, packed } => {
                        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
                        let meta = Meta::of(count, now, batch::run_of(stream, &keys[records]));
                        let value = batch::encode(class, stream, &meta, &packed);
                        batches.push((meta, value));
                    }
                    Piece::TooLarge { record, .. } => {
                        refused += 1;
                        if let Some(run) = batch::run_of(stream, &keys[record..=record]) {
                            self.book.tell_lost(class, run, 1, LossReason::Unwritten);
                        }
                    }
                }
            }
        }
        if refused > 0 {
            self.unwritten += refused;
            tracing::warn!(%stream, refused, "records that are no JSON or too large for a batch were not stored");
        }
        (batches, refused)
    }

    /// The batches that wait behind `after`, the class that matters most first, and of each the oldest first; at most
    /// `max`, and never more than 64. Events are a class of their own.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read now. A batch that is damaged is left out, counted and told.
    pub fn peek(
        &mut self,
        after: impl Into<Cursor>,
        max: usize,
    ) -> Result<Vec<StoredBatch>, OutboxError> {
        let cursor = after.into();
        let mut batches = self.peek_events(cursor, max)?;
        let rest = max.min(PEEK_MAX).saturating_sub(batches.len());
        batches.extend(self.peek_history(cursor, rest)?);
        Ok(batches)
    }

    /// The same of events alone.
    ///
    /// # Errors
    /// [`OutboxError`] when they have no JSON form.
    pub fn peek_events(
        &mut self,
        mut after: Cursor,
        max: usize,
    ) -> Result<Vec<StoredBatch>, OutboxError> {
        let mut batches = Vec::new();
        while batches.len() < max.min(PEEK_MAX)
            && let Some(batch) = self.next_events(after.events)?
        {
            after.pass(&batch);
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The same of all but events.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read now.
    pub fn peek_history(
        &mut self,
        after: Cursor,
        max: usize,
    ) -> Result<Vec<StoredBatch>, OutboxError> {
        let lost_before = self.book.totals().lost_batches;
        let mut batches = Vec::new();
        for (class, after) in [
            (Class::Prediction, after.predictions),
            (Class::Sample, after.samples),
        ] {
            let mut at = after;
            while batches.len() < max.min(PEEK_MAX) {
                let Some(number) = self.book.next_of(class, at) else {
                    break;
                };
                batches.extend(self.read(number)?);
                at = Some(number);
            }
        }
        if self.book.totals().lost_batches > lost_before {
            self.save_or_warn();
        }
        Ok(batches)
    }

    /// Forgets what the coordinator has stored, in whatever order it says so, and gives drained space back.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read or written now. What was acknowledged is not sent again by this
    /// run even then; after a restart it may be.
    pub fn acknowledge(
        &mut self,
        ranges: &[BatchRange],
        now: impl Into<Now>,
    ) -> Result<Finished, OutboxError> {
        let now = now.into();
        self.book.look(now);
        let mut finished = Finished::default();
        for range in ranges {
            for generation in self.book.unknown_within(*range) {
                self.open_reader(generation)?;
            }
            let part = self.book.acknowledge(*range);
            finished.batches += part.batches;
            finished.records += part.records;
            finished.events += part.events;
        }
        if finished.batches + finished.events > 0 {
            self.settle(now.wall)?;
        }
        Ok(finished)
    }

    /// Drops what is too old or over the cap, and writes down what could not be before. Call it now and then, such as
    /// once a minute.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read or written now.
    pub fn sweep(&mut self, now: impl Into<Now>) -> Result<(), OutboxError> {
        let now = now.into();
        self.book.look(now);
        let lanes = self.config.clone();
        let age_max = |class| lanes.lane(class).age_max;
        for generation in self.book.unknown_in_part_expired(age_max) {
            self.open_reader(generation)?;
        }
        let expired = self.book.expire(age_max);
        if expired.batches > 0 {
            tracing::warn!(
                batches = expired.batches,
                records = expired.records,
                "the outbox dropped what was too old"
            );
        }
        let evicted = self.evict(None);
        self.keep_runs();
        if expired.batches > 0 || evicted {
            self.settle(now.wall)
        } else if self.written.has_events_of(&self.book) {
            Ok(())
        } else if self.speaker.is_none() {
            self.rotate(Class::Prediction, now.wall)
        } else {
            self.save()
        }
    }

    /// Notes records that will never be here, so that the coordinator is told; what was not written is counted.
    pub fn tell_lost(&mut self, class: Class, run: Run, records: u64, reason: LossReason) {
        if reason == LossReason::Unwritten {
            self.unwritten += records;
        }
        self.book.tell_lost(class, run, records, reason);
    }

    /// What was sent on the day that is noted here, if one is.
    pub fn spent(&self) -> Option<Spent> {
        self.shelf.read_spent()
    }

    /// Notes what was sent today.
    ///
    /// # Errors
    /// [`OutboxError`] when it cannot be written.
    pub fn keep_spent(&self, spent: Spent) -> Result<(), OutboxError> {
        self.shelf.write_spent(spent)
    }

    /// What was used of the samples' budgets on the days that are noted here, by stream.
    pub fn sampled(&self) -> BTreeMap<StreamName, Spent> {
        self.shelf.read_sampled()
    }

    /// Notes what was used of the samples' budgets.
    ///
    /// # Errors
    /// [`OutboxError`] when it cannot be written.
    pub fn keep_sampled(&self, sampled: &BTreeMap<StreamName, Spent>) -> Result<(), OutboxError> {
        self.shelf.write_sampled(sampled)
    }

    /// What waits, and what was lost.
    pub fn report(&self) -> ReportedOutbox {
        let mut report = self.book.report(self.shelf.total_bytes(), self.unwritten);
        for lane in &mut report.lanes {
            let sizes = self.sizes();
            let of_lane = sizes.iter().filter(|size| size.class == lane.class);
            lane.bytes = of_lane.map(|size| size.bytes).sum();
            lane.cap_bytes = self.config.lane(lane.class).cap_bytes;
        }
        report
    }

    /// All that waits by number, and all that was lost and that the coordinator does not know of yet.
    pub fn waiters(&self) -> Waiters {
        self.book.waiters()
    }

    /// The next group of events as a batch; none while no generation can number it.
    fn next_events(&mut self, after: Option<u64>) -> Result<Option<StoredBatch>, OutboxError> {
        if let Some(generation) = self.speaker() {
            self.book.events_mut().place(generation);
        }
        let Some((number, events)) = self.book.events_mut().show_next(after) else {
            return Ok(None);
        };
        let json = serde_json::to_vec(events).map_err(|source| OutboxError::Encode { source })?;
        let stored = events.iter().map(|event| event.at).min();
        Ok(Some(StoredBatch {
            number,
            lane: Class::Event,
            class: Class::Event,
            stream: None,
            records: u32::try_from(events.len()).unwrap_or(u32::MAX),
            stored: stored.unwrap_or(Timestamp::EPOCH),
            json,
        }))
    }
}
