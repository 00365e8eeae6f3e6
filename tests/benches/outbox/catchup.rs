//! An agent comes back from an outage: how soon its backlog is at the coordinator, and what live predictions notice of it.
//!
//! A real agent with its broker, model, outbox and uplink runs in this process, a real coordinator in another; the link
//! between them is a proxy that can be cut.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lamppost_tests::fleet::{NodePlan, Source};
use lamppost_tests::link::Uplink;
use lamppost_tests::mqtt::{Sensor, Subscriber};
use lamppost_tests::world::{Meeting, Place, World, run};
use lamppost_tests::zoo;
use tokio::time::{Instant, MissedTickBehavior};

use crate::reading;
use crate::report::{self, Goal, micros, number};

const NODE: &str = "i94";
/// At which records come in.
const RATE: f64 = 100.0;
/// How long the idle latency is looked at.
const IDLE: Duration = Duration::from_secs(20);
/// Readings on their way while the backlog is made, so that no queue drops any.
const BURST: u64 = 256;
/// The longest that catching up may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Until the sensor's last readings are predicted and received.
const TAIL: Duration = Duration::from_secs(2);

/// Measures with a backlog of so many records.
pub(crate) fn measure(demo: &Path, backlog: u64) -> anyhow::Result<Vec<Goal>> {
    eprintln!("catch-up of {backlog} records");
    let demo = demo.to_str().context("a path in UTF-8")?.to_owned();
    let mut goals = Vec::new();
    run(async {
        goals = catch_up(&demo, backlog).await?;
        Ok(())
    })?;
    Ok(goals)
}

async fn catch_up(demo: &str, backlog: u64) -> anyhow::Result<Vec<Goal>> {
    let plan = NodePlan::new("minneapolis", NODE, &["all"], Source::traffic()?)?;
    let mut world = World::start(demo, Place::Process, Meeting::Embedded, vec![plan]).await?;
    world.api.push(zoo::TRAFFIC_FLOW_1_1_0.bundle()?).await?;
    world.api.rollout("traffic-flow", "1.1.0", "all").await?;
    world.start_node(NODE).await?;
    world.runs(NODE, "1.1.0").await?;
    let mut feed = Feed {
        sensor: world.sensor(NODE)?,
        topic: world.plan(NODE)?.source.topic,
        next: 0,
    };
    let filters = ["lamppost/v1/nodes/+/+/pred/+"];
    let mut live = Subscriber::connect(&world.centre_broker(), "live", &filters).await?;
    let filters = ["lamppost/v1/nodes/+/+/pred-hist/+"];
    let mut history = Subscriber::connect(&world.centre_broker(), "history", &filters).await?;
    let mut local = world.watch(NODE).await?;

    feed.burst(30, &mut local).await?;
    while live.try_next().is_some() {}
    let mut idle = Latencies::default();
    let end = Instant::now() + IDLE;
    feed.at_rate(&mut live, &mut idle, &mut local, |_| {
        Ok(Instant::now() < end)
    })
    .await?;

    world.set_uplink(NODE, Uplink::Down)?;
    feed.burst(backlog, &mut local).await?;
    while history.try_next().is_some() {}
    world.set_uplink(NODE, Uplink::Up)?;
    let (mut busy, mut replayed, mut first) = (Latencies::default(), 0, None);
    let give_up = Instant::now() + PATIENCE;
    feed.at_rate(&mut live, &mut busy, &mut local, |busy| {
        while let Some(message) = history.try_next() {
            let batch: Counted =
                serde_json::from_slice(&lamppost_tests::batch::unpacked(&message.payload)?)?;
            if first.is_none() {
                first = Some(Instant::now());
                // What was predicted while the link came up went to the backlog.
                *busy = Latencies::default();
            }
            replayed += batch.records.len() as u64;
        }
        if Instant::now() > give_up {
            bail!("{replayed} of {backlog} records came within {PATIENCE:?}");
        }
        Ok(replayed < backlog)
    })
    .await?;
    let took = first.context("nothing was replayed")?.elapsed();
    world
        .reported(NODE, "an empty outbox", |reported| {
            (reported.outbox.records == 0).then_some(())
        })
        .await?;
    world.stop().await?;
    Ok(report(replayed, took, &idle, &busy))
}

/// As much of a batch as counting its records takes: the agent and the coordinator share the processors with this.
#[derive(serde::Deserialize)]
struct Counted {
    records: Vec<serde::de::IgnoredAny>,
}

fn report(replayed: u64, took: Duration, idle: &Latencies, busy: &Latencies) -> Vec<Goal> {
    let rate = replayed as f64 / took.as_secs_f64();
    let row = |name: &str, latencies: &Latencies| {
        vec![
            name.to_owned(),
            number(latencies.micros.len() as f64),
            number(latencies.quantile(0.5)),
            number(latencies.quantile(0.99)),
            number(latencies.quantile(1.0)),
        ]
    };
    let header = ["", "predictions", "p50 us", "p99 us", "worst us"];
    report::table(
        &format!(
            "Live at {RATE} readings/s, reading due to prediction at the centre; {replayed} records replayed in {:.1} s",
            took.as_secs_f64()
        ),
        &header,
        &[
            row("idle", idle),
            row("while the backlog is replayed", busy),
        ],
    );
    vec![
        Goal {
            what: format!("catch-up, of the {RATE} records/s that came in meanwhile"),
            measured: rate / RATE,
            limit: 50.0,
            at_least: true,
            unit: "x",
        },
        Goal {
            what: "live p99 during catch-up, of idle".to_owned(),
            measured: busy.quantile(0.99) / idle.quantile(0.99),
            limit: 2.0,
            at_least: false,
            unit: "x",
        },
    ]
}

/// The node's sensor.
struct Feed {
    sensor: Sensor,
    topic: &'static str,
    next: u64,
}

impl Feed {
    async fn send(&mut self) -> anyhow::Result<()> {
        let mut json = Vec::new();
        reading::put_json(&mut json, self.next);
        self.next += 1;
        Ok(self.sensor.publish(self.topic, json).await?)
    }

    /// Sends readings as fast as they are predicted.
    async fn burst(&mut self, count: u64, local: &mut Subscriber) -> anyhow::Result<()> {
        let end = self.next + count;
        let mut predicted = self.next;
        while predicted + 1 < end {
            while self.next < end && self.next < predicted + BURST {
                self.send().await?;
            }
            // The first window is full with reading 23.
            if end < 24 {
                return Ok(());
            }
            let message = tokio::time::timeout(PATIENCE, local.next()).await??;
            predicted = reading::index_of(&message.payload).unwrap_or(predicted);
        }
        Ok(())
    }

    /// Sends at [`RATE`], each reading at its due time, while `goes_on` says so; takes how long each prediction took to the
    /// centre.
    async fn at_rate(
        &mut self,
        live: &mut Subscriber,
        latencies: &mut Latencies,
        local: &mut Subscriber,
        mut goes_on: impl FnMut(&mut Latencies) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / RATE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut due, mut until) = (BTreeMap::new(), None);
        while until.is_none_or(|until| Instant::now() < until) {
            tokio::select! {
                tick = ticks.tick(), if until.is_none() => {
                    due.insert(self.next, tick);
                    self.send().await?;
                    while local.try_next().is_some() {}
                    if !goes_on(latencies)? {
                        until = Some(Instant::now() + TAIL);
                    }
                }
                message = live.next() => {
                    let index = reading::index_of(&message?.payload);
                    if let Some(sent) = index.and_then(|index| due.remove(&index)) {
                        latencies.micros.push(micros(sent.elapsed()));
                    }
                }
                () = tokio::time::sleep(TAIL), if until.is_some() => {}
            }
        }
        Ok(())
    }
}

/// Microseconds from when a reading was due to its prediction at the centre.
#[derive(Debug, Default)]
struct Latencies {
    micros: Vec<f64>,
}

impl Latencies {
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let at = (last as f64 * share).ceil() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }
}
