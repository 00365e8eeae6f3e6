//! Finding out what an earlier run left.

use lamppost_models::message::GapReason;
use lamppost_store::Store;

use super::generation::{self, Found};
use super::shelf::Note;
use super::{Outbox, OutboxError};

impl Outbox {
    /// Takes stock of the generation that was written to last: no later one has its count.
    fn recount(&mut self, generation: u32, store: &Store) {
        let (index, broke_off) = generation::read_index(store);
        let end = u32::try_from(index.len()).unwrap_or(u32::MAX);
        self.book.recounted(generation, index);
        if broke_off {
            self.book.lose_unknown(generation, end);
        }
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
                self.book = book;
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
            self.book.remove(*generation);
        }
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
