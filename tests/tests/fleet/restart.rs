//! What is stopped or killed goes on where it was.

use std::collections::BTreeSet;

use lamppost_tests::link::Uplink;
use lamppost_tests::world::{Place, run};

use super::{WINDOW, ids, start, stored_once, take, traffic_world};

#[test]
fn an_agent_that_restarts_without_a_coordinator_runs_its_last_good_model() -> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        start(&mut world, "i94", "1.0.0").await?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        world.runs("i94", "1.1.0").await?;
        world.stop_node("i94").await?;
        world.set_uplink("i94", Uplink::Down)?;
        world.end_coordinator().await?;

        world.start_node("i94").await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..WINDOW + 19).await?;
        let predictions = take(&mut watch, 20).await?;
        assert!(
            predictions
                .iter()
                .all(|prediction| prediction.model.version.to_string() == "1.1.0")
        );

        // What it predicted alone is not lost either.
        world.restart_coordinator(Place::Here).await?;
        world.set_uplink("i94", Uplink::Up)?;
        stored_once(&world, "i94", &ids(&predictions)).await?;
        world.stop().await
    })
}

#[test]
fn a_coordinator_that_is_killed_goes_on() -> anyhow::Result<()> {
    run(async {
        let nodes: [(&str, &[&str]); 2] = [("i94", &["all"]), ("late", &["all"])];
        let mut world = traffic_world(Place::Process, &nodes).await?;
        start(&mut world, "i94", "1.0.0").await?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        world.runs("i94", "1.1.0").await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..WINDOW + 99).await?;
        let first = ids(&take(&mut watch, 100).await?);

        // Some of these are stored and not yet acknowledged, some acknowledged, some on their way.
        world.end_coordinator().await?;
        world
            .feed("i94", &mut sensor, WINDOW + 99..WINDOW + 199)
            .await?;
        let meanwhile = ids(&take(&mut watch, 100).await?);
        let key = world.centre.key.clone();
        world.restart_coordinator(Place::Process).await?;
        assert_eq!(
            world.centre.key, key,
            "the coordinator signs with another key"
        );

        let all: BTreeSet<_> = first.into_iter().chain(meanwhile).collect();
        stored_once(&world, "i94", &all).await?;
        // It knows its nodes and its registry, and publishes its releases again.
        let known = world.api.nodes().await?;
        assert!(known.iter().any(|node| node.path.node.as_str() == "i94"));
        start(&mut world, "late", "1.1.0").await?;
        world.api.rollout("traffic-flow", "1.0.0", "all").await?;
        world.runs("i94", "1.0.0").await?;
        world.stop().await
    })
}
