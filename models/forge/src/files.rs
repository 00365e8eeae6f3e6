//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Why a file was not written or read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot {doing}")]
pub struct FileError {
    /// Which file.
    pub path: String,
    /// What failed.
    pub doing: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn of(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self {
            path,
            doing,
            source,
        }
    }
}

/// Writes a file under another name beside its place, syncs it, and renames it: a reader, a crash or a full disk sees the
/// old file or the new one. What a failure leaves is removed; what a crash leaves is overwritten by the next write.
///
/// # Errors
/// [`FileError`] says which step failed; the old file is untouched then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    let written = write(path, &beside, bytes);
    if written.is_err() {
        // It may not even have been made.
        drop(fs::remove_file(&beside));
    }
    written
}

fn write(path: &Path, beside: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(beside).map_err(FileError::of(beside, "create it"))?;
    file.write_all(bytes)
        .map_err(FileError::of(beside, "write it"))?;
    file.sync_all().map_err(FileError::of(beside, "sync it"))?;
    drop(file);
    fs::rename(beside, path).map_err(FileError::of(path, "rename the finished file to it"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let synced = File::open(&folder).and_then(|folder| folder.sync_all());
    synced.map_err(FileError::of(&folder, "sync the folder"))
}

/// Reads a file of at most `limit` bytes; none where there is no such file.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let length = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::of(path, "look at it")(error)),
    };
    if length > limit {
        let error = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {length} bytes, the limit is {limit}"),
        );
        return Err(FileError::of(path, "read it")(error));
    }
    fs::read(path)
        .map(Some)
        .map_err(FileError::of(path, "read it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_whole(&path, b"old").unwrap();
        // A folder in the place of the file that is written beside.
        fs::create_dir(folder.path().join("file.tmp")).unwrap();
        let error = write_whole(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("cannot create it"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir(folder.path().join("file.tmp")).unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
