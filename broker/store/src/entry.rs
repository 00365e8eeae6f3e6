//! How keys and values of the caller become entries in sled.
//!
//! Entry key: `00 key`, or `01 length(2, big endian) key index(2, big endian)` for a piece, or `02 name`.
//! Entry value: body, then CRC32 over entry key and body, little endian. The body of a whole value is `00 value`; that of
//! a cut one is `01 pieces(2) length(4) crc32-of-value(4)`, little endian; that of a piece is its bytes.

use crate::options::KEY_BYTES_MAX;

/// Most bytes that an entry adds to the caller's key and to the bytes of a value within it: a piece's key has 5 more,
/// a whole value's body 1, and the checksum has 4.
pub(crate) const OVERHEAD_MAX: usize = 10;

const KEY: u8 = 0;
const PIECE: u8 = 1;
const OWN: u8 = 2;

const WHOLE: u8 = 0;
const CUT: u8 = 1;

const CRC_BYTES: usize = 4;

/// The entry that holds a key of the caller.
pub(crate) fn entry_key(key: &[u8]) -> Vec<u8> {
    [&[KEY], key].concat()
}

/// The caller's key in an entry key.
pub(crate) fn caller_key(entry_key: &[u8]) -> Option<&[u8]> {
    match entry_key.split_first() {
        Some((&KEY, key)) => Some(key),
        Some(_) | None => None,
    }
}

/// The entry that holds a record of the store itself.
pub(crate) fn own_key(name: &str) -> Vec<u8> {
    [&[OWN], name.as_bytes()].concat()
}

/// What the entries of all pieces of a value start with. The length makes it unambiguous.
pub(crate) fn piece_prefix(key: &[u8]) -> Vec<u8> {
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    [&[PIECE], length.to_be_bytes().as_slice(), key].concat()
}

/// The entry of a piece.
pub(crate) fn piece_key(key: &[u8], index: u16) -> Vec<u8> {
    [piece_prefix(key).as_slice(), &index.to_be_bytes()].concat()
}

/// The first key after all that start with `prefix`; the byte that says what an entry is is never 255.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// What stands under a key of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// The value.
    Whole(&'a [u8]),
    /// The value is in pieces.
    Cut(Cut),
}

/// A value in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// How many.
    pub(crate) pieces: u16,
    /// Bytes in all.
    length: u32,
    /// CRC32 of the whole value: pieces of two versions of a value do not go together.
    crc: u32,
}

impl Cut {
    /// Whether the pieces, put together, are the value.
    pub(crate) fn matches(self, value: &[u8]) -> bool {
        u32::try_from(value.len()) == Ok(self.length) && crc32fast::hash(value) == self.crc
    }
}

/// The entries of one value: the first is that of the key itself.
pub(crate) fn encode(key: &[u8], value: &[u8], piece_bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let head = entry_key(key);
    if value.len() <= piece_bytes {
        let sealed = seal(&head, &[&[WHOLE], value].concat());
        return vec![(head, sealed)];
    }
    let pieces: Vec<&[u8]> = value.chunks(piece_bytes).collect();
    let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let mut body = vec![CUT];
    body.extend_from_slice(&count.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&crc32fast::hash(value).to_le_bytes());
    let sealed = seal(&head, &body);
    let mut entries = vec![(head, sealed)];
    for (index, piece) in (0..count).zip(pieces) {
        let entry = piece_key(key, index);
        let sealed = seal(&entry, piece);
        entries.push((entry, sealed));
    }
    entries
}

/// Reads what stands under a key of the caller; `None` when it is damaged.
pub(crate) fn decode<'a>(entry_key: &[u8], sealed: &'a [u8]) -> Option<Body<'a>> {
    let (form, rest) = unseal(entry_key, sealed)?.split_first()?;
    match *form {
        WHOLE => Some(Body::Whole(rest)),
        CUT => {
            let (pieces, rest) = rest.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let crc = rest.try_into().ok()?;
            Some(Body::Cut(Cut {
                pieces: u16::from_le_bytes(*pieces),
                length: u32::from_le_bytes(*length),
                crc: u32::from_le_bytes(crc),
            }))
        }
        _ => None,
    }
}

/// Appends the checksum.
pub(crate) fn seal(entry_key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(body.len() + CRC_BYTES);
    sealed.extend_from_slice(body);
    sealed.extend_from_slice(&checksum(entry_key, body).to_le_bytes());
    sealed
}

/// Takes the checksum off; `None` when it does not match.
pub(crate) fn unseal<'a>(entry_key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (body, crc) = sealed.split_last_chunk()?;
    (checksum(entry_key, body) == u32::from_le_bytes(*crc)).then_some(body)
}

fn checksum(entry_key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(entry_key);
    hasher.update(body);
    hasher.finalize()
}

const _: () = assert!(
    KEY_BYTES_MAX <= u16::MAX as usize,
    "a piece's key counts the caller's key in two bytes"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(&[0]), [1]);
        assert_eq!(prefix_end(&[0, 7]), [0, 8]);
        assert_eq!(prefix_end(&[0, 255, 255]), [1]);
    }

    #[test]
    fn bytes_on_disk_stay_as_they_are() {
        let entries = encode(b"key", b"value", 16);
        assert_eq!(
            entries,
            [(b"\x00key".to_vec(), b"\x00value\x01\xe3\x12\x07".to_vec())]
        );
        let entries = encode(b"k", b"abcde", 4);
        let keys: Vec<&[u8]> = entries.iter().map(|(key, _)| key.as_slice()).collect();
        assert_eq!(
            keys,
            [
                b"\x00k".as_slice(),
                b"\x01\x00\x01k\x00\x00",
                b"\x01\x00\x01k\x00\x01"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(value in proptest::collection::vec(any::<u8>(), 0..64), at in any::<usize>()) {
            for (key, mut sealed) in encode(b"some/key", &value, 16) {
                let bit = at % (sealed.len() * 8);
                sealed[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(unseal(&key, &sealed), None);
            }
        }

        #[test]
        fn pieces_go_together(value in proptest::collection::vec(any::<u8>(), 0..200), piece_bytes in 1_usize..64) {
            let entries = encode(b"k", &value, piece_bytes);
            let joined = match decode(&entries[0].0, &entries[0].1) {
                Some(Body::Whole(whole)) => whole.to_vec(),
                Some(Body::Cut(cut)) => {
                    prop_assert_eq!(usize::from(cut.pieces), entries.len() - 1);
                    let joined: Vec<u8> = entries[1..].iter().flat_map(|(k, v)| unseal(k, v).unwrap().to_vec()).collect();
                    prop_assert!(cut.matches(&joined));
                    joined
                }
                None => panic!("a fresh entry is not damaged"),
            };
            prop_assert_eq!(joined, value);
        }

        #[test]
        fn any_bytes_decode_without_panic(key in proptest::collection::vec(any::<u8>(), 0..8),
                                          sealed in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _: Option<Body<'_>> = decode(&key, &sealed);
            let body = sealed.clone();
            let _: Option<Body<'_>> = decode(&key, &seal(&key, &body));
        }
    }
}
