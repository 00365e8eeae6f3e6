//! Slot records on disk.
//!
//! A file is one line, `lamppost-slot 1 sha256:<hex>`, and the record's JSON, whose digest the line has. It is written
//! beside the old one, synced, and put in its place by renaming; the old one stays as `.old`. So whenever the node is
//! cut off, one of the two is whole, and the newer whole one counts.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lamppost_agent_core::slot::SlotRecord;
use lamppost_models::{Digest, ModelName};

const HEADER: &str = "lamppost-slot 1 ";
/// Largest record that is read: 64 releases, each of an envelope's 16 KiB and twice that when it is indented, 32 bundles in
/// quarantine and a trial come to some 2 MiB.
const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The folder of slot records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

/// Why a file is no record.
#[derive(Debug, thiserror::Error)]
enum DamagedRecord {
    #[error("it has {bytes} bytes, the limit is {RECORD_BYTES_MAX}")]
    TooLarge { bytes: u64 },
    #[error(
        "it does not start with \"{HEADER}\" and a digest: another version of the agent may have written it"
    )]
    Header,
    #[error("its content has {found}, its first line says {wanted}")]
    Digest { wanted: Digest, found: Digest },
    #[error("it does not parse: {0}")]
    Json(serde_json::Error),
    #[error("it is that of model {0}")]
    Model(ModelName),
}

impl Records {
    /// Makes the folder.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Self { dir })
    }

    pub(super) fn path(&self, model: &ModelName) -> PathBuf {
        self.dir.join(format!("{model}.json"))
    }

    /// Reads the record of a model, if there is one.
    ///
    /// A damaged file is set aside as `.damaged` for whoever wants to know why, and the one before it counts.
    pub(super) fn load(&self, model: &ModelName) -> io::Result<Option<SlotRecord>> {
        let path = self.path(model);
        let mut newest: Option<SlotRecord> = None;
        for path in [with_suffix(&path, "old"), path] {
            let Some(bytes) = read(&path)? else { continue };
            match bytes.and_then(|bytes| parse(&bytes, model)) {
                Ok(record)
                    if newest
                        .as_ref()
                        .is_none_or(|newest| newest.generation <= record.generation) =>
                {
                    newest = Some(record);
                }
                Ok(_) => {}
                Err(damage) => {
                    tracing::error!(%model, path = %path.display(), %damage, "a slot record is damaged and set aside");
                    fs::rename(&path, with_suffix(&self.path(model), "damaged"))?;
                }
            }
        }
        Ok(newest)
    }

    /// Writes the record of a model durably.
    pub(super) fn save(&self, record: &SlotRecord) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(record)?;
        let path = self.path(&record.model);
        let new = with_suffix(&path, "new");
        let mut file = File::create(&new)?;
        file.write_all(format!("{HEADER}{}\n", Digest::of(&json)).as_bytes())?;
        file.write_all(&json)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match fs::rename(&path, with_suffix(&path, "old")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::rename(&new, &path)?;
        sync_dir(&self.dir)
    }
}

/// The bytes of a file; `None` when there is none.
fn read(path: &Path) -> io::Result<Option<Result<Vec<u8>, DamagedRecord>>> {
    let bytes = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if bytes > RECORD_BYTES_MAX {
        return Ok(Some(Err(DamagedRecord::TooLarge { bytes })));
    }
    fs::read(path).map(|bytes| Some(Ok(bytes)))
}

fn parse(bytes: &[u8], model: &ModelName) -> Result<SlotRecord, DamagedRecord> {
    let line_end = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or(DamagedRecord::Header)?;
    let (line, rest) = bytes.split_at(line_end);
    let line = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix(HEADER));
    let wanted: Digest = line
        .and_then(|digest| digest.parse().ok())
        .ok_or(DamagedRecord::Header)?;
    let json = rest.strip_prefix(b"\n").unwrap_or(rest);
    let json = json.strip_suffix(b"\n").unwrap_or(json);
    let found = Digest::of(json);
    if found != wanted {
        return Err(DamagedRecord::Digest { wanted, found });
    }
    let record: SlotRecord = serde_json::from_slice(json).map_err(DamagedRecord::Json)?;
    if record.model == *model {
        Ok(record)
    } else {
        Err(DamagedRecord::Model(record.model))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
