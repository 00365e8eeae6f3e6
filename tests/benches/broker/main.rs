//! Broker against broker: lamppost-broker, mosquitto and stock rumqttd under the same load, in one run: `just bench-broker`.
//!
//! - `load`: one client for all, a single thread that publishes and receives;
//! - `idle`: what connections cost that do nothing;
//! - `contestant`: the brokers, each a process of its own; `stock` is rumqttd as its own program would be;
//! - `outcome`: goals, tables, JSON.
//!
//! `tests/benches/run-broker` builds the programs and names them in the environment. What MQTT the client speaks
//! and how tables look is as in the other benchmarks, in `../load`.

mod contestant;
mod idle;
mod load;
mod outcome;
#[allow(
    dead_code,
    reason = "shared with the other benchmarks, which use all of it"
)]
#[path = "../load/report.rs"]
mod report;
mod stock;
#[allow(
    dead_code,
    reason = "shared with the other benchmarks, which use all of it"
)]
#[path = "../load/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use contestant::{Contestant, Kind, Tools};
use load::{Run, Scenario};
use outcome::{Outcome, Row};
use wire::Qos;

const USAGE: &str = "usage: tests/benches/run-broker [--quick] [--json] [--only NAME]";

/// Messages on their way that are tried out for each contestant and scenario.
const WINDOWS: [u64; 3] = [256, 1_024, 4_096];

/// Publishers, subscribers, QoS.
const SCENARIOS: [Scenario; 6] = [
    Scenario::new("QoS 0, 1 to 1", 1, 1, Qos::AtMostOnce),
    Scenario::new("QoS 1, 1 to 1", 1, 1, Qos::AtLeastOnce),
    Scenario::new("QoS 0, 1 to 50", 1, 50, Qos::AtMostOnce),
    Scenario::new("QoS 1, 1 to 50", 1, 50, Qos::AtLeastOnce),
    Scenario::new("QoS 0, 50 to 1", 50, 1, Qos::AtMostOnce),
    Scenario::new("QoS 1, 50 to 1", 50, 1, Qos::AtLeastOnce),
];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Each contestant's turns; they take turns so that a busy moment of the machine hits all.
    rounds: usize,
    trial: Duration,
    measured: Duration,
    idle_connections: usize,
}

#[derive(Debug)]
struct Plan {
    effort: Effort,
    json: bool,
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments
        .next_if(|argument| argument == stock::ARGUMENT)
        .is_some()
    {
        return stock::serve(arguments.next().as_deref());
    }
    let plan = Plan::parse(arguments)?;
    let scratch = tempfile::tempdir().context("create a scratch folder")?;
    let tools = Tools::from_environment(scratch.path())?;
    idle::allow_descriptors(plan.effort.idle_connections)?;
    let mut outcome = Outcome::default();
    measure_load(&tools, &plan, &mut outcome)?;
    if plan.only.is_none() {
        measure_idle(&tools, plan.effort, &mut outcome)?;
    }
    outcome.print(plan.json)
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut plan = Self {
            effort: Effort {
                rounds: 3,
                trial: Duration::from_millis(500),
                measured: Duration::from_secs(3),
                idle_connections: 1_000,
            },
            json: false,
            only: None,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => {
                    plan.effort.rounds = 1;
                    plan.effort.measured = Duration::from_secs(1);
                }
                "--json" => plan.json = true,
                "--only" => plan.only = Some(arguments.next().context(USAGE)?),
                // Cargo says so to each benchmark.
                "--bench" => {}
                _ => bail!(USAGE),
            }
        }
        Ok(plan)
    }
}

/// All scenarios; the brokers live through all of them, so that the most memory they took is that of the whole load.
fn measure_load(tools: &Tools, plan: &Plan, outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut contestants = Kind::ALL
        .into_iter()
        .map(|kind| Contestant::start(kind, tools))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let chosen = SCENARIOS.iter().filter(|scenario| {
        plan.only
            .as_deref()
            .is_none_or(|only| scenario.name.contains(only))
    });
    for scenario in chosen {
        eprintln!("{}", scenario.name);
        let mut windows = Vec::new();
        for contestant in &mut contestants {
            windows.push(best_window(contestant, scenario, plan.effort.trial)?);
        }
        let mut runs: BTreeMap<Kind, Vec<Run>> = BTreeMap::new();
        for _ in 0..plan.effort.rounds {
            for (contestant, &window) in contestants.iter_mut().zip(&windows) {
                let run = load::run(contestant, scenario, window, plan.effort.measured)?;
                contestant.check()?;
                runs.entry(contestant.kind).or_default().push(run);
            }
        }
        for (kind, window) in Kind::ALL.into_iter().zip(windows) {
            let runs = runs.remove(&kind).unwrap_or_default();
            outcome.rows.push(Row {
                scenario: *scenario,
                kind,
                window,
                runs,
            });
        }
    }
    for contestant in &contestants {
        outcome
            .loaded
            .insert(contestant.kind, contestant.memory("VmHWM:")?);
    }
    Ok(())
}

/// The number of messages on their way with which a contestant delivers most, and loses none if it can.
fn best_window(
    contestant: &mut Contestant,
    scenario: &Scenario,
    trial: Duration,
) -> anyhow::Result<u64> {
    let mut best: Option<(bool, f64, u64)> = None;
    for window in WINDOWS {
        let run = load::run(contestant, scenario, window, trial)?;
        contestant.check()?;
        let candidate = (run.lost == 0, run.per_second, window);
        if best.is_none_or(|best| (candidate.0, candidate.1) > (best.0, best.1)) {
            best = Some(candidate);
        }
    }
    Ok(best.map_or(WINDOWS[0], |best| best.2))
}

fn measure_idle(tools: &Tools, effort: Effort, outcome: &mut Outcome) -> anyhow::Result<()> {
    let count = effort.idle_connections;
    for kind in Kind::ALL {
        eprintln!("{count} idle connections to {}", kind.name());
        let mut contestant = Contestant::start(kind, tools)?;
        outcome
            .idle
            .insert(kind, idle::measure(&mut contestant, count)?);
    }
    Ok(())
}
