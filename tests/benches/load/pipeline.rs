//! Throughput and latency from a reading sent to its prediction received.

use std::time::Duration;

use anyhow::Context as _;

use crate::Effort;
use crate::contestant::{Contestant, Tools};
use crate::process;
use crate::report::{self, Goal, median, micros, number, spread};
use crate::session::{Latency, Session, Throughput};

/// Readings on their way in a throughput run: each contestant runs with the number that suits it best.
const OUTSTANDING: [u64; 4] = [64, 256, 1024, 4096];
/// How long each of these is tried.
const TRIAL: Duration = Duration::from_secs(1);
/// How long a contestant may take to its first prediction.
const PATIENCE: Duration = Duration::from_secs(30);

/// A contestant and what was measured of it.
struct Entry {
    contestant: Contestant,
    session: Session,
    outstanding: u64,
    turns: Vec<Turn>,
}

/// One turn of a contestant.
struct Turn {
    throughput: Throughput,
    /// Processor time of a reading in the contestant's programs.
    cpu_us: f64,
    /// The same in this program, which shares the processor with them.
    generator_us: f64,
    latency: Latency,
}

/// Measures the pipeline against the peer, against the broker without inference, or both.
pub(crate) fn measure(
    tools: &Tools,
    effort: Effort,
    peers: bool,
    limits: bool,
) -> anyhow::Result<Vec<Goal>> {
    let mut contestants = vec![Contestant::agent(tools)?];
    if peers {
        contestants.push(Contestant::peer(tools, effort.qos, false)?);
        contestants.push(Contestant::peer(tools, effort.qos, true)?);
    }
    if limits {
        contestants.push(Contestant::broker(tools)?);
        contestants.push(Contestant::mosquitto(tools)?);
    }
    let mut entries = Vec::new();
    for contestant in contestants {
        entries.push(Entry::prepare(contestant, effort)?);
    }
    for round in 1..=effort.rounds {
        for entry in &mut entries {
            eprintln!(
                "round {round} of {}: {}",
                effort.rounds, entry.contestant.name
            );
            entry
                .measure(effort)
                .with_context(|| format!("measure {}", entry.contestant.name))?;
        }
    }
    let rows: Vec<_> = entries.iter().map(Entry::row).collect();
    let title = format!(
        "Pipeline, QoS {}, latency at {} readings/s",
        effort.qos.level(),
        number(f64::from(effort.rate))
    );
    report::table(
        &title,
        &[
            "",
            "readings/s",
            "CPU us a reading",
            "of the generator",
            "p50 us",
            "p99 us",
            "worst us",
            "lost",
        ],
        &rows,
    );
    Ok(goals(&entries, peers, limits))
}

fn goals(entries: &[Entry], peers: bool, limits: bool) -> Vec<Goal> {
    let mut goals = Vec::new();
    let (ours, others) = (&entries[0], &entries[1..]);
    if peers {
        for peer in &others[..2] {
            goals.push(Goal {
                what: format!("readings/s against the {}", peer.contestant.name),
                measured: ours.rate() / peer.rate(),
                limit: 10.0,
                at_least: true,
                unit: "x",
            });
            goals.push(Goal {
                what: format!("p99 latency against the {}", peer.contestant.name),
                measured: ours.p99() / peer.p99(),
                limit: 0.1,
                at_least: false,
                unit: "x",
            });
        }
    }
    if limits {
        let broker = &others[others.len() - 2];
        goals.push(Goal {
            what: format!("readings/s against {}", broker.contestant.name),
            measured: ours.rate() / broker.rate(),
            limit: 0.5,
            at_least: true,
            unit: "x",
        });
    }
    goals
}

impl Entry {
    /// Waits for the first prediction and finds how many readings on their way suit the contestant best.
    fn prepare(mut contestant: Contestant, effort: Effort) -> anyhow::Result<Self> {
        let name = contestant.name;
        let mut session = Session::open(&contestant.route, effort.qos)?;
        let primed = session.prime(PATIENCE).and_then(|()| session.settle());
        contestant.check()?;
        primed.with_context(|| format!("start {name}"))?;
        let (mut outstanding, mut best) = (OUTSTANDING[0], 0.0);
        for candidate in OUTSTANDING {
            let trial = session.throughput(candidate, TRIAL / 2, TRIAL, || Ok(()));
            let trial = trial
                .with_context(|| format!("try {name} with {candidate} readings on their way"))?;
            eprintln!(
                "{name}: {candidate} on their way, {} readings/s, {} lost",
                number(trial.rate),
                trial.faults
            );
            // One that drops readings is beyond its limits.
            if trial.faults == 0 && trial.rate > best {
                (outstanding, best) = (candidate, trial.rate);
            }
        }
        Ok(Self {
            contestant,
            session,
            outstanding,
            turns: Vec::new(),
        })
    }

    fn measure(&mut self, effort: Effort) -> anyhow::Result<()> {
        let Self {
            contestant,
            session,
            outstanding,
            turns,
        } = self;
        let mut used = Vec::new();
        let throughput =
            session.throughput(*outstanding, effort.warm_up, effort.measured, || {
                used.push((contestant.cpu()?, process::cpu(std::process::id())?));
                Ok(())
            })?;
        let readings = throughput.rate * effort.measured.as_secs_f64();
        let latency = session.latency(effort.rate, effort.warm_up, effort.measured)?;
        turns.push(Turn {
            throughput,
            cpu_us: micros(used[1].0.saturating_sub(used[0].0)) / readings,
            generator_us: micros(used[1].1.saturating_sub(used[0].1)) / readings,
            latency,
        });
        contestant.check()
    }

    fn values(&self, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(of).collect()
    }

    fn rate(&self) -> f64 {
        median(&self.values(|turn| turn.throughput.rate))
    }

    fn p99(&self) -> f64 {
        median(&self.values(|turn| micros(turn.latency.p99)))
    }

    fn row(&self) -> Vec<String> {
        let worst = self
            .values(|turn| micros(turn.latency.max))
            .into_iter()
            .fold(0.0, f64::max);
        let faults: u64 = self
            .turns
            .iter()
            .map(|turn| turn.throughput.faults + turn.latency.faults)
            .sum();
        vec![
            format!(
                "{} ({} on their way)",
                self.contestant.name, self.outstanding
            ),
            spread(&self.values(|turn| turn.throughput.rate)),
            number(median(&self.values(|turn| turn.cpu_us))),
            number(median(&self.values(|turn| turn.generator_us))),
            spread(&self.values(|turn| micros(turn.latency.p50))),
            spread(&self.values(|turn| micros(turn.latency.p99))),
            number(worst),
            faults.to_string(),
        ]
    }
}
