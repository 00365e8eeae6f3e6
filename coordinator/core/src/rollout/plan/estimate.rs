//! How long a rollout takes at least.

use lamppost_models::trial::TrialPhase;

use super::{Added, Fleet, Pace};
use crate::inventory::Inventory;
use crate::rollout::Target;
use crate::rollout::campaign::Campaign;
use crate::rollout::policy::{Approve, Span};

impl Pace {
    /// What the last trials of a model took on the nodes of a group, from their beginning to the version being active: the
    /// median. How fast downloads are, reports do not say; who serves them knows.
    pub fn measured(inventory: &Inventory, target: &Target) -> Self {
        let mut seconds: Vec<u64> = inventory
            .nodes()
            .filter(|entry| {
                let status = entry.status.as_ref();
                status.is_some_and(|status| status.groups.contains(&target.group))
            })
            .filter_map(|entry| {
                let reported = entry.reported.as_ref()?;
                let row = reported
                    .models
                    .iter()
                    .find(|row| row.name == target.model)?;
                let (active, trial) = (row.active.as_ref()?, row.trial.as_ref()?);
                let went_live = match trial.phase {
                    TrialPhase::Probation | TrialPhase::Passed => active.digest == trial.digest,
                    TrialPhase::Candidate
                    | TrialPhase::Refused { .. }
                    | TrialPhase::RolledBack { .. }
                    | TrialPhase::Withdrawn => false,
                };
                let took_ms = active.since.ms_since(trial.since);
                let seconds = u64::try_from(took_ms).ok()? / 1000;
                went_live.then_some(seconds)
            })
            .collect();
        seconds.sort_unstable();
        let median = seconds.get(seconds.len() / 2).copied();
        Self {
            bytes_per_s: None,
            trial: median.map(Span::from_secs),
        }
    }
}

/// How long a wave takes at least: its soak, or what its nodes need if that is longer.
pub(super) fn wave(campaign: &Campaign, number: usize, added: &Added, pace: Pace) -> Span {
    let soak = campaign
        .policy
        .waves
        .get(number)
        .map_or(0, |wave| wave.soak.as_secs());
    if added.nodes == 0 {
        return Span::from_secs(soak);
    }
    let of_nodes = transfer_s(campaign, added, pace) + pace.trial.map_or(0, Span::as_secs);
    Span::from_secs(soak.max(of_nodes))
}

/// The downloads of the fullest backhaul, so many at once as the policy allows; or of the day's bytes, if that is longer.
fn transfer_s(campaign: &Campaign, added: &Added, pace: Pace) -> u64 {
    let policy = &campaign.policy;
    let turns = match policy.downloads_per_backhaul {
        Some(at_once) => {
            let fullest = added.by_backhaul.values().copied().max().unwrap_or(0);
            fullest.max(1).div_ceil(u64::from(at_once.max(1)))
        }
        None => 1,
    };
    let one_s = pace
        .bytes_per_s
        .filter(|rate| *rate > 0.0)
        .map_or(0.0, |rate| campaign.to.bytes as f64 / rate);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and no time is below 0"
    )]
    let by_link_s = (one_s * turns as f64).ceil() as u64;
    let by_budget_s = policy.bytes_per_day.map_or(0, |most| {
        let bytes = added.nodes.saturating_mul(campaign.to.bytes);
        // What fits into the first day takes none, and the second may begin a moment later: days are those of UTC.
        let days_between = bytes.div_ceil(most.0.max(1)).saturating_sub(2);
        days_between.saturating_mul(86_400)
    });
    by_link_s.max(by_budget_s)
}

/// What the estimate does not know.
pub(super) fn unknown(campaign: &Campaign, fleet: &Fleet, pace: Pace) -> Vec<String> {
    let policy = &campaign.policy;
    let mut unknown = Vec::new();
    if pace.trial.is_none() {
        unknown
            .push("how long a trial takes: no node of the group has been through one".to_owned());
    }
    if pace.bytes_per_s.is_none() {
        unknown.push("how fast the links of the nodes are".to_owned());
    }
    if let Some(hours) = policy.hours {
        unknown.push(format!(
            "when it is {hours} on each node: nodes wait for their hours, a week at most"
        ));
    }
    if policy
        .waves
        .iter()
        .any(|wave| wave.approve == Approve::Manual)
    {
        unknown.push("when somebody approves".to_owned());
    }
    if fleet.unreachable > 0 {
        unknown.push(format!(
            "when the {} unreachable nodes are back: waves do not wait for them beyond their share, and for none after the deadline",
            fleet.unreachable
        ));
    }
    if fleet.labelled && policy.quality().is_some() {
        unknown.push("how fast labels come".to_owned());
    }
    unknown
}
