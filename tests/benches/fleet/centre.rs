//! A coordinator in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lamppost_tests::api::Api;
use lamppost_tests::demo::children::Children;
use lamppost_tests::demo::lamppost::{find, serve_args};
use lamppost_tests::fleet::{Bus, CentreAddr};
use lamppost_tests::zoo::{TRAFFIC_FLOW_1_0_0, TRAFFIC_FLOW_1_1_0, ZooModel};
use serde_json::{Value, json};

use crate::nodes::{GROUP, MODEL, Version};
use crate::process::Memory;

/// How long it may take to start, with 100,000 nodes in its store.
const START_WITHIN: Duration = Duration::from_mins(2);
/// What a bundle has at least: a small network with its weights.
const BUNDLE_BYTES: usize = 100_000;

/// It, and where it is.
pub(crate) struct Centre {
    children: Children,
    pub(crate) addr: CentreAddr,
    pub(crate) api: Api,
    /// From its start to its being ready.
    pub(crate) start: Duration,
}

impl Centre {
    /// Starts `demo` as one, with its files in `dir`; `keys` are those of its configuration.
    pub(crate) async fn start(
        demo: &Path,
        dir: &Path,
        bus: Bus,
        keys: &str,
    ) -> anyhow::Result<Self> {
        let (config, ready) = (dir.join("coordinator.toml"), dir.join("ready.json"));
        let data_dir = dir.join("data");
        std::fs::write(
            &config,
            format!("data_dir = \"{}\"\n{keys}", data_dir.display()),
        )?;
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let mut children = Children::of(demo, dir);
        let begun = Instant::now();
        children.start("coordinator", &serve_args(&config, &ready))?;
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        let said = children.ready("coordinator", &ready, deadline).await?;
        let start = begun.elapsed();
        let (addr, api) = find(&said, bus).await?;
        Ok(Self {
            children,
            addr,
            api,
            start,
        })
    }

    /// What its process takes.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        Memory::of(self.children.pid("coordinator").context("its process")?)
    }

    /// Gives it a version of the model.
    pub(crate) async fn push(&self, minor: u64) -> anyhow::Result<Version> {
        let of: ZooModel = if minor == 0 {
            TRAFFIC_FLOW_1_0_0
        } else {
            TRAFFIC_FLOW_1_1_0
        };
        let version = semver::Version::new(1, minor, 0);
        let bundle = of.grown(&version.to_string(), BUNDLE_BYTES)?;
        let digest = lamppost_models::Digest::of(&bundle);
        self.api.push(bundle).await?;
        Ok(Version { version, digest })
    }

    /// Brings the group to a version at once.
    pub(crate) async fn release(&self, version: &Version) -> anyhow::Result<Value> {
        let version = version.version.to_string();
        self.api.rollout(MODEL, &version, GROUP).await
    }

    pub(crate) async fn stop(mut self) {
        self.children.stop().await;
    }
}

/// A request for a rollout in waves of these shares; nobody soaks, and `gate` is as in a policy.
pub(crate) fn waves(version: &Version, shares: &[&str], gate: &Value, control: &str) -> Value {
    let waves: Vec<Value> = shares
        .iter()
        .map(|share| json!({ "share": share, "soak": "0s" }))
        .collect();
    json!({
        "model": MODEL, "version": version.version, "group": GROUP,
        "policy": { "name": "bench", "control": control, "wave": waves, "gate": gate },
    })
}

/// The address as text, for a configuration.
pub(crate) fn url(addr: SocketAddr) -> String {
    format!("mqtt://{addr}")
}
