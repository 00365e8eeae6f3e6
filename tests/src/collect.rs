//! Collects the ids of all predictions that a coordinator has stored, while it stores them: its API gives the newest only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use lamppost_models::NodePath;
use lamppost_models::id::PredictionId;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::Api;

/// How often it is asked. Within it, and within the longest outage that is bridged, fewer predictions than
/// [`crate::api::PAGE`] may come of one node, or the oldest of them are not seen and count as missing.
const PERIOD: Duration = Duration::from_secs(2);

/// What a coordinator has stored of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The ids that were seen.
    pub ids: BTreeSet<PredictionId>,
    /// How many predictions there are, by the coordinator's own count.
    pub records: u64,
}

impl Stored {
    /// Predictions that are there beyond the first of their id.
    pub fn twice(&self) -> u64 {
        self.records.saturating_sub(self.ids.len() as u64)
    }
}

/// Asks again and again until it is told to finish.
#[derive(Debug)]
pub struct Collector {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<BTreeMap<NodePath, Stored>>>,
    _stop_on_drop: DropGuard,
}

impl Collector {
    /// Starts to ask about these nodes.
    pub fn start(api: Api, nodes: Vec<NodePath>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(collect(api, nodes, stop.clone()));
        Self {
            stop: stop.clone(),
            task,
            _stop_on_drop: stop.drop_guard(),
        }
    }

    /// Asks once more, and gives what was seen.
    ///
    /// # Errors
    /// When the coordinator does not answer this last time.
    pub async fn finish(self) -> anyhow::Result<BTreeMap<NodePath, Stored>> {
        self.stop.cancel();
        self.task.await.context("the collector panicked")?
    }
}

async fn collect(
    api: Api,
    nodes: Vec<NodePath>,
    stop: CancellationToken,
) -> anyhow::Result<BTreeMap<NodePath, Stored>> {
    let mut all: BTreeMap<NodePath, Stored> = nodes
        .into_iter()
        .map(|path| (path, Stored::default()))
        .collect();
    loop {
        let last = stop
            .run_until_cancelled(tokio::time::sleep(PERIOD))
            .await
            .is_none();
        for (path, stored) in &mut all {
            match ask(&api, path, stored).await {
                Ok(()) => {}
                Err(error) if last => {
                    return Err(error.context(format!("what is stored of {path}")));
                }
                Err(error) => tracing::debug!(%path, %error, "the coordinator was asked in vain"),
            }
        }
        if last {
            return Ok(all);
        }
    }
}

async fn ask(api: &Api, path: &NodePath, stored: &mut Stored) -> anyhow::Result<()> {
    stored.ids.extend(api.newest(path).await?);
    stored.records = api.records(path).await?;
    Ok(())
}
