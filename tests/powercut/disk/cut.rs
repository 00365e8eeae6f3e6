//! What is left when the power is cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Change, Disk, File, NameChange, Names, Node, Pending, put};
use lamppost_tests::rng::Rng;

const SECTOR: usize = 512;

impl Disk {
    /// What the disk need not have kept: of each file its writes, with offset and length.
    pub(crate) fn unsynced(&self) -> String {
        let mut parts = Vec::new();
        for entries in self.current.values() {
            for (name, node) in entries {
                let pending = self.files[*node].iter().flat_map(|file| &file.pending);
                let writes: Vec<String> = pending.map(Pending::describe).collect();
                if !writes.is_empty() {
                    parts.push(format!("{name} {}", writes.join(" ")));
                }
            }
        }
        parts.join(", ")
    }

    /// Cuts the power now, and lays what is left into the empty directory `to`.
    pub(crate) fn cut(&self, names: Names, rng: &mut Rng, to: &Path) -> anyhow::Result<()> {
        let entries = self.names_after_cut(names, rng);
        // Nothing that was not synced, all of it, or anything between.
        let kept_percent = [0, 100, 50, 90, 10][rng.index(0, 4)];
        self.lay(0, &entries, kept_percent, rng, to)
    }

    fn names_after_cut(
        &self,
        names: Names,
        rng: &mut Rng,
    ) -> BTreeMap<Node, BTreeMap<String, Node>> {
        let safe = |dir: Option<Node>| {
            let is_safe = |change: &NameChange| {
                change.synced && dir.is_none_or(|wanted| wanted == change.dir)
            };
            let last = self.names.iter().rposition(|step| step.iter().any(is_safe));
            last.map_or(0, |last| last + 1)
        };
        let end = self.names.len();
        let shared = rng.index(safe(None), end);
        let mut ends = BTreeMap::new();
        let mut entries: BTreeMap<Node, BTreeMap<String, Node>> = BTreeMap::new();
        for (at, step) in self.names.iter().enumerate() {
            for change in step {
                let end_of_dir = match names {
                    Names::Journal => shared,
                    Names::Apart => *ends
                        .entry(change.dir)
                        .or_insert_with(|| rng.index(safe(Some(change.dir)), end)),
                };
                if at >= end_of_dir {
                    continue;
                }
                let entries = entries.entry(change.dir).or_default();
                match change.to {
                    Some(node) => entries.insert(change.name.clone(), node),
                    None => entries.remove(&change.name),
                };
            }
        }
        entries
    }

    fn lay(
        &self,
        dir: Node,
        entries: &BTreeMap<Node, BTreeMap<String, Node>>,
        kept_percent: u64,
        rng: &mut Rng,
        to: &Path,
    ) -> anyhow::Result<()> {
        for (name, &node) in entries.get(&dir).into_iter().flatten() {
            let path = to.join(name);
            if let Some(file) = &self.files[node] {
                fs::write(&path, file.after_cut(kept_percent, rng))?;
            } else {
                fs::create_dir(&path)?;
                self.lay(node, entries, kept_percent, rng, &path)?;
            }
        }
        Ok(())
    }
}

impl Pending {
    fn describe(&self) -> String {
        match &self.change {
            Change::Write { offset, bytes } => format!("{offset}+{}", bytes.len()),
            Change::Resize(length) => format!("={length}"),
        }
    }
}

impl File {
    fn after_cut(&self, kept_percent: u64, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for pending in &self.pending {
            match &pending.change {
                Change::Resize(_) if !rng.chance(kept_percent) => {}
                whole @ Change::Resize(_) => whole.apply(&mut bytes),
                Change::Write {
                    offset,
                    bytes: written,
                } => {
                    // The length may be there without the bytes.
                    if rng.chance(kept_percent) {
                        let end = offset + written.len();
                        bytes.resize(bytes.len().max(end), 0);
                    }
                    let torn = rng.chance(50);
                    let whole = rng.chance(kept_percent);
                    for (at, sector) in sectors(*offset, written) {
                        let is_kept = if torn {
                            rng.chance(kept_percent)
                        } else {
                            whole
                        };
                        if is_kept {
                            put(&mut bytes, at, sector);
                        }
                    }
                }
            }
        }
        bytes
    }
}

/// A write, cut where the sectors of its file end.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = (SECTOR - offset % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    let behind = (offset + first..).step_by(SECTOR).zip(rest.chunks(SECTOR));
    [(offset, head)].into_iter().chain(behind)
}
