//! What the outbox knows of its batches.

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_models::message::{BatchRange, Gap, GapReason, ReportedOutbox};
use lamppost_models::{Epoch, Timestamp, V1};
use serde::{Deserialize, Serialize};

use super::ranges::Ranges;
use super::{is_too_old, number, place};

/// Most losses that are told one by one: a retained message must stay small. The counters know all of them.
const GAPS_MAX: usize = 16;
/// Most ranges of a generation that are written down, so that the record stays below 7 KiB. What is acknowledged
/// in a still wilder order is known until a restart, and sent again after it.
pub const RANGES_KEPT_MAX: usize = 256;

/// What was lost since the outbox was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Format version.
    pub v: V1,
    /// The outbox.
    pub epoch: Epoch,
    /// Records evicted.
    pub evicted: u64,
    /// Records that grew too old.
    pub expired: u64,
    /// Batches that the disk lost.
    pub lost_batches: u64,
    /// The newest losses, oldest first.
    pub gaps: Vec<Gap>,
}

/// What is known of one batch without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its records.
    pub records: u32,
    /// When it was stored.
    pub stored: Timestamp,
}

/// What is known of one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Format version.
    pub v: V1,
    /// Batches that were written to it.
    pub count: u32,
    /// Records in them.
    pub records: u64,
    /// Records in those that are done.
    pub records_done: u64,
    /// When the oldest batch that waits was stored, or an older one.
    pub oldest: Timestamp,
    /// When the newest batch was stored.
    pub newest: Timestamp,
    /// The batches that are done: acknowledged or lost.
    pub done: Ranges,
    /// Each batch, once they were looked at in this run.
    #[serde(skip)]
    index: Option<Vec<Option<Meta>>>,
}

/// What an acknowledgement finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
}

impl Generation {
    fn new(now: Timestamp) -> Self {
        Self {
            v: V1,
            count: 0,
            records: 0,
            records_done: 0,
            oldest: now,
            newest: now,
            done: Ranges::default(),
            index: Some(Vec::new()),
        }
    }

    /// Batches that wait.
    pub fn batches(&self) -> u64 {
        u64::from(self.count).saturating_sub(self.done.len())
    }

    /// Records that wait.
    pub fn records_waiting(&self) -> u64 {
        if self.batches() == 0 {
            0
        } else {
            self.records.saturating_sub(self.records_done)
        }
    }

    /// Whether nothing waits.
    pub fn is_drained(&self) -> bool {
        self.batches() == 0
    }

    /// Whether each batch is known.
    pub fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    /// The form that is written down.
    #[must_use]
    pub fn kept(&self) -> Self {
        Self {
            done: self.done.truncated(RANGES_KEPT_MAX),
            index: None,
            ..self.clone()
        }
    }

    fn records_within(&self, from: u32, to: u32) -> u64 {
        let Some(index) = &self.index else { return 0 };
        let within = index
            .iter()
            .skip(from as usize)
            .take((to - from) as usize + 1);
        within.flatten().map(|meta| u64::from(meta.records)).sum()
    }
}

/// All generations, and what was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    totals: Totals,
    generations: BTreeMap<u32, Generation>,
}

impl Book {
    /// The book of a new outbox.
    pub fn new(epoch: Epoch) -> Self {
        let totals = Totals {
            v: V1,
            epoch,
            evicted: 0,
            expired: 0,
            lost_batches: 0,
            gaps: Vec::new(),
        };
        Self {
            totals,
            generations: BTreeMap::new(),
        }
    }

    /// The book as it was written down.
    pub fn restore(totals: Totals, generations: BTreeMap<u32, Generation>) -> Self {
        Self {
            totals,
            generations,
        }
    }

    /// What was lost.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The outbox.
    pub fn epoch(&self) -> Epoch {
        self.totals.epoch
    }

    /// The generations, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = (u32, &Generation)> {
        self.generations
            .iter()
            .map(|(generation, entry)| (*generation, entry))
    }

    /// One generation.
    pub fn generation(&self, generation: u32) -> Option<&Generation> {
        self.generations.get(&generation)
    }

    /// Notes a new, empty generation.
    pub fn begin(&mut self, generation: u32, now: Timestamp) {
        self.generations.insert(generation, Generation::new(now));
    }

    /// Forgets a generation.
    pub fn remove(&mut self, generation: u32) {
        self.generations.remove(&generation);
    }

    /// The place that the next batch of a generation gets.
    pub fn next_place(&self, generation: u32) -> u32 {
        self.generations
            .get(&generation)
            .map_or(0, |entry| entry.count)
    }

    /// Notes a batch that was written at [`next_place`](Self::next_place); returns its number.
    pub fn appended(&mut self, generation: u32, meta: Meta) -> u64 {
        let entry = self
            .generations
            .entry(generation)
            .or_insert_with(|| Generation::new(meta.stored));
        if entry.is_drained() {
            entry.oldest = meta.stored;
        }
        let place = entry.count;
        entry.count += 1;
        entry.records += u64::from(meta.records);
        entry.oldest = entry.oldest.min(meta.stored);
        entry.newest = entry.newest.max(meta.stored);
        if let Some(index) = &mut entry.index {
            index.push(Some(meta));
        }
        number(generation, place)
    }

    /// Notes what was found in a generation, place by place, and what was not: a batch that waits and is not there is
    /// lost. Places behind the known count are of a write that was never acknowledged to the caller: they are left out.
    pub fn indexed(&mut self, generation: u32, mut index: Vec<Option<Meta>>) {
        let Some(entry) = self.generations.get_mut(&generation) else {
            return;
        };
        index.resize(entry.count as usize, None);
        let done = entry.done.clone();
        let known = |place: usize| u32::try_from(place).is_ok_and(|place| done.contains(place));
        let is_gap = |(place, meta): (usize, &Option<Meta>)| meta.is_none() && !known(place);
        let gaps: Vec<u32> = index
            .iter()
            .enumerate()
            .filter(|item| is_gap(*item))
            .map(|(place, _)| place)
            .filter_map(|place| u32::try_from(place).ok())
            .collect();
        let waiting = || {
            index
                .iter()
                .enumerate()
                .filter(|(place, _)| !known(*place))
                .filter_map(|(_, meta)| *meta)
        };
        let records_waiting: u64 = waiting().map(|meta| u64::from(meta.records)).sum();
        entry.oldest = waiting()
            .map(|meta| meta.stored)
            .min()
            .unwrap_or(entry.newest);
        // The sum that was written down stays: what the disk lost is the difference.
        let missing = entry
            .records
            .saturating_sub(entry.records_done)
            .saturating_sub(records_waiting);
        entry.index = Some(index);
        for (nth, place) in gaps.into_iter().enumerate() {
            self.lose_run(
                generation,
                place,
                place,
                if nth == 0 { missing } else { 0 },
                GapReason::Damaged,
            );
        }
    }

    /// Takes over the count of a generation that ended without being closed: all that is in it counts.
    pub fn recounted(&mut self, generation: u32, index: Vec<Option<Meta>>) {
        let Some(entry) = self.generations.get_mut(&generation) else {
            return;
        };
        entry.count = u32::try_from(index.len()).unwrap_or(u32::MAX);
        let metas = || index.iter().flatten();
        entry.records = metas().map(|meta| u64::from(meta.records)).sum();
        entry.newest = metas()
            .map(|meta| meta.stored)
            .max()
            .unwrap_or(entry.newest);
        let done = index
            .iter()
            .zip(0_u32..)
            .filter(|(_, place)| entry.done.contains(*place));
        entry.records_done = done
            .filter_map(|(meta, _)| *meta)
            .map(|meta| u64::from(meta.records))
            .sum();
        self.indexed(generation, index);
    }

    /// The first batch that waits behind `after`, or at all.
    pub fn next_waiting(&self, after: Option<u64>) -> Option<u64> {
        let (from_generation, from_place) =
            after.map_or((0, 0), |after| place(after.saturating_add(1)));
        self.generations
            .range(from_generation..)
            .find_map(|(&generation, entry)| {
                let from = if generation == from_generation {
                    from_place
                } else {
                    0
                };
                let next = entry.done.first_missing(from);
                (next < entry.count).then(|| number(generation, next))
            })
    }

    /// The generations of which a range takes a part, so that their batches must be known before it can be counted.
    pub fn unknown_within(&self, range: BatchRange) -> Vec<u32> {
        let parts = self.within(range).into_iter();
        parts
            .filter(|&(generation, from, to)| {
                let Some(entry) = self.generations.get(&generation) else {
                    return false;
                };
                !entry.is_indexed()
                    && entry.done.missing(0, entry.count) != entry.done.missing(from, to + 1)
            })
            .map(|(generation, ..)| generation)
            .collect()
    }

    /// Notes what the coordinator has stored. What is unknown, or of another outbox, is no matter.
    pub fn acknowledge(&mut self, range: BatchRange) -> Finished {
        let mut finished = Finished::default();
        for (generation, from, to) in self.within(range) {
            for (from, to, records) in self.settle(generation, from, to) {
                finished.batches += u64::from(to - from) + 1;
                finished.records += records;
            }
        }
        finished
    }

    /// Notes that all that waits in a generation is lost.
    pub fn lose_generation(&mut self, generation: u32, reason: GapReason) -> Finished {
        let Some(end) = self
            .generations
            .get(&generation)
            .map(|entry| entry.count)
            .filter(|count| *count > 0)
        else {
            return Finished::default();
        };
        self.lose(generation, 0, end - 1, reason)
    }

    /// Notes that one batch is lost.
    pub fn lose_batch(&mut self, batch: u64, reason: GapReason) -> Finished {
        let (generation, place) = place(batch);
        self.lose(generation, place, place, reason)
    }

    /// Notes that all from `place` on is gone in a generation, and that nobody knows how much it was: one batch is counted.
    pub fn lose_unknown(&mut self, generation: u32, place: u32) {
        self.totals.lost_batches += 1;
        self.push_gap(
            number(generation, place),
            number(generation, u32::MAX),
            0,
            GapReason::Damaged,
        );
    }

    /// The generations in which some, but not all, of what waits is too old, and whose batches are not known.
    pub fn unknown_in_part_expired(&self, now: Timestamp, age_max: Duration) -> Vec<u32> {
        let in_part = self.generations.iter().filter(|(_, entry)| {
            !entry.is_drained()
                && !entry.is_indexed()
                && is_too_old(entry.oldest, now, age_max)
                && !is_too_old(entry.newest, now, age_max)
        });
        in_part.map(|(generation, _)| *generation).collect()
    }

    /// Notes that what is too old is lost.
    pub fn expire(&mut self, now: Timestamp, age_max: Duration) -> Finished {
        let mut expired = Vec::new();
        for (&generation, entry) in &self.generations {
            if entry.is_drained() || !is_too_old(entry.oldest, now, age_max) {
                continue;
            }
            let too_old = |place: u32| match &entry.index {
                Some(index) => index
                    .get(place as usize)
                    .copied()
                    .flatten()
                    .is_some_and(|meta| is_too_old(meta.stored, now, age_max)),
                None => is_too_old(entry.newest, now, age_max),
            };
            let mut places = Ranges::default();
            for (from, to) in entry.done.missing(0, entry.count) {
                (from..=to)
                    .filter(|place| too_old(*place))
                    .for_each(|place| places.insert(place, place));
            }
            expired.extend(
                Vec::from(places)
                    .into_iter()
                    .map(|(from, to)| (generation, from, to)),
            );
        }
        let mut finished = Finished::default();
        for (generation, from, to) in expired {
            let lost = self.lose(generation, from, to, GapReason::Expired);
            finished.batches += lost.batches;
            finished.records += lost.records;
        }
        finished
    }

    /// The generations, but the active one, in which nothing waits.
    pub fn drained(&self, active: Option<u32>) -> Vec<u32> {
        let drained = self
            .generations
            .iter()
            .filter(|(_, entry)| entry.is_drained());
        drained
            .map(|(generation, _)| *generation)
            .filter(|generation| Some(*generation) != active)
            .collect()
    }

    /// What the node reports.
    pub fn report(&self, bytes: u64, unwritten: u64) -> ReportedOutbox {
        ReportedOutbox {
            batches: self.generations.values().map(Generation::batches).sum(),
            records: self
                .generations
                .values()
                .map(Generation::records_waiting)
                .sum(),
            bytes,
            evicted: self.totals.evicted,
            expired: self.totals.expired,
            lost_batches: self.totals.lost_batches,
            unwritten,
            gaps: self.totals.gaps.clone(),
            ..ReportedOutbox::default()
        }
    }

    /// The parts of a range that lie in known generations, as (generation, first place, last place).
    fn within(&self, range: BatchRange) -> Vec<(u32, u32, u32)> {
        if range.epoch != self.totals.epoch || range.from > range.to {
            return Vec::new();
        }
        let ((first, from), (last, to)) = (place(range.from), place(range.to));
        let entries = self
            .generations
            .range(first..=last)
            .filter(|(_, entry)| entry.count > 0);
        entries
            .map(|(&generation, entry)| {
                let from = if generation == first { from } else { 0 };
                let to = if generation == last {
                    to.min(entry.count - 1)
                } else {
                    entry.count - 1
                };
                (generation, from, to)
            })
            .filter(|(_, from, to)| from <= to)
            .collect()
    }

    /// Marks what waits between two places as done; returns it as (first, last, records).
    fn settle(&mut self, generation: u32, from: u32, to: u32) -> Vec<(u32, u32, u64)> {
        let Some(entry) = self
            .generations
            .get_mut(&generation)
            .filter(|entry| entry.count > 0)
        else {
            return Vec::new();
        };
        let runs = entry.done.missing(from, to.min(entry.count - 1) + 1);
        let all = runs == entry.done.missing(0, entry.count);
        let mut left = entry.records.saturating_sub(entry.records_done);
        let mut settled = Vec::new();
        for (nth, &(from, to)) in runs.iter().enumerate() {
            let last = nth + 1 == runs.len();
            // Whatever is left belongs to the last batches of the generation, known one by one or not.
            let records = if all && last {
                left
            } else {
                entry.records_within(from, to).min(left)
            };
            left -= records;
            entry.done.insert(from, to);
            entry.records_done += records;
            settled.push((from, to, records));
        }
        settled
    }

    fn lose(&mut self, generation: u32, from: u32, to: u32, reason: GapReason) -> Finished {
        let mut finished = Finished::default();
        for (from, to, records) in self.settle(generation, from, to) {
            finished.batches += u64::from(to - from) + 1;
            finished.records += records;
            self.count_loss(generation, from, to, records, reason);
        }
        finished
    }

    /// As [`lose`](Self::lose), for batches whose records are known only in sum.
    fn lose_run(&mut self, generation: u32, from: u32, to: u32, records: u64, reason: GapReason) {
        if let Some(entry) = self.generations.get_mut(&generation) {
            entry.done.insert(from, to);
            entry.records_done += records;
            self.count_loss(generation, from, to, records, reason);
        }
    }

    fn count_loss(&mut self, generation: u32, from: u32, to: u32, records: u64, reason: GapReason) {
        match reason {
            GapReason::Evicted => self.totals.evicted += records,
            GapReason::Expired => self.totals.expired += records,
            GapReason::Damaged => self.totals.lost_batches += u64::from(to - from) + 1,
        }
        self.push_gap(
            number(generation, from),
            number(generation, to),
            records,
            reason,
        );
    }

    fn push_gap(&mut self, from: u64, to: u64, records: u64, reason: GapReason) {
        let epoch = self.totals.epoch;
        let gaps = &mut self.totals.gaps;
        if let Some(last) = gaps
            .last_mut()
            .filter(|last| last.reason == reason && last.to.checked_add(1) == Some(from))
        {
            last.to = to;
            last.records += records;
            return;
        }
        gaps.push(Gap {
            epoch,
            from,
            to,
            records,
            reason,
        });
        let over = gaps.len().saturating_sub(GAPS_MAX);
        gaps.drain(..over);
    }
}

#[cfg(test)]
mod tests;
