//! Rollouts led from the command line, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use lamppost_coordinator::api::{AuditCheck, Key, RolloutView};
use lamppost_coordinator_core::rollout::audit::Entry;
use lamppost_coordinator_core::rollout::campaign::State;
use support::server::Server;
use support::{Node, eventually, zoo};
use tempfile::TempDir;

const GATE: &str = "[gate]\nreported_share_min = \"100 %\"\n";

/// A server with both versions, of which two nodes run the first.
async fn fleet() -> (TempDir, Server, [Node; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    for version in ["1.0.0", "1.1.0"] {
        server.good(&["model", "push", zoo(version).to_str().unwrap()]);
    }
    let key = server.json::<Key>(&["key"]).key;
    server.good(&["rollout", "start", "traffic-flow", "1.0.0", "--all-at-once"]);
    let mut nodes = [
        Node::connect(server.mqtt(), "gw-1", 1).await,
        Node::connect(server.mqtt(), "gw-2", 1).await,
    ];
    for node in &mut nodes {
        let release = node.release(key).await;
        node.report_running(&release.stable).await;
    }
    eventually("both run it", async || {
        (current(&server).summary.running == 2).then_some(())
    })
    .await;
    (dir, server, nodes)
}

fn current(server: &Server) -> RolloutView {
    server
        .json::<Vec<RolloutView>>(&["rollout", "status", "traffic-flow"])
        .remove(0)
}

/// Writes a policy and gives its path.
fn policy(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_planned_started_paused_approved_promoted_and_rolled_back() {
    let (dir, server, nodes) = fleet().await;
    let waves = "[[wave]]\nnodes = [\"minneapolis/gw-1\"]\napprove = \"manual\"\n[[wave]]\nshare = \"100 %\"\n";
    let file = policy(&dir, "by-hand.toml", &format!("{waves}{GATE}"));
    let start = |verb: &'static str| {
        let args = ["rollout", verb, "traffic-flow", "1.1.0", "--policy", &file];
        server.good(&args)
    };
    let plan = start("plan");
    assert!(
        plan.contains("policy by-hand")
            && plan.contains("minneapolis/gw-1")
            && plan.contains("approve"),
        "{plan}"
    );
    assert!(
        current(&server).campaign.is_none(),
        "a plan changes nothing"
    );
    let started = start("start");
    assert!(
        started.contains("wave 1 of") && started.contains("candidate"),
        "{started}"
    );
    let act = |args: &[&str]| {
        let args = [&["rollout"], args, &["--by", "bo@depot"]].concat();
        server.good(&args)
    };
    assert!(act(&["pause", "traffic-flow"]).contains("paused for"));
    assert!(
        server
            .good(&["rollout", "ls"])
            .contains("1.1.0, wave 1 of 2, paused")
    );
    act(&["resume", "traffic-flow"]);
    act(&["approve", "traffic-flow"]);
    let promoted = act(&["promote", "traffic-flow"]);
    assert!(
        promoted.contains("promoted") && promoted.contains("by bo@depot"),
        "{promoted}"
    );
    let watched = server.run(&["rollout", "abort", "traffic-flow", "--keep"]);
    assert_eq!(watched.status.code(), Some(4), "it is over");
    let back = act(&["rollback", "traffic-flow", "--to", "1.0.0"]);
    assert!(back.contains("traffic-flow 1.0.0 for group all"), "{back}");

    let log: Vec<Entry> = server.json(&["audit", "--since", "1h"]);
    let acts: Vec<&str> = log.iter().map(|entry| entry.act.as_str()).collect();
    assert_eq!(
        acts,
        [
            "push", "push", "release", "start", "pause", "resume", "approve", "promote", "rollback"
        ]
    );
    assert!(log[3].by.as_str().contains('@') || log[3].by.as_str() == "somebody");
    assert_eq!(log[7].by.as_str(), "bo@depot");
    let two = server.good(&["audit", "--limit", "2"]);
    assert!(
        two.contains("rollback") && two.contains("promote") && !two.contains("approve"),
        "{two}"
    );
    let check: AuditCheck = server.json(&["audit", "verify"]);
    assert_eq!((check.whole, check.entries), (true, 9));
    let noted = log[4].hash.to_string();
    server.good(&["audit", "verify", "--holds", &noted]);
    let other = format!("sha256:{}", "0".repeat(64));
    let (code, error) = server.bad(&["audit", "verify", "--holds", &other]);
    assert!(code == 8 && error.contains("no entry"), "{code} {error}");
    drop(nodes);
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_the_rollout_and_tells_how() {
    let (dir, server, nodes) = fleet().await;
    let waves = "[[wave]]\nnodes = [\"minneapolis/gw-1\"]\n[[wave]]\nshare = \"100 %\"\n";
    let file = policy(&dir, "p.toml", &format!("{waves}{GATE}"));
    server.good(&[
        "rollout",
        "start",
        "traffic-flow",
        "1.1.0",
        "--policy",
        &file,
    ]);
    let watch = |args: &[&str]| {
        let mut command = support::server::lamppost();
        command
            .args(args)
            .env("LAMPPOST_SERVER", format!("http://{}", server.ready.http));
        std::thread::spawn(move || command.output().unwrap())
    };
    let watched = watch(&["rollout", "status", "traffic-flow", "--watch"]);
    let json = watch(&["rollout", "status", "traffic-flow", "--watch", "--json"]);
    server.good(&["rollout", "abort", "traffic-flow", "--revert"]);
    let output = watched.join().unwrap();
    let (text, error) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(output.status.code(), Some(1), "{text} {error}");
    assert!(
        text.contains("aborted, reverted") && error.contains("aborted"),
        "{text} {error}"
    );
    let output = json.join().unwrap();
    let last = String::from_utf8(output.stdout).unwrap();
    let view: RolloutView = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert!(matches!(
        view.campaign.unwrap().campaign.state,
        State::Aborted { .. }
    ));
    drop(nodes);
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_mend() {
    let (dir, server, nodes) = fleet().await;
    let shrinking = policy(
        &dir,
        "shrinking.toml",
        "[[wave]]\nshare = \"50 %\"\n[[wave]]\nshare = \"5 %\"\n",
    );
    let misspelt = policy(&dir, "misspelt.toml", "[[wave]]\nshear = \"50 %\"\n");
    let needy = policy(
        &dir,
        "needy.toml",
        "[[wave]]\nnodes = [\"minneapolis/gw-1\"]\n[gate]\nmin_reports = 9\n",
    );
    let good = policy(&dir, "good.toml", "[[wave]]\nshare = \"100 %\"\n");
    let start = ["rollout", "start", "traffic-flow", "1.1.0"];
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--policy", &shrinking], 1, "wave 2: share is 5 %"),
        (&["--policy", &misspelt], 1, "shear"),
        (&["--policy", &needy], 1, "min_reports"),
        (&["--policy", "/nowhere.toml"], 4, "/nowhere.toml"),
        (&["--policy", &good, "--group", "al"], 1, "they are in all"),
        (&["--group", "al"], 1, "--all-at-once"),
        (&["--policy", &good, "--all-at-once"], 2, "--all-at-once"),
        (&["--by", "two words"], 2, "two words"),
    ];
    for (args, code, wanted) in cases {
        let args = [&start, args].concat();
        let (found, error) = server.bad(&args);
        assert!(
            found == code && error.contains(wanted),
            "{args:?}: {found} {error}"
        );
    }
    let (code, error) = server.bad(&["rollout", "plan", "traffic-flow", "9.9.9"]);
    assert!(code == 4 && error.contains("model push"), "{code} {error}");
    let (code, error) = server.bad(&["rollout", "rollback", "traffic-flow", "--to", "9.9.9"]);
    assert!(code == 4 && error.contains("9.9.9"), "{code} {error}");
    server.good(&[&start[..], &["--policy", &good]].concat());
    let (code, error) = server.bad(&start);
    assert!(
        code == 1 && error.contains("abort or promote it first"),
        "{code} {error}"
    );
    drop(nodes);
    server.terminate();
}
