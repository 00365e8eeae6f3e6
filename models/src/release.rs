//! Which version of a model a group runs, in a signed envelope.
//!
//! A release is level-triggered: it says what should be, not what changed, so that a node which connects late or misses
//! ten of them reads the retained one and knows all. The signatures are Ed25519 (RFC 8032) over a prefix of this format
//! and the exact bytes of the release, which the envelope carries as they were signed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{GroupId, ModelName};
pub use crate::key::{ParseKeyError, PublicKey, SecretKey as ReleaseKey};
use crate::key::{Role, RoleError};
use crate::rollout::{Candidate, Cohort, Hours, TrialTerms, Who};
use crate::seal::{self, SealError, Signature};
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

/// A release with its signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Format version.
    pub v: V1,
    /// Id of the first key that signed.
    pub key: String,
    /// Its signature, base64.
    pub signature: String,
    /// Signatures of further keys. A node of before looks at the first alone, which it then must trust.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
    /// The release as it was signed: its JSON in base64.
    pub payload: String,
}

/// A release whose signatures were verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The release.
    pub release: Release,
    /// Ids of the trusted keys that signed it.
    pub signers: Vec<String>,
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
    /// More signatures than anybody needs.
    #[error(
        "release has {count} signatures, the limit is {}",
        seal::SIGNATURES_MAX
    )]
    Signatures {
        /// How many.
        count: usize,
    },
    /// Not enough trusted keys signed.
    #[error("release is signed by {signers} of the trusted keys, {threshold} must sign it")]
    TooFew {
        /// How many did.
        signers: usize,
        /// How many must.
        threshold: usize,
    },
    /// The keys that are said to be trusted make no role.
    #[error("the trusted keys are none")]
    Role(#[from] RoleError),
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
    /// Signs a release with this key alone.
    ///
    /// # Errors
    /// When the release cannot be written as JSON, which no release does.
    pub fn sign(&self, release: &Release) -> Result<Envelope, serde_json::Error> {
        Envelope::seal(release, self, &[])
    }
}

impl Envelope {
    /// Signs a release with `first` and `further` keys.
    ///
    /// # Errors
    /// When the release cannot be written as JSON, which no release does.
    pub fn seal(
        release: &Release,
        first: &ReleaseKey,
        further: &[ReleaseKey],
    ) -> Result<Self, serde_json::Error> {
        let payload = serde_json::to_vec(release)?;
        let sign = |key: &ReleaseKey| seal::sign(SIGNED_PREFIX, &payload, key);
        let Signature { key, signature } = sign(first);
        Ok(Self {
            v: V1,
            key,
            signature,
            signatures: further.iter().map(sign).collect(),
            payload: BASE64.encode(&payload),
        })
    }

    /// Reads an envelope and the release within, one of whose signatures must be by one of `trusted`.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is unsigned, altered, signed by another key, or no release.
    pub fn open(json: &[u8], trusted: &[PublicKey]) -> Result<Release, EnvelopeError> {
        let role = Role::new(trusted.to_vec(), 1)?;
        Ok(Self::verify(json, &role)?.release)
    }

    /// Reads an envelope and the release within, which as many keys of `role` must have signed as it asks for.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is unsigned, altered, signed by too few of these keys, or no release.
    pub fn verify(json: &[u8], role: &Role) -> Result<Verified, EnvelopeError> {
        if json.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: json.len() });
        }
        let envelope: Self = serde_json::from_slice(json).map_err(EnvelopeError::NotSigned)?;
        let first = Signature {
            key: envelope.key,
            signature: envelope.signature,
        };
        let signatures = [vec![first], envelope.signatures].concat();
        let opened = seal::open(SIGNED_PREFIX, &envelope.payload, &signatures, role);
        let (payload, signers) = opened.map_err(EnvelopeError::from)?;
        let release = serde_json::from_slice(&payload).map_err(EnvelopeError::Release)?;
        Ok(Verified { release, signers })
    }
}

impl From<SealError> for EnvelopeError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Malformed { field } => Self::Malformed { field },
            SealError::TooMany { count } => Self::Signatures { count },
            SealError::UnknownKey { key } => Self::UnknownKey { key },
            SealError::Signature { key } => Self::Signature { key },
            SealError::TooFew { signers, threshold } => Self::TooFew { signers, threshold },
        }
    }
}
