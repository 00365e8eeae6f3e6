//! What the node says of itself: its status and its report, retained, here and at the coordinator.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lamppost_broker::{LinkPublisher, Publish, PublishProperties, QoS};
use lamppost_models::message::{
    ActiveSlot, NodeState, ReportedModel, ReportedOutbox, ReportedStream,
};
use lamppost_models::{ModelName, Reported, Status, StreamName, Topic, V1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::labels::{Labels, Qualities};
use crate::scorer::Facts;
use crate::stats::StreamStats;
use crate::uplink::{Documents, Identity, SpoolState, UplinkState, wall_clock};

/// A stream as the report sees it.
pub(crate) struct StreamRow {
    pub(crate) name: StreamName,
    pub(crate) model: ModelName,
    pub(crate) stats: Arc<StreamStats>,
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
    pub(crate) spool: watch::Receiver<SpoolState>,
    pub(crate) uplink: watch::Receiver<UplinkState>,
}

/// What is reported at once when it changes; counters alone wait for their time.
#[derive(Clone, Debug, PartialEq)]
struct Notable {
    slots: Vec<ReportedModel>,
    state: NodeState,
}

impl Reporter {
    /// Reports until the agent stops.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut shown = self.notable();
        self.show(&shown).await;
        let mut look = tokio::time::interval(self.debounce);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut since = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let notable = self.notable();
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

    fn notable(&self) -> Notable {
        let slots: Vec<ReportedModel> = self
            .models
            .iter()
            .map(|model| model.slot.borrow().clone())
            .collect();
        let state = self.state(&slots);
        Notable { slots, state }
    }

    fn state(&self, slots: &[ReportedModel]) -> NodeState {
        let idle = slots.iter().filter(|slot| slot.active.is_none());
        let mut reasons: Vec<String> = idle
            .map(|slot| format!("no version of {} runs", slot.name))
            .collect();
        if let Some(failing) = &self.spool.borrow().failing {
            reasons.push(format!("the outbox fails: {failing}"));
        }
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

    async fn show(&self, notable: &Notable) {
        let qualities = self.labels.qualities().await;
        let at = wall_clock();
        let boot = self.identity.boot;
        let status = Status {
            v: V1,
            state: notable.state.clone(),
            boot,
            at,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            groups: self.identity.groups.clone(),
        };
        let models = notable.slots.iter().zip(&self.models);
        let reported = Reported {
            v: V1,
            boot,
            at,
            models: models
                .map(|(slot, model)| with_counters(slot.clone(), &model.facts, &qualities))
                .collect(),
            streams: self.streams.iter().map(StreamRow::reported).collect(),
            outbox: self.outbox(),
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

    fn outbox(&self) -> ReportedOutbox {
        let mut outbox = self.spool.borrow().reported.clone();
        outbox.unwritten += self.uplink.borrow().dropped;
        outbox
    }
}

impl StreamRow {
    fn reported(&self) -> ReportedStream {
        ReportedStream {
            name: self.name.clone(),
            model: self.model.clone(),
            last_reading: self.stats.last_reading(),
            stale_since: None,
            local: false,
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
