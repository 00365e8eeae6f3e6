//! Messages as they come, a line of JSON each.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{ApiError, SharedApi};
use crate::api::WatchLine;
use crate::bus::{Message, Watch};
use crate::clock::now;

/// An empty line goes out when nothing else does, so that both sides notice a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    filter: String,
}

/// A watch and what it holds.
struct Open {
    watch: Watch,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn watch(
    Shared(api): SharedApi,
    query: Result<Query<WatchQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let wrong = |error: axum::extract::rejection::QueryRejection| {
        ApiError::bad_request(format!(
            "{}: ask with ?filter=TOPIC-FILTER",
            error.body_text()
        ))
    };
    let Query(WatchQuery { filter }) = query.map_err(wrong)?;
    let full = |_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many watches at once: end one of them",
        )
    };
    let place = Arc::clone(&api.room.watches)
        .try_acquire_owned()
        .map_err(full)?;
    let watch = api.bus.watch(&filter).await?;
    let open = Open {
        watch,
        stop: api.stop.clone(),
        _place: place,
    };
    // The first line is empty and goes out at once: from then on no message is missed.
    let lines = stream::unfold((open, true), |(mut open, first)| async move {
        if first {
            return Some((
                Ok::<_, std::io::Error>(Bytes::from_static(b"\n")),
                (open, false),
            ));
        }
        let line = tokio::select! {
            () = open.stop.cancelled() => return None,
            message = open.watch.recv() => line(message?),
            () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b"\n"),
        };
        Some((Ok(line), (open, false)))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

fn line(message: Message) -> Bytes {
    let Message {
        topic,
        payload,
        retain,
    } = message;
    let mut line = WatchLine {
        at: now(),
        topic,
        retain,
        json: None,
        text: None,
        base64: None,
    };
    match (
        serde_json::from_slice(&payload),
        std::str::from_utf8(&payload),
    ) {
        (Ok(value), _) => line.json = Some(value),
        (Err(_), Ok(text)) => line.text = Some(text.to_owned()),
        (Err(_), Err(_)) => line.base64 = Some(BASE64.encode(&payload)),
    }
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_text_or_base64() {
        for (payload, wanted) in [
            (&b"{\"a\": 1}"[..], r#""json":{"a":1}"#),
            (b"12.5", r#""json":12.5"#),
            (b"on", r#""text":"on""#),
            (b"", r#""text":"""#),
            (b"\xff\x00", r#""base64":"/wA=""#),
        ] {
            let message = Message {
                topic: "t".to_owned(),
                payload: Bytes::copy_from_slice(payload),
                retain: false,
            };
            let line = String::from_utf8(line(message).to_vec()).unwrap();
            assert!(line.contains(wanted) && line.ends_with("}\n"), "{line}");
        }
    }
}
