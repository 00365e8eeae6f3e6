//! For which nodes a candidate is meant, and what each of them checks before and after it goes live.
//!
//! A release is one message whatever the number of nodes: each decides by itself, from its own name, groups and tags,
//! whether it is exposed to the candidate, held back as control, or neither. The coordinator computes the same.

use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{GroupId, RolloutId, TagName, TagValue};
use crate::release::BundleRef;
use crate::topic::NodePath;

mod hours;
mod tags;

pub use hours::{Hours, MinuteOfWeek, ParseHoursError};
pub use tags::Tags;

/// Most groups, tags and nodes each that an exposure names: with the longest names an envelope still has room for them.
pub const EXPOSURE_NAMES_MAX: usize = 64;
/// Most tags of a node.
pub const TAGS_MAX: usize = 16;

const HOUR_S: u64 = 3600;

/// A share of nodes in hundredths of a per cent, 0 to 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Share(u16);

/// A share that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("share {0} is not 0 to 10000 hundredths of a per cent")]
pub struct ShareError(u16);

/// One tag that a node must have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// Its name.
    pub name: TagName,
    /// Its value.
    pub value: TagValue,
}

/// A version that some nodes of a group are to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    #[serde(flatten)]
    pub bundle: BundleRef,
    /// The rollout that it is part of; also what is hashed with a node's name, so that each rollout has cohorts of its own.
    pub rollout: RolloutId,
    /// The nodes that it is meant for.
    pub exposure: Exposure,
    /// The share that is held back to compare with, from the far end of the hash.
    #[serde(default)]
    pub control: Share,
}

/// The nodes that a candidate is meant for: those for which any of these holds. It only grows within a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exposure {
    /// Their place in the hash is below this.
    pub share: Share,
    /// They are in one of these groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupId>,
    /// They have one of these tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// They are one of these, also where they would be control.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodePath>,
}

/// A node, as far as exposure depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its name.
    pub path: &'a NodePath,
    /// Its groups.
    pub groups: &'a [GroupId],
    /// Its tags.
    pub tags: &'a Tags,
}

/// On which side of a rollout a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cohort {
    /// It is to run the candidate.
    Candidate,
    /// It is held back, to compare with.
    Control,
    /// Its wave has not come.
    Later,
}

/// What a node checks before a bundle replaces another one, and for how long it can still go back by itself.
///
/// What is missing is not checked. Preflight (digest, limits, golden vectors) always is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialTerms {
    /// Most of the active version's 99th percentile of inference time that the candidate may take, 1.5 being half as much again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ratio_max: Option<f64>,
    /// Longest 99th percentile of inference time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us_max: Option<u64>,
    /// Most memory that opening and running the bundle may add, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    /// Beside the active version, on the live stream, with nobody seeing its predictions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// As the active version, with the way back open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<Probation>,
}

/// A candidate beside the active version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shadow {
    /// Windows that both must have had.
    pub windows: u64,
    /// Labels that both must have met.
    pub labels: u64,
    /// How long labels are waited for once there were enough windows; then what there is decides.
    pub time_s_max: u64,
    /// Share of one processor that the candidate may take, above 0 to 1: windows above it are left out.
    pub cpu_share: f64,
    /// Failed inferences (an error, an output that is not finite, no answer in time) from which on it is refused.
    pub failures: u64,
    /// Mean difference to the active version above which it is refused: in the prediction's unit, or the share of other labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disagreement_max: Option<f64>,
    /// Most of the active version's mean error on the same windows that it may have, 1.05 being 5 % worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_ratio_max: Option<f64>,
}

/// A new active version that is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probation {
    /// Windows until it is over.
    pub windows: u64,
    /// Labels until it is over.
    pub labels: u64,
    /// How long labels are waited for once there were enough windows.
    pub time_s_max: u64,
    /// Failed inferences from which on the node goes back.
    pub failures: u64,
    /// Crashes of the agent within it from which on the node goes back.
    pub crashes: u64,
    /// Most of the version before's mean error that it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_ratio_max: Option<f64>,
}

impl Share {
    /// No node.
    pub const NONE: Self = Self(0);
    /// Every node.
    pub const ALL: Self = Self(10_000);

    /// A share in hundredths of a per cent.
    ///
    /// # Errors
    /// [`ShareError`] above 10,000.
    pub const fn new(hundredths: u16) -> Result<Self, ShareError> {
        if hundredths <= Self::ALL.0 {
            Ok(Self(hundredths))
        } else {
            Err(ShareError(hundredths))
        }
    }

    /// Hundredths of a per cent.
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        if part == 0 {
            write!(f, "{whole} %")
        } else {
            write!(f, "{whole}.{part:02} %")
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u16::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Candidate {
    /// On which side of the rollout a node is.
    pub fn cohort(&self, who: Who<'_>) -> Cohort {
        let Exposure {
            share,
            groups,
            tags,
            nodes,
        } = &self.exposure;
        if nodes.contains(who.path) {
            return Cohort::Candidate;
        }
        let place = place(self.rollout, who.path);
        if place >= Share::ALL.0 - self.control.0 {
            return Cohort::Control;
        }
        let tagged = |tag: &Tag| who.tags.get(&tag.name) == Some(&tag.value);
        let exposed = place < share.0
            || groups.iter().any(|group| who.groups.contains(group))
            || tags.iter().any(tagged);
        if exposed {
            Cohort::Candidate
        } else {
            Cohort::Later
        }
    }
}

/// A node's place in a rollout, 0 to 9,999: the first eight bytes (big-endian) of the SHA-256 of `<rollout> <site>/<node>`,
/// modulo 10,000.
pub fn place(rollout: RolloutId, path: &NodePath) -> u16 {
    let digest = Digest::of(format!("{rollout} {}/{}", path.site, path.node).as_bytes());
    let first = digest
        .as_bytes()
        .iter()
        .take(8)
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    u16::try_from(first % u64::from(Share::ALL.0)).unwrap_or_default()
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            windows: 20,
            labels: 0,
            time_s_max: HOUR_S,
            cpu_share: 0.25,
            failures: 1,
            disagreement_max: None,
            error_ratio_max: None,
        }
    }
}

impl Default for Probation {
    fn default() -> Self {
        Self {
            windows: 50,
            labels: 0,
            time_s_max: HOUR_S,
            failures: 3,
            crashes: 2,
            error_ratio_max: None,
        }
    }
}

#[cfg(test)]
mod tests;
