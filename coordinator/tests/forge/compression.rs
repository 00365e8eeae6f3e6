//! Candidates and terms.

use lamppost_models::Bundle;

use super::support::zoo;
use super::{SHORT, bad, good, level, readings, run, tempdir, text};

#[test]
#[expect(clippy::too_many_lines, reason = "one story of one bundle")]
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
            &[
                "--max-loss",
                "100%",
                "--epochs",
                "3",
                "--report",
                text(&scan),
            ],
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
        rows.lines().count() == 1 + 9 * 2 && scan.join("scan.svg").exists(),
        "{rows}"
    );
    let picture = std::fs::read_to_string(scan.join("candidates.svg")).unwrap();
    assert_eq!(picture.matches("<circle").count(), 4, "{picture}");
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
            &[
                "--max-loss",
                "100%",
                "--min-speedup",
                "0",
                "--rate",
                "0.01",
                "--epochs",
                "80",
            ],
        ]
        .concat(),
    );
    assert_eq!(report["chosen"], "distil:mlp:16");
}
