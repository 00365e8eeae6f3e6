//! A disk without a free byte below a whole agent: predictions go on, what cannot be kept is told by number, no other model
//! is taken, and all is well once there is space again.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use lamppost_models::message::{NodeState, TrialState, Verdict};
use lamppost_models::{Reported, Status};
use lamppost_tests::link::Uplink;
use lamppost_tests::mqtt::{Message, Subscriber};
use lamppost_tests::world::{Place, World, deadline, row, run};
use lamppost_tests::{wait, zoo};
use serde_json::Value;

use super::ledger::sum;
use super::{MEETING, NodePlan, Source, WINDOW, counters, ids, push, start, stored_once, take};

/// More than a download leaves free, and a generation of the outbox.
const DISK: &str = "size=100m";
const NODE: &str = "i94";
const BEFORE: usize = WINDOW + 40;
const OFFLINE: usize = BEFORE + 100;
const FULL: usize = OFFLINE + 300;
const ONLINE: usize = FULL + 60;
const AFTER: usize = ONLINE + 60;

/// A small file system, for those who may mount one.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it, or says why there is none.
    fn mount(at: &Path) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
            .arg(at)
            .output()?;
        if mount.status.success() {
            return Ok(Some(Self(at.to_owned())));
        }
        let said = String::from_utf8_lossy(&mount.stderr);
        eprintln!(
            "SKIPPED: a full disk takes the right to mount a tmpfs: {}",
            said.trim()
        );
        Ok(None)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the space that is left.
    fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        for piece in [vec![1; 1 << 20], vec![1; 4096]] {
            while ballast.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    /// Gives some of it back.
    fn leave(&self, bytes: u64) -> anyhow::Result<()> {
        let ballast = File::options().write(true).open(self.ballast())?;
        Ok(ballast.set_len(ballast.metadata()?.len().saturating_sub(bytes))?)
    }

    /// Gives the space back.
    fn clear(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = Command::new("umount").arg("--lazy").arg(&self.0).output();
        if !unmount.is_ok_and(|unmount| unmount.status.success()) {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}

/// A fleet with one node, whose disk is small; `None` where none can be mounted.
async fn world() -> anyhow::Result<Option<(World, Disk)>> {
    let mut plan = NodePlan::new("minneapolis", NODE, &["all"], Source::traffic()?)?;
    // Nothing is left free on purpose: the writes themselves fail.
    plan.outbox_keys
        .push_str("reserve = \"0B\"\nflush = \"100ms\"\n");
    let world = World::start(super::DEMO, Place::Here, MEETING, vec![plan]).await?;
    let Some(disk) = Disk::mount(&world.dir().join(NODE))? else {
        world.stop().await?;
        return Ok(None);
    };
    push(&world, &[zoo::TRAFFIC_FLOW_1_0_0, zoo::TRAFFIC_FLOW_1_1_0]).await?;
    world.api.rollout("traffic-flow", "1.0.0", "all").await?;
    Ok(Some((world, disk)))
}

/// What the node says of itself at its own broker.
async fn says<T>(
    said: &mut Subscriber,
    what: &str,
    wanted: impl FnMut(&Message) -> Option<T>,
) -> anyhow::Result<T> {
    Ok(said.until(what, deadline(), wanted).await?)
}

async fn listen(world: &World) -> anyhow::Result<Subscriber> {
    let filters = [
        "lamppost/v1/nodes/+/+/status",
        "lamppost/v1/nodes/+/+/reported",
    ];
    Ok(Subscriber::connect(&world.broker_of(NODE)?, "operator", &filters).await?)
}

fn degraded(message: &Message) -> Option<String> {
    let status: Status = serde_json::from_slice(&message.payload).ok()?;
    match status.state {
        NodeState::Degraded { reason } => Some(reason),
        NodeState::Up | NodeState::Down => None,
    }
}

fn unwritten(message: &Message) -> Option<u64> {
    let reported: Reported = serde_json::from_slice(&message.payload).ok()?;
    Some(reported.outbox.unwritten).filter(|records| *records > 0)
}

/// Waits until the ledger has an explanation of each of so many records; how many of them are delivered.
async fn accounted_for(world: &World, made: u64) -> anyhow::Result<Value> {
    let path = world.plan(NODE)?.path.clone();
    let settled = wait::until("the ledger accounts for all", deadline(), || async {
        let ledger = world.api.ledger(&path).await.ok()?;
        assert_eq!(sum(&ledger, "missing"), 0, "{ledger:#}");
        let is_settled = sum(&ledger, "produced") == made && sum(&ledger, "in_flight") == 0;
        is_settled.then_some(ledger)
    });
    match settled.await {
        Ok(ledger) => Ok(ledger),
        Err(error) => Err(error).context(format!("{:#}", world.api.ledger(&path).await?)),
    }
}

#[test]
fn on_a_full_disk_predictions_go_on_and_what_is_lost_is_told() -> anyhow::Result<()> {
    run(async {
        let Some((mut world, disk)) = world().await? else {
            return Ok(());
        };
        start(&mut world, NODE, "1.0.0").await?;
        let (mut watch, mut sensor) = (world.watch(NODE).await?, world.sensor(NODE)?);
        let mut said = listen(&world).await?;
        world.feed(NODE, &mut sensor, 0..BEFORE).await?;
        let mut made = take(&mut watch, BEFORE - WINDOW + 1).await?;
        stored_once(&world, NODE, &ids(&made)).await?;

        world.set_uplink(NODE, Uplink::Down)?;
        world.feed(NODE, &mut sensor, BEFORE..OFFLINE).await?;
        made.extend(take(&mut watch, OFFLINE - BEFORE).await?);
        disk.fill()?;
        // Each of these is predicted, although none can be kept.
        for from in (OFFLINE..FULL).step_by(50) {
            world.feed(NODE, &mut sensor, from..from + 50).await?;
            made.extend(take(&mut watch, 50).await?);
        }
        let reason = says(&mut said, "a degraded node", degraded).await?;
        assert!(reason.contains("outbox"), "{reason}");
        says(&mut said, "records that were not written", unwritten).await?;

        // The link is back, the disk still full: live predictions arrive, another model does not.
        world.set_uplink(NODE, Uplink::Up)?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        world.feed(NODE, &mut sensor, FULL..ONLINE).await?;
        let online = take(&mut watch, ONLINE - FULL).await?;
        assert!(
            online
                .iter()
                .all(|made| made.model.version.to_string() == "1.0.0")
        );
        made.extend(online);
        // There is room for the slot's record, and none for a bundle.
        disk.leave(2 << 20)?;
        let model = world.plan(NODE)?.source.model.clone();
        let refused = |reported: &Reported| match &row(reported, &model)?.candidate.as_ref()?.state
        {
            TrialState::Refused { verdict, detail } => Some((*verdict, detail.clone())),
            TrialState::Fetching { .. }
            | TrialState::Waiting { .. }
            | TrialState::Checking
            | TrialState::Shadowing { .. } => None,
        };
        let (verdict, detail) = world
            .reported(NODE, "a download without room", refused)
            .await?;
        assert_eq!(verdict, Verdict::Unavailable, "{detail}");
        assert!(detail.contains("disk is full"), "{detail}");

        disk.clear()?;
        world.runs(NODE, "1.1.0").await?;
        world.feed(NODE, &mut sensor, ONLINE..AFTER).await?;
        made.extend(take(&mut watch, AFTER - ONLINE).await?);
        let ledger = accounted_for(&world, made.len() as u64).await?;
        let stored = world.api.stored(&world.plan(NODE)?.path).await?;
        let lost = sum(&ledger, "unwritten");
        assert!(lost > 0, "the disk was full: {ledger:#}");
        assert_eq!(stored.records, made.len() as u64 - lost, "{ledger:#}");
        assert_eq!(
            (stored.twice(), sum(&ledger, "delivered")),
            (0, stored.records)
        );
        let drained = |reported: &Reported| {
            let is_all = counters(reported).predictions == made.len() as u64;
            (reported.outbox.records == 0 && is_all).then_some(())
        };
        world.reported(NODE, "an empty outbox", drained).await?;
        world.stop().await
    })
}

#[test]
fn an_agent_that_restarts_on_a_full_disk_predicts_and_keeps_what_it_had() -> anyhow::Result<()> {
    run(async {
        let Some((mut world, disk)) = world().await? else {
            return Ok(());
        };
        start(&mut world, NODE, "1.0.0").await?;
        let mut watch = world.watch(NODE).await?;
        let mut sensor = world.sensor(NODE)?;
        world.set_uplink(NODE, Uplink::Down)?;
        world.feed(NODE, &mut sensor, 0..BEFORE).await?;
        let mut made = take(&mut watch, BEFORE - WINDOW + 1).await?;
        let kept = ids(&made);
        world.stop_node(NODE).await?;
        disk.fill()?;

        world.start_node(NODE).await?;
        let mut watch = world.watch(NODE).await?;
        let mut sensor = world.sensor(NODE)?;
        world.feed(NODE, &mut sensor, BEFORE..OFFLINE).await?;
        made.extend(take(&mut watch, OFFLINE - BEFORE - WINDOW + 1).await?);

        disk.clear()?;
        world.set_uplink(NODE, Uplink::Up)?;
        let ledger = accounted_for(&world, made.len() as u64).await?;
        let stored = world.api.stored(&world.plan(NODE)?.path).await?;
        assert!(
            kept.is_subset(&stored.ids),
            "what was on the disk is lost: {ledger:#}"
        );
        assert_eq!(
            stored.records + sum(&ledger, "unwritten"),
            made.len() as u64,
            "{ledger:#}"
        );
        world.stop().await
    })
}
