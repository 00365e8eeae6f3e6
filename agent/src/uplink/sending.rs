//! What goes up, and in which order: reports, live predictions, events, and history if the link may take it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lamppost_models::Topic;
use lamppost_models::id::PredictionId;
use lamppost_models::ledger::Class;

use super::mqtt::{self, Closed, Outgoing, Requests};
use super::pending::Record;
use super::spool::{Part, Wire};
use super::{Documents, Uplink, clock};
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
    Batch(Part, u64, Outgoing),
}

impl Next {
    pub(super) const fn message(&self) -> &Outgoing {
        match self {
            Self::Urgent(message) | Self::Live(message) | Self::Batch(_, _, message) => message,
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

    fn next(&mut self, online: &Online) -> Option<Next> {
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
        if let Some(batch) = self.events.next_unsent(Instant::now()) {
            return Some(self.batch(Part::Events, batch));
        }
        let batch = self.replay.next_unsent(Instant::now())?;
        let wait = self.pace.wait(clock());
        if !wait.is_zero() {
            self.pace_due = Some(Instant::now() + wait);
            return None;
        }
        Some(self.batch(Part::History, batch))
    }

    fn batch(&self, part: Part, batch: &Wire) -> Next {
        let path = self.identity.path.clone();
        let topic = match (batch.class, batch.stream.clone()) {
            (Class::Prediction, Some(stream)) => Topic::PredictionHistory(path, stream),
            (Class::Sample, Some(stream)) => Topic::Sample(path, stream),
            // Events are of no stream, and nothing else is.
            (Class::Event, _) | (_, None) => Topic::Events(path),
        };
        let outgoing = Outgoing {
            topic: Arc::from(self.identity.root.format(&topic)),
            payload: batch.payload.clone(),
            retain: false,
            properties: mqtt::Properties {
                json: !batch.packed,
                ..mqtt::Properties::default()
            },
        };
        Next::Batch(part, batch.number, outgoing)
    }

    pub(super) fn note_sent(&mut self, online: &mut Online, next: &Next) {
        if !matches!(next, Next::Urgent(_)) {
            let bytes = next.message().packet_bytes() as u64;
            self.pace.sent(bytes, clock());
        }
        self.mark_sent(online, next);
    }

    fn mark_sent(&mut self, online: &mut Online, next: &Next) {
        let now = Instant::now();
        match next {
            Next::Urgent(_) => {
                online.urgent.pop_front();
            }
            Next::Live(_) => self.pending.mark_sent(now),
            Next::Batch(Part::Events, number, _) => self.events.mark_sent(*number, now),
            Next::Batch(Part::History, number, _) => self.replay.mark_sent(*number, now),
        }
    }

    fn refuse_oversize(&mut self, online: &mut Online, next: &Next) {
        let (bytes, limit) = (next.message().packet_bytes(), online.packet_bytes_max);
        let topic = &*next.message().topic;
        let reason =
            format!("a message of {bytes} bytes on {topic}: it takes packets of {limit} at most");
        tracing::warn!(reason, "the coordinator's broker would refuse a message");
        // Its acknowledgement will be late. A prediction goes to the outbox, where batches are larger still, and ends
        // there by age, counted.
        self.mark_sent(online, next);
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

    /// Asks for the time, before anything else; a question that still waits is old.
    pub(super) fn ask(&self, online: &mut Online, question: Bytes) {
        let topic = &self.question_topic;
        online.urgent.retain(|waiting| waiting.topic != *topic);
        online.urgent.push_back(Outgoing {
            topic: Arc::clone(topic),
            payload: question,
            retain: false,
            properties: mqtt::Properties {
                json: true,
                ..mqtt::Properties::default()
            },
        });
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
