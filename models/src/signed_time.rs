//! What time it is, signed, for nodes whose clock knows nothing.
//!
//! Retained on `R/time` it is a lower bound of now: it was true when it was signed, and later it is later. With the nonce of
//! a node's question it is fresh: nobody can have had it before the question was asked.
//!
//! One release key is enough, whatever the threshold of releases. A time installs nothing: a thief of one key can have nodes
//! believe that it is late, so that they take no release in until the key is revoked, or keep from them that messages are
//! held back. A threshold would need all the signing machines once a minute.

use serde::{Deserialize, Serialize};

use crate::id::Nonce;
use crate::key::{Role, SecretKey};
use crate::seal::{SealError, Sealed};
use crate::time::Timestamp;
use crate::trust::TrustVersion;
use crate::version::V1;

/// Longest signed time in bytes: it has some 500 with two signatures.
pub const TIME_BYTES_MAX: usize = 8 * 1024;
/// Longest question.
pub const QUESTION_BYTES_MAX: usize = 256;

/// What is signed in front of it, so that a signature on anything else is none on a time.
const SIGNED_PREFIX: &[u8] = b"lamppost time v1\0";

/// What time it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTime {
    /// Format version.
    pub schema: V1,
    /// By the coordinator's clock, when it was signed.
    pub time: Timestamp,
    /// The question that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// The newest trust document that the coordinator has: a node that has an older one is kept from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustVersion>,
}

/// What a node asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeQuestion {
    /// Format version.
    pub v: V1,
    /// Drawn at random for this question.
    pub nonce: Nonce,
}

/// Why a signed time is refused.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// Too much to read.
    #[error("signed time has {bytes} bytes, the limit is {TIME_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a signed time.
    #[error("signed time does not parse")]
    Parse(#[source] serde_json::Error),
    /// Not signed by a release key.
    #[error("signed time is not signed by a release key")]
    Signatures(#[source] SealError),
}

impl SignedTime {
    /// Signs it.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which no time does.
    pub fn seal<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k SecretKey>,
    ) -> Result<Sealed, serde_json::Error> {
        Sealed::of(self, SIGNED_PREFIX, keys)
    }

    /// Reads a signed time and the ids of the keys of `release` that signed it; one is enough.
    ///
    /// # Errors
    /// [`TimeError`] when it is none, or none of them signed it.
    pub fn open(json: &[u8], release: &Role) -> Result<(Self, Vec<String>), TimeError> {
        if json.len() > TIME_BYTES_MAX {
            return Err(TimeError::TooLarge { bytes: json.len() });
        }
        let sealed: Sealed = serde_json::from_slice(json).map_err(TimeError::Parse)?;
        let opened = sealed.open(SIGNED_PREFIX, &release.any());
        let (payload, signers) = opened.map_err(TimeError::Signatures)?;
        let time = serde_json::from_slice(&payload).map_err(TimeError::Parse)?;
        Ok((time, signers))
    }
}
