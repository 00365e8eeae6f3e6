//! The configuration as it is written: the keys of `configs/agent.toml`, with their defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use lamppost_agent_core::decode::SourceSpec;
use lamppost_agent_core::drift::DriftSpec;
use lamppost_agent_core::label::LabelSpec;
use lamppost_agent_core::span;
use lamppost_agent_core::window::WindowSpec;
use lamppost_models::id::{ConsentRef, FieldName};
use lamppost_models::ledger::Durability;
use lamppost_models::message::SamplePolicy;
use lamppost_models::rollout::Tags;
use lamppost_models::time::Zone;
use lamppost_models::{GroupId, ModelName, NodeId, SiteId, StreamName, TopicRoot};
use serde::{Deserialize, Serialize};

use super::units::{Bytes, Limit, Patience};
use crate::queue::WhenFull;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) site: SiteId,
    pub(super) node: NodeId,
    #[serde(default = "default_groups")]
    pub(super) groups: Vec<GroupId>,
    #[serde(default)]
    pub(super) tags: Tags,
    #[serde(default)]
    pub(super) time_zone: Zone,
    #[serde(default)]
    pub(super) root: TopicRoot,
    #[serde(default = "default_data_dir")]
    pub(super) data_dir: PathBuf,
    #[serde(default = "default_workers")]
    pub(super) workers: usize,
    #[serde(default)]
    pub(super) broker: toml::Table,
    pub(super) coordinator: Option<RawCoordinator>,
    #[serde(default)]
    pub(super) engine: RawEngine,
    #[serde(default)]
    pub(super) publish: RawPublish,
    #[serde(default)]
    pub(super) report: RawReport,
    #[serde(default)]
    pub(super) outbox: RawOutbox,
    #[serde(default)]
    pub(super) artifacts: RawArtifacts,
    #[serde(default, rename = "model")]
    pub(super) models: Vec<RawModel>,
    #[serde(default, rename = "stream")]
    pub(super) streams: Vec<RawStream>,
}

fn default_groups() -> Vec<GroupId> {
    GroupId::new("all").into_iter().collect()
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("lamppost-data")
}

const fn default_workers() -> usize {
    2
}

/// `[coordinator]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCoordinator {
    pub(super) mqtt: String,
    pub(super) http: String,
    pub(super) keys: Vec<String>,
    pub(super) root: Option<RawRoot>,
    pub(super) trust_file: Option<PathBuf>,
    #[serde(default = "default_freeze_after", with = "span")]
    pub(super) freeze_after: Duration,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    #[serde(default = "default_keep_alive", with = "span")]
    pub(super) keep_alive: Duration,
    #[serde(default = "default_connect_timeout", with = "span")]
    pub(super) connect_timeout: Duration,
    #[serde(default = "default_retry_min", with = "span")]
    pub(super) retry_min: Duration,
    #[serde(default = "default_retry_max", with = "span")]
    pub(super) retry_max: Duration,
    #[serde(default = "default_ack_timeout", with = "span")]
    pub(super) ack_timeout: Duration,
    #[serde(default = "default_memory_records")]
    pub(super) memory_records: usize,
    #[serde(default = "default_memory_bytes")]
    pub(super) memory_bytes: Bytes,
    #[serde(default = "default_replay_window")]
    pub(super) replay_window: usize,
    #[serde(default = "default_replay_spread", with = "span")]
    pub(super) replay_spread: Duration,
    #[serde(default = "default_compress")]
    pub(super) compress: bool,
    #[serde(default = "no_limit")]
    pub(super) rate: Limit,
    #[serde(default = "no_limit")]
    pub(super) budget_per_day: Limit,
}

/// `coordinator.root`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoot {
    pub(super) keys: Vec<String>,
    #[serde(default = "default_threshold")]
    pub(super) threshold: usize,
}

const fn default_threshold() -> usize {
    1
}

const fn default_freeze_after() -> Duration {
    seconds(15 * 60)
}

const fn default_replay_spread() -> Duration {
    seconds(10)
}

const fn default_compress() -> bool {
    true
}

const fn no_limit() -> Limit {
    Limit(None)
}

const fn no_patience() -> Patience {
    Patience(None)
}

const fn default_keep_alive() -> Duration {
    seconds(30)
}

const fn default_connect_timeout() -> Duration {
    seconds(10)
}

const fn default_retry_min() -> Duration {
    seconds(1)
}

const fn default_retry_max() -> Duration {
    seconds(60)
}

const fn default_ack_timeout() -> Duration {
    seconds(30)
}

const fn default_memory_records() -> usize {
    4_096
}

const fn default_memory_bytes() -> Bytes {
    Bytes(2_000_000)
}

const fn default_replay_window() -> usize {
    8
}

/// A password: never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// `[engine]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEngine {
    pub(super) queue: usize,
    pub(super) when_full: WhenFull,
    pub(super) payload_max: Bytes,
}

impl Default for RawEngine {
    fn default() -> Self {
        Self {
            queue: 4_096,
            when_full: WhenFull::DropOldest,
            payload_max: Bytes(64_000),
        }
    }
}

/// `[publish]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPublish {
    pub(super) content_type: bool,
    pub(super) cloudevents: bool,
    #[serde(with = "span")]
    pub(super) expiry: Duration,
}

impl Default for RawPublish {
    fn default() -> Self {
        Self {
            content_type: true,
            cloudevents: false,
            expiry: seconds(3_600),
        }
    }
}

/// `[report]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReport {
    #[serde(with = "span")]
    pub(super) every: Duration,
    #[serde(with = "span")]
    pub(super) debounce: Duration,
}

impl Default for RawReport {
    fn default() -> Self {
        Self {
            every: seconds(60),
            debounce: seconds(1),
        }
    }
}

/// `[outbox]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOutbox {
    pub(super) cap: Bytes,
    #[serde(with = "span")]
    pub(super) age: Duration,
    pub(super) prediction_cap: Option<Bytes>,
    pub(super) sample_cap: Bytes,
    #[serde(with = "span")]
    pub(super) sample_age: Duration,
    pub(super) reserve: Bytes,
    pub(super) durability: Durability,
    #[serde(with = "span")]
    pub(super) flush: Duration,
    #[serde(with = "span")]
    pub(super) flush_always: Duration,
}

impl Default for RawOutbox {
    fn default() -> Self {
        Self {
            cap: Bytes(256_000_000),
            age: seconds(7 * 86_400),
            prediction_cap: None,
            sample_cap: Bytes(64_000_000),
            sample_age: seconds(7 * 86_400),
            reserve: Bytes(64_000_000),
            durability: Durability::Outage,
            flush: seconds(1),
            flush_always: Duration::from_millis(50),
        }
    }
}

/// `[artifacts]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawArtifacts {
    pub(super) rate: Option<Bytes>,
    pub(super) check_memory: Bytes,
    #[serde(with = "span")]
    pub(super) check_timeout: Duration,
}

impl Default for RawArtifacts {
    fn default() -> Self {
        Self {
            rate: None,
            check_memory: Bytes(2 << 30),
            check_timeout: seconds(120),
        }
    }
}

/// `[[model]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) name: ModelName,
    pub(super) bundle: PathBuf,
}

/// `[[stream]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStream {
    pub(super) name: StreamName,
    pub(super) source: SourceSpec,
    pub(super) window: WindowSpec,
    pub(super) model: ModelName,
    pub(super) label: Option<LabelSpec>,
    pub(super) sample: Option<RawSample>,
    #[serde(default = "no_patience")]
    pub(super) stale_after: Patience,
    #[serde(default)]
    pub(super) publish: RawStreamPublish,
    #[serde(default)]
    pub(super) drift: RawDrift,
}

/// `sample` of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSample {
    pub(super) consent: ConsentRef,
    pub(super) fields: BTreeSet<FieldName>,
    pub(super) keep: BTreeMap<SamplePolicy, f64>,
    #[serde(default = "default_sample_bytes")]
    pub(super) bytes_per_day: Bytes,
}

const fn default_sample_bytes() -> Bytes {
    Bytes(2_000_000)
}

/// `publish` of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStreamPublish {
    pub(super) live: bool,
    pub(super) flat: Option<String>,
}

impl Default for RawStreamPublish {
    fn default() -> Self {
        Self {
            live: true,
            flat: None,
        }
    }
}

/// `drift` of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDrift {
    pub(super) period: Patience,
    pub(super) reference: usize,
    pub(super) recent: usize,
}

impl Default for RawDrift {
    fn default() -> Self {
        let DriftSpec {
            period,
            reference,
            recent,
        } = DriftSpec::default();
        Self {
            period: Patience(Some(period)),
            reference,
            recent,
        }
    }
}
