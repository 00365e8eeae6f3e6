//! What became of every record of a node: delivered, told as lost, still held, or missing.
//!
//! A node sends a record until it is acknowledged, so that the coordinator sees some twice. The ledger knows every
//! prediction and every sample by (boot, stream, seq) and every batch by (epoch, number). What a node cannot deliver it tells by number in
//! ledger events, and its reports say how many numbers it used and which it still holds: what is none of these is
//! **missing**. Changes are handed out as marks, to be committed together with the records that caused them: a crash
//! between the two is then impossible.
//!
//! - `stream` knows the numbers of one stream in one boot, within bounds;
//! - `account` turns that into counts, and folds boots that are done with into sums;
//! - `marks` is the form in the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lamppost_models::ledger::{Class, Durability, LedgerEvent, LedgerEventKind};
use lamppost_models::message::ReportedOutbox;
use lamppost_models::{BootId, Epoch, Prediction, Reported, StreamName, Timestamp};

use crate::interval::{Insertion, IntervalSet};

mod account;
mod marks;
mod stream;
mod tally;

use stream::Stream;

pub use account::{Account, MISSING_SHOWN_MAX, Missing, StreamAccount};
pub use marks::{Mark, MarkChange, RestoreError};
pub use tally::Tally;

/// Most boots that are known by number and, apart, most outbox epochs. A replay after an outage with a boot each quarter
/// of an hour reaches back 16 hours; a resent record is at most a few batches old.
pub const RUNS_MAX: usize = 64;
/// Boots that stay known by number although they are done with: a broker may hold back a message that was acknowledged
/// over another way, and that must be recognised.
pub const SETTLED_KEPT: usize = 8;
/// Most streams and classes in one boot: predictions and samples of as many streams as an agent may have configured.
pub const STREAMS_MAX: usize = 128;
/// Most streams over all boots of a node; some 200 bytes each, and up to 6 KiB after heavy losses.
pub const STREAMS_IN_ALL_MAX: usize = 1_024;
/// Most streams whose sums are kept: names that were ever configured.
pub const SUMS_MAX: usize = 1_024;
/// Boots that are remembered as folded.
pub const FOLDED_MAX: usize = 64;
/// Largest number that is believed: a million records a second take 285 years to it, and JSON readers hold it exactly.
pub const SEQ_MAX: u64 = (1 << 53) - 1;

/// Whether a record came for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new, and must be stored.
    New,
    /// It was stored before.
    Duplicate,
}

/// Why a record or an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The number cannot be.
    #[error("number {seq} is over {SEQ_MAX}, the largest that is believed")]
    Seq {
        /// The number.
        seq: u64,
    },
    /// The range cannot be.
    #[error("range {from}..={to} ends before it begins")]
    Range {
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// Too many streams.
    #[error("stream {stream} is one too many in boot {boot}: the limit is {STREAMS_MAX}")]
    Streams {
        /// The stream.
        stream: StreamName,
        /// The boot.
        boot: BootId,
    },
}

type Key = (Class, StreamName);

/// What became of the records of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeLedger {
    batches: BTreeMap<Epoch, Batches>,
    boots: BTreeMap<BootId, Boot>,
    /// Of boots that were folded.
    sums: BTreeMap<Key, Tally>,
    book: Book,
    /// Counts what was seen, to tell what was seen last.
    tick: u64,
    changed: BTreeSet<Mark>,
    forgotten: u64,
}

/// Batches of one outbox.
#[derive(Clone, Debug, Default)]
struct Batches {
    touched: u64,
    seen: IntervalSet,
}

/// One run of the agent.
#[derive(Clone, Debug, Default)]
struct Boot {
    touched: u64,
    heard: Option<Timestamp>,
    /// How it ended, and the tick of that word.
    end: Option<(End, u64)>,
    /// Numbers over all streams that came before records were known by stream: such a boot is not judged.
    early: Option<IntervalSet>,
    streams: BTreeMap<Key, Stream>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    /// It lost what it held in memory, as its configuration allows.
    Crash,
    /// It may have lost nothing.
    CrashDurable,
}

/// What is known of the node beside its boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Book {
    /// The tick of the newest report.
    reported: u64,
    /// Boots that were folded, ever.
    folds: u64,
    /// Of these, how many were folded for room, with records of them open.
    folded_open: u64,
    /// Loss reports that the node had to give up.
    events_forgotten: u64,
    /// The boots folded last, oldest first, and whether records of each were open then.
    folded: VecDeque<(BootId, bool)>,
}

impl NodeLedger {
    /// A ledger of a node that delivered nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a prediction, live or within a batch.
    ///
    /// # Errors
    /// [`LedgerError`] when its number is absurd or its boot has too many streams; nothing is noted then.
    pub fn see_prediction(
        &mut self,
        prediction: &Prediction,
        now: Timestamp,
    ) -> Result<Seen, LedgerError> {
        let Prediction {
            id, seq, stream, ..
        } = prediction;
        let key = (Class::Prediction, stream.clone());
        let known_early = self
            .boots
            .get(&id.boot)
            .and_then(|boot| boot.early.as_ref())
            .is_some_and(|early| early.contains(id.number));
        let seen = self.see(id.boot, &key, *seq, now)?;
        // The earlier form knew the record, and now its place in the stream is known too.
        if known_early && seen == Seen::New {
            self.stream(id.boot, &key)?.duplicates += 1;
            return Ok(Seen::Duplicate);
        }
        Ok(seen)
    }

    /// Notes a sample.
    ///
    /// # Errors
    /// As [`NodeLedger::see_prediction`].
    pub fn see_sample(
        &mut self,
        stream: &StreamName,
        boot: BootId,
        seq: u64,
        now: Timestamp,
    ) -> Result<Seen, LedgerError> {
        self.see(boot, &(Class::Sample, stream.clone()), seq, now)
    }

    fn see(
        &mut self,
        boot: BootId,
        key: &Key,
        seq: u64,
        now: Timestamp,
    ) -> Result<Seen, LedgerError> {
        check_seq(seq)?;
        if let Some(open) = self.folded(boot) {
            return Ok(self.see_folded(key.clone(), open));
        }
        let (seen, given_up) = self.stream(boot, key)?.see(seq);
        self.forgotten += u64::from(given_up);
        self.changed
            .insert(Mark::Stream(boot, key.0, key.1.clone()));
        if seen == Seen::New {
            self.touch(boot, now);
        }
        Ok(seen)
    }

    /// Notes that a record came again within a batch that came again.
    pub fn see_again(&mut self, class: Class, stream: &StreamName, boot: BootId) {
        let key = (class, stream.clone());
        let known = self.boots.get_mut(&boot);
        if let Some(stream) = known.and_then(|boot| boot.streams.get_mut(&key)) {
            stream.duplicates += 1;
            self.changed.insert(Mark::Stream(boot, key.0, key.1));
        }
    }

    /// Notes a batch.
    pub fn see_batch(&mut self, epoch: Epoch, number: u64) -> Seen {
        self.tick += 1;
        let batches = self.batches.entry(epoch).or_default();
        match batches.seen.insert(number) {
            Insertion::Known => return Seen::Duplicate,
            Insertion::New => {}
            Insertion::NewForgetting(_) => self.forgotten += 1,
        }
        batches.touched = self.tick;
        self.changed.insert(Mark::Batches(epoch));
        if self.batches.len() > RUNS_MAX {
            let oldest = self.batches.iter().min_by_key(|(_, run)| run.touched);
            if let Some(oldest) = oldest.map(|(epoch, _)| *epoch) {
                self.batches.remove(&oldest);
                self.changed.insert(Mark::Batches(oldest));
                self.forgotten += 1;
            }
        }
        Seen::New
    }

    /// Notes an event; the same one twice does no more than once.
    ///
    /// # Errors
    /// [`LedgerError`] when it cannot be; nothing is noted then.
    pub fn on_event(&mut self, event: &LedgerEvent, now: Timestamp) -> Result<(), LedgerError> {
        match &event.event {
            LedgerEventKind::Lost(lost) => {
                if lost.from > lost.to {
                    let (from, to) = (lost.from, lost.to);
                    return Err(LedgerError::Range { from, to });
                }
                check_seq(lost.to)?;
                if lost.class == Class::Event {
                    let forgotten = &mut self.book.events_forgotten;
                    *forgotten = forgotten.saturating_add(lost.records);
                    self.changed.insert(Mark::Node);
                    return Ok(());
                }
                let key = (lost.class, lost.stream.clone());
                if self.folded(lost.boot).is_some() {
                    self.lose_folded(key, lost.records, lost.reason);
                    return Ok(());
                }
                let given_up = self
                    .stream(lost.boot, &key)?
                    .lose(lost.from, lost.to, lost.reason);
                self.forgotten += u64::from(given_up);
                self.changed.insert(Mark::Stream(lost.boot, key.0, key.1));
                self.touch(lost.boot, now);
            }
            LedgerEventKind::Ended(ended) => {
                if self.folded(ended.boot).is_some() {
                    return Ok(());
                }
                self.touch(ended.boot, now);
                let end = match (ended.clean, ended.durability) {
                    (true, _) => End::Clean,
                    (false, Durability::Outage) => End::Crash,
                    (false, Durability::Always) => End::CrashDurable,
                };
                if let Some(boot) = self.boots.get_mut(&ended.boot) {
                    // Told again it is no news.
                    boot.end.get_or_insert((end, self.tick));
                }
            }
        }
        Ok(())
    }

    /// Notes a report: how many numbers the boot used. Boots that are done with are folded.
    ///
    /// Numbers that cannot be, and streams over the limit, are passed over: the report is worth more than they are.
    pub fn on_report(&mut self, report: &Reported, now: Timestamp) {
        if self.folded(report.boot).is_some() {
            return;
        }
        let used = report.streams.iter().flat_map(|row| {
            let counters = row.counters;
            // Local predictions never come; samples of such a stream do.
            let predictions = if row.local { 0 } else { counters.predictions };
            [
                (Class::Prediction, &row.name, predictions),
                (Class::Sample, &row.name, counters.samples),
            ]
        });
        for (class, name, used) in used {
            if used == 0 || used > SEQ_MAX {
                continue;
            }
            let key = (class, name.clone());
            let Ok(stream) = self.stream(report.boot, &key) else {
                continue;
            };
            if stream.reported < used {
                stream.reported = used;
                self.changed.insert(Mark::Stream(report.boot, key.0, key.1));
            }
        }
        self.touch(report.boot, now);
        self.book.reported = self.tick;
        self.changed.insert(Mark::Node);
        self.settle(report);
    }

    /// Ranges and runs given up because a bound was reached, in this life: each may cost a duplicate.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Of a boot that was folded, whether records of it were open then.
    fn folded(&self, boot: BootId) -> Option<bool> {
        let mut folded = self.book.folded.iter();
        folded
            .find(|(other, _)| *other == boot)
            .map(|(_, open)| *open)
    }

    fn touch(&mut self, boot: BootId, now: Timestamp) {
        self.tick += 1;
        let run = self.boots.entry(boot).or_default();
        run.touched = self.tick;
        run.heard = run.heard.max(Some(now));
        self.changed.insert(Mark::Boot(boot));
        self.hold_bounds(boot);
    }

    fn stream(&mut self, boot: BootId, key: &Key) -> Result<&mut Stream, LedgerError> {
        let run = self.boots.entry(boot).or_default();
        if run.streams.len() >= STREAMS_MAX && !run.streams.contains_key(key) {
            return Err(LedgerError::Streams {
                stream: key.1.clone(),
                boot,
            });
        }
        Ok(run.streams.entry(key.clone()).or_default())
    }

    /// Holds boots and streams to their bounds; `boot` was seen last and stays.
    fn hold_bounds(&mut self, boot: BootId) {
        loop {
            let streams: usize = self.boots.values().map(|run| run.streams.len()).sum();
            if self.boots.len() <= RUNS_MAX && streams <= STREAMS_IN_ALL_MAX {
                return;
            }
            let others = self.boots.iter().filter(|(other, _)| **other != boot);
            let oldest = others.min_by_key(|(_, run)| run.touched);
            let Some(oldest) = oldest.map(|(boot, _)| *boot) else {
                return;
            };
            self.fold_for_room(oldest);
        }
    }
}

const fn check_seq(seq: u64) -> Result<(), LedgerError> {
    if seq > SEQ_MAX {
        Err(LedgerError::Seq { seq })
    } else {
        Ok(())
    }
}

/// Whether a report says what the node holds; agents of before the ledger do not.
fn tells_waiting(outbox: &ReportedOutbox) -> bool {
    !outbox.lanes.is_empty()
}

/// Loss reports that a node had not delivered at its report.
fn events_waiting(outbox: &ReportedOutbox) -> u64 {
    let lanes = outbox.lanes.iter();
    lanes
        .filter(|lane| lane.class == Class::Event)
        .map(|lane| lane.records.max(lane.batches))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
