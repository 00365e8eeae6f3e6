//! Rollouts wave by wave, with nodes that say what agents would say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::time::Duration;

use lamppost_coordinator::api::{AuditCheck, AuditPage, Key, NodeView, RolloutView};
use lamppost_coordinator_core::progress::NodeProgress;
use lamppost_coordinator_core::rollout::campaign::{Campaign, Ending, State, Why};
use lamppost_models::message::{ActiveSlot, CandidateSlot, ReportedModel, TrialState, Verdict};
use lamppost_models::release::{BundleRef, PublicKey, Sequence};
use lamppost_models::rollout::Cohort;
use lamppost_models::trial::{TrialPhase, TrialReport};
use lamppost_models::{GroupId, Release};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::server::Server;
use support::{Coordinator, Node, bundle, config, eventually, now, path, zoo};

const TARGET: &str = "/v1/rollouts/all/traffic-flow";

/// gw-1 first and then everybody, with nothing to wait for but reports.
fn policy() -> Value {
    json!({
        "name": "test",
        "wave": [ { "nodes": ["minneapolis/gw-1"] }, { "share": "100 %" } ],
        "gate": { "min_reports": 1, "reported_share_min": "100 %", "failed_share_max": "0 %" }
    })
}

/// What a node is to run by a release, and the rollout it is a candidate of.
fn wanted(node: &Node, release: &Release) -> BundleRef {
    let groups: Vec<GroupId> = vec!["all".parse().unwrap()];
    let who = lamppost_models::rollout::Who {
        path: &node.path,
        groups: &groups,
        tags: &lamppost_models::rollout::Tags::new(),
    };
    release.wanted(who).0.clone()
}

/// Says what became of the candidate of a release.
async fn report(node: &Node, release: &Release, phase: TrialPhase) {
    let candidate = release.candidate.as_ref().unwrap();
    let BundleRef {
        version, digest, ..
    } = candidate.bundle.clone();
    let refused = if let TrialPhase::Refused { verdict, detail } = &phase {
        Some(TrialState::Refused {
            verdict: *verdict,
            detail: detail.clone(),
        })
    } else {
        None
    };
    let running = if refused.is_some() {
        &release.stable
    } else {
        &candidate.bundle
    };
    let active = ActiveSlot {
        version: running.version.clone(),
        digest: running.digest,
        since: now(),
        predictions: 9,
        last_inference: None,
        quality: None,
    };
    let trial = TrialReport {
        version: version.clone(),
        digest,
        release: release.sequence,
        rollout: Some(candidate.rollout),
        since: now(),
        phase,
        shadow: None,
        probation: None,
        fetched_bytes: candidate.bundle.bytes,
    };
    node.report(vec![ReportedModel {
        name: "traffic-flow".parse().unwrap(),
        active: Some(active),
        candidate: refused.map(|state| CandidateSlot {
            version,
            digest,
            state,
        }),
        previous: None,
        release: Some(release.sequence),
        trial: Some(trial),
    }])
    .await;
}

/// The next release with at least this sequence: a restarted coordinator publishes again what is there.
async fn release_from(node: &mut Node, key: PublicKey, sequence: u64) -> Release {
    loop {
        let release = node.release(key).await;
        if release.sequence >= Sequence(sequence) {
            return release;
        }
    }
}

async fn post(coordinator: &Coordinator, path: &str, body: &Value) -> RolloutView {
    let request = coordinator.request(Method::POST, path).json(body);
    let response = request
        .header("lamppost-by", "anna@depot")
        .send()
        .await
        .unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

async fn start(coordinator: &Coordinator, policy: &Value) -> RolloutView {
    let body =
        json!({ "model": "traffic-flow", "version": "1.1.0", "group": "all", "policy": policy });
    post(coordinator, "/v1/rollouts", &body).await
}

fn campaign(view: &RolloutView) -> &Campaign {
    &view.campaign.as_ref().unwrap().campaign
}

async fn until(
    coordinator: &Coordinator,
    what: &str,
    wanted: impl Fn(&RolloutView) -> bool,
) -> RolloutView {
    eventually(what, async || {
        Some(coordinator.rollout().await).filter(|view| wanted(view))
    })
    .await
}

/// A coordinator with both versions, of which both nodes run the first.
async fn fleet(dir: &std::path::Path) -> (Coordinator, PublicKey, [Node; 2]) {
    let coordinator = Coordinator::start(config(dir)).await;
    let key = coordinator.key().await;
    for version in ["1.0.0", "1.1.0"] {
        coordinator.push(bundle(version)).await;
    }
    coordinator.start_rollout("1.0.0").await;
    let mut nodes = [
        Node::connect(coordinator.mqtt(), "gw-1", 1).await,
        Node::connect(coordinator.mqtt(), "gw-2", 1).await,
    ];
    for node in &mut nodes {
        let release = node.release(key).await;
        node.report_running(&release.stable).await;
    }
    until(&coordinator, "both nodes run 1.0.0", |view| {
        view.summary.running == 2
    })
    .await;
    (coordinator, key, nodes)
}

async fn acts(coordinator: &Coordinator) -> Vec<String> {
    let page: AuditPage = coordinator.get("/v1/audit?from=0").await;
    page.entries
        .iter()
        .map(|entry| entry.act.as_str().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_candidate_goes_from_wave_to_wave_and_becomes_the_stable_version() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, key, mut nodes) = fleet(dir.path()).await;
    let started = start(&coordinator, &policy()).await;
    assert_eq!(campaign(&started).by.as_str(), "anna@depot");
    let cohorts: Vec<_> = started.nodes.iter().map(|row| row.cohort).collect();
    assert_eq!(cohorts, [Some(Cohort::Candidate), Some(Cohort::Later)]);

    let [first, second] = &mut nodes;
    let release = first.release(key).await;
    assert_eq!(second.release(key).await, release, "one publish for all");
    assert_eq!(wanted(first, &release).version.to_string(), "1.1.0");
    assert_eq!(wanted(second, &release).version.to_string(), "1.0.0");
    report(first, &release, TrialPhase::Passed).await;

    let release = second.release(key).await;
    assert_eq!(
        (
            release.sequence,
            wanted(second, &release).version.to_string()
        ),
        (Sequence(3), "1.1.0".to_owned())
    );
    let found = until(&coordinator, "the second wave is out", |view| {
        campaign(view)
            .state
            .stage()
            .is_some_and(|stage| stage.wave == 1)
    })
    .await;
    let view = found.campaign.unwrap();
    let census = view.assessment.unwrap().census;
    assert_eq!((census.nodes, census.passed, census.waiting), (2, 1, 1));
    assert!(view.words.contains("Wave 2 of 2"), "{}", view.words);

    report(second, &release, TrialPhase::Probation).await;
    report(second, &release, TrialPhase::Passed).await;
    let release = release_from(first, key, 4).await;
    assert_eq!(
        (release.sequence, release.stable.version.to_string()),
        (Sequence(4), "1.1.0".to_owned())
    );
    assert!(release.candidate.is_none());
    let view = coordinator.rollout().await;
    assert!(matches!(campaign(&view).state, State::Promoted { .. }));
    assert_eq!((view.summary.running, view.summary.nodes), (2, 2));
    assert_eq!(
        acts(&coordinator).await,
        ["push", "push", "release", "start", "advance", "promote"]
    );
    let check: AuditCheck = coordinator.get("/v1/audit/verify").await;
    assert!(check.whole && check.entries == 6, "{check:?}");
    // A further rollback goes to what the candidate replaced.
    let back = post(&coordinator, &format!("{TARGET}/rollback"), &json!({})).await;
    assert_eq!(back.rollout.stable.version.to_string(), "1.0.0");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_candidate_ends_in_its_first_wave_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, key, mut nodes) = fleet(dir.path()).await;
    start(&coordinator, &policy()).await;
    let [first, second] = &mut nodes;
    let release = first.release(key).await;
    let phase = TrialPhase::Refused {
        verdict: Verdict::Worse,
        detail: "error 12 % higher over 20 labels".to_owned(),
    };
    report(first, &release, phase).await;
    let back = release_from(first, key, 3).await;
    assert!(back.candidate.is_none() && back.stable == release.stable);
    let view = coordinator.rollout().await;
    let campaign = campaign(&view);
    let State::Aborted { how, why, .. } = &campaign.state else {
        panic!("{campaign:?}")
    };
    assert_eq!((*how, *why), (Ending::Reverted, Why::Failed));
    let last = campaign.steps.last().unwrap();
    assert!(last.words.contains("1 failed"), "{}", last.words);
    let page: AuditPage = coordinator.get("/v1/audit").await;
    assert_eq!(page.entries.last().unwrap().words, last.words);
    // The second node never heard of a release that meant it.
    while second.release(key).await.sequence < Sequence(3) {}
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_holds_a_wave_up_to_its_deadline_and_has_not_failed() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, key, nodes) = fleet(dir.path()).await;
    let [mut first, second] = nodes;
    drop(second);
    until(&coordinator, "the second node is away", |view| {
        view.summary.unreachable == 1
    })
    .await;
    let mut policy = policy();
    policy["wave"] = json!([
        { "nodes": ["minneapolis/gw-1", "minneapolis/gw-2"], "deadline": "3s" },
        { "share": "100 %" }
    ]);
    start(&coordinator, &policy).await;
    let release = first.release(key).await;
    report(&first, &release, TrialPhase::Passed).await;
    let held = until(&coordinator, "the report is counted", |view| {
        let found = view.campaign.as_ref().unwrap().assessment.as_ref();
        found.is_none_or(|found| found.census.passed == 1)
    })
    .await;
    if let Some(found) = &held.campaign.as_ref().unwrap().assessment {
        assert_eq!((found.census.unreachable, found.census.failed), (1, 0));
    }
    let view = until(&coordinator, "it goes on after the deadline", |view| {
        matches!(campaign(view).state, State::Promoted { .. })
            || campaign(view)
                .state
                .stage()
                .is_some_and(|stage| stage.wave == 1)
    })
    .await;
    let words: Vec<_> = campaign(&view)
        .steps
        .iter()
        .map(|step| &step.words)
        .collect();
    assert!(words[1].contains("unreachable"), "{words:?}");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rollout_stays_so_over_a_restart_and_goes_on_when_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, key, nodes) = fleet(dir.path()).await;
    let [mut first, second] = nodes;
    start(&coordinator, &policy()).await;
    let release = first.release(key).await;
    post(&coordinator, &format!("{TARGET}/pause"), &json!({})).await;
    let again = coordinator.request(Method::POST, &format!("{TARGET}/pause"));
    let (status, text) = coordinator.refused(again).await;
    assert!(status == 409 && text.contains("resume"), "{text}");
    report(&first, &release, TrialPhase::Passed).await;
    let passed = |view: &RolloutView| {
        let found = view.campaign.as_ref().unwrap().assessment.as_ref();
        found.is_some_and(|found| found.census.passed == 1)
    };
    let view = until(&coordinator, "the report is counted", passed).await;
    assert!(matches!(campaign(&view).state, State::Paused { .. }));
    drop((first, second));
    coordinator.abandon().await;

    // The thread that owns the state ends a little later.
    eventually("the store is free", async || {
        let options = lamppost_store::Options::state();
        let opened = lamppost_store::Store::open(dir.path().join("state"), &options);
        opened.ok().map(|opened| opened.store.close())
    })
    .await;
    let coordinator = Coordinator::start(config(dir.path())).await;
    let view = until(&coordinator, "the report is still counted", passed).await;
    assert!(
        matches!(&campaign(&view).state, State::Paused { by, .. } if by.as_str() == "anna@depot")
    );
    assert_eq!(view.rollout.sequence, Sequence(2));
    let mut first = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    let view = post(&coordinator, &format!("{TARGET}/resume"), &json!({})).await;
    assert_eq!(
        view.rollout.sequence,
        Sequence(3),
        "what was held back follows at once"
    );
    assert_eq!(release_from(&mut first, key, 3).await.sequence, Sequence(3));
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_several_nodes_get_waves_and_a_first_version_goes_out_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, _, nodes) = fleet(dir.path()).await;
    let body = json!({ "model": "traffic-flow", "version": "1.1.0", "group": "all" });
    let plan = coordinator
        .request(Method::POST, "/v1/rollouts/plan")
        .json(&body);
    let plan: Value = plan.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&plan["how"], &plan["plan"]["nodes"]),
        (&json!("waves"), &json!(2))
    );
    assert_eq!(plan["plan"]["waves"][0]["added"], 1, "{plan}");
    let view = post(&coordinator, "/v1/rollouts", &body).await;
    assert_eq!(campaign(&view).policy.name, "canary");
    let exposed = view
        .nodes
        .iter()
        .filter(|row| row.cohort == Some(Cohort::Candidate));
    assert_eq!(exposed.count(), 1, "a wave of one node");
    let waiting = |row: &lamppost_coordinator_core::progress::NodeRow| {
        matches!(row.progress, NodeProgress::Waiting { .. })
    };
    assert_eq!(view.nodes.iter().filter(|row| waiting(row)).count(), 1);
    let ended = post(
        &coordinator,
        &format!("{TARGET}/abort"),
        &json!({ "how": "kept" }),
    )
    .await;
    assert_eq!(ended.rollout.sequence, view.rollout.sequence);
    let view = post(&coordinator, &format!("{TARGET}/rollback"), &json!({})).await;
    assert!(
        view.rollout.candidate.is_none(),
        "what was kept is taken back"
    );
    drop(nodes);
    coordinator.stop().await;
}

/// Reads whatever releases come and answers each as a good node would, until the version is stable.
async fn play(mut node: Node, key: PublicKey) -> u64 {
    let mut seen = 0;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), node.release(key)).await;
        let Ok(release) = next else { return seen };
        assert!(release.sequence.0 >= seen, "sequences only grow");
        seen = release.sequence.0;
        if release.stable.version.to_string() == "1.1.0" {
            return seen;
        }
        if wanted(&node, &release).version.to_string() == "1.1.0" {
            report(&node, &release, TrialPhase::Passed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_again_and_again_brings_a_rollout_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    for version in ["1.0.0", "1.1.0"] {
        server.good(&["model", "push", zoo(version).to_str().unwrap()]);
    }
    let file = dir.path().join("policy.toml");
    // Many waves, of which some add nobody: each is a step to be killed at.
    let waves = "[[wave]]\nnodes = [\"minneapolis/gw-1\"]\nsoak = \"1s\"\n".repeat(3);
    let gate = "[[wave]]\nshare = \"100 %\"\n[gate]\nreported_share_min = \"100 %\"\n";
    std::fs::write(&file, waves + gate).unwrap();
    let key = server.json::<Key>(&["key"]).key;
    server.good(&["rollout", "start", "traffic-flow", "1.0.0"]);
    let mut nodes = [
        Node::connect(server.mqtt(), "gw-1", 1).await,
        Node::connect(server.mqtt(), "gw-2", 1).await,
    ];
    for node in &mut nodes {
        let release = node.release(key).await;
        node.report_running(&release.stable).await;
    }
    let view = || -> Option<RolloutView> {
        let output = server_views(&server)?;
        output.into_iter().find(|view| view.current)
    };
    eventually("both run 1.0.0", async || {
        view().filter(|view| view.summary.running == 2)
    })
    .await;
    let policy = file.to_str().unwrap();
    server.good(&[
        "rollout",
        "start",
        "traffic-flow",
        "1.1.0",
        "--policy",
        policy,
    ]);
    drop(nodes);
    let mut server = Some(server);
    let mut lives = 0_u64;
    let stable = loop {
        let running = server.take().unwrap_or_else(|| Server::start(dir.path()));
        lives += 1;
        let players = ["gw-1", "gw-2"].map(|name| {
            let broker = running.mqtt();
            tokio::spawn(async move { play(Node::connect(broker, name, 1).await, key).await })
        });
        // Killed sooner or later, so that each step is a place where that happens.
        tokio::time::sleep(Duration::from_millis(300 + lives * 217 % 1500)).await;
        let stable = server_views(&running).and_then(|views| {
            let view = views.into_iter().find(|view| view.current)?;
            (view.rollout.stable.version.to_string() == "1.1.0").then_some(view)
        });
        for player in players {
            player.abort();
        }
        if let Some(view) = stable {
            server = Some(running);
            break view;
        }
        assert!(lives < 40, "it does not come to its end");
        running.kill();
    };
    assert!(lives > 1, "it was killed at least once");
    let campaign = campaign(&stable);
    assert!(matches!(campaign.state, State::Promoted { .. }));
    // One start, an advance for each further wave, one promotion: nothing was done twice.
    assert_eq!(campaign.steps.len(), 5, "{:?}", campaign.steps);
    let sequences: Vec<u64> = campaign
        .steps
        .iter()
        .filter_map(|step| Some(step.sequence?.0))
        .collect();
    assert_eq!(sequences, [2, 3, 4, 5, 6]);
    let server = server.unwrap();
    assert!(
        server
            .good(&["audit", "verify"])
            .contains("8 entries are whole")
    );
    server.terminate();
}

fn server_views(server: &Server) -> Option<Vec<RolloutView>> {
    let output = server.run(&["rollout", "status", "traffic-flow", "--json"]);
    let views = output.status.success().then_some(output.stdout)?;
    serde_json::from_slice(&views).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_in_pages_and_are_counted_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, _, nodes) = fleet(dir.path()).await;
    for (query, wanted) in [
        ("", &["gw-1", "gw-2"][..]),
        ("?limit=1", &["gw-1"][..]),
        ("?after=minneapolis/gw-1", &["gw-2"][..]),
        ("?limit=5&after=minneapolis/gw-0", &["gw-1", "gw-2"][..]),
        ("?after=minneapolis/gw-2", &[][..]),
    ] {
        let page: Vec<NodeView> = coordinator.get(&format!("/v1/nodes{query}")).await;
        let paths: Vec<_> = page.into_iter().map(|view| view.path).collect();
        let wanted: Vec<_> = wanted.iter().map(|node| path(node)).collect();
        assert_eq!(paths, wanted, "{query}");
    }
    for (query, wanted) in [
        ("?nodes=0", &[][..]),
        ("?nodes=1", &["gw-1"][..]),
        ("?nodes=1&after=minneapolis/gw-1", &["gw-2"][..]),
    ] {
        let views: Vec<RolloutView> = coordinator.get(&format!("{TARGET}{query}")).await;
        let paths: Vec<_> = views[0].nodes.iter().map(|row| row.path.clone()).collect();
        let wanted: Vec<_> = wanted.iter().map(|node| path(node)).collect();
        assert_eq!((paths, views[0].summary.nodes), (wanted, 2), "{query}");
    }
    for wrong in [
        "/v1/nodes?limit=0".to_owned(),
        "/v1/nodes?limit=1001".to_owned(),
        "/v1/nodes?after=gw-1".to_owned(),
        "/v1/nodes?page=2".to_owned(),
        format!("{TARGET}?nodes=1001"),
    ] {
        let request = coordinator.request(Method::GET, &wrong);
        let (status, text) = coordinator.refused(request).await;
        assert_eq!(status, 400, "{wrong}: {text}");
    }
    drop(nodes);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, _, nodes) = fleet(dir.path()).await;
    let request = |body: Value| {
        coordinator
            .request(Method::POST, "/v1/rollouts")
            .json(&body)
    };
    let body = |more: Value| {
        let mut body = json!({ "model": "traffic-flow", "version": "1.1.0", "group": "all" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let mut shrinking = policy();
    shrinking["wave"] = json!([{ "share": "50 %" }, { "share": "5 %" }]);
    let mut greedy = policy();
    greedy["bytes_per_day"] = json!("1kB");
    let cases = [
        (body(json!({ "version": "9.9.9" })), 404, "model push"),
        (body(json!({ "version": "1.0.0" })), 409, "already"),
        (body(json!({ "group": "al" })), 409, "they are in all"),
        (
            body(json!({ "policy": policy(), "all_at_once": true })),
            400,
            "leave one of them out",
        ),
        (body(json!({ "policy": shrinking })), 400, "wave 2: share"),
        (body(json!({ "policy": greedy })), 400, "raise it"),
        (body(json!({ "policy": { "wave": [] } })), 400, "[[wave]]"),
        (body(json!({ "policy": { "colour": 1 } })), 400, "colour"),
        (body(json!({ "haste": true })), 400, "haste"),
    ];
    for (body, code, wanted) in cases {
        let (status, text) = coordinator.refused(request(body.clone())).await;
        assert!(
            status == code && text.contains(wanted),
            "{body}: {status} {text}"
        );
    }
    assert_eq!(acts(&coordinator).await, ["push", "push", "release"]);
    let none = coordinator.request(Method::POST, &format!("{TARGET}/promote"));
    assert_eq!(coordinator.refused(none).await.0, 404);
    start(&coordinator, &policy()).await;
    let (status, text) = coordinator
        .refused(request(body(json!({ "all_at_once": true }))))
        .await;
    assert!(
        status == 409 && text.contains("abort or promote it first"),
        "{text}"
    );
    for (query, wanted) in [
        ("limit=0", "1 to 500"),
        ("from=1&since=1h", "leave one"),
        ("since=noon", "24h"),
        ("form=1", "?from=NUMBER"),
    ] {
        let request = coordinator.request(Method::GET, &format!("/v1/audit?{query}"));
        let (status, text) = coordinator.refused(request).await;
        assert!(status == 400 && text.contains(wanted), "{query}: {text}");
    }
    let named = coordinator
        .request(Method::POST, &format!("{TARGET}/pause"))
        .header("lamppost-by", "two words");
    let (status, text) = coordinator.refused(named).await;
    assert!(
        status == StatusCode::BAD_REQUEST.as_u16() && text.contains("actor"),
        "{text}"
    );
    assert_eq!(coordinator.node("gw-1").await.unwrap().path, path("gw-1"));
    drop(nodes);
    coordinator.stop().await;
}
