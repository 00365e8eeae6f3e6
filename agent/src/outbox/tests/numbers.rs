//! Lanes, and each record known by number: delivered, told as lost, or still here.

use std::collections::BTreeMap;

use lamppost_models::BootId;
use lamppost_models::ledger::{LedgerEvent, LedgerEventKind};

use super::*;

pub(super) const BOOT: BootId = BootId::from_u64(0xb007);
const MADE_MAX: u64 = 40_000;

/// Predictions with running numbers and `pad` bytes that do not compress.
pub(super) fn numbered(seqs: std::ops::Range<u64>, pad: usize) -> Vec<String> {
    let keyed = |(record, seq): (String, u64)| {
        let rest = record.strip_prefix('{').unwrap();
        format!(r#"{{"boot":"{BOOT}","seq":{seq},{rest}"#)
    };
    records(seqs.clone(), pad)
        .into_iter()
        .zip(seqs)
        .map(keyed)
        .collect()
}

pub(super) fn put(outbox: &mut Outbox, class: Class, seqs: std::ops::Range<u64>, pad: usize) {
    outbox
        .append(class, &stream(), &numbered(seqs, pad), at(0))
        .unwrap();
}

/// What a coordinator knows of the records of one class.
#[derive(Debug, Default)]
pub(super) struct Centre {
    pub(super) delivered: BTreeSet<u64>,
    pub(super) lost: BTreeMap<LossReason, BTreeSet<u64>>,
    events: BTreeSet<u64>,
}

impl Centre {
    /// Takes in and acknowledges at most `max` batches; false when there is none.
    pub(super) fn take(&mut self, outbox: &mut Outbox, class: Class, max: usize) -> bool {
        let batches = outbox.peek(None, max).unwrap();
        for batch in &batches {
            if batch.class == Class::Event {
                self.take_events(outbox, batch, class);
            } else if batch.class == class {
                self.delivered.extend(contents(outbox, batch));
            }
            acknowledge(outbox, batch.number, batch.number);
        }
        !batches.is_empty()
    }

    fn take_events(&mut self, outbox: &Outbox, batch: &StoredBatch, class: Class) {
        let message: lamppost_models::ledger::EventBatch =
            serde_json::from_slice(&batch.message(outbox.epoch())).unwrap();
        assert_eq!(
            (message.epoch, message.number),
            (outbox.epoch(), batch.number)
        );
        assert!(self.events.insert(batch.number), "a number comes once");
        for event in message.records {
            self.note(&event, class);
        }
    }

    fn note(&mut self, event: &LedgerEvent, class: Class) {
        let LedgerEventKind::Lost(lost) = &event.event else {
            return;
        };
        assert_eq!((lost.boot, &lost.stream), (BOOT, &stream()));
        assert!(lost.from <= lost.to && lost.records <= lost.to - lost.from + 1);
        if lost.class == class {
            let seqs = self.lost.entry(lost.reason).or_default();
            seqs.extend(lost.from..=lost.to);
        }
    }

    pub(super) fn take_all(&mut self, outbox: &mut Outbox, class: Class) {
        while self.take(outbox, class, 30) {}
    }

    pub(super) fn lost_for(&self, reason: LossReason) -> BTreeSet<u64> {
        let lost = self.lost.get(&reason).cloned().unwrap_or_default();
        lost.difference(&self.delivered).copied().collect()
    }

    /// What is neither delivered nor told as lost nor said to wait.
    pub(super) fn missing(&self, outbox: &Outbox, class: Class, made: u64) -> Vec<u64> {
        assert!(made < MADE_MAX);
        let mut known: BTreeSet<u64> = self.delivered.clone();
        known.extend(self.lost.values().flatten());
        let (waiting, _) = outbox.waiters().told();
        for waiting in waiting.iter().filter(|waiting| waiting.class == class) {
            known.extend(waiting.ranges.iter().flat_map(|(from, to)| *from..=*to));
        }
        (0..made).filter(|seq| !known.contains(seq)).collect()
    }
}

/// The outbox is empty, and each of `made` records is delivered or lost for this reason alone.
fn settled(outbox: &mut Outbox, made: u64, reason: LossReason) -> Centre {
    let mut centre = Centre::default();
    assert_eq!(centre.missing(outbox, Class::Prediction, made), [0; 0]);
    centre.take_all(outbox, Class::Prediction);
    assert_eq!(outbox.waiters().told(), (Vec::new(), false));
    assert_eq!(centre.missing(outbox, Class::Prediction, made), [0; 0]);
    assert_eq!(centre.lost.keys().collect::<Vec<_>>(), [&reason]);
    assert_eq!(
        centre.lost_for(reason).len() + centre.delivered.len(),
        usize::try_from(made).unwrap()
    );
    centre
}

#[test]
fn what_is_evicted_is_told_by_number() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        for round in 0..50 {
            if restart && round == 20 {
                drop(outbox);
                outbox = open(dir.path());
            }
            put(
                &mut outbox,
                Class::Prediction,
                round * 500..(round + 1) * 500,
                1_000,
            );
        }
        let evicted = outbox.report().evicted;
        let centre = settled(&mut outbox, 25_000, LossReason::Evicted);
        assert_eq!(centre.lost_for(LossReason::Evicted).len() as u64, evicted);
        assert_eq!(
            centre.lost_for(LossReason::Evicted),
            (0..evicted).collect(),
            "the oldest"
        );
    }
}

#[test]
fn an_eviction_whose_note_was_cut_off_is_told_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Prediction, 0..6_000, 1_000);
    let image = image(dir.path());
    drop(outbox);
    // The deletion reached the disk, and the note of it did not.
    let first = generations(image.path())[0].clone();
    let name = first.file_name().unwrap().to_str().unwrap();
    fs::rename(&first, image.path().join(name.replace("gen", "del"))).unwrap();
    let mut outbox = open(image.path());
    let centre = settled(&mut outbox, 6_000, LossReason::Evicted);
    assert!(centre.lost_for(LossReason::Evicted).len() > 500);
}

#[test]
fn events_outlive_a_kill_until_they_are_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Prediction, 0..20_000, 1_000);
    assert!(outbox.report().evicted > 0);
    let shown = outbox.peek_events(Cursor::default(), 9).unwrap();
    let killed = image(dir.path());
    let mut outbox = open(killed.path());
    assert_eq!(
        outbox.peek_events(Cursor::default(), 9).unwrap(),
        shown,
        "under the same number with the same content"
    );
    settled(&mut outbox, 20_000, LossReason::Evicted);
    drop(outbox);
    let mut outbox = open(killed.path());
    assert_eq!(outbox.peek(None, 9).unwrap(), []);
}

#[test]
fn what_a_damaged_or_vanished_generation_had_is_told_by_number() {
    for vanish in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        put(&mut outbox, Class::Prediction, 0..12_000, 500);
        drop(outbox);
        let second = generations(dir.path())[1].clone();
        if vanish {
            fs::remove_dir_all(&second).unwrap();
        } else {
            let length = fs::metadata(second.join("db")).unwrap().len();
            let noise = vec![0xee; usize::try_from(length).unwrap()];
            fs::write(second.join("db"), noise).unwrap();
        }
        let mut outbox = open(dir.path());
        // A damaged generation is found when it is read.
        waiting(&mut outbox);
        let centre = settled(&mut outbox, 12_000, LossReason::Damaged);
        let lost = centre.lost_for(LossReason::Damaged);
        let (first, last) = (lost.first().unwrap(), lost.last().unwrap());
        assert_eq!(lost.len() as u64, last - first + 1, "in one piece");
        assert!(*first > 0 && *last < 11_999);
    }
}

#[test]
fn flipped_bytes_are_told_by_number() {
    for seed in 0..6_usize {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        put(&mut outbox, Class::Prediction, 0..12_000, 500);
        drop(outbox);
        let path = generations(dir.path())[1].join("db");
        let mut log = fs::read(&path).unwrap();
        let at = log.len() * (2 * seed + 1) / 12;
        for byte in &mut log[at..at + 3] {
            *byte ^= 0x5a;
        }
        fs::write(&path, log).unwrap();
        let mut outbox = open(dir.path());
        let mut centre = Centre::default();
        centre.take_all(&mut outbox, Class::Prediction);
        assert_eq!(
            centre.missing(&outbox, Class::Prediction, 12_000),
            [0; 0],
            "seed {seed}"
        );
    }
}

#[test]
fn what_the_disk_does_not_take_is_told_by_number_once_it_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Prediction, 0..100, 10);
    outbox.free_bytes = |_| Ok(0);
    for round in 1..4 {
        let seqs = round * 100..(round + 1) * 100;
        outbox
            .append(Class::Prediction, &stream(), &numbered(seqs, 10), at(0))
            .unwrap_err();
    }
    assert_eq!(outbox.report().unwritten, 300);
    outbox.sweep(at(60)).unwrap();
    let killed = image(dir.path());
    outbox.free_bytes = |_| Ok(u64::MAX);
    put(&mut outbox, Class::Prediction, 400..500, 10);
    let centre = settled(&mut outbox, 500, LossReason::Unwritten);
    assert_eq!(
        centre.lost_for(LossReason::Unwritten),
        (100..400).collect(),
        "one event tells it all"
    );
    settled(&mut open(killed.path()), 400, LossReason::Unwritten);
}

#[test]
fn a_record_too_large_for_a_batch_is_told_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Prediction, 0..1, 10);
    put(&mut outbox, Class::Prediction, 1..2, 20_000);
    put(&mut outbox, Class::Prediction, 2..3, 10);
    let centre = settled(&mut outbox, 3, LossReason::Unwritten);
    assert_eq!(centre.lost_for(LossReason::Unwritten), [1].into());
}

#[test]
fn what_the_uplink_drops_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Prediction, 0..10, 10);
    let run = Run {
        stream: stream(),
        boot: BOOT,
        from: 10,
        to: 19,
    };
    outbox.tell_lost(Class::Prediction, run, 10, LossReason::Dropped);
    outbox.sweep(at(0)).unwrap();
    let image = image(dir.path());
    let mut killed = open(image.path());
    for outbox in [&mut outbox, &mut killed] {
        let centre = settled(outbox, 20, LossReason::Dropped);
        assert_eq!(centre.lost_for(LossReason::Dropped).len(), 10);
    }
}

fn with_sample_cap(dir: &Path, sample_cap_bytes: u64) -> Outbox {
    let mut config = OutboxConfig::new(2 * CAP_BYTES_MIN, Duration::from_hours(48), 0);
    config.samples.cap_bytes = sample_cap_bytes;
    Outbox::open(dir, config, Epoch::from_u64(77), at(0)).unwrap()
}

#[test]
fn predictions_come_before_samples_and_events_before_both() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    put(&mut outbox, Class::Sample, 0..200, 100);
    put(&mut outbox, Class::Prediction, 0..200, 100);
    put(&mut outbox, Class::Sample, 200..400, 100);
    put(&mut outbox, Class::Prediction, 200..201, 20_000);
    let classes = |outbox: &mut Outbox| {
        let (mut found, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            let batches = outbox.peek(cursor, 3).unwrap();
            if batches.is_empty() {
                return found;
            }
            for batch in &batches {
                cursor.pass(batch);
                found.push(batch.class);
            }
        }
    };
    let found = classes(&mut outbox);
    assert!(found.is_sorted(), "{found:?}");
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 3);
    let numbers = outbox.peek(None, 64).unwrap();
    let numbers: BTreeSet<u64> = numbers.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers.len(), found.len(), "unique over all lanes");
    drop(outbox);
    let mut outbox = open(dir.path());
    assert_eq!(classes(&mut outbox), found, "after a restart too");
    let mut centre = Centre::default();
    centre.take_all(&mut outbox, Class::Sample);
    assert_eq!(centre.delivered, (0..400).collect());
    assert!(
        generations(dir.path()).len() <= 2,
        "drained space is given back"
    );
}

#[test]
fn samples_make_way_for_predictions_and_each_lane_keeps_its_cap() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = with_sample_cap(dir.path(), CAP_BYTES_MIN);
    for round in 0..40 {
        put(
            &mut outbox,
            Class::Sample,
            round * 500..(round + 1) * 500,
            1_000,
        );
    }
    let lane = |outbox: &Outbox, class| {
        let report = outbox.report();
        report
            .lanes
            .into_iter()
            .find(|lane| lane.class == class)
            .unwrap()
    };
    let samples = lane(&outbox, Class::Sample);
    assert!(samples.bytes <= CAP_BYTES_MIN && samples.bytes > CAP_BYTES_MIN / 2);
    assert!(outbox.report().evicted > 0);
    for round in 0..40 {
        put(
            &mut outbox,
            Class::Prediction,
            round * 500..(round + 1) * 500,
            1_000,
        );
        assert!(outbox.report().bytes <= 2 * CAP_BYTES_MIN);
    }
    assert!(lane(&outbox, Class::Sample).records < samples.records);
    assert!(lane(&outbox, Class::Prediction).bytes > CAP_BYTES_MIN * 3 / 2);
    let mut centre = Centre::default();
    centre.take_all(&mut outbox, Class::Sample);
    assert_eq!(centre.missing(&outbox, Class::Sample, 20_000), [0; 0]);
    assert!(!centre.lost_for(LossReason::Evicted).is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        count: u64,
        pad: usize,
        sample: bool,
    },
    Take {
        batches: usize,
    },
    Acknowledge {
        skip: usize,
    },
    FullDisk,
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..500, 1_usize..1_500, proptest::bool::weighted(0.3))
            .prop_map(|(count, pad, sample)| Step::Append { count, pad, sample }),
        3 => (1_usize..40).prop_map(|batches| Step::Take { batches }),
        2 => (0_usize..9).prop_map(|skip| Step::Acknowledge { skip }),
        1 => Just(Step::FullDisk),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever happens, no prediction is missing, and at the end each is delivered or told as lost.
    #[test]
    fn every_number_is_accounted_for(steps in proptest::collection::vec(step(), 1..60)) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        let (mut centre, mut made, mut samples) = (Centre::default(), 0, 0);
        for step in steps {
            match step {
                Step::Append { count, pad, sample: false } => {
                    put(&mut outbox, Class::Prediction, made..made + count, pad);
                    made += count;
                }
                Step::Append { count, pad, sample: true } => {
                    put(&mut outbox, Class::Sample, samples..samples + count, pad);
                    samples += count;
                }
                Step::Take { batches } => {
                    centre.take(&mut outbox, Class::Prediction, batches);
                }
                Step::Acknowledge { skip } => {
                    let shown = outbox.peek_history(Cursor::default(), skip + 1).unwrap();
                    if let Some(batch) = shown.get(skip) {
                        if batch.class == Class::Prediction {
                            centre.delivered.extend(contents(&outbox, batch));
                        }
                        acknowledge(&mut outbox, batch.number, batch.number);
                    }
                }
                Step::FullDisk => {
                    outbox.free_bytes = |_| Ok(0);
                    let shed = numbered(made..made + 7, 5);
                    outbox.append(Class::Prediction, &stream(), &shed, at(0)).unwrap_err();
                    made += 7;
                    outbox.free_bytes = |_| Ok(u64::MAX);
                    // As the next sweep does.
                    outbox.sweep(at(0)).unwrap();
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
            prop_assert_eq!(centre.missing(&outbox, Class::Prediction, made), [0; 0]);
            prop_assert!(outbox.report().bytes <= CAP_BYTES_MIN);
        }
        centre.take_all(&mut outbox, Class::Prediction);
        prop_assert!(outbox.waiters().told().0.is_empty());
        prop_assert_eq!(centre.missing(&outbox, Class::Prediction, made), [0; 0]);
        prop_assert_eq!(outbox.report().lost_batches, 0);
    }
}
