//! Keys: from `lamppost keys init` to what nodes read on the topics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::path::{Path, PathBuf};

use lamppost_coordinator::api::{AuditCheck, AuditPage, Key};
use lamppost_coordinator_core::rollout::audit::Act;
use lamppost_models::id::Nonce;
use lamppost_models::key::PublicKey;
use lamppost_models::signed_time::TimeQuestion;
use lamppost_models::trust::{Anchor, Chain, Trust, TrustVersion};
use lamppost_models::{Envelope, SignedTime, V1};
use support::server::{failure, lamppost};
use support::{Coordinator, Node, ROOT, bundle, config};
use tempfile::TempDir;

/// Offline: a directory with keys, and the command line.
struct Offline(TempDir);

impl Offline {
    fn new(args: &[&str]) -> Self {
        let offline = Self(tempfile::tempdir().unwrap());
        let dir = offline.path("");
        offline.good(&[&["keys", "init", "--root-dir", dir.to_str().unwrap()], args].concat());
        offline
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("keys").join(name)
    }

    /// Runs a command in which words that begin with `@` are files of the directory.
    fn run(&self, args: &[&str]) -> std::process::Output {
        let file = |arg: &&str| match arg.strip_prefix('@') {
            Some(name) => self.path(name).to_str().unwrap().to_owned(),
            None => (*arg).to_owned(),
        };
        let args: Vec<String> = args.iter().map(file).collect();
        lamppost().args(args).output().unwrap()
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        failure(&self.run(args)).1
    }

    fn chain(&self) -> Chain {
        Chain::read(&std::fs::read(self.path("trust.json")).unwrap()).unwrap()
    }

    /// Every secret of the directory.
    fn secrets(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let keys =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "key"));
        keys.map(|path| std::fs::read_to_string(path).unwrap().trim().to_owned())
            .collect()
    }
}

#[test]
fn keys_are_made_replaced_and_revoked_with_signatures_from_several_machines() {
    let offline = Offline::new(&["--roots", "3", "--threshold", "2"]);
    let first = offline.chain().check().unwrap();
    assert_eq!(
        (
            first.root.keys().len(),
            first.root.threshold(),
            first.version.0
        ),
        (3, 2, 1)
    );
    #[cfg(unix)]
    for name in ["root-1.key", "root-2.key", "root-3.key", "release-1.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(offline.path(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = offline.refused(&["keys", "init", "--root-dir", "@"]);
    assert!(again.contains("is there already"), "{again}");

    // One machine makes the document, and another one signs it, too.
    let shown = offline.good(&[
        "keys",
        "rotate",
        "@trust.json",
        "--role",
        "release",
        "--make",
        "@release-2.key",
        "--with",
        "@root-1.key",
    ]);
    assert!(
        shown.contains("lacks 1 of the root keys of document 1"),
        "{shown}"
    );
    let early = offline.refused(&["keys", "install", "@trust.json", "--data-dir", "@"]);
    assert!(
        early.contains("document 2 of the chain still lacks signatures"),
        "{early}"
    );
    let wrong = offline.refused(&["keys", "sign", "@trust.json", "--with", "@release-1.key"]);
    assert!(wrong.contains("would count for nothing"), "{wrong}");
    let shown = offline.good(&["keys", "sign", "@trust.json", "--with", "@root-3.key"]);
    assert!(shown.contains("signed by enough root keys"), "{shown}");
    let second = offline.chain().check().unwrap();
    assert_eq!(second.release.keys().len(), 1);
    assert_ne!(second.release, first.release);

    let key = second.release.ids().remove(0);
    let last = offline.refused(&[
        "keys",
        "revoke",
        "@trust.json",
        &key,
        "--with",
        "@root-1.key",
    ]);
    assert!(last.contains("0 keys are none or too many"), "{last}");
    let root = first.root.keys()[1].to_string();
    offline.good(&[
        "keys",
        "revoke",
        "@trust.json",
        &root,
        "--with",
        "@root-1.key",
        "--with",
        "@root-3.key",
        "--expires-in",
        "400d",
    ]);
    let walk = offline.chain().follow(&Anchor::Document(first));
    let third = walk.reached.unwrap();
    assert_eq!(
        (third.version, third.root.keys().len()),
        (TrustVersion(3), 2)
    );
    assert!(third.expires_at.is_some());

    let shown = offline.good(&["keys", "show", "@trust.json"]);
    assert!(
        shown.contains("trust document 3") && shown.contains(&key),
        "{shown}"
    );
    let said = [
        shown,
        offline.good(&["keys", "show", "@trust.json", "--json"]),
    ]
    .concat();
    let chain = std::fs::read_to_string(offline.path("trust.json")).unwrap();
    for secret in offline.secrets() {
        assert!(
            !said.contains(&secret) && !chain.contains(&secret),
            "a secret is shown"
        );
    }
}

#[test]
fn impossible_wishes_are_refused_in_words() {
    let offline = Offline::new(&[]);
    for (args, words) in [
        (
            &["keys", "init", "--root-dir", "@x", "--roots", "0"][..],
            "choose 1 to 16 root keys",
        ),
        (
            &["keys", "init", "--root-dir", "@x", "--threshold", "2"],
            "a threshold of 1 to their number",
        ),
        (
            &["keys", "rotate", "@trust.json", "--role", "root"],
            "nothing to change",
        ),
        (
            &[
                "keys",
                "rotate",
                "@trust.json",
                "--role",
                "release",
                "--make",
                "@release-1.key",
            ],
            "write the new key",
        ),
        (
            &[
                "keys",
                "rotate",
                "@trust.json",
                "--role",
                "release",
                "--threshold",
                "2",
            ],
            "cannot be met by 1 keys",
        ),
        (
            &["keys", "revoke", "@trust.json", "0123456789abcdef"],
            "no key 0123456789abcdef in document 1",
        ),
        (&["keys", "show", "@nowhere.json"], "nowhere.json"),
        (&["keys", "show", "@root-1.key"], "does not parse"),
        (
            &["keys", "install", "@trust.json", "--data-dir", "@nowhere"],
            "there is no data directory",
        ),
    ] {
        let said = offline.refused(args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert_eq!(
        offline.chain().check().unwrap().version,
        TrustVersion(1),
        "nothing was written"
    );
}

async fn trust_on_topic(node: &mut Node) -> Trust {
    let payload = node.client.payload(&format!("{ROOT}/trust")).await;
    Chain::read(&payload).unwrap().check().unwrap()
}

async fn ask(node: &mut Node, nonce: u64, trusted: &Trust) -> SignedTime {
    let nonce = Nonce::from_u64(nonce);
    node.say("time", &TimeQuestion { v: V1, nonce }).await;
    let topic = format!("{ROOT}/nodes/{}/time/answer", node.path);
    loop {
        let payload = node.client.payload(&topic).await;
        let (time, _) = SignedTime::open(&payload, &trusted.release).unwrap();
        if time.nonce == Some(nonce) {
            return time;
        }
    }
}

fn start_config(data_dir: &Path, signers: Vec<PathBuf>) -> lamppost_coordinator::Config {
    lamppost_coordinator::Config {
        release_signers: signers,
        ..config(data_dir)
    }
}

#[tokio::test]
async fn a_coordinator_tells_nodes_of_keys_and_time_and_signs_with_all_its_keys() {
    let offline = Offline::new(&["--roots", "2", "--threshold", "2"]);
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    offline.good(&["keys", "install", "@trust.json", "--data-dir", data_dir]);
    let first = offline.chain().check().unwrap();

    let signers = vec![offline.path("release-1.key")];
    let coordinator = Coordinator::start(start_config(dir.path(), signers.clone())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    let answers = format!("{ROOT}/nodes/{}/time/answer", node.path);
    for filter in [
        format!("{ROOT}/trust"),
        format!("{ROOT}/time"),
        answers.clone(),
    ] {
        assert!(node.client.subscribe(&filter).await, "{filter}");
    }
    let chain: Chain = coordinator.get("/v1/trust").await;
    assert_eq!(chain.check().unwrap(), first);
    let time = ask(&mut node, 1, &first).await;
    assert_eq!(time.trust, Some(TrustVersion(1)));
    let later = ask(&mut node, 2, &first).await;
    assert!(later.time >= time.time);
    assert!(
        !node.client.try_publish(&answers, b"{}").await,
        "a node answers itself"
    );
    assert!(
        !node
            .client
            .try_publish(&format!("{ROOT}/time"), b"{}")
            .await,
        "a node says what time it is"
    );
    assert!(
        !node
            .client
            .try_publish(&format!("{ROOT}/trust"), b"{}")
            .await,
        "a node says whom to trust"
    );

    // A second key, beside the first: the coordinator goes on with the first, until it has both.
    let roots = ["--with", "@root-1.key", "--with", "@root-2.key"];
    let rotate = [
        "keys",
        "rotate",
        "@trust.json",
        "--role",
        "release",
        "--make",
        "@release-2.key",
        "--keep",
        "--threshold",
        "2",
    ];
    offline.good(&[&rotate[..], &roots].concat());
    let install = |coordinator: &Coordinator| {
        coordinator
            .request(reqwest::Method::POST, "/v1/trust")
            .json(&offline.chain())
    };
    let (status, text) = coordinator.refused(install(&coordinator)).await;
    assert!(
        status == 409
            && text.contains("wants the signatures of 2 release keys, and this coordinator has 1"),
        "{text}"
    );
    coordinator.stop().await;
    let signers = [signers, vec![offline.path("release-2.key")]].concat();
    offline.good(&["keys", "install", "@trust.json", "--data-dir", data_dir]);
    let second = offline.chain().check().unwrap();

    let coordinator = Coordinator::start(start_config(dir.path(), signers)).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 2).await;
    assert!(node.client.subscribe(&format!("{ROOT}/trust")).await);
    assert_eq!(trust_on_topic(&mut node).await, second);
    let key: Key = coordinator.get("/v1/key").await;
    assert_eq!([vec![key.key], key.further].concat(), second.release.keys());
    coordinator.push(bundle("1.0.0")).await;
    coordinator.start_rollout("1.0.0").await;
    let payload = node
        .client
        .payload(&format!("{ROOT}/models/all/traffic-flow"))
        .await;
    let verified = Envelope::verify(&payload, &second.release).unwrap();
    assert_eq!(verified.signers.len(), 2);

    while_it_runs(&offline, &coordinator, &mut node).await;
    coordinator.stop().await;
}

async fn while_it_runs(offline: &Offline, coordinator: &Coordinator, node: &mut Node) {
    let roots = ["--with", "@root-1.key", "--with", "@root-2.key"];
    // While it runs, a document that fits is published at once, and an old chain is refused.
    let more = [
        "keys",
        "rotate",
        "@trust.json",
        "--role",
        "release",
        "--make",
        "@release-3.key",
        "--keep",
    ];
    offline.good(&[&more[..], &roots].concat());
    let response = coordinator
        .request(reqwest::Method::POST, "/v1/trust")
        .header("lamppost-by", "anna@depot")
        .json(&offline.chain())
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success());
    assert_eq!(trust_on_topic(node).await.version, TrustVersion(3));
    audited(coordinator).await;
    let old = Chain {
        chain: offline.chain().chain[..2].to_vec(),
        ..offline.chain()
    };
    let request = coordinator
        .request(reqwest::Method::POST, "/v1/trust")
        .json(&old);
    let (status, text) = coordinator.refused(request).await;
    assert!(
        status == 409 && text.contains("document 3 is known already"),
        "{text}"
    );
}

/// What was installed while the coordinator was away, its new signer, and what was installed while it ran; refused documents
/// are no entries.
async fn audited(coordinator: &Coordinator) {
    let page: AuditPage = coordinator.get("/v1/audit?from=0").await;
    let entries = page.entries.iter().filter(|entry| entry.act == Act::Keys);
    let told: Vec<_> = entries
        .map(|entry| (entry.by.as_str(), entry.words.as_str()))
        .collect();
    let [first, second, third] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        (first.0, second.0, third.0),
        ("coordinator", "coordinator", "anna@depot")
    );
    assert!(
        first
            .1
            .starts_with("trust document 1 is installed, the first one: 2 of "),
        "{told:?}"
    );
    assert!(
        second
            .1
            .starts_with("trust document 2 is installed after 1: ")
            && second.1.contains("2 of 2 release keys must sign")
            && second.1.contains("new release keys ")
            && second.1.contains("; releases are signed with "),
        "{told:?}"
    );
    assert!(
        third.1.contains("2 of 3 release keys must sign"),
        "{told:?}"
    );
    let check: AuditCheck = coordinator.get("/v1/audit/verify").await;
    assert!(check.whole);
}

#[tokio::test]
async fn a_key_that_was_revoked_does_not_sign_any_more() {
    let offline = Offline::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    offline.good(&[
        "keys",
        "rotate",
        "@trust.json",
        "--role",
        "release",
        "--make",
        "@release-2.key",
        "--with",
        "@root-1.key",
    ]);
    offline.good(&["keys", "install", "@trust.json", "--data-dir", data_dir]);
    let refused = |signers: Vec<PathBuf>| {
        let config = start_config(dir.path(), signers);
        let (ready, _) = tokio::sync::oneshot::channel();
        async move {
            let stop = tokio_util::sync::CancellationToken::new();
            let error = lamppost_coordinator::run(config, stop, ready)
                .await
                .unwrap_err();
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    };
    let text = refused(vec![offline.path("release-1.key")]).await;
    assert!(
        text.contains("does not name key") && text.contains("Set releases.signers"),
        "{text}"
    );
    let twice = refused(vec![
        offline.path("release-2.key"),
        offline.path("release-2.key"),
    ])
    .await;
    assert!(twice.contains("name each once"), "{twice}");
    let coordinator = Coordinator::start(start_config(
        dir.path(),
        vec![offline.path("release-2.key")],
    ))
    .await;
    let key: PublicKey = coordinator.key().await;
    assert_eq!(offline.chain().check().unwrap().release.keys(), [key]);
    coordinator.stop().await;
}
