//! What a store does with files that a crash, a full disk or a dying medium left behind: a good value, an error or
//! quarantine, and never a panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use lamppost_store::{OpenError, Options, Recovery, Store, StoreError, Write};

/// Small segments, so that a few records span many.
fn options() -> Options {
    Options {
        segment_bytes: 64 * 1024,
        quarantine_max: 2,
        ..Options::state()
    }
}

fn value(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(50 + number as usize % 100)
}

fn key(number: u32) -> String {
    format!("key/{number:05}")
}

/// A store with 600 records, opened and closed a second time so that it has a snapshot.
fn filled(dir: &Path) -> PathBuf {
    let path = dir.join("store");
    let store = Store::open(&path, &options()).unwrap().store;
    for start in (0..600).step_by(20) {
        let writes: Vec<Write> = (start..start + 20)
            .map(|number| Write::put(key(number), value(number)))
            .collect();
        store.commit(&writes).unwrap();
    }
    store.close();
    let opened = Store::open(&path, &options()).unwrap();
    assert_eq!(opened.recovery, Recovery::Clean);
    assert_eq!(check(&opened.store), 600);
    opened.store.close();
    assert_eq!(
        snapshots(&path).len(),
        1,
        "sled writes a snapshot when it opens a log"
    );
    path
}

fn snapshots(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("snap.")
        })
        .collect()
}

/// Reads everything in each way there is. Every value that comes is the one that was written; returns how many came.
fn check(store: &Store) -> usize {
    let mut good = 0;
    for item in store.scan_prefix(b"") {
        match item {
            Ok((key, read)) => {
                let number = std::str::from_utf8(&key[4..]).unwrap().parse().unwrap();
                assert_eq!(read, value(number));
                good += 1;
            }
            Err(error) => assert!(is_damage(&error), "{error}"),
        }
    }
    for number in 0..600 {
        match store.get(key(number).as_bytes()) {
            Ok(Some(read)) => assert_eq!(read, value(number)),
            Ok(None) => {}
            Err(error) => assert!(is_damage(&error), "{error}"),
        }
    }
    good
}

fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Corrupt { .. } | StoreError::Read { .. } | StoreError::Stopped { .. }
    )
}

/// Opens a damaged store and uses it: it takes a commit, or says why not.
fn survives(path: &Path) -> (Recovery, usize) {
    let opened = Store::open(path, &options()).unwrap();
    let good = check(&opened.store);
    match opened.store.commit(&[Write::put("new", "1")]) {
        Ok(()) => assert_eq!(opened.store.get(b"new").unwrap().unwrap(), b"1"),
        Err(error) => assert!(
            is_damage(&error) || matches!(error, StoreError::Write { .. }),
            "{error}"
        ),
    }
    (opened.recovery, good)
}

#[test]
fn an_unfinished_snapshot_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    fs::write(path.join("snap.00000000FFFFFFFF.generating"), b"").unwrap();
    assert_eq!(survives(&path), (Recovery::Clean, 600));
}

#[test]
fn a_damaged_snapshot_costs_nothing() {
    for damage in [&b""[..], b"short", &[0x5a; 4096]] {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        fs::write(&snapshots(&path)[0], damage).unwrap();
        assert_eq!(survives(&path), (Recovery::SnapshotDropped, 600));
    }
}

#[test]
fn a_damaged_settings_file_costs_nothing() {
    for damage in [
        &b""[..],
        b"segment_size: \xff\xfe\n    ",
        b"segment_size: 4096\nuse_compression: false\nversion: 0.34\nAAAA",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        fs::write(path.join("conf"), damage).unwrap();
        let (_, good) = survives(&path);
        assert_eq!(
            good,
            600,
            "settings {:?}",
            damage.escape_ascii().to_string()
        );
    }
}

#[test]
fn a_lost_or_torn_marker_costs_nothing() {
    for damage in [None, Some(&b""[..]), Some(b"lamppost-st")] {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        fs::remove_file(path.join("lamppost")).unwrap();
        if let Some(damage) = damage {
            fs::write(path.join("lamppost"), damage).unwrap();
        }
        assert_eq!(survives(&path), (Recovery::Clean, 600));
    }
}

#[test]
fn a_log_that_is_gone_is_noticed() {
    for emptied in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        if emptied {
            fs::write(path.join("db"), b"").unwrap();
        } else {
            fs::remove_file(path.join("db")).unwrap();
        }
        let (recovery, good) = survives(&path);
        assert!(
            matches!(&recovery, Recovery::Quarantined { .. }),
            "{recovery:?}"
        );
        assert_eq!(good, 0);
    }
}

#[test]
fn a_truncated_log_gives_what_is_left() {
    for cut in [1, 4000, 64 * 1024, 100_000, 200_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        let log = OpenOptions::new()
            .write(true)
            .open(path.join("db"))
            .unwrap();
        let length = log.metadata().unwrap().len();
        log.set_len(length.saturating_sub(cut)).unwrap();
        survives(&path);
    }
}

#[test]
fn flipped_bytes_never_panic_and_never_lie() {
    let dir = tempfile::tempdir().unwrap();
    let original = filled(dir.path());
    let log = fs::read(original.join("db")).unwrap();
    let mut outcomes = BTreeMap::new();
    // A step that is prime to every size that the format has visits headers, keys, values and padding.
    for (run, at) in (0..log.len()).step_by(log.len() / 60 + 7).enumerate() {
        let path = dir.path().join(format!("run{run}/store"));
        fs::create_dir_all(&path).unwrap();
        for entry in fs::read_dir(&original)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.path().is_file())
        {
            // Half of the runs rebuild from the log alone.
            if run % 2 == 0 || !entry.file_name().to_str().unwrap().starts_with("snap.") {
                fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
            }
        }
        let mut damaged = log.clone();
        for byte in damaged.iter_mut().skip(at).take(1 + run % 9) {
            *byte ^= 0xa5;
        }
        fs::write(path.join("db"), damaged).unwrap();
        let (recovery, _) = survives(&path);
        *outcomes
            .entry(format!("{recovery:?}").chars().take(8).collect::<String>())
            .or_insert(0) += 1;
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    assert!(outcomes.values().sum::<i32>() >= 50, "{outcomes:?}");
}

#[test]
fn quarantine_keeps_the_damaged_store_and_starts_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    fs::write(path.join("db"), vec![0xee; 100_000]).unwrap();
    let opened = Store::open(&path, &options()).unwrap();
    let Recovery::Quarantined { to, cause } = opened.recovery else {
        panic!("{:?}", opened.recovery)
    };
    assert!(!cause.is_empty());
    assert!(to.join("db").is_file());
    assert!(to.starts_with(dir.path().join("quarantine")));
    opened.store.commit(&[Write::put("a", "1")]).unwrap();
    opened.store.close();

    let opened = Store::open(&path, &options()).unwrap();
    assert_eq!(opened.recovery, Recovery::Clean);
    assert_eq!(opened.store.get(b"a").unwrap().unwrap(), b"1");
}

#[test]
fn quarantine_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for _ in 0..4 {
        let opened = Store::open(&path, &options()).unwrap();
        opened.store.commit(&[Write::put("a", "1")]).unwrap();
        opened.store.close();
        fs::write(path.join("db"), b"").unwrap();
    }
    assert!(matches!(
        Store::open(&path, &options()).unwrap().recovery,
        Recovery::Quarantined { .. }
    ));
    assert_eq!(
        fs::read_dir(dir.path().join("quarantine")).unwrap().count(),
        2
    );
}

#[test]
fn an_open_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let opened = Store::open(&path, &options()).unwrap();
    let error = Store::open(&path, &options()).unwrap_err();
    assert!(matches!(&error, OpenError::Busy { .. }), "{error}");
    assert_eq!(check(&opened.store), 600);
    opened.store.close();
    assert_eq!(
        Store::open(&path, &options()).unwrap().recovery,
        Recovery::Clean
    );
}

#[test]
fn another_segment_size_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let other = Options {
        segment_bytes: 128 * 1024,
        ..options()
    };
    let error = Store::open(&path, &other).unwrap_err();
    assert!(
        error.to_string().contains("segment 65536") && error.to_string().contains("segment 131072"),
        "{error}"
    );
    assert_eq!(survives(&path), (Recovery::Clean, 600));
}

#[test]
fn a_path_that_cannot_be_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"in the way").unwrap();
    let error = Store::open(dir.path().join("file"), &options()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    let error = Store::open(dir.path().join("file/below"), &options()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}
