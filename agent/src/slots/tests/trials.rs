//! What a bundle must stand before it runs.

use super::*;

/// A node on which the first version runs, and the bundle that its next release names.
async fn node_with(bytes: &[u8]) -> (Node, BundleRef, BundleRef) {
    let (server, address, first, _) = server_with_zoo().await;
    let candidate = reference("1.1.0", bytes);
    server.put(candidate.digest, bytes.to_vec());
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    (node, first, candidate)
}

#[tokio::test]
async fn a_bundle_that_computes_something_else_than_its_golden_vectors_is_refused() {
    let wrong = zoo_changed("1.1.0", |golden| {
        let mut golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
        golden["cases"][0]["outputs"][0] = 123.0.into();
        golden.to_string()
    });
    let (mut node, first, candidate) = node_with(&wrong).await;
    node.announce(2, &candidate).await;
    let detail = node.refuses(&candidate, Verdict::GoldenMismatch).await;
    assert!(detail.contains("golden case 0: outputs[0]"), "{detail}");
    assert_eq!(node.active(), Some(first.digest));
    // It is not tried again, by the next release or after a restart.
    node.announce(3, &candidate).await;
    node.wait("the next release", |row| row.release == Some(Sequence(3)))
        .await;
    node.refuses(&candidate, Verdict::GoldenMismatch).await;
    node.restart().await;
    node.runs(&first).await;
    node.refuses(&candidate, Verdict::GoldenMismatch).await;
    assert_eq!(node.files(), [format!("{}.tar", first.digest.hex())]);
}

#[tokio::test]
async fn what_is_no_bundle_is_refused() {
    let (node, first, candidate) = node_with(b"not a tar at all").await;
    node.announce(2, &candidate).await;
    let detail = node.refuses(&candidate, Verdict::Unusable).await;
    assert!(detail.contains("tar"), "{detail}");
    assert_eq!(node.active(), Some(first.digest));
}

#[tokio::test]
async fn a_bundle_of_another_version_than_released_is_refused() {
    let (node, first, _) = node_with(b"").await;
    let bytes = zoo("1.1.0");
    let renamed = BundleRef {
        version: "2.0.0".parse().unwrap(),
        ..reference("1.1.0", &bytes)
    };
    node.announce(2, &renamed).await;
    let detail = node.refuses(&renamed, Verdict::Unsuitable).await;
    assert_eq!(
        detail,
        "the bundle is traffic-flow 1.1.0, the release is of traffic-flow 2.0.0"
    );
    assert_eq!(node.active(), Some(first.digest));
}

#[tokio::test]
async fn a_bundle_whose_fields_the_streams_do_not_have_is_refused_until_they_do() {
    let (_, address, first, _) = server_with_zoo().await;
    let mut node = Node::new(Some(address));
    let fields = node.config.models[0].streams.clone();
    node.config.models[0].streams =
        vec![("other".parse().unwrap(), vec!["speed".parse().unwrap()])];
    node.start().await;
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::Unsuitable).await;
    assert_eq!(
        detail,
        "the model reads field volume, which stream other does not have"
    );
    assert_eq!(node.active(), None);
    node.stop().await;
    node.config.models[0].streams = fields;
    node.start().await;
    node.runs(&first).await;
}

/// Lets `script` check, and gives the verdict's detail.
async fn checked_by(script: &str, timeout: Duration) -> String {
    let (_, address, first, second) = server_with_zoo().await;
    let mut node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    node.stop().await;
    node.check_with(script);
    node.config.checker.timeout = timeout;
    node.start().await;
    node.announce(2, &second).await;
    let detail = node.refuses(&second, Verdict::Unusable).await;
    node.runs(&first).await;
    detail
}

#[tokio::test]
async fn a_check_that_crashes_is_the_bundles_verdict() {
    let detail = checked_by("echo out of memory >&2; kill -9 $$", PATIENCE).await;
    assert_eq!(detail, "the check was killed by signal 9: out of memory");
    let detail = checked_by("echo sorry >&2; exit 3", PATIENCE).await;
    assert_eq!(detail, "the check ended with code 3 and no report: sorry");
}

#[tokio::test]
async fn a_check_that_says_nonsense_does_not_pass() {
    let detail = checked_by("echo '{\"outcome\":\"passed\"}'", PATIENCE).await;
    assert_eq!(detail, "the check ended with code 0 and no report");
    // More output than anybody reads ends the check, not the agent.
    let detail = checked_by(
        "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done",
        PATIENCE,
    )
    .await;
    assert!(detail.starts_with("the check "), "{detail}");
}

#[tokio::test]
async fn a_check_that_does_not_end_is_stopped_with_all_that_it_started() {
    let (_, address, first, _) = server_with_zoo().await;
    let mut node = Node::new(Some(address));
    let pid_file = node.dir.path().join("pid");
    node.check_with(&format!(
        "sleep 1000 & echo $! > {}; wait",
        pid_file.display()
    ));
    node.config.checker.timeout = Duration::from_secs(2);
    node.start().await;
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::Unusable).await;
    assert_eq!(detail, "the check took longer than 2s and was stopped");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    // It may still be a zombie that nobody waited for.
    let gone = async {
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, gone).await.is_ok(),
        "process {pid} goes on"
    );
}

#[tokio::test]
async fn a_check_that_cannot_be_made_is_not_held_against_the_bundle() {
    let (_, address, first, _) = server_with_zoo().await;
    let mut node = Node::new(Some(address));
    let program = node.dir.path().join("none");
    node.config.checker.program = Some(program.clone());
    node.start().await;
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::Unavailable).await;
    assert!(detail.contains("cannot be started"), "{detail}");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
    node.runs(&first).await;
}

#[tokio::test]
async fn a_check_has_no_more_memory_than_it_may() {
    let (_, address, first, _) = server_with_zoo().await;
    let mut node = Node::new(Some(address));
    node.config.checker.args[0] = "slots::tests::greedy_child".into();
    node.start().await;
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::Unusable).await;
    assert!(
        detail.contains("killed by signal 6") && detail.contains("memory allocation"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_version_whose_first_inferences_fail_is_rolled_back() {
    let (_, address, first, second) = server_with_zoo().await;
    let mut node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    node.slots().tell(0)(Outcome::Worked {
        digest: first.digest,
    });
    node.announce(2, &second).await;
    node.runs(&second).await;
    let tell = node.slots().tell(0);
    for _ in 0..3 {
        tell(Outcome::Failed {
            digest: second.digest,
            detail: "NaN".to_owned(),
        });
    }
    node.runs(&first).await;
    let detail = node.refuses(&second, Verdict::Unusable).await;
    assert_eq!(detail, "its first 3 inferences failed: NaN");
    node.restart().await;
    node.runs(&first).await;
    node.refuses(&second, Verdict::Unusable).await;
}
