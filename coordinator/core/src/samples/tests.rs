use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const POLICIES: [SamplePolicy; 3] = [
    SamplePolicy::All,
    SamplePolicy::Uncertain,
    SamplePolicy::Rare,
];

fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(seconds * 1000)
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(prefix: &str, number: u8) -> T {
    format!("{prefix}{number}").parse().unwrap()
}

/// Few names, and numbers over some blocks.
fn sample() -> impl Strategy<Value = (SampleId, Facts)> {
    let id = ((0..2_u8, 0..2_u8, 0..2_u8), 0..3_u64, 0..300_u64);
    let facts = (
        0..2_u8,
        select(&POLICIES[..]),
        0..1_000_i64,
        0..100_i64,
        any::<bool>(),
        1..5_000_u64,
    );
    (id, facts).prop_map(
        |(((site, node, stream), boot, seq), (model, policy, ts, received, labelled, bytes))| {
            let path = NodePath {
                site: name("s", site),
                node: name("n", node),
            };
            let id = SampleId {
                path,
                stream: name("t", stream),
                boot: BootId::from_u64(boot),
                seq,
            };
            let facts = Facts {
                model: name("m", model),
                policy,
                ts: at(ts),
                received_at: at(received),
                labelled,
                bytes,
            };
            (id, facts)
        },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    let names = (
        proptest::option::of(0..2_u8),
        proptest::option::of(0..2_u8),
        proptest::option::of(0..2_u8),
        proptest::option::of(0..2_u8),
    );
    let rest = (
        proptest::option::of(select(&POLICIES[..])),
        proptest::option::of(any::<bool>()),
        proptest::option::of(0..1_000_i64),
        proptest::option::of(0..1_000_i64),
    );
    (names, rest).prop_map(
        |((model, stream, site, node), (policy, labelled, from, to))| Filter {
            model: model.map(|model| name("m", model)),
            stream: stream.map(|stream| name("t", stream)),
            site: site.map(|site| name("s", site)),
            node: node.map(|node| name("n", node)),
            policy,
            labelled,
            from: from.map(at),
            to: to.map(at),
        },
    )
}

/// Indexes samples as the shell does: each once.
fn index(samples: &BTreeMap<SampleId, Facts>) -> Index {
    let mut index = Index::default();
    for (id, facts) in samples {
        let mut block = index.block(&id.block());
        block.add(facts);
        index.set(id.block(), block);
    }
    index
}

proptest! {
    #[test]
    fn finds_what_a_look_at_all_finds(
        samples in vec(sample(), 0..120),
        gone in vec(any::<prop::sample::Index>(), 0..40),
        filter in filter(),
        after in proptest::option::of(sample()),
    ) {
        let mut samples: BTreeMap<SampleId, Facts> = samples.into_iter().collect();
        let mut index = index(&samples);
        // Some go, and their blocks are counted anew, as when samples are forgotten.
        let ids: Vec<SampleId> = samples.keys().cloned().collect();
        for place in gone.iter().filter(|_| !ids.is_empty()) {
            let id = place.get(&ids);
            samples.remove(id);
            let mut block = Block::default();
            let rest = samples.iter().filter(|(other, _)| other.block() == id.block());
            rest.for_each(|(_, facts)| block.add(facts));
            index.set(id.block(), block);
        }
        let after = after.map(|(id, _)| id);
        let wanted = |id: &SampleId| after.as_ref().is_none_or(|after| id > after);
        let naive: BTreeSet<&SampleId> = samples.iter()
            .filter(|(id, facts)| wanted(id) && filter.matches(id, facts))
            .map(|(id, _)| id)
            .collect();
        let blocks: Vec<&BlockId> = index.find(&filter, after.as_ref()).collect();
        prop_assert!(blocks.is_sorted());
        let found: Vec<&SampleId> = blocks.iter()
            .flat_map(|block| samples.iter().filter(|(id, _)| id.block() == **block))
            .filter(|(id, facts)| wanted(id) && filter.matches(id, facts))
            .map(|(id, _)| id)
            .collect();
        prop_assert_eq!(found, naive.into_iter().collect::<Vec<_>>());
        // Blocks that cannot hold any are not looked at.
        for block in blocks {
            let last = SampleId {
                path: block.path.clone(),
                stream: block.stream.clone(),
                boot: block.boot,
                seq: block.number * BLOCK + BLOCK - 1,
            };
            prop_assert!(wanted(&last));
            let known = samples.iter().filter(|(id, _)| id.block() == *block);
            let places = |filter: &Filter, id: &SampleId| {
                let anywhen = Facts { ts: filter.from.unwrap_or(at(0)), ..samples[id].clone() };
                let any = Filter { from: None, to: None, labelled: None, ..filter.clone() };
                any.matches(id, &anywhen)
            };
            prop_assert!(known.map(|(id, _)| id).any(|id| places(&filter, id)));
        }
        prop_assert_eq!(index.records(), samples.len() as u64);
        prop_assert_eq!(index.bytes(), samples.values().map(|facts| facts.bytes).sum::<u64>());
    }

    #[test]
    fn sums_and_ages_are_those_of_the_samples(samples in vec(sample(), 1..120), count in 1..6_usize) {
        let samples: BTreeMap<SampleId, Facts> = samples.into_iter().collect();
        let index = index(&samples);
        for ((model, stream), by_policy) in index.sums() {
            for (policy, sums) in by_policy {
                let filter = Filter { model: Some(model.clone()), stream: Some(stream.clone()), policy: Some(policy), ..Filter::default() };
                let of: Vec<&Facts> = samples.iter().filter(|(id, facts)| filter.matches(id, facts)).map(|(_, facts)| facts).collect();
                prop_assert_eq!(sums.records, of.len() as u64);
                prop_assert_eq!(sums.labelled, of.iter().filter(|facts| facts.labelled).count() as u64);
                prop_assert_eq!(Some(sums.oldest), of.iter().map(|facts| facts.ts).min());
                prop_assert_eq!(Some(sums.newest), of.iter().map(|facts| facts.ts).max());
            }
        }
        let mut first: BTreeMap<BlockId, Timestamp> = BTreeMap::new();
        for (id, facts) in &samples {
            let known = first.entry(id.block()).or_insert(facts.received_at);
            *known = (*known).min(facts.received_at);
        }
        let mut naive: Vec<(Timestamp, BlockId)> = first.into_iter().map(|(id, first)| (first, id)).collect();
        naive.sort();
        naive.truncate(count);
        prop_assert_eq!(index.oldest(count), naive);
    }
}

#[test]
fn format_1_parses_for_ever() {
    let json = r#"{"v":1,"rows":[{"model":"flow","policy":"uncertain","records":2,"labelled":1,"bytes":900,"oldest":"2017-03-01T08:00:00Z","newest":"2017-03-01T09:00:00Z","received_from":"2026-11-25T10:00:00.250Z"}]}"#;
    let block: Block = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&block).unwrap(), json);
}
