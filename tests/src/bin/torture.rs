//! Processes killed at random points: `just torture`.

use std::process::ExitCode;

use clap::Parser;
use lamppost_tests::demo::roles;
use lamppost_tests::torture::Torture;
use lamppost_tests::torture::plan::Kind;
use lamppost_tests::torture::week::Week;

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
    /// Instead, an outage with so many records; without a number those of a week at 100 a second.
    #[arg(long, value_name = "RECORDS", num_args = 0..=1, default_missing_value = WEEK)]
    week: Option<u64>,
    /// Most bytes of the outbox then, in MiB.
    #[arg(long, default_value_t = 244, requires = "week")]
    cap_mib: u64,
    /// Characters that do not compress, in each record.
    #[arg(long, default_value_t = 0, requires = "week")]
    pad: usize,
}

/// 100 a second for 7 days.
const WEEK: &str = "60480000";

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
    let exe = std::env::current_exe()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if let Some(records) = args.week {
        let week = Week {
            exe,
            records,
            cap_bytes: args.cap_mib << 20,
            pad: args.pad,
        };
        return runtime.block_on(week.run());
    }
    let torture = Torture {
        exe,
        kills: args.kills,
        seed: args.seed,
        kinds,
    };
    runtime.block_on(torture.run())
}
