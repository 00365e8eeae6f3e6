//! The loop as a process beside a coordinator: samples become a version, the edge takes it, and no kill makes two of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lamppost_coordinator::api::{Key, ModelDetail, ModelRow};
use lamppost_models::message::{
    ActiveSlot, Label, ReportedModel, Sample, SampleBatch, SampleOrigin, SamplePolicy,
};
use lamppost_models::reading::Value;
use lamppost_models::release::PublicKey;
use lamppost_models::trial::{Comparison, Moments, Side, TrialPhase, TrialReport};
use lamppost_models::{Reading, Release, V1};
use serde_json::Value as Json;
use support::server::{Server, lamppost};
use support::{DEADLINE, Node, epoch, now, zoo};
use tempfile::TempDir;

/// Samples in a batch: some 1.5 kB of JSON each, and a message has at most 256 KiB.
const BATCH: usize = 50;
/// The road after 1.0.0 was trained: two of five lanes are closed.
const LANES: f64 = 0.6;

/// A coordinator whose one node runs 1.0.0, with a loop's folder beside it.
struct World {
    dir: TempDir,
    server: Server,
    key: PublicKey,
    node: Node,
    samples: u64,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        server.good(&["model", "push", zoo("1.0.0").to_str().unwrap()]);
        let key = server.json::<Key>(&["key"]).key;
        let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
        server.good(&["rollout", "start", "traffic-flow", "1.0.0", "--all-at-once"]);
        let release = node.release(key).await;
        node.report_running(&release.stable).await;
        Self {
            dir,
            server,
            key,
            node,
            samples: 0,
        }
    }

    /// One window in eight of some hours, with the reading an hour later as its label.
    async fn collect(&mut self, hours: Range<usize>) {
        let csv = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/i94-replay.csv"),
        )
        .unwrap();
        let readings: Vec<Reading> = csv
            .lines()
            .skip(1 + hours.start)
            .take(hours.len())
            .map(reading)
            .collect();
        let hour = |pair: &[Reading]| pair[1].ts.ms_since(pair[0].ts) == 3_600_000;
        let windows = readings.windows(25).step_by(8);
        let samples: Vec<Sample> = windows
            .filter(|window| window.windows(2).all(hour))
            .zip(self.samples..)
            .map(|(window, seq)| Sample {
                v: V1,
                ts: window[23].ts,
                origin: Some(SampleOrigin {
                    boot: self.node.boot,
                    seq,
                    model: "traffic-flow".parse().unwrap(),
                    policy: SamplePolicy::Random,
                    consent: "council-2026-17".parse().unwrap(),
                }),
                window: window[..24].to_vec(),
                prediction: None,
                label: window[24]
                    .number(&"volume".parse().unwrap())
                    .map(Label::Value),
            })
            .collect();
        for records in samples.chunks(BATCH) {
            let number = self.samples;
            self.samples += records.len() as u64;
            let batch = SampleBatch {
                v: V1,
                epoch: epoch(),
                number,
                stream: "i94".parse().unwrap(),
                records: records.to_vec(),
            };
            self.node.say("sample/i94", &batch).await;
            self.node.acked_batch(number).await;
        }
    }

    fn policy(&self, more: &str) -> PathBuf {
        let path = self.dir.path().join("loop.toml");
        let text = format!("model = \"traffic-flow\"\ngroup = \"all\"\nevery = \"1s\"\n{more}");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn state(&self) -> String {
        self.dir.path().join("loop").to_str().unwrap().to_owned()
    }

    fn command(&self, policy: &Path) -> Command {
        let mut command = lamppost();
        command
            .args(["loop", "run", "--json", "--once", "--policy"])
            .arg(policy)
            .args(["--state", &self.state()]);
        command.env(
            "LAMPPOST_SERVER",
            format!("http://{}", self.server.ready.http),
        );
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What a loop says that looks once; whether it ended well, and what it complained of.
    fn once(&self, policy: &Path) -> (Vec<Json>, bool, String) {
        let output = self.command(policy).output().unwrap();
        (
            events(&output.stdout),
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn models(&self) -> Vec<String> {
        let rows: Vec<ModelRow> = self.server.json(&["model", "ls"]);
        rows.iter().map(|row| row.version.to_string()).collect()
    }

    /// How often each act is in the audit log.
    fn acts(&self) -> BTreeMap<String, usize> {
        let entries: Vec<Json> = self.server.json(&["audit"]);
        let mut acts = BTreeMap::new();
        for entry in entries {
            let act = entry["act"].as_str().unwrap().to_owned();
            *acts.entry(act).or_default() += 1;
        }
        acts
    }

    /// Kills the loop as soon as `reached` is true. It trains on the way: a few seconds, and many on a machine that is busy.
    async fn kill_when(&self, policy: &Path, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let mut child: Child = self.command(policy).spawn().unwrap();
        let ends = tokio::time::Instant::now() + 4 * DEADLINE;
        while !reached(self) {
            assert!(tokio::time::Instant::now() < ends, "in vain: {what}");
            assert!(
                child.try_wait().unwrap().is_none(),
                "the loop ended before {what}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn events(stdout: &[u8]) -> Vec<Json> {
    stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn reading(line: &str) -> Reading {
    let mut cells = line.split(',');
    let ts = cells.next().unwrap().parse().unwrap();
    let volume: f64 = cells.next().unwrap().parse().unwrap();
    Reading {
        ts,
        fields: [(
            "volume".parse().unwrap(),
            Value::Number((volume * LANES).round()),
        )]
        .into(),
    }
}

/// The node's trial of a candidate is over, and its labels say that the error is half of what it was.
async fn pass(node: &Node, release: &Release) {
    let candidate = release.candidate.as_ref().unwrap();
    let (version, digest) = (candidate.bundle.version.clone(), candidate.bundle.digest);
    let side = |mean| Side {
        loss: Moments {
            n: 40,
            mean,
            m2: 0.0,
        },
        ..Side::default()
    };
    let shadow = Comparison {
        windows: 40,
        candidate: side(100.0),
        active: side(200.0),
        ..Comparison::default()
    };
    let trial = TrialReport {
        version: version.clone(),
        digest,
        release: release.sequence,
        rollout: Some(candidate.rollout),
        since: now(),
        phase: TrialPhase::Passed,
        shadow: Some(shadow),
        probation: None,
        fetched_bytes: 4321,
    };
    let active = ActiveSlot {
        version,
        digest,
        since: now(),
        predictions: 9,
        last_inference: None,
        quality: None,
    };
    node.report(vec![ReportedModel {
        name: "traffic-flow".parse().unwrap(),
        active: Some(active),
        candidate: None,
        previous: None,
        release: Some(release.sequence),
        trial: Some(trial),
    }])
    .await;
}

const GOOD: &str = "[when]\nsamples_min = 300\n[train.recipe]\nepochs = 20\n[rollout]\n[[rollout.wave]]\nshare = \"100 %\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn samples_become_a_version_that_the_edge_takes_however_often_the_loop_is_killed() {
    let mut world = World::start().await;
    let policy = world.policy(GOOD);
    let (said, good, error) = world.once(&policy);
    assert!(good, "{error}");
    assert!(
        said[0]["words"]
            .as_str()
            .unwrap()
            .starts_with("for 300 more labelled samples"),
        "{said:?}"
    );

    // One window in eight: the windows between them are cut out of their readings.
    world.collect(0..700).await;
    let bundle = world.dir.path().join("loop/bundle.tar");
    world
        .kill_when(&policy, "the bundle is on the disk", |_| bundle.exists())
        .await;
    world
        .kill_when(&policy, "the version is pushed", |world| {
            world.models().len() == 2
        })
        .await;
    world
        .kill_when(&policy, "the rollout is started", |world| {
            world.acts().contains_key("start")
        })
        .await;

    let command = world.command(&policy).spawn().unwrap();
    let release = loop {
        let release = world.node.release(world.key).await;
        if release.candidate.is_some() {
            break release;
        }
    };
    pass(&world.node, &release).await;
    let output = tokio::task::spawn_blocking(move || command.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = events(&output.stdout);
    let ended = said.last().unwrap();
    assert_eq!(
        (ended["event"].as_str(), ended["ended"].as_str()),
        (Some("ended"), Some("promoted")),
        "{said:?}"
    );
    assert!(
        (ended["gain"].as_f64().unwrap() - 0.5).abs() < 1e-9,
        "by the edge's own labels: {ended}"
    );
    assert_eq!(ended["cost"]["fetched_bytes"], 4321);

    assert_eq!(world.models(), ["1.0.0", "1.1.0"]);
    let acts = world.acts();
    assert_eq!(
        (acts["push"], acts["start"], acts["promote"]),
        (2, 1, 1),
        "{acts:?}"
    );
    assert!(!bundle.exists());
    let detail: ModelDetail = world
        .server
        .json(&["model", "inspect", "traffic-flow", "1.1.0"]);
    let parent: Vec<ModelRow> = world.server.json(&["model", "ls"]);
    let provenance = &detail.manifest.provenance;
    assert_eq!(provenance.parent, Some(parent[0].digest));
    assert!(
        provenance.seed == Some(1) && provenance.recipe.is_some() && provenance.report.is_some()
    );
    let samples = provenance.samples.as_ref().unwrap();
    assert!(
        samples.count > 300,
        "with the windows between samples: {samples:?}"
    );
    let status = world
        .server
        .good(&["loop", "status", "--state", &world.state()]);
    assert!(
        status.contains("promoted, gain 50.00 %") && !status.contains("under way"),
        "{status}"
    );

    // What it was trained from is no reason to train again.
    let (said, good, _) = world.once(&policy);
    assert!(good && said[0]["decision"] == "wait", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_beat_the_active_version_is_not_pushed_and_failures_stop_the_loop() {
    let mut world = World::start().await;
    // Nothing is learned at such a rate.
    let policy = world.policy(
        "[when]\nsamples_min = 100\nbackoff = \"1s\"\ngap_min = \"0s\"\nfailures_max = 2\n\
         [train.recipe]\nepochs = 1\nrate = 1e-30\n[compress]\nto = []\n",
    );
    world.collect(0..350).await;
    let (said, good, error) = world.once(&policy);
    assert!(good, "{error}");
    let ended = said.last().unwrap();
    assert_eq!(ended["ended"], "not_better", "{said:?}");
    assert!(
        ended["why"]
            .as_str()
            .unwrap()
            .contains("the active version's"),
        "{ended}"
    );

    // The samples of a failure are no reason for another attempt; new ones are, after the pause.
    let (said, _, _) = world.once(&policy);
    assert!(
        said[0]["words"]
            .as_str()
            .unwrap()
            .contains("more labelled samples"),
        "{said:?}"
    );
    world.collect(350..700).await;
    let second = support::eventually("a second attempt", async || {
        let (said, _, _) = world.once(&policy);
        said.last()
            .filter(|event| event["event"] == "ended")
            .cloned()
    });
    assert_eq!(second.await["ended"], "not_better");
    let (_, good, error) = world.once(&policy);
    assert!(
        !good
            && error.contains("2 trainings in a row failed")
            && error.contains("lamppost loop resume"),
        "{error}"
    );
    let status: Json = world
        .server
        .json(&["loop", "resume", "--state", &world.state()]);
    assert_eq!(
        (
            status["learning"]["failures"].as_u64(),
            status["learning"]["outcomes"].as_array().unwrap().len()
        ),
        (Some(0), 2)
    );
    assert!(world.once(&policy).1);

    assert_eq!(world.models(), ["1.0.0"]);
    assert!(!world.acts().contains_key("start"));
}

#[test]
fn a_folder_is_one_loop_s_and_a_policy_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let state = dir.path().join("loop");
    let (code, error) = server.bad(&["loop", "status", "--state", state.to_str().unwrap()]);
    assert!(code == 4 && error.contains("loop.json"), "{code} {error}");
    let path = dir.path().join("loop.toml");
    let run = [
        "loop",
        "run",
        "--once",
        "--policy",
        path.to_str().unwrap(),
        "--state",
        state.to_str().unwrap(),
    ];
    std::fs::write(
        &path,
        "model = \"m\"\ngroup = \"all\"\n[when]\nsamples_min = 0\n",
    )
    .unwrap();
    let (code, error) = server.bad(&run);
    assert!(
        code == 1 && error.contains("when.samples_min is 0"),
        "{error}"
    );
    std::fs::write(&path, "model = \"m\"\ngroup = \"all\"\n").unwrap();
    assert!(
        server
            .good(&run)
            .contains("wait: for a first version of m in group all")
    );
    let held = std::fs::File::create(state.join("lock")).unwrap();
    held.lock().unwrap();
    let (_, error) = server.bad(&run);
    assert!(error.contains("a loop runs in"), "{error}");
    drop(held);
    assert!(server.good(&run).contains("wait: "));
}
