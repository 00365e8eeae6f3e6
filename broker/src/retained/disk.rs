//! Retained messages on the disk, written behind the publishers' backs.
//!
//! One thread owns the store. Once an interval it takes all topics that have changed and writes what they have now, so
//! that a topic that changes each millisecond costs one record an interval. **What is in place for longer than the
//! interval, and the time of the writing, survives a kill and a power cut**; what is younger may be lost, and the message
//! before it is there instead. `Stats::retained_unsaved` says how many topics wait. A disk that fails is tried again and
//! again; meanwhile the memory serves.

use super::{Change, Retained, is_alive, is_own, record};
use crate::{hub::Hub, message::Envelope, topic};
use bytes::Bytes;
use lamppost_store::{
    KEY_BYTES_MAX, OpenError, Opened, Options, Recovery, Store, StoreError, Write,
};
use std::{
    collections::VecDeque,
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

/// The store's folder inside `state_dir`.
const FOLDER: &str = "retained";

/// Sizes of the store.
const OPTIONS: Options = Options::state();

/// Bounds of one commit. The store takes twice the writes and twice the bytes, which leaves room for one record of its
/// greatest size, 1 MiB, on top.
const COMMIT_WRITES: usize = 2_048;
const COMMIT_BYTES: usize = 2 * 1024 * 1024;

/// How long a disk that failed is left alone: twice as long after each failure, between these.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// How long [`Saver::finish`] waits. All of the default caps, 32 MiB, are 16 commits, about a second each on a slow SD
/// card.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the disk cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    #[error("cannot make the folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start the thread that writes to the disk")]
    Thread(#[source] io::Error),
}

/// The open store. All its calls block.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    store: Store,
}

impl Disk {
    /// Opens the store in `state_dir`, and makes both if they are not there.
    pub(crate) fn open(state_dir: &Path, hub: &Hub) -> Result<Self, DiskError> {
        std::fs::create_dir_all(state_dir).map_err(|source| DiskError::Folder {
            path: state_dir.to_owned(),
            source,
        })?;
        let path = state_dir.join(FOLDER);
        let store = open_store(&path, hub)?;
        Ok(Self { path, store })
    }

    /// Puts what the disk has into the memory. What cannot be read or has expired is left out, counted, and its record
    /// will be deleted.
    pub(crate) fn load(&self, hub: &Hub) -> Result<(), DiskError> {
        let now = hub.clock();
        let (mut strays, mut expired, mut unreadable) = (Vec::new(), 0, 0);
        for item in self.store.scan_prefix(b"") {
            let (key, bytes) = match item {
                Ok(entry) => entry,
                Err(cause @ StoreError::Corrupt { .. }) => {
                    warn!(%cause, "a retained message on the disk is damaged and is left out");
                    unreadable += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match read(&key, &bytes, now) {
                Ok(envelope) if is_alive(&envelope, now.run_s) => {
                    hub.retained.restore(envelope);
                    continue;
                }
                Ok(_) => expired += 1,
                Err(cause) => {
                    let topic = String::from_utf8_lossy(&key);
                    warn!(%topic, cause, "a retained message on the disk cannot be read and is left out");
                    unreadable += 1;
                }
            }
            strays.push(Bytes::from(key));
        }
        hub.retained.note_strays(strays);
        hub.counters.expired.add(expired);
        hub.counters.retained_corrupt.add(unreadable);
        let (count, bytes) = hub.retained.size();
        info!(path = %self.path.display(), count, bytes, expired, unreadable, "retained messages are loaded");
        let limits = &hub.limits;
        if count > limits.retained_count_max || bytes > limits.retained_bytes_max {
            warn!(
                count,
                bytes,
                count_max = limits.retained_count_max,
                bytes_max = limits.retained_bytes_max,
                "more retained messages are on the disk than the limits allow; they stay, and no new topic is kept"
            );
        }
        Ok(())
    }
}

/// The message of a record, or what is wrong with it.
fn read(key: &[u8], bytes: &[u8], now: record::Now) -> Result<Envelope, String> {
    let topic = std::str::from_utf8(key).map_err(|error| error.to_string())?;
    if !topic::is_topic(topic) {
        return Err("its key is not a topic".to_owned());
    }
    record::decode(topic, bytes, now).map_err(|error| error.to_string())
}

/// Opens the store, whatever state its files are in, and says what it took.
fn open_store(path: &Path, hub: &Hub) -> Result<Store, OpenError> {
    let Opened { store, recovery } = Store::open(path, &OPTIONS)?;
    match recovery {
        Recovery::Clean | Recovery::Fresh => {}
        Recovery::SnapshotDropped => {
            warn!(path = %path.display(), "the store of retained messages was damaged and could be mended");
        }
        Recovery::Quarantined { to, cause } => {
            hub.counters.retained_stores_lost.bump();
            error!(
                path = %path.display(),
                cause,
                damaged = %to.display(),
                "the store of retained messages was damaged: a fresh one is used, and the messages in it are gone"
            );
        }
    }
    Ok(store)
}

/// The thread that writes. Dropping this lets it write once more and end.
#[derive(Debug)]
pub(crate) struct Saver {
    stop: SyncSender<()>,
    done: oneshot::Receiver<()>,
}

impl Saver {
    /// Starts to write what changes in the hub's retained messages, once an `interval`.
    pub(crate) fn start(disk: Disk, hub: Arc<Hub>, interval: Duration) -> Result<Self, DiskError> {
        let (stop, stopped) = sync_channel(1);
        let (finished, done) = oneshot::channel();
        let Disk { path, store } = disk;
        let writer = Writer {
            path,
            store: Some(store),
            hub,
            interval,
            retry: RETRY_MIN,
        };
        thread::Builder::new()
            .name("retained".to_owned())
            .spawn(move || {
                writer.run(&stopped);
                // Nobody listens when the broker was dropped without being stopped.
                finished.send(()).ok();
            })
            .map_err(DiskError::Thread)?;
        Ok(Self { stop, done })
    }

    /// Waits until everything is on the disk and the store is closed, within limits.
    pub(crate) async fn finish(self) {
        let Self { stop, done } = self;
        drop(stop);
        match tokio::time::timeout(FINISH_TIMEOUT, done).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => error!("the thread that writes retained messages has died"),
            Err(_) => warn!(
                timeout = ?FINISH_TIMEOUT,
                "retained messages are not all on the disk: it takes too long"
            ),
        }
    }
}

struct Writer {
    path: PathBuf,
    /// `None` after a failure: it must be opened again.
    store: Option<Store>,
    hub: Arc<Hub>,
    interval: Duration,
    /// How long to wait after the next failure.
    retry: Duration,
}

impl Writer {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut wait = self.interval;
        loop {
            let stopping = stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
            wait = match self.save() {
                Ok(()) => {
                    self.retry = RETRY_MIN;
                    self.interval
                }
                Err(error) => self.failed(&error),
            };
            if stopping {
                break;
            }
        }
        let unsaved = self.hub.retained.unsaved();
        if unsaved > 0 {
            error!(unsaved, path = %self.path.display(), "retained messages could not be written to the disk");
        }
        if let Some(store) = self.store {
            store.close();
        }
    }

    /// Counts a failure and returns how long to wait.
    fn failed(&mut self, error: &DiskError) -> Duration {
        let retry_in = self.retry.max(self.interval);
        self.retry = (self.retry * 2).min(RETRY_MAX);
        self.hub.counters.retained_save_failures.bump();
        warn!(
            error = chain(error),
            unsaved = self.hub.retained.unsaved(),
            ?retry_in,
            "retained messages cannot be written to the disk; they are kept in memory, and it is tried again"
        );
        retry_in
    }

    /// Writes what has changed up to now.
    fn save(&mut self) -> Result<(), DiskError> {
        let hub = Arc::clone(&self.hub);
        if hub.retained.unsaved() == 0 {
            return Ok(());
        }
        let store = match self.store.take() {
            Some(store) => store,
            None => reopen(&self.path, &hub)?,
        };
        let mut topics = hub.retained.take_changed();
        while !topics.is_empty() {
            let changes = hub
                .retained
                .next_changes(&mut topics, COMMIT_WRITES, COMMIT_BYTES);
            if let Err(error) = store.commit(&writes(&changes, &hub)) {
                give_back(&hub.retained, changes, topics);
                // Closed here: whatever it is, a store that was opened anew begins where the disk is.
                store.close();
                return Err(error.into());
            }
            hub.retained.saved(changes.len());
        }
        self.store = Some(store);
        Ok(())
    }
}

fn give_back(retained: &Retained, changes: Vec<Change>, topics: VecDeque<Bytes>) {
    let failed = changes.into_iter().map(|change| change.topic);
    retained.not_saved(failed.chain(topics));
}

/// Opens the store after a failure. What it holds then is uncertain, so that everything is written again.
fn reopen(path: &Path, hub: &Hub) -> Result<Store, DiskError> {
    let store = open_store(path, hub)?;
    let mut keys = Vec::new();
    for item in store.scan_prefix(b"") {
        match item {
            Ok((key, _)) => keys.push(Bytes::from(key)),
            // Its topic is written anew if there is a message, and it will be left out by the next start if not.
            Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    hub.retained.note_unknown(keys);
    Ok(store)
}

/// What a commit must write. Messages that the store cannot take are counted, and an older record of theirs is deleted.
fn writes(changes: &[Change], hub: &Hub) -> Vec<Write> {
    let now = hub.clock();
    let mut writes = Vec::with_capacity(changes.len());
    for Change { topic, envelope } in changes {
        if is_own(topic) {
            continue;
        }
        let fits = topic.len() <= KEY_BYTES_MAX;
        match envelope {
            Some(envelope) if fits && record::len(envelope) <= OPTIONS.value_bytes_max => {
                writes.push(Write::put(&topic[..], record::encode(envelope, now)));
                continue;
            }
            Some(envelope) => note_unsavable(topic, record::len(envelope), hub),
            None => {
                debug!(topic = %String::from_utf8_lossy(topic), "a retained message is deleted");
            }
        }
        if fits {
            writes.push(Write::delete(&topic[..]));
        }
    }
    writes
}

/// Counts a message that the store cannot take. The first is worth a warning; such topics tend to come again and again.
fn note_unsavable(topic: &[u8], bytes: usize, hub: &Hub) {
    let first = hub.counters.retained_unsavable.get() == 0;
    hub.counters.retained_unsavable.bump();
    let name = String::from_utf8_lossy(topic);
    if first {
        warn!(
            topic = %name,
            topic_bytes = topic.len(),
            topic_bytes_max = KEY_BYTES_MAX,
            bytes,
            bytes_max = OPTIONS.value_bytes_max,
            "a retained message is too large for the disk: a restart will lose it; later ones are counted only"
        );
    } else {
        debug!(topic = %name, bytes, "a retained message is too large for the disk");
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
