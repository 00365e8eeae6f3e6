//! The clock, the network and the faults.

use std::collections::{BTreeMap, VecDeque};

use lamppost_agent_core::slot::Input;
use lamppost_coordinator_core::rollout::Target;
use lamppost_coordinator_core::rollout::campaign::Step;
use lamppost_models::{Release, Reported, Status, Timestamp};

use crate::centre::Centre;
use crate::check::{self, Checks};
use crate::node::{Follow, Luck, Node};
use crate::rng::Rng;
use crate::version::Bundles;
use crate::{Outcome, operator};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How long things go wrong.
const TROUBLE: u64 = 14 * DAY;
/// How long the fleet then has to settle: longer than any hours for changes, deadline and back-off.
const PEACE: u64 = 21 * DAY;
/// How often the coordinator looks at its campaigns.
const LOOK: u64 = 10 * MINUTE;
/// Events that a failure shows.
const TRACE: usize = 40;
/// The key that signs.
const SIGNERS: &str = "key";

/// Something that is to happen.
#[derive(Clone, Debug)]
enum Event {
    /// A release reaches a node.
    Release(usize, Box<Release>),
    /// A report reaches the coordinator.
    Report(usize, Box<Reported>),
    /// A status reaches the coordinator.
    Status(usize, Box<Status>),
    /// A job of a node's run ends.
    Job { node: usize, life: u64, job: u64 },
    /// The alarm of a node's run rings.
    Alarm { node: usize, life: u64, alarm: u64 },
    /// A node's sensor speaks.
    Windows(usize),
    /// An agent starts.
    NodeStart(usize),
    /// A link comes back.
    LinkUp(usize),
    /// The coordinator starts.
    CentreStart,
    /// The coordinator looks at its campaigns.
    Look,
    /// Something goes wrong.
    Fault,
    /// Somebody comes to work.
    Operator,
}

/// A fleet and its coordinator.
pub struct Fleet {
    seed: u64,
    now_ms: u64,
    rng: Rng,
    /// What is to happen, by its time, and then by its number.
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    target: Target,
    bundles: Bundles,
    nodes: Vec<Node>,
    centre: Centre,
    /// All releases that were ever published, for replays.
    published: Vec<Release>,
    checks: Checks,
    outcome: Outcome,
    trace: VecDeque<String>,
}

impl Fleet {
    /// A fleet at rest whose nodes have the first version.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let target = Target {
            group: "all".parse().expect("a name"),
            model: "flow".parse().expect("a name"),
        };
        let count = 3 + rng.index(0, 9);
        let nodes = (0..count)
            .map(|at| Node::new(at, &target.model, &mut rng))
            .collect();
        Self {
            seed,
            now_ms: 0,
            rng,
            events: BTreeMap::new(),
            next_event: 0,
            target,
            bundles: Bundles::default(),
            nodes,
            centre: Centre::default(),
            published: Vec::new(),
            checks: Checks::new(count),
            outcome: Outcome::default(),
            trace: VecDeque::new(),
        }
    }

    /// What came of it.
    pub fn outcome(mut self) -> Outcome {
        for campaign in self.centre.store.campaigns() {
            let nature = self.bundles.nature(&campaign.to.digest);
            let key = (nature, campaign.state.word());
            *self.outcome.campaigns.entry(key).or_default() += 1;
        }
        self.checks.count(&self.bundles, &mut self.outcome);
        self.outcome
    }

    /// Lets trouble come, then peace, and checks what must hold throughout.
    pub fn run(&mut self) {
        self.centre.start();
        let first = self.bundles.make(&mut self.rng).bundle;
        let state = self.centre.live.as_ref().expect("it was just started");
        let terms = state.terms(&self.target, self.now());
        let step = state.campaigns.plan_release(
            &state.book,
            &self.target,
            first,
            &operator::anna(),
            terms,
        );
        self.take(&step.expect("nothing stands against the first release"));
        for at in 0..self.nodes.len() {
            self.start_node(at);
            let ms = self.rng.below(HOUR);
            self.after(ms, Event::Windows(at));
        }
        self.after(LOOK, Event::Look);
        self.after(HOUR, Event::Operator);
        self.after(HOUR, Event::Fault);
        self.run_until(TROUBLE);
        self.heal();
        self.run_until(TROUBLE + PEACE);
        self.settled();
    }

    fn run_until(&mut self, end: u64) {
        while let Some(next) = self.events.first_entry() {
            let (at, _) = *next.key();
            if at > end {
                break;
            }
            self.now_ms = at;
            let event = next.remove();
            self.outcome.events += 1;
            self.note(&event);
            self.happen(event);
        }
        self.now_ms = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Release(at, release) => self.release(at, &release),
            Event::Report(at, report) => {
                let (now, path) = (self.now(), self.nodes[at].path.clone());
                self.centre.on_report(&path, *report, now);
                if self.rng.chance(20) {
                    self.look();
                }
            }
            Event::Status(at, status) => {
                let (now, path) = (self.now(), self.nodes[at].path.clone());
                self.centre.on_status(&path, *status, now);
            }
            Event::Job { node, life, job } if self.runs(node, life) => {
                let luck = Luck {
                    served: self.centre.live.is_some(),
                    kind: !self.trouble(),
                };
                let input = self.nodes[node].finish(job, &self.bundles, luck, &mut self.rng);
                self.tell(node, input);
            }
            Event::Alarm { node, life, alarm } if self.runs(node, life) => {
                let live = self.nodes[node].live.as_ref();
                if live.is_some_and(|live| live.alarm == alarm) {
                    self.tell(node, Some(Input::Retry));
                }
            }
            Event::Job { .. } | Event::Alarm { .. } => {}
            Event::Windows(at) => self.windows(at),
            Event::NodeStart(at) => {
                if self.nodes[at].live.is_none() {
                    self.start_node(at);
                }
            }
            Event::LinkUp(at) => self.link_up(at),
            Event::CentreStart => self.start_centre(),
            Event::Look => {
                self.look();
                let now = self.now();
                for target in self.centre.renew(now) {
                    self.publish(&target);
                }
                self.after(LOOK, Event::Look);
            }
            Event::Fault => {
                if self.trouble() {
                    self.fault();
                    let ms = self.rng.below(3 * HOUR);
                    self.after(ms, Event::Fault);
                }
            }
            Event::Operator => {
                if self.trouble() {
                    self.operate();
                    let ms = HOUR + self.rng.below(12 * HOUR);
                    self.after(ms, Event::Operator);
                }
            }
        }
    }

    const fn trouble(&self) -> bool {
        self.now_ms < TROUBLE
    }

    fn now(&self) -> Timestamp {
        // A Monday, so that hours make a difference.
        let start: Timestamp = Timestamp::EPOCH.offset_ms(1_764_547_200_000);
        start.offset_ms(i64::try_from(self.now_ms).unwrap_or(i64::MAX))
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.events
            .insert((self.now_ms + ms, self.next_event), event);
        self.next_event += 1;
    }

    /// Sends something, which may be lost or doubled, and takes as long as it likes.
    fn send(&mut self, event: Event) {
        let trouble = self.trouble();
        if trouble && self.rng.chance(5) {
            return;
        }
        let twice = (trouble && self.rng.chance(5)).then(|| event.clone());
        for event in twice.into_iter().chain([event]) {
            let most = if trouble { MINUTE } else { SECOND };
            let ms = 10 + self.rng.below(most);
            self.after(ms, event);
        }
    }

    fn runs(&self, at: usize, life: u64) -> bool {
        let node = &self.nodes[at];
        node.life == life && node.live.is_some()
    }

    // Nodes.

    fn start_node(&mut self, at: usize) {
        let now = self.now();
        self.nodes[at].start(now);
        self.settle(at);
        self.hello(at);
    }

    /// What a connection begins with: the node says how it is, and gets what is retained.
    fn hello(&mut self, at: usize) {
        let now = self.now();
        let node = &self.nodes[at];
        if !node.link || node.live.is_none() || self.centre.live.is_none() {
            return;
        }
        let retained = self.centre.retained.values();
        let retained: Vec<_> = retained
            .filter(|release| node.groups.contains(&release.group))
            .map(|release| Event::Release(at, Box::new(release.clone())))
            .collect();
        let status = Event::Status(at, Box::new(node.status(now, true)));
        self.send(status);
        self.report(at);
        for release in retained {
            self.send(release);
        }
    }

    fn report(&mut self, at: usize) {
        let now = self.now();
        let node = &self.nodes[at];
        if let Some(report) = node.report(now).filter(|_| node.link) {
            self.send(Event::Report(at, Box::new(report)));
        }
    }

    fn release(&mut self, at: usize, release: &Release) {
        let now = self.now();
        let node = &mut self.nodes[at];
        let clock = node.clock(now);
        let Some(live) = node.live.as_mut().filter(|_| node.link) else {
            return;
        };
        let taken = live.machine.release(
            &release.group,
            &release.model,
            release,
            &[SIGNERS.to_owned()],
            clock,
        );
        if let Err(refusal) = taken {
            self.line(&format!("         refused: {refusal}"));
        }
        self.settle(at);
    }

    fn tell(&mut self, at: usize, input: Option<Input>) {
        let now = self.now();
        let node = &mut self.nodes[at];
        let clock = node.clock(now);
        if let (Some(live), Some(input)) = (&mut node.live, input) {
            live.machine.handle(input, clock);
            self.settle(at);
        }
    }

    /// Does what the machine wishes. Before and after each effect the power may go.
    fn settle(&mut self, at: usize) {
        let trouble = self.trouble();
        while let Some(effect) = self.nodes[at]
            .live
            .as_mut()
            .and_then(|live| live.machine.next_effect())
        {
            let crash = trouble && self.rng.below(1_000) < 4;
            if crash && self.rng.chance(50) {
                return self.crash_node(at);
            }
            let before = self.nodes[at].disk.record.clone();
            let follow = self.nodes[at].perform(effect, &mut self.rng, !trouble);
            let found = self.checks.record(
                at,
                &self.nodes[at],
                before.as_ref(),
                &self.centre.store,
                &self.bundles,
            );
            if let Err(broken) = found {
                self.fail(&format!("node {at}: {broken}"));
            }
            if crash {
                return self.crash_node(at);
            }
            let (life, clock) = (self.nodes[at].life, self.nodes[at].clock(self.now()));
            match follow {
                Follow::Nothing => {}
                Follow::Tell(input) => {
                    if let Some(live) = &mut self.nodes[at].live {
                        live.machine.handle(input, clock);
                    }
                }
                Follow::Job(job, ms) => self.after(
                    ms,
                    Event::Job {
                        node: at,
                        life,
                        job,
                    },
                ),
                Follow::Alarm(alarm, ms) => self.after(
                    ms.min(30 * DAY),
                    Event::Alarm {
                        node: at,
                        life,
                        alarm,
                    },
                ),
            }
        }
        if let Err(broken) = self.checks.node(at, &self.nodes[at]) {
            self.fail(&format!("node {at}: {broken}"));
        }
    }

    fn crash_node(&mut self, at: usize) {
        self.outcome.node_crashes += 1;
        self.line(&format!("         node {at} crashes"));
        self.nodes[at].live = None;
        let ms = 5 * SECOND + self.rng.below(5 * MINUTE);
        self.after(ms, Event::NodeStart(at));
        if self.nodes[at].link {
            let status = self.nodes[at].status(self.now(), false);
            self.send(Event::Status(at, Box::new(status)));
        }
    }

    fn windows(&mut self, at: usize) {
        if !self.nodes[at].silent {
            for _ in 0..4 {
                let (inputs, dies) = self.nodes[at].window(&self.bundles, &mut self.rng);
                let life = self.nodes[at].life;
                for input in inputs {
                    if self.runs(at, life) {
                        self.tell(at, Some(input));
                    }
                }
                if dies {
                    self.crash_node(at);
                }
            }
        }
        self.report(at);
        let ms = HOUR / 2 + self.rng.below(HOUR);
        self.after(ms, Event::Windows(at));
    }

    fn link_up(&mut self, at: usize) {
        self.nodes[at].link = true;
        self.hello(at);
    }

    // The coordinator.

    fn start_centre(&mut self) {
        if self.centre.live.is_some() {
            return;
        }
        self.centre.start();
        for target in self.centre.targets() {
            self.publish(&target);
        }
        for at in 0..self.nodes.len() {
            self.hello(at);
        }
    }

    fn look(&mut self) {
        let now = self.now();
        let Some(decision) = self.centre.look(&self.target, now) else {
            return;
        };
        if let Some(step) = decision.step {
            self.line(&format!("         decided: {}", decision.words));
            self.take(&step);
        }
    }

    /// Persists, applies, publishes. Before and after each of them the coordinator may be killed.
    fn take(&mut self, step: &Step) {
        let now = self.now();
        if self.centre_dies() {
            return;
        }
        self.centre.persist(step, now);
        if let Err(broken) = self.checks.step(step, &self.centre.store, &self.bundles) {
            self.fail(&broken);
        }
        if self.centre_dies() {
            return;
        }
        self.centre.apply(step);
        if let Err(broken) = check::restart(&self.centre, &self.target, now) {
            self.fail(&broken);
        }
        if self.centre_dies() {
            return;
        }
        if let Some(rollout) = &step.rollout {
            self.publish(&rollout.target);
        }
        self.centre_dies();
    }

    fn centre_dies(&mut self) -> bool {
        let dies = self.trouble() && self.now_ms > 0 && self.rng.chance(3);
        if dies {
            self.crash_centre();
        }
        dies
    }

    fn crash_centre(&mut self) {
        self.outcome.centre_crashes += 1;
        self.line("         the coordinator crashes");
        self.centre.crash();
        let ms = MINUTE + self.rng.below(HOUR);
        self.after(ms, Event::CentreStart);
    }

    fn publish(&mut self, target: &Target) {
        let Some(release) = self.centre.release(target) else {
            return;
        };
        self.published.push(release.clone());
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            if node.link && node.groups.contains(&release.group) {
                self.send(Event::Release(at, Box::new(release.clone())));
            }
        }
    }

    fn operate(&mut self) {
        let now = self.now();
        let Some(state) = &self.centre.live else {
            return;
        };
        let step = operator::step(
            state,
            &self.target,
            &self.nodes,
            &mut self.bundles,
            &mut self.rng,
            now,
        );
        if let Some(step) = step {
            self.line(&format!("         somebody: {}", step.note.words));
            self.take(&step);
        }
    }

    // Trouble.

    fn fault(&mut self) {
        let at = self.rng.index(0, self.nodes.len() - 1);
        match self.rng.below(10) {
            0 => self.crash_node_if_live(at),
            1 if self.centre.live.is_some() => self.crash_centre(),
            2 | 3 => {
                self.nodes[at].link = false;
                // Mostly minutes, now and then weeks.
                let most = [HOUR, HOUR, 8 * HOUR, 20 * DAY][self.rng.index(0, 3)];
                let ms = self.rng.below(most);
                self.after(ms, Event::LinkUp(at));
                let status = self.nodes[at].status(self.now(), false);
                self.after(90 * SECOND, Event::Status(at, Box::new(status)));
            }
            4 => self.nodes[at].disk.full ^= true,
            5 => self.nodes[at].silent ^= true,
            6 => {
                let most = if self.rng.chance(10) {
                    40 * DAY
                } else {
                    6 * HOUR
                };
                let jump = self.rng.below(2 * most);
                self.nodes[at].clock_ms =
                    i64::try_from(jump).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
            }
            7 | 8 if !self.published.is_empty() => {
                let old = self.rng.index(0, self.published.len() - 1);
                let release = Box::new(self.published[old].clone());
                self.after(1, Event::Release(at, release));
            }
            _ => {}
        }
    }

    fn crash_node_if_live(&mut self, at: usize) {
        if self.nodes[at].live.is_some() {
            self.crash_node(at);
        }
    }

    fn heal(&mut self) {
        self.line("         peace");
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            (node.disk.full, node.silent, node.clock_ms) = (false, false, 0);
            self.after(1, Event::NodeStart(at));
            self.after(2 * MINUTE, Event::LinkUp(at));
            self.after(HOUR, Event::LinkUp(at));
        }
        self.after(1, Event::CentreStart);
    }

    fn settled(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            if let Err(broken) =
                check::settled(node, &self.centre.store, &self.bundles, &self.target)
            {
                self.fail(&format!("node {at} at the end: {broken}"));
            }
        }
        if let Err(broken) = self.checks.all_settled(&self.centre, &self.target) {
            self.fail(&broken);
        }
    }

    // What happened.

    fn note(&mut self, event: &Event) {
        if matches!(event, Event::Look | Event::Windows(_) | Event::Report(..)) {
            return;
        }
        let mut text = format!("{event:?}");
        text.truncate(text.floor_char_boundary(160));
        self.line(&text);
    }

    fn line(&mut self, text: &str) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        let at = self.now_ms as f64 / HOUR as f64;
        self.trace.push_back(format!("{at:9.3} h  {text}"));
    }

    fn fail(&self, broken: &str) -> ! {
        let trace: Vec<_> = self.trace.iter().map(String::as_str).collect();
        panic!(
            "seed {}: {broken}\nwhat happened last:\n{}",
            self.seed,
            trace.join("\n")
        );
    }
}
