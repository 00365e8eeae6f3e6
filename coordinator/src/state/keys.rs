//! Names in the store. A name has no `/`, so that none can be mistaken for another.

use lamppost_coordinator_core::Mark;
use lamppost_coordinator_core::rollout::Rollout;
use lamppost_models::{ModelName, NodePath};
use semver::Version;

pub(super) const MODELS: &str = "model/";
pub(super) const NODES: &str = "node/";
pub(super) const ROLLOUTS: &str = "rollout/";
const SHELVES: &str = "shelf/";

pub(super) fn model(name: &ModelName, version: &Version) -> String {
    format!("{MODELS}{name}/{version}")
}

pub(super) fn node(path: &NodePath) -> String {
    format!("{NODES}{path}")
}

pub(super) fn rollout(rollout: &Rollout) -> String {
    let target = &rollout.target;
    format!(
        "{ROLLOUTS}{}/{}/{:016x}",
        target.group, target.model, rollout.sequence.0
    )
}

pub(super) fn shelf(path: &NodePath) -> String {
    format!("{SHELVES}{path}")
}

pub(super) fn page(path: &NodePath, page: u64) -> String {
    format!("page/{path}/{page:016x}")
}

pub(super) fn marks(path: &NodePath) -> String {
    format!("seen/{path}/")
}

pub(super) fn mark(path: &NodePath, mark: Mark) -> String {
    let below = marks(path);
    match mark {
        Mark::Predictions(boot) => format!("{below}p/{boot}"),
        Mark::Batches(epoch) => format!("{below}b/{epoch}"),
    }
}

/// Reads what stands behind [`marks`] in the name of a mark.
pub(super) fn parse_mark(below: &str) -> Option<Mark> {
    match below.split_once('/')? {
        ("p", boot) => boot.parse().ok().map(Mark::Predictions),
        ("b", epoch) => epoch.parse().ok().map(Mark::Batches),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lamppost_models::BootId;

    use super::*;

    #[test]
    fn the_longest_names_fit_into_a_key() {
        let long = "n".repeat(64);
        let path = NodePath {
            site: long.parse().unwrap(),
            node: long.parse().unwrap(),
        };
        let mark = Mark::Predictions(BootId::from_u64(u64::MAX));
        for key in [page(&path, u64::MAX), self::mark(&path, mark)] {
            assert!(key.len() <= lamppost_store::KEY_BYTES_MAX, "{key}");
        }
        assert_eq!(parse_mark("p/ffffffffffffffff"), Some(mark));
        assert_eq!(parse_mark("x/ffffffffffffffff"), None);
    }
}
