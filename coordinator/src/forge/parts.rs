//! What is learned from, what says when to stop, and what is judged on, without the future or a node in two of them.

use lamppost_models::{Digest, Manifest};
use serde::Serialize;

use super::ForgeError;
use super::lessons::{Lesson, Table};

/// What keeps the parts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SplitBy {
    /// Learn from the oldest, judge on the newest
    Time,
    /// Learn from some nodes, judge on others
    Node,
}

/// How samples are split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Shares {
    /// What keeps the parts apart.
    pub(crate) by: SplitBy,
    /// Share of windows, or of nodes, that says when to stop.
    pub(crate) valid: f64,
    /// Share that is judged on.
    pub(crate) test: f64,
}

impl Shares {
    fn check(self) -> Result<(), ForgeError> {
        let both = ("both shares together", self.valid + self.test);
        for (what, value) in [("--valid", self.valid), ("--test", self.test), both] {
            if !(0.01..=0.9).contains(&value) {
                return Err(ForgeError::Share { what, value });
            }
        }
        Ok(())
    }
}

/// Rows of a table, oldest first in each part.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) train: Vec<usize>,
    pub(crate) valid: Vec<usize>,
    pub(crate) test: Vec<usize>,
    /// Milliseconds that are left out between two parts.
    pub(crate) gap_ms: u64,
}

impl Parts {
    /// # Errors
    /// [`ForgeError`] when a part would be empty.
    pub(crate) fn new(
        table: &Table,
        manifest: &Manifest,
        shares: Shares,
        seed: u64,
    ) -> Result<Self, ForgeError> {
        shares.check()?;
        let parts = match shares.by {
            SplitBy::Time => by_time(&table.lessons, manifest, shares),
            SplitBy::Node => by_node(&table.lessons, shares, seed)?,
        };
        let all = [
            ("training", &parts.train),
            ("validation", &parts.valid),
            ("test", &parts.test),
        ];
        let empty = all.into_iter().find(|(_, rows)| rows.is_empty());
        if let Some((part, _)) = empty {
            return Err(ForgeError::EmptyPart {
                part,
                windows: table.lessons.len(),
                gap_ms: parts.gap_ms,
            });
        }
        Ok(parts)
    }

    /// What decides the weights, oldest first.
    pub(crate) fn seen(&self) -> Vec<usize> {
        let mut seen = [self.train.as_slice(), &self.valid].concat();
        // Rows are by time.
        seen.sort_unstable();
        seen
    }
}

fn by_time(lessons: &[Lesson], manifest: &Manifest, shares: Shares) -> Parts {
    let gap_ms = gap_ms(lessons, manifest);
    let count = lessons.len();
    let from = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let at = (count as f64 * (1.0 - share)).round() as usize;
        lessons[at.min(count - 1)].ts.as_ms()
    };
    let before = |ms: i64| lessons.partition_point(|lesson| lesson.ts.as_ms() < ms);
    let (valid_from, test_from) = (from(shares.test + shares.valid), from(shares.test));
    let until = |ms: i64| before(ms.saturating_sub_unsigned(gap_ms));
    Parts {
        train: (0..until(valid_from)).collect(),
        valid: (before(valid_from)..until(test_from)).collect(),
        test: (before(test_from)..count).collect(),
        gap_ms,
    }
}

/// How far a window and its label reach together.
fn gap_ms(lessons: &[Lesson], manifest: &Manifest) -> u64 {
    let spans = lessons.iter().filter_map(|lesson| {
        let oldest = lesson.window.first()?.ts;
        u64::try_from(lesson.ts.ms_since(oldest)).ok()
    });
    let horizon = manifest.output.kind.horizon().unwrap_or_default();
    let horizon_ms = u64::try_from(horizon.as_millis()).unwrap_or(u64::MAX);
    let ahead_ms = horizon_ms.max(manifest.window.step_ms.unwrap_or(0));
    spans.max().unwrap_or(0).saturating_add(ahead_ms)
}

fn by_node(lessons: &[Lesson], shares: Shares, seed: u64) -> Result<Parts, ForgeError> {
    let mut nodes: Vec<&str> = lessons.iter().map(|lesson| lesson.node.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.len() < 3 {
        return Err(ForgeError::Nodes { nodes: nodes.len() });
    }
    // By lot, so that the names of nodes decide nothing.
    nodes.sort_by_key(|node| *Digest::of(format!("{seed} {node}").as_bytes()).as_bytes());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let some = |share: f64| ((nodes.len() as f64 * share).round() as usize).max(1);
    let (test, rest) = nodes.split_at(some(shares.test).min(nodes.len() - 2));
    let (valid, train) = rest.split_at(some(shares.valid).min(rest.len() - 1));
    let rows = |nodes: &[&str]| {
        let held = |&at: &usize| nodes.contains(&lessons[at].node.as_str());
        (0..lessons.len()).filter(held).collect()
    };
    Ok(Parts {
        train: rows(train),
        valid: rows(valid),
        test: rows(test),
        gap_ms: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use lamppost_models::message::Label;
    use lamppost_models::{Reading, Timestamp};

    use super::*;

    const HOUR: i64 = 3_600_000;

    /// Windows of 24 hourly readings, one an hour, from so many nodes in turn.
    fn lessons(count: i64, nodes: i64) -> Vec<Lesson> {
        let at = |hour: i64| Timestamp::from_ms(hour * HOUR).unwrap();
        let reading = |hour: i64| {
            let fields = BTreeMap::new();
            Arc::new(Reading {
                ts: at(hour),
                fields,
            })
        };
        let lesson = |hour: i64| Lesson {
            id: hour.to_string(),
            node: format!("s/n{}", hour % nodes),
            ts: at(hour),
            window: (hour - 23..=hour).map(reading).collect(),
            label: Label::Value(0.0),
        };
        (100..100 + count).map(lesson).collect()
    }

    fn forecast() -> Manifest {
        let zoo = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../models/zoo/traffic-flow/1.0.0/manifest.json"
        );
        Manifest::parse(&std::fs::read(zoo).unwrap()).unwrap()
    }

    fn shares(by: SplitBy) -> Shares {
        Shares {
            by,
            valid: 0.2,
            test: 0.2,
        }
    }

    #[test]
    fn no_window_and_no_label_reaches_into_the_next_part() {
        let lessons = lessons(500, 3);
        let parts = by_time(&lessons, &forecast(), shares(SplitBy::Time));
        assert_eq!(parts.gap_ms, 24 * 3_600_000);
        assert_eq!(
            (parts.train.len(), parts.valid.len(), parts.test.len()),
            (300 - 24, 100 - 24, 100)
        );
        for (earlier, later) in [(&parts.train, &parts.valid), (&parts.valid, &parts.test)] {
            let label = lessons[*earlier.last().unwrap()].ts.as_ms() + HOUR;
            let first = lessons[later[0]].window[0].ts.as_ms();
            assert!(label <= first, "{label} {first}");
        }
    }

    #[test]
    fn no_node_is_in_two_parts_and_a_lot_decides() {
        let lessons = lessons(100, 10);
        let split = |seed| by_node(&lessons, shares(SplitBy::Node), seed).unwrap();
        let parts = split(1);
        let nodes = |rows: &[usize]| {
            let mut nodes: Vec<&str> = rows.iter().map(|&at| lessons[at].node.as_str()).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        let all = [&parts.train, &parts.valid, &parts.test].map(|rows| nodes(rows));
        assert_eq!(all.each_ref().map(Vec::len), [6, 2, 2]);
        assert_eq!(
            parts.train.len() + parts.valid.len() + parts.test.len(),
            100
        );
        assert!(
            all[1]
                .iter()
                .chain(&all[2])
                .all(|node| !all[0].contains(node))
        );
        assert!(all[2].iter().all(|node| !all[1].contains(node)));
        let others = |seed| nodes(&split(seed).test) != all[2];
        assert!((2..20).any(others) && !others(1));
        assert!(by_node(&lessons[..2], shares(SplitBy::Node), 1).is_err());
    }

    #[test]
    fn shares_that_leave_nothing_are_refused() {
        for (valid, test) in [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (f64::NAN, 0.1)] {
            let shares = Shares {
                by: SplitBy::Time,
                valid,
                test,
            };
            assert!(shares.check().is_err(), "{valid} {test}");
        }
    }
}
