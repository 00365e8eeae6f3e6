//! Who may download: places by backhaul, and the bytes of a day.

use std::collections::{BTreeMap, VecDeque};

use lamppost_models::id::TagValue;

use crate::rollout::policy::Policy;

/// The tag that says how a node is connected.
pub(super) const BACKHAUL: &str = "backhaul";
const DAY_MS: i64 = 86_400_000;

/// The downloads of a run.
#[derive(Debug)]
pub(super) struct Depot {
    at_once_max: Option<u32>,
    bytes_per_day: Option<u64>,
    bundle_bytes: u64,
    lanes: BTreeMap<Option<TagValue>, Lane>,
    day: i64,
    given_today: u64,
}

#[derive(Debug, Default)]
struct Lane {
    running: u32,
    waiting: VecDeque<usize>,
    bytes: u64,
}

/// When the day (UTC) after this instant begins, both counted from 1970.
pub(super) const fn next_midnight_ms(now_ms: i64) -> i64 {
    (now_ms.div_euclid(DAY_MS) + 1) * DAY_MS
}

impl Depot {
    pub(super) fn new(policy: &Policy, bundle_bytes: u64) -> Self {
        Self {
            at_once_max: policy.downloads_per_backhaul,
            bytes_per_day: policy.bytes_per_day.map(|bytes| bytes.0),
            bundle_bytes,
            lanes: BTreeMap::new(),
            day: 0,
            given_today: 0,
        }
    }

    /// Puts a node at the end of the queue of its backhaul.
    pub(super) fn ask(&mut self, backhaul: Option<&TagValue>, node: usize) {
        let lane = self.lanes.entry(backhaul.cloned()).or_default();
        lane.waiting.push_back(node);
    }

    /// The nodes that may begin now.
    pub(super) fn admit(&mut self, now_ms: i64) -> Vec<usize> {
        let day = now_ms.div_euclid(DAY_MS);
        if day != self.day {
            (self.day, self.given_today) = (day, 0);
        }
        let mut admitted = Vec::new();
        for lane in self.lanes.values_mut() {
            let room = |lane: &Lane| self.at_once_max.is_none_or(|most| lane.running < most);
            while room(lane) {
                let spent = self.given_today.saturating_add(self.bundle_bytes);
                if self.bytes_per_day.is_some_and(|most| spent > most) {
                    return admitted;
                }
                let Some(node) = lane.waiting.pop_front() else {
                    break;
                };
                lane.running += 1;
                self.given_today = spent;
                admitted.push(node);
            }
        }
        admitted
    }

    /// A download is over, with so many bytes.
    pub(super) fn end(&mut self, backhaul: Option<&TagValue>, bytes: u64) {
        let lane = self.lanes.entry(backhaul.cloned()).or_default();
        lane.running = lane.running.saturating_sub(1);
        lane.bytes = lane.bytes.saturating_add(bytes);
    }

    /// When the next day begins, while somebody waits for it.
    pub(super) fn next_day(&self, now_ms: i64) -> Option<i64> {
        let waits = self.bytes_per_day.is_some()
            && self.lanes.values().any(|lane| !lane.waiting.is_empty());
        waits.then(|| next_midnight_ms(now_ms))
    }

    pub(super) const fn given_today(&self) -> u64 {
        self.given_today
    }

    /// Bytes that nodes fetched, by backhaul.
    pub(super) fn bytes(&self) -> BTreeMap<String, u64> {
        let named = |(backhaul, lane): (&Option<TagValue>, &Lane)| {
            let name = backhaul.as_ref().map_or("-", TagValue::as_str);
            (name.to_owned(), lane.bytes)
        };
        self.lanes.iter().map(named).collect()
    }
}
