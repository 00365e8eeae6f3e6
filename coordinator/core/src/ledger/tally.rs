//! Records counted by what became of them.

use lamppost_models::ledger::LossReason;
use serde::{Deserialize, Serialize};

/// Records by what became of them. `produced` is the sum of all others but `duplicated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Numbered by the node, as far as it is known: the most of what it reported and of what came.
    pub produced: u64,
    /// Stored here, each once.
    pub delivered: u64,
    /// Came again, and were dropped.
    pub duplicated: u64,
    /// Lost because the outbox was full.
    pub evicted: u64,
    /// Lost because they grew too old.
    pub expired: u64,
    /// Lost by the node's disk.
    pub damaged: u64,
    /// Lost because the node's disk was full or failed.
    pub unwritten: u64,
    /// Lost because a queue of the node did not take them.
    pub dropped: u64,
    /// Lost together with the report that would have told them one by one.
    pub forgotten: u64,
    /// Lost in the memory of an agent that did not stop cleanly and keeps on disk only what an outage leaves over.
    pub crash: u64,
    /// The node holds them, or it is too early to say.
    pub in_flight: u64,
    /// Neither stored, nor told as lost, nor held by the node.
    pub missing: u64,
}

/// How many numbers a tally has in the store.
pub(super) const FIELDS: usize = 12;

impl Tally {
    /// Records that the node told as lost, whatever the reason.
    pub const fn lost(&self) -> u64 {
        self.evicted + self.expired + self.damaged + self.unwritten + self.dropped + self.forgotten
    }

    /// The count of one reason.
    pub(super) const fn of_reason(&mut self, reason: LossReason) -> &mut u64 {
        match reason {
            LossReason::Evicted => &mut self.evicted,
            LossReason::Expired => &mut self.expired,
            LossReason::Damaged => &mut self.damaged,
            LossReason::Unwritten => &mut self.unwritten,
            LossReason::Dropped => &mut self.dropped,
            LossReason::Forgotten => &mut self.forgotten,
        }
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        let mut sums = self.to_numbers();
        for (sum, number) in sums.iter_mut().zip(other.to_numbers()) {
            *sum = sum.saturating_add(number);
        }
        *self = Self::from_numbers(sums);
    }

    pub(super) const fn to_numbers(self) -> [u64; FIELDS] {
        [
            self.produced,
            self.delivered,
            self.duplicated,
            self.evicted,
            self.expired,
            self.damaged,
            self.unwritten,
            self.dropped,
            self.forgotten,
            self.crash,
            self.in_flight,
            self.missing,
        ]
    }

    pub(super) const fn from_numbers(numbers: [u64; FIELDS]) -> Self {
        let [
            produced,
            delivered,
            duplicated,
            evicted,
            expired,
            damaged,
            unwritten,
            dropped,
            forgotten,
            crash,
            in_flight,
            missing,
        ] = numbers;
        Self {
            produced,
            delivered,
            duplicated,
            evicted,
            expired,
            damaged,
            unwritten,
            dropped,
            forgotten,
            crash,
            in_flight,
            missing,
        }
    }
}
