//! Messages from the other broker.

use super::{
    books::Books,
    hops::{self, Way},
    letter::{Letter, Mapped, Route, map},
};
use crate::{
    link::{LinkError, LinkPublisher},
    message::Publish,
};
use std::sync::Arc;
use tracing::debug;

/// Publishes what comes in. It trusts the other broker in nothing: a topic that no entry selects is dropped, whether it
/// was subscribed or not.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    pub(super) books: Arc<Books>,
    pub(super) publisher: LinkPublisher,
    pub(super) routes: Arc<[Route]>,
    pub(super) broker_id: Arc<str>,
}

/// This broker is stopping: the message was not published, and the other broker should keep it.
#[derive(Debug)]
pub(super) struct Stopping;

impl Intake {
    /// Deals with a message: when this returns it may be acknowledged, published or not.
    pub(super) async fn take(&self, mut letter: Letter) -> Result<(), Stopping> {
        let topic = match map(&self.routes, &letter.topic) {
            Mapped::To(topic) => topic,
            Mapped::NotSelected => {
                self.refuse(&letter.topic, "no entry of in selects it");
                return Ok(());
            }
            Mapped::Unfit => {
                self.refuse(
                    &letter.topic,
                    "without its prefix it is no topic to publish to",
                );
                return Ok(());
            }
        };
        let properties = &mut letter.properties.user_properties;
        if hops::cross(properties, &self.broker_id, Way::In).is_err() {
            self.books.looped(&letter.topic);
            return Ok(());
        }
        let publish = Publish {
            topic,
            payload: letter.payload,
            qos: letter.qos,
            retain: letter.retain,
            properties: letter.properties,
        };
        match self.publisher.publish(publish).await {
            Ok(()) => {
                self.books.received();
                Ok(())
            }
            Err(LinkError::Stopped) => Err(Stopping),
            Err(error) => {
                self.refuse(&letter.topic, &error.to_string());
                Ok(())
            }
        }
    }

    pub(super) fn refuse(&self, topic: &str, reason: &str) {
        debug!(
            bridge = self.books.name(),
            topic, reason, "a message from the other broker is dropped"
        );
        self.books.dropped(1);
    }
}
