//! What a dying disk, a kill or a careless hand leaves behind.

use super::*;

/// An outbox of several generations with all records from 0 to 12,000.
fn several() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    append(&mut open(dir.path()), 0..12_000, 500);
    assert!(generations(dir.path()).len() >= 4);
    dir
}

fn damage(generation: &Path) {
    let length = fs::metadata(generation.join("db")).unwrap().len();
    fs::write(
        generation.join("db"),
        vec![0xee; usize::try_from(length).unwrap()],
    )
    .unwrap();
}

/// What is left waits in order, and what is not is told: each record is counted once.
fn checked_loss(outbox: &mut Outbox) -> u64 {
    let left = waiting(outbox);
    assert!(left.is_sorted());
    let report = outbox.report();
    let told: u64 = report.gaps.iter().map(|gap| gap.records).sum();
    assert_eq!(left.len() as u64 + told, 12_000, "{:?}", report.gaps);
    assert_eq!(report.records, left.len() as u64);
    assert!(report.lost_batches > 0);
    assert!(
        report
            .gaps
            .iter()
            .all(|gap| gap.reason == GapReason::Damaged)
    );
    append(outbox, 12_000..12_010, 10);
    assert_eq!(
        drain(outbox),
        left.into_iter().chain(12_000..12_010).collect::<Vec<_>>()
    );
    told
}

#[test]
fn a_damaged_generation_is_quarantined_and_the_rest_goes_on() {
    let dir = several();
    damage(&generations(dir.path())[1]);
    let mut outbox = open(dir.path());
    assert!(checked_loss(&mut outbox) > 100);
    assert_eq!(
        fs::read_dir(dir.path().join("quarantine")).unwrap().count(),
        1
    );
    assert!(outbox.report().bytes > 0, "what is in quarantine counts");
}

#[test]
fn a_generation_that_vanished_is_noticed() {
    let dir = several();
    fs::remove_dir_all(&generations(dir.path())[1]).unwrap();
    assert!(checked_loss(&mut open(dir.path())) > 100);

    // And while the outbox runs.
    let dir = several();
    let mut outbox = open(dir.path());
    fs::remove_dir_all(&generations(dir.path())[0]).unwrap();
    assert!(checked_loss(&mut outbox) > 100);
}

#[test]
fn flipped_bytes_lose_batches_and_never_lie() {
    for seed in 0..6_usize {
        let dir = several();
        let path = generations(dir.path())[1].join("db");
        let mut log = fs::read(&path).unwrap();
        let at = log.len() * (2 * seed + 1) / 12;
        for byte in &mut log[at..at + 3] {
            *byte ^= 0x5a;
        }
        fs::write(&path, log).unwrap();
        let mut outbox = open(dir.path());
        let left = waiting(&mut outbox);
        let report = outbox.report();
        let told: u64 = report.gaps.iter().map(|gap| gap.records).sum();
        assert!(left.is_sorted() && report.gaps.len() < 16);
        assert_eq!(
            left.len() as u64 + told,
            12_000,
            "seed {seed}: {:?}",
            report.gaps
        );
    }
}

#[test]
fn the_newest_generation_damaged_or_gone_keeps_epoch_and_numbers() {
    for gone in [true, false] {
        let dir = several();
        let newest = generations(dir.path()).pop().unwrap();
        let before: Vec<u64> = waiting(&mut open(image(dir.path()).path()));
        if gone {
            fs::remove_dir_all(&newest).unwrap();
        } else {
            damage(&newest);
        }
        let mut outbox = Outbox::open(dir.path(), config(), Epoch::from_u64(99), at(0)).unwrap();
        assert_eq!(outbox.epoch(), Epoch::from_u64(77));
        let left = waiting(&mut outbox);
        assert!(before.starts_with(&left) && left.len() < before.len());
        let gap = outbox.report().gaps.pop().unwrap();
        assert_eq!(
            (gap.reason, gap.records),
            (GapReason::Damaged, 0),
            "nobody knows how many"
        );
        let next = append(&mut outbox, 12_000..12_001, 10)[0];
        assert!(next > gap.to, "{next:x} is used after {gap:?}");
    }
}

#[test]
fn everything_damaged_is_a_new_start_with_new_numbers() {
    let dir = several();
    for generation in generations(dir.path()) {
        damage(&generation);
    }
    let mut outbox = open(dir.path());
    assert_eq!(waiting(&mut outbox), [0; 0]);
    assert!(outbox.report().lost_batches >= 4);
    let last = outbox.report().gaps.iter().map(|gap| gap.to).max().unwrap();
    assert!(append(&mut outbox, 0..1, 10)[0] > last);
    assert_eq!(
        fs::read_dir(dir.path().join("quarantine")).unwrap().count(),
        2,
        "the bound of the quarantine"
    );
}

#[test]
fn a_lost_note_costs_nothing() {
    let dir = several();
    fs::remove_file(dir.path().join("outbox")).unwrap();
    let mut outbox = Outbox::open(dir.path(), config(), Epoch::from_u64(99), at(0)).unwrap();
    assert_eq!(outbox.epoch(), Epoch::from_u64(77));
    assert_eq!(waiting(&mut outbox).len(), 12_000);
    assert_eq!(outbox.report().lost_batches, 0);
}

#[test]
fn a_kill_while_a_generation_is_made_costs_nothing() {
    let dir = several();
    let next = generations(dir.path()).len() + 1;
    // A directory, or a store, that was never finished.
    fs::create_dir(dir.path().join(format!("gen-{next:08}"))).unwrap();
    assert_eq!(waiting(&mut open(image(dir.path()).path())).len(), 12_000);
    fs::write(dir.path().join(format!("gen-{next:08}/db")), [7; 100]).unwrap();
    let mut outbox = open(dir.path());
    assert_eq!(waiting(&mut outbox).len(), 12_000);
    assert_eq!(outbox.report().lost_batches, 0);
}

#[test]
fn a_generation_half_deleted_is_no_loss() {
    let dir = several();
    let mut outbox = open(dir.path());
    let first = generations(dir.path())[0].clone();
    let kept = image(&first);
    drain(&mut outbox);
    drop(outbox);
    // The kill came after the rename and before the deletion was written down.
    let grave = first.with_file_name(
        first
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace("gen", "del"),
    );
    fs::rename(kept.path(), &grave).unwrap();
    let mut outbox = open(dir.path());
    assert_eq!(waiting(&mut outbox), [0; 0]);
    assert_eq!(outbox.report().lost_batches, 0);
    assert!(!grave.exists());
}

#[test]
fn another_version_is_refused_and_nothing_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    append(&mut outbox, 0..3, 10);
    let active = &outbox.actives[&Class::Prediction];
    active
        .store
        .commit(&[Write::put("s", r#"{"v":2}"#)])
        .unwrap();
    drop(outbox);
    let error = Outbox::open(dir.path(), config(), Epoch::from_u64(77), at(0))
        .err()
        .unwrap();
    assert!(matches!(error, OutboxError::Format { .. }), "{error}");
    assert_eq!(generations(dir.path()).len(), 1);
}
