//! What is refused, and what is there afterwards.

use std::path::Path;

use lamppost_models::{Bundle, Digest};
use serde_json::{Value, json};

use super::support::server::failure;
use super::support::{self, zoo};
use super::{bad, classify, further, level, run, samples, tempdir, text};

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
    refused(&["--rate=-1"], "rate is -1");
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
        "out.tar",
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
    let (code, error) = failure(&limited(&further(&out, "3", &[])));
    assert!(
        code == 1 && error.contains("out.tar") && error.contains("cannot write it"),
        "{error}"
    );
    let (code, error) = failure(&limited(&further(
        &out,
        "3",
        &["--checkpoint", text(&state)],
    )));
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
