//! Rollouts wave by wave: what they would do, and how far they are.

use lamppost_coordinator_core::rollout::campaign::{Assessment, Campaign, Ending, Stage, State};
use lamppost_coordinator_core::rollout::evidence::Found;
use lamppost_coordinator_core::rollout::plan::{Plan, PlannedWave};
use lamppost_coordinator_core::rollout::policy::{Approve, Policy, Wave};
use lamppost_models::Timestamp;

use super::{ago, table, word};
use crate::api::{CampaignView, RolloutPlan, RolloutView};
use crate::units::{human_bytes, human_span_ms};

/// Names of a wave's nodes that a plan prints; JSON has more.
const NAMES_SHOWN: usize = 4;

/// What a rollout would do.
pub(in crate::cli) fn plan(plan: &RolloutPlan) -> String {
    match plan {
        RolloutPlan::Waves { policy, plan } => waves(policy, plan),
        RolloutPlan::AllAtOnce {
            target,
            from,
            to,
            nodes,
            unreachable,
            bytes,
            why,
        } => {
            let from = from
                .as_ref()
                .map_or_else(|| "no version".to_owned(), |from| from.version.to_string());
            format!(
                "{} {from} -> {} for group {}, all at once: {why}\n{}, at most {}",
                target.model,
                to.version,
                target.group,
                nodes_of(*nodes, *unreachable),
                human_bytes(*bytes)
            )
        }
    }
}

fn waves(policy: &Policy, plan: &Plan) -> String {
    let Plan {
        target, from, to, ..
    } = plan;
    let head = format!(
        "{} {} -> {} for group {}, policy {}\n{}, {} held back to compare with, at most {}, {} at least",
        target.model,
        from.version,
        to.version,
        target.group,
        named(&plan.policy),
        nodes_of(plan.nodes, plan.unreachable),
        plan.control,
        human_bytes(plan.bytes),
        plan.at_least
    );
    let row = |(number, wave): (usize, &PlannedWave)| {
        [
            (number + 1).to_string(),
            wave.who.clone(),
            wave.nodes.to_string(),
            format!("+{}", wave.added),
            unreachable(wave.unreachable),
            human_bytes(wave.bytes),
            wave.at_least.to_string(),
            approval(wave.approve).to_owned(),
            names(wave),
        ]
    };
    let promoted = [
        String::new(),
        "then all".to_owned(),
        plan.nodes.to_string(),
        format!("+{}", plan.promoted),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
    ];
    let rows = plan.waves.iter().enumerate().map(row);
    let table = table(
        [
            "WAVE", "WHO", "NODES", "ADDS", "AWAY", "BYTES", "AT LEAST", "THEN", "ADDED",
        ],
        rows.chain([promoted]),
    );
    let hours = policy
        .hours
        .map(|hours| format!("changes only in the hours {hours}, by each node's own time"));
    let notes = plan
        .unknown
        .iter()
        .map(|text| format!("not known: {text}"))
        .chain(plan.warnings.iter().map(|text| format!("warning: {text}")));
    let parts = [head, String::new(), table].into_iter();
    parts
        .chain(hours)
        .chain(notes)
        .collect::<Vec<_>>()
        .join("\n")
}

fn nodes_of(nodes: u64, unreachable: u64) -> String {
    match unreachable {
        0 => format!("{nodes} nodes"),
        away => format!("{nodes} nodes, {away} of them not to be reached now"),
    }
}

fn unreachable(count: u64) -> String {
    if count == 0 {
        "-".to_owned()
    } else {
        count.to_string()
    }
}

fn named(policy: &str) -> &str {
    if policy.is_empty() {
        "without a name"
    } else {
        policy
    }
}

const fn approval(approve: Approve) -> &'static str {
    match approve {
        Approve::Auto => "by itself",
        Approve::Manual => "approve",
    }
}

fn names(wave: &PlannedWave) -> String {
    let shown: Vec<String> = wave
        .names
        .iter()
        .take(NAMES_SHOWN)
        .map(ToString::to_string)
        .collect();
    let more = wave.added.saturating_sub(shown.len() as u64);
    match (shown.is_empty(), more) {
        (true, _) => "-".to_owned(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{}, {more} more", shown.join(", ")),
    }
}

/// Everything on a rollout but its nodes: what is drawn anew while it is watched.
pub(in crate::cli) fn rollout_head(view: &RolloutView, now: Timestamp) -> String {
    let head = super::rollouts::head(view, now);
    match &view.campaign {
        Some(campaign) => format!(
            "{head}\n\n{}\n\n{}",
            self::campaign(campaign, now),
            super::rollouts::summary(&view.summary)
        ),
        None => format!("{head}\n\n{}", super::rollouts::summary(&view.summary)),
    }
}

/// A rollout on one line, with nothing that changes by the mere passing of time.
pub(in crate::cli) fn rollout_line(view: &RolloutView) -> String {
    let summary = super::rollouts::summary(&view.summary);
    let Some(found) = &view.campaign else {
        return format!(
            "{} {}: {summary}",
            view.rollout.target.model, view.rollout.stable.version
        );
    };
    let CampaignView { campaign, .. } = &**found;
    let wave = campaign.state.stage().map_or_else(String::new, |stage| {
        format!(
            ", wave {} of {}",
            stage.wave + 1,
            campaign.policy.waves.len()
        )
    });
    let nodes = found.assessment.as_ref().map_or_else(String::new, |found| {
        format!("; of the wave {}", census(found))
    });
    let last = campaign
        .steps
        .last()
        .map_or_else(String::new, |last| format!("; {}", last.words));
    format!(
        "{} {} {}{wave}; {summary}{nodes}{last}",
        campaign.target.model,
        campaign.to.version,
        campaign.state.word(),
    )
}

/// Waves, gate and last decision.
pub(super) fn campaign(view: &CampaignView, now: Timestamp) -> String {
    let CampaignView {
        campaign,
        words,
        assessment,
        bytes_today,
        ..
    } = view;
    let head = format!(
        "rollout {} {} -> {}, policy {}, started {} by {}: {}",
        campaign.id,
        campaign.from.version,
        campaign.to.version,
        named(&campaign.policy.name),
        ago(campaign.started_at, now),
        campaign.by,
        state(&campaign.state, now)
    );
    let out = campaign.state.stage();
    let rows = campaign
        .policy
        .waves
        .iter()
        .enumerate()
        .map(|(number, wave)| {
            [
                (number + 1).to_string(),
                who(wave),
                standing(campaign, out, number, now),
                wave.soak.to_string(),
                approval(wave.approve).to_owned(),
            ]
        });
    let mut lines = vec![
        head,
        String::new(),
        table(["WAVE", "WHO", "STATE", "SOAK", "THEN"], rows),
    ];
    if let Some(assessment) = assessment.as_ref().filter(|_| out.is_some()) {
        lines.push(String::new());
        lines.extend(gate(assessment, *bytes_today, now));
    }
    let said = campaign
        .steps
        .last()
        .map(|last| format!("last step   {} {}", last.at, super::clean(&last.words)));
    lines.extend(said);
    if out.is_some() && !words.is_empty() {
        lines.push(format!("now         {words}"));
    }
    lines.join("\n")
}

fn state(state: &State, now: Timestamp) -> String {
    let word = state.word();
    match state {
        State::Running { .. } => word.to_owned(),
        State::Held { at, .. } => format!("{word} for {}", span(*at, now)),
        State::Paused { at, by, .. } => format!("{word} for {} by {by}", span(*at, now)),
        State::Promoted { at, by } | State::Aborted { at, by, .. } => {
            format!("{word} {} by {by}", ago(*at, now))
        }
    }
}

fn span(from: Timestamp, now: Timestamp) -> String {
    human_span_ms(now.ms_since(from))
}

/// Who joins with a wave.
fn who(wave: &Wave) -> String {
    let share = wave.share.map(|share| share.to_string());
    let groups = wave.groups.iter().map(|group| format!("group {group}"));
    let tags = wave
        .tags
        .iter()
        .map(|tag| format!("{}={}", tag.name, tag.value));
    let nodes = match wave.nodes.as_slice() {
        [] => None,
        [node] => Some(node.to_string()),
        [first, rest @ ..] => Some(format!("{first} and {} more", rest.len())),
    };
    let parts: Vec<String> = share
        .into_iter()
        .chain(groups)
        .chain(tags)
        .chain(nodes)
        .collect();
    parts.join(", ")
}

/// Where a wave stands.
fn standing(campaign: &Campaign, out: Option<&Stage>, number: usize, now: Timestamp) -> String {
    match (&campaign.state, out) {
        (_, Some(stage)) if number < usize::from(stage.wave) => "done".to_owned(),
        (_, Some(stage)) if number == usize::from(stage.wave) => {
            format!("out for {}", span(stage.since, now))
        }
        (_, Some(_)) => "to come".to_owned(),
        (State::Promoted { .. }, None) => "done".to_owned(),
        (
            State::Aborted {
                how: Ending::Reverted,
                ..
            },
            None,
        ) => "taken back".to_owned(),
        (_, None) => "ended".to_owned(),
    }
}

fn census(assessment: &Assessment) -> String {
    let census = &assessment.census;
    let parts = [
        (census.passed, "passed"),
        (census.failed, "failed"),
        (census.live, "in probation"),
        (census.trying, "on trial"),
        (census.waiting, "waiting"),
        (census.unreachable, "unreachable"),
    ];
    let named: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if named.is_empty() {
        "no nodes".to_owned()
    } else {
        format!("{}: {}", census.nodes, named.join(", "))
    }
}

fn gate(assessment: &Assessment, bytes_today: u64, now: Timestamp) -> Vec<String> {
    let census = &assessment.census;
    let reports = census.passed + census.failed;
    let ratio = assessment
        .latency_ratio
        .map_or_else(|| "not known".to_owned(), |ratio| format!("x{ratio:.2}"));
    let until = |what: &str, at: Timestamp| {
        let left = at.ms_since(now);
        if left > 0 {
            format!("{what} in {}", human_span_ms(left))
        } else {
            format!("{what} is over")
        }
    };
    let mut lines = vec![
        format!(
            "nodes       {} (control {}, group {})",
            self::census(assessment),
            census.control,
            census.group
        ),
        format!(
            "gate        {reports} reports of {} needed, {} failed, {} crashes, latency {ratio}, {} labels",
            assessment.reports_needed, census.failed, census.crashes, assessment.labels
        ),
        format!(
            "times       {}, {}",
            until("soak ends", assessment.soaks_until),
            until("deadline", assessment.deadline)
        ),
        format!("given today {}", human_bytes(bytes_today)),
    ];
    let found = [
        ("by nodes", assessment.nodes),
        ("by rounds", assessment.rounds),
        ("by pairs", assessment.pairs),
    ];
    for (kind, found) in found {
        lines.extend(found.map(|found| quality(kind, &found)));
    }
    lines
}

fn quality(kind: &str, found: &Found) -> String {
    let Found {
        units,
        ratio,
        shown,
    } = found;
    format!(
        "{kind:<11} error x{:.3} ({:.3} to {:.3}) of the other's, from {units} votes: {}",
        ratio.estimate,
        ratio.low,
        ratio.high,
        word(shown)
    )
}

#[cfg(test)]
mod tests;
