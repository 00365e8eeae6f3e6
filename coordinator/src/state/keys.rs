//! Names in the store. A name has no `/`, so that none can be mistaken for another.

use lamppost_coordinator_core::Mark;
use lamppost_coordinator_core::rollout::Rollout;
use lamppost_coordinator_core::rollout::campaign::Campaign;
use lamppost_coordinator_core::samples::{BlockId, SampleId};
use lamppost_models::id::RolloutId;
use lamppost_models::ledger::Class;
use lamppost_models::{BootId, Digest, ModelName, NodePath, StreamName};
use semver::Version;

use crate::downloads::Day;

pub(super) const MODELS: &str = "model/";
pub(super) const NODES: &str = "node/";
pub(super) const ROLLOUTS: &str = "rollout/";
pub(super) const CAMPAIGNS: &str = "campaign/";
pub(super) const EVIDENCE: &str = "evidence/";
pub(super) const GIVEN: &str = "given/";
pub(super) const AUDIT_HEAD: &str = "audit/head";
pub(super) const AUDIT_BASE: &str = "audit/base";
/// The keys that sign, as the audit log told of them last.
pub(super) const TRUSTED: &str = "audit/keys";
pub(super) const SAMPLES: &str = "sample/r/";
pub(super) const SAMPLE_BLOCKS: &str = "sample/b/";
pub(super) const SAMPLE_COUNTS: &str = "sample/counts";
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

/// A campaign; those of a target in the order of their start.
pub(super) fn campaign(campaign: &Campaign) -> String {
    let (target, id) = (&campaign.target, campaign.id);
    let started_ms = campaign.started_at.as_ms().max(0);
    format!(
        "{CAMPAIGNS}{}/{}/{started_ms:016x}-{id}",
        target.group, target.model
    )
}

/// What stands before all that nodes showed to a campaign.
pub(super) fn evidence(id: RolloutId) -> String {
    format!("{EVIDENCE}{id}/")
}

pub(super) fn evidence_head(id: RolloutId) -> String {
    format!("{}h", evidence(id))
}

pub(super) fn evidence_rows(id: RolloutId) -> String {
    format!("{}n/", evidence(id))
}

pub(super) fn evidence_row(id: RolloutId, path: &NodePath) -> String {
    format!("{}{path}", evidence_rows(id))
}

/// The campaign in the name of something that nodes showed to it.
pub(super) fn parse_evidence(key: &[u8]) -> Option<RolloutId> {
    let below = std::str::from_utf8(key).ok()?.strip_prefix(EVIDENCE)?;
    below.split_once('/')?.0.parse().ok()
}

/// `<site>/<node>`.
pub(super) fn parse_path(text: &[u8]) -> Option<NodePath> {
    let (site, node) = std::str::from_utf8(text).ok()?.split_once('/')?;
    Some(NodePath {
        site: site.parse().ok()?,
        node: node.parse().ok()?,
    })
}

/// The least key behind all that begin with `prefix`, which ends with a `/`.
pub(super) fn behind(prefix: &str) -> Vec<u8> {
    let mut key = prefix.as_bytes().to_vec();
    if let Some(last) = key.last_mut() {
        *last = last.saturating_add(1);
    }
    key
}

pub(super) fn audit(number: u64) -> String {
    format!("audit/e/{number:016x}")
}

/// What stands before the bytes that were given out on a day.
pub(super) fn given_on(day: Day) -> String {
    format!("{GIVEN}{:08}/", day.0.max(0))
}

pub(super) fn given(day: Day, digest: Digest) -> String {
    format!("{}{}", given_on(day), digest.hex())
}

/// Reads [`given`].
pub(super) fn parse_given(key: &[u8]) -> Option<(Day, Digest)> {
    let below = std::str::from_utf8(key).ok()?.strip_prefix(GIVEN)?;
    let (day, hex) = below.split_once('/')?;
    let digest = format!("sha256:{hex}").parse().ok()?;
    Some((Day(day.parse().ok()?), digest))
}

pub(super) fn shelf(path: &NodePath) -> String {
    format!("{SHELVES}{path}")
}

pub(super) fn page(path: &NodePath, page: u64) -> String {
    format!("page/{path}/{page:016x}")
}

pub(super) fn sample(id: &SampleId) -> String {
    numbered(SAMPLES, &id.path, &id.stream, id.boot, id.seq)
}

/// The least key behind that of a sample.
pub(super) fn sample_end(id: &SampleId) -> Vec<u8> {
    [sample(id).as_bytes(), &[0]].concat()
}

/// Reads [`sample`].
pub(super) fn parse_sample(key: &[u8]) -> Option<SampleId> {
    let (path, stream, boot, seq) = parse_numbered(SAMPLES, key)?;
    Some(SampleId {
        path,
        stream,
        boot,
        seq,
    })
}

pub(super) fn sample_block(id: &BlockId) -> String {
    numbered(SAMPLE_BLOCKS, &id.path, &id.stream, id.boot, id.number)
}

/// Reads [`sample_block`].
pub(super) fn parse_sample_block(key: &[u8]) -> Option<BlockId> {
    let (path, stream, boot, number) = parse_numbered(SAMPLE_BLOCKS, key)?;
    Some(BlockId {
        path,
        stream,
        boot,
        number,
    })
}

fn numbered(
    prefix: &str,
    path: &NodePath,
    stream: &StreamName,
    boot: BootId,
    number: u64,
) -> String {
    format!("{prefix}{path}/{stream}/{boot}/{number:016x}")
}

fn parse_numbered(prefix: &str, key: &[u8]) -> Option<(NodePath, StreamName, BootId, u64)> {
    let below = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let (above, number) = below.rsplit_once('/')?;
    let (above, boot) = above.rsplit_once('/')?;
    let (path, stream) = above.rsplit_once('/')?;
    Some((
        parse_path(path.as_bytes())?,
        stream.parse().ok()?,
        boot.parse().ok()?,
        u64::from_str_radix(number, 16).ok()?,
    ))
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
    use lamppost_models::Epoch;

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
        let id = SampleId {
            path: path.clone(),
            stream: stream(),
            boot,
            seq: u64::MAX,
        };
        let key = sample_end(&id);
        assert!(key.len() <= lamppost_store::KEY_BYTES_MAX);
        assert_eq!(parse_sample(sample(&id).as_bytes()).as_ref(), Some(&id));
        let key = sample_block(&id.block());
        assert_eq!(parse_sample_block(key.as_bytes()), Some(id.block()));
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
