//! Releases: over the update topic to whoever comes late, refused when they are broken, and never backwards.

use lamppost_models::message::{ReportedModel, TrialState, Verdict};
use lamppost_models::release::{ReleaseKey, Sequence};
use lamppost_models::{Release, Reported, Timestamp};
use lamppost_tests::fleet::{NodePlan, Source};
use lamppost_tests::link::Uplink;
use lamppost_tests::mqtt::{BrokerAddr, Subscriber};
use lamppost_tests::stand_in::{StandIn, around};
use lamppost_tests::world::{Place, World, deadline, row, run};
use lamppost_tests::zoo;

use super::{DEMO, WINDOW, start, take, traffic_world};

#[test]
fn a_rollout_reaches_nodes_that_are_there_come_late_or_come_back() -> anyhow::Result<()> {
    run(async {
        let nodes: [(&str, &[&str]); 4] = [
            ("there", &["all"]),
            ("late", &["all"]),
            ("away", &["all"]),
            ("kept", &["steady", "all"]),
        ];
        let mut world = traffic_world(Place::Here, &nodes).await?;
        world.api.rollout("traffic-flow", "1.0.0", "steady").await?;
        for name in ["there", "away", "kept"] {
            start(&mut world, name, "1.0.0").await?;
        }
        world.set_uplink("away", Uplink::Down)?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        world.runs("there", "1.1.0").await?;
        start(&mut world, "late", "1.1.0").await?;
        world.set_uplink("away", Uplink::Up)?;
        world.runs("away", "1.1.0").await?;
        // The first of its groups that has a release decides.
        world.runs("kept", "1.0.0").await?;

        world.api.rollback("traffic-flow", "all").await?;
        for name in ["there", "late", "away"] {
            world.runs(name, "1.0.0").await?;
        }
        world.stop().await
    })
}

#[test]
fn a_bundle_that_does_not_reproduce_its_golden_vectors_does_not_enter_the_registry()
-> anyhow::Result<()> {
    run(async {
        let world = traffic_world(Place::Here, &[]).await?;
        let error = world
            .api
            .push(zoo::TRAFFIC_FLOW_1_1_0.with_altered_golden("1.2.0")?)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("golden"), "{error:#}");
        let error = world
            .api
            .push(b"no bundle at all".to_vec())
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("tar"), "{error:#}");
        let error = world
            .api
            .rollout("traffic-flow", "1.2.0", "all")
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("1.2.0"), "{error:#}");
        world.stop().await
    })
}

fn verdict(world: &World, reported: &Reported) -> Option<(Verdict, String)> {
    let model = &world.plan("i94").ok()?.source.model;
    match &row(reported, model)?.candidate.as_ref()?.state {
        TrialState::Refused { verdict, detail } => Some((*verdict, detail.clone())),
        TrialState::Fetching { .. }
        | TrialState::Waiting { .. }
        | TrialState::Checking
        | TrialState::Shadowing { .. } => None,
    }
}

#[test]
fn an_artifact_that_is_altered_on_its_way_is_refused_and_the_old_model_goes_on()
-> anyhow::Result<()> {
    run(async {
        let mut world = traffic_world(Place::Here, &[("i94", &["all"])]).await?;
        start(&mut world, "i94", "1.0.0").await?;
        world.alter_artifacts("i94", true)?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        let (verdict, detail) = world
            .reported("i94", "a refusal", |reported| verdict(&world, reported))
            .await?;
        assert_eq!(verdict, Verdict::DigestMismatch, "{detail}");

        let mut watch = world.watch("i94").await?;
        let mut sensor = world.sensor("i94")?;
        world.feed("i94", &mut sensor, 0..WINDOW + 9).await?;
        let predictions = take(&mut watch, 10).await?;
        assert!(
            predictions
                .iter()
                .all(|prediction| prediction.model.version.to_string() == "1.0.0")
        );
        world.stop().await
    })
}

/// A node whose coordinator is the test itself, which may do what no coordinator would.
struct Led {
    stand_in: StandIn,
    world: World,
    reports: Subscriber,
    now: Timestamp,
}

impl Led {
    /// It runs 1.0.0 by the release with sequence 5.
    async fn start() -> anyhow::Result<Self> {
        let plan = NodePlan::new("minneapolis", "i94", &["all"], Source::traffic()?)?;
        let stand_in = StandIn::start().await?;
        let now = Timestamp::from_ms(jiff::Timestamp::now().as_millisecond())?;
        let world = World::led_by(DEMO, stand_in.addr().clone(), vec![plan]).await?;
        let broker = BrokerAddr::open(stand_in.addr().mqtt);
        let reports =
            Subscriber::connect(&broker, "reports", &["lamppost/v1/nodes/+/+/reported"]).await?;
        let mut led = Self {
            stand_in,
            world,
            reports,
            now,
        };
        let first = led.release(5, &zoo::TRAFFIC_FLOW_1_0_0.bundle()?)?;
        led.stand_in.publish(&first).await?;
        led.world.start_node("i94").await?;
        led.taken(5).await?;
        Ok(led)
    }

    fn release(&self, sequence: u64, bundle: &[u8]) -> anyhow::Result<Release> {
        self.stand_in
            .release("all", sequence, bundle, around(self.now))
    }

    async fn report<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(&ReportedModel) -> Option<T>,
    ) -> anyhow::Result<T> {
        let found = self.reports.until(what, deadline(), |message| {
            let reported: Reported = serde_json::from_slice(&message.payload).ok()?;
            wanted(reported.models.first()?)
        });
        Ok(found.await?)
    }

    /// Waits until the node runs what the release with this sequence says, and gives version and time of activation.
    async fn taken(&mut self, sequence: u64) -> anyhow::Result<(String, Timestamp)> {
        self.report(&format!("release {sequence} is taken"), |row| {
            let active = row
                .active
                .as_ref()
                .filter(|_| row.release == Some(Sequence(sequence)) && row.candidate.is_none())?;
            Some((active.version.to_string(), active.since))
        })
        .await
    }
}

#[test]
fn a_signed_model_that_fails_its_golden_vectors_is_refused_on_the_node() -> anyhow::Result<()> {
    run(async {
        let mut led = Led::start().await?;
        let broken = led.release(6, &zoo::TRAFFIC_FLOW_1_1_0.with_altered_golden("1.2.0")?)?;
        led.stand_in.publish(&broken).await?;
        let verdict = led
            .report("a refusal", |row| match &row.candidate.as_ref()?.state {
                TrialState::Refused { verdict, .. } => {
                    Some((*verdict, row.active.as_ref()?.version.to_string()))
                }
                TrialState::Fetching { .. }
                | TrialState::Waiting { .. }
                | TrialState::Checking
                | TrialState::Shadowing { .. } => None,
            })
            .await?;
        assert_eq!(verdict, (Verdict::GoldenMismatch, "1.0.0".to_owned()));
        let good = led.release(7, &zoo::TRAFFIC_FLOW_1_1_0.bundle()?)?;
        led.stand_in.publish(&good).await?;
        assert_eq!(led.taken(7).await?.0, "1.1.0");
        led.world.stop().await
    })
}

#[test]
fn a_version_waits_for_its_hours_by_the_time_that_is_signed() -> anyhow::Result<()> {
    const HOUR_MS: i64 = 3_600_000;
    run(async {
        let mut led = Led::start().await?;
        let hour = led.now.as_ms() / HOUR_MS;
        let opens = |hours: i64| (hour + hours) % 24;
        let hours = format!("daily {:02}:00-{:02}:00", opens(3), opens(4));
        let mut next = led.release(6, &zoo::TRAFFIC_FLOW_1_1_0.bundle()?)?;
        next.hours = Some(hours.parse()?);
        led.stand_in.publish(&next).await?;
        let waits = |row: &ReportedModel| match &row.candidate.as_ref()?.state {
            TrialState::Waiting { reason } => {
                Some((reason.clone(), row.active.as_ref()?.version.to_string()))
            }
            TrialState::Fetching { .. }
            | TrialState::Checking
            | TrialState::Shadowing { .. }
            | TrialState::Refused { .. } => None,
        };
        let (reason, version) = led.report("it waits for its hours", waits).await?;
        assert!(reason.contains(&hours), "{reason}");
        assert_eq!(version, "1.0.0");
        let within = Timestamp::from_ms((hour + 3) * HOUR_MS + HOUR_MS / 6)?;
        led.stand_in.tell_time(within).await?;
        assert_eq!(led.taken(6).await?.0, "1.1.0");
        led.world.stop().await
    })
}

#[test]
fn old_expired_unsigned_and_forged_releases_change_nothing() -> anyhow::Result<()> {
    run(async {
        let mut led = Led::start().await?;
        let (old, new) = (
            zoo::TRAFFIC_FLOW_1_0_0.bundle()?,
            zoo::TRAFFIC_FLOW_1_1_0.bundle()?,
        );
        led.stand_in.publish(&led.release(6, &new)?).await?;
        let (version, since) = led.taken(6).await?;
        assert_eq!(version, "1.1.0");

        let (group, model) = ("all".parse()?, "traffic-flow".parse()?);
        // Replayed: an old release, signed as it should be.
        led.stand_in.publish(&led.release(5, &old)?).await?;
        let past = led.now.offset_ms(-7_200_000)..led.now.offset_ms(-3_600_000);
        led.stand_in
            .publish(&led.stand_in.release("all", 7, &old, past)?)
            .await?;
        let unsigned = serde_json::to_vec(&led.release(8, &old)?)?;
        led.stand_in.publish_raw(&group, &model, unsigned).await?;
        let forged = ReleaseKey::from_seed(&[8; 32]).sign(&led.release(9, &old)?)?;
        led.stand_in
            .publish_raw(&group, &model, serde_json::to_vec(&forged)?)
            .await?;
        led.stand_in
            .publish_raw(&group, &model, b"{".to_vec())
            .await?;

        // A good release behind them all: when it is taken, the others have been looked at.
        led.stand_in.publish(&led.release(10, &new)?).await?;
        assert_eq!(
            led.taken(10).await?,
            (version, since),
            "another version ran in between"
        );
        led.world.stop().await
    })
}
