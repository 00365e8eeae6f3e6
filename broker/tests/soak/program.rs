//! The broker as a process: started, weighed, stopped, its counters read.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Small bounds, so that a short soak reaches them: sessions of absent clients, retained messages, queues.
const CONFIG: &str = r#"
listen = "127.0.0.1:0"
allow_anonymous = true
sys_interval = "1s"
[limits]
clients_max = 100
handshakes_max = 50
links_max = 4
write_timeout = "5s"
absent_sessions_max = 64
session_expiry_max = "3s"
retained_count_max = 1000
"#;

/// How long the broker may take to come to rest after the crowd has left: sessions expire, threads for blocking calls end.
const REST_TIMEOUT: Duration = Duration::from_secs(45);
/// At rest is what has not changed for so long.
const REST: Duration = Duration::from_secs(4);

/// What the process takes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended by itself unless the test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Program {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("broker.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lamppost-broker"))
            .arg("--config")
            .arg(config)
            .env("LAMPPOST_LOG", "error,lamppost_broker=info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let address = address.parse().unwrap();
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    fn weight(&self) -> Option<Weight> {
        let folder = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{folder}/status")).ok()?;
        let number = |key: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Weight {
            resident_bytes: number("VmRSS:")? * 1024,
            descriptors: std::fs::read_dir(format!("{folder}/fd")).ok()?.count(),
            threads: number("Threads:")?,
        })
    }

    /// The process once nothing changes any more, or once it takes no more than `wanted` did; `None` where there is no
    /// `/proc`.
    pub(crate) async fn at_rest(&self, wanted: Option<Weight>) -> Option<Weight> {
        let started = Instant::now();
        let mut last = (self.weight()?, Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.weight()?;
            let things = |weight: Weight| (weight.descriptors, weight.threads);
            if things(now) != things(last.0) {
                last = (now, Instant::now());
            }
            let settled = last.1.elapsed() >= REST;
            let enough = wanted.is_none_or(|wanted| {
                now.descriptors <= wanted.descriptors && now.threads <= wanted.threads
            });
            if (settled && enough) || started.elapsed() > REST_TIMEOUT {
                return Some(now);
            }
        }
    }

    /// Stops the broker and returns what it counted, which it logs as its last word.
    pub(crate) async fn stop(mut self) -> BTreeMap<String, u64> {
        let asked = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(asked.success());
        let mut log = self.child.stderr.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        });
        let text = crate::common::in_time("the end of the broker", reading)
            .await
            .unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{text}");
        let (_, stats) = text
            .rsplit_once("Stats { ")
            .unwrap_or_else(|| panic!("no counters in the log:\n{text}"));
        let (stats, _) = stats.split_once('}').unwrap();
        stats
            .split(", ")
            .map(|pair| {
                let (name, value) = pair.trim().split_once(": ").unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }
}
