//! A disk without space.

use std::process::Command;

use super::*;

#[test]
fn the_reserve_sheds_counts_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::open(
        dir.path(),
        OutboxConfig {
            free_reserve_bytes: 64 * MIB,
            ..config()
        },
        Epoch::from_u64(1),
        at(0),
    )
    .unwrap();
    append(&mut outbox, 0..10, 10);
    outbox.free_bytes = |_| Ok(64 * MIB);
    let error = outbox
        .append(Class::Prediction, &stream(), &records(10..20, 10), at(0))
        .unwrap_err();
    assert!(error.is_disk_full());
    assert_eq!(
        error.to_string(),
        "outbox shed 10 records after 0 were written"
    );
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "67108864 bytes are free, and 67108864 must stay free: make space on the disk"
    );
    assert_eq!(outbox.report().unwritten, 10);
    assert_eq!(
        waiting(&mut outbox),
        (0..10).collect::<Vec<_>>(),
        "what was stored can be sent"
    );
    outbox.free_bytes = |_| Ok(u64::MAX);
    append(&mut outbox, 20..30, 10);
    assert_eq!(
        drain(&mut outbox),
        (0..10).chain(20..30).collect::<Vec<_>>()
    );
}

/// A file system of 24 MiB, for those who may mount one.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(dir.path())
            .output();
        mount.ok()?.status.success().then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        assert!(
            Command::new("umount")
                .arg("--lazy")
                .arg(self.0.path())
                .status()
                .unwrap()
                .success()
        );
    }
}

#[test]
fn a_disk_that_is_really_full_sheds_counts_and_recovers() {
    let Some(disk) = Tmpfs::mount() else {
        eprintln!("skipped: needs the right to mount a tmpfs");
        return;
    };
    let dir = disk.0.path().join("outbox");
    // No reserve, and somebody else takes the space: the writes themselves fail.
    let mut outbox = open(&dir);
    append(&mut outbox, 0..1_000, 1_000);
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 30 << 20]).unwrap_err();
    let (mut written, mut shed) = (1_000, 0);
    outbox.free_bytes = |_| Ok(u64::MAX);
    for round in 2..5 {
        let numbers = records(round * 1_000..(round + 1) * 1_000, 1_000);
        match outbox.append(Class::Prediction, &stream(), &numbers, at(0)) {
            Ok(_) => written += 1_000,
            Err(error) => {
                let OutboxError::Unwritten {
                    written: some,
                    shed: rest,
                    ..
                } = error
                else {
                    panic!("{error}")
                };
                assert_eq!(some + rest, 1_000);
                written += some;
                shed += rest;
            }
        }
    }
    assert!(shed > 0, "the disk was full");
    assert_eq!(outbox.report().unwritten, shed);

    fs::remove_file(&ballast).unwrap();
    append(&mut outbox, 9_000..9_100, 1_000);
    let arrived = drain(&mut outbox);
    assert!(arrived.is_sorted());
    assert_eq!(
        arrived.len() as u64,
        written + 100,
        "what was reported as written arrives, and nothing else"
    );
    assert_eq!(outbox.report().lost_batches, 0);
    drop(outbox);
    assert_eq!(open(&dir).report().lost_batches, 0);
}
