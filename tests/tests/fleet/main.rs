//! A fleet in one process, end to end: a coordinator, agents with their brokers, sensors and dashboards as stock clients.

use std::collections::BTreeSet;

use lamppost_models::id::PredictionId;
use lamppost_models::{Prediction, Reported};
use lamppost_tests::fleet::{NodePlan, Source};
use lamppost_tests::mqtt::Subscriber;
use lamppost_tests::wait;
use lamppost_tests::world::{Meeting, Place, World, deadline};
use lamppost_tests::zoo::{self, ZooModel};

mod bad_input;
mod demo;
mod full_disk;
mod ledger;
mod main_job;
mod outage;
mod releases;
mod restart;
mod revoked;
mod rooted;
mod toxics;

/// The demo's executable: agents check bundles with it, and it plays a coordinator that can be killed.
const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Where the fleets of these tests meet, unless a test says otherwise.
const MEETING: Meeting = Meeting::Embedded;
/// Readings until the first prediction.
const WINDOW: usize = 24;

/// A coordinator whose registry has both versions of traffic-flow; 1.0.0 is released to all.
async fn traffic_world(place: Place, nodes: &[(&str, &[&str])]) -> anyhow::Result<World> {
    let source = Source::traffic()?;
    let plans: Result<Vec<_>, _> = nodes
        .iter()
        .map(|(name, groups)| NodePlan::new("minneapolis", name, groups, source.clone()))
        .collect();
    let world = World::start(DEMO, place, MEETING, plans?).await?;
    push(&world, &[zoo::TRAFFIC_FLOW_1_0_0, zoo::TRAFFIC_FLOW_1_1_0]).await?;
    world.api.rollout("traffic-flow", "1.0.0", "all").await?;
    Ok(world)
}

async fn push(world: &World, models: &[ZooModel]) -> anyhow::Result<()> {
    for model in models {
        world.api.push(model.bundle()?).await?;
    }
    Ok(())
}

/// Starts a node and waits until it runs a version.
async fn start(world: &mut World, name: &str, version: &str) -> anyhow::Result<()> {
    world.start_node(name).await?;
    world.runs(name, version).await
}

/// The next predictions that a subscriber receives.
async fn take(subscriber: &mut Subscriber, count: usize) -> anyhow::Result<Vec<Prediction>> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        let what = format!("prediction {} of {count}", taken.len() + 1);
        let json = subscriber
            .until(&what, deadline(), |message| Some(message.payload.clone()))
            .await?;
        taken.push(serde_json::from_slice(&json)?);
    }
    Ok(taken)
}

fn ids(predictions: &[Prediction]) -> BTreeSet<PredictionId> {
    predictions.iter().map(|prediction| prediction.id).collect()
}

/// Waits until the coordinator has stored exactly these predictions of a node, each once.
async fn stored_once(
    world: &World,
    name: &str,
    wanted: &BTreeSet<PredictionId>,
) -> anyhow::Result<()> {
    let path = &world.plan(name)?.path;
    let last = std::cell::Cell::new(0);
    let waited = wait::until(
        "every prediction at the coordinator",
        deadline(),
        || async {
            let stored = world.api.stored(path).await.ok()?;
            last.set(stored.ids.len());
            wanted.is_subset(&stored.ids).then_some(stored)
        },
    );
    let stored = match waited.await {
        Ok(stored) => stored,
        Err(error) => anyhow::bail!("{error}: {} of {} are stored", last.get(), wanted.len()),
    };
    assert_eq!(
        stored.records,
        wanted.len() as u64,
        "a prediction is stored twice, or one that nobody saw"
    );
    assert_eq!(world.api.records(path).await?, wanted.len() as u64);
    Ok(())
}

/// The counters of the node's one stream.
fn counters(reported: &Reported) -> lamppost_models::message::StreamCounters {
    reported
        .streams
        .first()
        .map(|stream| stream.counters)
        .unwrap_or_default()
}
