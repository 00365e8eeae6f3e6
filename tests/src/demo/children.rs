//! The demo's other processes: started, watched, and ended on every way out.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::wait;

/// How long a process may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Lines of a log that are shown when something went wrong.
const TAIL_LINES: usize = 15;
/// Of a log, only so many bytes are read for its tail.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// The word in front of a role that ties its process to the demo's life.
pub const TIED: &str = "tied";

/// Processes of this same executable, each in another role.
#[derive(Debug)]
pub struct Children {
    exe: PathBuf,
    dir: PathBuf,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a command of the CLI said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A command that runs to its end.
#[derive(Debug)]
pub struct OneShot {
    command: Command,
    shown: String,
}

impl OneShot {
    /// Runs it, and gives what it said.
    ///
    /// # Errors
    /// When it cannot be started or does not end until `deadline`; a failing exit code is no error.
    pub async fn said(mut self, deadline: Instant) -> anyhow::Result<Said> {
        let Ok(output) = tokio::time::timeout_at(deadline, self.command.output()).await else {
            bail!("{} did not end in time", self.shown);
        };
        let output = output.with_context(|| format!("start {}", self.shown))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        })
    }
}

impl Children {
    /// No process yet; logs go to `dir`.
    ///
    /// # Errors
    /// When the path of this executable is unknown.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("path of this executable")?;
        Ok(Self::of(&exe, dir))
    }

    /// The same with another executable of the demo.
    pub fn of(exe: &Path, dir: &Path) -> Self {
        Self {
            exe: exe.to_owned(),
            dir: dir.to_owned(),
            running: Vec::new(),
        }
    }

    /// The executable.
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// Where the logs go.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts `demo tied <args>` under a name.
    ///
    /// # Errors
    /// When the log cannot be made or the process not started.
    pub fn start(&mut self, name: &str, args: &[&OsStr]) -> anyhow::Result<()> {
        let log = self.dir.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let child = Command::new(&self.exe)
            .arg(TIED)
            .args(args)
            // The process ends when this pipe does, even if nobody is left to end it.
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            // Ctrl-C reaches the demo alone, which then ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.running.push(Running {
            name: name.to_owned(),
            child,
            log,
        });
        Ok(())
    }

    /// Waits for the file that a process writes when it is ready, and reads it.
    ///
    /// # Errors
    /// When a process ends before, or the file is not there until `deadline`.
    pub async fn ready(
        &mut self,
        name: &str,
        file: &Path,
        deadline: Instant,
    ) -> anyhow::Result<String> {
        loop {
            self.check()?;
            let soon = deadline.min(Instant::now() + Duration::from_millis(200));
            let text = wait::until(name, soon, || async {
                tokio::fs::read_to_string(file)
                    .await
                    .ok()
                    .filter(|text| !text.is_empty())
            })
            .await;
            match text {
                Ok(text) => return Ok(text),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => bail!("{name} is not ready in time; {}", self.tail_of(name)),
            }
        }
    }

    /// Fails when a process has ended by itself.
    ///
    /// # Errors
    /// With its name, how it ended and the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for at in 0..self.running.len() {
            if let Some(status) = self.running[at].child.try_wait()? {
                let name = self.running[at].name.clone();
                bail!("{name} ended by itself ({status}); {}", self.tail_of(&name));
            }
        }
        Ok(())
    }

    /// The id of a process, while it runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let running = self.running.iter().find(|running| running.name == name);
        running.and_then(|running| running.child.id())
    }

    /// A command that is yet to be run to its end: `demo <args>`.
    pub fn command(&self, args: &[OsString]) -> OneShot {
        let shown = args
            .iter()
            .map(|arg| arg.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let mut command = Command::new(&self.exe);
        command
            .args(args)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        OneShot { command, shown }
    }

    /// Ends one process as a power cut would.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be killed.
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self
            .running
            .iter()
            .position(|running| running.name == name)
            .with_context(|| format!("no process {name}"))?;
        let mut running = self.running.remove(at);
        running
            .child
            .kill()
            .await
            .with_context(|| format!("kill {name}"))
    }

    /// Asks all to stop, the last started first, and kills what is still there after 5 s.
    pub async fn stop(&mut self) {
        for running in self.running.iter().rev() {
            let pid = running
                .child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .and_then(Pid::from_raw);
            if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
                tracing::debug!(name = running.name, %error, "process could not be asked to stop");
            }
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        for mut running in self.running.drain(..).rev() {
            let ended = tokio::time::timeout_at(deadline, running.child.wait())
                .await
                .is_ok();
            if !ended && let Err(error) = running.child.kill().await {
                tracing::debug!(name = running.name, %error, "process could not be killed");
            }
        }
    }

    /// The ends of all logs, with their paths.
    pub fn tails(&self) -> String {
        let tails: Vec<_> = self
            .running
            .iter()
            .map(|running| self.tail_of(&running.name))
            .collect();
        tails.join("\n")
    }

    fn tail_of(&self, name: &str) -> String {
        let Some(running) = self.running.iter().find(|running| running.name == name) else {
            return format!("no log of {name}");
        };
        let text = match std::fs::read(&running.log) {
            Ok(bytes) => {
                String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..])
                    .into_owned()
            }
            Err(error) => {
                return format!("its log {} cannot be read: {error}", running.log.display());
            }
        };
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
        format!("the end of {}:\n    {tail}", running.log.display())
    }
}

/// Ends this process, in good order, when its standard input does: a process that the demo started does not outlive it.
pub fn tie_to_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        // Nothing is ever written to this pipe: reading it ends when its writer is gone.
        let read = std::io::Read::read_to_end(&mut std::io::stdin(), &mut rest);
        tracing::info!(?read, "the demo is gone");
        if kill_process(rustix::process::getpid(), Signal::TERM).is_err() {
            std::process::exit(1);
        }
    });
}
