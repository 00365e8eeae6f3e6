//! The durable queue for what must not be lost while the link is down.
//!
//! [`Outbox::append`] returns when its records are on the disk; [`Outbox::peek`] shows the oldest batches that wait, for
//! a window of several in flight; [`Outbox::acknowledge`] forgets what the coordinator has stored. All calls block.
//!
//! Batches live in generations (see [`lamppost_agent_core::outbox`] for the rules, `shelf` for the files): small
//! databases that are only ever appended to, one for each run of the agent and each 16 MiB, and deleted as a whole when
//! everything in them is done. What is done, and what was lost, stands in the newest generation. Nothing is appended to
//! a generation that saw a crash or a failed write. A batch may come twice after a crash, never under two numbers.
//!
//! What goes, goes oldest first and counted: over the byte cap by generation, over the age by batch. What the disk lost
//! is noticed by the counts that the next generation keeps of the one before.

mod batch;
mod error;
mod generation;
mod reading;
mod recovery;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use lamppost_agent_core::outbox::{self as rules, Book, Class, Finished, Generation, Meta, Piece};
use lamppost_models::message::{BatchRange, GapReason, ReportedOutbox};
use lamppost_models::{Epoch, StreamName, Timestamp};
use lamppost_store::{Store, Write};

pub use batch::StoredBatch;
pub use error::OutboxError;
use shelf::{Note, Shelf};

/// Smallest cap: eight generations of the smallest useful size.
pub const CAP_BYTES_MIN: u64 = 16 << 20;
/// Largest generation: an eviction loses one, and a drained one gives its space back.
const GENERATION_BYTES_MAX: u64 = 16 << 20;
/// Generations that a cap is cut into, at least: an eviction loses no more than this part.
const GENERATIONS_PER_CAP: u64 = 8;
/// A drained generation that is still written to is replaced once it is this large.
const DRAINED_BYTES: u64 = 2 << 20;
/// What a store takes beyond its payload before it is measured again: an open segment and a snapshot.
const SLACK_BYTES: u64 = 1 << 20;
/// Most generations: a crash loop makes one each time, and their entries, at most 7 KiB each, are one commit.
const GENERATIONS_MAX: usize = 128;
/// Batches of one commit: half a megabyte at most, after which the caps are looked at again.
const COMMIT_BATCHES: usize = 64;
/// Most batches that are shown at once.
const PEEK_MAX: usize = 64;

/// The outbox's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Most bytes on the disk, in all, at least [`CAP_BYTES_MIN`].
    pub cap_bytes: u64,
    /// Batches that waited longer are dropped.
    pub age_max: Duration,
    /// Bytes of the file system that the outbox leaves free.
    pub free_reserve_bytes: u64,
}

/// What [`Outbox::append`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// The batches, in order.
    pub numbers: Vec<u64>,
    /// Records that were not taken, for they are no JSON or larger than a batch; counted as unwritten.
    pub refused: u64,
}

/// The generation that is written to.
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
    /// What the active generation has of the book.
    written: BTreeMap<u32, Generation>,
    /// The newest generation that was made; the next one is newer, whatever became of it.
    newest: u32,
    /// `None` after a failure, until the next generation is made.
    active: Option<Active>,
    /// An older generation that is open for reading.
    reader: Option<Active>,
    /// Records that could not be written, in this run.
    unwritten: u64,
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
        now: Timestamp,
    ) -> Result<Self, OutboxError> {
        if config.cap_bytes < CAP_BYTES_MIN {
            return Err(OutboxError::Cap {
                cap_bytes: config.cap_bytes,
                limit: CAP_BYTES_MIN,
            });
        }
        let shelf = Shelf::open(dir)?;
        let note = shelf.note();
        let book = Book::new(note.map_or(fresh_epoch, |note| note.epoch));
        let newest = note.map_or(0, |note| note.newest);
        let mut outbox = Self {
            config,
            shelf,
            book,
            written: BTreeMap::new(),
            newest,
            active: None,
            reader: None,
            unwritten: 0,
            free_bytes: shelf::free_bytes,
        };
        outbox.recover(note)?;
        // A full disk is no reason not to send what is there: the next append tries again.
        if let Err(error) = outbox.rotate(now) {
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
    /// # Errors
    /// [`OutboxError::Unwritten`] when the disk is full or failed: the first records may be stored, the rest was shed
    /// and counted. A later call tries a new generation.
    pub fn append<R: AsRef<[u8]>>(
        &mut self,
        class: Class,
        stream: &StreamName,
        records: &[R],
        now: Timestamp,
    ) -> Result<Appended, OutboxError> {
        let is_json =
            |record: &&[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(record).is_ok();
        let whole: Vec<&[u8]> = records.iter().map(AsRef::as_ref).filter(is_json).collect();
        let mut refused = (records.len() - whole.len()) as u64;
        let raw_bytes: Vec<usize> = whole.iter().map(|record| record.len() + 1).collect();
        let mut batches = Vec::new();
        for piece in rules::split(&raw_bytes, batch::LIMITS, |range| {
            batch::pack(&batch::array(&whole[range]))
        }) {
            match piece {
                Piece::Batch { records, packed } => {
                    let meta = Meta {
                        records: u32::try_from(records.len()).unwrap_or(u32::MAX),
                        stored: now,
                    };
                    batches.push((
                        meta,
                        batch::encode(class, stream, meta.records, now, &packed),
                    ));
                }
                Piece::TooLarge { .. } => refused += 1,
            }
        }
        if refused > 0 {
            self.unwritten += refused;
            tracing::warn!(%stream, refused, "records that are no JSON or too large for a batch were not stored");
        }
        let numbers = self.store(&batches, now)?;
        Ok(Appended { numbers, refused })
    }

    /// The oldest batches that wait, behind `after` if given, in order; at most `max`, and never more than 64.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read now. A batch that is damaged is left out and counted.
    pub fn peek(
        &mut self,
        after: Option<u64>,
        max: usize,
    ) -> Result<Vec<StoredBatch>, OutboxError> {
        let lost_before = self.book.totals().lost_batches;
        let mut batches = Vec::new();
        let mut at = after;
        while batches.len() < max.min(PEEK_MAX) {
            let Some(number) = self.book.next_waiting(at) else {
                break;
            };
            batches.extend(self.read(number)?);
            at = Some(number);
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
        now: Timestamp,
    ) -> Result<Finished, OutboxError> {
        let mut finished = Finished::default();
        for range in ranges {
            for generation in self.book.unknown_within(*range) {
                self.open_reader(generation)?;
            }
            let part = self.book.acknowledge(*range);
            finished.batches += part.batches;
            finished.records += part.records;
        }
        if finished.batches > 0 {
            self.settle(now)?;
        }
        Ok(finished)
    }

    /// Drops what is too old or over the cap. Call it now and then, such as once a minute.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read or written now.
    pub fn sweep(&mut self, now: Timestamp) -> Result<(), OutboxError> {
        for generation in self.book.unknown_in_part_expired(now, self.config.age_max) {
            self.open_reader(generation)?;
        }
        let expired = self.book.expire(now, self.config.age_max);
        if expired.batches > 0 {
            tracing::warn!(
                batches = expired.batches,
                records = expired.records,
                "the outbox dropped what was too old"
            );
        }
        let evicted = self.evict(self.config.cap_bytes);
        if expired.batches > 0 || evicted {
            self.settle(now)
        } else {
            Ok(())
        }
    }

    /// What waits, and what was lost.
    pub fn report(&self) -> ReportedOutbox {
        self.book.report(self.shelf.total_bytes(), self.unwritten)
    }

    fn generation_bytes(&self) -> u64 {
        (self.config.cap_bytes / GENERATIONS_PER_CAP).min(GENERATION_BYTES_MAX)
    }

    /// Commits batches; after a failure that is not a full disk, tries once more in a new generation.
    fn store(
        &mut self,
        batches: &[(Meta, Vec<u8>)],
        now: Timestamp,
    ) -> Result<Vec<u64>, OutboxError> {
        let mut numbers = Vec::new();
        let mut rest = batches;
        let mut retried = false;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(rest.len().min(COMMIT_BATCHES));
            match self.commit(chunk, now) {
                Ok(chunk_numbers) => {
                    numbers.extend(chunk_numbers);
                    rest = behind;
                    retried = false;
                }
                Err(error) if !retried && !error.is_disk_full() => {
                    tracing::warn!(%error, "the outbox failed to write; trying a new generation");
                    retried = true;
                }
                Err(error) => {
                    let records = |batches: &[(Meta, Vec<u8>)]| {
                        batches
                            .iter()
                            .map(|(meta, _)| u64::from(meta.records))
                            .sum()
                    };
                    let shed: u64 = records(rest);
                    let written = records(batches) - shed;
                    self.unwritten += shed;
                    tracing::warn!(%error, shed, written, "the outbox shed records");
                    return Err(OutboxError::Unwritten {
                        written,
                        shed,
                        source: Box::new(error),
                    });
                }
            }
        }
        Ok(numbers)
    }

    fn commit(
        &mut self,
        batches: &[(Meta, Vec<u8>)],
        now: Timestamp,
    ) -> Result<Vec<u64>, OutboxError> {
        let payload: u64 = batches.iter().map(|(_, value)| value.len() as u64).sum();
        self.make_room(payload * 2 + SLACK_BYTES)?;
        let full = self.active.as_ref().is_some_and(|active| {
            self.shelf.bytes().get(&active.generation) >= Some(&self.generation_bytes())
        });
        if full || self.active.is_none() {
            self.rotate(now)?;
        }
        let Some(Active { generation, store }) = &self.active else {
            return Err(OutboxError::Inactive);
        };
        let generation = *generation;
        let writes: Vec<Write> = (self.book.next_place(generation)..)
            .zip(batches)
            .map(|(place, (_, value))| Write::put(generation::batch_key(place), value.clone()))
            .collect();
        let committed = store.commit(&writes);
        self.shelf.measure(generation);
        match committed {
            Ok(()) => Ok(batches
                .iter()
                .map(|(meta, _)| self.book.appended(generation, *meta))
                .collect()),
            Err(error) => {
                self.abandon();
                Err(error.into())
            }
        }
    }

    /// Refuses what would eat the reserve, and evicts what is over the cap.
    fn make_room(&mut self, need: u64) -> Result<(), OutboxError> {
        let dir = self.shelf.dir();
        let free_bytes = (self.free_bytes)(dir).map_err(|source| OutboxError::Io {
            dir: dir.to_owned(),
            action: "ask for the free space",
            source,
        })?;
        let reserve_bytes = self.config.free_reserve_bytes;
        if free_bytes < reserve_bytes.saturating_add(need) {
            return Err(OutboxError::Reserve {
                free_bytes,
                reserve_bytes,
            });
        }
        if self.evict(self.config.cap_bytes.saturating_sub(need)) {
            self.save_or_warn();
            self.bury_drained();
        }
        Ok(())
    }

    /// Marks the oldest generations as lost until the rest is within the cap.
    fn evict(&mut self, cap_bytes: u64) -> bool {
        let active = self.active.as_ref().map(|active| active.generation);
        let over = rules::generations_over_cap(
            self.shelf.bytes(),
            self.shelf.other_bytes(),
            cap_bytes,
            active,
        );
        for generation in &over {
            let lost = self.book.lose_generation(*generation, GapReason::Evicted);
            let (batches, records) = (lost.batches, lost.records);
            tracing::warn!(
                generation,
                batches,
                records,
                cap_bytes,
                "the outbox is full and evicted its oldest generation"
            );
        }
        !over.is_empty()
    }

    /// Writes down what is done, and only then deletes what is drained.
    fn settle(&mut self, now: Timestamp) -> Result<(), OutboxError> {
        let large =
            |active: &Active| self.shelf.bytes().get(&active.generation) >= Some(&DRAINED_BYTES);
        let drained = |active: &Active| {
            self.book
                .generation(active.generation)
                .is_some_and(Generation::is_drained)
        };
        let full = |active: &Active| {
            self.shelf.bytes().get(&active.generation) >= Some(&self.generation_bytes())
        };
        let worn = self
            .active
            .as_ref()
            .is_none_or(|active| full(active) || (drained(active) && large(active)));
        let saved = if worn { self.rotate(now) } else { self.save() };
        // After a failure the space is what is needed most; the graves tell the next run.
        self.bury_drained();
        saved
    }

    /// Makes the next generation, with all that is known in it. On failure everything stays as it was.
    fn rotate(&mut self, now: Timestamp) -> Result<(), OutboxError> {
        let generation = self.newest.checked_add(1).ok_or(OutboxError::Exhausted)?;
        self.evict_over_count();
        let mut book = self.book.clone();
        for drained in book.drained(None) {
            book.remove(drained);
        }
        book.begin(generation, now);
        // Taken even if it fails below: nobody knows what a failed generation holds.
        self.newest = generation;
        if let Err(error) = self.begin(generation, &book) {
            self.shelf.discard(generation);
            return Err(error);
        }
        self.written = generation::written(&book);
        let drained: Vec<u32> = self
            .shelf
            .bytes()
            .keys()
            .copied()
            .filter(|known| book.generation(*known).is_none())
            .collect();
        self.book = book;
        self.close_reader_of(&drained);
        for generation in drained {
            self.shelf.bury(generation);
        }
        self.shelf.clear_graves();
        Ok(())
    }

    /// Keeps the generations few enough for their entries to be one commit.
    fn evict_over_count(&mut self) {
        let waiting = self
            .book
            .generations()
            .filter(|(_, entry)| !entry.is_drained())
            .map(|(generation, _)| generation);
        let waiting: Vec<u32> = waiting.collect();
        for generation in waiting
            .iter()
            .take((waiting.len() + 1).saturating_sub(GENERATIONS_MAX))
        {
            let lost = self.book.lose_generation(*generation, GapReason::Evicted);
            let (batches, records) = (lost.batches, lost.records);
            tracing::warn!(
                generation,
                batches,
                records,
                GENERATIONS_MAX,
                "the outbox has too many generations and evicted the oldest"
            );
        }
    }

    fn begin(&mut self, generation: u32, book: &Book) -> Result<(), OutboxError> {
        let store = generation::create(&self.shelf.path(generation))?;
        // As one: a part of the book would be taken for all of it.
        store.commit(&generation::changes(book, &BTreeMap::new())?)?;
        self.shelf.write_note(Note {
            epoch: book.epoch(),
            newest: generation,
        })?;
        self.active = Some(Active { generation, store });
        self.shelf.measure(generation);
        Ok(())
    }

    /// Writes down what changed in the book.
    fn save(&mut self) -> Result<(), OutboxError> {
        let Some(Active { generation, store }) = &self.active else {
            return Err(OutboxError::Inactive);
        };
        let generation = *generation;
        let committed = store.commit(&generation::changes(&self.book, &self.written)?);
        self.shelf.measure(generation);
        if let Err(error) = committed {
            self.abandon();
            return Err(error.into());
        }
        self.written = generation::written(&self.book);
        Ok(())
    }

    fn save_or_warn(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "the outbox could not write down what was lost; a restart may count it again");
        }
    }

    /// Deletes what is drained, and the graves once what is written down does not speak of them.
    fn bury_drained(&mut self) {
        let drained = self
            .book
            .drained(self.active.as_ref().map(|active| active.generation));
        self.close_reader_of(&drained);
        for generation in &drained {
            self.book.remove(*generation);
            self.shelf.bury(*generation);
        }
        let is_written = self
            .written
            .keys()
            .all(|generation| self.book.generation(*generation).is_some());
        if is_written || (self.active.is_some() && self.save().is_ok()) {
            self.shelf.clear_graves();
        }
    }

    /// Closes the active generation after a failure: nothing more is appended to it.
    fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            tracing::warn!(
                generation = active.generation,
                "the outbox closes a generation early"
            );
            active.store.close();
        }
    }

    fn close_reader_of(&mut self, generations: &[u32]) {
        if self
            .reader
            .as_ref()
            .is_some_and(|reader| generations.contains(&reader.generation))
        {
            self.reader = None;
        }
    }
}
