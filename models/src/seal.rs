//! Signatures over exact bytes: what releases, trust documents and signed times have in common.
//!
//! What is signed is a prefix that names the format, and behind it the payload's bytes as the envelope carries them: nobody
//! writes them again, and a signature on one format is none on another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};

use crate::key::{PublicKey, ROLE_KEYS_MAX, Role, SecretKey};
use crate::version::V1;

/// Most signatures that are looked at: those of an old and of a new role, both as large as they may be.
pub const SIGNATURES_MAX: usize = 2 * ROLE_KEYS_MAX;

/// A signature and whose it is said to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Id of the key that signed. It only says which key to try.
    pub key: String,
    /// Ed25519 (RFC 8032), base64.
    pub signature: String,
}

/// A payload with the signatures of any number of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Format version.
    pub v: V1,
    /// Who signed; at most [`SIGNATURES_MAX`].
    pub signatures: Vec<Signature>,
    /// What was signed: JSON in base64.
    pub payload: String,
}

/// Why signatures do not carry a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Signature or payload is not base64 of the right length.
    #[error("{field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// More than anybody needs.
    #[error("{count} signatures are too many, the limit is {SIGNATURES_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// None of the keys is trusted.
    #[error("it is signed by key {key}, which is not among the trusted keys")]
    UnknownKey {
        /// The first one's id.
        key: String,
    },
    /// A signature that is said to be a trusted key's is not of these bytes.
    #[error("the signature of key {key} does not fit: it was altered")]
    Signature {
        /// The key's id.
        key: String,
    },
    /// Not enough trusted keys signed.
    #[error("{signers} of the trusted keys signed it, {threshold} must")]
    TooFew {
        /// How many did.
        signers: usize,
        /// How many must.
        threshold: usize,
    },
}

impl Sealed {
    /// A document, signed by `keys`.
    pub(crate) fn of<'k>(
        document: &impl Serialize,
        prefix: &[u8],
        keys: impl IntoIterator<Item = &'k SecretKey>,
    ) -> Result<Self, serde_json::Error> {
        let payload = serde_json::to_vec(document)?;
        let mut sealed = Self {
            v: V1,
            signatures: Vec::new(),
            payload: BASE64.encode(&payload),
        };
        for key in keys {
            sealed.add(sign(prefix, &payload, key));
        }
        Ok(sealed)
    }

    /// Adds the signature of `key`, in place of one that it has given before.
    pub(crate) fn sign(&mut self, prefix: &[u8], key: &SecretKey) -> Result<(), SealError> {
        self.add(sign(prefix, &self.payload()?, key));
        Ok(())
    }

    fn add(&mut self, signature: Signature) {
        self.signatures.retain(|known| known.key != signature.key);
        self.signatures.push(signature);
    }

    /// The payload, whoever signed it.
    pub(crate) fn payload(&self) -> Result<Vec<u8>, SealError> {
        decode_payload(&self.payload)
    }

    /// The payload, which as many keys of `role` signed as it asks for, and the ids of all of them.
    pub(crate) fn open(
        &self,
        prefix: &[u8],
        role: &Role,
    ) -> Result<(Vec<u8>, Vec<String>), SealError> {
        open(prefix, &self.payload, &self.signatures, role)
    }

    /// Which keys of `role` signed; fewer than it asks for, maybe, or none.
    pub(crate) fn signers(&self, prefix: &[u8], role: &Role) -> Result<Vec<PublicKey>, SealError> {
        signers(prefix, &self.payload()?, &self.signatures, role)
    }
}

pub(crate) fn decode_payload(payload: &str) -> Result<Vec<u8>, SealError> {
    let decoded = BASE64.decode(payload);
    decoded.map_err(|_| SealError::Malformed { field: "payload" })
}

pub(crate) fn sign(prefix: &[u8], payload: &[u8], key: &SecretKey) -> Signature {
    let signature = key.0.sign(&[prefix, payload].concat());
    Signature {
        key: key.public().id(),
        signature: BASE64.encode(signature.to_bytes()),
    }
}

/// The payload, which as many keys of `role` signed as it asks for, and the ids of all of them.
pub(crate) fn open(
    prefix: &[u8],
    payload: &str,
    signatures: &[Signature],
    role: &Role,
) -> Result<(Vec<u8>, Vec<String>), SealError> {
    let payload = decode_payload(payload)?;
    let signers = signers(prefix, &payload, signatures, role)?;
    if let ([], Some(first)) = (&*signers, signatures.first()) {
        return Err(SealError::UnknownKey {
            key: first.key.chars().take(64).collect(),
        });
    }
    if signers.len() < role.threshold() {
        return Err(SealError::TooFew {
            signers: signers.len(),
            threshold: role.threshold(),
        });
    }
    Ok((payload, signers.iter().map(PublicKey::id).collect()))
}

/// Which keys of `role` signed, each once. Signatures of others are passed over: while keys change, there are old and new
/// ones. One that is said to be a trusted key's and is not spoils the whole: somebody altered it.
fn signers(
    prefix: &[u8],
    payload: &[u8],
    signatures: &[Signature],
    role: &Role,
) -> Result<Vec<PublicKey>, SealError> {
    if signatures.len() > SIGNATURES_MAX {
        return Err(SealError::TooMany {
            count: signatures.len(),
        });
    }
    let signed = [prefix, payload].concat();
    let mut signers = Vec::new();
    for Signature { key: id, signature } in signatures {
        let malformed = SealError::Malformed { field: "signature" };
        let bytes = BASE64.decode(signature).map_err(|_| malformed.clone())?;
        let bytes: [u8; 64] = bytes.try_into().map_err(|_| malformed)?;
        let Some(key) = role.key(id) else {
            continue;
        };
        let signature = ed25519_dalek::Signature::from_bytes(&bytes);
        // Strict: no key of small order, and one signature of these bytes only.
        if key.0.verify_strict(&signed, &signature).is_err() {
            return Err(SealError::Signature { key: id.clone() });
        }
        if !signers.contains(&key) {
            signers.push(key);
        }
    }
    Ok(signers)
}
