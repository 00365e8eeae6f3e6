//! Which version of a model a group runs, in a signed envelope.
//!
//! A release is level-triggered: it says what should be, not what changed, so that a node which connects late or misses
//! ten of them reads the retained one and knows all. The signature is Ed25519 (RFC 8032) over a prefix of this format
//! and the exact bytes of the release, which the envelope carries as they were signed.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use semver::Version;
use serde::de::{Deserializer, Error as _};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{GroupId, ModelName};
use crate::rollout::{Candidate, Cohort, Hours, TrialTerms, Who};
use crate::time::Timestamp;
use crate::version::V1;

/// Longest envelope in bytes: a release has some 500, a third more in base64, and room to grow.
pub const ENVELOPE_BYTES_MAX: usize = 16 * 1024;

/// Most bundles that a release revokes: the newest matter, since a node that has none of them never fetches one by itself.
pub const REVOKED_MAX: usize = 32;

/// What is signed in front of the release, so that a signature on anything else is none on a release.
const SIGNED_PREFIX: &[u8] = b"lamppost release v1\0";

/// Counts the releases of a model for a group; it only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which version of a model a group runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Format version.
    pub schema: V1,
    /// Who it is for.
    pub group: GroupId,
    /// The model.
    pub model: ModelName,
    /// Its place among the releases of this model for this group.
    pub sequence: Sequence,
    /// When it was signed, by the coordinator's clock.
    pub issued_at: Timestamp,
    /// From then on a node that has not taken it in refuses it; what runs goes on.
    pub expires_at: Timestamp,
    /// What every node of the group runs that is not meant by the candidate.
    pub stable: BundleRef,
    /// What some nodes of the group are to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// What a node checks before and after it changes to another bundle, whichever of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialTerms>,
    /// When, in its own time zone, a node begins to download and changes to another bundle; without it, at once. Going back is
    /// never put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Bundles that must not run, even where nothing else does; at most [`REVOKED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Digest>,
}

/// A version and the bytes that are meant by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRef {
    /// The version.
    pub version: Version,
    /// Digest of the bundle.
    pub digest: Digest,
    /// Size of the bundle.
    pub bytes: u64,
}

/// A release with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Format version.
    pub v: V1,
    /// Id of the key that signed.
    pub key: String,
    /// The signature, base64.
    pub signature: String,
    /// The release as it was signed: its JSON in base64.
    pub payload: String,
}

/// The secret half of a key pair that signs releases.
pub struct ReleaseKey(SigningKey);

/// The public half; `ed25519:` and the 32 bytes in base64 as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a string is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {value:?} is not ed25519: and 32 bytes in base64")]
pub struct ParseKeyError {
    value: String,
}

/// Why an envelope is refused.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Too much to read.
    #[error("release has {bytes} bytes, the limit is {ENVELOPE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not an envelope: an unsigned release, say.
    #[error("release is in no signed envelope")]
    NotSigned(#[source] serde_json::Error),
    /// Signature or payload is not base64 of the right length.
    #[error("{field} of the envelope is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// Signed by a key that is not trusted.
    #[error("release is signed by key {key}, which is not among the trusted keys")]
    UnknownKey {
        /// Its id.
        key: String,
    },
    /// The signature is not of these bytes.
    #[error("signature of key {key} does not fit the release: it was altered")]
    Signature {
        /// The key's id.
        key: String,
    },
    /// The signed bytes are no release.
    #[error("signed release does not parse")]
    Release(#[source] serde_json::Error),
}

impl Release {
    /// What a node is to run, and the candidate if that is it.
    pub fn wanted(&self, who: Who<'_>) -> (&BundleRef, Option<&Candidate>) {
        let exposed = |candidate: &&Candidate| candidate.cohort(who) == Cohort::Candidate;
        match self.candidate.as_ref().filter(exposed) {
            Some(candidate) => (&candidate.bundle, Some(candidate)),
            None => (&self.stable, None),
        }
    }
}

impl ReleaseKey {
    /// Makes the key pair of 32 secret random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a release.
    ///
    /// # Errors
    /// When the release cannot be written as JSON, which no release does.
    pub fn sign(&self, release: &Release) -> Result<Envelope, serde_json::Error> {
        let payload = serde_json::to_vec(release)?;
        let signature = self.0.sign(&signed_bytes(&payload));
        Ok(Envelope {
            v: V1,
            key: self.public().id(),
            signature: BASE64.encode(signature.to_bytes()),
            payload: BASE64.encode(payload),
        })
    }
}

impl fmt::Debug for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReleaseKey(public {})", self.public())
    }
}

impl PublicKey {
    /// The first 16 hexadecimal digits of the key's SHA-256: names it in envelopes and logs.
    pub fn id(&self) -> String {
        Digest::of(self.0.as_bytes()).hex()[..16].to_owned()
    }
}

impl Envelope {
    /// Reads an envelope and the release within, whose signature must be by one of `trusted`.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is unsigned, altered, signed by another key, or no release.
    pub fn open(json: &[u8], trusted: &[PublicKey]) -> Result<Release, EnvelopeError> {
        if json.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: json.len() });
        }
        let envelope: Self = serde_json::from_slice(json).map_err(EnvelopeError::NotSigned)?;
        let decode = |text: &str, field| {
            BASE64
                .decode(text)
                .map_err(|_| EnvelopeError::Malformed { field })
        };
        let signature: [u8; 64] = decode(&envelope.signature, "signature")?
            .try_into()
            .map_err(|_| EnvelopeError::Malformed { field: "signature" })?;
        let payload = decode(&envelope.payload, "payload")?;
        let Some(key) = trusted.iter().find(|key| key.id() == envelope.key) else {
            return Err(EnvelopeError::UnknownKey {
                key: envelope.key.chars().take(64).collect(),
            });
        };
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        if key
            .0
            .verify_strict(&signed_bytes(&payload), &signature)
            .is_err()
        {
            return Err(EnvelopeError::Signature { key: envelope.key });
        }
        serde_json::from_slice(&payload).map_err(EnvelopeError::Release)
    }
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, payload].concat()
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

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = String::deserialize(deserializer)?;
        value.parse().map_err(D::Error::custom)
    }
}
