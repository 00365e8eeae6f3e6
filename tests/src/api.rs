//! The coordinator's HTTP API as any client would use it: JSON in, JSON out.
//!
//! reqwest is used here and nowhere else in this package.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lamppost_models::id::PredictionId;
use lamppost_models::message::NodeRow;
use lamppost_models::{Digest, NodePath};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long an answer may take: a push runs a model under check.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Predictions that the API gives in one answer, at most.
const PAGE: usize = 1_000;

/// A client of one coordinator.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: reqwest::Client,
}

/// What a coordinator has stored of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The ids.
    pub ids: BTreeSet<PredictionId>,
    /// How many predictions there are.
    pub records: u64,
}

impl Stored {
    /// Predictions that are there beyond the first of their id.
    pub fn twice(&self) -> u64 {
        self.records.saturating_sub(self.ids.len() as u64)
    }
}

#[derive(Deserialize)]
struct Answer {
    predictions: Vec<Row>,
    older: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    id: PredictionId,
}

impl Api {
    /// A client of the coordinator at this address.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(http: SocketAddr) -> anyhow::Result<Self> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // An agent in this process may have been faster, with the same one.
            if rustls::crypto::ring::default_provider()
                .install_default()
                .is_err()
            {
                tracing::trace!("a provider of cryptography is there already");
            }
        });
        let client = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .build()?;
        Ok(Self {
            base: format!("http://{http}/v1"),
            client,
        })
    }

    /// Pushes a bundle into the registry.
    ///
    /// # Errors
    /// With what the coordinator says when it refuses.
    pub async fn push(&self, bundle: Vec<u8>) -> anyhow::Result<Value> {
        self.answer(
            self.client
                .post(format!("{}/models", self.base))
                .body(bundle),
        )
        .await
    }

    /// Releases a version to a whole group at once.
    ///
    /// # Errors
    /// With what the coordinator says when it refuses.
    pub async fn rollout(&self, model: &str, version: &str, group: &str) -> anyhow::Result<Value> {
        let body =
            json!({ "model": model, "version": version, "group": group, "all_at_once": true });
        self.answer(
            self.client
                .post(format!("{}/rollouts", self.base))
                .json(&body),
        )
        .await
    }

    /// Gives a group back what it ran before.
    ///
    /// # Errors
    /// With what the coordinator says when it refuses.
    pub async fn rollback(&self, model: &str, group: &str) -> anyhow::Result<Value> {
        self.answer(
            self.client
                .post(format!("{}/rollouts/{group}/{model}/rollback", self.base)),
        )
        .await
    }

    /// Asks for something by POST at an address below `/v1`.
    ///
    /// # Errors
    /// With what the coordinator says when it refuses.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.client.post(format!("{}/{path}", self.base));
        self.answer(request.json(body)).await
    }

    /// All nodes that the coordinator knows.
    ///
    /// # Errors
    /// When it does not answer so.
    pub async fn nodes(&self) -> anyhow::Result<Vec<NodeRow>> {
        self.get("nodes").await
    }

    /// One node.
    ///
    /// # Errors
    /// When the coordinator does not know it.
    pub async fn node(&self, path: &NodePath) -> anyhow::Result<NodeRow> {
        self.get(&format!("nodes/{path}")).await
    }

    /// The key that agents must trust, as text.
    ///
    /// # Errors
    /// When the coordinator does not answer so.
    pub async fn key(&self) -> anyhow::Result<String> {
        let answer: Value = self.get("key").await?;
        Ok(answer["key"]
            .as_str()
            .context("a key in the answer")?
            .to_owned())
    }

    /// All that is stored of a node, from the newest back to the oldest.
    ///
    /// # Errors
    /// When the coordinator does not answer so.
    pub async fn stored(&self, path: &NodePath) -> anyhow::Result<Stored> {
        let newest = format!("predictions?node={path}&limit={PAGE}");
        let (mut stored, mut ask) = (Stored::default(), newest.clone());
        loop {
            let Answer { predictions, older } = self.get(&ask).await?;
            stored.records += predictions.len() as u64;
            stored.ids.extend(predictions.into_iter().map(|row| row.id));
            let Some(older) = older else {
                return Ok(stored);
            };
            ask = format!("{newest}&before={older}");
        }
    }

    /// How many predictions are stored of a node, by the coordinator's account.
    ///
    /// # Errors
    /// When the coordinator does not answer so.
    pub async fn records(&self, path: &NodePath) -> anyhow::Result<u64> {
        let node: Value = self.get(&format!("nodes/{path}")).await?;
        node["stored"]["records"]
            .as_u64()
            .with_context(|| format!("stored.records in {node}"))
    }

    /// What became of every record of a node, by the ledger.
    ///
    /// # Errors
    /// When the coordinator does not answer, or refuses.
    pub async fn ledger(&self, path: &NodePath) -> anyhow::Result<Value> {
        self.get(&format!("ledger/{path}")).await
    }

    /// The answer to a GET below `/v1/`, as it came.
    ///
    /// # Errors
    /// When the coordinator does not answer, or refuses.
    pub async fn body(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let url = format!("{}/{path}", self.base);
        let response = self.client.get(url).send().await?.error_for_status()?;
        Ok(response.bytes().await?.into())
    }

    /// A bundle, on a connection of its own.
    ///
    /// # Errors
    /// When the coordinator does not answer, or refuses.
    pub async fn artifact(&self, digest: Digest) -> anyhow::Result<Vec<u8>> {
        let request = self
            .client
            .get(format!("{}/artifacts/{digest}", self.base))
            .header("connection", "close");
        let response = request.send().await?.error_for_status()?;
        Ok(response.bytes().await?.into())
    }

    /// The answer to a GET below `/v1/`.
    ///
    /// # Errors
    /// When the coordinator does not answer, or refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self
            .answer(
                self.client
                    .request(Method::GET, format!("{}/{path}", self.base)),
            )
            .await?;
        serde_json::from_value(answer).with_context(|| format!("answer to GET {path}"))
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request
            .send()
            .await
            .context("the coordinator does not answer")?;
        let (status, url) = (response.status(), response.url().path().to_owned());
        let body: Value = response
            .json()
            .await
            .with_context(|| format!("{status} from {url}"))?;
        if !status.is_success() {
            bail!(
                "{status} from {url}: {}",
                body["error"].as_str().unwrap_or("no reason given")
            );
        }
        Ok(body)
    }
}
