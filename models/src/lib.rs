//! The contract between Lamppost's parts.
//!
//! Everything that crosses a process boundary is defined here and nowhere else, so that an agent, a coordinator and a
//! dashboard agree by construction:
//!
//! - [`id`]: the names of nodes, streams and models, as types that cannot be mixed up;
//! - [`time`] and [`digest`]: instants and content addresses;
//! - [`topic`]: every MQTT topic, typed, formatted and parsed;
//! - [`reading`]: what a sensor said, the input of every model;
//! - [`message`]: what travels on the topics as JSON: predictions, batches, acknowledgements, status, reports;
//! - [`ledger`]: what a node tells of its records by number, so that none is lost in silence;
//! - [`key`] and [`seal`]: who may sign, and signatures over exact bytes;
//! - [`release`]: which version of a model a group runs, in a signed envelope;
//! - [`trust`]: which keys may sign, as a chain of documents, and [`signed_time`]: what time it is;
//! - [`rollout`]: for which of its nodes a candidate is meant, and what each of them checks;
//! - [`trial`]: what a node found;
//! - [`manifest`] and [`bundle`]: a model with all that is needed to run and to check it.
//!
//! The crate is pure: no clock, no network, no file system, no random source. What goes over a wire or onto a disk
//! carries a version number, and `tests/golden/` holds bytes that must parse for ever.

pub mod bundle;
pub mod digest;
pub mod id;
pub mod key;
pub mod ledger;
pub mod manifest;
pub mod message;
pub mod reading;
pub mod release;
pub mod rollout;
pub mod seal;
pub mod signed_time;
mod text;
pub mod time;
pub mod topic;
pub mod trial;
pub mod trust;
mod version;

pub use bundle::Bundle;
pub use digest::Digest;
pub use id::{BootId, Epoch, FieldName, GroupId, ModelName, NodeId, SiteId, StreamName};
pub use manifest::Manifest;
pub use message::{Ack, Prediction, PredictionBatch, Reported, Sample, Status};
pub use reading::{Reading, Value};
pub use release::{Envelope, Release};
pub use signed_time::SignedTime;
pub use time::Timestamp;
pub use topic::{NodePath, Topic, TopicRoot};
pub use trust::Trust;
pub use version::V1;
