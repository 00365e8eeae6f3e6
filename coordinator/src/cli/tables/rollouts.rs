//! Rollouts with their nodes.

use lamppost_coordinator_core::progress::{NodeProgress, NodeRow, Summary};
use lamppost_coordinator_core::rollout::Cause;
use lamppost_models::Timestamp;
use lamppost_models::message::Verdict;

use super::{ago, table, word};
use crate::api::{NODES_MAX, RolloutView};
use crate::units::{human_bytes, human_span_ms};

pub(super) fn summary(summary: &Summary) -> String {
    let Summary {
        nodes,
        running,
        pending,
        refused,
        unreachable,
    } = summary;
    let parts = [
        (running, "running"),
        (pending, "pending"),
        (refused, "refused"),
        (unreachable, "unreachable"),
    ];
    let named: Vec<String> = parts
        .iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if *nodes == 0 {
        "no nodes".to_owned()
    } else {
        format!("{nodes}: {}", named.join(", "))
    }
}

fn cause(cause: Cause) -> String {
    match cause {
        Cause::Start => "start".to_owned(),
        Cause::Rollback { of } => format!("rollback of {of}"),
        Cause::Wave { rollout, wave } => format!("wave {} of {rollout}", u32::from(wave) + 1),
        Cause::Promote { rollout } => format!("promotion of {rollout}"),
        Cause::Abort { rollout } => format!("abort of {rollout}"),
        Cause::Revoke => "revocation".to_owned(),
    }
}

pub(in crate::cli) fn rollouts(views: &[RolloutView], now: Timestamp) -> String {
    if views.is_empty() {
        return "no rollouts yet: start one with `lamppost rollout start`".to_owned();
    }
    let row = |view: &RolloutView| {
        let rollout = &view.rollout;
        let (group, model) = (
            rollout.target.group.to_string(),
            rollout.target.model.to_string(),
        );
        let (version, sequence) = (
            rollout.stable.version.to_string(),
            rollout.sequence.to_string(),
        );
        [
            group,
            model,
            version,
            sequence,
            cause(rollout.cause),
            ago(rollout.started_at, now),
            summary(&view.summary),
            under_way(view),
        ]
    };
    table(
        [
            "GROUP",
            "MODEL",
            "VERSION",
            "SEQ",
            "CAUSE",
            "STARTED",
            "NODES",
            "UNDER WAY",
        ],
        views.iter().map(row),
    )
}

/// Where to, and how far, if somewhere.
fn under_way(view: &RolloutView) -> String {
    let campaign = view.campaign.as_ref().map(|view| &view.campaign);
    campaign
        .and_then(|campaign| Some((campaign, campaign.state.stage()?)))
        .map_or_else(
            || "-".to_owned(),
            |(campaign, stage)| {
                format!(
                    "{}, wave {} of {}, {}",
                    campaign.to.version,
                    stage.wave + 1,
                    campaign.policy.waves.len(),
                    campaign.state.word()
                )
            },
        )
}

/// What is released, and since when.
pub(super) fn head(view: &RolloutView, now: Timestamp) -> String {
    let rollout = &view.rollout;
    let (target, stable) = (&rollout.target, &rollout.stable);
    format!(
        "{} {} for group {} (sequence {}, {}, started {})\n{}",
        target.model,
        stable.version,
        target.group,
        rollout.sequence,
        cause(rollout.cause),
        ago(rollout.started_at, now),
        stable.digest
    )
}

/// One rollout with its waves and nodes.
pub(in crate::cli) fn rollout(view: &RolloutView, now: Timestamp) -> String {
    let mut head = head(view, now);
    if let Some(campaign) = &view.campaign {
        head = format!("{head}\n\n{}", super::campaigns::campaign(campaign, now));
    }
    for warning in &view.warnings {
        head = format!("{head}\nwarning: {}", super::clean(warning));
    }
    if view.nodes.is_empty() {
        return format!(
            "{head}\nno node of this group was heard of yet; one that comes later takes it"
        );
    }
    let row = |row: &NodeRow| {
        let (state, detail) = progress(&row.progress, now);
        (row.path.to_string(), row.cohort.map(word), state, detail)
    };
    let rows: Vec<_> = view.nodes.iter().map(row).collect();
    let nodes = if rows.iter().any(|(_, cohort, _, _)| cohort.is_some()) {
        let rows = rows
            .into_iter()
            .map(|(node, cohort, state, detail)| [node, super::or_dash(cohort), state, detail]);
        table(["NODE", "COHORT", "STATE", "DETAIL"], rows)
    } else {
        let rows = rows
            .into_iter()
            .map(|(node, _, state, detail)| [node, state, detail]);
        table(["NODE", "STATE", "DETAIL"], rows)
    };
    let cut = if view.nodes.len() == NODES_MAX && view.summary.nodes > NODES_MAX as u64 {
        "\nonly the first nodes are listed: `lamppost rollout status` lists all"
    } else {
        ""
    };
    format!("{head}\n\n{nodes}\n\n{}{cut}", summary(&view.summary))
}

/// The rollout that holds, and what was before it.
pub(in crate::cli) fn rollout_status(views: &[RolloutView], now: Timestamp) -> String {
    let current = views
        .iter()
        .find(|view| view.current)
        .map(|view| rollout(view, now));
    let earlier = views.iter().filter(|view| !view.current).map(|view| {
        let rollout = &view.rollout;
        let (version, sequence) = (
            rollout.stable.version.to_string(),
            rollout.sequence.to_string(),
        );
        [
            sequence,
            version,
            cause(rollout.cause),
            ago(rollout.started_at, now),
        ]
    });
    let earlier: Vec<_> = earlier.collect();
    let before = (!earlier.is_empty()).then(|| {
        format!(
            "before it:\n{}",
            table(["SEQ", "VERSION", "CAUSE", "STARTED"], earlier)
        )
    });
    current
        .into_iter()
        .chain(before)
        .collect::<Vec<_>>()
        .join("\n\n")
}

fn progress(progress: &NodeProgress, now: Timestamp) -> (String, String) {
    let (state, detail) = match progress {
        NodeProgress::Running {
            since,
            predictions,
            quality,
        } => {
            let quality = quality.as_ref().map_or_else(String::new, |quality| {
                format!(", {}", super::quality(quality))
            });
            (
                "running",
                format!(
                    "for {}, {predictions} predictions{quality}",
                    human_span_ms(now.ms_since(*since))
                ),
            )
        }
        NodeProgress::Fetching { received, bytes } => (
            "fetching",
            format!("{} of {}", human_bytes(*received), human_bytes(*bytes)),
        ),
        NodeProgress::PutOff { reason } => ("put off", reason.clone()),
        NodeProgress::Checking => ("checking", String::new()),
        NodeProgress::Shadowing { windows, of } => {
            ("in shadow", format!("{windows} of {of} windows"))
        }
        NodeProgress::Refused {
            verdict: Verdict::Unavailable,
            detail,
        } => ("unavailable", format!("{detail}; the node tries again")),
        NodeProgress::Refused { verdict, detail } => {
            ("refused", format!("{}: {detail}", word(verdict)))
        }
        NodeProgress::Waiting {
            running: Some(version),
        } => ("waiting", format!("runs {version}")),
        NodeProgress::Waiting { running: None } => ("waiting", "runs no version".to_owned()),
        NodeProgress::DecidedBy { group } => ("elsewhere", format!("group {group} decides for it")),
        NodeProgress::Unconcerned => ("unconcerned", "no stream uses the model".to_owned()),
        NodeProgress::Unreachable { since, running } => {
            let running = running
                .as_ref()
                .map_or_else(String::new, |version| format!(", ran {version} then"));
            (
                "unreachable",
                format!("last heard {}{running}", ago(*since, now)),
            )
        }
    };
    (state.to_owned(), detail)
}
