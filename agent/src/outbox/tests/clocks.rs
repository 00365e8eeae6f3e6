//! Clocks that are set while records wait.

use super::numbers::{Centre, numbered, put};
use super::*;

/// A wall clock that is `ahead_s` seconds off what the steady clock says.
fn off(seconds: i64, ahead_s: i64) -> Now {
    Now {
        wall: at(seconds + ahead_s),
        steady: Now::from(at(seconds)).steady,
    }
}

const YEAR_S: i64 = 365 * 86_400;

#[test]
fn a_jump_ahead_or_back_neither_expires_nor_reorders() {
    for ahead_s in [YEAR_S, -YEAR_S] {
        for restart in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut outbox = open(dir.path());
            put(&mut outbox, Class::Prediction, 0..100, 100);
            if restart {
                drop(outbox);
                outbox = open_at(dir.path(), 5);
            }
            let mut seqs = 100..200;
            for seconds in [10, 20] {
                let now = off(seconds, ahead_s);
                outbox.sweep(now).unwrap();
                let records = numbered(seqs.clone(), 100);
                outbox
                    .append(Class::Prediction, &stream(), &records, now)
                    .unwrap();
                seqs = 200..300;
            }
            // And back again.
            outbox.sweep(off(30, 0)).unwrap();
            assert_eq!(outbox.report().expired, 0);
            assert_eq!(waiting(&mut outbox), (0..300).collect::<Vec<_>>());
        }
    }
}

#[test]
fn time_that_passes_expires_and_what_expired_is_told_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Prediction, 0..100, 100);
    let hour = 3_600;
    outbox
        .append(
            Class::Prediction,
            &stream(),
            &numbered(100..200, 100),
            at(30 * hour),
        )
        .unwrap();
    // The wall clock was set back a day meanwhile: by it, nothing is too old yet.
    outbox.sweep(off(60 * hour, -24 * hour)).unwrap();
    assert_eq!(outbox.report().expired, 0);
    outbox.sweep(at(60 * hour)).unwrap();
    assert_eq!(outbox.report().expired, 100);
    let mut centre = Centre::default();
    centre.take_all(&mut outbox, Class::Prediction);
    assert_eq!(centre.lost_for(LossReason::Expired), (0..100).collect());
    assert_eq!(centre.delivered, (100..200).collect());
}

#[test]
fn each_class_has_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.samples.age_max = Duration::from_hours(1);
    let mut outbox = Outbox::open(dir.path(), config, Epoch::from_u64(77), at(0)).unwrap();
    put(&mut outbox, Class::Sample, 0..10, 10);
    put(&mut outbox, Class::Prediction, 0..10, 10);
    outbox.sweep(at(2 * 3_600)).unwrap();
    let batches = outbox.peek_history(Cursor::default(), 9).unwrap();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].class, Class::Prediction);
}
