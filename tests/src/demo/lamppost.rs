//! The CLI and the API as the demo uses them: the CLI for what an operator does, the API for what is counted.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lamppost_models::NodePath;
use serde_json::Value;
use tokio::time::Instant;

use super::children::Said;
use super::scenario::SPEED_KEPT;
use super::stage::Stage;
use crate::api::{Api, Stored};
use crate::fleet::{Bus, CentreAddr};

/// How long a command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(15);

/// The coordinator that runs.
#[derive(Clone, Debug)]
pub struct Lamppost {
    /// Where it is, and its key.
    pub centre: CentreAddr,
    api: Api,
}

impl Said {
    /// Fails when the command failed.
    ///
    /// # Errors
    /// With what it said.
    pub fn success(self, what: &str) -> anyhow::Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        bail!(
            "{what} failed with exit code {:?}: {}",
            self.code,
            self.complaint()
        )
    }

    /// The last line that it said on standard error, without what stands in front of every complaint.
    pub fn complaint(&self) -> String {
        let last = self
            .err
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("nothing was said");
        last.trim().trim_start_matches("error: ").to_owned()
    }
}

/// The arguments that make this executable a coordinator.
pub fn serve_args<'a>(config: &'a Path, ready_file: &'a Path) -> [&'a OsStr; 8] {
    let flags = [
        "coordinator",
        "serve",
        "--checker-prefix",
        "coordinator",
        "--config",
        "--ready-file",
    ]
    .map(OsStr::new);
    let [role, serve, prefix, value, config_flag, ready_flag] = flags;
    [
        role,
        serve,
        prefix,
        value,
        config_flag,
        config.as_os_str(),
        ready_flag,
        ready_file.as_os_str(),
    ]
}

/// Finds the coordinator that wrote this when it was ready: its addresses, and its key, which it is asked for.
///
/// # Errors
/// When something is missing in it, or the coordinator does not answer.
pub async fn find(ready: &str, bus: Bus) -> anyhow::Result<(CentreAddr, Api)> {
    let json: Value = serde_json::from_str(ready).context("ready file of the coordinator")?;
    let addr = |name: &str| -> anyhow::Result<SocketAddr> {
        let text = json[name]
            .as_str()
            .with_context(|| format!("{name} in {ready}"))?;
        text.parse().with_context(|| format!("{name} {text:?}"))
    };
    let api = Api::new(addr("http")?)?;
    let (mqtt, logins) = match bus {
        Bus::Embedded => (addr("mqtt")?, true),
        Bus::External(mqtt) => (mqtt, false),
    };
    Ok((
        CentreAddr {
            mqtt,
            http: addr("http")?,
            key: api.key().await?,
            logins,
        },
        api,
    ))
}

impl Lamppost {
    /// The coordinator that wrote this when it was ready.
    ///
    /// # Errors
    /// When something is missing in it, or the coordinator does not answer.
    pub async fn new(ready: &str, bus: Bus) -> anyhow::Result<Self> {
        let (centre, api) = find(ready, bus).await?;
        Ok(Self { centre, api })
    }

    /// `lamppost model push FILE`.
    ///
    /// # Errors
    /// When the command does not run; a refusal is no error.
    pub async fn push(&self, stage: &mut Stage, file: &Path) -> anyhow::Result<Said> {
        self.run(
            stage,
            &["model".as_ref(), "push".as_ref(), file.as_os_str()],
        )
        .await
    }

    /// `lamppost rollout start MODEL VERSION --group GROUP --all-at-once`.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn rollout(
        &self,
        stage: &mut Stage,
        model: &str,
        version: &str,
        group: &str,
    ) -> anyhow::Result<()> {
        let args = ["rollout", "start", model, version, "--group", group];
        let args = [&args[..], &["--all-at-once"]].concat();
        let args: Vec<&OsStr> = args.into_iter().map(AsRef::as_ref).collect();
        self.run(stage, &args)
            .await?
            .success("rollout start")
            .map(drop)
    }

    /// `lamppost rollout rollback MODEL --group GROUP`.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn rollback(
        &self,
        stage: &mut Stage,
        model: &str,
        group: &str,
    ) -> anyhow::Result<()> {
        let args = ["rollout", "rollback", model, "--group", group].map(AsRef::as_ref);
        self.run(stage, &args)
            .await?
            .success("rollout rollback")
            .map(drop)
    }

    async fn run(&self, stage: &mut Stage, args: &[&OsStr]) -> anyhow::Result<Said> {
        let server = format!("http://{}", self.centre.http);
        let front = [
            OsString::from("coordinator"),
            OsString::from("--server"),
            OsString::from(server),
        ];
        let args: Vec<OsString> = front
            .into_iter()
            .chain(args.iter().map(|&arg| arg.to_owned()))
            .collect();
        let command = stage.children.command(&args);
        stage
            .run_beside(command.said(Instant::now() + COMMAND_WITHIN))
            .await
    }

    /// What the coordinator has stored of a node.
    ///
    /// # Errors
    /// When it does not answer so.
    pub async fn stored(&self, stage: &mut Stage, node: &NodePath) -> anyhow::Result<Stored> {
        stage.run_beside(self.api.stored(node)).await
    }

    /// Says how to talk to the fleet that is left running.
    pub fn explain(&self, stage: &mut Stage) {
        let CentreAddr { mqtt, http, .. } = &self.centre;
        let exe = stage.children.exe().display().to_string();
        let nodes = stage.nodes.iter().map(|node| {
            let port = node.broker.addr.port();
            format!(
                "  mosquitto_sub -p {port} -v -t 'lamppost/v1/nodes/+/+/pred/+'     # {} itself\n",
                node.path
            )
        });
        let nodes: String = nodes.collect();
        stage.screen.text(&format!(
            "\nThe fleet goes on with {SPEED_KEPT} readings a second until Ctrl-C. Listen to it with any MQTT client:\n\
             {nodes}  mosquitto_sub -p {} -v -t 'lamppost/v1/#'                       # the coordinator's broker, all nodes\n\n\
             Talk to the coordinator, for example:\n\
             \x20 alias lamppost='{exe} coordinator --server http://{http}'\n\
             \x20 lamppost node ls\n\
             \x20 lamppost node show minneapolis/i94-a\n\
             \x20 lamppost model ls\n\
             \x20 lamppost rollout start traffic-flow 1.0.0 --group all\n\
             \x20 lamppost rollout status traffic-flow --group all\n\
             \x20 lamppost watch 'lamppost/v1/nodes/+/+/reported'\n\
             Configuration and logs: {}\n",
            mqtt.port(),
            stage.children.dir().display()
        ));
    }
}
