//! The HTTP API: artifacts for nodes, and all that the command line does.
//!
//! [`serve`] accepts connections within bounds; the others answer. Every error is JSON with the causes in it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use lamppost_coordinator_core::rollout::audit::Actor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::Health;
use crate::artifacts::Artifacts;
use crate::bus::Bus;
use crate::centre::Centre;
use crate::downloads::{Downloads, Refusals};
use crate::encodings::Encodings;
use crate::preflight::Checker;
use crate::releases::Releases;
use crate::trust::Authority;

mod artifact;
mod audit;
mod error;
mod ledger;
mod metrics;
mod models;
mod nodes;
mod range;
mod rollouts;
mod samples;
pub(crate) mod serve;
mod trust;
mod watch;

pub(crate) use error::ApiError;

/// Largest JSON body: a request has some 100 bytes.
const JSON_BYTES_MAX: usize = 64 * 1024;
/// How long a request of JSON may take to arrive.
const JSON_TIME: Duration = Duration::from_secs(10);
/// Uploads at once; each may take as much disk as the largest bundle.
const UPLOADS_MAX: usize = 4;
/// Preflights at once: each may take 2 GiB of memory.
const PREFLIGHTS_MAX: usize = 1;
/// Watches at once: each is a client of the broker.
const WATCHES_MAX: usize = 32;

/// What requests are answered from.
pub(crate) struct Api {
    pub(crate) centre: Centre,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) encodings: Encodings,
    pub(crate) downloads: Arc<Downloads>,
    pub(crate) releases: Releases,
    pub(crate) bus: Bus,
    pub(crate) authority: Arc<Authority>,
    pub(crate) checker: Option<Checker>,
    pub(crate) token: Option<String>,
    pub(crate) stop: CancellationToken,
    pub(crate) room: Room,
}

/// Places for what is dear.
pub(crate) struct Room {
    uploads: Arc<Semaphore>,
    preflights: Semaphore,
    watches: Arc<Semaphore>,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            preflights: Semaphore::new(PREFLIGHTS_MAX),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        }
    }
}

type SharedApi = Shared<Arc<Api>>;

/// All routes. Artifacts need no token: nodes fetch them, and their digest is the proof.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/v1/health", get(health))
        .route("/v1/key", get(trust::key))
        .route("/v1/trust", get(trust::show).post(trust::install))
        .route(
            "/v1/models",
            get(models::list).post(models::push).put(models::push),
        )
        .route("/v1/models/{name}/{version}", get(models::inspect))
        .route("/v1/rollouts", get(rollouts::list).post(rollouts::start))
        .route("/v1/rollouts/plan", post(rollouts::plan))
        .route("/v1/rollouts/{group}/{model}", get(rollouts::show))
        .nest("/v1/rollouts/{group}/{model}", actions())
        .route("/v1/audit", get(audit::list))
        .route("/v1/audit/verify", get(audit::verify))
        .route("/v1/given", get(audit::given))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{site}/{node}", get(nodes::show))
        .route("/v1/ledger", get(ledger::list))
        .route("/v1/ledger/{site}/{node}", get(ledger::show))
        .route("/v1/predictions", get(nodes::predictions))
        .route("/v1/samples", get(samples::list).delete(samples::forget))
        .route("/v1/samples/summary", get(samples::summary))
        .route("/v1/samples/labels", post(samples::label))
        .route("/v1/watch", get(watch::watch))
        .route("/metrics", get(metrics::metrics))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), authorise));
    let open = Router::new().route("/v1/artifacts/{digest}", get(artifact::artifact));
    guarded
        .merge(open)
        .fallback(|| async { ApiError::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address does not take this method",
            )
        })
        .with_state(api)
}

/// What people do to a rollout.
fn actions() -> Router<Arc<Api>> {
    Router::new()
        .route("/pause", post(rollouts::pause))
        .route("/resume", post(rollouts::resume))
        .route("/approve", post(rollouts::approve))
        .route("/abort", post(rollouts::abort))
        .route("/promote", post(rollouts::promote))
        .route("/rollback", post(rollouts::roll_back))
        .route("/revoke", post(rollouts::revoke))
}

/// Who asks, by their own word: for the audit log.
fn actor(headers: &HeaderMap) -> Result<Actor, ApiError> {
    let Some(name) = headers.get(crate::api::BY_HEADER) else {
        return Ok(Actor::unnamed());
    };
    parse(&String::from_utf8_lossy(name.as_bytes()))
}

async fn authorise(Shared(api): SharedApi, request: Request, next: Next) -> Response {
    let Some(wanted) = &api.token else {
        return next.run(request).await;
    };
    if bearer(request.headers()).is_some_and(|given| same(given.as_bytes(), wanted.as_bytes())) {
        return next.run(request).await;
    }
    let error = ApiError::new(
        StatusCode::UNAUTHORIZED,
        "this needs the coordinator's token: `Authorization: Bearer ...`",
    );
    let mut response = error.into_response();
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        header::HeaderValue::from_static("Bearer"),
    );
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Compares without an early exit, so that the time it takes tells nothing of where the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Answers with JSON.
fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value).map_err(|error| ApiError::internal(&error))?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Reads a small JSON body.
async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    parse_json(&read_bytes(body, JSON_BYTES_MAX).await?)
}

/// The same, where no body is as good as an empty object.
async fn read_json_or_default<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
    let bytes = read_bytes(body, JSON_BYTES_MAX).await?;
    if bytes.is_empty() {
        Ok(T::default())
    } else {
        parse_json(&bytes)
    }
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::bad_request(format!(
            "the request is not the JSON that is wanted: {error}"
        ))
    })
}

async fn read_bytes(body: Body, bytes_max: usize) -> Result<bytes::Bytes, ApiError> {
    let read = tokio::time::timeout(JSON_TIME, axum::body::to_bytes(body, bytes_max)).await;
    read.map_err(|_| {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request did not arrive within 10 s",
        )
    })?
    .map_err(|_| {
        let text = format!("the request is cut short or over {bytes_max} bytes, the limit");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    })
}

/// Reads a part of the address or of the query.
fn parse<T: std::str::FromStr<Err: std::error::Error>>(text: &str) -> Result<T, ApiError> {
    text.parse()
        .map_err(|error: T::Err| ApiError::bad_request(crate::error::chain(&error)))
}

async fn health(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let connected = api.bus.connected();
    let asked = api
        .centre
        .call(|state| (state.inventory.len(), state.counters.counts().clone()))
        .await;
    let (store, nodes, refused) = match asked {
        Ok((nodes, refused)) => (None, nodes, refused),
        Err(error) => (
            Some(error.to_string()),
            0,
            std::collections::BTreeMap::new(),
        ),
    };
    let trouble =
        store.or_else(|| (!connected).then(|| "there is no connection to the broker".to_owned()));
    let code = if trouble.is_some() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let health = Health {
        status: trouble.unwrap_or_else(|| "ok".to_owned()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        broker_connected: connected,
        nodes,
        refused: refused
            .into_iter()
            .chain(waiting(api.downloads.refusals()))
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
    };
    json(code, &health)
}

/// Downloads that had to wait, by reason, where there are any.
fn waiting(refusals: Refusals) -> impl Iterator<Item = (&'static str, u64)> {
    let Refusals { backhaul, spent } = refusals;
    [("backhaul_busy", backhaul), ("bytes_spent", spent)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        for (a, b, equal) in [
            ("", "", true),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("abc", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(same(a.as_bytes(), b.as_bytes()), equal, "{a} {b}");
        }
    }
}
