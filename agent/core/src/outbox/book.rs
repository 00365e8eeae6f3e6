//! What the outbox knows of its batches.

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_models::ledger::{Class, LedgerEvent, LedgerEventKind, LossReason, Lost};
use lamppost_models::message::{BatchRange, Gap, GapReason, ReportedLane, ReportedOutbox};
use lamppost_models::{Epoch, Timestamp, V1};
use serde::{Deserialize, Serialize};

use super::clock::{Guarded, Now, is_over_age, is_too_old};
use super::events::Events;
use super::generation::{Generation, Meta, Run, Sum};
use super::ranges::Ranges;
use super::{Waiters, number, place};

mod stock;

/// Most losses that are told one by one: a retained message must stay small. The counters know all of them.
const GAPS_MAX: usize = 16;

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

/// What an acknowledgement finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Batches of events, beside those.
    pub events: u64,
}

/// All generations, and what was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    totals: Totals,
    generations: BTreeMap<u32, Generation>,
    events: Events,
    now: Now,
    guarded: Guarded,
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
        Self::restore(totals, BTreeMap::new(), Events::default())
    }

    /// The book as it was written down.
    pub fn restore(totals: Totals, generations: BTreeMap<u32, Generation>, events: Events) -> Self {
        Self {
            totals,
            generations,
            events,
            now: Timestamp::EPOCH.into(),
            guarded: Guarded::default(),
        }
    }

    /// Looks at the clocks.
    pub fn look(&mut self, now: Now) {
        self.now = now;
        self.guarded.look(now);
    }

    /// Goes on with the clocks of another book, which was there before this one was read.
    #[must_use]
    pub fn with_clocks_of(self, other: &Self) -> Self {
        let (now, guarded) = (other.now, other.guarded);
        Self {
            now,
            guarded,
            ..self
        }
    }

    /// The events that wait.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The same, to be changed.
    pub fn events_mut(&mut self) -> &mut Events {
        &mut self.events
    }

    /// Takes in an event of the ledger, noticed now.
    pub fn tell(&mut self, event: LedgerEventKind) {
        let at = self.now.wall;
        self.events.push(LedgerEvent { v: V1, at, event });
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
    pub fn begin(&mut self, generation: u32, class: Class, now: Timestamp) {
        self.generations
            .insert(generation, Generation::new(class, now));
    }

    /// Notes that nothing more is written to a generation.
    pub fn seal(&mut self, generation: u32) {
        if let Some(entry) = self.generations.get_mut(&generation) {
            entry.open = false;
        }
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
        let new = || Generation::new(Class::Prediction, meta.stored);
        let entry = self.generations.entry(generation).or_insert_with(new);
        let place = entry.count;
        entry.push(meta);
        number(generation, place)
    }

    /// The first batch of a class that waits behind `after`, or at all.
    pub fn next_of(&self, class: Class, after: Option<u64>) -> Option<u64> {
        self.next(after, |entry| entry.class == class)
    }

    /// Whether a batch waits.
    pub fn waits(&self, batch: u64) -> bool {
        self.next(batch.checked_sub(1), |_| true) == Some(batch)
    }

    fn next(&self, after: Option<u64>, wanted: impl Fn(&Generation) -> bool) -> Option<u64> {
        let (from_generation, from_place) =
            after.map_or((0, 0), |after| place(after.saturating_add(1)));
        self.generations
            .range(from_generation..)
            .filter(|(_, entry)| wanted(entry))
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
        if range.epoch == self.totals.epoch {
            finished.events += self.events.acknowledge(range);
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
    pub fn unknown_in_part_expired(&self, age_max: impl Fn(Class) -> Duration) -> Vec<u32> {
        let in_part = self.generations.iter().filter(|(_, entry)| {
            let age_max = age_max(entry.class);
            !entry.is_drained()
                && !entry.is_indexed()
                && self.is_over_age(entry.oldest, None, age_max)
                && !self.is_over_age(entry.newest, None, age_max)
        });
        in_part.map(|(generation, _)| *generation).collect()
    }

    /// Notes that what is too old is lost.
    pub fn expire(&mut self, age_max: impl Fn(Class) -> Duration) -> Finished {
        let mut expired = Vec::new();
        for (&generation, entry) in &self.generations {
            let age_max = age_max(entry.class);
            if entry.is_drained() || !is_too_old(entry.oldest, self.now.wall, age_max) {
                continue;
            }
            let too_old = |place: u32| match &entry.index {
                Some(index) => index
                    .get(place as usize)
                    .and_then(Option::as_ref)
                    .is_some_and(|meta| self.is_over_age(meta.stored, meta.steady_s, age_max)),
                None => self.is_over_age(entry.newest, None, age_max),
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

    fn is_over_age(&self, stored: Timestamp, steady_s: Option<u32>, age_max: Duration) -> bool {
        is_over_age(stored, steady_s, self.now, &self.guarded, age_max)
    }

    /// The generations, but those that are written to, in which nothing waits.
    pub fn drained(&self, active: &[u32]) -> Vec<u32> {
        let drained = self
            .generations
            .iter()
            .filter(|(_, entry)| entry.is_drained());
        drained
            .map(|(generation, _)| *generation)
            .filter(|generation| !active.contains(generation))
            .collect()
    }

    /// What the node reports, but for the bytes of the lanes.
    pub fn report(&self, bytes: u64, unwritten: u64) -> ReportedOutbox {
        let lanes: Vec<ReportedLane> = Class::ALL.map(|class| self.lane(class)).into();
        let data = || lanes.iter().filter(|lane| lane.class != Class::Event);
        ReportedOutbox {
            batches: data().map(|lane| lane.batches).sum(),
            records: data().map(|lane| lane.records).sum(),
            bytes,
            evicted: self.totals.evicted,
            expired: self.totals.expired,
            lost_batches: self.totals.lost_batches,
            unwritten,
            gaps: self.totals.gaps.clone(),
            lanes,
            ..ReportedOutbox::default()
        }
    }

    fn lane(&self, class: Class) -> ReportedLane {
        let mut lane = ReportedLane {
            class,
            batches: 0,
            records: 0,
            bytes: 0,
            cap_bytes: 0,
            oldest: None,
        };
        if class == Class::Event {
            lane.batches = self.events.groups();
            lane.records = self.events.len() as u64;
            lane.oldest = self.events.oldest();
            return lane;
        }
        let waiting = self.generations.values();
        for entry in waiting.filter(|entry| entry.class == class && !entry.is_drained()) {
            lane.batches += entry.batches();
            lane.records += entry.records_waiting();
            let oldest = lane
                .oldest
                .map_or(entry.oldest, |oldest| oldest.min(entry.oldest));
            lane.oldest = Some(oldest);
        }
        lane
    }

    /// All that is here by number, and all that was lost and not told yet.
    pub fn waiters(&self) -> Waiters {
        let mut waiters = Waiters::default();
        for entry in self.generations.values() {
            for run in entry.runs_waiting() {
                waiters.add(entry.class, &run.stream, run.boot, run.from, run.to);
            }
        }
        self.events.add_to(&mut waiters);
        waiters
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
                entry
                    .metas(from, to)
                    .map(|meta| u64::from(meta.records))
                    .sum::<u64>()
                    .min(left)
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
            self.tell_places(generation, from, to, records, reason);
            self.count_loss(generation, from, to, records, reason);
        }
        finished
    }

    /// Tells the records of all that waits in a generation as lost, and leaves it as it is.
    pub fn tell_generation(&mut self, generation: u32, reason: LossReason) {
        let Some(entry) = self.generations.get(&generation) else {
            return;
        };
        let class = entry.class;
        let records = entry.records_waiting();
        let runs: Vec<Run> = entry.runs_waiting().into_iter().cloned().collect();
        for run in runs {
            let span = (run.to - run.from).saturating_add(1);
            self.tell_lost(class, run, records.min(span), reason);
        }
    }

    /// Tells the records of some places, which were lost, by number.
    fn tell_places(
        &mut self,
        generation: u32,
        from: u32,
        to: u32,
        records: u64,
        reason: GapReason,
    ) {
        let Some(entry) = self.generations.get(&generation) else {
            return;
        };
        let class = entry.class;
        let mut left = records;
        let mut runs: Vec<(Run, u64)> = Vec::new();
        if entry.is_indexed() {
            let metas = entry.metas(from, to);
            runs.extend(metas.filter_map(|meta| Some((meta.run.clone()?, meta.records.into()))));
        } else {
            // Each batch that waits is lost, and which records were in those that do not is not known.
            for Sum { run, records } in &entry.sums {
                let part = (*records).min(left);
                left -= part;
                runs.push((run.clone(), part));
            }
        }
        for (run, records) in runs {
            self.tell_lost(class, run, records, loss(reason));
        }
    }

    /// Tells that records will never come.
    pub fn tell_lost(&mut self, class: Class, run: Run, records: u64, reason: LossReason) {
        let Run {
            stream,
            boot,
            from,
            to,
        } = run;
        self.tell(LedgerEventKind::Lost(Lost {
            class,
            stream,
            boot,
            from,
            to,
            records,
            reason,
        }));
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

/// Why records are lost when their batches are.
const fn loss(reason: GapReason) -> LossReason {
    match reason {
        GapReason::Evicted => LossReason::Evicted,
        GapReason::Expired => LossReason::Expired,
        GapReason::Damaged => LossReason::Damaged,
    }
}

#[cfg(test)]
mod tests;
