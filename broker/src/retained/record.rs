//! The form in which a retained message lies on the disk, under its topic as the key.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | flags: the QoS in the two lowest bits, 4 if the message expires |
//! | 8, only if it expires | when, in seconds of the Unix epoch, big-endian |
//! | 4, only if it expires | how many seconds were left when this was written, big-endian |
//! | 4 | length of the properties, big-endian |
//! | that length | MQTT 5 properties as on the wire, without their length and without an expiry |
//! | the rest | payload |
//!
//! The store seals each record with a checksum.
//!
//! # Clocks
//!
//! In memory a message expires by a clock that only goes forward, and no change of the wall clock touches it. Over a
//! restart only the wall clock knows how long the broker was away, and a gateway without a battery starts in 1970. So the
//! time away counts only if both readings of the clock make sense: the one at the writing and the one at the reading are
//! after [`CLOCK_SET_S`], the second not before the first. Otherwise the message gets the time that was left when it was
//! written. It never lives longer than that after a start, and no clock that was never set makes it vanish.

use crate::message::{Draft, Envelope, QoS};
use thiserror::Error;

const VERSION: u8 = 1;
const QOS_BITS: u8 = 0b0000_0011;
const EXPIRY_BIT: u8 = 0b0000_0100;

/// The start of the year 2026 in seconds of the Unix epoch: a clock before that was never set.
const CLOCK_SET_S: u64 = 1_767_225_600;

/// The two clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Seconds since the broker started.
    pub(crate) run_s: u32,
    /// Seconds since the Unix epoch, as far as the system knows.
    pub(crate) wall_s: u64,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum RecordError {
    #[error("the record has version {0}, this build reads {VERSION}")]
    Version(u8),
    #[error("the record is cut short")]
    Short,
    #[error("the record says QoS 3 or has flags that version {VERSION} does not know: {0:#04x}")]
    Flags(u8),
}

/// The record of a message.
pub(super) fn encode(envelope: &Envelope, now: Now) -> Vec<u8> {
    let (properties, payload) = (envelope.properties(), envelope.payload());
    let mut record = Vec::with_capacity(len(envelope));
    let expiry = envelope
        .deadline()
        .map(|deadline| deadline.saturating_sub(now.run_s));
    let flags = envelope.qos() as u8 | if expiry.is_some() { EXPIRY_BIT } else { 0 };
    record.extend([VERSION, flags]);
    if let Some(left_s) = expiry {
        let at = now.wall_s.saturating_add(u64::from(left_s));
        record.extend(at.to_be_bytes());
        record.extend(left_s.to_be_bytes());
    }
    // A property block is shorter than a packet, whose length has 28 bits.
    let length = u32::try_from(properties.len()).unwrap_or(u32::MAX);
    record.extend(length.to_be_bytes());
    record.extend(properties);
    record.extend(payload);
    record
}

/// The length of a message's record.
pub(super) fn len(envelope: &Envelope) -> usize {
    let expiry = if envelope.deadline().is_some() { 12 } else { 0 };
    2 + expiry + 4 + envelope.properties().len() + envelope.payload().len()
}

/// The message of a record, which may have expired: its deadline says.
pub(super) fn decode(topic: &str, record: &[u8], now: Now) -> Result<Envelope, RecordError> {
    let mut rest = record;
    let [version] = take(&mut rest)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let [flags] = take(&mut rest)?;
    let qos = QoS::from_bits(flags & QOS_BITS)
        .filter(|_| flags & !(QOS_BITS | EXPIRY_BIT) == 0)
        .ok_or(RecordError::Flags(flags))?;
    let deadline = if flags & EXPIRY_BIT == 0 {
        None
    } else {
        let at_s = u64::from_be_bytes(take(&mut rest)?);
        let left_s = u32::from_be_bytes(take(&mut rest)?);
        Some(now.run_s.saturating_add(left(at_s, left_s, now.wall_s)))
    };
    let length = u32::from_be_bytes(take(&mut rest)?) as usize;
    let (properties, payload) = rest.split_at_checked(length).ok_or(RecordError::Short)?;
    let draft = Draft {
        qos,
        retain: true,
        properties,
        deadline,
        payload,
    };
    Ok(Envelope::stored(topic, &draft))
}

/// Seconds that are left now of those that were left at the writing.
fn left(at_s: u64, left_s: u32, wall_s: u64) -> u32 {
    let written_s = at_s.saturating_sub(u64::from(left_s));
    if written_s < CLOCK_SET_S || wall_s < written_s {
        return left_s;
    }
    u32::try_from(at_s.saturating_sub(wall_s)).unwrap_or(left_s)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (chunk, tail) = rest.split_first_chunk().ok_or(RecordError::Short)?;
    *rest = tail;
    Ok(*chunk)
}

#[cfg(test)]
mod tests {
    use super::{CLOCK_SET_S, Now, RecordError, decode, encode, len};
    use crate::message::{Draft, Envelope, QoS};
    use proptest::prelude::*;

    const SET: u64 = CLOCK_SET_S + 1_000_000;

    fn now(run_s: u32, wall_s: u64) -> Now {
        Now { run_s, wall_s }
    }

    fn message<'a>(deadline: Option<u32>, properties: &'a [u8], payload: &'a [u8]) -> Envelope {
        Envelope::stored(
            "a/b",
            &Draft {
                qos: QoS::AtLeastOnce,
                retain: true,
                properties,
                deadline,
                payload,
            },
        )
    }

    /// Version 1 as it lies on disks out there: these bytes parse for ever.
    #[test]
    fn version_1_is_what_it_was() {
        let plain = b"\x01\x01\x00\x00\x00\x00on";
        let whole =
            b"\x01\x05\x00\x00\x00\x00\x69\x55\xb9\x0a\x00\x00\x00\x0a\x00\x00\x00\x02\x01\x01{}";
        let clock = now(7, CLOCK_SET_S);
        for (bytes, envelope) in [
            (&plain[..], message(None, b"", b"on")),
            (&whole[..], message(Some(17), b"\x01\x01", b"{}")),
        ] {
            assert_eq!(encode(&envelope, clock), bytes);
            let read = decode("a/b", bytes, clock).unwrap();
            assert_eq!(read, envelope);
            assert_eq!(read.topic_str(), "a/b");
        }
    }

    #[test]
    fn time_away_counts_only_between_clocks_that_were_set() {
        // Written when the broker had run for 100 s, with 60 s left.
        for (written, read, left) in [
            (SET, SET + 25, 35),
            (SET, SET + 60, 0),
            (SET, SET + 1_000_000, 0),
            (SET, SET - 1, 60),
            (SET, 0, 60),
            (0, SET, 60),
            (0, 30, 60),
        ] {
            let record = encode(&message(Some(160), b"", b"x"), now(100, written));
            let deadline = decode("a", &record, now(3, read)).unwrap().deadline();
            assert_eq!(deadline, Some(3 + left), "{written} {read}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let clock = now(0, SET);
        let good = encode(&message(Some(9), b"\x01\x01", b""), clock);
        for length in 0..good.len() {
            let cut = decode("a", &good[..length], clock);
            assert_eq!(cut.err(), Some(RecordError::Short), "{length}");
        }
        let refused = |bytes: &[u8]| decode("a", bytes, clock).err();
        assert_eq!(refused(b"\x02\x01\0\0\0\0"), Some(RecordError::Version(2)));
        assert_eq!(refused(b"\x01\x03\0\0\0\0"), Some(RecordError::Flags(3)));
        assert_eq!(refused(b"\x01\x11\0\0\0\0"), Some(RecordError::Flags(0x11)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_record_gives_back_its_message(
            deadline in prop::option::of(5_u32..),
            properties in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let envelope = message(deadline, &properties, &payload);
            let record = encode(&envelope, now(5, SET));
            prop_assert_eq!(record.len(), len(&envelope));
            let read = decode("a/b", &record, now(5, SET)).unwrap();
            prop_assert_eq!(read, envelope);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), wall_s in any::<u64>()) {
            drop(decode("a", &bytes, now(u32::MAX, wall_s)));
        }
    }
}
