//! Many seeds of the fleet simulation; `just sim`.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use lamppost_sim::Outcome;

/// Run the simulated fleet through many seeds; a failure names its seed
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds
    #[arg(default_value = "10000")]
    seeds: NonZeroU64,
    /// The first of them; a failing seed again is `just sim 1 SEED`
    #[arg(default_value_t = 1)]
    first: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let end = args.first.saturating_add(args.seeds.get());
    let next = AtomicU64::new(args.first);
    let results = Mutex::new((Outcome::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            // The panic's message has been printed by then.
            let outcome = std::panic::catch_unwind(|| lamppost_sim::run(seed));
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(outcome) => results.0.add(&outcome),
                Err(_) => results.1.push(seed),
            }
        }
    };
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (outcome, mut failed) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} seeds from {}\n{outcome}", args.seeds, args.first);
    failed.sort_unstable();
    anyhow::ensure!(
        failed.is_empty(),
        "seeds that failed, each with its trace above: {failed:?}"
    );
    Ok(())
}
