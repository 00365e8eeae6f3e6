//! Names in the store. A name has no `/`, so that none can be mistaken for another.

use lamppost_coordinator_core::Mark;
use lamppost_coordinator_core::rollout::Rollout;
use lamppost_models::ledger::Class;
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

pub(super) fn mark(path: &NodePath, mark: &Mark) -> String {
    let below = marks(path);
    match mark {
        Mark::Early(boot) => format!("{below}p/{boot}"),
        Mark::Batches(epoch) => format!("{below}b/{epoch}"),
        Mark::Boot(boot) => format!("{below}r/{boot}"),
        Mark::Stream(boot, class, stream) => format!("{below}s/{boot}/{class}/{stream}"),
        Mark::Sums(class, stream) => format!("{below}f/{class}/{stream}"),
        Mark::Node => format!("{below}n/"),
    }
}

/// Reads what stands behind [`marks`] in the name of a mark.
pub(super) fn parse_mark(below: &str) -> Option<Mark> {
    let of_class = |below: &str| {
        let (class, stream) = below.split_once('/')?;
        let class = Class::ALL
            .into_iter()
            .find(|known| known.as_str() == class)?;
        Some((class, stream.parse().ok()?))
    };
    match below.split_once('/')? {
        ("p", boot) => boot.parse().ok().map(Mark::Early),
        ("b", epoch) => epoch.parse().ok().map(Mark::Batches),
        ("r", boot) => boot.parse().ok().map(Mark::Boot),
        ("s", below) => {
            let (boot, below) = below.split_once('/')?;
            let (class, stream) = of_class(below)?;
            Some(Mark::Stream(boot.parse().ok()?, class, stream))
        }
        ("f", below) => of_class(below).map(|(class, stream)| Mark::Sums(class, stream)),
        ("n", "") => Some(Mark::Node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lamppost_models::{BootId, Epoch};

    use super::*;

    #[test]
    fn the_longest_names_fit_into_a_key() {
        let long = "n".repeat(64);
        let path = NodePath {
            site: long.parse().unwrap(),
            node: long.parse().unwrap(),
        };
        assert!(page(&path, u64::MAX).len() <= lamppost_store::KEY_BYTES_MAX);
        let boot = BootId::from_u64(u64::MAX);
        let stream = || long.parse().unwrap();
        for mark in [
            Mark::Early(boot),
            Mark::Batches(Epoch::from_u64(7)),
            Mark::Boot(boot),
            Mark::Stream(boot, Class::Prediction, stream()),
            Mark::Sums(Class::Sample, stream()),
            Mark::Node,
        ] {
            let key = self::mark(&path, &mark);
            assert!(key.len() <= lamppost_store::KEY_BYTES_MAX, "{key}");
            assert_eq!(parse_mark(&key[marks(&path).len()..]), Some(mark));
        }
        assert_eq!(parse_mark("p/ffffffffffffffff"), Some(Mark::Early(boot)));
        for wrong in [
            "x/ffffffffffffffff",
            "s/ffffffffffffffff/rumour/a",
            "n/x",
            "f/event",
            "",
        ] {
            assert_eq!(parse_mark(wrong), None, "{wrong}");
        }
    }
}
