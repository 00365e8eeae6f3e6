//! A snapshot that is on the disk before sled acts on it.
//!
//! An opening of sled reads the log from the last snapshot on, writes a new snapshot, and overwrites the segments in which
//! nothing lives any more. It syncs neither the new snapshot's name nor the order of the two. A power cut may then leave
//! the old snapshot with a segment that is half overwritten: sled takes that for the end of the log and drops all that
//! came later, which was committed. With the new snapshot in place such a segment lies before what is read.
//!
//! So the new snapshot is made first, from a copy of the log, and made durable; the opening itself then finds nothing to
//! add to it. The copy is deleted at once and is not synced: most of it never reaches the disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::disk;
use crate::guard::{self, guarded};
use crate::open::{LOG, SETTINGS, config};
use crate::options::Options;

/// Where the copy is, within the store's directory.
const SCRATCH: &str = "opening";
/// The copy's buffer: small beside sled's two segments.
const BUFFER_BYTES: usize = 64 * 1024;

/// Makes the snapshot of the next opening durable. What cannot be copied or opened is left to the opening itself, so that a
/// full disk keeps nobody from reading what is there.
pub(crate) fn settle(path: &Path, options: &Options) {
    let scratch = path.join(SCRATCH);
    if let Err(error) = settle_in(path, &scratch, options) {
        tracing::warn!(store = %path.display(), %error, "cannot prepare the opening of a store; a power cut within it could cost data");
    }
    if let Err(error) = remove(&scratch) {
        tracing::warn!(store = %path.display(), %error, "cannot delete the copy that an opening made");
    }
}

fn settle_in(path: &Path, scratch: &Path, options: &Options) -> io::Result<()> {
    let is_empty = fs::metadata(path.join(LOG)).map_or(true, |log| log.len() == 0);
    if is_empty {
        return Ok(());
    }
    remove(scratch)?;
    fs::create_dir(scratch)?;
    let before = snapshots(path)?;
    for name in [LOG, SETTINGS]
        .into_iter()
        .chain(before.iter().map(String::as_str))
    {
        match copy(&path.join(name), &scratch.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let config = config(scratch, options);
    // Damage is found again, and dealt with, by the opening itself.
    let Ok(db) = guarded(move || config.open()) else {
        return Ok(());
    };
    guard::drop_db(scratch, db);
    let Some(newest) = snapshots(scratch)?.pop() else {
        return Ok(());
    };
    if !before.contains(&newest) {
        // sled ignores this ending.
        let unfinished = path.join(format!("{newest}.generating"));
        copy(&scratch.join(&newest), &unfinished)?;
        disk::sync_file(&unfinished)?;
        fs::rename(&unfinished, path.join(&newest))?;
    }
    // Also for a snapshot that was there: its name may not have reached the disk.
    disk::sync_dir(path)?;
    disk::remove_files(path, |name| name.starts_with("snap.") && name != newest)?;
    Ok(())
}

/// Names of snapshots, oldest first.
fn snapshots(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_str().filter(|name| name.starts_with("snap."));
        names.extend(name.map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        to.write_all(bytes)?;
    }
}

fn remove(scratch: &Path) -> io::Result<()> {
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
