//! A link that is cut: what is predicted meanwhile arrives after it is back, in order, once.

use std::collections::BTreeSet;

use lamppost_models::id::PredictionId;
use lamppost_models::message::NodeState;
use lamppost_models::{PredictionBatch, Status};
use lamppost_tests::link::Uplink;
use lamppost_tests::mqtt::Subscriber;
use lamppost_tests::world::{Place, World, deadline, run};

use super::{WINDOW, ids, start, stored_once, take, traffic_world};

const BEFORE: usize = WINDOW + 50;
const MEANWHILE: usize = BEFORE + 400;
const AFTER: usize = MEANWHILE + 50;

async fn a_node_that_ran(world: &mut World) -> anyhow::Result<()> {
    start(world, "i94", "1.0.0").await
}

/// Receives replayed batches until all of `wanted` came, and gives the ids in the order in which they came.
async fn replayed(
    history: &mut Subscriber,
    wanted: &BTreeSet<PredictionId>,
) -> anyhow::Result<Vec<PredictionId>> {
    let (mut missing, mut order, mut last) = (wanted.clone(), Vec::new(), None);
    while !missing.is_empty() {
        let json = history
            .until("a replayed batch", deadline(), |message| {
                Some(message.payload.clone())
            })
            .await?;
        let json = lamppost_tests::batch::unpacked(&json)?;
        let batch: PredictionBatch = serde_json::from_slice(&json)?;
        assert!(batch.records.iter().all(|record| record.replay));
        // A batch whose acknowledgement was late comes again, and is no news.
        if last.is_some_and(|last| batch.number <= last) {
            continue;
        }
        last = Some(batch.number);
        for record in &batch.records {
            missing.remove(&record.id);
            order.push(record.id);
        }
    }
    Ok(order)
}

#[test]
fn what_is_predicted_during_an_outage_arrives_in_order_and_once() -> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        a_node_that_ran(&mut world).await?;
        let filters = ["lamppost/v1/nodes/+/+/pred-hist/+"];
        let mut history = Subscriber::connect(&world.centre_broker(), "history", &filters).await?;
        let mut status = Subscriber::connect(
            &world.centre_broker(),
            "status",
            &["lamppost/v1/nodes/+/+/status"],
        )
        .await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;

        world.feed("i94", &mut sensor, 0..BEFORE).await?;
        let before = ids(&take(&mut watch, BEFORE - WINDOW + 1).await?);
        stored_once(&world, "i94", &before).await?;

        world.set_uplink("i94", Uplink::Down)?;
        let down = |message: &lamppost_tests::mqtt::Message| {
            let status: Status = serde_json::from_slice(&message.payload).ok()?;
            (status.state == NodeState::Down).then_some(())
        };
        status.until("the last will", deadline(), down).await?;
        world.feed("i94", &mut sensor, BEFORE..MEANWHILE).await?;
        let meanwhile = ids(&take(&mut watch, MEANWHILE - BEFORE).await?);

        world.set_uplink("i94", Uplink::Up)?;
        let order = replayed(&mut history, &meanwhile).await?;
        assert!(order.is_sorted(), "replayed out of order");
        world.feed("i94", &mut sensor, MEANWHILE..AFTER).await?;
        let after = ids(&take(&mut watch, AFTER - MEANWHILE).await?);
        let all: BTreeSet<_> = before.into_iter().chain(meanwhile).chain(after).collect();
        assert_eq!(all.len(), AFTER - WINDOW + 1);
        stored_once(&world, "i94", &all).await?;
        world
            .reported("i94", "an empty outbox", |reported| {
                (reported.outbox.records == 0).then_some(())
            })
            .await?;
        world.stop().await
    })
}

#[test]
fn a_link_that_goes_silent_loses_nothing_either() -> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        a_node_that_ran(&mut world).await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.set_uplink("i94", Uplink::Silent)?;
        world.feed("i94", &mut sensor, 0..MEANWHILE).await?;
        let mut all = ids(&take(&mut watch, MEANWHILE - WINDOW + 1).await?);
        world.set_uplink("i94", Uplink::Up)?;
        world.feed("i94", &mut sensor, MEANWHILE..AFTER).await?;
        all.extend(ids(&take(&mut watch, AFTER - MEANWHILE).await?));
        stored_once(&world, "i94", &all).await?;
        world.stop().await
    })
}
