//! How a candidate spreads through a group, and what must hold before it goes on.

use lamppost_models::rollout::{Exposure, Hours, Share, Tag, TrialTerms};
use lamppost_models::{GroupId, NodePath};
use serde::{Deserialize, Serialize};

mod builtin;
pub(super) mod check;
mod terms;
mod text;

pub use check::PolicyError;
pub(crate) use check::error;
pub use text::{Bytes, ParseTextError, Span};

/// Most waves: a week of one a night and one in reserve fits twice, and a campaign's record stays small.
pub const WAVES_MAX: usize = 16;
/// Most bytes of a policy's name.
pub const POLICY_NAME_BYTES_MAX: usize = 64;

/// How a candidate spreads through a group. TOML and JSON; what is left out is as in [`Policy::canary`], apart from the
/// waves, which have no default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What it is called, for people.
    #[serde(default)]
    pub name: String,
    /// The waves in their order. What one of them names is exposed in all that follow too.
    #[serde(rename = "wave")]
    pub waves: Vec<Wave>,
    /// The share that is held back to compare with until the end.
    #[serde(default, with = "text::share")]
    pub control: Share,
    /// When nodes download and change, in the time zone of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Most downloads at once by nodes with the same value of the tag `backhaul`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloads_per_backhaul: Option<u32>,
    /// Most bytes of the bundle that are given out in a day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<Bytes>,
    /// From then on, counted from a wave's beginning, it is judged by the nodes that reported.
    #[serde(default = "builtin::deadline")]
    pub deadline: Span,
    /// What must hold at the end of each wave that has no gate of its own.
    #[serde(default)]
    pub gate: Gate,
    /// What each node checks by itself.
    #[serde(default = "builtin::trial", deserialize_with = "terms::deserialize")]
    pub trial: TrialTerms,
}

/// One widening of the exposure. At least one of share, groups, tags and nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wave {
    /// The share of the group that is exposed from now on, in all; what it was before, if missing.
    #[serde(with = "text::share_option", skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Groups that join.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupId>,
    /// Tags whose nodes join, as `name=value`.
    #[serde(with = "text::tags", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Nodes that join, as `site/node`.
    #[serde(with = "text::nodes", skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodePath>,
    /// How long it lasts at least.
    pub soak: Span,
    /// Its own gate, in place of the policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Whether somebody must agree to what follows it.
    pub approve: Approve,
    /// Its own deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

/// Who lets the wave after this one begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approve {
    /// The gate alone.
    #[default]
    Auto,
    /// The gate, and then somebody.
    Manual,
}

/// What must hold before the next wave. A limit that is missing is not looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// Nodes whose trial must be over; without them nothing advances, deadline or not.
    pub min_reports: u32,
    /// Share of the wave's nodes whose trial must be over, before the deadline.
    #[serde(with = "text::share")]
    pub reported_share_min: Share,
    /// Most nodes that refused the candidate or went back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_max: Option<u32>,
    /// Most of the nodes that reported which may have refused it or gone back.
    #[serde(with = "text::share_option", skip_serializing_if = "Option::is_none")]
    pub failed_share_max: Option<Share>,
    /// Most crashes of agents in probation, of each node three at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crashes_max: Option<u32>,
    /// Most that the 99th percentile of the inference time may have grown on the median node, 1.5 being half as much again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ratio_max: Option<f64>,
    /// How right it must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// What becomes of the rollout when a limit is passed.
    pub on_fail: OnFail,
}

/// How right a candidate must be, by labels that came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// What is compared.
    pub kind: QualityKind,
    /// Most of the active version's loss that the candidate may have, 1.05 being 5 % worse: it fails when it is shown to be
    /// above, and passes when it is shown to be below.
    pub loss_ratio_max: f64,
    /// Chance that a test which may be looked at any time ever errs, either way.
    pub alpha: f64,
    /// Labels of both versions that must have come since the wave began, of all nodes together; none if it added no node.
    pub min_labels: u64,
    /// Labels that a node needs for one vote in a round: enough that the errors of one vote tell little of those of the next.
    /// Two days of hourly ones: on real hourly errors, votes of one day err three times as often as `alpha` says.
    pub block: u64,
    /// What happens when neither is shown.
    pub inconclusive: Inconclusive,
    /// What happens when no node of the group ever reported a label.
    pub unlabelled: Unlabelled,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QualityKind {
    /// Candidate and active version on the same windows of the same node.
    #[default]
    Shadow,
    /// Nodes that run the candidate and control nodes, each with itself before.
    Cohorts,
    /// Both: either can fail it, and both must pass.
    Both,
}

/// What happens when the labels show neither that a candidate is too bad nor that it is good enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inconclusive {
    /// The rollout waits for more labels.
    #[default]
    Hold,
    /// It goes on: nothing speaks against it.
    Advance,
}

/// What happens when a model has no labels at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlabelled {
    /// The rollout waits.
    #[default]
    Hold,
    /// Quality is not judged, and each decision says so. Once a label came, labels are waited for.
    Skip,
}

/// What becomes of a rollout whose gate fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// It ends, and the nodes go back.
    #[default]
    AbortRevert,
    /// It ends, and the nodes that have the candidate keep it.
    AbortKeep,
    /// It waits for somebody.
    Hold,
}

impl Policy {
    /// The exposure of a wave, by its number from 0: all that it and those before it name. Beyond the last, that of the last.
    pub fn exposure(&self, wave: usize) -> Exposure {
        let mut exposure = Exposure::default();
        for wave in self.waves.iter().take(wave.saturating_add(1)) {
            exposure.share = exposure.share.max(wave.share.unwrap_or(Share::NONE));
            let Wave {
                groups,
                tags,
                nodes,
                ..
            } = wave;
            join(&mut exposure.groups, groups);
            join(&mut exposure.tags, tags);
            join(&mut exposure.nodes, nodes);
        }
        exposure
    }

    /// The gate at the end of a wave.
    pub fn gate(&self, wave: usize) -> &Gate {
        let own = self.waves.get(wave).and_then(|wave| wave.gate.as_ref());
        own.unwrap_or(&self.gate)
    }

    /// The first question about quality that a gate asks; the others ask the same but for the labels they need.
    pub fn quality(&self) -> Option<&Quality> {
        let mut gates = (0..self.waves.len()).map(|wave| self.gate(wave));
        gates.find_map(|gate| gate.quality.as_ref())
    }

    /// The deadline of a wave.
    pub fn deadline(&self, wave: usize) -> Span {
        let own = self.waves.get(wave).and_then(|wave| wave.deadline);
        own.unwrap_or(self.deadline)
    }
}

fn join<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        builtin::gate()
    }
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            kind: QualityKind::Shadow,
            loss_ratio_max: 1.05,
            alpha: 0.05,
            min_labels: 48,
            block: 48,
            inconclusive: Inconclusive::Hold,
            unlabelled: Unlabelled::Hold,
        }
    }
}

#[cfg(test)]
mod tests;
