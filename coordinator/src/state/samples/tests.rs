use std::collections::BTreeSet;
use std::time::Duration;

use lamppost_models::ledger::Class;
use lamppost_models::message::{SampleBatch, SamplePolicy};
use lamppost_models::reading::{Reading, Value};
use lamppost_models::{BootId, Epoch};

use super::*;
use crate::config::SampleLimits;
use crate::state::Incoming;
use crate::state::ingest::tests::{ack, incoming, path};
use crate::state::testing::{at, disk_full, open};

fn sample(boot: u64, seq: u64) -> Sample {
    let reading = Reading {
        ts: at(seq.cast_signed()),
        fields: [("volume".parse().unwrap(), Value::Number(seq as f64))].into(),
    };
    Sample {
        v: V1,
        ts: reading.ts,
        origin: Some(SampleOrigin {
            boot: BootId::from_u64(boot),
            seq,
            model: "flow".parse().unwrap(),
            policy: SamplePolicy::Uncertain,
            consent: "council-7".parse().unwrap(),
        }),
        window: vec![reading],
        prediction: None,
        label: None,
    }
}

fn batch(node: &str, number: u64, records: Vec<Sample>) -> Incoming {
    let batch = SampleBatch {
        v: V1,
        epoch: Epoch::from_u64(7),
        number,
        stream: "i94".parse().unwrap(),
        records,
    };
    incoming(node, "sample/i94", json(&batch))
}

/// A batch of a node's first boot.
fn some(node: &str, number: u64, seqs: impl IntoIterator<Item = u64>) -> Incoming {
    batch(
        node,
        number,
        seqs.into_iter().map(|seq| sample(1, seq)).collect(),
    )
}

fn id(node: &str, seq: u64) -> SampleId {
    SampleId {
        path: path(node),
        stream: "i94".parse().unwrap(),
        boot: BootId::from_u64(1),
        seq,
    }
}

/// All that a filter means, by pages of `limit`.
fn found(state: &mut State, filter: &Filter, limit: usize) -> Vec<StoredSample> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let part = state.samples(filter, after.as_ref(), limit).unwrap();
        assert!(part.rows.len() <= limit);
        rows.extend(part.rows);
        match part.next {
            Some(next) => after = Some(next),
            None => break rows,
        }
    }
}

fn seqs(state: &mut State, filter: &Filter) -> Vec<u64> {
    let rows = found(state, filter, 1_000).into_iter();
    rows.map(|row| row.id.seq).collect()
}

/// What the index says is what the samples say.
fn assert_sound(state: &mut State) {
    let (blocks, records, bytes) = {
        let index = &state.samples.index;
        (index.blocks(), index.records(), index.bytes())
    };
    state.index_samples().unwrap();
    let index = &state.samples.index;
    assert_eq!(
        (index.blocks(), index.records(), index.bytes()),
        (blocks, records, bytes)
    );
}

#[test]
fn a_round_stores_samples_once_and_acknowledges_them_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages = [some("a", 0, 0..3), some("b", 0, [5]), some("a", 1, [2, 3])];
    let acks = [ack("a", &[], &[(0, 1)]), ack("b", &[], &[(0, 0)])];
    assert_eq!(state.ingest(&messages, at(9)).unwrap(), acks);
    for restart in 0..2 {
        assert_eq!(seqs(&mut state, &Filter::default()), [0, 1, 2, 3, 5]);
        assert_sound(&mut state);
        drop(state);
        state = open(dir.path());
        assert_eq!(state.ingest(&messages, at(10 + restart)).unwrap(), acks);
    }
    let counts = state.sample_counts();
    assert_eq!((counts.stored, counts.duplicates), (5, 1 + 2 * 6));
    let row = found(&mut state, &Filter::default(), 1).remove(0);
    assert_eq!(
        (row.id.to_string().as_str(), row.received_at),
        ("s/a/i94/0000000000000001-0", at(9))
    );
    assert_eq!((row.sample, row.label_by), (sample(1, 0), None));
    let account = state.desk(&path("a")).unwrap().ledger.account(None, None);
    let tally = account.streams[0].tally;
    assert_eq!(account.streams[0].class, Class::Sample);
    assert_eq!((tally.delivered, tally.duplicated), (4, 1 + 2 * 5));
}

#[test]
fn nothing_is_acknowledged_that_was_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.fail_next_commit = Some(disk_full());
    state.ingest(&[some("a", 0, 0..3)], at(1)).unwrap_err();
    assert!(state.stopped());
    drop(state);
    let mut state = open(dir.path());
    assert_eq!(seqs(&mut state, &Filter::default()), [0; 0]);
    let acks = state.ingest(&[some("a", 0, 0..3)], at(2)).unwrap();
    assert_eq!(acks, [ack("a", &[], &[(0, 0)])]);
    assert_eq!(seqs(&mut state, &Filter::default()), [0, 1, 2]);
}

#[test]
fn what_cannot_be_is_refused_counted_and_acknowledged_with_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let without = |key: &str| {
        let mut value = serde_json::to_value(sample(1, 1)).unwrap();
        value.as_object_mut().unwrap().remove(key);
        value
    };
    let with = |key: &str, wrong: serde_json::Value| {
        let mut value = serde_json::to_value(sample(1, 1)).unwrap();
        value[key] = wrong;
        value
    };
    let wrong = [
        serde_json::json!(7),
        without("origin"),
        without("window"),
        with("v", 2.into()),
        with("window", serde_json::json!([])),
        with("label", "".into()),
        with("label", "x".repeat(129).into()),
        with("label", "a\u{7}b".into()),
        with("label", serde_json::json!([1])),
        with("ts", "soon".into()),
        serde_json::to_value(sample(1, 1 << 53)).unwrap(),
    ];
    let count = wrong.len() as u64;
    let mut records = vec![serde_json::to_value(sample(1, 0)).unwrap()];
    records.extend(wrong);
    records.push(serde_json::to_value(sample(1, 2)).unwrap());
    let mixed = serde_json::json!({
        "v": 1, "epoch": "0000000000000007", "number": 4, "stream": "i94", "records": records
    });
    let acks = state.ingest(&[incoming("a", "sample/i94", json(&mixed))], at(1));
    assert_eq!(acks.unwrap(), [ack("a", &[], &[(4, 4)])]);
    assert_eq!(seqs(&mut state, &Filter::default()), [0, 2]);
    assert_eq!(state.sample_counts().refused, count);
    assert_eq!(
        state.counters.of("sample") + state.counters.of("ledger"),
        count
    );

    // Of what is no batch, or of another stream, no number can be believed.
    let mut other = some("a", 5, [7]);
    other.topic = other.topic.replace("i94", "other");
    for message in [
        other,
        incoming("a", "sample/i94", b"[]".to_vec()),
        incoming("a", "sample/i94", vec![0x28, 0xb5, 0x2f, 0xfd, 9]),
    ] {
        assert_eq!(state.ingest(&[message], at(2)).unwrap(), []);
    }
    assert_eq!(state.counters.of("stream"), 1);
    assert_sound(&mut state);
}

#[test]
fn a_sample_that_the_ledger_forgot_is_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.ingest(&[some("a", 0, 0..3)], at(1)).unwrap();
    let label = BTreeMap::from([(id("a", 1), Some(Label::Value(4.5)))]);
    assert_eq!(state.label_samples(label).unwrap(), []);
    let marks = state.store.scan_prefix(keys::marks(&path("a")).as_bytes());
    let gone: Vec<Write> = marks.map(|mark| Write::delete(mark.unwrap().0)).collect();
    assert!(!gone.is_empty());
    state.store.commit(&gone).unwrap();
    drop(state);
    let mut state = open(dir.path());
    state.ingest(&[some("a", 0, 0..4)], at(2)).unwrap();
    let rows = found(&mut state, &Filter::default(), 10);
    let told: Vec<_> = rows.iter().map(|row| (row.id.seq, row.label_by)).collect();
    let operator = Some(LabelBy::Operator);
    assert_eq!(told, [(0, None), (1, operator), (2, None), (3, None)]);
    assert_eq!(state.sample_counts().duplicates, 3);
    assert_sound(&mut state);
}

#[test]
fn labels_are_set_replaced_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut own = sample(1, 1);
    own.label = Some(Label::Class("jam".to_owned()));
    state
        .ingest(&[batch("a", 0, vec![sample(1, 0), own])], at(1))
        .unwrap();
    let class = |text: &str| Some(Label::Class(text.to_owned()));
    let labels = |state: &mut State| {
        let rows = found(state, &Filter::default(), 10).into_iter();
        rows.map(|row| (row.sample.label, row.label_by))
            .collect::<Vec<_>>()
    };
    let labelled = Filter {
        labelled: Some(true),
        ..Filter::default()
    };
    let by_node = (class("jam"), Some(LabelBy::Node));
    assert_eq!(labels(&mut state), [(None, None), by_node.clone()]);
    assert_eq!(seqs(&mut state, &labelled), [1]);

    let both = [
        (id("a", 0), class("free")),
        (id("a", 1), class("slow")),
        (id("z", 0), class("x")),
    ];
    let unknown = state.label_samples(both.into()).unwrap();
    assert_eq!(unknown, [id("z", 0)]);
    drop(state);
    let mut state = open(dir.path());
    let by_us = |text| (class(text), Some(LabelBy::Operator));
    assert_eq!(labels(&mut state), [by_us("free"), by_us("slow")]);
    assert_eq!(seqs(&mut state, &labelled), [0, 1]);
    assert_sound(&mut state);

    let back = [(id("a", 0), None), (id("a", 1), None)];
    state.label_samples(back.into()).unwrap();
    assert_eq!(labels(&mut state), [(None, None), by_node]);
    assert_eq!(seqs(&mut state, &labelled), [1]);
    assert_eq!(state.sample_sums()[0].sums.labelled, 1);
    assert_sound(&mut state);

    state.fail_next_commit = Some(disk_full());
    state
        .label_samples([(id("a", 0), class("free"))].into())
        .unwrap_err();
    assert!(state.stopped());
}

#[test]
fn pages_have_neither_gap_nor_repeat_while_more_comes_and_some_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.ingest(&[some("b", 0, 0..200)], at(1)).unwrap();
    let (mut rows, mut after, mut number): (Vec<SampleId>, _, _) = (Vec::new(), None, 1);
    loop {
        let part = state
            .samples(&Filter::default(), after.as_ref(), 7)
            .unwrap();
        rows.extend(part.rows.into_iter().map(|row| row.id));
        let Some(next) = part.next else { break };
        // Some before and some behind; and the one at which the next page begins is forgotten.
        let more = [some("a", number, [number]), some("c", number, [number])];
        state.ingest(&more, at(2)).unwrap();
        let at_next = Filter {
            node: Some(next.path.node.clone()),
            from: Some(at(next.seq.cast_signed())),
            to: Some(at(next.seq.cast_signed() + 1)),
            ..Filter::default()
        };
        state.forget_samples(&at_next, None).unwrap();
        (after, number) = (Some(next), number + 1);
    }
    assert!(rows.is_sorted());
    let unique: BTreeSet<&SampleId> = rows.iter().collect();
    assert_eq!(unique.len(), rows.len());
    let of_b = rows.iter().filter(|id| id.path == path("b"));
    assert_eq!(of_b.count(), 200);
    assert!(rows.iter().any(|id| id.path == path("c")));
    assert_sound(&mut state);
}

#[test]
fn every_filter_gives_what_a_look_at_all_gives() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let policies = [SamplePolicy::All, SamplePolicy::Rare];
    for (node, number) in [("a", 0), ("a", 1), ("b", 0)] {
        let records = (0..150).map(|seq| {
            let mut made = sample(number + 1, seq);
            // Event times go back and forth within a run.
            made.ts = at((seq * 37 % 150).cast_signed());
            made.label = (seq % 5 == 0).then_some(Label::Value(1.0));
            let origin = made.origin.as_mut().unwrap();
            origin.policy = policies[usize::from(seq % 3 == 0)];
            origin.model = if seq % 70 < 10 { "flow" } else { "level" }
                .parse()
                .unwrap();
            made
        });
        state
            .ingest(&[batch(node, number, records.collect())], at(1))
            .unwrap();
    }
    let all = found(&mut state, &Filter::default(), 1_000);
    assert_eq!(all.len(), 450);
    let names = [None, Some("flow"), Some("level"), Some("other")];
    for case in 0..4 * 3 * 3 * 4 * 2_usize {
        let pick = |every: usize, of: usize| case / every % of;
        let filter = Filter {
            model: names[pick(1, 4)].map(|name| name.parse().unwrap()),
            labelled: [None, Some(true), Some(false)][pick(4, 3)],
            policy: [None, Some(policies[0]), Some(policies[1])][pick(12, 3)],
            from: [None, Some(at(40))][pick(36, 2)],
            to: [None, Some(at(60))][pick(72, 2)],
            node: [None, Some("b".parse().unwrap())][pick(144, 2)].clone(),
            ..Filter::default()
        };
        let naive: Vec<&SampleId> = all
            .iter()
            .filter(|row| {
                let facts = Record {
                    v: V1,
                    received_at: row.received_at,
                    operator: None,
                    sample: row.sample.clone(),
                };
                filter.matches(&row.id, &facts.facts(0).unwrap())
            })
            .map(|row| &row.id)
            .collect();
        let rows = found(&mut state, &filter, 11);
        assert_eq!(
            rows.iter().map(|row| &row.id).collect::<Vec<_>>(),
            naive,
            "{filter:?}"
        );
    }
}

#[test]
fn what_is_forgotten_stays_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let messages = [some("a", 0, 0..100), some("b", 0, 0..3)];
    state.ingest(&messages, at(1)).unwrap();
    let old = Filter {
        to: Some(at(80)),
        node: Some("a".parse().unwrap()),
        ..Filter::default()
    };
    let (mut forgotten, mut after) = (0, None);
    loop {
        let (count, next) = state.forget_samples(&old, after.as_ref()).unwrap();
        forgotten += count;
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(forgotten, 80);
    drop(state);
    let mut state = open(dir.path());
    state.ingest(&messages, at(2)).unwrap();
    let left: Vec<u64> = (80..100).chain(0..3).collect();
    assert_eq!(seqs(&mut state, &Filter::default()), left);
    assert_eq!(state.sample_counts().forgotten, 80);
    let stored = state.store.scan_prefix(keys::SAMPLES.as_bytes()).count();
    assert_eq!(stored, 23);
    assert_sound(&mut state);
}

#[test]
fn forgetting_ends_where_a_block_looks_as_if_it_had_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut labelled = sample(1, 0);
    labelled.label = Some(Label::Value(1.0));
    let records = vec![labelled, sample(1, 9)];
    state.ingest(&[batch("a", 0, records)], at(1)).unwrap();
    // The block has labels and it has these times, but no sample has both.
    let filter = Filter {
        labelled: Some(true),
        from: Some(at(5)),
        ..Filter::default()
    };
    let (count, next) = state.forget_samples(&filter, None).unwrap();
    assert_eq!(count, 0);
    let step = state.forget_samples(&filter, Some(&next.unwrap())).unwrap();
    assert_eq!(step, (0, None));
    assert_eq!(found(&mut state, &filter, 5), []);
    assert_eq!(seqs(&mut state, &Filter::default()), [0, 9]);
}

#[test]
fn the_oldest_go_when_there_are_too_many_or_they_are_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let day = 86_400;
    for (number, node) in [(0, "a"), (1, "b"), (2, "c")] {
        let received = at(number * day);
        state.ingest(&[some(node, 0, 0..100)], received).unwrap();
    }
    let each = state.samples.index.bytes() / 300;
    state.settings.samples = SampleLimits {
        cap_bytes: 150 * each,
        age: Duration::from_hours(24 * 10),
    };
    state.trim_samples(at(3 * day)).unwrap();
    let index = &state.samples.index;
    assert!(index.bytes() <= 150 * each && index.bytes() > 145 * each);
    let evicted = state.sample_counts().evicted;
    assert_eq!(evicted + index.records(), 300);
    let of = |state: &mut State, node: &str| {
        let node = Some(node.parse().unwrap());
        let filter = Filter {
            node,
            ..Filter::default()
        };
        seqs(state, &filter).len()
    };
    assert_eq!([of(&mut state, "a"), of(&mut state, "c")], [0, 100]);
    assert_sound(&mut state);

    // Nothing happens at once again; what is left of b, and then c, is ten days old.
    state.trim_samples(at(3 * day)).unwrap();
    assert_eq!(state.sample_counts().evicted, evicted);
    let left = of(&mut state, "b") as u64;
    state.trim_samples(at(11 * day + 1)).unwrap();
    assert_eq!([of(&mut state, "b"), of(&mut state, "c")], [0, 100]);
    assert_eq!(state.sample_counts().expired, left);
    state.trim_samples(at(12 * day + 1)).unwrap();
    assert_eq!(state.samples.index.records(), 0);
    drop(state);
    let mut state = open(dir.path());
    assert_eq!(seqs(&mut state, &Filter::default()), [0; 0]);
    let counts = state.sample_counts();
    assert_eq!((counts.evicted, counts.expired), (evicted, left + 100));
}

#[test]
fn a_damaged_index_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.ingest(&[some("a", 0, 0..100)], at(1)).unwrap();
    let block = keys::sample_block(&id("a", 70).block());
    state
        .store
        .commit(&[Write::put(block, "not what was written")])
        .unwrap();
    drop(state);
    let mut state = open(dir.path());
    assert_eq!(seqs(&mut state, &Filter::default()).len(), 100);
    assert_eq!(state.counters.of("damaged_record"), 1);
    // A damaged sample is left out, and goes with the others of its block.
    let key = keys::sample(&id("a", 70));
    state.store.commit(&[Write::put(key, "{}")]).unwrap();
    assert_eq!(seqs(&mut state, &Filter::default()).len(), 99);
    assert_eq!(state.counters.of("damaged_sample"), 1);
    let flow = Filter {
        model: Some("flow".parse().unwrap()),
        ..Filter::default()
    };
    assert_eq!(state.forget_samples(&flow, None).unwrap().0, 99);
    let stored = state.store.scan_prefix(keys::SAMPLES.as_bytes()).count();
    assert_eq!(stored, 0);
}
