//! Artifacts in fewer bytes: compressed, or as what is new in them to whoever has another one.
//!
//! A client that can undo it gets Zstandard (RFC 8878). One that has another version of the bundle names it, and gets what
//! differs: Zstandard with that version as its dictionary (`dcz`, RFC 9842). Both are made once and kept for the next node.
//! A network that was trained further differs in all of its weights, and little is saved; where a layer was replaced, all
//! but that layer is.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lamppost_models::Digest;
use tokio::sync::Semaphore;

use crate::artifacts::Artifacts;

/// Zstandard alone.
pub(crate) const ZSTD: &str = "zstd";
/// Zstandard with a dictionary that both have.
pub(crate) const DICTIONARY_ZSTD: &str = "dcz";

/// Largest artifact that is encoded: a node undoes it with as much memory, and the twice of it for its dictionary.
const SOURCE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most bytes of encoded artifacts that are kept; the oldest go first.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most of them, with those that did not pay: the versions of a registry by what nodes have.
const KEPT_MAX: usize = 1024;
/// What must be saved for it to pay, in hundredths of the artifact.
const SAVED_PERCENT_MIN: u64 = 5;
/// Artifacts encoded at a time: anybody may ask for them.
const AT_ONCE_MAX: usize = 1;
/// How long a download waits for its encoding before it goes out as it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// Up to this size the best compression takes a second at most.
const THOROUGH_BYTES_MAX: u64 = 1024 * 1024;
const LEVEL_THOROUGH: i32 = 19;
const LEVEL: i32 = 9;
/// Log2 of the largest window: twice the largest artifact, for the dictionary is behind it.
const WINDOW_LOG_MAX: u32 = 25;
const WINDOW_LOG_MIN: u32 = 17;
/// What a `dcz` stream begins with, before the dictionary's hash (RFC 9842, section 5): a skippable frame of 32 bytes.
const MAGIC: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0];

/// What a client can undo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Zstandard.
    pub(crate) zstd: bool,
    /// `dcz` with the artifact that it has.
    pub(crate) dictionary: Option<Digest>,
}

/// An artifact in another form.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) coding: &'static str,
    pub(crate) content: Bytes,
}

impl Encoded {
    pub(crate) const fn bytes(&self) -> u64 {
        self.content.len() as u64
    }
}

/// An artifact and the dictionary, if there is one.
type Key = (Digest, Option<Digest>);

/// Makes other forms of artifacts and keeps them for a while.
pub(crate) struct Encodings {
    artifacts: Arc<Artifacts>,
    room: Semaphore,
    kept: Mutex<Kept>,
}

/// What became of an encoding.
#[derive(Clone)]
enum Made {
    Pays(Encoded),
    DoesNot,
}

/// What was made, the oldest first.
#[derive(Default)]
struct Kept {
    entries: Vec<(Key, Made)>,
    bytes: usize,
}

impl Encodings {
    pub(crate) fn new(artifacts: Arc<Artifacts>) -> Self {
        Self {
            artifacts,
            room: Semaphore::new(AT_ONCE_MAX),
            kept: Mutex::default(),
        }
    }

    /// The smallest form of an artifact of so many bytes that the client can undo; `None` when that is the artifact itself, or
    /// no other is to be had soon.
    pub(crate) async fn smallest(
        &self,
        (digest, bytes): (Digest, u64),
        accepted: Accepted,
    ) -> Option<Encoded> {
        if bytes > SOURCE_BYTES_MAX {
            return None;
        }
        let dictionary = accepted.dictionary.filter(|known| *known != digest);
        let by_dictionary = match dictionary {
            Some(dictionary) => self.form((digest, Some(dictionary))).await,
            None => None,
        };
        match by_dictionary {
            None if accepted.zstd => self.form((digest, None)).await,
            by_dictionary => by_dictionary,
        }
    }

    async fn form(&self, key: Key) -> Option<Encoded> {
        if let Some(known) = self.lock().get(&key) {
            return known.into();
        }
        let Ok(Ok(_permit)) = tokio::time::timeout(PATIENCE, self.room.acquire()).await else {
            tracing::debug!(digest = %key.0, "too many artifacts are being encoded: it goes out as it is");
            return None;
        };
        // Another download may have waited for the same.
        if let Some(known) = self.lock().get(&key) {
            return known.into();
        }
        let artifacts = Arc::clone(&self.artifacts);
        let made = tokio::task::spawn_blocking(move || encode(&artifacts, key)).await;
        let made = match made {
            Ok(Ok(made)) => made,
            // A dictionary that is not here is no fault; the artifact itself was found a moment ago.
            Ok(Err(error)) => {
                tracing::debug!(digest = %key.0, %error, "an artifact is not encoded");
                return None;
            }
            Err(error) => {
                tracing::error!(digest = %key.0, %error, "encoding an artifact failed");
                return None;
            }
        };
        self.lock().put(key, made.clone());
        made.into()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    const fn bytes(&self) -> usize {
        match self {
            Self::Pays(encoded) => encoded.content.len(),
            Self::DoesNot => 0,
        }
    }
}

impl From<Made> for Option<Encoded> {
    fn from(made: Made) -> Self {
        match made {
            Made::Pays(encoded) => Some(encoded),
            Made::DoesNot => None,
        }
    }
}

impl Kept {
    fn get(&self, key: &Key) -> Option<Made> {
        let entry = self.entries.iter().find(|(known, _)| known == key);
        entry.map(|(_, made)| made.clone())
    }

    fn put(&mut self, key: Key, made: Made) {
        self.bytes += made.bytes();
        self.entries.push((key, made));
        while self.bytes > KEPT_BYTES_MAX || self.entries.len() > KEPT_MAX {
            let (_, oldest) = self.entries.remove(0);
            self.bytes -= oldest.bytes();
        }
    }
}

/// Makes one form. Blocks.
fn encode(artifacts: &Artifacts, (digest, dictionary): Key) -> io::Result<Made> {
    let read = |digest| artifacts.read(digest).map_err(io::Error::other);
    let source = read(digest)?;
    let bytes = source.len() as u64;
    let encoded = match dictionary {
        None => compress(&source, &[])?,
        Some(dictionary) => {
            let known = artifacts.get(dictionary).map_err(io::Error::other)?;
            if known.bytes > SOURCE_BYTES_MAX {
                return Ok(Made::DoesNot);
            }
            let compressed = compress(&source, &read(dictionary)?)?;
            [&MAGIC[..], dictionary.as_bytes(), &compressed].concat()
        }
    };
    let coding = dictionary.map_or(ZSTD, |_| DICTIONARY_ZSTD);
    let pays = encoded.len() as u64 * 100 <= bytes * (100 - SAVED_PERCENT_MIN);
    tracing::info!(%digest, coding, bytes, encoded = encoded.len(), pays, "an artifact was encoded");
    Ok(if pays {
        let content = encoded.into();
        Made::Pays(Encoded { coding, content })
    } else {
        Made::DoesNot
    })
}

fn compress(source: &[u8], prefix: &[u8]) -> io::Result<Vec<u8>> {
    let (bytes, all) = (source.len() as u64, source.len() + prefix.len());
    let level = if bytes <= THOROUGH_BYTES_MAX {
        LEVEL_THOROUGH
    } else {
        LEVEL
    };
    let window_log = all.next_power_of_two().ilog2();
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), level, prefix)?;
    encoder.window_log(window_log.clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX))?;
    encoder.long_distance_matching(bytes > THOROUGH_BYTES_MAX)?;
    encoder.include_checksum(false)?;
    encoder.set_pledged_src_size(Some(bytes))?;
    io::Write::write_all(&mut encoder, source)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
        let mut state = seed;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        (0..bytes).map(|_| next()).collect()
    }

    fn undo(encoded: &[u8], prefix: &[u8]) -> Vec<u8> {
        let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(encoded, prefix).unwrap();
        let mut source = Vec::new();
        io::Read::read_to_end(&mut decoder, &mut source).unwrap();
        source
    }

    #[test]
    fn what_a_client_has_already_costs_next_to_nothing() {
        for bytes in [300_000, 3_000_000] {
            let before = noise(1, bytes);
            let mut after = before.clone();
            after[bytes - 1000..].copy_from_slice(&noise(2, 1000));
            let alone = compress(&after, &[]).unwrap();
            assert!(alone.len() >= bytes, "noise does not compress");
            let delta = compress(&after, &before).unwrap();
            assert!(delta.len() < 2_000, "{bytes}: {}", delta.len());
            assert_eq!(undo(&delta, &before), after);
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let mut kept = Kept::default();
        let key = |number: usize| (Digest::of(&number.to_le_bytes()), None);
        let encoded = |bytes| Encoded {
            coding: ZSTD,
            content: vec![0; bytes].into(),
        };
        for number in 0..5 {
            kept.put(key(number), Made::Pays(encoded(KEPT_BYTES_MAX / 4)));
        }
        assert!(kept.get(&key(0)).is_none() && kept.get(&key(4)).is_some());
        assert_eq!(kept.bytes, KEPT_BYTES_MAX);
        for number in 5..KEPT_MAX + 10 {
            kept.put(key(number), Made::DoesNot);
        }
        assert_eq!((kept.entries.len(), kept.bytes), (KEPT_MAX, 0));
    }
}
