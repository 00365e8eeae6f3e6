//! Holds a fleet to its promises, once all is up and drained.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lamppost_coordinator::api::LedgerView;
use lamppost_models::BootId;
use lamppost_models::ledger::Durability;

use super::cast::MEMORY_RECORDS;
use super::oracle::Sightings;
use super::sensor::RATE;
use crate::api::Stored;

/// What a run may lose that ends by a kill, with `durability = "outage"`: what memory holds, and what came while the last
/// of it was on its way to the disk, for which a busy machine has this long.
const LOST_MAX: u64 = MEMORY_RECORDS + RATE * LOST_SECONDS;
const LOST_SECONDS: u64 = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Runs of the agent that predicted anything.
    pub runs: u64,
    /// Predictions that outsiders know of.
    pub made: u64,
    /// Of these, stored.
    pub stored: u64,
    /// Came to the coordinator more than once, and were dropped.
    pub duplicated: u64,
    /// In memory when a run ended, by the ledger.
    pub crash: u64,
    /// Seen on the node's own broker and never stored, the most of one run.
    pub lost_most: u64,
    /// What is not as it should be.
    pub wrong: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} runs made {} predictions: {} stored, each once ({} came again); {} lost in memory by the ledger, \
             {} by what the node's broker showed, {} of one run at most",
            self.runs,
            self.made,
            self.stored,
            self.duplicated,
            self.crash,
            self.made - self.stored,
            self.lost_most
        )
    }
}

/// Judges what is stored and what the ledger says by what was seen.
pub fn judge(
    durability: Durability,
    seen: &Sightings,
    stored: &Stored,
    ledger: &LedgerView,
) -> Verdict {
    let mut verdict = Verdict {
        stored: stored.records,
        ..Verdict::default()
    };
    let mut by_run: BTreeMap<BootId, BTreeSet<u64>> = BTreeMap::new();
    for id in &stored.ids {
        by_run.entry(id.boot).or_default().insert(id.number);
    }
    verdict.check_all(durability, seen, stored);
    let runs: BTreeSet<BootId> = by_run.keys().chain(seen.made.keys()).copied().collect();
    for run in runs {
        let there = by_run.remove(&run).unwrap_or_default();
        verdict.check_run(durability, seen, run, &there);
    }
    verdict.check_ledger(durability, stored, ledger);
    verdict
}

impl Verdict {
    fn check(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(wrong());
        }
    }

    /// What holds of all runs together.
    fn check_all(&mut self, durability: Durability, seen: &Sightings, stored: &Stored) {
        self.wrong.extend(seen.odd.iter().cloned());
        let twice = stored.twice();
        self.check(twice == 0, || format!("{twice} are stored twice"));
        let gone: Vec<_> = seen.acknowledged.difference(&stored.ids).collect();
        self.check(gone.is_empty(), || {
            format!(
                "{} were acknowledged and are not stored: {}",
                gone.len(),
                first(&gone)
            )
        });
        if durability == Durability::Always {
            let gone: Vec<_> = seen.sent.difference(&stored.ids).collect();
            self.check(gone.is_empty(), || {
                format!(
                    "{} were sent and are not stored: {}",
                    gone.len(),
                    first(&gone)
                )
            });
        }
        self.check(!stored.ids.is_empty(), || "nothing is stored".to_owned());
    }

    fn check_run(
        &mut self,
        durability: Durability,
        seen: &Sightings,
        run: BootId,
        there: &BTreeSet<u64>,
    ) {
        let stored_end = there.last().map_or(0, |last| last + 1);
        let reported = seen.reported.get(&run).copied().unwrap_or(0);
        let made = seen.made.get(&run).copied().unwrap_or(0);
        let made = made.max(stored_end).max(reported);
        let lost = made - there.len() as u64;
        self.runs += 1;
        self.made += made;
        self.lost_most = self.lost_most.max(lost);
        match durability {
            Durability::Always => {
                // What is lost is the end of the run, and nobody outside the node heard of it.
                self.check(stored_end == there.len() as u64, || {
                    format!("run {run}: of {stored_end} only {} are stored", there.len())
                });
                self.check(reported <= stored_end, || {
                    format!("run {run} reported {reported}, {stored_end} are stored")
                });
            }
            Durability::Outage => self.check(lost <= LOST_MAX, || {
                format!("run {run} lost {lost} of {made}, {LOST_MAX} may be in memory")
            }),
        }
    }

    fn check_ledger(&mut self, durability: Durability, stored: &Stored, ledger: &LedgerView) {
        let account = &ledger.account;
        let [row] = account.streams.as_slice() else {
            let rows = account.streams.len();
            self.wrong
                .push(format!("the ledger has {rows} streams and not one"));
            return;
        };
        let tally = row.tally;
        (self.duplicated, self.crash) = (tally.duplicated, tally.crash);
        self.check(tally.delivered == stored.records, || {
            format!(
                "the ledger has {} delivered, {} are stored",
                tally.delivered, stored.records
            )
        });
        self.check(tally.missing == 0 && account.missing.is_empty(), || {
            format!("{} are missing: {:?}", tally.missing, account.missing)
        });
        self.check(tally.lost() == 0, || {
            format!("the node lost {}, and nothing was full", tally.lost())
        });
        self.check(durability == Durability::Outage || tally.crash == 0, || {
            format!("{} are lost in a crash, where nothing may be", tally.crash)
        });
        let sum = tally.delivered + tally.crash + tally.lost() + tally.missing + tally.in_flight;
        self.check(tally.produced == sum && tally.in_flight == 0, || {
            format!("the ledger's columns do not add up: {tally:?}")
        });
        self.check(
            account.folded_open == 0 && account.events_forgotten == 0,
            || {
                format!(
                    "{} runs were folded open, {} events forgotten",
                    account.folded_open, account.events_forgotten
                )
            },
        );
    }
}

fn first(ids: &[&lamppost_models::id::PredictionId]) -> String {
    ids.first().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use lamppost_models::id::PredictionId;
    use serde_json::json;

    use super::*;

    const RUN: BootId = BootId::from_u64(5);

    fn id(number: u64) -> PredictionId {
        PredictionId { boot: RUN, number }
    }

    /// A run that made ten and stored these.
    fn verdict(
        durability: Durability,
        stored: &[u64],
        change: impl FnOnce(&mut Sightings, &mut serde_json::Value),
    ) -> Vec<String> {
        let mut seen = Sightings::default();
        seen.made.insert(RUN, 10);
        let end = stored.iter().max().map_or(0, |last| last + 1);
        let delivered = stored.len() as u64;
        let mut row = json!({
            "class": "prediction", "stream": "i94-volume",
            "produced": end, "delivered": delivered, "crash": end - delivered,
        });
        change(&mut seen, &mut row);
        let stored = Stored {
            ids: stored.iter().copied().map(id).collect(),
            records: delivered,
        };
        let ledger = json!({
            "site": "s", "node": "n", "presence": {"state": "up"}, "report_is_old": false, "stale_streams": [],
            "streams": [row], "missing": [], "boots": 1, "folded_boots": 0, "folded_open": 0,
            "unjudged_boots": 0, "reported": true, "events_waiting": 0, "events_forgotten": 0,
            "waiting_joined": false,
        });
        let ledger = serde_json::from_value(ledger).unwrap();
        judge(durability, &seen, &stored, &ledger).wrong
    }

    #[test]
    fn the_end_of_a_run_may_be_lost_and_nothing_else() {
        use Durability::{Always, Outage};
        let same = |_: &mut Sightings, _: &mut serde_json::Value| {};
        assert_eq!(verdict(Always, &[0, 1, 2, 3], same), [""; 0]);
        assert_eq!(verdict(Outage, &[0, 1, 2, 5], same), [""; 0]);
        assert_eq!(
            verdict(Always, &[0, 1, 3], same).len(),
            2,
            "a hole, and the ledger has it"
        );
        assert_eq!(verdict(Outage, &[], same).len(), 1);
    }

    #[test]
    fn what_outsiders_heard_of_must_be_stored() {
        use Durability::{Always, Outage};
        let acknowledged = |seen: &mut Sightings, _: &mut serde_json::Value| {
            seen.acknowledged.insert(id(4));
        };
        assert_eq!(verdict(Outage, &[0, 1, 2, 5], acknowledged).len(), 1);
        let sent = |seen: &mut Sightings, _: &mut serde_json::Value| {
            seen.sent.insert(id(4));
        };
        assert_eq!(verdict(Always, &[0, 1], sent).len(), 1);
        assert_eq!(verdict(Outage, &[0, 1], sent), [""; 0]);
        let reported = |seen: &mut Sightings, _: &mut serde_json::Value| {
            seen.reported.insert(RUN, 3);
        };
        assert_eq!(verdict(Always, &[0, 1], reported).len(), 1);
        let many = |seen: &mut Sightings, _: &mut serde_json::Value| {
            seen.made.insert(RUN, LOST_MAX + 3);
        };
        assert_eq!(verdict(Outage, &[0, 1], many).len(), 1);
    }

    #[test]
    fn the_ledger_must_agree() {
        let wrong = |key: &'static str, number: u64| {
            verdict(Durability::Outage, &[0, 1], move |_, row| {
                row[key] = number.into();
            })
        };
        assert_eq!(wrong("delivered", 3).len(), 2);
        assert_eq!(wrong("missing", 1).len(), 2);
        assert_eq!(wrong("evicted", 1).len(), 2);
        assert_eq!(wrong("in_flight", 1).len(), 1);
    }
}
