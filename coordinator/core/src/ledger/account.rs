//! Counts of what became of the records, and the folding of boots that are done with.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_models::ledger::{Class, LossReason};
use lamppost_models::message::ReportedOutbox;
use lamppost_models::{BootId, Reported, StreamName, Timestamp};
use serde::{Deserialize, Serialize};

use super::stream::{Horizon, Stream};
use super::{
    Boot, End, FOLDED_MAX, Key, Mark, NodeLedger, SEQ_MAX, SETTLED_KEPT, SUMS_MAX, Seen, Tally,
    events_waiting, tells_waiting,
};
use crate::interval;

/// Most ranges of missing numbers that are shown of a stream and class: enough to find the cause.
pub const MISSING_SHOWN_MAX: usize = 16;

/// What became of a node's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// A row for each stream and class.
    pub streams: Vec<StreamAccount>,
    /// Missing numbers where they are known one by one, at most [`MISSING_SHOWN_MAX`] ranges of each row.
    pub missing: Vec<Missing>,
    /// Boots that are known by number.
    pub boots: u64,
    /// Boots of which sums are left; they are in the counts unless only newer ones were asked for.
    pub folded_boots: u64,
    /// Of these, how many had to be folded with records open, since there were too many boots.
    pub folded_open: u64,
    /// Boots that are not judged: they began before the coordinator counted by stream.
    pub unjudged_boots: u64,
    /// Whether a report of the node says what it holds; without one, whatever is open counts as in flight.
    pub reported: bool,
    /// Loss reports that wait at the node: until they are here, whatever is open counts as in flight.
    pub events_waiting: u64,
    /// Loss reports that the node gave up: what they would have explained is missing.
    pub events_forgotten: u64,
    /// The node joined ranges of what it holds to keep its report short: what is missing between them counts as in flight.
    pub waiting_joined: bool,
}

/// A stream and class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAccount {
    /// The class.
    pub class: Class,
    /// The stream.
    pub stream: StreamName,
    /// The counts.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Numbers that are missing, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The class.
    pub class: Class,
    /// The stream.
    pub stream: StreamName,
    /// The boot.
    pub boot: BootId,
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
}

/// What became of the records of a stream in a boot, and which are missing.
type BootTally = (Key, Tally, Vec<(u64, u64)>);

/// What the newest report says of what the node holds.
struct Held {
    boot: Option<BootId>,
    ranges: BTreeMap<(BootId, Class, StreamName), Vec<(u64, u64)>>,
    /// Whether what it does not name is not held, and no explanation is on its way.
    complete: bool,
}

impl Held {
    fn of(report: Option<&Reported>) -> Self {
        let Some(report) = report else {
            return Self {
                boot: None,
                ranges: BTreeMap::new(),
                complete: false,
            };
        };
        let outbox = &report.outbox;
        let mut ranges: BTreeMap<_, Vec<(u64, u64)>> = BTreeMap::new();
        for waiting in &outbox.waiting {
            let believed = waiting.ranges.iter().filter(|(_, to)| *to <= SEQ_MAX);
            ranges
                .entry((waiting.boot, waiting.class, waiting.stream.clone()))
                .or_default()
                .extend(believed);
        }
        for held in ranges.values_mut() {
            *held = interval::join(std::mem::take(held));
        }
        Self {
            boot: Some(report.boot),
            ranges,
            complete: tells_waiting(outbox) && events_waiting(outbox) == 0,
        }
    }

    fn of_boot(&self, boot: BootId) -> impl Iterator<Item = (Key, &[(u64, u64)])> {
        self.ranges
            .iter()
            .filter(move |((held, ..), _)| *held == boot)
            .map(|((_, class, stream), ranges)| ((*class, stream.clone()), ranges.as_slice()))
    }

    fn holds(&self, boot: BootId) -> bool {
        self.of_boot(boot).any(|(_, ranges)| !ranges.is_empty())
    }
}

impl NodeLedger {
    /// What became of the node's records, given its newest report.
    ///
    /// With `since`, only boots of which something came since then, each as a whole.
    pub fn account(&self, report: Option<&Reported>, since: Option<Timestamp>) -> Account {
        let held = Held::of(report);
        let outbox = report.map(|report| &report.outbox);
        let mut sums = if since.is_none() {
            self.folded_sums(&held)
        } else {
            BTreeMap::new()
        };
        let mut account = Account {
            folded_boots: self.book.folds,
            folded_open: self.book.folded_open,
            reported: outbox.is_some_and(tells_waiting),
            events_waiting: outbox.map_or(0, events_waiting),
            events_forgotten: self.book.events_forgotten,
            waiting_joined: outbox.is_some_and(|outbox: &ReportedOutbox| outbox.waiting_joined),
            ..Account::default()
        };
        let recent = self
            .boots
            .iter()
            .filter(|(_, run)| since.is_none_or(|since| run.heard >= Some(since)));
        for (&boot, run) in recent {
            account.boots += 1;
            account.unjudged_boots += u64::from(run.early.is_some());
            for (key, tally, missing) in self.tallies(boot, run, &held) {
                let shown = account.missing.iter();
                let shown = shown
                    .filter(|shown| shown.class == key.0 && shown.stream == key.1)
                    .count();
                let room = MISSING_SHOWN_MAX.saturating_sub(shown);
                let missing = missing.into_iter().take(room).map(|(from, to)| Missing {
                    class: key.0,
                    stream: key.1.clone(),
                    boot,
                    from,
                    to,
                });
                account.missing.extend(missing);
                sums.entry(key).or_default().add(&tally);
            }
        }
        let rows = sums
            .into_iter()
            .map(|((class, stream), tally)| StreamAccount {
                class,
                stream,
                tally,
            });
        account.streams = rows.collect();
        account
    }

    /// Folds boots that are done with: they ended, and the node holds nothing of them.
    pub(super) fn settle(&mut self, report: &Reported) {
        let held = Held::of(Some(report));
        if !held.complete {
            return;
        }
        let settled = self.boots.iter().filter(|(boot, run)| {
            **boot != report.boot && self.is_over(run) && run.end.is_some() && !held.holds(**boot)
        });
        let mut settled: Vec<(u64, BootId)> =
            settled.map(|(boot, run)| (run.touched, *boot)).collect();
        settled.sort_unstable();
        let excess = settled.len().saturating_sub(SETTLED_KEPT);
        for (_, boot) in settled.into_iter().take(excess) {
            self.fold(boot, &held);
        }
    }

    /// Folds a boot although records of it may be open: these count as missing from then on, until they come.
    pub(super) fn fold_for_room(&mut self, boot: BootId) {
        let open = self.fold(boot, &Held::of(None));
        self.book.folded_open += u64::from(open > 0);
        self.forgotten += 1;
    }

    /// Turns a boot into sums; returns how many records were in flight.
    fn fold(&mut self, boot: BootId, held: &Held) -> u64 {
        let Some(run) = self.boots.remove(&boot) else {
            return 0;
        };
        let (mut in_flight, mut open) = (0, false);
        for (key, mut tally, _) in self.tallies(boot, &run, held) {
            in_flight += tally.in_flight;
            open |= tally.in_flight + tally.missing + tally.crash > 0;
            if run.early.is_some() {
                // It is not judged, now or later.
                tally.produced -= tally.in_flight;
            } else {
                tally.missing += tally.in_flight;
            }
            tally.in_flight = 0;
            self.changed
                .insert(Mark::Stream(boot, key.0, key.1.clone()));
            if self.sums.len() < SUMS_MAX || self.sums.contains_key(&key) {
                self.sums.entry(key.clone()).or_default().add(&tally);
                self.changed.insert(Mark::Sums(key.0, key.1));
            } else {
                self.forgotten += 1;
            }
        }
        if run.early.is_some() {
            self.changed.insert(Mark::Early(boot));
        }
        self.changed.insert(Mark::Boot(boot));
        self.changed.insert(Mark::Node);
        self.book.folds += 1;
        self.book
            .folded
            .push_back((boot, open || run.early.is_some()));
        if self.book.folded.len() > FOLDED_MAX {
            self.book.folded.pop_front();
        }
        in_flight
    }

    /// A record of a boot that was folded. When records of it were `open` then, it is taken for new, which may store one
    /// twice and never loses one.
    pub(super) fn see_folded(&mut self, key: Key, open: bool) -> Seen {
        if let Some(sums) = self.sums.get_mut(&key) {
            if !open {
                sums.duplicated += 1;
            } else if let Some(left) = sums.missing.checked_sub(1) {
                sums.missing = left;
                sums.delivered += 1;
            } else if let Some(left) = sums.crash.checked_sub(1) {
                sums.crash = left;
                sums.delivered += 1;
            }
            self.changed.insert(Mark::Sums(key.0, key.1));
        }
        if open { Seen::New } else { Seen::Duplicate }
    }

    /// Records of a boot that was folded, told as lost.
    pub(super) fn lose_folded(&mut self, key: Key, records: u64, reason: LossReason) {
        if let Some(sums) = self.sums.get_mut(&key) {
            let moved = records.min(sums.missing);
            sums.missing -= moved;
            *sums.of_reason(reason) += moved;
            self.changed.insert(Mark::Sums(key.0, key.1));
        }
    }

    /// The sums of folded boots; what the node still holds of those is in flight and not missing.
    fn folded_sums(&self, held: &Held) -> BTreeMap<Key, Tally> {
        let mut sums = self.sums.clone();
        for ((boot, class, stream), ranges) in &held.ranges {
            if self.folded(*boot).is_none() {
                continue;
            }
            if let Some(tally) = sums.get_mut(&(*class, stream.clone())) {
                let moved = interval::count(ranges).min(tally.missing);
                tally.missing -= moved;
                tally.in_flight += moved;
            }
        }
        sums
    }

    /// What became of the records of a boot, and which are missing.
    fn tallies(&self, boot: BootId, run: &Boot, held: &Held) -> Vec<BootTally> {
        let horizon = self.horizon(boot, run, held);
        let waiting: BTreeMap<Key, &[(u64, u64)]> = held.of_boot(boot).collect();
        let keys: BTreeSet<&Key> = run.streams.keys().chain(waiting.keys()).collect();
        let unknown = Stream::default();
        let tally = |key: &Key| {
            let stream = run.streams.get(key).unwrap_or(&unknown);
            let waiting = waiting.get(key).copied().unwrap_or_default();
            let (mut tally, mut missing) = stream.account(key.0, waiting, horizon);
            if matches!(run.end, Some((End::Crash, _))) {
                tally.crash = std::mem::take(&mut tally.missing);
                missing.clear();
            }
            (key.clone(), tally, missing)
        };
        keys.into_iter().map(tally).collect()
    }

    /// Whether the newest report is of a later run: it came after the word that this one ended, or after all of it.
    fn is_over(&self, run: &Boot) -> bool {
        let last = run.end.map_or(run.touched, |(_, told)| told);
        last < self.book.reported
    }

    fn horizon(&self, boot: BootId, run: &Boot, held: &Held) -> Horizon {
        if !held.complete || run.early.is_some() {
            Horizon::Nothing
        } else if held.boot == Some(boot) {
            Horizon::Reported
        } else if self.is_over(run) {
            Horizon::All
        } else {
            // A run that has not reported yet.
            Horizon::Nothing
        }
    }
}
