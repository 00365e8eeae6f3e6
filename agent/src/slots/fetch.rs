//! Bundles over HTTP, resumed where they were cut off, over restarts too, and no more of them than is not here yet.
//!
//! The first request of a bundle asks for what is new in it to a node that has the active one (`content`). What came of that
//! is on the disk undone, so that a request which was cut off goes on with a range of the bundle itself.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use lamppost_agent_core::slot::FetchFailure;
use lamppost_models::release::BundleRef;
use lamppost_models::{Digest, NodePath};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, IF_RANGE,
    RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::SlotsError;
use super::artifacts::{ArtifactError, Artifacts};

mod content;

use content::{Content, DICTIONARY_BYTES_MAX, Dictionary};

/// Tells the server who asks, so that the nodes of one backhaul take turns.
const NODE: HeaderName = HeaderName::from_static("lamppost-node");
/// Names the bundle that is here (RFC 9842, section 2.2).
const AVAILABLE_DICTIONARY: HeaderName = HeaderName::from_static("available-dictionary");
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
    #[error("{url}: the server has enough to do and asks to be left alone for {after:?}")]
    Busy { url: String, after: Duration },
    #[error("{url}: what came cannot be undone: {source}")]
    Encoding { url: String, source: io::Error },
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
            Self::Busy { after, .. } => FetchFailure::Busy { after: *after },
            Self::Encoding { .. }
            | Self::NoServer
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

/// A bundle on its way.
struct Transfer<'a> {
    bundle: &'a BundleRef,
    /// The bundle that is here.
    dictionary: Option<&'a Dictionary>,
    /// Whether it may come encoded.
    encoded: bool,
    /// Bytes that came over the link.
    came: u64,
}

impl Fetcher {
    pub(super) fn new(
        server: &str,
        ca_file: Option<&Path>,
        artifacts: Artifacts,
        rate_bytes_per_s: Option<u64>,
        node: &NodePath,
    ) -> Result<Self, SlotsError> {
        // A node's name has letters, digits and dashes.
        let node = HeaderValue::from_str(&node.to_string());
        let headers = node.into_iter().map(|node| (NODE, node)).collect();
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
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

    /// Gets a bundle into the folder, whole and verified, and says how many bytes that took over the link. `progress` hears how
    /// many bytes of it are here. What `held` has, which is in the folder, need not come.
    ///
    /// It ends at the next chunk once `stop` is cancelled, with all that came on the disk.
    pub(super) async fn fetch(
        &self,
        bundle: &BundleRef,
        held: Option<BundleRef>,
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<u64, FetchError> {
        let dictionary = self.dictionary(bundle, held).await;
        let mut transfer = Transfer {
            bundle,
            dictionary: dictionary.as_ref(),
            encoded: true,
            came: 0,
        };
        loop {
            let fetched = match self.rounds(&mut transfer, stop, progress).await {
                Ok(()) => self.complete(bundle).await,
                Err(error) => Err(error),
            };
            match fetched {
                // An encoding is a means and no reason to go without the bundle.
                Err(error @ (FetchError::Encoding { .. } | FetchError::Altered(_)))
                    if transfer.encoded =>
                {
                    tracing::warn!(%error, "a bundle is fetched again as it is");
                    self.artifacts.drop_part(bundle.digest);
                    transfer.encoded = false;
                }
                Ok(()) => return Ok(transfer.came),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the bundle that is here, if the two are small enough.
    async fn dictionary(&self, bundle: &BundleRef, held: Option<BundleRef>) -> Option<Dictionary> {
        let fits = |bundle: &BundleRef| bundle.bytes <= DICTIONARY_BYTES_MAX;
        let held = held.filter(|held| fits(held) && fits(bundle))?;
        let (artifacts, digest) = (self.artifacts.clone(), held.digest);
        let read = tokio::task::spawn_blocking(move || artifacts.read(&held)).await;
        let bytes = read.ok()?.ok()?;
        Some(Dictionary { digest, bytes })
    }

    async fn complete(&self, bundle: &BundleRef) -> Result<(), FetchError> {
        let (artifacts, bundle) = (self.artifacts.clone(), bundle.clone());
        blocking(move || match artifacts.complete(&bundle) {
            Err(ArtifactError::Read(error)) => Err(FetchError::Disk(error)),
            other => other.map_err(FetchError::Altered),
        })
        .await
    }

    /// Requests until all is here.
    async fn rounds(
        &self,
        transfer: &mut Transfer<'_>,
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<(), FetchError> {
        let digest = transfer.bundle.digest;
        let mut rounds = 0;
        loop {
            let before = self.artifacts.part_bytes(digest);
            match self.round(transfer, stop, progress).await {
                Err(error @ FetchError::Cut { .. }) => {
                    rounds += 1;
                    let here = self.artifacts.part_bytes(digest);
                    // An encoding comes in blocks of which nothing is had before they are whole: over a link that breaks
                    // again and again the bundle itself gets further.
                    let other_way = here == 0 && std::mem::take(&mut transfer.encoded);
                    let too_little = here.saturating_sub(before) < PROGRESS_BYTES_MIN;
                    if rounds == ROUNDS_MAX || (too_little && !other_way) {
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
                other => return other,
            }
        }
    }

    /// One request: from where the part ends to the end of the bundle.
    async fn round(
        &self,
        transfer: &mut Transfer<'_>,
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<(), FetchError> {
        let (artifacts, bundle) = (&self.artifacts, transfer.bundle);
        let (digest, bytes) = (bundle.digest, bundle.bytes);
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
        } else if transfer.encoded {
            request = match transfer.dictionary {
                Some(dictionary) => request
                    .header(ACCEPT_ENCODING, "dcz, zstd")
                    .header(AVAILABLE_DICTIONARY, dictionary.digest.to_field()),
                None => request.header(ACCEPT_ENCODING, "zstd"),
            };
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
            .take(&url, response, &mut file, (start, transfer), stop, progress)
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
        (start, transfer): (u64, &mut Transfer<'_>),
        stop: &CancellationToken,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<(), FetchError> {
        let (mut received, bytes) = (start, transfer.bundle.bytes);
        let (since, came_before) = (Instant::now(), transfer.came);
        let undo = |source| FetchError::Encoding {
            url: url.to_owned(),
            source,
        };
        let coding = coding(&response);
        let mut content = Content::of(&coding, transfer.dictionary).map_err(undo)?;
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
            transfer.came += chunk.len() as u64;
            let mut came = &chunk[..];
            loop {
                let (used, piece) = content.next(came).map_err(undo)?;
                came = came.get(used..).unwrap_or_default();
                if used == 0 && piece.is_empty() {
                    break;
                }
                received += piece.len() as u64;
                if received > bytes {
                    let found = format!("more than {bytes}");
                    return Err(FetchError::Size {
                        url: url.to_owned(),
                        found,
                        wanted: bytes,
                    });
                }
                file.write_all(piece).await?;
            }
            progress(received);
            if let Some(pause) = self
                .rate_bytes_per_s
                .and_then(|rate| too_fast(rate, transfer.came - came_before, since.elapsed()))
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
        // The length of an encoded answer says nothing of the bundle's.
        StatusCode::OK => match response.content_length() {
            Some(length) if length != bytes && coding(response).is_empty() => {
                Err(size(length.to_string()))
            }
            Some(_) | None => Ok(Start::At(0)),
        },
        StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
            Some((first, Some(total))) if first == from && total == bytes => Ok(Start::At(from)),
            Some((first, None)) if first == from => Ok(Start::At(from)),
            Some((_, Some(total))) if total != bytes => Err(size(total.to_string())),
            Some(_) | None => Ok(Start::Elsewhere),
        },
        StatusCode::RANGE_NOT_SATISFIABLE => Ok(Start::Elsewhere),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
            if let Some(after) = retry_after(response.headers()) =>
        {
            Err(FetchError::Busy {
                url: url.to_owned(),
                after,
            })
        }
        status => Err(FetchError::Status {
            url: url.to_owned(),
            status,
        }),
    }
}

/// The name of the encoding; empty for none.
fn coding(response: &Response) -> String {
    let coding = response.headers().get(CONTENT_ENCODING);
    let coding = coding.map(|coding| String::from_utf8_lossy(coding.as_bytes()));
    let coding = coding.unwrap_or_default().trim().to_ascii_lowercase();
    if coding == "identity" {
        String::new()
    } else {
        coding
    }
}

/// How long the server asks to be left alone, in seconds (RFC 9110, section 10.2.3); a date is not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    seconds.parse().ok().map(Duration::from_secs)
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
