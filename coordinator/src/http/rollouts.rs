//! Rollouts: start, look at, roll back.

use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use lamppost_coordinator_core::rollout::{PlanError, Target};

use super::{ApiError, SharedApi, json, parse, read_json};
use crate::api::StartRollout;
use crate::clock::now;
use crate::state::RolloutError;

fn target(group: &str, model: &str) -> Result<Target, ApiError> {
    Ok(Target {
        group: parse(group)?,
        model: parse(model)?,
    })
}

pub(super) async fn list(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let views = api.centre.call(|state| {
        let now = now();
        state
            .book
            .all_current()
            .map(|rollout| state.view(rollout, false, now))
            .collect::<Vec<_>>()
    });
    json(StatusCode::OK, &views.await?)
}

pub(super) async fn start(Shared(api): SharedApi, body: Body) -> Result<Response, ApiError> {
    let StartRollout {
        model,
        version,
        group,
    } = read_json(body).await?;
    let target = Target { group, model };
    let view = api.centre.call(move |state| {
        let rollout = state.start(&target, &version, now())?;
        Ok::<_, RolloutError>(state.view(&rollout, true, now()))
    });
    let view = view.await??;
    api.releases.changed();
    json(StatusCode::CREATED, &view)
}

pub(super) async fn roll_back(
    Shared(api): SharedApi,
    Path((group, model)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let target = target(&group, &model)?;
    let view = api.centre.call(move |state| {
        let rollout = state.roll_back(&target, now())?;
        Ok::<_, RolloutError>(state.view(&rollout, true, now()))
    });
    let view = view.await??;
    api.releases.changed();
    json(StatusCode::CREATED, &view)
}

/// The rollout that holds, with its nodes, and those before it, newest first.
pub(super) async fn show(
    Shared(api): SharedApi,
    Path((group, model)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let target = target(&group, &model)?;
    let views = api.centre.call(move |state| {
        let now = now();
        let mut views: Vec<_> = state
            .book
            .history(&target)
            .map(|rollout| {
                let current = state
                    .book
                    .current(&target)
                    .is_some_and(|current| current.sequence == rollout.sequence);
                state.view(rollout, current, now)
            })
            .collect();
        views.reverse();
        if views.is_empty() {
            let Target { group, model } = target;
            return Err(RolloutError::Plan(PlanError::NoRelease { group, model }));
        }
        Ok(views)
    });
    json(StatusCode::OK, &views.await??)
}
