//! Processes killed at random points, in a short, seeded form: `just torture` does it longer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// Tortures fleets of these kinds; the program fails when a promise is broken.
fn torture(kinds: [&str; 2], kills: u64, seed: u64) {
    let kinds = kinds.iter().flat_map(|kind| ["--kind", kind]);
    let output = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args([kills.to_string(), "--seed".to_owned(), seed.to_string()])
        .args(kinds)
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        said(&output.stdout),
        said(&output.stderr)
    );
    println!("{}", said(&output.stdout));
}

#[test]
fn killed_at_random_points_a_fleet_that_always_writes_loses_nothing() {
    torture(["always", "always-external"], 16, 11);
}

#[test]
fn killed_at_random_points_a_fleet_tells_what_its_memory_lost() {
    torture(["outage", "outage-external"], 16, 12);
}
