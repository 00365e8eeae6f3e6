//! The coordinator: its store, its state, and the order of persisting, applying and publishing.

use std::collections::BTreeMap;
use std::time::Duration;

use lamppost_coordinator_core::inventory::{Inventory, NodeEntry};
use lamppost_coordinator_core::rollout::audit::{Entry, Head};
use lamppost_coordinator_core::rollout::campaign::{Around, Campaign, Campaigns, Decision, Step};
use lamppost_coordinator_core::rollout::evidence::{EvidenceHead, EvidenceRow, Touched};
use lamppost_coordinator_core::rollout::{Book, Rollout, Target, Terms};
use lamppost_models::id::RolloutId;
use lamppost_models::release::Sequence;
use lamppost_models::{NodePath, Release, Reported, Status, Timestamp};

/// How long a release is valid.
const LIFETIME: Duration = Duration::from_hours(30 * 24);
/// How long a node may be silent: twice as long as a report takes at most.
const STALE_AFTER: Duration = Duration::from_hours(3);
const NODES_MAX: usize = 10_000;

/// The coordinator, whether it runs or not.
#[derive(Debug, Default)]
pub(crate) struct Centre {
    pub(crate) store: Store,
    pub(crate) live: Option<State>,
    /// What is retained on the update topics. With the embedded broker it is gone with the process and published again.
    pub(crate) retained: BTreeMap<Target, Release>,
}

/// What survives a crash. Each method that changes it is one commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// In the order of their start.
    campaigns: Vec<Campaign>,
    pub(crate) rollouts: BTreeMap<(Target, Sequence), Rollout>,
    evidence: BTreeMap<RolloutId, (EvidenceHead, BTreeMap<NodePath, EvidenceRow>)>,
    entries: BTreeMap<NodePath, NodeEntry>,
    pub(crate) audit: Vec<Entry>,
    pub(crate) end: Head,
}

/// What is in memory.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) book: Book,
    pub(crate) campaigns: Campaigns,
    pub(crate) inventory: Inventory,
}

impl Store {
    /// What a coordinator comes to that starts now.
    pub(crate) fn restore(&self) -> State {
        let mut book = Book::new();
        for rollout in self.rollouts.values() {
            book.apply(rollout.clone());
        }
        let mut campaigns = Campaigns::new();
        for campaign in &self.campaigns {
            campaigns.restore(campaign.clone());
        }
        for (id, (head, rows)) in &self.evidence {
            let rows = rows.iter().map(|(path, row)| (path.clone(), row.clone()));
            campaigns.restore_evidence(*id, head.clone(), rows);
        }
        let mut inventory = Inventory::new(NODES_MAX);
        for entry in self.entries.values() {
            inventory.restore(entry.clone());
        }
        State {
            book,
            campaigns,
            inventory,
        }
    }

    /// The campaigns, as they are persisted.
    pub(crate) fn campaigns(&self) -> &[Campaign] {
        &self.campaigns
    }

    fn commit_step(&mut self, state: &State, step: &Step, now: Timestamp) {
        if let Some(campaign) = &step.campaign {
            if let Some(displaced) = state.campaigns.displaced_by(campaign) {
                let id = displaced.id;
                self.campaigns.retain(|known| known.id != id);
                self.evidence.remove(&id);
            }
            match self
                .campaigns
                .iter_mut()
                .find(|known| known.id == campaign.id)
            {
                Some(known) => *known = campaign.clone(),
                None => self.campaigns.push(campaign.clone()),
            }
        }
        if let Some(rollout) = &step.rollout {
            self.commit_rollout(state, rollout);
        }
        let entry = self.end.entry(step.note.clone(), now);
        self.end = Head::after(&entry);
        self.audit.push(entry);
    }

    fn commit_rollout(&mut self, state: &State, rollout: &Rollout) {
        let key = |rollout: &Rollout| (rollout.target.clone(), rollout.sequence);
        if let Some(displaced) = state.book.displaced_by(rollout) {
            self.rollouts.remove(&key(displaced));
        }
        self.rollouts.insert(key(rollout), rollout.clone());
    }

    fn commit_entry(&mut self, entry: NodeEntry, touched: Vec<Touched>) {
        self.entries.insert(entry.path.clone(), entry);
        for Touched { id, rows, head } in touched {
            let (known, known_rows) = self.evidence.entry(id).or_default();
            if let Some(head) = head {
                *known = head;
            }
            known_rows.extend(rows);
        }
    }
}

impl State {
    pub(crate) fn decide(&self, target: &Target, now: Timestamp) -> Option<Decision> {
        let around = self.around(target, now);
        self.campaigns
            .tick(&self.book, &self.inventory, target, &around)
    }

    fn around(&self, target: &Target, now: Timestamp) -> Around {
        Around {
            terms: self.terms(target, now),
            stale_after: STALE_AFTER,
            bytes_today: 0,
        }
    }

    pub(crate) fn terms(&self, target: &Target, now: Timestamp) -> Terms {
        Terms {
            now,
            lifetime: LIFETIME,
            seen: self.inventory.newest_release(&target.model),
        }
    }
}

impl Centre {
    pub(crate) fn start(&mut self) {
        self.live = Some(self.store.restore());
    }

    pub(crate) fn crash(&mut self) {
        self.live = None;
        self.retained.clear();
    }

    /// What follows from a look at a campaign.
    pub(crate) fn look(&self, target: &Target, now: Timestamp) -> Option<Decision> {
        self.live.as_ref()?.decide(target, now)
    }

    pub(crate) fn persist(&mut self, step: &Step, now: Timestamp) {
        if let Some(state) = &self.live {
            self.store.commit_step(state, step, now);
        }
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        if let Some(state) = &mut self.live {
            state.campaigns.apply(step);
            if let Some(rollout) = &step.rollout {
                state.book.apply(rollout.clone());
            }
        }
    }

    /// Signs anew what expires soon.
    pub(crate) fn renew(&mut self, now: Timestamp) -> Vec<Target> {
        let Some(state) = &mut self.live else {
            return Vec::new();
        };
        let due = state.book.due(now);
        for rollout in &due {
            let renewed = rollout.renewed(now, LIFETIME);
            self.store.commit_rollout(state, &renewed);
            state.book.apply(renewed);
        }
        due.into_iter().map(|rollout| rollout.target).collect()
    }

    /// What is to be on an update topic.
    pub(crate) fn release(&mut self, target: &Target) -> Option<Release> {
        let release = self.live.as_ref()?.book.current(target)?.release();
        self.retained.insert(target.clone(), release.clone());
        Some(release)
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        let state = self.live.as_ref();
        state.map_or_else(Vec::new, |state| {
            let current = state.book.all_current();
            current.map(|rollout| rollout.target.clone()).collect()
        })
    }

    pub(crate) fn on_status(&mut self, path: &NodePath, status: Status, now: Timestamp) {
        let Some(state) = &mut self.live else { return };
        if state.inventory.on_status(path, status, now).is_ok() {
            let entry = state.inventory.get(path).cloned();
            self.store
                .commit_entry(entry.expect("it was just taken in"), Vec::new());
        }
    }

    pub(crate) fn on_report(&mut self, path: &NodePath, report: Reported, now: Timestamp) {
        let Some(state) = &mut self.live else { return };
        if state.inventory.on_reported(path, report, now).is_err() {
            return;
        }
        let Some(entry) = state.inventory.get(path).cloned() else {
            return;
        };
        let touched = state.campaigns.on_report(&state.book, &entry, now);
        self.store.commit_entry(entry, touched);
    }
}
