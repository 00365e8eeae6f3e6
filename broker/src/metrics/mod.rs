//! The broker's counters for Prometheus, over HTTP: `/metrics`, and `/healthz` for whoever only asks whether it runs.
//!
//! hyper has its only home here. A connection has one request and an end in sight; it is not encrypted.

mod text;

use crate::hub::Hub;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::{debug, warn};

/// Connections at once: a few Prometheus servers and a person.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection lasts at most. Prometheus gives up after ten seconds by default.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for a request's head, the least that hyper takes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How long to wait after the system refused a connection, usually for want of file descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The text format that Prometheus reads.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD");

/// Serves until the broker stops. One connection too many waits until another one ends.
pub(crate) async fn run(listener: TcpListener, hub: Arc<Hub>) {
    if let Ok(address) = listener.local_addr()
        && !address.ip().is_loopback()
    {
        warn!(%address, "metrics are served without encryption and to whoever reaches this address");
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let arrival = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = hub.stop.cancelled() => return,
            arrival = arrival => arrival,
        };
        match accepted {
            Ok((stream, _)) => {
                let hub_too = Arc::clone(&hub);
                hub.tasks.spawn(async move {
                    serve(stream, hub_too).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, hub: Arc<Hub>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &hub);
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        () = hub.stop.cancelled() => {}
        ended = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a connection for metrics ended early"),
            Err(_) => debug!("a connection for metrics took too long"),
        },
    }
}

/// Answers a request; hyper leaves the body of an answer to HEAD away.
fn respond(method: &Method, path: &str, hub: &Hub) -> Response<String> {
    let (status, kind, body) = match path {
        _ if method != Method::GET && method != Method::HEAD => {
            let text = "only GET and HEAD are answered\n".to_owned();
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, text)
        }
        "/metrics" => (StatusCode::OK, TEXT, hub.stats().to_prometheus()),
        "/healthz" => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        _ => {
            let text = "there are /metrics and /healthz\n".to_owned();
            (StatusCode::NOT_FOUND, PLAIN, text)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, METHODS);
    }
    response
}
