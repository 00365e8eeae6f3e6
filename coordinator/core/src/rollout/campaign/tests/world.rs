//! A fleet on paper.

use std::time::Duration;

use lamppost_models::id::RolloutId;
use lamppost_models::message::{
    ActiveSlot, CandidateSlot, NodeState, Quality as Right, ReportedModel, ReportedOutbox,
    TrialState, Verdict as NodeVerdict,
};
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::rollout::Tags;
use lamppost_models::trial::{Comparison, Moments, Side, TrialPhase, TrialReport, Watch};
use lamppost_models::{BootId, Digest, GroupId, NodePath, Reported, Status, Timestamp, V1};
use semver::Version;

use crate::inventory::Inventory;
use crate::rollout::audit::{self, Actor, Entry, Head};
use crate::rollout::campaign::{
    Action, Around, Campaign, Campaigns, Decision, Refusal, Start, Step,
};
use crate::rollout::policy::Policy;
use crate::rollout::{Book, Rollout, Target, Terms};

pub(in crate::rollout) const STALE: Duration = Duration::from_mins(1);
pub(in crate::rollout) const ID: RolloutId = RolloutId::from_u64(7);

pub(in crate::rollout) fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(seconds * 1000)
}

pub(in crate::rollout) fn bundle(minor: u64) -> BundleRef {
    BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 100_000,
    }
}

pub(in crate::rollout) fn target() -> Target {
    Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    }
}

pub(in crate::rollout) fn path(node: usize) -> NodePath {
    NodePath {
        site: "city".parse().unwrap(),
        node: format!("n{node}").parse().unwrap(),
    }
}

pub(in crate::rollout) fn anna() -> Actor {
    "anna@depot".parse().unwrap()
}

pub(in crate::rollout) fn policy(toml: &str) -> Policy {
    toml::from_str(toml).unwrap()
}

pub(in crate::rollout) fn slot(minor: u64) -> ActiveSlot {
    let BundleRef {
        version, digest, ..
    } = bundle(minor);
    ActiveSlot {
        version,
        digest,
        since: at(1),
        predictions: 7,
        last_inference: None,
        quality: None,
    }
}

pub(in crate::rollout) fn right(labels: u64, mae: f64) -> Right {
    Right::Error {
        labels,
        mae,
        rmse: mae,
    }
}

pub(in crate::rollout) fn moments(n: u64, mean: f64) -> Moments {
    Moments { n, mean, m2: 0.0 }
}

pub(in crate::rollout) fn to_start(policy: Policy) -> Start {
    Start {
        id: ID,
        target: target(),
        to: bundle(1),
        policy,
        by: anna(),
    }
}

/// The coordinator's state, and what its store holds.
#[derive(Clone)]
pub(in crate::rollout) struct World {
    pub(in crate::rollout) book: Book,
    pub(in crate::rollout) inventory: Inventory,
    pub(in crate::rollout) campaigns: Campaigns,
    pub(in crate::rollout) now: i64,
    pub(in crate::rollout) log: Vec<Entry>,
    pub(in crate::rollout) head: Head,
    pub(in crate::rollout) bytes_today: u64,
    reports: i64,
}

impl World {
    /// So many nodes in group `all` that run 1.0.0.
    pub(in crate::rollout) fn new(nodes: usize) -> Self {
        let mut world = Self {
            book: Book::new(),
            inventory: Inventory::new(1_000_000),
            campaigns: Campaigns::new(),
            now: 1000,
            log: Vec::new(),
            head: Head::default(),
            bytes_today: 0,
            reports: 0,
        };
        let first = world
            .campaigns
            .plan_release(
                &world.book,
                &target(),
                bundle(0),
                &anna(),
                world.around().terms,
            )
            .unwrap();
        world.commit(&first);
        for node in 0..nodes {
            world.node(node, &["all"], &[]);
            world.report(node, |_| {});
        }
        world
    }

    pub(in crate::rollout) fn node(&mut self, node: usize, groups: &[&str], tags: &[(&str, &str)]) {
        let status = Status {
            v: V1,
            state: NodeState::Up,
            boot: BootId::from_u64(1),
            at: at(self.now),
            agent: "0.1.0".to_owned(),
            groups: groups
                .iter()
                .map(|group| group.parse::<GroupId>().unwrap())
                .collect(),
            tags: tags
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<Tags>(),
        };
        self.inventory
            .on_status(&path(node), status, at(self.now))
            .unwrap();
    }

    pub(in crate::rollout) fn row(&self, node: usize) -> ReportedModel {
        let entry = self.inventory.get(&path(node));
        let reported = entry.and_then(|entry| entry.reported.as_ref());
        reported.map_or_else(
            || ReportedModel {
                name: target().model,
                active: Some(slot(0)),
                candidate: None,
                previous: None,
                release: Some(Sequence(1)),
                trial: None,
            },
            |reported| reported.models[0].clone(),
        )
    }

    /// A node reports its row, changed by `change`.
    pub(in crate::rollout) fn report(
        &mut self,
        node: usize,
        change: impl FnOnce(&mut ReportedModel),
    ) {
        let mut row = self.row(node);
        change(&mut row);
        self.reports += 1;
        let report = Reported {
            v: V1,
            boot: BootId::from_u64(1),
            at: at(self.now).offset_ms(self.reports),
            models: vec![row],
            streams: Vec::new(),
            outbox: ReportedOutbox::default(),
            trust: None,
        };
        self.send(node, report);
    }

    pub(in crate::rollout) fn send(&mut self, node: usize, report: Reported) {
        self.inventory
            .on_reported(&path(node), report, at(self.now))
            .unwrap();
        let entry = self.inventory.get(&path(node)).unwrap();
        self.campaigns.on_report(&self.book, entry, at(self.now));
    }

    /// All nodes say that they are there.
    pub(in crate::rollout) fn later(&mut self, seconds: i64, nodes: std::ops::Range<usize>) {
        self.now += seconds;
        for node in nodes {
            self.inventory.on_record(&path(node), at(self.now)).unwrap();
        }
    }

    pub(in crate::rollout) fn around(&self) -> Around {
        Around {
            terms: Terms {
                now: at(self.now),
                lifetime: Duration::from_hours(720),
                seen: Sequence(0),
            },
            stale_after: STALE,
            bytes_today: self.bytes_today,
        }
    }

    pub(in crate::rollout) fn try_start(&mut self, policy: Policy) -> Result<Step, Refusal> {
        let start = to_start(policy);
        let step = self
            .campaigns
            .plan_start(&self.book, start, self.around().terms)?;
        self.commit(&step);
        Ok(step)
    }

    pub(in crate::rollout) fn start(&mut self, policy: Policy) {
        self.try_start(policy).unwrap();
    }

    pub(in crate::rollout) fn act(&mut self, action: &Action) -> Result<(), Refusal> {
        let terms = self.around().terms;
        let step = self
            .campaigns
            .plan_action(&self.book, &target(), action, &anna(), terms)?;
        self.commit(&step);
        Ok(())
    }

    /// Looks once, and follows.
    pub(in crate::rollout) fn tick(&mut self) -> Option<Decision> {
        let around = self.around();
        let decision = self
            .campaigns
            .tick(&self.book, &self.inventory, &target(), &around)?;
        if let Some(step) = &decision.step {
            self.commit(step);
        }
        Some(decision)
    }

    /// Persists as the shell does, and takes in what a later life would read.
    pub(in crate::rollout) fn commit(&mut self, step: &Step) {
        let entry = self.head.entry(step.note.clone(), at(self.now));
        self.head = Head::after(&entry);
        self.log.push(entry);
        assert_eq!(audit::verify(&self.log, self.head), Ok(self.head.next));
        if let Some(rollout) = &step.rollout {
            let json = serde_json::to_vec(rollout).unwrap();
            let read: Rollout = serde_json::from_slice(&json).unwrap();
            assert_eq!(read, *rollout);
            self.book.apply(read);
        }
        if let Some(campaign) = &step.campaign {
            let json = serde_json::to_vec(campaign).unwrap();
            let read: Campaign = serde_json::from_slice(&json).unwrap();
            assert_eq!(read, *campaign);
        }
        self.campaigns.apply(step);
    }

    pub(in crate::rollout) fn campaign(&self) -> &Campaign {
        self.campaigns.current(&target()).unwrap()
    }

    /// Nodes that the release that holds exposes.
    pub(in crate::rollout) fn exposed(&self, nodes: usize) -> Vec<usize> {
        let release = self.book.current(&target()).unwrap().release();
        let wants = |node: &usize| {
            let entry = self.inventory.get(&path(*node)).unwrap();
            let status = entry.status.as_ref().unwrap();
            let who = lamppost_models::rollout::Who {
                path: &entry.path,
                groups: &status.groups,
                tags: &status.tags,
            };
            release.wanted(who).0.digest == bundle(1).digest
        };
        (0..nodes).filter(wants).collect()
    }
}

fn trial(phase: TrialPhase) -> TrialReport {
    let BundleRef {
        version, digest, ..
    } = bundle(1);
    TrialReport {
        version,
        digest,
        release: Sequence(2),
        rollout: Some(ID),
        since: at(1000),
        phase,
        shadow: None,
        probation: None,
        fetched_bytes: 100_000,
    }
}

/// The candidate beside the active version: so many labels, and the mean losses of both.
pub(in crate::rollout) fn shadow(labels: u64, candidate: f64, active: f64) -> Comparison {
    let side = |loss| Side {
        failures: 0,
        latency_p50_us: 900,
        latency_p99_us: 2000,
        loss: moments(labels, loss),
    };
    Comparison {
        windows: labels,
        left_out: 0,
        candidate: side(candidate),
        active: side(active),
        disagreement: moments(labels, 0.1),
        loss_difference: moments(labels, candidate - active),
    }
}

pub(in crate::rollout) fn shadows(row: &mut ReportedModel, comparison: Comparison) {
    let BundleRef {
        version, digest, ..
    } = bundle(1);
    let windows = comparison.windows;
    row.candidate = Some(CandidateSlot {
        version,
        digest,
        state: TrialState::Shadowing { windows, of: 100 },
    });
    row.trial = Some(TrialReport {
        shadow: Some(comparison),
        ..trial(TrialPhase::Candidate)
    });
}

pub(in crate::rollout) fn lives(row: &mut ReportedModel, phase: TrialPhase, crashes: u64) {
    let shadow = row.trial.take().and_then(|trial| trial.shadow);
    row.previous = row.active.take();
    row.active = Some(slot(1));
    row.candidate = None;
    row.trial = Some(TrialReport {
        shadow,
        probation: Some(Watch {
            crashes,
            ..Watch::default()
        }),
        ..trial(phase)
    });
}

pub(in crate::rollout) fn passes(row: &mut ReportedModel) {
    lives(row, TrialPhase::Passed, 0);
}

pub(in crate::rollout) fn refuses(row: &mut ReportedModel) {
    let shadow = row.trial.take().and_then(|trial| trial.shadow);
    row.candidate = Some(CandidateSlot {
        version: bundle(1).version,
        digest: bundle(1).digest,
        state: TrialState::Refused {
            verdict: NodeVerdict::GoldenMismatch,
            detail: "vector 3 is 7 off".to_owned(),
        },
    });
    row.trial = Some(TrialReport {
        shadow,
        ..trial(TrialPhase::Refused {
            verdict: NodeVerdict::GoldenMismatch,
            detail: "vector 3 is 7 off".to_owned(),
        })
    });
}
