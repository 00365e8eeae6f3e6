//! One stream against a plain set, with more ranges than there is room for.

use std::collections::{BTreeMap, BTreeSet};

use super::super::stream::{Horizon, LOSSES_MAX, Stream};
use super::*;
use crate::interval::RANGES_MAX;

#[derive(Clone, Debug)]
enum Step {
    See(u64),
    Lose(u64, u64, LossReason),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![
        Just(LossReason::Evicted),
        Just(LossReason::Damaged),
        Just(LossReason::Dropped)
    ];
    prop_oneof![
        6 => (0..1_200_u64).prop_map(Step::See),
        1 => (0..1_200_u64, 0..9_u64, reason).prop_map(|(from, more, reason)| Step::Lose(from, from + more, reason)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bounds_cost_detail_and_never_a_record(steps in vec(step(), 0..1_500), waits in vec((0..1_200_u64, 0..30_u64), 0..6)) {
        let mut stream = Stream::default();
        let (mut arrived, mut told) = (BTreeSet::new(), BTreeMap::new());
        let mut exact = true;
        let mut new = 0;
        for step in steps {
            match step {
                Step::See(seq) => {
                    let (seen, open) = stream.see(seq);
                    exact &= !open && seq >= stream.floor;
                    let first = arrived.insert(seq);
                    if exact {
                        prop_assert_eq!(seen == Seen::New, first);
                    }
                    // Dropped as a duplicate is only what came before, or what the node itself gave up.
                    prop_assert!(seen == Seen::New || !first || told.contains_key(&seq), "{} is lost", seq);
                    new += u64::from(seen == Seen::New);
                }
                Step::Lose(from, to, reason) => {
                    exact &= !stream.lose(from, to, reason) && from >= stream.floor;
                    for seq in from..=to {
                        told.entry(seq).or_insert(reason);
                    }
                }
            }
            prop_assert!(stream.seen.ranges().len() < RANGES_MAX && stream.losses.len() <= LOSSES_MAX);
        }
        let waits = crate::interval::join(waits.into_iter().map(|(from, more)| (from, from + more)));
        for horizon in [Horizon::Nothing, Horizon::Reported, Horizon::All] {
            let (tally, missing) = stream.account(Class::Prediction, &waits, horizon);
            let sum = tally.delivered + tally.lost() + tally.in_flight + tally.missing;
            prop_assert_eq!(tally.produced, sum);
            prop_assert!(tally.delivered == new || !exact && tally.delivered <= new);
            prop_assert!(exact || tally.missing >= crate::interval::count(&missing));
            if exact {
                let waiting = |seq: &u64| waits.iter().any(|(from, to)| (from..=to).contains(&seq));
                let end = arrived.last().max(told.last_key_value().map(|(seq, _)| seq)).map_or(0, |seq| seq + 1);
                let end = end.max(waits.last().map_or(0, |(_, to)| to + 1));
                let naive: Vec<u64> = (0..end).filter(|seq| !arrived.contains(seq) && !told.contains_key(seq) && !waiting(seq)).collect();
                let naive = if horizon == Horizon::All { naive } else { Vec::new() };
                prop_assert_eq!(&missing, &crate::interval::coalesce(naive));
                for reason in LossReason::ALL {
                    let lost = told.iter().filter(|(seq, why)| **why == reason && !arrived.contains(seq) && !waiting(seq)).count();
                    prop_assert_eq!(*tally.clone().of_reason(reason), lost as u64);
                }
            }
        }
    }
}

#[test]
fn what_is_accounted_for_leaves_the_floor_exact() {
    let mut stream = Stream::default();
    // Every second record is evicted: more ranges than there is room for, and nothing is open.
    for seq in 0..10_000 {
        if seq % 2 == 0 {
            assert_eq!(stream.see(seq), (Seen::New, false));
        } else {
            assert!(!stream.lose(seq, seq, LossReason::Evicted));
        }
    }
    assert!(stream.floor > 9_000);
    for seq in (0..10_000).step_by(2) {
        assert_eq!(stream.see(seq).0, Seen::Duplicate);
    }
    let (tally, missing) = stream.account(Class::Prediction, &[], Horizon::All);
    assert_eq!((tally.delivered, tally.evicted), (5_000, 5_000));
    assert_eq!((tally.missing, tally.in_flight, missing), (0, 0, vec![]));
}
