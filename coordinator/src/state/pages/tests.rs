use lamppost_store::Write;

use super::*;
use crate::state::Incoming;
use crate::state::testing::{all, at, open};

fn path() -> NodePath {
    NodePath {
        site: "s".parse().unwrap(),
        node: "a".parse().unwrap(),
    }
}

/// Stores so many predictions of a stream in one round, numbered from `first`.
fn store(state: &mut State, stream: &str, first: u64, count: u64) {
    let message = |number: u64| {
        let prediction = serde_json::json!({
            "v": 1, "id": format!("0000000000000001-{number}"), "ts": at(100), "stream": stream, "seq": number,
            "boot": "0000000000000001", "latency_us": 1, "replay": false,
            "model": { "name": "flow", "version": "1.0.0", "digest": lamppost_models::Digest::of(b"x") },
        });
        Incoming {
            topic: format!("lamppost/v1/nodes/s/a/pred/{stream}"),
            payload: json(&prediction).into(),
        }
    };
    let messages: Vec<_> = (first..first + count).map(message).collect();
    state.ingest(&messages, at(1)).unwrap();
}

fn numbers(found: &StoredPredictions) -> Vec<u64> {
    let rows = found.predictions.iter();
    rows.map(|row| row.prediction.id.number).collect()
}

/// Pages back until nothing is older, `pages_max` pages a request; the numbers, and how many requests it took.
fn look_back(state: &mut State, mut wanted: Wanted, pages_max: usize) -> (Vec<u64>, usize) {
    let (mut all, mut requests) = (Vec::new(), 0);
    loop {
        let found = state.look_back(&path(), &wanted, pages_max).unwrap();
        assert!(found.predictions.len() <= wanted.limit);
        all.extend(numbers(&found));
        requests += 1;
        assert!(requests < 1_000, "it goes round in circles");
        wanted.before = found.older;
        if wanted.before.is_none() {
            return (all, requests);
        }
    }
}

#[test]
fn everything_is_paged_back_through_whatever_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    assert_eq!(
        state.predictions(&path(), &all()).unwrap(),
        StoredPredictions::default()
    );
    for round in 0..10 {
        store(&mut state, "i94", round * 40, 40);
    }
    let newest_first: Vec<u64> = (0..400).rev().collect();
    for limit in [1, 7, 40, 399, 400, 401] {
        for pages_max in [1, 2, usize::MAX] {
            let wanted = Wanted { limit, ..all() };
            let (found, _) = look_back(&mut state, wanted, pages_max);
            assert_eq!(found, newest_first, "limit {limit}, {pages_max} pages");
        }
    }
    // With the very number of them, one answer says that there is no more.
    let wanted = Wanted {
        limit: 400,
        ..all()
    };
    assert_eq!(look_back(&mut state, wanted, usize::MAX).1, 1);
}

#[test]
fn a_rare_stream_is_found_over_several_short_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    store(&mut state, "rare", 0, 2);
    for round in 0..12 {
        store(&mut state, "i94", 100 + round, 1);
    }
    store(&mut state, "rare", 200, 2);
    let wanted = Wanted {
        stream: Some("rare".parse().unwrap()),
        limit: 3,
        ..all()
    };
    let first = state.look_back(&path(), &wanted, 3).unwrap();
    assert_eq!(numbers(&first), [201, 200]);
    assert!(first.older.is_some(), "there may be more");
    let (found, requests) = look_back(&mut state, wanted.clone(), 3);
    assert_eq!((found, requests), (vec![201, 200, 1, 0], 5));
    let nothing = Wanted {
        stream: Some("other".parse().unwrap()),
        ..wanted
    };
    assert_eq!(
        state.predictions(&path(), &nothing).unwrap(),
        StoredPredictions::default()
    );
}

#[test]
fn a_position_holds_while_pages_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    for round in 0..5 {
        store(&mut state, "i94", round * 2, 2);
    }
    let before = |page, index| Wanted {
        before: Some(Position { page, index }),
        ..all()
    };
    let mut found = |wanted: &Wanted| numbers(&state.predictions(&path(), wanted).unwrap());
    assert_eq!(found(&before(3, 1)), [6, 5, 4, 3, 2, 1, 0]);
    // Beyond the newest, as after the store was moved away and begun anew.
    assert_eq!(found(&before(u64::MAX, 0)).len(), 10);

    // A page in the middle is lost: what is older is given still.
    let lost = keys::page(&path(), 3);
    state.commit(&[Write::delete(lost)]).unwrap();
    let mut found = |wanted: &Wanted| numbers(&state.predictions(&path(), wanted).unwrap());
    assert_eq!(found(&before(3, 1)), [5, 4, 3, 2, 1, 0]);
    assert_eq!(found(&all()), [9, 8, 5, 4, 3, 2, 1, 0]);

    // The oldest ones are deleted because a cap is reached: of page 1 nothing is left, of page 3 on there is.
    state.settings.caps.records = 6;
    store(&mut state, "i94", 10, 2);
    let mut found = |wanted: &Wanted| state.predictions(&path(), wanted).unwrap();
    assert_eq!(found(&before(1, 1)), StoredPredictions::default());
    let rest = found(&before(5, 0));
    assert_eq!((numbers(&rest), rest.older), (vec![9, 8], None));
}
