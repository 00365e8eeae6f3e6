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
        match all.into_iter().find(|(_, rows)| rows.is_empty()) {
            Some((part, _)) => Err(ForgeError::EmptyPart {
                part,
                windows: table.lessons.len(),
                gap_ms: parts.gap_ms,
            }),
            None => Ok(parts),
        }
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
