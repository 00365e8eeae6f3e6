//! Every step and every look, in one to three sentences with the numbers.

use lamppost_models::rollout::Exposure;

use super::gate::Assessment;
use super::{Around, Campaign, Census, Ending, Stage, State, Verdict, Why};
use crate::rollout::audit::Actor;
use crate::rollout::evidence::{Found, Shown, told};
use crate::rollout::policy::{Bytes, Gate, Quality, Wave};
use crate::rollout::{Rollout, Target};

/// Most names of one kind that words hold.
const NAMES_MAX: usize = 3;
/// A ratio that no decimal tells from 1.
const EQUAL: &str = "equal";

pub(super) fn about(target: &Target) -> String {
    format!("{} in group {}", target.model, target.group)
}

/// Who a wave is for.
pub(in crate::rollout) fn who(wave: &Wave) -> String {
    let exposure = Exposure {
        share: wave.share.unwrap_or_default(),
        groups: wave.groups.clone(),
        tags: wave.tags.clone(),
        nodes: wave.nodes.clone(),
    };
    let mut parts = Vec::new();
    if wave.share.is_some() {
        parts.push(exposure.share.to_string());
    }
    let tags = exposure.tags.iter();
    let tags = tags.map(|tag| format!("{}={}", tag.name, tag.value));
    let kinds: [(&str, &str, Vec<String>); 3] = [
        (
            "group",
            "groups",
            exposure.groups.iter().map(ToString::to_string).collect(),
        ),
        ("tag", "tags", tags.collect()),
        (
            "node",
            "nodes",
            exposure.nodes.iter().map(ToString::to_string).collect(),
        ),
    ];
    for (one, many, names) in kinds {
        match names.as_slice() {
            [] => {}
            [name] => parts.push(format!("{one} {name}")),
            names if names.len() <= NAMES_MAX => {
                parts.push(format!("{many} {}", names.join(", ")));
            }
            names => parts.push(format!("{} {many}", names.len())),
        }
    }
    parts.join(" and ")
}

pub(super) fn started(campaign: &Campaign) -> String {
    let Campaign {
        id,
        target,
        from,
        to,
        policy,
        by,
        ..
    } = campaign;
    let waves = policy.waves.len();
    let first = policy.waves.first().map(who).unwrap_or_default();
    let name = if policy.name.is_empty() {
        "without a name"
    } else {
        policy.name.as_str()
    };
    format!(
        "{by} started rollout {id} of {}, from {} to {}, by policy {name} with {}; wave 1 is {first}, control {}",
        about(target),
        from.version,
        to.version,
        count(waves as u64, "wave", "waves"),
        policy.control,
    )
}

pub(super) fn aborted_by(campaign: &Campaign, how: Ending, by: &Actor) -> String {
    let nodes = match how {
        Ending::Kept => "nodes that have it keep it",
        Ending::Reverted => "nodes that have it go back",
    };
    format!(
        "{by} aborted the rollout of {} to {} in wave {}; {nodes}",
        about(&campaign.target),
        campaign.to.version,
        wave_of(campaign),
    )
}

pub(super) fn promoted_by(campaign: &Campaign, by: &Actor) -> String {
    let waves = campaign.policy.waves.len();
    let stage = campaign.state.stage();
    let at = stage.map_or(0, |stage| usize::from(stage.wave) + 1);
    let skipped = match waves.saturating_sub(at) {
        0 => "no wave is skipped, the gate of the last one is".to_owned(),
        1 => format!("wave {waves} and its gate are skipped, and the gate of wave {at}"),
        _ => format!(
            "waves {} to {waves} and their gates are skipped, and the gate of wave {at}",
            at + 1
        ),
    };
    let held = match &campaign.state {
        State::Held { why, .. } if why.fails() => ", though its gate failed",
        State::Held { .. }
        | State::Running { .. }
        | State::Paused { .. }
        | State::Promoted { .. }
        | State::Aborted { .. } => "",
    };
    format!(
        "{by} promoted {} to {} for all nodes{held}: {skipped}",
        about(&campaign.target),
        campaign.to.version,
    )
}

pub(super) fn rolled_back(current: &Rollout, back: &Rollout, by: &Actor) -> String {
    let target = about(&current.target);
    match &current.candidate {
        Some(candidate) if back.stable == current.stable => format!(
            "{by} took candidate {} of {target} back; all nodes run {}",
            candidate.bundle.version, back.stable.version
        ),
        Some(_) | None => format!(
            "{by} rolled {target} back from {} to {}, all nodes at once",
            current.stable.version, back.stable.version
        ),
    }
}

pub(super) fn released(current: Option<&Rollout>, next: &Rollout, by: &Actor) -> String {
    let (target, version) = (about(&next.target), &next.stable.version);
    match current {
        Some(current) => format!(
            "{by} released {version} of {target} to all nodes at once, after {}",
            current.stable.version
        ),
        None => format!("{by} released {version} of {target} to all nodes, the first version"),
    }
}

pub(super) fn paused(campaign: &Campaign, by: &Actor) -> String {
    format!(
        "{by} paused the rollout of {} to {} in wave {}; what is out stays out",
        about(&campaign.target),
        campaign.to.version,
        wave_of(campaign)
    )
}

pub(super) fn resumed(campaign: &Campaign, by: &Actor) -> String {
    format!(
        "{by} resumed the rollout of {} to {} in wave {}",
        about(&campaign.target),
        campaign.to.version,
        wave_of(campaign)
    )
}

pub(super) fn approved(campaign: &Campaign, by: &Actor) -> String {
    format!(
        "{by} approved what follows wave {} of the rollout of {} to {}, once its gate is passed",
        wave_of(campaign),
        about(&campaign.target),
        campaign.to.version,
    )
}

fn wave_of(campaign: &Campaign) -> String {
    let wave = campaign
        .state
        .stage()
        .map_or(0, |stage: &Stage| stage.wave + 1);
    format!("{wave} of {}", campaign.policy.waves.len())
}

/// What a look comes to.
pub(super) fn decision(
    campaign: &Campaign,
    found: &Assessment,
    verdict: Verdict,
    around: &Around,
) -> String {
    let gate = campaign.policy.gate(usize::from(found.wave));
    let mut sentences = vec![format!(
        "Wave {} of {}: {}.",
        found.wave + 1,
        found.waves,
        nodes(found, gate)
    )];
    if let Some(quality) = &gate.quality {
        sentences.push(labels(found, quality));
    }
    sentences.push(conclusion(campaign, found, gate, verdict, around));
    sentences.join(" ")
}

fn nodes(found: &Assessment, gate: &Gate) -> String {
    let Census {
        nodes,
        passed: _,
        failed,
        live,
        trying,
        waiting,
        unreachable,
        crashes,
        ..
    } = found.census;
    let done = found.census.reported();
    let mut limits = Vec::new();
    limits.extend(gate.failed_max.map(|most| most.to_string()));
    limits.extend(gate.failed_share_max.map(|share| share.to_string()));
    let limit = if limits.is_empty() {
        String::new()
    } else {
        format!(" (limit {})", limits.join(" and "))
    };
    let mut parts = vec![format!(
        "{done} of {} {} done, {failed} failed{limit}",
        count(nodes, "node", "nodes"),
        if done == 1 { "is" } else { "are" }
    )];
    for (count, what) in [
        (live, "in probation"),
        (trying, "on trial"),
        (waiting, "not begun"),
        (unreachable, "unreachable"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if let Some(most) = gate.crashes_max {
        let crashes = count(crashes, "crash", "crashes");
        parts.push(format!("{crashes} (limit {most})"));
    }
    if let (Some(ratio), Some(most)) = (found.latency_ratio, gate.latency_ratio_max) {
        parts.push(format!(
            "slowest inferences {ratio:.2} times as long on the median node (limit {most})"
        ));
    }
    parts.join(", ")
}

fn labels(found: &Assessment, quality: &Quality) -> String {
    if !found.labelled {
        return "Quality: no node of the group has labels.".to_owned();
    }
    let alpha = quality.alpha;
    // Of the two tests of shadows, the one that shows something, or has more to show.
    let rank = |found: &Found| (found.shown != Shown::Nothing, found.units);
    let best = match (found.nodes, found.rounds) {
        (Some(nodes), Some(rounds)) if rank(&rounds) > rank(&nodes) => Some((
            rounds,
            count(rounds.units, "round of votes", "rounds of votes"),
        )),
        (Some(nodes), _) => Some((nodes, count(nodes.units, "node's vote", "nodes' votes"))),
        (None, _) => None,
    };
    let shadow = best.map(|(found, units)| {
        let names = ("Shadow", "the active version's");
        one_test(names, found, &units, alpha / 2.0, quality.loss_ratio_max)
    });
    let cohorts = found.pairs.map(|found| {
        let units = count(found.units, "pair of nodes", "pairs of nodes");
        let names = ("Cohorts", "the control nodes'");
        one_test(names, found, &units, alpha, quality.loss_ratio_max)
    });
    let texts: Vec<String> = shadow.into_iter().chain(cohorts).collect();
    let limit = than(quality.loss_ratio_max);
    format!(
        "{}, {} since the wave began; limit {limit}.",
        texts.join("; "),
        count(found.labels, "label", "labels"),
    )
}

fn one_test(
    (name, other): (&str, &str),
    found: Found,
    units: &str,
    alpha: f64,
    ratio_max: f64,
) -> String {
    if found.units == 0 {
        return format!("{name}: no votes yet");
    }
    let confidence = 100.0 * (1.0 - alpha);
    let estimate = than(found.ratio.estimate);
    let joint = if estimate == EQUAL { "to" } else { "than" };
    // A vote is cut, so that what is far away looks nearer.
    let (least, most) = told(ratio_max);
    let far = |ratio: f64| ratio < least + 1e-4 || ratio > most - 1e-4;
    let end = |ratio| {
        let more = if far(ratio) { " or more" } else { "" };
        format!("{}{more}", than(ratio))
    };
    let more = if far(found.ratio.estimate) {
        "at least "
    } else {
        ""
    };
    format!(
        "{name}: the candidate's loss is {more}{estimate} {joint} {other}, {confidence:.1} % confidence sequence {} to {} ({units})",
        end(found.ratio.low),
        end(found.ratio.high),
    )
}

/// A ratio of losses as people say it.
fn than(ratio: f64) -> String {
    let per_cent = 100.0 * (ratio - 1.0);
    if per_cent.abs() < 0.05 {
        EQUAL.to_owned()
    } else if per_cent < 0.0 {
        format!("{:.1} % lower", -per_cent)
    } else {
        format!("{per_cent:.1} % higher")
    }
}

fn conclusion(
    campaign: &Campaign,
    found: &Assessment,
    gate: &Gate,
    verdict: Verdict,
    around: &Around,
) -> String {
    match verdict {
        Verdict::Advance { wave } => {
            let next = campaign.policy.waves.get(usize::from(wave));
            let next = next.map(who).unwrap_or_default();
            let why = if found.passed_over() {
                "There is nobody to wait for: "
            } else {
                "Advance: "
            };
            format!("{why}wave {} begins, {next}.", wave + 1)
        }
        Verdict::Promote => format!(
            "Promote: {} is the version of all nodes.",
            campaign.to.version
        ),
        Verdict::Hold { why } => format!("Hold: {}.", reason(campaign, found, gate, why, around)),
        Verdict::Abort { why, how } => {
            let nodes = match how {
                Ending::Kept => "nodes that have it keep it",
                Ending::Reverted => "nodes that have it go back",
            };
            let reason = reason(campaign, found, gate, why, around);
            format!("Abort: {reason}; {nodes}.")
        }
    }
}

fn reason(
    campaign: &Campaign,
    found: &Assessment,
    gate: &Gate,
    why: Why,
    around: &Around,
) -> String {
    let census = found.census;
    let (reported, needed) = (census.reported(), found.reports_needed);
    match why {
        Why::Soaking => format!("the wave lasts until {} at least", found.soaks_until),
        Why::Reports if reported < needed => format!(
            "{needed} reports are needed and {reported} came; the deadline is {}",
            found.deadline
        ),
        Why::Reports => format!(
            "{} that can be reached {} not done; the deadline is {}",
            count(census.pending(), "node", "nodes"),
            if census.pending() == 1 { "is" } else { "are" },
            found.deadline
        ),
        Why::TooFewReports => format!(
            "{needed} reports are needed and {reported} came before the deadline, {}: bring nodes back, promote or abort",
            found.deadline
        ),
        Why::Labels => {
            let min = gate.quality.as_ref().map_or(0, |quality| quality.min_labels);
            let last = found.last_label.map_or_else(
                || "none came in this rollout".to_owned(),
                |last| format!("the last one came {last}"),
            );
            format!(
                "{min} labels are needed and {} came since the wave began, {last}",
                found.labels
            )
        }
        Why::Inconclusive => {
            "the labels show neither that it is good enough nor that it is too bad; more are waited for"
                .to_owned()
        }
        Why::Approval => "its gate is passed, and somebody must approve what follows".to_owned(),
        Why::ByteBudget => {
            let most = campaign.policy.bytes_per_day.map_or(0, |most| most.0);
            let (today, most) = (Bytes(around.bytes_today), Bytes(most));
            format!("{today} of the {most} of a day (UTC) are given out, and the next wave needs more than is left")
        }
        Why::Failed => format!(
            "{} failed of {} that began and {reported} that are done",
            count(census.failed, "node", "nodes"),
            census.started()
        ),
        Why::Crashes => format!("its agents crashed {} times", census.crashes),
        Why::Slow => format!(
            "its slowest inferences take {:.2} times as long on the median node",
            found.latency_ratio.unwrap_or(1.0)
        ),
        Why::Worse => "its loss is shown to be above the limit".to_owned(),
        Why::Revoked => format!("{} is revoked", campaign.to.version),
        Why::Superseded => "the group has another release".to_owned(),
        Why::Paused => paused_by(&campaign.state, found),
        Why::Operator => "somebody ended it".to_owned(),
    }
}

/// A pause says what it keeps back.
fn paused_by(state: &State, found: &Assessment) -> String {
    let by = match state {
        State::Paused { by, at, .. } => format!("{by} paused it {at}"),
        State::Running { .. }
        | State::Held { .. }
        | State::Promoted { .. }
        | State::Aborted { .. } => "it is paused".to_owned(),
    };
    match found.against.first() {
        Some(why) if why.fails() => format!("{by}, and its gate fails"),
        Some(_) => by,
        None => format!("{by}, and its gate is passed"),
    }
}

pub(in crate::rollout) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
