//! Processes killed at random points: `just torture`.

use std::process::ExitCode;

use clap::Parser;
use lamppost_tests::demo::roles;
use lamppost_tests::torture::Torture;
use lamppost_tests::torture::plan::Kind;

/// Kill agent, coordinator and broker at random points while a sensor sends, and hold them to what they promise.
#[derive(Debug, Parser)]
#[command(name = "torture")]
struct Args {
    /// Kills, over all fleets.
    #[arg(default_value_t = 200)]
    kills: u64,
    /// The same seed draws the same kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this fleet; may be repeated.
    #[arg(long)]
    kind: Vec<Kind>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if roles::is_one(&args) {
        return roles::main(args);
    }
    let args = Args::parse_from(args);
    match torture(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn torture(args: Args) -> anyhow::Result<()> {
    let kinds = if args.kind.is_empty() {
        Kind::ALL.to_vec()
    } else {
        args.kind
    };
    let torture = Torture {
        exe: std::env::current_exe()?,
        kills: args.kills,
        seed: args.seed,
        kinds,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(torture.run())
}
