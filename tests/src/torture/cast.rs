//! The processes of a fleet, and the links between them: each may be killed and comes back elsewhere, and nobody but the
//! links needs to know.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use lamppost_models::ledger::Durability;
use lamppost_models::message::NodeRow;
use tokio::time::Instant;

use super::plan::{Kind, Role};
use crate::api::Api;
use crate::demo::children::{Children, Said};
use crate::demo::lamppost::{find, serve_args};
use crate::fleet::{Bus, CentreAddr, NodePlan, Source, Uplinks, coordinator_toml};
use crate::link::{Link, Uplink};
use crate::mqtt::BrokerAddr;
use crate::{wait, zoo};

/// How long a process may take to be ready, and a command to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// What memory may hold with `durability = "outage"`: few, so that kills meet the outbox at work too.
pub const MEMORY_RECORDS: u64 = 64;
/// Where a link leads to before there is anything; nobody listens there.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// A node, a coordinator, and the broker between them.
pub struct Cast {
    dir: PathBuf,
    children: Children,
    kind: Kind,
    plan: NodePlan,
    /// To the node's own broker, for sensors and dashboards.
    local: Link,
    /// To the broker of the fleet, for the coordinator where that is another process, and for who listens there.
    bus: Link,
    /// From the node to the centre.
    uplinks: Uplinks,
    centre: CentreAddr,
    /// The coordinator's API.
    pub api: Api,
}

impl Cast {
    /// Starts all, and waits until the node runs its model.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(exe: &Path, dir: &Path, kind: Kind) -> anyhow::Result<Self> {
        let mut plan = NodePlan::new("minneapolis", "i94", &["all"], Source::traffic()?)?;
        (plan.outbox_keys, plan.uplink_keys) = match kind.durability() {
            Durability::Always => ("durability = \"always\"\n".to_owned(), String::new()),
            Durability::Outage => (
                "flush = \"200ms\"\n".to_owned(),
                format!("memory_records = {MEMORY_RECORDS}\n"),
            ),
        };
        let centre = CentreAddr {
            mqtt: NOWHERE,
            http: NOWHERE,
            key: String::new(),
            logins: !kind.is_external(),
        };
        let mut cast = Self {
            dir: dir.to_owned(),
            children: Children::of(exe, dir),
            kind,
            plan,
            local: Link::open(NOWHERE).await?,
            bus: Link::open(NOWHERE).await?,
            uplinks: Uplinks::open(&centre).await?,
            centre,
            api: Api::new(NOWHERE)?,
        };
        cast.write_coordinator()?;
        if kind.is_external() {
            cast.run(Role::Broker).await?;
        }
        cast.run(Role::Coordinator).await?;
        cast.write_agent()?;
        let (model, version) = ("traffic-flow", "1.0.0");
        cast.api.push(zoo::TRAFFIC_FLOW_1_0_0.bundle()?).await?;
        cast.api.rollout(model, version, "all").await?;
        cast.run(Role::Agent).await?;
        let what = format!("the node runs {model} {version}");
        wait::until(&what, Instant::now() + PATIENCE, || async {
            let reported = cast.node().await.ok()?.reported?;
            reported.models.first()?.active.as_ref().map(drop)
        })
        .await?;
        Ok(cast)
    }

    /// Starts a process that is not there, and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn run(&mut self, role: Role) -> anyhow::Result<()> {
        let ready = self.begin(role)?;
        let deadline = Instant::now() + PATIENCE;
        let said = self.children.ready(role.name(), &ready, deadline).await?;
        match role {
            Role::Agent => {
                let said: serde_json::Value = serde_json::from_str(&said)?;
                let addr = said["broker"].as_str().context("the node's own broker")?;
                self.local.set_upstream(addr.parse()?);
            }
            Role::Broker => self.lead_to_bus(said.parse()?),
            Role::Coordinator => {
                let bus = if self.kind.is_external() {
                    Bus::External(self.bus.addr())
                } else {
                    Bus::Embedded
                };
                let (centre, api) = find(&said, bus).await?;
                self.api = api;
                let mqtt = if self.kind.is_external() {
                    self.centre.mqtt
                } else {
                    centre.mqtt
                };
                self.centre = CentreAddr { mqtt, ..centre };
                self.lead_to_bus(mqtt);
            }
        }
        Ok(())
    }

    fn lead_to_bus(&mut self, mqtt: SocketAddr) {
        self.centre.mqtt = mqtt;
        self.bus.set_upstream(mqtt);
        self.uplinks.lead_to(&self.centre);
    }

    /// Starts a process and does not wait; the file that it writes when it serves.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&mut self, role: Role) -> anyhow::Result<PathBuf> {
        let name = role.name();
        let (config, ready) = (self.config(role), self.dir.join(format!("{name}.ready")));
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let state = self.dir.join("broker-state");
        let ready_flag = OsStr::new("--ready-file");
        match role {
            Role::Agent => self.children.start(
                name,
                &[
                    "agent".as_ref(),
                    "--config".as_ref(),
                    config.as_os_str(),
                    ready_flag,
                    ready.as_os_str(),
                ],
            )?,
            Role::Coordinator => self.children.start(name, &serve_args(&config, &ready))?,
            Role::Broker => self.children.start(
                name,
                &[
                    "broker".as_ref(),
                    ready_flag,
                    ready.as_os_str(),
                    "--state-dir".as_ref(),
                    state.as_os_str(),
                ],
            )?,
        }
        Ok(ready)
    }

    /// Ends a process with SIGKILL.
    ///
    /// # Errors
    /// When it is not there, or has ended by itself.
    pub async fn kill(&mut self, role: Role) -> anyhow::Result<()> {
        self.children.check()?;
        self.children.kill(role.name()).await
    }

    /// Fails when a process has ended by itself.
    ///
    /// # Errors
    /// With what it said last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.children.check()
    }

    /// Makes the node's way to the centre better or worse.
    pub fn set_uplink(&self, uplink: Uplink) {
        self.uplinks.set(uplink);
    }

    /// The node's own broker.
    pub const fn local_broker(&self) -> BrokerAddr {
        BrokerAddr::open(self.local.addr())
    }

    /// The broker of the fleet.
    pub const fn bus_broker(&self) -> BrokerAddr {
        BrokerAddr::open(self.bus.addr())
    }

    /// The sensor's topic.
    pub const fn sensor_topic(&self) -> &'static str {
        self.plan.source.topic
    }

    /// What the coordinator knows of the node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn node(&self) -> anyhow::Result<NodeRow> {
        self.api.node(&self.plan.path).await
    }

    /// All that is stored of the node.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub async fn stored(&self) -> anyhow::Result<crate::api::Stored> {
        self.api.stored(&self.plan.path).await
    }

    /// `lamppost ledger NODE --json`.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ledger(&self) -> anyhow::Result<Said> {
        let server = format!("http://{}", self.centre.http);
        let node = self.plan.path.to_string();
        let args = [
            "coordinator",
            "--server",
            &server,
            "ledger",
            &node,
            "--json",
        ]
        .map(Into::into);
        let command = self.children.command(&args);
        command.said(Instant::now() + PATIENCE).await
    }

    /// Stops all in good order.
    pub async fn stop(&mut self) {
        self.children.stop().await;
    }

    /// The ends of the logs.
    pub fn tails(&self) -> String {
        self.children.tails()
    }

    fn config(&self, role: Role) -> PathBuf {
        self.dir.join(format!("{}.toml", role.name()))
    }

    fn write_coordinator(&self) -> anyhow::Result<()> {
        let bus = if self.kind.is_external() {
            Bus::External(self.bus.addr())
        } else {
            Bus::Embedded
        };
        let plans = std::slice::from_ref(&self.plan);
        let toml = coordinator_toml(&self.dir.join("coordinator"), bus, plans);
        Ok(std::fs::write(self.config(Role::Coordinator), toml)?)
    }

    fn write_agent(&self) -> anyhow::Result<()> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let centre = self.uplinks.addr(&self.centre);
        let toml = self
            .plan
            .toml(&self.dir.join("agent"), listen, Some(&centre));
        Ok(std::fs::write(self.config(Role::Agent), toml)?)
    }
}
