//! The open store.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use crate::disk;
use crate::entry::{self, Body};
use crate::error::{OpenError, StoreError, printable};
use crate::guard::{self, Failure, guarded, io_error};
use crate::open::{self, Opened};
use crate::options::Options;
use crate::scan::Scan;
use crate::write::{self, Write};

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Hands the log's bytes from the system to the disk. A field, so that a test can make it fail.
pub(crate) type Sync = Box<dyn Fn() -> io::Result<()> + Send + std::marker::Sync>;

/// An ordered map of byte strings on disk. All calls block; share it between threads by reference or `Arc`.
pub struct Store {
    path: PathBuf,
    options: Options,
    /// `None` only while the store is being dropped.
    db: Option<sled::Db>,
    sync: Sync,
    /// Held for writing from the first change of a commit until it is durable, so that no reader acts on a change that
    /// a power cut could take back.
    gate: RwLock<()>,
    /// Why the store stopped.
    stopped: OnceLock<String>,
    /// Keeps other processes out; released last.
    _lock: File,
}

impl Store {
    /// Opens the store in the directory `path`, which is the store's alone, and makes it if it is not there.
    ///
    /// A damaged store is mended or moved into `quarantine/` beside it, and [`Opened::recovery`] says so.
    ///
    /// # Errors
    /// [`OpenError`] when the store is open elsewhere, was made with other options, or the system refuses.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Opened, OpenError> {
        open::open(path.as_ref(), options)
    }

    pub(crate) fn new(
        path: PathBuf,
        options: Options,
        db: sled::Db,
        sync: Sync,
        lock: File,
    ) -> Self {
        Self {
            path,
            options,
            db: Some(db),
            sync,
            gate: RwLock::new(()),
            stopped: OnceLock::new(),
            _lock: lock,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the value is not what was written, [`StoreError::Key`] for a key that no store
    /// takes, [`StoreError::Read`] and [`StoreError::Stopped`] when the store cannot.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        write::check_key(key)?;
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entry::entry_key(key);
        let found = self.read(|db| db.get(&entry))?;
        found
            .map(|sealed| self.decode(key, &entry, &sealed))
            .transpose()
    }

    /// All keys that start with `prefix`, in order; an empty prefix gives all.
    pub fn scan_prefix(&self, prefix: &[u8]) -> Scan<'_> {
        let from = entry::entry_key(prefix);
        let to = entry::prefix_end(&from);
        Scan::new(self, from, to)
    }

    /// All keys from `from` up to, and without, `to`, in order.
    pub fn range(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        Scan::new(self, entry::entry_key(from), entry::entry_key(to))
    }

    /// The first key from `from` up to, and without, `to`, with its value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.range(from, to).next().transpose()
    }

    /// The last key from `from` up to, and without, `to`, with its value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError> {
        let (from, to) = (entry::entry_key(from), entry::entry_key(to));
        if from >= to {
            return Ok(None);
        }
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let Some((entry, sealed)) = self.read(|db| db.range(from..to).next_back().transpose())?
        else {
            return Ok(None);
        };
        let key = entry::caller_key(&entry).ok_or_else(|| self.corrupt(&entry))?;
        Ok(Some((key.to_vec(), self.decode(key, &entry, &sealed)?)))
    }

    /// Applies all writes or none. They are on the disk, and visible to readers, when this returns.
    ///
    /// Of several writes to one key the last counts. No write at all does nothing.
    ///
    /// # Errors
    /// [`StoreError::Key`], [`StoreError::Value`] and [`StoreError::Commit`] refuse the commit as a whole and leave the
    /// store as it was. [`StoreError::Write`] stops the store: whether the commit is there shows when it is opened again.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        write::check(writes, &self.options)?;
        let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let batch = self.batch(writes)?;
        self.write("apply the commit", |db| db.apply_batch(batch))?;
        self.write("flush the commit", |db| db.flush().map(drop))?;
        (self.sync)().map_err(|source| {
            self.stop(format!("sync the commit: {source}"));
            StoreError::Write {
                path: self.path.clone(),
                action: "sync the commit",
                source,
            }
        })
    }

    /// Bytes that the store takes on the disk.
    pub fn size_on_disk(&self) -> u64 {
        disk::used_bytes(&self.path)
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the store and waits until its files are free, within limits. Dropping it does the same.
    pub fn close(self) {
        drop(self);
    }

    /// Turns writes into entries, and removes the pieces that an older value leaves behind.
    fn batch(&self, writes: &[Write]) -> Result<sled::Batch, StoreError> {
        let last: BTreeMap<&[u8], Option<&[u8]>> = writes
            .iter()
            .map(|write| (write.key(), write.value()))
            .collect();
        let mut batch = sled::Batch::default();
        for (key, value) in last {
            if self.options.may_cut() {
                for piece in self.read(|db| {
                    db.scan_prefix(entry::piece_prefix(key))
                        .keys()
                        .collect::<Result<Vec<_>, _>>()
                })? {
                    batch.remove(piece);
                }
            }
            match value {
                // A piece that is written again replaces its removal: sled's batch keeps the last word on each key.
                Some(value) => {
                    for (entry, sealed) in entry::encode(key, value, self.options.piece_bytes()) {
                        batch.insert(entry, sealed);
                    }
                }
                None => batch.remove(entry::entry_key(key)),
            }
        }
        Ok(batch)
    }

    /// The value that stands in an entry. The gate must be held, or its pieces may be those of another value.
    pub(crate) fn decode(
        &self,
        key: &[u8],
        entry: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let cut = match entry::decode(entry, sealed) {
            Some(Body::Whole(value)) => return Ok(value.to_vec()),
            Some(Body::Cut(cut)) => cut,
            None => return Err(self.corrupt(key)),
        };
        let mut value = Vec::new();
        for index in 0..cut.pieces {
            let piece_key = entry::piece_key(key, index);
            let piece = self.read(|db| db.get(&piece_key))?;
            let body = piece
                .as_deref()
                .and_then(|sealed| entry::unseal(&piece_key, sealed));
            value.extend_from_slice(body.ok_or_else(|| self.corrupt(key))?);
        }
        if cut.matches(&value) {
            Ok(value)
        } else {
            Err(self.corrupt(key))
        }
    }

    pub(crate) fn corrupt(&self, key: &[u8]) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            key: printable(key),
        }
    }

    /// Reads from sled.
    pub(crate) fn read<T>(
        &self,
        call: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let db = self.db()?;
        guarded(|| call(db)).map_err(|failure| match failure {
            Failure::Error(error) => StoreError::Read {
                path: self.path.clone(),
                source: io_error(error),
            },
            Failure::Panic(cause) => self.stop(cause),
        })
    }

    /// Writes to sled: any failure stops the store.
    fn write(
        &self,
        action: &'static str,
        call: impl FnOnce(&sled::Db) -> sled::Result<()>,
    ) -> Result<(), StoreError> {
        let db = self.db()?;
        guarded(|| call(db)).map_err(|failure| match failure {
            Failure::Error(error) => {
                let source = io_error(error);
                self.stop(format!("{action}: {source}"));
                StoreError::Write {
                    path: self.path.clone(),
                    action,
                    source,
                }
            }
            Failure::Panic(cause) => self.stop(cause),
        })
    }

    pub(crate) fn gate(&self) -> &RwLock<()> {
        &self.gate
    }

    fn db(&self) -> Result<&sled::Db, StoreError> {
        match (&self.db, self.stopped.get()) {
            (Some(db), None) => Ok(db),
            (_, Some(cause)) => Err(StoreError::Stopped {
                path: self.path.clone(),
                cause: cause.clone(),
            }),
            (None, None) => Err(StoreError::Stopped {
                path: self.path.clone(),
                cause: "closed".to_owned(),
            }),
        }
    }

    /// Stops the store; the first cause stays.
    fn stop(&self, cause: String) -> StoreError {
        tracing::error!(store = %self.path.display(), cause, "store stopped");
        let cause = self.stopped.get_or_init(|| cause).clone();
        StoreError::Stopped {
            path: self.path.clone(),
            cause,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            guard::drop_db(&self.path, db);
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .field("options", &self.options)
            .field("stopped", &self.stopped.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn store(dir: &Path) -> Store {
        Store::open(dir.join("store"), &Options::state())
            .unwrap()
            .store
    }

    /// Copies the files of a store, as a power cut right now would leave them at best.
    fn image(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for name in ["db", "conf", "lamppost"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }

    #[test]
    fn the_sync_comes_after_the_write_and_before_the_return() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        let (path, copy) = (store.path().to_owned(), dir.path().join("copy"));
        let synced = Arc::new(AtomicBool::new(false));
        let (to, seen) = (copy.clone(), Arc::clone(&synced));
        store.sync = Box::new(move || {
            image(&path, &to);
            seen.store(true, Ordering::SeqCst);
            Ok(())
        });
        store
            .commit(&[Write::put("a", "1"), Write::put("b", vec![7; 50_000])])
            .unwrap();
        assert!(synced.load(Ordering::SeqCst));

        let copy = Store::open(&copy, &Options::state()).unwrap().store;
        assert_eq!(
            copy.get(b"a").unwrap().unwrap(),
            b"1",
            "the log was complete when it was synced"
        );
        assert_eq!(copy.get(b"b").unwrap().unwrap(), vec![7; 50_000]);
    }

    #[test]
    fn a_failed_sync_stops_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        store.commit(&[Write::put("a", "1")]).unwrap();
        store.sync = Box::new(|| Err(io::ErrorKind::StorageFull.into()));
        let error = store.commit(&[Write::put("b", "2")]).unwrap_err();
        assert!(matches!(&error, StoreError::Write { .. }), "{error}");
        assert!(error.is_disk_full());
        for error in [
            store.get(b"a").unwrap_err(),
            store.commit(&[Write::delete("a")]).unwrap_err(),
        ] {
            assert!(matches!(&error, StoreError::Stopped { .. }), "{error}");
        }
        assert!(matches!(
            store.scan_prefix(b"").next(),
            Some(Err(StoreError::Stopped { .. }))
        ));
        assert!(matches!(
            store.last(b"a", b"z"),
            Err(StoreError::Stopped { .. })
        ));

        store.close();
        let opened = Store::open(dir.path().join("store"), &Options::state()).unwrap();
        assert_eq!(opened.store.get(b"a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_panic_below_stops_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let error = store.read::<()>(|_| panic!("as sled does")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "store {} stopped earlier (sled panicked: as sled does): open it again",
                store.path().display()
            )
        );
        assert!(matches!(store.get(b"a"), Err(StoreError::Stopped { .. })));
    }

    #[test]
    fn a_reader_waits_for_the_sync() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        let (entered, at_sync) = std::sync::mpsc::channel();
        let (release, go_on) = std::sync::mpsc::channel::<()>();
        let go_on = std::sync::Mutex::new(go_on);
        let durable = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&durable);
        store.sync = Box::new(move || {
            entered.send(()).unwrap();
            go_on.lock().unwrap().recv().unwrap();
            done.store(true, Ordering::SeqCst);
            Ok(())
        });
        std::thread::scope(|scope| {
            scope.spawn(|| store.commit(&[Write::put("a", "1")]).unwrap());
            at_sync.recv().unwrap();
            let reader = scope.spawn(|| (store.get(b"a").unwrap(), durable.load(Ordering::SeqCst)));
            release.send(()).unwrap();
            assert_eq!(reader.join().unwrap(), (Some(b"1".to_vec()), true));
        });
    }
}
