//! Bytes that were given out, by day and artifact: kept so that a day's budget outlives a restart, and for reports.

use std::collections::BTreeMap;

use lamppost_models::{Digest, Timestamp};
use lamppost_store::{StoreError, Write};

use super::{State, json, keys};
use crate::api::Given;
use crate::downloads::{Day, Downloads};

/// Days that are kept.
pub(crate) const DAYS_MAX: i64 = 31;
/// Counts that are written or deleted in one commit.
const WRITES_MAX: usize = 1_000;

impl State {
    /// Stores what was given out since the last time, and forgets what is too old. What a kill loses was given out in the few
    /// seconds since then.
    pub(crate) fn save_given(
        &mut self,
        downloads: &Downloads,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let unsaved = downloads.take_unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        self.write_given(&unsaved, now)
            .inspect_err(|_| downloads.put_back(unsaved))
    }

    fn write_given(
        &mut self,
        unsaved: &BTreeMap<(Day, Digest), u64>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut writes = Vec::new();
        for ((day, digest), bytes) in unsaved {
            let key = keys::given(*day, *digest);
            let before: u64 = self.read_one(&key)?.unwrap_or(0);
            writes.push(Write::put(key, json(&before.saturating_add(*bytes))));
        }
        let oldest = Day(Day::of(now).0 - DAYS_MAX + 1);
        let (from, to) = (keys::GIVEN, keys::given_on(oldest));
        for entry in self
            .store
            .range(from.as_bytes(), to.as_bytes())
            .take(WRITES_MAX)
        {
            writes.push(Write::delete(entry?.0));
        }
        self.commit(&writes)
    }

    /// What was given out on a day.
    pub(crate) fn given_on(&mut self, day: Day) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let found = self.given(day, day)?;
        Ok(found
            .into_iter()
            .map(|given| (given.digest, given.bytes))
            .collect())
    }

    /// What was given out from one day to another, both included.
    pub(crate) fn given(&mut self, from: Day, to: Day) -> Result<Vec<Given>, StoreError> {
        let (start, end) = (keys::given_on(from), keys::behind(&keys::given_on(to)));
        let mut found = Vec::new();
        let mut damaged = 0_u64;
        for entry in self.store.range(start.as_bytes(), &end) {
            match entry {
                Ok((key, value)) => {
                    match keys::parse_given(&key).zip(serde_json::from_slice(&value).ok()) {
                        Some(((day, digest), bytes)) => found.push(Given {
                            day: day.0,
                            digest,
                            bytes,
                        }),
                        None => damaged += 1,
                    }
                }
                Err(StoreError::Corrupt { .. }) => damaged += 1,
                Err(error) => return Err(error),
            }
        }
        for _ in 0..damaged {
            self.counters.note("damaged_record");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::downloads::Terms;
    use crate::state::testing::{at, open};

    fn give(downloads: &Arc<Downloads>, bytes: u64, now: Timestamp) {
        let pass = downloads.admit(Digest::of(b"a"), bytes, Terms::default(), now);
        pass.unwrap().sent(bytes);
    }

    #[test]
    fn what_was_given_out_adds_up_over_restarts_and_is_forgotten_after_a_month() {
        let (day, digest) = (86_400, Digest::of(b"a"));
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut state = open(dir.path());
            let given = state.given_on(Day(100)).unwrap();
            let downloads = Arc::new(Downloads::new(None, at(100 * day), given));
            give(&downloads, 70, at(100 * day + 5));
            state.save_given(&downloads, at(100 * day + 5)).unwrap();
            state.save_given(&downloads, at(100 * day + 5)).unwrap();
        }
        let mut state = open(dir.path());
        assert_eq!(
            state.given_on(Day(100)).unwrap(),
            BTreeMap::from([(digest, 140)])
        );
        let downloads = Arc::new(Downloads::new(None, at(130 * day), BTreeMap::new()));
        give(&downloads, 1, at(130 * day));
        state.save_given(&downloads, at(130 * day)).unwrap();
        let days = |state: &mut State| {
            let found = state.given(Day(0), Day(200)).unwrap();
            found.iter().map(|given| given.day).collect::<Vec<_>>()
        };
        assert_eq!(days(&mut state), [100, 130]);
        give(&downloads, 1, at(131 * day));
        state.save_given(&downloads, at(131 * day)).unwrap();
        assert_eq!(days(&mut state), [130, 131]);
    }
}
