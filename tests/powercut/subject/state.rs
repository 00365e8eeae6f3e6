//! A store with state as a subject: each commit is there as a whole or not at all, in order.

use std::collections::BTreeMap;
use std::path::Path;

use lamppost_store::{Options, Recovery, Store, Write};

use super::{Broken, Promise, say};
use lamppost_tests::rng::{Rng, noise};

type State = BTreeMap<Vec<u8>, Vec<u8>>;

const KEYS: u64 = 150;

fn open(dir: &Path) -> Result<(Store, Recovery), lamppost_store::OpenError> {
    let opened = Store::open(dir.join("state"), &Options::state())?;
    Ok((opened.store, opened.recovery))
}

/// The writes of commit `number`: mostly small values, some that are cut into pieces, some deletions.
fn writes(number: u64) -> Vec<Write> {
    let mut rng = Rng::new(number);
    (0..=rng.below(4))
        .map(|_| {
            let key = format!("key-{:03}", rng.below(KEYS));
            let bytes = match rng.below(20) {
                0 => return Write::delete(key),
                1 => 30_000,
                _ => 20 + rng.index(0, 600),
            };
            Write::put(key, noise(rng.draw(), bytes))
        })
        .collect()
}

pub(super) fn write(dir: &Path, seed: u64, steps: Option<u64>) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed);
    let (mut store, _) = open(dir)?;
    for number in 0..steps.unwrap_or(u64::MAX) {
        if rng.chance(3) {
            store.close();
            store = open(dir)?.0;
        }
        store.commit(&writes(number))?;
        say(&format!("committed {}", number + 1))?;
    }
    Ok(())
}

pub(super) fn check(dir: &Path, promise: &Promise) -> Result<(), Broken> {
    let committed = promise.committed;
    let (store, recovery) = open(dir).map_err(|error| Broken::Closed(error.to_string()))?;
    if let Recovery::Quarantined { cause, .. } = recovery
        && committed > 0
    {
        return Err(Broken::Closed(cause));
    }
    let found = store.scan_prefix(b"").collect::<Result<State, _>>();
    let found = found.map_err(|error| Broken::Unusable(error.to_string()))?;
    let mut wanted = State::new();
    (0..committed).for_each(|number| apply(&mut wanted, number));
    let key = first_difference(&found, &wanted);
    // What was under way may be there, each commit as a whole.
    for number in committed..=promise.committed_max.max(committed) {
        if found != wanted {
            apply(&mut wanted, number);
        }
    }
    if found != wanted {
        return Err(Broken::OtherState { committed, key });
    }
    store
        .commit(&[Write::put("after", "the cut")])
        .map_err(|error| Broken::Unusable(error.to_string()))
}

fn apply(state: &mut State, number: u64) {
    for write in writes(number) {
        match write {
            Write::Put { key, value } => state.insert(key, value),
            Write::Delete { key } => state.remove(&key),
        };
    }
}

fn first_difference(found: &State, wanted: &State) -> String {
    let keys = found.keys().chain(wanted.keys());
    let different = keys.filter(|key| found.get(*key) != wanted.get(*key)).min();
    different.map_or_else(String::new, |key| String::from_utf8_lossy(key).into_owned())
}
