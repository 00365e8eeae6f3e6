//! Writing: batches, the state of the outbox, and the generations that take them.

use lamppost_agent_core::outbox::{self as rules, Book, Class, Generation, Meta, Sized};
use lamppost_models::Timestamp;
use lamppost_models::ledger::LossReason;
use lamppost_models::message::GapReason;
use lamppost_store::Write;

use super::generation::{self, Written};
use super::shelf::Note;
use super::{Active, Outbox, OutboxError};

/// Largest generation: an eviction loses one, and a drained one gives its space back.
const GENERATION_BYTES_MAX: u64 = 16 << 20;
/// Generations that a cap is cut into, at least: an eviction loses no more than this part.
const GENERATIONS_PER_CAP: u64 = 8;
/// A drained generation that is still written to is replaced once it is this large.
const DRAINED_BYTES: u64 = 2 << 20;
/// What a store takes beyond its payload before it is measured again: an open segment and a snapshot.
const SLACK_BYTES: u64 = 1 << 20;
/// Most generations: a crash loop makes one each time, and what is known of them, at most 19 KiB each, is one commit.
pub(super) const GENERATIONS_MAX: usize = 128;
/// Batches of one commit: half a megabyte at most, after which the caps are looked at again.
const COMMIT_BATCHES: usize = 64;

impl Outbox {
    fn generation_bytes(&self, class: Class) -> u64 {
        let cap_bytes = self.config.cap_bytes.min(self.config.lane(class).cap_bytes);
        (cap_bytes / GENERATIONS_PER_CAP).min(GENERATION_BYTES_MAX)
    }

    /// The generation that takes the book.
    pub(super) fn speaker(&self) -> Option<u32> {
        let active = self.actives.get(&self.speaker?)?;
        Some(active.generation)
    }

    pub(super) fn is_active(&self, generation: u32) -> bool {
        self.active_generations().contains(&generation)
    }

    fn active_generations(&self) -> Vec<u32> {
        let actives = self.actives.values();
        actives.map(|active| active.generation).collect()
    }

    /// The generations with their lanes and bytes.
    pub(super) fn sizes(&self) -> Vec<Sized> {
        let sizes = self.shelf.bytes().iter();
        sizes
            .map(|(&generation, &bytes)| Sized {
                generation,
                bytes,
                class: self
                    .book
                    .generation(generation)
                    .map_or(Class::Prediction, |entry| entry.class),
            })
            .collect()
    }

    /// Commits batches; after a failure that is not a full disk, tries once more in a new generation.
    pub(super) fn store(
        &mut self,
        class: Class,
        batches: &[(Meta, Vec<u8>)],
        now: Timestamp,
    ) -> Result<Vec<u64>, OutboxError> {
        let mut numbers = Vec::new();
        let mut rest = batches;
        let mut retried = false;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(rest.len().min(COMMIT_BATCHES));
            match self.commit(class, chunk, now) {
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
                    for (meta, _) in rest {
                        if let Some(run) = meta.run.clone() {
                            let records = meta.records.into();
                            self.book
                                .tell_lost(class, run, records, LossReason::Unwritten);
                        }
                    }
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
        class: Class,
        batches: &[(Meta, Vec<u8>)],
        now: Timestamp,
    ) -> Result<Vec<u64>, OutboxError> {
        let payload: u64 = batches.iter().map(|(_, value)| value.len() as u64).sum();
        self.make_room(class, payload * 2 + SLACK_BYTES)?;
        let has_room = self
            .actives
            .get(&class)
            .is_some_and(|active| !self.is_full(class, active));
        if !has_room {
            self.rotate(class, now)?;
        }
        let Some(Active { generation, store }) = self.actives.get(&class) else {
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
                .map(|(meta, _)| self.book.appended(generation, meta.clone()))
                .collect()),
            Err(error) => {
                self.abandon();
                Err(error.into())
            }
        }
    }

    fn is_full(&self, class: Class, active: &Active) -> bool {
        self.shelf.bytes().get(&active.generation) >= Some(&self.generation_bytes(class))
    }

    /// Refuses what would eat the reserve, and evicts what is over the cap.
    fn make_room(&mut self, class: Class, need: u64) -> Result<(), OutboxError> {
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
        if self.evict(Some((class, need))) {
            self.save_or_warn();
            self.bury_drained();
        }
        Ok(())
    }

    /// Marks generations as lost until the rest, with what comes, is within the caps.
    pub(super) fn evict(&mut self, coming: Option<(Class, u64)>) -> bool {
        let mut stays: Vec<u32> = self.speaker().into_iter().collect();
        if let Some((class, _)) = coming {
            stays.extend(self.actives.get(&class).map(|active| active.generation));
        }
        let caps = self.config.caps(coming);
        let over =
            rules::generations_over_cap(&self.sizes(), self.shelf.other_bytes(), &caps, &stays);
        for generation in &over {
            self.retire(*generation);
            let class = self.book.generation(*generation).map(|entry| entry.class);
            let lost = self.book.lose_generation(*generation, GapReason::Evicted);
            let (batches, records) = (lost.batches, lost.records);
            tracing::warn!(
                generation,
                class = class.map(Class::as_str),
                batches,
                records,
                cap_bytes = self.config.cap_bytes,
                "the outbox is full and evicted a generation"
            );
        }
        !over.is_empty()
    }

    /// Writes no more to a generation.
    fn retire(&mut self, generation: u32) {
        self.actives
            .retain(|_, active| active.generation != generation);
        self.book.seal(generation);
    }

    /// Writes down what is done, and only then deletes what is drained.
    pub(super) fn settle(&mut self, now: Timestamp) -> Result<(), OutboxError> {
        let worn = |(class, active): &(&Class, &Active)| {
            let entry = self.book.generation(active.generation);
            let drained = entry.is_some_and(Generation::is_drained);
            let large = self.shelf.bytes().get(&active.generation) >= Some(&DRAINED_BYTES);
            self.is_full(**class, active) || (drained && large)
        };
        let worn: Vec<(Class, u32)> = self
            .actives
            .iter()
            .filter(worn)
            .map(|(class, active)| (*class, active.generation))
            .collect();
        let mut renew = self.speaker.is_none().then_some(Class::Prediction);
        for (class, generation) in worn {
            if Some(class) == self.speaker {
                renew = Some(class);
            } else {
                // Its successor is made when there is something to write to it.
                self.retire(generation);
            }
        }
        let saved = match renew {
            Some(class) => self.rotate(class, now),
            None => self.save(),
        };
        // After a failure the space is what is needed most; the graves tell the next run.
        self.bury_drained();
        saved
    }

    /// Makes the next generation of a class, with all that is known in it. On failure everything stays as it was.
    pub(super) fn rotate(&mut self, class: Class, now: Timestamp) -> Result<(), OutboxError> {
        let generation = self.newest.checked_add(1).ok_or(OutboxError::Exhausted)?;
        self.evict_over_count();
        let others: Vec<u32> = self
            .actives
            .iter()
            .filter(|(of, _)| **of != class)
            .map(|(_, active)| active.generation)
            .collect();
        let mut book = self.book.clone();
        if let Some(old) = self.actives.get(&class) {
            book.seal(old.generation);
        }
        for drained in book.drained(&others) {
            book.remove(drained);
        }
        book.begin(generation, class, now);
        book.events_mut().place(generation);
        // Taken even if it fails below: nobody knows what a failed generation holds.
        self.newest = generation;
        if let Err(error) = self.begin(generation, class, &book) {
            self.shelf.discard(generation);
            return Err(error);
        }
        self.written = Written::of(&book);
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
        let waiting = self.book.generations();
        let mut waiting: Vec<(Class, u32)> = waiting
            .filter(|(_, entry)| !entry.is_drained())
            .map(|(generation, entry)| (entry.class, generation))
            .collect();
        // The class that matters least first, and of each the oldest.
        waiting.sort_by_key(|(class, generation)| (std::cmp::Reverse(*class), *generation));
        let over = (waiting.len() + 1).saturating_sub(GENERATIONS_MAX);
        for (class, generation) in waiting.into_iter().take(over) {
            let lost = self.book.lose_generation(generation, GapReason::Evicted);
            let (batches, records) = (lost.batches, lost.records);
            tracing::warn!(
                generation,
                %class,
                batches,
                records,
                GENERATIONS_MAX,
                "the outbox has too many generations and evicted the oldest"
            );
        }
    }

    fn begin(&mut self, generation: u32, class: Class, book: &Book) -> Result<(), OutboxError> {
        let store = generation::create(&self.shelf.path(generation))?;
        // As one: a part of the book would be taken for all of it.
        store.commit(&Written::default().changes(book)?)?;
        self.shelf.write_note(Note {
            epoch: book.epoch(),
            newest: generation,
        })?;
        self.actives.insert(class, Active { generation, store });
        self.speaker = Some(class);
        self.shelf.measure(generation);
        Ok(())
    }

    /// Writes down what changed in the book.
    pub(super) fn save(&mut self) -> Result<(), OutboxError> {
        let generation = self.speaker().ok_or(OutboxError::Inactive)?;
        self.book.events_mut().place(generation);
        let changes = self.written.changes(&self.book)?;
        let speaker = self.speaker.and_then(|class| self.actives.get(&class));
        let Some(Active { store, .. }) = speaker else {
            return Err(OutboxError::Inactive);
        };
        let committed = store.commit(&changes);
        self.shelf.measure(generation);
        if let Err(error) = committed {
            self.abandon();
            return Err(error.into());
        }
        self.written = Written::of(&self.book);
        Ok(())
    }

    pub(super) fn save_or_warn(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "the outbox could not write down what was lost; a restart may count it again");
        }
    }

    /// Deletes what is drained, and the graves once what is written down does not speak of them.
    fn bury_drained(&mut self) {
        let drained = self.book.drained(&self.active_generations());
        self.close_reader_of(&drained);
        for generation in &drained {
            self.book.remove(*generation);
            self.shelf.bury(*generation);
        }
        let is_written = self.written.is_within(&self.book);
        if is_written || (self.speaker.is_some() && self.save().is_ok()) {
            self.shelf.clear_graves();
        }
    }

    /// Closes what is written to after a failure: nothing more is appended to it.
    pub(super) fn abandon(&mut self) {
        self.speaker = None;
        for (class, active) in std::mem::take(&mut self.actives) {
            let generation = active.generation;
            tracing::warn!(generation, %class, "the outbox closes a generation early");
            self.book.seal(generation);
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
