//! Bundles by digest: `artifacts/<64 hexadecimal digits>`, each written beside, synced and renamed, and never changed.
//!
//! A file counts once its digest was seen in this process; one that is not what its name says is moved aside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use lamppost_models::Digest;
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::digest::Hasher;

use crate::files::{self, PARTIAL};

/// What the name of an altered file starts with.
const ALTERED: &str = "altered-";
/// Altered files that are kept to be looked at; the oldest go.
const ALTERED_MAX: usize = 4;
const READ_BYTES: usize = 64 * 1024;

/// The folder of artifacts.
#[derive(Debug)]
pub(crate) struct Artifacts {
    dir: PathBuf,
    /// Files whose digest was computed and right, as they were then. Bounded by the number of versions in the registry.
    verified: Mutex<BTreeMap<Digest, Stamp>>,
}

/// What changes when somebody writes to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: SystemTime,
}

/// An artifact that is what its digest says.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

/// Why an artifact cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    #[error("there is no artifact {digest}")]
    Missing { digest: Digest },
    #[error(
        "artifact {digest} was altered on the disk and has {found} now; it is moved aside: push its bundle again"
    )]
    Altered { digest: Digest, found: Digest },
    #[error("artifact {digest}: {action}")]
    Io {
        digest: Digest,
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Why an upload fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("bundle has more than {BUNDLE_BYTES_MAX} bytes, the limit")]
    TooLarge,
    #[error("bundle cannot be written to the disk")]
    Io(#[from] io::Error),
}

/// A bundle on its way in. Dropped before it is kept, it leaves nothing.
pub(crate) struct Upload {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    bytes: u64,
}

/// What was found when the folder was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Uploads that were never finished, deleted.
    pub(crate) partial: usize,
    /// Artifacts that no version names. Their push was never answered, and they are deleted when the list is complete.
    pub(crate) orphans: usize,
    /// Artifacts that a version names and that are not there or have another size.
    pub(crate) missing: Vec<Digest>,
}

impl Artifacts {
    /// Opens the folder, makes it if need be, and clears what a crash left; `known` are digest and size of each version,
    /// `complete` says that there are no others.
    pub(crate) fn open(
        dir: PathBuf,
        known: &BTreeMap<Digest, u64>,
        complete: bool,
    ) -> io::Result<(Self, Sweep)> {
        fs::create_dir_all(&dir)?;
        let mut sweep = Sweep::default();
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = format!("sha256:{name}").parse::<Digest>().ok();
            if let Some(digest) = digest {
                match known.get(&digest) {
                    Some(bytes) if entry.metadata()?.len() != *bytes => {}
                    Some(_) => {
                        there.insert(digest);
                    }
                    None => {
                        sweep.orphans += 1;
                        if complete {
                            files::discard(&entry.path());
                        }
                    }
                }
            } else if name.starts_with(PARTIAL) {
                sweep.partial += 1;
                files::discard(&entry.path());
            }
        }
        sweep.missing = known
            .keys()
            .filter(|digest| !there.contains(digest))
            .copied()
            .collect();
        Ok((
            Self {
                dir,
                verified: Mutex::new(BTreeMap::new()),
            },
            sweep,
        ))
    }

    /// Starts an upload.
    pub(crate) fn upload(&self) -> io::Result<Upload> {
        let path = files::partial(&self.dir)?;
        let file = files::create(&path, 0o644)?;
        Ok(Upload {
            path,
            file,
            hasher: Hasher::new(),
            bytes: 0,
        })
    }

    /// Opens an artifact to be read. Blocks; the first time in this process it reads the whole file.
    pub(crate) fn get(&self, digest: Digest) -> Result<Artifact, ArtifactError> {
        let path = self.path(digest);
        let failed = |action| {
            move |source| ArtifactError::Io {
                digest,
                action,
                source,
            }
        };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArtifactError::Missing { digest });
            }
            opened => opened.map_err(failed("open"))?,
        };
        let metadata = file.metadata().map_err(failed("read its size"))?;
        let modified = metadata.modified().map_err(failed("read its time"))?;
        let stamp = Stamp {
            bytes: metadata.len(),
            modified,
        };
        if self.lock().get(&digest) != Some(&stamp) {
            let found = digest_of(&mut file).map_err(failed("read"))?;
            if found != digest {
                self.move_aside(&path, digest);
                return Err(ArtifactError::Altered { digest, found });
            }
            io::Seek::rewind(&mut file).map_err(failed("read"))?;
            self.lock().insert(digest, stamp);
        }
        Ok(Artifact {
            file,
            bytes: stamp.bytes,
        })
    }

    /// The whole of an artifact. Blocks.
    pub(crate) fn read(&self, digest: Digest) -> Result<Vec<u8>, ArtifactError> {
        let Artifact { mut file, bytes } = self.get(digest)?;
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let read = file.read_to_end(&mut content);
        read.map_err(|source| ArtifactError::Io {
            digest,
            action: "read",
            source,
        })?;
        Ok(content)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Stamp>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn move_aside(&self, path: &Path, digest: Digest) {
        tracing::error!(%digest, "an artifact was altered on the disk and is moved aside");
        self.lock().remove(&digest);
        let seconds = crate::clock::now().as_ms();
        let to = self
            .dir
            .join(format!("{ALTERED}{seconds:016}-{}", digest.short()));
        if let Err(error) = fs::rename(path, to) {
            tracing::error!(%digest, %error, "it cannot be moved aside");
        }
        let names = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let altered = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(ALTERED))
        };
        let mut altered: Vec<PathBuf> = names.filter(altered).collect();
        altered.sort();
        for oldest in altered
            .iter()
            .take(altered.len().saturating_sub(ALTERED_MAX))
        {
            files::discard(oldest);
        }
    }
}

impl Upload {
    /// Adds the next bytes. Blocks.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > BUNDLE_BYTES_MAX {
            return Err(UploadError::TooLarge);
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        Ok(())
    }

    /// Makes the bytes durable, still under a name of their own. Blocks.
    pub(crate) fn finish(&mut self) -> Result<Digest, UploadError> {
        self.file.sync_all()?;
        Ok(self.hasher.clone().finish())
    }

    /// How many bytes there are.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the bytes are, until they are kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the bytes their name, durably. Blocks.
    pub(crate) fn keep(self, artifacts: &Artifacts, digest: Digest) -> io::Result<()> {
        files::settle(&self.path, &artifacts.path(digest))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        files::discard(&self.path);
    }
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
