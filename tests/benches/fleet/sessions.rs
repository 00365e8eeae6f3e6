//! Live nodes at the coordinator's own broker: how many messages a wave costs, and how soon all have reported it.
//!
//! A session does what an agent does with a release, less the trial: it verifies the envelope, finds whether it is meant,
//! fetches the bundle on a connection of its own, verifies its digest, and reports that it runs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lamppost_models::release::{Envelope, PublicKey};
use lamppost_models::rollout::{Tags, Who};
use lamppost_models::{Digest, GroupId, Timestamp, Topic, TopicRoot};
use lamppost_tests::api::Api;
use lamppost_tests::fleet::Bus;
use lamppost_tests::wait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::centre::{Centre, waves};
use crate::mqtt::Session;
use crate::nodes::{GROUP, MODEL, Node, Trial, Version};

/// Sessions that connect at the same time.
const CONNECTING: usize = 64;
/// How long all sessions may take for anything.
const DONE_WITHIN: Duration = Duration::from_mins(2);

/// What was found with a number of sessions.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) sessions: usize,
    /// From asking for a release to every report being in the coordinator's count.
    pub(crate) reported: Duration,
    pub(crate) bundle_bytes: u64,
    /// Messages on the update topic for that.
    pub(crate) published: u64,
    /// Steps of a rollout wave by wave, its end included.
    pub(crate) steps: u64,
    /// Messages on the update topic for these.
    pub(crate) published_in_waves: u64,
    /// From asking for that rollout to its end.
    pub(crate) promoted: Duration,
    /// Memory of the coordinator with its broker beyond that without any session, a session.
    pub(crate) memory: f64,
}

/// What all sessions share.
struct Fleet {
    mqtt: SocketAddr,
    api: Api,
    key: PublicKey,
    root: TopicRoot,
    /// By number, the versions that a report names.
    versions: Vec<Version>,
    connecting: Semaphore,
    fetched_bytes: AtomicU64,
}

/// Measures so many sessions.
pub(crate) async fn measure(demo: &Path, count: usize) -> anyhow::Result<Found> {
    let dir = tempfile::tempdir()?;
    let nodes: Vec<Node> = (0..count).map(Node::new).collect::<Result<_, _>>()?;
    let centre = Centre::start(demo, dir.path(), Bus::Embedded, &config(&nodes)?).await?;
    let mut pushed = Vec::new();
    for minor in 0..3 {
        pushed.push(centre.push(minor).await?);
    }
    centre.release(&pushed[0]).await?;
    let fleet = Arc::new(Fleet {
        mqtt: centre.addr.mqtt,
        api: centre.api.clone(),
        key: centre.addr.key.parse()?,
        root: TopicRoot::default(),
        versions: pushed.clone(),
        connecting: Semaphore::new(CONNECTING),
        fetched_bytes: AtomicU64::new(0),
    });
    let published = Arc::new(AtomicU64::new(0));
    let empty = centre.memory()?.anonymous;
    let mut tasks = JoinSet::new();
    tasks.spawn(count_releases(Arc::clone(&fleet), Arc::clone(&published)));
    for node in nodes {
        tasks.spawn(live(Arc::clone(&fleet), node));
    }
    let api = &centre.api;
    all_run(api, &mut tasks, &pushed[0], count).await?;
    let memory = centre.memory()?.anonymous.saturating_sub(empty) as f64 / count as f64;
    let (fetched, begun) = (fleet.fetched_bytes.load(Ordering::Relaxed), Instant::now());
    centre.release(&pushed[1]).await?;
    all_run(api, &mut tasks, &pushed[1], count).await?;
    let reported = begun.elapsed();
    let bundle_bytes = (fleet.fetched_bytes.load(Ordering::Relaxed) - fetched) / count as u64;
    let at_once = published.swap(0, Ordering::Relaxed);
    let begun = Instant::now();
    let gate = json!({ "reported_share_min": "100 %" });
    let wanted = waves(&pushed[2], &["5 %", "25 %", "100 %"], &gate, "0 %");
    api.post("rollouts", &wanted).await?;
    all_run(api, &mut tasks, &pushed[2], count).await?;
    let promoted = begun.elapsed();
    let steps = steps(api).await?;
    // The last message may be on its way to the one who counts them.
    let last = || async { (published.load(Ordering::Relaxed) >= steps).then_some(()) };
    wait::until("the last release", deadline(), last).await?;
    centre.stop().await;
    tasks.shutdown().await;
    Ok(Found {
        sessions: count,
        reported,
        bundle_bytes,
        published: at_once,
        steps,
        published_in_waves: published.load(Ordering::Relaxed),
        promoted,
        memory,
    })
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + DONE_WITHIN
}

fn password(node: &Node) -> String {
    format!("secret of {}", node.path)
}

fn config(nodes: &[Node]) -> anyhow::Result<String> {
    let mut config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[broker]\nlisten = \"127.0.0.1:0\"\nclients_max = {}\n",
        nodes.len() + 16
    );
    for node in nodes {
        let lamppost_models::NodePath { site, node: name } = &node.path;
        let password = password(node);
        write!(
            config,
            "[[broker.node]]\nsite = \"{site}\"\nnode = \"{name}\"\npassword = \"{password}\"\n"
        )?;
    }
    Ok(config)
}

/// Waits until all nodes run a version by the coordinator's count, and no rollout is under way.
async fn all_run(
    api: &Api,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    version: &Version,
    count: usize,
) -> anyhow::Result<()> {
    let there = || async {
        let rollouts: Value = api.get("rollouts").await.ok()?;
        let rollout = &rollouts[0];
        let stable = rollout["stable"]["digest"] == json!(version.digest);
        (stable && rollout["summary"]["running"] == json!(count)).then_some(())
    };
    tokio::select! {
        done = wait::until("all nodes running a version", deadline(), there) => Ok(done?),
        // They live as long as the coordinator does.
        Some(ended) = tasks.join_next() => {
            ended?.context("a session ended")?;
            anyhow::bail!("a session ended")
        }
    }
}

/// Steps of the last rollout that made a release.
async fn steps(api: &Api) -> anyhow::Result<u64> {
    let rollouts: Value = api.get("rollouts").await?;
    let steps = rollouts[0]["campaign"]["campaign"]["steps"].as_array();
    let steps = steps.context("steps of the rollout")?.iter();
    Ok(steps.filter(|step| step["sequence"].is_u64()).count() as u64)
}

/// Counts what is published on all update topics from now on.
async fn count_releases(fleet: Arc<Fleet>, published: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut session = Session::open(fleet.mqtt, "viewer", None).await?;
    session
        .subscribe(&format!("{}/models/#", fleet.root))
        .await?;
    loop {
        if !session.next().await?.retained {
            published.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A node, until its connection ends.
async fn live(fleet: Arc<Fleet>, node: Node) -> anyhow::Result<()> {
    let name = node.path.to_string();
    let groups: Vec<GroupId> = vec![GROUP.parse()?];
    let tags = Tags::new();
    let mut session = {
        let _place = fleet.connecting.acquire().await?;
        let login = Some((name.as_str(), password(&node)));
        let mut session = Session::open(fleet.mqtt, &name, login).await?;
        let update = Topic::Release {
            group: groups[0].clone(),
            model: MODEL.parse()?,
        };
        session.subscribe(&fleet.root.format(&update)).await?;
        let status = node.status(now()).to_string();
        let topic = fleet.root.format(&Topic::Status(node.path.clone()));
        session.publish(&topic, status.as_bytes()).await?;
        session
    };
    let reported = fleet.root.format(&Topic::Reported(node.path.clone()));
    let mut runs: Option<&Version> = None;
    loop {
        let message = session.next().await?;
        let release = Envelope::open(&message.payload, std::slice::from_ref(&fleet.key))?;
        let who = Who {
            path: &node.path,
            groups: &groups,
            tags: &tags,
        };
        let (wanted, candidate) = release.wanted(who);
        if runs.is_some_and(|runs| runs.digest == wanted.digest) {
            continue;
        }
        let bundle = fleet.api.artifact(wanted.digest).await?;
        ensure!(
            Digest::of(&bundle) == wanted.digest,
            "a bundle of other bytes"
        );
        let bytes = bundle.len() as u64;
        fleet.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        let known = fleet
            .versions
            .iter()
            .find(|known| known.digest == wanted.digest);
        let to = known.context("a version that was pushed")?;
        let trial = runs.map_or(Trial::Before, |_| Trial::Passed);
        let from = runs.unwrap_or(to);
        let rollout = candidate.map(|candidate| candidate.rollout.to_string());
        let report = node.report(now(), [from, to], rollout.as_deref(), trial, 60);
        session
            .publish(&reported, report.to_string().as_bytes())
            .await?;
        runs = Some(to);
    }
}

fn now() -> Timestamp {
    Timestamp::EPOCH.offset_ms(jiff::Timestamp::now().as_millisecond())
}
