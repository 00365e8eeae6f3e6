//! What goes into the uplink and what comes out of it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lamppost_agent_core::outbox::Waiters;
use lamppost_agent_core::pace;
use lamppost_models::ledger::Durability;
use lamppost_models::message::ReportedBudget;
use lamppost_models::rollout::Tags;
use lamppost_models::{BootId, GroupId, ModelName, NodePath, StreamName, TopicRoot};
use tokio::sync::{mpsc, oneshot, watch};

use crate::publish::Prediction;

/// Batches of predictions between the publisher and the uplink: each has what the engine made in one turn.
const MADE_BATCHES_MAX: usize = 64;
/// How long the publisher waits for an uplink that is held up by the disk, before it drops a batch.
const MADE_WAIT_MAX: Duration = Duration::from_millis(250);
/// How long a report waits for the uplink and its disk to say what they have; then it tells what they had.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Most batches in flight during a replay.
    pub(crate) replay_window: usize,
    /// Longest random delay of a replay after an outage that was longer.
    pub(crate) replay_spread: Duration,
    /// Whether batches are sent compressed.
    pub(crate) compress: bool,
    /// What history may take of the link.
    pub(crate) pace: pace::Limits,
    /// When a prediction is written to the outbox.
    pub(crate) durability: Durability,
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

/// What comes into the uplink.
#[derive(Debug)]
pub(crate) enum Feed {
    /// Predictions, as they were made.
    Made(Vec<Prediction>),
    /// Predictions that found no room before the uplink.
    Dropped(Vec<Dropped>),
    /// A report asks what is here.
    Look(oneshot::Sender<Sight>),
}

/// Predictions of a stream that are lost, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// The stream, by its place in the configuration.
    pub(crate) stream: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// How many of these.
    pub(crate) records: u64,
}

/// What the uplink and the outbox have at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sight {
    /// By number.
    pub(crate) waiters: Waiters,
    /// The number after the last one that came here, by stream. What was made since is on its way.
    pub(crate) seen: Vec<u64>,
    /// What is on the disk, where that is promised of what is reported.
    pub(crate) durable: Option<Durable>,
    pub(crate) budget: Option<ReportedBudget>,
}

/// The number after the last one that is on the disk, or told as lost, by stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    pub(crate) predictions: Vec<u64>,
    pub(crate) samples: Vec<u64>,
}

/// Where the publisher puts predictions.
#[derive(Debug)]
pub(crate) struct Made {
    sender: mpsc::Sender<Feed>,
    state: watch::Sender<UplinkState>,
    /// The uplink did not take the last batch in time: it is not waited for again before it takes one.
    stalled: bool,
    /// What it did not take and was not told of yet: one entry for each stream.
    dropped: Vec<Dropped>,
}

/// Where a report asks. It does not keep the uplink running.
#[derive(Debug)]
pub(crate) struct Looker(mpsc::WeakSender<Feed>);

impl Looker {
    /// What is here now; `None` when that takes too long.
    pub(crate) async fn look(&self) -> Option<Sight> {
        let sender = self.0.upgrade()?;
        let look = async {
            let (reply, answer) = oneshot::channel();
            sender.send(Feed::Look(reply)).await.ok()?;
            drop(sender);
            answer.await.ok()
        };
        tokio::time::timeout(LOOK_TIMEOUT, look).await.ok()?
    }
}

impl Made {
    /// The channel, and its other end.
    pub(super) fn channel(
        state: watch::Sender<UplinkState>,
    ) -> (Self, mpsc::Receiver<Feed>, Looker) {
        let (sender, receiver) = mpsc::channel(MADE_BATCHES_MAX);
        let looker = Looker(sender.downgrade());
        let made = Self {
            sender,
            state,
            stalled: false,
            dropped: Vec::new(),
        };
        (made, receiver, looker)
    }

    /// Keeps the uplink running while it is held.
    pub(super) fn hold(&self) -> mpsc::Sender<Feed> {
        self.sender.clone()
    }

    /// Hands predictions over; what the uplink does not take in time is dropped, counted and told.
    pub(crate) async fn send(&mut self, predictions: impl Iterator<Item = Prediction>) {
        let batch: Vec<_> = predictions.collect();
        if batch.is_empty() {
            return;
        }
        self.tell_dropped();
        let wait = if self.stalled {
            Duration::ZERO
        } else {
            MADE_WAIT_MAX
        };
        let unsent = match self.sender.try_send(Feed::Made(batch)) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Closed(feed)) => Some(feed),
            Err(mpsc::error::TrySendError::Full(feed)) => {
                match self.sender.send_timeout(feed, wait).await {
                    Ok(()) => None,
                    Err(
                        mpsc::error::SendTimeoutError::Timeout(feed)
                        | mpsc::error::SendTimeoutError::Closed(feed),
                    ) => Some(feed),
                }
            }
        };
        self.stalled = unsent.is_some();
        if let Some(Feed::Made(batch)) = unsent {
            self.drop_batch(&batch);
        }
    }

    /// Tells what was dropped last, when no more predictions come.
    pub(crate) async fn finish(mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if !dropped.is_empty() && self.sender.send(Feed::Dropped(dropped)).await.is_err() {
            tracing::error!("the uplink ended before it was told what was dropped");
        }
    }

    fn tell_dropped(&mut self) {
        if self.dropped.is_empty() {
            return;
        }
        let dropped = Feed::Dropped(std::mem::take(&mut self.dropped));
        let unsent = match self.sender.try_send(dropped) {
            Ok(()) => return,
            Err(
                mpsc::error::TrySendError::Full(feed) | mpsc::error::TrySendError::Closed(feed),
            ) => feed,
        };
        if let Feed::Dropped(dropped) = unsent {
            self.dropped = dropped;
        }
    }

    fn drop_batch(&mut self, batch: &[Prediction]) {
        let count = batch.len();
        tracing::warn!(
            predictions = count,
            "the uplink is held up and did not take predictions"
        );
        for prediction in batch {
            let (stream, seq) = (prediction.stream, prediction.seq);
            let known = self.dropped.iter_mut().find(|known| known.stream == stream);
            if let Some(known) = known {
                known.to = known.to.max(seq);
                known.records += 1;
            } else {
                self.dropped.push(Dropped {
                    stream,
                    from: seq,
                    to: seq,
                    records: 1,
                });
            }
        }
        self.state
            .send_modify(|state| state.dropped += count as u64);
    }
}

/// Who the node is on the uplink.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) root: TopicRoot,
    pub(crate) path: NodePath,
    pub(crate) boot: BootId,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) tags: Tags,
    pub(crate) streams: Vec<StreamName>,
}

#[cfg(test)]
mod tests {
    use lamppost_models::Timestamp;
    use lamppost_models::id::PredictionId;

    use super::*;

    fn prediction(stream: usize, seq: u64) -> Prediction {
        let (boot, number) = (BootId::from_u64(1), seq);
        Prediction {
            stream,
            id: PredictionId { boot, number },
            seq,
            ts: Timestamp::EPOCH,
            json: Bytes::new(),
            flat: None,
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_told_by_number_before_what_comes_next() {
        let (state, watch) = watch::channel(UplinkState::default());
        let (mut made, mut feed, looker) = Made::channel(state);
        let full = MADE_BATCHES_MAX as u64;
        for seq in 0..full + 3 {
            made.send([prediction(0, seq), prediction(1, seq)].into_iter())
                .await;
        }
        assert_eq!(watch.borrow().dropped, 6);
        for _ in 0..full {
            assert!(matches!(feed.recv().await, Some(Feed::Made(_))));
        }
        made.send(std::iter::once(prediction(0, full + 3))).await;
        let Some(Feed::Dropped(dropped)) = feed.recv().await else {
            panic!("what was dropped comes first");
        };
        let lost = |stream| Dropped {
            stream,
            from: full,
            to: full + 2,
            records: 3,
        };
        assert_eq!(dropped, [lost(0), lost(1)]);
        assert!(matches!(feed.recv().await, Some(Feed::Made(batch)) if batch.len() == 1));

        // Whoever may ask does not keep the uplink running.
        made.finish().await;
        assert!(feed.recv().await.is_none());
        assert_eq!(looker.look().await, None);
    }
}
