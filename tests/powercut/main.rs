//! Power cuts, simulated: what the outbox and the coordinator's state had acknowledged is there afterwards, and both open.
//!
//! - `powercut model` needs no rights: it cuts a writer's system calls off (`trace`, `disk`, `model`);
//! - `powercut images` needs root and loop devices: it copies the device below a writer's file system while it writes, and
//!   opens the copy (`images`). `just powercut` runs both;
//! - `powercut write` is the writer that they start (`subject`).

mod disk;
mod images;
mod model;
mod outcome;
mod subject;
mod trace;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use subject::Subject;

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cut a writer's system calls off at many points.
    Model {
        /// The same seed gives the same steps of the writer and the same choice of cuts.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Images of each kind.
        #[arg(long, default_value_t = 150)]
        cuts: u64,
        /// Steps of the writer.
        #[arg(long, default_value_t = 120)]
        steps: u64,
        /// Only this store.
        #[arg(long)]
        subject: Option<Subject>,
    },
    /// Copy the device below a writer's file system while it writes; needs root.
    Images {
        /// Images of each store.
        #[arg(default_value_t = 60)]
        images: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Write until killed, and say what is promised.
    Write {
        subject: Subject,
        dir: PathBuf,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Stop after so many steps.
        #[arg(long)]
        steps: Option<u64>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Model {
            seed,
            cuts,
            steps,
            subject,
        } => model::run(seed, cuts, steps, subject),
        Command::Images { images, seed } => images::run(images, seed),
        Command::Write {
            subject,
            dir,
            seed,
            steps,
        } => subject.write(&dir, seed, steps),
    }
}
