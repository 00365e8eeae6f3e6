//! The folder of bundles, by digest. All of it blocks.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use lamppost_models::Digest;
use lamppost_models::digest::Hasher;
use lamppost_models::release::BundleRef;

use super::record::sync_dir;

/// Bytes hashed at a time.
const HASH_BYTES: usize = 64 * 1024;
/// What a download leaves free on the disk: room for the outbox's generations and the slot records.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// The folder of bundles.
#[derive(Clone, Debug)]
pub(super) struct Artifacts {
    dir: PathBuf,
}

/// Why a bundle's file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    #[error("it is not on the disk")]
    Missing,
    #[error("the file has {found} bytes, the bundle has {wanted}")]
    Size { wanted: u64, found: u64 },
    #[error("the file has {found}, the bundle has {wanted}")]
    Digest { wanted: Digest, found: Digest },
    #[error("the file cannot be read: {0}")]
    Read(io::Error),
}

impl Artifacts {
    /// Makes the folder.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Self { dir })
    }

    /// Where a whole bundle is.
    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{}.tar", digest.hex()))
    }

    /// Where the beginning of a bundle is.
    pub(super) fn part_path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{}.part", digest.hex()))
    }

    /// Whether a bundle is here, whole and right; a file that is not right is deleted.
    pub(super) fn verify(&self, bundle: &BundleRef) -> Result<(), ArtifactError> {
        let path = self.path(bundle.digest);
        let verified = verify(&path, bundle);
        if let Err(error @ (ArtifactError::Size { .. } | ArtifactError::Digest { .. })) = &verified
        {
            tracing::error!(path = %path.display(), %error, "a bundle on the disk is damaged and deleted");
            remove(&path);
        }
        verified
    }

    /// Reads a whole bundle and verifies it; a file that is not right is deleted.
    pub(super) fn read(&self, bundle: &BundleRef) -> Result<Vec<u8>, ArtifactError> {
        self.verify(bundle)?;
        let bytes = fs::read(self.path(bundle.digest)).map_err(ArtifactError::Read)?;
        // It may have changed between the two.
        let found = Digest::of(&bytes);
        if found == bundle.digest {
            Ok(bytes)
        } else {
            Err(ArtifactError::Digest {
                wanted: bundle.digest,
                found,
            })
        }
    }

    /// How many bytes of a bundle are here.
    pub(super) fn part_bytes(&self, digest: Digest) -> u64 {
        fs::metadata(self.part_path(digest)).map_or(0, |metadata| metadata.len())
    }

    /// Deletes the beginning of a bundle.
    pub(super) fn drop_part(&self, digest: Digest) {
        remove(&self.part_path(digest));
    }

    /// Makes the part a whole bundle if it is one, and deletes it if it is not.
    pub(super) fn complete(&self, bundle: &BundleRef) -> Result<(), ArtifactError> {
        let part = self.part_path(bundle.digest);
        if let Err(error) = verify(&part, bundle) {
            remove(&part);
            return Err(error);
        }
        self.put(&part, bundle.digest).map_err(ArtifactError::Read)
    }

    /// Copies a bundle from another place.
    pub(super) fn import(&self, bytes: &[u8], digest: Digest) -> io::Result<()> {
        let part = self.part_path(digest);
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        self.put(&part, digest)
    }

    fn put(&self, part: &Path, digest: Digest) -> io::Result<()> {
        File::open(part)?.sync_all()?;
        fs::rename(part, self.path(digest))?;
        sync_dir(&self.dir)
    }

    /// How many bytes a download may still take: what is free, less what must stay so.
    pub(super) fn room(&self) -> io::Result<u64> {
        let free = rustix::fs::statvfs(&self.dir)?;
        Ok(free
            .f_bavail
            .saturating_mul(free.f_frsize)
            .saturating_sub(FREE_BYTES_MIN))
    }

    /// Deletes every file that is of none of the bundles in `keep`, and says how many.
    pub(super) fn sweep(&self, keep: &[Digest]) -> io::Result<usize> {
        let keep: Vec<String> = keep.iter().map(Digest::hex).collect();
        let mut swept = 0;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let kept = path
                .file_stem()
                .is_some_and(|stem| keep.iter().any(|hex| stem == hex.as_str()));
            if !kept && path.is_file() {
                fs::remove_file(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

fn verify(path: &Path, bundle: &BundleRef) -> Result<(), ArtifactError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ArtifactError::Missing);
        }
        Err(error) => return Err(ArtifactError::Read(error)),
    };
    let found = file.metadata().map_err(ArtifactError::Read)?.len();
    if found != bundle.bytes {
        return Err(ArtifactError::Size {
            wanted: bundle.bytes,
            found,
        });
    }
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; HASH_BYTES];
    loop {
        match file.read(&mut buffer).map_err(ArtifactError::Read)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let found = hasher.finish();
    if found == bundle.digest {
        Ok(())
    } else {
        Err(ArtifactError::Digest {
            wanted: bundle.digest,
            found,
        })
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "a file cannot be deleted"),
    }
}
