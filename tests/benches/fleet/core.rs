//! The coordinator's core in this process: what it keeps of a node, and what a report, a decision and a plan take.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lamppost_coordinator_core::Inventory;
use lamppost_coordinator_core::rollout::audit::Actor;
use lamppost_coordinator_core::rollout::campaign::{Around, Campaigns, Start, Step};
use lamppost_coordinator_core::rollout::plan::Pace;
use lamppost_coordinator_core::rollout::policy::Policy;
use lamppost_coordinator_core::rollout::{Book, Target, Terms};
use lamppost_models::id::RolloutId;
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::Share;
use lamppost_models::{Digest, Reported, Status, Timestamp};

use crate::nodes::{self, Node, Trial, Version};
use crate::process::Memory;

/// Nodes whose messages are made before they are taken in, so that making them is not in the time.
const CHUNK: usize = 1_000;
/// Decisions and plans of which the median counts.
const ROUNDS: usize = 9;
const ROLLOUT: RolloutId = RolloutId::from_u64(7);

/// What was found with a number of nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) nodes: usize,
    /// Heap bytes a node that has reported.
    pub(crate) heap: f64,
    /// The same in the middle of a rollout: with its trial, and what it showed.
    pub(crate) heap_rollout: f64,
    /// Memory that the process got from the system for it, a node.
    pub(crate) resident: f64,
    /// To parse a report, take it into the inventory, and its evidence into the rollout.
    pub(crate) report: Duration,
    pub(crate) decision: Duration,
    pub(crate) plan: Duration,
}

struct Core {
    book: Book,
    inventory: Inventory,
    campaigns: Campaigns,
    target: Target,
    versions: [Version; 2],
}

/// Measures a fleet of so many nodes.
pub(crate) fn measure(count: usize) -> anyhow::Result<Found> {
    let nodes: Vec<Node> = (0..count).map(Node::new).collect::<Result<_, _>>()?;
    let before = Memory::of(std::process::id())?;
    let mut core = Core::new(count)?;
    let heap = heap_of(|| core.reports(&nodes, Trial::Before, at(0)).map(drop))?;
    let plan = core.plan(at(1))?;
    core.start(at(2))?;
    let mut report = Duration::ZERO;
    let added = heap_of(|| {
        report = core.reports(&nodes, Trial::Shadow, at(60))?;
        let half = &nodes[..nodes.len() / 2];
        core.reports(half, Trial::Passed, at(120)).map(drop)
    })?;
    let decision = core.decision(at(121))?;
    let after = Memory::of(std::process::id())?;
    let a_node = |bytes: f64| bytes / count as f64;
    Ok(Found {
        nodes: count,
        heap: a_node(heap),
        heap_rollout: a_node(heap + added),
        resident: a_node(after.anonymous as f64 - before.anonymous as f64),
        report: report / u32::try_from(count)?,
        decision,
        plan,
    })
}

/// Bytes of the heap that are in use after `act` and were not before.
fn heap_of(act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut done = Ok(());
    let counted = allocation_counter::measure(|| done = act());
    done.map(|()| counted.bytes_current as f64)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms((1_800_000_000 + seconds) * 1_000)
}

fn bundle(version: &Version) -> BundleRef {
    BundleRef {
        version: version.version.clone(),
        digest: version.digest,
        bytes: 100_000,
    }
}

impl Core {
    /// A group that runs a first version.
    fn new(nodes_max: usize) -> anyhow::Result<Self> {
        let version = |minor| Version {
            version: semver::Version::new(1, minor, 0),
            digest: Digest::of(&minor.to_le_bytes()),
        };
        let mut core = Self {
            book: Book::new(),
            inventory: Inventory::new(nodes_max),
            campaigns: Campaigns::new(),
            target: Target {
                group: nodes::GROUP.parse()?,
                model: nodes::MODEL.parse()?,
            },
            versions: [version(0), version(1)],
        };
        let first = bundle(&core.versions[0]);
        let (by, terms) = (Actor::coordinator(), core.around(at(0)).terms);
        let step = core
            .campaigns
            .plan_release(&core.book, &core.target, first, &by, terms)?;
        core.apply(step);
        Ok(core)
    }

    fn apply(&mut self, step: Step) {
        self.campaigns.apply(&step);
        if let Some(rollout) = step.rollout {
            self.book.apply(rollout);
        }
    }

    /// Everybody says what they do; gives the time that it took to take it in.
    fn reports(
        &mut self,
        nodes: &[Node],
        trial: Trial,
        now: Timestamp,
    ) -> anyhow::Result<Duration> {
        let mut taken = Duration::ZERO;
        let [from, to] = self.versions.clone();
        let rollout = ROLLOUT.to_string();
        for chunk in nodes.chunks(CHUNK) {
            let messages = chunk.iter().map(|node| {
                let report = node.report(now, [&from, &to], Some(&rollout), trial, 60);
                (node, node.status(now).to_string(), report.to_string())
            });
            let messages: Vec<_> = messages.collect();
            let begun = Instant::now();
            for (node, status, report) in &messages {
                let status: Status = serde_json::from_str(status)?;
                let reported: Reported = serde_json::from_str(report)?;
                self.inventory.on_status(&node.path, status, now)?;
                self.inventory.on_reported(&node.path, reported, now)?;
                let entry = self.inventory.get(&node.path).context("an entry")?;
                self.campaigns.on_report(&self.book, entry, now);
            }
            taken += begun.elapsed();
        }
        Ok(taken)
    }

    fn around(&self, now: Timestamp) -> Around {
        let terms = Terms {
            now,
            lifetime: Duration::from_hours(720),
            seen: self.inventory.newest_release(&self.target.model),
        };
        Around {
            terms,
            stale_after: Duration::from_mins(3),
            bytes_today: 0,
        }
    }

    /// Half of the group in the first wave, a tenth held back, and quality looked at in all ways.
    fn to_start(&self) -> anyhow::Result<Start> {
        let mut policy = Policy::canary();
        policy.control = Share::new(1_000)?;
        let first = policy.waves.first_mut().context("a wave")?;
        first.share = Some(Share::new(5_000)?);
        policy.waves.drain(1..2);
        Ok(Start {
            id: ROLLOUT,
            target: self.target.clone(),
            to: bundle(&self.versions[1]),
            policy,
            by: Actor::coordinator(),
        })
    }

    fn start(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let (start, terms) = (self.to_start()?, self.around(now).terms);
        let step = self.campaigns.plan_start(&self.book, start, terms)?;
        self.apply(step);
        Ok(())
    }

    /// What `lamppost rollout plan` asks for.
    fn plan(&self, now: Timestamp) -> anyhow::Result<Duration> {
        let start = self.to_start()?;
        median(|| {
            let pace = Pace::measured(&self.inventory, &self.target);
            let around = self.around(now);
            let plan = self
                .campaigns
                .plan(&self.book, &self.inventory, &start, pace, &around)?;
            ensure!(plan.nodes == self.inventory.nodes().count() as u64);
            Ok(())
        })
    }

    /// A look at the rollout, with all that the server does before it.
    fn decision(&self, now: Timestamp) -> anyhow::Result<Duration> {
        median(|| {
            let around = self.around(now);
            let decision = self
                .campaigns
                .tick(&self.book, &self.inventory, &self.target, &around);
            let census = decision.context("a rollout")?.assessment.census;
            ensure!(census.group == self.inventory.nodes().count() as u64);
            ensure!(census.passed > 0 && census.trying > 0, "{census:?}");
            Ok(())
        })
    }
}

fn median(act: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        act()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[ROUNDS / 2])
}
