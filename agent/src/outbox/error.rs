//! What can go wrong with the outbox.

use std::io;
use std::path::PathBuf;

use lamppost_store::{OpenError, StoreError};

/// Why the outbox could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The cap is too small to work with.
    #[error("outbox cap of {cap_bytes} bytes is below the least, {limit} bytes")]
    Cap {
        /// The cap.
        cap_bytes: u64,
        /// The least.
        limit: u64,
    },
    /// Another process has it open.
    #[error("outbox {} is open in another process: stop that one first", dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
    /// The system refused.
    #[error("outbox {}: {action}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A generation could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A generation could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another version wrote it.
    #[error(
        "generation {generation} of the outbox is not of this version: upgrade the agent, or move the outbox away"
    )]
    Format {
        /// The generation.
        generation: u32,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// What should be written has no JSON form.
    #[error("cannot write down the state of the outbox")]
    Encode {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The file system has too little space.
    #[error(
        "{free_bytes} bytes are free, and {reserve_bytes} must stay free: make space on the disk"
    )]
    Reserve {
        /// Free bytes.
        free_bytes: u64,
        /// Bytes to leave free.
        reserve_bytes: u64,
    },
    /// Records were not stored.
    #[error("outbox shed {shed} records after {written} were written")]
    Unwritten {
        /// The first records, which are stored.
        written: u64,
        /// The rest, which is not, and is counted.
        shed: u64,
        /// Why.
        #[source]
        source: Box<OutboxError>,
    },
    /// An earlier failure left no generation to write to.
    #[error("outbox has no generation to write to after an earlier failure")]
    Inactive,
    /// All generation numbers are used.
    #[error("outbox has used all {} generation numbers: move it away", u32::MAX)]
    Exhausted,
}

impl OutboxError {
    /// Whether space on the disk would mend it.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            Self::Open(error) => error.is_disk_full(),
            Self::Store(error) => error.is_disk_full(),
            Self::Reserve { .. } => true,
            Self::Unwritten { source, .. } => source.is_disk_full(),
            Self::Cap { .. }
            | Self::Busy { .. }
            | Self::Format { .. }
            | Self::Encode { .. }
            | Self::Inactive
            | Self::Exhausted => false,
        }
    }
}
