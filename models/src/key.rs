//! Keys that sign, and how many of them must.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Most keys of a role: a key for each of a handful of people or machines, twice while they are replaced.
pub const ROLE_KEYS_MAX: usize = 16;

/// The secret half of a key pair; `lamppost serve` and `lamppost keys` sign with it.
pub struct SecretKey(pub(crate) SigningKey);

/// The public half; `ed25519:` and the 32 bytes in base64 as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(crate) VerifyingKey);

/// Why a string is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {value:?} is not ed25519: and 32 bytes in base64")]
pub struct ParseKeyError {
    value: String,
}

/// Who may sign something, and how many of them must: 1 to [`ROLE_KEYS_MAX`] different keys, a threshold from 1 to their
/// number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRole")]
pub struct Role {
    keys: Vec<PublicKey>,
    threshold: usize,
}

/// A role as it is read, before it is checked.
#[derive(Deserialize)]
struct RawRole {
    keys: Vec<PublicKey>,
    threshold: usize,
}

/// Why keys and a threshold make no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// None, or too many.
    #[error("{keys} keys are none or too many: name 1 to {ROLE_KEYS_MAX}")]
    Keys {
        /// How many.
        keys: usize,
    },
    /// One key counts once.
    #[error("key {key} is named twice: one key counts once, name each once")]
    Twice {
        /// Its id.
        key: String,
    },
    /// It can never or always be met.
    #[error("a threshold of {threshold} cannot be met by {keys} keys: choose 1 to {keys}")]
    Threshold {
        /// The threshold.
        threshold: usize,
        /// How many keys there are.
        keys: usize,
    },
}

impl SecretKey {
    /// Makes the key pair of 32 secret random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(public {})", self.public())
    }
}

impl PublicKey {
    /// The first 16 hexadecimal digits of the key's SHA-256: names it in envelopes and logs.
    pub fn id(&self) -> String {
        Digest::of(self.0.as_bytes()).hex()[..16].to_owned()
    }
}

impl Role {
    /// Checks keys and threshold.
    ///
    /// # Errors
    /// [`RoleError`] when they make no role.
    pub fn new(keys: Vec<PublicKey>, threshold: usize) -> Result<Self, RoleError> {
        if keys.is_empty() || keys.len() > ROLE_KEYS_MAX {
            return Err(RoleError::Keys { keys: keys.len() });
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].contains(key) {
                return Err(RoleError::Twice { key: key.id() });
            }
        }
        if threshold == 0 || threshold > keys.len() {
            return Err(RoleError::Threshold {
                threshold,
                keys: keys.len(),
            });
        }
        Ok(Self { keys, threshold })
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// How many of them must sign.
    pub const fn threshold(&self) -> usize {
        self.threshold
    }

    /// The same keys, any one of which is enough.
    #[must_use]
    pub fn any(&self) -> Self {
        Self {
            keys: self.keys.clone(),
            threshold: 1,
        }
    }

    /// The key of that id.
    pub fn key(&self, id: &str) -> Option<PublicKey> {
        self.keys.iter().find(|key| key.id() == id).copied()
    }

    /// The ids of the keys.
    pub fn ids(&self) -> Vec<String> {
        self.keys.iter().map(PublicKey::id).collect()
    }
}

impl TryFrom<RawRole> for Role {
    type Error = RoleError;

    fn try_from(RawRole { keys, threshold }: RawRole) -> Result<Self, Self::Error> {
        Self::new(keys, threshold)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", BASE64.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let parsed = value.strip_prefix("ed25519:").and_then(|text| {
            let bytes: [u8; 32] = BASE64.decode(text).ok()?.try_into().ok()?;
            VerifyingKey::from_bytes(&bytes).ok()
        });
        parsed.map(Self).ok_or_else(|| ParseKeyError {
            value: value.chars().take(80).collect(),
        })
    }
}

crate::as_text!(PublicKey);
