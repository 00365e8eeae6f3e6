//! Bad links: connections that stall, break off, are reset, crawl, or go silent one way, while an outbox is replayed and a
//! bundle is fetched. Whatever a seed brings, everything arrives once.

use std::time::Duration;

use anyhow::Context as _;
use lamppost_tests::link::Uplink;
use lamppost_tests::wait;
use lamppost_tests::world::{Place, World, run};
use tokio::time::Instant;

use super::ledger::balanced;
use super::{WINDOW, ids, start, stored_once, take, traffic_world};

const BEFORE: usize = WINDOW + 60;
const MEANWHILE: usize = BEFORE + 800;
const AFTER: usize = MEANWHILE + 100;
/// Connections that meet trouble, after which the link is good again.
const CONNECTIONS: u64 = 10;
/// A seed may bring connections that go silent, each for as long as it takes to notice: no more of them than fit in here.
const TROUBLE: Duration = Duration::from_secs(25);
/// Between live readings meanwhile: they last as long as the trouble does.
const PACE: Duration = Duration::from_millis(200);

/// One outage that ends with a bad link. Any seed can be run with `just toxics SEED`.
async fn bad_link(seed: u64) -> anyhow::Result<()> {
    let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
    start(&mut world, "i94", "1.0.0").await?;
    let mut watch = world.watch("i94").await?;
    let mut sensor = world.sensor("i94")?;
    world.feed("i94", &mut sensor, 0..BEFORE).await?;
    let mut made = ids(&take(&mut watch, BEFORE - WINDOW + 1).await?);

    world.set_uplink("i94", Uplink::Down)?;
    world.feed("i94", &mut sensor, BEFORE..MEANWHILE).await?;
    made.extend(ids(&take(&mut watch, MEANWHILE - BEFORE).await?));
    world.api.rollout("traffic-flow", "1.1.0", "all").await?;

    let carried = world.carried("i94")?;
    world.set_uplink("i94", Uplink::Toxic(seed))?;
    // Live predictions come in between, as long as there is trouble.
    let end = Instant::now() + TROUBLE;
    for at in MEANWHILE..AFTER {
        world.feed("i94", &mut sensor, at..at + 1).await?;
        met(&world, carried, CONNECTIONS, end.min(Instant::now() + PACE)).await;
    }
    made.extend(ids(&take(&mut watch, AFTER - MEANWHILE).await?));
    let met = met(&world, carried, CONNECTIONS, end).await;
    println!(
        "seed {seed}: {} MQTT and {} HTTP connections on a bad link",
        met.0, met.1
    );
    anyhow::ensure!(met.0 > 1, "no connection broke");

    world.set_uplink("i94", Uplink::Up)?;
    stored_once(&world, "i94", &made).await?;
    world.runs("i94", "1.1.0").await?;
    balanced(&world, "i94", made.len() as u64).await?;
    world
        .reported("i94", "an empty outbox", |reported| {
            (reported.outbox.records == 0).then_some(())
        })
        .await?;
    world.stop().await
}

/// Waits until so many MQTT connections met trouble, or until `end`; how many MQTT and HTTP connections did.
async fn met(world: &World, before: (u64, u64), enough: u64, end: Instant) -> (u64, u64) {
    let since = || {
        let now = world.carried("i94").unwrap_or(before);
        (now.0 - before.0, now.1 - before.1)
    };
    let wanted = || std::future::ready((since().0 >= enough).then_some(()));
    // Too few until then are looked at by the caller.
    drop(wait::until("trouble", end, wanted).await);
    since()
}

fn with_seed(seed: u64) -> anyhow::Result<()> {
    run(async {
        bad_link(seed)
            .await
            .with_context(|| format!("run it again with `just toxics {seed}`"))
    })
}

#[test]
fn a_bad_link_loses_and_doubles_nothing() -> anyhow::Result<()> {
    with_seed(1)
}

#[test]
fn another_bad_link_loses_and_doubles_nothing() -> anyhow::Result<()> {
    with_seed(2)
}

/// For `just toxics`, which says what seeds.
#[test]
#[ignore = "takes as long as one asks for"]
fn many_bad_links_lose_and_double_nothing() -> anyhow::Result<()> {
    let number = |name: &str, default: u64| -> anyhow::Result<u64> {
        match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} is {text:?}")),
            Err(_) => Ok(default),
        }
    };
    let seed = number("LAMPPOST_TOXIC_SEED", 3)?;
    for seed in seed..seed + number("LAMPPOST_TOXIC_COUNT", 10)? {
        with_seed(seed)?;
    }
    Ok(())
}
