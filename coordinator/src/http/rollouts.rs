//! Rollouts: planned, started, looked at, led and undone.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use lamppost_coordinator_core::rollout::campaign::Action;
use lamppost_coordinator_core::rollout::{PlanError, Target};
use lamppost_models::id::RolloutId;
use serde::Deserialize;

use super::{Api, ApiError, SharedApi, actor, json, nodes, parse, read_json, read_json_or_default};
use crate::api::{AbortRollout, RevokeBundle, RollBack, RolloutView, StartRollout};
use crate::clock::now;
use crate::state::{NodePage, RolloutError};

fn target(group: &str, model: &str) -> Result<Target, ApiError> {
    Ok(Target {
        group: parse(group)?,
        model: parse(model)?,
    })
}

/// The name of a rollout to be.
fn draw() -> Result<RolloutId, ApiError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| ApiError::internal(&std::io::Error::other(error)))?;
    Ok(RolloutId::from_u64(u64::from_be_bytes(bytes)))
}

pub(super) async fn list(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let downloads = std::sync::Arc::clone(&api.downloads);
    let views = api.centre.call(move |state| {
        let now = now();
        state
            .book
            .all_current()
            .map(|rollout| state.view(rollout, &NodePage::default(), &downloads, now))
            .collect::<Vec<_>>()
    });
    json(StatusCode::OK, &views.await?)
}

pub(super) async fn plan(Shared(api): SharedApi, body: Body) -> Result<Response, ApiError> {
    let wanted: StartRollout = read_json(body).await?;
    let id = draw()?;
    let plan = api
        .centre
        .call(move |state| state.plan(wanted, id, now()))
        .await??;
    json(StatusCode::OK, &plan)
}

pub(super) async fn start(
    Shared(api): SharedApi,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (by, id) = (actor(&headers)?, draw()?);
    let wanted: StartRollout = read_json(body).await?;
    let target = wanted.target();
    let warnings = api
        .centre
        .call(move |state| state.start(wanted, by, id, now()))
        .await??;
    api.releases.changed();
    answer(&api, StatusCode::CREATED, target, warnings).await
}

pub(super) async fn roll_back(
    Shared(api): SharedApi,
    Path((group, model)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (target, by) = (target(&group, &model)?, actor(&headers)?);
    let RollBack { version } = read_json_or_default(body).await?;
    let of = target.clone();
    api.centre
        .call(move |state| state.roll_back(&of, version.as_ref(), &by, now()))
        .await??;
    api.releases.changed();
    answer(&api, StatusCode::CREATED, target, Vec::new()).await
}

pub(super) async fn revoke(
    Shared(api): SharedApi,
    Path((group, model)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (target, by) = (target(&group, &model)?, actor(&headers)?);
    let wanted: RevokeBundle = read_json(body).await?;
    let of = target.clone();
    api.centre
        .call(move |state| state.revoke(&of, wanted, by, now()))
        .await??;
    api.releases.changed();
    answer(&api, StatusCode::CREATED, target, Vec::new()).await
}

pub(super) async fn pause(
    api: SharedApi,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    act(api, path, headers, Action::Pause).await
}

pub(super) async fn resume(
    api: SharedApi,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    act(api, path, headers, Action::Resume).await
}

pub(super) async fn approve(
    api: SharedApi,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    act(api, path, headers, Action::Approve).await
}

pub(super) async fn promote(
    api: SharedApi,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    act(api, path, headers, Action::Promote).await
}

pub(super) async fn abort(
    api: SharedApi,
    path: Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let AbortRollout { how } = read_json(body).await?;
    act(api, path, headers, Action::Abort { how }).await
}

/// Does it, looks at once at what follows from it, and has that published.
async fn act(
    Shared(api): SharedApi,
    Path((group, model)): Path<(String, String)>,
    headers: HeaderMap,
    action: Action,
) -> Result<Response, ApiError> {
    let (target, by) = (target(&group, &model)?, actor(&headers)?);
    let (of, downloads) = (target.clone(), std::sync::Arc::clone(&api.downloads));
    api.centre
        .call(move |state| {
            state.act(&of, &action, &by, now())?;
            state.look(&downloads, now()).map(|_| ())
        })
        .await??;
    api.releases.changed();
    answer(&api, StatusCode::OK, target, Vec::new()).await
}

/// The release that holds for a target now, with its nodes.
async fn answer(
    api: &Api,
    status: StatusCode,
    target: Target,
    warnings: Vec<String>,
) -> Result<Response, ApiError> {
    let downloads = std::sync::Arc::clone(&api.downloads);
    let view = api.centre.call(move |state| {
        let Some(current) = state.book.current(&target) else {
            let Target { group, model } = target;
            return Err(RolloutError::Plan(PlanError::NoRelease { group, model }));
        };
        let mut view = state.view(current, &nodes::all(), &downloads, now());
        view.warnings = warnings;
        Ok(view)
    });
    json(status, &view.await??)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    nodes: Option<usize>,
    after: Option<String>,
}

/// The rollout that holds, with its nodes, and those before it, newest first.
pub(super) async fn show(
    Shared(api): SharedApi,
    Path((group, model)): Path<(String, String)>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let target = target(&group, &model)?;
    let query = query.map_err(|error| nodes::wrong(&error, "?nodes=NUMBER&after=SITE/NODE"))?;
    let Query(ShowQuery { nodes, after }) = query;
    let page = nodes::page(("nodes", nodes), after.as_deref(), 0)?;
    let downloads = std::sync::Arc::clone(&api.downloads);
    let views = api.centre.call(move |state| {
        let now = now();
        let mut views: Vec<_> = state
            .book
            .history(&target)
            .map(|rollout| RolloutView::before(rollout.clone()))
            .collect();
        if let Some((last, current)) = views.last_mut().zip(state.book.current(&target)) {
            *last = state.view(current, &page, &downloads, now);
        }
        views.reverse();
        if views.is_empty() {
            let Target { group, model } = target;
            return Err(RolloutError::Plan(PlanError::NoRelease { group, model }));
        }
        Ok(views)
    });
    json(StatusCode::OK, &views.await??)
}
