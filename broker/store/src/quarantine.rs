//! Where damaged stores go: a directory beside the store, with a bound on how many it keeps.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;

/// The directory's name.
const DIR: &str = "quarantine";

/// Moves a damaged store away and deletes the oldest ones over the limit. Returns where it is, or would have been.
pub(crate) fn take(store: &Path, keep_max: usize) -> io::Result<PathBuf> {
    let parent = disk::parent(store);
    let dir = parent.join(DIR);
    disk::create_dir(&dir)?;
    let kept = numbered(&dir)?;
    let next = kept
        .last()
        .map_or(0, |(number, _)| number.saturating_add(1));
    let name = store
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let to = dir.join(format!("{next:08}.{name}"));
    fs::rename(store, &to)?;
    disk::sync_dir(&dir)?;
    disk::sync_dir(parent)?;
    let over = (kept.len() + 1).saturating_sub(keep_max);
    for (_, old) in numbered(&dir)?.into_iter().take(over) {
        tracing::warn!(path = %old.display(), keep_max, "deleting the oldest quarantined store");
        fs::remove_dir_all(&old)?;
    }
    Ok(to)
}

/// What is in quarantine, oldest first. Names that are not ours are left alone.
fn numbered(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.split_once('.'))
            .and_then(|(number, _)| number.parse().ok());
        found.extend(number.map(|number: u64| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(parent: &Path, name: &str) -> PathBuf {
        let store = parent.join(name);
        fs::create_dir(&store).unwrap();
        fs::write(store.join("db"), name).unwrap();
        store
    }

    #[test]
    fn keeps_the_newest() {
        let parent = tempfile::tempdir().unwrap();
        let taken: Vec<PathBuf> = ["a", "b", "c"]
            .map(|name| take(&damaged(parent.path(), name), 2).unwrap())
            .into_iter()
            .collect();
        assert!(!taken[0].exists());
        assert_eq!(fs::read_to_string(taken[1].join("db")).unwrap(), "b");
        assert_eq!(fs::read_to_string(taken[2].join("db")).unwrap(), "c");
    }

    #[test]
    fn keeps_none_if_told_so() {
        let parent = tempfile::tempdir().unwrap();
        let to = take(&damaged(parent.path(), "a"), 0).unwrap();
        assert!(!to.exists());
        assert!(!parent.path().join("a").exists());
    }

    #[test]
    fn leaves_foreign_names_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir_all(parent.path().join("quarantine/notes")).unwrap();
        take(&damaged(parent.path(), "a"), 0).unwrap();
        assert!(parent.path().join("quarantine/notes").exists());
    }
}
