//! What training makes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lamppost_models::Bundle;
use serde_json::{Value, json};

use super::support::server::lamppost;
use super::support::{self, DEADLINE, zoo};
use super::{classify, further, good, level, root, run, samples, strs, tempdir, text};

#[test]
fn the_same_samples_recipe_and_seed_make_the_same_bundle() {
    let dir = tempdir();
    let [one, two, other] = ["one.tar", "two.tar", "other.tar"].map(|name| dir.path().join(name));
    let curve = dir.path().join("curve");
    let report = good(&strs(&further(&one, "3", &["--curve", text(&curve)])));
    good(&strs(&further(&two, "3", &[])));
    good(&strs(&further(&other, "3", &["--seed", "2"])));
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
    let parts = &report["parts"];
    let seen = parts["train"].as_u64().unwrap() + parts["valid"].as_u64().unwrap();
    assert_eq!((samples.count, made.created_at), (seen, samples.to));
    assert!(
        made.data.contains("i94-replay.csv") && made.data.contains("Hogue"),
        "{}",
        made.data
    );
    assert_eq!(bundle.model().len(), parent.model().len());
    let rows = String::from_utf8(read(&curve.join("curve.csv"))).unwrap();
    assert_eq!(rows.lines().count(), 1 + 3, "{rows}");
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
    let long = ["--patience", "0"];
    good(&strs(&further(&whole, "40", &long)));
    let args = further(
        &resumed,
        "40",
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
        "2013-05-15T00:00:00Z",
        "--epochs",
        "30",
        "--rate",
        "0.005",
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
    let parts = &report["parts"];
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
    let parts = &report["parts"];
    // Of four nodes one is judged on and one says when to stop.
    assert!(
        parts["test"].as_u64().unwrap() < 150 && parts["train"].as_u64().unwrap() > 270,
        "{parts}"
    );
}

#[test]
fn the_shipped_recipe_is_the_default() {
    let dir = tempdir();
    let [with, without] = ["with.tar", "without.tar"].map(|name| dir.path().join(name));
    let recipe = root().join("configs/recipes/fine-tune.toml");
    good(&strs(&further(&with, "3", &["--recipe", text(&recipe)])));
    good(&strs(&further(&without, "3", &[])));
    assert_eq!(
        std::fs::read(with).unwrap(),
        std::fs::read(without).unwrap()
    );
}
