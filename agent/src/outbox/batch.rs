//! The bytes of a stored batch.
//!
//! Version 2, little endian: `02`, class (1), when it was stored in milliseconds (8), records (4), length of the JSON
//! (4), the run of the agent that made the records (8), the first and the last `seq` of them (8 and 8), length of the
//! stream's name (1), the name, and a zstd frame with the JSON array of the records. Version 1 is the same without the
//! run and the two numbers: of records that have none, and of all that older agents wrote.

use lamppost_agent_core::outbox::{Class, Meta, Run, SplitLimits};
use lamppost_models::message::MESSAGE_BYTES_MAX;
use lamppost_models::{BootId, Epoch, StreamName, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Version of the form without numbers.
const VERSION_BARE: u8 = 1;
/// Version of the form.
const VERSION: u8 = 2;
/// Bytes before the stream's name.
const HEAD_BYTES: usize = 43;
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
    /// The lane that it waits in.
    pub lane: Class,
    /// What its records are.
    pub class: Class,
    /// The stream of all its records; events have none.
    pub stream: Option<StreamName>,
    /// How many records.
    pub records: u32,
    /// When it was stored.
    pub stored: Timestamp,
    /// The records, oldest first, as a JSON array.
    pub json: Vec<u8>,
}

impl StoredBatch {
    /// The JSON text of the [`Batch`](lamppost_models::message::Batch), or of the
    /// [`EventBatch`](lamppost_models::ledger::EventBatch), that goes over the wire.
    pub fn message(&self, epoch: Epoch) -> Vec<u8> {
        let stream = match &self.stream {
            Some(stream) => format!(r#""stream":"{stream}","#),
            None => String::new(),
        };
        let head = format!(
            r#"{{"v":1,"epoch":"{epoch}","number":{},{stream}"records":"#,
            self.number
        );
        [head.as_bytes(), &self.json, b"}"].concat()
    }
}

/// What the ledger knows a record by, beside its class and stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) boot: BootId,
    pub(super) seq: u64,
}

/// What a record says of itself: a prediction at once, a sample in its origin.
#[derive(Deserialize)]
struct Key {
    boot: Option<BootId>,
    seq: Option<u64>,
    origin: Option<Origin>,
}

#[derive(Deserialize)]
struct Origin {
    boot: BootId,
    seq: u64,
}

impl Key {
    fn numbered(self) -> Option<Numbered> {
        let (boot, seq) = match self.origin {
            Some(Origin { boot, seq }) => (boot, seq),
            None => (self.boot?, self.seq?),
        };
        Some(Numbered { boot, seq })
    }
}

/// What a record is known by, if it says so.
///
/// # Errors
/// What is wrong with its JSON.
pub(super) fn read_key(record: &[u8]) -> Result<Option<Numbered>, serde_json::Error> {
    match serde_json::from_slice::<Key>(record) {
        Ok(key) => Ok(key.numbered()),
        Err(_) => serde_json::from_slice::<IgnoredAny>(record).map(|_| None),
    }
}

/// The run of records that are of one boot.
pub(super) fn run_of(stream: &StreamName, keys: &[Option<Numbered>]) -> Option<Run> {
    let boot = (*keys.first()?)?.boot;
    let mut seqs = Vec::with_capacity(keys.len());
    for key in keys {
        seqs.push(key.filter(|key| key.boot == boot)?.seq);
    }
    Some(Run {
        stream: stream.clone(),
        boot,
        from: seqs.iter().min().copied()?,
        to: seqs.iter().max().copied()?,
    })
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

/// Whether a record of at most `bytes` bytes is not too large for a batch of its own; `record` makes one as large.
pub(crate) fn fits_a_batch(bytes: usize, record: impl FnOnce() -> Vec<u8>) -> bool {
    // What the compressor cannot make smaller grows by less than this, as does a record by the digits that it lacks yet.
    const SPARE: usize = 128;
    if bytes + SPARE <= LIMITS.packed_bytes_max {
        return true;
    }
    bytes + SPARE <= LIMITS.raw_bytes_max
        && pack(&array(&[&record()])).as_ref().len() + SPARE <= LIMITS.packed_bytes_max
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
pub(super) fn encode(class: Class, stream: &StreamName, meta: &Meta, packed: &Packed) -> Vec<u8> {
    let name = stream.as_str().as_bytes();
    let mut value = Vec::with_capacity(HEAD_BYTES + name.len() + packed.as_ref().len());
    value.push(match meta.run {
        Some(_) => VERSION,
        None => VERSION_BARE,
    });
    value.push(match class {
        Class::Event => 0,
        Class::Prediction => 1,
        Class::Sample => 2,
    });
    value.extend_from_slice(&meta.stored.as_ms().to_le_bytes());
    value.extend_from_slice(&meta.records.to_le_bytes());
    value.extend_from_slice(
        &u32::try_from(packed.json_bytes)
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    if let Some(run) = &meta.run {
        value.extend_from_slice(&run.boot.as_u64().to_le_bytes());
        value.extend_from_slice(&run.from.to_le_bytes());
        value.extend_from_slice(&run.to.to_le_bytes());
    }
    // A name has at most 64 bytes.
    value.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(name);
    value.extend_from_slice(packed.as_ref());
    value
}

/// What is known of a batch; it is unpacked only if its head does not say which records it has. `None` when it is no
/// batch of a version that is known.
pub(super) fn meta(value: &[u8]) -> Option<Meta> {
    let head = head(value)?;
    let run = match &head.run {
        Some(run) => Some(run.clone()),
        None => run_within(&head),
    };
    Some(Meta {
        records: head.records,
        stored: head.stored,
        steady_s: None,
        run,
    })
}

/// The run of a batch of version 1, by its records.
fn run_within(head: &Head<'_>) -> Option<Run> {
    let json = unpack(head)?;
    let keys: Vec<Key> = serde_json::from_slice(&json).ok()?;
    let keys: Vec<_> = keys.into_iter().map(Key::numbered).collect();
    run_of(&head.stream, &keys)
}

/// Takes a batch apart; `None` when it is no batch of a version that is known.
pub(super) fn decode(number: u64, lane: Class, value: &[u8]) -> Option<StoredBatch> {
    let head = head(value)?;
    let json = unpack(&head)?;
    Some(StoredBatch {
        number,
        lane,
        class: head.class,
        stream: Some(head.stream),
        records: head.records,
        stored: head.stored,
        json,
    })
}

fn unpack(head: &Head<'_>) -> Option<Vec<u8>> {
    // What was written is below the limit: a larger length is not ours, and asks for no memory.
    let json_bytes = usize::try_from(head.json_bytes)
        .ok()
        .filter(|bytes| *bytes <= MESSAGE_BYTES_MAX)?;
    zstd::bulk::decompress(head.frame, json_bytes)
        .ok()
        .filter(|json| json.len() == json_bytes)
}

struct Head<'a> {
    class: Class,
    stream: StreamName,
    records: u32,
    stored: Timestamp,
    run: Option<Run>,
    json_bytes: u32,
    frame: &'a [u8],
}

fn head(value: &[u8]) -> Option<Head<'_>> {
    let ([version, class], rest) = value.split_first_chunk()?;
    let (stored, rest) = rest.split_first_chunk()?;
    let (records, rest) = rest.split_first_chunk()?;
    let (json_bytes, rest) = rest.split_first_chunk()?;
    let (numbers, rest) = match *version {
        VERSION_BARE => (None, rest),
        VERSION => {
            let (boot, rest) = rest.split_first_chunk()?;
            let (from, rest) = rest.split_first_chunk()?;
            let (to, rest) = rest.split_first_chunk()?;
            let [boot, from, to] = [boot, from, to].map(|bytes| u64::from_le_bytes(*bytes));
            (Some((BootId::from_u64(boot), from, to)), rest)
        }
        _ => return None,
    };
    let (name_bytes, rest) = rest.split_first()?;
    let (name, frame) = rest.split_at_checked(usize::from(*name_bytes))?;
    let stream = StreamName::new(std::str::from_utf8(name).ok()?).ok()?;
    let run = numbers.filter(|(_, from, to)| from <= to);
    Some(Head {
        class: match *class {
            1 => Class::Prediction,
            2 => Class::Sample,
            _ => return None,
        },
        records: u32::from_le_bytes(*records),
        stored: Timestamp::from_ms(i64::from_le_bytes(*stored)).ok()?,
        run: run.map(|(boot, from, to)| Run {
            stream: stream.clone(),
            boot,
            from,
            to,
        }),
        stream,
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

    fn bare(records: u32, stored: Timestamp) -> Meta {
        Meta {
            records,
            stored,
            steady_s: None,
            run: None,
        }
    }

    fn numbered(records: u32) -> Meta {
        let (boot, from, to) = (BootId::from_u64(0x0102), 3, 260);
        Meta {
            run: Some(Run {
                stream: stream(),
                boot,
                from,
                to,
            }),
            ..bare(records, stored())
        }
    }

    #[test]
    fn a_batch_becomes_the_message_that_readers_parse() {
        let json = array(&[br#"{"a":1}"#, b"2", br#""three""#]);
        let value = encode(Class::Sample, &stream(), &numbered(3), &pack(&json));
        assert_eq!(meta(&value), Some(numbered(3)));
        let batch = decode(77, Class::Sample, &value).unwrap();
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
        let (name, stored) = (
            StreamName::new("s").unwrap(),
            Timestamp::from_ms(258).unwrap(),
        );
        let value = encode(Class::Prediction, &name, &bare(7, stored), &frame);
        assert_eq!(
            value,
            b"\x01\x01\x02\x01\0\0\0\0\0\0\x07\0\0\0\x02\0\0\0\x01sframe"
        );
        let value = encode(Class::Prediction, &stream(), &numbered(7), &frame);
        let numbers = b"\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0";
        assert_eq!(value[18..42], numbers[..]);
        assert_eq!((value[0], &value[42..53]), (2, &b"\x0ai94-volume"[..]));
    }

    #[test]
    fn a_batch_without_numbers_is_known_by_its_records() {
        let record =
            |seq: u64, boot: u64| format!(r#"{{"seq":{seq},"boot":"{boot:016x}","x":[1]}}"#);
        let of = |records: &[String]| {
            let records: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
            let value = encode(
                Class::Prediction,
                &stream(),
                &bare(2, stored()),
                &pack(&array(&records)),
            );
            assert_eq!(value[0], VERSION_BARE);
            meta(&value).unwrap().run
        };
        let run = of(&[record(9, 5), record(4, 5)]).unwrap();
        assert_eq!((run.boot, run.from, run.to), (BootId::from_u64(5), 4, 9));
        assert_eq!(of(&[record(9, 5), record(4, 6)]), None, "of two boots");
        assert_eq!(of(&[record(9, 5), r#"{"n":1}"#.to_owned()]), None);
    }

    #[test]
    fn a_key_is_read_from_whole_json_only() {
        let numbered = |text: &str| read_key(text.as_bytes()).ok();
        let key = Numbered {
            boot: BootId::from_u64(1),
            seq: 4,
        };
        assert_eq!(
            numbered(r#"{"a":{"seq":9},"seq":4,"boot":"0000000000000001"}"#),
            Some(Some(key))
        );
        let sample =
            r#"{"seq":9,"origin":{"boot":"0000000000000001","seq":4,"model":"m"},"boot":7}"#;
        assert_eq!(
            numbered(&sample.replace(",\"boot\":7", "")),
            Some(Some(key))
        );
        for text in [
            sample,
            "7",
            "[]",
            r#"{"seq":-1}"#,
            r#"{"boot":7,"seq":1}"#,
            r#"{"seq":1}"#,
        ] {
            assert_eq!(numbered(text), Some(None), "{text}");
        }
        for text in ["", "{", r#"{"seq":1"#, r#"{"seq":1} x"#] {
            assert_eq!(numbered(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_no_batch_and_no_panic(cut in 0_usize..200, at in 0_usize..200, byte in any::<u8>()) {
            let json = array(&[br#"{"value":12.5,"stream":"i94-volume"}"#.as_slice(); 9]);
            let whole = encode(Class::Prediction, &stream(), &numbered(9), &pack(&json));
            let mut value = whole.clone();
            value.truncate(value.len() - cut % value.len());
            let at = at % value.len();
            value[at] ^= byte;
            assert!(meta(&value).is_none_or(|meta| meta.run.is_none_or(|run| run.from <= run.to)));
            if let Some(batch) = decode(1, Class::Prediction, &value) {
                prop_assert!(batch.json.len() <= MESSAGE_BYTES_MAX);
            }
        }
    }
}
