use clap::Parser as _;

use super::*;
use crate::cli::args::{Args, Command};

const SHIPPED: &str = include_str!("../../../../configs/fleet.toml");

fn sim(line: &str) -> Sim {
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let Command::Sim(sim) = args.command else {
        panic!("{line}");
    };
    sim
}

fn play(line: &str, fleet: &str) -> Played {
    let line = format!("lamppost sim traffic-flow 1.2.0 --bytes 40kB {line}");
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let sim = sim(&line);
    let fleet: Fleet = toml::from_str(fleet).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut scenario = runtime
        .block_on(scenario(&sim, fleet, &args.global))
        .unwrap();
    scenario.begins = "2026-11-24T12:00:00Z".parse().unwrap();
    let runs = sim.seed..sim.seed + u64::from(sim.runs);
    Played {
        candidate: scenario.candidate.to_string(),
        plan: scenario.plan(sim.seed).unwrap(),
        runs: runs.map(|seed| scenario.run(seed).unwrap()).collect(),
    }
}

#[test]
fn a_fleet_from_a_file_needs_no_coordinator() {
    let bad = play("--runs 3 --candidate crashes", SHIPPED);
    assert!(
        bad.runs
            .iter()
            .all(|run| run.live == 0 && run.exposed <= 20),
        "{bad:?}"
    );
    let good = play("--runs 2 --away 5", SHIPPED);
    insta::assert_snapshot!("sim_good", tables::sim(&good));
    insta::assert_snapshot!("sim_bad", tables::sim(&bad));
}

#[test]
fn a_fleet_that_cannot_be_is_refused() {
    let nobody = "[[nodes]]\nsite = \"a\"\ncount = 3\ngroups = [\"park\"]\n";
    let line = "lamppost sim traffic-flow 1.2.0 --bytes 40kB";
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let asked = |text: &str| {
        let fleet: Fleet = toml::from_str(text).unwrap();
        runtime.block_on(scenario(&sim(line), fleet, &args.global))
    };
    let refusal = asked(nobody).unwrap().run(1).unwrap_err();
    assert!(refusal.to_string().contains("no node"), "{refusal}");
    let many = "[[nodes]]\nsite = \"a\"\ncount = 999999999\n";
    let failure = asked(many).unwrap_err();
    assert!(
        failure.text.contains("20000 can be played"),
        "{}",
        failure.text
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleet.toml");
    std::fs::write(&path, "speed = 3\n").unwrap();
    assert!(read(&path).unwrap_err().text.contains("fleet.toml"));
    assert_eq!(
        read(&dir.path().join("no")).unwrap_err().exit,
        Exit::NotFound
    );
}
