//! One generation: what stands in its store under which key.
//!
//! `b` and the place (4, big endian): a batch. `g` and a generation (4, big endian): what is known of it, as JSON; `r`, the
//! generation and a part (1): which records were written to it, as JSON, once nothing more is. `e` and a number (8, big
//! endian): a group of events of the ledger, as JSON. `s`: what the outbox lost in all, as JSON. The newest generation
//! that can be read has the say on all but its batches.

use std::collections::BTreeMap;
use std::path::Path;

use lamppost_agent_core::outbox::{Book, Events, Generation, Meta, Sum, Totals};
use lamppost_models::ledger::LedgerEvent;
use lamppost_store::{Options, Recovery, Store, StoreError, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{OutboxError, batch};

const TOTALS_KEY: &[u8] = b"s";
const BATCH: u8 = b'b';
const GENERATION: u8 = b'g';
const SUMS: u8 = b'r';
const EVENTS: u8 = b'e';
/// Sums in one record: 180 bytes each with the longest names, so that it stays below 7 KiB.
const SUMS_PART: usize = 32;

pub(super) fn batch_key(place: u32) -> Vec<u8> {
    key(BATCH, place)
}

fn key(kind: u8, number: u32) -> Vec<u8> {
    [&[kind], number.to_be_bytes().as_slice()].concat()
}

fn key_number(key: &[u8]) -> Option<u32> {
    key.get(1..)?.try_into().ok().map(u32::from_be_bytes)
}

/// What was found in the place of a generation.
pub(super) enum Found {
    /// A store that was one before.
    Whole(Store),
    /// Nothing, or nothing that was of use: an empty store is there now.
    Empty {
        /// Whether something was there.
        damaged: bool,
    },
}

/// Opens a generation for reading.
pub(super) fn open(path: &Path) -> Result<Found, OutboxError> {
    let opened = Store::open(path, &Options::generation())?;
    match opened.recovery {
        Recovery::Clean | Recovery::SnapshotDropped => Ok(Found::Whole(opened.store)),
        Recovery::Fresh => Ok(Found::Empty { damaged: false }),
        Recovery::Quarantined { .. } => Ok(Found::Empty { damaged: true }),
    }
}

/// Opens a new generation for writing.
pub(super) fn create(path: &Path) -> Result<Store, OutboxError> {
    Ok(Store::open(path, &Options::generation())?.store)
}

/// What a generation says of the whole outbox; `None` when it was never finished, or lost it.
pub(super) fn read_book(store: &Store, generation: u32) -> Result<Option<Book>, OutboxError> {
    let Ok(Some(totals)) = store.get(TOTALS_KEY) else {
        return Ok(None);
    };
    let totals: Totals = parse(generation, &totals)?;
    let mut generations = BTreeMap::new();
    for item in store.scan_prefix(&[GENERATION]) {
        let Ok((key, value)) = item else {
            return Ok(None);
        };
        let Some(number) = key_number(&key) else {
            return Ok(None);
        };
        generations.insert(number, parse::<Generation>(generation, &value)?);
    }
    for item in store.scan_prefix(&[SUMS]) {
        let Ok((key, value)) = item else {
            return Ok(None);
        };
        let of = key.get(..5).and_then(key_number);
        if let Some(entry) = of.and_then(|of| generations.get_mut(&of)) {
            entry.sums.extend(parse::<Vec<Sum>>(generation, &value)?);
        }
    }
    let mut groups = BTreeMap::new();
    for item in store.scan_prefix(&[EVENTS]) {
        let Ok((key, value)) = item else {
            return Ok(None);
        };
        let number = key.get(1..).and_then(|number| number.try_into().ok());
        if let Some(number) = number.map(u64::from_be_bytes) {
            groups.insert(number, parse::<Vec<LedgerEvent>>(generation, &value)?);
        }
    }
    let events = Events::restore(groups);
    Ok(Some(Book::restore(totals, generations, events)))
}

/// The checksum was right: what does not parse was written by another version, and is not ours to throw away.
fn parse<T: DeserializeOwned>(generation: u32, json: &[u8]) -> Result<T, OutboxError> {
    serde_json::from_slice(json).map_err(|source| OutboxError::Format { generation, source })
}

/// What is known of each batch, by place; and whether reading broke off, so that there may have been more.
pub(super) fn read_index(store: &Store) -> (Vec<Option<Meta>>, bool) {
    let mut index = Vec::new();
    for item in store.scan_prefix(&[BATCH]) {
        match item {
            Ok((key, value)) => {
                let Some(place) = key_number(&key) else {
                    continue;
                };
                index.resize(place as usize, None);
                index.push(batch::meta(&value));
            }
            // Its place stays empty, and counts as lost.
            Err(StoreError::Corrupt { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "reading a generation of the outbox broke off");
                return (index, true);
            }
        }
    }
    (index, false)
}

/// Goes on behind a place where reading broke off, one batch at a time: a page that cannot be read costs what is on it.
pub(super) fn read_rest(
    store: &Store,
    mut index: Vec<Option<Meta>>,
    count: u32,
) -> Vec<Option<Meta>> {
    let from = u32::try_from(index.len()).unwrap_or(u32::MAX);
    for place in from..count {
        match store.get(&batch_key(place)) {
            Ok(value) => index.push(value.as_deref().and_then(batch::meta)),
            Err(StoreError::Stopped { .. }) => break,
            Err(_) => index.push(None),
        }
    }
    index
}

/// What a generation has of the book, beside the totals.
#[derive(Debug, Default)]
pub(super) struct Written {
    generations: BTreeMap<u32, Generation>,
    events: BTreeMap<u64, Vec<LedgerEvent>>,
}

impl Written {
    /// All of a book.
    pub(super) fn of(book: &Book) -> Self {
        let generations = book.generations();
        Self {
            generations: generations
                .map(|(generation, entry)| (generation, entry.kept()))
                .collect(),
            events: book.events().kept(),
        }
    }

    /// Whether it speaks of no generation but those of a book.
    pub(super) fn is_within(&self, book: &Book) -> bool {
        self.generations
            .keys()
            .all(|generation| book.generation(*generation).is_some())
    }

    /// Whether it has the events of a book.
    pub(super) fn has_events_of(&self, book: &Book) -> bool {
        !book.events().has_loose() && self.events == book.events().kept()
    }

    /// The writes that make it say what a book says.
    pub(super) fn changes(&self, book: &Book) -> Result<Vec<Write>, OutboxError> {
        let mut writes = vec![Write::put(TOTALS_KEY, json(book.totals())?)];
        for (generation, entry) in book.generations() {
            let (kept, old) = (entry.kept(), self.generations.get(&generation));
            if old != Some(&kept) {
                writes.push(Write::put(key(GENERATION, generation), json(&kept)?));
            }
            // Of one that is written to, they are in it; they change no more once it is sealed.
            let is_known = old.is_some_and(|old| !old.open && old.sums == kept.sums);
            if !kept.open && !is_known {
                for (part, sums) in (0..).zip(kept.sums.chunks(SUMS_PART)) {
                    writes.push(Write::put(sums_key(generation, part), json(&sums)?));
                }
            }
        }
        let gone = self.generations.iter();
        for (generation, old) in gone.filter(|(number, _)| book.generation(**number).is_none()) {
            writes.push(Write::delete(key(GENERATION, *generation)));
            let parts = (0..).take(old.sums.len().div_ceil(SUMS_PART));
            writes.extend(parts.map(|part| Write::delete(sums_key(*generation, part))));
        }
        let events = book.events().kept();
        for (number, group) in &events {
            if self.events.get(number) != Some(group) {
                writes.push(Write::put(events_key(*number), json(group)?));
            }
        }
        let gone = self
            .events
            .keys()
            .filter(|number| !events.contains_key(number));
        writes.extend(gone.map(|number| Write::delete(events_key(*number))));
        Ok(writes)
    }
}

fn sums_key(generation: u32, part: u8) -> Vec<u8> {
    let mut key = key(SUMS, generation);
    key.push(part);
    key
}

fn events_key(number: u64) -> Vec<u8> {
    [&[EVENTS], number.to_be_bytes().as_slice()].concat()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, OutboxError> {
    serde_json::to_vec(value).map_err(|source| OutboxError::Encode { source })
}
