//! The programs under load, each in processes of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::process::{self, Memory};
use crate::session::Route;
use crate::wire::{self, Qos};

/// How long a program may take until its broker takes connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Topic of the readings.
const READINGS: &str = "sensors/i94";
/// Stream of the predictions.
const STREAM: &str = "i94";

/// Where the programs are, and a folder for what they write.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) agent: PathBuf,
    pub(crate) broker: PathBuf,
    pub(crate) mosquitto: PathBuf,
    pub(crate) python: PathBuf,
    /// The peer's program.
    pub(crate) peer: PathBuf,
    /// The model as a folder, for the peer.
    pub(crate) model: PathBuf,
    /// The model as a bundle, for the agent.
    pub(crate) bundle: PathBuf,
    pub(crate) scratch: PathBuf,
}

/// A program under load; it ends with this value.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) route: Route,
    programs: Vec<Program>,
}

#[derive(Debug)]
struct Program {
    child: Child,
    log: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Contestant {
    /// The agent with its broker.
    pub(crate) fn agent(tools: &Tools) -> anyhow::Result<Self> {
        let addr = free_address()?;
        let folder = tools.scratch.join(format!("agent-{}", addr.port()));
        fs::create_dir_all(&folder)?;
        let config = folder.join("agent.toml");
        fs::write(&config, agent_config(addr, &folder, &tools.bundle))?;
        let mut command = Command::new(&tools.agent);
        command.arg("--config").arg(&config).args(["--log", "warn"]);
        let program = Program::start(&mut command, folder.join("log"))?;
        Self::with_broker("lamppost-agent", route(addr, "bench/agent"), vec![program])
    }

    /// The Python peer, with mosquitto as its broker; `inline` makes it predict in its network thread.
    pub(crate) fn peer(tools: &Tools, qos: Qos, inline: bool) -> anyhow::Result<Self> {
        let name = if inline {
            "Python peer, inline"
        } else {
            "Python peer"
        };
        let mut contestant = Self::mosquitto(tools)?;
        contestant.name = name;
        let addr = contestant.route.addr;
        let file = |ending: &str| tools.scratch.join(format!("peer-{}.{ending}", addr.port()));
        let mut command = Command::new(&tools.python);
        command
            .arg(&tools.peer)
            .arg("--bundle")
            .arg(&tools.model)
            .arg("--database")
            .arg(file("sqlite"));
        command.args([
            "--port",
            &addr.port().to_string(),
            "--qos",
            if qos == Qos::AtLeastOnce { "1" } else { "0" },
        ]);
        command.args([
            "--node",
            "bench/peer",
            "--stream",
            STREAM,
            "--readings",
            READINGS,
        ]);
        if inline {
            command.arg("--inline");
        }
        contestant
            .programs
            .push(Program::start(&mut command, file("log"))?);
        contestant.route = route(addr, "bench/peer");
        Ok(contestant)
    }

    /// The agent's broker by itself: a subscriber gets the readings as they are.
    pub(crate) fn broker(tools: &Tools) -> anyhow::Result<Self> {
        let addr = free_address()?;
        let mut command = Command::new(&tools.broker);
        command.args(["--listen", &addr.to_string(), "--allow-anonymous"]);
        let program = Program::start(
            &mut command,
            tools.scratch.join(format!("broker-{}.log", addr.port())),
        )?;
        Self::with_broker(
            "lamppost-broker, no inference",
            passing(addr),
            vec![program],
        )
    }

    /// The same with mosquitto.
    pub(crate) fn mosquitto(tools: &Tools) -> anyhow::Result<Self> {
        let addr = free_address()?;
        let file = |ending: &str| {
            tools
                .scratch
                .join(format!("mosquitto-{}.{ending}", addr.port()))
        };
        // Its defaults would throttle it: 20 messages in flight, 1,000 queued, and Nagle's algorithm.
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
             max_inflight_messages 0\nmax_queued_messages 0\nlog_type error\n",
            addr.port()
        );
        fs::write(file("conf"), config)?;
        let mut command = Command::new(&tools.mosquitto);
        command.arg("-c").arg(file("conf"));
        let program = Program::start(&mut command, file("log"))?;
        Self::with_broker("mosquitto, no inference", passing(addr), vec![program])
    }

    fn with_broker(
        name: &'static str,
        route: Route,
        programs: Vec<Program>,
    ) -> anyhow::Result<Self> {
        let mut contestant = Self {
            name,
            route,
            programs,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = wire::connect(contestant.route.addr, "bench-probe") {
            contestant.check()?;
            ensure!(
                Instant::now() < deadline,
                "{name} takes no connection within {START_TIMEOUT:?}: {error:#}"
            );
            thread::sleep(Duration::from_millis(1));
        }
        Ok(contestant)
    }

    /// Fails when one of its programs has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for program in &mut self.programs {
            if let Some(status) = program.child.try_wait()? {
                let log = fs::read_to_string(&program.log).unwrap_or_default();
                anyhow::bail!("{} ended with {status}:\n{log}", self.name);
            }
        }
        Ok(())
    }

    /// Memory of its programs together.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        self.programs
            .iter()
            .map(|program| Memory::of(program.child.id()))
            .sum()
    }

    /// Processor time of its programs together, so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.programs
            .iter()
            .map(|program| process::cpu(program.child.id()))
            .sum()
    }
}

impl Program {
    fn start(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, log })
    }
}

fn route(addr: SocketAddr, node: &str) -> Route {
    let predictions = format!("lamppost/v1/nodes/{node}/pred/{STREAM}");
    Route {
        addr,
        readings: READINGS.to_owned(),
        predictions,
    }
}

fn passing(addr: SocketAddr) -> Route {
    Route {
        addr,
        readings: READINGS.to_owned(),
        predictions: READINGS.to_owned(),
    }
}

fn agent_config(addr: SocketAddr, folder: &Path, bundle: &Path) -> String {
    format!(
        r#"site = "bench"
node = "agent"
data_dir = "{data}"
[broker]
listen = "{addr}"
allow_anonymous = true
[[model]]
name = "traffic-flow"
bundle = "{bundle}"
[[stream]]
name = "{STREAM}"
source = {{ topic = "{READINGS}", decode = "json", time = "/ts", fields = {{ volume = "/volume" }} }}
window = {{ count = 24, hop = 1 }}
model = "traffic-flow"
"#,
        data = folder.join("data").display(),
        bundle = bundle.display(),
    )
}

/// An address that nobody listens on. Another program may take the port before it is used; the start then fails.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
