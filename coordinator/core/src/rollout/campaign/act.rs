//! What people do to campaigns.

use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::rollout::Candidate;
use lamppost_models::{Timestamp, V1};

use super::{
    Action, Campaign, Campaigns, Done, Ending, Refusal, STEPS_MAX, Stage, Start, State, Step, Why,
    words,
};
use crate::rollout::audit::{Act, Actor, Note};
use crate::rollout::{Book, Cause, Change, PlanError, Rollout, Target, Terms};

impl Campaigns {
    /// Plans that a campaign begins with its first wave.
    ///
    /// # Errors
    /// [`Refusal`] when the policy cannot be, another campaign is under way, the group runs nothing yet, or runs this already.
    pub fn plan_start(&self, book: &Book, start: Start, terms: Terms) -> Result<Step, Refusal> {
        let current = self.check_start(book, &start)?;
        let from = current.stable.clone();
        let campaign = Campaign {
            v: V1,
            id: start.id,
            target: start.target,
            from,
            to: start.to,
            policy: start.policy,
            by: start.by.clone(),
            started_at: terms.now,
            state: State::Running {
                stage: Stage::new(0, terms.now, 0, 0),
            },
            steps: Vec::new(),
        };
        let words = words::started(&campaign);
        let rollout = campaign.expose(book, 0, terms)?;
        Ok(campaign.step(Some(rollout), Act::Start, start.by, words, terms.now))
    }

    /// What must hold for a campaign to begin; hands out the release that holds.
    pub(in crate::rollout) fn check_start<'a>(
        &self,
        book: &'a Book,
        start: &Start,
    ) -> Result<&'a Rollout, Refusal> {
        start.policy.check()?;
        let target = &start.target;
        self.check_idle(target)?;
        let (group, model) = (target.group.clone(), target.model.clone());
        let version = start.to.version.clone();
        let Some(current) = book.current(target) else {
            return Err(Refusal::First {
                group,
                model,
                version,
            });
        };
        if current.revoked.contains(&start.to.digest) {
            return Err(Refusal::Revoked {
                group,
                model,
                version,
            });
        }
        if current.stable.digest == start.to.digest {
            let sequence = current.sequence;
            return Err(PlanError::Already {
                group,
                model,
                version,
                sequence,
            }
            .into());
        }
        Ok(current)
    }

    /// Plans what somebody does to the campaign under way.
    ///
    /// # Errors
    /// [`Refusal`] when there is none, or it is in a state that does not fit.
    pub fn plan_action(
        &self,
        book: &Book,
        target: &Target,
        action: &Action,
        by: &Actor,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        let Some(campaign) = self.under_way(target) else {
            let Target { group, model } = target.clone();
            return Err(Refusal::None { group, model });
        };
        let campaign = campaign.clone();
        match action {
            Action::Pause => campaign.pause(by, terms.now),
            Action::Resume => campaign.resume(by, terms.now),
            Action::Approve => campaign.approve(by, terms.now),
            Action::Abort { how } => {
                let words = words::aborted_by(&campaign, *how, by);
                campaign.abort(book, *how, Why::Operator, by, words, terms)
            }
            Action::Promote => {
                let words = words::promoted_by(&campaign, by);
                campaign.promote(book, by, words, terms)
            }
        }
    }

    /// Plans that a group goes to another version at once, back to an earlier one say: to `to`, or without it to what came
    /// before the version that is stable now; while there is a candidate, that is to take it back. A campaign under way ends
    /// with it.
    ///
    /// # Errors
    /// [`Refusal`] when there is nothing to go back to, the group runs it already, or it is revoked.
    pub fn plan_rollback(
        &self,
        book: &Book,
        target: &Target,
        to: Option<BundleRef>,
        by: &Actor,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        let Some(current) = book.current(target) else {
            let Target { group, model } = target.clone();
            return Err(PlanError::NoRelease { group, model }.into());
        };
        let cause = Cause::Rollback {
            of: current.sequence,
        };
        let rollout = match to {
            None if current.candidate.is_some() => {
                book.plan_change(target, Change::Withdraw, cause, terms)?
            }
            None => book.plan_rollback(target, terms)?,
            Some(to) => {
                let before = before(book, target, &to);
                let all_at_once = book.plan_start(target, to, terms)?;
                Rollout {
                    cause,
                    replaces: before,
                    ..all_at_once
                }
            }
        };
        check_revoked(target, &rollout)?;
        let words = words::rolled_back(current, &rollout, by);
        let note = note(by, Act::Rollback, target, words);
        Ok(self.ending_with(target, rollout, note, Why::Operator, terms.now))
    }

    /// Plans that a whole group runs a version at once, with no waves: the first release of a model, say.
    ///
    /// # Errors
    /// [`Refusal`] when a campaign is under way, the group runs it already, or it is revoked.
    pub fn plan_release(
        &self,
        book: &Book,
        target: &Target,
        to: BundleRef,
        by: &Actor,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        self.check_idle(target)?;
        let rollout = book.plan_start(target, to, terms)?;
        check_revoked(target, &rollout)?;
        let words = words::released(book.current(target), &rollout, by);
        let note = note(by, Act::Release, target, words);
        Ok(self.ending_with(target, rollout, note, Why::Operator, terms.now))
    }

    /// A release that is no campaign's, with which the one under way ends.
    pub(super) fn ending_with(
        &self,
        target: &Target,
        rollout: Rollout,
        note: Note,
        why: Why,
        now: Timestamp,
    ) -> Step {
        let campaign = self.under_way(target).cloned().map(|mut campaign| {
            campaign.state = State::Aborted {
                at: now,
                by: note.by.clone(),
                how: Ending::Reverted,
                why,
            };
            let done = Done {
                at: now,
                by: note.by.clone(),
                sequence: Some(rollout.sequence),
                words: note.words.clone(),
            };
            campaign.remember(done);
            campaign
        });
        Step {
            campaign,
            rollout: Some(rollout),
            note,
        }
    }

    fn check_idle(&self, target: &Target) -> Result<(), Refusal> {
        let Some(campaign) = self.under_way(target) else {
            return Ok(());
        };
        Err(Refusal::UnderWay {
            group: target.group.clone(),
            model: target.model.clone(),
            id: campaign.id,
            version: campaign.to.version.clone(),
            state: campaign.state.word(),
        })
    }
}

/// What came before a version when the group ran it last, which a rollback of it restores.
pub(super) fn before(book: &Book, target: &Target, to: &BundleRef) -> Option<Sequence> {
    let ran = book.history(target).filter(|rollout| rollout.stable == *to);
    ran.last().and_then(|rollout| rollout.replaces)
}

fn check_revoked(target: &Target, rollout: &Rollout) -> Result<(), Refusal> {
    if rollout.revoked.contains(&rollout.stable.digest) {
        return Err(Refusal::Revoked {
            group: target.group.clone(),
            model: target.model.clone(),
            version: rollout.stable.version.clone(),
        });
    }
    Ok(())
}

pub(super) fn note(by: &Actor, act: Act, target: &Target, words: String) -> Note {
    Note {
        by: by.clone(),
        act,
        target: Some(target.clone()),
        words,
    }
}

impl Stage {
    pub(super) const fn new(
        wave: u16,
        since: Timestamp,
        labels_before: u64,
        nodes_before: u64,
    ) -> Self {
        Self {
            wave,
            since,
            labels_before,
            nodes_before,
            approved: None,
        }
    }
}

impl Campaign {
    /// The candidate as it is exposed by a wave.
    pub fn candidate(&self, wave: u16) -> Candidate {
        Candidate {
            bundle: self.to.clone(),
            rollout: self.id,
            exposure: self.policy.exposure(usize::from(wave)),
            control: self.policy.control,
        }
    }

    /// The release that exposes the nodes of a wave.
    pub(super) fn expose(
        &self,
        book: &Book,
        wave: u16,
        terms: Terms,
    ) -> Result<Rollout, PlanError> {
        let change = Change::Expose {
            candidate: self.candidate(wave),
            trial: Some(self.policy.trial.clone()),
            hours: self.policy.hours,
        };
        let cause = Cause::Wave {
            rollout: self.id,
            wave,
        };
        book.plan_change(&self.target, change, cause, terms)
    }

    /// The step that leads to this campaign.
    pub(super) fn step(
        mut self,
        rollout: Option<Rollout>,
        act: Act,
        by: Actor,
        words: String,
        now: Timestamp,
    ) -> Step {
        let note = note(&by, act, &self.target, words.clone());
        self.remember(Done {
            at: now,
            by,
            sequence: rollout.as_ref().map(|rollout| rollout.sequence),
            words,
        });
        Step {
            campaign: Some(self),
            rollout,
            note,
        }
    }

    fn remember(&mut self, done: Done) {
        if self.steps.len() >= STEPS_MAX {
            // The first says how it began.
            self.steps.remove(1);
        }
        self.steps.push(done);
    }

    pub(super) fn abort(
        mut self,
        book: &Book,
        how: Ending,
        why: Why,
        by: &Actor,
        words: String,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        let cause = Cause::Abort { rollout: self.id };
        let (rollout, act) = match how {
            Ending::Reverted => {
                let back = book.plan_change(&self.target, Change::Withdraw, cause, terms)?;
                (Some(back), Act::AbortRevert)
            }
            Ending::Kept => (None, Act::AbortKeep),
        };
        self.state = State::Aborted {
            at: terms.now,
            by: by.clone(),
            how,
            why,
        };
        Ok(self.step(rollout, act, by.clone(), words, terms.now))
    }

    pub(super) fn promote(
        mut self,
        book: &Book,
        by: &Actor,
        words: String,
        terms: Terms,
    ) -> Result<Step, Refusal> {
        // Nodes that no wave reached, control nodes among them, have their trial still before them.
        let change = Change::Settle {
            stable: self.to.clone(),
            trial: Some(self.policy.trial.clone()),
            hours: self.policy.hours,
        };
        let cause = Cause::Promote { rollout: self.id };
        let rollout = book.plan_change(&self.target, change, cause, terms)?;
        self.state = State::Promoted {
            at: terms.now,
            by: by.clone(),
        };
        Ok(self.step(Some(rollout), Act::Promote, by.clone(), words, terms.now))
    }

    fn pause(mut self, by: &Actor, now: Timestamp) -> Result<Step, Refusal> {
        let stage = match &self.state {
            State::Running { stage } | State::Held { stage, .. } => stage.clone(),
            State::Paused { .. } => return Err(self.refusal("resume it to go on")),
            State::Promoted { .. } | State::Aborted { .. } => {
                return Err(self.refusal("there is nothing to pause"));
            }
        };
        self.state = State::Paused {
            stage,
            at: now,
            by: by.clone(),
        };
        let words = words::paused(&self, by);
        Ok(self.step(None, Act::Pause, by.clone(), words, now))
    }

    fn resume(mut self, by: &Actor, now: Timestamp) -> Result<Step, Refusal> {
        let stage = match &self.state {
            State::Paused { stage, .. } => stage.clone(),
            State::Held { stage, why, .. } if *why != Why::Approval => stage.clone(),
            State::Held { .. } => {
                return Err(self.refusal("`lamppost rollout approve` lets the next wave begin"));
            }
            State::Running { .. } | State::Promoted { .. } | State::Aborted { .. } => {
                return Err(self.refusal("only a paused or held one can be resumed"));
            }
        };
        self.state = State::Running { stage };
        let words = words::resumed(&self, by);
        Ok(self.step(None, Act::Resume, by.clone(), words, now))
    }

    fn approve(mut self, by: &Actor, now: Timestamp) -> Result<Step, Refusal> {
        let mut stage = match &self.state {
            State::Running { stage } => stage.clone(),
            State::Held { stage, why, .. } if !why.fails() => stage.clone(),
            State::Held { .. } => {
                return Err(self.refusal(
                    "its gate failed, which no approval mends: abort it, or promote it in spite of that",
                ));
            }
            State::Paused { .. } => return Err(self.refusal("resume it first")),
            State::Promoted { .. } | State::Aborted { .. } => {
                return Err(self.refusal("there is nothing to approve"));
            }
        };
        if stage.approved.is_some() {
            return Err(self.refusal("what follows its wave is approved already"));
        }
        stage.approved = Some(by.clone());
        self.state = State::Running { stage };
        let words = words::approved(&self, by);
        Ok(self.step(None, Act::Approve, by.clone(), words, now))
    }

    fn refusal(&self, mend: &'static str) -> Refusal {
        Refusal::State {
            id: self.id,
            group: self.target.group.clone(),
            model: self.target.model.clone(),
            state: self.state.word(),
            mend,
        }
    }
}
