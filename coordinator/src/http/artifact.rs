//! Artifacts: immutable bytes by digest, resumable, as small as the client can take them, and only so many at once over one
//! backhaul.

use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use lamppost_models::{Digest, NodePath};
use tokio::io::AsyncReadExt as _;

use super::range::{Wanted, wanted};
use super::{Api, ApiError, SharedApi, parse};
use crate::artifacts::Artifact;
use crate::clock::now;
use crate::downloads::{Pass, Terms};
use crate::encodings::{Accepted, DICTIONARY_ZSTD, Encoded, ZSTD};

/// Bytes that are read and sent at once.
const CHUNK_BYTES: u64 = 64 * 1024;
/// Who asks, as `<site>/<node>`. It is no proof: a node that gives another's name takes a place over that one's backhaul, and
/// gets what everybody may have.
const NODE: HeaderName = HeaderName::from_static("lamppost-node");

/// The bundle that the client has (RFC 9842, section 2.2).
const DICTIONARY: HeaderName = HeaderName::from_static("available-dictionary");

pub(super) async fn artifact(
    Shared(api): SharedApi,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let digest: Digest = parse(&digest)?;
    let tag = format!("\"{digest}\"");
    let artifacts = Arc::clone(&api.artifacts);
    let Artifact { mut file, bytes } = tokio::task::spawn_blocking(move || artifacts.get(digest))
        .await
        .map_err(|error| ApiError::internal(&error))??;
    let common = [
        (header::ETAG, tag.clone()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (
            header::CACHE_CONTROL,
            "public, max-age=31536000, immutable".to_owned(),
        ),
        (
            header::VARY,
            "accept-encoding, available-dictionary".to_owned(),
        ),
    ];
    if text(&headers, &header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.trim() == "*" || tags.contains(&tag))
    {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    // A range of something else than what is here is no use: with another tag the whole is sent.
    let same = text(&headers, &header::IF_RANGE).is_none_or(|given| given.trim() == tag);
    let range = text(&headers, &header::RANGE).filter(|_| same && method == Method::GET);
    let (status, from, length) = match wanted(range, bytes) {
        Wanted::Whole => (StatusCode::OK, 0, bytes),
        Wanted::Part { from, to } => (StatusCode::PARTIAL_CONTENT, from, to - from + 1),
        Wanted::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{bytes}"))];
            let text = format!("the artifact has {bytes} bytes, the range begins behind its end");
            return Ok((
                common,
                range,
                ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, text),
            )
                .into_response());
        }
    };
    let shape = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    let part = format!("bytes {from}-{}/{bytes}", (from + length).saturating_sub(1));
    let part = (status == StatusCode::PARTIAL_CONTENT).then_some([(header::CONTENT_RANGE, part)]);
    let encoded = if status == StatusCode::OK && method == Method::GET {
        api.encodings
            .smallest((digest, bytes), accepted(&headers))
            .await
    } else {
        None
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let terms = terms(&api, &headers, digest).await?;
        let sent = encoded.as_ref().map_or(length, Encoded::bytes);
        match api.downloads.admit(digest, sent, terms, now()) {
            Ok(pass) => {
                if let Some(encoded) = encoded {
                    return Ok(encoded_response(digest, encoded, pass, common));
                }
                file.seek(SeekFrom::Start(from))?;
                content(file, length, pass)
            }
            Err(busy) => {
                tracing::debug!(%digest, %busy, "a download has to wait");
                let error = ApiError::busy(&busy);
                let later = [(header::RETRY_AFTER, busy.retry_s().to_string())];
                return Ok((later, error).into_response());
            }
        }
    };
    let mut response = (status, common, shape, body).into_response();
    for (name, value) in part.into_iter().flatten() {
        let value = value
            .parse()
            .map_err(|error| ApiError::internal(&error as &header::InvalidHeaderValue))?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// What the client can undo.
fn accepted(headers: &HeaderMap) -> Accepted {
    let codings = text(headers, &header::ACCEPT_ENCODING).unwrap_or_default();
    let takes = |coding: &str| {
        codings.split(',').any(|item| {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            // A weight of 0 is a refusal (RFC 9110, section 12.4.2).
            let refused = weight.trim().trim_start_matches("q=").parse::<f32>() == Ok(0.0);
            name.trim().eq_ignore_ascii_case(coding) && !refused
        })
    };
    let dictionary = text(headers, &DICTIONARY).and_then(Digest::from_field);
    Accepted {
        zstd: takes(ZSTD),
        dictionary: dictionary.filter(|_| takes(DICTIONARY_ZSTD)),
    }
}

/// The artifact in another form, which has a tag of its own: what is cut off goes on as a range of the artifact itself.
fn encoded_response(
    digest: Digest,
    encoded: Encoded,
    mut pass: Pass,
    mut common: [(HeaderName, String); 4],
) -> Response {
    common[0].1 = format!("\"{digest}-{}\"", encoded.coding);
    let shape = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_ENCODING, encoded.coding.to_owned()),
        (header::CONTENT_LENGTH, encoded.bytes().to_string()),
    ];
    let size = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
    let mut left = encoded.content;
    let chunks = std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let chunk = left.split_to(left.len().min(size));
        pass.sent(chunk.len() as u64);
        Some(Ok::<_, std::io::Error>(chunk))
    });
    (common, shape, Body::from_stream(stream::iter(chunks))).into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Under which bounds this node may have the artifact. While the store does not work only that of the configuration holds:
/// nodes that fetch what they need go before an even load.
async fn terms(api: &Api, headers: &HeaderMap, digest: Digest) -> Result<Terms, ApiError> {
    let node = text(headers, &NODE).map(|name| {
        let (site, node) = name.split_once('/').ok_or_else(|| {
            ApiError::bad_request(format!("{NODE} is {name:?}, write it as SITE/NODE"))
        })?;
        Ok::<_, ApiError>(NodePath {
            site: parse(site)?,
            node: parse(node)?,
        })
    });
    let node = node.transpose()?;
    let asked = api
        .centre
        .call(move |state| state.download_terms(node.as_ref(), digest));
    Ok(asked.await.unwrap_or_default())
}

/// `length` bytes of the file from where it stands, in chunks; the pass ends with the body, however that ends.
fn content(file: std::fs::File, length: u64, pass: Pass) -> Body {
    let file = tokio::fs::File::from_std(file);
    let chunks = stream::try_unfold(
        (file, length, pass),
        |(mut file, left, mut pass)| async move {
            if left == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            let size = usize::try_from(left.min(CHUNK_BYTES)).unwrap_or(0);
            let mut chunk = vec![0; size];
            file.read_exact(&mut chunk).await?;
            pass.sent(size as u64);
            Ok(Some((Bytes::from(chunk), (file, left - size as u64, pass))))
        },
    );
    Body::from_stream(chunks)
}
