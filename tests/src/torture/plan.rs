//! What is killed, and when: drawn from a seed.

use std::time::Duration;

use lamppost_models::ledger::Durability;

use crate::rng::Rng;

/// Moments of a kill lie between 1 ms and this, as a power of two: within the first packets of a connection, within a
/// write of the outbox, and after several reports.
const WAIT_LOG2_MAX: usize = 11;
/// How long a process stays away, as a power of two.
const AWAY_LOG2_MAX: usize = 9;
/// One in so many stays away long enough for an outbox to fill.
const LONG_AWAY_ONE_IN: u64 = 12;
/// A restart takes some 300 ms: kills before this hit recovery.
const EARLY_MS_MAX: u64 = 350;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The agent, with the node's own broker in it.
    Agent,
    /// The coordinator, and the broker of the fleet unless that stands by itself.
    Coordinator,
    /// The broker of the fleet, where it stands by itself.
    Broker,
}

impl Role {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::Broker => "broker",
        }
    }
}

/// A fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Nothing may be lost; the coordinator has the broker in it.
    Always,
    /// What is in memory may be lost, and is told; the coordinator has the broker in it.
    Outage,
    /// Nothing may be lost; the broker stands by itself.
    AlwaysExternal,
    /// What is in memory may be lost, and is told; the broker stands by itself.
    OutageExternal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Always,
        Self::Outage,
        Self::AlwaysExternal,
        Self::OutageExternal,
    ];

    /// What the node promises.
    pub const fn durability(self) -> Durability {
        match self {
            Self::Always | Self::AlwaysExternal => Durability::Always,
            Self::Outage | Self::OutageExternal => Durability::Outage,
        }
    }

    /// Whether the broker stands by itself.
    pub const fn is_external(self) -> bool {
        matches!(self, Self::AlwaysExternal | Self::OutageExternal)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always, embedded broker",
            Self::Outage => "outage, embedded broker",
            Self::AlwaysExternal => "always, broker by itself",
            Self::OutageExternal => "outage, broker by itself",
        }
    }

    fn victim(self, rng: &mut Rng) -> Role {
        match (rng.below(100), self.is_external()) {
            (0..45, _) => Role::Agent,
            (45..70, true) => Role::Broker,
            _ => Role::Coordinator,
        }
    }
}

/// One kill, and how the process comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// What is killed.
    pub victim: Role,
    /// How long all goes well before.
    pub wait: Duration,
    /// How long it stays away.
    pub away: Duration,
    /// When it is killed again while it starts, if it is.
    pub early: Option<Duration>,
    /// Whether the link between node and centre is bad from then on, and by which seed.
    pub bad_link: Option<u64>,
}

impl Cycle {
    /// The next one of a fleet.
    pub fn draw(rng: &mut Rng, kind: Kind) -> Self {
        let mut spread = |log2_max| {
            let log2 = rng.index(0, log2_max);
            Duration::from_millis((1 << log2) + rng.below(1 << log2))
        };
        let (wait, mut away) = (spread(WAIT_LOG2_MAX), spread(AWAY_LOG2_MAX));
        if rng.below(LONG_AWAY_ONE_IN) == 0 {
            away += Duration::from_millis(2_000 + rng.below(4_000));
        }
        let early = rng
            .chance(25)
            .then(|| Duration::from_millis(1 + rng.below(EARLY_MS_MAX)));
        Self {
            victim: kind.victim(rng),
            wait,
            away,
            early,
            bad_link: rng.chance(20).then(|| rng.draw()),
        }
    }

    /// How often something is killed.
    pub const fn kills(&self) -> u64 {
        1 + self.early.is_some() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_cycles_and_every_victim() {
        let drawn = |seed, kind| -> Vec<Cycle> {
            let mut rng = Rng::new(seed);
            (0..60).map(|_| Cycle::draw(&mut rng, kind)).collect()
        };
        let cycles = drawn(3, Kind::AlwaysExternal);
        assert_eq!(cycles, drawn(3, Kind::AlwaysExternal));
        for role in [Role::Agent, Role::Coordinator, Role::Broker] {
            let kills = cycles.iter().filter(|cycle| cycle.victim == role).count();
            assert!(kills >= 8, "{role:?}: {kills}");
        }
        let embedded = drawn(3, Kind::Always);
        assert!(embedded.iter().all(|cycle| cycle.victim != Role::Broker));
        assert!(embedded.iter().any(|cycle| cycle.kills() == 2));
    }
}
