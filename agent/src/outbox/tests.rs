//! The outbox on a real disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use lamppost_models::message::{Batch, GapReason};
use lamppost_store::Write;
use proptest::prelude::*;
use tempfile::TempDir;

use super::lanes::GENERATIONS_MAX;
use super::*;

mod clocks;
mod damage;
mod flips;
mod full;
mod numbers;
mod old;
mod runs;

const MIB: u64 = 1 << 20;

fn config() -> OutboxConfig {
    OutboxConfig::new(CAP_BYTES_MIN, Duration::from_hours(48), 0)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_ms(1_800_000_000_000 + seconds * 1000).unwrap()
}

fn stream() -> StreamName {
    StreamName::new("i94-volume").unwrap()
}

fn open_at(dir: &Path, seconds: i64) -> Outbox {
    Outbox::open(dir, config(), Epoch::from_u64(77), at(seconds)).unwrap()
}

fn open(dir: &Path) -> Outbox {
    open_at(dir, 0)
}

/// Records with running numbers and `pad` bytes that do not compress.
fn records(numbers: std::ops::Range<u64>, pad: usize) -> Vec<String> {
    let noise = |number: u64| {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("{state:016x}")
        };
        (0..pad.div_ceil(16)).map(|_| next()).collect::<String>()
    };
    numbers
        .map(|number| format!(r#"{{"n":{number},"pad":"{}"}}"#, noise(number)))
        .collect()
}

fn append(outbox: &mut Outbox, numbers: std::ops::Range<u64>, pad: usize) -> Vec<u64> {
    let appended = outbox
        .append(Class::Prediction, &stream(), &records(numbers, pad), at(0))
        .unwrap();
    assert_eq!(appended.refused, 0);
    appended.numbers
}

/// The running numbers within a batch, through the message that goes over the wire.
fn contents(outbox: &Outbox, batch: &StoredBatch) -> Vec<u64> {
    let message: Batch<serde_json::Value> =
        serde_json::from_slice(&batch.message(outbox.epoch())).unwrap();
    assert_eq!(
        (message.epoch, message.number),
        (outbox.epoch(), batch.number)
    );
    assert_eq!(message.records.len(), batch.records as usize);
    message
        .records
        .iter()
        .map(|record| record["n"].as_u64().unwrap())
        .collect()
}

/// All that waits, in order.
fn waiting(outbox: &mut Outbox) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), Cursor::default());
    loop {
        let batches = outbox.peek_history(after, 10).unwrap();
        if batches.is_empty() {
            return found;
        }
        for batch in &batches {
            after.pass(batch);
            found.extend(contents(outbox, batch));
        }
    }
}

fn acknowledge(outbox: &mut Outbox, from: u64, to: u64) -> Finished {
    outbox
        .acknowledge(
            &[BatchRange {
                epoch: outbox.epoch(),
                from,
                to,
            }],
            at(0),
        )
        .unwrap()
}

fn drain(outbox: &mut Outbox) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let batches = outbox.peek_history(Cursor::default(), 20).unwrap();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return found;
        };
        for batch in &batches {
            found.extend(contents(outbox, batch));
        }
        acknowledge(outbox, first.number, last.number);
    }
}

fn generations(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("gen-")
        })
        .collect();
    found.sort();
    found
}

/// The files as a killed process leaves them.
fn image(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(from, to.path());
    to
}

#[test]
fn what_goes_in_comes_out_in_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    let numbers = append(&mut outbox, 0..500, 100);
    assert!(numbers.len() > 5 && numbers.is_sorted(), "{numbers:?}");
    append(&mut outbox, 500..510, 10);
    let report = outbox.report();
    assert_eq!(
        (report.records, report.batches),
        (510, numbers.len() as u64 + 1)
    );
    assert!(report.bytes > 0);
    assert_eq!(waiting(&mut outbox), (0..510).collect::<Vec<_>>());
    assert_eq!(drain(&mut outbox), (0..510).collect::<Vec<_>>());
    assert_eq!(drain(&mut outbox), [0; 0]);
    assert_eq!((outbox.report().records, outbox.report().batches), (0, 0));
}

#[test]
fn a_batch_is_a_value_of_the_store_and_keeps_its_class_and_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    // Records that compress well fill a message, and those that do not fill a value.
    outbox
        .append(Class::Sample, &stream(), &vec!["7"; 3_000], at(5))
        .unwrap();
    append(&mut outbox, 0..200, 1_000);
    let batches = outbox.peek(None, 64).unwrap();
    let sample = &batches[batches.len() - 3];
    assert_eq!(
        (sample.class, sample.stream.clone(), sample.stored),
        (Class::Sample, Some(stream()), at(5)),
        "behind the predictions"
    );
    assert_eq!(sample.records, 1024);
    assert!(
        batches
            .iter()
            .all(|batch| batch.message(outbox.epoch()).len()
                <= lamppost_models::message::MESSAGE_BYTES_MAX)
    );
    assert_eq!(batches[0].class, Class::Prediction);
}

#[test]
fn what_is_no_json_or_too_large_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    let large = records(9..10, 20_000).remove(0);
    let mixed = [r#"{"n":1}"#, "", "{", "nan", &large, r#"{"n":2}"#];
    let appended = outbox
        .append(Class::Prediction, &stream(), &mixed, at(0))
        .unwrap();
    assert_eq!(appended.refused, 4);
    assert_eq!(outbox.report().unwritten, 4);
    assert_eq!(waiting(&mut outbox), [1, 2]);
}

#[test]
fn a_restart_in_the_middle_goes_on_and_reuses_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    let first = append(&mut outbox, 0..300, 100);
    acknowledge(&mut outbox, first[0], first[2]);
    let rest = waiting(&mut outbox);
    drop(outbox);
    let mut outbox = Outbox::open(dir.path(), config(), Epoch::from_u64(99), at(0)).unwrap();
    assert_eq!(
        outbox.epoch(),
        Epoch::from_u64(77),
        "the epoch is that of the outbox"
    );
    assert_eq!(waiting(&mut outbox), rest);
    let second = append(&mut outbox, 300..310, 100);
    assert!(second[0] > *first.last().unwrap());
    assert_eq!(
        drain(&mut outbox),
        rest.into_iter().chain(300..310).collect::<Vec<_>>()
    );
    drop(outbox);
    let mut outbox = open(dir.path());
    assert_eq!(drain(&mut outbox), [0; 0]);
    assert!(
        append(&mut outbox, 0..1, 10)[0] > second[0],
        "a drained outbox counts on"
    );
}

#[test]
fn a_wiped_outbox_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox");
    drop(open(&path));
    fs::remove_dir_all(&path).unwrap();
    let outbox = Outbox::open(&path, config(), Epoch::from_u64(99), at(0)).unwrap();
    assert_eq!(outbox.epoch(), Epoch::from_u64(99));
}

#[test]
fn acknowledgements_come_in_any_order_and_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    let numbers = append(&mut outbox, 0..900, 100);
    let by_batch: Vec<Vec<u64>> = outbox
        .peek(None, 64)
        .unwrap()
        .iter()
        .map(|batch| contents(&outbox, batch))
        .collect();
    for at in [4, 2, 7, 3] {
        let finished = acknowledge(&mut outbox, numbers[at], numbers[at]);
        assert_eq!(
            finished,
            Finished {
                batches: 1,
                records: by_batch[at].len() as u64,
                events: 0
            }
        );
    }
    assert_eq!(
        acknowledge(&mut outbox, numbers[2], numbers[4]),
        Finished::default(),
        "these are done"
    );
    let wanted = |done: &[usize]| -> Vec<u64> {
        by_batch
            .iter()
            .enumerate()
            .filter(|(at, _)| !done.contains(at))
            .flat_map(|(_, numbers)| numbers.clone())
            .collect()
    };
    let killed = image(dir.path());
    assert_eq!(waiting(&mut open(killed.path())), wanted(&[2, 3, 4, 7]));
    acknowledge(&mut outbox, 0, numbers[5]);
    assert_eq!(waiting(&mut outbox), wanted(&[0, 1, 2, 3, 4, 5, 7]));
    acknowledge(&mut outbox, 0, u64::MAX);
    assert_eq!(outbox.report().batches, 0);
    let other = BatchRange {
        epoch: Epoch::from_u64(1),
        from: 0,
        to: u64::MAX,
    };
    append(&mut outbox, 0..1, 10);
    assert_eq!(
        outbox.acknowledge(&[other], at(0)).unwrap(),
        Finished::default()
    );
}

#[test]
fn a_restarted_outbox_takes_acknowledgements_of_batches_that_it_has_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    let numbers = append(&mut outbox, 0..20_000, 100);
    assert!(
        generations(dir.path()).len() > 1,
        "several generations are sealed"
    );
    let first = outbox.peek(None, 2).unwrap();
    let records = u64::from(first[1].records);
    drop(outbox);
    let mut outbox = open(dir.path());
    assert_eq!(
        acknowledge(&mut outbox, first[1].number, first[1].number),
        Finished {
            batches: 1,
            records,
            events: 0
        }
    );
    assert_eq!(outbox.report().records, 20_000 - records);
    assert_eq!(
        acknowledge(&mut outbox, 0, *numbers.last().unwrap()).records,
        20_000 - records
    );
    assert_eq!((outbox.report().records, outbox.report().batches), (0, 0));
}

#[test]
fn the_cap_holds_and_the_oldest_go_first_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    let mut peak = 0;
    for round in 0..60 {
        append(&mut outbox, round * 500..(round + 1) * 500, 1_000);
        peak = peak.max(outbox.report().bytes);
    }
    assert!(
        peak <= CAP_BYTES_MIN,
        "{peak} bytes over a cap of {CAP_BYTES_MIN}"
    );
    assert!(
        peak > CAP_BYTES_MIN / 2,
        "{peak} bytes use little of a cap of {CAP_BYTES_MIN}"
    );
    let report = outbox.report();
    assert!(report.evicted > 0);
    assert_eq!(
        report.evicted + report.records,
        30_000,
        "each record waits or is counted"
    );
    assert!(
        report
            .gaps
            .iter()
            .all(|gap| gap.reason == GapReason::Evicted)
    );
    let lost: u64 = report.gaps.iter().map(|gap| gap.records).sum();
    assert!(lost > 0 && lost <= report.evicted);
    assert_eq!(
        waiting(&mut outbox),
        (report.evicted..30_000).collect::<Vec<_>>()
    );

    drop(outbox);
    let again = open(dir.path()).report();
    assert_eq!(
        (again.evicted, again.records, again.gaps),
        (report.evicted, report.records, report.gaps)
    );
}

#[test]
fn what_is_too_old_goes_by_batch_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open_at(dir.path(), 0);
    let hours = |hours: i64| at(hours * 3600);
    for hour in 0..60 {
        let numbers = records(hour * 10..hour * 10 + 10, 100);
        let now = hours(i64::try_from(hour).unwrap());
        outbox
            .append(Class::Prediction, &stream(), &numbers, now)
            .unwrap();
        if hour == 30 {
            drop(outbox);
            outbox = Outbox::open(dir.path(), config(), Epoch::from_u64(77), now).unwrap();
        }
    }
    outbox.sweep(hours(60)).unwrap();
    assert_eq!(
        outbox.report().expired,
        120,
        "hours 0 to 11 are over 48 hours ago"
    );
    assert_eq!(waiting(&mut outbox), (120..600).collect::<Vec<_>>());
    outbox.sweep(hours(60)).unwrap();
    assert_eq!(outbox.report().expired, 120, "once is enough");
    drop(outbox);
    let mut outbox = Outbox::open(dir.path(), config(), Epoch::from_u64(77), hours(90)).unwrap();
    outbox.sweep(hours(90)).unwrap();
    let report = outbox.report();
    assert_eq!((report.expired, report.records), (420, 180));
    assert!(
        report
            .gaps
            .iter()
            .all(|gap| gap.reason == GapReason::Expired)
    );
    assert_eq!(report.gaps.iter().map(|gap| gap.records).sum::<u64>(), 420);
    assert_eq!(waiting(&mut outbox), (420..600).collect::<Vec<_>>());
}

#[test]
fn twenty_fills_and_drains_give_the_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    for round in 0..20_u64 {
        let numbers = round * 3_000..(round + 1) * 3_000;
        append(&mut outbox, numbers.clone(), 1_000);
        assert!(outbox.report().bytes > 2 * MIB);
        assert_eq!(drain(&mut outbox), numbers.collect::<Vec<_>>());
        let bytes = outbox.report().bytes;
        assert!(bytes <= 3 * MIB, "{bytes} bytes after drain {round}");
    }
    assert_eq!(generations(dir.path()).len(), 1);
    assert_eq!(outbox.report().evicted, 0);
}

#[test]
fn crash_loops_leave_no_empty_generations() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        drop(open(dir.path()));
    }
    assert_eq!(generations(dir.path()).len(), 1);
    let mut outbox = open(dir.path());
    append(&mut outbox, 0..1, 10);
    for _ in 0..3 {
        drop(outbox);
        outbox = open(dir.path());
    }
    assert_eq!(
        generations(dir.path()).len(),
        2,
        "the one that holds something, and the one to write to"
    );
}

#[test]
fn a_cap_too_small_and_a_second_handle_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let small = OutboxConfig {
        cap_bytes: MIB,
        ..config()
    };
    let error = Outbox::open(dir.path(), small, Epoch::from_u64(1), at(0))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "outbox cap of 1048576 bytes is below the least, 16777216 bytes"
    );
    let _outbox = open(dir.path());
    let error = Outbox::open(dir.path(), config(), Epoch::from_u64(1), at(0))
        .err()
        .unwrap();
    assert!(matches!(error, OutboxError::Busy { .. }), "{error}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append { count: u64, pad: usize },
    Acknowledge { skip: usize, batches: usize },
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..400, 1_usize..600).prop_map(|(count, pad)| Step::Append { count, pad }),
        4 => (0_usize..4, 1_usize..6).prop_map(|(skip, batches)| Step::Acknowledge { skip, batches }),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_queue_in_memory(steps in proptest::collection::vec(step(), 1..25)) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        let mut queue: BTreeSet<u64> = BTreeSet::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Append { count, pad } => {
                    append(&mut outbox, next..next + count, pad);
                    queue.extend(next..next + count);
                    next += count;
                }
                Step::Acknowledge { skip, batches } => {
                    let shown = outbox.peek(None, skip + batches).unwrap();
                    for batch in shown.iter().skip(skip).rev() {
                        for number in contents(&outbox, batch) {
                            prop_assert!(queue.remove(&number));
                        }
                        acknowledge(&mut outbox, batch.number, batch.number);
                    }
                }
                Step::Restart => {
                    drop(outbox);
                    outbox = open(dir.path());
                }
                Step::Kill => {
                    let killed = image(dir.path());
                    drop(outbox);
                    dir = killed;
                    outbox = open(dir.path());
                }
            }
            prop_assert_eq!(outbox.report().records, queue.len() as u64);
        }
        prop_assert_eq!(waiting(&mut outbox), queue.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(outbox.report().lost_batches, 0);
    }
}

#[test]
fn the_generations_are_few_even_after_a_long_crash_loop() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    // As many boots with the link down, each with a record of its own.
    for number in 0..GENERATIONS_MAX as u64 + 10 {
        append(&mut outbox, number..number + 1, 10);
        outbox.rotate(Class::Prediction, at(0)).unwrap();
    }
    assert_eq!(generations(dir.path()).len(), GENERATIONS_MAX);
    let report = outbox.report();
    assert_eq!(
        (report.evicted, report.records),
        (11, GENERATIONS_MAX as u64 - 1)
    );
    drop(outbox);
    assert_eq!(waiting(&mut open(dir.path())).len(), GENERATIONS_MAX - 1);
}

#[test]
fn it_moves_to_a_thread_of_its_own() {
    fn sends<T: Send + 'static>() {}
    sends::<Outbox>();
}

#[test]
fn what_the_samples_used_is_known_after_a_restart_and_damage_costs_a_line() {
    let dir = TempDir::new().unwrap();
    let spent = |bytes| Spent {
        since: at(0),
        bytes,
    };
    let sampled: BTreeMap<_, _> = [(stream(), spent(7)), ("b".parse().unwrap(), spent(9))].into();
    let outbox = open(dir.path());
    assert!(outbox.sampled().is_empty());
    outbox.keep_sampled(&sampled).unwrap();
    drop(outbox);
    assert_eq!(open(dir.path()).sampled(), sampled);
    let path = dir.path().join("sampled");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(" b ", " b?")).unwrap();
    assert_eq!(open(dir.path()).sampled(), [(stream(), spent(7))].into());
}

#[test]
fn a_record_fits_if_the_outbox_takes_it() {
    let dir = TempDir::new().unwrap();
    let mut outbox = open(dir.path());
    let (mut fit, mut refused) = (0, 0);
    for pad in (0..16_000).step_by(500) {
        for like in [0, 1] {
            // Half of them compress well.
            let record = match like {
                0 => records(0..1, pad).remove(0),
                _ => format!("{:?}", "7".repeat(40 * pad)),
            };
            let fits = fits_a_batch(record.len(), || record.clone().into_bytes());
            let appended = outbox
                .append(Class::Sample, &stream(), &[record], at(1))
                .unwrap();
            // What is refused by the thought of a few bytes more may fit; what fits is never refused.
            assert!(!fits || appended.refused == 0, "{pad}");
            fit += u32::from(fits);
            refused += u32::from(!fits);
        }
    }
    assert!(fit > 10 && refused > 10, "{fit} fit, {refused} do not");
}
