//! What goes into the uplink and what comes out of it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lamppost_models::{BootId, GroupId, ModelName, NodePath, StreamName, TopicRoot};
use tokio::sync::{mpsc, watch};

use crate::publish::Prediction;

/// Batches of predictions between the publisher and the uplink: each has what the engine made in one turn.
const MADE_BATCHES_MAX: usize = 64;
/// How long the publisher waits for an uplink that is held up by the disk, before it drops a batch.
const MADE_WAIT_MAX: Duration = Duration::from_millis(250);
/// Where the coordinator is, and what is kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UplinkConfig {
    /// Host name or address of its broker.
    pub(crate) host: String,
    /// Port of its broker.
    pub(crate) port: u16,
    /// Whether to speak TLS.
    pub(crate) tls: bool,
    /// Certificates to trust, PEM; without it, what the system trusts.
    pub(crate) ca_file: Option<PathBuf>,
    /// User name and password; `None` for an anonymous client.
    pub(crate) login: Option<Login>,
    /// Longest silence before the broker is asked for a sign of life; at least 5 s.
    pub(crate) keep_alive: Duration,
    /// Longest wait for a connection.
    pub(crate) connect_timeout: Duration,
    /// Pause before the first new attempt.
    pub(crate) retry_min: Duration,
    /// Longest pause between attempts.
    pub(crate) retry_max: Duration,
    /// When an acknowledgement is late.
    pub(crate) ack_timeout: Duration,
    /// Most predictions in memory.
    pub(crate) memory_records_max: usize,
    /// Most bytes of predictions in memory.
    pub(crate) memory_bytes_max: usize,
    /// Batches in flight during a replay.
    pub(crate) replay_window: usize,
    /// Longest time that a prediction waits in memory to be written to the outbox.
    pub(crate) flush: Duration,
}

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The name.
    pub(crate) username: String,
    /// The password.
    pub(crate) password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What the agent says of itself, as it goes over the wire.
/// Empty before the first report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Documents {
    pub(crate) status: Bytes,
    pub(crate) reported: Bytes,
}

/// A release as it came from an update topic.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) group: GroupId,
    pub(crate) model: ModelName,
    pub(crate) payload: Bytes,
}

/// What the uplink knows of the outside, for the report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct UplinkState {
    /// Whether there is a connection.
    pub(crate) connected: bool,
    /// What the coordinator's broker refused last, on this connection.
    pub(crate) refused: Option<String>,
    /// Predictions that neither went up nor to the outbox.
    pub(crate) dropped: u64,
}

/// Where the publisher puts predictions.
#[derive(Debug)]
pub(crate) struct Made {
    sender: mpsc::Sender<Vec<Prediction>>,
    state: watch::Sender<UplinkState>,
    /// The uplink did not take the last batch in time: it is not waited for again before it takes one.
    stalled: bool,
}

impl Made {
    /// The channel, and its other end.
    pub(super) fn channel(
        state: watch::Sender<UplinkState>,
    ) -> (Self, mpsc::Receiver<Vec<Prediction>>) {
        let (sender, receiver) = mpsc::channel(MADE_BATCHES_MAX);
        (
            Self {
                sender,
                state,
                stalled: false,
            },
            receiver,
        )
    }

    /// Hands predictions over; what the uplink does not take in time is dropped and counted.
    pub(crate) async fn send(&mut self, predictions: impl Iterator<Item = Prediction>) {
        let batch: Vec<_> = predictions.collect();
        if batch.is_empty() {
            return;
        }
        let wait = if self.stalled {
            Duration::ZERO
        } else {
            MADE_WAIT_MAX
        };
        let unsent = match self.sender.try_send(batch) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Closed(batch)) => Some(batch.len()),
            Err(mpsc::error::TrySendError::Full(batch)) => {
                let count = batch.len();
                self.sender
                    .send_timeout(batch, wait)
                    .await
                    .is_err()
                    .then_some(count)
            }
        };
        self.stalled = unsent.is_some();
        if let Some(count) = unsent {
            tracing::warn!(
                predictions = count,
                "the uplink is held up and did not take predictions"
            );
            self.state
                .send_modify(|state| state.dropped += count as u64);
        }
    }
}

/// Who the node is on the uplink.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) root: TopicRoot,
    pub(crate) path: NodePath,
    pub(crate) boot: BootId,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) streams: Vec<StreamName>,
}
