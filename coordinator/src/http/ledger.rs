//! What became of every record.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use lamppost_models::{NodePath, Timestamp};
use serde::Deserialize;

use super::nodes::{behind, unknown, wrong};
use super::{ApiError, SharedApi, json, parse};
use crate::clock::now;

/// Nodes of an answer when no number is asked for, and at most: each is read from the store, some 2 ms.
const NODES_DEFAULT: usize = 100;
const NODES_MAX: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    since: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    since: Option<String>,
}

pub(super) async fn list(
    Shared(api): SharedApi,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ListQuery {
        limit,
        after,
        since,
    }) = query.map_err(|error| wrong(&error, "?limit=NUMBER&after=SITE/NODE&since=TIME"))?;
    let limit = limit.unwrap_or(NODES_DEFAULT);
    if !(1..=NODES_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit is {limit}, it may be 1 to {NODES_MAX}"
        )));
    }
    let now = now();
    let since = since.map(|since| time(&since, now)).transpose()?;
    let after = after.as_deref().map(behind).transpose()?;
    let page = api
        .centre
        .call(move |state| state.ledgers(after.as_ref(), limit, since, now));
    json(StatusCode::OK, &page.await??)
}

pub(super) async fn show(
    Shared(api): SharedApi,
    Path((site, node)): Path<(String, String)>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ShowQuery { since }) = query.map_err(|error| wrong(&error, "?since=TIME"))?;
    let path = NodePath {
        site: parse(&site)?,
        node: parse(&node)?,
    };
    let now = now();
    let since = since.map(|since| time(&since, now)).transpose()?;
    let shown = api.centre.call(move |state| {
        let view = state.ledger(&path, since, now)?;
        view.ok_or_else(|| unknown(&path))
    });
    json(StatusCode::OK, &shown.await??)
}

/// An instant, or a time before now by the coordinator's clock.
pub(super) fn time(text: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    if let Ok(instant) = text.parse() {
        return Ok(instant);
    }
    let ago = humantime::parse_duration(text).map_err(|_| {
        let text: String = text.chars().take(64).collect();
        ApiError::bad_request(format!(
            "since is {text:?}: write a time such as 24h, or an instant such as 2026-11-25T04:00:00Z"
        ))
    })?;
    let ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Ok(now.offset_ms(-ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_an_instant_or_a_time_ago() {
        let now: Timestamp = "2026-11-25T04:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("24h", "2026-11-24T04:00:00Z"),
            ("1h 30m", "2026-11-25T02:30:00Z"),
            ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        ] {
            assert_eq!(time(text, now).unwrap(), wanted.parse().unwrap(), "{text}");
        }
        for text in ["", "yesterday", "24", "-1h"] {
            assert!(time(text, now).is_err(), "{text}");
        }
        // Longer ago than the years that there are.
        time("500000years", now).unwrap();
    }
}
