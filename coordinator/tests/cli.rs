//! The command line and the server as processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use lamppost_coordinator::api::{Key, ModelRow, NodeView, Pushed, RolloutView, StoredPredictions};
use lamppost_models::message::{CandidateSlot, ReportedModel, TrialState, Verdict};
use support::server::{Server, failure, lamppost};
use support::{Node, altered_bundle, bundle, zoo};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_tour_of_the_registry_and_the_rollouts() {
    let dir = tempdir();
    let server = Server::start(dir.path());
    assert!(server.good(&["model", "ls"]).contains("model push"));
    assert!(server.good(&["node", "ls"]).contains("no node"));
    let folder = zoo("1.0.0");
    assert!(
        server
            .good(&["model", "verify", text(&folder)])
            .contains("preflight passed")
    );
    let packed = dir.path().join("flow.tar");
    server.good(&["model", "pack", text(&folder), "-o", text(&packed)]);
    assert_eq!(std::fs::read(&packed).unwrap(), bundle("1.0.0"));

    let pushed: Pushed = server.json(&["model", "push", text(&packed)]);
    assert!(
        pushed.created && pushed.preflight.golden_cases > 0 && pushed.preflight.memory_bytes > 0
    );
    assert!(
        server
            .good(&["model", "push", text(&folder)])
            .contains("already"),
        "the folder packs to the same bytes"
    );
    server.good(&["model", "push", text(&zoo("1.1.0"))]);
    let rows: Vec<ModelRow> = server.json(&["model", "ls"]);
    assert_eq!((rows.len(), &rows[0]), (2, &pushed.model));
    let shown = server.good(&["model", "inspect", "traffic-flow", "1.1.0"]);
    assert!(
        shown.contains("24 readings of") && shown.contains(&rows[1].digest.to_string()),
        "{shown}"
    );

    assert!(
        server
            .good(&["rollout", "start", "traffic-flow", "1.0.0"])
            .contains("sequence 1")
    );
    let started: RolloutView = server.json(&[
        "rollout",
        "start",
        "traffic-flow",
        "1.1.0",
        "--group",
        "all",
        "--wait",
    ]);
    assert_eq!(
        (started.rollout.sequence.0, started.summary.nodes),
        (2, 0),
        "with no nodes there is nothing to wait for"
    );
    assert!(
        server
            .good(&["rollout", "rollback", "traffic-flow"])
            .contains("rollback of 2")
    );
    let views: Vec<RolloutView> = server.json(&["rollout", "status", "traffic-flow"]);
    assert_eq!(
        (views.len(), views[0].rollout.stable.version.to_string()),
        (3, "1.0.0".to_owned())
    );
    assert!(server.good(&["rollout", "ls"]).contains("traffic-flow"));

    let key: Key = server.json(&["key"]);
    let public = std::fs::read_to_string(dir.path().join("data/release.pub")).unwrap();
    assert_eq!(
        (public.trim(), server.good(&["key"]).trim()),
        (&*key.key.to_string(), &*key.key.to_string())
    );
    server.terminate();
}

#[test]
fn a_version_is_revoked_and_a_rollout_is_played() {
    let dir = tempdir();
    let server = Server::start(dir.path());
    for version in ["1.0.0", "1.1.0"] {
        let path = dir.path().join(version);
        std::fs::write(&path, bundle(version)).unwrap();
        server.good(&["model", "push", text(&path)]);
    }
    server.good(&["rollout", "start", "traffic-flow", "1.0.0"]);
    let revoke = [
        "rollout",
        "revoke",
        "traffic-flow",
        "1.0.0",
        "--reason",
        "blind in snow",
    ];
    let (code, error) = server.bad(&revoke);
    assert!(
        code == 1 && error.contains("--to VERSION"),
        "{code} {error}"
    );

    let fleet = dir.path().join("fleet.toml");
    std::fs::write(&fleet, "[[nodes]]\nsite = \"a\"\ncount = 40\n").unwrap();
    let played: serde_json::Value = server.json(&[
        "sim",
        "traffic-flow",
        "1.1.0",
        "--fleet",
        text(&fleet),
        "--runs",
        "2",
    ]);
    let digest = bundle_digest(&server, "1.1.0");
    assert_eq!(played["plan"]["to"]["digest"], digest);
    assert_eq!(played["runs"].as_array().unwrap().len(), 2);
    let (code, error) = server.bad(&["sim", "traffic-flow", "1.1.0"]);
    assert!(
        code == 1 && error.contains("lamppost node ls"),
        "{code} {error}"
    );

    let revoked: RolloutView = server.json(&[&revoke[..], &["--to", "1.1.0"]].concat());
    assert_eq!(revoked.rollout.stable.digest.to_string(), digest);
    assert!(server.good(&["audit"]).contains("blind in snow"));
    server.terminate();
}

fn bundle_digest(server: &Server, version: &str) -> String {
    let rows: Vec<ModelRow> = server.json(&["model", "ls"]);
    let named = rows.iter().find(|row| row.version.to_string() == version);
    named.unwrap().digest.to_string()
}

#[test]
fn each_way_to_fail_has_its_exit_code() {
    let dir = tempdir();
    let server = Server::start_with(dir.path(), Some("0123456789abcdef"));
    let good = dir.path().join("good.tar");
    std::fs::write(&good, bundle("1.0.0")).unwrap();
    let conflicting = dir.path().join("conflicting.tar");
    std::fs::write(
        &conflicting,
        altered_bundle("1.0.0", |manifest, _| manifest["summary"] = "other".into()),
    )
    .unwrap();
    let broken = dir.path().join("broken.tar");
    std::fs::write(&broken, b"no bundle").unwrap();
    server.good(&["model", "push", text(&good)]);
    let cases: [(&[&str], i32, &str); 12] = [
        (
            &["model", "push", text(&conflicting)],
            1,
            "a version never changes",
        ),
        (&["model", "push", text(&broken)], 1, "tar"),
        (&["model", "verify", text(&broken)], 1, "tar"),
        (&["model", "push", "/nowhere/x.tar"], 4, "/nowhere/x.tar"),
        (
            &["model", "pack", text(dir.path()), "-o", "/tmp/x"],
            4,
            "manifest.json",
        ),
        (&["model", "inspect", "traffic-flow", "9.0.0"], 4, "9.0.0"),
        (&["rollout", "start", "traffic-flow", "9.0.0"], 4, "9.0.0"),
        (&["rollout", "status", "traffic-flow"], 4, "rollout start"),
        (&["node", "show", "a/b"], 4, "a/b"),
        (&["node", "show", "ab"], 2, "SITE/NODE"),
        (&["key", "--token", "wrong"], 5, "--token"),
        (&["key", "--server", "ftp://x"], 2, "http://"),
    ];
    for (args, code, wanted) in cases {
        let (found, error) = server.bad(args);
        assert!(
            found == code && error.contains(wanted),
            "{args:?}: {found} {error}"
        );
    }
    server.terminate();
    let mut gone = lamppost();
    let (code, error) = failure(
        &gone
            .args(["node", "ls", "--server", "http://127.0.0.1:1"])
            .output()
            .unwrap(),
    );
    assert!(
        code == 3 && error.contains("lamppost serve"),
        "{code} {error}"
    );
}

#[test]
fn a_server_that_cannot_run_says_why() {
    let dir = tempdir();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "colour = 1").unwrap();
    let run = |args: &[&str]| failure(&lamppost().arg("serve").args(args).output().unwrap());
    let (code, error) = run(&["--config", text(&file)]);
    assert!(code == 2 && error.contains("colour"), "{code} {error}");
    let data = dir.path().join("data");
    let (code, error) = run(&["--data-dir", text(&data), "--http", "0.0.0.0:0"]);
    assert!(
        code == 2 && error.contains("http.token") && !data.exists(),
        "{code} {error}"
    );
    let (code, error) = run(&[
        "--data-dir",
        "/proc/nowhere",
        "--http",
        "127.0.0.1:0",
        "--mqtt",
        "127.0.0.1:0",
    ]);
    assert!(
        code == 1 && error.contains("/proc/nowhere"),
        "{code} {error}"
    );
}

#[test]
fn a_data_directory_has_one_coordinator() {
    let dir = tempdir();
    let first = Server::start(dir.path());
    let second = || {
        let data = dir.path().join("data");
        let listen = ["--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"];
        let mut command = lamppost();
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(data)
            .args(listen);
        failure(&command.output().unwrap())
    };
    let (code, error) = second();
    let other = format!(
        "(process {}, its API on http://{})",
        first.child.id(),
        first.ready.http
    );
    assert!(
        code == 1 && error.contains(&other) && error.contains("data_dir of its own"),
        "{code} {error}"
    );
    assert!(first.good(&["model", "ls"]).contains("model push"));
    // A coordinator that was killed leaves its name behind, and nothing that keeps another one out.
    first.kill();
    Server::start(dir.path()).terminate();
}

#[test]
fn the_checking_process_answers_for_good_and_bad() {
    let dir = tempdir();
    let file = dir.path().join("b.tar");
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let output = lamppost().arg("check-bundle").arg(&file).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, answer) = check(&bundle("1.0.0"));
    assert!(
        code == Some(0) && answer.starts_with("{\"passed\":{"),
        "{answer}"
    );
    let (code, answer) = check(b"nothing");
    assert!(
        code == Some(1) && answer.starts_with("{\"refused\":\"bundle cannot be read"),
        "{answer}"
    );
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = lamppost().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("rollout") && script.contains("ready-file"),
            "{shell}"
        );
    }
}

/// Runs a command while the test goes on.
fn spawn(server: &Server, args: &[&str]) -> std::thread::JoinHandle<Output> {
    let mut command = lamppost();
    command
        .args(args)
        .env("LAMPPOST_SERVER", format!("http://{}", server.ready.http));
    std::thread::spawn(move || command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_when_nodes_run_it_refuse_it_or_the_time_is_over() {
    let dir = tempdir();
    let server = Server::start(dir.path());
    server.good(&["model", "push", text(&zoo("1.0.0"))]);
    server.good(&["model", "push", text(&zoo("1.1.0"))]);
    let key = server.json::<Key>(&["key"]).key;
    let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
    node.report(vec![]).await;
    let missing = ReportedModel {
        name: "traffic-flow".parse().unwrap(),
        active: None,
        candidate: None,
        previous: None,
        release: None,
        trial: None,
    };
    node.report(vec![missing.clone()]).await;
    support::eventually("the node has reported", async || {
        let nodes: Vec<NodeView> = server.json(&["node", "ls"]);
        nodes
            .first()
            .and_then(|node| node.reported.as_ref())
            .filter(|reported| reported.models.len() == 1)
            .map(|_| ())
    })
    .await;
    assert!(
        server
            .good(&["node", "show", "minneapolis/gw-1"])
            .contains("traffic-flow")
    );

    let (code, error) = server.bad(&[
        "rollout",
        "start",
        "traffic-flow",
        "1.0.0",
        "--wait",
        "--timeout",
        "200ms",
    ]);
    assert!(code == 6 && error.contains("1 of 1"), "{code} {error}");
    node.release(key).await;

    let waiting = spawn(
        &server,
        &[
            "rollout",
            "start",
            "traffic-flow",
            "1.1.0",
            "--wait",
            "--json",
        ],
    );
    let release = node.release(key).await;
    node.report_running(&release.stable).await;
    let output = waiting.join().unwrap();
    let view: RolloutView = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        output.status.success() && view.summary.running == 1,
        "{output:?}"
    );

    let waiting = spawn(&server, &["rollout", "rollback", "traffic-flow", "--wait"]);
    let release = node.release(key).await;
    let state = TrialState::Refused {
        verdict: Verdict::DigestMismatch,
        detail: "other bytes".to_owned(),
    };
    let (version, digest) = (release.stable.version.clone(), release.stable.digest);
    node.report(vec![ReportedModel {
        candidate: Some(CandidateSlot {
            version,
            digest,
            state,
        }),
        ..missing
    }])
    .await;
    let output = waiting.join().unwrap();
    let (code, error) = failure(&output);
    assert!(
        code == 1 && error.contains("1 of 1 nodes refused"),
        "{code} {error}"
    );
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("digest mismatch: other bytes")
    );
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_topic_and_payload() {
    let dir = tempdir();
    let server = Server::start(dir.path());
    let node = Node::connect(server.mqtt(), "gw-1", 1).await;
    support::eventually("the status is retained", async || {
        let nodes: Vec<NodeView> = server.json(&["node", "ls"]);
        (!nodes.is_empty()).then_some(())
    })
    .await;
    let waiting = spawn(&server, &["watch", "lamppost/v1/nodes/#", "--count", "2"]);
    // The retained status comes first; a prediction then, at once or a little later.
    while !waiting.is_finished() {
        node.predict(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let output = waiting.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("lamppost/v1/nodes/minneapolis/gw-1/status {"),
        "{text}"
    );
    assert!(lines.len() == 2 && output.status.success(), "{text}");
    let (code, error) = server.bad(&["watch", "a#"]);
    assert!(code == 1 && error.contains("filter"), "{code} {error}");
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_kill_is_stored_once() {
    let dir = tempdir();
    let mut acked = std::collections::BTreeSet::new();
    for life in 0..3_u64 {
        let server = Server::start(dir.path());
        // The same run of the agent goes on, and sends again what it has no acknowledgement of.
        let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
        for number in (0..(life + 1) * 300).filter(|number| !acked.contains(number)) {
            node.predict(number).await;
        }
        // Killed in the middle, whenever the first acknowledgement happens to come.
        let ack = node.ack().await;
        server.kill();
        acked.extend(
            ack.predictions
                .iter()
                .flat_map(|range| range.from..=range.to),
        );
    }
    let server = Server::start(dir.path());
    let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
    for number in (0..900).filter(|number| !acked.contains(number)) {
        node.predict(number).await;
    }
    while acked.len() < 900 {
        acked.extend(
            node.ack()
                .await
                .predictions
                .iter()
                .flat_map(|range| range.from..=range.to),
        );
    }
    let found: StoredPredictions =
        server.json(&["prediction", "ls", "minneapolis/gw-1", "--limit", "1000"]);
    let rows = found.predictions.iter();
    let mut numbers: Vec<u64> = rows.map(|row| row.prediction.id.number).collect();
    numbers.sort_unstable();
    assert_eq!((numbers, found.older), ((0..900).collect(), None));
    let three = ["prediction", "ls", "minneapolis/gw-1", "--limit", "3"];
    let text = server.good(&[&three[..], &["--stream", "i94"]].concat());
    let third = found.predictions[2].position;
    assert!(
        text.contains("4123.5") && text.ends_with(&format!("older ones: --before {third}\n")),
        "{text}"
    );
    let next: StoredPredictions =
        server.json(&[&three[..], &["--before", &third.to_string()]].concat());
    assert_eq!(next.predictions, found.predictions[3..6]);
    server.terminate();
}
