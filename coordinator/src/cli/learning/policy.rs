//! When to train and how, from a file.

use std::path::Path;

use lamppost_coordinator_core::learning::Terms;
use lamppost_coordinator_core::rollout::policy::{Policy, Span};
use lamppost_models::id::StreamName;
use lamppost_models::{GroupId, ModelName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cli::{Exit, Failure, model};
use crate::forge::Way;

/// Longest file that is read: the shipped one has some 5 kB, with all comments.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Longest time between two looks: a day, within which an operator expects to see something.
const EVERY_MAX: Span = Span::from_hours(24);

/// A loop of one model in one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoopPolicy {
    pub(super) model: ModelName,
    pub(super) group: GroupId,
    /// Time between two looks.
    #[serde(default = "every")]
    pub(super) every: Span,
    #[serde(default)]
    pub(super) when: Terms,
    #[serde(default)]
    pub(super) samples: Samples,
    #[serde(default)]
    pub(super) train: Training,
    #[serde(default)]
    pub(super) compress: Compression,
    /// Waves and gates; the coordinator's own choice without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rollout: Option<Box<Policy>>,
}

/// Which samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Samples {
    /// Of this stream alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<StreamName>,
    /// Not older than this, before the newest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) newest: Option<Span>,
    /// Whether windows between samples are cut out of their readings.
    pub(super) between: bool,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Training {
    /// Share of the samples that says when to stop.
    pub(super) valid: f64,
    /// Share, the newest, on which all versions are compared.
    pub(super) test: f64,
    /// What differs from the recipe that `lamppost train` has.
    pub(super) recipe: Map<String, Value>,
}

/// How to make it smaller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Compression {
    /// Ways, as `lamppost compress --to` has them; none leaves it as it is.
    pub(super) to: Vec<String>,
    /// How much greater the error may be, 0.01 being 1 %.
    pub(super) max_loss: f64,
    /// How many times as fast it must be; 0 does not look.
    pub(super) min_speedup: f64,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            stream: None,
            newest: None,
            between: true,
        }
    }
}

impl Default for Training {
    fn default() -> Self {
        Self {
            valid: 0.15,
            test: 0.15,
            recipe: Map::new(),
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            to: vec!["int8".to_owned()],
            max_loss: 0.01,
            min_speedup: 0.0,
        }
    }
}

const fn every() -> Span {
    Span::from_secs(900)
}

impl LoopPolicy {
    /// The ways to make it smaller.
    pub(super) fn ways(&self) -> Result<Vec<Way>, String> {
        let way = |text: &String| {
            let named = |error| format!("compress.to is {text:?}: {error}");
            text.parse().map_err(named)
        };
        self.compress.to.iter().map(way).collect()
    }

    /// What cannot be, with its key; what trains checks its own.
    fn fault(&self) -> Option<String> {
        if self.every == Span::default() || self.every > EVERY_MAX {
            return Some(format!("every is {}: 1s to 1d", self.every));
        }
        if let Err(error) = self.when.check() {
            return Some(error.to_string());
        }
        if let Err(error) = self.ways() {
            return Some(error);
        }
        let Compression {
            max_loss,
            min_speedup,
            ..
        } = self.compress;
        for (key, value) in [
            ("compress.max_loss", max_loss),
            ("compress.min_speedup", min_speedup),
        ] {
            if !(0.0..=1000.0).contains(&value) {
                return Some(format!("{key} is {value}: 0 to 1000"));
            }
        }
        let rollout = self.rollout.as_ref()?;
        rollout
            .check()
            .err()
            .map(|error| format!("rollout: {error}"))
    }
}

/// Reads a policy.
pub(super) fn read(path: &Path) -> Result<LoopPolicy, Failure> {
    let bytes = model::read_file(path, FILE_BYTES_MAX)?;
    let wrong =
        |error: String| Failure::new(Exit::Failed, format!("policy {}: {error}", path.display()));
    let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let policy: LoopPolicy = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match policy.fault() {
        Some(fault) => Err(wrong(fault)),
        None => Ok(policy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../../configs/policies/loop.toml");

    fn fault(toml: &str) -> Option<String> {
        toml::from_str::<LoopPolicy>(&format!("model = \"m\"\ngroup = \"all\"\n{toml}"))
            .unwrap()
            .fault()
    }

    #[test]
    fn the_shipped_policy_has_the_defaults_and_its_examples_name_every_key() {
        let shipped: LoopPolicy = toml::from_str(SHIPPED).unwrap();
        let bare: LoopPolicy = toml::from_str("model = \"traffic-flow\"\ngroup = \"all\"").unwrap();
        assert_eq!(shipped, bare);
        let lines = SHIPPED
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line));
        let all: LoopPolicy =
            toml::from_str(&lines.fold(String::new(), |text, line| text + line + "\n")).unwrap();
        assert_eq!(all.fault(), None);
        let json = serde_json::to_value(&all).unwrap();
        for (table, keys) in [
            (
                &json,
                "model group every when samples train compress rollout",
            ),
            (
                &json["when"],
                "samples_min gap_min bytes_per_percent time_per_percent bytes_per_day time_per_day backoff failures_max",
            ),
            (&json["samples"], "stream newest between"),
            (&json["train"], "valid test recipe"),
            (&json["compress"], "to max_loss min_speedup"),
        ] {
            let found: Vec<&String> = table.as_object().unwrap().keys().collect();
            let mut wanted: Vec<&str> = keys.split_whitespace().collect();
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        assert_eq!(fault(""), None);
        for (toml, wanted) in [
            ("every = \"0s\"", "every is 0s: 1s to 1d"),
            ("[when]\nsamples_min = 0", "policy: when.samples_min is 0"),
            ("[compress]\nto = [\"int4\"]", "compress.to is \"int4\""),
            (
                "[compress]\nmax_loss = -1.0",
                "compress.max_loss is -1: 0 to 1000",
            ),
            ("[rollout]\nwave = []", "rollout: policy: wave is 0 waves"),
        ] {
            let found = fault(toml).unwrap();
            assert!(found.starts_with(wanted), "{found}");
        }
        assert!(toml::from_str::<LoopPolicy>("group = \"all\"").is_err());
    }
}
