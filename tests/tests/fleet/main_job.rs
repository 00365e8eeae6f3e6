//! The main job: readings in, predictions out, here and at the coordinator, with an error that is known an hour later.

use anyhow::Context as _;
use lamppost_models::message::Quality;
use lamppost_tests::fleet::{NodePlan, Source};
use lamppost_tests::mqtt::Subscriber;
use lamppost_tests::seen::Seen;
use lamppost_tests::world::{Meeting, Place, World, deadline, row, run};
use lamppost_tests::zoo;

use super::{DEMO, MEETING, WINDOW, ids, push, start, stored_once, take, traffic_world};

#[test]
fn two_nodes_with_two_models_predict_and_know_their_error() -> anyhow::Result<()> {
    run(async { predict_and_know_the_error(MEETING).await })
}

#[test]
fn so_they_do_when_they_meet_at_an_external_broker() -> anyhow::Result<()> {
    run(async { predict_and_know_the_error(Meeting::External).await })
}

async fn predict_and_know_the_error(meeting: Meeting) -> anyhow::Result<()> {
    let plans = vec![
        NodePlan::new("minneapolis", "i94", &["all"], Source::traffic()?)?,
        NodePlan::new("beijing", "air", &["all"], Source::air()?)?,
    ];
    let mut world = World::start(DEMO, Place::Here, meeting, plans).await?;
    push(&world, &[zoo::TRAFFIC_FLOW_1_0_0, zoo::AIR_QUALITY_1_0_0]).await?;
    for model in ["traffic-flow", "air-quality"] {
        world.api.rollout(model, "1.0.0", "all").await?;
    }
    let readings = WINDOW + 100;
    for name in ["i94", "air"] {
        start(&mut world, name, "1.0.0").await?;
        let mut watch = world.watch(name).await?;
        let mut sensor = world.sensor(name)?;
        world.feed(name, &mut sensor, 0..readings).await?;
        let predictions = take(&mut watch, readings - WINDOW + 1).await?;

        let mut seen = Seen::new();
        assert!(
            predictions.iter().all(|prediction| seen.note(prediction)),
            "an id came twice"
        );
        let source = world.plan(name)?.source.clone();
        assert_eq!(
            predictions[0].ts,
            source.recording.messages()[WINDOW - 1].ts
        );
        assert_eq!(predictions[0].unit.as_deref(), Some(source.unit));
        assert!(
            predictions
                .iter()
                .enumerate()
                .all(|(at, prediction)| prediction.seq == at as u64 && !prediction.replay)
        );

        let last = source.recording.messages()[readings - 1].ts;
        let wanted = seen.errors(&"1.0.0".parse()?, source.recording.truth(), last);
        assert!(
            wanted.labels > 80,
            "the recording has {} labels in its first days",
            wanted.labels
        );
        let mae = world
            .reported(name, "the error over all labels", |reported| {
                match row(reported, &source.model)?.active.as_ref()?.quality? {
                    Quality::Error { labels, mae, .. } => (labels == wanted.labels).then_some(mae),
                    Quality::Accuracy { .. } => None,
                }
            })
            .await?;
        let computed = wanted.mae().context("an error over some labels")?;
        assert!(
            (mae - computed).abs() < 1e-6 * computed,
            "the edge reports {mae}, computed outside {computed}"
        );
        stored_once(&world, name, &ids(&predictions)).await?;
    }
    world.stop().await
}

#[test]
fn a_client_that_parses_nothing_gets_the_bare_value() -> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        start(&mut world, "i94", "1.0.0").await?;
        let mut flat =
            Subscriber::connect(&world.broker_of("i94")?, "display", &["city/+/forecast"]).await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..WINDOW).await?;
        let prediction = take(&mut watch, 1).await?.remove(0);
        let text = flat
            .until("a bare value", deadline(), |message| {
                String::from_utf8(message.payload.clone()).ok()
            })
            .await?;
        let (shown, value): (f64, f64) = (text.parse()?, prediction.value.unwrap());
        assert!(
            (shown - value).abs() < 0.51,
            "the flat topic says {text}, the prediction {value}"
        );
        world.stop().await
    })
}
