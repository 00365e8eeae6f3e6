//! `lamppost loop`, as it is typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Loop {
    /// Watch drift, errors and samples; train, compare, compress, push and roll out; take the edge's verdict, and go on
    ///
    /// It runs beside the coordinator, on any machine, and asks its API alone. Killed at any point it goes on from there: a
    /// training has one version and one rollout. It ends after as many failures in a row as the policy allows.
    Run {
        /// When to train and how, as TOML: configs/policies/loop.toml has every key
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        #[command(flatten)]
        place: Place,
        /// Look once: if it is worth it, train, and wait for the edge's verdict
        #[arg(long)]
        once: bool,
    },
    /// Show what the loop remembers: trainings with their gain and cost, failures, and what is under way
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// Have a loop that ended after failures go on when it is run again
    Resume {
        #[command(flatten)]
        place: Place,
    },
}

/// Where a loop remembers.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Place {
    /// The folder with what this loop remembers, one a model and group; made when it is missing
    #[arg(long, value_name = "DIR", default_value = "lamppost-loop")]
    pub(in crate::cli) state: PathBuf,
}
