//! The coordinator in a process of its own, and its command line.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lamppost_coordinator::Ready;

use super::{DEADLINE, PASSWORD};

pub(crate) fn lamppost() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamppost"));
    for name in [
        "LAMPPOST_SERVER",
        "LAMPPOST_TOKEN",
        "LAMPPOST_LOG",
        "LAMPPOST_BROKER",
    ] {
        command.env_remove(name);
    }
    command
}

/// A coordinator in a process of its own.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) ready: Ready,
    token: Option<&'static str>,
}

impl Server {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, None)
    }

    pub(crate) fn start_with(dir: &Path, token: Option<&'static str>) -> Self {
        let config = dir.join("coordinator.toml");
        let http = token.map_or_else(String::new, |token| {
            format!("[http]\ntoken = \"{token}\"\n")
        });
        let node = |node| {
            format!(
                "[[broker.node]]\nsite = \"minneapolis\"\nnode = \"{node}\"\npassword = \"{PASSWORD}\"\n"
            )
        };
        std::fs::write(&config, format!("{http}{}{}", node("gw-1"), node("gw-2"))).unwrap();
        let ready_file = dir.join("ready.json");
        std::fs::remove_file(&ready_file).ok();
        let mut command = lamppost();
        command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .arg("--data-dir")
            .arg(dir.join("data"));
        command
            .args([
                "--http",
                "127.0.0.1:0",
                "--mqtt",
                "127.0.0.1:0",
                "--log",
                "warn",
                "--ready-file",
            ])
            .arg(&ready_file);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let ends = Instant::now() + DEADLINE;
        loop {
            if let Ok(ready) = std::fs::read(&ready_file) {
                return Self {
                    child,
                    ready: serde_json::from_slice(&ready).unwrap(),
                    token,
                };
            }
            assert!(
                child.try_wait().unwrap().is_none() && Instant::now() < ends,
                "the server does not start"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn mqtt(&self) -> SocketAddr {
        self.ready.mqtt.unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = lamppost();
        command
            .args(args)
            .env("LAMPPOST_SERVER", format!("http://{}", self.ready.http));
        if let Some(token) = self.token {
            command.env("LAMPPOST_TOKEN", token);
        }
        command.output().unwrap()
    }

    /// What a command prints that succeeds.
    pub(crate) fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> T {
        serde_json::from_str(&self.good(&[args, &["--json"]].concat())).unwrap()
    }

    /// Code and error of a command that fails.
    pub(crate) fn bad(&self, args: &[&str]) -> (i32, String) {
        failure(&self.run(args))
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn terminate(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(
            self.child.wait().unwrap().code(),
            Some(0),
            "SIGTERM is a good end"
        );
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Code and error of a command that failed.
pub(crate) fn failure(output: &Output) -> (i32, String) {
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}
