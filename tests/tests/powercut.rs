//! Power cuts within a writer's system calls: `tests/powercut` in a short, seeded form.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// Skips, or fails where every outside program must be there.
fn is_possible() -> bool {
    let possible = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=openat", "-o", "/dev/null", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        possible || std::env::var_os("LAMPPOST_REQUIRE_INTEROP").is_none(),
        "strace is missing or may not trace: run `just tools`"
    );
    if !possible {
        eprintln!("SKIPPED: strace is missing or may not trace");
    }
    possible
}

/// Runs the cuts of one seed; the program fails when anything that was acknowledged is lost, and also when nothing is lost
/// with our own sync switched off.
fn cuts(seed: &str) {
    if !is_possible() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_powercut"))
        .args(["model", "--seed", seed, "--cuts", "100"])
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
fn what_was_acknowledged_survives_a_cut_anywhere() {
    cuts("1");
}

/// With these steps sled tidies up at an opening and would lose the store's beginning without a snapshot made first.
#[test]
fn an_opening_that_is_cut_costs_nothing() {
    cuts("5");
}
