//! `lamppost audit`.

use lamppost_coordinator_core::rollout::audit::{Entry, Head};
use lamppost_models::Digest;

use super::args::{Audit, AuditCommand, Global};
use super::client::Client;
use super::{Exit, Failure, show, tables};
use crate::api::{AuditCheck, AuditPage};
use crate::state::{AUDIT_PAGE_MAX, audit_ends};

/// Entries that are shown when nothing is said.
const SHOWN: u64 = 50;

pub(super) async fn run(audit: Audit, global: &Global) -> Result<(), Failure> {
    let Audit { what, since, limit } = audit;
    let client = Client::new(global)?;
    if let Some(AuditCommand::Verify { holds }) = what {
        return verify(&client, holds, global).await;
    }
    let entries = read(&client, since, limit).await?;
    show(global, &entries, || tables::audit(&entries))
}

async fn read(
    client: &Client,
    since: Option<String>,
    limit: Option<u64>,
) -> Result<Vec<Entry>, Failure> {
    let mut left = match (limit, &since) {
        (Some(limit), _) => limit,
        (None, None) => SHOWN,
        (None, Some(_)) => u64::MAX,
    };
    let newest = since.is_none();
    // Without a beginning the answer ends with the newest, so that more than a page begins further back.
    let mut from = if let Some(since) = since {
        ("since", since)
    } else {
        let end = page(client, &[("limit", "1".to_owned())]).await?.head.next;
        ("from", end.saturating_sub(left).to_string())
    };
    let mut entries = Vec::new();
    while left > 0 {
        let query = [from, ("limit", left.min(AUDIT_PAGE_MAX).to_string())];
        let found = page(client, &query).await?;
        left = left.saturating_sub(found.entries.len() as u64);
        entries.extend(found.entries);
        let Some(next) = found.next else { break };
        from = ("from", next.to_string());
    }
    if newest && let Some(limit) = limit {
        // What was appended meanwhile is not asked for.
        entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    Ok(entries)
}

async fn page(client: &Client, query: &[(&str, String)]) -> Result<AuditPage, Failure> {
    client.ask("/v1/audit", query).await
}

/// Checks every entry here, and takes no word of the server for it.
async fn verify(client: &Client, holds: Option<Digest>, global: &Global) -> Result<(), Failure> {
    let mut found = page(client, &[("from", "0".to_owned())]).await?;
    let base = found.base;
    let mut head = base;
    let mut held = holds.is_none_or(|hash| hash == base.hash);
    let broken = loop {
        let checked = found.entries.iter().try_for_each(|entry| {
            held |= holds == Some(entry.hash);
            head.check(entry)
        });
        if let Err(broken) = checked {
            break Some(broken.to_string());
        }
        if found.next.is_none() || found.entries.is_empty() {
            break audit_ends(head, found.head)
                .err()
                .map(|broken| broken.to_string());
        }
        let query = [
            ("from", head.next.to_string()),
            ("limit", AUDIT_PAGE_MAX.to_string()),
        ];
        found = page(client, &query).await?;
    };
    let broken = broken.or_else(|| {
        holds.filter(|_| !held).map(|hash| {
            format!("no entry of the audit log has the hash {hash}: it is not the log that it was noted of")
        })
    });
    let check = check(base, head, broken);
    show(global, &check, || tables::audit_check(&check))?;
    match check.broken {
        Some(broken) => Err(Failure::new(Exit::Broken, broken)),
        None => Ok(()),
    }
}

fn check(base: Head, head: Head, broken: Option<String>) -> AuditCheck {
    AuditCheck {
        whole: broken.is_none(),
        entries: head.next.saturating_sub(base.next),
        oldest: base.next,
        head,
        broken,
    }
}
