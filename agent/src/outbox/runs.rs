//! Which runs of the agent had this outbox, and how they ended.
//!
//! The file `run` has a line for the run that goes on, and one for each before it of which the ledger was not told yet,
//! because the disk was full. It is replaced as a whole.

use std::fmt;
use std::str::FromStr;

use lamppost_agent_core::outbox::Now;
use lamppost_models::BootId;
use lamppost_models::ledger::{Durability, Ended, LedgerEventKind};

use super::{Outbox, OutboxError};

/// Most runs that are kept in the file: with a full disk an agent that restarts each minute fills it in a quarter of an
/// hour, and what it had in memory then is the least of the losses.
const RUNS_MAX: usize = 16;

/// The runs in the file.
#[derive(Debug, Default)]
pub(super) struct Runs {
    lines: Vec<Line>,
    /// Whether the file says so.
    written: bool,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line(Ended);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Ended {
            boot,
            clean,
            durability,
        }) = self;
        let durability = match durability {
            Durability::Outage => "outage",
            Durability::Always => "always",
        };
        let end = if *clean { "clean" } else { "runs" };
        writeln!(f, "lamppost-run 1 {boot} {durability} {end}")
    }
}

/// A line that is damaged is none.
impl FromStr for Line {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words = line.strip_prefix("lamppost-run 1 ").ok_or(())?;
        let words: Vec<&str> = words.split(' ').collect();
        let [boot, durability, end] = words.as_slice() else {
            return Err(());
        };
        Ok(Self(Ended {
            boot: boot.parse().map_err(|_| ())?,
            durability: match *durability {
                "outage" => Durability::Outage,
                "always" => Durability::Always,
                _ => return Err(()),
            },
            clean: match *end {
                "clean" => true,
                "runs" => false,
                _ => return Err(()),
            },
        }))
    }
}

impl Outbox {
    /// Notes that a run of the agent begins, and tells the ledger how those before it ended.
    ///
    /// What a full disk prevents is done later, by [`sweep`](Self::sweep).
    pub fn begin_run(&mut self, boot: BootId, durability: Durability, now: impl Into<Now>) {
        self.book.look(now.into());
        let text = self.shelf.read_runs();
        let before: Vec<Line> = text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|Line(ended)| ended.boot != boot)
            .collect();
        for Line(ended) in &before {
            self.book.tell(LedgerEventKind::Ended(*ended));
        }
        let current = Line(Ended {
            boot,
            clean: false,
            durability,
        });
        self.runs.lines = match self.save() {
            // The events are on the disk, and so the runs need not be.
            Ok(()) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot write down how the run before ended");
                before
            }
        };
        self.runs.lines.push(current);
        let over = self.runs.lines.len().saturating_sub(RUNS_MAX);
        self.runs.lines.drain(..over);
        self.runs.written = false;
        self.keep_runs();
    }

    /// Notes that the run ends with all that it had written down.
    ///
    /// # Errors
    /// [`OutboxError`] when it cannot be written: then the next run tells of an end that was not clean.
    pub fn end_run(&mut self) -> Result<(), OutboxError> {
        if !self.written.has_events_of(&self.book) {
            self.save()?;
        }
        if let Some(Line(ended)) = self.runs.lines.last_mut() {
            ended.clean = true;
            self.shelf.write_runs(&self.runs.text())?;
        }
        Ok(())
    }

    /// Writes the file, if it does not say what it should.
    pub(super) fn keep_runs(&mut self) {
        if self.runs.written || self.runs.lines.is_empty() {
            return;
        }
        match self.shelf.write_runs(&self.runs.text()) {
            Ok(()) => self.runs.written = true,
            Err(error) => tracing::warn!(%error, "the outbox cannot note this run"),
        }
    }
}

impl Runs {
    fn text(&self) -> String {
        self.lines.iter().map(Line::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_a_damaged_one_is_none() {
        for (clean, durability) in [(true, Durability::Outage), (false, Durability::Always)] {
            let line = Line(Ended {
                boot: BootId::from_u64(0x12ab),
                clean,
                durability,
            });
            let text = line.to_string();
            let text = text.trim_end();
            assert_eq!(text.parse(), Ok(line));
            for cut in 0..text.len() {
                assert_eq!(text[..cut].parse::<Line>(), Err(()));
            }
        }
    }
}
