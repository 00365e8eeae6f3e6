//! Stored samples: asked for, labelled, forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use lamppost_coordinator_core::samples::{Filter, SampleId};
use lamppost_models::message::{Label, SamplePolicy};
use lamppost_models::{ModelName, NodeId, SiteId, StreamName, Timestamp};
use serde::Deserialize;

use super::{Api, ApiError, SharedApi, actor, json, read_bytes};
use crate::api::{Forgotten, Labelled, RefusedLine, SampleLabel};
use crate::state::{SamplePart, check_label};

/// Samples of an answer when no number is asked for, and at most: some 3 MB, of which 256 kB are in memory at a time.
const SAMPLES_MAX: usize = 1_000;
/// Largest body of labels: some 10,000 lines.
const LABELS_BYTES_MAX: usize = 1 << 20;
/// Labels that are set before others have their turn.
const LABELS_AT_ONCE: usize = 256;
/// Unknown samples and refused lines that an answer names.
const NAMED_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SampleQuery {
    model: Option<ModelName>,
    stream: Option<StreamName>,
    site: Option<SiteId>,
    node: Option<NodeId>,
    policy: Option<SamplePolicy>,
    labelled: Option<bool>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    after: Option<SampleId>,
    limit: Option<usize>,
}

impl SampleQuery {
    fn filter(&self) -> Filter {
        Filter {
            model: self.model.clone(),
            stream: self.stream.clone(),
            site: self.site.clone(),
            node: self.node.clone(),
            policy: self.policy,
            labelled: self.labelled,
            from: self.from,
            to: self.to,
        }
    }
}

fn wrong(error: &QueryRejection) -> ApiError {
    ApiError::bad_request(format!(
        "{}: ask with ?model=&stream=&site=&node=&policy=&labelled=true|false&from=TIME&to=TIME, and lists with \
         &after=ID&limit=NUMBER",
        error.body_text()
    ))
}

/// An answer that is under way.
struct Open {
    api: Arc<Api>,
    filter: Filter,
    after: Option<SampleId>,
    left: usize,
    /// What was read and is not sent yet.
    ready: Option<Bytes>,
}

impl Open {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.ready.is_some() {
            return Ok(self.ready.take());
        }
        while self.left > 0 {
            let (filter, after, limit) = (self.filter.clone(), self.after.take(), self.left);
            let part = self
                .api
                .centre
                .call(move |state| state.samples(&filter, after.as_ref(), limit));
            let SamplePart { rows, next } = part.await??;
            self.left = match &next {
                Some(_) => self.left - rows.len().min(self.left),
                None => 0,
            };
            self.after = next;
            let mut lines = Vec::new();
            for row in rows {
                serde_json::to_writer(&mut lines, &row)
                    .map_err(|error| ApiError::internal(&error))?;
                lines.push(b'\n');
            }
            // Many samples may have to be looked at before there is one to give.
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
        }
        Ok(None)
    }
}

pub(super) async fn list(
    Shared(api): SharedApi,
    query: Result<Query<SampleQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| wrong(&error))?;
    let limit = query.limit.unwrap_or(SAMPLES_MAX);
    if !(1..=SAMPLES_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit is {limit}, it may be 1 to {SAMPLES_MAX}"
        )));
    }
    let mut open = Open {
        api,
        filter: query.filter(),
        after: query.after,
        left: limit,
        ready: None,
    };
    // What fails at once is an answer of its own; what fails later breaks the connection off, so that it is noticed.
    open.ready = open.next().await?;
    let lines = stream::try_unfold(open, |mut open| async move {
        let lines = open
            .next()
            .await
            .map_err(|error| std::io::Error::other(error.text().to_owned()))?;
        Ok::<_, std::io::Error>(lines.map(|lines| (lines, open)))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

pub(super) async fn summary(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let rows = api.centre.call(|state| state.sample_sums()).await?;
    json(StatusCode::OK, &rows)
}

pub(super) async fn label(
    Shared(api): SharedApi,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let by = actor(&headers)?;
    let body = read_bytes(body, LABELS_BYTES_MAX).await?;
    let mut done = Labelled::default();
    let mut labels = read_labels(&body, &mut done);
    while !labels.is_empty() {
        let rest = match labels.keys().nth(LABELS_AT_ONCE).cloned() {
            Some(behind) => labels.split_off(&behind),
            None => BTreeMap::new(),
        };
        let part = std::mem::replace(&mut labels, rest);
        let count = part.len() as u64;
        let unknown = api.centre.call(move |state| state.label_samples(part));
        let unknown = unknown.await??;
        done.labelled += count - unknown.len() as u64;
        done.unknown_in_all += unknown.len() as u64;
        let room = NAMED_MAX.saturating_sub(done.unknown.len());
        done.unknown.extend(unknown.into_iter().take(room));
    }
    let Labelled {
        labelled,
        unknown_in_all,
        refused_in_all,
        ..
    } = done;
    tracing::info!(%by, labelled, unknown_in_all, refused_in_all, "samples are labelled");
    json(StatusCode::OK, &done)
}

/// The labels in some lines; of several for one sample the last counts.
fn read_labels(body: &[u8], done: &mut Labelled) -> BTreeMap<SampleId, Option<Label>> {
    let mut labels = BTreeMap::new();
    for (line, number) in body.split(|byte| *byte == b'\n').zip(1..) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = serde_json::from_slice::<SampleLabel>(line).map_err(|error| error.to_string());
        let checked = read.and_then(|label| {
            label.label.as_ref().map_or(Ok(()), check_label)?;
            Ok(label)
        });
        match checked {
            Ok(SampleLabel { id, label }) => {
                labels.insert(id, label);
            }
            Err(error) => {
                done.refused_in_all += 1;
                if done.refused.len() < NAMED_MAX {
                    done.refused.push(RefusedLine {
                        line: number,
                        error,
                    });
                }
            }
        }
    }
    labels
}

pub(super) async fn forget(
    Shared(api): SharedApi,
    headers: HeaderMap,
    query: Result<Query<SampleQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let by = actor(&headers)?;
    let Query(query) = query.map_err(|error| wrong(&error))?;
    let filter = query.filter();
    if filter == Filter::default() || query.after.is_some() || query.limit.is_some() {
        return Err(ApiError::bad_request(
            "say which samples to forget by model, stream, site, node, policy, labelled, from or to, at least one of them, \
             and nothing else",
        ));
    }
    let (mut forgotten, mut after) = (0, None);
    loop {
        let wanted = filter.clone();
        let step = api
            .centre
            .call(move |state| state.forget_samples(&wanted, after.as_ref()));
        let (count, next) = step.await??;
        forgotten += count;
        if next.is_none() {
            break;
        }
        after = next;
    }
    tracing::info!(%by, forgotten, ?filter, "samples are forgotten");
    json(StatusCode::OK, &Forgotten { forgotten })
}
