//! The store as an ordered map: against a `BTreeMap`, its limits, and from several threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lamppost_store::{KEY_BYTES_MAX, Options, Recovery, Store, StoreError, Write};
use proptest::prelude::*;

fn byte(number: u32) -> u8 {
    number.to_be_bytes()[3]
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Write>),
    Reopen,
}

/// Keys that are often the same, often prefixes of each other, and often at the edges of a byte.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(b'/'), Just(255)], 1..4),
        1 => proptest::collection::vec(any::<u8>(), 1..=KEY_BYTES_MAX),
    ]
}

/// Values of no byte, of one entry and of several pieces.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => 0_usize..400, 2 => 600_usize..5_000, 1 => 10_000_usize..20_000];
    (any::<u8>(), length).prop_map(|(first, length)| {
        (0..=u8::MAX)
            .cycle()
            .skip(first.into())
            .take(length)
            .collect()
    })
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Write::Put { key, value }),
        1 => key().prop_map(|key| Write::Delete { key }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(write(), 0..12).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

fn small() -> Options {
    Options {
        segment_bytes: 64 * 1024,
        ..Options::state()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_an_ordered_map(steps in proptest::collection::vec(step(), 1..20),
                                   bounds in proptest::collection::vec((key(), key()), 4)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut store = Store::open(&path, &small()).unwrap().store;
        let mut oracle: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    store.commit(&writes).unwrap();
                    for write in writes {
                        match write {
                            Write::Put { key, value } => drop(oracle.insert(key, value)),
                            Write::Delete { key } => drop(oracle.remove(&key)),
                        }
                    }
                }
                Step::Reopen => {
                    store.close();
                    let opened = Store::open(&path, &small()).unwrap();
                    prop_assert_eq!(opened.recovery, Recovery::Clean);
                    store = opened.store;
                }
            }
            let all: Vec<_> = store.scan_prefix(b"").map(Result::unwrap).collect();
            let wanted: Vec<_> = oracle.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert!(all == wanted, "{} entries for {}", all.len(), wanted.len());
        }
        for (from, to) in bounds {
            prop_assert_eq!(store.get(&from).unwrap(), oracle.get(&from).cloned());
            let prefixed: Vec<_> = store.scan_prefix(&from).map(|item| item.unwrap().0).collect();
            let wanted: Vec<_> = oracle.keys().filter(|key| key.starts_with(&from)).cloned().collect();
            prop_assert_eq!(prefixed, wanted);
            let within: Vec<_> = oracle.iter().filter(|(key, _)| **key >= from && **key < to)
                .map(|(key, value)| (key.clone(), value.clone())).collect();
            let ranged: Vec<_> = store.range(&from, &to).map(Result::unwrap).collect();
            prop_assert_eq!(&ranged, &within);
            prop_assert_eq!(store.first(&from, &to).unwrap(), within.first().cloned());
            prop_assert_eq!(store.last(&from, &to).unwrap(), within.last().cloned());
        }
    }
}

#[test]
fn refuses_what_is_over_a_limit_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), &Options::generation())
        .unwrap()
        .store;
    store.commit(&[Write::put("a", vec![1; 7 * 1024])]).unwrap();

    let error = store
        .commit(&[Write::put("a", "2"), Write::put("b", vec![0; 7 * 1024 + 1])])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "value of key \"b\" has 7169 bytes, this store takes up to 7168"
    );
    for wrong in [Vec::new(), vec![b'k'; KEY_BYTES_MAX + 1]] {
        let bytes = wrong.len();
        assert!(matches!(store.get(&wrong), Err(StoreError::Key { .. })));
        let error = store
            .commit(&[Write::put("a", "2"), Write::put(wrong, "x")])
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("has {bytes} bytes, a key has 1 to 256")),
            "{error}"
        );
    }
    let many: Vec<Write> = (0..5000)
        .map(|number: u32| Write::put(number.to_be_bytes(), "x"))
        .collect();
    assert!(matches!(
        store.commit(&many),
        Err(StoreError::Commit { writes: 5000, .. })
    ));
    let heavy: Vec<Write> = (0..600)
        .map(|number: u32| Write::put(number.to_be_bytes(), vec![0; 7 * 1024]))
        .collect();
    assert!(matches!(
        store.commit(&heavy),
        Err(StoreError::Commit { writes: 600, .. })
    ));

    assert_eq!(store.get(b"a").unwrap().unwrap(), vec![1; 7 * 1024]);
    assert_eq!(store.scan_prefix(b"").count(), 1);
}

#[test]
fn no_value_ever_becomes_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), &Options::state())
        .unwrap()
        .store;
    for number in 0..200_u32 {
        let sizes = [64 * 1024, 7 * 1024, 7_378, 7_379, 1 << 20];
        let length = sizes[number as usize % if number < 10 { 5 } else { 4 }];
        let key = [number.to_be_bytes().as_slice(), &[b'k'; KEY_BYTES_MAX - 4]].concat();
        store
            .commit(&[Write::put(key, vec![byte(number); length])])
            .unwrap();
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("store/blobs"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        store
            .scan_prefix(b"")
            .filter(|item| item.as_ref().unwrap().1.len() >= 7 * 1024)
            .count(),
        200
    );
}

#[test]
fn a_large_value_that_shrinks_leaves_no_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), &Options::state())
        .unwrap()
        .store;
    for round in 0..300_u32 {
        let length = [100_000, 10, 50_000][round as usize % 3];
        store
            .commit(&[Write::put("state", vec![byte(round); length])])
            .unwrap();
        assert_eq!(
            store.get(b"state").unwrap().unwrap(),
            vec![byte(round); length]
        );
    }
    store.commit(&[Write::delete("state")]).unwrap();
    assert_eq!(store.get(b"state").unwrap(), None);
    assert!(
        store.size_on_disk() < 16 << 20,
        "{} bytes after 15 MB of overwrites",
        store.size_on_disk()
    );
}

#[test]
fn commits_are_whole_for_readers_in_other_threads() {
    const WRITERS: u32 = 4;
    const ROUNDS: u32 = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), &small())
        .unwrap()
        .store;
    let running = AtomicBool::new(true);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0_u32;
                    while running.load(Ordering::SeqCst) {
                        for writer in 0..WRITERS {
                            // A value in pieces has one round in all its bytes, or it mixes two commits.
                            if let Some(value) = store.get(format!("w{writer}").as_bytes()).unwrap()
                            {
                                assert!(value.iter().all(|byte| *byte == value[0]));
                                seen += 1;
                            }
                        }
                        assert!(store.scan_prefix(b"").all(|item| item.is_ok()));
                    }
                    seen
                })
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let large = vec![byte(round); 3_000 + round as usize];
                        let entry =
                            Write::put(format!("log/{writer}/{round:04}"), round.to_be_bytes());
                        store
                            .commit(&[Write::put(format!("w{writer}"), large), entry])
                            .unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        running.store(false, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert_eq!(
        store.scan_prefix(b"log/").count(),
        (WRITERS * ROUNDS) as usize
    );
}
