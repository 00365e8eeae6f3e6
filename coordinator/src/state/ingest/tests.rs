use lamppost_models::Digest;
use lamppost_models::id::PredictionId;
use lamppost_models::message::{ModelRef, NodeState};
use semver::Version;

use super::*;
use crate::state::testing::{all, at, disk_full, open, settings};

const STREAM: &str = "i94";

pub(in crate::state) fn path(node: &str) -> NodePath {
    NodePath {
        site: "s".parse().unwrap(),
        node: node.parse().unwrap(),
    }
}

fn prediction(boot: u64, number: u64) -> Prediction {
    let boot = BootId::from_u64(boot);
    Prediction {
        v: V1,
        id: PredictionId { boot, number },
        ts: at(100),
        target_ts: None,
        stream: STREAM.parse().unwrap(),
        seq: number,
        boot,
        model: ModelRef {
            name: "flow".parse().unwrap(),
            version: Version::new(1, 0, 0),
            digest: Digest::of(b"x"),
        },
        label: None,
        score: None,
        scores: None,
        value: Some(1.5),
        unit: Some("vehicles".to_owned()),
        latency_us: 10,
        replay: false,
    }
}

pub(in crate::state) fn incoming(node: &str, below: &str, payload: Vec<u8>) -> Incoming {
    Incoming {
        topic: format!("lamppost/v1/nodes/s/{node}/{below}"),
        payload: payload.into(),
    }
}

pub(in crate::state) fn live(node: &str, boot: u64, number: u64) -> Incoming {
    incoming(node, "pred/i94", json(&prediction(boot, number)))
}

pub(in crate::state) fn batch(node: &str, number: u64, ids: &[(u64, u64)]) -> Incoming {
    let record = |&(boot, number)| Prediction {
        replay: true,
        ..prediction(boot, number)
    };
    let stream = STREAM.parse().unwrap();
    let records = ids.iter().map(record).collect();
    let batch = PredictionBatch {
        v: V1,
        epoch: Epoch::from_u64(7),
        number,
        stream,
        records,
    };
    incoming(node, "pred-hist/i94", json(&batch))
}

/// Ids that are stored of a node, newest first.
fn stored(state: &mut State, node: &str) -> Vec<(u64, u64)> {
    let found = state.predictions(&path(node), &all()).unwrap();
    let rows = found.predictions.iter();
    rows.map(|row| (row.prediction.id.boot.as_u64(), row.prediction.id.number))
        .collect()
}

pub(in crate::state) fn ack(
    node: &str,
    predictions: &[(u64, u64, u64)],
    batches: &[(u64, u64)],
) -> NodeAck {
    let predictions = predictions.iter().map(|&(boot, from, to)| PredictionRange {
        boot: BootId::from_u64(boot),
        from,
        to,
    });
    let batches = batches.iter().map(|&(from, to)| BatchRange {
        epoch: Epoch::from_u64(7),
        from,
        to,
    });
    NodeAck {
        path: path(node),
        ack: Ack {
            v: V1,
            predictions: predictions.collect(),
            batches: batches.collect(),
        },
    }
}

#[test]
fn a_round_stores_and_acknowledges_by_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages = [
        live("a", 1, 0),
        live("b", 1, 5),
        live("a", 1, 1),
        live("a", 1, 3),
        batch("a", 4, &[(1, 2), (9, 0)]),
    ];
    let acks = state.ingest(&messages, at(1)).unwrap();
    assert_eq!(
        acks,
        [
            ack("a", &[(1, 0, 1), (1, 3, 3)], &[(4, 4)]),
            ack("b", &[(1, 5, 5)], &[])
        ]
    );
    assert_eq!(
        stored(&mut state, "a"),
        [(9, 0), (1, 2), (1, 3), (1, 1), (1, 0)]
    );
    assert_eq!(stored(&mut state, "b"), [(1, 5)]);
    let shelf = state.shelf(&path("a")).unwrap();
    assert_eq!(
        (
            shelf.records,
            shelf.stored,
            shelf.replayed,
            shelf.duplicates
        ),
        (5, 5, 2, 0)
    );
}

#[test]
fn what_comes_again_is_acknowledged_again_and_stored_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages = [
        live("a", 1, 0),
        live("a", 1, 0),
        batch("a", 0, &[(1, 0), (1, 1)]),
        batch("a", 0, &[(1, 0), (1, 1)]),
    ];
    let first = state.ingest(&messages, at(1)).unwrap();
    assert_eq!(first, [ack("a", &[(1, 0, 0)], &[(0, 0)])]);
    drop(state);

    let mut state = open(dir.path());
    assert_eq!(state.ingest(&messages, at(2)).unwrap(), first);
    assert_eq!(stored(&mut state, "a"), [(1, 1), (1, 0)]);
    // A record of a stored batch that comes in another batch, and live.
    state
        .ingest(&[batch("a", 1, &[(1, 1), (1, 2)]), live("a", 1, 2)], at(3))
        .unwrap();
    assert_eq!(stored(&mut state, "a"), [(1, 2), (1, 1), (1, 0)]);
    assert_eq!(state.shelf(&path("a")).unwrap().duplicates, 4 + 6 + 2);
}

#[test]
fn nothing_is_acknowledged_that_was_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.ingest(&[live("a", 1, 0)], at(1)).unwrap();
    state.fail_next_commit = Some(disk_full());
    state
        .ingest(&[live("a", 1, 1), batch("a", 0, &[(1, 2)])], at(2))
        .unwrap_err();
    assert!(
        state.stopped(),
        "memory is ahead of the disk and must be read again"
    );
    drop(state);

    let mut state = open(dir.path());
    assert_eq!(stored(&mut state, "a"), [(1, 0)]);
    let acks = state
        .ingest(&[live("a", 1, 1), batch("a", 0, &[(1, 2)])], at(3))
        .unwrap();
    assert_eq!(acks, [ack("a", &[(1, 1, 1)], &[(0, 0)])]);
    assert_eq!(stored(&mut state, "a"), [(1, 2), (1, 1), (1, 0)]);
}

#[test]
fn malformed_messages_are_counted_and_harm_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let wrong_boot = Prediction {
        boot: BootId::from_u64(2),
        ..prediction(1, 0)
    };
    let mut nested = batch("a", 0, &[(1, 0)]);
    nested.topic = nested.topic.replace("i94", "other");
    let messages = [
        (
            Incoming {
                topic: "other/root".to_owned(),
                payload: Bytes::new(),
            },
            "topic",
        ),
        (incoming("a", "ack", b"{}".to_vec()), "topic"),
        (incoming("a", "pred/bad name", b"{}".to_vec()), "topic"),
        (incoming("a", "pred/i94", b"{\"v\":2}".to_vec()), "json"),
        (incoming("a", "status", b"not json".to_vec()), "json"),
        (incoming("a", "reported", vec![0xff; 9]), "json"),
        (
            incoming("a", "pred/i94", vec![b' '; MESSAGE_BYTES_MAX + 1]),
            "oversize",
        ),
        (
            incoming("a", "reported", vec![b' '; INVENTORY_BYTES_MAX + 1]),
            "oversize",
        ),
        (
            incoming("a", "pred/other", json(&prediction(1, 0))),
            "stream",
        ),
        (nested, "stream"),
        (incoming("a", "pred/i94", json(&wrong_boot)), "boot"),
    ];
    for (message, reason) in &messages {
        let before = state.counters.of(reason);
        assert_eq!(
            state.ingest(std::slice::from_ref(message), at(1)).unwrap(),
            [],
            "{message:?}"
        );
        assert_eq!(state.counters.of(reason), before + 1, "{message:?}");
    }
    let all: Vec<_> = messages
        .into_iter()
        .map(|(message, _)| message)
        .chain([live("a", 1, 0)])
        .collect();
    assert_eq!(
        state.ingest(&all, at(2)).unwrap(),
        [ack("a", &[(1, 0, 0)], &[])]
    );
}

#[test]
fn the_inventory_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let status = Status {
        v: V1,
        state: NodeState::Up,
        boot: BootId::from_u64(1),
        at: at(1),
        agent: "0.1.0".to_owned(),
        groups: vec!["all".parse().unwrap()],
        tags: lamppost_models::rollout::Tags::new(),
    };
    state
        .ingest(
            &[incoming("a", "status", json(&status)), live("b", 1, 0)],
            at(5),
        )
        .unwrap();
    let down = Status {
        state: NodeState::Down,
        boot: BootId::from_u64(9),
        ..status.clone()
    };
    state
        .ingest(&[incoming("a", "status", json(&down))], at(6))
        .unwrap();
    assert_eq!(state.counters.of("old_news"), 1);
    drop(state);

    let state = open(dir.path());
    assert_eq!(
        state.inventory.get(&path("a")).unwrap().status,
        Some(status)
    );
    assert_eq!(state.inventory.nodes().count(), 2);
}

#[test]
fn too_many_nodes_are_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let few = crate::state::Settings {
        nodes_max: 1,
        ..settings()
    };
    let mut state = State::open(&dir.path().join("state"), few).unwrap();
    let acks = state
        .ingest(&[live("a", 1, 0), live("b", 1, 0)], at(1))
        .unwrap();
    assert_eq!(acks, [ack("a", &[(1, 0, 0)], &[])]);
    assert_eq!(state.counters.of("inventory_full"), 1);
}

#[test]
fn the_oldest_predictions_go_when_there_are_too_many_and_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || {
        let mut settings = settings();
        settings.caps.records = 25;
        settings
    };
    let mut state = State::open(&dir.path().join("state"), settings()).unwrap();
    for number in 0..100 {
        state.ingest(&[live("a", 1, number)], at(1)).unwrap();
    }
    drop(state);
    let mut state = State::open(&dir.path().join("state"), settings()).unwrap();
    let kept: Vec<_> = (75..100).rev().map(|number| (1, number)).collect();
    assert_eq!(stored(&mut state, "a"), kept);
    let shelf = state.shelf(&path("a")).unwrap();
    assert_eq!((shelf.stored, shelf.retired, shelf.records), (100, 75, 25));
    state.ingest(&[live("a", 1, 3)], at(2)).unwrap();
    assert_eq!(stored(&mut state, "a"), kept);
}

#[test]
fn many_predictions_of_a_round_share_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages: Vec<_> = (0..256).map(|number| live("a", 1, number)).collect();
    state.ingest(&messages, at(1)).unwrap();
    let shelf = state.shelf(&path("a")).unwrap();
    assert!(
        shelf.next > 5 && shelf.next < 30,
        "{} pages of about 6 KiB",
        shelf.next
    );
    assert_eq!(stored(&mut state, "a").len(), 256);
}
