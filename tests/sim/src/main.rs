//! Many seeds of the fleet simulation; `just sim`.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;

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
    let all = Mutex::new(lamppost_sim::Outcome::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let outcome = lamppost_sim::run(seed);
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(&outcome);
        }
    };
    let threads = std::thread::available_parallelism()?.get();
    let failed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().is_err())
            .filter(|failed| *failed)
            .count()
    });
    println!(
        "{} seeds from {}\n{}",
        args.seeds,
        args.first,
        all.lock().unwrap_or_else(PoisonError::into_inner)
    );
    anyhow::ensure!(failed == 0, "a seed failed: its trace stands above");
    Ok(())
}
