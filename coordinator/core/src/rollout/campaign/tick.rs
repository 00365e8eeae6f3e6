//! What a look at the campaigns comes to, and what they remember.

use lamppost_models::id::RolloutId;
use lamppost_models::rollout::Candidate;
use lamppost_models::{NodePath, Timestamp};

use super::census::{concerned, survey};
use super::gate::{Assessment, assess};
use super::{
    Around, CAMPAIGNS_PER_TARGET_MAX, Campaign, Campaigns, Decision, Ending, Kept, Stage, State,
    Step, Verdict, Why, words,
};
use crate::inventory::{Inventory, NodeEntry};
use crate::rollout::audit::{Act, Actor};
use crate::rollout::evidence::{Evidence, EvidenceHead, EvidenceRow, Reading, Touched};
use crate::rollout::{Book, Target, Terms};

impl Campaigns {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a step that is persisted.
    pub fn apply(&mut self, step: &Step) {
        if let Some(campaign) = &step.campaign {
            self.restore(campaign.clone());
        }
    }

    /// The remembered campaign that there is no room for when `campaign` is applied; to be deleted in the same commit, with its
    /// evidence.
    pub fn displaced_by(&self, campaign: &Campaign) -> Option<&Campaign> {
        let kept = self.of_target.get(&campaign.target)?;
        let known = kept.iter().any(|kept| kept.campaign.id == campaign.id);
        let full = kept.len() >= CAMPAIGNS_PER_TARGET_MAX && !known;
        let oldest = kept.iter().find(|kept| !kept.under_way());
        oldest.filter(|_| full).map(|kept| &kept.campaign)
    }

    /// Takes in a campaign that was persisted in an earlier life, in any order. Then evidence, if it was persisted:
    /// [`Self::restore_evidence`]; and every node of the inventory to [`Self::on_report`], for what came between.
    pub fn restore(&mut self, campaign: Campaign) {
        let kept = self.of_target.entry(campaign.target.clone()).or_default();
        if let Some(known) = kept
            .iter_mut()
            .find(|known| known.campaign.id == campaign.id)
        {
            if campaign.state.stage().is_none() {
                known.evidence.forget_nodes();
            }
            known.campaign = campaign;
            return;
        }
        if kept.len() >= CAMPAIGNS_PER_TARGET_MAX {
            let oldest = kept.iter().position(|kept| !kept.under_way());
            kept.remove(oldest.unwrap_or(0));
        }
        let started_at = campaign.started_at;
        let place = kept.partition_point(|known| known.campaign.started_at <= started_at);
        let evidence = Evidence::default();
        kept.insert(place, Kept { campaign, evidence });
    }

    /// Takes in evidence that was persisted with the reports it came from.
    pub fn restore_evidence(
        &mut self,
        id: RolloutId,
        head: EvidenceHead,
        rows: impl IntoIterator<Item = (NodePath, EvidenceRow)>,
    ) {
        let mut all = self.of_target.values_mut().flatten();
        if let Some(kept) = all.find(|kept| kept.campaign.id == id) {
            kept.evidence = Evidence::restored(head, rows);
        }
    }

    /// Takes in what a node reports, after the inventory did: what is new in it becomes evidence for the campaigns under way.
    /// Says what changed, to be persisted in the same commit as the node's entry.
    pub fn on_report(&mut self, book: &Book, entry: &NodeEntry, now: Timestamp) -> Vec<Touched> {
        let Some(reported) = &entry.reported else {
            return Vec::new();
        };
        let Some(status) = &entry.status else {
            return Vec::new();
        };
        let mut touched = Vec::new();
        for group in &status.groups {
            for row in &reported.models {
                let target = Target {
                    group: group.clone(),
                    model: row.name.clone(),
                };
                let mut all = self.of_target.get_mut(&target).into_iter().flatten();
                let kept = all.find(|kept| kept.under_way());
                touched.extend(kept.and_then(|kept| kept.on_report(book, entry, now)));
            }
        }
        touched
    }

    /// Looks at the campaign of a target, `None` when none is under way. It is cheap enough for every report; its step, if it
    /// has one, is to be persisted and applied before it is looked at again.
    pub fn tick(
        &self,
        book: &Book,
        inventory: &Inventory,
        target: &Target,
        around: &Around,
    ) -> Option<Decision> {
        let kept = self.last(target)?;
        let campaign = &kept.campaign;
        let stage = campaign.state.stage()?;
        let (now, stale_after) = (around.terms.now, around.stale_after);
        let survey = survey(campaign, stage.wave, book, inventory, now, stale_after);
        let assessment = assess(campaign, stage, &kept.evidence, survey, around);
        let verdict = campaign.verdict(stage, book, &assessment);
        let words = words::decision(campaign, &assessment, verdict, around);
        let labels = kept.evidence.head().labels;
        let next = |wave| Stage::new(wave, now, labels, assessment.census.nodes);
        let step = campaign.follow(stage, next, book, verdict, &words, around.terms);
        Some(Decision {
            id: campaign.id,
            target: target.clone(),
            verdict,
            words,
            assessment,
            step,
        })
    }

    /// The campaign of a target that is under way, or else the last one.
    pub fn current(&self, target: &Target) -> Option<&Campaign> {
        self.last(target).map(|kept| &kept.campaign)
    }

    /// The campaign of a target that is under way.
    pub fn under_way(&self, target: &Target) -> Option<&Campaign> {
        self.current(target)
            .filter(|campaign| campaign.state.stage().is_some())
    }

    /// The campaigns that are under way, by group and model.
    pub fn all_under_way(&self) -> impl Iterator<Item = &Campaign> {
        self.all()
            .filter(|campaign| campaign.state.stage().is_some())
    }

    /// All that are remembered, by group and model, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Campaign> {
        self.of_target.values().flatten().map(|kept| &kept.campaign)
    }

    /// One by its id.
    pub fn get(&self, id: RolloutId) -> Option<&Campaign> {
        self.all().find(|campaign| campaign.id == id)
    }

    #[cfg(test)]
    pub(in crate::rollout) fn evidence(&self, target: &Target) -> Option<&Evidence> {
        self.last(target).map(|kept| &kept.evidence)
    }

    fn last(&self, target: &Target) -> Option<&Kept> {
        let kept = self.of_target.get(target)?;
        // A clock that was set back may have put it before others.
        let under_way = kept.iter().find(|kept| kept.under_way());
        under_way.or_else(|| kept.last())
    }
}

impl Kept {
    const fn under_way(&self) -> bool {
        self.campaign.state.stage().is_some()
    }

    fn on_report(&mut self, book: &Book, entry: &NodeEntry, now: Timestamp) -> Option<Touched> {
        let campaign = &self.campaign;
        let stage = campaign.state.stage()?;
        // Every gate asks for the same test (the policy's check sees to that), so that any of them reads the votes.
        let quality = campaign.policy.quality()?;
        let (who, row) = concerned(entry, &campaign.target, |groups| {
            book.deciding(&campaign.target.model, groups)
        })?;
        let candidate: Candidate = campaign.candidate(stage.wave);
        let reading = Reading {
            quality,
            to: campaign.to.digest,
            from: campaign.from.digest,
            now,
        };
        let trial = row.and_then(|row| row.trial.as_ref()).filter(|trial| {
            trial.digest == campaign.to.digest && trial.rollout == Some(campaign.id)
        });
        let before = self.evidence.head().clone();
        let model = &campaign.target.model;
        let changed = self
            .evidence
            .on_report(reading, candidate.cohort(who), trial, entry, model);
        let head = (before != *self.evidence.head()).then(|| self.evidence.head().clone());
        if changed.is_empty() && head.is_none() {
            return None;
        }
        let rows = changed.into_iter().filter_map(|path| {
            let row = self.evidence.row(&path)?.clone();
            Some((path, row))
        });
        Some(Touched {
            id: campaign.id,
            rows: rows.collect(),
            head,
        })
    }
}

impl Campaign {
    fn verdict(&self, stage: &Stage, book: &Book, found: &Assessment) -> Verdict {
        let current = book.current(&self.target);
        let ours = current
            .and_then(|current| current.candidate.as_ref())
            .is_some_and(|candidate| candidate.rollout == self.id);
        let abort = |why, how| Verdict::Abort { why, how };
        if !ours {
            return abort(Why::Superseded, Ending::Kept);
        }
        if current.is_some_and(|current| current.revoked.contains(&self.to.digest)) {
            return abort(Why::Revoked, Ending::Reverted);
        }
        match &self.state {
            State::Paused { .. } => return Verdict::Hold { why: Why::Paused },
            State::Held { why, .. } if why.fails() => return Verdict::Hold { why: *why },
            State::Running { .. }
            | State::Held { .. }
            | State::Promoted { .. }
            | State::Aborted { .. } => {}
        }
        let next = stage.wave.saturating_add(1);
        let passed_over = found.passed_over();
        match found.against.first() {
            Some(why) if passed_over && !why.fails() => {
                if found.against.contains(&Why::Approval) {
                    return Verdict::Hold { why: Why::Approval };
                }
                Verdict::Advance { wave: next }
            }
            None if next < found.waves => Verdict::Advance { wave: next },
            None => Verdict::Promote,
            Some(why) if why.fails() => {
                let on_fail = self.policy.gate(usize::from(stage.wave)).on_fail;
                match Option::<Ending>::from(on_fail) {
                    Some(how) => abort(*why, how),
                    None => Verdict::Hold { why: *why },
                }
            }
            Some(why) => Verdict::Hold { why: *why },
        }
    }

    /// The step that a verdict asks for. What the book refuses is looked at again the next time; it refuses nothing that a
    /// campaign under way asks for.
    fn follow(
        &self,
        stage: &Stage,
        next: impl Fn(u16) -> Stage,
        book: &Book,
        verdict: Verdict,
        words: &str,
        terms: Terms,
    ) -> Option<Step> {
        let by = Actor::coordinator();
        let mut campaign = self.clone();
        let words = words.to_owned();
        match verdict {
            Verdict::Advance { wave } => {
                let rollout = self.expose(book, wave, terms).ok()?;
                campaign.state = State::Running { stage: next(wave) };
                Some(campaign.step(Some(rollout), Act::Advance, by, words, terms.now))
            }
            Verdict::Promote => campaign.promote(book, &by, words, terms).ok(),
            Verdict::Abort { why, how } => campaign.abort(book, how, why, &by, words, terms).ok(),
            Verdict::Hold { why } => {
                let said = match &self.state {
                    State::Running { .. } => None,
                    State::Held { why, .. } => Some(*why),
                    State::Paused { .. } | State::Promoted { .. } | State::Aborted { .. } => {
                        Some(why)
                    }
                };
                if said == Some(why) || !why.worth_a_step() {
                    return None;
                }
                campaign.state = State::Held {
                    stage: stage.clone(),
                    at: terms.now,
                    why,
                    words: words.clone(),
                };
                Some(campaign.step(None, Act::Hold, by, words, terms.now))
            }
        }
    }
}
