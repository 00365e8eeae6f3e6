//! The command line: arguments, configuration, logging, [`run`](crate::run()), exit code.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong arguments or configuration.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{Config, Ready};

/// Wrong arguments or configuration.
const EXIT_USAGE: u8 = 2;
/// What the MQTT client says of its connection, the uplink says too.
const LOG_DEFAULT: &str = "info,rumqttc=warn";
/// Threads for blocking calls: name resolution, files, a bundle under check. Each is idle most of the time.
const BLOCKING_THREADS_MAX: usize = 4;
/// What tokio's own threads need of stack; the engine and the broker have threads of their own.
const WORKER_STACK_BYTES: usize = 1024 * 1024;

/// The Lamppost agent: streams in, predictions out, models kept good.
#[derive(Debug, Parser)]
#[command(
    name = "lamppost-agent",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration; configs/agent.toml shows every key.
    #[arg(long, value_name = "FILE", env = "LAMPPOST_CONFIG", required = true)]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Write a JSON object with the local broker's address to this file once it serves.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// What to log: a level, or levels by module.
    #[arg(
        long,
        value_name = "FILTER",
        env = "LAMPPOST_LOG",
        default_value = LOG_DEFAULT
    )]
    log: String,
    /// How to log.
    #[arg(long, value_name = "FORM", default_value = "human")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open and check a bundle in this process, under its memory limit; the agent runs this on itself.
    #[command(hide = true)]
    CheckBundle {
        /// The bundle.
        file: PathBuf,
    },
    /// Run a bundle on windows from standard input, in this process; the agent runs this on a candidate.
    #[command(hide = true)]
    ShadowBundle {
        /// The bundle.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Runs the program with `args`, the first of which is its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_within(args, &[])
}

/// Runs the program as a part of a larger one, which does the same as this one when it is started with `prefix`
/// before the arguments.
pub fn main_within(args: impl IntoIterator<Item = OsString>, prefix: &[OsString]) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" for the library, and go to standard output.
            let printed = error.print();
            return ExitCode::from(if error.use_stderr() || printed.is_err() {
                EXIT_USAGE
            } else {
                0
            });
        }
    };
    match arguments.command {
        Some(Command::CheckBundle { file }) => crate::slots::check_bundle_main(&file),
        Some(Command::ShadowBundle { file }) => crate::slots::shadow_bundle_main(&file),
        None => serve(&arguments, prefix),
    }
}

fn serve(arguments: &Arguments, prefix: &[OsString]) -> ExitCode {
    if let Err(error) = start_log(&arguments.log, arguments.log_format) {
        complain(&error);
        return ExitCode::from(EXIT_USAGE);
    }
    let config = match load(arguments, prefix) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if arguments.check {
        return say(&format!(
            "the configuration of node {} is good",
            config.path()
        ));
    }
    match run_to_the_end(config, arguments.ready_file.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn load(arguments: &Arguments, prefix: &[OsString]) -> anyhow::Result<Config> {
    let path = arguments
        .config
        .as_deref()
        .context("--config FILE is missing")?;
    let mut config = Config::load(path)?;
    config.self_prefix = prefix.to_vec();
    Ok(config)
}

fn run_to_the_end(config: Config, ready_file: Option<&Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers())
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(WORKER_STACK_BYTES)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("the asynchronous runtime does not start")?;
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (ready, served) = oneshot::channel();
        let announced = async {
            match served.await {
                Ok(ready) => announce(&ready, ready_file),
                // The agent did not come that far; its own error says why.
                Err(_) => Ok(()),
            }
        };
        let signals = cancel_on_signal(shutdown.clone())?;
        let (run, announced) = tokio::join!(crate::run(config, shutdown, ready), announced);
        signals.abort();
        run?;
        announced
    });
    // A call that hangs (name resolution, a disk) does not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        shutdown.cancel();
    }))
}

fn announce(ready: &Ready, ready_file: Option<&Path>) -> anyhow::Result<()> {
    let broker = ready.broker.map(|address| address.to_string());
    let shown = broker.as_deref().unwrap_or("none");
    say(&format!(
        "node {} serves MQTT on {shown}, boot {}",
        ready.path, ready.boot
    ));
    let Some(path) = ready_file else {
        return Ok(());
    };
    let json = serde_json::json!({
        "node": ready.path.to_string(),
        "broker": broker,
        "boot": ready.boot,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
    });
    write_atomically(path, json.to_string().as_bytes())
        .with_context(|| format!("the ready file {} cannot be written", path.display()))
}

/// Whoever waits for the file never reads half of it.
fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(lamppost_broker::log_filter(filter)).with_context(|| {
        format!(
            "--log {filter:?} is no filter: write a level such as info, or lamppost_agent=debug"
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A program that this one is part of may have set up its own.
    let started = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging is already set up");
    }
    Ok(())
}

/// Prints a line; a standard output that is gone is no reason to stop.
fn say(line: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(error: &anyhow::Error) {
    eprintln!("lamppost-agent: {error:#}");
}
