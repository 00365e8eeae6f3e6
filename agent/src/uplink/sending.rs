//! What goes up, and in which order: reports, live predictions, batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lamppost_agent_core::outbox::Class;
use lamppost_models::Topic;
use lamppost_models::id::PredictionId;

use super::mqtt::{self, Closed, Outgoing, Requests};
use super::pending::Record;
use super::{Documents, Uplink};
use crate::publish::cloudevent;

/// Messages handed to the library in one go, before acknowledgements are looked at.
const BURST_MAX: usize = 64;

/// A connection that the broker has accepted.
pub(super) struct Online {
    pub(super) requests: Requests,
    pub(super) packet_bytes_max: usize,
    /// What to publish before anything else.
    pub(super) urgent: VecDeque<Outgoing>,
}

/// What is sent next, and what to note once it is.
pub(super) enum Next {
    Urgent(Outgoing),
    Live(Outgoing),
    Batch(u64, Outgoing),
}

impl Next {
    pub(super) const fn message(&self) -> &Outgoing {
        match self {
            Self::Urgent(message) | Self::Live(message) | Self::Batch(_, message) => message,
        }
    }
}

impl Uplink {
    /// Hands over what there is, until there is no more, no more room, or enough for once; gives back what found none.
    pub(super) fn send_burst(&mut self, online: &mut Online) -> Result<Option<Next>, Closed> {
        for _ in 0..BURST_MAX {
            let Some(next) = self.next_that_fits(online) else {
                return Ok(None);
            };
            if !online.requests.try_publish(next.message())? {
                return Ok(Some(next));
            }
            self.note_sent(online, &next);
        }
        // More may be there: the loop comes back at once, since one more message finds room or waits for it.
        Ok(self.next_that_fits(online))
    }

    /// The next message; those that the broker would cut the connection for are not offered.
    fn next_that_fits(&mut self, online: &mut Online) -> Option<Next> {
        loop {
            let next = self.next(online)?;
            if next.message().packet_bytes() <= online.packet_bytes_max {
                return Some(next);
            }
            self.refuse_oversize(online, &next);
        }
    }

    fn next(&self, online: &Online) -> Option<Next> {
        if let Some(urgent) = online.urgent.front() {
            return Some(Next::Urgent(urgent.clone()));
        }
        if let Some(record) = self.pending.next_unsent() {
            let topic = self.topics.get(record.stream).map(Arc::clone)?;
            let properties = self.properties_of(record);
            return Some(Next::Live(Outgoing {
                topic,
                payload: record.json.clone(),
                retain: false,
                properties,
            }));
        }
        let batch = self.replay.next_unsent()?;
        let (path, name) = (self.identity.path.clone(), batch.stream.clone());
        let topic = match batch.class {
            Class::Prediction => Topic::PredictionHistory(path, name),
            Class::Sample => Topic::Sample(path, name),
        };
        let topic = Arc::from(self.identity.root.format(&topic));
        let payload = Bytes::from(batch.message(self.spool.epoch()));
        let properties = mqtt::Properties {
            json: true,
            ..mqtt::Properties::default()
        };
        Some(Next::Batch(
            batch.number,
            Outgoing {
                topic,
                payload,
                retain: false,
                properties,
            },
        ))
    }

    pub(super) fn note_sent(&mut self, online: &mut Online, next: &Next) {
        match next {
            Next::Urgent(_) => {
                online.urgent.pop_front();
            }
            Next::Live(_) => self.pending.mark_sent(Instant::now()),
            Next::Batch(number, _) => self.replay.mark_sent(*number, Instant::now()),
        }
    }

    fn refuse_oversize(&mut self, online: &mut Online, next: &Next) {
        let (bytes, limit) = (next.message().packet_bytes(), online.packet_bytes_max);
        let topic = &*next.message().topic;
        let reason =
            format!("a message of {bytes} bytes on {topic}: it takes packets of {limit} at most");
        tracing::warn!(reason, "the coordinator's broker would refuse a message");
        match next {
            Next::Urgent(_) => {
                online.urgent.pop_front();
            }
            // Its acknowledgement will be late, and it goes to the outbox, where batches are larger still: it ends
            // there by age, counted.
            Next::Live(_) => self.pending.mark_sent(Instant::now()),
            Next::Batch(number, _) => self.replay.mark_sent(*number, Instant::now()),
        }
        self.state.send_modify(|state| state.refused = Some(reason));
    }

    pub(super) fn show_changes(&mut self, online: &mut Online, shown: &mut Documents) {
        let documents = self.documents.borrow_and_update().clone();
        // A document that waits is replaced by its successor: the queue has one of each at most.
        for (topic, old, new) in [
            (&self.status_topic, &shown.status, &documents.status),
            (&self.reported_topic, &shown.reported, &documents.reported),
        ] {
            if old != new {
                online.urgent.retain(|waiting| waiting.topic != *topic);
                online.urgent.push_back(retained(topic, new.clone()));
            }
        }
        *shown = documents;
    }

    fn properties_of(&self, record: &Record) -> mqtt::Properties {
        let user = if self.properties.cloudevents {
            let id = PredictionId {
                boot: self.identity.boot,
                number: record.number,
            };
            cloudevent(id, record.ts, &self.source)
        } else {
            Vec::new()
        };
        // No expiry: what is sent live must reach the coordinator, however slow its broker is.
        mqtt::Properties {
            json: self.properties.content_type,
            user,
        }
    }
}

pub(super) fn retained(topic: &Arc<str>, payload: Bytes) -> Outgoing {
    let properties = mqtt::Properties {
        json: true,
        ..mqtt::Properties::default()
    };
    Outgoing {
        topic: Arc::clone(topic),
        payload,
        retain: true,
        properties,
    }
}

pub(super) async fn send(requests: &Requests, next: Option<&Next>) -> Result<(), Closed> {
    match next {
        Some(next) => requests.publish(next.message()).await,
        None => Ok(()),
    }
}
