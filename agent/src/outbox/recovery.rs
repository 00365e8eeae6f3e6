//! Finding out what an earlier run left.

use lamppost_models::ledger::LossReason;
use lamppost_models::message::GapReason;
use lamppost_store::Store;

use super::generation::{self, Found};
use super::shelf::Note;
use super::{Outbox, OutboxError};

impl Outbox {
    /// Takes stock of a generation that was written to when the run ended: no later one has its count.
    fn recount(&mut self, generation: u32, store: &Store) {
        let (index, broke_off) = generation::read_index(store);
        let end = u32::try_from(index.len()).unwrap_or(u32::MAX);
        self.book.recounted(generation, index);
        self.book.seal(generation);
        if broke_off {
            self.book.lose_unknown(generation, end);
        }
    }

    /// Takes stock of the other lanes' generations that were written to.
    fn recount_open(&mut self) -> Result<(), OutboxError> {
        let open = self.book.generations().filter(|(_, entry)| entry.open);
        let open: Vec<u32> = open.map(|(generation, _)| generation).collect();
        for generation in open {
            let path = self.shelf.path(generation);
            if path.is_dir() {
                match generation::open(&path)? {
                    Found::Whole(store) => self.recount(generation, &store),
                    // What it had is told below, as far as it is known.
                    Found::Empty { .. } => self.shelf.discard(generation),
                }
            }
            if !self.shelf.path(generation).is_dir() {
                let known = self.book.next_place(generation);
                tracing::error!(generation, "a generation that was written to is lost");
                self.book.lose_unknown(generation, known);
            }
            self.book.seal(generation);
        }
        Ok(())
    }

    /// Finds out what an earlier run left.
    pub(super) fn recover(&mut self, note: Option<Note>) -> Result<(), OutboxError> {
        let found = self.shelf.generations()?;
        let graves = self.shelf.graves()?;
        let mut lost = Vec::new();
        let mut spoken = None;
        for &generation in found.iter().rev() {
            let (store, damaged) = match generation::open(&self.shelf.path(generation))? {
                Found::Whole(store) => (Some(store), false),
                Found::Empty { damaged } => (None, damaged),
            };
            if let Some(store) = store
                && let Some(book) = generation::read_book(&store, generation)?
            {
                self.book = book.with_clocks_of(&self.book);
                self.recount(generation, &store);
                spoken = Some(generation);
                break;
            }
            // A generation says nothing before it is finished, and the note names it only then.
            if note.map_or(damaged, |note| note.newest >= generation) {
                lost.push(generation);
            }
            self.shelf.discard(generation);
        }
        for generation in &graves {
            // The deletion came before the note of the loss: told twice is better than not at all.
            self.book.tell_generation(*generation, LossReason::Evicted);
            self.book.remove(*generation);
        }
        self.recount_open()?;
        let found = self.shelf.generations()?;
        // The newest generation is never deleted on purpose.
        if let Some(Note { newest, .. }) = note
            && Some(newest) > spoken
            && !found.contains(&newest)
            && !graves.contains(&newest)
        {
            lost.push(newest);
        }
        for generation in lost {
            tracing::error!(generation, "a generation of the outbox is lost");
            self.book.lose_unknown(generation, 0);
        }
        let known: Vec<u32> = self
            .book
            .generations()
            .map(|(generation, _)| generation)
            .collect();
        for generation in known
            .iter()
            .filter(|generation| !found.contains(generation))
        {
            let lost = self.book.lose_generation(*generation, GapReason::Damaged);
            tracing::error!(
                generation,
                batches = lost.batches,
                records = lost.records,
                "a generation of the outbox is gone"
            );
        }
        for generation in found
            .iter()
            .filter(|generation| !known.contains(generation))
        {
            if self.shelf.path(*generation).is_dir() {
                self.shelf.bury(*generation);
            }
        }
        self.newest = found
            .iter()
            .chain(&graves)
            .copied()
            .fold(self.newest, u32::max);
        self.shelf.measure_others();
        Ok(())
    }
}
