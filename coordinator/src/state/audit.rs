//! The audit log: each step's entry is in the step's own commit, so that there is none without the other.

use lamppost_coordinator_core::rollout::audit::{Broken, Entry, Head, Note};
use lamppost_models::Timestamp;
use lamppost_store::{StoreError, Write};

use super::{State, json, keys};
use crate::api::AuditPage;

/// Entries that are kept, some 100 MB; of older ones the hash of the last remains. A campaign makes some ten, so that this is
/// years of a busy city.
pub(crate) const ENTRIES_MAX: u64 = 100_000;
/// Most entries of a page: 1 MB with the longest words, and some milliseconds of the owner's time.
pub(crate) const PAGE_MAX: u64 = 500;

/// Where the log begins and ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Log {
    /// The end of what was deleted: the oldest entry that is there follows it.
    base: Head,
    head: Head,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// With this entry.
    Number(u64),
    /// With the first one at this time or later.
    Time(Timestamp),
    /// So that it ends with the newest.
    Newest,
}

impl State {
    /// Reads where the log begins and ends. Where the end cannot be read it is that of the newest entry.
    pub(super) fn load_audit(&mut self) -> Result<(), StoreError> {
        let base = self.read_one(keys::AUDIT_BASE)?.unwrap_or_default();
        let head = match self.read_one(keys::AUDIT_HEAD)? {
            Some(head) => head,
            None => self
                .newest_entry()?
                .map_or(base, |entry| Head::after(&entry)),
        };
        self.log = Log { base, head };
        Ok(())
    }

    /// The writes that append a note, and the end of the log after them: to be put in place once they are committed.
    pub(super) fn append(
        &mut self,
        note: Note,
        now: Timestamp,
    ) -> Result<(Vec<Write>, Log), StoreError> {
        let Log { base, head } = self.log;
        let entry = head.entry(note, now);
        let after = Head::after(&entry);
        let mut writes = vec![
            Write::put(keys::audit(entry.number), json(&entry)),
            Write::put(keys::AUDIT_HEAD, json(&after)),
        ];
        let mut log = Log { base, head: after };
        if entry.number - base.next >= ENTRIES_MAX {
            // A damaged entry has no hash to go on with: then the log has a gap that a check finds.
            if let Some(oldest) = self.read_one::<Entry>(&keys::audit(base.next))? {
                log.base = Head::after(&oldest);
            } else {
                log.base.next += 1;
            }
            writes.push(Write::delete(keys::audit(base.next)));
            writes.push(Write::put(keys::AUDIT_BASE, json(&log.base)));
        }
        Ok((writes, log))
    }

    /// Some entries in their order.
    pub(crate) fn audit(&mut self, from: From, limit: u64) -> Result<AuditPage, StoreError> {
        let Log { base, head } = self.log;
        let limit = limit.min(PAGE_MAX);
        let first = match from {
            From::Number(number) => number.max(base.next),
            From::Newest => head.next.saturating_sub(limit).max(base.next),
            From::Time(time) => self.first_at(time)?,
        };
        let end = first.saturating_add(limit).min(head.next);
        let mut entries = Vec::new();
        for number in first..end {
            entries.extend(self.read_one::<Entry>(&keys::audit(number))?);
        }
        Ok(AuditPage {
            entries,
            base,
            head,
            next: (end < head.next).then_some(end),
        })
    }

    /// Checks a page of the log against what came before it.
    pub(crate) fn check_audit(&mut self, mut head: Head) -> Result<Checked, StoreError> {
        let page = self.audit(From::Number(head.next), PAGE_MAX)?;
        for entry in &page.entries {
            if let Err(broken) = head.check(entry) {
                return Ok(Checked::Broken(head, broken));
            }
        }
        Ok(if page.next.is_some() && !page.entries.is_empty() {
            Checked::SoFar(head)
        } else {
            match ends(head, page.head) {
                Ok(()) => Checked::Whole(head),
                Err(broken) => Checked::Broken(head, broken),
            }
        })
    }

    /// Where a check begins.
    pub(crate) const fn audit_base(&self) -> Head {
        self.log.base
    }

    /// The number of the first entry at `time` or later, by halving: entries are in the order of the coordinator's clock, apart
    /// from where that was set back.
    fn first_at(&mut self, time: Timestamp) -> Result<u64, StoreError> {
        let Log { base, head } = self.log;
        let (mut low, mut high) = (base.next, head.next);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.read_one::<Entry>(&keys::audit(middle))?;
            if entry.is_some_and(|entry| entry.at < time) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    #[cfg(test)]
    pub(super) const fn log_head(&self) -> Head {
        self.log.head
    }

    fn newest_entry(&self) -> Result<Option<Entry>, StoreError> {
        let (from, to) = (keys::audit(0), keys::audit(u64::MAX));
        let last = self.store.last(from.as_bytes(), to.as_bytes())?;
        Ok(last.and_then(|(_, value)| serde_json::from_slice(&value).ok()))
    }
}

/// What a check of some entries came to.
#[derive(Debug)]
pub(crate) enum Checked {
    /// They are what was written, and there are more.
    SoFar(Head),
    /// The whole log is what was written, and ends so.
    Whole(Head),
    /// What is whole, and the first entry that is not what was written.
    Broken(Head, Broken),
}

/// Whether a log that was checked up to `found` is all that was written.
pub(crate) fn ends(found: Head, end: Head) -> Result<(), Broken> {
    if found.next < end.next {
        let (number, next) = (found.next, end.next);
        return Err(Broken::Short { number, next });
    }
    if found == end {
        Ok(())
    } else {
        let number = end.next.saturating_sub(1);
        Err(Broken::Content { number })
    }
}

#[cfg(test)]
mod tests;
