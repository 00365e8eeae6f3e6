//! What a look costs, and what a node.

use std::time::Instant;

use super::world::*;
use crate::rollout::policy::Policy;

/// Looks at 100,000 nodes. The bound is for a release build on an idle machine and is not asserted: see the figures it prints.
#[test]
#[ignore = "a measurement, in release: cargo test --release -p lamppost-coordinator-core scale -- --ignored --nocapture"]
fn a_look_at_100_000_nodes() {
    for nodes in [1_000, 10_000, 100_000] {
        let mut world = World::new(nodes);
        let mut policy = Policy::canary();
        policy.control = policy.waves[0].share.unwrap();
        world.start(policy);
        for node in world.exposed(nodes) {
            world.report(node, |row| shadows(row, shadow(30, 1.0, 1.0)));
        }
        let begun = Instant::now();
        let looks = 5;
        for _ in 0..looks {
            world
                .campaigns
                .tick(&world.book, &world.inventory, &target(), &world.around())
                .unwrap();
        }
        let look = begun.elapsed() / looks;
        let begun = Instant::now();
        for node in 0..nodes {
            let entry = world.inventory.get(&path(node)).unwrap();
            world.campaigns.on_report(&world.book, entry, at(world.now));
        }
        let report = begun.elapsed() / u32::try_from(nodes).unwrap();
        println!("{nodes} nodes: a look {look:?}, a report {report:?}");
    }
}

#[test]
fn a_look_counts_every_node_of_a_large_group_once() {
    let nodes = 2_000;
    let mut world = World::new(nodes);
    world.start(Policy::canary());
    let exposed = world.exposed(nodes);
    for (number, node) in exposed.iter().enumerate() {
        match number % 3 {
            0 => world.report(*node, passes),
            1 => world.report(*node, |row| shadows(row, shadow(3, 1.0, 1.0))),
            _ => {}
        }
    }
    let census = world.tick().unwrap().assessment.census;
    assert_eq!(census.group, nodes as u64);
    assert_eq!(census.nodes, exposed.len() as u64);
    let sum = census.reported() + census.pending() + census.unreachable;
    assert_eq!(sum, census.nodes);
    // 5 % of 2,000, by the hash: within four standard deviations.
    assert!((60..=140).contains(&census.nodes), "{census:?}");
}
