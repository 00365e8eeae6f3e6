//! Training and compression as processes, on readings, samples and models of the zoo.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod compression;
mod refusals;
mod registry;
#[path = "../support/mod.rs"]
mod support;
mod training;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use support::server::{failure, lamppost};
use support::zoo;
use tempfile::TempDir;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn level() -> PathBuf {
    root().join("models/zoo/traffic-level/1.0.0")
}

/// Half a year of hourly counts.
fn readings() -> String {
    text(&root().join("tests/data/i94-replay.csv")).to_owned()
}

/// A short training on a part of them.
const SHORT: [&str; 4] = ["--label", "volume", "--until", "2017-03-01T00:00:00Z"];

fn run(args: &[&str]) -> Output {
    lamppost().args(args).output().unwrap()
}

/// The report of a command that succeeds.
#[track_caller]
fn good(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {output:?}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    outcome["report"].clone()
}

/// What a command that must fail says.
#[track_caller]
fn bad(args: &[&str]) -> String {
    let (code, error) = failure(&run(args));
    assert_eq!(code, 1, "{args:?}: {error}");
    error
}

fn further(out: &Path, epochs: &str, more: &[&str]) -> Vec<String> {
    let (folder, readings) = (zoo("1.0.0"), readings());
    let base = ["train", "--bundle", text(&folder), "--readings", &readings];
    let all = [
        &base[..],
        &SHORT,
        &["--rate", "0.0005", "--epochs", epochs, "--out", text(out)],
        more,
    ]
    .concat();
    all.into_iter().map(str::to_owned).collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Samples of the congestion class of the next hour, as the coordinator's lines; `alter` changes one before it is written.
fn samples(path: &Path, alter: impl Fn(usize, &mut Value)) -> String {
    let csv = std::fs::read_to_string(readings()).unwrap();
    let rows: Vec<(&str, f64)> = csv
        .lines()
        .skip(1)
        .take(600)
        .map(|line| {
            let mut cells = line.split(',');
            (
                cells.next().unwrap(),
                cells.next().unwrap().parse().unwrap(),
            )
        })
        .collect();
    let mut lines = String::new();
    for (at, window) in rows.windows(25).enumerate() {
        let (past, next) = (&window[..24], window[24].1);
        let class = match next {
            ..1219.0 => "free",
            ..3342.0 => "light",
            ..5024.0 => "heavy",
            _ => "jam",
        };
        let readings = past
            .iter()
            .map(|(ts, volume)| json!({"ts": ts, "fields": {"volume": volume}}));
        let origin = json!({"boot": "00000000000000ab", "seq": at, "model": "traffic-level", "policy": "all", "consent": "c-1"});
        let mut line = json!({
            "id": format!("minneapolis/gw-{}/i94/00000000000000ab-{at}", at % 4), "site": "minneapolis", "node": format!("gw-{}", at % 4),
            "stream": "i94", "received_at": "2026-11-25T00:00:00Z", "label_by": "node",
            "sample": {"v": 1, "ts": past[23].0, "origin": origin, "window": readings.collect::<Vec<_>>(), "label": class},
        });
        alter(at, &mut line);
        writeln!(lines, "{line}").unwrap();
    }
    std::fs::write(path, &lines).unwrap();
    lines
}

fn classify<'a>(
    samples: &'a Path,
    folder: &'a Path,
    out: &'a Path,
    more: &[&'a str],
) -> Vec<&'a str> {
    let base = [
        "train",
        "--bundle",
        text(folder),
        "--samples",
        text(samples),
        "--out",
        text(out),
        "--epochs",
        "2",
    ];
    [&base[..], more].concat()
}
