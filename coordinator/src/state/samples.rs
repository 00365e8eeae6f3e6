//! Stored samples: each under its id, and what its block comes to, in one commit.
//!
//! What the blocks come to is in memory too; how questions are answered from it is in
//! [`lamppost_coordinator_core::samples`].

use std::collections::BTreeMap;

use lamppost_coordinator_core::samples::{
    BLOCK, Block, BlockId, Facts, Filter, Index, SampleId, Sums,
};
use lamppost_models::message::{Label, Sample, SampleOrigin};
use lamppost_models::{Timestamp, V1};
use lamppost_store::{StoreError, Write};
use serde::{Deserialize, Serialize};

use super::{State, json, keys};
use crate::api::{LabelBy, SampleSummary, StoredSample};

/// Blocks that one question reads before others have their turn: 1,024 samples, some 3 MB.
const BLOCKS_READ_MAX: usize = 16;
/// Bytes of JSON after which a part of an answer ends: what a request holds in memory, and one sample more.
const PART_BYTES: u64 = 256 * 1024;

mod edit;

use edit::Edit;

/// All that is in memory of the samples.
#[derive(Default)]
pub(super) struct Samples {
    index: Index,
    pub(super) counts: SampleCounts,
    /// When it was looked for samples that are too old.
    aged_at: Option<Timestamp>,
}

/// What became of samples, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SampleCounts {
    v: V1,
    /// Stored, each once.
    pub(crate) stored: u64,
    /// Came again, and were dropped.
    pub(crate) duplicates: u64,
    /// Could not be.
    pub(crate) refused: u64,
    /// Deleted since they were too old.
    pub(crate) expired: u64,
    /// Deleted since there were too many.
    pub(crate) evicted: u64,
    /// Deleted since somebody asked for it.
    pub(crate) forgotten: u64,
}

/// A sample in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    v: V1,
    received_at: Timestamp,
    /// What somebody here says came true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<Label>,
    sample: Sample,
}

/// Samples that a round stores.
pub(super) type NewSamples = BTreeMap<SampleId, NewSample>;

/// A sample that a round stores.
pub(super) struct NewSample {
    value: Vec<u8>,
    facts: Facts,
}

/// A part of an answer.
pub(crate) struct SamplePart {
    pub(crate) rows: Vec<StoredSample>,
    /// Where to go on; `None` when all is said.
    pub(crate) next: Option<SampleId>,
}

impl Record {
    /// `None` of a sample without an origin, which is never stored.
    fn facts(&self, bytes: usize) -> Option<Facts> {
        let SampleOrigin { model, policy, .. } = self.sample.origin.as_ref()?;
        Some(Facts {
            model: model.clone(),
            policy: *policy,
            ts: self.sample.ts,
            received_at: self.received_at,
            labelled: self.operator.is_some() || self.sample.label.is_some(),
            bytes: bytes as u64,
        })
    }

    fn row(self, id: SampleId) -> StoredSample {
        let Self {
            received_at,
            operator,
            mut sample,
            v: _,
        } = self;
        let label_by = match (&operator, &sample.label) {
            (Some(_), _) => Some(LabelBy::Operator),
            (None, Some(_)) => Some(LabelBy::Node),
            (None, None) => None,
        };
        sample.label = operator.or(sample.label);
        StoredSample {
            path: id.path.clone(),
            stream: id.stream.clone(),
            id,
            received_at,
            label_by,
            sample,
        }
    }
}

impl State {
    pub(super) fn load_samples(&mut self) -> Result<(), StoreError> {
        let counts = self.read_one(keys::SAMPLE_COUNTS)?;
        self.samples.counts = counts.unwrap_or_default();
        let mut damaged = false;
        for entry in self.store.scan_prefix(keys::SAMPLE_BLOCKS.as_bytes()) {
            let read = match entry {
                Ok((key, value)) => {
                    let block = serde_json::from_slice::<Block>(&value).ok();
                    keys::parse_sample_block(&key).zip(block)
                }
                Err(StoreError::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            };
            match read {
                Some((id, block)) => self.samples.index.set(id, block),
                None => damaged = true,
            }
        }
        if damaged {
            self.counters.note("damaged_record");
            tracing::error!("the index of the samples is damaged; it is made anew from them");
            self.index_samples()?;
        }
        Ok(())
    }

    /// Makes the index from the samples themselves.
    fn index_samples(&mut self) -> Result<(), StoreError> {
        let mut index = Index::default();
        for entry in self.store.scan_prefix(keys::SAMPLES.as_bytes()) {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(StoreError::Corrupt { .. }) => continue,
                Err(error) => return Err(error),
            };
            let record = serde_json::from_slice::<Record>(&value).ok();
            let facts = record.and_then(|record| record.facts(value.len()));
            if let Some((id, facts)) = keys::parse_sample(&key).zip(facts) {
                let mut block = index.block(&id.block());
                block.add(&facts);
                index.set(id.block(), block);
            }
        }
        self.samples.index = index;
        Ok(())
    }

    /// Has a round store a sample, unless it is stored already: the ledger may have forgotten that it came.
    pub(super) fn store_sample(
        &self,
        id: SampleId,
        sample: Sample,
        now: Timestamp,
        round: &mut NewSamples,
    ) -> Result<bool, StoreError> {
        let known = match self.store.get(keys::sample(&id).as_bytes()) {
            Ok(value) => value.is_some(),
            Err(StoreError::Corrupt { .. }) => true,
            Err(error) => return Err(error),
        };
        let record = Record {
            v: V1,
            received_at: now,
            operator: None,
            sample,
        };
        let value = json(&record);
        match record.facts(value.len()) {
            Some(facts) if !known && !round.contains_key(&id) => {
                round.insert(id, NewSample { value, facts });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Takes in what a round stores, and gives the writes that make it so.
    pub(super) fn sample_writes(&mut self, samples: NewSamples, seen: bool) -> Vec<Write> {
        let mut edit = Edit::default();
        self.samples.counts.stored += samples.len() as u64;
        for (id, NewSample { value, facts }) in samples {
            edit.push(Write::put(keys::sample(&id), value));
            self.block_in(&mut edit, &id.block()).add(&facts);
        }
        if seen {
            self.seal(&mut edit);
        }
        for (id, block) in edit.blocks {
            self.samples.index.set(id, block);
        }
        edit.writes
    }

    /// The samples of a block behind `after`, as they are stored. What is damaged is left out and counted.
    fn read_block(
        &mut self,
        block: &BlockId,
        after: Option<&SampleId>,
        mut take: impl FnMut(SampleId, Record, Facts) -> bool,
    ) -> Result<(), StoreError> {
        let first = in_block(block, 0);
        let first = after
            .filter(|after| **after >= first)
            .map_or(first, |after| SampleId {
                seq: after.seq.saturating_add(1),
                ..after.clone()
            });
        let from = keys::sample(&first);
        let to = keys::sample_end(&in_block(block, BLOCK - 1));
        let mut damaged = 0;
        for entry in self.store.range(from.as_bytes(), &to) {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(StoreError::Corrupt { .. }) => {
                    damaged += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let record = serde_json::from_slice::<Record>(&value).ok();
            let known = record.and_then(|record| {
                let facts = record.facts(value.len())?;
                Some((keys::parse_sample(&key)?, record, facts))
            });
            let Some((id, record, facts)) = known else {
                damaged += 1;
                continue;
            };
            if !take(id, record, facts) {
                break;
            }
        }
        for _ in 0..damaged {
            self.counters.note("damaged_sample");
        }
        Ok(())
    }

    /// Samples behind `after` that `filter` means, at most `limit`, and fewer where it takes long to find them: then `next`
    /// says where to go on.
    pub(crate) fn samples(
        &mut self,
        filter: &Filter,
        after: Option<&SampleId>,
        limit: usize,
    ) -> Result<SamplePart, StoreError> {
        let mut blocks: Vec<BlockId> = self
            .samples
            .index
            .find(filter, after)
            .take(BLOCKS_READ_MAX + 1)
            .cloned()
            .collect();
        let more = blocks.len() > BLOCKS_READ_MAX;
        blocks.truncate(BLOCKS_READ_MAX);
        let (mut rows, mut bytes, mut next) = (Vec::new(), 0, None);
        for block in &blocks {
            let mut full = false;
            self.read_block(block, after, |id, record, facts| {
                if filter.matches(&id, &facts) {
                    bytes += facts.bytes;
                    rows.push(record.row(id.clone()));
                    full = rows.len() >= limit || bytes >= PART_BYTES;
                }
                next = Some(id);
                !full
            })?;
            if full {
                return Ok(SamplePart { rows, next });
            }
            next = Some(in_block(block, BLOCK - 1));
        }
        let next = next.filter(|_| more);
        Ok(SamplePart { rows, next })
    }

    /// What is stored, by model and stream.
    pub(crate) fn sample_sums(&self) -> Vec<SampleSummary> {
        let sums = self.samples.index.sums().into_iter();
        let rows = sums.filter_map(|((model, stream), by_policy)| {
            let all = by_policy.values().copied().reduce(|mut all, sums| {
                all.add(&sums);
                all
            });
            let by_policy = by_policy.into_iter();
            let counted = by_policy.map(|(policy, Sums { records, .. })| (policy, records));
            Some(SampleSummary {
                model,
                stream,
                sums: all?,
                by_policy: counted.collect(),
            })
        });
        rows.collect()
    }

    /// What became of samples since the store was made.
    pub(crate) const fn sample_counts(&self) -> SampleCounts {
        self.samples.counts
    }
}

/// The sample at a place of a block.
fn in_block(block: &BlockId, place: u64) -> SampleId {
    SampleId {
        path: block.path.clone(),
        stream: block.stream.clone(),
        boot: block.boot,
        seq: block.number.saturating_mul(BLOCK).saturating_add(place),
    }
}

#[cfg(test)]
mod tests;
