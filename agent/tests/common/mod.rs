//! A real agent in this process, an MQTT client beside it, and a stand-in for the coordinator.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

mod client;
mod coordinator;
pub(crate) mod onnx;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lamppost_agent::{Config, Ready, RunError};
use lamppost_models::{Bundle, Digest};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use client::Client;
pub(crate) use coordinator::{Acks, Came, Coordinator, Inbox};

/// Generous: the machine may be busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let waited = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waited)
        .await
        .unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// A bundle of the zoo, packed.
pub(crate) fn zoo(name: &str, version: &str) -> Vec<u8> {
    let dir = root().join("models/zoo").join(name).join(version);
    let file = |name: &str| std::fs::read(dir.join(name)).unwrap();
    Bundle::pack(
        &file("manifest.json"),
        &file("model.onnx"),
        &file("golden.json"),
    )
    .unwrap()
}

/// A bundle whose digests are right and whose model is nonsense.
pub(crate) fn nonsense() -> Vec<u8> {
    let dir = root().join("models/zoo/traffic-flow/1.1.0");
    let model = b"this is no ONNX file";
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    manifest["version"] = "1.2.0".into();
    manifest["model"] = serde_json::json!({ "digest": Digest::of(model), "bytes": model.len() });
    let golden = std::fs::read(dir.join("golden.json")).unwrap();
    Bundle::pack(manifest.to_string().as_bytes(), model, &golden).unwrap()
}

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Rows of a replay file, each a JSON object with numbers where they are numbers; empty cells are left out.
pub(crate) fn replay(file: &str) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = std::fs::read_to_string(root().join("tests/data").join(file)).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let value = |cell: &str| {
        cell.parse::<f64>()
            .map_or_else(|_| cell.into(), serde_json::Value::from)
    };
    let row = |line: &str| {
        let cells = names
            .iter()
            .zip(line.split(','))
            .filter(|(_, cell)| !cell.is_empty());
        cells
            .map(|(name, cell)| ((*name).to_owned(), value(cell)))
            .collect()
    };
    lines.map(row).collect()
}

/// The messages of the I-94 sensor: the first 200 hours have no gap.
pub(crate) fn i94(count: usize) -> Vec<String> {
    replay("i94-replay.csv")
        .into_iter()
        .take(count)
        .map(|row| serde_json::Value::from(row).to_string())
        .collect()
}

/// A running agent and its directory.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) ready: Ready,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

/// The text of a configuration for tests: all of it below `dir`, the broker on a free port.
pub(crate) fn config_text(dir: &Path, rest: &str) -> String {
    format!(
        r#"
        site = "minneapolis"
        node = "gw-1"
        data_dir = "{}"
        [broker]
        listen = "127.0.0.1:0"
        [report]
        every = "200ms"
        debounce = "20ms"
        {rest}
        "#,
        dir.join("data").display()
    )
}

/// The traffic stream, with a factory bundle below `dir`.
pub(crate) fn traffic(dir: &Path) -> String {
    let bundle = dir.join("factory.tar");
    if !bundle.exists() {
        std::fs::write(&bundle, zoo("traffic-flow", "1.0.0")).unwrap();
    }
    format!(
        r#"
        [[model]]
        name = "traffic-flow"
        bundle = "{}"
        {TRAFFIC_STREAM}
        "#,
        bundle.display()
    )
}

/// The traffic stream alone.
pub(crate) const TRAFFIC_STREAM: &str = r#"
    [[stream]]
    name = "i94-volume"
    source = { topic = "sensors/i94", decode = "json", time = "/ts", fields = { volume = { at = "/volume", kind = "number" } } }
    window = { count = 24, hop = 1 }
    model = "traffic-flow"
    label = { stream = "i94-volume", field = "volume", ahead = 1 }
    publish = { live = true, flat = "city/i94/forecast" }
"#;

/// Reads a configuration and lets the built binary check bundles.
pub(crate) fn config(text: &str) -> Config {
    let mut config = Config::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    config.self_program = Some(PathBuf::from(env!("CARGO_BIN_EXE_lamppost-agent")));
    config
}

impl Node {
    /// Starts an agent whose configuration is made for its directory.
    pub(crate) async fn start(rest: impl FnOnce(&Path) -> String) -> Self {
        Self::start_in(TempDir::new().unwrap(), rest).await
    }

    /// Starts an agent in a directory that an earlier one may have used.
    pub(crate) async fn start_in(dir: TempDir, rest: impl FnOnce(&Path) -> String) -> Self {
        Self::start_changed(dir, rest, |_| {}).await
    }

    /// The same with a configuration that is changed in what no file says.
    pub(crate) async fn start_changed(
        dir: TempDir,
        rest: impl FnOnce(&Path) -> String,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let text = config_text(dir.path(), &rest(dir.path()));
        let (sender, ready) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let mut config = config(&text);
        change(&mut config);
        let task = tokio::spawn(lamppost_agent::run(config, shutdown.clone(), sender));
        let Ok(ready) = tokio::time::timeout(DEADLINE, ready)
            .await
            .expect("the agent starts")
        else {
            panic!("the agent did not start: {:?}", task.await);
        };
        Self {
            dir,
            ready,
            shutdown,
            task,
        }
    }

    /// A client of the node's own broker.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.ready.broker.unwrap())
    }

    /// Stops the agent; gives its directory back.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("the agent stops");
        ended.unwrap().unwrap();
        self.dir
    }
}

/// The agent does not come up with this configuration; the error says why.
pub(crate) async fn fails_to_start(dir: &Path, rest: &str) -> String {
    let (sender, _ready) = oneshot::channel();
    let run = lamppost_agent::run(
        config(&config_text(dir, rest)),
        CancellationToken::new(),
        sender,
    );
    let error = tokio::time::timeout(DEADLINE, run)
        .await
        .expect("it ends")
        .unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
