//! What comes into the uplink, and what is here when a report asks.

use std::time::Instant;

use lamppost_agent_core::outbox::Waiters;
use lamppost_models::ledger::{Class, Durability};
use lamppost_models::message::ReportedBudget;
use tokio::sync::oneshot;

use super::interface::{Feed, Sight};
use super::pending::Record;
use super::{Uplink, clock};
use crate::publish::Prediction;

impl Uplink {
    /// Takes in what comes while there is a connection.
    pub(super) async fn take_feed(&mut self, feed: Feed) {
        match (feed, self.config.durability) {
            (Feed::Made(batch), Durability::Outage) => {
                let records = self.see(batch);
                self.send_live(records).await;
            }
            (feed, _) => self.store_feed(feed).await,
        }
    }

    /// Takes in what comes while there is none, or what must be stored first.
    pub(super) async fn store_feed(&mut self, feed: Feed) {
        match feed {
            Feed::Made(batch) => {
                let records = self.see(batch);
                self.spool.store(records).await;
            }
            Feed::Dropped(dropped) => {
                for one in &dropped {
                    self.note_seen(one.stream, one.to);
                }
                self.spool.drop_numbers(dropped).await;
            }
            Feed::Look(reply) => self.look(reply).await,
        }
    }

    /// Sends what is on the disk, one by one.
    pub(super) async fn hold(&mut self, records: Vec<Record>) {
        for batch in records.iter().filter_map(|record| record.batch) {
            self.held.add(batch);
        }
        self.send_live(records).await;
    }

    /// Gives up predictions that were to be sent one by one: those that are on the disk are sent from there.
    pub(super) async fn give_up(&mut self, records: Vec<Record>) {
        let mut homeless = Vec::new();
        for record in records {
            match record.batch {
                Some(batch) => {
                    if self.held.release(batch) {
                        self.replay.rewind(batch);
                    }
                }
                None => homeless.push(record),
            }
        }
        self.spool.store(homeless).await;
    }

    async fn send_live(&mut self, records: Vec<Record>) {
        let now = Instant::now();
        for record in records {
            self.pending.push(record, now);
        }
        let excess = self.pending.take_excess();
        if !excess.is_empty() {
            tracing::debug!(
                predictions = excess.len(),
                "the uplink is slow: predictions go to the outbox"
            );
            self.give_up(excess).await;
        }
    }

    fn see(&mut self, batch: Vec<Prediction>) -> Vec<Record> {
        for prediction in &batch {
            self.note_seen(prediction.stream, prediction.seq);
        }
        let record = |prediction: Prediction| Record {
            number: prediction.id.number,
            stream: prediction.stream,
            seq: prediction.seq,
            batch: None,
            ts: prediction.ts,
            json: prediction.json,
        };
        batch.into_iter().map(record).collect()
    }

    fn note_seen(&mut self, stream: usize, seq: u64) {
        if let Some(seen) = self.seen.get_mut(stream) {
            *seen = (*seen).max(seq.saturating_add(1));
        }
    }

    /// Says what is in memory; the outbox adds what it has. What goes there meanwhile is told twice, never not at all.
    async fn look(&mut self, reply: oneshot::Sender<Sight>) {
        let mut waiters = Waiters::default();
        for record in self.pending.open() {
            if let Some(stream) = self.identity.streams.get(record.stream) {
                let (boot, seq) = (self.identity.boot, record.seq);
                waiters.add(Class::Prediction, stream, boot, seq, seq);
            }
        }
        let spent = self.pace.spent(clock());
        let sight = Sight {
            waiters,
            seen: self.seen.clone(),
            durable: None,
            budget: Some(ReportedBudget {
                since: spent.since,
                used_bytes: spent.bytes,
                limit_bytes: self.pace.day_bytes(),
            }),
        };
        self.spool.look(sight, reply).await;
    }
}
