//! The update topics: what should be retained there, and is.
//!
//! One task publishes, so that an older release never follows a newer one. It compares the rollouts that hold with what it
//! has published on this connection, signs what differs and publishes it: when a rollout starts, on each new connection to
//! the broker, and every few seconds, so that whatever was missed is mended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lamppost_coordinator_core::rollout::{Rollout, Target};
use lamppost_models::release::Sequence;
use lamppost_models::{Timestamp, Topic, TopicRoot};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Outgoing};
use crate::centre::Centre;
use crate::clock::now;
use crate::key::Signers;
use crate::state::State;

/// How often it is looked whether a release must be signed anew or was missed; a release lives a minute or longer.
const PERIOD: Duration = Duration::from_secs(5);
/// How long one publication may wait for the bus.
const PUBLISH_TIME: Duration = Duration::from_secs(5);

/// A way to say that a release changed.
#[derive(Clone)]
pub(crate) struct Releases {
    changed: Arc<Notify>,
}

impl Releases {
    /// Has what changed published soon. It is durable already, so that nothing is lost when the coordinator stops first.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }
}

/// The task that publishes.
pub(crate) struct ReleaseTask {
    key: Arc<Signers>,
    root: TopicRoot,
    centre: Centre,
    bus: Bus,
    changed: Arc<Notify>,
    /// What is on the update topics since this connection; as many entries as there are update topics.
    published: BTreeMap<Target, (Sequence, Timestamp)>,
}

impl ReleaseTask {
    pub(crate) fn new(
        key: Arc<Signers>,
        root: TopicRoot,
        centre: Centre,
        bus: Bus,
    ) -> (Releases, Self) {
        let changed = Arc::new(Notify::new());
        let releases = Releases {
            changed: Arc::clone(&changed),
        };
        (
            releases,
            Self {
                key,
                root,
                centre,
                bus,
                changed,
                published: BTreeMap::new(),
            },
        )
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut connections = self.bus.connections();
        let mut served = 0;
        loop {
            let connection = *connections.borrow_and_update();
            if connection != served {
                self.published.clear();
                served = connection;
            }
            if let Err(error) = self.reconcile(connection != 0).await {
                tracing::warn!(error, "not all releases are published; it is tried again");
            }
            tokio::select! {
                // When the coordinator stops, the bus goes too: that is no new connection.
                biased;
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                // The bus lives as long as this task, which holds it.
                _ = connections.changed() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// Renews what expires soon, and publishes what is not on its update topic.
    async fn reconcile(&mut self, connected: bool) -> Result<(), String> {
        let asked = self.centre.call(|state: &mut State| {
            let renewed = state.renew(now()).map(|renewed| renewed.len());
            (
                renewed,
                state.book.all_current().cloned().collect::<Vec<_>>(),
            )
        });
        let (renewed, current) = asked.await.map_err(|error| error.to_string())?;
        match renewed {
            Ok(0) => {}
            Ok(renewed) => tracing::info!(renewed, "releases are signed anew before they expire"),
            Err(error) => tracing::error!(
                error = crate::error::chain(&error),
                "releases cannot be renewed; it is tried again"
            ),
        }
        for rollout in current.iter().filter(|_| connected) {
            let wanted = (rollout.sequence, rollout.issued_at);
            if self.published.get(&rollout.target) != Some(&wanted) {
                self.publish(rollout).await?;
                self.published.insert(rollout.target.clone(), wanted);
            }
        }
        Ok(())
    }

    async fn publish(&self, rollout: &Rollout) -> Result<(), String> {
        let envelope = self
            .key
            .sign(&rollout.release())
            .map_err(|error| error.to_string())?;
        let payload = serde_json::to_vec(&envelope).map_err(|error| error.to_string())?;
        let Target { group, model } = rollout.target.clone();
        let topic = self.root.format(&Topic::Release { group, model });
        let outgoing = Outgoing {
            topic: topic.clone(),
            payload: payload.into(),
            retain: true,
            expiry: None,
        };
        let sent = tokio::time::timeout(PUBLISH_TIME, self.bus.publish(outgoing)).await;
        sent.map_err(|_| "the bus does not take it in time".to_owned())?
            .map_err(|error| crate::error::chain(&error))?;
        tracing::info!(topic, sequence = %rollout.sequence, version = %rollout.stable.version, "release published");
        Ok(())
    }
}
