//! Reading batches back, and taking stock of a generation when it is opened for that.

use lamppost_agent_core::outbox::{self as rules, Class};
use lamppost_models::message::GapReason;
use lamppost_store::{Store, StoreError};

use super::generation::{self, Found};
use super::{Active, Outbox, OutboxError, StoredBatch, batch};

impl Outbox {
    /// Reads one batch; `None` when it is lost, which is counted.
    pub(super) fn read(&mut self, number: u64) -> Result<Option<StoredBatch>, OutboxError> {
        let (generation, place) = rules::place(number);
        for last_try in [false, true] {
            if !self.open_reader(generation)? || !self.book.waits(number) {
                return Ok(None);
            }
            let Some(store) = self.store_of(generation) else {
                return Ok(None);
            };
            match store.get(&generation::batch_key(place)) {
                Ok(Some(value)) => {
                    let lane = self.book.generation(generation).map(|entry| entry.class);
                    let lane = lane.unwrap_or(Class::Prediction);
                    if let Some(batch) = batch::decode(number, lane, &value) {
                        return Ok(Some(batch));
                    }
                    break;
                }
                Ok(None) | Err(StoreError::Corrupt { .. }) => break,
                // An error of sled sticks to its handle: a new one may read on.
                Err(error) => {
                    tracing::warn!(generation, place, %error, last_try, "cannot read a batch of the outbox");
                    self.reader = None;
                    if self.is_active(generation) {
                        self.abandon();
                    }
                }
            }
        }
        let lost = self.book.lose_batch(number, GapReason::Damaged);
        tracing::warn!(
            generation,
            place,
            records = lost.records,
            "a batch of the outbox is damaged"
        );
        Ok(None)
    }

    fn store_of(&self, generation: u32) -> Option<&Store> {
        self.actives
            .values()
            .chain(&self.reader)
            .find(|open| open.generation == generation)
            .map(|open| &open.store)
    }

    /// Opens a generation for reading and takes stock of it; `false` when it is lost, which is counted.
    pub(super) fn open_reader(&mut self, generation: u32) -> Result<bool, OutboxError> {
        if self.store_of(generation).is_some() {
            return Ok(true);
        }
        self.reader = None;
        let path = self.shelf.path(generation);
        let found = if path.is_dir() {
            generation::open(&path)?
        } else {
            Found::Empty { damaged: true }
        };
        let Found::Whole(store) = found else {
            let lost = self.book.lose_generation(generation, GapReason::Damaged);
            tracing::error!(
                generation,
                batches = lost.batches,
                records = lost.records,
                "a generation of the outbox is damaged"
            );
            self.shelf.bury(generation);
            return Ok(false);
        };
        if let Some(entry) = self
            .book
            .generation(generation)
            .filter(|entry| !entry.is_indexed())
        {
            let index = match generation::read_index(&store) {
                (index, false) => index,
                (index, true) => generation::read_rest(&store, index, entry.count),
            };
            let lost_before = self.book.totals().lost_batches;
            self.book.indexed(generation, index);
            let batches = self.book.totals().lost_batches - lost_before;
            if batches > 0 {
                tracing::error!(
                    generation,
                    batches,
                    "batches are missing in a generation of the outbox"
                );
            }
        }
        self.reader = Some(Active { generation, store });
        self.shelf.measure(generation);
        Ok(true)
    }
}
