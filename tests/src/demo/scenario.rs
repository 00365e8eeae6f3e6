//! What happens in the demo, and when.
//!
//! The start takes as long as it takes; then the readings are played until some seconds before the end. Each scene begins
//! at its share of that time and goes on until what it shows has come true, or the demo's time is over.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lamppost_models::message::{NodeState, TrialState};
use tokio::time::Instant;

use super::args::Args;
use super::lamppost::{Lamppost, serve_args};
use super::promises::{self, Finding, Outage};
use super::stage::{NodeView, Stage};
use super::summary::Summary;
use crate::fleet::{Bus, NodePlan, Source, Uplinks, coordinator_toml};
use crate::link::Uplink;
use crate::mqtt::{BrokerAddr, Subscriber};
use crate::zoo;

/// Kept of the time for the end: the last predictions reach the coordinator and are counted.
const COUNTING: Duration = Duration::from_secs(4);
/// How long a process may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How long a step that needs the fleet's answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Forecasts that a node must make after it refused a model, to show that the old one goes on.
const GOES_ON: usize = 20;

/// Readings a second once the demo is over and kept: hours of them are left.
pub const SPEED_KEPT: f64 = 2.0;

/// The node that gets 1.1.0 first, and the one that keeps 1.0.0 meanwhile; both replay the same hours.
const FIRST: &str = "i94-a";
const SECOND: &str = "i94-b";
/// The node whose link is cut.
const CUT: &str = "air-1";

/// Shares of the playing time.
const FIRST_ROLLOUT: f64 = 0.10;
const LINK_CUT: f64 = 0.20;
const LINK_BACK: f64 = 0.45;
const BROKEN_PUSH: f64 = 0.55;
const SECOND_ROLLOUT: f64 = 0.70;
const ALTERED_ROLLOUT: f64 = 0.80;

/// Plays the demo and settles its promises; gives what is needed to go on talking to the fleet.
///
/// # Errors
/// When a process, the CLI or the coordinator fails in a way that leaves nothing to measure.
pub async fn play(
    stage: &mut Stage,
    summary: &mut Summary,
    args: &Args,
    dir: &Path,
    deadline: Instant,
) -> anyhow::Result<Lamppost> {
    let bus = args.broker.map_or(Bus::Embedded, Bus::External);
    let lamppost = open(stage, summary, dir, bus).await?;
    let begin = Instant::now();
    let span = deadline
        .saturating_duration_since(begin)
        .saturating_sub(COUNTING);
    let acts = Acts {
        begin,
        span,
        deadline,
    };
    start_sensors(stage, args, &acts);
    first_forecasts(stage, summary, &acts).await?;
    let outage = Box::pin(scenes(stage, summary, &lamppost, dir, &acts)).await?;
    count(stage, summary, &lamppost, &outage, &acts).await?;
    Ok(lamppost)
}

/// When the scenes are.
struct Acts {
    begin: Instant,
    span: Duration,
    deadline: Instant,
}

impl Acts {
    fn at(&self, share: f64) -> Instant {
        self.begin + self.span.mul_f64(share)
    }

    fn answer(&self) -> Instant {
        self.deadline.min(Instant::now() + ANSWER_WITHIN)
    }
}

/// Starts the coordinator and the nodes, and gives them their first models.
async fn open(
    stage: &mut Stage,
    summary: &mut Summary,
    dir: &Path,
    bus: Bus,
) -> anyhow::Result<Lamppost> {
    let began = Instant::now();
    let traffic = Source::traffic()?;
    let plans = [
        NodePlan::new("minneapolis", FIRST, &["canary", "all"], traffic.clone())?,
        NodePlan::new("minneapolis", SECOND, &["all"], traffic)?,
        NodePlan::new("beijing", CUT, &["all"], Source::air()?)?,
    ];
    let lamppost = start_coordinator(stage, dir, bus, &plans).await?;
    stage.log(&format!(
        "coordinator is up: broker {}, HTTP API {}",
        lamppost.centre.mqtt, lamppost.centre.http
    ));
    stage.centre = Some(
        Subscriber::connect(
            &BrokerAddr::open(lamppost.centre.mqtt),
            "onlooker",
            &["lamppost/v1/nodes/#"],
        )
        .await?,
    );
    for (model, file) in [
        (zoo::TRAFFIC_FLOW_1_0_0, "traffic-flow-1.0.0.tar"),
        (zoo::AIR_QUALITY_1_0_0, "air-quality-1.0.0.tar"),
    ] {
        let path = dir.join(file);
        std::fs::write(&path, model.bundle()?)?;
        lamppost.push(stage, &path).await?.success("push")?;
    }
    for model in ["traffic-flow", "air-quality"] {
        lamppost.rollout(stage, model, "1.0.0", "all").await?;
    }
    stage.log("traffic-flow 1.0.0 and air-quality 1.0.0 pushed and released to group all");
    for plan in plans {
        let node = start_node(stage, dir, &lamppost, plan).await?;
        stage.log(&format!(
            "node {} is up: its own broker on {}",
            node.path, node.broker.addr
        ));
        stage.nodes.push(node);
    }
    let running = stage
        .run_until(Instant::now() + ANSWER_WITHIN, |stage| {
            stage.nodes.iter().all(|node| node.runs("1.0.0"))
        })
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    let line = format!(
        "4 processes; 3 nodes took their first model from the update topic; {seconds:.1} s from nothing"
    );
    stage.log(&line);
    summary.settle(promises::FLEET, running, vec![line]);
    if !running {
        bail!("not every node reports that it runs 1.0.0");
    }
    Ok(lamppost)
}

async fn start_coordinator(
    stage: &mut Stage,
    dir: &Path,
    bus: Bus,
    plans: &[NodePlan],
) -> anyhow::Result<Lamppost> {
    let (config, ready) = (dir.join("coordinator.toml"), dir.join("coordinator.json"));
    std::fs::write(
        &config,
        coordinator_toml(&dir.join("coordinator"), bus, plans),
    )?;
    stage
        .children
        .start("coordinator", &serve_args(&config, &ready))?;
    let ready = stage
        .children
        .ready("coordinator", &ready, Instant::now() + READY_WITHIN)
        .await?;
    Lamppost::new(&ready, bus).await
}

async fn start_node(
    stage: &mut Stage,
    dir: &Path,
    lamppost: &Lamppost,
    plan: NodePlan,
) -> anyhow::Result<NodeView> {
    let name = plan.path.node.to_string();
    let (config, ready) = (
        dir.join(format!("{name}.toml")),
        dir.join(format!("{name}.json")),
    );
    let uplinks = Uplinks::open(&lamppost.centre).await?;
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let centre = uplinks.addr(&lamppost.centre);
    std::fs::write(&config, plan.toml(&dir.join(&name), free, Some(&centre)))?;
    let args = [
        "agent".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
        "--ready-file".as_ref(),
        ready.as_os_str(),
    ];
    stage.children.start(&name, &args)?;
    let ready = stage
        .children
        .ready(&name, &ready, Instant::now() + READY_WITHIN)
        .await?;
    let ready: serde_json::Value =
        serde_json::from_str(&ready).context("ready file of an agent")?;
    let broker = ready["broker"]
        .as_str()
        .context("broker in the ready file of an agent")?
        .parse()?;
    let broker = BrokerAddr::open(broker);
    let local =
        Subscriber::connect(&broker, "dashboard", &["lamppost/v1/nodes/+/+/pred/+"]).await?;
    Ok(NodeView::new(
        plan.path,
        plan.source,
        broker,
        local,
        uplinks,
    ))
}

fn start_sensors(stage: &mut Stage, args: &Args, acts: &Acts) {
    let hours = stage
        .nodes
        .iter()
        .map(|node| node.source.recording.messages().len())
        .min()
        .unwrap_or(0);
    // The shortest recording lasts to the end, with a tenth to spare.
    let speed = f64::from(args.speed).min(hours as f64 * 0.9 / acts.span.as_secs_f64().max(1.0));
    for node in &mut stage.nodes {
        node.start_sensor(speed, acts.begin);
    }
    stage.log(&format!(
        "sensors send {speed:.0} readings a second to each node, as JSON over MQTT"
    ));
}

async fn first_forecasts(
    stage: &mut Stage,
    summary: &mut Summary,
    acts: &Acts,
) -> anyhow::Result<()> {
    let came = stage
        .run_until(acts.answer(), |stage| {
            stage.nodes.iter().all(|node| !node.seen.is_empty())
        })
        .await?;
    if !came {
        let silent: Vec<_> = stage
            .nodes
            .iter()
            .filter(|node| node.seen.is_empty())
            .map(|node| node.path.to_string())
            .collect();
        summary.settle(
            promises::PREDICTIONS,
            false,
            vec![format!("no forecast from {}", silent.join(", "))],
        );
        bail!("no forecast from {}", silent.join(", "));
    }
    stage.log("a stock MQTT client on each node's own broker receives forecasts");
    Ok(())
}

async fn scenes(
    stage: &mut Stage,
    summary: &mut Summary,
    lamppost: &Lamppost,
    dir: &Path,
    acts: &Acts,
) -> anyhow::Result<Outage> {
    stage.run_to(acts.at(FIRST_ROLLOUT)).await?;
    roll_out_to_canary(stage, lamppost, dir, acts).await?;
    stage.run_to(acts.at(LINK_CUT)).await?;
    let outage = cut_a_link(stage, acts).await?;
    stage.run_to(acts.at(BROKEN_PUSH)).await?;
    let finding = push_a_broken_bundle(stage, lamppost, dir).await?;
    summary.settle(promises::PREFLIGHT, finding.kept, finding.measured);
    stage.run_to(acts.at(SECOND_ROLLOUT)).await?;
    roll_out_to_all(stage, lamppost, acts).await?;
    stage.run_to(acts.at(ALTERED_ROLLOUT)).await?;
    let finding = roll_out_an_altered_artifact(stage, lamppost, dir, acts).await?;
    summary.settle(promises::ALTERED, finding.kept, finding.measured);
    stage.run_to(acts.at(1.0)).await?;
    Ok(outage)
}

async fn roll_out_to_canary(
    stage: &mut Stage,
    lamppost: &Lamppost,
    dir: &Path,
    acts: &Acts,
) -> anyhow::Result<()> {
    let path = dir.join("traffic-flow-1.1.0.tar");
    std::fs::write(&path, zoo::TRAFFIC_FLOW_1_1_0.bundle()?)?;
    lamppost.push(stage, &path).await?.success("push")?;
    lamppost
        .rollout(stage, "traffic-flow", "1.1.0", "canary")
        .await?;
    let began = Instant::now();
    stage.log(&format!("traffic-flow 1.1.0 released to group canary ({FIRST}); {SECOND} keeps 1.0.0 and replays the same hours"));
    if !stage
        .run_until(acts.answer(), |stage| {
            stage.node(FIRST).is_ok_and(|node| node.runs("1.1.0"))
        })
        .await?
    {
        bail!("{FIRST} does not report that it runs 1.1.0");
    }
    stage.log(&format!(
        "{FIRST} runs 1.1.0, {:.1} s after the release",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn cut_a_link(stage: &mut Stage, acts: &Acts) -> anyhow::Result<Outage> {
    let node = stage.node(CUT)?;
    node.set_uplink(Uplink::Down);
    let mut outage = Outage {
        before: node.seen.ids(),
        ..Outage::default()
    };
    let cut = Instant::now();
    let back_at = acts.at(LINK_BACK);
    stage.log(&format!(
        "link of {CUT} is cut; its sensor and its own broker go on"
    ));
    let down = |node: &NodeView| {
        node.status
            .as_ref()
            .is_some_and(|status| status.state == NodeState::Down)
    };
    outage.noticed = stage
        .run_until(back_at, |stage| {
            stage.node(CUT).is_ok_and(|node| down(node))
        })
        .await?;
    if outage.noticed {
        stage.log(&format!(
            "coordinator sees {CUT} down, {:.1} s after the cut",
            cut.elapsed().as_secs_f64()
        ));
    }
    stage.run_to(back_at).await?;
    let node = stage.node(CUT)?;
    node.set_uplink(Uplink::Up);
    outage.after = node.seen.ids();
    outage.seconds = cut.elapsed().as_secs_f64();
    let (back, meanwhile) = (Instant::now(), outage.meanwhile());
    stage.log(&format!(
        "link of {CUT} is back after {:.1} s; {} forecasts wait in its outbox",
        outage.seconds,
        meanwhile.len()
    ));
    let there = stage
        .run_until(acts.answer(), |stage| {
            stage
                .node(CUT)
                .is_ok_and(|node| node.centre.has_all(&meanwhile))
        })
        .await?;
    if there {
        let seconds = back.elapsed().as_secs_f64();
        outage.caught_up = Some(seconds);
        stage.log(&format!(
            "all {} are at the coordinator, {seconds:.1} s after the link came back",
            meanwhile.len()
        ));
    }
    Ok(outage)
}

async fn push_a_broken_bundle(
    stage: &mut Stage,
    lamppost: &Lamppost,
    dir: &Path,
) -> anyhow::Result<Finding> {
    let path = dir.join("traffic-flow-1.2.0-broken.tar");
    std::fs::write(&path, zoo::TRAFFIC_FLOW_1_1_0.with_altered_golden("1.2.0")?)?;
    stage.log("push of a traffic-flow 1.2.0 that does not reproduce its own golden vectors");
    let said = lamppost.push(stage, &path).await?;
    let (refused, words) = (said.code != Some(0), said.complaint());
    stage.log(&format!(
        "coordinator {}: {words}",
        if refused { "refuses it" } else { "TAKES it" }
    ));
    let code = said.code.map_or("none".to_owned(), |code| code.to_string());
    Ok(Finding {
        kept: refused,
        measured: vec![format!("golden vectors altered; exit code {code}: {words}")],
    })
}

async fn roll_out_to_all(
    stage: &mut Stage,
    lamppost: &Lamppost,
    acts: &Acts,
) -> anyhow::Result<()> {
    lamppost
        .rollout(stage, "traffic-flow", "1.1.0", "all")
        .await?;
    stage.log("traffic-flow 1.1.0 released to group all");
    if !stage
        .run_until(acts.answer(), |stage| {
            stage.node(SECOND).is_ok_and(|node| node.runs("1.1.0"))
        })
        .await?
    {
        bail!("{SECOND} does not report that it runs 1.1.0");
    }
    stage.log(&format!("{SECOND} runs 1.1.0 too"));
    Ok(())
}

/// A good bundle enters the registry and has bits flipped on its way to a node, as a bad link or an intruder would: the
/// digest in the signed release tells.
async fn roll_out_an_altered_artifact(
    stage: &mut Stage,
    lamppost: &Lamppost,
    dir: &Path,
    acts: &Acts,
) -> anyhow::Result<Finding> {
    let path = dir.join("traffic-flow-1.2.0.tar");
    std::fs::write(&path, zoo::TRAFFIC_FLOW_1_1_0.renamed("1.2.0")?)?;
    lamppost.push(stage, &path).await?.success("push")?;
    stage.node(SECOND)?.uplinks.alter_artifacts(true);
    lamppost
        .rollout(stage, "traffic-flow", "1.2.0", "all")
        .await?;
    stage.log(&format!(
        "traffic-flow 1.2.0 released to group all; bits of it flip on their way to {SECOND}"
    ));
    let refusal = |node: &NodeView| match &node.model()?.candidate.as_ref()?.state {
        TrialState::Refused { verdict, detail } => Some(format!("{verdict:?}: {detail}")),
        TrialState::Fetching { .. }
        | TrialState::Waiting { .. }
        | TrialState::Checking
        | TrialState::Shadowing { .. } => None,
    };
    let mut verdict = None;
    stage
        .run_until(acts.answer(), |stage| {
            verdict = stage.node(SECOND).ok().and_then(|node| refusal(node));
            verdict.is_some()
        })
        .await?;
    let Some(verdict) = verdict else {
        return Ok(Finding {
            kept: false,
            measured: vec![format!("{SECOND} does not report a refusal")],
        });
    };
    stage.log(&format!("{SECOND} refuses it ({verdict})"));
    let since = stage.node(SECOND)?.last_sent();
    let goes_on = |stage: &mut Stage| {
        stage.node(SECOND).is_ok_and(|node| {
            node.runs("1.1.0") && promises::later_than(&node.seen, "1.1.0", since) >= GOES_ON
        })
    };
    let went_on = stage.run_until(acts.answer(), goes_on).await?;
    let node = stage.node(SECOND)?;
    let wrong = promises::later_than(&node.seen, "1.2.0", lamppost_models::Timestamp::EPOCH);
    let later = promises::later_than(&node.seen, "1.1.0", since);
    let line = format!("1.1.0 goes on: {later} forecasts since, {wrong} by 1.2.0");
    stage.log(&line);
    stage.node(SECOND)?.uplinks.alter_artifacts(false);
    lamppost.rollback(stage, "traffic-flow", "all").await?;
    stage.log("rolled back: group all is to run traffic-flow 1.1.0 again");
    Ok(Finding {
        kept: went_on && wrong == 0,
        measured: vec![format!("{SECOND}: {verdict}"), line],
    })
}

/// Leaves the fleet running with slow sensors.
///
/// # Errors
/// When a process ends by itself.
pub async fn go_on(stage: &mut Stage) -> anyhow::Result<()> {
    let start = Instant::now();
    for node in &mut stage.nodes {
        node.start_sensor(SPEED_KEPT, start);
    }
    loop {
        stage
            .run_to(Instant::now() + Duration::from_hours(1))
            .await?;
    }
}

/// Stops the sensors, lets the last forecasts arrive, and counts.
async fn count(
    stage: &mut Stage,
    summary: &mut Summary,
    lamppost: &Lamppost,
    outage: &Outage,
    acts: &Acts,
) -> anyhow::Result<()> {
    for at in 0..stage.nodes.len() {
        stage.nodes[at].stop_sensor().await?;
    }
    stage.log("sensors stopped; the last forecasts are on their way");
    stage
        .run_until(acts.deadline - Duration::from_secs(1), |stage| {
            stage.nodes.iter().all(NodeView::is_settled)
        })
        .await?;
    let mut stored = Finding {
        kept: true,
        measured: Vec::new(),
    };
    for at in 0..stage.nodes.len() {
        let path = stage.nodes[at].path.clone();
        let there = lamppost.stored(stage, &path).await?;
        let node = &stage.nodes[at];
        let finding = promises::stored(node, &there);
        stored.kept &= finding.kept;
        stored.measured.extend(finding.measured);
        if node.path.node.as_str() == CUT {
            let finding = outage.judge(node, &there);
            summary.settle(promises::OUTAGE, finding.kept, finding.measured);
        }
    }
    summary.settle(promises::STORED, stored.kept, stored.measured);
    let finding = promises::predictions(&stage.nodes);
    summary.settle(promises::PREDICTIONS, finding.kept, finding.measured);
    if let [first, second, ..] = &stage.nodes[..] {
        let finding = promises::versions(second, first);
        summary.settle(promises::ROLLOUT, finding.kept, finding.measured);
    }
    Ok(())
}
