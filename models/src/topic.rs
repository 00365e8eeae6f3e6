//! Every MQTT topic, typed, formatted and parsed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use crate::id::{GroupId, ModelName, NodeId, ParseNameError, SiteId, StreamName};

/// Longest root: with the longest names below it, a topic stays under 512 bytes.
pub const ROOT_BYTES_MAX: usize = 128;

/// What stands in front of all our topics; `lamppost/v1` unless configured otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicRoot(Arc<str>);

/// Where a node is: its site and its name.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct NodePath {
    /// The site.
    pub site: SiteId,
    /// The node, unique within its site.
    pub node: NodeId,
}

/// One of our topics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The update topic: the retained [`crate::Release`] of a model for a group.
    Release {
        /// Who takes the release.
        group: GroupId,
        /// The model it is about.
        model: ModelName,
    },
    /// Retained [`crate::trust::Chain`].
    Trust,
    /// Retained [`crate::SignedTime`].
    Time,
    /// Retained [`crate::Status`] of a node; its last will.
    Status(NodePath),
    /// Retained [`crate::Reported`] of a node.
    Reported(NodePath),
    /// Live [`crate::Prediction`]s of a stream.
    Prediction(NodePath, StreamName),
    /// [`crate::PredictionBatch`]es of a stream, replayed after an outage.
    PredictionHistory(NodePath, StreamName),
    /// [`crate::message::SampleBatch`]es of a stream.
    Sample(NodePath, StreamName),
    /// [`crate::ledger::EventBatch`]es of a node.
    Events(NodePath),
    /// [`crate::Ack`]s of the coordinator to a node.
    Ack(NodePath),
    /// [`crate::signed_time::TimeQuestion`]s of a node.
    TimeQuestion(NodePath),
    /// [`crate::SignedTime`]s of the coordinator, each for a question.
    TimeAnswer(NodePath),
}

/// Why a string is no valid topic root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "topic root {value:?} must have 1 to 128 bytes in levels parted by '/', with no empty level, no '+', '#' or control character and no leading '$'"
)]
pub struct ParseRootError {
    value: String,
}

/// Why a string is none of our topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTopicError {
    /// The topic is not below the root.
    #[error("topic {topic:?} is not below {root:?}")]
    Root {
        /// The topic, cut for display.
        topic: String,
        /// The root it should start with.
        root: String,
    },
    /// No topic has these levels.
    #[error("topic {topic:?} is not one of Lamppost's")]
    Unknown {
        /// The topic, cut for display.
        topic: String,
    },
    /// A level is no valid name.
    #[error("topic {topic:?} has an invalid level")]
    Name {
        /// The topic, cut for display.
        topic: String,
        /// What is wrong with the level.
        #[source]
        source: ParseNameError,
    },
}

impl TopicRoot {
    /// Checks and wraps a root.
    ///
    /// # Errors
    /// [`ParseRootError`] when the string is no root.
    pub fn new(value: &str) -> Result<Self, ParseRootError> {
        let level = |level: &str| {
            !level.is_empty() && !level.contains(['+', '#']) && !level.contains(char::is_control)
        };
        if value.len() <= ROOT_BYTES_MAX && !value.starts_with('$') && value.split('/').all(level) {
            Ok(Self(Arc::from(value)))
        } else {
            Err(ParseRootError {
                value: value.chars().take(160).collect(),
            })
        }
    }

    /// The root as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The string of a topic below this root.
    pub fn format(&self, topic: &Topic) -> String {
        format!("{}/{topic}", self.0)
    }

    /// Reads a topic below this root.
    ///
    /// # Errors
    /// [`ParseTopicError`] when it is none of ours.
    pub fn parse(&self, topic: &str) -> Result<Topic, ParseTopicError> {
        let cut = || topic.chars().take(160).collect::<String>();
        let below = topic
            .strip_prefix(&*self.0)
            .and_then(|rest| rest.strip_prefix('/'));
        let below = below.ok_or_else(|| ParseTopicError::Root {
            topic: cut(),
            root: self.0.to_string(),
        })?;
        let levels: Vec<&str> = below.splitn(6, '/').collect();
        match parse_levels(&levels) {
            Ok(Some(topic)) => Ok(topic),
            Ok(None) => Err(ParseTopicError::Unknown { topic: cut() }),
            Err(source) => Err(ParseTopicError::Name {
                topic: cut(),
                source,
            }),
        }
    }

    /// The filter for the releases of all models for `group`.
    pub fn releases_filter(&self, group: &GroupId) -> String {
        format!("{}/models/{group}/+", self.0)
    }

    /// The filter for one kind of message from all nodes.
    pub fn nodes_filter(&self, kind: NodeTopicKind) -> String {
        match kind {
            NodeTopicKind::Status => format!("{}/nodes/+/+/status", self.0),
            NodeTopicKind::Reported => format!("{}/nodes/+/+/reported", self.0),
            NodeTopicKind::Prediction => format!("{}/nodes/+/+/pred/+", self.0),
            NodeTopicKind::PredictionHistory => format!("{}/nodes/+/+/pred-hist/+", self.0),
            NodeTopicKind::Sample => format!("{}/nodes/+/+/sample/+", self.0),
            NodeTopicKind::Events => format!("{}/nodes/+/+/events", self.0),
            NodeTopicKind::TimeQuestion => format!("{}/nodes/+/+/time", self.0),
        }
    }
}

/// The kinds of messages that nodes publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeTopicKind {
    /// [`Topic::Status`].
    Status,
    /// [`Topic::Reported`].
    Reported,
    /// [`Topic::Prediction`].
    Prediction,
    /// [`Topic::PredictionHistory`].
    PredictionHistory,
    /// [`Topic::Sample`].
    Sample,
    /// [`Topic::Events`].
    Events,
    /// [`Topic::TimeQuestion`].
    TimeQuestion,
}

fn parse_levels(levels: &[&str]) -> Result<Option<Topic>, ParseNameError> {
    let topic = match levels {
        ["models", group, model] => Topic::Release {
            group: group.parse()?,
            model: model.parse()?,
        },
        ["trust"] => Topic::Trust,
        ["time"] => Topic::Time,
        ["nodes", site, node, rest @ ..] => {
            let at = NodePath {
                site: site.parse()?,
                node: node.parse()?,
            };
            match rest {
                ["status"] => Topic::Status(at),
                ["reported"] => Topic::Reported(at),
                ["events"] => Topic::Events(at),
                ["ack"] => Topic::Ack(at),
                ["time"] => Topic::TimeQuestion(at),
                ["time", "answer"] => Topic::TimeAnswer(at),
                ["pred", stream] => Topic::Prediction(at, stream.parse()?),
                ["pred-hist", stream] => Topic::PredictionHistory(at, stream.parse()?),
                ["sample", stream] => Topic::Sample(at, stream.parse()?),
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(topic))
}

/// The levels below the root.
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { group, model } => write!(f, "models/{group}/{model}"),
            Self::Status(at) => write!(f, "nodes/{at}/status"),
            Self::Reported(at) => write!(f, "nodes/{at}/reported"),
            Self::Prediction(at, stream) => write!(f, "nodes/{at}/pred/{stream}"),
            Self::PredictionHistory(at, stream) => write!(f, "nodes/{at}/pred-hist/{stream}"),
            Self::Sample(at, stream) => write!(f, "nodes/{at}/sample/{stream}"),
            Self::Events(at) => write!(f, "nodes/{at}/events"),
            Self::Ack(at) => write!(f, "nodes/{at}/ack"),
            Self::Trust => f.write_str("trust"),
            Self::Time => f.write_str("time"),
            Self::TimeQuestion(at) => write!(f, "nodes/{at}/time"),
            Self::TimeAnswer(at) => write!(f, "nodes/{at}/time/answer"),
        }
    }
}

/// `<site>/<node>`, as in topics and on the command line.
impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.node)
    }
}

impl Default for TopicRoot {
    fn default() -> Self {
        Self(Arc::from("lamppost/v1"))
    }
}

impl fmt::Display for TopicRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TopicRoot {
    type Err = ParseRootError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::new(value)
    }
}

impl Serialize for TopicRoot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TopicRoot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = String::deserialize(deserializer)?;
        Self::new(&value).map_err(D::Error::custom)
    }
}
