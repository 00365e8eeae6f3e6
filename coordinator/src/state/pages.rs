//! Stored predictions, some to a page.

use lamppost_models::{NodePath, Prediction, StreamName, Timestamp, V1};
use lamppost_store::StoreError;
use serde::Deserialize;

use super::{State, json, keys};
use crate::api::{Position, StoredPrediction, StoredPredictions};

/// A page is closed when it would grow over this: the store keeps a value of up to 7 KiB in one piece.
const PAGE_BYTES: usize = 6 * 1024;
/// Pages that one question looks at, at most: some 100 MB of reading when a rare stream is asked for.
const PAGES_READ_MAX: usize = 16_384;

/// Which predictions of a node are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Of this stream alone.
    pub(crate) stream: Option<StreamName>,
    /// Stored before the one at this position. Its page may be gone meanwhile: then what is older than that page.
    pub(crate) before: Option<Position>,
    /// So many at most; one at least.
    pub(crate) limit: usize,
}

impl Wanted {
    fn includes(&self, position: Position, prediction: &Prediction) -> bool {
        self.before.is_none_or(|before| position < before)
            && self
                .stream
                .as_ref()
                .is_none_or(|stream| prediction.stream == *stream)
    }
}

#[derive(Deserialize)]
struct Page {
    #[expect(dead_code, reason = "reading it refuses another format")]
    v: V1,
    at: Timestamp,
    records: Vec<Prediction>,
}

/// Packs predictions into pages: how many a page holds, and its bytes.
pub(super) fn split_into_pages(predictions: &[Prediction], at: Timestamp) -> Vec<(u64, Vec<u8>)> {
    let head = || format!(r#"{{"v":1,"at":"{at}","records":["#).into_bytes();
    let mut pages: Vec<(u64, Vec<u8>)> = Vec::new();
    for prediction in predictions {
        let record = json(prediction);
        match pages.last_mut() {
            Some((records, page)) if page.len() + record.len() <= PAGE_BYTES => {
                *records += 1;
                page.push(b',');
                page.extend(record);
            }
            _ => pages.push((1, [head(), record].concat())),
        }
    }
    for (_, page) in &mut pages {
        page.extend(b"]}");
    }
    pages
}

impl State {
    /// Stored predictions of a node, newest first, and where to go on.
    pub(crate) fn predictions(
        &mut self,
        path: &NodePath,
        wanted: &Wanted,
    ) -> Result<StoredPredictions, StoreError> {
        self.look_back(path, wanted, PAGES_READ_MAX)
    }

    fn look_back(
        &mut self,
        path: &NodePath,
        wanted: &Wanted,
        pages_max: usize,
    ) -> Result<StoredPredictions, StoreError> {
        let shelf = &self.desk(path)?.shelf;
        let oldest = Position {
            page: shelf.first,
            index: 0,
        };
        let pages = shelf.pages_back_from(wanted.before.map_or(u64::MAX, |before| before.page));
        // Nothing of a page is wanted that begins there.
        let done = |&page: &u64| {
            wanted
                .before
                .is_some_and(|before| Position { page, index: 0 } >= before)
        };
        let mut predictions = Vec::new();
        let mut reached = oldest;
        'pages: for number in pages.skip_while(done).take(pages_max) {
            reached = Position {
                page: number,
                index: 0,
            };
            // Of a damaged page nothing is given; what is older is there all the same.
            let Some(page) = self.read_one::<Page>(&keys::page(path, number))? else {
                continue;
            };
            for (index, prediction) in page.records.into_iter().enumerate().rev() {
                let position = Position {
                    page: number,
                    index: index as u64,
                };
                if !wanted.includes(position, &prediction) {
                    continue;
                }
                predictions.push(StoredPrediction {
                    position,
                    stored_at: page.at,
                    prediction,
                });
                if predictions.len() >= wanted.limit {
                    reached = position;
                    break 'pages;
                }
            }
        }
        Ok(StoredPredictions {
            predictions,
            older: (reached > oldest).then_some(reached),
        })
    }

    /// Records and bytes of a page; nothing of one that is damaged or gone.
    pub(super) fn page_size(
        &mut self,
        path: &NodePath,
        number: u64,
    ) -> Result<(u64, u64), StoreError> {
        let key = keys::page(path, number);
        let bytes = match self.store.get(key.as_bytes()) {
            Ok(value) => value.map_or(0, |value| value.len() as u64),
            Err(StoreError::Corrupt { .. }) => 0,
            Err(error) => return Err(error),
        };
        let page: Option<Page> = self.read_one(&key)?;
        Ok((page.map_or(0, |page| page.records.len() as u64), bytes))
    }

    /// How much is stored of a node.
    pub(crate) fn shelf(
        &mut self,
        path: &NodePath,
    ) -> Result<lamppost_coordinator_core::Shelf, StoreError> {
        Ok(self.desk(path)?.shelf.clone())
    }
}

#[cfg(test)]
mod tests;
