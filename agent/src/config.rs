//! The configuration: `agent.toml`, checked as a whole before anything starts.

mod coordinator;
mod raw;
mod samples;
mod streams;
#[cfg(test)]
mod tests;
mod trust;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lamppost_agent_core::decode::{DecodeLimits, Decoder, SpecError};
use lamppost_agent_core::drift::DriftSpec;
use lamppost_agent_core::label::LabelSpec;
use lamppost_agent_core::window::WindowSpec;
use lamppost_models::id::{ConsentRef, FieldName};
use lamppost_models::message::{MESSAGE_BYTES_MAX, SamplePolicy};
use lamppost_models::rollout::{TAGS_MAX, Tags};
use lamppost_models::time::Zone;
use lamppost_models::{GroupId, ModelName, NodePath, StreamName, TopicRoot};

use crate::outbox::{CAP_BYTES_MIN, LaneLimits, OutboxConfig};
use crate::publish::Properties;
use crate::queue::WhenFull;
use crate::trust::TrustConfig;
use crate::uplink::UplinkConfig;
use coordinator::coordinator;
use raw::RawConfig;
use streams::streams;

/// Most streams of a node: each costs a window of readings, and a filter of the broker if it has its own.
pub const STREAMS_MAX: usize = 64;
/// Most groups of a node: each is a subscription, and the slots remember a sequence number of each.
pub const GROUPS_MAX: usize = 16;
/// Most windows that wait for the engine.
pub const QUEUE_MAX: usize = 1_000_000;
/// Most threads of the asynchronous runtime.
pub const WORKERS_MAX: usize = 64;
/// Most predictions in memory that wait for an acknowledgement.
pub const MEMORY_RECORDS_MAX: usize = 1_000_000;
/// Most batches in flight during a replay.
pub const REPLAY_WINDOW_MAX: usize = 64;
/// From when on an inference is taken to have no end: the largest models that open take about as long on a slow core, and
/// the others a thousandth of it.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Largest file that holds a password.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

/// What an agent does.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) path: NodePath,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) tags: Tags,
    pub(crate) time_zone: Zone,
    pub(crate) root: TopicRoot,
    pub(crate) data_dir: PathBuf,
    pub(crate) workers: usize,
    pub(crate) broker: lamppost_broker::Config,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) queue: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) publish: Properties,
    pub(crate) report: Report,
    pub(crate) outbox: OutboxConfig,
    pub(crate) artifacts: Artifacts,
    pub(crate) models: Vec<Model>,
    pub(crate) streams: Vec<Stream>,
    /// The program that checks a bundle when it is started with [`Self::self_prefix`], `check-bundle` and a file;
    /// `None` for the running one.
    pub self_program: Option<PathBuf>,
    /// Arguments before `check-bundle`, for a program that is more than the agent.
    pub self_prefix: Vec<OsString>,
    /// How long an inference may take, [`STUCK_AFTER`] unless it is changed.
    pub stuck_after: Duration,
}

/// The coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Coordinator {
    pub(crate) uplink: UplinkConfig,
    pub(crate) http: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) trust: TrustConfig,
}

/// When the node reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) every: Duration,
    pub(crate) debounce: Duration,
}

/// How bundles are fetched and checked.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    pub(crate) rate_bytes_per_s: Option<u64>,
    pub(crate) check_memory_bytes: u64,
    pub(crate) check_timeout: Duration,
}

/// A model that some stream names.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: ModelName,
    /// The bundle that runs until a release comes.
    pub(crate) factory: Option<PathBuf>,
}

/// A stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    /// Topic filter of its messages.
    pub(crate) filter: String,
    pub(crate) decoder: Decoder,
    pub(crate) window: WindowSpec,
    /// The model, by its place in [`Config::models`].
    pub(crate) model: usize,
    pub(crate) label: Option<Label>,
    pub(crate) sample: Option<Sample>,
    /// After how long without a reading it is stale; `None` for never.
    pub(crate) stale_after: Option<Duration>,
    pub(crate) live: bool,
    pub(crate) flat: Option<String>,
    /// How drift is looked for; `None` for not at all.
    pub(crate) drift: Option<DriftSpec>,
}

/// What of a stream is kept for training.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The share of windows that each policy keeps.
    pub(crate) shares: BTreeMap<SamplePolicy, f64>,
    pub(crate) day_bytes: u64,
    /// The fields that may leave the node.
    pub(crate) fields: BTreeSet<FieldName>,
    pub(crate) consent: ConsentRef,
}

/// Where a stream's labels come from.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) spec: LabelSpec,
    pub(crate) origin: Origin,
}

/// The readings that are labels.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A stream's, by its place in [`Config::streams`].
    Stream(usize),
    /// A topic's own.
    Topic(String, Decoder),
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or a key is unknown, missing or of another kind.
    #[error("configuration does not parse: {0}")]
    Parse(#[from] Box<toml::de::Error>),
    /// The `[broker]` table is refused.
    #[error("[broker]: {0}")]
    Broker(#[source] Box<toml::de::Error>),
    /// A value is outside its range.
    #[error("{key} is {value}, it must be {wanted}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it may be, and what to do.
        wanted: String,
    },
    /// A source or a window cannot be.
    #[error("{key}: {source}")]
    Source {
        /// The key.
        key: String,
        /// What is wrong.
        #[source]
        source: SpecError,
    },
    /// Two streams' topics overlap in part.
    #[error(
        "the topics {a:?} and {b:?} overlap in part, so that some messages would come twice: take filters of which one holds the other"
    )]
    Overlap {
        /// The one.
        a: String,
        /// The other.
        b: String,
    },
}

type Outcome<T> = Result<T, ConfigError>;

fn refuse<T>(
    key: impl Into<String>,
    value: impl std::fmt::Display,
    wanted: impl Into<String>,
) -> Outcome<T> {
    Err(ConfigError::Value {
        key: key.into(),
        value: value.to_string(),
        wanted: wanted.into(),
    })
}

impl Config {
    /// Reads and checks a file. Paths in it are relative to the working directory.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key, its value, and the mend.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Checks the text of a configuration.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key, its value, and the mend.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text).map_err(Box::new)?;
        Self::try_from(raw)
    }

    /// The node.
    pub const fn path(&self) -> &NodePath {
        &self.path
    }

    /// Threads of the asynchronous runtime.
    pub const fn workers(&self) -> usize {
        self.workers
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Outcome<Self> {
        let path = NodePath {
            site: raw.site,
            node: raw.node,
        };
        within("groups", "groups", raw.groups.len(), 1, GROUPS_MAX)?;
        within("tags", "tags", raw.tags.len(), 0, TAGS_MAX)?;
        within("workers", "threads", raw.workers, 1, WORKERS_MAX)?;
        within("engine.queue", "windows", raw.engine.queue, 1, QUEUE_MAX)?;
        span(
            "report.every",
            raw.report.every,
            Duration::from_millis(100),
            Duration::from_mins(1),
        )?;
        span(
            "report.debounce",
            raw.report.debounce,
            Duration::from_millis(10),
            raw.report.every,
        )?;
        let limits = decode_limits(raw.engine.payload_max.0)?;
        let (models, streams) = streams(raw.streams, &raw.models, &raw.root, limits)?;
        let expiry = raw.publish.expiry;
        let second = Duration::from_secs(1);
        if !expiry.is_zero() {
            span(
                "publish.expiry",
                expiry,
                second,
                Duration::from_hours(366 * 24),
            )?;
        }
        samples::need_coordinator(&streams, raw.coordinator.is_some())?;
        let outbox = outbox(&raw.outbox)?;
        for (key, flush) in [
            ("outbox.flush", raw.outbox.flush),
            ("outbox.flush_always", raw.outbox.flush_always),
        ] {
            span(key, flush, Duration::from_millis(1), Duration::from_mins(1))?;
        }
        span(
            "artifacts.check_timeout",
            raw.artifacts.check_timeout,
            second,
            Duration::from_hours(1),
        )?;
        if raw.artifacts.check_memory.0 < CHECK_MEMORY_BYTES_MIN {
            let wanted = "64MiB or more: less than that, no program starts in";
            return refuse("artifacts.check_memory", raw.artifacts.check_memory, wanted);
        }
        if let Some(rate) = raw.artifacts.rate.filter(|rate| rate.0 < 1_000) {
            return refuse(
                "artifacts.rate",
                rate,
                "1KB (a second) or more, or left out for no limit",
            );
        }
        Ok(Self {
            broker: broker(raw.broker, &raw.root, &streams)?,
            coordinator: raw
                .coordinator
                .map(|coordinator_raw| coordinator(coordinator_raw, &path, &raw.outbox))
                .transpose()?,
            path,
            groups: raw.groups,
            tags: raw.tags,
            time_zone: raw.time_zone,
            root: raw.root,
            data_dir: raw.data_dir,
            workers: raw.workers,
            queue: raw.engine.queue,
            when_full: raw.engine.when_full,
            publish: Properties {
                content_type: raw.publish.content_type,
                cloudevents: raw.publish.cloudevents,
                expiry: (!expiry.is_zero()).then_some(expiry),
            },
            report: Report {
                every: raw.report.every,
                debounce: raw.report.debounce,
            },
            outbox,
            artifacts: Artifacts {
                rate_bytes_per_s: raw.artifacts.rate.map(|rate| rate.0),
                check_memory_bytes: raw.artifacts.check_memory.0,
                check_timeout: raw.artifacts.check_timeout,
            },
            models,
            streams,
            self_program: None,
            self_prefix: Vec::new(),
            stuck_after: STUCK_AFTER,
        })
    }
}

/// A check under less than this fails for want of memory, whatever the bundle.
const CHECK_MEMORY_BYTES_MIN: u64 = 64 << 20;

fn within(key: &str, what: &str, value: usize, min: usize, max: usize) -> Outcome<()> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        refuse(key, value, format!("{min} to {max} {what}"))
    }
}

fn span(key: &str, value: Duration, min: Duration, max: Duration) -> Outcome<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let shown = humantime::format_duration;
    refuse(
        key,
        shown(value),
        format!("{} to {}", shown(min), shown(max)),
    )
}

fn decode_limits(payload_bytes: u64) -> Outcome<DecodeLimits> {
    let limit = lamppost_broker::Limits::default().payload_bytes_max as u64;
    match usize::try_from(payload_bytes) {
        Ok(payload_bytes_max) if payload_bytes > 0 => Ok(DecodeLimits {
            payload_bytes_max,
            ..DecodeLimits::default()
        }),
        _ => refuse(
            "engine.payload_max",
            payload_bytes,
            format!("1 byte or more; the broker's own limit is {limit}"),
        ),
    }
}

fn outbox(raw: &raw::RawOutbox) -> Outcome<OutboxConfig> {
    let prediction_cap = raw.prediction_cap.unwrap_or(raw.cap);
    for (key, cap) in [
        ("outbox.cap", raw.cap),
        ("outbox.prediction_cap", prediction_cap),
        ("outbox.sample_cap", raw.sample_cap),
    ] {
        if cap.0 < CAP_BYTES_MIN {
            let wanted = format!("{} or more", units::Bytes(CAP_BYTES_MIN));
            return refuse(key, cap, wanted);
        }
    }
    for (key, age) in [
        ("outbox.age", raw.age),
        ("outbox.sample_age", raw.sample_age),
    ] {
        span(
            key,
            age,
            Duration::from_mins(1),
            Duration::from_hours(3_660 * 24),
        )?;
    }
    let lane = |cap: units::Bytes, age_max| LaneLimits {
        cap_bytes: cap.0,
        age_max,
    };
    Ok(OutboxConfig {
        cap_bytes: raw.cap.0,
        predictions: lane(prediction_cap, raw.age),
        samples: lane(raw.sample_cap, raw.sample_age),
        free_reserve_bytes: raw.reserve.0,
    })
}

/// The broker's own form, with two things settled: nobody but the agent publishes below the topic root or on the flat
/// topics, whatever rules the table has, and sensors on the same machine need no password unless there are users.
fn broker(
    mut table: toml::Table,
    root: &TopicRoot,
    streams: &[Stream],
) -> Outcome<lamppost_broker::Config> {
    use lamppost_broker::{Action, Effect, Rule, Who};
    let knows_users = table.contains_key("user") || table.contains_key("users_file");
    if !knows_users && !table.contains_key("allow_anonymous") {
        table.insert("allow_anonymous".to_owned(), true.into());
    }
    if !table.contains_key("protected") {
        table.insert("protected".to_owned(), vec![format!("{root}/#")].into());
    }
    let read = table.try_into::<lamppost_broker::Config>();
    let mut config = read.map_err(|error| ConfigError::Broker(Box::new(error)))?;
    let ours = std::iter::once(format!("{root}/#"))
        .chain(streams.iter().filter_map(|stream| stream.flat.clone()));
    let rule = |filter| Rule {
        effect: Effect::Deny,
        who: Who::Any,
        action: Action::Publish,
        filter,
    };
    config.rules.splice(0..0, ours.map(rule));
    if config.limits.payload_bytes_max < MESSAGE_BYTES_MIN {
        let (value, wanted) = (
            config.limits.payload_bytes_max,
            "16384 or more: reports and predictions take that much",
        );
        return refuse("broker.limits.payload_bytes_max", value, wanted);
    }
    Ok(config)
}

/// A report of some streams and models, and a prediction with some labels.
const MESSAGE_BYTES_MIN: usize = 16 * 1024;
const _: () = assert!(MESSAGE_BYTES_MIN <= MESSAGE_BYTES_MAX);
