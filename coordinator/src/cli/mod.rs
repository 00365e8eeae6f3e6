//! The command line: `serve` runs the coordinator, everything else asks one.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;

mod args;
mod audit;
mod client;
mod forge;
mod keys;
mod learning;
mod ledger;
mod model;
mod node;
mod policy;
mod rollout;
mod samples;
mod serve;
mod sim;
mod tables;
mod watch;

use args::{Args, Command, Global, LogFormat};
use client::Client;

/// How a command ends; the numbers are in `lamppost --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    NotFound = 4,
    Unauthorised = 5,
    TimedOut = 6,
    Missing = 7,
    Broken = 8,
}

/// Why a command fails.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
        }
    }

    fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(Exit::Failed, crate::error::chain(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Self::new(exit, error.to_string())
    }
}

/// Runs a command line, the program's name first, and gives its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8);
            // Where nobody listens there is nothing to say.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    if let Command::CheckBundle { file } = &args.command {
        return ExitCode::from(crate::preflight::child_main(file));
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, text }) => {
            drop(writeln!(io::stderr(), "error: {text}"));
            ExitCode::from(exit as u8)
        }
    }
}

fn run(Args { global, command }: Args) -> Result<(), Failure> {
    let serving = matches!(command, Command::Serve(_));
    start_logging(&global, if serving { "info" } else { "warn" })?;
    if matches!(
        command,
        Command::Train(_) | Command::Compress(_) | Command::Loop(learning::args::Loop::Run { .. })
    ) {
        forge::alone()?;
    }
    match command {
        Command::Serve(serve) => serve::serve(serve),
        Command::Model(model) => model::run(model, &global),
        Command::Train(train) => forge::train(&train, &global),
        Command::Compress(compress) => forge::compress(&compress, &global),
        Command::Loop(command) => learning::run(command, &global),
        Command::Rollout(rollout) => block_on(rollout::run(rollout, &global)),
        Command::Sim(sim) => block_on(sim::run(sim, &global)),
        Command::Node(node) => block_on(node::run(node, &global)),
        Command::Prediction(prediction) => block_on(node::predictions(prediction, &global)),
        Command::Samples(samples) => block_on(samples::run(samples, &global)),
        Command::Ledger(ledger) => block_on(ledger::run(ledger, &global)),
        Command::Audit(audit) => block_on(audit::run(audit, &global)),
        Command::Watch(watch) => block_on(watch::run(watch, &global)),
        Command::Key => block_on(key(&global)),
        Command::Keys(keys) => keys::run(keys, &global),
        Command::Completions { shell } => completions(shell),
        Command::CheckBundle { .. } => Ok(()),
    }
}

async fn key(global: &Global) -> Result<(), Failure> {
    let key: crate::api::Key = Client::new(global)?.get("/v1/key").await?;
    show(global, &key, || {
        let keys = std::iter::once(&key.key).chain(&key.further);
        keys.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "lamppost", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(())
}

/// Prints a result: as JSON when that is asked for, else as text.
fn show<T: serde::Serialize>(
    global: &Global,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let text = if global.json {
        serde_json::to_string_pretty(value).map_err(|error| Failure::failed(&error))?
    } else {
        text()
    };
    Ok(print(&text)?)
}

/// Prints a line to stdout. A reader that went away, as `head` does, is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    printed.or_else(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Ok(())
        } else {
            Err(error)
        }
    })
}

fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(command)
}

fn start_logging(global: &Global, default: &str) -> Result<(), Failure> {
    let wanted = global.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(lamppost_broker::log_filter(wanted)).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("--log {wanted:?} is no filter: {error}"),
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let started = match global.log_format {
        LogFormat::Human => builder
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_err() {
        // A program of several roles has set logging up already.
        tracing::trace!("logging is set up already");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_is_as_it_was() {
        let help = |path: &[&str]| {
            let mut command = Args::command().term_width(100);
            command.build();
            let found = path.iter().fold(&mut command, |command, name| {
                command.find_subcommand_mut(name).unwrap()
            });
            found.render_help().to_string()
        };
        insta::assert_snapshot!("help", help(&[]));
        insta::assert_snapshot!("help_serve", help(&["serve"]));
        insta::assert_snapshot!("help_rollout", help(&["rollout"]));
        insta::assert_snapshot!("help_rollout_start", help(&["rollout", "start"]));
        insta::assert_snapshot!("help_rollout_abort", help(&["rollout", "abort"]));
        insta::assert_snapshot!("help_audit", help(&["audit"]));
        insta::assert_snapshot!("help_samples_export", help(&["samples", "export"]));
        insta::assert_snapshot!("help_ledger", help(&["ledger"]));
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "lamppost",
            "lamppost fly",
            "lamppost node show gw-1",
            "lamppost node show a/b/c",
            "lamppost rollout start traffic-flow one",
            "lamppost rollout start traffic-flow 1.0.0 --timeout 5s",
            "lamppost rollout start traffic-flow 1.0.0 --policy a.toml --all-at-once",
            "lamppost rollout abort traffic-flow",
            "lamppost rollout abort traffic-flow --keep --revert",
            "lamppost rollout pause",
            "lamppost rollout ls --by two\u{a0}words",
            "lamppost rollout revoke traffic-flow 1.0.0",
            "lamppost rollout revoke traffic-flow latest --reason bad",
            "lamppost sim traffic-flow 1.0.0 --candidate bad",
            "lamppost sim traffic-flow 1.0.0 --away 101",
            "lamppost sim traffic-flow 1.0.0 --windows-per-hour 0",
            "lamppost audit verify --since 1h",
            "lamppost audit verify --holds abc",
            "lamppost prediction ls a/b --limit 0",
            "lamppost prediction ls a/b --before 12",
            "lamppost ledger gw-1",
            "lamppost samples export",
            "lamppost samples export -o f --format parquet",
            "lamppost samples forget --policy often",
            "lamppost samples forget --from yesterday",
            "lamppost samples forget --site a --node a/b",
            "lamppost ledger --since yesterday",
            "lamppost train --bundle a --samples b",
            "lamppost train --bundle a --model b --push",
            "lamppost train --new mlp:8 --push",
            "lamppost train --bundle a --readings b --push",
            "lamppost train --model a@1 --push",
            "lamppost compress --model a --to int4 --push",
            "lamppost compress --model a --to int8 --max-loss 200% --push",
            "lamppost serve --broker http://h",
            "lamppost serve --mqtt 127.0.0.1:0 --broker mqtt://h",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
