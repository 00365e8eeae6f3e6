//! What the node says of itself: its status and its report, retained, here and at the coordinator.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lamppost_agent_core::outbox::Now;
use lamppost_broker::{LinkPublisher, Publish, PublishProperties, QoS};
use lamppost_models::ledger::Class;
use lamppost_models::message::{
    ActiveSlot, NodeState, ReportedModel, ReportedOutbox, ReportedStream,
};
use lamppost_models::{ModelName, Reported, Status, StreamName, Timestamp, Topic, V1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::drift::Drift;
use crate::labels::{Labels, Qualities};
use crate::scorer::Facts;
use crate::slots::Lapses;
use crate::stats::StreamStats;
use crate::trust::Believed;
use crate::uplink::{
    Documents, Identity, Looker, Sight, SpoolState, UplinkState, clock, wall_clock,
};

/// A stream as the report sees it.
pub(crate) struct StreamRow {
    pub(crate) name: StreamName,
    pub(crate) model: ModelName,
    pub(crate) stats: Arc<StreamStats>,
    /// Whether its predictions stay on the node.
    pub(crate) local: bool,
    /// After how long without a reading it is stale.
    pub(crate) stale_after: Option<Duration>,
    pub(crate) drift: Option<Drift>,
}

/// A model as the report sees it.
pub(crate) struct ModelRow {
    /// The slot's word, without the counters.
    pub(crate) slot: watch::Receiver<ReportedModel>,
    pub(crate) facts: Arc<Facts>,
}

/// The task that reports.
pub(crate) struct Reporter {
    pub(crate) identity: Identity,
    /// Longest time between two reports.
    pub(crate) every: Duration,
    /// How often changes are looked for, so the shortest time between two reports.
    pub(crate) debounce: Duration,
    pub(crate) link: LinkPublisher,
    pub(crate) documents: watch::Sender<Documents>,
    pub(crate) streams: Vec<StreamRow>,
    pub(crate) models: Vec<ModelRow>,
    pub(crate) labels: Labels,
    pub(crate) believed: Believed,
    pub(crate) lapses: Lapses,
    pub(crate) spool: watch::Receiver<SpoolState>,
    pub(crate) uplink: watch::Receiver<UplinkState>,
    /// Where it is asked what waits; `None` on a node without a coordinator.
    pub(crate) looker: Option<Looker>,
    /// What was seen last.
    pub(crate) sight: Sight,
}

/// What is reported at once when it changes; counters alone wait for their time.
#[derive(Clone, Debug, PartialEq)]
struct Notable {
    slots: Vec<ReportedModel>,
    /// Since when each stream is stale.
    stale: Vec<Option<Timestamp>>,
    state: NodeState,
}

impl Reporter {
    /// Reports until the agent stops.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut shown = self.notable(None);
        self.show(&shown).await;
        let mut look = tokio::time::interval(self.debounce);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut since = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let notable = self.notable(Some(&shown));
            if notable != shown || since.elapsed() >= self.every {
                if notable.state != shown.state {
                    tracing::info!(state = ?notable.state, "the node's state changed");
                }
                shown = notable;
                since = tokio::time::Instant::now();
                self.show(&shown).await;
            }
        }
    }

    fn notable(&self, before: Option<&Notable>) -> Notable {
        let slots: Vec<ReportedModel> = self
            .models
            .iter()
            .map(|model| model.slot.borrow().clone())
            .collect();
        let now = clock();
        let was = |at: usize| before.and_then(|before| *before.stale.get(at)?);
        let streams = self.streams.iter().enumerate();
        let stale: Vec<_> = streams
            .map(|(at, stream)| stream.stale_since(was(at), now))
            .collect();
        let state = self.state(&slots, &stale);
        Notable {
            slots,
            stale,
            state,
        }
    }

    fn state(&self, slots: &[ReportedModel], stale: &[Option<Timestamp>]) -> NodeState {
        let idle = slots.iter().filter(|slot| slot.active.is_none());
        let mut reasons: Vec<String> = idle
            .map(|slot| format!("no version of {} runs", slot.name))
            .collect();
        for (stream, since) in self.streams.iter().zip(stale) {
            if let Some(since) = since {
                reasons.push(format!("no reading of {} since {since}", stream.name));
            }
        }
        if let Some(failing) = &self.spool.borrow().failing {
            reasons.push(format!("the outbox fails: {failing}"));
        }
        reasons.extend(self.believed.reasons());
        reasons.extend(self.lapses.reasons(self.believed.now()));
        let uplink = self.uplink.borrow();
        if let Some(refused) = &uplink.refused {
            reasons.push(format!("the coordinator's broker refused {refused}"));
        }
        if reasons.is_empty() {
            NodeState::Up
        } else {
            NodeState::Degraded {
                reason: reasons.join("; "),
            }
        }
    }

    async fn show(&mut self, notable: &Notable) {
        let qualities = self.labels.qualities().await;
        // One picture: what was made is read before what is here, and what is lost is told by then or still here.
        let mut streams: Vec<ReportedStream> =
            self.streams.iter().map(StreamRow::reported).collect();
        if let Some(looker) = &self.looker
            && let Some(sight) = looker.look().await
        {
            // Without an answer the last one still holds: whatever left since then was delivered, or told as lost.
            self.sight = sight;
        }
        let outbox = self.outbox(&mut streams);
        for (row, since) in streams.iter_mut().zip(&notable.stale) {
            row.stale_since = *since;
        }
        let at = wall_clock();
        let boot = self.identity.boot;
        let status = Status {
            v: V1,
            state: notable.state.clone(),
            boot,
            at,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            groups: self.identity.groups.clone(),
            tags: self.identity.tags.clone(),
        };
        let models = notable.slots.iter().zip(&self.models);
        let reported = Reported {
            v: V1,
            boot,
            at,
            models: models
                .map(|(slot, model)| with_counters(slot.clone(), &model.facts, &qualities))
                .collect(),
            streams,
            outbox,
            trust: Some(self.believed.reported(self.lapses.intake())),
        };
        let documents = Documents {
            status: crate::to_json(&status),
            reported: crate::to_json(&reported),
        };
        let path = &self.identity.path;
        let messages = [
            (Topic::Status(path.clone()), documents.status.clone()),
            (Topic::Reported(path.clone()), documents.reported.clone()),
        ];
        let messages =
            messages.map(|(topic, payload)| retained(self.identity.root.format(&topic), payload));
        if let Err(error) = self.link.publish_many(messages).await {
            tracing::warn!(%error, "the node's own broker did not take the report");
        }
        self.documents.send_replace(documents);
    }

    /// What waits; with it goes what each stream made and is not there yet.
    fn outbox(&self, streams: &mut [ReportedStream]) -> ReportedOutbox {
        let mut outbox = self.spool.borrow().reported.clone();
        outbox.unwritten += self.uplink.borrow().dropped;
        if self.looker.is_none() {
            return outbox;
        }
        let mut waiters = self.sight.waiters.clone();
        for (at, stream) in streams.iter_mut().enumerate() {
            let of = |numbers: &[u64]| numbers.get(at).copied().unwrap_or(0);
            // What a sudden end may still take does not count as made where nothing may be taken.
            if let Some(durable) = &self.sight.durable {
                let counters = &mut stream.counters;
                counters.samples = counters.samples.min(of(&durable.samples));
                if !stream.local {
                    counters.predictions = counters.predictions.min(of(&durable.predictions));
                }
            }
            if stream.local {
                continue;
            }
            let (seen, made) = (of(&self.sight.seen), stream.counters.predictions);
            if seen < made {
                let boot = self.identity.boot;
                waiters.add(Class::Prediction, &stream.name, boot, seen, made - 1);
            }
        }
        (outbox.waiting, outbox.waiting_joined) = waiters.told();
        outbox.budget.clone_from(&self.sight.budget);
        outbox
    }
}

impl StreamRow {
    /// Since when it is stale, if it is; `was` is what was said before.
    fn stale_since(&self, was: Option<Timestamp>, now: Now) -> Option<Timestamp> {
        let silent = now.steady.saturating_sub(self.stats.last_arrival());
        if silent < self.stale_after? {
            if was.is_some() {
                tracing::info!(stream = %self.name, "readings come again");
            }
            return None;
        }
        Some(was.unwrap_or_else(|| {
            let silent_ms = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
            let since = now.wall.offset_ms(-silent_ms);
            tracing::warn!(stream = %self.name, %since, "no readings come: the stream is stale");
            since
        }))
    }

    fn reported(&self) -> ReportedStream {
        ReportedStream {
            name: self.name.clone(),
            model: self.model.clone(),
            last_reading: self.stats.last_reading(),
            stale_since: None,
            local: self.local,
            drift: self.drift.as_ref().and_then(Drift::reported),
            counters: self.stats.snapshot(),
        }
    }
}

fn with_counters(mut row: ReportedModel, facts: &Facts, qualities: &Qualities) -> ReportedModel {
    let of_model = qualities.get(&row.name);
    let fill = |slot: &mut ActiveSlot| {
        if let Some(fact) = facts.of(&slot.digest) {
            slot.predictions = fact.predictions;
            slot.last_inference = Some(fact.last_inference);
        }
        let quality =
            of_model.and_then(|all| all.iter().find(|(digest, _)| *digest == slot.digest));
        slot.quality = quality.map(|(_, quality)| *quality);
    };
    row.active
        .iter_mut()
        .chain(row.previous.iter_mut())
        .for_each(fill);
    row
}

fn retained(topic: String, payload: Bytes) -> Publish {
    let properties = PublishProperties {
        content_type: Some("application/json".to_owned()),
        payload_is_utf8: true,
        ..PublishProperties::default()
    };
    Publish::new(topic, payload)
        .qos(QoS::AtLeastOnce)
        .retained()
        .properties(properties)
}
