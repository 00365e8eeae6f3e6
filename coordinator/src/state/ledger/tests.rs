use lamppost_coordinator_core::ledger::Tally;
use lamppost_models::ledger::{
    Class, Durability, Ended, EventBatch, LedgerEvent, LedgerEventKind, LossReason, Lost, Waiting,
};
use lamppost_models::message::{ReportedLane, ReportedOutbox, ReportedStream, StreamCounters};
use lamppost_models::{BootId, Epoch, Reported, V1};

use super::*;
use crate::state::ingest::tests::{ack, batch, incoming, live, path};
use crate::state::testing::{at, open};
use crate::state::{Incoming, json};

fn lost(from: u64, to: u64) -> LedgerEvent {
    LedgerEvent {
        v: V1,
        at: at(1),
        event: LedgerEventKind::Lost(Lost {
            class: Class::Prediction,
            stream: "i94".parse().unwrap(),
            boot: BootId::from_u64(1),
            from,
            to,
            records: 1,
            reason: LossReason::Evicted,
        }),
    }
}

fn ended(boot: u64) -> LedgerEvent {
    let ended = Ended {
        boot: BootId::from_u64(boot),
        clean: false,
        durability: Durability::Outage,
    };
    LedgerEvent {
        v: V1,
        at: at(1),
        event: LedgerEventKind::Ended(ended),
    }
}

fn events(number: u64, records: Vec<LedgerEvent>) -> EventBatch {
    EventBatch {
        v: V1,
        epoch: Epoch::from_u64(7),
        number,
        records,
    }
}

fn report(boot: u64, used: u64, waiting: &[(u64, u64)]) -> Incoming {
    let stream = ReportedStream {
        name: "i94".parse().unwrap(),
        model: "flow".parse().unwrap(),
        last_reading: None,
        stale_since: Some(at(0)),
        local: false,
        drift: None,
        counters: StreamCounters {
            predictions: used,
            ..StreamCounters::default()
        },
    };
    let lane = |class| ReportedLane {
        class,
        batches: 0,
        records: 0,
        bytes: 0,
        cap_bytes: 1,
        oldest: None,
    };
    let waiting = Waiting {
        class: Class::Prediction,
        stream: stream.name.clone(),
        boot: BootId::from_u64(1),
        ranges: waiting.to_vec(),
    };
    let reported = Reported {
        v: V1,
        boot: BootId::from_u64(boot),
        at: at(1),
        models: Vec::new(),
        streams: vec![stream],
        outbox: ReportedOutbox {
            lanes: Class::ALL.map(lane).to_vec(),
            waiting: vec![waiting],
            ..ReportedOutbox::default()
        },
        trust: None,
    };
    incoming("a", "reported", json(&reported))
}

fn tally(state: &mut State) -> Tally {
    let view = state.ledger(&path("a"), None, at(5)).unwrap().unwrap();
    view.account.streams.first().unwrap().tally
}

#[test]
fn the_account_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages = [
        live("a", 1, 0),
        live("a", 1, 0),
        live("a", 1, 4),
        incoming("a", "events", json(&events(1, vec![lost(1, 1)]))),
        report(1, 8, &[(5, 6)]),
    ];
    state.ingest(&messages, at(1)).unwrap();
    let expected = Tally {
        produced: 8,
        delivered: 2,
        duplicated: 1,
        evicted: 1,
        in_flight: 2,
        missing: 3 - 1,
        ..Tally::default()
    };
    // 2, 3 and 7 are missing.
    let expected = Tally {
        missing: 3,
        ..expected
    };
    assert_eq!(tally(&mut state), expected);
    drop(state);
    let mut state = open(dir.path());
    assert_eq!(tally(&mut state), expected);
    // The next run says that the last one crashed, and holds nothing of it.
    let next = [
        incoming("a", "events", json(&events(2, vec![ended(1)]))),
        report(2, 0, &[]),
    ];
    state.ingest(&next, at(2)).unwrap();
    let crashed = Tally {
        in_flight: 0,
        missing: 0,
        crash: 5,
        ..expected
    };
    assert_eq!(tally(&mut state), crashed);
    // The sum of what became of them: 7 made by the first, of it 0 and 4 delivered.
    let view = state.ledger(&path("a"), None, at(5)).unwrap().unwrap();
    assert_eq!(view.stale_streams.len(), 1);
    assert!(!view.report_is_old);
    let late = at(2).after(state.settings.stale_after).offset_ms(1);
    assert!(
        state
            .ledger(&path("a"), None, late)
            .unwrap()
            .unwrap()
            .report_is_old
    );
}

#[test]
fn events_are_acknowledged_once_they_are_stored_also_what_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut batch = serde_json::to_value(events(3, vec![lost(1, 2), lost(9, 8)])).unwrap();
    let rumour = serde_json::json!({"v": 1, "at": at(1), "event": "rumour"});
    batch["records"].as_array_mut().unwrap().push(rumour);
    let message = incoming("a", "events", serde_json::to_vec(&batch).unwrap());
    let both = [message.clone(), message];
    let acks = state.ingest(&both, at(1)).unwrap();
    assert_eq!(acks, [ack("a", &[], &[(3, 3)])]);
    assert_eq!(
        (state.counters.of("ledger"), state.counters.of("event")),
        (1, 1)
    );
    assert_eq!(tally(&mut state).evicted, 2);
    let absurd = live("a", 1, u64::MAX);
    let acks = state.ingest(&[absurd], at(1)).unwrap();
    assert_eq!(acks, [ack("a", &[(1, u64::MAX, u64::MAX)], &[])]);
    assert_eq!(state.counters.of("ledger"), 2);
    assert_eq!(tally(&mut state).delivered, 0);
}

#[test]
fn batches_may_come_compressed_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let packed = |message: Incoming| Incoming {
        payload: zstd::bulk::compress(&message.payload, 3).unwrap().into(),
        ..message
    };
    let messages = [
        packed(batch("a", 0, &[(1, 0), (1, 1)])),
        packed(incoming("a", "events", json(&events(1, vec![lost(2, 2)])))),
    ];
    let acks = state.ingest(&messages, at(1)).unwrap();
    assert_eq!(acks, [ack("a", &[], &[(0, 1)])]);
    assert_eq!(
        (tally(&mut state).delivered, tally(&mut state).evicted),
        (2, 1)
    );
    let mut cut = packed(batch("a", 2, &[(1, 3)]));
    cut.payload = cut.payload.slice(..cut.payload.len() - 3);
    let mut bomb = batch("a", 2, &[(1, 3)]);
    bomb.payload = vec![b' '; 64 << 20].into();
    let bomb = packed(bomb);
    assert!(
        bomb.payload.len() < 16_384,
        "a small message that would be large"
    );
    assert_eq!(state.ingest(&[cut, bomb], at(1)).unwrap(), []);
    assert_eq!(state.counters.of("unpack"), 2);
}

#[test]
fn an_upgraded_coordinator_stores_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    // As the earlier form left it: numbers 0 to 2 of boot 1, over all streams, and batch 4.
    let numbers = |numbers: &[u64]| {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        std::iter::once(1).chain(numbers).collect::<Vec<u8>>()
    };
    let boot = BootId::from_u64(1);
    let marks = [
        lamppost_store::Write::put(format!("seen/s/a/p/{boot}"), numbers(&[9, 0, 2])),
        lamppost_store::Write::put(
            format!("seen/s/a/b/{}", Epoch::from_u64(7)),
            numbers(&[8, 4, 4]),
        ),
    ];
    state.commit(&marks).unwrap();
    drop(state);
    let mut state = open(dir.path());
    let messages = [
        live("a", 1, 2),
        batch("a", 4, &[(1, 0), (1, 1)]),
        batch("a", 5, &[(1, 1), (1, 3)]),
    ];
    let acks = state.ingest(&messages, at(1)).unwrap();
    assert_eq!(acks, [ack("a", &[(1, 2, 2)], &[(4, 5)])]);
    let stored = |state: &mut State| state.shelf(&path("a")).unwrap().stored;
    assert_eq!(stored(&mut state), 1, "only number 3 is new");
    drop(state);
    let mut state = open(dir.path());
    state.ingest(&messages, at(2)).unwrap();
    assert_eq!(stored(&mut state), 1);
    state.ingest(&[report(1, 9, &[])], at(3)).unwrap();
    let view = state.ledger(&path("a"), None, at(5)).unwrap().unwrap();
    assert_eq!(view.account.unjudged_boots, 1);
    assert_eq!(
        tally(&mut state).missing,
        0,
        "a run of before is not judged"
    );
}

#[test]
fn ledgers_are_paged_by_site_and_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages: Vec<_> = ["c", "a", "d", "b"].map(|node| live(node, 1, 0)).to_vec();
    state.ingest(&messages, at(10)).unwrap();
    let names = |page: &LedgerPage| -> Vec<String> {
        page.nodes
            .iter()
            .map(|node| node.path.to_string())
            .collect()
    };
    let first = state.ledgers(None, 3, None, at(11)).unwrap();
    assert_eq!(names(&first), ["s/a", "s/b", "s/c"]);
    assert_eq!(first.next.as_deref(), Some("s/c"));
    let rest = state.ledgers(Some(&path("c")), 3, None, at(11)).unwrap();
    assert_eq!((names(&rest), rest.next), (vec!["s/d".to_owned()], None));
    let recent = state.ledgers(None, 3, Some(at(11)), at(11)).unwrap();
    assert!(
        recent
            .nodes
            .iter()
            .all(|node| node.account.streams.is_empty())
    );
    assert!(state.ledger(&path("x"), None, at(11)).unwrap().is_none());
}
