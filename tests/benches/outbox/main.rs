//! The outbox against sqlite, a plain log and a Python peer, on the same disk in the same run: `just bench-outbox`.
//!
//! - `queue`: the contestants: what is appended is on the disk, what is drained is gone;
//! - `one`: one contestant in a process of its own, so that memory and bytes written are its own;
//! - `cycles`: what twenty outages leave on the disk;
//! - `catchup`: an agent with a backlog, and what its live predictions notice of it.

mod catchup;
mod cycles;
mod one;
mod queue;
#[path = "../load/reading.rs"]
mod reading;
#[path = "../load/report.rs"]
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use one::{Figures, Load};
use queue::Kind;
use report::{Goal, median, number, spread};

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// One round, fewer records.
    #[arg(long)]
    quick: bool,
    /// Where the contestants write: a directory on the disk that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The demo's executable, which plays the coordinator.
    #[arg(long, env = "LAMPPOST_BENCH_DEMO")]
    demo: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Stores,
    Cycles,
    CatchUp,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One contestant; prints its figures.
    One {
        kind: Kind,
        #[command(flatten)]
        load: Load,
    },
}

/// How much is measured.
struct Effort {
    rounds: usize,
    records: u64,
    cycles: u64,
    backlog: u64,
}

const FULL: Effort = Effort {
    rounds: 3,
    records: 200_000,
    cycles: 20,
    // Fifty minutes of an outage at 100 records a second: replaying it takes long enough for a p99 of live predictions.
    backlog: 300_000,
};
const QUICK: Effort = Effort {
    rounds: 1,
    records: 40_000,
    cycles: 5,
    backlog: 60_000,
};

/// Records of one commit: what the agent collects before it stores.
const COMMIT: u64 = 128;
/// The same in larger commits, as a quick sensor fills them.
const LARGE_COMMIT: u64 = 1_024;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let scratch = tempfile::Builder::new()
        .prefix("bench-outbox-")
        .tempdir_in(&args.dir)
        .with_context(|| format!("write in {}", args.dir.display()))?;
    if let Some(Command::One { kind, load }) = args.command {
        let figures = one::measure(kind, &load, scratch.path())?;
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    reading::self_check()?;
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let demo = args.demo.filter(|_| wanted(Part::CatchUp));
    ensure!(
        demo.is_some() || !wanted(Part::CatchUp),
        "name the demo's executable with --demo or LAMPPOST_BENCH_DEMO"
    );
    let effort = if args.quick { QUICK } else { FULL };
    let mut goals = Vec::new();
    if wanted(Part::Stores) {
        goals.extend(stores(&args.dir, effort.rounds, effort.records)?);
    }
    if wanted(Part::Cycles) {
        goals.push(cycles::measure(scratch.path(), effort.cycles)?);
    }
    if let Some(demo) = demo {
        goals.extend(catchup::measure(&demo, effort.backlog)?);
    }
    report::goals(&goals);
    Ok(())
}

/// All contestants, in turns.
fn stores(dir: &std::path::Path, rounds: usize, records: u64) -> anyhow::Result<Vec<Goal>> {
    // A row a commit is so much slower that fewer rows say as much.
    let single = records / 50;
    let contestants = [
        (Kind::Outbox, COMMIT, records),
        (Kind::Outbox, LARGE_COMMIT, records),
        (Kind::Log, COMMIT, records),
        (Kind::Log, LARGE_COMMIT, records),
        (Kind::SqliteFull, COMMIT, records),
        (Kind::SqliteNormal, COMMIT, records),
        (Kind::Python, COMMIT, records),
        (Kind::Outbox, 1, single),
        (Kind::Log, 1, single),
        (Kind::SqliteFull, 1, single),
        (Kind::SqliteNormal, 1, single),
    ];
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); contestants.len()];
    for round in 1..=rounds {
        eprintln!("stores, round {round} of {rounds}");
        for (at, (kind, commit, records)) in contestants.into_iter().enumerate() {
            figures[at].push(one::in_a_process(dir, kind, Load { commit, records })?);
        }
    }
    let rows: Vec<Vec<String>> = contestants
        .iter()
        .zip(&figures)
        .map(|((kind, commit, _), figures)| row(*kind, *commit, figures))
        .collect();
    let header = [
        "",
        "records a commit",
        "durable append, records/s",
        "MB/s of JSON",
        "drain, records/s",
        "on the disk, B a record",
        "written, B a record",
        "written / stored",
        "reopen ms",
        "memory MB",
    ];
    report::table(
        &format!(
            "Stores, {records} predictions of about {} B",
            one::record(0).len()
        ),
        &header,
        &rows,
    );
    let rate = |kind: Kind, commit: u64| {
        let found = contestants
            .iter()
            .zip(&figures)
            .find(|((one, size, _), _)| *one == kind && *size == commit);
        let rates = found.map(|(_, figures)| figures.iter().map(|one| one.append_per_s).collect());
        median(&rates.unwrap_or_else(Vec::new))
    };
    Ok(store_goals(rate))
}

fn store_goals(rate: impl Fn(Kind, u64) -> f64) -> Vec<Goal> {
    let goal = |what: String, measured, limit| Goal {
        what,
        measured,
        limit,
        at_least: true,
        unit: "x",
    };
    let mut goals: Vec<Goal> = [COMMIT, LARGE_COMMIT, 1]
        .into_iter()
        .map(|commit| {
            let what = format!("durable append against the plain log, records a commit: {commit}");
            let ratio = rate(Kind::Outbox, commit) / rate(Kind::Log, commit);
            goal(what, ratio, 0.5)
        })
        .collect();
    goals.push(goal(
        format!("durable append, {COMMIT} records a commit, against sqlite FULL, one row a commit"),
        rate(Kind::Outbox, COMMIT) / rate(Kind::SqliteFull, 1),
        5.0,
    ));
    goals
}

fn row(kind: Kind, commit: u64, figures: &[Figures]) -> Vec<String> {
    let all = |value: fn(&Figures) -> f64| {
        let values: Vec<f64> = figures.iter().map(value).collect();
        spread(&values)
    };
    vec![
        kind.name().to_owned(),
        number(commit as f64),
        all(|one| one.append_per_s),
        all(|one| one.append_mb_per_s),
        all(|one| one.drain_per_s),
        all(|one| one.disk_bytes_a_record),
        all(|one| one.written_bytes_a_record),
        all(|one| one.written_bytes_a_record / one.disk_bytes_a_record),
        all(|one| one.reopen_ms),
        all(|one| one.memory_mb),
    ]
}
