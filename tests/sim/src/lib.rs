//! A whole fleet under one seeded clock: the agents' slot machines and the coordinator's core, with everything between them that
//! can go wrong.
//!
//! Messages are lost, doubled and overtake each other; nodes and the coordinator crash before or after any of their effects and
//! start again from what is on their disks; disks are full, clocks jump, links are down for weeks, streams fall silent; somebody
//! replays old releases, and operators interfere. After each event the invariants are checked (`check`); at the end all is
//! healed, and the fleet must settle. The same seed gives the same run.
//!
//! - `version`: the bundles, good and bad in every way that a trial knows;
//! - `node`: a node: its disk, its slot machine, and a shell that does what the machine wishes;
//! - `centre`: the coordinator: its store, its state, and the order of persisting, applying and publishing;
//! - `fleet`: the clock, the network and the faults;
//! - `operator`: what people do, and their policies.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm,
    reason = "a simulation that broke a promise has nothing else to do than to say so"
)]

mod centre;
mod check;
mod fleet;
mod node;
mod operator;
pub mod rng;
mod version;

use std::collections::BTreeMap;
use std::fmt;

pub use fleet::Fleet;
pub use version::Nature;

/// What became of the campaigns of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Events that happened.
    pub events: u64,
    /// Crashes of agents.
    pub node_crashes: u64,
    /// Crashes of the coordinator.
    pub centre_crashes: u64,
    /// How campaigns ended, by the nature of their candidate and the state they are in.
    pub campaigns: BTreeMap<(Nature, &'static str), u64>,
    /// Candidates that went live on a node, by nature.
    pub promotions: BTreeMap<Nature, u64>,
    /// Candidates that a node refused or went back from, by nature.
    pub refusals: BTreeMap<Nature, u64>,
}

impl Outcome {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.node_crashes += other.node_crashes;
        self.centre_crashes += other.centre_crashes;
        for (key, count) in &other.campaigns {
            *self.campaigns.entry(*key).or_default() += count;
        }
        for (all, more) in [
            (&mut self.promotions, &other.promotions),
            (&mut self.refusals, &other.refusals),
        ] {
            for (nature, count) in more {
                *all.entry(*nature).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events, {} crashes of agents, {} of the coordinator",
            self.events, self.node_crashes, self.centre_crashes
        )?;
        for ((nature, state), count) in &self.campaigns {
            writeln!(f, "{nature:?}: {count} {state}")?;
        }
        writeln!(f, "went live on nodes: {:?}", self.promotions)?;
        write!(f, "refused by nodes: {:?}", self.refusals)
    }
}

/// Runs one seed to its end.
///
/// # Panics
/// When an invariant is broken: the message has the seed, the time and what happened last.
pub fn run(seed: u64) -> Outcome {
    let mut fleet = Fleet::new(seed);
    fleet.run();
    fleet.outcome()
}
