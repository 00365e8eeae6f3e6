//! The audit log in pages, checked, and what was given out day by day.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use lamppost_coordinator_core::rollout::audit::Head;
use serde::Deserialize;

use super::{ApiError, SharedApi, json, parse};
use crate::api::AuditCheck;
use crate::clock::now;
use crate::downloads::Day;
use crate::state::{AUDIT_PAGE_MAX, AuditFrom, Checked, GIVEN_DAYS_MAX};

/// Entries of a page when nothing is said.
const PAGE: u64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    from: Option<u64>,
    since: Option<String>,
    limit: Option<u64>,
}

pub(super) async fn list(
    Shared(api): SharedApi,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let wrong = |error: QueryRejection| {
        ApiError::bad_request(format!(
            "{}: ask with ?from=NUMBER or ?since=TIME, and &limit=NUMBER",
            error.body_text()
        ))
    };
    let Query(AuditQuery { from, since, limit }) = query.map_err(wrong)?;
    let from = match (from, since) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "from and since are both given: leave one of them out",
            ));
        }
        (Some(number), None) => AuditFrom::Number(number),
        (None, Some(since)) => AuditFrom::Time(super::ledger::time(&since, now())?),
        (None, None) => AuditFrom::Newest,
    };
    let limit = limit.unwrap_or(PAGE);
    if !(1..=AUDIT_PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit is {limit}, it may be 1 to {AUDIT_PAGE_MAX}"
        )));
    }
    let page = api
        .centre
        .call(move |state| state.audit(from, limit))
        .await??;
    json(StatusCode::OK, &page)
}

/// Checks the log page by page, so that nodes are not kept waiting meanwhile.
pub(super) async fn verify(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let base = api.centre.call(|state| state.audit_base()).await?;
    let mut head = base;
    let (whole, broken) = loop {
        match api
            .centre
            .call(move |state| state.check_audit(head))
            .await??
        {
            Checked::SoFar(further) => head = further,
            Checked::Whole(end) => {
                head = end;
                break (true, None);
            }
            Checked::Broken(good, broken) => {
                head = good;
                break (false, Some(broken.to_string()));
            }
        }
    };
    let Head { next, .. } = head;
    json(
        StatusCode::OK,
        &AuditCheck {
            whole,
            entries: next.saturating_sub(base.next),
            oldest: base.next,
            head,
            broken,
        },
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenQuery {
    digest: Option<String>,
}

/// What was given out, of one artifact or of all.
pub(super) async fn given(
    Shared(api): SharedApi,
    query: Result<Query<GivenQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let wrong = |error: QueryRejection| {
        ApiError::bad_request(format!("{}: ask with ?digest=DIGEST", error.body_text()))
    };
    let Query(GivenQuery { digest }) = query.map_err(wrong)?;
    let digest = digest.as_deref().map(parse).transpose()?;
    let downloads = std::sync::Arc::clone(&api.downloads);
    let found = api
        .centre
        .call(move |state| {
            let now = now();
            state.save_given(&downloads, now)?;
            let today = Day::of(now);
            state.given(Day(today.0 - GIVEN_DAYS_MAX + 1), today)
        })
        .await??;
    let found: Vec<_> = found
        .into_iter()
        .filter(|given| digest.is_none_or(|digest| given.digest == digest))
        .collect();
    json(StatusCode::OK, &found)
}
