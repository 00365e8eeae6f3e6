//! How many predictions of a node are kept.
//!
//! Predictions are stored in pages: those of one node that were committed together. Page numbers are dense, so that the
//! oldest page and the newest are known without a search.

use lamppost_models::V1;
use serde::{Deserialize, Serialize};

/// The account of one node's stored predictions; persisted in the same commit as every change of the pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    /// Format version.
    pub v: V1,
    /// Number of the oldest page that is kept.
    pub first: u64,
    /// Number of the next page.
    pub next: u64,
    /// Predictions in the kept pages.
    pub records: u64,
    /// Bytes of the kept pages.
    pub bytes: u64,
    /// Predictions ever stored.
    pub stored: u64,
    /// Of these, how many came from an outbox.
    pub replayed: u64,
    /// Predictions that came again and were not stored again.
    pub duplicates: u64,
    /// Predictions deleted because a cap was reached.
    pub retired: u64,
}

/// How much is kept of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Most predictions.
    pub records: u64,
    /// Most bytes.
    pub bytes: u64,
}

impl Shelf {
    /// Adds a page and gives its number.
    pub fn add(&mut self, records: u64, bytes: u64) -> u64 {
        let page = self.next;
        self.next += 1;
        self.records += records;
        self.bytes += bytes;
        self.stored += records;
        page
    }

    /// The page to delete next, when a cap is exceeded. The newest page stays whatever its size.
    pub const fn excess(&self, caps: Caps) -> Option<u64> {
        let over = self.records > caps.records || self.bytes > caps.bytes;
        if over && self.next - self.first > 1 {
            Some(self.first)
        } else {
            None
        }
    }

    /// Notes that the oldest page is deleted.
    pub fn retire(&mut self, records: u64, bytes: u64) {
        self.first += 1;
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.retired += records;
    }

    /// Numbers of the kept pages up to `page`, newest first.
    pub fn pages_back_from(&self, page: u64) -> impl Iterator<Item = u64> + use<> {
        (self.first..self.next.min(page.saturating_add(1))).rev()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn format_1_parses_for_ever() {
        let json = r#"{"v":1,"first":3,"next":9,"records":40,"bytes":9000,"stored":70,"replayed":5,"duplicates":2,"retired":30}"#;
        let shelf: Shelf = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&shelf).unwrap(), json);
    }

    proptest! {
        #[test]
        fn keeps_the_newest_within_the_caps(pages in vec((1..20_u64, 1..5_000_u64), 1..100)) {
            let caps = Caps { records: 50, bytes: 20_000 };
            let (mut shelf, mut kept) = (Shelf::default(), VecDeque::new());
            let mut total = 0;
            for (records, bytes) in pages {
                kept.push_back((shelf.add(records, bytes), records, bytes));
                total += records;
                while let Some(page) = shelf.excess(caps) {
                    let (oldest, records, bytes) = kept.pop_front().unwrap();
                    prop_assert_eq!(page, oldest);
                    shelf.retire(records, bytes);
                }
                let sums = kept.iter().fold((0, 0), |sum, page| (sum.0 + page.1, sum.1 + page.2));
                prop_assert_eq!((shelf.records, shelf.bytes), sums);
                prop_assert!(kept.len() == 1 || (sums.0 <= caps.records && sums.1 <= caps.bytes));
                prop_assert_eq!(shelf.retired + shelf.records, total);
                for from in [0, shelf.first, shelf.next.div_ceil(2), shelf.next, u64::MAX] {
                    let back = kept.iter().rev().map(|page| page.0).filter(|&page| page <= from);
                    prop_assert_eq!(shelf.pages_back_from(from).collect::<Vec<_>>(), back.collect::<Vec<_>>());
                }
            }
        }
    }
}
