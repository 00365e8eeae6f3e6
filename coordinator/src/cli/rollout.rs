//! `lamppost rollout`.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lamppost_models::release::Sequence;
use lamppost_models::{GroupId, ModelName};

use super::args::{Global, Rollout, Wait};
use super::client::Client;
use super::{Exit, Failure, show, tables};
use crate::api::{RolloutView, StartRollout};
use crate::clock::now;

/// How often it is asked how far the nodes are.
const PERIOD: Duration = Duration::from_millis(500);

pub(super) async fn run(rollout: Rollout, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match rollout {
        Rollout::Start {
            model,
            version,
            group,
            wait,
        } => {
            let started = client
                .post(
                    "/v1/rollouts",
                    &StartRollout {
                        model,
                        version,
                        group,
                    },
                )
                .await?;
            follow(&client, started, wait, global).await
        }
        Rollout::Rollback { model, group, wait } => {
            let path = format!("{}/rollback", path(&group, &model));
            let started = client.post(&path, &serde_json::json!({})).await?;
            follow(&client, started, wait, global).await
        }
        Rollout::Status { model, group } => {
            let views: Vec<RolloutView> = client.get(&path(&group, &model)).await?;
            show(global, &views, || tables::rollout_status(&views, now()))
        }
        Rollout::Ls => {
            let views: Vec<RolloutView> = client.get("/v1/rollouts").await?;
            show(global, &views, || tables::rollouts(&views, now()))
        }
    }
}

fn path(group: &GroupId, model: &ModelName) -> String {
    format!("/v1/rollouts/{group}/{model}")
}

/// Shows a rollout that was started, when its nodes are done if that is asked for.
async fn follow(
    client: &Client,
    started: RolloutView,
    wait: Wait,
    global: &Global,
) -> Result<(), Failure> {
    if !wait.wait {
        return show(global, &started, || tables::rollout(&started, now()));
    }
    let settled = settled(client, &started, wait.timeout).await?;
    show(global, &settled, || tables::rollout(&settled, now()))?;
    match settled.summary {
        summary if !summary.settled() => {
            let text = format!(
                "{} of {} nodes are not done after {:?}",
                summary.pending, summary.nodes, wait.timeout
            );
            Err(Failure::new(Exit::TimedOut, text))
        }
        summary if summary.refused > 0 => {
            let text = format!(
                "{} of {} nodes refused it and go on with what they ran",
                summary.refused, summary.nodes
            );
            Err(Failure::new(Exit::Failed, text))
        }
        _ => Ok(()),
    }
}

/// The rollout as it is when no node that can be reached is on its way any more, or when the time is over.
async fn settled(
    client: &Client,
    started: &RolloutView,
    timeout: Duration,
) -> Result<RolloutView, Failure> {
    let ends = Instant::now() + timeout;
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} nodes")
        .map_err(|error| Failure::failed(&error))?;
    bar.set_style(style);
    let (target, sequence) = (&started.rollout.target, started.rollout.sequence);
    bar.set_message(format!(
        "{} {}",
        target.model, started.rollout.stable.version
    ));
    loop {
        let views: Vec<RolloutView> = client.get(&path(&target.group, &target.model)).await?;
        let view = find(views, sequence)?;
        let summary = view.summary;
        bar.set_length(summary.nodes - summary.unreachable);
        bar.set_position(summary.running + summary.refused);
        if summary.settled() || Instant::now() >= ends {
            bar.finish_and_clear();
            return Ok(view);
        }
        tokio::time::sleep(PERIOD.min(ends.saturating_duration_since(Instant::now()))).await;
    }
}

fn find(views: Vec<RolloutView>, sequence: Sequence) -> Result<RolloutView, Failure> {
    match views
        .into_iter()
        .find(|view| view.rollout.sequence == sequence)
    {
        Some(view) if view.current => Ok(view),
        _ => Err(Failure::new(
            Exit::Failed,
            "another rollout took the place of this one",
        )),
    }
}
