//! What is done to stored samples: labelled, forgotten, and thinned out when they are too many or too old.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_coordinator_core::samples::{
    BLOCK, BLOCKS_MAX, Block, BlockId, Facts, Filter, SampleId,
};
use lamppost_models::Timestamp;
use lamppost_models::message::Label;
use lamppost_store::{StoreError, Write};

use super::{BLOCKS_READ_MAX, Record, in_block};
use crate::state::{State, json, keys};

/// Writes and bytes after which a commit ends: a quarter of what the store takes, so that the largest sample fits too.
const COMMIT_WRITES: usize = 1_024;
const COMMIT_BYTES: usize = 1 << 20;
/// Blocks that are thinned in one look at most: 32,000 samples, several times what comes in the second between two looks.
const THINNED_MAX: usize = 512;
/// How often it is looked for samples that are too old.
const AGE_PERIOD_MS: i64 = 60_000;

/// Changes of stored samples, before they are committed.
#[derive(Default)]
pub(super) struct Edit {
    pub(super) writes: Vec<Write>,
    bytes: usize,
    pub(super) blocks: BTreeMap<BlockId, Block>,
}

impl Edit {
    pub(super) fn push(&mut self, write: Write) {
        self.bytes += match &write {
            Write::Put { key, value } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        };
        self.writes.push(write);
    }

    fn full(&self) -> bool {
        self.writes.len() >= COMMIT_WRITES || self.bytes >= COMMIT_BYTES
    }
}

impl State {
    pub(super) fn block_in<'a>(&self, edit: &'a mut Edit, id: &BlockId) -> &'a mut Block {
        let known = edit.blocks.entry(id.clone());
        known.or_insert_with(|| self.samples.index.block(id))
    }

    /// Adds what the changed blocks come to, and the counts.
    pub(super) fn seal(&self, edit: &mut Edit) {
        let blocks = edit.blocks.iter();
        let blocks = blocks.map(|(id, block)| {
            let key = keys::sample_block(id);
            if block.rows.is_empty() {
                Write::delete(key)
            } else {
                Write::put(key, json(block))
            }
        });
        edit.writes.extend(blocks.collect::<Vec<_>>());
        let counts = json(&self.samples.counts);
        edit.writes.push(Write::put(keys::SAMPLE_COUNTS, counts));
    }

    fn finish(&mut self, edit: &mut Edit) -> Result<(), StoreError> {
        let mut edit = std::mem::take(edit);
        if edit.writes.is_empty() {
            return Ok(());
        }
        self.seal(&mut edit);
        // The counts are ahead of the disk when this fails, so that they must be read again.
        self.commit(&edit.writes)
            .inspect_err(|_| self.stopped = true)?;
        for (id, block) in edit.blocks {
            self.samples.index.set(id, block);
        }
        Ok(())
    }

    /// Sets or takes back labels; gives which samples are not stored.
    pub(crate) fn label_samples(
        &mut self,
        labels: BTreeMap<SampleId, Option<Label>>,
    ) -> Result<Vec<SampleId>, StoreError> {
        let (mut unknown, mut edit) = (Vec::new(), Edit::default());
        for (id, label) in labels {
            let key = keys::sample(&id);
            let found = match self.store.get(key.as_bytes()) {
                Err(StoreError::Corrupt { .. }) => None,
                found => found?,
            };
            let known = found.and_then(|value| {
                let record = serde_json::from_slice::<Record>(&value).ok()?;
                let facts = record.facts(value.len())?;
                Some((record, facts))
            });
            let Some((mut record, before)) = known else {
                unknown.push(id);
                continue;
            };
            record.operator = label;
            let value = json(&record);
            let Some(facts) = record.facts(value.len()) else {
                continue;
            };
            edit.push(Write::put(key, value));
            self.block_in(&mut edit, &id.block())
                .replace(&before, &facts);
            if edit.full() {
                self.finish(&mut edit)?;
            }
        }
        self.finish(&mut edit)?;
        Ok(unknown)
    }

    /// Deletes samples behind `after` that `filter` means: how many in this step, and where the next one goes on.
    pub(crate) fn forget_samples(
        &mut self,
        filter: &Filter,
        after: Option<&SampleId>,
    ) -> Result<(u64, Option<SampleId>), StoreError> {
        let blocks: Vec<BlockId> = self
            .samples
            .index
            .find(filter, after)
            .take(BLOCKS_READ_MAX)
            .cloned()
            .collect();
        let (mut forgotten, mut edit) = (0, Edit::default());
        for block in &blocks {
            forgotten += self.drop_from(block, &mut edit, |id, facts| filter.matches(id, facts))?;
        }
        self.samples.counts.forgotten += forgotten;
        self.finish(&mut edit)?;
        let next = blocks.last().map(|last| in_block(last, BLOCK - 1));
        Ok((forgotten, next))
    }

    /// Deletes samples of a block, and counts the rest of it anew.
    fn drop_from(
        &mut self,
        block: &BlockId,
        edit: &mut Edit,
        mut goes: impl FnMut(&SampleId, &Facts) -> bool,
    ) -> Result<u64, StoreError> {
        let (mut rest, mut gone) = (Block::default(), BTreeSet::new());
        self.read_block(block, None, |id, _, facts| {
            if goes(&id, &facts) {
                gone.insert(id.seq);
            } else {
                rest.add(&facts);
            }
            true
        })?;
        let dropped = gone.len() as u64;
        if rest.rows.is_empty() {
            // What is damaged goes with the others.
            gone = (0..BLOCK).map(|place| in_block(block, place).seq).collect();
        }
        for seq in gone {
            let id = SampleId {
                seq,
                ..in_block(block, 0)
            };
            edit.push(Write::delete(keys::sample(&id)));
        }
        edit.blocks.insert(block.clone(), rest);
        Ok(dropped)
    }

    /// Deletes samples that are too old, and the oldest when there are too many.
    pub(crate) fn trim_samples(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let limits = self.settings.samples;
        let index = &self.samples.index;
        let over = index.bytes() > limits.cap_bytes || index.blocks() > BLOCKS_MAX;
        let aged_at = self.samples.aged_at;
        if !over && aged_at.is_some_and(|at| (0..AGE_PERIOD_MS).contains(&now.ms_since(at))) {
            return Ok(());
        }
        self.samples.aged_at = Some(now);
        let age_ms = i64::try_from(limits.age.as_millis()).unwrap_or(i64::MAX);
        let too_old = now.offset_ms(-age_ms);
        // A little more goes than must, so that a full store is not thinned at every look.
        let goal = limits.cap_bytes - limits.cap_bytes / 64;
        let mut excess = if over {
            index.bytes().saturating_sub(goal)
        } else {
            0
        };
        let mut blocks_over = index.blocks().saturating_sub(BLOCKS_MAX);
        let (mut edit, before) = (Edit::default(), self.samples.counts);
        for (first, block) in index.oldest(THINNED_MAX) {
            if first >= too_old && excess == 0 && blocks_over == 0 {
                break;
            }
            let (mut expired, mut evicted, whole) = (0, 0, blocks_over > 0);
            self.drop_from(&block, &mut edit, |_, facts| {
                if facts.received_at < too_old {
                    expired += 1;
                } else if whole || excess > 0 {
                    evicted += 1;
                } else {
                    return false;
                }
                excess = excess.saturating_sub(facts.bytes);
                true
            })?;
            blocks_over = blocks_over.saturating_sub(1);
            self.samples.counts.expired += expired;
            self.samples.counts.evicted += evicted;
            if edit.full() {
                self.finish(&mut edit)?;
            }
        }
        self.finish(&mut edit)?;
        let counts = self.samples.counts;
        let expired = counts.expired - before.expired;
        let evicted = counts.evicted - before.evicted;
        if expired + evicted > 0 {
            tracing::info!(expired, evicted, "the oldest samples are deleted");
        }
        Ok(())
    }
}
