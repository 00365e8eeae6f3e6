use lamppost_models::message::{ActiveSlot, NodeState, ReportedOutbox};
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::{BootId, Digest, Reported, Status, V1};

use super::*;
use crate::rollout::{Target, Terms};

const STALE: Duration = Duration::from_mins(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(seconds * 1000)
}

fn bundle(minor: u64) -> BundleRef {
    BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 10,
    }
}

fn active(minor: u64) -> ActiveSlot {
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

fn candidate(minor: u64, state: TrialState) -> CandidateSlot {
    let BundleRef {
        version, digest, ..
    } = bundle(minor);
    CandidateSlot {
        version,
        digest,
        state,
    }
}

fn row(active: Option<ActiveSlot>, candidate: Option<CandidateSlot>) -> ReportedModel {
    ReportedModel {
        name: "flow".parse().unwrap(),
        active,
        candidate,
        previous: None,
        release: None,
        trial: None,
    }
}

struct World {
    book: Book,
    inventory: Inventory,
}

impl World {
    /// Version 1.1.0 goes to group `all`.
    fn new() -> Self {
        let mut world = Self {
            book: Book::new(),
            inventory: Inventory::new(100),
        };
        world.start("all", 1);
        world
    }

    fn start(&mut self, group: &str, minor: u64) {
        let target = Target {
            group: group.parse().unwrap(),
            model: "flow".parse().unwrap(),
        };
        let rollout = self
            .book
            .plan_start(
                &target,
                bundle(minor),
                Terms {
                    now: at(0),
                    lifetime: STALE,
                    seen: Sequence(0),
                },
            )
            .unwrap();
        self.book.apply(rollout);
    }

    fn node(&mut self, groups: &[&str], state: NodeState, models: Option<Vec<ReportedModel>>) {
        let path = NodePath {
            site: "s".parse().unwrap(),
            node: "a".parse().unwrap(),
        };
        let groups = groups.iter().map(|group| group.parse().unwrap()).collect();
        let boot = BootId::from_u64(1);
        let status = Status {
            v: V1,
            state,
            boot,
            at: at(0),
            agent: "0".to_owned(),
            groups,
            tags: lamppost_models::rollout::Tags::new(),
        };
        self.inventory.on_status(&path, status, at(10)).unwrap();
        if let Some(models) = models {
            let outbox = ReportedOutbox::default();
            let reported = Reported {
                v: V1,
                boot,
                at: at(0),
                models,
                streams: Vec::new(),
                outbox,
                trust: None,
            };
            self.inventory.on_reported(&path, reported, at(10)).unwrap();
        }
    }

    fn rows(&self, now: i64) -> Vec<NodeRow> {
        let target = Target {
            group: "all".parse().unwrap(),
            model: "flow".parse().unwrap(),
        };
        rows(
            self.book.current(&target).unwrap(),
            &self.book,
            &self.inventory,
            at(now),
            STALE,
        )
        .collect()
    }
}

/// What the rollout of 1.1.0 says of one node that is up and reports `models`.
fn progress(models: Option<Vec<ReportedModel>>) -> NodeProgress {
    let mut world = World::new();
    world.node(&["all"], NodeState::Up, models);
    let mut rows = world.rows(20);
    assert_eq!(rows.len(), 1);
    rows.remove(0).progress
}

#[test]
fn follows_a_node_from_the_release_to_running() {
    assert_eq!(progress(None), NodeProgress::Waiting { running: None });
    let waiting = NodeProgress::Waiting {
        running: Some(Version::new(1, 0, 0)),
    };
    assert_eq!(progress(Some(vec![row(Some(active(0)), None)])), waiting);
    let older = candidate(9, TrialState::Checking);
    assert_eq!(
        progress(Some(vec![row(Some(active(0)), Some(older))])),
        waiting
    );

    let fetching = candidate(
        1,
        TrialState::Fetching {
            received: 3,
            bytes: 10,
        },
    );
    let row_of = |slot| Some(vec![row(Some(active(0)), Some(slot))]);
    assert_eq!(
        progress(row_of(fetching)),
        NodeProgress::Fetching {
            received: 3,
            bytes: 10
        }
    );
    assert_eq!(
        progress(row_of(candidate(1, TrialState::Checking))),
        NodeProgress::Checking
    );
    let running = NodeProgress::Running {
        since: at(1),
        predictions: 7,
        quality: None,
    };
    assert_eq!(progress(Some(vec![row(Some(active(1)), None)])), running);
    assert_eq!(progress(Some(Vec::new())), NodeProgress::Unconcerned);
}

#[test]
fn a_refusal_settles_unless_the_node_tries_again() {
    let refused = |verdict| {
        let state = TrialState::Refused {
            verdict,
            detail: "why".to_owned(),
        };
        progress(Some(vec![row(Some(active(0)), Some(candidate(1, state)))]))
    };
    let golden = refused(Verdict::GoldenMismatch);
    assert_eq!(
        golden,
        NodeProgress::Refused {
            verdict: Verdict::GoldenMismatch,
            detail: "why".to_owned()
        }
    );
    assert!(golden.settled());
    assert!(!refused(Verdict::Unavailable).settled());
}

#[test]
fn groups_decide_in_the_nodes_order() {
    let mut world = World::new();
    world.start("canary", 2);
    world.node(
        &["canary", "all"],
        NodeState::Up,
        Some(vec![row(None, None)]),
    );
    assert_eq!(
        world.rows(20)[0].progress,
        NodeProgress::DecidedBy {
            group: "canary".parse().unwrap()
        }
    );
    world.node(&["all", "canary"], NodeState::Up, None);
    assert_eq!(
        world.rows(20)[0].progress,
        NodeProgress::Waiting { running: None }
    );
    world.node(&["canary"], NodeState::Up, None);
    assert_eq!(world.rows(20), []);
}

#[test]
fn unreachable_is_counted_apart_and_does_not_hold_a_rollout_up() {
    let mut world = World::new();
    world.node(
        &["all"],
        NodeState::Up,
        Some(vec![row(Some(active(0)), None)]),
    );
    assert!(!Summary::of(&world.rows(20)).settled());
    let unreachable = NodeProgress::Unreachable {
        since: at(10),
        running: Some(Version::new(1, 0, 0)),
    };
    assert_eq!(world.rows(1_000)[0].progress, unreachable);
    world.node(&["all"], NodeState::Down, None);
    assert_eq!(world.rows(20)[0].progress, unreachable);
    let summary = Summary::of(&world.rows(20));
    assert_eq!(
        summary,
        Summary {
            nodes: 1,
            unreachable: 1,
            ..Summary::default()
        }
    );
    assert!(summary.settled());
}

#[test]
fn while_there_is_a_candidate_each_node_is_held_to_what_is_meant_for_it() {
    use lamppost_models::id::RolloutId;
    use lamppost_models::rollout::{Candidate, Exposure, Share};
    let mut world = World::new();
    world.node(
        &["all"],
        NodeState::Up,
        Some(vec![row(Some(active(1)), None)]),
    );
    let target = Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    };
    let with = |share, control| {
        let mut rollout = world.book.current(&target).unwrap().clone();
        rollout.candidate = Some(Candidate {
            bundle: bundle(2),
            rollout: RolloutId::from_u64(1),
            exposure: Exposure {
                share,
                ..Exposure::default()
            },
            control,
        });
        let mut rows = rows(&rollout, &world.book, &world.inventory, at(20), STALE);
        let row = rows.next().unwrap();
        (
            row.cohort,
            matches!(row.progress, NodeProgress::Running { .. }),
        )
    };
    for (share, control, cohort, running) in [
        (Share::NONE, Share::NONE, Cohort::Later, true),
        (Share::NONE, Share::ALL, Cohort::Control, true),
        (Share::ALL, Share::NONE, Cohort::Candidate, false),
    ] {
        assert_eq!(with(share, control), (Some(cohort), running));
    }
}

#[test]
fn a_row_is_flat_json() {
    let path = NodePath {
        site: "s".parse().unwrap(),
        node: "a".parse().unwrap(),
    };
    let row = NodeRow {
        path,
        cohort: None,
        progress: NodeProgress::Fetching {
            received: 1,
            bytes: 2,
        },
    };
    let json = serde_json::to_string(&row).unwrap();
    assert_eq!(
        json,
        r#"{"site":"s","node":"a","state":"fetching","received":1,"bytes":2}"#
    );
    assert_eq!(serde_json::from_str::<NodeRow>(&json).unwrap(), row);
}
