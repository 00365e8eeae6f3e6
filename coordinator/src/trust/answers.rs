//! Answers to nodes that ask for the time.

use std::sync::Arc;
use std::time::Duration;

use lamppost_models::signed_time::{QUESTION_BYTES_MAX, TimeQuestion};
use lamppost_models::topic::NodeTopicKind;
use lamppost_models::{Topic, TopicRoot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Authority;
use crate::bus::{Bus, Message, Outgoing, Watch};

/// Answers in a second: 100,000 nodes that ask three times in 15 minutes are 333, and a signature takes some 30 us.
const ANSWERS_PER_SECOND_MAX: u32 = 1_000;
/// Pause before the questions are listened to anew.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer may wait for the bus.
const PUBLISH_TIME: Duration = Duration::from_secs(5);
/// After this time an answer is worth nothing: the node has asked again.
const ANSWER_EXPIRY: Duration = Duration::from_mins(1);

/// The task that answers.
pub(crate) struct Answerer {
    pub(crate) authority: Arc<Authority>,
    pub(crate) root: TopicRoot,
    pub(crate) bus: Bus,
}

/// How many answers were given in this second.
struct Pace {
    since: Instant,
    answers: u32,
    /// Questions without an answer, since the start.
    refused: u64,
}

impl Answerer {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let filter = self.root.nodes_filter(NodeTopicKind::TimeQuestion);
        let mut pace = Pace {
            since: Instant::now(),
            answers: 0,
            refused: 0,
        };
        let listen = async {
            loop {
                match self.bus.watch(&filter).await {
                    Ok(watch) => self.answer_all(watch, &mut pace).await,
                    Err(error) => {
                        tracing::debug!(%error, "questions for the time cannot be listened to now");
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        stop.run_until_cancelled(listen).await;
    }

    async fn answer_all(&self, mut watch: Watch, pace: &mut Pace) {
        while let Some(message) = watch.recv().await {
            let refused = match self.answer(message, pace).await {
                Ok(()) => continue,
                Err(reason) => reason,
            };
            pace.refused += 1;
            if pace.refused.is_power_of_two() {
                tracing::warn!(
                    reason = refused,
                    count = pace.refused,
                    "a question for the time got no answer"
                );
            }
        }
    }

    async fn answer(&self, message: Message, pace: &mut Pace) -> Result<(), String> {
        let Message { topic, payload, .. } = message;
        let Ok(Topic::TimeQuestion(path)) = self.root.parse(&topic) else {
            return Err("it came on another topic".to_owned());
        };
        if payload.len() > QUESTION_BYTES_MAX {
            return Err(format!(
                "it has {} bytes, the limit is {QUESTION_BYTES_MAX}",
                payload.len()
            ));
        }
        let question: TimeQuestion =
            serde_json::from_slice(&payload).map_err(|error| error.to_string())?;
        if !pace.admit() {
            return Err(format!(
                "more than {ANSWERS_PER_SECOND_MAX} in a second: the node asks again"
            ));
        }
        let time = self
            .authority
            .sign_time(Some(question.nonce))
            .map_err(|error| error.to_string())?;
        let payload = serde_json::to_vec(&time).map_err(|error| error.to_string())?;
        let outgoing = Outgoing {
            topic: self.root.format(&Topic::TimeAnswer(path)),
            payload: payload.into(),
            retain: false,
            expiry: Some(ANSWER_EXPIRY),
        };
        let sent = tokio::time::timeout(PUBLISH_TIME, self.bus.publish(outgoing)).await;
        sent.map_err(|_| "the bus does not take the answer in time".to_owned())?
            .map_err(|error| crate::error::chain(&error))
    }
}

impl Pace {
    fn admit(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.since, self.answers) = (Instant::now(), 0);
        }
        self.answers += 1;
        self.answers <= ANSWERS_PER_SECOND_MAX
    }
}
