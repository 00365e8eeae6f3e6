//! What is promised, and how each promise is measured from what was seen.

use std::collections::BTreeSet;

use lamppost_models::Timestamp;
use lamppost_models::id::PredictionId;
use lamppost_models::message::{ActiveSlot, Quality};
use semver::Version;

use super::stage::NodeView;
use crate::api::Stored;
use crate::seen::{ErrorSum, Seen};

/// A coordinator and three nodes work, from nothing.
pub const FLEET: &str = "a fleet from nothing";
/// Forecasts reach stock clients.
pub const PREDICTIONS: &str = "forecasts over MQTT, with their error";
/// A better model is rolled out and measured on the edge.
pub const ROLLOUT: &str = "1.1.0 rolled out and measured";
/// A cut link loses nothing.
pub const OUTAGE: &str = "an outage loses nothing";
/// A broken bundle does not enter the registry.
pub const PREFLIGHT: &str = "a broken model is refused at the push";
/// An altered artifact does not run.
pub const ALTERED: &str = "an altered model is refused on the node";
/// All forecasts are stored, each once.
pub const STORED: &str = "every forecast stored, once";

/// All promises, in the order in which they are shown.
pub const ALL: [&str; 7] = [
    FLEET,
    PREDICTIONS,
    ROLLOUT,
    OUTAGE,
    PREFLIGHT,
    ALTERED,
    STORED,
];

/// From so many hours on, 1.1.0 must have the lower error: on each stretch of 450 hours of the replayed months it has, and on
/// shorter ones now and then it has not.
const HOURS_TO_JUDGE: u64 = 450;
/// Hours that a comparison needs to be one.
const HOURS_MIN: u64 = 100;
/// How far the error that a node reports may be from the one that the subscriber computes: they may part by a label or two
/// where versions change.
const LABELS_APART_MAX: u64 = 2;
/// And by how much, as a share.
const MAE_APART_MAX: f64 = 0.02;

/// What was measured of a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it came true.
    pub kept: bool,
    /// The measurements, one line each.
    pub measured: Vec<String>,
}

/// Judges the forecasts that stock subscribers saw on the nodes' own brokers.
pub fn predictions(nodes: &[NodeView]) -> Finding {
    let mut finding = Finding {
        kept: !nodes.is_empty(),
        measured: Vec::new(),
    };
    for node in nodes {
        let mut errors = ErrorSum::default();
        let truth = node.source.recording.truth();
        for version in node.seen.versions() {
            let sum = node.seen.errors(&version, truth, node.last_sent());
            errors.labels += sum.labels;
            errors.absolute += sum.absolute;
        }
        let latencies = node.seen.latencies_us();
        let at = |share: usize| {
            latencies
                .get(latencies.len() * share / 100)
                .copied()
                .unwrap_or(0) as f64
                / 1000.0
        };
        let mae = errors.mae().unwrap_or(f64::NAN);
        finding.kept &= errors.labels >= HOURS_MIN && mae.is_finite() && node.seen.twice() == 0;
        finding.measured.push(format!(
            "{}: {} forecasts, MAE {mae:.1} {} over {} h; reading to forecast {:.1} ms (median), {:.1} ms (99 %)",
            node.path,
            node.seen.len(),
            node.source.unit,
            errors.labels,
            at(50),
            at(99),
        ));
    }
    finding
}

/// Judges two versions that ran side by side on the same hours, and whether what the edge says of itself is so.
pub fn versions(old: &NodeView, new: &NodeView) -> Finding {
    let (v1, v2) = (Version::new(1, 0, 0), Version::new(1, 1, 0));
    let truth = old.source.recording.truth();
    let both = old.seen.side_by_side(&v1, &new.seen, &v2, truth);
    let hours = both.left.labels;
    let (Some(left), Some(right)) = (both.left.mae(), both.right.mae()) else {
        return Finding {
            kept: false,
            measured: vec!["the versions have no hour in common".to_owned()],
        };
    };
    let better = right < left || hours < HOURS_TO_JUDGE;
    let mut finding = Finding {
        kept: hours >= HOURS_MIN && better,
        measured: Vec::new(),
    };
    finding.measured.push(format!(
        "the same {hours} h side by side: MAE {left:.1} by {v1} ({}), {right:.1} by {v2} ({}): {:+.1} %",
        old.path.node,
        new.path.node,
        (right / left - 1.0) * 100.0
    ));
    let ended = old.model().and_then(|row| row.previous.as_ref());
    for (node, slot) in [(old, ended), (new, new.active())] {
        let (agrees, line) = slot.map_or((false, "a node reports no error".to_owned()), |slot| {
            reported(node, slot)
        });
        finding.kept &= agrees;
        finding.measured.push(line);
    }
    finding
}

/// Compares what a node reports of a version with what the subscriber computes from what it saw.
fn reported(node: &NodeView, slot: &ActiveSlot) -> (bool, String) {
    let seen = node.seen.errors(
        &slot.version,
        node.source.recording.truth(),
        node.last_sent(),
    );
    let (version, name) = (&slot.version, &node.path.node);
    match (slot.quality, seen.mae()) {
        (Some(Quality::Error { labels, mae, .. }), Some(computed)) => {
            let agrees = labels.abs_diff(seen.labels) <= LABELS_APART_MAX
                && (mae - computed).abs() <= computed * MAE_APART_MAX;
            let word = if agrees { "as" } else { "NOT as" };
            let line = format!(
                "edge {name} reports {version}: MAE {mae:.1} over {labels} h, {word} computed outside ({computed:.1} over {} h)",
                seen.labels
            );
            (agrees, line)
        }
        (Some(Quality::Accuracy { .. }), _) => (
            false,
            format!("edge {name} reports an accuracy of a forecast"),
        ),
        (None, _) | (_, None) => (false, format!("edge {name} reports no error of {version}")),
    }
}

/// An outage of one node.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    /// What was predicted before.
    pub before: BTreeSet<PredictionId>,
    /// What was predicted until its end.
    pub after: BTreeSet<PredictionId>,
    /// How long it was.
    pub seconds: f64,
    /// Whether the coordinator saw the node as down meanwhile.
    pub noticed: bool,
    /// How long it took until all of it was at the coordinator's broker, once the link was back.
    pub caught_up: Option<f64>,
}

impl Outage {
    /// What was predicted while the link was down.
    pub fn meanwhile(&self) -> BTreeSet<PredictionId> {
        self.after.difference(&self.before).copied().collect()
    }

    /// Judges it by what the coordinator has stored in the end.
    pub fn judge(&self, node: &NodeView, stored: &Stored) -> Finding {
        let meanwhile = self.meanwhile();
        let missing: Vec<_> = meanwhile.difference(&stored.ids).collect();
        let there = meanwhile.len() - missing.len();
        let caught_up = self.caught_up.map_or("never all".to_owned(), |seconds| {
            format!("all within {seconds:.1} s")
        });
        let noticed = if self.noticed {
            "marked down by the coordinator"
        } else {
            "NOT marked down by the coordinator"
        };
        let mut measured = vec![
            format!(
                "{}: link cut for {:.1} s, {noticed}; {} forecasts made meanwhile",
                node.path,
                self.seconds,
                meanwhile.len()
            ),
            format!(
                "back: {caught_up}; {there} of {} stored at the coordinator",
                meanwhile.len()
            ),
        ];
        measured.extend(whereabouts(node, &missing));
        Finding {
            kept: !meanwhile.is_empty()
                && missing.is_empty()
                && self.noticed
                && self.caught_up.is_some(),
            measured,
        }
    }
}

/// Judges what the coordinator has stored of a node against what the subscriber saw on the node's own broker.
pub fn stored(node: &NodeView, stored: &Stored) -> Finding {
    let seen = node.seen.ids();
    let missing: Vec<_> = seen.difference(&stored.ids).collect();
    let unknown = stored.ids.difference(&seen).count();
    let twice = stored.twice();
    let mut measured = vec![format!(
        "{}: {} made, {} stored; missing {}, twice {twice}, unknown {unknown}",
        node.path,
        seen.len(),
        stored.records,
        missing.len()
    )];
    measured.extend(whereabouts(node, &missing));
    Finding {
        kept: missing.is_empty()
            && twice == 0
            && unknown == 0
            && !seen.is_empty()
            && node.seen.forgotten() == 0,
        measured,
    }
}

/// Which forecasts are missing at the coordinator, if any, and how many the node has still: those are late and not lost.
fn whereabouts(node: &NodeView, missing: &[&PredictionId]) -> Option<String> {
    let ([first, .., last] | [first @ last]) = missing else {
        return None;
    };
    let outbox = node.reported.as_ref().map(|reported| &reported.outbox);
    let waiting = outbox.map_or(0, |outbox| outbox.records);
    Some(format!(
        "missing from {first} to {last}; the node says that {waiting} wait in its outbox"
    ))
}

/// Predictions of a version about hours after `since`.
pub fn later_than(seen: &Seen, version: &str, since: Timestamp) -> usize {
    version
        .parse()
        .map_or(0, |version| seen.count_later_than(&version, since))
}
