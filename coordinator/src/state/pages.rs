//! Stored predictions, some to a page.

use lamppost_models::{NodePath, Prediction, StreamName, Timestamp, V1};
use lamppost_store::StoreError;
use serde::Deserialize;

use super::{State, json, keys};
use crate::api::StoredPrediction;

/// A page is closed when it would grow over this: the store keeps a value of up to 7 KiB in one piece.
const PAGE_BYTES: usize = 6 * 1024;
/// Pages that one question looks at, at most: some 100 MB of reading when a rare stream is asked for.
const PAGES_READ_MAX: usize = 16_384;

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
    /// The newest predictions of a node, newest first; of one stream when that is given.
    pub(crate) fn predictions(
        &mut self,
        path: &NodePath,
        stream: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<StoredPrediction>, StoreError> {
        let mut found = Vec::new();
        for number in self
            .desk(path)?
            .shelf
            .pages_newest_first()
            .take(PAGES_READ_MAX)
        {
            let Some(page) = self.read_one::<Page>(&keys::page(path, number))? else {
                continue;
            };
            let wanted =
                |prediction: &Prediction| stream.is_none_or(|stream| prediction.stream == *stream);
            let stored_at = page.at;
            let records = page.records.into_iter().rev().filter(wanted);
            found.extend(records.map(|prediction| StoredPrediction {
                stored_at,
                prediction,
            }));
            if found.len() >= limit {
                found.truncate(limit);
                break;
            }
        }
        Ok(found)
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
