//! Whether a wave may be followed by the next.

use lamppost_models::Timestamp;
use serde::{Deserialize, Serialize};

use super::census::Survey;
use super::{Around, Campaign, Census, Stage, Why};
use crate::rollout::betting::failures_e_value;
use crate::rollout::evidence::{Evidence, Found, Shown};
use crate::rollout::policy::{Approve, Gate, Inconclusive, Quality, QualityKind, Unlabelled};

/// How seldom a share of failures that is allowed may end a wave before its nodes are done: 1 in 100 rollouts.
const FAILURES_ALPHA: f64 = 0.01;

/// What is known of a campaign at a look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// The wave that is out, from 0.
    pub wave: u16,
    /// How many there are.
    pub waves: u16,
    /// Where its nodes are.
    pub census: Census,
    /// Reports that are needed now.
    pub reports_needed: u64,
    /// Until when the wave lasts at least.
    pub soaks_until: Timestamp,
    /// From then on it is judged by the nodes that reported.
    pub deadline: Timestamp,
    /// How much slower the candidate is on the median node, 1 being as fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ratio: Option<f64>,
    /// Labels of the candidate since the wave began.
    pub labels: u64,
    /// When the last label came, by the coordinator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_label: Option<Timestamp>,
    /// Whether any node of the group has labels at all.
    pub labelled: bool,
    /// Candidate against active version in shadows, a vote a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Found>,
    /// Candidate against active version in shadows, a vote a node and block of labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Found>,
    /// Candidate against control nodes, a vote a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Found>,
    /// Whether the wave exposes anybody that was not exposed before it.
    pub adds: bool,
    /// All that stands against the next wave, the gravest first; empty when nothing does.
    pub against: Vec<Why>,
}

impl Assessment {
    /// Whether the wave has nobody that the one before had not, while a later one may: there is nothing to wait for. The
    /// last one never is passed over, so that no version becomes stable without reports.
    pub(super) const fn passed_over(&self) -> bool {
        self.census.group > 0 && !self.adds && self.wave + 1 < self.waves
    }

    fn found(&self) -> impl Iterator<Item = &Found> {
        [&self.nodes, &self.rounds, &self.pairs]
            .into_iter()
            .flatten()
    }
}

/// Judges the wave that is out.
pub(super) fn assess(
    campaign: &Campaign,
    stage: &Stage,
    evidence: &Evidence,
    mut survey: Survey,
    around: &Around,
) -> Assessment {
    let wave = usize::from(stage.wave);
    let gate = campaign.policy.gate(wave);
    let of_wave = campaign.policy.waves.get(wave);
    let soak = of_wave.map_or(0, |wave| wave.soak.as_secs());
    let after = |seconds: u64| {
        let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        stage.since.offset_ms(ms)
    };
    let census = survey.census;
    let mut found = Assessment {
        wave: stage.wave,
        waves: u16::try_from(campaign.policy.waves.len()).unwrap_or(u16::MAX),
        census,
        reports_needed: u64::from(gate.min_reports),
        soaks_until: after(soak),
        deadline: after(campaign.policy.deadline(wave).as_secs()),
        latency_ratio: None,
        labels: evidence.head().labels.saturating_sub(stage.labels_before),
        last_label: evidence.head().last_label,
        labelled: survey.labelled || evidence.head().labels > 0,
        nodes: None,
        rounds: None,
        pairs: None,
        adds: census.nodes > stage.nodes_before,
        against: Vec::new(),
    };
    let now = around.terms.now;
    let late = now >= found.deadline;
    if !late {
        let share = u64::from(gate.reported_share_min.hundredths());
        let of_share = census.nodes.saturating_mul(share).div_ceil(10_000);
        found.reports_needed = found.reports_needed.max(of_share);
    }
    // Also a gate that asks for none goes on only by what somebody reported.
    found.reports_needed = found.reports_needed.max(1);
    let enough = census.reported() >= found.reports_needed;
    let complete = enough && (late || census.pending() == 0);
    if survey.latency.len() as u64 >= found.reports_needed {
        found.latency_ratio = median(&mut survey.latency);
    }
    if let Some(quality) = &gate.quality {
        look_at_labels(&mut found, quality, evidence);
    }
    let quality = gate.quality.as_ref();
    failures(&mut found, gate, complete);
    let worse = found.found().any(|found| found.shown == Shown::Worse);
    push_if(&mut found, worse, Why::Worse);
    if !complete {
        let why = if late {
            Why::TooFewReports
        } else {
            Why::Reports
        };
        found.against.push(why);
    }
    let soaking = now < found.soaks_until;
    push_if(&mut found, soaking, Why::Soaking);
    if let Some(quality) = quality {
        labels(&mut found, quality);
    }
    let short = bytes_are_short(campaign, &survey, around);
    push_if(&mut found, short, Why::ByteBudget);
    let manual = of_wave.is_some_and(|wave| wave.approve == Approve::Manual);
    push_if(
        &mut found,
        manual && stage.approved.is_none(),
        Why::Approval,
    );
    found
}

fn push_if(found: &mut Assessment, holds: bool, why: Why) {
    if holds {
        found.against.push(why);
    }
}

fn failures(found: &mut Assessment, gate: &Gate, complete: bool) {
    let census = found.census;
    let count = gate
        .failed_max
        .is_some_and(|most| census.failed > u64::from(most));
    let share = gate.failed_share_max.is_some_and(|share| {
        let allowed = f64::from(share.hundredths()) / 10_000.0;
        let of_reported = census.failed as f64 > allowed * census.reported() as f64;
        // Before all are done, a few early failures say little: only what refutes the allowed share counts.
        let refuted = failures_e_value(census.failed, census.started(), allowed);
        (complete && of_reported) || refuted >= 1.0 / FAILURES_ALPHA
    });
    push_if(found, count || share, Why::Failed);
    let crashed = gate
        .crashes_max
        .is_some_and(|most| census.crashes > u64::from(most));
    push_if(found, crashed, Why::Crashes);
    let slow = gate
        .latency_ratio_max
        .is_some_and(|most| found.latency_ratio.is_some_and(|ratio| ratio > most));
    push_if(found, slow, Why::Slow);
}

fn look_at_labels(found: &mut Assessment, quality: &Quality, evidence: &Evidence) {
    let (shadow, cohorts) = match quality.kind {
        QualityKind::Shadow => (true, false),
        QualityKind::Cohorts => (false, true),
        QualityKind::Both => (true, true),
    };
    if shadow {
        found.nodes = Some(evidence.by_nodes(quality));
        found.rounds = Some(evidence.by_rounds(quality));
    }
    if cohorts {
        found.pairs = Some(evidence.by_pairs(quality));
    }
}

fn labels(found: &mut Assessment, quality: &Quality) {
    let skipped = !found.labelled && quality.unlabelled == Unlabelled::Skip;
    if skipped {
        return;
    }
    if found.adds && found.labels < quality.min_labels {
        found.against.push(Why::Labels);
        return;
    }
    let good = |found: Option<Found>| found.is_some_and(|found| found.shown == Shown::GoodEnough);
    let shadow = found.nodes.is_none() || good(found.nodes) || good(found.rounds);
    let cohorts = found.pairs.is_none() || good(found.pairs);
    let open = !(shadow && cohorts) && quality.inconclusive == Inconclusive::Hold;
    push_if(found, open, Why::Inconclusive);
}

/// Whether the next wave would give out more than is left of the day. One that is larger than a day's bytes begins while
/// at least half of them are left; what the day does not hold waits for the next.
fn bytes_are_short(campaign: &Campaign, survey: &Survey, around: &Around) -> bool {
    let Some(most) = campaign.policy.bytes_per_day else {
        return false;
    };
    let added = survey.next_nodes.saturating_sub(survey.census.nodes);
    let wanted = added.saturating_mul(campaign.to.bytes).min(most.0 / 2);
    added > 0 && around.bytes_today.saturating_add(wanted) > most.0
}

/// The upper median: the vote of one node moves it by one place at most.
fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}
