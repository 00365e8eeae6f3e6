//! What a subscriber saw, by prediction id: what is missing, what came twice, how wrong it was.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use lamppost_models::id::PredictionId;
use lamppost_models::{Prediction, Timestamp};
use semver::Version;

/// Most predictions that are remembered: ten minutes of a node at 200 a second. What comes after is counted.
pub const SEEN_MAX: usize = 120_000;

/// The predictions of one node, as somebody saw them.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    by_id: BTreeMap<PredictionId, Forecast>,
    twice: u64,
    forgotten: u64,
    newest: Option<PredictionId>,
}

/// What is remembered of a prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The version that made it.
    pub version: Version,
    /// What it is about.
    pub target: Timestamp,
    /// What it says.
    pub value: f64,
    /// From the reading's arrival to the end of inference.
    pub latency_us: u64,
}

/// How wrong some forecasts were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorSum {
    /// Forecasts whose truth is known.
    pub labels: u64,
    /// Sum of their absolute errors.
    pub absolute: f64,
}

impl ErrorSum {
    /// Mean absolute error, when there is any label.
    pub fn mae(self) -> Option<f64> {
        (self.labels > 0).then(|| self.absolute / self.labels as f64)
    }

    /// Adds one forecast.
    pub fn add(&mut self, value: f64, truth: f64) {
        self.labels += 1;
        self.absolute += (value - truth).abs();
    }
}

/// Two versions on the same hours.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SideBySide {
    /// Errors of the one.
    pub left: ErrorSum,
    /// Errors of the other, on the same hours.
    pub right: ErrorSum,
}

impl Seen {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a prediction; false when its id came before.
    pub fn note(&mut self, prediction: &Prediction) -> bool {
        if self.by_id.len() >= SEEN_MAX {
            self.forgotten += 1;
            return true;
        }
        match self.by_id.entry(prediction.id) {
            Entry::Occupied(_) => {
                self.twice += 1;
                false
            }
            Entry::Vacant(entry) => {
                entry.insert(Forecast {
                    version: prediction.model.version.clone(),
                    target: prediction.target_ts.unwrap_or(prediction.ts),
                    value: prediction.value.unwrap_or(f64::NAN),
                    latency_us: prediction.latency_us,
                });
                self.newest = Some(prediction.id);
                true
            }
        }
    }

    /// How many different predictions came.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How often an id came again.
    pub const fn twice(&self) -> u64 {
        self.twice
    }

    /// How many came after [`SEEN_MAX`].
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The ids.
    pub fn ids(&self) -> BTreeSet<PredictionId> {
        self.by_id.keys().copied().collect()
    }

    /// Whether all of these came.
    pub fn has_all(&self, ids: &BTreeSet<PredictionId>) -> bool {
        ids.iter().all(|id| self.by_id.contains_key(id))
    }

    /// The one that came last.
    pub fn newest(&self) -> Option<&Forecast> {
        self.newest.and_then(|id| self.by_id.get(&id))
    }

    /// How many came of a version about hours after `since`.
    pub fn count_later_than(&self, version: &Version, since: Timestamp) -> usize {
        self.by_id
            .values()
            .filter(|forecast| forecast.version == *version && forecast.target > since)
            .count()
    }

    /// The versions that made them.
    pub fn versions(&self) -> BTreeSet<Version> {
        self.by_id
            .values()
            .map(|forecast| forecast.version.clone())
            .collect()
    }

    /// The latencies, smallest first.
    pub fn latencies_us(&self) -> Vec<u64> {
        let mut latencies: Vec<u64> = self
            .by_id
            .values()
            .map(|forecast| forecast.latency_us)
            .collect();
        latencies.sort_unstable();
        latencies
    }

    /// Errors of a version against what came true, for targets up to `until`.
    pub fn errors(
        &self,
        version: &Version,
        truth: &BTreeMap<Timestamp, f64>,
        until: Timestamp,
    ) -> ErrorSum {
        let mut sum = ErrorSum::default();
        for forecast in self
            .by_id
            .values()
            .filter(|forecast| forecast.version == *version && forecast.target <= until)
        {
            if let Some(&came) = truth.get(&forecast.target) {
                sum.add(forecast.value, came);
            }
        }
        sum
    }

    /// Errors of `version` here and of another version there, on those hours that both predicted.
    pub fn side_by_side(
        &self,
        version: &Version,
        other: &Self,
        other_version: &Version,
        truth: &BTreeMap<Timestamp, f64>,
    ) -> SideBySide {
        let of = |seen: &Self, version: &Version| -> BTreeMap<Timestamp, f64> {
            let forecasts = seen
                .by_id
                .values()
                .filter(|forecast| forecast.version == *version);
            forecasts
                .map(|forecast| (forecast.target, forecast.value))
                .collect()
        };
        let (here, there) = (of(self, version), of(other, other_version));
        let mut both = SideBySide::default();
        for (target, value) in here {
            if let (Some(&other), Some(&came)) = (there.get(&target), truth.get(&target)) {
                both.left.add(value, came);
                both.right.add(other, came);
            }
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use lamppost_models::id::BootId;

    use super::*;

    fn prediction(number: u64, version: &str, hour: i64, value: f64) -> Prediction {
        let digest = lamppost_models::Digest::of(b"x");
        serde_json::from_value(serde_json::json!({
            "v": 1, "id": PredictionId { boot: BootId::from_u64(7), number }, "ts": Timestamp::from_ms((hour - 1) * 3_600_000).unwrap(),
            "target_ts": Timestamp::from_ms(hour * 3_600_000).unwrap(), "stream": "s", "seq": number, "boot": BootId::from_u64(7),
            "model": { "name": "m", "version": version, "digest": digest }, "value": value, "latency_us": 1, "replay": false,
        }))
        .unwrap()
    }

    #[test]
    fn counts_what_comes_twice_and_compares_the_same_hours_only() {
        let truth: BTreeMap<_, _> = (0..10)
            .map(|h| (Timestamp::from_ms(h * 3_600_000).unwrap(), 100.0))
            .collect();
        let (old, new): (Version, Version) = ("1.0.0".parse().unwrap(), "1.1.0".parse().unwrap());
        let (mut left, mut right) = (Seen::new(), Seen::new());
        for hour in 0..5 {
            assert!(left.note(&prediction(
                u64::try_from(hour).unwrap(),
                "1.0.0",
                hour,
                90.0
            )));
        }
        assert!(!left.note(&prediction(3, "1.0.0", 3, 90.0)));
        for hour in 3..8 {
            right.note(&prediction(
                u64::try_from(hour).unwrap(),
                "1.1.0",
                hour,
                105.0,
            ));
        }
        assert_eq!(
            (left.len(), left.twice(), right.len(), right.twice()),
            (5, 1, 5, 0)
        );
        let both = left.side_by_side(&old, &right, &new, &truth);
        assert_eq!(
            (both.left.labels, both.left.mae(), both.right.mae()),
            (2, Some(10.0), Some(5.0))
        );
        let until = Timestamp::from_ms(3_600_000).unwrap();
        assert_eq!(left.errors(&old, &truth, until).labels, 2);
        assert_eq!(ErrorSum::default().mae(), None);
    }
}
