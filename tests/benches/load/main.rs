//! Benchmarks against a peer and against limits, all measured in one run: `just bench`.
//!
//! - `reading`: the readings, each recognised by its event time;
//! - `wire`: as much of MQTT as load needs;
//! - `session`: one contestant under load: throughput, latency;
//! - `contestant`: lamppost-agent, the Python peer with mosquitto, the brokers by themselves;
//! - `process`: memory and processor time of a process;
//! - `pipeline` and `memory`: what is measured;
//! - `report`: tables.
//!
//! `tests/benches/run` builds the programs and names them in the environment.

mod contestant;
mod memory;
mod pipeline;
mod process;
mod reading;
mod report;
mod session;
mod wire;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use contestant::Tools;
use lamppost_tests::zoo;
use wire::Qos;

const USAGE: &str = "usage: tests/benches/run [pipeline|limit|memory|newcomer|all]... [--quick] [--qos 0|1] [--rate N]";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Each contestant's turns; they take turns so that a busy moment of the machine hits all.
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Readings a second while latency is measured.
    pub(crate) rate: u32,
    pub(crate) qos: Qos,
}

#[derive(Debug)]
struct Plan {
    pipeline: bool,
    limit: bool,
    memory: bool,
    effort: Effort,
}

fn main() -> anyhow::Result<()> {
    let plan = Plan::parse(env::args().skip(1))?;
    reading::self_check()?;
    let scratch = tempfile::tempdir().context("create a scratch folder")?;
    let tools = tools(scratch.path())?;
    let mut goals = Vec::new();
    if plan.pipeline || plan.limit {
        goals.extend(pipeline::measure(
            &tools,
            plan.effort,
            plan.pipeline,
            plan.limit,
        )?);
    }
    if plan.memory {
        goals.extend(memory::measure(&tools, plan.effort, plan.pipeline)?);
    }
    report::goals(&goals);
    Ok(())
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        // A gateway in a cabinet with hundreds of sensors sees about a thousand readings a second.
        let full = Effort {
            // Bare pass-through uses up the event times there are (READINGS_MAX) in five.
            rounds: 3,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(4),
            rate: 1_000,
            qos: Qos::AtLeastOnce,
        };
        let mut plan = Self {
            pipeline: false,
            limit: false,
            memory: false,
            effort: full,
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "pipeline" => plan.pipeline = true,
                "limit" => plan.limit = true,
                "memory" => plan.memory = true,
                "all" => (plan.pipeline, plan.limit, plan.memory) = (true, true, true),
                "--quick" => {
                    (plan.effort.rounds, plan.effort.measured) = (1, Duration::from_secs(2));
                }
                "--qos" => match arguments.next().as_deref() {
                    Some("0") => plan.effort.qos = Qos::AtMostOnce,
                    Some("1") => plan.effort.qos = Qos::AtLeastOnce,
                    _ => bail!(USAGE),
                },
                "--rate" => {
                    let rate = arguments
                        .next()
                        .and_then(|rate| rate.parse().ok())
                        .filter(|rate| (1..=100_000).contains(rate));
                    plan.effort.rate = rate.context(USAGE)?;
                }
                // Cargo says so to each benchmark.
                "--bench" => {}
                _ => bail!(USAGE),
            }
        }
        if !(plan.pipeline || plan.limit || plan.memory) {
            (plan.pipeline, plan.limit, plan.memory) = (true, true, true);
        }
        Ok(plan)
    }
}

fn tools(scratch: &Path) -> anyhow::Result<Tools> {
    let named = |variable: &str| -> anyhow::Result<PathBuf> {
        let path = env::var_os(variable)
            .with_context(|| format!("{variable} is not set: start tests/benches/run"))?;
        let path = PathBuf::from(path);
        fs::metadata(&path).with_context(|| format!("{variable} names {}", path.display()))?;
        Ok(path)
    };
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundle = scratch.join("traffic-flow.tar");
    fs::write(&bundle, zoo::TRAFFIC_FLOW_1_1_0.bundle()?)?;
    Ok(Tools {
        agent: named("LAMPPOST_BENCH_AGENT")?,
        broker: named("LAMPPOST_BENCH_BROKER")?,
        mosquitto: named("LAMPPOST_BENCH_MOSQUITTO")?,
        python: named("LAMPPOST_BENCH_PYTHON")?,
        peer: package.join("benches/peer/agent.py"),
        model: package.join("../models/zoo/traffic-flow/1.1.0"),
        bundle,
        scratch: scratch.to_owned(),
    })
}
