//! Nodes that run the candidate, each paired with a control node.

use lamppost_models::NodePath;
use lamppost_models::message::{ActiveSlot, Quality as Reported, ReportedModel};
use lamppost_models::rollout::Cohort;
use lamppost_models::trial::{Moments, TrialPhase};
use serde::{Deserialize, Serialize};

use super::sums::vote;
use super::{Evidence, EvidenceRow, Reading, Sums, Track, VOTE_LABELS_MIN};

/// What a node that went back votes: the candidate did as badly as can be.
const WORST: f64 = 1.0;

/// A node's part in a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// On which side.
    pub side: Side,
    /// With whom; none for a control node that waits for a partner, and for one that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<NodePath>,
    /// Mean loss before.
    pub base: f64,
    /// The cumulative losses that were last reported; none until the first report of the pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<Track>,
    /// The losses since the pair was made, on the side of the candidate.
    #[serde(default)]
    pub since: Sums,
    /// Whether it voted.
    #[serde(default)]
    pub done: bool,
}

/// A side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Runs the candidate.
    Candidate,
    /// Held back.
    Control,
}

impl Pair {
    const fn new(side: Side, with: Option<NodePath>, base: f64) -> Self {
        Self {
            side,
            with,
            base,
            track: None,
            since: Sums::ZERO,
            done: false,
        }
    }

    /// Whether it waits for a partner.
    pub(super) fn free_control(&self) -> bool {
        self.side == Side::Control && self.with.is_none() && !self.done
    }

    /// How its loss grew, once there are labels enough.
    fn growth(&self, block: u64) -> Option<f64> {
        let mean = self.since.candidate / self.since.labels.max(1) as f64;
        (self.since.labels >= block && !self.done).then(|| mean / self.base)
    }
}

/// Losses in all of a run of the agent.
fn losses(slot: &ActiveSlot) -> Option<Sums> {
    let (labels, mean) = match slot.quality? {
        Reported::Error { labels, mae, .. } => (labels, mae),
        Reported::Accuracy { labels, accuracy } => (labels, 1.0 - accuracy),
    };
    let moments = Moments {
        n: labels,
        mean,
        m2: 0.0,
    };
    Sums::of(&moments, &moments)
}

/// The mean loss to compare with: of labels enough, and above 0, since nothing grows from 0.
fn base(sums: Sums) -> Option<f64> {
    let mean = sums.candidate / sums.labels.max(1) as f64;
    (sums.labels >= VOTE_LABELS_MIN && mean > 0.0).then_some(mean)
}

impl Evidence {
    /// Takes in what a node's slots say; names other nodes whose rows changed with it.
    pub(super) fn on_slots(
        &mut self,
        reading: Reading<'_>,
        cohort: Cohort,
        path: &NodePath,
        slots: &ReportedModel,
        restarted: bool,
        row: &mut EvidenceRow,
    ) -> Vec<NodePath> {
        let active = slots.active.as_ref();
        let runs = |digest| active.filter(|active| active.digest == digest);
        let side = match (cohort, &row.pair) {
            (_, Some(pair)) => pair.side,
            (Cohort::Candidate, None) => Side::Candidate,
            (Cohort::Control, None) => Side::Control,
            (Cohort::Later, None) => return Vec::new(),
        };
        let wanted = match side {
            Side::Candidate => reading.to,
            Side::Control => reading.from,
        };
        let Some(slot) = runs(wanted) else {
            return self.leave(reading, path, slots, row);
        };
        if row.pair.is_none() {
            return self.enter(reading, side, path, slots, slot, row);
        }
        let new = row
            .pair
            .as_mut()
            .and_then(|pair| pair.hear(losses(slot), restarted));
        let new = new.unwrap_or(0);
        if new > 0 && side == Side::Candidate {
            self.head.labels = self.head.labels.saturating_add(new);
            self.head.last_label = Some(reading.now);
        }
        self.vote_of_pair(reading, row).into_iter().collect()
    }

    /// A node takes its place: a control node waits, a candidate takes one that does.
    fn enter(
        &mut self,
        reading: Reading<'_>,
        side: Side,
        path: &NodePath,
        slots: &ReportedModel,
        slot: &ActiveSlot,
        row: &mut EvidenceRow,
    ) -> Vec<NodePath> {
        match side {
            Side::Control => {
                if let Some(base) = losses(slot).and_then(base) {
                    row.pair = Some(Pair::new(side, None, base));
                    self.free.insert(path.clone());
                }
                Vec::new()
            }
            Side::Candidate => {
                let previous = slots.previous.as_ref();
                let previous = previous.filter(|slot| slot.digest == reading.from);
                let Some(base) = previous.and_then(losses).and_then(base) else {
                    return Vec::new();
                };
                let Some(partner) = self.free.pop_first() else {
                    return Vec::new();
                };
                row.pair = Some(Pair::new(side, Some(partner.clone()), base));
                if let Some(pair) = self.pair_mut(&partner) {
                    pair.with = Some(path.clone());
                }
                vec![partner]
            }
        }
    }

    /// A node no longer runs what its side is about.
    fn leave(
        &mut self,
        reading: Reading<'_>,
        path: &NodePath,
        slots: &ReportedModel,
        row: &mut EvidenceRow,
    ) -> Vec<NodePath> {
        let Some(pair) = row.pair.as_mut().filter(|pair| !pair.done) else {
            return Vec::new();
        };
        self.free.remove(path);
        let partner = pair.with.take();
        let trial = slots.trial.as_ref();
        let trial = trial.filter(|trial| trial.digest == reading.to);
        let went_back = trial.is_some_and(|trial| match trial.phase {
            TrialPhase::Refused { .. } | TrialPhase::RolledBack { .. } => true,
            TrialPhase::Candidate
            | TrialPhase::Probation
            | TrialPhase::Passed
            | TrialPhase::Withdrawn => false,
        });
        let lost = pair.side == Side::Candidate && went_back;
        pair.done = true;
        if lost {
            self.head.pairs.push(WORST);
        }
        let Some(partner) = partner else {
            return Vec::new();
        };
        // Whoever is left may find another partner, unless the pair has voted.
        let left = self.pair_mut(&partner).map(|other| {
            other.with = None;
            other.done = lost;
            other.track = None;
            other.since = Sums::ZERO;
            (other.free_control(), other.side)
        });
        match left {
            Some((true, _)) => {
                self.free.insert(partner.clone());
            }
            Some((false, Side::Candidate)) if !lost => {
                if let Some(row) = self.rows.get_mut(&partner) {
                    row.pair = None;
                }
            }
            Some((false, _)) | None => {}
        }
        vec![partner]
    }

    /// Has the pair of `row` vote when both sides have labels enough.
    fn vote_of_pair(&mut self, reading: Reading<'_>, row: &mut EvidenceRow) -> Option<NodePath> {
        let quality = reading.quality;
        let pair = row.pair.as_mut()?;
        let partner = pair.with.clone()?;
        let mine = pair.growth(quality.block)?;
        let other = self.pair_mut(&partner)?;
        let theirs = other.growth(quality.block)?;
        let (candidate, control) = match pair.side {
            Side::Candidate => (mine, theirs),
            Side::Control => (theirs, mine),
        };
        (pair.done, other.done) = (true, true);
        if let Some(vote) = vote(candidate, control, quality.loss_ratio_max) {
            self.head.pairs.push(vote);
        }
        Some(partner)
    }

    fn pair_mut(&mut self, path: &NodePath) -> Option<&mut Pair> {
        self.rows.get_mut(path)?.pair.as_mut()
    }
}

impl Pair {
    /// Takes in the cumulative losses of a run of the agent, and says how many labels are new.
    fn hear(&mut self, losses: Option<Sums>, restarted: bool) -> Option<u64> {
        if self.done || self.with.is_none() {
            return None;
        }
        let now = losses?;
        let Some(track) = self.track.as_mut() else {
            self.track = Some(Track::begin(now));
            return None;
        };
        if restarted {
            *track = Track::ZERO;
        }
        let new = track.advance(now);
        self.since.add(new);
        Some(new.labels)
    }
}
