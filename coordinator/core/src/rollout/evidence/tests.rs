use std::sync::Arc;

use lamppost_models::message::{ReportedModel, ReportedOutbox};
use lamppost_models::{Reported, V1};

use super::*;
use crate::rollout::betting::tests::Rng;
use crate::rollout::campaign::tests::world::*;

mod errors;

const HEAD: &str = r#"
    control = "40 %"
    [[wave]]
    share = "100 %"
    [gate.quality]
"#;

fn world(nodes: usize, quality: &str) -> World {
    let mut world = World::new(nodes);
    world.start(policy(&format!("{HEAD}{quality}")));
    world
}

fn head(world: &World) -> EvidenceHead {
    world.campaigns.evidence(&target()).unwrap().head().clone()
}

fn control_of(world: &World, nodes: usize) -> Vec<usize> {
    let exposed = world.exposed(nodes);
    (0..nodes).filter(|node| !exposed.contains(node)).collect()
}

#[test]
fn the_same_report_and_an_older_one_add_nothing() {
    let mut world = world(4, "");
    let node = world.exposed(4)[0];
    world.report(node, |row| shadows(row, shadow(30, 1.0, 1.0)));
    let old = world
        .inventory
        .get(&path(node))
        .unwrap()
        .reported
        .clone()
        .unwrap();
    world.report(node, |row| shadows(row, shadow(40, 1.0, 1.0)));
    let before = head(&world);
    assert_eq!(before.labels, 40);
    world.send(node, old.clone());
    world.send(node, old);
    world.report(node, |row| shadows(row, shadow(40, 1.0, 1.0)));
    assert_eq!(head(&world), before);
    // A run that counts from 0 again adds all it has.
    world.report(node, |row| shadows(row, shadow(5, 1.0, 1.0)));
    assert_eq!(head(&world).labels, 45);
}

#[test]
fn numbers_that_cannot_be_are_passed_over_and_counted() {
    let mut world = world(4, "");
    let node = world.exposed(4)[0];
    for loss in [-1.0, f64::INFINITY, 1e300] {
        world.report(node, |row| shadows(row, shadow(50, loss, 1.0)));
    }
    let head = head(&world);
    assert_eq!((head.labels, head.nodes.len()), (0, 0));
    assert_eq!(head.implausible, 3);
}

#[test]
fn a_node_has_one_vote_as_a_node_and_one_in_each_round() {
    let mut world = world(10, "block = 10");
    let exposed = world.exposed(10);
    let liar = exposed[0];
    for node in &exposed[1..] {
        world.report(*node, |row| shadows(row, shadow(5, 1.0, 1.0)));
    }
    for labels in 1..200 {
        world.report(liar, |row| shadows(row, shadow(labels * 1000, 1e9, 1e-9)));
    }
    let found = head(&world);
    assert_eq!(found.nodes.len(), 1, "its one vote");
    assert_eq!((found.votes, found.rounds.len()), (1, 0));
    // With honest ones, a round closes, and the liar is one of them.
    for node in &exposed[1..] {
        world.report(*node, |row| shadows(row, shadow(10, 0.5, 1.0)));
    }
    let found = head(&world);
    assert_eq!(found.nodes.len(), exposed.len());
    assert_eq!(found.rounds.len(), 1);
    let quality = Quality::default();
    let rounds = world
        .campaigns
        .evidence(&target())
        .unwrap()
        .by_rounds(&quality);
    assert!(rounds.ratio.estimate < 1.0);
}

#[test]
fn a_node_that_was_never_asked_votes_for_nothing() {
    let mut world = world(10, "");
    let control = control_of(&world, 10);
    assert!(!control.is_empty());
    let before = head(&world);
    // Another rollout's trial, and another bundle's.
    let node = world.exposed(10)[0];
    world.report(node, |row| {
        shadows(row, shadow(50, 1.0, 1.0));
        row.trial.as_mut().unwrap().rollout = None;
    });
    world.report(node, |row| {
        shadows(row, shadow(60, 1.0, 1.0));
        row.trial.as_mut().unwrap().digest = bundle(4).digest;
    });
    assert_eq!(head(&world), before);
}

/// Candidate nodes go live with what the version before ended with; control nodes go on.
fn pairs(nodes: usize, candidate: f64, rain: f64, rng: &mut Rng) -> World {
    let mut world = world(nodes, "kind = \"cohorts\"\nblock = 20");
    let (exposed, control) = (world.exposed(nodes), control_of(&world, nodes));
    // Each node has a level of its own, which says nothing.
    let level: Vec<f64> = (0..nodes).map(|_| 1.0 + 9.0 * rng.unit()).collect();
    for node in &control {
        world.report(*node, |row| {
            row.active.as_mut().unwrap().quality = Some(right(30, level[*node]));
        });
    }
    let noise: Vec<f64> = (0..nodes).map(|_| (0.03 * rng.normal()).exp()).collect();
    for labels in [0, 10, 20, 40] {
        for node in &exposed {
            world.report(*node, |row| {
                row.active.as_mut().unwrap().quality = Some(right(30, level[*node]));
                lives(row, TrialPhase::Passed, 0);
                row.previous.as_mut().unwrap().digest = bundle(0).digest;
                let loss = level[*node] * candidate * rain * noise[*node];
                row.active.as_mut().unwrap().quality = Some(right(labels, loss));
            });
        }
        for node in &control {
            world.report(*node, |row| {
                let loss = (30.0 * level[*node] + labels as f64 * rain * level[*node])
                    / (30 + labels) as f64;
                row.active.as_mut().unwrap().quality = Some(right(30 + labels, loss));
            });
        }
    }
    world
}

#[test]
fn pairs_tell_a_worse_candidate_from_bad_weather() {
    let mut rng = Rng(3);
    for (candidate, rain, shown) in [
        (0.9, 2.0, Shown::GoodEnough),
        (1.3, 1.0, Shown::Worse),
        (1.3, 0.5, Shown::Worse),
    ] {
        let world = pairs(60, candidate, rain, &mut rng);
        let quality = world.campaign().policy.gate.quality.clone().unwrap();
        let found = world
            .campaigns
            .evidence(&target())
            .unwrap()
            .by_pairs(&quality);
        assert!(found.units >= 15, "{found:?}");
        assert_eq!(found.shown, shown, "{candidate} {rain} {found:?}");
    }
}

#[test]
fn a_candidate_that_goes_back_is_the_worst_vote_and_a_control_node_that_leaves_is_replaced() {
    let mut world = world(12, "kind = \"cohorts\"\nblock = 20");
    let (exposed, control) = (world.exposed(12), control_of(&world, 12));
    let quality = |labels| Some(right(labels, 1.0));
    for node in &control {
        world.report(*node, |row| {
            row.active.as_mut().unwrap().quality = quality(30);
        });
    }
    let live = |row: &mut ReportedModel| {
        row.active = Some(slot(0));
        row.active.as_mut().unwrap().quality = quality(30);
        lives(row, TrialPhase::Probation, 0);
    };
    world.report(exposed[0], live);
    let partner = |world: &World, node: usize| {
        let evidence = world.campaigns.evidence(&target()).unwrap();
        let pair = evidence.row(&path(node)).unwrap().pair.clone();
        pair.and_then(|pair| pair.with)
    };
    let first = partner(&world, exposed[0]).unwrap();
    let number = control.iter().find(|node| path(**node) == first).unwrap();
    assert_eq!(partner(&world, *number), Some(path(exposed[0])));
    // The control node changes to something else: the candidate finds another partner.
    world.report(*number, |row| row.active = Some(slot(9)));
    assert_eq!(partner(&world, exposed[0]), None);
    world.report(exposed[0], |_| {});
    let second = partner(&world, exposed[0]).unwrap();
    assert_ne!(second, first);
    // The candidate goes back: that is the worst vote, once.
    for _ in 0..3 {
        world.report(exposed[0], |row| {
            row.active = Some(slot(0));
            refuses(row);
        });
    }
    let found = head(&world);
    assert_eq!(found.pairs.len(), 1);
    assert!((found.pairs.interval(0.05).estimate - 1.0).abs() < 1e-6);
}

#[test]
fn evidence_that_is_restored_goes_on_as_it_was() {
    let mut rng = Rng(8);
    let mut world = world(20, "kind = \"both\"\nblock = 10");
    let mut rows: BTreeMap<NodePath, EvidenceRow> = BTreeMap::new();
    let mut stored = EvidenceHead::default();
    let mut labels = [0_u64; 20];
    for turn in 0..400 {
        let node = usize::try_from(rng.below(20)).unwrap();
        labels[node] += rng.below(8);
        let (labels, loss) = (labels[node], 0.5 + rng.unit());
        let mut row = world.row(node);
        match rng.below(4) {
            0 => row.active.as_mut().unwrap().quality = Some(right(labels + 20, loss)),
            1 => {
                row.active = Some(slot(0));
                row.active.as_mut().unwrap().quality = Some(right(labels + 20, loss));
                lives(&mut row, TrialPhase::Probation, 0);
            }
            _ => shadows(&mut row, shadow(labels, loss, 1.0)),
        }
        let report = Reported {
            v: V1,
            boot: BootId::from_u64(1),
            at: at(2000 + turn),
            models: vec![row],
            streams: Vec::new(),
            outbox: ReportedOutbox::default(),
            trust: None,
        };
        world
            .inventory
            .on_reported(&path(node), report, at(turn))
            .unwrap();
        let entry = world.inventory.get(&path(node)).unwrap();
        for touched in world.campaigns.on_report(&world.book, entry, at(turn)) {
            let json = serde_json::to_vec(&touched.rows).unwrap();
            let read: Vec<(NodePath, EvidenceRow)> = serde_json::from_slice(&json).unwrap();
            assert!(json.len() < 1600, "{}", json.len());
            rows.extend(read);
            if let Some(head) = touched.head {
                let json = serde_json::to_vec(&head).unwrap();
                stored = serde_json::from_slice(&json).unwrap();
            }
        }
        if rng.below(20) == 0 {
            let before = head(&world);
            world
                .campaigns
                .restore_evidence(ID, stored.clone(), rows.clone());
            assert_eq!(head(&world), before, "turn {turn}");
            // What was persisted with it is told again, and adds nothing.
            let entries: Vec<_> = world.inventory.nodes().cloned().collect();
            for entry in entries {
                world.campaigns.on_report(&world.book, &entry, at(turn));
            }
            assert_eq!(head(&world).labels, before.labels, "turn {turn}");
        }
    }
    assert!(stored.labels > 100 && !stored.rounds.is_empty());
}

/// Heads are persisted every few seconds only: a crash may lose what nodes said meanwhile, and counts nothing twice.
#[test]
fn a_head_that_lags_behind_its_rows_loses_votes_and_counts_none_twice() {
    let mut world = world(10, "block = 10");
    let exposed = world.exposed(10);
    let mut rows = BTreeMap::new();
    let mut stored = EvidenceHead::default();
    for labels in [10, 20, 30, 40, 50] {
        for (number, node) in exposed.iter().enumerate() {
            world.report(*node, |row| shadows(row, shadow(labels, 1.2, 1.0)));
            let evidence = world.campaigns.evidence(&target()).unwrap();
            rows.insert(path(*node), evidence.row(&path(*node)).unwrap().clone());
            if labels == 30 && number == 1 {
                stored = evidence.head().clone();
            }
        }
    }
    let whole = head(&world);
    world.campaigns.restore_evidence(ID, stored, rows);
    for labels in [60, 70] {
        for node in &exposed {
            world.report(*node, |row| shadows(row, shadow(labels, 1.2, 1.0)));
        }
    }
    let found = head(&world);
    assert_eq!(found.nodes.len(), whole.nodes.len());
    assert!(found.rounds.len() <= whole.rounds.len() + 2);
    assert!(found.labels < whole.labels + 20 * exposed.len() as u64);
}

#[test]
fn a_row_is_small() {
    // With its name and the map's share, what a node costs stays well below 2 kB beside its inventory entry.
    let bytes = size_of::<EvidenceRow>() + size_of::<NodePath>() + 2 * size_of::<Arc<str>>();
    assert!(bytes <= 500, "{bytes}");
}
