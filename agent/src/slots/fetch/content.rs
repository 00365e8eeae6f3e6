//! What comes of a bundle, as it is or encoded: Zstandard (RFC 8878), alone or with a bundle that is on the disk as its
//! dictionary (`dcz`, RFC 9842).

use std::io;

use lamppost_models::Digest;
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

/// Largest bundle that comes with a dictionary, or is one: both are in memory meanwhile.
pub(super) const DICTIONARY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Log2 of the largest window: the bundle and its dictionary.
const WINDOW_LOG_MAX: u32 = 25;
/// Bytes that are undone at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// What a `dcz` stream begins with, before the dictionary's hash.
const MAGIC: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0];

/// A bundle on the disk that a download refers to.
#[derive(Debug)]
pub(super) struct Dictionary {
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
}

/// How the body of an answer becomes the bundle.
pub(super) enum Content<'a> {
    Plain,
    Zstd(Undoing<'a>),
}

/// An encoding that is being undone.
pub(super) struct Undoing<'a> {
    decoder: Decoder<'a>,
    /// What the stream must begin with, as far as it has not come.
    head: Vec<u8>,
    piece: Vec<u8>,
}

impl<'a> Content<'a> {
    /// By the name of the coding.
    pub(super) fn of(coding: &str, dictionary: Option<&'a Dictionary>) -> io::Result<Self> {
        let (mut decoder, head) = match (coding, dictionary) {
            ("", _) => return Ok(Self::Plain),
            ("zstd", _) => (Decoder::with_ref_prefix(&[])?, Vec::new()),
            ("dcz", Some(Dictionary { digest, bytes })) => {
                let head = [&MAGIC[..], digest.as_bytes()].concat();
                (Decoder::with_ref_prefix(bytes)?, head)
            }
            _ => {
                let coding: String = coding.chars().take(40).collect();
                return Err(io::Error::other(format!("content-encoding is {coding:?}")));
            }
        };
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Self::Zstd(Undoing {
            decoder,
            head,
            piece: vec![0; PIECE_BYTES],
        }))
    }

    /// How much of what came is used up, and the next bytes of the bundle; nothing of both at the end.
    pub(super) fn next<'b>(&'b mut self, came: &'b [u8]) -> io::Result<(usize, &'b [u8])> {
        match self {
            Self::Plain => Ok((came.len(), came)),
            Self::Zstd(undoing) => undoing.next(came),
        }
    }
}

impl Undoing<'_> {
    fn next(&mut self, came: &[u8]) -> io::Result<(usize, &[u8])> {
        let length = self.head.len().min(came.len());
        let (head, rest) = came.split_at(length);
        if self.head.drain(..length).ne(head.iter().copied()) {
            return Err(io::Error::other("it is encoded with another dictionary"));
        }
        let status = self.decoder.run_on_buffers(rest, &mut self.piece)?;
        let piece = self.piece.get(..status.bytes_written).unwrap_or_default();
        Ok((length + status.bytes_read, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(content: &mut Content<'_>, encoded: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        for mut came in encoded.chunks(step) {
            loop {
                let (used, piece) = content.next(came)?;
                whole.extend_from_slice(piece);
                if used == 0 && piece.is_empty() {
                    break;
                }
                came = &came[used..];
            }
        }
        Ok(whole)
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        };
        (0..bytes).map(|_| next()).collect()
    }

    fn encode(source: &[u8], prefix: &[u8]) -> Vec<u8> {
        let mut encoder =
            zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), 3, prefix).unwrap();
        encoder.window_log(20).unwrap();
        io::Write::write_all(&mut encoder, source).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_coding_is_undone_however_it_is_cut() {
        let mut source = noise(200_000);
        source.resize(500_000, 7);
        let dictionary = Dictionary {
            digest: Digest::of(&source),
            bytes: source.clone(),
        };
        source[1000] ^= 1;
        let delta = encode(&source, &dictionary.bytes);
        assert!(delta.len() < 1000, "{}", delta.len());
        let delta = [&MAGIC[..], dictionary.digest.as_bytes(), &delta].concat();
        for (coding, encoded) in [
            ("", source.clone()),
            ("zstd", encode(&source, &[])),
            ("dcz", delta),
        ] {
            for step in [1, 7, 40, 4096, usize::MAX] {
                let mut content = Content::of(coding, Some(&dictionary)).unwrap();
                let whole = undone(&mut content, &encoded, step.min(encoded.len())).unwrap();
                assert!(whole == source, "{coding} by {step}");
            }
        }
    }

    #[test]
    fn what_cannot_be_undone_is_said() {
        let dictionary = Dictionary {
            digest: Digest::of(b"one"),
            bytes: b"one".to_vec(),
        };
        assert!(Content::of("br", Some(&dictionary)).is_err());
        assert!(Content::of("dcz", None).is_err());
        let other = [&MAGIC[..], Digest::of(b"other").as_bytes(), &[0; 9]].concat();
        let mut content = Content::of("dcz", Some(&dictionary)).unwrap();
        assert!(undone(&mut content, &other, 16).is_err());
        let mut content = Content::of("zstd", None).unwrap();
        assert!(undone(&mut content, b"this is no zstd at all", 100).is_err());
    }
}
