//! Memory of the agent, size of its binary, and how soon it predicts.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::Effort;
use crate::contestant::{Contestant, Tools};
use crate::report::{self, Goal, median, megabytes, number, spread};
use crate::session::Session;

/// After its first prediction the agent is left alone for so long before it counts as idle.
const REST: Duration = Duration::from_secs(3);
/// How often memory is looked at under load.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Readings on their way under full load: few enough that no contestant drops any.
const OUTSTANDING: u64 = 256;
/// How long a contestant may take to its first prediction.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was measured of a contestant, a value a round.
#[derive(Default)]
struct Figures {
    start_ms: Vec<f64>,
    idle_mb: Vec<f64>,
    idle_anonymous_mb: Vec<f64>,
    moderate_mb: Vec<f64>,
    full_mb: Vec<f64>,
}

/// Measures the agent, and the peer where it is wanted.
pub(crate) fn measure(tools: &Tools, effort: Effort, peers: bool) -> anyhow::Result<Vec<Goal>> {
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for round in 1..=effort.rounds {
        eprintln!("memory, round {round} of {}", effort.rounds);
        ours.add(|| Contestant::agent(tools), effort)?;
        if peers {
            theirs.add(|| Contestant::peer(tools, effort.qos, false), effort)?;
        }
    }
    let moderate = format!("at {} readings/s MB", number(f64::from(effort.rate)));
    let mut rows = vec![ours.row("lamppost-agent with its broker")];
    if peers {
        rows.push(theirs.row("Python peer and mosquitto"));
    }
    let header = [
        "",
        "start to first prediction ms",
        "idle MB",
        "of it heap and stacks",
        &moderate,
        "full load, most, MB",
    ];
    report::table("Memory (proportional set size) and start", &header, &rows);
    let binary = fs::metadata(&tools.agent)
        .context("size of the agent's binary")?
        .len();
    println!(
        "\nBinary of lamppost-agent, stripped: {} MB",
        number(megabytes(binary))
    );
    Ok(vec![Goal {
        what: "memory of the agent with broker and model, idle".to_owned(),
        measured: median(&ours.idle_mb),
        limit: 15.0,
        at_least: false,
        unit: "MB",
    }])
}

impl Figures {
    fn add(
        &mut self,
        start: impl FnOnce() -> anyhow::Result<Contestant>,
        effort: Effort,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut contestant = start()?;
        let mut session = Session::open(&contestant.route, effort.qos)?;
        session
            .prime(PATIENCE)
            .with_context(|| format!("start {}", contestant.name))?;
        self.start_ms.push(begin.elapsed().as_secs_f64() * 1000.0);
        session.settle()?;
        thread::sleep(REST);
        let idle = contestant.memory()?;
        self.idle_mb.push(megabytes(idle.total));
        self.idle_anonymous_mb.push(megabytes(idle.anonymous));

        session.latency(effort.rate, effort.warm_up, effort.measured)?;
        self.moderate_mb.push(megabytes(contestant.memory()?.total));

        let (mut most, end) = (0, Instant::now() + effort.measured);
        while Instant::now() < end {
            session.throughput(OUTSTANDING, Duration::ZERO, LOOK_EVERY, || {
                most = contestant.memory()?.total.max(most);
                Ok(())
            })?;
        }
        self.full_mb.push(megabytes(most));
        contestant.check()
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            spread(&self.start_ms),
            spread(&self.idle_mb),
            spread(&self.idle_anonymous_mb),
            spread(&self.moderate_mb),
            spread(&self.full_mb),
        ]
    }
}
