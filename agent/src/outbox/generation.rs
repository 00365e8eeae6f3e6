//! One generation: what stands in its store under which key.
//!
//! `b` and the place (4, big endian): a batch. `g` and a generation (4, big endian): what is known of it, as JSON. `s`:
//! what the outbox lost in all, as JSON. The newest generation that can be read has the say on all of them.

use std::collections::BTreeMap;
use std::path::Path;

use lamppost_agent_core::outbox::{Book, Generation, Meta, Totals};
use lamppost_store::{Options, Recovery, Store, StoreError, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{OutboxError, batch};

const TOTALS_KEY: &[u8] = b"s";
const BATCH: u8 = b'b';
const GENERATION: u8 = b'g';

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
    Ok(Some(Book::restore(totals, generations)))
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

/// Writes what changed between two states of the book.
pub(super) fn changes(
    book: &Book,
    written: &BTreeMap<u32, Generation>,
) -> Result<Vec<Write>, OutboxError> {
    let mut writes = vec![Write::put(TOTALS_KEY, json(book.totals())?)];
    for (generation, entry) in book.generations() {
        let kept = entry.kept();
        if written.get(&generation) != Some(&kept) {
            writes.push(Write::put(key(GENERATION, generation), json(&kept)?));
        }
    }
    for generation in written
        .keys()
        .filter(|generation| book.generation(**generation).is_none())
    {
        writes.push(Write::delete(key(GENERATION, *generation)));
    }
    Ok(writes)
}

/// What is written down of each generation.
pub(super) fn written(book: &Book) -> BTreeMap<u32, Generation> {
    book.generations()
        .map(|(generation, entry)| (generation, entry.kept()))
        .collect()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, OutboxError> {
    serde_json::to_vec(value).map_err(|source| OutboxError::Encode { source })
}
