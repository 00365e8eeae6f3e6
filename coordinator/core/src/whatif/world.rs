//! What happens when: nodes, the coordinator's looks, and the days of a byte budget, in the order of one clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use lamppost_models::id::TagValue;
use lamppost_models::release::Sequence;
use lamppost_models::rollout::{Cohort, MinuteOfWeek, Who};
use lamppost_models::time::Zone;
use lamppost_models::{Release, Timestamp};

use super::depot::{BACKHAUL, Depot, next_midnight_ms};
use super::node::{Common, Node, Phase, Turn, at, ms};
use super::opening::{Opening, around, open, span, tell};
use super::{Begun, End, Outcome, Scenario};
use crate::inventory::Inventory;
use crate::rollout::Book;
use crate::rollout::audit::Actor;
use crate::rollout::campaign::{
    Action, Campaign, Campaigns, Decision, Refusal, State, Step, Verdict, Why,
};
use crate::rollout::plan::Pace;
use crate::rollout::policy::QualityKind;

/// How often the coordinator looks: as one does to which no report comes. A step is at most that much later here.
pub(super) const LOOK_MS: i64 = 5_000;
/// How long it takes a release to reach a node.
const HEARS_MS: i64 = 1_000;
/// Longest run: two of the longest soaks that make sense, or eight weekends.
const HORIZON_MS: i64 = 60 * 86_400_000;
/// Most events of a run: 250 for each of the most nodes there may be; by the built-in policy a node makes some hundred.
const EVENTS_MAX: u64 = 5_000_000;
/// Steps that follow one another in one look.
const STEPS_PER_LOOK_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Node(usize),
    Day,
    Look,
}

/// A run.
pub(super) struct World<'a> {
    seed: u64,
    common: Common<'a>,
    book: Book,
    campaigns: Campaigns,
    inventory: Inventory,
    nodes: Vec<Node>,
    depot: Depot,
    events: BinaryHeap<Reverse<(i64, Event)>>,
    now_ms: i64,
    look_at: Option<i64>,
    /// The midnight that somebody waits for.
    day_at: Option<i64>,
    /// Whether control nodes, and those that passed, go on reporting.
    cohorts: bool,
    waves: Vec<Begun>,
    exposed: u64,
    live: u64,
    words: String,
    over: Option<(End, i64)>,
}

impl<'a> World<'a> {
    pub(super) fn begin(scenario: &'a Scenario, seed: u64) -> Result<Self, Refusal> {
        let Opening {
            common,
            inventory,
            nodes,
            start,
        } = open(scenario, seed)?;
        let campaigns = Campaigns::new();
        let around = around(&common, 0, 0);
        campaigns.plan(&scenario.book, &inventory, &start, Pace::default(), &around)?;
        let kind = start.policy.quality().map(|quality| quality.kind);
        let step = campaigns.plan_start(&scenario.book, start.clone(), around.terms)?;
        let mut world = Self {
            seed,
            depot: Depot::new(&start.policy, scenario.to.bytes),
            common,
            book: scenario.book.clone(),
            campaigns,
            inventory,
            nodes,
            events: BinaryHeap::new(),
            now_ms: 0,
            look_at: None,
            day_at: None,
            cohorts: matches!(kind, Some(QualityKind::Cohorts | QualityKind::Both)),
            waves: Vec::new(),
            exposed: 0,
            live: 0,
            words: String::new(),
            over: None,
        };
        world.commit(&step);
        world.keep_controls_reporting();
        Ok(world)
    }

    pub(super) fn play(mut self) -> Outcome {
        self.look();
        let mut events = 0;
        while let Some(Reverse((now_ms, event))) = self.events.pop() {
            events += 1;
            if now_ms > HORIZON_MS || events > EVENTS_MAX {
                break;
            }
            self.now_ms = now_ms;
            match event {
                Event::Node(node) => self.wake(node),
                Event::Day => self.admit(),
                Event::Look => {
                    self.look_at.take_if(|look_at| *look_at == now_ms);
                    self.look();
                }
            }
            if matches!(self.over, Some((End::Aborted { .. }, _))) {
                break;
            }
        }
        let (end, took_ms) = self.over.unwrap_or((End::Open, self.now_ms));
        let bytes_by_backhaul = self.depot.bytes();
        Outcome {
            seed: self.seed,
            end,
            took: span(took_ms),
            words: self.words,
            waves: self.waves,
            exposed: self.exposed,
            live: self.live,
            bytes: bytes_by_backhaul.values().sum(),
            bytes_by_backhaul,
        }
    }

    fn at(&self, at_ms: i64, event: Event) -> Reverse<(i64, Event)> {
        Reverse((at_ms.max(self.now_ms), event))
    }

    fn schedule(&mut self, node: usize, at_ms: i64) {
        if let Some(of) = self.nodes.get_mut(node) {
            of.wake_ms = Some(at_ms);
            let event = self.at(at_ms, Event::Node(node));
            self.events.push(event);
        }
    }

    /// The coordinator looks, and takes the steps that are due.
    fn look(&mut self) {
        for _ in 0..STEPS_PER_LOOK_MAX {
            let around = around(&self.common, self.now_ms, self.depot.given_today());
            let target = &self.common.scenario.target;
            let look = self
                .campaigns
                .tick(&self.book, &self.inventory, target, &around);
            let Some(decision) = look else { return };
            self.words.clone_from(&decision.words);
            let step = match decision.verdict {
                Verdict::Hold { why: Why::Approval } => {
                    let by = Actor::unnamed();
                    let terms = around.terms;
                    let action = Action::Approve;
                    self.campaigns
                        .plan_action(&self.book, target, &action, &by, terms)
                        .ok()
                }
                Verdict::Advance { .. }
                | Verdict::Promote
                | Verdict::Hold { .. }
                | Verdict::Abort { .. } => decision.step.clone(),
            };
            let Some(step) = step else {
                self.look_later(&decision);
                return;
            };
            self.commit(&step);
        }
    }

    /// Looks again when time alone may change something.
    fn look_later(&mut self, decision: &Decision) {
        let found = &decision.assessment;
        let begins = self.common.scenario.begins;
        let midnight = next_midnight_ms(begins.as_ms() + self.now_ms) - begins.as_ms();
        let budget = decision.verdict
            == Verdict::Hold {
                why: Why::ByteBudget,
            };
        let times = [
            Some(found.soaks_until.ms_since(begins)),
            Some(found.deadline.ms_since(begins)),
            budget.then_some(midnight),
        ];
        let next = times.into_iter().flatten().filter(|at| *at > self.now_ms);
        if let Some(next) = next.min() {
            let event = self.at(next, Event::Look);
            self.events.push(event);
        }
    }

    fn commit(&mut self, step: &Step) {
        self.campaigns.apply(step);
        let Some(rollout) = &step.rollout else { return };
        self.book.apply(rollout.clone());
        if let Some(campaign) = &step.campaign {
            self.note_state(campaign);
        }
        let release = rollout.release();
        let to = self.common.scenario.to.digest;
        let meant = |node: &&Node| release.wanted(who(node)).0.digest == to;
        let exposed = self.nodes.iter().filter(meant).count() as u64;
        if self.over.is_none() {
            self.exposed = self.exposed.max(exposed);
            if let Some(begun) = self.waves.last_mut() {
                begun.nodes = exposed;
            }
        }
        self.heed(&release, rollout.sequence);
    }

    fn note_state(&mut self, campaign: &Campaign) {
        match &campaign.state {
            State::Running { stage } | State::Held { stage, .. } | State::Paused { stage, .. } => {
                self.waves.push(Begun {
                    wave: stage.wave + 1,
                    after: span(self.now_ms),
                    nodes: 0,
                });
            }
            State::Promoted { .. } => self.over = Some((End::Promoted, self.now_ms)),
            State::Aborted { how, why, .. } => {
                let (how, why) = (*how, *why);
                self.over = Some((End::Aborted { why, how }, self.now_ms));
            }
        }
    }

    /// Nodes that are there begin with what a release wants of them.
    fn heed(&mut self, release: &Release, sequence: Sequence) {
        let hears_ms = self.now_ms + HEARS_MS;
        let to = self.common.scenario.to.digest;
        for number in 0..self.nodes.len() {
            let Some(node) = self.nodes.get_mut(number) else {
                continue;
            };
            let wanted = release.wanted(who(node)).0.digest == to;
            if !wanted || !node.member.reachable || node.phase != Phase::Before {
                continue;
            }
            node.begin(hears_ms, sequence);
            let opens_ms = hears_ms + closed_ms(release, at(&self.common, hears_ms));
            node.phase = Phase::Closed { opens_ms };
            self.schedule(number, hears_ms);
        }
    }

    fn keep_controls_reporting(&mut self) {
        let candidate = self
            .book
            .current(&self.common.scenario.target)
            .and_then(|rollout| rollout.candidate.clone());
        let Some(candidate) = candidate.filter(|_| self.cohorts) else {
            return;
        };
        for number in 0..self.nodes.len() {
            let control = self.nodes.get(number).is_some_and(|node| {
                node.member.reachable && candidate.cohort(who(node)) == Cohort::Control
            });
            if control {
                self.schedule(number, ms(self.common.scenario.report_every));
            }
        }
    }

    /// A node does what it is time for, reports, and says when it acts next.
    fn wake(&mut self, number: usize) {
        let (now_ms, common) = (self.now_ms, &self.common);
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        // It acts at another time by now.
        if node.wake_ms.take_if(|wake_ms| *wake_ms == now_ms).is_none() {
            return;
        }
        let was_live = node.live();
        node.observe(common, now_ms);
        match node.turn(common, now_ms) {
            Some(Turn::Asks) => self.depot.ask(backhaul(node), number),
            Some(Turn::Fetched) => self.depot.end(backhaul(node), common.scenario.to.bytes),
            None => {}
        }
        if self.over.is_none() {
            self.live += u64::from(node.live() && !was_live);
        }
        self.report(number);
        self.admit();
        self.schedule_next(number);
    }

    fn schedule_next(&mut self, number: usize) {
        let (now_ms, common) = (self.now_ms, &self.common);
        let again_ms = now_ms.saturating_add(ms(common.scenario.report_every).max(1));
        let reporting = self.cohorts && self.over.is_none();
        let Some(node) = self.nodes.get(number) else {
            return;
        };
        let next = match node.phase {
            Phase::Closed { opens_ms } => Some(opens_ms),
            Phase::Fetching { until_ms } | Phase::Checking { until_ms } => Some(until_ms),
            Phase::Shadow { since_ms } | Phase::Probation { since_ms } => {
                Some(again_ms.min(node.done_ms(common, since_ms)))
            }
            Phase::Before | Phase::Passed => reporting.then_some(again_ms),
            Phase::Queued | Phase::Failed { .. } => None,
        };
        if let Some(next) = next {
            self.schedule(number, next);
        }
    }

    /// Whoever has a place downloads.
    fn admit(&mut self) {
        let begins_ms = self.common.scenario.begins.as_ms();
        for number in self.depot.admit(begins_ms + self.now_ms) {
            let Some(node) = self.nodes.get_mut(number) else {
                continue;
            };
            let rate = self.common.scenario.rates.of(&node.member.tags);
            let takes_s = self.common.scenario.to.bytes as f64 / rate;
            let takes = Duration::try_from_secs_f64(takes_s).unwrap_or(Duration::MAX);
            let until_ms = self.now_ms.saturating_add(ms(takes));
            node.phase = Phase::Fetching { until_ms };
            self.schedule(number, until_ms);
        }
        let day_at = self.depot.next_day(begins_ms + self.now_ms);
        if let Some(day_at) = day_at.map(|at_ms| at_ms - begins_ms)
            && self.day_at.replace(day_at) != Some(day_at)
        {
            let event = self.at(day_at, Event::Day);
            self.events.push(event);
        }
    }

    /// The coordinator hears of a node, and looks soon.
    fn report(&mut self, number: usize) {
        if self.over.is_some() {
            return;
        }
        let (now_ms, common) = (self.now_ms, &self.common);
        let Some(node) = self.nodes.get(number) else {
            return;
        };
        tell(common, &mut self.inventory, node, now_ms);
        if let Some(entry) = self.inventory.get(&node.member.path) {
            self.campaigns
                .on_report(&self.book, entry, at(common, now_ms));
        }
        if self.look_at.is_none() {
            let look_at = (now_ms.div_euclid(LOOK_MS) + 1) * LOOK_MS;
            self.look_at = Some(look_at);
            let event = self.at(look_at, Event::Look);
            self.events.push(event);
        }
    }
}

fn who(node: &Node) -> Who<'_> {
    Who {
        path: &node.member.path,
        groups: &node.member.groups,
        tags: &node.member.tags,
    }
}

fn backhaul(node: &Node) -> Option<&TagValue> {
    node.member.tags.get(BACKHAUL)
}

/// How long a release's hours are not open yet.
fn closed_ms(release: &Release, now: Timestamp) -> i64 {
    let minute = MinuteOfWeek::from(Zone::utc().local(now));
    let minutes = release.hours.map_or(0, |hours| hours.wait_minutes(minute));
    i64::from(minutes) * 60_000
}
