//! The key pair that signs releases: `release.key` and `release.pub` in the data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lamppost_models::release::ReleaseKey;

use crate::files;

const SECRET: &str = "release.key";
const PUBLIC: &str = "release.pub";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("{}: {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file holds no key.
    #[error("{} is not 32 bytes in base64: restore it from a backup, or move it away to get a new key, which every agent must then be told", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner can read the secret.
    #[error("{} has mode {mode:03o}, so that others can read the signing key: chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers for a new key")]
    Random(#[source] io::Error),
}

/// Reads the key pair, or makes it when there is none.
///
/// # Errors
/// [`KeyError`] when it can be neither read nor made. A key that is there is never replaced.
pub(crate) fn load_or_make(data_dir: &Path) -> Result<ReleaseKey, KeyError> {
    let path = data_dir.join(SECRET);
    let failed = |action| {
        let path = path.clone();
        move |source| KeyError::Io {
            path,
            action,
            source,
        }
    };
    let seed = match fs::read_to_string(&path) {
        Ok(text) => {
            check_mode(&path)?;
            decode(&text).ok_or_else(|| KeyError::Malformed { path: path.clone() })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|error| KeyError::Random(io::Error::other(error)))?;
            let text = format!("{}\n", BASE64.encode(seed));
            files::write_whole(&path, text.as_bytes(), 0o600)
                .map_err(failed("write the new key"))?;
            tracing::info!(path = %path.display(), "a key for signing releases was made: back it up");
            seed
        }
        Err(error) => return Err(failed("read the key")(error)),
    };
    let key = ReleaseKey::from_seed(&seed);
    let public = data_dir.join(PUBLIC);
    let text = format!("{}\n", key.public());
    if fs::read_to_string(&public).ok().as_deref() != Some(&text) {
        let written = files::write_whole(&public, text.as_bytes(), 0o644);
        written.map_err(|source| KeyError::Io {
            path: public,
            action: "write the public key",
            source,
        })?;
    }
    Ok(key)
}

fn decode(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text.trim()).ok()?.try_into().ok()
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(path);
    let metadata = metadata.map_err(|source| KeyError::Io {
        path: path.to_owned(),
        action: "read its mode",
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    // The six lowest bits are those of the group and of others.
    if mode.trailing_zeros() >= 6 {
        Ok(())
    } else {
        Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        })
    }
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), KeyError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_its_public_half_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = load_or_make(dir.path()).unwrap().public();
        fs::remove_file(dir.path().join(PUBLIC)).unwrap();
        assert_eq!(load_or_make(dir.path()).unwrap().public(), made);
        assert_eq!(
            fs::read_to_string(dir.path().join(PUBLIC)).unwrap(),
            format!("{made}\n")
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        files::write_whole(&dir.path().join(SECRET), b"half a key", 0o600).unwrap();
        assert!(matches!(
            load_or_make(dir.path()),
            Err(KeyError::Malformed { .. })
        ));
        assert_eq!(
            fs::read_to_string(dir.path().join(SECRET)).unwrap(),
            "half a key"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        load_or_make(dir.path()).unwrap();
        let path = dir.path().join(SECRET);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            load_or_make(dir.path()),
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));
    }
}
