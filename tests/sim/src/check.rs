//! What must hold.

use std::collections::{BTreeMap, BTreeSet};

use lamppost_agent_core::slot::SlotRecord;
use lamppost_coordinator_core::rollout::campaign::{self, Ending, Step};
use lamppost_coordinator_core::rollout::policy::{Inconclusive, Unlabelled};
use lamppost_coordinator_core::rollout::{Target, audit};
use lamppost_models::id::RolloutId;
use lamppost_models::message::TrialState;
use lamppost_models::release::Sequence;
use lamppost_models::rollout::{Cohort, Exposure};
use lamppost_models::{Digest, Timestamp};

use crate::Outcome;
use crate::centre::{Centre, State, Store};
use crate::node::Node;
use crate::version::{Bundles, Nature};

/// What was seen so far.
#[derive(Debug)]
pub(crate) struct Checks {
    nodes: Vec<Seen>,
    exposures: BTreeMap<RolloutId, Exposure>,
    /// Campaigns that somebody promoted, and not the gates.
    by_hand: BTreeSet<RolloutId>,
    /// Bundles that should never go live and did, for nothing better ran where they were tried: that counts as done.
    excused: BTreeSet<Digest>,
}

/// What was seen of a node.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Whether a version has run on it.
    had_one: bool,
    cell: Option<Digest>,
    /// Versions that went live by which trial: a release and a bundle.
    promoted: BTreeSet<(Sequence, Digest)>,
    refused: BTreeSet<Digest>,
}

type Found = Result<(), String>;

impl Checks {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes: vec![Seen::default(); nodes],
            exposures: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            excused: BTreeSet::new(),
        }
    }

    /// A node's record after an effect, with what it was before.
    pub(crate) fn record(
        &mut self,
        at: usize,
        node: &Node,
        before: Option<&SlotRecord>,
        store: &Store,
        bundles: &Bundles,
    ) -> Found {
        let Some(record) = &node.disk.record else {
            return Ok(());
        };
        for (group, known) in before.into_iter().flat_map(|before| &before.releases) {
            let now = record.releases.get(group).map(|known| known.sequence);
            if now < Some(known.sequence) {
                return Err(format!(
                    "{group} went back from {} to {now:?}",
                    known.sequence
                ));
            }
        }
        if let (Some(before), None, Some(live)) = (before, &record.active, &node.live)
            && !all_barred(before, live.machine.draft())
        {
            return Err("it dropped a version that may run, and holds none".to_owned());
        }
        let went_live = record.active_digest() != before.and_then(SlotRecord::active_digest);
        let (Some(held), true) = (&record.active, went_live) else {
            return Ok(());
        };
        let digest = held.bundle.digest;
        if !node.checked.contains(&digest) {
            return Err(format!("{} went live unchecked", held.bundle.version));
        }
        let back = before.is_some_and(|before| {
            let previous = before.previous.as_ref();
            previous.is_some_and(|previous| previous.bundle.digest == digest)
        });
        if back {
            return Ok(());
        }
        // A release that withdraws it may come between its promotion and the write of that.
        let of = |record: &&SlotRecord| {
            let trial = record.trial.as_ref();
            trial.is_some_and(|trial| trial.bundle.digest == digest)
        };
        let trial = Some(record).filter(of).or(before.filter(of));
        let Some(trial) = trial.and_then(|record| record.trial.as_ref()) else {
            return Err(format!(
                "{} went live without a trial: {:?}",
                held.bundle.version, record.trial
            ));
        };
        let seen = &mut self.nodes[at];
        if !seen.promoted.insert((trial.release, digest)) {
            return Err(format!(
                "{} went live twice by release {}",
                held.bundle.version, trial.release
            ));
        }
        if !entitled(node, store, &digest) {
            return Err(format!(
                "{} went live, and no release that was persisted means it for this node",
                held.bundle.version
            ));
        }
        let nature = bundles.nature(&digest);
        // What is compared with nothing, or with a slow one, is not slow.
        let before = before.and_then(SlotRecord::active_digest);
        let alike = before.is_none_or(|before| bundles.nature(&before) == nature);
        if nature.never_live() {
            if trial.terms.shadow.is_some() && !alike {
                return Err(format!("{nature:?} went live in spite of its trial"));
            }
            self.excused.insert(digest);
        }
        Ok(())
    }

    /// A node after everything it wished is done or under way.
    pub(crate) fn node(&mut self, at: usize, node: &Node) -> Found {
        let Some(live) = &node.live else {
            return Ok(());
        };
        let (record, draft) = (live.machine.record(), live.machine.draft());
        let seen = &mut self.nodes[at];
        let opening = live
            .jobs
            .values()
            .any(|job| matches!(job, lamppost_agent_core::slot::Effect::Activate(_)));
        if live.cell.is_none() && seen.had_one && !opening && !all_barred(record, draft) {
            return Err(format!(
                "nothing runs and nothing is being opened; the record says {:?}",
                record.active.as_ref().map(|held| &held.bundle.version)
            ));
        }
        if let Some(cell) = live.cell {
            seen.had_one = true;
            if revokes(draft, &cell) {
                return Err("a revoked bundle runs".to_owned());
            }
            if draft.quarantined(&cell).is_some() && !opening {
                return Err("a bundle in quarantine runs".to_owned());
            }
        }
        seen.cell = live.cell;
        seen.refused
            .extend(record.quarantine.iter().map(|entry| entry.digest));
        Ok(())
    }

    /// A step of the coordinator, once it is persisted.
    pub(crate) fn step(&mut self, step: &Step, store: &Store, bundles: &Bundles) -> Found {
        audit::verify(&store.audit, store.end).map_err(|broken| broken.to_string())?;
        if let Some(candidate) = step
            .rollout
            .as_ref()
            .and_then(|rollout| rollout.candidate.as_ref())
        {
            let known = self.exposures.entry(candidate.rollout).or_default();
            if !covers(&candidate.exposure, known) {
                return Err(format!(
                    "the exposure shrank from {known:?} to {:?}",
                    candidate.exposure
                ));
            }
            *known = candidate.exposure.clone();
        }
        let Some(campaign) = &step.campaign else {
            return Ok(());
        };
        if let campaign::State::Promoted { by, .. } = &campaign.state {
            if by.as_str() != "coordinator" {
                self.by_hand.insert(campaign.id);
            }
            let nature = bundles.nature(&campaign.to.digest);
            let labels = campaign.policy.gate.quality.as_ref();
            let shown = labels.is_some_and(|quality| {
                quality.inconclusive == Inconclusive::Hold && quality.unlabelled == Unlabelled::Hold
            });
            let never = nature.never_live() && !self.excused.contains(&campaign.to.digest);
            let must_not = never || nature == Nature::Worse && shown;
            if must_not && !self.by_hand.contains(&campaign.id) {
                return Err(format!(
                    "the gates let {nature:?} through: {}",
                    step.note.words
                ));
            }
        }
        Ok(())
    }

    /// The fleet after a long peace.
    pub(crate) fn all_settled(&self, centre: &Centre, target: &Target) -> Found {
        let campaigns = centre.store.campaigns();
        let last = campaigns
            .iter()
            .rfind(|campaign| campaign.target == *target);
        let Some(campaign) = last else {
            return Ok(());
        };
        let reverted = matches!(
            campaign.state,
            campaign::State::Aborted {
                how: Ending::Reverted,
                ..
            }
        );
        let stable = centre
            .live
            .as_ref()
            .and_then(|state| state.book.current(target))
            .map(|rollout| rollout.stable.digest);
        // A node that refused what it is to go back to has nothing better than what passed its trial.
        let goes = |seen: &Seen| stable.is_none_or(|stable| !seen.refused.contains(&stable));
        let runs = |seen: &&Seen| seen.cell == Some(campaign.to.digest) && goes(seen);
        let left = self.nodes.iter().filter(runs).count();
        if reverted && stable != Some(campaign.to.digest) && left > 0 {
            return Err(format!(
                "{left} nodes run {} after its rollout was aborted and reverted",
                campaign.to.version
            ));
        }
        Ok(())
    }

    pub(crate) fn count(&self, bundles: &Bundles, outcome: &mut Outcome) {
        for seen in &self.nodes {
            for (_, digest) in &seen.promoted {
                let nature = bundles.nature(digest);
                *outcome.promotions.entry(nature).or_default() += 1;
            }
            for digest in &seen.refused {
                let nature = bundles.nature(digest);
                *outcome.refusals.entry(nature).or_default() += 1;
            }
        }
    }
}

/// A coordinator that starts now comes to the state of the one that runs, and to the same decision.
pub(crate) fn restart(centre: &Centre, target: &Target, now: Timestamp) -> Found {
    let Some(state) = &centre.live else {
        return Ok(());
    };
    let restored = centre.store.restore();
    let shown = |state: &State| {
        let campaigns: Vec<_> = state.campaigns.all().collect();
        let decision = state.decide(target, now);
        format!("{:#?}{campaigns:#?}{decision:#?}", state.book)
    };
    let (now, then) = (shown(state), shown(&restored));
    if now == then {
        return Ok(());
    }
    let mut pairs = now.lines().zip(then.lines());
    let differs = pairs.find(|(one, other)| one != other);
    Err(format!("a restart comes to another state: {differs:?}"))
}

/// A node that had peace for long.
pub(crate) fn settled(node: &Node, store: &Store, bundles: &Bundles, target: &Target) -> Found {
    let Some(live) = &node.live else {
        let active = node
            .disk
            .record
            .as_ref()
            .and_then(SlotRecord::active_digest);
        let crashes = active.is_some_and(|digest| bundles.nature(&digest) == Nature::CrashesLive);
        // Without a probation nothing is held against it, and it may be down just now.
        return if crashes {
            Ok(())
        } else {
            Err("it does not run".to_owned())
        };
    };
    let newest = store
        .rollouts
        .range((target.clone(), Sequence(0))..=(target.clone(), Sequence(u64::MAX)))
        .next_back();
    let Some((_, newest)) = newest else {
        return Ok(());
    };
    let release = newest.release();
    let record = live.machine.record();
    let known = record
        .releases
        .get(&target.group)
        .map(|known| known.sequence);
    if known != Some(release.sequence) {
        return Err(format!(
            "it knows release {known:?}, the newest is {}",
            release.sequence
        ));
    }
    let (wanted, _) = release.wanted(node.who());
    let barred =
        release.revoked.contains(&wanted.digest) || record.quarantined(&wanted.digest).is_some();
    if live.cell == Some(wanted.digest) || barred {
        return Ok(());
    }
    let report = live.machine.report();
    match report.candidate.map(|candidate| candidate.state) {
        // Its labels may never come.
        Some(TrialState::Shadowing { .. }) => Ok(()),
        state => Err(format!(
            "release {} wants {}, {:?} runs, and the trial is {state:?}",
            release.sequence,
            wanted.version,
            record.active.as_ref().map(|held| &held.bundle.version)
        )),
    }
}

/// Whether any release that was ever persisted means the bundle for the node.
fn entitled(node: &Node, store: &Store, digest: &Digest) -> bool {
    store.rollouts.values().any(|rollout| {
        let exposed = rollout.candidate.as_ref().is_some_and(|candidate| {
            candidate.bundle.digest == *digest && candidate.cohort(node.who()) == Cohort::Candidate
        });
        exposed || rollout.stable.digest == *digest
    })
}

/// Whether nothing that a record holds may run, as a later one has it.
fn all_barred(record: &SlotRecord, later: &SlotRecord) -> bool {
    let mut held = [&record.active, &record.previous].into_iter().flatten();
    held.all(|held| {
        let digest = held.bundle.digest;
        revokes(later, &digest) || later.quarantined(&digest).is_some()
    })
}

fn revokes(record: &SlotRecord, digest: &Digest) -> bool {
    let mut revoked = record.releases.values().flat_map(|known| &known.revoked);
    revoked.any(|one| one == digest)
}

fn covers(wider: &Exposure, narrower: &Exposure) -> bool {
    wider.share >= narrower.share
        && narrower.groups.iter().all(|one| wider.groups.contains(one))
        && narrower.tags.iter().all(|one| wider.tags.contains(one))
        && narrower.nodes.iter().all(|one| wider.nodes.contains(one))
}
