//! Opening a store, whatever state its files are in.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::OpenError;
use crate::guard::{self, Failure, guarded};
use crate::options::Options;
use crate::store::Store;
use crate::{disk, entry, quarantine, snapshot};

/// Names the format in a store's directory.
const MARKER: &str = "lamppost";
/// sled's log.
pub(crate) const LOG: &str = "db";
/// sled's settings: known from the marker, so that a damaged file is replaced.
pub(crate) const SETTINGS: &str = "conf";
/// The first record of every store, written before it is handed out.
const FORMAT: &str = "format";

/// The threads of a handle that was just dropped may hold sled's lock for some milliseconds more.
const LOCK_TRIES: u32 = 100;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// EIO: the medium could not give back what was written.
const EIO: i32 = 5;

/// A store, and what it took to open it.
#[derive(Debug)]
#[must_use]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What it took.
    pub recovery: Recovery,
}

/// What it took to open a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing: it was there and whole.
    Clean,
    /// It was made now.
    Fresh,
    /// sled's snapshot or settings were damaged; the log gave everything again.
    SnapshotDropped,
    /// It was damaged beyond that: it was moved away, and the store is empty.
    Quarantined {
        /// Where the damaged store is, unless `quarantine_max` deleted it.
        to: PathBuf,
        /// What was found.
        cause: String,
    },
}

/// Why one attempt failed.
enum Attempt {
    /// Somebody has it open.
    Busy,
    /// Not the files' fault: try again later.
    System(&'static str, io::Error),
    /// The files' fault.
    Damage(String),
}

/// Opens the store at `path`, a directory of its own.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    options.check()?;
    let failed = |action, source| OpenError::Io {
        path: path.to_owned(),
        action,
        source,
    };
    disk::create_dir(path).map_err(|error| failed("make its directory", error))?;
    let mut lock = lock(path)?;
    let marked = check_marker(path, options)?;
    disk::remove_files(path, |name| name.ends_with(".generating"))
        .map_err(|error| failed("delete unfinished snapshots", error))?;
    snapshot::settle(path, options);

    let fresh = !marked && fs::metadata(path.join(LOG)).map_or(true, |log| log.len() == 0);
    let mut recovery = if fresh {
        Recovery::Fresh
    } else {
        Recovery::Clean
    };
    let mut attempt = attempt_open(path, options, marked);
    if let Err(Attempt::Damage(cause)) = &attempt {
        tracing::warn!(store = %path.display(), cause, "store is damaged; trying without its snapshot");
        disk::remove_files(path, |name| {
            name.starts_with("snap.") || (marked && name == SETTINGS)
        })
        .map_err(|error| failed("delete damaged snapshots", error))?;
        snapshot::settle(path, options);
        attempt = attempt_open(path, options, marked);
        recovery = Recovery::SnapshotDropped;
    }
    if let Err(Attempt::Damage(cause)) = attempt {
        let to = quarantine::take(path, options.quarantine_max)
            .map_err(|error| failed("move it into quarantine", error))?;
        tracing::error!(store = %path.display(), cause, to = %to.display(), "store is damaged; starting a fresh one");
        disk::create_dir(path).map_err(|error| failed("make its directory", error))?;
        lock = self::lock(path)?;
        attempt = attempt_open(path, options, false);
        recovery = Recovery::Quarantined { to, cause };
    }
    let (db, log) = attempt.map_err(|attempt| match attempt {
        Attempt::Busy => OpenError::Busy {
            path: path.to_owned(),
        },
        Attempt::System(action, source) => failed(action, source),
        Attempt::Damage(cause) => OpenError::Unusable {
            path: path.to_owned(),
            cause,
        },
    })?;
    let sync = Box::new(move || log.sync_data());
    Ok(Opened {
        store: Store::new(path.to_owned(), options.clone(), db, sync, lock),
        recovery,
    })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    match disk::lock_dir(path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(OpenError::Busy {
            path: path.to_owned(),
        }),
        Err(source) => Err(OpenError::Io {
            path: path.to_owned(),
            action: "lock its directory",
            source,
        }),
    }
}

/// Whether the store was finished once, and by this format.
fn check_marker(path: &Path, options: &Options) -> Result<bool, OpenError> {
    let wanted = marker(options);
    match fs::read(path.join(MARKER)) {
        Ok(found) if found == wanted.as_bytes() => Ok(true),
        Ok(found) if is_whole_marker(&found) => Err(OpenError::Incompatible {
            path: path.to_owned(),
            found: String::from_utf8_lossy(&found).trim_end().to_owned(),
            wanted: wanted.trim_end().to_owned(),
        }),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(OpenError::Io {
            path: path.to_owned(),
            action: "read its marker",
            source,
        }),
    }
}

/// Whether it is a marker that was written to its end, such as that of another version, and not a damaged one: a queue would
/// wait for the right version for ever.
fn is_whole_marker(found: &[u8]) -> bool {
    let numbers = || {
        let text = std::str::from_utf8(found).ok()?;
        let rest = text.strip_prefix("lamppost-store ")?.strip_suffix('\n')?;
        let (version, segment_bytes) = rest.split_once(" segment ")?;
        Some((
            version.parse::<u32>().ok()?,
            segment_bytes.parse::<usize>().ok()?,
        ))
    };
    numbers().is_some_and(|(_, segment_bytes)| segment_bytes.is_power_of_two())
}

fn marker(options: &Options) -> String {
    format!("lamppost-store 1 segment {}\n", options.segment_bytes)
}

/// Opens sled once, checks that the store's first record is there, and finishes a store that is new.
fn attempt_open(path: &Path, options: &Options, marked: bool) -> Result<(sled::Db, File), Attempt> {
    let db = open_sled(path, options)?;
    let finished = check_format(&db, marked).and_then(|found| {
        let log =
            File::open(path.join(LOG)).map_err(|error| Attempt::System("open its log", error))?;
        if !found {
            write_format(&db, &log)?;
        }
        if !marked {
            finish(path, options, &log)
                .map_err(|error| Attempt::System("make it durable", error))?;
        }
        Ok(log)
    });
    match finished {
        Ok(log) => Ok((db, log)),
        Err(attempt) => {
            guard::drop_db(path, db);
            Err(attempt)
        }
    }
}

pub(crate) fn config(path: &Path, options: &Options) -> sled::Config {
    sled::Config::new()
        .path(path)
        .segment_size(options.segment_bytes)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(None)
}

fn open_sled(path: &Path, options: &Options) -> Result<sled::Db, Attempt> {
    for tried in 1..=LOCK_TRIES {
        let config = config(path, options);
        match guarded(move || config.open()) {
            Ok(db) => return Ok(db),
            Err(Failure::Error(sled::Error::Io(error))) if is_lock(&error) => {
                if tried < LOCK_TRIES {
                    thread::sleep(LOCK_WAIT);
                }
            }
            Err(failure) => return Err(judge("open it", failure)),
        }
    }
    Err(Attempt::Busy)
}

/// sled tells this only in words.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

/// Tells damage from a system that cannot.
fn judge(action: &'static str, failure: Failure) -> Attempt {
    match failure {
        Failure::Error(sled::Error::Io(error)) if !is_damage(&error) => {
            Attempt::System(action, error)
        }
        Failure::Error(error) => Attempt::Damage(error.to_string()),
        Failure::Panic(cause) => Attempt::Damage(cause),
    }
}

fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | InvalidData | InvalidInput | NotFound
    ) || error.raw_os_error() == Some(EIO)
}

/// Whether the first record is there. A store that was finished, or has other records, must have it.
fn check_format(db: &sled::Db, marked: bool) -> Result<bool, Attempt> {
    let key = entry::own_key(FORMAT);
    let (found, empty) = guarded(|| Ok((db.get(&key)?, db.is_empty())))
        .map_err(|failure| judge("read its format", failure))?;
    match found.as_deref().map(|sealed| entry::unseal(&key, sealed)) {
        Some(Some([1])) => Ok(true),
        Some(Some(other)) => Err(Attempt::Damage(format!("its format record says {other:?}"))),
        Some(None) => Err(Attempt::Damage("its format record is damaged".to_owned())),
        None if marked || !empty => Err(Attempt::Damage("its log lost its beginning".to_owned())),
        None => Ok(false),
    }
}

fn write_format(db: &sled::Db, log: &File) -> Result<(), Attempt> {
    let key = entry::own_key(FORMAT);
    let sealed = entry::seal(&key, &[1]);
    guarded(|| {
        db.insert(&key, sealed)?;
        db.flush().map(drop)
    })
    .map_err(|failure| judge("write its format", failure))?;
    log.sync_data()
        .map_err(|error| Attempt::System("sync its format", error))
}

/// Makes everything of a new store durable, the marker last.
fn finish(path: &Path, options: &Options, log: &File) -> io::Result<()> {
    log.sync_all()?;
    disk::sync_file(&path.join(SETTINGS))?;
    disk::sync_dir(path)?;
    disk::write_file(&path.join(MARKER), marker(options).as_bytes())?;
    disk::sync_dir(path)?;
    disk::sync_dir(disk::parent(path))
}
