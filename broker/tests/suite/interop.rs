//! Clients nobody here wrote: mosquitto's programs, Eclipse paho for Python, MQTT.js.
//!
//! A program that is missing skips its test, loudly; with `LAMPPOST_REQUIRE_INTEROP=1` that is a failure.

use crate::common::{DEADLINE, in_time, open_config, start};
use lamppost_broker::{Action, Broker, Config, Effect, Publish, QoS, Rule, User, Who};
use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Says that a test does not run, or fails where it must.
pub(crate) fn skip(why: &str) {
    assert!(
        env::var_os("LAMPPOST_REQUIRE_INTEROP").is_none_or(|value| value != "1"),
        "missing: {why}"
    );
    eprintln!("SKIPPED: {why}");
}

pub(crate) fn runs(program: &str, arguments: &[&str], envs: &[(&str, &str)]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(envs.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether a program can be started at all: mosquitto's exit with 1 for `--version`.
pub(crate) fn exists(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

pub(crate) fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(name)
}

pub(crate) fn config() -> Config {
    let deny = |action, filter: &str| Rule {
        effect: Effect::Deny,
        who: Who::Any,
        action,
        filter: filter.into(),
    };
    Config {
        allow_anonymous: false,
        users: vec![User {
            name: "ada".into(),
            password: "secret".into(),
        }],
        rules: vec![
            deny(Action::Subscribe, "secret/#"),
            deny(Action::Publish, "denied/#"),
        ],
        ..open_config()
    }
}

pub(crate) async fn run(mut command: Command) -> Output {
    let finished = tokio::task::spawn_blocking(move || command.output().unwrap());
    in_time("the client", finished).await.unwrap()
}

pub(crate) fn assert_ok(output: &Output, what: &str) {
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{what}: {}\n{said}\n{complained}",
        output.status
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho() {
    let python = env::var("LAMPPOST_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !runs(
        &python,
        &["-c", "from paho.mqtt.client import CallbackAPIVersion"],
        &[],
    ) {
        return skip("paho-mqtt 2 for Python (set LAMPPOST_TEST_PYTHON)");
    }
    for version in ["3", "5"] {
        let (broker, address) = start(config()).await;
        let mut command = Command::new(&python);
        command
            .arg(script("paho_client.py"))
            .args([&address.port().to_string(), version]);
        assert_ok(&run(command).await, version);
        check_stats(&broker);
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqttjs() {
    let modules = env::var("LAMPPOST_TEST_NODE_MODULES").unwrap_or_default();
    let envs = [("NODE_PATH", modules.as_str())];
    if !runs("node", &["-e", "require('mqtt').connectAsync.call"], &envs) {
        return skip("node with MQTT.js 5 (set LAMPPOST_TEST_NODE_MODULES)");
    }
    for version in ["4", "5"] {
        let (broker, address) = start(config()).await;
        let mut command = Command::new("node");
        command
            .arg(script("mqttjs_client.js"))
            .args([&address.port().to_string(), version])
            .envs(envs);
        assert_ok(&run(command).await, version);
        check_stats(&broker);
        broker.stop().await;
    }
}

/// What both scenarios leave behind.
pub(crate) fn check_stats(broker: &Broker) {
    let stats = broker.stats();
    assert_eq!(
        (
            stats.refused_password,
            stats.denied_subscribes,
            stats.denied_publishes
        ),
        (1, 1, 1)
    );
    assert_eq!(
        (stats.malformed, stats.protocol_errors, stats.panics),
        (0, 0, 0)
    );
    assert_eq!(stats.wills, 1);
}

/// One of mosquitto's programs with arguments that have no spaces of their own.
fn mosquitto(program: &str, address: SocketAddr, version: &str, arguments: &str) -> Command {
    let mut command = Command::new(program);
    let port = address.port().to_string();
    command.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-u", "ada"]);
    command.args(arguments.split_whitespace());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_programs() {
    if !["mosquitto_pub", "mosquitto_sub"].into_iter().all(exists) {
        return skip("mosquitto_pub and mosquitto_sub (Debian: mosquitto-clients)");
    }
    for version in ["mqttv311", "mqttv5"] {
        let (broker, address) = start(config()).await;
        mosquitto_publishes(&broker, address, version).await;
        mosquitto_subscribes(&broker, address, version).await;
        let stats = broker.stats();
        assert_eq!((stats.malformed, stats.protocol_errors), (0, 0));
        assert_eq!(stats.refused_password, 1);
        broker.stop().await;
    }
}

async fn mosquitto_publishes(broker: &Broker, address: SocketAddr, version: &str) {
    let (_, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("m/#", QoS::AtLeastOnce).await.unwrap();
    for qos in ["0", "1", "2"] {
        let arguments = format!("-P secret -t m/{qos} -m from-mosquitto -q {qos} -r");
        let output = run(mosquitto("mosquitto_pub", address, version, &arguments)).await;
        assert_ok(&output, version);
        let message = in_time("a message", receiver.recv()).await.unwrap();
        assert_eq!(*message.topic, format!("m/{qos}"));
        assert_eq!(message.payload, "from-mosquitto");
    }
    let wrong = mosquitto("mosquitto_pub", address, version, "-P wrong -t m/x -m x");
    assert!(!run(wrong).await.status.success());
}

async fn mosquitto_subscribes(broker: &Broker, address: SocketAddr, version: &str) {
    let kept = "-P secret -t m/# -q 1 -C 3 -F %t|%q|%r|%p";
    let output = run(mosquitto("mosquitto_sub", address, version, kept)).await;
    assert_ok(&output, version);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    let wanted = [
        "m/0|0|1|from-mosquitto",
        "m/1|1|1|from-mosquitto",
        "m/2|1|1|from-mosquitto",
    ];
    assert_eq!(lines, wanted);

    // Nothing tells when mosquitto_sub has subscribed: the message is published until it has come.
    let (publisher, _receiver) = broker.link("live").unwrap().split();
    let live = "-P secret -t live/+ -q 1 -C 1 -F %t|%q|%r|%p";
    let mut command = mosquitto("mosquitto_sub", address, version, live);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < DEADLINE, "mosquitto_sub did not end");
        let message = Publish::new("live/x", "to-mosquitto").qos(QoS::AtLeastOnce);
        publisher.publish(message).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        child.wait_with_output().unwrap().stdout,
        b"live/x|1|0|to-mosquitto\n"
    );
}
