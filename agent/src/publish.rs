//! Predictions as messages: for the node's own broker, and for the uplink.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lamppost_broker::{LinkPublisher, Publish, PublishProperties, QoS};
use lamppost_models::id::PredictionId;
use lamppost_models::{NodePath, StreamName, Timestamp, Topic, TopicRoot};
use tokio::sync::mpsc;

use crate::uplink::Made;

/// What MQTT 5 subscribers see beside a prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Content type and payload format indicator.
    pub(crate) content_type: bool,
    /// CloudEvents 1.0 attributes, as its MQTT binding has them in binary mode; they cost about a quarter of the
    /// pipeline's throughput.
    pub(crate) cloudevents: bool,
    /// After this time the prediction is not delivered any more; `None` for never.
    pub(crate) expiry: Option<Duration>,
}

/// A prediction that was made.
#[derive(Clone, Debug)]
pub(crate) struct Prediction {
    /// Which of the node's streams it is of.
    pub(crate) stream: usize,
    pub(crate) id: PredictionId,
    /// Its number within its stream.
    pub(crate) seq: u64,
    pub(crate) ts: Timestamp,
    /// Its JSON.
    pub(crate) json: Bytes,
    /// The bare value or label, where a flat topic is configured.
    pub(crate) flat: Option<Bytes>,
}

/// Where the predictions of a stream go.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    topic: String,
    flat: Option<String>,
    live: bool,
}

impl Destination {
    pub(crate) fn new(
        root: &TopicRoot,
        path: &NodePath,
        stream: &StreamName,
        live: bool,
        flat: Option<&str>,
    ) -> Self {
        let topic = root.format(&Topic::Prediction(path.clone(), stream.clone()));
        Self {
            topic,
            flat: flat.map(str::to_owned),
            live,
        }
    }
}

/// The task that publishes what the engine makes.
pub(crate) struct Publisher {
    pub(crate) link: LinkPublisher,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) wanted: Properties,
    pub(crate) source: Arc<str>,
    /// Where predictions go besides; `None` on a node without a coordinator.
    pub(crate) uplink: Option<Made>,
}

impl Publisher {
    /// Publishes each batch until the engine has ended.
    pub(crate) async fn run(mut self, mut made: mpsc::Receiver<Vec<Prediction>>) {
        while let Some(batch) = made.recv().await {
            let messages: Vec<_> = batch
                .iter()
                .flat_map(|prediction| self.messages(prediction))
                .collect();
            if let Err(error) = self.link.publish_many(messages).await {
                tracing::warn!(%error, predictions = batch.len(), "the node's own broker did not take predictions");
            }
            if let Some(uplink) = &mut self.uplink {
                let destinations = &self.destinations;
                let live = |prediction: &Prediction| {
                    destinations
                        .get(prediction.stream)
                        .is_some_and(|to| to.live)
                };
                uplink.send(batch.into_iter().filter(live)).await;
            }
        }
        if let Some(uplink) = self.uplink {
            uplink.finish().await;
        }
    }

    fn messages(&self, prediction: &Prediction) -> impl Iterator<Item = Publish> + use<> {
        let to = self.destinations.get(prediction.stream);
        let live = to.filter(|to| to.live).map(|to| Publish {
            topic: to.topic.clone(),
            payload: prediction.json.clone(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: self.wanted.of(prediction, &self.source),
        });
        let flat = to
            .and_then(|to| to.flat.clone())
            .zip(prediction.flat.clone());
        // A client that joins late sees the newest value at once, as with any other sensor.
        let flat = flat.map(|(topic, payload)| {
            Publish::new(topic, payload)
                .qos(QoS::AtLeastOnce)
                .retained()
        });
        live.into_iter().chain(flat)
    }
}

impl Properties {
    fn of(&self, prediction: &Prediction, source: &str) -> PublishProperties {
        PublishProperties {
            content_type: self.content_type.then(|| "application/json".to_owned()),
            payload_is_utf8: self.content_type,
            message_expiry: self.expiry,
            user_properties: if self.cloudevents {
                cloudevent(prediction.id, prediction.ts, source)
            } else {
                Vec::new()
            },
            ..PublishProperties::default()
        }
    }
}

/// The attributes of a prediction as a CloudEvent.
pub(crate) fn cloudevent(id: PredictionId, ts: Timestamp, source: &str) -> Vec<(String, String)> {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    vec![
        pair("specversion", "1.0".to_owned()),
        pair("id", id.to_string()),
        pair("source", source.to_owned()),
        pair("type", "lamppost.prediction.v1".to_owned()),
        pair("time", ts.to_string()),
    ]
}
