//! The book against a list of all batches that ever were.

use std::collections::BTreeSet;

use lamppost_models::BootId;
use proptest::prelude::*;

use super::super::RANGES_KEPT_MAX;
use super::*;

const AGE_MAX: Duration = Duration::from_secs(100);
const START_MS: i64 = 1_800_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_ms(START_MS + seconds * 1000).unwrap()
}

fn meta(records: u32, seconds: i64) -> Meta {
    Meta::of(records, at(seconds).into(), None)
}

/// A batch of records that begin with `from`.
fn numbered(records: u32, seconds: i64, from: u64) -> Meta {
    let run = super::Run {
        stream: "s".parse().unwrap(),
        boot: BootId::from_u64(5),
        from,
        to: from + u64::from(records) - 1,
    };
    Meta::of(records, at(seconds).into(), Some(run))
}

fn epoch() -> Epoch {
    Epoch::from_u64(7)
}

fn range(from: u64, to: u64) -> BatchRange {
    BatchRange {
        epoch: epoch(),
        from,
        to,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Waits,
    Done,
    Lost(GapReason),
}

struct Batch {
    number: u64,
    meta: Meta,
    fate: Fate,
    unreadable: bool,
}

/// What the outbox should know, in the plainest form.
#[derive(Default)]
struct Oracle(Vec<Batch>);

impl Oracle {
    fn waiting(&self) -> Vec<u64> {
        self.0
            .iter()
            .filter(|batch| batch.fate == Fate::Waits)
            .map(|batch| batch.number)
            .collect()
    }

    fn settle(&mut self, fate: Fate, which: impl Fn(&Batch) -> bool) -> Finished {
        let mut finished = Finished::default();
        for batch in self
            .0
            .iter_mut()
            .filter(|batch| batch.fate == Fate::Waits && which(batch))
        {
            batch.fate = fate;
            finished.batches += 1;
            finished.records += u64::from(batch.meta.records);
        }
        finished
    }

    fn records(&self, fate: Fate) -> u64 {
        self.0
            .iter()
            .filter(|batch| batch.fate == fate)
            .map(|batch| u64::from(batch.meta.records))
            .sum()
    }

    fn index(&self, generation: u32) -> Vec<Option<Meta>> {
        let within = self
            .0
            .iter()
            .filter(|batch| place(batch.number).0 == generation);
        // Read from the disk: by the steady clock of this run it was never stored.
        let read = |meta: &Meta| Meta {
            steady_s: None,
            ..meta.clone()
        };
        within
            .map(|batch| (!batch.unreadable).then(|| read(&batch.meta)))
            .collect()
    }

    /// The numbers of records of the batches that are so.
    fn seqs(&self, which: impl Fn(Fate) -> bool) -> BTreeSet<u64> {
        let batches = self.0.iter().filter(|batch| which(batch.fate));
        let runs = batches.filter_map(|batch| batch.meta.run.as_ref());
        runs.flat_map(|run| run.from..=run.to).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Rotate,
    Append { records: u32, seconds: i64 },
    Acknowledge { from: usize, length: usize },
    AcknowledgeAll,
    Evict,
    Expire,
    Damage { at: usize },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Rotate),
        8 => (1_u32..9, 0_i64..40).prop_map(|(records, seconds)| Step::Append { records, seconds }),
        4 => (any::<usize>(), 0_usize..6).prop_map(|(from, length)| Step::Acknowledge { from, length }),
        1 => Just(Step::AcknowledgeAll),
        1 => Just(Step::Evict),
        1 => Just(Step::Expire),
        1 => any::<usize>().prop_map(|at| Step::Damage { at }),
        1 => Just(Step::Restart),
    ]
}

/// The book, the oracle, and the moves of the shell between them.
struct Run {
    book: Book,
    oracle: Oracle,
    active: u32,
    seconds: i64,
    next_seq: u64,
    /// Events that were acknowledged.
    told: Vec<LedgerEvent>,
}

impl Run {
    fn new() -> Self {
        let mut book = Book::new(epoch());
        book.look(at(0).into());
        book.begin(0, Class::Prediction, at(0));
        Self {
            book,
            next_seq: 0,
            told: Vec::new(),
            oracle: Oracle::default(),
            active: 0,
            seconds: 0,
        }
    }

    /// Looks into a generation, as the shell does before it needs to know its batches.
    fn index(&mut self, generation: u32) {
        self.oracle.settle(Fate::Lost(GapReason::Damaged), |batch| {
            batch.unreadable && place(batch.number).0 == generation
        });
        self.book.indexed(generation, self.oracle.index(generation));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Rotate => {
                self.active += 1;
                self.book.seal(self.active - 1);
                self.book
                    .begin(self.active, Class::Prediction, at(self.seconds));
                for generation in self.book.drained(&[self.active]) {
                    self.book.remove(generation);
                }
            }
            Step::Append { records, seconds } => {
                self.seconds += seconds;
                self.book.look(at(self.seconds).into());
                let meta = numbered(records, self.seconds, self.next_seq);
                self.next_seq += u64::from(records);
                let number = self.book.appended(self.active, meta.clone());
                assert!(
                    self.oracle.0.last().is_none_or(|last| last.number < number),
                    "numbers grow"
                );
                self.oracle.0.push(Batch {
                    number,
                    meta,
                    fate: Fate::Waits,
                    unreadable: false,
                });
            }
            Step::Acknowledge { from, length } if !self.oracle.0.is_empty() => {
                let first = from % self.oracle.0.len();
                let last = (first + length).min(self.oracle.0.len() - 1);
                self.acknowledge(range(
                    self.oracle.0[first].number,
                    self.oracle.0[last].number,
                ));
            }
            Step::AcknowledgeAll => self.acknowledge(range(0, u64::MAX)),
            Step::Evict => {
                let Some((oldest, _)) = self.book.generations().next() else {
                    return;
                };
                let lost = self.book.lose_generation(oldest, GapReason::Evicted);
                let wanted = self.oracle.settle(Fate::Lost(GapReason::Evicted), |batch| {
                    place(batch.number).0 == oldest
                });
                assert_eq!(lost, wanted);
            }
            Step::Expire => {
                let now = at(self.seconds + 50);
                self.book.look(now.into());
                for generation in self.book.unknown_in_part_expired(|_| AGE_MAX) {
                    self.index(generation);
                }
                let lost = self.book.expire(|_| AGE_MAX);
                let wanted = self.oracle.settle(Fate::Lost(GapReason::Expired), |batch| {
                    now.ms_since(batch.meta.stored) > 100_000
                });
                assert_eq!(lost, wanted);
            }
            Step::Damage { at } if !self.oracle.0.is_empty() => {
                let at = at % self.oracle.0.len();
                let batch = &mut self.oracle.0[at];
                batch.unreadable = true;
                // In a generation that is open, reading finds it; in another, the next look does.
                let known = self
                    .book
                    .generation(place(batch.number).0)
                    .is_some_and(Generation::is_indexed);
                if known && batch.fate == Fate::Waits {
                    batch.fate = Fate::Lost(GapReason::Damaged);
                    self.book.lose_batch(batch.number, GapReason::Damaged);
                }
            }
            Step::Restart => self.restart(),
            Step::Acknowledge { .. } | Step::Damage { .. } => {}
        }
    }

    fn acknowledge(&mut self, range: BatchRange) {
        for generation in self.book.unknown_within(range) {
            self.index(generation);
        }
        // More of them than were shown; what is told twice is no matter.
        self.told.extend(self.book.events().kept_all());
        let finished = self.book.acknowledge(range);
        let within = range.from..=range.to;
        let wanted = self
            .oracle
            .settle(Fate::Done, |batch| within.contains(&batch.number));
        assert_eq!(
            (finished.batches, finished.records),
            (wanted.batches, wanted.records)
        );
        assert_eq!(
            self.book.acknowledge(range),
            Finished::default(),
            "once is enough"
        );
    }

    /// Writes the book down, reads it again, and takes the last generation as it is on disk.
    fn restart(&mut self) {
        let totals = serde_json::to_string(self.book.totals()).unwrap();
        let generations: BTreeMap<u32, Generation> = self
            .book
            .generations()
            .map(|(generation, entry)| {
                let text = serde_json::to_string(&entry.kept()).unwrap();
                let mut read: Generation = serde_json::from_str(&text).unwrap();
                read.sums = entry.kept().sums;
                (generation, read)
            })
            .collect();
        self.book.events_mut().place(self.active);
        let events = Events::restore(self.book.events().kept());
        let read = Book::restore(serde_json::from_str(&totals).unwrap(), generations, events);
        self.book = read.with_clocks_of(&self.book);
        let active = self.active;
        self.oracle.settle(Fate::Lost(GapReason::Damaged), |batch| {
            batch.unreadable && place(batch.number).0 == active
        });
        self.book.recounted(active, self.oracle.index(active));
        self.step(Step::Rotate);
    }

    /// Each record that is lost was told by number, and each that waits is known to.
    fn check_numbers(&self) {
        let told = |lost: &Lost| lost.from..=lost.to;
        let mut events = self.book.events().kept_all();
        events.extend(self.told.iter().cloned());
        let told: BTreeSet<u64> = events
            .iter()
            .filter_map(|event| match &event.event {
                LedgerEventKind::Lost(lost) => Some(told(lost)),
                LedgerEventKind::Ended(_) => None,
            })
            .flatten()
            .collect();
        let lost = self.oracle.seqs(|fate| matches!(fate, Fate::Lost(_)));
        let waiting = self.oracle.seqs(|fate| fate == Fate::Waits);
        assert!(
            told.is_superset(&lost),
            "{lost:?} are lost, told {events:?}"
        );
        assert!(
            told.is_disjoint(&waiting),
            "{waiting:?} wait, told {events:?}"
        );
        let (waiters, joined) = self.book.waiters().told();
        let waiters = waiters.iter().flat_map(|waiting| &waiting.ranges);
        let waiters: BTreeSet<u64> = waiters.flat_map(|(from, to)| *from..=*to).collect();
        assert!(waiters.is_superset(&waiting));
        let done = self.oracle.seqs(|fate| fate == Fate::Done);
        let all = waiting.union(&lost).chain(&done).copied().collect();
        assert!(joined || waiters.is_subset(&all));
    }

    fn check(&self) {
        self.check_numbers();
        let mut waiting = Vec::new();
        while let Some(next) = self
            .book
            .next_of(Class::Prediction, waiting.last().copied())
        {
            waiting.push(next);
        }
        assert_eq!(waiting, self.oracle.waiting());
        let report = self.book.report(0, 0);
        assert_eq!(report.batches, waiting.len() as u64);
        assert_eq!(report.records, self.oracle.records(Fate::Waits));
        assert_eq!(
            report.evicted,
            self.oracle.records(Fate::Lost(GapReason::Evicted))
        );
        assert_eq!(
            report.expired,
            self.oracle.records(Fate::Lost(GapReason::Expired))
        );
        let lost = self
            .oracle
            .0
            .iter()
            .filter(|batch| batch.fate == Fate::Lost(GapReason::Damaged))
            .count();
        assert_eq!(report.lost_batches, lost as u64);
        assert!(report.gaps.len() <= GAPS_MAX);
        for gap in &report.gaps {
            let within = self
                .oracle
                .0
                .iter()
                .filter(|batch| (gap.from..=gap.to).contains(&batch.number));
            assert!(
                within
                    .into_iter()
                    .all(|batch| batch.fate == Fate::Lost(gap.reason)),
                "{gap:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn knows_what_a_list_of_all_batches_knows(steps in proptest::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.check();
        }
    }
}

#[test]
fn acknowledgements_of_another_outbox_or_of_nothing_change_nothing() {
    let mut book = Book::new(epoch());
    book.begin(1, Class::Prediction, at(0));
    book.appended(1, meta(3, 0));
    let other = BatchRange {
        epoch: Epoch::from_u64(8),
        from: 0,
        to: u64::MAX,
    };
    for range in [
        other,
        range(number(2, 0), u64::MAX),
        range(5, 4),
        range(0, 3),
    ] {
        assert_eq!(book.acknowledge(range), Finished::default());
    }
    assert!(book.waits(number(1, 0)) && !book.waits(number(1, 1)));
    assert_eq!(book.next_of(Class::Prediction, None), Some(number(1, 0)));
    assert_eq!(book.next_of(Class::Prediction, Some(u64::MAX)), None);
    assert_eq!(book.next_of(Class::Sample, None), None);
}

#[test]
fn losses_that_touch_are_one_gap_and_old_gaps_make_room() {
    let mut book = Book::new(epoch());
    book.begin(0, Class::Prediction, at(0));
    for _ in 0..60 {
        book.appended(0, meta(2, 0));
    }
    for place in [0, 1, 2] {
        book.lose_batch(number(0, place), GapReason::Damaged);
    }
    let gap = Gap {
        epoch: epoch(),
        from: 0,
        to: 2,
        records: 6,
        reason: GapReason::Damaged,
    };
    assert_eq!(book.totals().gaps, [gap]);
    for place in (4..60).step_by(2) {
        book.lose_batch(number(0, place), GapReason::Damaged);
    }
    assert_eq!(book.totals().gaps.len(), GAPS_MAX);
    assert_eq!(book.totals().gaps[0].from, 28, "the oldest ones went");
    assert_eq!(book.totals().lost_batches, 31);
}

#[test]
fn the_written_form_of_a_wild_generation_is_bounded() {
    let mut book = Book::new(epoch());
    book.begin(u32::MAX, Class::Prediction, at(0));
    for _ in 0..2_000 {
        book.appended(u32::MAX, meta(1, 0));
    }
    for place in (0..2_000).step_by(2) {
        book.acknowledge(range(number(u32::MAX, place), number(u32::MAX, place)));
    }
    let entry = book.generation(u32::MAX).unwrap();
    assert_eq!((entry.done.runs(), entry.batches()), (1_000, 1_000));
    let written = serde_json::to_string(&entry.kept()).unwrap();
    assert!(written.len() < 7 * 1024, "{} bytes", written.len());
    let back: Generation = serde_json::from_str(&written).unwrap();
    assert_eq!(back.done.runs(), RANGES_KEPT_MAX);
}

#[test]
fn a_generation_that_nobody_read_is_still_a_gap() {
    let mut book = Book::new(epoch());
    book.lose_unknown(4, 0);
    let gap = &book.totals().gaps[0];
    assert_eq!(
        (gap.from, gap.to, gap.records),
        (number(4, 0), number(4, u32::MAX), 0)
    );
}
