//! Asking a coordinator: the one home of reqwest.

use std::time::Duration;

use lamppost_coordinator_core::rollout::audit::Actor;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::Global;
use super::{Exit, Failure};
use crate::api::{BY_HEADER, ErrorBody, NODES_MAX, NodeView};

const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take; a server that is busy with commits answers within a second.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a push may take: the upload, and a preflight of two minutes behind another one. As long may it take to give or to
/// delete samples.
const PUSH_TIME: Duration = Duration::from_mins(15);
/// Largest answer that is read: an inventory of 10,000 nodes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A coordinator to ask.
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
    by: String,
}

/// Lines of an answer.
pub(super) struct Lines {
    response: Response,
    server: String,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        crate::bus::install_provider();
        let server = global.server.trim_end_matches('/').to_owned();
        let rest = server
            .strip_prefix("http://")
            .or_else(|| server.strip_prefix("https://"));
        let Some(host) = rest.filter(|rest| !rest.is_empty()) else {
            let text = format!(
                "--server {server:?} is no address: write it as http://host:port or https://host:port"
            );
            return Err(Failure::new(Exit::Usage, text));
        };
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIME)
            .redirect(reqwest::redirect::Policy::none());
        // A proxy cannot reach what listens on this machine.
        if ["127.", "localhost", "[::1]"]
            .iter()
            .any(|local| host.starts_with(local))
        {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| Failure::failed(&error))?;
        Ok(Self {
            http,
            server,
            token: global.token.clone(),
            by: actor(global).to_string(),
        })
    }

    /// Its address.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(self.request(Method::GET, path).timeout(ANSWER_TIME))
            .await
    }

    /// With what is asked for in the address.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        self.answer(
            self.request(Method::GET, &with_query(path, query))
                .timeout(ANSWER_TIME),
        )
        .await
    }

    /// All pages of a list of nodes: as long as they are full, there is another.
    pub(super) async fn nodes(&self) -> Result<Vec<NodeView>, Failure> {
        let mut nodes: Vec<NodeView> = Vec::new();
        loop {
            let after = nodes.last().map(|last| ("after", last.path.to_string()));
            let query: Vec<_> = after.into_iter().collect();
            let page: Vec<NodeView> = self.ask("/v1/nodes", &query).await?;
            let full = page.len() == NODES_MAX;
            nodes.extend(page);
            if !full {
                return Ok(nodes);
            }
        }
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.answer(
            self.request(Method::POST, path)
                .timeout(ANSWER_TIME)
                .json(body),
        )
        .await
    }

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: u64,
        body: reqwest::Body,
    ) -> Result<T, Failure> {
        let request = self.request(Method::PUT, path).timeout(PUSH_TIME);
        self.answer(
            request
                .header(reqwest::header::CONTENT_LENGTH, bytes)
                .body(body),
        )
        .await
    }

    /// Lines of JSON for a body.
    pub(super) async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        lines: Vec<u8>,
    ) -> Result<T, Failure> {
        let request = self.request(Method::POST, path).timeout(ANSWER_TIME);
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/x-ndjson");
        self.answer(request.body(lines)).await
    }

    /// Deletes what is asked for in the address, however much that is.
    pub(super) async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let request = self.request(Method::DELETE, &with_query(path, query));
        self.answer(request.timeout(PUSH_TIME)).await
    }

    /// An answer that comes line by line and ends.
    pub(super) async fn page(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Lines, Failure> {
        let request = self.request(Method::GET, &with_query(path, query));
        self.stream(request.timeout(PUSH_TIME)).await
    }

    /// Bytes as they are, at most so many.
    pub(super) async fn bytes(&self, path: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let request = self.request(Method::GET, path).timeout(PUSH_TIME);
        let mut response = self.send(request).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.broken(&error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                let text = format!("{} gives more than {limit} bytes, the limit", self.server);
                return Err(Failure::new(Exit::Failed, text));
            }
        }
        Ok(bytes)
    }

    /// An answer that comes line by line and does not end.
    pub(super) async fn lines(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Lines, Failure> {
        self.stream(self.request(Method::GET, &with_query(path, query)))
            .await
    }

    async fn stream(&self, request: RequestBuilder) -> Result<Lines, Failure> {
        Ok(Lines {
            response: self.send(request).await?,
            server: self.server.clone(),
            buffer: Vec::new(),
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}{path}", self.server))
            .header(BY_HEADER, self.by.as_bytes());
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        let body = read(response).await.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&body).map_err(|error| {
            let text = format!(
                "{} answers with something else than this version understands: {error}",
                self.server
            );
            Failure::new(Exit::Failed, text)
        })
    }

    /// Sends, and turns an answer that is an error into one.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let exit = match status {
            StatusCode::UNAUTHORIZED => Exit::Unauthorised,
            StatusCode::NOT_FOUND => Exit::NotFound,
            _ => Exit::Failed,
        };
        let body = read(response).await.unwrap_or_default();
        let text = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => error,
            Err(_) => format!("{} answers {status}: is it a coordinator?", self.server),
        };
        let hint = if exit == Exit::Unauthorised {
            " (give it with --token or LAMPPOST_TOKEN)"
        } else {
            ""
        };
        Err(Failure::new(exit, text + hint))
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        broken(&self.server, error)
    }
}

impl Lines {
    /// The next line without its end, `None` when the answer ended; empty ones are skipped.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(Failure::new(
                    Exit::Failed,
                    "a line of the answer does not end",
                ));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => return Err(broken(&self.server, &error)),
            }
        }
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

fn broken(server: &str, error: &reqwest::Error) -> Failure {
    let cause =
        std::error::Error::source(error).map_or_else(|| error.to_string(), crate::error::chain);
    let text = if error.is_connect() {
        format!(
            "no coordinator can be reached at {server} ({cause}): start one with `lamppost serve`, or name another with --server"
        )
    } else if error.is_timeout() {
        format!("{server} does not answer in time")
    } else {
        format!("the connection to {server} broke: {cause}")
    };
    Failure::new(Exit::Unreachable, text)
}

/// Who asks: by name, or `user@host` of this machine.
fn actor(global: &Global) -> Actor {
    if let Some(by) = &global.by {
        return by.clone();
    }
    let word = |text: String| {
        let text = text.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let user = ["USER", "LOGNAME", "USERNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().and_then(word));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .and_then(word);
    let named = match (user, host) {
        (Some(user), Some(host)) => format!("{user}@{host}"),
        (Some(user), None) => user,
        (None, Some(host)) => format!("somebody@{host}"),
        (None, None) => "somebody".to_owned(),
    };
    // A name that cannot be is no reason to do nothing.
    named.parse().unwrap_or_else(|_| Actor::unnamed())
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let escaped = query
        .iter()
        .map(|(key, value)| format!("{key}={}", escape(value)));
    format!("{path}?{}", escaped.collect::<Vec<_>>().join("&"))
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn escape(text: &str) -> String {
    text.bytes()
        .fold(String::new(), |escaped, byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped + char::from(byte).encode_utf8(&mut [0; 4])
            }
            byte => escaped + &format!("%{byte:02X}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_any_text() {
        let query = with_query("/v1/watch", &[("filter", "a/+/b&c=ä#".to_owned())]);
        assert_eq!(query, "/v1/watch?filter=a%2F%2B%2Fb%26c%3D%C3%A4%23");
    }
}
