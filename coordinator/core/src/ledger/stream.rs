//! One stream of one boot: which of its numbers arrived, and which were told as lost.

use lamppost_models::ledger::{Class, LossReason};

use super::Seen;
use super::tally::Tally;
use crate::interval::{self, Insertion, IntervalSet, RANGES_MAX};

/// Most losses that are known by number. Neighbours are joined first, so that each is an outage of its own that cost
/// something; at 24 bytes a loss they have 1.5 KiB, and with what arrived a stream stays below 6 KiB.
pub(super) const LOSSES_MAX: usize = 64;

/// A record that was told as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) reason: LossReason,
}

/// What is known of a stream in one run of the agent.
///
/// When it takes too many ranges to say what is where, the lowest are only counted from then on: `floor` rises. That
/// loses no count. When a number was open at that moment, a record below the floor is taken for new from then on, which
/// may store one twice and never loses one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// Numbers that the node said it used, by its newest report.
    pub(super) reported: u64,
    /// Numbers below it are in `below`.
    pub(super) floor: u64,
    /// What became of the numbers below the floor; what is open there is `missing`, whoever holds it.
    pub(super) below: Tally,
    /// Whether a number was open when the floor rose over it.
    pub(super) below_open: bool,
    pub(super) duplicates: u64,
    pub(super) seen: IntervalSet,
    /// Ascending, without overlaps; what arrived all the same may be within.
    pub(super) losses: Vec<Loss>,
}

/// Up to where all that the node holds is known, so that what it does not hold is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Horizon {
    /// Nowhere: what is open may be on its way.
    Nothing,
    /// For the numbers that its newest report counts.
    Reported,
    /// For all: the run is over, and a later one has said what is left of it.
    All,
}

impl Stream {
    /// Notes a record; `true` in the second place when ranges were given up for it.
    pub(super) fn see(&mut self, seq: u64) -> (Seen, bool) {
        if seq < self.floor {
            if !self.below_open {
                self.duplicates += 1;
                return (Seen::Duplicate, false);
            }
            if self.below.missing > 0 {
                self.below.missing -= 1;
                self.below.delivered += 1;
            }
            return (Seen::New, false);
        }
        if self.seen.insert(seq) == Insertion::Known {
            self.duplicates += 1;
            return (Seen::Duplicate, false);
        }
        (Seen::New, self.hold_bounds())
    }

    /// Notes that the node gave up `from..=to`; `true` when ranges were given up for it.
    pub(super) fn lose(&mut self, from: u64, to: u64, reason: LossReason) -> bool {
        if let Some(last) = self.floor.checked_sub(1).filter(|last| from <= *last) {
            // Told twice, it may explain a number that it does not name: here they are only counted.
            let told = (to.min(last) - from) + 1;
            let moved = told.min(self.below.missing);
            self.below.missing -= moved;
            *self.below.of_reason(reason) += moved;
        }
        let above = [(from.max(self.floor), to)];
        if above[0].0 > to {
            return false;
        }
        // The first word on a number holds.
        let new = interval::subtract(&above, &self.loss_ranges());
        let new = new.into_iter().map(|(from, to)| Loss { from, to, reason });
        self.losses.extend(new);
        self.losses.sort_unstable_by_key(|loss| loss.from);
        self.join_losses();
        self.hold_bounds()
    }

    /// The counts, and the missing numbers as far as they are known one by one.
    ///
    /// `waiting` are the numbers that the node holds, ascending and without overlaps.
    pub(super) fn account(
        &self,
        class: Class,
        waiting: &[(u64, u64)],
        horizon: Horizon,
    ) -> (Tally, Vec<(u64, u64)>) {
        let end = self.end().max(waiting.last().map_or(0, |(_, to)| to + 1));
        let mut tally = Tally {
            duplicated: self.duplicates,
            ..self.below
        };
        tally.delivered += self.seen.count();
        for loss in &self.losses {
            let lost = interval::subtract(&[(loss.from, loss.to)], self.seen.ranges());
            // A range may be wider than the loss, so that the node's word that it holds a record counts more.
            let lost = interval::subtract(&lost, waiting);
            *tally.of_reason(loss.reason) += interval::count(&lost);
        }
        let held_below = interval::count(&interval::intersect(waiting, &range(0, self.floor)));
        let open = interval::subtract(&range(self.floor, end), self.seen.ranges());
        let held = interval::intersect(&open, waiting);
        let rest = interval::subtract(&open, &self.loss_ranges());
        let rest = interval::subtract(&rest, waiting);
        let known_to = match horizon {
            Horizon::Nothing => 0,
            Horizon::Reported => self.reported,
            Horizon::All => end,
        };
        // Events have no numbers of their own.
        let rest = match class {
            Class::Prediction | Class::Sample => rest,
            Class::Event => Vec::new(),
        };
        let missing = interval::intersect(&rest, &range(0, known_to));
        let on_its_way = interval::count(&rest) - interval::count(&missing);
        let missing_below = match horizon {
            Horizon::Nothing => 0,
            Horizon::Reported | Horizon::All => self.below.missing.saturating_sub(held_below),
        };
        tally.in_flight =
            interval::count(&held) + on_its_way + (self.below.missing - missing_below);
        tally.missing = interval::count(&missing) + missing_below;
        tally.produced = tally.delivered + tally.lost() + tally.in_flight + tally.missing;
        (tally, missing)
    }

    /// One more than the highest number that was heard of.
    fn end(&self) -> u64 {
        let seen = self.seen.ranges().last().map_or(0, |(_, to)| to + 1);
        let lost = self.losses.last().map_or(0, |loss| loss.to + 1);
        self.reported.max(self.floor).max(seen).max(lost)
    }

    fn loss_ranges(&self) -> Vec<(u64, u64)> {
        self.losses
            .iter()
            .map(|loss| (loss.from, loss.to))
            .collect()
    }

    /// Joins neighbours of one reason when all between them arrived, which changes no count.
    fn join_losses(&mut self) {
        let mut joined: Vec<Loss> = Vec::with_capacity(self.losses.len());
        for loss in std::mem::take(&mut self.losses) {
            match joined.last_mut() {
                Some(last)
                    if last.reason == loss.reason
                        && interval::subtract(
                            &range(last.to + 1, loss.from),
                            self.seen.ranges(),
                        )
                        .is_empty() =>
                {
                    last.to = loss.to;
                }
                _ => joined.push(loss),
            }
        }
        self.losses = joined;
    }

    /// Raises the floor until the ranges are within their bounds; `true` when one was open that it rose over.
    fn hold_bounds(&mut self) -> bool {
        if self.losses.len() > LOSSES_MAX {
            self.join_losses();
        }
        let before = self.below.missing;
        // One place is kept free, so that the set itself never forgets a range.
        while self.seen.ranges().len() >= RANGES_MAX || self.losses.len() > LOSSES_MAX {
            let seen = self.seen.ranges().first().copied();
            let lost = self.losses.first().map(|loss| (loss.from, loss.to));
            let Some((_, to)) = seen.into_iter().chain(lost).min() else {
                break;
            };
            self.raise_floor(to + 1);
        }
        self.below_open |= self.below.missing > before;
        self.below.missing > before
    }

    fn raise_floor(&mut self, floor: u64) {
        let going = range(self.floor, floor);
        let seen = interval::intersect(&going, self.seen.ranges());
        self.below.delivered += interval::count(&seen);
        let mut open = interval::subtract(&going, &seen);
        for loss in &self.losses {
            let lost = interval::intersect(&open, &[(loss.from, loss.to)]);
            *self.below.of_reason(loss.reason) += interval::count(&lost);
            open = interval::subtract(&open, &lost);
        }
        self.below.missing += interval::count(&open);
        self.seen.remove_below(floor);
        self.losses.retain(|loss| loss.to >= floor);
        if let Some(first) = self.losses.first_mut() {
            first.from = first.from.max(floor);
        }
        self.floor = floor;
    }
}

/// The numbers from `from` up to and without `end`.
fn range(from: u64, end: u64) -> Vec<(u64, u64)> {
    end.checked_sub(1)
        .filter(|to| from <= *to)
        .map_or_else(Vec::new, |to| vec![(from, to)])
}
