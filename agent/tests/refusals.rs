//! What an agent refuses before it runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::{config_text, fails_to_start, root, traffic};
use lamppost_agent::Config;
use tempfile::TempDir;

const GOOD: &str = r#"
    [[stream]]
    name = "i94-volume"
    source = { topic = "sensors/i94", decode = "json", time = "/ts", fields = { volume = "/volume" } }
    window = { count = 24 }
    model = "traffic-flow"
"#;

const MODEL: &str = "model = \"traffic-flow\"";

fn error(text: &str) -> String {
    match Config::parse(&format!("site = \"s\"\nnode = \"n\"\n{text}")) {
        Ok(_) => panic!("it is taken: {text}"),
        Err(error) => error.to_string(),
    }
}

/// Each text is refused, and its error says each of these.
fn refused(cases: &[(&str, &[&str])]) {
    for (text, wanted) in cases {
        let error = error(text);
        for wanted in *wanted {
            assert!(
                error.contains(wanted),
                "{wanted:?} is missing in {error:?} for {text}"
            );
        }
    }
}

#[test]
fn a_table_that_cannot_be_names_key_value_and_mend() {
    let cases: [(&str, &[&str]); 15] = [
        ("groop = []", &["groop"]),
        ("workers = 0", &["workers is 0", "1 to 64"]),
        ("groups = []", &["groups is 0", "1 to 16"]),
        ("groups = [\"a/b\"]", &["a/b"]),
        ("root = \"/x\"", &["/x"]),
        (
            "[[model]]\nname = \"other\"\nbundle = \"b\"",
            &["model[0].name", "other", "no [[stream]]"],
        ),
        (
            "[broker]\nlisten = \"1883\"",
            &["[broker]", "127.0.0.1:1883"],
        ),
        ("[broker]\nlissten = \"x\"", &["[broker]", "lissten"]),
        (
            "[broker]\nlisten = \"0.0.0.0:1883\"",
            &["[broker]", "expose_anonymous"],
        ),
        ("[engine]\nqueue = 0", &["engine.queue is 0"]),
        ("[engine]\nwhen_full = \"panic\"", &["drop-oldest"]),
        (
            "[engine]\npayload_max = \"1 parsec\"",
            &["1 parsec", "256MB"],
        ),
        ("[report]\nevery = \"2h\"", &["report.every is 2h", "1m"]),
        ("[report]\nevery = \"soon\"", &["soon", "10m"]),
        ("[outbox]\ncap = \"1MB\"", &["outbox.cap is 1MB", "16MiB"]),
    ];
    for (text, wanted) in cases {
        refused(&[(&format!("{text}\n{GOOD}"), wanted)]);
    }
}

#[test]
fn drift_that_cannot_be_looked_for_names_key_value_and_mend() {
    let cases: [(&str, &[&str]); 5] = [
        (
            "reference = 3",
            &["drift.reference is 3", "4 to 64 periods"],
        ),
        ("reference = 65", &["drift.reference is 65"]),
        ("recent = 15", &["drift.recent is 15", "1 to 14 periods"]),
        ("period = \"10ms\"", &["drift.period is 10ms", "1s"]),
        ("periods = \"1d\"", &["periods", "period"]),
    ];
    for (key, wanted) in cases {
        refused(&[(&format!("{GOOD}\n[stream.drift]\n{key}"), wanted)]);
    }
}

#[test]
fn a_coordinator_that_cannot_be_names_key_value_and_mend() {
    let good =
        format!("[coordinator]\nmqtt = \"mqtt://h:1\"\nhttp = \"http://h\"\nkeys = []\n{GOOD}");
    let cases: [(&str, &str, &[&str]); 8] = [
        (
            "keys = []",
            "keys = []\nkeep_alive = \"1s\"",
            &["coordinator.keep_alive is 1s", "5s"],
        ),
        (
            "keys = []",
            "keys = []\nretry_min = \"2h\"",
            &["coordinator.retry_min is 2h"],
        ),
        (
            "keys = []",
            "keys = []\nusername = \"u\"",
            &["coordinator.username", "password"],
        ),
        (
            "keys = []",
            "keys = []\npassword_file = \"/nowhere/at/all\"",
            &["/nowhere/at/all", "read"],
        ),
        (
            "mqtt://h:1",
            "h:1883",
            &["coordinator.mqtt", "h:1883", "mqtt://HOST:PORT"],
        ),
        ("mqtt://h:1", "mqtt://h:0", &["coordinator.mqtt"]),
        ("http://h", "ftp://h", &["coordinator.http", "ftp://h"]),
        (
            "keys = []",
            "keys = [\"rsa\"]",
            &["coordinator.keys[0]", "rsa", "ed25519:"],
        ),
    ];
    for (from, to, wanted) in cases {
        assert!(good.contains(from));
        refused(&[(&good.replace(from, to), wanted)]);
    }
}

#[test]
fn a_stream_that_cannot_be_names_key_value_and_mend() {
    let cases: [(&str, &str, &[&str]); 10] = [
        (GOOD, "", &["[[stream]]", "1 to 64"]),
        ("count = 24", "count = 0", &["count"]),
        ("sensors/i94", "sensors/#/x", &["i94-volume", "sensors/#/x"]),
        ("\"/volume\"", "\"volume\"", &["i94-volume", "volume"]),
        (
            MODEL,
            "model = \"m\"\nlabel = { stream = \"other\", field = \"volume\" }",
            &["label.stream is other"],
        ),
        (
            MODEL,
            "model = \"m\"\nlabel = { stream = \"i94-volume\", field = \"speed\" }",
            &["label.field is speed"],
        ),
        (
            MODEL,
            "model = \"m\"\npublish = { flat = \"a/+\" }",
            &["publish.flat", "a/+"],
        ),
        (
            MODEL,
            "model = \"m\"\npublish = { flat = \"lamppost/v1/x\" }",
            &["publish.flat", "outside lamppost/v1"],
        ),
        (
            MODEL,
            "model = \"m\"\npublish = { flat = \"sensors/i94\" }",
            &["publish.flat", "feed itself"],
        ),
        (MODEL, "model = \"m/n\"", &["m/n"]),
    ];
    for (from, to, wanted) in cases {
        assert!(GOOD.contains(from));
        refused(&[(&GOOD.replace(from, to), wanted)]);
    }
    refused(&[(&format!("{GOOD}{GOOD}"), &["i94-volume", "another name"])]);
    let wide = GOOD.replace("sensors/i94", "sensors/+");
    let other = GOOD
        .replace("i94-volume", "b")
        .replace("sensors/i94", "+/i94");
    refused(&[(
        &format!("{wide}{other}"),
        &["sensors/+", "+/i94", "overlap"],
    )]);
}

#[test]
fn a_password_is_not_shown() {
    let config = Config::parse(&format!(
        "site = \"s\"\nnode = \"n\"\n[coordinator]\nmqtt = \"mqtts://h\"\nhttp = \"https://h\"\nkeys = []\npassword = \"tell-nobody\"\n{GOOD}"
    ));
    assert!(!format!("{:?}", config.unwrap()).contains("tell-nobody"));
}

#[test]
fn the_examples_are_good() {
    for entry in std::fs::read_dir(root().join("configs/apps")).unwrap() {
        let path = entry.unwrap().path();
        Config::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = TempDir::new().unwrap();
    let text = config_text(dir.path(), &traffic(dir.path())).replace("127.0.0.1:0", &address);
    let (sender, _ready) = tokio::sync::oneshot::channel();
    let run = lamppost_agent::run(
        common::config(&text),
        tokio_util::sync::CancellationToken::new(),
        sender,
    );
    let error = tokio::time::timeout(common::DEADLINE, run)
        .await
        .unwrap()
        .unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains(&address) && cause.contains("in use"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("data"), "a file is in the way").unwrap();
    let error = fails_to_start(dir.path(), &traffic(dir.path())).await;
    assert!(
        error.contains("data_dir") && error.contains("data"),
        "{error}"
    );
}
