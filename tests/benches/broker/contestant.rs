//! The brokers under load, each in a process of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::{stock, wire};

/// How long a broker may take until it takes connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Lamppost,
    Mosquitto,
    Rumqttd,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Lamppost, Self::Mosquitto, Self::Rumqttd];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lamppost => "lamppost-broker",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
        }
    }
}

/// Where the programs are, and a folder for what they write.
#[derive(Debug)]
pub(crate) struct Tools {
    lamppost: PathBuf,
    mosquitto: PathBuf,
    scratch: PathBuf,
}

impl Tools {
    pub(crate) fn from_environment(scratch: &Path) -> anyhow::Result<Self> {
        let named = |variable: &str| -> anyhow::Result<PathBuf> {
            let path = std::env::var_os(variable).with_context(|| {
                format!("{variable} is not set: start tests/benches/run-broker")
            })?;
            let path = PathBuf::from(path);
            fs::metadata(&path).with_context(|| format!("{variable} names {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            lamppost: named("LAMPPOST_BENCH_BROKER")?,
            mosquitto: named("LAMPPOST_BENCH_MOSQUITTO")?,
            scratch: scratch.to_owned(),
        })
    }
}

/// A broker that takes connections; it ends with this value.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Contestant {
    pub(crate) fn start(kind: Kind, tools: &Tools) -> anyhow::Result<Self> {
        let address = free_address()?;
        let file = |ending: &str| {
            tools
                .scratch
                .join(format!("{}-{}.{ending}", kind.name(), address.port()))
        };
        let mut command = match kind {
            Kind::Lamppost => {
                let mut command = Command::new(&tools.lamppost);
                command.args(["--listen", &address.to_string(), "--allow-anonymous"]);
                command.env("LAMPPOST_LOG", "warn");
                command
            }
            Kind::Mosquitto => {
                // Its defaults would throttle it: 20 messages in flight, 1,000 queued, and Nagle's algorithm.
                let config = format!(
                    "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
                     max_inflight_messages 0\nmax_queued_messages 0\nlog_type error\n",
                    address.port()
                );
                fs::write(file("conf"), config)?;
                let mut command = Command::new(&tools.mosquitto);
                command.arg("-c").arg(file("conf"));
                command
            }
            Kind::Rumqttd => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([stock::ARGUMENT, &address.to_string()]);
                command
            }
        };
        let log = file("log");
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let mut contestant = Self {
            kind,
            address,
            child,
            log,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = wire::connect(address, "bench-probe") {
            contestant.check()?;
            ensure!(
                Instant::now() < deadline,
                "{} takes no connection within {START_TIMEOUT:?}: {error:#}",
                kind.name()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(contestant)
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            anyhow::bail!("{} ended with {status}:\n{log}", self.kind.name());
        }
        Ok(())
    }

    /// A figure in bytes of `/proc/<pid>/status`: `VmRSS:` for resident memory, `VmHWM:` for the most there was of it.
    pub(crate) fn memory(&self, key: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let kib = text.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.trim().strip_suffix(" kB")?;
            value.parse::<u64>().ok()
        });
        Ok(kib.with_context(|| format!("no {key} in {path}"))? * 1024)
    }

    /// Processor time so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        on_processor(self.child.id())
    }
}

/// Processor time of all threads that a process has now, as the scheduler counts it. `/proc/<pid>/stat` has ticks of ten
/// milliseconds, and charges each to whoever runs at its end: a program that works in short bursts seems to take nothing.
pub(crate) fn on_processor(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("schedstat");
        // A thread may end between the two.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let nanos = text
            .split_whitespace()
            .next()
            .and_then(|nanos| nanos.parse().ok());
        sum += Duration::from_nanos(
            nanos.with_context(|| format!("unexpected form of {}", path.display()))?,
        );
    }
    Ok(sum)
}

/// An address that nobody listens on. Another program may take the port before it is used; the start then fails.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
