//! What does not fit this fleet: refused where a rollout could never end, said where it may surprise.

use std::fmt;

use super::{Fleet, PlannedWave};
use crate::rollout::betting;
use crate::rollout::campaign::{Campaign, Refusal, count};
use crate::rollout::policy::{Bytes, Inconclusive, Quality, QualityKind, Unlabelled, check};

fn error(field: String, value: impl fmt::Display, mend: String) -> Refusal {
    Refusal::Policy(check::error(field, value, mend))
}

/// Refuses what can never come true.
pub(super) fn refuse(campaign: &Campaign, fleet: &Fleet) -> Result<(), Refusal> {
    let (policy, target) = (&campaign.policy, &campaign.target);
    if fleet.nodes == 0 {
        return Err(Refusal::Nobody {
            group: target.group.clone(),
            model: target.model.clone(),
        });
    }
    let mut exposed = 0;
    for (number, (wave, added)) in policy.waves.iter().zip(&fleet.waves).enumerate() {
        exposed += added.nodes;
        let field = |key: &str| format!("wave {}: {key}", number + 1);
        for group in &wave.groups {
            if !fleet.groups.contains_key(group) {
                let mend = format!(
                    "no node of group {} that uses {} is in it: check the name, or take it out",
                    target.group, target.model
                );
                return Err(error(field("groups"), group, mend));
            }
        }
        let last = number + 1 == policy.waves.len();
        let min = u64::from(policy.gate(number).min_reports);
        if min > exposed && (exposed > 0 || last) {
            let mend = format!(
                "the wave has {}, so that its gate can never pass: lower it, or widen the wave",
                count(exposed, "node", "nodes")
            );
            return Err(error(field("gate.min_reports"), min, mend));
        }
    }
    Ok(())
}

/// What to think of before it begins.
pub(super) fn warnings(campaign: &Campaign, fleet: &Fleet, waves: &[PlannedWave]) -> Vec<String> {
    let policy = &campaign.policy;
    let mut warnings = Vec::new();
    for (number, (wave, planned)) in policy.waves.iter().zip(waves).enumerate() {
        let number = number + 1;
        if planned.nodes == 0 {
            warnings.push(format!("wave {number} has no nodes and is passed over"));
        } else if planned.added == 0 {
            warnings.push(format!("wave {number} adds no node to those before"));
        } else if planned.unreachable == planned.added {
            warnings.push(format!(
                "no node that wave {number} adds can be reached now"
            ));
        }
        for tag in &wave.tags {
            let known = (tag.name.clone(), tag.value.clone());
            if !fleet.tags.contains_key(&known) {
                let (name, value) = (&tag.name, &tag.value);
                warnings.push(format!(
                    "wave {number} names the tag {name}={value}, which no node of the group has"
                ));
            }
        }
        for node in wave.nodes.iter().filter(|node| !fleet.named.contains(node)) {
            warnings.push(format!(
                "wave {number} names {node}, which is not in the group, does not use the model, or was never heard of"
            ));
        }
    }
    first_real_wave(fleet, waves, &mut warnings);
    if policy.control.hundredths() > 0 && fleet.control == 0 {
        warnings.push(format!(
            "the control cohort of {} is empty: no node of the {} falls into it",
            policy.control, fleet.nodes
        ));
    }
    let bounded = policy.downloads_per_backhaul.is_some();
    if bounded && fleet.backhauled < fleet.nodes {
        warnings.push(format!(
            "{} nodes have no tag `backhaul`, so that downloads_per_backhaul does not bound theirs apart",
            fleet.nodes - fleet.backhauled
        ));
    }
    if let Some(most) = policy.bytes_per_day {
        for (number, wave) in waves.iter().enumerate() {
            if wave.bytes > most.0 {
                warnings.push(format!(
                    "wave {} fetches up to {}, more than the {most} of a day: it takes several",
                    number + 1,
                    Bytes(wave.bytes)
                ));
            }
        }
    }
    if let Some(quality) = policy.quality() {
        of_quality(quality, campaign, fleet, &mut warnings);
    }
    warnings
}

/// A first wave that is most of the group protects nobody.
fn first_real_wave(fleet: &Fleet, waves: &[PlannedWave], warnings: &mut Vec<String>) {
    let first = waves.iter().enumerate().find(|(_, wave)| wave.nodes > 0);
    let Some((number, wave)) = first else { return };
    if fleet.nodes > 1 && wave.nodes * 2 > fleet.nodes {
        warnings.push(format!(
            "the first wave with nodes, wave {}, has {} of {}: name one node for a smaller start",
            number + 1,
            wave.nodes,
            fleet.nodes
        ));
    }
}

fn of_quality(quality: &Quality, campaign: &Campaign, fleet: &Fleet, warnings: &mut Vec<String>) {
    if !fleet.labelled {
        let then = match quality.unlabelled {
            Unlabelled::Hold => "its gates will hold until labels come",
            Unlabelled::Skip => "quality is not judged until labels come",
        };
        warnings.push(format!("no node of the group reports labels: {then}"));
    }
    of_labels(campaign, fleet, warnings);
    if quality.inconclusive == Inconclusive::Advance {
        return;
    }
    let exposed: u64 = fleet.waves.iter().map(|wave| wave.nodes).sum();
    let units = betting::units_needed(quality.alpha / 2.0) as u64;
    let shadow = campaign.policy.trial.shadow.as_ref();
    let rounds = shadow.map_or(0, |shadow| shadow.labels / quality.block.max(1));
    if quality.kind != QualityKind::Cohorts && exposed < units && rounds < units {
        warnings.push(format!(
            "a proof takes {units} votes at least, and {exposed} nodes with {rounds} blocks of {} labels each give fewer: raise trial.shadow.labels to {}, or set inconclusive = \"advance\"",
            quality.block,
            units.saturating_mul(quality.block)
        ));
    }
    let pairs = betting::units_needed(quality.alpha) as u64;
    if quality.kind != QualityKind::Shadow && fleet.control < pairs {
        warnings.push(format!(
            "a proof takes {pairs} pairs at least, and there are {} control nodes: raise control, or set inconclusive = \"advance\"",
            fleet.control
        ));
    }
}

/// A wave whose shadows end before its gate has the labels it needs.
fn of_labels(campaign: &Campaign, fleet: &Fleet, warnings: &mut Vec<String>) {
    let policy = &campaign.policy;
    let shadow = policy.trial.shadow.as_ref();
    let of_node = shadow.map_or(0, |shadow| shadow.labels);
    for (number, added) in fleet.waves.iter().take(policy.waves.len()).enumerate() {
        let Some(quality) = &policy.gate(number).quality else {
            continue;
        };
        let given = added.nodes.saturating_mul(of_node);
        let short = added.nodes > 0 && given < quality.min_labels;
        if short && quality.kind == QualityKind::Shadow && fleet.labelled {
            warnings.push(format!(
                "wave {} needs {} labels, and {} new nodes with {of_node} each in shadow give {given}: lower min_labels, or raise trial.shadow.labels",
                number + 1,
                quality.min_labels,
                added.nodes,
            ));
        }
    }
}
