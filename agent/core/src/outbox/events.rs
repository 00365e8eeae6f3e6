//! Events of the ledger that wait to be delivered.
//!
//! An event is pushed when something is lost, joined with one before where the two say one thing, and put into a group
//! once there is a generation to number it by. A group is a batch of its own: once it was shown to be sent it changes no
//! more, for the receiver knows it by its number.

use std::collections::BTreeMap;

use lamppost_models::ledger::{Class, LedgerEvent, LedgerEventKind, LossReason, Lost};
use lamppost_models::message::BatchRange;
use lamppost_models::{BootId, StreamName, Timestamp, V1};

use super::{Waiters, number, place};

/// Events of a group: some 330 bytes each with the longest names, so that a group is a record of 6 KiB at most.
pub const GROUP_EVENTS_MAX: usize = 16;
/// Most events that wait: 1 MiB with the longest names. Beyond it they are joined, and say less.
pub const EVENTS_MAX: usize = 3_072;
/// Events before the newest that are tried for joining: one of each stream.
const JOIN_LOOK_BACK: usize = 64;
/// Places of groups begin here: a generation of 16 MiB has far fewer batches.
const FIRST_PLACE: u32 = 1 << 31;

/// The events that wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    groups: BTreeMap<u64, Group>,
    /// Not in a group yet.
    loose: Vec<LedgerEvent>,
    /// Groups that this run has numbered.
    numbered: u32,
    /// Events that were given up, in this run.
    forgotten: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Group {
    events: Vec<LedgerEvent>,
    /// Of this run and not shown yet, so that it may change.
    open: bool,
}

impl Events {
    /// The events as they were written down, by the number of their group.
    pub fn restore(groups: BTreeMap<u64, Vec<LedgerEvent>>) -> Self {
        // Whether they were shown is not known: they stay as they are.
        let group = |events| Group {
            events,
            open: false,
        };
        Self {
            groups: groups
                .into_iter()
                .map(|(number, events)| (number, group(events)))
                .collect(),
            ..Self::default()
        }
    }

    /// The form that is written down.
    pub fn kept(&self) -> BTreeMap<u64, Vec<LedgerEvent>> {
        let groups = self.groups.iter();
        groups
            .map(|(number, group)| (*number, group.events.clone()))
            .collect()
    }

    /// Takes in an event.
    pub fn push(&mut self, event: LedgerEvent) {
        if join_into(&mut self.loose, &event, touches) {
            return;
        }
        self.loose.push(event);
        if self.len() > EVENTS_MAX {
            self.condense();
        }
    }

    /// Puts loose events into groups that are numbered by `generation`, which must be of this run of the agent.
    pub fn place(&mut self, generation: u32) {
        for event in std::mem::take(&mut self.loose) {
            if let Some(mut last) = self.groups.last_entry()
                && last.get().open
            {
                let group = last.get_mut();
                if join_into(&mut group.events, &event, touches) {
                    continue;
                }
                if group.events.len() < GROUP_EVENTS_MAX {
                    group.events.push(event);
                    continue;
                }
            }
            let number = number(generation, FIRST_PLACE.saturating_add(self.numbered));
            self.numbered += 1;
            let group = Group {
                events: vec![event],
                open: true,
            };
            self.groups.insert(number, group);
        }
    }

    /// Whether some have no group yet.
    pub fn has_loose(&self) -> bool {
        !self.loose.is_empty()
    }

    /// The first group behind `after`, which must be sent as it is from now on.
    pub fn show_next(&mut self, after: Option<u64>) -> Option<(u64, &[LedgerEvent])> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        let (number, group) = self.groups.range_mut(from..).next()?;
        group.open = false;
        Some((*number, &group.events))
    }

    /// Forgets what the coordinator has stored; returns how many groups that were.
    pub fn acknowledge(&mut self, range: BatchRange) -> u64 {
        if range.from > range.to {
            return 0;
        }
        let within = self.groups.range(range.from..=range.to);
        let numbers: Vec<u64> = within
            // A range of batches spans the places of groups; only what was shown can be meant.
            .filter(|(number, group)| !group.open && place(**number).1 >= FIRST_PLACE)
            .map(|(number, _)| *number)
            .collect();
        for number in &numbers {
            self.groups.remove(number);
        }
        numbers.len() as u64
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.loose.len()
            + self
                .groups
                .values()
                .map(|group| group.events.len())
                .sum::<usize>()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.loose.is_empty() && self.groups.is_empty()
    }

    /// How many groups wait, with one for those that have none.
    pub fn groups(&self) -> u64 {
        self.groups.len() as u64 + u64::from(self.has_loose())
    }

    /// Events that were given up in this run.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// When the oldest was noticed.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.all().map(|event| event.at).min()
    }

    /// Adds the records that these tell of: until the coordinator knows, they are not missing.
    pub(super) fn add_to(&self, waiters: &mut Waiters) {
        for event in self.all() {
            if let LedgerEventKind::Lost(lost) = &event.event
                && lost.class != Class::Event
            {
                waiters.add(lost.class, &lost.stream, lost.boot, lost.from, lost.to);
            }
        }
    }

    /// All that wait, in a group or not.
    pub fn kept_all(&self) -> Vec<LedgerEvent> {
        self.all().cloned().collect()
    }

    fn all(&self) -> impl Iterator<Item = &LedgerEvent> {
        let grouped = self.groups.values().flat_map(|group| &group.events);
        grouped.chain(&self.loose)
    }

    /// Makes room: what was lost of a stream in one run of the agent becomes one event, and if that is not enough, the
    /// oldest are given up.
    fn condense(&mut self) {
        let all: Vec<LedgerEvent> = self.all().cloned().collect();
        self.groups.clear();
        self.loose.clear();
        let mut places: BTreeMap<(Class, StreamName, BootId), usize> = BTreeMap::new();
        for event in all {
            if let LedgerEventKind::Lost(lost) = &event.event {
                let key = (lost.class, lost.stream.clone(), lost.boot);
                if let Some(at) = places.get(&key) {
                    if let Some(known) = self.loose.get_mut(*at) {
                        widen(known, lost);
                    }
                    continue;
                }
                places.insert(key, self.loose.len());
            }
            self.loose.push(event);
        }
        let over = self.loose.len().saturating_sub(EVENTS_MAX / 2);
        let mut last: Option<LedgerEvent> = None;
        for event in self.loose.drain(..over) {
            self.forgotten += 1;
            last = Some(event);
        }
        if let Some(event) = last
            && let LedgerEventKind::Lost(lost) = event.event
        {
            let told = over as u64;
            self.loose.push(LedgerEvent {
                v: V1,
                at: event.at,
                event: LedgerEventKind::Lost(Lost {
                    class: Class::Event,
                    stream: lost.stream,
                    boot: lost.boot,
                    from: 0,
                    to: told - 1,
                    records: told,
                    reason: LossReason::Forgotten,
                }),
            });
        }
    }
}

/// Joins an event with one of the newest of a list, if they say one thing together.
fn join_into(
    list: &mut [LedgerEvent],
    event: &LedgerEvent,
    fits: impl Fn(&Lost, &Lost) -> bool,
) -> bool {
    let LedgerEventKind::Lost(lost) = &event.event else {
        return false;
    };
    let newest = list.iter_mut().rev().take(JOIN_LOOK_BACK);
    for known in newest {
        if let LedgerEventKind::Lost(other) = &known.event
            && other.reason == lost.reason
            && is_of_one_run(other, lost)
            && fits(other, lost)
        {
            widen(known, lost);
            return true;
        }
    }
    false
}

fn is_of_one_run(one: &Lost, other: &Lost) -> bool {
    one.class == other.class && one.boot == other.boot && one.stream == other.stream
}

/// Whether two ranges leave nothing between them.
fn touches(one: &Lost, other: &Lost) -> bool {
    one.from <= other.to.saturating_add(1) && other.from <= one.to.saturating_add(1)
}

/// Makes an event say what another one says too.
fn widen(known: &mut LedgerEvent, lost: &Lost) {
    if let LedgerEventKind::Lost(own) = &mut known.event {
        if own.reason != lost.reason || !touches(own, lost) {
            own.reason = LossReason::Forgotten;
        }
        own.from = own.from.min(lost.from);
        own.to = own.to.max(lost.to);
        let span = (own.to - own.from).saturating_add(1);
        own.records = own.records.saturating_add(lost.records).min(span);
    }
}

#[cfg(test)]
mod tests;
