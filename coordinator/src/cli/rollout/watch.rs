//! `lamppost rollout status --watch`.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lamppost_coordinator_core::rollout::campaign::State;

use super::{aborted, address};
use crate::api::RolloutView;
use crate::cli::args::{Global, Which};
use crate::cli::client::Client;
use crate::cli::{Exit, Failure, print, tables};
use crate::clock::now;

/// How often it is asked: numbers that change faster are not read.
const PERIOD: Duration = Duration::from_secs(1);
/// How many times in a row an answer may be missing, since a coordinator that restarts is no reason to stop looking.
const MISSED_MAX: u32 = 30;

/// Shows a rollout until it is over: in place on a terminal, else a line whenever something changes.
pub(super) async fn run(client: &Client, which: &Which, global: &Global) -> Result<(), Failure> {
    let mut screen = Screen::new(global)?;
    let mut missed = 0;
    // Only JSON shows single nodes.
    let address = address(which, if global.json { "" } else { "?nodes=0" });
    loop {
        match client.get::<Vec<RolloutView>>(&address).await {
            Ok(views) => {
                missed = 0;
                if let Some(view) = views.iter().find(|view| view.current) {
                    screen.show(view)?;
                    if let Some(ended) = ended(view) {
                        screen.end();
                        return ended;
                    }
                }
            }
            Err(failure) if failure.exit == Exit::Unreachable && missed < MISSED_MAX => missed += 1,
            Err(failure) => {
                screen.end();
                return Err(failure);
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// How it ended, if it did: the campaign by its last state, and what went out at once when no node is on its way.
fn ended(view: &RolloutView) -> Option<Result<(), Failure>> {
    match &view.campaign {
        Some(campaign) if campaign.campaign.state.stage().is_some() => None,
        Some(campaign) if matches!(campaign.campaign.state, State::Aborted { .. }) => {
            Some(Err(aborted(campaign)))
        }
        Some(_) | None => view.summary.settled().then_some(Ok(())),
    }
}

enum Screen {
    /// Drawn anew each time.
    Table(ProgressBar),
    /// What was printed last, so that only what changes is printed.
    Lines(String),
    Json(String),
}

impl Screen {
    fn new(global: &Global) -> Result<Self, Failure> {
        if global.json {
            return Ok(Self::Json(String::new()));
        }
        if !std::io::stdout().is_terminal() {
            return Ok(Self::Lines(String::new()));
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        let style =
            ProgressStyle::with_template("{msg}").map_err(|error| Failure::failed(&error))?;
        bar.set_style(style);
        Ok(Self::Table(bar))
    }

    fn show(&mut self, view: &RolloutView) -> Result<(), Failure> {
        match self {
            Self::Table(bar) => {
                bar.set_message(tables::rollout_head(view, now()));
                bar.tick();
            }
            Self::Lines(last) => {
                let line = tables::rollout_line(view);
                if *last != line {
                    print(&format!("{} {line}", now()))?;
                    *last = line;
                }
            }
            Self::Json(last) => {
                let json = serde_json::to_string(view).map_err(|error| Failure::failed(&error))?;
                if *last != json {
                    print(&json)?;
                    *last = json;
                }
            }
        }
        Ok(())
    }

    /// Leaves the last table where it is.
    fn end(&self) {
        if let Self::Table(bar) = self {
            bar.abandon();
        }
    }
}
