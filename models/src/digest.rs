//! Content addresses.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

/// The SHA-256 of some bytes; `sha256:` and 64 lower-case hexadecimal digits on the wire, as `sha256sum` prints them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a string is no valid digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest {value:?} is not sha256: and 64 lower-case hexadecimal digits")]
pub struct ParseDigestError {
    value: String,
}

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The raw hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits alone, fit for a file name.
    pub fn hex(&self) -> String {
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                for nibble in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                }
                text
            })
    }

    /// The hash as a byte sequence of a structured header field (RFC 9651, section 3.3.5), `:<base64>:`.
    pub fn to_field(&self) -> String {
        format!(":{}:", BASE64.encode(self.0))
    }

    /// Reads what [`Self::to_field`] writes; `None` for anything else.
    pub fn from_field(field: &str) -> Option<Self> {
        let base64 = field.trim().strip_prefix(':')?.strip_suffix(':')?;
        Some(Self(BASE64.decode(base64).ok()?.try_into().ok()?))
    }

    /// The first 12 hexadecimal digits, for tables and logs.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

/// Hashes bytes as they arrive, for downloads that are never whole in memory.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let hex = value.strip_prefix("sha256:")?.as_bytes();
            if hex.len() != 64 {
                return None;
            }
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
            }
            Some(Self(bytes))
        };
        parse().ok_or_else(|| ParseDigestError {
            value: value.chars().take(80).collect(),
        })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

crate::as_text!(Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_field_is_read_as_it_was_written() {
        let digest = Digest::of(b"lamppost");
        assert_eq!(Digest::from_field(&digest.to_field()), Some(digest));
        for wrong in ["", "::", ":AAAA:", "abc", &digest.to_string()] {
            assert_eq!(Digest::from_field(wrong), None, "{wrong}");
        }
    }
}
