//! What a broken sensor or a stranger sends is counted and refused, and the agent goes on.

use lamppost_models::message::StreamCounters;
use lamppost_tests::world::{Place, run};

use super::{WINDOW, counters, start, take, traffic_world};

#[test]
fn bad_readings_are_counted_by_their_kind_and_the_stream_goes_on() -> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        start(&mut world, "i94", "1.0.0").await?;
        let source = world.plan("i94")?.source.clone();
        let messages = source.recording.messages();
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..WINDOW).await?;
        take(&mut watch, 1).await?;

        let at = messages[WINDOW].ts;
        let malformed = [
            "not json".to_owned(),
            "{\"ts\":".to_owned(),
            String::new(),
            format!("{{\"ts\":\"{at}\",\"temp\":1}}"),
            format!("{{\"ts\":\"{at}\",\"volume\":NaN,\"temp\":1}}"),
            format!("{{\"ts\":\"{at}\",\"volume\":1e999,\"temp\":1}}"),
            format!("{{\"ts\":\"{at}\",\"volume\":null,\"temp\":1}}"),
            "{\"ts\":\"tomorrow\",\"volume\":1,\"temp\":1}".to_owned(),
            "{\"volume\":1,\"temp\":1}".to_owned(),
            format!(
                "{{\"ts\":\"{at}\",\"volume\":1,\"temp\":1,\"padding\":\"{}\"}}",
                "x".repeat(100_000)
            ),
        ];
        for payload in &malformed {
            sensor.publish(source.topic, payload.as_bytes()).await?;
        }
        // The newest again, and one from behind.
        sensor
            .publish(source.topic, messages[WINDOW - 1].json.as_bytes())
            .await?;
        sensor
            .publish(source.topic, messages[WINDOW - 5].json.as_bytes())
            .await?;
        sensor.publish("sensors/of/somebody/else", "?").await?;
        world.feed("i94", &mut sensor, WINDOW..WINDOW + 10).await?;
        let after = take(&mut watch, 10).await?;
        assert_eq!(
            after[0].ts, at,
            "the stream does not go on with the next good reading"
        );

        // A late or repeated message is a reading too.
        let wanted = WINDOW as u64 + 10 + 2;
        let counters = world
            .reported("i94", "all readings counted", |reported| {
                Some(counters(reported)).filter(|counters| counters.predictions == 11)
            })
            .await?;
        let StreamCounters {
            readings,
            malformed: refused,
            late,
            duplicate,
            ..
        } = counters;
        assert_eq!(readings, wanted, "{counters:?}");
        assert_eq!(refused, malformed.len() as u64, "{counters:?}");
        assert_eq!(late + duplicate, 2, "{counters:?}");
        world.stop().await
    })
}

#[test]
fn a_gap_in_the_readings_gives_no_prediction_until_the_window_is_whole_again() -> anyhow::Result<()>
{
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        start(&mut world, "i94", "1.0.0").await?;
        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..WINDOW).await?;
        // One hour is missing: the windows that it falls into are not what the model was trained on.
        world
            .feed("i94", &mut sensor, WINDOW + 1..2 * WINDOW + 2)
            .await?;
        let predictions = take(&mut watch, 3).await?;
        let messages = world.plan("i94")?.source.recording.messages();
        let hours: Vec<_> = predictions.iter().map(|prediction| prediction.ts).collect();
        assert_eq!(
            hours,
            [WINDOW - 1, 2 * WINDOW, 2 * WINDOW + 1].map(|at| messages[at].ts)
        );
        let unfit = WINDOW as u64 - 1;
        world
            .reported("i94", "unfit windows counted", |reported| {
                (counters(reported).unfit == unfit).then_some(())
            })
            .await?;
        world.stop().await
    })
}
