//! Which samples are kept, and where those are that a question is about.
//!
//! Samples lie in **blocks**: up to [`BLOCK`] neighbours of one stream and run. The [`Index`] holds what each block comes to,
//! by model and policy, so that a question reads only blocks in which something may be found, and sums need no reading.
//! The shell persists a block in the same commit as the samples in it.

use std::collections::BTreeMap;
use std::ops::Bound;

use lamppost_models::message::SamplePolicy;
use lamppost_models::{BootId, ModelName, NodeId, NodePath, SiteId, StreamName, Timestamp, V1};
use serde::{Deserialize, Serialize};

mod id;

pub use id::{ParseSampleIdError, SampleId};

/// Numbers of a block. A question reads whole blocks: 200 kB at 3 kB a sample. Smaller ones take more memory.
pub const BLOCK: u64 = 64;
/// Most blocks, some 350 bytes of memory each: 46 MB, and 8 million samples where a run keeps many. Beyond it the oldest go.
pub const BLOCKS_MAX: usize = 131_072;

/// Names a block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockId {
    /// The node.
    pub path: NodePath,
    /// The stream.
    pub stream: StreamName,
    /// The agent's run.
    pub boot: BootId,
    /// Its samples have the numbers from this times [`BLOCK`] on.
    pub number: u64,
}

/// What the index must know of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The model that its stream feeds.
    pub model: ModelName,
    /// Why it was kept.
    pub policy: SamplePolicy,
    /// Event time.
    pub ts: Timestamp,
    /// When it was stored.
    pub received_at: Timestamp,
    /// Whether anybody says what came true.
    pub labelled: bool,
    /// Bytes in the store.
    pub bytes: u64,
}

/// What the samples of a block come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Format version.
    pub v: V1,
    /// By model and policy.
    pub rows: Vec<Row>,
}

/// Samples of one model and policy in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The model.
    pub model: ModelName,
    /// The policy.
    pub policy: SamplePolicy,
    /// The counts.
    #[serde(flatten)]
    pub sums: Sums,
    /// When the first of them was stored.
    pub received_from: Timestamp,
}

/// Samples, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// How many.
    pub records: u64,
    /// Of these, how many have a label.
    pub labelled: u64,
    /// Bytes in the store.
    pub bytes: u64,
    /// Event time of the oldest.
    pub oldest: Timestamp,
    /// Event time of the newest.
    pub newest: Timestamp,
}

/// Which samples are meant; what is absent means any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this model.
    pub model: Option<ModelName>,
    /// Of this stream.
    pub stream: Option<StreamName>,
    /// Of this site.
    pub site: Option<SiteId>,
    /// Of nodes of this name.
    pub node: Option<NodeId>,
    /// Kept by this policy.
    pub policy: Option<SamplePolicy>,
    /// With a label, or without.
    pub labelled: Option<bool>,
    /// Event time at least this.
    pub from: Option<Timestamp>,
    /// Event time before this.
    pub to: Option<Timestamp>,
}

/// All blocks.
#[derive(Clone, Debug, Default)]
pub struct Index {
    blocks: BTreeMap<BlockId, Block>,
    records: u64,
    bytes: u64,
}

impl SampleId {
    /// The block that it lies in.
    pub fn block(&self) -> BlockId {
        BlockId {
            path: self.path.clone(),
            stream: self.stream.clone(),
            boot: self.boot,
            number: self.seq / BLOCK,
        }
    }
}

impl Sums {
    const fn of(facts: &Facts) -> Self {
        Self {
            records: 1,
            labelled: facts.labelled as u64,
            bytes: facts.bytes,
            oldest: facts.ts,
            newest: facts.ts,
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.labelled += other.labelled;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.oldest = self.oldest.min(other.oldest);
        self.newest = self.newest.max(other.newest);
    }
}

impl Block {
    /// Takes in a sample.
    pub fn add(&mut self, facts: &Facts) {
        let mut rows = self.rows.iter_mut();
        let known = rows.find(|row| row.model == facts.model && row.policy == facts.policy);
        if let Some(row) = known {
            row.sums.add(&Sums::of(facts));
            row.received_from = row.received_from.min(facts.received_at);
        } else {
            self.rows.push(Row {
                model: facts.model.clone(),
                policy: facts.policy,
                sums: Sums::of(facts),
                received_from: facts.received_at,
            });
        }
    }

    /// Notes that a sample of it is not as it was `before`: labelled or not, larger or smaller.
    pub fn replace(&mut self, before: &Facts, facts: &Facts) {
        let mut rows = self.rows.iter_mut();
        let known = rows.find(|row| row.model == before.model && row.policy == before.policy);
        if let Some(Row { sums, .. }) = known {
            let labelled = sums.labelled + u64::from(facts.labelled);
            sums.labelled = labelled.saturating_sub(u64::from(before.labelled));
            sums.bytes = (sums.bytes + facts.bytes).saturating_sub(before.bytes);
        }
    }

    fn records(&self) -> u64 {
        self.rows.iter().map(|row| row.sums.records).sum()
    }

    fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.sums.bytes).sum()
    }

    fn received_from(&self) -> Option<Timestamp> {
        self.rows.iter().map(|row| row.received_from).min()
    }
}

impl Filter {
    /// Whether it means this sample.
    pub fn matches(&self, id: &SampleId, facts: &Facts) -> bool {
        self.is_of(&id.path, &id.stream)
            && is(self.model.as_ref(), &facts.model)
            && is(self.policy.as_ref(), &facts.policy)
            && is(self.labelled.as_ref(), &facts.labelled)
            && self.from.is_none_or(|from| facts.ts >= from)
            && self.to.is_none_or(|to| facts.ts < to)
    }

    fn is_of(&self, path: &NodePath, stream: &StreamName) -> bool {
        is(self.site.as_ref(), &path.site)
            && is(self.node.as_ref(), &path.node)
            && is(self.stream.as_ref(), stream)
    }

    fn may_be_in(&self, id: &BlockId, block: &Block) -> bool {
        let labelled = |sums: &Sums| match self.labelled {
            Some(true) => sums.labelled > 0,
            Some(false) => sums.labelled < sums.records,
            None => true,
        };
        self.is_of(&id.path, &id.stream)
            && block.rows.iter().any(|row| {
                is(self.model.as_ref(), &row.model)
                    && is(self.policy.as_ref(), &row.policy)
                    && labelled(&row.sums)
                    && self.from.is_none_or(|from| row.sums.newest >= from)
                    && self.to.is_none_or(|to| row.sums.oldest < to)
            })
    }
}

fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}

impl Index {
    /// The block as it is; an empty one when it is not known.
    pub fn block(&self, id: &BlockId) -> Block {
        self.blocks.get(id).cloned().unwrap_or_default()
    }

    /// Sets what a block comes to; one without samples is forgotten.
    pub fn set(&mut self, id: BlockId, block: Block) {
        let (records, bytes) = (block.records(), block.bytes());
        let before = if records == 0 {
            self.blocks.remove(&id)
        } else {
            self.blocks.insert(id, block)
        };
        let before = before.unwrap_or_default();
        self.records = self.records + records - before.records();
        self.bytes = self.bytes + bytes - before.bytes();
    }

    /// Samples in all.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Bytes in all.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks in which `filter` may find something behind `after`; in order.
    pub fn find<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&SampleId>,
    ) -> impl Iterator<Item = &'a BlockId> {
        let from = match after {
            Some(after) if after.seq % BLOCK == BLOCK - 1 => Bound::Excluded(after.block()),
            Some(after) => Bound::Included(after.block()),
            None => Bound::Unbounded,
        };
        let behind = self.blocks.range((from, Bound::Unbounded));
        behind
            .filter(|(id, block)| filter.may_be_in(id, block))
            .map(|(id, _)| id)
    }

    /// The blocks of which the first sample was stored first, at most `count`, in that order, each with that time.
    pub fn oldest(&self, count: usize) -> Vec<(Timestamp, BlockId)> {
        let known = self.blocks.iter();
        let mut oldest: Vec<(Timestamp, &BlockId)> = known
            .filter_map(|(id, block)| Some((block.received_from()?, id)))
            .collect();
        if count < oldest.len() {
            oldest.select_nth_unstable(count);
            oldest.truncate(count);
        }
        oldest.sort_unstable();
        let named = oldest.into_iter();
        named.map(|(first, id)| (first, id.clone())).collect()
    }

    /// What there is, by model, stream and policy.
    pub fn sums(&self) -> BTreeMap<(ModelName, StreamName), BTreeMap<SamplePolicy, Sums>> {
        let mut sums: BTreeMap<_, BTreeMap<SamplePolicy, Sums>> = BTreeMap::new();
        for (id, block) in &self.blocks {
            for row in &block.rows {
                let by_policy = sums.entry((row.model.clone(), id.stream.clone()));
                let by_policy = by_policy.or_default().entry(row.policy);
                by_policy
                    .and_modify(|known| known.add(&row.sums))
                    .or_insert(row.sums);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests;
