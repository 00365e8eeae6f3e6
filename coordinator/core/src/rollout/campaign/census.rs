//! Where the nodes of a campaign are.

use serde::{Deserialize, Serialize};

/// The nodes of a campaign, counted. Unreachable ones are those of which nothing final is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Nodes that take the group's releases and use the model.
    pub group: u64,
    /// Those that are held back to compare with.
    pub control: u64,
    /// Those that are exposed, by this wave and those before.
    pub nodes: u64,
    /// Exposed, and done with the trial: the candidate is active for good.
    pub passed: u64,
    /// Exposed, and done with the trial: refused, or gone back.
    pub failed: u64,
    /// Exposed, and the candidate is active with the way back open.
    pub live: u64,
    /// Exposed, and fetching, checking, shadowing.
    pub trying: u64,
    /// Exposed, and said nothing of it yet, or waits for its hours.
    pub waiting: u64,
    /// Exposed, and not to be reached.
    pub unreachable: u64,
    /// Crashes of agents in probation, of each node [`super::census::CRASHES_PER_NODE_MAX`] at most.
    pub crashes: u64,
}

/// Crashes of one node that count: a node that lies, or has a fault of its own, has no more than this to say.
pub const CRASHES_PER_NODE_MAX: u64 = 3;
