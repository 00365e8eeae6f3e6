//! The program, from outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use common::{DEADLINE, config_text, traffic};
use tempfile::TempDir;

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamppost-agent"));
    command
        .stdin(Stdio::null())
        .env_remove("LAMPPOST_LOG")
        .env_remove("LAMPPOST_CONFIG");
    command
}

fn write_config(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("agent.toml");
    std::fs::write(&file, config_text(dir, &traffic(dir))).unwrap();
    file
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_good_configuration_is_called_good_and_nothing_is_started() {
    let dir = TempDir::new().unwrap();
    let output = agent()
        .arg("--check")
        .arg("--config")
        .arg(write_config(dir.path()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("minneapolis/gw-1"));
    assert!(!dir.path().join("data").exists());
}

#[test]
fn wrong_arguments_and_configurations_exit_with_2() {
    let dir = TempDir::new().unwrap();
    let file = write_config(dir.path());
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, "site = \"x\"\nnood = \"y\"").unwrap();
    for (arguments, wanted) in [
        (vec!["--config", "/nowhere.toml"], "/nowhere.toml"),
        (vec!["--config", bad.to_str().unwrap()], "nood"),
        (
            vec!["--config", file.to_str().unwrap(), "--log", "!!"],
            "--log",
        ),
        (vec!["--frobnicate"], "--frobnicate"),
        (vec![], "Usage"),
    ] {
        let output = agent().args(&arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(wanted),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_ready_file_names_the_broker_and_a_signal_stops_the_agent() {
    let dir = TempDir::new().unwrap();
    let ready = dir.path().join("ready.json");
    let file = write_config(dir.path());
    let child = agent()
        .arg("--config")
        .arg(&file)
        .arg("--ready-file")
        .arg(&ready)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let text = loop {
        match std::fs::read_to_string(&ready) {
            Ok(text) => break text,
            Err(_) if started.elapsed() < DEADLINE => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(error) => panic!("no ready file: {error}"),
        }
    };
    let ready: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ready["node"], "minneapolis/gw-1");
    assert_eq!(ready["pid"], child.id());
    let broker = ready["broker"].as_str().unwrap();
    std::net::TcpStream::connect(broker).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(broker));
}
