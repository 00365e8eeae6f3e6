//! An MQTT 5 client that keeps what it hears.

use std::net::SocketAddr;

use lamppost_models::{Prediction, Reported, Status};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::DEADLINE;

/// A message that came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) retain: bool,
    pub(crate) properties: PublishProperties,
}

pub(crate) struct Client {
    requests: AsyncClient,
    heard: mpsc::UnboundedReceiver<Heard>,
    subscribed: mpsc::UnboundedReceiver<()>,
    acknowledged: mpsc::UnboundedReceiver<()>,
    driver: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = format!(
            "test-{}",
            NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        );
        let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
        options.set_outgoing_inflight_upper_limit(100);
        let mut properties = ConnectProperties::new();
        properties.max_packet_size = Some(1024 * 1024);
        options.set_connect_properties(properties);
        let (requests, mut eventloop) = AsyncClient::new(options, 1024);
        let (to_heard, heard) = mpsc::unbounded_channel();
        let (to_subscribed, subscribed) = mpsc::unbounded_channel();
        let (to_acknowledged, acknowledged) = mpsc::unbounded_channel();
        let driver = tokio::spawn(async move {
            while let Ok(event) = eventloop.poll().await {
                let sent = match event {
                    Event::Incoming(Incoming::Publish(publish)) => to_heard
                        .send(Heard {
                            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
                            retain: publish.retain,
                            properties: publish.properties.unwrap_or_default(),
                        })
                        .is_ok(),
                    Event::Incoming(Incoming::SubAck(_)) => to_subscribed.send(()).is_ok(),
                    Event::Incoming(Incoming::PubAck(_)) => to_acknowledged.send(()).is_ok(),
                    Event::Incoming(_) | Event::Outgoing(_) => true,
                };
                if !sent {
                    return;
                }
            }
        });
        Self {
            requests,
            heard,
            subscribed,
            acknowledged,
            driver,
        }
    }

    /// Subscribes, and waits until it holds.
    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.requests
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .unwrap();
        tokio::time::timeout(DEADLINE, self.subscribed.recv())
            .await
            .expect("SUBACK")
            .expect("connected");
    }

    /// Publishes, and waits until the broker has it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.requests
            .publish(topic, QoS::AtLeastOnce, false, payload.into())
            .await
            .unwrap();
        tokio::time::timeout(DEADLINE, self.acknowledged.recv())
            .await
            .expect("PUBACK")
            .expect("connected");
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Heard {
        tokio::time::timeout(DEADLINE, self.heard.recv())
            .await
            .expect("a message comes")
            .expect("connected")
    }

    /// The next message that fits.
    pub(crate) async fn next_where<T>(&mut self, fits: impl Fn(&Heard) -> Option<T>) -> T {
        let mut last = None;
        let searched = async {
            loop {
                let heard = self.next().await;
                if let Some(found) = fits(&heard) {
                    return found;
                }
                last = Some(heard);
            }
        };
        let found = tokio::time::timeout(DEADLINE, searched).await;
        found.unwrap_or_else(|_| panic!("nothing fits, the last one was {last:?}"))
    }

    /// The next prediction.
    pub(crate) async fn prediction(&mut self) -> Prediction {
        self.next_where(|heard| {
            heard
                .topic
                .contains("/pred/")
                .then(|| serde_json::from_str(&heard.payload).unwrap())
        })
        .await
    }

    /// The next report that fits.
    pub(crate) async fn reported(&mut self, fits: impl Fn(&Reported) -> bool) -> Reported {
        self.next_where(|heard| {
            let report = heard
                .topic
                .ends_with("/reported")
                .then(|| serde_json::from_str(&heard.payload).unwrap());
            report.filter(|report| fits(report))
        })
        .await
    }

    /// The next status that fits.
    pub(crate) async fn status(&mut self, fits: impl Fn(&Status) -> bool) -> Status {
        self.next_where(|heard| {
            let status = heard
                .topic
                .ends_with("/status")
                .then(|| serde_json::from_str(&heard.payload).unwrap());
            status.filter(|status| fits(status))
        })
        .await
    }
}
