//! The outbox's own thread: the disk never holds up a task.
//!
//! - [`keeper`]: what the thread does;
//! - [`door`]: the outbox, or what is remembered until a full disk lets it open.

mod door;
mod keeper;

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use lamppost_agent_core::outbox::Class;
use lamppost_agent_core::pace::Spent;
use lamppost_models::ledger::Durability;
use lamppost_models::message::{BatchRange, ReportedOutbox};
use lamppost_models::{BootId, Epoch, StreamName};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock;
use super::interface::{Dropped, Sight};
use super::pending::Record;
use super::samples::SampleBatch;
use crate::outbox::Cursor;
pub(crate) use door::Door;
use keeper::Keeper;

/// Commands that wait: a few, each with many records, so that a disk that takes a second stalls nobody.
pub(super) const COMMANDS_MAX: usize = 32;
/// Stores whose records wait to be sent one by one. Of what finds no room the batch is sent, later.
const STORED_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Command {
    Store(Vec<Record>),
    Samples(SampleBatch),
    Dropped(Vec<Dropped>),
    Peek {
        part: Part,
        after: Cursor,
        max: usize,
        reply: oneshot::Sender<Vec<Wire>>,
    },
    Acknowledge(Vec<BatchRange>),
    Spent(Spent),
    Look {
        sight: Box<Sight>,
        reply: oneshot::Sender<Sight>,
    },
    Flush(oneshot::Sender<()>),
}

/// A part of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Events of the ledger, which wait for nothing.
    Events,
    /// Predictions, then samples.
    History,
}

/// A batch as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) number: u64,
    /// Where the outbox is read on behind it.
    pub(super) cursor: Cursor,
    pub(super) class: Class,
    pub(super) stream: Option<StreamName>,
    pub(super) payload: Bytes,
    /// Whether the payload is a zstd frame.
    pub(super) packed: bool,
}

/// What the outbox says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpoolState {
    /// For the report.
    pub(crate) reported: ReportedOutbox,
    /// Grows with every write, and with every sweep, so that a read that failed is tried again.
    pub(crate) revision: u64,
    /// Why the last write or read failed, until one succeeds.
    pub(crate) failing: Option<String>,
}

impl SpoolState {
    /// Batches of a part that wait.
    pub(super) fn waiting(&self, part: Part) -> u64 {
        let lanes = self.reported.lanes.iter();
        lanes
            .filter(|lane| (lane.class == Class::Event) == (part == Part::Events))
            .map(|lane| lane.batches)
            .sum()
    }
}

/// How the thread works.
#[derive(Clone, Debug)]
pub(super) struct SpoolConfig {
    pub(super) boot: BootId,
    pub(super) streams: Vec<StreamName>,
    pub(super) durability: Durability,
    pub(super) flush: Duration,
    pub(super) compress: bool,
}

/// The handle of the thread. Dropped, the thread stores what it has and ends.
pub(super) struct Spool {
    commands: mpsc::Sender<Command>,
    /// Set once the outbox is open.
    epoch: Arc<OnceLock<Epoch>>,
    thread: JoinHandle<()>,
}

impl Spool {
    /// Starts the thread; `state` is kept up to date by it. By the receiver come the records that were stored first and
    /// are to be sent now.
    pub(super) fn start(
        door: Door,
        config: SpoolConfig,
        state: watch::Sender<SpoolState>,
    ) -> std::io::Result<(Self, mpsc::Receiver<Vec<Record>>)> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (stored, stored_receiver) = mpsc::channel(STORED_MAX);
        let epoch = Arc::<OnceLock<Epoch>>::default();
        let keeper = Keeper::new(door, Arc::clone(&epoch), config, state, stored);
        let handle = Handle::current();
        let thread = std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || keeper.run(&handle, receiver))?;
        let spool = Self {
            commands,
            epoch,
            thread,
        };
        Ok((spool, stored_receiver))
    }

    /// The way of commands that are not the uplink's own. The thread ends without them.
    pub(super) fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Names the outbox; none before it is open.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch.get().copied()
    }

    /// Hands records over to be stored within a flush interval.
    pub(super) async fn store(&self, records: Vec<Record>) {
        let count = records.len();
        if count > 0 && self.commands.send(Command::Store(records)).await.is_err() {
            tracing::error!(
                records = count,
                "the outbox's thread is gone: records are lost"
            );
        }
    }

    /// Hands over what is lost, so that the coordinator is told.
    pub(super) async fn drop_numbers(&self, dropped: Vec<Dropped>) {
        self.ask(Command::Dropped(dropped), "a loss is not told")
            .await;
    }

    /// Asks for the batches behind `after`; the answer comes by the channel.
    pub(super) async fn peek(
        &self,
        part: Part,
        after: Cursor,
        max: usize,
    ) -> oneshot::Receiver<Vec<Wire>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Peek {
            part,
            after,
            max,
            reply,
        };
        // Without a thread the answer's sender is gone, which the receiver sees.
        self.ask(command, "nothing can be replayed").await;
        answer
    }

    pub(super) async fn acknowledge(&self, ranges: Vec<BatchRange>) {
        self.ask(Command::Acknowledge(ranges), "an acknowledgement is lost")
            .await;
    }

    /// Writes down what was sent today.
    pub(super) async fn keep_spent(&self, spent: Spent) {
        self.ask(Command::Spent(spent), "the day's budget is not kept")
            .await;
    }

    /// Adds what the outbox has, and answers whoever asked.
    pub(super) async fn look(&self, sight: Sight, reply: oneshot::Sender<Sight>) {
        let sight = Box::new(sight);
        self.ask(Command::Look { sight, reply }, "a report is not whole")
            .await;
    }

    async fn ask(&self, command: Command, loss: &'static str) {
        if self.commands.send(command).await.is_err() {
            tracing::error!(loss, "the outbox's thread is gone");
        }
    }

    /// Stores what was handed over, and ends the thread.
    pub(super) async fn stop(self) {
        let (done, stored) = oneshot::channel();
        let sent = self.commands.send(Command::Flush(done)).await.is_ok();
        if sent && stored.await.is_err() {
            tracing::error!("the outbox's thread ended before it stored all");
        }
        drop(self.commands);
        if tokio::task::spawn_blocking(move || self.thread.join())
            .await
            .is_ok_and(|joined| joined.is_err())
        {
            tracing::error!("the outbox's thread panicked");
        }
    }
}
