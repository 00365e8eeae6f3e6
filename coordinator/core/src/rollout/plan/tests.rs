use insta::assert_snapshot;

use super::*;
use crate::rollout::campaign::tests::world::*;

/// The parts of a plan that are worth a line each.
fn lines(plan: &Plan) -> String {
    let mut lines = vec![format!(
        "{} nodes, {} unreachable, {} control; {} bytes, at least {}; the promotion brings {}",
        plan.nodes, plan.unreachable, plan.control, plan.bytes, plan.at_least, plan.promoted
    )];
    for wave in &plan.waves {
        lines.push(format!(
            "{}: {} nodes, {} more, {} of them unreachable; {} bytes, at least {}; {} names",
            wave.who,
            wave.nodes,
            wave.added,
            wave.unreachable,
            wave.bytes,
            wave.at_least,
            wave.names.len()
        ));
    }
    lines.extend(plan.unknown.iter().map(|text| format!("? {text}")));
    lines.extend(plan.warnings.iter().map(|text| format!("! {text}")));
    lines.join("\n")
}

fn plan(world: &World, toml: &str, pace: Pace) -> Result<Plan, Refusal> {
    let start = to_start(policy(toml));
    world
        .campaigns
        .plan(&world.book, &world.inventory, &start, pace, &world.around())
}

fn fleet() -> World {
    let mut world = World::new(0);
    for node in 0..200 {
        let backhaul = if node % 10 == 0 { "lte-1" } else { "fibre" };
        let groups: &[&str] = if node < 3 { &["all", "lab"] } else { &["all"] };
        world.node(node, groups, &[("backhaul", backhaul)]);
        world.report(node, |row| {
            row.active.as_mut().unwrap().quality = Some(right(30, 1.0));
        });
    }
    world.later(120, 20..200);
    world
}

#[test]
fn a_plan_counts_nodes_bytes_and_time() {
    let pace = Pace {
        bytes_per_s: Some(10_000.0),
        trial: Some(Span::from_secs(600)),
    };
    let policy = r#"
        control = "10 %"
        downloads_per_backhaul = 5
        bytes_per_day = "5MB"
        hours = "daily 01:00-05:00"
        [[wave]]
        groups = ["lab"]
        soak = "1h"
        approve = "manual"
        [[wave]]
        share = "20 %"
        soak = "5m"
        [[wave]]
        share = "100 %"
        [gate.quality]
        kind = "both"
    "#;
    let plan = plan(&fleet(), policy, pace).unwrap();
    assert_snapshot!(lines(&plan), @r#"
    200 nodes, 20 unreachable, 18 control; 20000000 bytes, at least 1d 1h 21m 20s; the promotion brings 18
    group lab: 3 nodes, 3 more, 3 of them unreachable; 300000 bytes, at least 1h; 3 names
    20 %: 41 nodes, 38 more, 10 of them unreachable; 3800000 bytes, at least 11m 20s; 20 names
    100 %: 182 nodes, 141 more, 7 of them unreachable; 14100000 bytes, at least 1d 10m; 20 names
    ? when it is daily 01:00-05:00 on each node: nodes wait for their hours, a week at most
    ? when somebody approves
    ? when the 20 unreachable nodes are back: waves do not wait for them beyond their share, and for none after the deadline
    ? how fast labels come
    ! no node that wave 1 adds can be reached now
    ! wave 3 fetches up to 14100kB, more than the 5MB of a day: it takes several
    "#);
    let added: u64 = plan.waves.iter().map(|wave| wave.added).sum();
    assert_eq!(added + plan.promoted, plan.nodes);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn a_plan_says_what_may_surprise() {
    let policy = r#"
        control = "1 %"
        downloads_per_backhaul = 5
        [[wave]]
        share = "0 %"
        [[wave]]
        share = "100 %"
        tags = ["backhaul=satellite"]
        nodes = ["city/n999"]
        [gate.quality]
        kind = "cohorts"
        [trial.shadow]
        labels = 2
    "#;
    let mut world = World::new(5);
    world.later(10, 0..5);
    let plan = plan(&world, policy, Pace::default()).unwrap();
    assert_snapshot!(lines(&plan), @r#"
    5 nodes, 0 unreachable, 0 control; 500000 bytes, at least 0s; the promotion brings 0
    0 %: 0 nodes, 0 more, 0 of them unreachable; 0 bytes, at least 0s; 0 names
    100 % and tag backhaul=satellite and node city/n999: 5 nodes, 5 more, 0 of them unreachable; 500000 bytes, at least 0s; 5 names
    ? how long a trial takes: no node of the group has been through one
    ? how fast the links of the nodes are
    ! wave 1 has no nodes and is passed over
    ! wave 2 names the tag backhaul=satellite, which no node of the group has
    ! wave 2 names city/n999, which is not in the group, does not use the model, or was never heard of
    ! the first wave with nodes, wave 2, has 5 of 5: name one node for a smaller start
    ! the control cohort of 1 % is empty: no node of the 5 falls into it
    ! 5 nodes have no tag `backhaul`, so that downloads_per_backhaul does not bound theirs apart
    ! no node of the group reports labels: its gates will hold until labels come
    ! a proof takes 8 pairs at least, and there are 0 control nodes: raise control, or set inconclusive = "advance"
    "#);
}

#[test]
fn what_this_fleet_can_never_meet_is_refused() {
    let world = fleet();
    let too_many = "[[wave]]\nnodes = [\"city/n1\"]\n[gate]\nmin_reports = 2\n";
    let refused = plan(&world, too_many, Pace::default()).unwrap_err();
    assert_snapshot!(refused, @"policy: wave 1: gate.min_reports is 2: the wave has 1 node, so that its gate can never pass: lower it, or widen the wave");
    let nobody = "[[wave]]\ngroups = [\"moon\"]\n";
    let refused = plan(&world, nobody, Pace::default()).unwrap_err();
    assert_snapshot!(refused, @"policy: wave 1: groups is moon: no node of group all that uses flow is in it: check the name, or take it out");
    let empty = World::new(0);
    let refused = plan(&empty, "[[wave]]\nshare = \"100 %\"\n", Pace::default()).unwrap_err();
    assert_snapshot!(refused, @"no node that was ever heard of takes releases of flow for group all: `lamppost node ls` shows the groups of each");
}

#[test]
fn the_first_node_is_reachable_and_in_the_group() {
    let mut world = fleet();
    world.node(500, &["other"], &[]);
    let start = to_start(policy("[[wave]]\nshare = \"1 %\"\n"));
    let around = world.around();
    let first = Campaigns::first_node(&world.book, &world.inventory, &start, &around).unwrap();
    let reachable: Vec<NodePath> = (20..200).map(path).collect();
    assert!(reachable.contains(&first));
    let places = reachable
        .iter()
        .map(|path| lamppost_models::rollout::place(start.id, path));
    let place = lamppost_models::rollout::place(start.id, &first);
    assert_eq!(places.min(), Some(place));
}

#[test]
fn the_pace_of_earlier_trials_is_their_median() {
    let mut world = World::new(5);
    assert_eq!(Pace::measured(&world.inventory, &target()).trial, None);
    for (node, seconds) in [(0, 60), (1, 90), (2, 3000)] {
        world.report(node, |row| {
            passes(row);
            row.active.as_mut().unwrap().since = at(1000 + seconds);
        });
    }
    world.report(3, refuses);
    let pace = Pace::measured(&world.inventory, &target());
    assert_eq!(pace.trial, Some(Span::from_secs(90)));
}
