//! What makes rollouts go on: it looks at them, and has what follows persisted first and published then.
//!
//! It decides nothing by itself and remembers nothing: each look begins with what the state holds, so that a coordinator
//! that is killed between any two steps goes on where it was. What a killed one had persisted and not published, the
//! release task publishes when it starts.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::centre::Centre;
use crate::clock::now;
use crate::downloads::Downloads;
use crate::releases::Releases;

/// How often it is asked whether there is something to look at. A report is answered by a step that much later at most, and
/// thousands of reports in a second cost one look.
const PERIOD: Duration = Duration::from_secs(1);

/// The task that looks.
pub(crate) struct Driver {
    pub(crate) centre: Centre,
    pub(crate) downloads: Arc<Downloads>,
    pub(crate) releases: Releases,
}

impl Driver {
    /// Runs until `stop`, and stores then what was given out last.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
        self.look().await;
    }

    async fn look(&self) {
        let downloads = Arc::clone(&self.downloads);
        let looked = self.centre.call(move |state| {
            let now = now();
            let released = state.look(&downloads, now);
            if let Err(error) = state.trim_samples(now) {
                let error = crate::error::chain(&error);
                tracing::warn!(error, "old samples cannot be deleted; it is tried again");
            }
            (released, state.save_given(&downloads, now))
        });
        match looked.await {
            Ok((released, saved)) => {
                if let Err(error) = &saved {
                    let error = crate::error::chain(error);
                    tracing::warn!(
                        error,
                        "what was given out cannot be stored; it is tried again"
                    );
                }
                match released {
                    Ok(0) => {}
                    Ok(_) => self.releases.changed(),
                    Err(error) => {
                        // A step before the one that failed may be durable.
                        self.releases.changed();
                        let error = crate::error::chain(&error);
                        tracing::error!(error, "a rollout cannot go on; it is tried again");
                    }
                }
            }
            // The owner says so itself.
            Err(error) => tracing::debug!(%error, "rollouts are not looked at"),
        }
    }
}
