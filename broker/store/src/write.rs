//! What a commit is made of, and its limits.

use crate::error::{StoreError, printable};
use crate::options::{KEY_BYTES_MAX, Options};

/// Most writes of one commit: sled keeps a commit in memory until it is sealed.
const COMMIT_WRITES_MAX: usize = 4096;
/// Most bytes of keys and values of one commit: eight segments of 512 KiB, or four values of 1 MiB.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
        /// Up to `value_bytes_max` of the store's [`Options`].
        value: Vec<u8>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

impl Write {
    /// Sets a key.
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Removes a key, if it is there.
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        Self::Delete { key: key.into() }
    }

    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Delete { .. } => None,
        }
    }
}

/// Holds a commit to the limits.
pub(crate) fn check(writes: &[Write], options: &Options) -> Result<(), StoreError> {
    let mut bytes = 0_usize;
    for write in writes {
        let (key, value_bytes) = (write.key(), write.value().map_or(0, <[u8]>::len));
        check_key(key)?;
        let limit = options.value_bytes_max;
        if value_bytes > limit {
            return Err(StoreError::Value {
                key: printable(key),
                bytes: value_bytes,
                limit,
            });
        }
        bytes = bytes.saturating_add(key.len()).saturating_add(value_bytes);
    }
    if writes.len() > COMMIT_WRITES_MAX || bytes > COMMIT_BYTES_MAX {
        return Err(StoreError::Commit {
            writes: writes.len(),
            bytes,
            writes_max: COMMIT_WRITES_MAX,
            bytes_max: COMMIT_BYTES_MAX,
        });
    }
    Ok(())
}

/// Holds a key to its limits.
pub(crate) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(StoreError::Key {
            key: printable(key),
            bytes: key.len(),
            limit: KEY_BYTES_MAX,
        });
    }
    Ok(())
}
