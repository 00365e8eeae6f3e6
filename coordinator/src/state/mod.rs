//! All that the coordinator knows, held by one owner.
//!
//! Everything here is in the store as well: what a method changes is committed first and taken into memory then, so that
//! a coordinator that is killed at any point reads the same state again. All calls block.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use lamppost_coordinator_core::inventory::{Inventory, NodeEntry};
use lamppost_coordinator_core::ledger::NodeLedger;
use lamppost_coordinator_core::rollout::campaign::Campaigns;
use lamppost_coordinator_core::rollout::{Book, Rollout};
use lamppost_coordinator_core::shelf::{Caps, Shelf};
use lamppost_models::{ModelName, NodePath, Timestamp, TopicRoot};
use lamppost_store::{Options, Recovery, Store, StoreError, Write};
use semver::Version;
use serde::de::DeserializeOwned;

use crate::api::ModelRow;
use crate::config::{Config, SampleLimits};

mod audit;
mod campaigns;
mod counters;
mod given;
mod ingest;
mod keys;
mod ledger;
mod models;
mod pages;
mod rollouts;
mod samples;
mod trusted;

pub(crate) use audit::{
    Checked, From as AuditFrom, PAGE_MAX as AUDIT_PAGE_MAX, ends as audit_ends,
};
pub(crate) use counters::Counters;
pub(crate) use given::DAYS_MAX as GIVEN_DAYS_MAX;
pub(crate) use ingest::{Incoming, NodeAck, check_label};
pub(crate) use models::{ModelError, VERSION_BYTES_MAX};
pub(crate) use pages::Wanted;
pub(crate) use rollouts::{NodePage, RolloutError};
pub(crate) use samples::{SampleCounts, SamplePart};

/// Ledgers and shelves that stay in memory from one round to the next; each some 500 bytes for a stream, and more while its
/// node replays many boots. Beyond it all are dropped and read again as they are needed.
const DESKS_MAX: usize = 4_096;

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStateError {
    /// The store does not open.
    #[error("the coordinator's store cannot be opened")]
    Open(#[from] lamppost_store::OpenError),
    /// The store does not read.
    #[error("the coordinator's store cannot be read")]
    Read(#[from] StoreError),
}

/// What the state needs of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) root: TopicRoot,
    pub(crate) nodes_max: usize,
    pub(crate) stale_after: Duration,
    pub(crate) caps: Caps,
    pub(crate) samples: SampleLimits,
    pub(crate) release_lifetime: Duration,
}

impl Settings {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            root: config.root.clone(),
            nodes_max: config.inventory.nodes_max,
            stale_after: config.inventory.stale_after,
            caps: Caps {
                records: config.predictions.node_records_max,
                bytes: config.predictions.node_bytes_max,
            },
            samples: config.samples,
            release_lifetime: config.release_lifetime,
        }
    }
}

/// All that the coordinator knows.
pub(crate) struct State {
    store: Store,
    pub(crate) settings: Settings,
    pub(crate) inventory: Inventory,
    pub(crate) book: Book,
    pub(crate) campaigns: Campaigns,
    log: audit::Log,
    models: BTreeMap<ModelName, BTreeMap<Version, ModelRow>>,
    desks: HashMap<NodePath, Desk>,
    samples: samples::Samples,
    pub(crate) counters: Counters,
    /// A report or a step may have changed what a look at a campaign comes to.
    stirred: bool,
    looked_at: Option<Timestamp>,
    /// A commit failed, and what is in memory may differ from what is on the disk: open the state anew.
    stopped: bool,
    /// Everything that was ever stored was read when the state was opened.
    complete: bool,
    #[cfg(test)]
    pub(crate) fail_next_commit: Option<StoreError>,
}

/// What is known of a node's deliveries.
#[derive(Default)]
struct Desk {
    ledger: NodeLedger,
    shelf: Shelf,
}

impl State {
    /// Opens the store in `dir` and reads what is in memory at all times.
    pub(crate) fn open(dir: &Path, settings: Settings) -> Result<Self, OpenStateError> {
        let opened = Store::open(dir, &Options::state())?;
        let complete = match opened.recovery {
            Recovery::Clean => true,
            Recovery::Fresh => false,
            Recovery::SnapshotDropped => {
                tracing::warn!("the store's snapshot was damaged; its log gave everything again");
                true
            }
            Recovery::Quarantined { to, cause } => {
                let to = to.display();
                tracing::error!(%to, cause, "the store was damaged and is moved away: models, rollouts and inventory are empty");
                false
            }
        };
        let mut state = Self {
            store: opened.store,
            inventory: Inventory::new(settings.nodes_max),
            settings,
            book: Book::new(),
            campaigns: Campaigns::new(),
            log: audit::Log::default(),
            models: BTreeMap::new(),
            desks: HashMap::new(),
            samples: samples::Samples::default(),
            counters: Counters::default(),
            stirred: true,
            looked_at: None,
            stopped: false,
            complete,
            #[cfg(test)]
            fail_next_commit: None,
        };
        state.load()?;
        Ok(state)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        for row in self.read_all::<ModelRow>(keys::MODELS)? {
            self.models
                .entry(row.name.clone())
                .or_default()
                .insert(row.version.clone(), row);
        }
        for rollout in self.read_all::<Rollout>(keys::ROLLOUTS)? {
            self.book.apply(rollout);
        }
        for entry in self.read_all::<NodeEntry>(keys::NODES)? {
            self.inventory.restore(entry);
        }
        self.load_campaigns(crate::clock::now())?;
        self.load_samples()?;
        self.load_audit()
    }

    /// Everything below `prefix`. What is damaged is skipped, counted and logged: the rest is worth more than nothing.
    fn read_all<T: DeserializeOwned>(&mut self, prefix: &str) -> Result<Vec<T>, StoreError> {
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        for entry in self.store.scan_prefix(prefix.as_bytes()) {
            match entry {
                Ok((key, value)) => match serde_json::from_slice(&value) {
                    Ok(row) => rows.push(row),
                    Err(error) => damaged.push(format!("{}: {error}", key.escape_ascii())),
                },
                Err(error @ StoreError::Corrupt { .. }) => damaged.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        for what in damaged {
            self.counters.note("damaged_record");
            tracing::error!(what, "a record in the store is damaged and is skipped");
        }
        Ok(rows)
    }

    /// One value, `None` when it is not there or damaged.
    fn read_one<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, StoreError> {
        let what = match self.store.get(key.as_bytes()) {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => match serde_json::from_slice(&value) {
                Ok(row) => return Ok(Some(row)),
                Err(error) => format!("{key}: {error}"),
            },
            Err(error @ StoreError::Corrupt { .. }) => error.to_string(),
            Err(error) => return Err(error),
        };
        self.counters.note("damaged_record");
        tracing::error!(what, "a record in the store is damaged and is skipped");
        Ok(None)
    }

    /// Whether all that was ever stored is known: what nothing names is then of no use to anybody.
    pub(crate) fn complete(&self) -> bool {
        self.complete && self.counters.counts().is_empty()
    }

    /// Whether the state must be opened anew.
    pub(crate) const fn stopped(&self) -> bool {
        self.stopped
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(error) = self.fail_next_commit.take() {
            self.stopped |= stops(&error);
            return Err(error);
        }
        self.store
            .commit(writes)
            .inspect_err(|error| self.stopped |= stops(error))
    }

    /// The ledger and the shelf of a node, read when they are not in memory.
    fn desk(&mut self, path: &NodePath) -> Result<&mut Desk, StoreError> {
        if !self.desks.contains_key(path) {
            let desk = self.read_desk(path)?;
            self.desks.insert(path.clone(), desk);
        }
        Ok(self.desks.entry(path.clone()).or_default())
    }

    /// Between rounds everything in memory is on the disk too.
    fn trim_desks(&mut self) {
        if self.desks.len() > DESKS_MAX {
            self.desks.clear();
        }
    }

    fn read_desk(&mut self, path: &NodePath) -> Result<Desk, StoreError> {
        let shelf = self.read_one(&keys::shelf(path))?.unwrap_or_default();
        let mut ledger = NodeLedger::new();
        let prefix = keys::marks(path);
        for entry in self.store.scan_prefix(prefix.as_bytes()) {
            let restored = entry.map(|(key, value)| {
                let below = key
                    .get(prefix.len()..)
                    .and_then(|below| std::str::from_utf8(below).ok());
                below
                    .and_then(keys::parse_mark)
                    .is_some_and(|mark| ledger.restore(mark, &value).is_ok())
            });
            match restored {
                Ok(true) => {}
                Ok(false) | Err(StoreError::Corrupt { .. }) => {
                    self.counters.note("damaged_record");
                    tracing::error!(node = %path, "a mark of what arrived is damaged: what it knew may be stored twice");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Desk { ledger, shelf })
    }
}

/// Whether the store works no more after this error.
const fn stops(error: &StoreError) -> bool {
    match error {
        StoreError::Read { .. } | StoreError::Write { .. } | StoreError::Stopped { .. } => true,
        StoreError::Key { .. }
        | StoreError::Value { .. }
        | StoreError::Commit { .. }
        | StoreError::Corrupt { .. } => false,
    }
}

/// JSON of one of our types. Their maps have text for keys and their numbers are finite or null, so that it exists.
fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings::of(&Config::default())
    }

    pub(crate) fn open(dir: &Path) -> State {
        State::open(&dir.join("state"), settings()).unwrap()
    }

    pub(crate) fn disk_full() -> StoreError {
        StoreError::Write {
            path: "state".into(),
            action: "commit",
            source: std::io::ErrorKind::StorageFull.into(),
        }
    }

    /// As many predictions as there are in a test, of every stream.
    pub(crate) fn all() -> Wanted {
        Wanted {
            stream: None,
            before: None,
            limit: 10_000,
        }
    }

    pub(crate) fn at(seconds: i64) -> lamppost_models::Timestamp {
        lamppost_models::Timestamp::EPOCH.offset_ms(seconds * 1000)
    }
}
