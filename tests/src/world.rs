//! A fleet in one process, for tests: a coordinator and agents as library calls, each node with links that can be cut.
//!
//! All ports are free ones of loopback, all files are in one temporary directory. A coordinator may run as a process of its
//! own instead, so that it can be killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lamppost_broker::Broker;
use lamppost_coordinator::Checker;
use lamppost_models::message::ReportedModel;
use lamppost_models::{ModelName, Reported};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::demo::children::Children;
use crate::demo::lamppost::{find, serve_args};
use crate::fleet::{Bus, CentreAddr, NodePlan, Uplinks, coordinator_toml};
use crate::link::Uplink;
use crate::mqtt::{BrokerAddr, Sensor, Subscriber};
use crate::wait;

/// How long a test waits for anything: far more than it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long what is left of a failed test is waited for.
const LEFT_OVER: Duration = Duration::from_secs(5);

/// The fleet.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    plans: Vec<NodePlan>,
    /// Further tables of the coordinator's configuration, for its next start.
    pub coordinator_tables: String,
    bus: Bus,
    /// The external broker, while it is ours.
    broker: Option<Broker>,
    coordinator: Option<Coordinator>,
    children: Children,
    nodes: BTreeMap<String, Node>,
    /// Where the coordinator is, as it says itself.
    pub centre: CentreAddr,
    /// Its API.
    pub api: Api,
}

/// A node: its links, and the agent while it runs.
#[derive(Debug)]
struct Node {
    uplinks: Uplinks,
    agent: Option<Agent>,
}

#[derive(Debug)]
struct Agent {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    broker: BrokerAddr,
}

#[derive(Debug)]
enum Coordinator {
    Here {
        shutdown: CancellationToken,
        task: JoinHandle<anyhow::Result<()>>,
    },
    Process,
}

/// Where a coordinator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process.
    Here,
    /// In a process of its own.
    Process,
}

/// Where nodes and coordinator meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// At the coordinator's own broker.
    Embedded,
    /// At a broker that stands by itself and asks nobody for a password.
    External,
}

async fn open_broker() -> anyhow::Result<Broker> {
    Ok(Broker::start(lamppost_broker::Config {
        listen: Some(free_port()),
        allow_anonymous: true,
        // Nodes and coordinator come without names here, and publish below the topic root.
        protected: Vec::new(),
        ..Default::default()
    })
    .await?)
}

/// The instant at which a test gives up.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Runs a test that has a fleet, and ends when the test does: what of a fleet is left by a test that fails, such as a
/// thread of a coordinator that nobody stopped, is not waited for beyond 5 s.
///
/// # Errors
/// Those of the test.
pub fn run(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test)));
    runtime.shutdown_timeout(LEFT_OVER);
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl World {
    /// Starts a coordinator that knows these nodes; no node runs yet. `demo` is the demo's executable, which agents use to
    /// check a bundle.
    ///
    /// # Errors
    /// When anything does not start.
    pub async fn start(
        demo: &str,
        place: Place,
        meeting: Meeting,
        plans: Vec<NodePlan>,
    ) -> anyhow::Result<Self> {
        let broker = match meeting {
            Meeting::Embedded => None,
            Meeting::External => Some(open_broker().await?),
        };
        let bus = broker
            .as_ref()
            .and_then(Broker::local_addr)
            .map_or(Bus::Embedded, Bus::External);
        let dir = tempfile::Builder::new()
            .prefix("lamppost-world-")
            .tempdir()?;
        let mut children = Children::of(Path::new(demo), dir.path());
        let (coordinator, centre, api) =
            start_coordinator((place, bus), dir.path(), (&plans, ""), &mut children).await?;
        let mut world = Self::around(dir, Some(coordinator), centre, api, children, plans).await?;
        (world.bus, world.broker) = (bus, broker);
        Ok(world)
    }

    /// A fleet that something else leads, at these addresses and with that key.
    ///
    /// # Errors
    /// When the links do not open.
    pub async fn led_by(
        demo: &str,
        centre: CentreAddr,
        plans: Vec<NodePlan>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("lamppost-world-")
            .tempdir()?;
        let api = Api::new(centre.http)?;
        let children = Children::of(Path::new(demo), dir.path());
        Self::around(dir, None, centre, api, children, plans).await
    }

    async fn around(
        dir: TempDir,
        coordinator: Option<Coordinator>,
        centre: CentreAddr,
        api: Api,
        children: Children,
        plans: Vec<NodePlan>,
    ) -> anyhow::Result<Self> {
        let mut nodes = BTreeMap::new();
        for plan in &plans {
            let uplinks = Uplinks::open(&centre).await?;
            nodes.insert(
                plan.path.node.to_string(),
                Node {
                    uplinks,
                    agent: None,
                },
            );
        }
        Ok(Self {
            dir,
            plans,
            coordinator_tables: String::new(),
            bus: Bus::Embedded,
            broker: None,
            coordinator,
            children,
            nodes,
            centre,
            api,
        })
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The plan of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn plan(&self, node: &str) -> anyhow::Result<&NodePlan> {
        self.plans
            .iter()
            .find(|plan| plan.path.node.as_str() == node)
            .with_context(|| format!("no node {node}"))
    }

    /// Has a node believe the trust documents of a file from its next start on.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn root_in(&mut self, name: &str, trust_file: &Path) -> anyhow::Result<()> {
        let plans = &mut self.plans;
        let mut named = plans
            .iter_mut()
            .filter(|plan| plan.path.node.as_str() == name);
        let plan = named.next().with_context(|| format!("no node {name}"))?;
        plan.trust_file = Some(trust_file.to_owned());
        Ok(())
    }

    /// Starts the agent of a node.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_node(&mut self, name: &str) -> anyhow::Result<()> {
        let toml = {
            let plan = self.plan(name)?;
            let node = self.nodes.get(name).context("a node")?;
            plan.toml(
                &self.dir().join(name),
                free_port(),
                Some(&node.uplinks.addr(&self.centre)),
            )
        };
        let path = self.dir().join(format!("{name}.toml"));
        std::fs::write(&path, toml)?;
        let mut config = lamppost_agent::Config::load(&path)?;
        config.self_program = Some(self.children.exe().to_owned());
        config.self_prefix = vec![OsString::from("agent")];
        let shutdown = CancellationToken::new();
        let (ready, served) = oneshot::channel();
        let running = lamppost_agent::run(config, shutdown.clone(), ready);
        let task = tokio::spawn(async move { running.await.map_err(anyhow::Error::from) });
        let Ok(ready) = served.await else {
            task.await??;
            bail!("the agent of {name} ended before it served");
        };
        let broker = BrokerAddr::open(ready.broker.context("the node's own broker listens")?);
        self.node(name)?.agent = Some(Agent {
            shutdown,
            task,
            broker,
        });
        Ok(())
    }

    /// Stops the agent of a node in good order.
    ///
    /// # Errors
    /// When it ends with an error or not in time.
    pub async fn stop_node(&mut self, name: &str) -> anyhow::Result<()> {
        let agent = self
            .node(name)?
            .agent
            .take()
            .with_context(|| format!("{name} runs"))?;
        agent.shutdown.cancel();
        tokio::time::timeout(PATIENCE, agent.task)
            .await
            .with_context(|| format!("{name} does not stop"))??
    }

    /// The own broker of a running node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn broker_of(&self, name: &str) -> anyhow::Result<BrokerAddr> {
        let agent = self.nodes.get(name).and_then(|node| node.agent.as_ref());
        agent
            .map(|agent| agent.broker.clone())
            .with_context(|| format!("{name} does not run"))
    }

    /// The coordinator's broker.
    pub const fn centre_broker(&self) -> BrokerAddr {
        BrokerAddr::open(self.centre.mqtt)
    }

    /// Cuts or restores a node's way to the coordinator.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn set_uplink(&mut self, name: &str, uplink: Uplink) -> anyhow::Result<()> {
        self.node(name)?.uplinks.set(uplink);
        Ok(())
    }

    /// Connections that a node's MQTT and HTTP clients made so far.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn carried(&self, name: &str) -> anyhow::Result<(u64, u64)> {
        let node = self.nodes.get(name);
        let node = node.with_context(|| format!("no node {name}"))?;
        Ok(node.uplinks.carried())
    }

    /// Has a bit of every larger piece of an artifact flipped on its way to the node, or no more.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn alter_artifacts(&mut self, name: &str, altering: bool) -> anyhow::Result<()> {
        self.node(name)?.uplinks.alter_artifacts(altering);
        Ok(())
    }

    /// Ends the coordinator: a process by SIGKILL, otherwise in good order.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn end_coordinator(&mut self) -> anyhow::Result<()> {
        match self.coordinator.take().context("a coordinator that runs")? {
            Coordinator::Process => self.children.kill("coordinator").await,
            Coordinator::Here { shutdown, task } => {
                shutdown.cancel();
                tokio::time::timeout(PATIENCE, task)
                    .await
                    .context("the coordinator does not stop")??
            }
        }
    }

    /// Starts the coordinator again, on other ports and with its old data; the links lead there.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_coordinator(&mut self, place: Place) -> anyhow::Result<()> {
        let (coordinator, centre, api) = start_coordinator(
            (place, self.bus),
            self.dir.path(),
            (&self.plans, &self.coordinator_tables),
            &mut self.children,
        )
        .await?;
        for node in self.nodes.values() {
            node.uplinks.lead_to(&centre);
        }
        (self.coordinator, self.api, self.centre) = (Some(coordinator), api, centre);
        Ok(())
    }

    /// Waits until the coordinator has a report of the node that satisfies `wanted`.
    ///
    /// # Errors
    /// When there is none in time; it names what was waited for and the last report.
    pub async fn reported<T>(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Reported) -> Option<T>,
    ) -> anyhow::Result<T> {
        let path = &self.plan(name)?.path;
        let waited = wait::until(what, deadline(), || async {
            let node = self.api.node(path).await.ok()?;
            wanted(node.reported.as_ref()?)
        });
        match waited.await {
            Ok(value) => Ok(value),
            Err(error) => bail!(
                "{error}; the last report of {path}: {:?}",
                self.api.node(path).await.map(|node| node.reported)
            ),
        }
    }

    /// Waits until the node reports that it runs this version of its model.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn runs(&self, name: &str, version: &str) -> anyhow::Result<()> {
        let model = self.plan(name)?.source.model.clone();
        let active = |reported: &Reported| {
            let slot = row(reported, &model)?.active.as_ref()?;
            (slot.version.to_string() == version).then_some(())
        };
        self.reported(name, &format!("{name} runs {model} {version}"), active)
            .await
    }

    /// A stock subscriber to the predictions of a running node, on its own broker.
    ///
    /// # Errors
    /// When it cannot subscribe.
    pub async fn watch(&self, name: &str) -> anyhow::Result<Subscriber> {
        Ok(Subscriber::connect(
            &self.broker_of(name)?,
            "dashboard",
            &["lamppost/v1/nodes/+/+/pred/+"],
        )
        .await?)
    }

    /// A sensor of a running node.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn sensor(&self, name: &str) -> anyhow::Result<Sensor> {
        Ok(Sensor::connect(&self.broker_of(name)?, "sensor"))
    }

    /// Sends readings of the node's recording, from one position up to another, and waits until its broker has them.
    ///
    /// # Errors
    /// When the broker does not take them.
    pub async fn feed(
        &self,
        name: &str,
        sensor: &mut Sensor,
        range: std::ops::Range<usize>,
    ) -> anyhow::Result<()> {
        let source = &self.plan(name)?.source;
        for message in &source.recording.messages()[range] {
            sensor
                .publish(source.topic, message.json.as_bytes())
                .await?;
        }
        Ok(sensor.settle(deadline()).await?)
    }

    /// Stops everything in good order.
    ///
    /// # Errors
    /// When something ends with an error or not in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let running: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.agent.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            self.stop_node(&name).await?;
        }
        if let Some(Coordinator::Here { .. }) = self.coordinator {
            self.end_coordinator().await?;
        }
        self.children.stop().await;
        if let Some(broker) = self.broker.take() {
            broker.stop().await;
        }
        Ok(())
    }

    fn node(&mut self, name: &str) -> anyhow::Result<&mut Node> {
        self.nodes
            .get_mut(name)
            .with_context(|| format!("no node {name}"))
    }
}

/// The row of a model in a report.
pub fn row<'a>(reported: &'a Reported, model: &ModelName) -> Option<&'a ReportedModel> {
    reported.models.iter().find(|row| row.name == *model)
}

const fn free_port() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

async fn start_coordinator(
    (place, bus): (Place, Bus),
    dir: &Path,
    (plans, tables): (&[NodePlan], &str),
    children: &mut Children,
) -> anyhow::Result<(Coordinator, CentreAddr, Api)> {
    let (file, ready_file) = (dir.join("coordinator.toml"), dir.join("coordinator.json"));
    std::fs::write(
        &file,
        coordinator_toml(&dir.join("coordinator"), bus, plans) + tables,
    )?;
    if ready_file.exists() {
        std::fs::remove_file(&ready_file)?;
    }
    let coordinator = match place {
        Place::Process => {
            children.start("coordinator", &serve_args(&file, &ready_file))?;
            Coordinator::Process
        }
        Place::Here => {
            let mut config = lamppost_coordinator::Config::load(&file)?;
            config.ready_file = Some(ready_file.clone());
            config.checker = Some(Checker {
                program: children.exe().to_owned(),
                prefix: vec!["coordinator".into()],
            });
            let shutdown = CancellationToken::new();
            let (ready, served) = oneshot::channel();
            let running = lamppost_coordinator::run(config, shutdown.clone(), ready);
            let task = tokio::spawn(async move { running.await.map_err(anyhow::Error::from) });
            if served.await.is_err() {
                task.await??;
                bail!("the coordinator ended before it served");
            }
            Coordinator::Here { shutdown, task }
        }
    };
    let ready = children
        .ready("coordinator", &ready_file, deadline())
        .await?;
    let (centre, api) = find(&ready, bus).await?;
    Ok((coordinator, centre, api))
}
