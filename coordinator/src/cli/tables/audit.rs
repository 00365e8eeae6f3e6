//! The audit log.

use lamppost_coordinator_core::rollout::audit::Entry;

use super::{or_dash, table};
use crate::api::AuditCheck;

pub(in crate::cli) fn audit(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing was done".to_owned();
    }
    let row = |entry: &Entry| {
        let target = entry.target.as_ref();
        [
            entry.number.to_string(),
            entry.at.to_string(),
            entry.by.to_string(),
            entry.act.as_str().replace('_', " "),
            or_dash(target.map(|target| target.group.to_string())),
            or_dash(target.map(|target| target.model.to_string())),
            entry.words.clone(),
        ]
    };
    table(
        ["NO", "WHEN", "WHO", "WHAT", "GROUP", "MODEL", "WORDS"],
        entries.iter().map(row),
    )
}

pub(in crate::cli) fn audit_check(check: &AuditCheck) -> String {
    let AuditCheck {
        entries,
        oldest,
        head,
        ..
    } = check;
    let state = if check.whole { "whole" } else { "whole so far" };
    let from = if *oldest > 0 {
        format!(", from number {oldest} on")
    } else {
        String::new()
    };
    format!(
        "{entries} entries are {state}{from}\nlast hash {}",
        head.hash
    )
}
