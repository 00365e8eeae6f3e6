//! The ledger of a real coordinator about real nodes: at no moment is a record missing.

use anyhow::Context as _;
use lamppost_tests::link::Uplink;
use lamppost_tests::wait;
use lamppost_tests::world::{Place, World, deadline, run};
use serde_json::Value;

use super::{WINDOW, start, take, traffic_world};

const BEFORE: usize = 80;
const MEANWHILE: usize = BEFORE + 300;
const AFTER: usize = MEANWHILE + 60;

/// The sums over all streams and classes of what the ledger says of a node, by key.
fn sum(ledger: &Value, key: &str) -> u64 {
    let rows = ledger["streams"].as_array().into_iter().flatten();
    rows.filter_map(|row| row[key].as_u64()).sum()
}

/// Waits until all that was made is delivered and nothing else is told; nothing is missing all the while.
pub(super) async fn balanced(world: &World, node: &str, made: u64) -> anyhow::Result<()> {
    let path = world.plan(node)?.path.clone();
    let balanced = || async {
        let ledger = world.api.ledger(&path).await.ok()?;
        assert_eq!(sum(&ledger, "missing"), 0, "{ledger:#}");
        let is = |key: &str, wanted: u64| sum(&ledger, key) == wanted;
        (is("produced", made) && is("delivered", made) && is("in_flight", 0)).then_some(())
    };
    let outcome = wait::until("the ledger is balanced", deadline(), balanced).await;
    let ledger = world.api.ledger(&path).await?;
    outcome.with_context(|| format!("{ledger:#}"))
}

#[test]
fn every_record_of_two_runs_and_an_outage_is_delivered_and_none_is_missing() -> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        start(&mut world, "i94", "1.0.0").await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..BEFORE).await?;
        take(&mut watch, BEFORE - WINDOW + 1).await?;
        let first = (BEFORE - WINDOW + 1) as u64;
        balanced(&world, "i94", first).await?;

        world.set_uplink("i94", Uplink::Down)?;
        world.feed("i94", &mut sensor, BEFORE..MEANWHILE).await?;
        take(&mut watch, MEANWHILE - BEFORE).await?;
        world.stop_node("i94").await?;
        world.set_uplink("i94", Uplink::Up)?;
        start(&mut world, "i94", "1.0.0").await?;
        let both = (MEANWHILE - WINDOW + 1) as u64;
        balanced(&world, "i94", both).await?;

        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, MEANWHILE..AFTER).await?;
        take(&mut watch, AFTER - MEANWHILE - WINDOW + 1).await?;
        balanced(
            &world,
            "i94",
            both + (AFTER - MEANWHILE - WINDOW + 1) as u64,
        )
        .await?;
        world.stop().await
    })
}
