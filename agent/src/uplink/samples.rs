//! The way of samples into the outbox: beside the predictions', and never in front of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use lamppost_agent_core::pace::Spent;
use lamppost_models::StreamName;
use tokio::sync::mpsc;

use super::interface::Feed;
use super::spool::{COMMANDS_MAX, Command};

/// Samples of one stream that are stored together.
#[derive(Debug)]
pub(crate) struct SampleBatch {
    /// The stream, by its place in the configuration.
    pub(crate) stream: usize,
    /// Number within the stream and JSON, the numbers growing.
    pub(crate) records: Vec<(u64, Bytes)>,
    /// What is noted first as used of the stream's budget.
    pub(crate) spent: Option<Spent>,
}

/// Where samples are put. The uplink does not end before it is dropped.
#[derive(Debug)]
pub(crate) struct Samples {
    commands: mpsc::Sender<Command>,
    /// Keeps the uplink running.
    _feed: mpsc::Sender<Feed>,
    /// What is noted of each stream's budget.
    pub(crate) before: BTreeMap<StreamName, Spent>,
}

/// Room for one batch.
pub(crate) struct Reserved<'a>(mpsc::Permit<'a, Command>);

impl Samples {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        feed: mpsc::Sender<Feed>,
        before: BTreeMap<StreamName, Spent>,
    ) -> Self {
        Self {
            commands,
            _feed: feed,
            before,
        }
    }

    /// Room for a batch, unless more than half of it is taken: the rest is the predictions'.
    pub(crate) fn reserve(&self) -> Option<Reserved<'_>> {
        if self.commands.capacity() <= COMMANDS_MAX / 2 {
            return None;
        }
        self.commands.try_reserve().ok().map(Reserved)
    }

    /// Hands a batch over, however long it takes; false when nobody takes it.
    pub(crate) async fn send(&self, batch: SampleBatch) -> bool {
        self.commands.send(Command::Samples(batch)).await.is_ok()
    }
}

impl Reserved<'_> {
    pub(crate) fn send(self, batch: SampleBatch) {
        self.0.send(Command::Samples(batch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_room_is_for_predictions() {
        let (commands, mut receiver) = mpsc::channel(COMMANDS_MAX);
        let (feed, _receiver) = mpsc::channel(1);
        let samples = Samples::new(commands, feed, BTreeMap::new());
        let batch = || SampleBatch {
            stream: 0,
            records: Vec::new(),
            spent: None,
        };
        for _ in 0..COMMANDS_MAX / 2 {
            samples.reserve().unwrap().send(batch());
        }
        assert!(samples.reserve().is_none());
        receiver.try_recv().unwrap();
        assert!(samples.reserve().is_some());
        drop(receiver);
        assert!(samples.reserve().is_none(), "nobody takes it any more");
    }
}
