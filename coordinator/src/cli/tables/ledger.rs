//! What became of every record.

use lamppost_coordinator_core::ledger::StreamAccount;
use lamppost_coordinator_core::{Account, Presence};
use lamppost_models::Timestamp;

use super::{ago, clean, table};
use crate::api::LedgerView;
use crate::units::human_span_ms;

/// A table for each stream and class, then what is missing, then what to look at.
pub(in crate::cli) fn ledger(nodes: &[LedgerView], now: Timestamp) -> String {
    let rows: Vec<[String; 15]> = nodes
        .iter()
        .flat_map(|node| {
            let streams = node.account.streams.iter();
            streams.map(|stream| row(&node.path.to_string(), stream))
        })
        .collect();
    let table = if rows.is_empty() {
        "no records were heard of".to_owned()
    } else {
        table(
            [
                "NODE",
                "STREAM",
                "CLASS",
                "PRODUCED",
                "DELIVERED",
                "DUPLICATED",
                "EVICTED",
                "EXPIRED",
                "DAMAGED",
                "UNWRITTEN",
                "DROPPED",
                "FORGOTTEN",
                "CRASH",
                "IN FLIGHT",
                "MISSING",
            ],
            rows,
        )
    };
    let missing: Vec<String> = nodes.iter().flat_map(missing).collect();
    let notes: Vec<String> = nodes.iter().flat_map(|node| notes(node, now)).collect();
    let parts = [table, missing.join("\n"), notes.join("\n")];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n\n")
}

fn row(node: &str, row: &StreamAccount) -> [String; 15] {
    let tally = &row.tally;
    let counts = [
        tally.produced,
        tally.delivered,
        tally.duplicated,
        tally.evicted,
        tally.expired,
        tally.damaged,
        tally.unwritten,
        tally.dropped,
        tally.forgotten,
        tally.crash,
        tally.in_flight,
        tally.missing,
    ];
    let names = [
        node.to_owned(),
        row.stream.to_string(),
        row.class.to_string(),
    ];
    let mut cells = names
        .into_iter()
        .chain(counts.map(|count| count.to_string()));
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

/// A line for each range that nothing explains, and one for what is only known by its count.
fn missing(node: &LedgerView) -> Vec<String> {
    let Account {
        streams, missing, ..
    } = &node.account;
    let mut lines = Vec::new();
    for row in streams.iter().filter(|row| row.tally.missing > 0) {
        let name = format!("missing: {} {} {}", node.path, row.stream, row.class);
        let mut shown = 0;
        let ranges = missing
            .iter()
            .filter(|range| range.class == row.class && range.stream == row.stream);
        for range in ranges {
            let count = range.to.saturating_sub(range.from).saturating_add(1);
            shown += count;
            lines.push(format!(
                "{name}, boot {}, numbers {} to {} ({count})",
                range.boot, range.from, range.to
            ));
        }
        let rest = row.tally.missing.saturating_sub(shown);
        if rest > 0 {
            lines.push(format!("{name}, {rest} more"));
        }
    }
    lines
}

/// What makes the counts provisional, and what is wrong with the node or its sensors.
fn notes(node: &LedgerView, now: Timestamp) -> Vec<String> {
    let account = &node.account;
    let mut notes = Vec::new();
    match &node.presence {
        Presence::Down { since } => notes.push(format!(
            "the node is down for {}",
            human_span_ms(now.ms_since(*since))
        )),
        Presence::Stale { since } => {
            notes.push(format!("the node is stale: heard {}", ago(*since, now)));
        }
        Presence::Degraded { reason } => {
            notes.push(format!("the node is degraded: {}", clean(reason)));
        }
        Presence::Up | Presence::Unknown => {}
    }
    if let Some(at) = node.reported_at.filter(|_| node.report_is_old) {
        let age = human_span_ms(now.ms_since(at));
        notes.push(format!(
            "its report is {age} old: what it holds may have changed"
        ));
    }
    notes.extend(node.stale_streams.iter().map(|stale| {
        let silent = human_span_ms(now.ms_since(stale.since));
        format!("stream {} is stale: no reading for {silent}", stale.stream)
    }));
    if !account.reported {
        notes
            .push("no report says what it holds: what did not come counts as in flight".to_owned());
    }
    let counted = [
        (
            account.events_waiting,
            "loss reports wait at the node: until they are here, what did not come counts as in flight",
        ),
        (
            account.events_forgotten,
            "loss reports were given up by the node: what they told is not explained",
        ),
        (
            account.unjudged_boots,
            "runs began before the ledger and are not judged: what did not come counts as in flight",
        ),
        (
            account.folded_open,
            "runs were folded for room with records on their way: these count as missing until they come",
        ),
    ];
    for (count, text) in counted {
        if count > 0 {
            notes.push(format!("{count} {text}"));
        }
    }
    if account.waiting_joined {
        notes.push("its report joins ranges of what it holds: in flight may be too high, and missing too low".to_owned());
    }
    notes
        .into_iter()
        .map(|note| format!("{}: {note}", node.path))
        .collect()
}
