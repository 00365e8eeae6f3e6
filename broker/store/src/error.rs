//! What can go wrong, one enum an operation.

use std::io;
use std::path::PathBuf;

use crate::options::OptionsError;

/// Why a store could not be opened. Damage alone is no reason: it ends in quarantine and a fresh store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict themselves.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Somebody else has it open.
    #[error("store {} is open in another process or handle: stop that one first", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
    /// It was made with another segment size or by another format.
    #[error("store {} was made as {found:?}, this build wants {wanted:?}: move it away or use the build that made it", path.display())]
    Incompatible {
        /// The store.
        path: PathBuf,
        /// What its marker says.
        found: String,
        /// What it should say.
        wanted: String,
    },
    /// The system refused, for a reason that is no damage: no space, no right, no file handle.
    #[error("store {}: {action}", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Even a fresh store does not open.
    #[error("store {} does not open even afresh: {cause}", path.display())]
    Unusable {
        /// The store.
        path: PathBuf,
        /// What sled said.
        cause: String,
    },
}

/// Why an operation on an open store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key is empty or too long.
    #[error("key {key} has {bytes} bytes, a key has 1 to {limit}")]
    Key {
        /// Its beginning, printable.
        key: String,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The value is too long.
    #[error("value of key {key} has {bytes} bytes, this store takes up to {limit}")]
    Value {
        /// The key, printable.
        key: String,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The commit is too large; nothing of it was written.
    #[error(
        "a commit of {writes} writes and {bytes} bytes is over {writes_max} writes or {bytes_max} bytes: split it"
    )]
    Commit {
        /// Its writes.
        writes: usize,
        /// Bytes of their keys and values.
        bytes: usize,
        /// Most writes.
        writes_max: usize,
        /// Most bytes.
        bytes_max: usize,
    },
    /// The value that the disk gave back is not the one that was written.
    #[error("value of key {key} in store {} is damaged", path.display())]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// The key, printable.
        key: String,
    },
    /// Reading failed.
    #[error("store {}: read", path.display())]
    Read {
        /// The store.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The commit failed: it may or may not be there when the store is opened again. The store has stopped.
    #[error("store {}: {action}", path.display())]
    Write {
        /// The store.
        path: PathBuf,
        /// The step.
        action: &'static str,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// An earlier failure stopped the store.
    #[error("store {} stopped earlier ({cause}): open it again", path.display())]
    Stopped {
        /// The store.
        path: PathBuf,
        /// That failure.
        cause: String,
    },
}

impl StoreError {
    /// Whether the disk, or a quota, is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => is_full(source),
            Self::Key { .. }
            | Self::Value { .. }
            | Self::Commit { .. }
            | Self::Corrupt { .. }
            | Self::Stopped { .. } => false,
        }
    }
}

impl OpenError {
    /// Whether the disk, or a quota, is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::Options(_)
            | Self::Busy { .. }
            | Self::Incompatible { .. }
            | Self::Unusable { .. } => false,
        }
    }
}

fn is_full(source: &io::Error) -> bool {
    matches!(
        source.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A key for people: printable, and cut after 64 bytes.
pub(crate) fn printable(key: &[u8]) -> String {
    const SHOWN: usize = 64;
    let shown = key.get(..SHOWN).unwrap_or(key).escape_ascii();
    if key.len() > SHOWN {
        format!("\"{shown}..\"")
    } else {
        format!("\"{shown}\"")
    }
}
