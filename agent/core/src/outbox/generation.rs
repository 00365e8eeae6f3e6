//! What is known of one generation.

use lamppost_models::ledger::Class;
use lamppost_models::{BootId, StreamName, Timestamp, V1};
use serde::{Deserialize, Serialize};

use super::clock::Now;
use super::ranges::Ranges;

/// Most ranges of a generation that are written down, so that the record stays below 7 KiB. What is acknowledged
/// in a still wilder order is known until a restart, and sent again after it.
pub const RANGES_KEPT_MAX: usize = 256;
/// Most streams and runs of the agent that a generation knows its records by: it is written in one run, which has at
/// most 64 streams. What is beyond, in an outbox of another make, is told in batches only when it is lost.
pub const SUMS_MAX: usize = 64;

/// Records of one stream in one run of the agent, by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The stream.
    pub stream: StreamName,
    /// The run of the agent that made them.
    pub boot: BootId,
    /// The first `seq`.
    pub from: u64,
    /// The last `seq`; those between need not all be there.
    pub to: u64,
}

/// How many records of a run a generation has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Their numbers.
    #[serde(flatten)]
    pub run: Run,
    /// How many.
    pub records: u64,
}

/// What is known of one batch without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its records.
    pub records: u32,
    /// When it was stored, by the wall clock.
    pub stored: Timestamp,
    /// The same by the clock that never jumps, in seconds, if that was in this run of the agent.
    pub steady_s: Option<u32>,
    /// Which records it has, where they say so.
    pub run: Option<Run>,
}

impl Meta {
    /// What is known of a batch that is stored now.
    pub fn of(records: u32, now: Now, run: Option<Run>) -> Self {
        Self {
            records,
            stored: now.wall,
            steady_s: Some(now.steady_s()),
            run,
        }
    }
}

/// What is known of one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Format version.
    pub v: V1,
    /// The lane that it is of.
    #[serde(default = "prediction")]
    pub class: Class,
    /// Whether more may have been written to it than is known here.
    #[serde(default)]
    pub open: bool,
    /// Batches that were written to it.
    pub count: u32,
    /// Records in them.
    pub records: u64,
    /// Records in those that are done.
    pub records_done: u64,
    /// When the oldest batch that waits was stored, or an older one.
    pub oldest: Timestamp,
    /// When the newest batch was stored.
    pub newest: Timestamp,
    /// The batches that are done: acknowledged or lost.
    pub done: Ranges,
    /// Which records were written to it; written down apart.
    #[serde(skip)]
    pub sums: Vec<Sum>,
    /// Each batch, once they were looked at in this run.
    #[serde(skip)]
    pub(super) index: Option<Vec<Option<Meta>>>,
}

/// Before there were lanes, only predictions were stored.
const fn prediction() -> Class {
    Class::Prediction
}

impl Generation {
    pub(super) fn new(class: Class, now: Timestamp) -> Self {
        Self {
            v: V1,
            class,
            open: true,
            count: 0,
            records: 0,
            records_done: 0,
            oldest: now,
            newest: now,
            done: Ranges::default(),
            sums: Vec::new(),
            index: Some(Vec::new()),
        }
    }

    /// Batches that wait.
    pub fn batches(&self) -> u64 {
        u64::from(self.count).saturating_sub(self.done.len())
    }

    /// Records that wait.
    pub fn records_waiting(&self) -> u64 {
        if self.batches() == 0 {
            0
        } else {
            self.records.saturating_sub(self.records_done)
        }
    }

    /// Whether nothing waits.
    pub fn is_drained(&self) -> bool {
        self.batches() == 0
    }

    /// Whether each batch is known.
    pub fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    /// The form that is written down.
    #[must_use]
    pub fn kept(&self) -> Self {
        Self {
            v: self.v,
            class: self.class,
            open: self.open,
            count: self.count,
            records: self.records,
            records_done: self.records_done,
            oldest: self.oldest,
            newest: self.newest,
            done: self.done.truncated(RANGES_KEPT_MAX),
            sums: self.sums.clone(),
            index: None,
        }
    }

    /// Notes a batch, behind all others.
    pub(super) fn push(&mut self, mut meta: Meta) {
        if self.is_drained() {
            self.oldest = meta.stored;
        }
        self.count += 1;
        self.records += u64::from(meta.records);
        self.oldest = self.oldest.min(meta.stored);
        self.newest = self.newest.max(meta.stored);
        self.sum_up(&mut meta);
        if let Some(index) = &mut self.index {
            index.push(Some(meta));
        }
    }

    /// Adds a batch to the sums; its name of the stream becomes theirs, so that there is one copy of it.
    pub(super) fn sum_up(&mut self, meta: &mut Meta) {
        let Some(run) = &mut meta.run else { return };
        let same = |sum: &&mut Sum| sum.run.boot == run.boot && sum.run.stream == run.stream;
        if let Some(sum) = self.sums.iter_mut().find(same) {
            run.stream = sum.run.stream.clone();
            sum.run.from = sum.run.from.min(run.from);
            sum.run.to = sum.run.to.max(run.to);
            sum.records += u64::from(meta.records);
        } else if self.sums.len() < SUMS_MAX {
            let records = u64::from(meta.records);
            self.sums.push(Sum {
                run: run.clone(),
                records,
            });
        }
    }

    /// What is known of the batches from one place to another.
    pub(super) fn metas(&self, from: u32, to: u32) -> impl Iterator<Item = &Meta> {
        let index = self.index.iter().flatten();
        index
            .skip(from as usize)
            .take((to - from) as usize + 1)
            .flatten()
    }

    /// The records that wait, by number: more than those where not each batch is known.
    pub(super) fn runs_waiting(&self) -> Vec<&Run> {
        if self.is_drained() {
            return Vec::new();
        }
        if !self.is_indexed() {
            return self.sums.iter().map(|sum| &sum.run).collect();
        }
        let waiting = self.done.missing(0, self.count).into_iter();
        waiting
            .flat_map(|(from, to)| self.metas(from, to))
            .filter_map(|meta| meta.run.as_ref())
            .collect()
    }
}
