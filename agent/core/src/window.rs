//! Readings in whatever order they come become windows in the order of their event times.
//!
//! The watermark is the newest event time less the configured lateness. A reading waits until the watermark has
//! reached it, so that one which overtook it on the way can take its place before it; a reading behind the watermark is
//! late and is dropped. With no lateness a reading passes at once. (The idea and its words are those of Akidau et al.,
//! "The Dataflow Model", VLDB 2015.)
//!
//! Windows by time end at the multiples of their hop since 1970, begin their duration before, and close when the
//! watermark reaches their end: the end itself belongs to the next one. Windows without a reading are none.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamppost_models::{Reading, Timestamp};

use crate::span;

mod ring;
mod spec;
#[cfg(test)]
mod tests;

pub use spec::{Cut, Duplicates, WindowSpec, WindowSpecError};

use ring::Ring;

/// What comes out of a [`Windower`], in the order of event times.
#[derive(Debug)]
pub enum Passed<'a> {
    /// A reading that the watermark has reached; before the windows that it completes.
    Reading(&'a Arc<Reading>),
    /// A window, oldest reading first. Cloning its pointers keeps it.
    Window(&'a [Arc<Reading>]),
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a reading that was dropped must be counted"]
pub enum Taken {
    /// It passed, or waits for the watermark.
    Kept,
    /// It was dropped: it lies behind the watermark.
    Late,
    /// It was dropped: one with its event time was there before.
    Duplicate,
}

/// What happened so far; each grows from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Readings dropped behind the watermark.
    pub late: u64,
    /// Readings dropped for an event time that was there before.
    pub duplicate: u64,
    /// Readings that passed before the watermark had reached them, because too many waited. None is lost by it, but
    /// one that should have come before is late now.
    pub hurried: u64,
    /// Readings dropped from a window by time that held too many.
    pub crowded: u64,
}

/// Puts the readings of one stream in order and cuts them into windows.
#[derive(Debug)]
pub struct Windower {
    lateness_ms: i64,
    reorder_max: usize,
    keep_duplicates: bool,
    /// Behind it everything has passed or is late; it never goes back.
    watermark: Option<Timestamp>,
    newest: Option<Timestamp>,
    /// Event time of the last reading that passed.
    passed: Option<Timestamp>,
    /// Readings ahead of the watermark, by event time and, where duplicates are kept, by arrival.
    waiting: BTreeMap<(Timestamp, u64), Arc<Reading>>,
    arrivals: u64,
    cutter: Cutter,
    counts: WindowCounts,
}

#[derive(Debug)]
enum Cutter {
    Count {
        hop: usize,
        count: usize,
        ring: Ring,
        until_next: usize,
    },
    Time {
        hop_ms: i64,
        duration_ms: i64,
        count_max: usize,
        ring: Ring,
        next_end: Option<i64>,
    },
}

impl Windower {
    /// Starts with no readings.
    pub fn new(spec: &WindowSpec) -> Self {
        let cutter = match spec.cut() {
            Cut::Count { count, hop } => Cutter::Count {
                hop,
                count,
                ring: Ring::new(),
                until_next: count,
            },
            Cut::Time { duration, hop } => Cutter::Time {
                hop_ms: span::ms(hop),
                duration_ms: span::ms(duration),
                count_max: spec::TIME_WINDOW_COUNT_MAX,
                ring: Ring::new(),
                next_end: None,
            },
        };
        Self {
            lateness_ms: span::ms(spec.lateness()),
            reorder_max: spec.reorder_max(),
            keep_duplicates: spec.duplicates() == Duplicates::Keep,
            watermark: None,
            newest: None,
            passed: None,
            waiting: BTreeMap::new(),
            arrivals: 0,
            cutter,
            counts: WindowCounts::default(),
        }
    }

    /// Takes a reading in and hands to `out` what passes because of it.
    pub fn push(&mut self, reading: Reading, mut out: impl FnMut(Passed<'_>)) -> Taken {
        let ts = reading.ts;
        if self.watermark.is_some_and(|watermark| ts < watermark) {
            self.counts.late += 1;
            return Taken::Late;
        }
        if !self.keep_duplicates && (self.passed == Some(ts) || self.waits_at(ts)) {
            self.counts.duplicate += 1;
            return Taken::Duplicate;
        }
        let reading = Arc::new(reading);
        if self.lateness_ms == 0 {
            // Not behind the watermark, which is the newest event time: the next in order.
            self.newest = Some(ts);
            self.advance(ts, &mut out);
            self.pass(&reading, &mut out);
            return Taken::Kept;
        }
        self.waiting.insert((ts, self.arrivals), reading);
        self.arrivals += 1;
        let newest = self.newest.map_or(ts, |newest| newest.max(ts));
        self.newest = Some(newest);
        self.release(
            newest.offset_ms(self.lateness_ms.saturating_neg()),
            &mut out,
        );
        while self.waiting.len() > self.reorder_max {
            let Some((&(oldest, _), _)) = self.waiting.first_key_value() else {
                break;
            };
            let before = self.waiting.len();
            self.release(oldest, &mut out);
            self.counts.hurried += (before - self.waiting.len()) as u64;
        }
        Taken::Kept
    }

    /// Lets everything pass that waits, as if no reading could come late any more: for a stream that went silent, or
    /// at the end. The newest reading's own window by time stays open, since another may still belong to it.
    pub fn flush(&mut self, mut out: impl FnMut(Passed<'_>)) {
        if let Some(newest) = self.newest {
            self.release(newest, &mut out);
        }
    }

    /// Behind it everything has passed or is late.
    pub const fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    /// How many readings wait for the watermark.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What happened so far.
    pub const fn counts(&self) -> WindowCounts {
        self.counts
    }

    fn waits_at(&self, ts: Timestamp) -> bool {
        self.waiting
            .range((ts, 0)..=(ts, u64::MAX))
            .next()
            .is_some()
    }

    /// Moves the watermark to `to`, unless it is there, and lets pass what it reaches.
    fn release(&mut self, to: Timestamp, out: &mut impl FnMut(Passed<'_>)) {
        let to = self.watermark.map_or(to, |watermark| watermark.max(to));
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > to {
                break;
            }
            let reading = first.remove();
            self.advance(reading.ts, out);
            self.pass(&reading, out);
        }
        self.advance(to, out);
    }

    fn advance(&mut self, watermark: Timestamp, out: &mut impl FnMut(Passed<'_>)) {
        self.watermark = Some(watermark);
        if let Cutter::Time {
            hop_ms,
            duration_ms,
            ring,
            next_end,
            ..
        } = &mut self.cutter
        {
            close(
                ring,
                next_end,
                *hop_ms,
                *duration_ms,
                watermark.as_ms(),
                out,
            );
        }
    }

    fn pass(&mut self, reading: &Arc<Reading>, out: &mut impl FnMut(Passed<'_>)) {
        self.passed = Some(reading.ts);
        out(Passed::Reading(reading));
        match &mut self.cutter {
            Cutter::Count {
                hop,
                count,
                ring,
                until_next,
            } => {
                ring.push(Arc::clone(reading), *count);
                *until_next -= 1;
                if *until_next == 0 {
                    *until_next = *hop;
                    out(Passed::Window(ring.as_slice()));
                }
            }
            Cutter::Time {
                hop_ms,
                count_max,
                ring,
                next_end,
                ..
            } => {
                if ring.len() == *count_max {
                    self.counts.crowded += 1;
                }
                ring.push(Arc::clone(reading), *count_max);
                // The first multiple of the hop after the reading is the first end that it can be before.
                let first_end = (reading.ts.as_ms().div_euclid(*hop_ms) + 1) * *hop_ms;
                next_end.get_or_insert(first_end);
            }
        }
    }
}

/// Closes the windows by time whose end the watermark has reached.
fn close(
    ring: &mut Ring,
    next_end: &mut Option<i64>,
    hop_ms: i64,
    duration_ms: i64,
    watermark_ms: i64,
    out: &mut impl FnMut(Passed<'_>),
) {
    while let Some(end) = next_end.filter(|&end| end <= watermark_ms) {
        // Whoever passed did so after all ends up to its time were closed, so that none is beyond this end.
        ring.drop_while(|reading| reading.ts.as_ms() < end - duration_ms);
        if !ring.as_slice().is_empty() {
            out(Passed::Window(ring.as_slice()));
        }
        ring.drop_while(|reading| reading.ts.as_ms() < end + hop_ms - duration_ms);
        // With nothing left, the next reading says where to go on: a gap of years is not walked hop by hop.
        *next_end = (!ring.as_slice().is_empty()).then_some(end + hop_ms);
    }
}
