//! Who may sign: the chain of trust documents.
//!
//! A document lists the keys of two roles. *Release* keys are on the coordinator and sign releases and times; *root* keys are
//! kept offline and sign nothing but these documents. The rule is that of TUF's root role (specification, section 5.3):
//! document n + 1 is signed by as many root keys of document n as that asks for, and by as many of its own. So a node that
//! trusts any one of them can follow the whole chain by itself, after years without a link, and nobody without the root keys
//! can lead it astray.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::{PublicKey, Role, SecretKey};
use crate::seal::{SealError, Sealed};
use crate::time::Timestamp;
use crate::version::V1;

/// Most documents of a chain: two changes of keys a year, for 16 years. When it is full, nodes are given a new first one.
pub const CHAIN_DOCUMENTS_MAX: usize = 32;
/// Longest chain in bytes: a document with three root keys, two release keys and their signatures has some 1,300.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// What is signed in front of a document, so that a signature on anything else is none on a document.
const SIGNED_PREFIX: &[u8] = b"lamppost trust v1\0";

/// Counts the documents of a chain, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustVersion(pub u64);

impl TrustVersion {
    /// The first.
    pub const FIRST: Self = Self(1);

    /// The one behind it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for TrustVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A trust document: who may sign what, until there is a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Format version.
    pub schema: V1,
    /// Its place in the chain.
    pub version: TrustVersion,
    /// When it was made, by the clock of whoever made it.
    pub issued_at: Timestamp,
    /// From then on a node takes no release in until it has a newer document; what runs goes on. Without it, never: it bounds
    /// for how long somebody who has a release key and the nodes' link can hide that the key was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who signs trust documents.
    pub root: Role,
    /// Who signs releases; each of them alone signs times.
    pub release: Role,
}

/// The documents from the oldest that a node may have been set up with to the newest: what `R/trust` and `trust.json` hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Format version.
    pub v: V1,
    /// In order, 1 to [`CHAIN_DOCUMENTS_MAX`].
    pub chain: Vec<Sealed>,
}

/// What a chain is followed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// A document that is trusted.
    Document(Trust),
    /// Root keys that are trusted: the first document that they signed is taken.
    Roots(Role),
}

/// How far a chain leads.
#[derive(Debug)]
pub struct Walk {
    /// The newest document that it proves, if that is newer than the anchor.
    pub reached: Option<Trust>,
    /// Why it leads no further, although it goes on.
    pub stopped: Option<TrustError>,
}

/// Why a document or a chain is refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Too much to read.
    #[error("trust chain has {bytes} bytes, the limit is {CHAIN_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a chain, or a document that is none.
    #[error("trust chain does not parse")]
    Parse(#[source] serde_json::Error),
    /// None, or too many.
    #[error("trust chain has {documents} documents, it must have 1 to {CHAIN_DOCUMENTS_MAX}")]
    Documents {
        /// How many.
        documents: usize,
    },
    /// It is not signed as it must be.
    #[error("trust document {version} is not signed by the {who} keys of {of}")]
    Signatures {
        /// Which document.
        version: TrustVersion,
        /// `root`.
        who: &'static str,
        /// The document whose keys should have signed it.
        of: String,
        /// What is wrong with the signatures.
        #[source]
        source: SealError,
    },
    /// Not base64.
    #[error("trust document is malformed")]
    Malformed(#[source] SealError),
    /// The versions do not follow each other.
    #[error("trust document {found} stands where {wanted} should")]
    Order {
        /// The version that should be there.
        wanted: TrustVersion,
        /// The one that is.
        found: TrustVersion,
    },
    /// It ends before what is known.
    #[error("trust chain ends with document {newest}, document {known} is known already")]
    Older {
        /// Its last one.
        newest: TrustVersion,
        /// The one that is known.
        known: TrustVersion,
    },
    /// It begins behind what is known.
    #[error(
        "trust chain begins with document {first}, and only {known} is known: those between are missing"
    )]
    Gap {
        /// Its first one.
        first: TrustVersion,
        /// The one that is known.
        known: TrustVersion,
    },
    /// Two documents of the same version.
    #[error("trust document {version} differs from the document {version} that is known")]
    Fork {
        /// The version.
        version: TrustVersion,
    },
    /// No document is signed by the configured root keys.
    #[error("no document of the trust chain is signed by the configured root keys")]
    Stranger,
}

impl Trust {
    /// Signs it.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which no document does.
    pub fn seal<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k SecretKey>,
    ) -> Result<Sealed, serde_json::Error> {
        Sealed::of(self, SIGNED_PREFIX, keys)
    }

    /// Adds a signature, whoever has signed it before.
    ///
    /// # Errors
    /// [`TrustError`] when there is no document in it.
    pub fn add_signature(sealed: &mut Sealed, key: &SecretKey) -> Result<(), TrustError> {
        Self::peek(sealed)?;
        sealed
            .sign(SIGNED_PREFIX, key)
            .map_err(TrustError::Malformed)
    }

    /// Reads a document whose signatures nobody has looked at.
    ///
    /// # Errors
    /// [`TrustError`] when it is none.
    pub fn peek(sealed: &Sealed) -> Result<Self, TrustError> {
        let payload = sealed.payload().map_err(TrustError::Malformed)?;
        serde_json::from_slice(&payload).map_err(TrustError::Parse)
    }

    /// Reads a document that its own root keys have signed. Whether to trust these is another question.
    ///
    /// # Errors
    /// [`TrustError`] when it is none, or not signed by enough of them.
    pub fn open_own(sealed: &Sealed) -> Result<Self, TrustError> {
        let trust = Self::peek(sealed)?;
        signed_by(sealed, &trust, &trust.root, "its own")?;
        Ok(trust)
    }

    /// Reads the document behind this one.
    ///
    /// # Errors
    /// [`TrustError`] when it is not the next one, or not signed by enough root keys of this one and of its own.
    pub fn open_next(&self, sealed: &Sealed) -> Result<Self, TrustError> {
        let next = Self::peek(sealed)?;
        if next.version != self.version.next() {
            return Err(TrustError::Order {
                wanted: self.version.next(),
                found: next.version,
            });
        }
        signed_by(
            sealed,
            &next,
            &self.root,
            &format!("document {}", self.version),
        )?;
        Self::open_own(sealed)
    }

    /// Which of the root keys of `role` have signed a document.
    ///
    /// # Errors
    /// [`TrustError`] when a signature is malformed, or is said to be of one of them and is not.
    pub fn signers(sealed: &Sealed, role: &Role) -> Result<Vec<PublicKey>, TrustError> {
        sealed
            .signers(SIGNED_PREFIX, role)
            .map_err(TrustError::Malformed)
    }

    /// Whether it has expired by `now`.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}

fn signed_by(sealed: &Sealed, trust: &Trust, role: &Role, of: &str) -> Result<(), TrustError> {
    let opened = sealed.open(SIGNED_PREFIX, role);
    let signed = opened.map_err(|source| TrustError::Signatures {
        version: trust.version,
        who: "root",
        of: of.to_owned(),
        source,
    });
    signed.map(drop)
}

impl Chain {
    /// Reads a chain, whose signatures are looked at when it is followed.
    ///
    /// # Errors
    /// [`TrustError`] when it is too large, none, or empty.
    pub fn read(json: &[u8]) -> Result<Self, TrustError> {
        if json.len() > CHAIN_BYTES_MAX {
            return Err(TrustError::TooLarge { bytes: json.len() });
        }
        let chain: Self = serde_json::from_slice(json).map_err(TrustError::Parse)?;
        let documents = chain.chain.len();
        if documents == 0 || documents > CHAIN_DOCUMENTS_MAX {
            return Err(TrustError::Documents { documents });
        }
        Ok(chain)
    }

    /// Its newest document, if every document follows from the one before, and the first is signed by its own root keys.
    ///
    /// # Errors
    /// [`TrustError`] for the first that does not.
    pub fn check(&self) -> Result<Trust, TrustError> {
        let (first, rest) = self
            .chain
            .split_first()
            .ok_or(TrustError::Documents { documents: 0 })?;
        rest.iter()
            .try_fold(Trust::open_own(first)?, |trust, sealed| {
                trust.open_next(sealed)
            })
    }

    /// Follows the chain from what is trusted. What it proves before something is wrong is proven.
    pub fn follow(&self, anchor: &Anchor) -> Walk {
        let mut reached = None;
        let stopped = self.walk(anchor, &mut reached).err();
        Walk { reached, stopped }
    }

    fn walk(&self, anchor: &Anchor, reached: &mut Option<Trust>) -> Result<(), TrustError> {
        let (mut trust, rest) = match anchor {
            Anchor::Document(known) => (known.clone(), self.behind(known)?),
            Anchor::Roots(role) => {
                let (at, first) = self.first_of(role)?;
                *reached = Some(first.clone());
                (first, &self.chain[at + 1..])
            }
        };
        for sealed in rest {
            trust = trust.open_next(sealed)?;
            *reached = Some(trust.clone());
        }
        Ok(())
    }

    /// The documents behind the known one.
    fn behind(&self, known: &Trust) -> Result<&[Sealed], TrustError> {
        let versions: Result<Vec<Trust>, _> = self.chain.iter().map(Trust::peek).collect();
        let documents = versions?;
        for (one, next) in documents.iter().zip(documents.iter().skip(1)) {
            if next.version != one.version.next() {
                return Err(TrustError::Order {
                    wanted: one.version.next(),
                    found: next.version,
                });
            }
        }
        let (Some(first), Some(last)) = (documents.first(), documents.last()) else {
            return Err(TrustError::Documents { documents: 0 });
        };
        if last.version < known.version {
            return Err(TrustError::Older {
                newest: last.version,
                known: known.version,
            });
        }
        if first.version > known.version.next() {
            return Err(TrustError::Gap {
                first: first.version,
                known: known.version,
            });
        }
        if documents
            .iter()
            .any(|document| document.version == known.version && document != known)
        {
            return Err(TrustError::Fork {
                version: known.version,
            });
        }
        let newer = documents
            .iter()
            .take_while(|document| document.version <= known.version);
        Ok(&self.chain[newer.count()..])
    }

    /// The first document that `role` has signed.
    fn first_of(&self, role: &Role) -> Result<(usize, Trust), TrustError> {
        for (at, sealed) in self.chain.iter().enumerate() {
            let trust = Trust::peek(sealed)?;
            if signed_by(sealed, &trust, role, "the configuration").is_ok() {
                return Ok((at, Trust::open_own(sealed)?));
            }
        }
        Err(TrustError::Stranger)
    }
}

impl TrustError {
    /// One word for the reason, to count by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Parse(_) | Self::Documents { .. } | Self::Malformed(_) => "malformed",
            Self::Signatures { .. } => "not-signed",
            Self::Order { .. } | Self::Gap { .. } => "gap",
            Self::Older { .. } => "older",
            Self::Fork { .. } => "fork",
            Self::Stranger => "stranger",
        }
    }
}
