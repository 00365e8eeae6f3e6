//! Trust chain and time on their topics, retained.

use std::sync::Arc;
use std::time::Duration;

use lamppost_models::{Topic, TopicRoot};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Authority;
use crate::bus::{Bus, Outgoing};

/// How often the time is published: a node without a clock that connects knows it to the minute.
const TIME_EVERY: Duration = Duration::from_mins(1);
/// Pause after something could not be published.
const RETRY: Duration = Duration::from_secs(5);
/// How long one publication may wait for the bus.
const PUBLISH_TIME: Duration = Duration::from_secs(5);

/// The task that publishes.
pub(crate) struct Announcer {
    pub(crate) authority: Arc<Authority>,
    pub(crate) root: TopicRoot,
    pub(crate) bus: Bus,
}

impl Announcer {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut connections = self.bus.connections();
        let mut installed = self.authority.installed();
        let mut time_at = Instant::now();
        let mut trust_due = true;
        loop {
            let connected = *connections.borrow_and_update() != 0;
            let mut pause = TIME_EVERY;
            if connected {
                match self.publish(trust_due, time_at <= Instant::now()).await {
                    Ok(timed) => {
                        trust_due = false;
                        if timed {
                            time_at = Instant::now() + TIME_EVERY;
                        }
                        pause = time_at.saturating_duration_since(Instant::now());
                    }
                    Err(error) => {
                        tracing::warn!(
                            error,
                            "trust chain and time are not published; it is tried again"
                        );
                        pause = RETRY;
                    }
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The broker may have lost what was retained.
                _ = connections.changed() => (trust_due, time_at) = (true, Instant::now()),
                _ = installed.changed() => (trust_due, time_at) = (true, Instant::now()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The keys before the time, which tells of them. Says whether the time was published.
    async fn publish(&self, trust: bool, time: bool) -> Result<bool, String> {
        let installed = self.authority.installed().borrow().clone();
        if let Some(installed) = installed.filter(|_| trust) {
            self.retain(&Topic::Trust, &installed.chain).await?;
            tracing::info!(version = %installed.newest.version, "trust chain published");
        }
        if time {
            let time = self
                .authority
                .sign_time(None)
                .map_err(|error| error.to_string())?;
            self.retain(&Topic::Time, &time).await?;
        }
        Ok(time)
    }

    async fn retain(&self, topic: &Topic, value: &impl Serialize) -> Result<(), String> {
        let payload = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        let outgoing = Outgoing {
            topic: self.root.format(topic),
            payload: payload.into(),
            retain: true,
            expiry: None,
        };
        let sent = tokio::time::timeout(PUBLISH_TIME, self.bus.publish(outgoing)).await;
        sent.map_err(|_| "the bus does not take it in time".to_owned())?
            .map_err(|error| crate::error::chain(&error))
    }
}
