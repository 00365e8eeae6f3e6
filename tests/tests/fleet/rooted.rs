//! Agents that believe an offline root: keys are replaced while they run and while one is away, and what a revoked key signs
//! changes nothing.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lamppost_models::message::ReportedTrust;
use lamppost_models::release::{ReleaseKey, Sequence};
use lamppost_models::{Release, Reported, Topic, TopicRoot};
use lamppost_tests::fleet::{NodePlan, Source};
use lamppost_tests::link::Uplink;
use lamppost_tests::mqtt::Sensor;
use lamppost_tests::world::{Meeting, Place, World, deadline, row, run};
use lamppost_tests::zoo;

use super::{DEMO, push, start};

const NODES: [&str; 2] = ["there", "away"];

/// The machine that is kept offline: a directory with root keys.
struct Offline(PathBuf);

impl Offline {
    /// Runs `lamppost keys`; words that begin with `@` are files of the directory.
    async fn keys(&self, args: &[&str]) -> anyhow::Result<()> {
        let file = |arg: &&str| match arg.strip_prefix('@') {
            Some(name) => self.0.join(name).into_os_string(),
            None => arg.into(),
        };
        let output = tokio::process::Command::new(DEMO)
            .args(["coordinator", "keys"])
            .args(args.iter().map(file))
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "keys {args:?}: {said}");
        Ok(())
    }

    async fn signed(&self, args: &[&str]) -> anyhow::Result<()> {
        let roots = ["--with", "@root-1.key", "--with", "@root-3.key"];
        self.keys(&[args, &roots].concat()).await
    }

    /// Brings the chain to the coordinator that runs.
    async fn install(&self, world: &World) -> anyhow::Result<()> {
        let chain = serde_json::from_slice(&std::fs::read(self.0.join("trust.json"))?)?;
        world.api.post("trust", &chain).await?;
        Ok(())
    }

    fn key(&self, name: &str) -> anyhow::Result<ReleaseKey> {
        let text = std::fs::read_to_string(self.0.join(name))?;
        let seed: [u8; 32] = STANDARD
            .decode(text.trim())?
            .try_into()
            .map_err(|_| anyhow::anyhow!("{name} is no key"))?;
        Ok(ReleaseKey::from_seed(&seed))
    }
}

/// Has the coordinator sign with one key, from its next start on.
async fn sign_with(world: &mut World, key: &Path) -> anyhow::Result<()> {
    world.coordinator_tables = format!("\n[releases]\nsigners = [\"{}\"]\n", key.display());
    world.end_coordinator().await?;
    world.restart_coordinator(Place::Here).await
}

/// Waits until a node's report says of its trust what is wanted.
async fn trusts<T>(
    world: &World,
    name: &str,
    what: &str,
    wanted: impl Fn(&ReportedTrust) -> Option<T>,
) -> anyhow::Result<T> {
    world
        .reported(name, what, |reported| wanted(reported.trust.as_ref()?))
        .await
}

async fn knows(world: &World, name: &str, version: u64) -> anyhow::Result<()> {
    let what = format!("{name} has trust document {version}");
    trusts(world, name, &what, |trust| {
        (trust.document?.0 == version).then_some(())
    })
    .await
}

/// What the node runs, since when, by which release.
async fn state(world: &World, name: &str) -> anyhow::Result<(String, Sequence)> {
    let model = world.plan(name)?.source.model.clone();
    let state = |reported: &Reported| {
        let row = row(reported, &model)?;
        let active = row.active.as_ref()?;
        Some((
            format!("{} since {}", active.version, active.since),
            row.release?,
        ))
    };
    world.reported(name, "its state", state).await
}

/// A release of 1.0.0 as the coordinator made them, newer than all, signed by this key.
async fn forge(world: &World, key: &ReleaseKey) -> anyhow::Result<()> {
    let mut row = world
        .api
        .get::<serde_json::Value>("rollouts/all/traffic-flow")
        .await?[0]
        .take();
    let old = world
        .api
        .get::<serde_json::Value>("models/traffic-flow/1.0.0")
        .await?["model"]
        .take();
    for (name, value) in [
        ("schema", 1.into()),
        ("sequence", 1_000_000.into()),
        ("stable", old),
    ] {
        row[name] = value;
    }
    let release: Release = serde_json::from_value(row)?;
    let topic = TopicRoot::default().format(&Topic::Release {
        group: release.group.clone(),
        model: release.model.clone(),
    });
    let mut thief = Sensor::connect(&world.centre_broker(), "thief");
    let envelope = serde_json::to_vec(&key.sign(&release)?)?;
    thief.publish(&topic, envelope).await?;
    Ok(thief.settle(deadline()).await?)
}

/// Sends a release by a revoked key, and waits until the node has refused it; what runs there goes on.
async fn resists(world: &World, name: &str, stolen: &ReleaseKey) -> anyhow::Result<()> {
    let refused = |trust: &ReportedTrust| trust.releases.refused.get("unknown-key").copied();
    let before = trusts(world, name, "its counts", |trust| {
        Some(refused(trust).unwrap_or(0))
    })
    .await?;
    let was = state(world, name).await?;
    forge(world, stolen).await?;
    let what = format!("{name} refused a release by an unknown key");
    trusts(world, name, &what, |trust| {
        refused(trust).filter(|now| *now > before)
    })
    .await?;
    assert_eq!(state(world, name).await?, was);
    Ok(())
}

async fn fleet() -> anyhow::Result<(World, Offline)> {
    let plan = |name| {
        NodePlan::new("minneapolis", name, &["all"], Source::traffic()?)
            .map_err(anyhow::Error::from)
    };
    let plans: anyhow::Result<Vec<_>> = NODES.into_iter().map(plan).collect();
    let mut world = World::start(DEMO, Place::Here, Meeting::External, plans?).await?;
    let offline = Offline(world.dir().join("offline"));
    let roots = ["--roots", "3", "--threshold", "2"];
    offline
        .keys(&[&["init", "--root-dir", "@"][..], &roots].concat())
        .await?;
    sign_with(&mut world, &offline.0.join("release-1.key")).await?;
    offline.install(&world).await?;
    // What a technician carries to the nodes: the first document alone.
    let first = world.dir().join("first.json");
    std::fs::copy(offline.0.join("trust.json"), &first)?;
    for name in NODES {
        world.root_in(name, &first)?;
    }
    push(&world, &[zoo::TRAFFIC_FLOW_1_0_0, zoo::TRAFFIC_FLOW_1_1_0]).await?;
    Ok((world, offline))
}

#[test]
fn keys_are_replaced_and_revoked_under_agents_that_run_and_that_are_away() -> anyhow::Result<()> {
    run(async {
        let (mut world, offline) = fleet().await?;
        world.api.rollout("traffic-flow", "1.0.0", "all").await?;
        for name in NODES {
            start(&mut world, name, "1.0.0").await?;
            knows(&world, name, 1).await?;
        }

        // A second release key beside the first, and then alone; one node sees none of it.
        world.set_uplink("away", Uplink::Down)?;
        let rotate = [
            "rotate",
            "@trust.json",
            "--role",
            "release",
            "--keep",
            "--make",
            "@release-2.key",
        ];
        offline.signed(&rotate).await?;
        offline.install(&world).await?;
        knows(&world, "there", 2).await?;
        sign_with(&mut world, &offline.0.join("release-2.key")).await?;
        let stolen = offline.key("release-1.key")?;
        let id = stolen.public().id();
        offline.signed(&["revoke", "@trust.json", &id]).await?;
        offline.install(&world).await?;
        knows(&world, "there", 3).await?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        world.runs("there", "1.1.0").await?;

        resists(&world, "there", &stolen).await?;

        // Whoever was away follows the chain from where it was, and believes the revoked key no more.
        world.set_uplink("away", Uplink::Up)?;
        knows(&world, "away", 3).await?;
        world.runs("away", "1.1.0").await?;
        resists(&world, "away", &stolen).await?;

        // So it stays after a restart, from the first document in its configuration.
        world.stop_node("away").await?;
        start(&mut world, "away", "1.1.0").await?;
        knows(&world, "away", 3).await?;
        // The forged number, taken in anywhere, would have this one refused as an old one.
        world.api.rollback("traffic-flow", "all").await?;
        for name in NODES {
            world.runs(name, "1.0.0").await?;
        }
        let told = trusts(&world, "away", "a signed time", |trust| trust.at_least).await?;
        let now = jiff::Timestamp::now().as_millisecond();
        assert!(told.as_ms() <= now, "{told}");
        let page = world.api.get::<serde_json::Value>("audit").await?;
        let entries = page["entries"].as_array().context("entries")?;
        let told = entries
            .iter()
            .filter(|entry| entry["act"] == "keys")
            .count();
        assert_eq!(told, 5, "three documents and two other signers: {page}");
        world.stop().await
    })
}
