use std::collections::HashMap;

use lamppost_models::id::PredictionId;
use lamppost_models::ledger::{Ended, LossReason, Lost, Waiting};
use lamppost_models::message::{
    ModelRef, ReportedLane, ReportedOutbox, ReportedStream, StreamCounters,
};
use lamppost_models::{Digest, V1};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

mod simulation;
mod streams;

/// A store as the shell has one: marks by name.
#[derive(Clone, Default)]
pub(super) struct Marks(pub(super) HashMap<Mark, Vec<u8>>);

impl Marks {
    pub(super) fn commit(&mut self, changes: Vec<MarkChange>) {
        for change in changes {
            match change {
                MarkChange::Put(mark, bytes) => self.0.insert(mark, bytes),
                MarkChange::Delete(mark) => self.0.remove(&mark),
            };
        }
    }

    pub(super) fn restore(&self) -> NodeLedger {
        let mut ledger = NodeLedger::new();
        for (mark, bytes) in &self.0 {
            ledger.restore(mark.clone(), bytes).unwrap();
        }
        ledger
    }
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(seconds * 1000)
}

pub(super) fn boot(number: u64) -> BootId {
    BootId::from_u64(number)
}

/// A prediction of stream `s<stream>`; its number over all streams is `number`.
pub(super) fn numbered(boot: u64, number: u64, stream: u64, seq: u64) -> Prediction {
    let boot = BootId::from_u64(boot);
    Prediction {
        v: V1,
        id: PredictionId { boot, number },
        ts: at(0),
        target_ts: None,
        stream: name(stream),
        seq,
        boot,
        model: ModelRef {
            name: "flow".parse().unwrap(),
            version: semver::Version::new(1, 0, 0),
            digest: Digest::of(b"x"),
        },
        label: None,
        score: None,
        scores: None,
        value: Some(1.0),
        unit: None,
        latency_us: 1,
        replay: false,
    }
}

pub(super) fn prediction(boot: u64, stream: u64, seq: u64) -> Prediction {
    numbered(boot, seq * 2 + stream, stream, seq)
}

pub(super) fn name(stream: u64) -> StreamName {
    format!("s{stream}").parse().unwrap()
}

pub(super) fn lost(boot: u64, stream: u64, from: u64, to: u64, reason: LossReason) -> LedgerEvent {
    LedgerEvent {
        v: V1,
        at: at(0),
        event: LedgerEventKind::Lost(Lost {
            class: Class::Prediction,
            stream: name(stream),
            boot: self::boot(boot),
            from,
            to,
            records: (to - from) + 1,
            reason,
        }),
    }
}

pub(super) fn ended(boot: u64, clean: bool, durability: Durability) -> LedgerEvent {
    let boot = self::boot(boot);
    LedgerEvent {
        v: V1,
        at: at(0),
        event: LedgerEventKind::Ended(Ended {
            boot,
            clean,
            durability,
        }),
    }
}

/// Boot, stream, and the numbers that wait.
pub(super) type Held = (u64, u64, Vec<(u64, u64)>);

/// A report of `used` numbers of each stream, and of what waits.
pub(super) fn report(boot: u64, used: &[u64], waiting: &[Held], events: u64) -> Reported {
    let stream = |(stream, used): (usize, &u64)| ReportedStream {
        name: name(stream as u64),
        model: "flow".parse().unwrap(),
        last_reading: None,
        stale_since: None,
        local: false,
        drift: None,
        counters: StreamCounters {
            predictions: *used,
            ..StreamCounters::default()
        },
    };
    let lane = |class| ReportedLane {
        class,
        batches: 0,
        records: if class == Class::Event { events } else { 0 },
        bytes: 0,
        cap_bytes: 1,
        oldest: None,
    };
    let waiting = waiting.iter().map(|(boot, stream, ranges)| Waiting {
        class: Class::Prediction,
        stream: name(*stream),
        boot: self::boot(*boot),
        ranges: ranges.clone(),
    });
    Reported {
        v: V1,
        boot: self::boot(boot),
        at: at(0),
        models: Vec::new(),
        streams: used.iter().enumerate().map(stream).collect(),
        outbox: ReportedOutbox {
            lanes: Class::ALL.into_iter().map(lane).collect(),
            waiting: waiting.collect(),
            ..ReportedOutbox::default()
        },
        trust: None,
    }
}

pub(super) fn tally(account: &Account, stream: u64) -> Tally {
    let row = account
        .streams
        .iter()
        .find(|row| row.stream == name(stream));
    row.unwrap().tally
}

fn see(ledger: &mut NodeLedger, prediction: &Prediction) -> Seen {
    ledger.see_prediction(prediction, at(1)).unwrap()
}

#[test]
fn every_fate_has_its_column() {
    let mut ledger = NodeLedger::new();
    for seq in [0, 1, 2, 2, 10, 20] {
        see(&mut ledger, &prediction(1, 0, seq));
    }
    for (from, to, reason) in [
        (3, 3, LossReason::Evicted),
        (4, 5, LossReason::Expired),
        (6, 6, LossReason::Damaged),
        (7, 7, LossReason::Unwritten),
        (8, 10, LossReason::Dropped),
        (11, 11, LossReason::Forgotten),
    ] {
        ledger
            .on_event(&lost(1, 0, from, to, reason), at(1))
            .unwrap();
    }
    let report = report(1, &[19], &[(1, 0, vec![(12, 13), (17, 17)])], 0);
    ledger.on_report(&report, at(2));
    let account = ledger.account(Some(&report), None);
    let expected = Tally {
        produced: 21,
        delivered: 5,
        duplicated: 1,
        evicted: 1,
        expired: 2,
        damaged: 1,
        unwritten: 1,
        dropped: 2,
        forgotten: 1,
        crash: 0,
        // 12, 13, 17 wait; 19 was not made yet at the report.
        in_flight: 4,
        missing: 4,
    };
    assert_eq!(tally(&account, 0), expected);
    let shown: Vec<_> = account.missing.iter().map(|m| (m.from, m.to)).collect();
    assert_eq!(shown, [(14, 16), (18, 18)]);
}

#[test]
fn nothing_is_missing_before_a_report_says_what_waits() {
    let mut ledger = NodeLedger::new();
    see(&mut ledger, &prediction(1, 0, 9));
    let in_flight = |account: &Account| (tally(account, 0).in_flight, tally(account, 0).missing);
    assert_eq!(in_flight(&ledger.account(None, None)), (9, 0));
    // An agent of before the ledger.
    let mut early = report(1, &[10], &[], 0);
    early.outbox.lanes.clear();
    ledger.on_report(&early, at(1));
    assert_eq!(in_flight(&ledger.account(Some(&early), None)), (9, 0));
    // The explanation may be among the events that wait.
    let event = report(1, &[10], &[], 1);
    ledger.on_report(&event, at(1));
    let account = ledger.account(Some(&event), None);
    assert_eq!((in_flight(&account), account.events_waiting), ((9, 0), 1));
    let told = report(1, &[10], &[], 0);
    ledger.on_report(&told, at(1));
    assert_eq!(in_flight(&ledger.account(Some(&told), None)), (0, 9));
}

#[test]
fn a_crash_explains_what_was_in_memory_only_where_the_node_may_lose_it() {
    for (clean, durability, explained) in [
        (false, Durability::Outage, true),
        (false, Durability::Always, false),
        (true, Durability::Outage, false),
    ] {
        let mut ledger = NodeLedger::new();
        ledger.on_report(&report(1, &[10], &[(1, 0, vec![(5, 9)])], 0), at(1));
        see(&mut ledger, &prediction(1, 0, 4));
        ledger
            .on_event(&ended(1, clean, durability), at(2))
            .unwrap();
        let after = report(2, &[], &[(1, 0, vec![(5, 6)])], 0);
        ledger.on_report(&after, at(3));
        let Tally {
            crash,
            missing,
            in_flight,
            ..
        } = tally(&ledger.account(Some(&after), None), 0);
        let expected = if explained { (7, 0) } else { (0, 7) };
        assert_eq!(
            ((crash, missing), in_flight),
            (expected, 2),
            "{durability:?}"
        );
        // What comes all the same was no loss.
        assert_eq!(see(&mut ledger, &prediction(1, 0, 8)), Seen::New);
        let Tally { crash, missing, .. } = tally(&ledger.account(Some(&after), None), 0);
        assert_eq!(crash + missing, 6);
    }
}

#[test]
fn marks_of_the_earlier_form_hold_and_their_boots_are_not_judged() {
    let mut ledger = NodeLedger::new();
    // Numbers 3 to 5 over all streams, in the bytes that were written then.
    let bytes = [
        [1].as_slice(),
        &7_u64.to_le_bytes(),
        &3_u64.to_le_bytes(),
        &5_u64.to_le_bytes(),
    ]
    .concat();
    ledger.restore(Mark::Early(boot(9)), &bytes).unwrap();
    assert_eq!(see(&mut ledger, &numbered(9, 4, 0, 2)), Seen::Duplicate);
    assert_eq!(see(&mut ledger, &numbered(9, 4, 0, 2)), Seen::Duplicate);
    assert_eq!(see(&mut ledger, &numbered(9, 6, 0, 3)), Seen::New);
    let mut marks = Marks([(Mark::Early(boot(9)), bytes)].into());
    marks.commit(ledger.take_changes());
    let mut ledger = marks.restore();
    assert_eq!(see(&mut ledger, &numbered(9, 6, 0, 3)), Seen::Duplicate);
    assert_eq!(see(&mut ledger, &numbered(9, 5, 1, 0)), Seen::Duplicate);
    assert_eq!(see(&mut ledger, &numbered(9, 2, 0, 0)), Seen::New);
    let report = report(9, &[4, 1], &[], 0);
    ledger.on_report(&report, at(2));
    let account = ledger.account(Some(&report), None);
    assert_eq!(account.unjudged_boots, 1);
    assert_eq!(tally(&account, 0).missing, 0);
    assert_eq!(
        (tally(&account, 0).delivered, tally(&account, 0).duplicated),
        (3, 3)
    );
}

#[test]
fn formats_parse_for_ever() {
    let mut marks = Marks::default();
    let bytes = |format: u8, numbers: &[u64]| {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        std::iter::once(format).chain(numbers).collect::<Vec<u8>>()
    };
    let stream = Mark::Stream(boot(1), Class::Prediction, name(0));
    let below = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    let numbers = [
        [12, 4, 1, 1].as_slice(),
        &below,
        &[2, 5, 6, 9, 9],
        &[1, 7, 7, 2],
    ]
    .concat();
    marks.0.insert(stream, bytes(2, &numbers));
    marks
        .0
        .insert(Mark::Boot(boot(1)), bytes(2, &[3, 1, 5_000, 2, 3]));
    let sums = Mark::Sums(Class::Sample, name(1));
    let folded = [9, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    marks.0.insert(sums, bytes(2, &folded));
    marks
        .0
        .insert(Mark::Node, bytes(2, &[4, 1, 0, 7, 1, 33, 1]));
    marks
        .0
        .insert(Mark::Batches(Epoch::from_u64(7)), bytes(1, &[2, 0, 4]));
    let mut ledger = marks.restore();
    let now = report(2, &[], &[], 0);
    let account = ledger.account(Some(&now), None);
    let row = tally(&account, 0);
    assert_eq!(
        (row.delivered, row.duplicated, row.evicted, row.damaged),
        (5, 1, 1, 1)
    );
    // 4, 8, 10, 11 above the floor and one below it, of a run that crashed.
    assert_eq!((row.crash, row.missing, row.produced), (5, 0, 12));
    assert_eq!(tally(&account, 1).crash, 1);
    assert_eq!((account.folded_boots, account.events_forgotten), (1, 7));
    assert_eq!(ledger.see_batch(Epoch::from_u64(7), 4), Seen::Duplicate);
    // Written again they are the same bytes.
    ledger.changed = marks.0.keys().cloned().collect();
    let mut again = Marks::default();
    again.commit(ledger.take_changes());
    assert_eq!(again.0, marks.0);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(format in 0..4_u8, numbers in vec(prop_oneof![0..5_u64, any::<u64>()], 0..40), cut in 0..8_usize) {
        let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
        let mut bytes: Vec<u8> = std::iter::once(format).chain(numbers).collect();
        bytes.truncate(bytes.len().saturating_sub(cut));
        for mark in [
            Mark::Batches(Epoch::from_u64(1)), Mark::Early(boot(1)), Mark::Boot(boot(1)), Mark::Node,
            Mark::Stream(boot(1), Class::Prediction, name(0)), Mark::Sums(Class::Prediction, name(0)),
        ] {
            let mut ledger = NodeLedger::new();
            if ledger.restore(mark.clone(), &bytes).is_ok() {
                ledger.changed.insert(mark.clone());
                prop_assert_eq!(ledger.take_changes(), vec![MarkChange::Put(mark, bytes.clone())]);
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let mut ledger = NodeLedger::new();
    let mut backwards = lost(1, 0, 5, 5, LossReason::Evicted);
    if let LedgerEventKind::Lost(lost) = &mut backwards.event {
        lost.from = 6;
    }
    let error = ledger.on_event(&backwards, at(1)).unwrap_err();
    assert_eq!(error, LedgerError::Range { from: 6, to: 5 });
    let far = lost(1, 0, 0, SEQ_MAX + 1, LossReason::Evicted);
    let seq = SEQ_MAX + 1;
    assert_eq!(ledger.on_event(&far, at(1)), Err(LedgerError::Seq { seq }));
    let far = ledger.see_prediction(&prediction(1, 0, seq), at(1));
    assert_eq!(far, Err(LedgerError::Seq { seq }));
    assert_eq!(ledger.take_changes(), []);
    for stream in 0..STREAMS_MAX as u64 {
        see(&mut ledger, &prediction(1, stream, 0));
    }
    let error = ledger.see_prediction(&prediction(1, 999, 0), at(1));
    assert!(
        matches!(error, Err(LedgerError::Streams { .. })),
        "{error:?}"
    );
    // The largest number that is believed overflows nothing.
    see(&mut ledger, &prediction(1, 0, SEQ_MAX));
    let all = lost(1, 0, 0, SEQ_MAX, LossReason::Damaged);
    ledger.on_event(&all, at(1)).unwrap();
    let row = tally(&ledger.account(None, None), 0);
    assert_eq!((row.produced, row.damaged), (SEQ_MAX + 1, SEQ_MAX - 1));
}

#[test]
fn too_many_boots_are_folded_and_what_was_open_still_arrives_once() {
    let (mut marks, mut ledger) = (Marks::default(), NodeLedger::new());
    for boot in 0..=RUNS_MAX as u64 {
        see(&mut ledger, &prediction(boot, 0, 1));
    }
    marks.commit(ledger.take_changes());
    assert_eq!(ledger.forgotten(), 1);
    let mut ledger = marks.restore();
    let held = report(RUNS_MAX as u64, &[2], &[(0, 0, vec![(0, 0)])], 0);
    let account = ledger.account(Some(&held), None);
    assert_eq!((account.boots, account.folded_boots), (RUNS_MAX as u64, 1));
    assert_eq!(account.folded_open, 1);
    assert_eq!(tally(&account, 0).delivered, RUNS_MAX as u64 + 1);
    assert_eq!(
        (tally(&account, 0).in_flight, tally(&account, 0).missing),
        (RUNS_MAX as u64 + 1, 0)
    );
    assert_eq!(see(&mut ledger, &prediction(0, 0, 0)), Seen::New);
    let after = report(RUNS_MAX as u64, &[2], &[], 0);
    ledger.on_report(&after, at(2));
    let row = tally(&ledger.account(Some(&after), None), 0);
    assert_eq!(
        (row.delivered, row.missing),
        (RUNS_MAX as u64 + 2, RUNS_MAX as u64)
    );
}

#[test]
fn boots_that_are_done_with_become_sums() {
    let (mut marks, mut ledger) = (Marks::default(), NodeLedger::new());
    let boots = 30;
    for boot in 0..boots {
        see(&mut ledger, &prediction(boot, 0, 0));
        see(&mut ledger, &prediction(boot, 0, 2));
        // The last number of every third boot is lost in silence.
        let used = if boot % 3 == 0 { 4 } else { 3 };
        let event = lost(boot, 0, 1, 1, LossReason::Expired);
        ledger.on_event(&event, at(1)).unwrap();
        ledger.on_report(&report(boot, &[used], &[], 0), at(1));
        let event = ended(boot, true, Durability::Outage);
        ledger.on_event(&event, at(1)).unwrap();
        marks.commit(ledger.take_changes());
        ledger = marks.restore();
    }
    let last = report(boots, &[], &[], 0);
    ledger.on_report(&last, at(2));
    marks.commit(ledger.take_changes());
    let mut ledger = marks.restore();
    let account = ledger.account(Some(&last), None);
    let kept = SETTLED_KEPT as u64;
    assert_eq!(
        (account.boots, account.folded_boots),
        (kept + 1, boots - kept)
    );
    assert_eq!(account.folded_open, 0);
    let row = tally(&account, 0);
    assert_eq!((row.produced, row.delivered), (100, 60));
    assert_eq!((row.expired, row.missing, row.in_flight), (30, 10, 0));
    // Boots and streams that are known by number, the present boot, the sums, and the rest.
    assert_eq!(marks.0.len(), 2 * SETTLED_KEPT + 3);
    // A late repetition is known where nothing was open, and kept where something was.
    assert_eq!(see(&mut ledger, &prediction(1, 0, 0)), Seen::Duplicate);
    assert_eq!(see(&mut ledger, &prediction(3, 0, 3)), Seen::New);
    let row = tally(&ledger.account(Some(&last), None), 0);
    assert_eq!((row.produced, row.delivered, row.missing), (100, 61, 9));
}

#[test]
fn since_leaves_out_boots_that_were_silent() {
    let mut ledger = NodeLedger::new();
    ledger.see_prediction(&prediction(1, 0, 0), at(10)).unwrap();
    ledger.see_prediction(&prediction(2, 1, 0), at(20)).unwrap();
    let account = ledger.account(None, Some(at(15)));
    assert_eq!((account.boots, account.streams.len()), (1, 1));
    assert_eq!(tally(&account, 1).delivered, 1);
}

#[test]
fn samples_are_accounted_for_as_predictions_are() {
    let mut ledger = NodeLedger::new();
    for seq in [0, 1, 3] {
        assert_eq!(
            ledger.see_sample(&name(0), boot(1), seq, at(1)),
            Ok(Seen::New)
        );
    }
    let again = ledger.see_sample(&name(0), boot(1), 1, at(1));
    assert_eq!(again, Ok(Seen::Duplicate));
    ledger.see_again(Class::Sample, &name(0), boot(1));
    let far = ledger.see_sample(&name(0), boot(1), SEQ_MAX + 1, at(1));
    assert!(matches!(far, Err(LedgerError::Seq { .. })));
    let mut gone = lost(1, 0, 2, 2, LossReason::Evicted);
    if let LedgerEventKind::Lost(lost) = &mut gone.event {
        lost.class = Class::Sample;
    }
    ledger.on_event(&gone, at(1)).unwrap();
    // Predictions that stay on the node are waited for by nobody; its samples are.
    let mut now = report(1, &[9], &[(1, 0, vec![(4, 4)])], 0);
    now.streams[0].local = true;
    now.streams[0].counters.samples = 6;
    now.outbox.waiting[0].class = Class::Sample;
    ledger.on_report(&now, at(2));
    let account = ledger.account(Some(&now), None);
    assert_eq!(account.streams.len(), 1);
    assert_eq!(account.streams[0].class, Class::Sample);
    let row = tally(&account, 0);
    assert_eq!((row.produced, row.delivered, row.duplicated), (6, 3, 2));
    assert_eq!((row.evicted, row.in_flight, row.missing), (1, 1, 1));
    let missing = &account.missing[0];
    assert_eq!(
        (missing.class, missing.from, missing.to),
        (Class::Sample, 5, 5)
    );
}
