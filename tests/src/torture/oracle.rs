//! What outsiders saw of a fleet, and what it is held to.
//!
//! A dashboard at the node's own broker sees what was predicted, and a listener at the broker of the fleet what was sent,
//! reported and acknowledged. None of them is in any way special; what they miss while a process is down proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lamppost_models::id::PredictionId;
use lamppost_models::message::Ack;
use lamppost_models::{BootId, Epoch, Prediction, PredictionBatch, Reported, Topic, TopicRoot};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::batch::unpacked;
use crate::mqtt::{BrokerAddr, ClientError, Message, Subscriber};

/// Everything of a node.
const FILTER: &str = "lamppost/v1/nodes/#";
/// How long what was published until now may take to be seen.
const SETTLE: Duration = Duration::from_millis(500);

/// What was seen, by run of the agent.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// The end of the numbers that were predicted.
    pub made: BTreeMap<BootId, u64>,
    /// What was sent to the centre, live or as history.
    pub sent: BTreeSet<PredictionId>,
    /// What the centre said that it has.
    pub acknowledged: BTreeSet<PredictionId>,
    /// How many the node reported as made.
    pub reported: BTreeMap<BootId, u64>,
    /// Messages that are none of ours, or not what they should be.
    pub odd: Vec<String>,
    batches: BTreeMap<(Epoch, u64), Vec<PredictionId>>,
}

impl Sightings {
    fn see_local(&mut self, message: &Message) {
        if let Some(Topic::Prediction(..)) = parse(&message.topic) {
            match serde_json::from_slice::<Prediction>(&message.payload) {
                Ok(prediction) => self.note_made(prediction.id),
                Err(error) => self.odd.push(format!("{}: {error}", message.topic)),
            }
        }
    }

    fn note_made(&mut self, id: PredictionId) {
        let end = self.made.entry(id.boot).or_default();
        *end = (*end).max(id.number + 1);
    }

    fn see_at_centre(&mut self, message: &Message) {
        let seen = match parse(&message.topic) {
            Some(Topic::Prediction(..)) => self.see_prediction(&message.payload),
            Some(Topic::PredictionHistory(..)) => self.see_batch(&message.payload),
            Some(Topic::Ack(_)) => self.see_ack(&message.payload),
            Some(Topic::Reported(_)) => self.see_report(&message.payload),
            Some(
                Topic::Release { .. }
                | Topic::Status(_)
                | Topic::Sample(..)
                | Topic::Events(_)
                | Topic::Trust
                | Topic::Time
                | Topic::TimeQuestion(_)
                | Topic::TimeAnswer(_),
            )
            | None => Ok(()),
        };
        if let Err(error) = seen {
            self.odd.push(format!("{}: {error:#}", message.topic));
        }
    }

    fn see_prediction(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let prediction: Prediction = serde_json::from_slice(payload)?;
        self.sent.insert(prediction.id);
        Ok(())
    }

    fn see_batch(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let batch: PredictionBatch = serde_json::from_slice(&unpacked(payload)?)?;
        let ids: Vec<_> = batch.records.iter().map(|record| record.id).collect();
        self.sent.extend(&ids);
        let key = (batch.epoch, batch.number);
        // A number is never used for anything else.
        if let Some(known) = self.batches.insert(key, ids.clone()) {
            anyhow::ensure!(
                known == ids,
                "batch {} came with other records",
                batch.number
            );
        }
        Ok(())
    }

    fn see_ack(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let ack: Ack = serde_json::from_slice(payload)?;
        for range in ack.predictions {
            let ids = (range.from..=range.to).map(|number| PredictionId {
                boot: range.boot,
                number,
            });
            self.acknowledged.extend(ids);
        }
        for range in ack.batches {
            let numbers = (range.epoch, range.from)..=(range.epoch, range.to);
            let batches = self.batches.range(numbers);
            self.acknowledged.extend(batches.flat_map(|(_, ids)| ids));
        }
        Ok(())
    }

    fn see_report(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        let reported: Reported = serde_json::from_slice(payload)?;
        let counts = reported.streams.iter();
        let counts = counts.map(|row| row.counters.predictions);
        let end = self.reported.entry(reported.boot).or_default();
        *end = (*end).max(counts.sum());
        Ok(())
    }
}

fn parse(topic: &str) -> Option<Topic> {
    TopicRoot::default().parse(topic).ok()
}

/// The listeners' task.
pub struct Oracle {
    finish: oneshot::Sender<()>,
    task: JoinHandle<Sightings>,
}

impl Oracle {
    /// Listens at both brokers, which may come and go.
    ///
    /// # Errors
    /// When one does not take the subscription now.
    pub async fn listen(local: &BrokerAddr, bus: &BrokerAddr) -> Result<Self, ClientError> {
        let local = Subscriber::connect(local, "dashboard", &[FILTER]).await?;
        let bus = Subscriber::connect(bus, "listener", &[FILTER]).await?;
        let (finish, finished) = oneshot::channel();
        Ok(Self {
            finish,
            task: tokio::spawn(watch(local, bus, finished)),
        })
    }

    /// What was seen until now.
    ///
    /// # Errors
    /// When the task failed.
    pub async fn finish(self) -> anyhow::Result<Sightings> {
        tokio::time::sleep(SETTLE).await;
        if self.finish.send(()).is_err() {
            anyhow::bail!("the listeners ended by themselves");
        }
        Ok(self.task.await?)
    }
}

async fn watch(
    mut local: Subscriber,
    mut bus: Subscriber,
    mut finished: oneshot::Receiver<()>,
) -> Sightings {
    let mut seen = Sightings::default();
    loop {
        tokio::select! {
            message = local.next() => match message {
                Ok(message) => seen.see_local(&message),
                Err(_) => return seen,
            },
            message = bus.next() => match message {
                Ok(message) => seen.see_at_centre(&message),
                Err(_) => return seen,
            },
            _ = &mut finished => return seen,
        }
    }
}
