//! Cutting records into batches.

use std::ops::Range;

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitLimits {
    /// Most records.
    pub records_max: usize,
    /// Most bytes before compression, over which a single record is still tried.
    pub raw_bytes_max: usize,
    /// Most bytes after compression.
    pub packed_bytes_max: usize,
}

/// What some records became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<P> {
    /// A batch.
    Batch {
        /// The records.
        records: Range<usize>,
        /// What packing them gave.
        packed: P,
    },
    /// A record that is over a limit all alone.
    TooLarge {
        /// The record.
        record: usize,
        /// Its bytes before compression.
        raw_bytes: usize,
    },
}

/// Cuts records into batches, in order, each as large as the limits allow by a good guess.
///
/// `raw_bytes` has the size of each record, and `pack` compresses the records of a range. A batch that came out too
/// large is tried again with fewer records, in proportion, so that two or three tries find a size. `guess` is how many
/// records are tried first: what fitted last time, kept by the caller from call to call.
pub fn split<P: AsRef<[u8]>>(
    raw_bytes: &[usize],
    limits: SplitLimits,
    guess: &mut usize,
    mut pack: impl FnMut(Range<usize>) -> P,
) -> Vec<Piece<P>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < raw_bytes.len() {
        let room = fitting(&raw_bytes[start..], limits).max(1);
        let mut count = (*guess).clamp(1, room);
        loop {
            let records = start..start + count;
            let alone = count == 1;
            if alone && raw_bytes[start] > limits.raw_bytes_max {
                pieces.push(Piece::TooLarge {
                    record: start,
                    raw_bytes: raw_bytes[start],
                });
                break;
            }
            let packed = pack(records.clone());
            let bytes = packed.as_ref().len();
            if bytes <= limits.packed_bytes_max {
                *guess = next_guess(count, bytes, limits);
                pieces.push(Piece::Batch { records, packed });
                break;
            }
            if alone {
                pieces.push(Piece::TooLarge {
                    record: start,
                    raw_bytes: raw_bytes[start],
                });
                break;
            }
            count = (count * limits.packed_bytes_max / bytes * 15 / 16).clamp(1, count - 1);
        }
        start += count;
    }
    pieces
}

/// How many of the first records are within the limits that need no compression to tell.
fn fitting(raw_bytes: &[usize], limits: SplitLimits) -> usize {
    let mut total = 0_usize;
    let within = raw_bytes
        .iter()
        .take(limits.records_max)
        .take_while(|bytes| {
            total = total.saturating_add(**bytes);
            total <= limits.raw_bytes_max
        });
    within.count()
}

/// As many records as would fill a batch at the size that these had, less a sixteenth.
fn next_guess(count: usize, bytes: usize, limits: SplitLimits) -> usize {
    (count.saturating_mul(limits.packed_bytes_max) / bytes.max(1) * 15 / 16)
        .clamp(1, limits.records_max.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: SplitLimits = SplitLimits {
        records_max: 50,
        raw_bytes_max: 1_000,
        packed_bytes_max: 100,
    };

    proptest! {
        #[test]
        fn every_record_is_in_one_piece_in_order_and_within_limits(
            raw in proptest::collection::vec(prop_oneof![8 => 0_usize..40, 1 => 90_usize..300, 1 => 900_usize..1_200], 0..120),
            ratio in 1_usize..20,
            mut guess in 0_usize..100,
        ) {
            let mut tries = 0;
            let pieces = split(&raw, LIMITS, &mut guess, |range| {
                tries += 1;
                vec![0_u8; raw[range].iter().sum::<usize>() / ratio + 5]
            });
            let mut next = 0;
            for piece in &pieces {
                match piece {
                    Piece::Batch { records, packed } => {
                        prop_assert_eq!(records.start, next);
                        prop_assert!(!records.is_empty() && records.len() <= LIMITS.records_max);
                        prop_assert!(raw[records.clone()].iter().sum::<usize>() <= LIMITS.raw_bytes_max);
                        prop_assert!(packed.len() <= LIMITS.packed_bytes_max);
                        next = records.end;
                    }
                    Piece::TooLarge { record, raw_bytes } => {
                        prop_assert_eq!(*record, next);
                        prop_assert_eq!(*raw_bytes, raw[next]);
                        prop_assert!(raw[next] > LIMITS.raw_bytes_max || raw[next] / ratio + 5 > LIMITS.packed_bytes_max);
                        next += 1;
                    }
                }
            }
            prop_assert_eq!(next, raw.len());
            prop_assert!(tries <= 50 * raw.len(), "{} tries for {} records", tries, raw.len());
        }
    }

    #[test]
    fn equal_records_fill_their_batches_without_many_tries() {
        let raw = [20; 200];
        let mut guess = LIMITS.records_max;
        let mut tries = 0;
        let mut pieces = || {
            tries = 0;
            let pieces = split(&raw, LIMITS, &mut guess, |range| {
                tries += 1;
                vec![0_u8; range.len() * 4]
            });
            (pieces.len(), tries)
        };
        let (batches, tries) = pieces();
        assert!(batches <= 10, "{batches} batches of at most 25 records");
        assert!(tries <= batches + 3, "{tries} tries for {batches} batches");
        let (batches, tries) = pieces();
        assert_eq!(tries, batches, "the second time it is known what fits");
    }
}
