//! What became of every record, for whoever asks.

use lamppost_models::{NodePath, Timestamp};
use lamppost_store::StoreError;

use super::State;
use crate::api::{LedgerPage, LedgerView, StaleStream};

impl State {
    /// The ledger of one node; `None` when nothing was ever heard of it. With `since`, only boots that were heard since.
    pub(crate) fn ledger(
        &mut self,
        path: &NodePath,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Option<LedgerView>, StoreError> {
        if self.inventory.get(path).is_none() {
            return Ok(None);
        }
        self.desk(path)?;
        let (Some(entry), Some(desk)) = (self.inventory.get(path), self.desks.get(path)) else {
            return Ok(None);
        };
        let stale_after = self.settings.stale_after;
        let report = entry.reported.as_ref();
        let old = entry.reported_at.is_some_and(|at| {
            u128::try_from(now.ms_since(at)).is_ok_and(|ms| ms > stale_after.as_millis())
        });
        let stale = report.into_iter().flat_map(|report| &report.streams);
        let stale = stale.filter_map(|row| {
            Some(StaleStream {
                stream: row.name.clone(),
                since: row.stale_since?,
            })
        });
        Ok(Some(LedgerView {
            path: path.clone(),
            presence: entry.presence(now, stale_after),
            reported_at: entry.reported_at,
            report_is_old: old,
            stale_streams: stale.collect(),
            account: desk.ledger.account(report, since),
        }))
    }

    /// The ledgers of nodes behind `after`, at most `limit`.
    pub(crate) fn ledgers(
        &mut self,
        after: Option<&NodePath>,
        limit: usize,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<LedgerPage, StoreError> {
        self.trim_desks();
        let mut behind = self.inventory.behind(after).map(|entry| &entry.path);
        let paths: Vec<NodePath> = behind.by_ref().take(limit).cloned().collect();
        let more = behind.next().is_some();
        drop(behind);
        let next = paths.last().filter(|_| more).map(ToString::to_string);
        let mut nodes = Vec::with_capacity(paths.len());
        for path in &paths {
            nodes.extend(self.ledger(path, since, now)?);
        }
        Ok(LedgerPage { nodes, next })
    }
}

#[cfg(test)]
mod tests;
