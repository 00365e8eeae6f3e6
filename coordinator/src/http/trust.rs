//! The keys that sign here, and the trust documents.

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use lamppost_models::trust::{CHAIN_BYTES_MAX, Chain};

use super::{ApiError, SharedApi, actor, json, read_json};
use crate::api::Key;
use crate::clock::now;
use crate::trust::InstallError;

const _: () = assert!(CHAIN_BYTES_MAX <= super::JSON_BYTES_MAX);

pub(super) async fn key(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let mut keys = api.authority.signers().public();
    let key = keys.remove(0);
    let id = key.id();
    let further = keys;
    json(StatusCode::OK, &Key { key, id, further })
}

pub(super) async fn show(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let installed = api.authority.installed().borrow().clone();
    match installed {
        Some(installed) => json(StatusCode::OK, &installed.chain),
        None => Err(ApiError::not_found(
            "no trust documents are installed: nodes believe the release keys of their configurations",
        )),
    }
}

/// Publishes first: that a key is revoked must not wait for a store that fails. What the log misses then, it tells at the
/// coordinator's next start.
pub(super) async fn install(
    Shared(api): SharedApi,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let by = actor(&headers)?;
    let chain: Chain = read_json(body).await?;
    let installed = api.authority.install(chain).await?;
    let trusted = api.authority.trusted();
    api.centre
        .call(move |state| state.note_keys(&trusted, &by, now()))
        .await??;
    json(StatusCode::OK, &installed.newest)
}

impl From<InstallError> for ApiError {
    fn from(error: InstallError) -> Self {
        let status = match &error {
            InstallError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            InstallError::Chain(_) => StatusCode::BAD_REQUEST,
            InstallError::Stray { .. }
            | InstallError::Full { .. }
            | InstallError::Unlisted { .. }
            | InstallError::TooFew { .. } => StatusCode::CONFLICT,
        };
        Self::of(status, &error)
    }
}
