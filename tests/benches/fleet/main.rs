//! A fleet of 100,000 against the coordinator: `just bench-fleet`.
//!
//! - `nodes`: what simulated nodes say;
//! - `core`: the coordinator's core in this process: memory a node, a report, a decision, a plan;
//! - `centre`: a coordinator in a process of its own;
//! - `server`: one under such a fleet: memory, reports with their commits, the API;
//! - `sessions`: one with 2,000 MQTT sessions: messages a wave, and how soon all have reported;
//! - `mqtt`: such a session.

mod centre;
mod core;
mod mqtt;
mod nodes;
#[allow(dead_code, reason = "other benchmarks use the rest of it")]
#[path = "../load/process.rs"]
mod process;
#[allow(dead_code, reason = "other benchmarks use the rest of it")]
#[path = "../load/report.rs"]
mod report;
mod server;
mod sessions;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use report::{Goal, number, table};

#[derive(Debug, Parser)]
struct Args {
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Up to 1,000 nodes and 100 sessions.
    #[arg(long)]
    quick: bool,
    /// The demo's executable, which plays the coordinator.
    #[arg(long, env = "LAMPPOST_BENCH_DEMO")]
    demo: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Core,
    Server,
    Sessions,
}

/// How much is measured.
struct Effort {
    fleets: &'static [usize],
    sessions: usize,
}

const FULL: Effort = Effort {
    fleets: &[1_000, 10_000, 100_000],
    sessions: 2_000,
};
const QUICK: Effort = Effort {
    fleets: &[100, 1_000],
    sessions: 100,
};

/// What a decision may take with 100,000 nodes.
const DECISION_MS_MAX: f64 = 100.0;
/// What the coordinator may take of a node.
const NODE_BYTES_MAX: f64 = 2_000.0;
/// Until when 2,000 nodes have reported a new version.
const REPORTED_S_MAX: f64 = 10.0;
/// How much more ten times the nodes may take: beyond 10 is what caches cost that hold one fleet and not the other.
const GROWTH_MAX: f64 = 15.0;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let effort = if args.quick { QUICK } else { FULL };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut goals = Vec::new();
    if wanted(Part::Core) {
        goals.extend(in_core(effort.fleets)?);
    }
    if wanted(Part::Server) {
        goals.extend(runtime.block_on(in_server(&args.demo, effort.fleets))?);
    }
    if wanted(Part::Sessions) {
        let found = sessions::measure(&args.demo, effort.sessions);
        goals.extend(of_sessions(&runtime.block_on(found)?));
    }
    report::goals(&goals);
    Ok(())
}

fn in_core(fleets: &[usize]) -> anyhow::Result<Vec<Goal>> {
    let mut all = Vec::new();
    for nodes in fleets {
        all.push(core::measure(*nodes)?);
    }
    let row = |found: &core::Found| {
        vec![
            number(found.nodes as f64),
            number(found.heap),
            number(found.heap_rollout),
            number(found.resident),
            micros(found.report),
            millis(found.decision),
            millis(found.plan),
        ]
    };
    table(
        "The core alone",
        &[
            "nodes",
            "heap, B a node",
            "in a rollout",
            "resident, in a rollout",
            "a report, us",
            "a decision, ms",
            "a plan, ms",
        ],
        &all.iter().map(row).collect::<Vec<_>>(),
    );
    let mut goals = Vec::new();
    if let [.., before, last] = &all[..] {
        let ratio = last.decision.as_secs_f64() / before.decision.as_secs_f64();
        goals.push(growth("a decision", last.nodes / before.nodes, ratio));
    }
    if let Some(last) = all.last() {
        goals.push(at_most(
            format!("a decision, {} nodes", number(last.nodes as f64)),
            last.decision.as_secs_f64() * 1e3,
            DECISION_MS_MAX,
            "ms",
        ));
        goals.push(at_most(
            "resident memory of the core, in a rollout, a node".to_owned(),
            last.resident,
            NODE_BYTES_MAX,
            "B",
        ));
    }
    Ok(goals)
}

async fn in_server(demo: &Path, fleets: &[usize]) -> anyhow::Result<Vec<Goal>> {
    let mut all = Vec::new();
    for nodes in fleets {
        all.push(server::measure(demo, *nodes).await?);
    }
    let row = |found: &server::Found| {
        vec![
            number(found.nodes as f64),
            number(found.memory),
            number(found.memory_rollout),
            micros(found.report),
            millis(found.restart),
        ]
    };
    table(
        "The coordinator",
        &[
            "nodes",
            "memory, B a node",
            "in a rollout",
            "a report, broker to disk, us",
            "a restart, ms",
        ],
        &all.iter().map(row).collect::<Vec<_>>(),
    );
    let answers = all.iter().flat_map(|found| {
        let row = move |answer: &server::Answer| {
            vec![
                answer.request.to_owned(),
                number(found.nodes as f64),
                millis(answer.time),
                number(answer.bytes as f64),
            ]
        };
        found.answers.iter().map(row)
    });
    let mut answers: Vec<_> = answers.collect();
    answers.sort_by(|one, other| one[0].cmp(&other[0]));
    table("Its API", &["request", "nodes", "ms", "bytes"], &answers);
    let mut goals = Vec::new();
    if let [.., before, last] = &all[..] {
        let ratio = last.report.as_secs_f64() / before.report.as_secs_f64();
        let times = last.nodes / before.nodes;
        goals.push(growth("all reports", times, ratio * times as f64));
    }
    goals.extend(all.last().map(|last| {
        at_most(
            "memory of the coordinator, a node".to_owned(),
            last.memory,
            NODE_BYTES_MAX,
            "B",
        )
    }));
    Ok(goals)
}

fn of_sessions(found: &sessions::Found) -> Vec<Goal> {
    let sessions = number(found.sessions as f64);
    table(
        &format!(
            "{sessions} sessions, bundles of {} B",
            number(found.bundle_bytes as f64)
        ),
        &["", "all at once", "5 %, 25 %, 100 %, promoted"],
        &[
            vec![
                "until all have reported, s".to_owned(),
                number(found.reported.as_secs_f64()),
                number(found.promoted.as_secs_f64()),
            ],
            vec!["steps".to_owned(), "1".to_owned(), found.steps.to_string()],
            vec![
                "messages published".to_owned(),
                found.published.to_string(),
                found.published_in_waves.to_string(),
            ],
        ],
    );
    println!(
        "\nCoordinator with its broker: {} B a session",
        number(found.memory)
    );
    let published = found.published + found.published_in_waves;
    vec![
        at_most(
            format!("until {sessions} sessions have reported"),
            found.reported.as_secs_f64(),
            REPORTED_S_MAX,
            "s",
        ),
        at_most(
            "messages a step of a rollout".to_owned(),
            published as f64 / (1 + found.steps) as f64,
            1.0,
            "",
        ),
    ]
}

fn growth(what: &str, times: usize, measured: f64) -> Goal {
    let what = format!("{what}, with {times} times the nodes");
    at_most(what, measured, GROWTH_MAX, "x")
}

const fn at_most(what: String, measured: f64, limit: f64, unit: &'static str) -> Goal {
    Goal {
        what,
        measured,
        limit,
        at_least: false,
        unit,
    }
}

fn micros(time: Duration) -> String {
    number(report::micros(time))
}

fn millis(time: Duration) -> String {
    number(report::micros(time) / 1e3)
}
