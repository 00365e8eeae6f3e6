//! What a node delivered.
//!
//! A node sends a record until it is acknowledged, so that the coordinator sees some twice. The ledger knows every
//! prediction by (boot, number) and every batch by (epoch, number). Its changes are handed out as marks, to be committed
//! together with the records that caused them: a crash between the two is then impossible.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_models::id::PredictionId;
use lamppost_models::{BootId, Epoch};

use crate::interval::{Insertion, IntervalSet, RangesError};

/// Most boots and, apart, most outbox epochs that are remembered of a node. A replay after an outage with a boot each
/// quarter of an hour reaches back 16 hours; a resent record is at most a few batches old.
pub const RUNS_MAX: usize = 64;

const FORMAT: u8 = 1;

/// Names a persisted part of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// The predictions of a run of the agent.
    Predictions(BootId),
    /// The batches of an outbox.
    Batches(Epoch),
}

/// Whether a record came for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new, and must be stored.
    New,
    /// It was stored before.
    Duplicate,
}

/// A change to persist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkChange {
    /// Write these bytes under the mark.
    Put(Mark, Vec<u8>),
    /// Remove the mark.
    Delete(Mark),
}

/// Why the bytes under a mark are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They are cut short or too long, or another format.
    #[error("mark has {bytes} bytes, format {format:?}: it is not of this build's format {FORMAT}")]
    Format {
        /// Their number.
        bytes: usize,
        /// The first one.
        format: Option<u8>,
    },
    /// The ranges make no set.
    #[error("mark holds no set of ranges")]
    Ranges(#[from] RangesError),
}

/// What one node delivered.
#[derive(Clone, Debug, Default)]
pub struct NodeLedger {
    runs: BTreeMap<Mark, Run>,
    /// Counts what was seen, to tell which run was seen last.
    tick: u64,
    changed: BTreeSet<Mark>,
    forgotten: u64,
}

#[derive(Clone, Debug, Default)]
struct Run {
    touched: u64,
    seen: IntervalSet,
}

impl NodeLedger {
    /// A ledger of a node that delivered nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what [`NodeLedger::take_changes`] handed out in an earlier life.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are not of a mark.
    pub fn restore(&mut self, mark: Mark, bytes: &[u8]) -> Result<(), RestoreError> {
        let run = Run::decode(bytes)?;
        self.tick = self.tick.max(run.touched);
        self.runs.insert(mark, run);
        Ok(())
    }

    /// Notes a prediction, live or within a batch.
    pub fn see_prediction(&mut self, id: PredictionId) -> Seen {
        self.see(Mark::Predictions(id.boot), id.number)
    }

    /// Notes a batch.
    pub fn see_batch(&mut self, epoch: Epoch, number: u64) -> Seen {
        self.see(Mark::Batches(epoch), number)
    }

    /// Ranges and runs forgotten because a bound was reached, in this life: each may cost a duplicate.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What changed since the last call, to be committed with the records.
    pub fn take_changes(&mut self) -> Vec<MarkChange> {
        let changed = std::mem::take(&mut self.changed);
        let change = |mark| match self.runs.get(&mark) {
            Some(run) => MarkChange::Put(mark, run.encode()),
            None => MarkChange::Delete(mark),
        };
        changed.into_iter().map(change).collect()
    }

    fn see(&mut self, mark: Mark, number: u64) -> Seen {
        self.tick += 1;
        let run = self.runs.entry(mark).or_default();
        match run.seen.insert(number) {
            Insertion::Known => return Seen::Duplicate,
            Insertion::New => {}
            Insertion::NewForgetting(_) => self.forgotten += 1,
        }
        run.touched = self.tick;
        self.changed.insert(mark);
        self.forget_oldest_run(mark);
        Seen::New
    }

    /// Holds the runs of the kind of `mark` to their bound; `mark` itself was seen last and stays.
    fn forget_oldest_run(&mut self, mark: Mark) {
        let kind = std::mem::discriminant(&mark);
        let of_kind = || {
            self.runs
                .iter()
                .filter(|(other, _)| std::mem::discriminant(*other) == kind)
        };
        if of_kind().count() <= RUNS_MAX {
            return;
        }
        if let Some(oldest) = of_kind()
            .min_by_key(|(_, run)| run.touched)
            .map(|(mark, _)| *mark)
        {
            self.runs.remove(&oldest);
            self.changed.insert(oldest);
            self.forgotten += 1;
        }
    }
}

/// Format 1: one byte 1, then little-endian 64-bit numbers: the tick of the last change, and both ends of each range.
impl Run {
    fn encode(&self) -> Vec<u8> {
        let ends = self.seen.ranges().iter().flat_map(|&(from, to)| [from, to]);
        let numbers = std::iter::once(self.touched).chain(ends);
        std::iter::once(FORMAT)
            .chain(numbers.flat_map(u64::to_le_bytes))
            .collect()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RestoreError> {
        let wrong = || RestoreError::Format {
            bytes: bytes.len(),
            format: bytes.first().copied(),
        };
        let Some((&FORMAT, rest)) = bytes.split_first() else {
            return Err(wrong());
        };
        let (numbers, []) = rest.as_chunks::<8>() else {
            return Err(wrong());
        };
        let numbers: Vec<u64> = numbers
            .iter()
            .map(|number| u64::from_le_bytes(*number))
            .collect();
        let Some((&touched, ends)) = numbers.split_first() else {
            return Err(wrong());
        };
        let (pairs, []) = ends.as_chunks::<2>() else {
            return Err(wrong());
        };
        let seen = IntervalSet::from_ranges(pairs.iter().map(|&[from, to]| (from, to)).collect())?;
        Ok(Self { touched, seen })
    }
}

#[cfg(test)]
mod tests;
