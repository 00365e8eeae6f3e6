//! What the nodes of a made-up city say: one model, one stream, an outbox, and a trial that is over.
//!
//! It is made as JSON, as it would arrive: what the coordinator keeps of it depends on how it reads it.

use lamppost_models::{BootId, Digest, NodePath, Timestamp};
use serde_json::{Value, json};

/// The one group.
pub(crate) const GROUP: &str = "city";
/// The one model.
pub(crate) const MODEL: &str = "traffic-flow";

/// Cabinets that share a backhaul.
const NODES_PER_SITE: usize = 40;

/// A version of the model.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) version: semver::Version,
    pub(crate) digest: Digest,
}

/// How far a node is with the version after the one that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It does not know of it.
    Before,
    /// It runs it in shadow.
    Shadow,
    /// It runs it for good.
    Passed,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: NodePath,
    boot: BootId,
    number: usize,
}

impl Node {
    pub(crate) fn new(number: usize) -> anyhow::Result<Self> {
        Ok(Self {
            path: NodePath {
                site: format!("district-{:04}", number / NODES_PER_SITE).parse()?,
                node: format!("gw-{number:06}").parse()?,
            },
            boot: BootId::from_u64(0x9f3a_0000_0000_0000 | number as u64),
            number,
        })
    }

    /// Its status while it runs, some 300 bytes.
    pub(crate) fn status(&self, at: Timestamp) -> Value {
        json!({
            "v": 1, "state": "up", "boot": self.boot, "at": at, "agent": "0.1.0", "groups": [GROUP],
            "tags": { "backhaul": format!("5g-{}", self.number / NODES_PER_SITE), "kind": "traffic" },
        })
    }

    /// Its report, some 2,300 bytes after a trial; `labels` of them came so far.
    pub(crate) fn report(
        &self,
        at: Timestamp,
        [from, to]: [&Version; 2],
        rollout: Option<&str>,
        trial: Trial,
        labels: u64,
    ) -> Value {
        let slot = |of: &Version, predictions: u64| {
            json!({
                "version": of.version, "digest": of.digest, "since": at.offset_ms(-86_400_000),
                "predictions": predictions, "last_inference": at.offset_ms(-1_000),
                "quality": { "kind": "error", "labels": predictions - 1, "mae": 168.75, "rmse": 255.25 },
            })
        };
        let mut row = json!({ "name": MODEL, "active": slot(from, 1_200 + labels), "release": 1 });
        if trial != Trial::Before {
            row["release"] = json!(2);
            row["trial"] = trial_report(to, rollout, trial, at, labels.max(30));
        }
        match trial {
            Trial::Before => {}
            Trial::Shadow => {
                row["candidate"] = json!({
                    "version": to.version, "digest": to.digest,
                    "state": "shadowing", "windows": labels, "of": 100,
                });
            }
            Trial::Passed => {
                row["previous"] = slot(from, 1_200);
                row["active"] = slot(to, 10 + labels);
            }
        }
        json!({
            "v": 1, "boot": self.boot, "at": at, "models": [row],
            "streams": [{
                "name": "i94-volume", "model": MODEL, "last_reading": at.offset_ms(-1_000),
                "readings": 1_225 + labels, "malformed": 2, "late": 1, "duplicate": 3, "unfit": 23, "dropped": 0,
                "no_model": 0, "failed": 0, "predictions": 1_200 + labels, "labels": 1_199 + labels, "unlabelled": 0,
            }],
            "outbox": {
                "batches": 0, "records": 0, "bytes": 4096, "evicted": 0, "expired": 0, "lost_batches": 0,
                "unwritten": 0, "gaps": [],
                "lanes": [lane("event", 1 << 20), lane("prediction", 256 << 20), lane("sample", 64 << 20)],
                "budget": { "since": at, "used_bytes": 1_234_567, "limit_bytes": 20_000_000 },
            },
        })
    }
}

fn lane(class: &str, cap_bytes: u64) -> Value {
    json!({ "class": class, "batches": 0, "records": 0, "bytes": 0, "cap_bytes": cap_bytes })
}

fn trial_report(
    to: &Version,
    rollout: Option<&str>,
    trial: Trial,
    at: Timestamp,
    labels: u64,
) -> Value {
    let side = |mean: f64| {
        json!({
            "failures": 0, "latency_p50_us": 12, "latency_p99_us": 30,
            "loss": { "n": labels, "mean": mean, "m2": 1000.25 },
        })
    };
    let mut report = json!({
        "version": to.version, "digest": to.digest, "release": 2, "since": at.offset_ms(-3_600_000),
        "phase": "candidate", "fetched_bytes": 36_864,
        "shadow": {
            "windows": labels, "left_out": 1, "candidate": side(150.5), "active": side(160.0),
            "disagreement": { "n": labels, "mean": 14.5, "m2": 90.0 },
            "loss_difference": { "n": labels, "mean": -9.5, "m2": 400.0 },
        },
    });
    if let Some(rollout) = rollout {
        report["rollout"] = json!(rollout);
    }
    if trial == Trial::Passed {
        report["phase"] = json!("passed");
        report["probation"] = json!({
            "windows": 50, "crashes": 0, "active": side(150.5), "before": side(160.0),
        });
    }
    report
}
