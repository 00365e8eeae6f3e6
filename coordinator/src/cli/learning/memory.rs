//! What a loop remembers, in a folder of its own: `loop.json`, and the bundle of a training that is under way.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use lamppost_coordinator_core::learning::{Cost, Ended, Learning, Outcome, Terms};
use lamppost_models::{Digest, GroupId, ModelName, Timestamp, V1};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::cli::{Exit, Failure, model};
use crate::clock::now;
use crate::files;

/// Largest file: 32 outcomes of some 500 bytes, with room for words.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Mode of what is written: it holds numbers and weights, no secrets.
const MODE: u32 = 0o644;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Memory {
    pub(super) v: V1,
    pub(super) model: ModelName,
    pub(super) group: GroupId,
    pub(super) learning: Learning,
    /// The version that the group ran at the last look.
    pub(super) active: Option<Digest>,
    /// The version that went live last.
    pub(super) live: Option<Live>,
    /// A version that is better on held-out samples and on its way to the edge.
    pub(super) under_way: Option<UnderWay>,
}

/// What the version that went live was trained from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) digest: Digest,
    pub(super) lessons: u64,
    /// Event time of the newest.
    pub(super) newest: Timestamp,
    /// Bytes of all samples at the centre then.
    pub(super) sample_bytes: u64,
}

/// Written once its bundle is on the disk, and before anything of it leaves this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct UnderWay {
    pub(super) version: Version,
    pub(super) live: Live,
    /// Labelled samples that were new to it.
    pub(super) samples: u64,
    pub(super) expected: f64,
    /// On held-out samples.
    pub(super) gain: f64,
    pub(super) cost: Cost,
}

impl UnderWay {
    /// How it ended.
    pub(super) fn outcome(&self, cost: Cost, ended: Ended) -> Outcome {
        Outcome {
            at: now(),
            samples: self.samples,
            expected: self.expected,
            cost,
            ended,
        }
    }
}

/// The folder, held by this process alone.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is missing, and holds it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let named = |error: std::io::Error| {
            Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(named)?;
        let lock = File::create(path.join("lock")).map_err(named)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => {
                let text = format!(
                    "a loop runs in {}: stop it first, or name another folder with --state",
                    path.display()
                );
                Err(Failure::new(Exit::Failed, text))
            }
            Err(TryLockError::Error(error)) => Err(named(error)),
        }
    }

    /// Of this model and group; a new one where nothing is there.
    pub(super) fn memory(&self, model: &ModelName, group: &GroupId) -> Result<Memory, Failure> {
        let memory = match read(&self.path) {
            Ok(memory) => memory,
            Err(failure) if failure.exit == Exit::NotFound => Memory {
                v: V1,
                model: model.clone(),
                group: group.clone(),
                learning: Learning::default(),
                active: None,
                live: None,
                under_way: None,
            },
            Err(failure) => return Err(failure),
        };
        if (&memory.model, &memory.group) != (model, group) {
            let text = format!(
                "{} is of {} in group {}, the policy is of {model} in group {group}: name another folder with --state",
                self.path.display(),
                memory.model,
                memory.group
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        Ok(memory)
    }

    pub(super) fn save(&self, memory: &Memory) -> Result<(), Failure> {
        let json = serde_json::to_vec_pretty(memory).map_err(|error| Failure::failed(&error))?;
        self.write("loop.json", &json)
    }

    /// The bundle under way.
    pub(super) fn bundle(&self) -> Result<Vec<u8>, Failure> {
        model::read_file(
            &self.path.join("bundle.tar"),
            lamppost_models::bundle::BUNDLE_BYTES_MAX,
        )
    }

    /// The bundle of the last training, where it did not go live.
    pub(super) fn last(&self) -> Option<Vec<u8>> {
        model::read_file(
            &self.path.join("last.tar"),
            lamppost_models::bundle::BUNDLE_BYTES_MAX,
        )
        .ok()
    }

    pub(super) fn keep_bundle(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.write("bundle.tar", bytes)
    }

    pub(super) fn keep_last(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.write("last.tar", bytes)
    }

    /// Takes in how a training ended; what it was decided by is done with in the same write.
    pub(super) fn record(
        &self,
        memory: &mut Memory,
        outcome: Outcome,
        terms: &Terms,
    ) -> Result<(), Failure> {
        if let Some(under_way) = memory.under_way.take() {
            if matches!(outcome.ended, Ended::Promoted { .. }) {
                memory.live = Some(under_way.live);
                files::discard(&self.path.join("last.tar"));
            } else {
                self.keep_last(&self.bundle()?)?;
            }
        }
        memory.learning.record(outcome, terms);
        self.save(memory)?;
        files::discard(&self.path.join("bundle.tar"));
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.path.join(name);
        let named = |error: std::io::Error| {
            Failure::new(
                Exit::Failed,
                format!("{} cannot be written: {error}", path.display()),
            )
        };
        files::write_whole(&path, bytes, MODE).map_err(named)
    }
}

/// What is remembered in a folder, whether a loop runs there or not.
pub(super) fn read(path: &Path) -> Result<Memory, Failure> {
    let path = path.join("loop.json");
    let bytes = model::read_file(&path, FILE_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{} is not what a loop wrote: {error}", path.display()),
        )
    })
}
