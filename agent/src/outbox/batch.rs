//! The bytes of a stored batch.
//!
//! Version 1, little endian: `01`, class (1), when it was stored in milliseconds (8), records (4), length of the JSON
//! (4), length of the stream's name (1), the name, and a zstd frame with the JSON array of the records.

use lamppost_agent_core::outbox::{Class, Meta, SplitLimits};
use lamppost_models::message::MESSAGE_BYTES_MAX;
use lamppost_models::{Epoch, StreamName, Timestamp};

/// Version of the form.
const VERSION: u8 = 1;
/// Bytes before the stream's name.
const HEAD_BYTES: usize = 19;
/// Fast, and within a twentieth of the best ratio on records that look alike.
const ZSTD_LEVEL: i32 = 3;

/// A value of the store has at most 7 KiB: the frame, the head, and a name of up to 64 bytes stay below.
/// The message on the wire has the array, unpacked, within an envelope of less than 256 bytes.
pub(super) const LIMITS: SplitLimits = SplitLimits {
    records_max: 1024,
    raw_bytes_max: MESSAGE_BYTES_MAX - 4096,
    packed_bytes_max: 6 * 1024,
};

/// A batch as it waits in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its number.
    pub number: u64,
    /// What its records are.
    pub class: Class,
    /// The stream of all its records.
    pub stream: StreamName,
    /// How many records.
    pub records: u32,
    /// When it was stored.
    pub stored: Timestamp,
    /// The records, oldest first, as a JSON array.
    pub json: Vec<u8>,
}

impl StoredBatch {
    /// The JSON text of the [`Batch`](lamppost_models::message::Batch) that goes over the wire.
    pub fn message(&self, epoch: Epoch) -> Vec<u8> {
        let head = format!(
            r#"{{"v":1,"epoch":"{epoch}","number":{},"stream":"{}","records":"#,
            self.number, self.stream
        );
        [head.as_bytes(), &self.json, b"}"].concat()
    }
}

/// The JSON array of some records.
pub(super) fn array(records: &[&[u8]]) -> Vec<u8> {
    let mut json =
        Vec::with_capacity(records.iter().map(|record| record.len() + 1).sum::<usize>() + 2);
    json.push(b'[');
    for (at, record) in records.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        json.extend_from_slice(record);
    }
    json.push(b']');
    json
}

/// Compresses a JSON array. A failure of the compressor gives nothing that would fit.
pub(super) fn pack(json: &[u8]) -> Packed {
    Packed {
        json_bytes: json.len(),
        frame: zstd::bulk::compress(json, ZSTD_LEVEL).ok(),
    }
}

/// A compressed JSON array.
pub(super) struct Packed {
    json_bytes: usize,
    frame: Option<Vec<u8>>,
}

impl AsRef<[u8]> for Packed {
    fn as_ref(&self) -> &[u8] {
        const TOO_LARGE: &[u8] = &[0; LIMITS.packed_bytes_max + 1];
        self.frame.as_deref().unwrap_or(TOO_LARGE)
    }
}

/// Puts a batch together.
pub(super) fn encode(
    class: Class,
    stream: &StreamName,
    records: u32,
    stored: Timestamp,
    packed: &Packed,
) -> Vec<u8> {
    let name = stream.as_str().as_bytes();
    let mut value = Vec::with_capacity(HEAD_BYTES + name.len() + packed.as_ref().len());
    value.push(VERSION);
    value.push(match class {
        Class::Prediction => 1,
        Class::Sample => 2,
    });
    value.extend_from_slice(&stored.as_ms().to_le_bytes());
    value.extend_from_slice(&records.to_le_bytes());
    value.extend_from_slice(
        &u32::try_from(packed.json_bytes)
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    // A name has at most 64 bytes.
    value.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(name);
    value.extend_from_slice(packed.as_ref());
    value
}

/// What is known of a batch without unpacking it; `None` when it is no batch of this version.
pub(super) fn meta(value: &[u8]) -> Option<Meta> {
    head(value).map(|head| head.meta)
}

/// Takes a batch apart; `None` when it is no batch of this version.
pub(super) fn decode(number: u64, value: &[u8]) -> Option<StoredBatch> {
    let head = head(value)?;
    // What was written is below the limit: a larger length is not ours, and asks for no memory.
    let json_bytes = usize::try_from(head.json_bytes)
        .ok()
        .filter(|bytes| *bytes <= MESSAGE_BYTES_MAX)?;
    let json = zstd::bulk::decompress(head.frame, json_bytes)
        .ok()
        .filter(|json| json.len() == json_bytes)?;
    let Meta { records, stored } = head.meta;
    Some(StoredBatch {
        number,
        class: head.class,
        stream: head.stream,
        records,
        stored,
        json,
    })
}

struct Head<'a> {
    class: Class,
    stream: StreamName,
    meta: Meta,
    json_bytes: u32,
    frame: &'a [u8],
}

fn head(value: &[u8]) -> Option<Head<'_>> {
    let ([version, class], rest) = value.split_first_chunk()?;
    let (stored, rest) = rest.split_first_chunk()?;
    let (records, rest) = rest.split_first_chunk()?;
    let (json_bytes, rest) = rest.split_first_chunk()?;
    let (name_bytes, rest) = rest.split_first()?;
    let (name, frame) = rest.split_at_checked(usize::from(*name_bytes))?;
    let class = match (*version, *class) {
        (VERSION, 1) => Class::Prediction,
        (VERSION, 2) => Class::Sample,
        _ => return None,
    };
    Some(Head {
        class,
        stream: StreamName::new(std::str::from_utf8(name).ok()?).ok()?,
        meta: Meta {
            records: u32::from_le_bytes(*records),
            stored: Timestamp::from_ms(i64::from_le_bytes(*stored)).ok()?,
        },
        json_bytes: u32::from_le_bytes(*json_bytes),
        frame,
    })
}

#[cfg(test)]
mod tests {
    use lamppost_models::message::Batch;
    use proptest::prelude::*;

    use super::*;

    fn stream() -> StreamName {
        StreamName::new("i94-volume").unwrap()
    }

    fn stored() -> Timestamp {
        Timestamp::from_ms(1_800_000_000_123).unwrap()
    }

    #[test]
    fn a_batch_becomes_the_message_that_readers_parse() {
        let json = array(&[br#"{"a":1}"#, b"2", br#""three""#]);
        let value = encode(Class::Sample, &stream(), 3, stored(), &pack(&json));
        assert_eq!(
            meta(&value),
            Some(Meta {
                records: 3,
                stored: stored()
            })
        );
        let batch = decode(77, &value).unwrap();
        assert_eq!(
            (batch.class, batch.records, batch.stored),
            (Class::Sample, 3, stored())
        );

        let epoch = Epoch::from_u64(0xab);
        let message: Batch<serde_json::Value> =
            serde_json::from_slice(&batch.message(epoch)).unwrap();
        assert_eq!(
            (message.epoch, message.number, message.stream.clone()),
            (epoch, 77, stream())
        );
        assert_eq!(
            message.records,
            [serde_json::json!({"a": 1}), 2.into(), "three".into()]
        );
        assert_eq!(
            serde_json::to_vec(&message).unwrap(),
            batch.message(epoch),
            "byte for byte as serde writes it"
        );
    }

    #[test]
    fn stored_bytes_stay_as_they_are() {
        let frame = Packed {
            json_bytes: 2,
            frame: Some(b"frame".to_vec()),
        };
        let value = encode(
            Class::Prediction,
            &StreamName::new("s").unwrap(),
            7,
            Timestamp::from_ms(258).unwrap(),
            &frame,
        );
        assert_eq!(
            value,
            b"\x01\x01\x02\x01\0\0\0\0\0\0\x07\0\0\0\x02\0\0\0\x01sframe"
        );
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_no_batch_and_no_panic(cut in 0_usize..200, at in 0_usize..200, byte in any::<u8>()) {
            let json = array(&[br#"{"value":12.5,"stream":"i94-volume"}"#.as_slice(); 9]);
            let whole = encode(Class::Prediction, &stream(), 9, stored(), &pack(&json));
            let mut value = whole.clone();
            value.truncate(value.len() - cut % value.len());
            let at = at % value.len();
            value[at] ^= byte;
            if let Some(batch) = decode(1, &value) {
                prop_assert!(batch.json.len() <= MESSAGE_BYTES_MAX);
            }
        }
    }
}
