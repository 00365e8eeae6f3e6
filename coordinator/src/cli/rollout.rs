//! `lamppost rollout`.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lamppost_coordinator_core::rollout::campaign::{Ending, State};
use lamppost_models::id::RolloutId;
use lamppost_models::release::Sequence;
use lamppost_models::{GroupId, ModelName};

use super::args::{EndingArgs, Global, Rollout, Spread, Wait, What, Which};
use super::client::Client;
use super::{Exit, Failure, policy, show, tables};
use crate::api::{
    AbortRollout, CampaignView, NODES_MAX, RevokeBundle, RollBack, RolloutPlan, RolloutView,
    StartRollout,
};
use crate::clock::now;

mod watch;

/// How often it is asked how far the nodes are.
const PERIOD: Duration = Duration::from_millis(500);

pub(super) async fn run(rollout: Rollout, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match rollout {
        Rollout::Plan { what, spread } => {
            let wanted = wanted(what, &spread)?;
            let plan: RolloutPlan = client.post("/v1/rollouts/plan", &wanted).await?;
            show(global, &plan, || tables::plan(&plan))
        }
        Rollout::Start { what, spread, wait } => {
            let wanted = wanted(what, &spread)?;
            let started = client.post("/v1/rollouts", &wanted).await?;
            follow(&client, started, wait, global).await
        }
        Rollout::Rollback { which, to, wait } => {
            let body = RollBack { version: to };
            let started = client.post(&address(&which, "/rollback"), &body).await?;
            follow(&client, started, wait, global).await
        }
        Rollout::Revoke {
            which,
            bundle,
            to,
            reason,
            wait,
        } => {
            let body = RevokeBundle { bundle, reason, to };
            let revoked = client.post(&address(&which, "/revoke"), &body).await?;
            follow(&client, revoked, wait, global).await
        }
        Rollout::Status { which, watch: true } => watch::run(&client, &which, global).await,
        Rollout::Status {
            which,
            watch: false,
        } => {
            let views = status(&client, &which).await?;
            show(global, &views, || tables::rollout_status(&views, now()))
        }
        Rollout::Ls => {
            let views: Vec<RolloutView> = client.get("/v1/rollouts").await?;
            show(global, &views, || tables::rollouts(&views, now()))
        }
        Rollout::Pause { which } => act(&client, &which, "/pause", global).await,
        Rollout::Resume { which } => act(&client, &which, "/resume", global).await,
        Rollout::Approve { which } => act(&client, &which, "/approve", global).await,
        Rollout::Promote { which } => act(&client, &which, "/promote", global).await,
        Rollout::Abort { which, ending } => {
            let EndingArgs { keep, revert: _ } = ending;
            let how = if keep { Ending::Kept } else { Ending::Reverted };
            let view: RolloutView = client
                .post(&address(&which, "/abort"), &AbortRollout { how })
                .await?;
            show(global, &view, || tables::rollout(&view, now()))
        }
    }
}

fn wanted(what: What, spread: &Spread) -> Result<StartRollout, Failure> {
    let What {
        model,
        version,
        group,
    } = what;
    let policy = spread.policy.as_deref().map(policy::read).transpose()?;
    Ok(StartRollout {
        model,
        version,
        group,
        policy: policy.map(Box::new),
        all_at_once: spread.all_at_once,
    })
}

/// What holds, with all its nodes, and what was before: as long as a page of nodes is full, there is another.
async fn status(client: &Client, which: &Which) -> Result<Vec<RolloutView>, Failure> {
    let mut views: Vec<RolloutView> = client.get(&address(which, "")).await?;
    let Some(shown) = views.first_mut() else {
        return Ok(views);
    };
    let mut more = shown.nodes.len() == NODES_MAX;
    while let Some(last) = shown.nodes.last().filter(|_| more) {
        let after = [("after", last.path.to_string())];
        let pages: Vec<RolloutView> = client.ask(&address(which, ""), &after).await?;
        let page = pages
            .into_iter()
            .next()
            .map_or_else(Vec::new, |page| page.nodes);
        more = page.len() == NODES_MAX;
        shown.nodes.extend(page);
    }
    Ok(views)
}

fn address(which: &Which, below: &str) -> String {
    path(&which.group, &which.model) + below
}

fn path(group: &GroupId, model: &ModelName) -> String {
    format!("/v1/rollouts/{group}/{model}")
}

async fn act(client: &Client, which: &Which, below: &str, global: &Global) -> Result<(), Failure> {
    let body = serde_json::json!({});
    let view: RolloutView = client.post(&address(which, below), &body).await?;
    show(global, &view, || tables::rollout(&view, now()))
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
    if let Some(view) = under_way(&started).and_then(|id| campaign(&settled, id)) {
        match &view.campaign.state {
            State::Promoted { .. } => {}
            State::Aborted { .. } => return Err(aborted(view)),
            State::Running { .. } | State::Held { .. } | State::Paused { .. } => {
                let text = format!(
                    "the rollout is not over after {:?}: {}",
                    wait.timeout, view.words
                );
                return Err(Failure::new(Exit::TimedOut, text));
            }
        }
    }
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

/// The campaign that a start began, or that goes on in what is shown.
fn under_way(view: &RolloutView) -> Option<RolloutId> {
    let campaign = &view.campaign.as_ref()?.campaign;
    campaign.state.stage().map(|_| campaign.id)
}

fn campaign(view: &RolloutView, id: RolloutId) -> Option<&CampaignView> {
    view.campaign
        .as_deref()
        .filter(|view| view.campaign.id == id)
}

fn aborted(view: &CampaignView) -> Failure {
    let text = view.campaign.steps.last().map_or_else(
        || "the rollout is aborted".to_owned(),
        |last| last.words.clone(),
    );
    Failure::new(Exit::Failed, text)
}

/// The rollout as it is when it is over and no node that can be reached is on its way any more, or when the time is over.
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
    let began = under_way(started);
    let version = started
        .rollout
        .candidate
        .as_ref()
        .map_or(&started.rollout.stable, |candidate| &candidate.bundle);
    bar.set_message(format!("{} {}", target.model, version.version));
    loop {
        let views: Vec<RolloutView> = client.get(&path(&target.group, &target.model)).await?;
        let view = find(views, sequence, began)?;
        let summary = view.summary;
        bar.set_length(summary.nodes - summary.unreachable);
        bar.set_position(summary.running + summary.refused);
        let done = summary.settled() && under_way(&view).is_none();
        if done || Instant::now() >= ends {
            bar.finish_and_clear();
            return Ok(view);
        }
        tokio::time::sleep(PERIOD.min(ends.saturating_duration_since(Instant::now()))).await;
    }
}

/// The release that holds, if it is the one that was started, or a later step of the same campaign.
fn find(
    views: Vec<RolloutView>,
    sequence: Sequence,
    began: Option<RolloutId>,
) -> Result<RolloutView, Failure> {
    let current = views.into_iter().find(|view| view.current);
    let same = |view: &RolloutView| {
        view.rollout.sequence == sequence || began.is_some_and(|id| campaign(view, id).is_some())
    };
    current
        .filter(same)
        .ok_or_else(|| Failure::new(Exit::Failed, "another rollout took the place of this one"))
}
