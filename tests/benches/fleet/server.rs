//! The whole coordinator under a simulated fleet, which speaks to it through a broker in this process.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lamppost_broker::{Broker, Limits, LinkPublisher, Publish, PublishProperties, QoS};
use lamppost_models::{Timestamp, Topic, TopicRoot};
use lamppost_tests::fleet::Bus;
use serde_json::{Value, json};

use crate::centre::{Centre, url, waves};
use crate::nodes::{GROUP, MODEL, Node, Trial, Version};

/// Nodes that speak before the coordinator has taken in those before them.
const CHUNK: usize = 1_000;
/// How long it may take them in.
const TAKEN_WITHIN: Duration = Duration::from_mins(1);
/// Requests of which the median counts.
const ROUNDS: usize = 9;

/// What was found with a number of nodes.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) nodes: usize,
    /// Heap and stacks of the process beyond those of one without nodes, a node.
    pub(crate) memory: f64,
    /// The same in the middle of a rollout.
    pub(crate) memory_rollout: f64,
    /// A report, from the broker to the disk.
    pub(crate) report: Duration,
    /// A start with all of them in the store, in the middle of a rollout.
    pub(crate) restart: Duration,
    pub(crate) answers: Vec<Answer>,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) request: &'static str,
    pub(crate) time: Duration,
    pub(crate) bytes: usize,
}

struct Feed {
    publisher: LinkPublisher,
    root: TopicRoot,
    nodes: Vec<Node>,
    versions: [Version; 2],
    /// Every message has a time of its own, a second after the one before.
    clock: Timestamp,
}

/// Measures a fleet of so many nodes.
pub(crate) async fn measure(demo: &Path, count: usize) -> anyhow::Result<Found> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(lamppost_broker::Config {
        listen: Some(([127, 0, 0, 1], 0).into()),
        allow_anonymous: true,
        protected: Vec::new(),
        limits: Limits {
            // A chunk of reports waits here without any loss.
            log_bytes_per_filter: 64 << 20,
            ..Limits::default()
        },
        ..Default::default()
    })
    .await?;
    let mqtt = broker.local_addr().context("the broker's address")?;
    // Nobody of these nodes speaks twice in three minutes.
    let keys = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[broker]\nurl = \"{}\"\n[inventory]\nnodes_max = {count}\nstale_after = \"1d\"\n",
        url(mqtt)
    );
    let bus = Bus::External(mqtt);
    let centre = Centre::start(demo, dir.path(), bus, &keys).await?;
    let versions = [centre.push(0).await?, centre.push(1).await?];
    centre.release(&versions[0]).await?;
    let mut feed = Feed {
        publisher: broker.link("feed")?.split().0,
        root: TopicRoot::default(),
        nodes: (0..count).map(Node::new).collect::<Result<_, _>>()?,
        versions,
        clock: Timestamp::EPOCH.offset_ms(1_800_000_000_000),
    };
    let empty = centre.memory()?.anonymous;
    let a_node = |bytes: u64| bytes.saturating_sub(empty) as f64 / count as f64;
    feed.appear(&centre).await?;
    let memory = a_node(centre.memory()?.anonymous);
    let wanted = waves(&feed.versions[1], &["50 %", "100 %"], &gate(), "10 %");
    let mut answers = vec![plan(&centre, &wanted).await?];
    let started = centre.api.post("rollouts", &wanted).await?;
    let rollout = started["campaign"]["campaign"]["id"].as_str();
    let rollout = rollout.context("a rollout's id")?.to_owned();
    let report = feed.report(&centre, &rollout, Trial::Shadow, count).await?;
    feed.report(&centre, &rollout, Trial::Passed, count / 2)
        .await?;
    let memory_rollout = a_node(centre.memory()?.anonymous);
    answers.extend(ask(&centre, &feed.nodes).await?);
    centre.stop().await;
    let again = Centre::start(demo, dir.path(), bus, &keys).await?;
    let restart = again.start;
    again.stop().await;
    broker.stop().await;
    Ok(Found {
        nodes: count,
        memory,
        memory_rollout,
        report,
        restart,
        answers,
    })
}

/// Labels are looked at in both ways, and the wave is not over while half of its nodes are in shadow.
fn gate() -> Value {
    json!({
        "reported_share_min": "100 %", "failed_share_max": "5 %", "latency_ratio_max": 1.5,
        "quality": { "kind": "both" },
    })
}

impl Feed {
    /// Every node connects, and reports that it runs the first version.
    async fn appear(&mut self, centre: &Centre) -> anyhow::Result<()> {
        for begin in (0..self.nodes.len()).step_by(CHUNK) {
            let end = self.nodes.len().min(begin + CHUNK);
            self.clock = self.clock.offset_ms(1_000);
            for node in &self.nodes[begin..end] {
                let status = node.status(self.clock).to_string();
                self.publish(&Topic::Status(node.path.clone()), status)
                    .await?;
            }
            self.say(begin..end, None, Trial::Before, 0).await?;
            self.taken(centre, end - 1).await?;
        }
        Ok(())
    }

    /// So many nodes report their trial; gives what one takes.
    async fn report(
        &mut self,
        centre: &Centre,
        rollout: &str,
        trial: Trial,
        count: usize,
    ) -> anyhow::Result<Duration> {
        let mut taken = Duration::ZERO;
        for begin in (0..count).step_by(CHUNK) {
            let end = count.min(begin + CHUNK);
            self.clock = self.clock.offset_ms(1_000);
            let begun = Instant::now();
            self.say(begin..end, Some(rollout), trial, 60).await?;
            self.taken(centre, end - 1).await?;
            taken += begun.elapsed();
        }
        Ok(taken / u32::try_from(count)?)
    }

    async fn say(
        &self,
        nodes: std::ops::Range<usize>,
        rollout: Option<&str>,
        trial: Trial,
        labels: u64,
    ) -> anyhow::Result<()> {
        let [from, to] = &self.versions;
        for node in &self.nodes[nodes] {
            let report = node.report(self.clock, [from, to], rollout, trial, labels);
            let topic = Topic::Reported(node.path.clone());
            self.publish(&topic, report.to_string()).await?;
        }
        Ok(())
    }

    async fn publish(&self, topic: &Topic, payload: String) -> anyhow::Result<()> {
        let publish = Publish {
            topic: self.root.format(topic),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            // This broker need not remember them.
            retain: false,
            properties: PublishProperties::default(),
        };
        Ok(self.publisher.publish(publish).await?)
    }

    /// Waits until the last of them is in the inventory, and so all before it are on the disk.
    async fn taken(&self, centre: &Centre, last: usize) -> anyhow::Result<()> {
        let path = &self.nodes[last].path;
        let deadline = tokio::time::Instant::now() + TAKEN_WITHIN;
        let there = || async {
            let node = centre.api.node(path).await.ok()?;
            (node.reported?.at == self.clock).then_some(())
        };
        Ok(lamppost_tests::wait::until("a report in the inventory", deadline, there).await?)
    }
}

async fn plan(centre: &Centre, wanted: &Value) -> anyhow::Result<Answer> {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let plan = centre.api.post("rollouts/plan", wanted).await?;
        times.push(begun.elapsed());
        ensure!(plan["how"] == "waves", "{plan}");
        bytes = plan.to_string().len();
    }
    Ok(Answer {
        request: "POST rollouts/plan",
        time: median(times),
        bytes,
    })
}

async fn ask(centre: &Centre, nodes: &[Node]) -> anyhow::Result<Vec<Answer>> {
    let one = format!("nodes/{}", nodes[nodes.len() / 2].path);
    let rollout = format!("rollouts/{GROUP}/{MODEL}");
    let requests = [
        ("GET nodes, a page of 1,000", "nodes".to_owned()),
        ("GET nodes/SITE/NODE", one),
        ("GET rollouts", "rollouts".to_owned()),
        (
            "GET rollouts/GROUP/MODEL, counts",
            format!("{rollout}?nodes=0"),
        ),
        ("GET rollouts/GROUP/MODEL, 1,000 nodes", rollout),
        ("GET health", "health".to_owned()),
    ];
    let mut answers = Vec::new();
    for (request, path) in requests {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            bytes = centre.api.body(&path).await?.len();
            times.push(begun.elapsed());
        }
        answers.push(Answer {
            request,
            time: median(times),
            bytes,
        });
    }
    Ok(answers)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
