//! Files that are whole or not there: written beside, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What the name of a file that is still being written starts with.
pub(crate) const PARTIAL: &str = "tmp-";

/// A name that no other file in `dir` has.
pub(crate) fn partial(dir: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(dir.join(format!("{PARTIAL}{:016x}", u64::from_le_bytes(random))))
}

/// Writes `bytes` to `path`, whole and durable when it returns; `mode` is that of the file.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let partial = partial(dir)?;
    let written = create(&partial, mode).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written
        .and_then(|()| settle(&partial, path))
        .inspect_err(|_| discard(&partial))
}

/// Gives a file that is written and synced its name, durably.
pub(crate) fn settle(partial: &Path, path: &Path) -> io::Result<()> {
    fs::rename(partial, path)?;
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Deletes a file that is no longer wanted; when that fails it is deleted at the next start.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file that is no longer wanted cannot be deleted");
    }
}

/// Makes a new file.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _: u32 = mode;
    options.open(path)
}
