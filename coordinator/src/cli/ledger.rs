//! `lamppost ledger`.

use super::args::{Global, Ledger};
use super::client::Client;
use super::{Exit, Failure, show, tables};
use crate::api::{LedgerPage, LedgerView};
use crate::clock::now;

pub(super) async fn run(ledger: Ledger, global: &Global) -> Result<(), Failure> {
    let Ledger {
        node,
        since,
        stream,
    } = ledger;
    let client = Client::new(global)?;
    let since = since.map(|since| ("since", humantime::format_duration(since).to_string()));
    let mut nodes: Vec<LedgerView> = if let Some(node) = node {
        let query: Vec<_> = since.into_iter().collect();
        vec![client.ask(&format!("/v1/ledger/{node}"), &query).await?]
    } else {
        let (mut nodes, mut after) = (Vec::new(), None);
        loop {
            let query: Vec<_> = since.iter().cloned().chain(after).collect();
            let page: LedgerPage = client.ask("/v1/ledger", &query).await?;
            nodes.extend(page.nodes);
            match page.next {
                Some(next) => after = Some(("after", next)),
                None => break nodes,
            }
        }
    };
    if let Some(stream) = stream {
        for node in &mut nodes {
            node.account.streams.retain(|row| row.stream == stream);
            node.account.missing.retain(|range| range.stream == stream);
            node.stale_streams.retain(|stale| stale.stream == stream);
        }
    }
    show(global, &nodes, || tables::ledger(&nodes, now()))?;
    match missing(&nodes) {
        0 => Ok(()),
        missing => Err(Failure::new(
            Exit::Missing,
            format!("{missing} records are missing and nothing explains it"),
        )),
    }
}

fn missing(nodes: &[LedgerView]) -> u64 {
    let rows = nodes.iter().flat_map(|node| &node.account.streams);
    rows.map(|row| row.tally.missing).sum()
}
