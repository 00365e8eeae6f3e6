//! Files of secret keys, and those that sign releases: the files of the configuration, or `release.key` in the data
//! directory, which is made when it is needed first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lamppost_models::key::{PublicKey, SecretKey};
use lamppost_models::release::ReleaseKey;
use lamppost_models::{Envelope, Release};

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
    /// Two files hold the same key.
    #[error("{} holds a key that releases.signers names before: name each once", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers for a new key")]
    Random(#[source] io::Error),
}

/// The keys that sign releases and times; one or more.
#[derive(Debug)]
pub(crate) struct Signers {
    first: SecretKey,
    further: Vec<SecretKey>,
}

impl Signers {
    /// Reads the configured files; without any, the data directory's own, which is made when there is none.
    ///
    /// # Errors
    /// [`KeyError`] when one can be neither read nor made. A key that is there is never replaced.
    pub(crate) fn load(data_dir: &Path, files: &[PathBuf]) -> Result<Self, KeyError> {
        let Some((first, rest)) = files.split_first() else {
            return Ok(Self {
                first: load_or_make(data_dir)?,
                further: Vec::new(),
            });
        };
        let mut signers = Self {
            first: read_secret(first)?,
            further: Vec::new(),
        };
        for path in rest {
            let key = read_secret(path)?;
            if signers.public().contains(&key.public()) {
                return Err(KeyError::Twice { path: path.clone() });
            }
            signers.further.push(key);
        }
        Ok(signers)
    }

    /// Signs a release with all of them.
    pub(crate) fn sign(&self, release: &Release) -> Result<Envelope, serde_json::Error> {
        Envelope::seal(release, &self.first, &self.further)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SecretKey> {
        std::iter::once(&self.first).chain(&self.further)
    }

    /// Their public halves.
    pub(crate) fn public(&self) -> Vec<PublicKey> {
        self.all().map(SecretKey::public).collect()
    }
}

/// Reads the data directory's key pair, or makes it when there is none.
fn load_or_make(data_dir: &Path) -> Result<ReleaseKey, KeyError> {
    let path = data_dir.join(SECRET);
    let key = match read_secret(&path) {
        Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = make_secret(&path)?;
            tracing::info!(path = %path.display(), "a key for signing releases was made: back it up");
            key
        }
        read => read?,
    };
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

/// Reads a file with a secret key, which others must not be able to read.
///
/// # Errors
/// [`KeyError`] when it cannot be read, holds no key, or others can read it.
pub(crate) fn read_secret(path: &Path) -> Result<SecretKey, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        action: "read the key",
        source,
    })?;
    check_mode(path)?;
    let seed = decode(&text).ok_or_else(|| KeyError::Malformed {
        path: path.to_owned(),
    })?;
    Ok(SecretKey::from_seed(&seed))
}

/// Makes a key and writes its secret half to a file that is not there, for its owner's eyes only.
///
/// # Errors
/// [`KeyError`] when the file is there already or cannot be written, or the system gives no random numbers.
pub(crate) fn make_secret(path: &Path) -> Result<SecretKey, KeyError> {
    let failed = |source| KeyError::Io {
        path: path.to_owned(),
        action: "write the new key",
        source,
    };
    if path.try_exists().map_err(failed)? {
        return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| KeyError::Random(io::Error::other(error)))?;
    let text = format!("{}\n", BASE64.encode(seed));
    files::write_whole(path, text.as_bytes(), 0o600).map_err(failed)?;
    Ok(SecretKey::from_seed(&seed))
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
