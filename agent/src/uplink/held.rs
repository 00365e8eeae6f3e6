//! Batches whose records are on the disk and, one by one, on their way: with `durability = "always"`.

use std::collections::BTreeMap;

/// How many records of each batch are not acknowledged. As many batches as live predictions that memory may hold, at
/// most.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<u64, u32>);

impl Held {
    /// One more record of a batch is sent by itself.
    pub(super) fn add(&mut self, batch: u64) {
        *self.0.entry(batch).or_default() += 1;
    }

    /// A record was acknowledged; true when it was the last of its batch.
    pub(super) fn acknowledge(&mut self, batch: u64) -> bool {
        let Some(left) = self.0.get_mut(&batch) else {
            return false;
        };
        *left = left.saturating_sub(1);
        let done = *left == 0;
        if done {
            self.0.remove(&batch);
        }
        done
    }

    /// A record was given up, so that its batch is sent as one; false when it is already.
    pub(super) fn release(&mut self, batch: u64) -> bool {
        self.0.remove(&batch).is_some()
    }

    /// Whether the records of a batch are sent one by one.
    pub(super) fn has(&self, batch: u64) -> bool {
        self.0.contains_key(&batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_done_with_its_last_record_unless_it_was_released() {
        let mut held = Held::default();
        for batch in [1, 1, 2, 2] {
            held.add(batch);
        }
        assert!(!held.acknowledge(1));
        assert!(held.acknowledge(1) && !held.acknowledge(1));
        assert!(!held.acknowledge(2));
        assert!(held.has(2) && held.release(2) && !held.release(2));
        assert!(!held.acknowledge(2), "it is sent as one");
    }
}
