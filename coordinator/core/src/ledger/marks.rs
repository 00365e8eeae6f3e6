//! A ledger in the store: each part under a name of its own, so that a commit writes only what changed.
//!
//! All numbers are little-endian, 64 bits, behind one byte for the format. Format 1: the tick of the last change, and both
//! ends of each range; batches have it, and so had predictions before they were known by stream. Format 2 is that of each
//! part as its `encode` below has it.

use lamppost_models::ledger::{Class, LossReason};
use lamppost_models::{BootId, Epoch, StreamName, Timestamp};

use super::stream::{LOSSES_MAX, Loss, Stream};
use super::tally::{FIELDS, Tally};
use super::{Batches, Book, Boot, End, FOLDED_MAX, NodeLedger};
use crate::interval::{IntervalSet, RangesError};

/// Names a persisted part of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// The batches of an outbox.
    Batches(Epoch),
    /// The predictions of a boot by their number over all streams: read, and not written any more.
    Early(BootId),
    /// A boot.
    Boot(BootId),
    /// A stream of a boot.
    Stream(BootId, Class, StreamName),
    /// A stream's sums over boots that were folded.
    Sums(Class, StreamName),
    /// What is known of the node beside these.
    Node,
}

/// A change to persist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkChange {
    /// Write these bytes under the mark.
    Put(Mark, Vec<u8>),
    /// Remove the mark.
    Delete(Mark),
}

/// Why the bytes under a mark are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They are cut short or too long, or another format.
    #[error(
        "mark has {bytes} bytes, format {format:?}: it is none that this build reads (1 and 2)"
    )]
    Format {
        /// Their number.
        bytes: usize,
        /// The first one.
        format: Option<u8>,
    },
    /// The ranges make no set.
    #[error("mark holds no set of ranges")]
    Ranges(#[from] RangesError),
}

impl NodeLedger {
    /// Takes in what [`NodeLedger::take_changes`] handed out in an earlier life.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are not of such a mark.
    pub fn restore(&mut self, mark: Mark, bytes: &[u8]) -> Result<(), RestoreError> {
        let tick = match mark {
            Mark::Batches(epoch) => {
                let (touched, seen) = read_set(bytes)?;
                self.batches.insert(epoch, Batches { touched, seen });
                touched
            }
            Mark::Early(boot) => {
                let (touched, seen) = read_set(bytes)?;
                let run = self.boots.entry(boot).or_default();
                run.early = Some(seen);
                run.touched = run.touched.max(touched);
                touched
            }
            Mark::Boot(boot) => {
                let (touched, heard, end) = read_boot(bytes)?;
                let run = self.boots.entry(boot).or_default();
                run.touched = run.touched.max(touched);
                (run.heard, run.end) = (heard, end);
                touched
            }
            Mark::Stream(boot, class, stream) => {
                let read = read_stream(bytes)?;
                let run = self.boots.entry(boot).or_default();
                run.streams.insert((class, stream), read);
                0
            }
            Mark::Sums(class, stream) => {
                self.sums.insert((class, stream), read_sums(bytes)?);
                0
            }
            Mark::Node => {
                self.book = read_book(bytes)?;
                self.book.reported
            }
        };
        self.tick = self.tick.max(tick);
        Ok(())
    }

    /// What changed since the last call, to be committed with the records.
    pub fn take_changes(&mut self) -> Vec<MarkChange> {
        let changed = std::mem::take(&mut self.changed);
        let change = |mark| match self.encode(&mark) {
            Some(bytes) => MarkChange::Put(mark, bytes),
            None => MarkChange::Delete(mark),
        };
        changed.into_iter().map(change).collect()
    }

    /// The bytes of a part; `None` for one that is gone.
    fn encode(&self, mark: &Mark) -> Option<Vec<u8>> {
        match mark {
            Mark::Batches(epoch) => {
                let batches = self.batches.get(epoch)?;
                Some(write_set(batches.touched, &batches.seen))
            }
            Mark::Early(boot) => {
                let run = self.boots.get(boot)?;
                Some(write_set(run.touched, run.early.as_ref()?))
            }
            Mark::Boot(boot) => self.boots.get(boot).map(write_boot),
            Mark::Stream(boot, class, stream) => {
                let run = self.boots.get(boot)?;
                run.streams.get(&(*class, stream.clone())).map(write_stream)
            }
            Mark::Sums(class, stream) => {
                let sums = self.sums.get(&(*class, stream.clone()))?;
                Some(write(2, sums.to_numbers()))
            }
            Mark::Node => Some(write_book(&self.book)),
        }
    }
}

fn write(format: u8, numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
    std::iter::once(format).chain(numbers).collect()
}

/// Numbers that are read one behind the other, to the last.
struct Numbers<'a> {
    bytes: &'a [u8],
    rest: &'a [[u8; 8]],
}

impl<'a> Numbers<'a> {
    fn read(bytes: &'a [u8], format: u8) -> Result<Self, RestoreError> {
        let mut numbers = Self { bytes, rest: &[] };
        match bytes.split_first().map(|(f, rest)| (*f, rest.as_chunks())) {
            Some((found, (rest, []))) if found == format => numbers.rest = rest,
            _ => return Err(numbers.wrong()),
        }
        Ok(numbers)
    }

    fn wrong(&self) -> RestoreError {
        RestoreError::Format {
            bytes: self.bytes.len(),
            format: self.bytes.first().copied(),
        }
    }

    fn next(&mut self) -> Result<u64, RestoreError> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*first))
    }

    fn array<const N: usize>(&mut self) -> Result<[u64; N], RestoreError> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.next()?;
        }
        Ok(numbers)
    }

    /// As many rows as the next number says, at most what is there.
    fn rows<const N: usize>(&mut self) -> Result<Vec<[u64; N]>, RestoreError> {
        let rows = self.next()?;
        if rows > (self.rest.len() / N) as u64 {
            return Err(self.wrong());
        }
        (0..rows).map(|_| self.array()).collect()
    }

    fn end<T>(self, value: T) -> Result<T, RestoreError> {
        if self.rest.is_empty() {
            Ok(value)
        } else {
            Err(self.wrong())
        }
    }
}

fn write_set(touched: u64, set: &IntervalSet) -> Vec<u8> {
    let ends = set.ranges().iter().flat_map(|&(from, to)| [from, to]);
    write(1, std::iter::once(touched).chain(ends))
}

fn read_set(bytes: &[u8]) -> Result<(u64, IntervalSet), RestoreError> {
    let mut numbers = Numbers::read(bytes, 1)?;
    let touched = numbers.next()?;
    let (pairs, []) = numbers.rest.as_chunks::<2>() else {
        return Err(numbers.wrong());
    };
    let pair = |&[from, to]: &[[u8; 8]; 2]| (u64::from_le_bytes(from), u64::from_le_bytes(to));
    let set = IntervalSet::from_ranges(pairs.iter().map(pair).collect())?;
    Ok((touched, set))
}

/// Tick; whether a time follows; the time in milliseconds; how it ended: 0 for not, 1 cleanly, 2 and 3 not; the tick of
/// that word.
fn write_boot(boot: &Boot) -> Vec<u8> {
    let (end, told) = match boot.end {
        None => (0, 0),
        Some((End::Clean, told)) => (1, told),
        Some((End::Crash, told)) => (2, told),
        Some((End::CrashDurable, told)) => (3, told),
    };
    let heard = boot.heard.map(Timestamp::as_ms);
    let ms = heard.unwrap_or(0).cast_unsigned();
    let is_heard = u64::from(heard.is_some());
    write(2, [boot.touched, is_heard, ms, end, told])
}

type ReadBoot = (u64, Option<Timestamp>, Option<(End, u64)>);

fn read_boot(bytes: &[u8]) -> Result<ReadBoot, RestoreError> {
    let mut numbers = Numbers::read(bytes, 2)?;
    let [touched, is_heard, ms, end, told] = numbers.array()?;
    let end = match end {
        0 if told == 0 => None,
        1 => Some((End::Clean, told)),
        2 => Some((End::Crash, told)),
        3 => Some((End::CrashDurable, told)),
        _ => return Err(numbers.wrong()),
    };
    let heard = match (is_heard, Timestamp::from_ms(ms.cast_signed())) {
        (0, Ok(at)) if at == Timestamp::EPOCH => None,
        (1, Ok(at)) => Some(at),
        _ => return Err(numbers.wrong()),
    };
    numbers.end((touched, heard, end))
}

/// Reported, floor, whether a number was open that it rose over, duplicates; the tally below the floor; ranges that arrived; losses with their reasons.
fn write_stream(stream: &Stream) -> Vec<u8> {
    let Stream {
        reported,
        floor,
        below,
        below_open,
        duplicates,
        seen,
        losses,
    } = stream;
    let ends = seen.ranges().iter().flat_map(|&(from, to)| [from, to]);
    let losses_of = losses
        .iter()
        .flat_map(|loss| [loss.from, loss.to, reason_number(loss.reason)]);
    let numbers = [*reported, *floor, u64::from(*below_open), *duplicates]
        .into_iter()
        .chain(below.to_numbers())
        .chain([seen.ranges().len() as u64])
        .chain(ends)
        .chain([losses.len() as u64])
        .chain(losses_of);
    write(2, numbers)
}

fn read_stream(bytes: &[u8]) -> Result<Stream, RestoreError> {
    let mut numbers = Numbers::read(bytes, 2)?;
    let [reported, floor, below_open, duplicates] = numbers.array()?;
    if below_open > 1 {
        return Err(numbers.wrong());
    }
    let below = Tally::from_numbers(numbers.array::<FIELDS>()?);
    let pairs = numbers.rows::<2>()?;
    let seen = IntervalSet::from_ranges(pairs.into_iter().map(|[from, to]| (from, to)).collect())?;
    let mut losses: Vec<Loss> = Vec::new();
    for [from, to, reason] in numbers.rows::<3>()? {
        let reason = number_reason(reason).ok_or_else(|| numbers.wrong())?;
        let behind = losses.last().is_none_or(|last| last.to < from);
        if from > to || !behind || losses.len() == LOSSES_MAX {
            return Err(RangesError::Order { from, to }.into());
        }
        losses.push(Loss { from, to, reason });
    }
    let highest = seen.ranges().last().map(|(_, to)| *to);
    let highest = highest.max(losses.last().map(|loss| loss.to));
    if highest.max(Some(reported)).max(Some(floor)) > Some(super::SEQ_MAX + 1) {
        return Err(numbers.wrong());
    }
    numbers.end(Stream {
        reported,
        floor,
        below,
        below_open: below_open == 1,
        duplicates,
        seen,
        losses,
    })
}

fn read_sums(bytes: &[u8]) -> Result<Tally, RestoreError> {
    let mut numbers = Numbers::read(bytes, 2)?;
    let sums = Tally::from_numbers(numbers.array::<FIELDS>()?);
    numbers.end(sums)
}

/// Tick of the newest report; folds, those with open records, events given up; the boots folded last, and whether
/// records of each were open.
fn write_book(book: &Book) -> Vec<u8> {
    let counts = [
        book.reported,
        book.folds,
        book.folded_open,
        book.events_forgotten,
        book.folded.len() as u64,
    ];
    let folded = book.folded.iter();
    let folded = folded.flat_map(|(boot, open)| [boot.as_u64(), u64::from(*open)]);
    write(2, counts.into_iter().chain(folded))
}

fn read_book(bytes: &[u8]) -> Result<Book, RestoreError> {
    let mut numbers = Numbers::read(bytes, 2)?;
    let [reported, folds, folded_open, events_forgotten] = numbers.array()?;
    let folded = numbers.rows::<2>()?;
    if folded.len() > FOLDED_MAX || folded.iter().any(|[_, open]| *open > 1) {
        return Err(numbers.wrong());
    }
    let folded = folded
        .into_iter()
        .map(|[boot, open]| (BootId::from_u64(boot), open == 1));
    let folded = folded.collect();
    numbers.end(Book {
        reported,
        folds,
        folded_open,
        events_forgotten,
        folded,
    })
}

const REASONS: [LossReason; 6] = [
    LossReason::Evicted,
    LossReason::Expired,
    LossReason::Damaged,
    LossReason::Unwritten,
    LossReason::Dropped,
    LossReason::Forgotten,
];

/// Place in [`REASONS`]: what was written keeps its meaning whatever the order of the enum.
const fn reason_number(reason: LossReason) -> u64 {
    match reason {
        LossReason::Evicted => 0,
        LossReason::Expired => 1,
        LossReason::Damaged => 2,
        LossReason::Unwritten => 3,
        LossReason::Dropped => 4,
        LossReason::Forgotten => 5,
    }
}

fn number_reason(number: u64) -> Option<LossReason> {
    REASONS.get(usize::try_from(number).ok()?).copied()
}
