//! Bundles over HTTP, resumed where they were cut off, over restarts too.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use lamppost_agent_core::slot::FetchFailure;
use lamppost_models::Digest;
use lamppost_models::release::BundleRef;
use reqwest::header::{CONTENT_RANGE, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::SlotsError;
use super::artifacts::{ArtifactError, Artifacts};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may say nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirections that are followed: to an object store, and on to the one that has it.
const REDIRECTS_MAX: usize = 4;
/// Requests in a row, each going on where the last was cut off, before the fetch counts as failed.
const ROUNDS_MAX: usize = 16;
/// What a request must bring for the next one to follow soon.
const PROGRESS_BYTES_MIN: u64 = 16 * 1024;
/// The pause between two such requests.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// Gets bundles from a server.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: reqwest::Client,
    base: String,
    artifacts: Artifacts,
    rate_bytes_per_s: Option<u64>,
}

/// Why a bundle is not here.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no coordinator is configured to fetch it from")]
    NoServer,
    #[error("the fetch was stopped")]
    Stopped,
    #[error("{url}: {reason}")]
    Http { url: String, reason: String },
    #[error("{url}: the server answers {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url}: cut off after {received} of {bytes} bytes: {reason}")]
    Cut {
        url: String,
        received: u64,
        bytes: u64,
        reason: String,
    },
    #[error("{url}: the server has {found} bytes, the release names {wanted}")]
    Size {
        url: String,
        found: String,
        wanted: u64,
    },
    #[error("what came is not what the release names: {0}")]
    Altered(ArtifactError),
    #[error("disk is full: {wanted} bytes are still to come, and there is room for {room}")]
    NoRoom { wanted: u64, room: u64 },
    #[error("the disk fails: {0}")]
    Disk(#[from] io::Error),
}

impl FetchError {
    /// What the slot makes of it.
    pub(super) const fn failure(&self) -> FetchFailure {
        match self {
            Self::Size { .. } | Self::Altered(_) => FetchFailure::DigestMismatch,
            Self::NoServer
            | Self::Stopped
            | Self::Http { .. }
            | Self::Status { .. }
            | Self::Cut { .. }
            | Self::NoRoom { .. }
            | Self::Disk(_) => FetchFailure::Unavailable,
        }
    }
}

/// What the beginning of an answer says.
enum Start {
    /// The bytes from this one on follow.
    At(u64),
    /// The server has no such part; what is here is no beginning of what it has.
    Elsewhere,
}

impl Fetcher {
    pub(super) fn new(
        server: &str,
        ca_file: Option<&Path>,
        artifacts: Artifacts,
        rate_bytes_per_s: Option<u64>,
    ) -> Result<Self, SlotsError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lamppost-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
            .pool_max_idle_per_host(1)
            .no_proxy();
        if let Some(path) = ca_file {
            let wrong = |reason: String| SlotsError::CaFile {
                path: path.to_owned(),
                reason,
            };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            builder =
                builder.tls_certs_only(certificates.map_err(|error| wrong(error.to_string()))?);
        }
        let client = builder.build().map_err(|error| SlotsError::Http {
            reason: crate::error_chain(&error),
        })?;
        let base = server.trim_end_matches('/').to_owned();
        Ok(Self {
            client,
            base,
            artifacts,
            rate_bytes_per_s,
        })
    }

    /// Gets a bundle into the folder, whole and verified. `progress` hears how many bytes are here.
    ///
    /// It ends at the next chunk once `stop` is cancelled, with all that came on the disk.
    pub(super) async fn fetch(
        &self,
        bundle: &BundleRef,
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<(), FetchError> {
        let mut rounds = 0;
        loop {
            let before = self.artifacts.part_bytes(bundle.digest);
            match self.round(bundle, stop, progress).await {
                Ok(()) => break,
                Err(error @ FetchError::Cut { .. }) => {
                    rounds += 1;
                    let brought = self
                        .artifacts
                        .part_bytes(bundle.digest)
                        .saturating_sub(before);
                    if rounds == ROUNDS_MAX || brought < PROGRESS_BYTES_MIN {
                        return Err(error);
                    }
                    tracing::info!(%error, "a download is resumed");
                    if stop
                        .run_until_cancelled(tokio::time::sleep(ROUND_PAUSE))
                        .await
                        .is_none()
                    {
                        return Err(FetchError::Stopped);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let (artifacts, bundle) = (self.artifacts.clone(), bundle.clone());
        blocking(move || match artifacts.complete(&bundle) {
            Err(ArtifactError::Read(error)) => Err(FetchError::Disk(error)),
            other => other.map_err(FetchError::Altered),
        })
        .await
    }

    /// One request: from where the part ends to the end of the bundle.
    async fn round(
        &self,
        bundle: &BundleRef,
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<(), FetchError> {
        let (artifacts, digest, bytes) = (&self.artifacts, bundle.digest, bundle.bytes);
        let mut from = artifacts.part_bytes(digest);
        if from == bytes {
            return Ok(());
        }
        if from > bytes {
            artifacts.drop_part(digest);
            from = 0;
        }
        let room = artifacts.room()?;
        if room < bytes - from {
            return Err(FetchError::NoRoom {
                wanted: bytes - from,
                room,
            });
        }
        let url = format!("{}/v1/artifacts/{digest}", self.base);
        let mut request = self.client.get(&url);
        if from > 0 {
            request = request
                .header(RANGE, format!("bytes={from}-"))
                .header(IF_RANGE, etag(digest));
        }
        let answer = stop
            .run_until_cancelled(request.send())
            .await
            .ok_or(FetchError::Stopped)?;
        let response = answer.map_err(|error| FetchError::Http {
            url: url.clone(),
            reason: crate::error_chain(&error.without_url()),
        })?;
        let start = match start(&url, &response, from, bytes) {
            Ok(Start::At(start)) => start,
            Ok(Start::Elsewhere) => {
                artifacts.drop_part(digest);
                let reason = format!("the server does not go on from byte {from}: it starts over");
                return Err(FetchError::Http { url, reason });
            }
            Err(error) => {
                if matches!(error, FetchError::Size { .. }) {
                    artifacts.drop_part(digest);
                }
                return Err(error);
            }
        };
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(start == 0)
            .append(start > 0)
            .open(artifacts.part_path(digest))
            .await?;
        let written = self
            .take(&url, response, &mut file, (start, bytes), stop, progress)
            .await;
        // What came is kept, whatever ended it.
        file.flush().await?;
        if let Err(FetchError::Size { .. }) = written {
            artifacts.drop_part(digest);
        }
        written
    }

    /// Writes what comes.
    async fn take(
        &self,
        url: &str,
        mut response: Response,
        file: &mut File,
        (start, bytes): (u64, u64),
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<(), FetchError> {
        let mut received = start;
        let since = Instant::now();
        let cut = |received, reason| FetchError::Cut {
            url: url.to_owned(),
            received,
            bytes,
            reason,
        };
        loop {
            let chunk = stop
                .run_until_cancelled(response.chunk())
                .await
                .ok_or(FetchError::Stopped)?;
            let Some(chunk) =
                chunk.map_err(|error| cut(received, crate::error_chain(&error.without_url())))?
            else {
                break;
            };
            received += chunk.len() as u64;
            if received > bytes {
                let found = format!("more than {bytes}");
                return Err(FetchError::Size {
                    url: url.to_owned(),
                    found,
                    wanted: bytes,
                });
            }
            file.write_all(&chunk).await?;
            progress(received);
            if let Some(pause) = self
                .rate_bytes_per_s
                .and_then(|rate| too_fast(rate, received - start, since.elapsed()))
            {
                stop.run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .ok_or(FetchError::Stopped)?;
            }
        }
        if received == bytes {
            Ok(())
        } else {
            Err(cut(received, "the server ended early".to_owned()))
        }
    }
}

/// The strong validator that the coordinator gives an artifact.
fn etag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

/// How long to wait so that `bytes` in `elapsed` are no more than `rate` a second.
fn too_fast(rate: u64, bytes: u64, elapsed: Duration) -> Option<Duration> {
    let due = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
    due.checked_sub(elapsed).filter(|pause| !pause.is_zero())
}

fn start(url: &str, response: &Response, from: u64, bytes: u64) -> Result<Start, FetchError> {
    let size = |found: String| FetchError::Size {
        url: url.to_owned(),
        found,
        wanted: bytes,
    };
    match response.status() {
        StatusCode::OK => match response.content_length() {
            Some(length) if length != bytes => Err(size(length.to_string())),
            Some(_) | None => Ok(Start::At(0)),
        },
        StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
            Some((first, Some(total))) if first == from && total == bytes => Ok(Start::At(from)),
            Some((first, None)) if first == from => Ok(Start::At(from)),
            Some((_, Some(total))) if total != bytes => Err(size(total.to_string())),
            Some(_) | None => Ok(Start::Elsewhere),
        },
        StatusCode::RANGE_NOT_SATISFIABLE => Ok(Start::Elsewhere),
        status => Err(FetchError::Status {
            url: url.to_owned(),
            status,
        }),
    }
}

/// First byte and total of `bytes 5-9/10` (RFC 9110, section 14.4); the total may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers
        .get(CONTENT_RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = if total == "*" {
        None
    } else {
        Some(total.trim().parse().ok()?)
    };
    Some((first.trim().parse().ok()?, total))
}

/// Runs something that blocks where that does no harm.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(FetchError::Disk(io::Error::other(error))),
    }
}
