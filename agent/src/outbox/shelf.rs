//! The outbox's directory: generations, what is being deleted, and a note of what was made.
//!
//! ```text
//! gen-00000007/    a generation
//! del-00000006/    a generation that is done and being deleted; an empty one says that it is gone on purpose
//! quarantine/      damaged generations, a bounded number
//! budget           what was sent today, and a little more
//! sampled          the same of samples, by stream
//! run              the run of the agent that has it, and how it ended
//! outbox           the epoch and the newest generation that was made, replaced as a whole
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lamppost_agent_core::pace::Spent;
use lamppost_models::{Epoch, StreamName};
use lamppost_store::{create_dir, used_bytes};

use super::OutboxError;

const NOTE: &str = "outbox";
const NOTE_NEW: &str = "outbox.new";
const RUN: &str = "run";
const RUN_NEW: &str = "run.new";
const BUDGET: &str = "budget";
const BUDGET_NEW: &str = "budget.new";
const SAMPLED: &str = "sampled";
const SAMPLED_NEW: &str = "sampled.new";
const QUARANTINE: &str = "quarantine";

/// The directory, held against other processes.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    _lock: File,
    /// Bytes of each generation on the disk.
    bytes: BTreeMap<u32, u64>,
    /// Bytes beside the generations.
    other_bytes: u64,
}

/// The note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The outbox.
    pub(super) epoch: Epoch,
    /// The newest generation.
    pub(super) newest: u32,
}

impl Shelf {
    /// Opens the directory, and makes it if it is not there.
    pub(super) fn open(dir: &Path) -> Result<Self, OutboxError> {
        let failed = |action, source| OutboxError::Io {
            dir: dir.to_owned(),
            action,
            source,
        };
        create_dir(dir).map_err(|error| failed("make its directory", error))?;
        let lock = File::open(dir).map_err(|error| failed("open its directory", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OutboxError::Busy {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock its directory", error)),
        }
        let mut shelf = Self {
            dir: dir.to_owned(),
            _lock: lock,
            bytes: BTreeMap::new(),
            other_bytes: 0,
        };
        for generation in shelf.numbered("gen-")? {
            shelf.measure(generation);
        }
        shelf.measure_others();
        Ok(shelf)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a generation is.
    pub(super) fn path(&self, generation: u32) -> PathBuf {
        self.dir.join(format!("gen-{generation:08}"))
    }

    fn grave(&self, generation: u32) -> PathBuf {
        self.dir.join(format!("del-{generation:08}"))
    }

    /// The generations that are there, oldest first.
    pub(super) fn generations(&self) -> Result<Vec<u32>, OutboxError> {
        self.numbered("gen-")
    }

    /// The generations that were deleted on purpose, and of which nothing else may say so.
    pub(super) fn graves(&self) -> Result<Vec<u32>, OutboxError> {
        self.numbered("del-")
    }

    fn numbered(&self, prefix: &str) -> Result<Vec<u32>, OutboxError> {
        let failed = |source| OutboxError::Io {
            dir: self.dir.clone(),
            action: "list its directory",
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(
                name.to_str()
                    .and_then(|name| name.strip_prefix(prefix))
                    .and_then(|number| number.parse::<u32>().ok()),
            );
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Reads the note; a damaged one is none.
    pub(super) fn note(&self) -> Option<Note> {
        let text = fs::read_to_string(self.dir.join(NOTE)).ok()?;
        let mut words = text
            .strip_prefix("lamppost-outbox 1 epoch ")?
            .strip_suffix('\n')?
            .split(" newest ");
        let (epoch, newest) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        words.next().is_none().then_some(Note { epoch, newest })
    }

    /// Replaces the note.
    pub(super) fn write_note(&self, note: Note) -> Result<(), OutboxError> {
        let text = format!(
            "lamppost-outbox 1 epoch {} newest {}\n",
            note.epoch, note.newest
        );
        self.replace(NOTE_NEW, NOTE, &text)
            .map_err(|source| OutboxError::Io {
                dir: self.dir.clone(),
                action: "write its note",
                source,
            })
    }

    /// Reads the runs; nothing when there are none, or they cannot be read.
    pub(super) fn read_runs(&self) -> String {
        fs::read_to_string(self.dir.join(RUN)).unwrap_or_default()
    }

    /// Replaces the runs.
    pub(super) fn write_runs(&self, text: &str) -> Result<(), OutboxError> {
        self.replace(RUN_NEW, RUN, text)
            .map_err(|source| OutboxError::Io {
                dir: self.dir.clone(),
                action: "write which run of the agent has it",
                source,
            })
    }

    /// Reads what was sent today; a damaged note is none.
    pub(super) fn read_spent(&self) -> Option<Spent> {
        let text = fs::read_to_string(self.dir.join(BUDGET)).ok()?;
        let text = text
            .strip_prefix("lamppost-budget 1 ")?
            .strip_suffix('\n')?;
        spent(text)
    }

    /// Reads what was used of the samples' budgets; a damaged line is none.
    pub(super) fn read_sampled(&self) -> BTreeMap<StreamName, Spent> {
        let text = fs::read_to_string(self.dir.join(SAMPLED)).unwrap_or_default();
        let line = |line: &str| {
            let (stream, rest) = line.strip_prefix("lamppost-sampled 1 ")?.split_once(' ')?;
            Some((StreamName::new(stream).ok()?, spent(rest)?))
        };
        text.lines().filter_map(line).collect()
    }

    /// Replaces what was used of the samples' budgets.
    pub(super) fn write_sampled(
        &self,
        sampled: &BTreeMap<StreamName, Spent>,
    ) -> Result<(), OutboxError> {
        let line = |(stream, spent): (&StreamName, &Spent)| {
            let Spent { since, bytes } = spent;
            format!("lamppost-sampled 1 {stream} {since} {bytes}\n")
        };
        let text: String = sampled.iter().map(line).collect();
        self.replace(SAMPLED_NEW, SAMPLED, &text)
            .map_err(|source| OutboxError::Io {
                dir: self.dir.clone(),
                action: "write what was used of the samples' budgets",
                source,
            })
    }

    /// Replaces what was sent today.
    pub(super) fn write_spent(&self, spent: Spent) -> Result<(), OutboxError> {
        let text = format!("lamppost-budget 1 {} {}\n", spent.since, spent.bytes);
        self.replace(BUDGET_NEW, BUDGET, &text)
            .map_err(|source| OutboxError::Io {
                dir: self.dir.clone(),
                action: "write what was sent today",
                source,
            })
    }

    fn replace(&self, new: &str, name: &str, text: &str) -> io::Result<()> {
        let mut file = File::create(self.dir.join(new))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(self.dir.join(new), self.dir.join(name))?;
        self.sync()
    }

    /// Deletes what is in a generation, and leaves its empty grave. What cannot be deleted now is tried again later.
    pub(super) fn bury(&mut self, generation: u32) {
        let bury = || {
            fs::rename(self.path(generation), self.grave(generation))?;
            self.sync()?;
            empty(&self.grave(generation))
        };
        if let Err(error) = bury() {
            tracing::warn!(generation, %error, "cannot delete a generation of the outbox");
        }
        self.measure(generation);
        self.measure_others();
    }

    /// Deletes a generation that nothing speaks of.
    pub(super) fn discard(&mut self, generation: u32) {
        if let Err(error) = fs::remove_dir_all(self.path(generation)) {
            tracing::warn!(generation, %error, "cannot delete an unfinished generation of the outbox");
        }
        self.measure(generation);
        self.measure_others();
    }

    /// Removes the graves, once what is written down tells no more of their generations.
    pub(super) fn clear_graves(&mut self) {
        let graves = self.graves().unwrap_or_default();
        for generation in &graves {
            if let Err(error) = fs::remove_dir_all(self.grave(*generation)) {
                tracing::warn!(generation, %error, "cannot delete what is left of a generation of the outbox");
            }
        }
        if !graves.is_empty() {
            self.measure_others();
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Takes the size of a generation, which may be gone.
    pub(super) fn measure(&mut self, generation: u32) -> u64 {
        let path = self.path(generation);
        if !path.is_dir() {
            self.bytes.remove(&generation);
            return 0;
        }
        let bytes = used_bytes(&path);
        self.bytes.insert(generation, bytes);
        bytes
    }

    /// Takes the size of what is beside the generations.
    pub(super) fn measure_others(&mut self) {
        let graves = self
            .graves()
            .unwrap_or_default()
            .into_iter()
            .map(|generation| self.grave(generation));
        self.other_bytes = graves
            .chain([self.dir.join(QUARANTINE)])
            .map(|path| used_bytes(&path))
            .sum();
    }

    /// Bytes of each generation on the disk, as last measured.
    pub(super) fn bytes(&self) -> &BTreeMap<u32, u64> {
        &self.bytes
    }

    /// Bytes of quarantine and of what is being deleted.
    pub(super) fn other_bytes(&self) -> u64 {
        self.other_bytes
    }

    /// Bytes of everything.
    pub(super) fn total_bytes(&self) -> u64 {
        self.bytes.values().sum::<u64>() + self.other_bytes
    }
}

/// Bytes that are free for this process on the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Deletes what is in a directory.
fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The day and the bytes of a note.
fn spent(text: &str) -> Option<Spent> {
    let (since, bytes) = text.split_once(' ')?;
    Some(Spent {
        since: since.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_read_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        assert_eq!(shelf.note(), None);
        let note = Note {
            epoch: Epoch::from_u64(0xbeef),
            newest: 12,
        };
        shelf.write_note(note).unwrap();
        assert_eq!(shelf.note(), Some(note));
        let text = fs::read_to_string(dir.path().join(NOTE)).unwrap();
        assert_eq!(text, "lamppost-outbox 1 epoch 000000000000beef newest 12\n");
        for cut in 0..text.len() {
            fs::write(dir.path().join(NOTE), &text[..cut]).unwrap();
            assert_eq!(shelf.note(), None, "{:?}", &text[..cut]);
        }
    }

    #[test]
    fn a_buried_generation_leaves_a_grave_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(dir.path()).unwrap();
        fs::create_dir_all(shelf.path(3).join("blobs")).unwrap();
        fs::write(shelf.path(3).join("db"), vec![1; 100_000]).unwrap();
        assert!(shelf.measure(3) >= 100_000);
        shelf.bury(3);
        assert_eq!(
            (shelf.generations().unwrap(), shelf.graves().unwrap()),
            (vec![], vec![3])
        );
        assert_eq!(shelf.total_bytes(), 0);
        shelf.clear_graves();
        assert_eq!(shelf.graves().unwrap(), [0; 0]);
    }

    #[test]
    fn the_directory_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        assert!(matches!(
            Shelf::open(dir.path()),
            Err(OutboxError::Busy { .. })
        ));
        drop(shelf);
        Shelf::open(dir.path()).unwrap();
    }
}
