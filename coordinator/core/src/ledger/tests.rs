use std::collections::{HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A store as the shell has one: marks by name.
#[derive(Default)]
struct Marks(HashMap<Mark, Vec<u8>>);

impl Marks {
    fn commit(&mut self, changes: Vec<MarkChange>) {
        for change in changes {
            match change {
                MarkChange::Put(mark, bytes) => self.0.insert(mark, bytes),
                MarkChange::Delete(mark) => self.0.remove(&mark),
            };
        }
    }

    fn restore(&self) -> NodeLedger {
        let mut ledger = NodeLedger::new();
        for (mark, bytes) in &self.0 {
            ledger.restore(*mark, bytes).unwrap();
        }
        ledger
    }
}

#[derive(Clone, Debug)]
enum Event {
    Prediction(u64, u64),
    Batch(u64, u64),
    Commit,
    /// What was not committed is lost, and so are the records: both come again.
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4_u64, 0..30_u64).prop_map(|(boot, number)| Event::Prediction(boot, number)),
        3 => (0..2_u64, 0..30_u64).prop_map(|(epoch, number)| Event::Batch(epoch, number)),
        2 => Just(Event::Commit),
        1 => Just(Event::Crash),
    ]
}

proptest! {
    #[test]
    fn knows_what_was_committed_and_no_more(events in vec(event(), 0..200)) {
        let (mut marks, mut ledger) = (Marks::default(), NodeLedger::new());
        let (mut durable, mut pending) = (HashSet::new(), HashSet::new());
        for event in events {
            match event {
                Event::Prediction(boot, number) => {
                    let id = PredictionId { boot: BootId::from_u64(boot), number };
                    let known = durable.contains(&(0, boot, number)) || !pending.insert((0, boot, number));
                    prop_assert_eq!(ledger.see_prediction(id) == Seen::Duplicate, known);
                }
                Event::Batch(epoch, number) => {
                    let known = durable.contains(&(1, epoch, number)) || !pending.insert((1, epoch, number));
                    prop_assert_eq!(ledger.see_batch(Epoch::from_u64(epoch), number) == Seen::Duplicate, known);
                }
                Event::Commit => {
                    marks.commit(ledger.take_changes());
                    durable.extend(pending.drain());
                }
                Event::Crash => {
                    ledger = marks.restore();
                    pending.clear();
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..60)) {
        let mut ledger = NodeLedger::new();
        if ledger.restore(Mark::Batches(Epoch::from_u64(1)), &bytes).is_ok() {
            ledger.changed.insert(Mark::Batches(Epoch::from_u64(1)));
            prop_assert_eq!(ledger.take_changes(), vec![MarkChange::Put(Mark::Batches(Epoch::from_u64(1)), bytes)]);
        }
    }
}

#[test]
fn format_1_parses_for_ever() {
    let mut ledger = NodeLedger::new();
    let bytes = [
        [1].as_slice(),
        &7_u64.to_le_bytes(),
        &3_u64.to_le_bytes(),
        &5_u64.to_le_bytes(),
    ]
    .concat();
    ledger
        .restore(Mark::Predictions(BootId::from_u64(9)), &bytes)
        .unwrap();
    let id = |number| PredictionId {
        boot: BootId::from_u64(9),
        number,
    };
    assert_eq!(ledger.see_prediction(id(4)), Seen::Duplicate);
    assert_eq!(ledger.see_prediction(id(6)), Seen::New);
}

#[test]
fn forgets_the_run_that_was_seen_longest_ago() {
    let (mut marks, mut ledger) = (Marks::default(), NodeLedger::new());
    let id = |boot: usize| PredictionId {
        boot: BootId::from_u64(boot as u64),
        number: 1,
    };
    for boot in 0..=RUNS_MAX {
        ledger.see_prediction(id(boot));
        marks.commit(ledger.take_changes());
    }
    assert_eq!(ledger.forgotten(), 1);
    assert_eq!(marks.0.len(), RUNS_MAX);
    assert_eq!(ledger.see_prediction(id(1)), Seen::Duplicate);
    assert_eq!(ledger.see_prediction(id(0)), Seen::New);
}
