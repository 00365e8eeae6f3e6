use std::collections::BTreeSet;

use lamppost_models::Epoch;
use lamppost_models::ledger::{Durability, Ended};
use proptest::prelude::*;

use super::*;

fn stream(name: u64) -> StreamName {
    StreamName::new(&format!("s{name}")).unwrap()
}

fn lost(name: u64, from: u64, to: u64, reason: LossReason) -> LedgerEvent {
    LedgerEvent {
        v: V1,
        at: Timestamp::EPOCH,
        event: LedgerEventKind::Lost(Lost {
            class: Class::Prediction,
            stream: stream(name),
            boot: BootId::from_u64(1),
            from,
            to,
            records: to - from + 1,
            reason,
        }),
    }
}

fn range(from: u64, to: u64) -> BatchRange {
    BatchRange {
        epoch: Epoch::from_u64(1),
        from,
        to,
    }
}

/// The numbers that some events tell, by stream.
fn told<'a>(events: impl Iterator<Item = &'a LedgerEvent>) -> BTreeSet<(StreamName, u64)> {
    let mut told = BTreeSet::new();
    for event in events {
        if let LedgerEventKind::Lost(lost) = &event.event
            && lost.class != Class::Event
        {
            told.extend((lost.from..=lost.to).map(|seq| (lost.stream.clone(), seq)));
        }
    }
    told
}

proptest! {
    /// Whatever is pushed, shown, acknowledged and restored, no number is untold and a group never changes once shown.
    #[test]
    fn what_is_told_is_delivered_or_waits(
        steps in proptest::collection::vec((0..7_u8, 0..4_u64, 0..500_u64, 1..9_u64), 1..120),
    ) {
        let mut events = Events::default();
        let (mut pushed, mut delivered) = (BTreeSet::new(), BTreeSet::new());
        let mut shown: BTreeMap<u64, Vec<LedgerEvent>> = BTreeMap::new();
        let mut generation = 1;
        for (step, name, from, length) in steps {
            match step {
                0..=2 => {
                    let event = lost(name, from, from + length - 1, LossReason::ALL[(from % 3) as usize]);
                    pushed.extend(told(std::iter::once(&event)));
                    events.push(event);
                }
                3 => events.place(generation),
                4 => {
                    let mut after = None;
                    while let Some((number, group)) = events.show_next(after) {
                        let group = group.to_vec();
                        prop_assert!(group.len() <= GROUP_EVENTS_MAX);
                        prop_assert_eq!(shown.entry(number).or_insert_with(|| group.clone()), &group);
                        after = Some(number);
                    }
                }
                5 => {
                    let Some((&number, group)) = shown.iter().next() else { continue };
                    delivered.extend(told(group.iter()));
                    events.acknowledge(range(number, number));
                    prop_assert_eq!(events.acknowledge(range(number, number)), 0);
                    shown.remove(&number);
                }
                _ => {
                    // What was not written down is lost with a crash: here all was.
                    events.place(generation);
                    events = Events::restore(events.kept());
                    generation += 1;
                }
            }
            let left = told(events.all());
            prop_assert!(left.union(&delivered).cloned().collect::<BTreeSet<_>>() == pushed);
        }
    }
}

#[test]
fn losses_in_a_row_are_one_event_and_others_are_not() {
    let mut events = Events::default();
    for seq in 0..100 {
        events.push(lost(seq % 3, seq, seq + 2, LossReason::Evicted));
    }
    assert_eq!(events.len(), 3);
    events.push(lost(0, 500, 501, LossReason::Evicted));
    events.push(lost(0, 502, 502, LossReason::Expired));
    assert_eq!(events.len(), 5);
}

#[test]
fn a_range_of_batches_takes_no_group_that_was_not_shown() {
    let mut events = Events::default();
    events.push(lost(0, 1, 2, LossReason::Evicted));
    events.place(4);
    assert_eq!(events.acknowledge(range(0, u64::MAX)), 0);
    let (number, _) = events.show_next(None).unwrap();
    assert!(number > super::number(4, 1_000_000));
    assert_eq!(events.acknowledge(range(number, number)), 1);
    assert!(events.is_empty());
}

#[test]
fn too_many_events_are_joined_before_any_is_given_up() {
    let mut events = Events::default();
    let over = EVENTS_MAX as u64 + 1;
    for at in 0..over {
        events.push(lost(at % 2, at * 10, at * 10 + 3, LossReason::Evicted));
    }
    assert_eq!((events.len(), events.forgotten()), (2, 0));
    let LedgerEventKind::Lost(first) = &events.all().next().unwrap().event else {
        panic!("a loss");
    };
    assert_eq!(
        (first.from, first.to, first.reason),
        (0, (over - 1) * 10 + 3, LossReason::Forgotten)
    );
    assert_eq!(first.records, over.div_ceil(2) * 4);
}

#[test]
fn ends_without_end_are_bounded_and_what_went_is_counted() {
    let mut events = Events::default();
    events.push(lost(0, 1, 2, LossReason::Evicted));
    for boot in 0..2 * EVENTS_MAX as u64 {
        let ended = Ended {
            boot: BootId::from_u64(boot),
            clean: false,
            durability: Durability::Outage,
        };
        events.push(LedgerEvent {
            v: V1,
            at: Timestamp::EPOCH,
            event: LedgerEventKind::Ended(ended),
        });
        assert!(events.len() <= EVENTS_MAX);
    }
    let gone = 2 * EVENTS_MAX as u64 + 1 - events.len() as u64;
    assert_eq!(events.forgotten(), gone);
}

#[test]
fn a_group_with_the_longest_names_fits_a_record() {
    let mut events = Events::default();
    for at in 0..40_u64 {
        let mut event = lost(0, u64::MAX - 3, u64::MAX, LossReason::Unwritten);
        event.at = "9999-12-30T21:59:59.999Z".parse().unwrap();
        if let LedgerEventKind::Lost(lost) = &mut event.event {
            lost.stream = StreamName::new(&format!("{at:0>64}")).unwrap();
        }
        events.push(event);
    }
    events.place(1);
    for group in events.kept().values() {
        let bytes = serde_json::to_vec(group).unwrap().len();
        assert!(bytes < 7 * 1024, "{bytes} bytes");
    }
    assert_eq!(events.groups(), 3);
}
