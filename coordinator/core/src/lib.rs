//! The coordinator's pure core: no tokio, no clock, no file system, no random source.
//!
//! Each part takes an input and, where time counts, `now`; the shell around it persists what changed and only then
//! publishes:
//!
//! - [`interval`]: sets of numbers as ranges, the memory of what arrived;
//! - [`ledger`]: what became of each record of a node: stored once however often it is sent, told as lost, held, or missing;
//! - [`shelf`]: how many predictions of a node are kept, and which go when there are too many;
//! - [`samples`]: which samples are kept, and where those are that a question is about;
//! - [`inventory`]: what each node last said, and whether it can still be believed;
//! - [`rollout`]: which version of a model a group runs, with its history; and how a candidate spreads, wave by wave:
//!   [`rollout::policy`] says how, [`rollout::plan`] what would happen, [`rollout::campaign`] what happens next and why,
//!   [`rollout::evidence`] and [`rollout::betting`] what labels show, [`rollout::audit`] who did what;
//! - [`learning`]: when it is worth training a model again, and when to stop;
//! - [`progress`]: how far each node of a group has come with a rollout;
//! - [`whatif`]: what a rollout would come to, played on a simulated fleet.

pub mod interval;
pub mod inventory;
pub mod learning;
pub mod ledger;
pub mod progress;
pub mod rollout;
pub mod samples;
pub mod shelf;
pub mod whatif;

pub use interval::IntervalSet;
pub use inventory::{Inventory, NodeEntry, Presence};
pub use ledger::{Account, Mark, NodeLedger, Seen, Tally};
pub use progress::{NodeProgress, Summary};
pub use rollout::{Book, Rollout};
pub use shelf::Shelf;
