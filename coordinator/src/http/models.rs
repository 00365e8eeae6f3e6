//! The registry: push, list, inspect.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::{Bundle, Digest, V1};

use super::{Api, ApiError, SharedApi, json, parse};
use crate::api::{ModelDetail, ModelRow, Preflight, Pushed};
use crate::artifacts::{Upload, UploadError};
use crate::clock::now;
use crate::preflight;
use crate::state::VERSION_BYTES_MAX;

/// How long an upload may pause.
const CHUNK_TIME: Duration = Duration::from_secs(30);
/// How long it may take in all: the largest bundle at 150 kB/s.
const UPLOAD_TIME: Duration = Duration::from_mins(10);

pub(super) async fn list(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let models = api
        .centre
        .call(|state| state.models().cloned().collect::<Vec<_>>())
        .await?;
    json(StatusCode::OK, &models)
}

pub(super) async fn inspect(
    Shared(api): SharedApi,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (name, version) = (parse(&name)?, parse(&version)?);
    let missing = ApiError::not_found(format!("the registry has no {name} {version}"));
    let model = api
        .centre
        .call(move |state| state.model(&name, &version).cloned())
        .await?
        .ok_or(missing)?;
    let (artifacts, digest) = (Arc::clone(&api.artifacts), model.digest);
    let bundle = blocking(move || {
        let bytes = artifacts.read(digest)?;
        Bundle::read(&bytes).map_err(|error| ApiError::internal(&error))
    });
    let manifest = Box::new(bundle.await?.manifest().clone());
    json(StatusCode::OK, &ModelDetail { model, manifest })
}

/// Takes in a bundle: to the disk, through the preflight, into its place, and then into the list.
pub(super) async fn push(
    Shared(api): SharedApi,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let by = super::actor(&headers)?;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BUNDLE_BYTES_MAX) {
        return Err(UploadError::TooLarge.into());
    }
    let _place = Arc::clone(&api.room.uploads)
        .try_acquire_owned()
        .map_err(|_| busy("uploads"))?;
    let received = tokio::time::timeout(UPLOAD_TIME, receive(&api, body)).await;
    let slow = |_| {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the upload took longer than {UPLOAD_TIME:?}"),
        )
    };
    let (upload, digest) = received.map_err(slow)??;
    let (preflight, mut model) = examine(&api, &upload, digest).await?;
    // A conflict is found before the artifact gets its place, and once more when it is taken into the list.
    let (name, version) = (model.name.clone(), model.version.clone());
    let there = api
        .centre
        .call(move |state| state.model(&name, &version).cloned())
        .await?;
    if there.as_ref().is_none_or(|there| there.digest == digest) {
        let artifacts = Arc::clone(&api.artifacts);
        blocking(move || Ok(upload.keep(&artifacts, digest)?)).await?;
    }
    let row = model.clone();
    let created = api
        .centre
        .call(move |state| state.add_model(&row, by))
        .await??;
    if let Some(there) = there {
        model = there;
    }
    if created {
        tracing::info!(model = %model.name, version = %model.version, %digest, "model taken into the registry");
    }
    json(
        if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        },
        &Pushed {
            created,
            model,
            preflight,
        },
    )
}

async fn receive(api: &Api, body: Body) -> Result<(Upload, Digest), ApiError> {
    let artifacts = Arc::clone(&api.artifacts);
    let mut upload = blocking(move || Ok(artifacts.upload()?)).await?;
    let mut chunks = body.into_data_stream();
    loop {
        let chunk = tokio::time::timeout(CHUNK_TIME, chunks.next()).await;
        let paused = |_| {
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the upload paused for {CHUNK_TIME:?}"),
            )
        };
        let Some(chunk) = chunk.map_err(paused)? else {
            break;
        };
        let chunk = chunk
            .map_err(|error| ApiError::bad_request(format!("the upload broke off: {error}")))?;
        upload = blocking(move || {
            upload.write(&chunk)?;
            Ok(upload)
        })
        .await?;
    }
    blocking(move || {
        let digest = upload.finish()?;
        Ok((upload, digest))
    })
    .await
}

/// Runs the preflight, and makes the row of what passed it.
async fn examine(
    api: &Api,
    upload: &Upload,
    digest: Digest,
) -> Result<(Preflight, ModelRow), ApiError> {
    let path = upload.path().to_owned();
    // What is no bundle at all needs no engine to be refused.
    let bundle = blocking(move || {
        let bytes = std::fs::read(path)?;
        Bundle::read(&bytes).map_err(|error| ApiError::of(StatusCode::UNPROCESSABLE_ENTITY, &error))
    });
    let manifest = bundle.await?.manifest().clone();
    if manifest.version.to_string().len() > VERSION_BYTES_MAX {
        let text = format!("the version has more than {VERSION_BYTES_MAX} bytes, the limit");
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let place = api.room.preflights.acquire().await;
    let preflight = preflight::check(upload.path(), api.checker.as_ref()).await?;
    drop(place);
    let row = ModelRow {
        v: V1,
        name: manifest.name,
        version: manifest.version,
        digest,
        bytes: upload.bytes(),
        task: manifest.task,
        summary: manifest.summary.chars().take(200).collect(),
        pushed_at: now(),
    };
    Ok((preflight, row))
}

fn busy(what: &str) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("too many {what} at once: try again in a moment"),
    )
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|error| ApiError::internal(&error))?
}
