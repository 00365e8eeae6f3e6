//! What was refused, by reason.

use std::collections::BTreeMap;

/// Counts by reason; the reasons are fixed texts of this program, so that there are few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts one, and gives how many there are now.
    pub(crate) fn note(&mut self, reason: &'static str) -> u64 {
        let count = self.0.entry(reason).or_default();
        *count += 1;
        *count
    }

    /// Adds the counts of `earlier`.
    pub(crate) fn add(&mut self, earlier: &Self) {
        for (reason, count) in &earlier.0 {
            *self.0.entry(reason).or_default() += count;
        }
    }

    pub(crate) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }
}
