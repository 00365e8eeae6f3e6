//! Training and compression as processes, on readings, samples and models of the zoo.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use lamppost_coordinator::api::ModelRow;
use lamppost_models::{Bundle, Digest};
use serde_json::{Value, json};
use support::server::{Server, failure, lamppost};
use support::{DEADLINE, zoo};
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
const SHORT: [&str; 8] = [
    "--label",
    "volume",
    "--until",
    "2017-03-01T00:00:00Z",
    "--epochs",
    "3",
    "--rate",
    "0.0005",
];

fn run(args: &[&str]) -> Output {
    lamppost().args(args).output().unwrap()
}

fn good(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command that must fail says.
#[track_caller]
fn bad(args: &[&str]) -> String {
    let (code, error) = failure(&run(args));
    assert_eq!(code, 1, "{args:?}: {error}");
    error
}

fn further(out: &Path, more: &[&str]) -> Vec<String> {
    let (folder, readings) = (zoo("1.0.0"), readings());
    let base = ["train", "--bundle", text(&folder), "--readings", &readings];
    let all = [&base[..], &SHORT, &["--out", text(out)], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn the_same_samples_recipe_and_seed_make_the_same_bundle() {
    let dir = tempdir();
    let [one, two, other] = ["one.tar", "two.tar", "other.tar"].map(|name| dir.path().join(name));
    let curve = dir.path().join("curve");
    let report = good(&strs(&further(&one, &["--curve", text(&curve)])));
    good(&strs(&further(&two, &[])));
    good(&strs(&further(&other, &["--seed", "2"])));
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(read(&one), read(&two));
    assert_ne!(read(&one), read(&other));

    let mae = |of: &str| report["exam"][of]["mae"].as_f64().unwrap();
    assert!(
        mae("new") < mae("parent") && mae("parent") < mae("naive"),
        "{report}"
    );
    let bundle = Bundle::read(&read(&one)).unwrap();
    let (manifest, made) = (bundle.manifest(), &bundle.manifest().provenance);
    assert_eq!(manifest.version.to_string(), "1.0.1");
    let parent = Bundle::read(&support::bundle("1.0.0")).unwrap();
    assert_eq!(made.parent, Some(parent.digest()));
    assert_eq!(
        (made.seed, manifest.features.clone()),
        (Some(1), parent.manifest().features.clone())
    );
    let samples = made.samples.clone().unwrap();
    let parts = &report["report"]["parts"];
    let seen = parts["train"].as_u64().unwrap() + parts["valid"].as_u64().unwrap();
    assert_eq!((samples.count, made.created_at), (seen, samples.to));
    assert!(
        made.data.contains("i94-replay.csv") && made.data.contains("Hogue"),
        "{}",
        made.data
    );
    assert_eq!(bundle.model().len(), parent.model().len());
    assert!(
        read(&curve.join("curve.csv"))
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            == 4
    );
    assert!(
        String::from_utf8(read(&curve.join("curve.svg")))
            .unwrap()
            .starts_with("<svg")
    );
    let verified = run(&["model", "verify", text(&one)]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_training_that_was_killed_goes_on_to_the_same_bytes() {
    let dir = tempdir();
    let [whole, resumed] = ["whole.tar", "resumed.tar"].map(|name| dir.path().join(name));
    let state = dir.path().join("state");
    let long = ["--epochs", "40", "--patience", "0"];
    good(&strs(&further(&whole, &long)));
    let args = further(
        &resumed,
        &[&long[..], &["--checkpoint", text(&state)]].concat(),
    );
    let mut child = lamppost()
        .args(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (file, ends) = (state.join("training.ckpt"), Instant::now() + DEADLINE * 4);
    while !file.exists() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < ends, "no checkpoint came");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        file.exists() && !resumed.exists(),
        "it was killed before its end"
    );
    good(&strs(&args));
    assert_eq!(
        std::fs::read(&whole).unwrap(),
        std::fs::read(&resumed).unwrap()
    );
    assert!(!file.exists());
}

#[test]
fn a_new_model_fits_its_normalisation_on_what_it_learns_from() {
    let dir = tempdir();
    let out = dir.path().join("new.tar");
    let like = zoo("1.0.0").join("manifest.json");
    let raw = root().join("models/zoo/data/traffic-i94-hourly.csv.gz");
    let report = good(&[
        "train",
        "--new",
        "mlp:16",
        "--like",
        text(&like),
        "--readings",
        text(&raw),
        "--time",
        "date_time",
        "--zone=-06:00",
        "--field",
        "volume=traffic_volume",
        "--label",
        "volume",
        "--until",
        "2013-01-15T00:00:00Z",
        "--epochs",
        "20",
        "--out",
        text(&out),
        "--version",
        "2.0.0",
    ]);
    let mae = |of: &str| report["exam"][of]["mae"].as_f64().unwrap();
    assert!(mae("new") < 0.7 * mae("naive"), "{report}");
    assert!(report["exam"]["parent"].is_null());
    let bundle = Bundle::read(&std::fs::read(&out).unwrap()).unwrap();
    let written = serde_json::to_value(bundle.manifest()).unwrap();
    let (mean, std) = (
        &written["features"][0]["mean"],
        &written["features"][0]["std"],
    );
    let (mean, std) = (mean.as_f64().unwrap(), std.as_f64().unwrap());
    // Those of the zoo are 3268.4 and 2019.2, on another time.
    assert!(
        (2_500.0..4_000.0).contains(&mean) && (1_500.0..2_500.0).contains(&std),
        "{mean} {std}"
    );
    let scale = written["output"]["kind"]["value"]["scale"]
        .as_f64()
        .unwrap();
    assert!((1_500.0..2_500.0).contains(&scale), "{scale}");
    assert_eq!(bundle.manifest().provenance.parent, None);
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

#[test]
fn samples_are_split_by_time_or_by_node() {
    let dir = tempdir();
    let (file, out, folder) = (
        dir.path().join("samples.ndjson"),
        dir.path().join("out.tar"),
        level(),
    );
    samples(&file, |at, line| match at {
        // What is of another model or has no label is left out and counted.
        0 => line["sample"]["origin"]["model"] = json!("other"),
        1 => line["sample"]["label"] = Value::Null,
        2 => line["sample"]["window"] = json!([]),
        3 => line["id"] = json!("minneapolis/gw-0/i94/00000000000000ab-4"),
        _ => {}
    });
    let report = good(&classify(
        &file,
        &folder,
        &out,
        &["--class-weights", "balanced"],
    ));
    let parts = &report["report"]["parts"];
    let count = |part: &str| parts[part].as_u64().unwrap();
    assert_eq!(
        parts["skipped"],
        json!({"of another model": 1, "without a label": 1, "unfit for the model": 1, "repeated": 1})
    );
    // A day of windows and their labels is between two parts.
    assert_eq!(parts["gap_ms"], json!(24 * 3_600_000));
    assert!(
        count("train") + count("valid") + count("test") < 572 - 2 * 20,
        "{parts}"
    );
    assert!(
        report["exam"]["new"]["accuracy"].as_f64().unwrap() > 0.6,
        "{report}"
    );
    let report = good(&classify(&file, &folder, &out, &["--split", "node"]));
    let parts = &report["report"]["parts"];
    // Of four nodes one is judged on and one says when to stop.
    assert!(
        parts["test"].as_u64().unwrap() < 150 && parts["train"].as_u64().unwrap() > 270,
        "{parts}"
    );
}

#[test]
fn what_cannot_be_learned_from_is_refused_and_nothing_is_written() {
    let dir = tempdir();
    let (file, out, folder) = (
        dir.path().join("samples.ndjson"),
        dir.path().join("out.tar"),
        level(),
    );
    let refused = |more: &[&str], words: &str| {
        let error = bad(&classify(&file, &folder, &out, more));
        assert!(error.contains(words), "{words:?} is not in: {error}");
        assert!(!out.exists());
    };
    samples(&file, |_, line| line["sample"]["label"] = json!("jam"));
    refused(&[], "the same target");
    samples(&file, |at, line| {
        if at == 40 {
            line["sample"]["label"] = json!("gridlock");
        }
    });
    refused(
        &[],
        "ab-40 is \"gridlock\", it must be one of free, light, heavy, jam",
    );
    samples(&file, |at, line| {
        if at == 40 {
            line["sample"]["label"] = json!(3.5);
        }
    });
    refused(&[], "ab-40 is 3.5");
    samples(&file, |_, line| line["sample"]["window"] = json!([]));
    refused(&[], "window has 0 readings");
    samples(&file, |_, line| line["sample"]["label"] = Value::Null);
    refused(&[], "576 without a label");
    samples(&file, |at, line| {
        if at == 7 {
            line["sample"] = json!({"ts": "yesterday"});
        }
    });
    refused(&[], "line 8 is no sample");
    samples(&file, |_, _| {});
    refused(&["--from", "2030-01-01T00:00:00Z"], "576 of another time");
    refused(&["--until", "2016-12-27T00:00:00Z"], "part would be empty");
    refused(&["--rate", "-1"], "rate is -1");
    refused(&["--loss", "mse"], "the targets are classes");
    refused(&["--class-weights", "1,2"], "weight");
    refused(&["--valid", "60%", "--test", "60%"], "both shares");
    assert_eq!(
        run(&classify(&file, &folder, &out, &["--loss", "l3"]))
            .status
            .code(),
        Some(2)
    );

    let csv = dir.path().join("readings.csv");
    std::fs::write(
        &csv,
        "ts,volume\n2017-01-01T00:00:00Z,12\n2017-01-01T01:00:00Z,NaN\n",
    )
    .unwrap();
    let flow = zoo("1.0.0");
    let base = [
        "train",
        "--bundle",
        text(&flow),
        "--readings",
        text(&csv),
        "--out",
        text(&out),
    ];
    let error = bad(&[&base[..], &["--label", "volume"]].concat());
    assert!(error.contains("line 3 has \"NaN\""), "{error}");
    let error = bad(&[&base[..], &["--label", "speed"]].concat());
    assert!(
        error.contains("no column \"speed\", there are ts, volume"),
        "{error}"
    );
    let error = bad(&[&base[..], &["--label", "volume", "--ahead", "2"]].concat());
    assert!(error.contains("3600000 ms ahead"), "{error}");
    let missing = run(&[
        "train",
        "--bundle",
        text(&flow),
        "--samples",
        "/nowhere",
        "--out",
        text(&out),
    ]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
}

#[test]
fn what_is_not_supported_of_a_model_is_listed_before_any_work() {
    let dir = tempdir();
    let [manifest, mut model, golden] = support::zoo_files("1.0.0");
    for at in 0..model.len() - 4 {
        if &model[at..at + 4] == b"Relu" {
            model[at..at + 4].copy_from_slice(b"Acos");
        }
    }
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["model"]["digest"] = json!(Digest::of(&model));
    let file = dir.path().join("other.tar");
    let packed = Bundle::pack(manifest.to_string().as_bytes(), &model, &golden).unwrap();
    std::fs::write(&file, packed).unwrap();
    // The samples are never looked at.
    let error = bad(&[
        "train",
        "--bundle",
        text(&file),
        "--samples",
        "/nowhere",
        "--out",
        "/nowhere/out",
    ]);
    assert!(error.matches("Acos").count() >= 2, "{error}");
}

#[test]
fn a_full_disk_leaves_no_part_of_a_file() {
    let dir = tempdir();
    let (out, state) = (dir.path().join("out.tar"), dir.path().join("state"));
    // No file may have more than 8 KiB, in blocks of 512 or of 1,024 bytes; the write fails as it does on a full disk.
    let limited = |args: &[String]| {
        let mut command = std::process::Command::new("sh");
        command.args([
            "-c",
            "trap '' XFSZ; ulimit -f 8; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_lamppost"),
        ]);
        command.args(args).output().unwrap()
    };
    let (code, error) = failure(&limited(&further(&out, &[])));
    assert!(
        code == 1 && error.contains("out.tar") && error.contains("cannot write it"),
        "{error}"
    );
    let (code, error) = failure(&limited(&further(&out, &["--checkpoint", text(&state)])));
    assert!(code == 1 && error.contains("checkpoint fails"), "{error}");
    let left = |folder: &Path| {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (left(dir.path()), left(&state)),
        (vec!["state".into()], Vec::new())
    );
}

#[test]
fn a_compression_keeps_to_its_terms_or_writes_nothing() {
    let dir = tempdir();
    let (out, scan, folder, readings) = (
        dir.path().join("out.tar"),
        dir.path().join("scan"),
        zoo("1.0.0"),
        readings(),
    );
    let base = [
        &[
            "compress",
            "--bundle",
            text(&folder),
            "--readings",
            &readings,
        ][..],
        &SHORT,
        &["--out", text(&out)],
    ]
    .concat();
    // The clock of a loaded machine decides nothing here.
    let ways = [
        "--to",
        "int8",
        "--to",
        "channels:0.3+int8",
        "--to",
        "prune:auto+f16",
        "--min-speedup",
        "0",
    ];
    let report = good(
        &[
            &base[..],
            &ways,
            &["--max-loss", "100%", "--scan", text(&scan)],
        ]
        .concat(),
    );
    assert_eq!(report["chosen"], "channels:0.3+int8", "{report}");
    let candidates = report["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 4);
    assert!(candidates[1]["smaller"].as_f64().unwrap() > 3.0, "{report}");
    assert!(
        candidates[1]["error"].as_f64().unwrap() < 1.05 * candidates[0]["error"].as_f64().unwrap(),
        "{report}"
    );
    let bundle = Bundle::read(&std::fs::read(&out).unwrap()).unwrap();
    let made = &bundle.manifest().provenance;
    assert_eq!(made.report.clone().unwrap()["chosen"], "channels:0.3+int8");
    assert!(made.samples.is_some() && bundle.model().len() < 6_000);
    let rows = std::fs::read_to_string(scan.join("scan.csv")).unwrap();
    assert!(
        rows.lines().count() == 1 + 9 * 3 && scan.join("scan.svg").exists(),
        "{rows}"
    );
    let verified = run(&["model", "verify", text(&out)]);
    assert!(verified.status.success(), "{verified:?}");

    std::fs::remove_file(&out).unwrap();
    let error = bad(&[&base[..], &["--to", "int8", "--min-speedup", "100"]].concat());
    assert!(
        error.contains("nothing was written") && error.contains("times as fast"),
        "{error}"
    );
    let level = level();
    let error = bad(&[
        &base[..],
        &["--to", "distil:mlp:8", "--teacher", text(&level)],
    ]
    .concat());
    assert!(
        error.contains("4 labels (free, light, heavy, jam)") && error.contains("vehicles/h"),
        "{error}"
    );
    assert!(!out.exists());
    let better = zoo("1.1.0");
    let taught = [
        "--to",
        "distil:mlp:16",
        "--teacher",
        text(&better),
        "--teacher",
        text(&folder),
    ];
    let report = good(
        &[
            &base[..],
            &taught,
            &["--max-loss", "100%", "--min-speedup", "0", "--epochs", "20"],
        ]
        .concat(),
    );
    assert_eq!(report["chosen"], "distil:mlp:16");
}

#[test]
fn a_model_of_the_registry_is_trained_and_pushed_and_tells_where_it_is_from() {
    let dir = tempdir();
    let server = Server::start(dir.path());
    server.good(&["model", "push", text(&zoo("1.0.0"))]);
    let readings = readings();
    let base = [
        &[
            "train",
            "--model",
            "traffic-flow",
            "--push",
            "--readings",
            &readings,
        ][..],
        &SHORT,
    ]
    .concat();
    server.json::<Value>(&base);
    server.json::<Value>(&[&base[..], &["--seed", "3"]].concat());
    let lineage: Value = server.json(&["model", "provenance", "traffic-flow", "1.0.2"]);
    let generations = lineage["generations"].as_array().unwrap();
    let versions: Vec<&str> = generations
        .iter()
        .map(|one| one["version"].as_str().unwrap())
        .collect();
    assert_eq!(
        (versions, &lineage["unknown"]),
        (vec!["1.0.2", "1.0.1", "1.0.0"], &Value::Null)
    );
    assert_eq!(generations[0]["provenance"]["seed"], json!(3));
    assert_eq!(
        generations[0]["provenance"]["data"],
        generations[1]["provenance"]["data"]
    );
    let shown = server.good(&["model", "provenance", "traffic-flow", "1.0.1"]);
    for words in [
        "made from\ntraffic-flow 1.0.0",
        "seed     1",
        "code     lamppost ",
        "mae_parent = ",
        "samples  ",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    // A refusal changes nothing there.
    let (code, error) = server.bad(&[&base[..], &["--from", "2017-02-28T00:00:00Z"]].concat());
    assert!(
        code == 1 && error.contains("part would be empty"),
        "{error}"
    );
    let (code, error) = server.bad(&[&base[..], &["--version", "1.0.0"]].concat());
    assert!(code == 1 && error.contains("1.0.0"), "{error}");
    let rows: Vec<ModelRow> = server.json(&["model", "ls"]);
    assert_eq!(rows.len(), 3);
    let (code, _) = server.bad(&["train", "--model", "nothing", "--push", "--samples", "x"]);
    assert_eq!(code, 4);
    server.terminate();
}

#[test]
fn samples_come_from_the_coordinator_page_by_page() {
    let dir = tempdir();
    let (file, out) = (
        dir.path().join("samples.ndjson"),
        dir.path().join("out.tar"),
    );
    let lines: Vec<String> = samples(&file, |_, _| {})
        .lines()
        .map(str::to_owned)
        .collect();
    let stand_in = StandIn::start(lines);
    let folder = level();
    let base = ["train", "--bundle", text(&folder), "--epochs", "2", "--out"];
    let at = ["--server", stand_in.server.as_str()];
    let filters = ["--stream", "i94", "--policy", "all"];
    good(&[&base[..], &[text(&out)], &at, &filters].concat());
    let local = dir.path().join("local.tar");
    good(&[&base[..], &[text(&local), "--samples", text(&file)]].concat());
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(read(&out), read(&local), "the source decides nothing");
    let asked = stand_in.asked.lock().unwrap().clone();
    assert!(asked.len() > 3, "{asked:?}");
    for words in [
        "model=traffic-level",
        "labelled=true",
        "stream=i94",
        "policy=all",
        "limit=1000",
    ] {
        assert!(
            asked.iter().all(|query| query.contains(words)),
            "{words}: {asked:?}"
        );
    }
    assert!(
        asked[1].contains("after=minneapolis%2Fgw-3%2Fi94%2F00000000000000ab-199"),
        "{asked:?}"
    );
}

/// The coordinator's samples alone, 200 a page whatever the limit.
struct StandIn {
    server: String,
    asked: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl StandIn {
    fn start(lines: Vec<String>) -> Self {
        use axum::extract::RawQuery;
        let asked = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let seen = std::sync::Arc::clone(&asked);
        let page = move |RawQuery(query): RawQuery| {
            let query = query.unwrap_or_default();
            let after = query
                .split('&')
                .find_map(|part| part.strip_prefix("after="));
            let id = |line: &String| {
                let line: Value = serde_json::from_str(line).unwrap();
                line["id"].as_str().unwrap().replace('/', "%2F")
            };
            let from = after.map_or(0, |after| {
                lines.iter().position(|line| id(line) == after).unwrap() + 1
            });
            let page: String = lines[from..]
                .iter()
                .take(200)
                .map(|line| format!("{line}\n"))
                .collect();
            seen.lock().unwrap().push(query);
            std::future::ready(page)
        };
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let app = axum::Router::new().route("/v1/samples", axum::routing::get(page));
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self {
            server: format!("http://{}", told.recv().unwrap()),
            asked,
        }
    }
}

#[test]
fn the_shipped_recipe_is_the_default() {
    let dir = tempdir();
    let [with, without] = ["with.tar", "without.tar"].map(|name| dir.path().join(name));
    let recipe = root().join("configs/recipes/fine-tune.toml");
    good(&strs(&further(&with, &["--recipe", text(&recipe)])));
    good(&strs(&further(&without, &[])));
    assert_eq!(
        std::fs::read(with).unwrap(),
        std::fs::read(without).unwrap()
    );
}
