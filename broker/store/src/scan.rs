//! Reading in order.

use std::collections::VecDeque;
use std::sync::PoisonError;

use crate::entry;
use crate::error::StoreError;
use crate::store::{Entry, Store};

/// Entries that are read at once: few enough to let a writer in soon, many enough to find the page once for them all.
const PAGE_ENTRIES: usize = 64;
/// Bytes after which no more are read at once.
const PAGE_BYTES: usize = 256 * 1024;

type Item = Result<Entry, StoreError>;

/// Keys and values in order; made by [`Store::range`] and [`Store::scan_prefix`].
///
/// It reads some entries at a time and holds no lock in between: a commit during the scan shows in what comes after.
/// A damaged value is one error, and the scan goes on behind it; any other error ends it.
#[derive(Debug)]
#[must_use]
pub struct Scan<'a> {
    store: &'a Store,
    /// Entry key where the next page starts; `None` at the end.
    from: Option<Vec<u8>>,
    /// Entry key where the range ends.
    to: Vec<u8>,
    page: VecDeque<Item>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(store: &'a Store, from: Vec<u8>, to: Vec<u8>) -> Self {
        Self {
            store,
            from: Some(from),
            to,
            page: VecDeque::new(),
        }
    }

    fn fill(&mut self) {
        let Some(from) = self.from.take().filter(|from| *from < self.to) else {
            return;
        };
        let store = self.store;
        let _open = store.gate().read().unwrap_or_else(PoisonError::into_inner);
        let found = store.read(|db| {
            let mut entries = Vec::new();
            let mut bytes = 0;
            for entry in db.range(from.as_slice()..self.to.as_slice()) {
                let (key, sealed) = entry?;
                bytes += key.len() + sealed.len();
                entries.push((key.to_vec(), sealed.to_vec()));
                if entries.len() >= PAGE_ENTRIES || bytes >= PAGE_BYTES {
                    break;
                }
            }
            Ok(entries)
        });
        let entries = match found {
            Ok(entries) => entries,
            Err(error) => return self.page.push_back(Err(error)),
        };
        // The least key behind the last one that was read.
        self.from = entries
            .last()
            .map(|(last, _)| [last.as_slice(), &[0]].concat());
        for (entry, sealed) in entries {
            let item = match entry::caller_key(&entry) {
                Some(key) => store
                    .decode(key, &entry, &sealed)
                    .map(|value| (key.to_vec(), value)),
                None => Err(store.corrupt(&entry)),
            };
            self.page.push_back(item);
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.page.is_empty() {
            self.fill();
        }
        let item = self.page.pop_front();
        if let Some(Err(error)) = &item
            && !matches!(error, StoreError::Corrupt { .. })
        {
            self.from = None;
            self.page.clear();
        }
        item
    }
}
