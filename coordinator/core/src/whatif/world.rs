//! What happens when: nodes, the coordinator's looks, and the days of a byte budget, in the order of one clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use lamppost_models::id::{RolloutId, TagValue};
use lamppost_models::message::{NodeState, ReportedOutbox};
use lamppost_models::release::Sequence;
use lamppost_models::rollout::{Cohort, MinuteOfWeek, Who};
use lamppost_models::time::Zone;
use lamppost_models::{BootId, Release, Reported, Status, Timestamp, V1};

use super::depot::{BACKHAUL, Depot, next_midnight_ms};
use super::node::{CHECK, Common, Node, Phase, at, ms};
use super::rng::Rng;
use super::{Begun, End, NODES_MAX, Outcome, Scenario};
use crate::inventory::Inventory;
use crate::rollout::audit::Actor;
use crate::rollout::campaign::{
    Action, Around, Campaign, Campaigns, Decision, Refusal, Start, State, Step, Verdict, Why,
};
use crate::rollout::plan::{Pace, Plan};
use crate::rollout::policy::{Policy, QualityKind, Span};
use crate::rollout::{Book, PlanError, Terms};

/// How often the coordinator looks: as one does to which no report comes. A step is at most that much later here.
pub(super) const LOOK_MS: i64 = 5_000;
/// How long it takes a release to reach a node.
const HEARS_MS: i64 = 1_000;
/// Longest run: two of the longest soaks that make sense, or eight weekends.
const HORIZON_MS: i64 = 60 * 86_400_000;
/// Most events of a run: some ten seconds of a processor. A node makes some hundred.
const EVENTS_MAX: u64 = 5_000_000;
/// Steps that follow one another in one look.
const STEPS_PER_LOOK_MAX: usize = 16;
const BOOT: BootId = BootId::from_u64(1);
/// Nodes are there, or are not: here no silence tells.
const NEVER_STALE: Duration = Duration::from_hours(366 * 24);

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

/// What a run begins with.
struct Opening<'a> {
    common: Common<'a>,
    inventory: Inventory,
    nodes: Vec<Node>,
    start: Start,
}

fn open(scenario: &Scenario, seed: u64) -> Result<Opening<'_>, Refusal> {
    let target = &scenario.target;
    let Some(current) = scenario.book.current(target) else {
        let (group, model) = (target.group.clone(), target.model.clone());
        return Err(PlanError::NoRelease { group, model }.into());
    };
    let mut rng = Rng::new(seed);
    let mut common = Common {
        scenario,
        id: RolloutId::from_u64(rng.draw()),
        from: current.stable.clone(),
        terms: scenario
            .policy
            .as_ref()
            .map_or_else(|| Policy::canary().trial, |policy| policy.trial.clone()),
    };
    let mut inventory = Inventory::new(NODES_MAX);
    let mut nodes = Vec::new();
    let away = u64::from(scenario.away.hundredths());
    for member in scenario.nodes.iter().take(NODES_MAX) {
        let mut member = member.clone();
        member.reachable &= rng.below(10_000) >= away;
        let node = Node::new(&common, member, rng.fork());
        // It has room for as many.
        let heard = inventory.on_status(&node.member.path, status(&common, &node), at(&common, 0));
        if heard.is_ok() {
            tell(&common, &mut inventory, &node, 0);
            nodes.push(node);
        }
    }
    let mut start = Start {
        id: common.id,
        target: target.clone(),
        to: scenario.to.clone(),
        policy: scenario.policy.clone().unwrap_or_else(Policy::canary),
        by: Actor::unnamed(),
    };
    if scenario.policy.is_none() {
        let first =
            Campaigns::first_node(&scenario.book, &inventory, &start, &around(&common, 0, 0));
        start.policy = match first {
            Some(first) => start.policy.with_first(first),
            None => start.policy,
        };
    }
    common.terms = start.policy.trial.clone();
    Ok(Opening {
        common,
        inventory,
        nodes,
        start,
    })
}

/// See [`Scenario::plan`].
pub(super) fn plan(scenario: &Scenario, seed: u64) -> Result<Plan, Refusal> {
    let Opening {
        common,
        inventory,
        nodes,
        start,
    } = open(scenario, seed)?;
    // An estimate of the least time knows one rate: the fastest.
    let rates = nodes
        .iter()
        .map(|node| scenario.rates.of(&node.member.tags));
    let bytes_per_s = rates.reduce(f64::max);
    let mut trial_ms = ms(CHECK);
    if let Some(mut node) = nodes.into_iter().next()
        && common.terms.shadow.is_some()
    {
        node.shadow(0);
        trial_ms = trial_ms.saturating_add(node.done_ms(&common, 0));
    }
    let pace = Pace {
        bytes_per_s,
        trial: Some(span(trial_ms)),
    };
    let around = around(&common, 0, 0);
    Campaigns::new().plan(&scenario.book, &inventory, &start, pace, &around)
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

    pub(super) fn play(mut self) -> Result<Outcome, Refusal> {
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
        Ok(Outcome {
            seed: self.seed,
            end,
            took: span(took_ms),
            words: self.words,
            waves: self.waves,
            exposed: self.exposed,
            live: self.live,
            bytes: bytes_by_backhaul.values().sum(),
            bytes_by_backhaul,
        })
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
        match node.phase {
            Phase::Closed { opens_ms } if opens_ms <= now_ms => {
                node.phase = Phase::Queued;
                self.depot.ask(backhaul(node), number);
            }
            Phase::Fetching { until_ms } if until_ms <= now_ms => {
                self.depot.end(backhaul(node), common.scenario.to.bytes);
                let until_ms = now_ms + ms(CHECK);
                node.phase = Phase::Checking { until_ms };
            }
            Phase::Checking { until_ms } if until_ms <= now_ms => match Node::check(common) {
                Some(verdict) => {
                    node.phase = Phase::Failed {
                        verdict,
                        live: false,
                    };
                }
                None if common.terms.shadow.is_some() => node.shadow(now_ms),
                None => node.go_live(common, now_ms),
            },
            Phase::Shadow { since_ms } if node.done_ms(common, since_ms) <= now_ms => {
                match node.judge_shadow(common) {
                    Some(verdict) => {
                        node.phase = Phase::Failed {
                            verdict,
                            live: false,
                        };
                    }
                    None => node.go_live(common, now_ms),
                }
            }
            Phase::Probation { since_ms } if node.done_ms(common, since_ms) <= now_ms => {
                node.phase = match node.judge_probation(common) {
                    Some(verdict) => Phase::Failed {
                        verdict,
                        live: true,
                    },
                    None => Phase::Passed,
                };
            }
            Phase::Before
            | Phase::Closed { .. }
            | Phase::Queued
            | Phase::Fetching { .. }
            | Phase::Checking { .. }
            | Phase::Shadow { .. }
            | Phase::Probation { .. }
            | Phase::Passed
            | Phase::Failed { .. } => {}
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

fn status(common: &Common<'_>, node: &Node) -> Status {
    Status {
        v: V1,
        state: if node.member.reachable {
            NodeState::Up
        } else {
            NodeState::Down
        },
        boot: BOOT,
        at: at(common, 0),
        agent: String::new(),
        groups: node.member.groups.clone(),
        tags: node.member.tags.clone(),
    }
}

/// A node's report comes to the inventory.
fn tell(common: &Common<'_>, inventory: &mut Inventory, node: &Node, now_ms: i64) {
    let now = at(common, now_ms);
    let report = Reported {
        v: V1,
        boot: BOOT,
        at: now,
        models: vec![node.row(common, now_ms)],
        streams: Vec::new(),
        outbox: ReportedOutbox::default(),
        trust: None,
    };
    // The node is known, so that there is room for it.
    drop(inventory.on_reported(&node.member.path, report, now));
}

fn around(common: &Common<'_>, now_ms: i64, bytes_today: u64) -> Around {
    Around {
        terms: Terms {
            now: at(common, now_ms),
            lifetime: NEVER_STALE,
            seen: Sequence(0),
        },
        stale_after: NEVER_STALE,
        bytes_today,
    }
}

fn span(ms: i64) -> Span {
    Span::from_secs(u64::try_from(ms).unwrap_or(0) / 1000)
}
