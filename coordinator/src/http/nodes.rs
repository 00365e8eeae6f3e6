//! Nodes, and what is stored of them.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use lamppost_coordinator_core::NodeEntry;
use lamppost_models::{NodePath, Timestamp};
use serde::Deserialize;

use super::{ApiError, SharedApi, json, parse};
use crate::api::{NODES_MAX, NodeView, Position};
use crate::clock::now;
use crate::state::{NodePage, State, Wanted};

/// Predictions that are given when no number is asked for, and at most: some 500 kB of JSON.
const PREDICTIONS_DEFAULT: usize = 20;
const PREDICTIONS_MAX: usize = 1_000;

fn view(state: &State, entry: &NodeEntry, now: Timestamp) -> NodeView {
    NodeView {
        path: entry.path.clone(),
        presence: entry.presence(now, state.settings.stale_after),
        heard_at: entry.heard_at,
        status: entry.status.clone(),
        reported: entry.reported.clone(),
        stored: None,
    }
}

pub(super) fn unknown(path: &NodePath) -> ApiError {
    ApiError::not_found(format!("nothing was ever heard of node {path}"))
}

pub(super) fn wrong(error: &QueryRejection, ask: &str) -> ApiError {
    ApiError::bad_request(format!("{}: ask with {ask}", error.body_text()))
}

/// The node that a page follows.
pub(super) fn behind(text: &str) -> Result<NodePath, ApiError> {
    let (site, node) = text
        .split_once('/')
        .ok_or_else(|| ApiError::bad_request("after is not SITE/NODE"))?;
    Ok(NodePath {
        site: parse(site)?,
        node: parse(node)?,
    })
}

/// The first page, as long as it may be.
pub(super) const fn all() -> NodePage {
    NodePage {
        after: None,
        limit: NODES_MAX,
    }
}

/// The page that is asked for: as long as it may be, unless `limit`, which has a name, says otherwise.
pub(super) fn page(
    (name, limit): (&str, Option<usize>),
    after: Option<&str>,
    least: usize,
) -> Result<NodePage, ApiError> {
    let limit = limit.unwrap_or(NODES_MAX);
    if !(least..=NODES_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "{name} is {limit}, it may be {least} to {NODES_MAX}"
        )));
    }
    let after = after.map(behind).transpose()?;
    Ok(NodePage { after, limit })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn list(
    Shared(api): SharedApi,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let query = query.map_err(|error| wrong(&error, "?limit=NUMBER&after=SITE/NODE"))?;
    let Query(ListQuery { limit, after }) = query;
    let page = page(("limit", limit), after.as_deref(), 1)?;
    let nodes = api.centre.call(move |state| {
        let now = now();
        let behind = state.inventory.behind(page.after.as_ref());
        behind
            .take(page.limit)
            .map(|entry| view(state, entry, now))
            .collect::<Vec<_>>()
    });
    json(StatusCode::OK, &nodes.await?)
}

pub(super) async fn show(
    Shared(api): SharedApi,
    Path((site, node)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let path = NodePath {
        site: parse(&site)?,
        node: parse(&node)?,
    };
    let shown = api.centre.call(move |state| {
        let entry = state
            .inventory
            .get(&path)
            .cloned()
            .ok_or_else(|| unknown(&path))?;
        let stored = state.shelf(&path)?;
        Ok::<_, ApiError>(NodeView {
            stored: Some(stored),
            ..view(state, &entry, now())
        })
    });
    json(StatusCode::OK, &shown.await??)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PredictionQuery {
    node: String,
    stream: Option<String>,
    limit: Option<usize>,
    before: Option<String>,
}

pub(super) async fn predictions(
    Shared(api): SharedApi,
    query: Result<Query<PredictionQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let ask = "?node=SITE/NODE&stream=NAME&limit=NUMBER&before=POSITION";
    let Query(PredictionQuery {
        node,
        stream,
        limit,
        before,
    }) = query.map_err(|error| wrong(&error, ask))?;
    let (site, name) = node
        .split_once('/')
        .ok_or_else(|| ApiError::bad_request("node is not SITE/NODE"))?;
    let path = NodePath {
        site: parse(site)?,
        node: parse(name)?,
    };
    let limit = limit.unwrap_or(PREDICTIONS_DEFAULT);
    if !(1..=PREDICTIONS_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit is {limit}, it may be 1 to {PREDICTIONS_MAX}"
        )));
    }
    let wanted = Wanted {
        stream: stream.as_deref().map(parse).transpose()?,
        before: before.as_deref().map(parse::<Position>).transpose()?,
        limit,
    };
    let found = api.centre.call(move |state| {
        if state.inventory.get(&path).is_none() {
            return Err(unknown(&path));
        }
        Ok(state.predictions(&path, &wanted)?)
    });
    json(StatusCode::OK, &found.await??)
}
