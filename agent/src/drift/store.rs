//! A drift monitor on the disk.
//!
//! As a slot record, it is one line, `lamppost-drift 1 sha256:<hex>`, and JSON whose digest the line has; written beside the
//! old one, synced and renamed. What is damaged is not used: the reference is then collected anew.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use lamppost_models::Digest;
use serde::de::DeserializeOwned;

const HEADER: &str = "lamppost-drift 1 ";
/// Largest file that is read: 1,024 rows of 16 numbers, or 64 periods of 16 times 32 counters, have some 250 kB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What was written, if it is there and whole.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match bytes(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what was seen of drift cannot be read: it begins anew");
            return None;
        }
    };
    let parsed = parse(&bytes);
    if parsed.is_none() {
        tracing::warn!(path = %path.display(), "what was seen of drift is damaged, or another version's: it begins anew");
    }
    parsed
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, json) = bytes.split_at_checked(line_end + 1)?;
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let wanted: Digest = line.strip_prefix(HEADER)?.parse().ok()?;
    (Digest::of(json) == wanted).then(|| serde_json::from_slice(json).ok())?
}

/// Writes durably, whole or not at all.
pub(super) fn write(path: &Path, json: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let new = path.with_added_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{HEADER}{}\n", Digest::of(json)).as_bytes())?;
    file.write_all(json)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drift").join("i94.volume.json");
        assert_eq!(read::<Vec<u8>>(&path), None);
        write(&path, b"[1,2]").unwrap();
        write(&path, b"[3]").unwrap();
        assert_eq!(read::<Vec<u8>>(&path), Some(vec![3]));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(read::<Vec<u8>>(&path), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(read::<Vec<u8>>(&path), None, "cut at {at}");
        }
    }
}
