//! What is cut: the agent's outbox, and the store with the coordinator's state.
//!
//! A writer changes its store in random steps, and says on standard output what is promised from then on, a line each:
//! `stored <end> <number>` when the records below `end` are on the disk, the last in that batch; `releasing <from> <to>`
//! before it acknowledges these records, which may vanish from then on; `committed <count>` when so many commits are on
//! the disk. What a record or a commit holds follows from its number, so that a reader knows what to find.

mod outbox;
mod state;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::Path;

/// What is written and looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// The agent's outbox.
    Outbox,
    /// A store as the coordinator keeps its state in.
    State,
}

/// What a writer has promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    /// Records below this were stored.
    stored_end: u64,
    /// The newest batch.
    newest: Option<u64>,
    /// Records that were or are being acknowledged.
    released: BTreeSet<u64>,
    /// Commits of the state, and how many may be there at most: the next may be under way.
    committed: u64,
    committed_max: u64,
}

/// How an image breaks the promise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it does not open: {0}")]
    Closed(String),
    #[error("it opens but cannot be read or written: {0}")]
    Unusable(String),
    #[error("{records} promised records are missing, the first is {first}")]
    Missing { records: usize, first: u64 },
    #[error("record {0} is not what was written, out of order or there twice")]
    Wrong(u64),
    #[error("{waiting} records wait, and the report says {reported}")]
    Miscounted { waiting: u64, reported: u64 },
    #[error("nothing is missing, and the report tells of {batches} lost batches")]
    FalseLoss { batches: u64 },
    #[error("batch number {number} was used before")]
    NumberReused { number: u64 },
    #[error("after {committed} commits it holds neither that state nor the next, at key {key}")]
    OtherState { committed: u64, key: String },
}

impl Subject {
    /// Writes in `dir`, for `steps` steps or until it is killed.
    pub(crate) fn write(self, dir: &Path, seed: u64, steps: Option<u64>) -> anyhow::Result<()> {
        match self {
            Self::Outbox => outbox::write(dir, seed, steps),
            Self::State => state::write(dir, seed, steps),
        }
    }

    /// Holds an image to the promise.
    pub(crate) fn check(self, dir: &Path, promise: &Promise) -> Result<(), Broken> {
        match self {
            Self::Outbox => outbox::check(dir, promise),
            Self::State => state::check(dir, promise),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::State => "state",
        }
    }
}

impl Broken {
    /// Whether what was promised is gone, and not only miscounted.
    pub(crate) const fn is_loss(&self) -> bool {
        match self {
            Self::Closed(_)
            | Self::Unusable(_)
            | Self::Missing { .. }
            | Self::OtherState { .. } => true,
            Self::Wrong(_)
            | Self::Miscounted { .. }
            | Self::FalseLoss { .. }
            | Self::NumberReused { .. } => false,
        }
    }
}

impl Promise {
    /// Takes one line of a writer.
    pub(crate) fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let word = words.next();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match (word, number(), number()) {
            (Some("stored"), Some(end), newest) => {
                (self.stored_end, self.newest) = (end, newest.or(self.newest));
            }
            (Some("releasing"), Some(from), Some(to)) => self.released.extend(from..=to),
            (Some("committed"), Some(count), None) => self.committed = count,
            _ => {}
        }
    }

    /// What was promised before an image was taken, less what was released until it was.
    pub(crate) fn around(before: &str, after: &str) -> Self {
        let (mut promise, mut later) = (Self::default(), Self::default());
        complete_lines(before).for_each(|line| promise.hear(line));
        complete_lines(after).for_each(|line| later.hear(line));
        promise.released = later.released;
        promise.committed_max = later.committed;
        promise
    }

    /// Whether anything must be there.
    pub(crate) const fn is_empty(&self) -> bool {
        self.stored_end == 0 && self.committed == 0
    }
}

fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
}

/// Says one line, in one write.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}
