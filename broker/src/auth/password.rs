//! How passwords are kept and compared: argon2id hashes on the disk, keyed digests in memory.

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, Version,
    password_hash::phc::PasswordHash as Phc,
};
use sha2::{Digest as _, Sha256};
use std::{fmt, sync::Arc};
use thiserror::Error;
use tokio::sync::Semaphore;
use tracing::warn;

/// Passwords compared with hashes at a time, in the whole process: each takes a processor, and up to
/// [`MEMORY_KIB_MAX`] of memory, so that a storm of logins takes two processors and 128 MiB.
const VERIFICATIONS_MAX: usize = 2;
static TURNS: Semaphore = Semaphore::const_new(VERIFICATIONS_MAX);

/// Memory of one hash, in KiB. OWASP's password storage cheat sheet asks for 7 MiB with five passes or 19 MiB with
/// two; what is below is weak, what is above exhausts a gateway.
const MEMORY_KIB_MIN: u32 = 7 * 1024;
const MEMORY_KIB_MAX: u32 = 64 * 1024;
/// Passes over that memory: ten over 64 MiB take about half a second.
const PASSES_MAX: u32 = 10;
/// Passes x KiB: what OWASP's cheapest choices come to.
const WORK_MIN: u32 = 5 * MEMORY_KIB_MIN;
/// Lanes run one after the other here, so that many gain an attacker more than us.
const LANES_MAX: u32 = 4;
/// Bytes of the hash itself: 128 bits are beyond guessing.
const OUTPUT_BYTES_MIN: u32 = 16;
/// Bytes of a new salt, as RFC 9106 recommends.
const SALT_BYTES: usize = 16;

/// Why a text is not a hash that is accepted, or a password could not be hashed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HashProblem {
    /// It is not a PHC string.
    #[error("expected a hash of the form $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH")]
    Form,
    /// Another algorithm or version.
    #[error("the hash is of {0}, expected argon2id in version 19")]
    Algorithm(String),
    /// A parameter is out of its range.
    #[error("the hash has {name} = {value}, expected {min} to {max}")]
    Range {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The least accepted.
        min: u32,
        /// The most accepted.
        max: u32,
    },
    /// The system gave no memory or no random bytes.
    #[error("the password cannot be hashed: {0}")]
    System(String),
}

/// An argon2id hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: Box<str>,
    params: Params,
    salt: Box<[u8]>,
    output: Box<[u8]>,
}

impl PasswordHash {
    /// Hashes a password with a new salt: argon2id, 19 MiB, two passes. It takes some ten milliseconds.
    ///
    /// # Errors
    /// If the system gives no memory or no random bytes.
    pub fn of(password: &[u8]) -> Result<Self, HashProblem> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| HashProblem::System(error.to_string()))?;
        let hash = Argon2::default()
            .hash_password_with_salt(password, &salt)
            .map_err(|error| HashProblem::System(error.to_string()))?;
        Self::parse(&hash.to_string())
    }

    /// Reads a hash in PHC form and refuses one that is weak, or that takes more than a gateway has.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, HashProblem> {
        let phc = Phc::new(text).map_err(|_| HashProblem::Form)?;
        let version = phc.version.unwrap_or_default();
        if phc.algorithm.as_str() != Algorithm::Argon2id.as_str() || version != 19 {
            let named = format!("{} in version {version}", phc.algorithm);
            return Err(HashProblem::Algorithm(named));
        }
        let (Some(salt), Some(output)) = (&phc.salt, &phc.hash) else {
            return Err(HashProblem::Form);
        };
        let params = Params::try_from(&phc).map_err(|_| HashProblem::Form)?;
        let work = params.m_cost().saturating_mul(params.t_cost());
        let length = u32::try_from(output.len()).unwrap_or(u32::MAX);
        let ranges = [
            ("m", params.m_cost(), MEMORY_KIB_MIN, MEMORY_KIB_MAX),
            ("t", params.t_cost(), 1, PASSES_MAX),
            ("p", params.p_cost(), 1, LANES_MAX),
            ("m x t", work, WORK_MIN, MEMORY_KIB_MAX * PASSES_MAX),
            ("bytes", length, OUTPUT_BYTES_MIN, u32::MAX),
        ];
        for (name, value, min, max) in ranges {
            if value < min || value > max {
                return Err(HashProblem::Range {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(Self {
            text: text.into(),
            salt: salt.as_ref().into(),
            output: output.as_bytes().into(),
            params,
        })
    }

    /// The hash in PHC form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What one comparison takes, in KiB passed over.
    pub(super) fn cost(&self) -> u32 {
        self.params.m_cost().saturating_mul(self.params.t_cost())
    }

    /// Whether the hash is that of `password`. It computes for as long as hashing does.
    ///
    /// # Errors
    /// If the system gives no memory.
    pub fn matches(&self, password: &[u8]) -> Result<bool, HashProblem> {
        let mut output = vec![0; self.output.len()];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
            .hash_password_into(password, &self.salt, &mut output)
            .map_err(|error| HashProblem::System(error.to_string()))?;
        Ok(same_bytes(&self.output, &output))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").finish_non_exhaustive()
    }
}

/// The password was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

/// Compares a password with a hash on a thread that may block, when its turn comes. Whoever stops waiting leaves a
/// comparison that has begun, and its turn with it, to its end.
pub(super) async fn verify(hash: &Arc<PasswordHash>, password: &[u8]) -> Result<bool, Busy> {
    let turn = TURNS.acquire().await.map_err(|_| Busy)?;
    let (hash, password) = (Arc::clone(hash), password.to_vec());
    let compared = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        hash.matches(&password)
    });
    match compared.await {
        Ok(Ok(matches)) => Ok(matches),
        Ok(Err(error)) => {
            warn!(%error, "a password cannot be checked");
            Err(Busy)
        }
        // The runtime is shutting down.
        Err(_) => Err(Busy),
    }
}

/// The system gave no random bytes.
#[derive(Debug, Error)]
#[error("the system gives no random bytes: {0}")]
pub(crate) struct NoRandomness(String);

/// A secret of this process, which makes its digests worthless elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| NoRandomness(error.to_string()))?;
        Ok(Self(key))
    }

    /// The digest of a user's secret. It is compared inside this process only, where nobody can lengthen it.
    pub(super) fn digest(&self, user: &str, secret: &[u8]) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update((user.len() as u64).to_le_bytes());
        hasher.update(user);
        hasher.update(secret);
        Digest(hasher.finalize().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// A digest of a user and a password or hash.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Compares in a time that does not depend on the bytes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        same_bytes(&self.0, &other.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").finish_non_exhaustive()
    }
}

/// Compares without an early exit, so that the time taken tells nothing about where two secrets differ.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |different, (x, y)| different | (x ^ y))
            == 0
}
