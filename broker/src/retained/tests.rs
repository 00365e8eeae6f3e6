use super::{Kept, Retained, SYS_TOPICS_MAX};
use crate::{
    config::Limits,
    message::{Draft, Envelope, QoS},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn message(topic: &str, payload: &str, deadline: Option<u32>) -> Envelope {
    let draft = Draft {
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: b"",
        deadline,
        payload: payload.as_bytes(),
    };
    Envelope::stored(topic, &draft)
}

fn store(count: usize, bytes: usize) -> Retained {
    let limits = Limits {
        retained_count_max: count,
        retained_bytes_max: bytes,
        ..Limits::default()
    };
    Retained::new(&limits, true)
}

fn all(store: &Retained, filter: &str, now_s: u32) -> Vec<String> {
    let (mut scan, mut page) = (store.scan(), Vec::new());
    while store.page(filter, &mut scan, now_s, 7, &mut page) {}
    page.iter()
        .map(|envelope| envelope.topic_str().to_owned())
        .collect()
}

#[test]
fn a_scan_is_complete_whatever_its_pages() {
    let store = store(20_000, 10_000_000);
    for n in 0..10_000 {
        assert_eq!(
            store.keep(message(&format!("s/{n:05}/v"), "x", None), 0),
            Kept::Stored
        );
    }
    store.keep(message("r", "x", None), 0);
    assert_eq!(all(&store, "#", 0).len(), 10_001);
    assert_eq!(all(&store, "s/+/v", 0).len(), 10_000);
    assert_eq!(all(&store, "s/00042/#", 0), ["s/00042/v"]);
    assert_eq!(all(&store, "r/#", 0), ["r"]);
    assert_eq!(all(&store, "s/00042/v", 0), ["s/00042/v"]);
    assert!(all(&store, "t/#", 0).is_empty());
}

#[test]
fn caps_hold_and_what_is_replaced_or_cleared_gives_room() {
    let store = store(2, 1_000);
    assert_eq!(store.keep(message("a", "1", None), 0), Kept::Stored);
    assert_eq!(store.keep(message("b", "1", Some(5)), 0), Kept::Stored);
    assert_eq!(store.keep(message("c", "1", None), 0), Kept::Full);
    assert_eq!(store.keep(message("a", "22", None), 0), Kept::Stored);
    assert_eq!(
        store.keep(message("c", "1", None), 5),
        Kept::Stored,
        "b has expired"
    );
    assert_eq!(store.keep(message("a", "", None), 5), Kept::Cleared);
    assert_eq!(all(&store, "#", 5), ["c"]);
    assert_eq!(
        store.keep(message("big", &"x".repeat(1_000), None), 5),
        Kept::Full
    );
    assert_eq!(store.size(), (1, message("c", "1", None).weight()));
}

#[test]
fn a_scan_leaves_out_what_came_after_its_start() {
    let store = store(10, 1_000);
    store.keep(message("a", "1", None), 0);
    store.keep(message("b", "1", None), 0);
    let mut scan = store.scan();
    store.keep(message("a", "2", None), 0);
    store.keep(message("c", "1", None), 0);
    let mut page = Vec::new();
    assert!(!store.page("#", &mut scan, 0, 7, &mut page));
    let topics: Vec<_> = page.iter().map(Envelope::topic_str).collect();
    assert_eq!(topics, ["b"]);
}

#[test]
fn an_expired_message_is_not_seen() {
    let store = store(10, 1_000);
    store.keep(message("a", "1", Some(5)), 0);
    assert_eq!(all(&store, "#", 4), ["a"]);
    assert!(all(&store, "#", 5).is_empty());
}

#[test]
fn the_brokers_own_topics_do_not_count() {
    let store = store(1, 100);
    let own = |n| message(&format!("$SYS/broker/{n}"), "value", None);
    for n in 0..SYS_TOPICS_MAX {
        assert_eq!(store.keep(own(n), 0), Kept::Stored);
    }
    assert_eq!(store.keep(own(SYS_TOPICS_MAX), 0), Kept::Full, "even so");
    assert_eq!(store.keep(own(3), 0), Kept::Stored, "a replacement");
    assert_eq!(store.size(), (0, 0));
    assert_eq!(store.unsaved(), 0);
    assert_eq!(store.keep(message("a", "1", None), 0), Kept::Stored);
    assert_eq!(
        store.keep(message("$SYS/broker/3", "", None), 0),
        Kept::Cleared
    );
    assert_eq!((store.size().0, store.unsaved()), (1, 1));
    assert_eq!(all(&store, "$SYS/#", 0).len(), SYS_TOPICS_MAX - 1);
    assert_eq!(all(&store, "#", 0), ["a"]);
}

#[test]
fn without_a_disk_no_change_is_remembered() {
    let store = Retained::new(&Limits::default(), false);
    store.keep(message("a", "1", None), 0);
    store.keep(message("a", "", None), 0);
    store.keep(message("b", "1", None), 0);
    assert_eq!(store.unsaved(), 0);
}

/// A disk as simple as can be, and what may happen around a writing.
#[derive(Debug, Clone)]
enum Step {
    Keep(usize),
    Clear(usize),
    /// Takes what has changed and writes it in batches of two, with steps between taking and writing; whether each
    /// batch reaches the disk, and whether that is known.
    Save(Vec<Step>, Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    Failed,
    /// It failed, and yet it is there.
    WrittenUnknown,
}

const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn small_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..TOPICS.len()).prop_map(Step::Keep),
        (0..TOPICS.len()).prop_map(Step::Clear),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(vec![
        Outcome::Written,
        Outcome::Failed,
        Outcome::WrittenUnknown,
    ]);
    prop_oneof![
        3 => small_step(),
        1 => (prop::collection::vec(small_step(), 0..4), outcome).prop_map(|(steps, outcome)| Step::Save(steps, outcome)),
    ]
}

type Payloads = BTreeMap<String, Vec<u8>>;

fn keep_or_clear(store: &Retained, memory: &mut Payloads, number: &mut usize, step: &Step) {
    let (topic, payload) = match step {
        Step::Keep(n) => (TOPICS[*n], number.to_string()),
        Step::Clear(n) => (TOPICS[*n], String::new()),
        Step::Save(..) => unreachable!("only at the top"),
    };
    *number += 1;
    store.keep(message(topic, &payload, None), 0);
    if payload.is_empty() {
        memory.remove(topic);
    } else {
        memory.insert(topic.to_owned(), payload.into_bytes());
    }
}

fn save(store: &Retained, disk: &mut Payloads, outcome: Outcome, mut between: impl FnMut()) {
    let mut topics = store.take_changed();
    between();
    while !topics.is_empty() {
        let changes = store.next_changes(&mut topics, 2, usize::MAX - 10);
        between();
        if outcome != Outcome::Failed {
            for change in &changes {
                let topic = String::from_utf8(change.topic.to_vec()).unwrap();
                match &change.envelope {
                    Some(envelope) => drop(disk.insert(topic, envelope.payload().to_vec())),
                    None => drop(disk.remove(&topic)),
                }
            }
        }
        if outcome != Outcome::Written {
            let failed = changes.into_iter().map(|change| change.topic);
            store.not_saved(failed.chain(topics));
            return;
        }
        store.saved(changes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens around the writings, one more that succeeds makes the disk what the memory is; and what is
    /// remembered for that stays within what memory and disk hold.
    #[test]
    fn the_disk_follows(steps in prop::collection::vec(step(), 0..40)) {
        let store = store(100, 10_000);
        let (mut memory, mut disk, mut number) = (Payloads::new(), Payloads::new(), 0);
        for step in &steps {
            match step {
                Step::Save(inner, outcome) => {
                    let mut inner = inner.iter();
                    save(&store, &mut disk, *outcome, || {
                        if let Some(step) = inner.next() {
                            keep_or_clear(&store, &mut memory, &mut number, step);
                        }
                    });
                }
                Step::Keep(_) | Step::Clear(_) => keep_or_clear(&store, &mut memory, &mut number, step),
            }
            prop_assert!(store.unsaved() <= TOPICS.len());
        }
        save(&store, &mut disk, Outcome::Written, || {});
        prop_assert_eq!(&disk, &memory);
        prop_assert_eq!(store.unsaved(), 0);
    }
}

#[test]
fn a_topic_that_comes_and_goes_between_two_writings_leaves_nothing_behind() {
    let store = store(10, 1_000);
    for n in 0..1_000 {
        let topic = format!("t/{n}");
        store.keep(message(&topic, "x", None), 0);
        store.keep(message(&topic, "", None), 0);
    }
    assert_eq!(store.unsaved(), 0);
}

#[test]
fn a_disk_in_an_unknown_state_is_written_anew() {
    let store = store(10, 1_000);
    store.keep(message("a", "1", None), 0);
    store.keep(message("$SYS/x", "1", None), 0);
    let mut disk = Payloads::new();
    save(&store, &mut disk, Outcome::Written, || {});
    // It went back in time: it has lost `a` and has `z` again.
    disk.clear();
    disk.insert("z".to_owned(), b"old".to_vec());
    store.note_unknown(["z".into()]);
    save(&store, &mut disk, Outcome::Written, || {});
    assert_eq!(disk, Payloads::from([("a".to_owned(), b"1".to_vec())]));
}
