//! The demo: a fleet in separate processes, with real readings and promises to keep.
//!
//! - [`roles`]: one executable that plays every role;
//! - [`args`]: the demo's command line;
//! - [`scenario`]: what happens, and when;
//! - [`promises`]: what is promised, and how each promise is measured;
//! - [`stage`]: all that the demo looks at, in one place;
//! - [`lamppost`]: the CLI and the API as the demo uses them;
//! - [`children`], [`screen`], [`summary`]: processes, output, the table at the end.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::args::Args;
use self::children::Children;
use self::screen::Screen;
use self::stage::Stage;
use self::summary::Summary;

pub mod args;
pub mod children;
pub mod lamppost;
pub mod promises;
pub mod roles;
pub mod scenario;
pub mod screen;
pub mod stage;
pub mod summary;

/// What is kept of the demo's time for its end: the summary, and stopping four processes.
const CURTAIN: Duration = Duration::from_secs(3);

/// Plays the demo; success only if every promise came true.
pub fn run(args: &Args) -> ExitCode {
    let started = Instant::now();
    let mut screen = Screen::stdout(started.into_std());
    screen.text(&opening(args));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(play(args, screen, started)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn opening(args: &Args) -> String {
    let Args { seconds, speed, .. } = args;
    format!(
        "Lamppost demo: one coordinator and three edge nodes, each a process of its own, on this machine only; about {seconds} s.\n\
         Two nodes read traffic on Interstate 94, one reads air in Beijing: real readings, {speed} a second, an hour each.\n\
         You will see: forecasts with their error, a better model rolled out, a link cut with nothing lost, broken models refused.\n\n"
    )
}

async fn play(
    args: &Args,
    screen: Screen<std::io::Stdout>,
    started: Instant,
) -> anyhow::Result<bool> {
    let stop = stop_on_signals()?;
    let dir = tempfile::Builder::new()
        .prefix("lamppost-demo-")
        .tempdir()
        .context("make a directory for the demo")?;
    let mut stage = Stage::new(screen, Children::new(dir.path())?);
    let mut summary = Summary::new(&promises::ALL);
    let deadline = started + args.total() - CURTAIN;
    let scenario = scenario::play(&mut stage, &mut summary, args, dir.path(), deadline);
    let played = match stop
        .run_until_cancelled(tokio::time::timeout_at(deadline, scenario))
        .await
    {
        Some(Ok(played)) => played,
        Some(Err(_)) => Err(anyhow::anyhow!("the demo's time is over")),
        None => Err(anyhow::anyhow!("stopped by a signal")),
    };
    stage.clear();
    if let Err(error) = &played {
        let tails = stage.children.tails();
        stage
            .screen
            .text(&format!("\nThe demo broke off: {error:#}\n{tails}\n"));
    }
    let lines = summary.lines(&stage.screen).join("\n");
    stage.screen.text(&format!("\n{lines}\n"));
    if args.keep
        && let Ok(lamppost) = &played
    {
        lamppost.explain(&mut stage);
        if let Some(Err(error)) = stop.run_until_cancelled(scenario::go_on(&mut stage)).await {
            stage.screen.text(&format!("\n{error:#}\n"));
        }
        stage.clear();
    }
    let kept = played.is_ok() && summary.kept();
    stage.children.stop().await;
    close(&mut stage, dir, kept, args.keep)?;
    Ok(kept)
}

/// Removes the directory, or says where it is.
fn close(stage: &mut Stage, dir: tempfile::TempDir, kept: bool, keep: bool) -> anyhow::Result<()> {
    if kept && !keep {
        let path = dir.path().to_owned();
        return dir
            .close()
            .with_context(|| format!("remove {}", path.display()));
    }
    let path = dir.keep();
    stage.screen.text(&format!(
        "Logs, configuration and data are in {}\n",
        path.display()
    ));
    Ok(())
}

fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    for kind in kinds {
        let mut signals = signal(kind).context("catch signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}
