//! What nodes say: taken in, stored, and only then acknowledged.
//!
//! A round takes some messages, turns them into one commit, and hands out the acknowledgements after it. When the commit
//! fails there are none, and the state is to be opened anew: the nodes send again what was not acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lamppost_coordinator_core::NodeEntry;
use lamppost_coordinator_core::interval::coalesce;
use lamppost_coordinator_core::inventory::Change;
use lamppost_coordinator_core::ledger::{MarkChange, Seen};
use lamppost_models::ledger::{Class, LedgerEvent};
use lamppost_models::message::{BatchRange, MESSAGE_BYTES_MAX, PredictionRange};
use lamppost_models::{
    Ack, BootId, Epoch, NodePath, Prediction, PredictionBatch, Reported, Status, StreamName,
    Timestamp, Topic, V1,
};
use lamppost_store::{StoreError, Write};

use super::pages::split_into_pages;
use super::samples::NewSamples;
use super::{State, json, keys};

mod parse;
mod samples;

use parse::{RawBatch, Refused, check, check_batch, parse, unpack};

pub(crate) use parse::check_label;

/// Longest status or report: a hundred streams and models with 500 bytes each. It stays in memory, a pair for each node.
const INVENTORY_BYTES_MAX: usize = 64 * 1024;
/// Pages of a node that are deleted in one round at most, so that a cap that was lowered does not make one huge commit.
const RETIRED_PAGES_MAX: usize = 64;
/// Refusals of one reason that are all logged; of further ones, those whose number is a power of two.
const REFUSALS_LOGGED: u64 = 100;

/// A message from the bus.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
}

impl Incoming {
    /// Bytes of topic and payload once they are unpacked, as far as the payload says so.
    pub(crate) fn unpacked_bytes(&self) -> usize {
        self.topic.len() + parse::unpacked_bytes(&self.payload)
    }
}

/// An acknowledgement to a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeAck {
    pub(crate) path: NodePath,
    pub(crate) ack: Ack,
}

/// What a round does, before it is committed.
#[derive(Default)]
struct Round {
    /// Nodes whose inventory entry is to be written.
    entries: BTreeSet<NodePath>,
    /// What reports showed to rollouts.
    evidence: Vec<Write>,
    samples: NewSamples,
    /// A batch of samples came, whatever became of them.
    sampled: bool,
    nodes: BTreeMap<NodePath, NodeRound>,
}

#[derive(Default)]
struct NodeRound {
    predictions: Vec<Prediction>,
    replayed: u64,
    duplicates: u64,
    ack_predictions: BTreeMap<BootId, Vec<u64>>,
    ack_batches: BTreeMap<Epoch, Vec<u64>>,
}

impl State {
    /// Takes in `messages` in one commit, and gives the acknowledgements to send now that it is durable.
    ///
    /// # Errors
    /// [`StoreError`] when nothing of it was stored.
    pub(crate) fn ingest(
        &mut self,
        messages: &[Incoming],
        now: Timestamp,
    ) -> Result<Vec<NodeAck>, StoreError> {
        // What was not committed must be forgotten: memory would call it a duplicate when it comes again.
        self.round(messages, now)
            .inspect_err(|_| self.stopped = true)
    }

    fn round(&mut self, messages: &[Incoming], now: Timestamp) -> Result<Vec<NodeAck>, StoreError> {
        self.trim_desks();
        let mut round = Round::default();
        for message in messages {
            if let Err(refused) = self.take(message, now, &mut round)? {
                self.note_refusal(&message.topic, refused);
            }
        }
        let writes = self.writes(&mut round, now)?;
        self.commit(&writes)?;
        Ok(round
            .nodes
            .into_iter()
            .filter_map(|(path, node)| node.ack(path))
            .collect())
    }

    fn note_refusal(&mut self, topic: &str, refused: Refused) {
        let Refused { reason, detail } = refused;
        let count = self.counters.note(reason);
        if count <= REFUSALS_LOGGED || count.is_power_of_two() {
            let topic = cut(topic);
            tracing::warn!(topic, reason, detail, count, "message refused");
        }
    }

    /// Outer error: the store fails. Inner: this message is refused.
    fn take(
        &mut self,
        message: &Incoming,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<Result<(), Refused>, StoreError> {
        let topic = match self.settings.root.parse(&message.topic) {
            Ok(topic) => topic,
            Err(error) => return Ok(Err(Refused::new("topic", error))),
        };
        let limit = match topic {
            Topic::Status(_) | Topic::Reported(_) => INVENTORY_BYTES_MAX,
            Topic::Release { .. }
            | Topic::Prediction(..)
            | Topic::PredictionHistory(..)
            | Topic::Sample(..)
            | Topic::Events(_)
            | Topic::Ack(_)
            | Topic::Trust
            | Topic::Time
            | Topic::TimeQuestion(_)
            | Topic::TimeAnswer(_) => MESSAGE_BYTES_MAX,
        };
        if message.payload.len() > limit {
            let detail = format!("{} bytes, the limit is {limit}", message.payload.len());
            return Ok(Err(Refused::new("oversize", detail)));
        }
        Ok(match topic {
            Topic::Status(path) => self.take_status(path, &message.payload, now, round),
            Topic::Reported(path) => {
                return self.take_reported(path, &message.payload, now, round);
            }
            Topic::Prediction(path, stream) => {
                return self.take_prediction(path, &stream, &message.payload, now, round);
            }
            Topic::PredictionHistory(path, stream) => {
                return self.take_batch(path, &stream, &message.payload, now, round);
            }
            Topic::Events(path) => {
                return self.take_events(path, message, now, round);
            }
            Topic::Sample(path, stream) => {
                return self.take_samples(&path, &stream, message, now, round);
            }
            Topic::Release { .. }
            | Topic::Ack(_)
            | Topic::Trust
            | Topic::Time
            | Topic::TimeQuestion(_)
            | Topic::TimeAnswer(_) => Err(Refused::new(
                "topic",
                "not a topic that the coordinator takes in",
            )),
        })
    }

    fn take_status(
        &mut self,
        path: NodePath,
        payload: &[u8],
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), Refused> {
        let status: Status = parse(payload)?;
        let change = self.inventory.on_status(&path, status, now)?;
        self.noted(path, change, round);
        Ok(())
    }

    fn take_reported(
        &mut self,
        path: NodePath,
        payload: &[u8],
        now: Timestamp,
        round: &mut Round,
    ) -> Result<Result<(), Refused>, StoreError> {
        let change = parse::<Reported>(payload)
            .and_then(|reported| Ok(self.inventory.on_reported(&path, reported, now)?));
        let change = match change {
            Ok(change) => change,
            Err(refused) => return Ok(Err(refused)),
        };
        if change == Change::Changed {
            self.desk(&path)?;
            let entry = self.inventory.get(&path);
            let reported = entry.and_then(NodeEntry::current_report);
            if let Some((desk, reported)) = self.desks.get_mut(&path).zip(reported) {
                desk.ledger.on_report(reported, now);
            }
            round.nodes.entry(path.clone()).or_default();
            round.evidence.extend(self.note_evidence(&path, now));
        }
        self.noted(path, change, round);
        Ok(Ok(()))
    }

    fn noted(&mut self, path: NodePath, change: Change, round: &mut Round) {
        match change {
            Change::Changed => {
                round.entries.insert(path);
            }
            Change::Heard => {}
            Change::OldNews => {
                self.counters.note("old_news");
                tracing::debug!(node = %path, "a message of an earlier run is ignored");
            }
        }
    }

    fn take_prediction(
        &mut self,
        path: NodePath,
        stream: &StreamName,
        payload: &[u8],
        now: Timestamp,
        round: &mut Round,
    ) -> Result<Result<(), Refused>, StoreError> {
        let checked = parse::<Prediction>(payload).and_then(|prediction| check(prediction, stream));
        let checked =
            checked.and_then(|prediction| Ok((prediction, self.inventory.on_record(&path, now)?)));
        let (prediction, change) = match checked {
            Ok(checked) => checked,
            Err(refused) => return Ok(Err(refused)),
        };
        self.noted(path.clone(), change, round);
        let seen = self.desk(&path)?.ledger.see_prediction(&prediction, now);
        let node = round.nodes.entry(path).or_default();
        node.ack_predictions
            .entry(prediction.id.boot)
            .or_default()
            .push(prediction.id.number);
        match seen {
            Ok(Seen::New) => node.predictions.push(prediction),
            Ok(Seen::Duplicate) => node.duplicates += 1,
            // What can never be taken is acknowledged all the same, or the node would send it for ever.
            Err(error) => return Ok(Err(error.into())),
        }
        Ok(Ok(()))
    }

    fn take_batch(
        &mut self,
        path: NodePath,
        stream: &StreamName,
        payload: &[u8],
        now: Timestamp,
        round: &mut Round,
    ) -> Result<Result<(), Refused>, StoreError> {
        let checked = unpack(payload)
            .and_then(|json| parse::<PredictionBatch>(&json))
            .and_then(|batch| check_batch(batch, stream));
        let checked = checked.and_then(|batch| Ok((batch, self.inventory.on_record(&path, now)?)));
        let (batch, change) = match checked {
            Ok(checked) => checked,
            Err(refused) => return Ok(Err(refused)),
        };
        self.noted(path.clone(), change, round);
        let ledger = &mut self.desk(&path)?.ledger;
        let node = round.nodes.entry(path).or_default();
        node.ack_batches
            .entry(batch.epoch)
            .or_default()
            .push(batch.number);
        if ledger.see_batch(batch.epoch, batch.number) == Seen::Duplicate {
            node.duplicates += batch.records.len() as u64;
            for prediction in &batch.records {
                ledger.see_again(Class::Prediction, stream, prediction.boot);
            }
            return Ok(Ok(()));
        }
        let mut refused = Ok(());
        for prediction in batch.records {
            match ledger.see_prediction(&prediction, now) {
                Ok(Seen::New) => {
                    node.replayed += 1;
                    node.predictions.push(prediction);
                }
                Ok(Seen::Duplicate) => node.duplicates += 1,
                Err(error) => refused = Err(error.into()),
            }
        }
        Ok(refused)
    }

    /// Takes in a batch of ledger events. One that cannot be, or that this build does not know, is refused and counted,
    /// and acknowledged with the others: it would never become better, and the node would send it for ever.
    fn take_events(
        &mut self,
        path: NodePath,
        message: &Incoming,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<Result<(), Refused>, StoreError> {
        let checked = unpack(&message.payload).and_then(|json| parse::<RawBatch>(&json));
        let checked = checked.and_then(|batch| Ok((batch, self.inventory.on_record(&path, now)?)));
        let (batch, change) = match checked {
            Ok(checked) => checked,
            Err(refused) => return Ok(Err(refused)),
        };
        self.noted(path.clone(), change, round);
        let ledger = &mut self.desk(&path)?.ledger;
        let node = round.nodes.entry(path).or_default();
        node.ack_batches
            .entry(batch.epoch)
            .or_default()
            .push(batch.number);
        if ledger.see_batch(batch.epoch, batch.number) == Seen::Duplicate {
            return Ok(Ok(()));
        }
        let mut refusals = Vec::new();
        for event in batch.records {
            let taken = serde_json::from_value::<LedgerEvent>(event)
                .map_err(|error| Refused::new("event", error))
                .and_then(|event| Ok(ledger.on_event(&event, now)?));
            refusals.extend(taken.err());
        }
        for refused in refusals {
            self.note_refusal(&message.topic, refused);
        }
        Ok(Ok(()))
    }

    /// The one commit of a round: inventory, pages, marks, shelves, and what the caps push out.
    fn writes(&mut self, round: &mut Round, now: Timestamp) -> Result<Vec<Write>, StoreError> {
        let mut writes = std::mem::take(&mut round.evidence);
        let samples = std::mem::take(&mut round.samples);
        writes.extend(self.sample_writes(samples, round.sampled));
        for path in &round.entries {
            if let Some(entry) = self.inventory.get(path) {
                writes.push(Write::put(keys::node(path), json(entry)));
            }
        }
        for (path, node) in &mut round.nodes {
            let predictions = std::mem::take(&mut node.predictions);
            let desk = self.desk(path)?;
            for (records, page) in split_into_pages(&predictions, now) {
                let number = desk.shelf.add(records, page.len() as u64);
                writes.push(Write::put(keys::page(path, number), page));
            }
            desk.shelf.replayed += node.replayed;
            desk.shelf.duplicates += node.duplicates;
            writes.extend(
                desk.ledger
                    .take_changes()
                    .into_iter()
                    .map(|change| match change {
                        MarkChange::Put(mark, bytes) => Write::put(keys::mark(path, &mark), bytes),
                        MarkChange::Delete(mark) => Write::delete(keys::mark(path, &mark)),
                    }),
            );
            self.retire(path, &mut writes)?;
            let shelf = json(&self.desk(path)?.shelf);
            writes.push(Write::put(keys::shelf(path), shelf));
        }
        Ok(writes)
    }

    fn retire(&mut self, path: &NodePath, writes: &mut Vec<Write>) -> Result<(), StoreError> {
        let caps = self.settings.caps;
        let before = self.desk(path)?.shelf.retired;
        for _ in 0..RETIRED_PAGES_MAX {
            let Some(number) = self.desk(path)?.shelf.excess(caps) else {
                break;
            };
            let (records, bytes) = self.page_size(path, number)?;
            self.desk(path)?.shelf.retire(records, bytes);
            writes.push(Write::delete(keys::page(path, number)));
        }
        let retired = self.desk(path)?.shelf.retired - before;
        if retired > 0 {
            tracing::debug!(node = %path, retired, "oldest predictions deleted: a cap is reached");
        }
        Ok(())
    }
}

impl NodeRound {
    fn ack(self, path: NodePath) -> Option<NodeAck> {
        let predictions = self
            .ack_predictions
            .into_iter()
            .flat_map(|(boot, numbers)| {
                coalesce(numbers)
                    .into_iter()
                    .map(move |(from, to)| PredictionRange { boot, from, to })
            });
        let batches = self.ack_batches.into_iter().flat_map(|(epoch, numbers)| {
            coalesce(numbers)
                .into_iter()
                .map(move |(from, to)| BatchRange { epoch, from, to })
        });
        let ack = Ack {
            v: V1,
            predictions: predictions.collect(),
            batches: batches.collect(),
        };
        (!ack.predictions.is_empty() || !ack.batches.is_empty()).then_some(NodeAck { path, ack })
    }
}

/// A topic for the log: any client's bytes, so that they are held short.
fn cut(topic: &str) -> String {
    topic.chars().take(160).collect()
}

#[cfg(test)]
pub(super) mod tests;
