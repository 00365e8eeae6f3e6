//! The outbox, or what is remembered until a full disk lets it open.
//!
//! An agent that starts on a disk without a free byte predicts and sends like any other; what it cannot keep is lost and
//! told by number, once there is a book again to write it down in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lamppost_agent_core::outbox::{Class, Run, Waiters};
use lamppost_agent_core::pace::Spent;
use lamppost_models::ledger::LossReason;
use lamppost_models::message::ReportedOutbox;
use lamppost_models::{BootId, StreamName};

use crate::outbox::{Outbox, OutboxError};

/// How often the outbox is tried again: an attempt on a full disk takes milliseconds.
const OPEN_EVERY: Duration = Duration::from_secs(5);

/// Opens the outbox; blocks.
pub(crate) type Opener = Box<dyn FnMut() -> Result<Outbox, OutboxError> + Send>;

/// The outbox, open or not.
pub(crate) enum Door {
    Open(Box<Outbox>),
    Shut(Shut),
}

/// An outbox that a full disk keeps shut.
pub(crate) struct Shut {
    open: Opener,
    tried: Instant,
    /// Why it did not open.
    reason: String,
    /// What was lost: a range and a count for each class, stream and reason, and so as many as there are streams, three times.
    lost: BTreeMap<(Class, usize, LossReason), Loss>,
}

#[derive(Clone, Copy)]
struct Loss {
    from: u64,
    to: u64,
    records: u64,
}

impl Door {
    /// Opens the outbox, or stays shut when the disk is full.
    ///
    /// # Errors
    /// When something else prevents it, which no time mends.
    pub(crate) fn open(mut open: Opener) -> Result<Self, OutboxError> {
        match open() {
            Ok(outbox) => Ok(Self::Open(Box::new(outbox))),
            Err(error) if error.is_disk_full() => {
                let reason = crate::error_chain(&error);
                tracing::error!(
                    reason,
                    "the outbox does not open: what cannot be sent is lost until it does"
                );
                Ok(Self::Shut(Shut {
                    open,
                    tried: Instant::now(),
                    reason,
                    lost: BTreeMap::new(),
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// What was sent on the day that is noted; where the note cannot be looked at, the day counts as begun anew.
    pub(crate) fn spent(&self) -> Option<Spent> {
        match self {
            Self::Open(outbox) => outbox.spent(),
            Self::Shut(_) => None,
        }
    }

    /// What was used of the samples' budgets, by stream; where it cannot be looked at, nothing.
    pub(crate) fn sampled(&self) -> BTreeMap<StreamName, Spent> {
        match self {
            Self::Open(outbox) => outbox.sampled(),
            Self::Shut(_) => BTreeMap::new(),
        }
    }

    /// What waits, and what was lost.
    pub(super) fn report(&self) -> ReportedOutbox {
        match self {
            Self::Open(outbox) => outbox.report(),
            Self::Shut(shut) => ReportedOutbox {
                unwritten: shut.records(LossReason::Unwritten),
                ..ReportedOutbox::default()
            },
        }
    }
}

impl Shut {
    /// Why it did not open.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// When it is tried again.
    pub(super) fn due(&self) -> Instant {
        self.tried + OPEN_EVERY
    }

    /// Tries again; an outbox that opens has been told all that was lost.
    pub(super) fn try_open(&mut self, streams: &[StreamName], boot: BootId) -> Option<Outbox> {
        self.tried = Instant::now();
        match (self.open)() {
            Ok(mut outbox) => {
                for (class, stream, reason, loss) in self.losses(streams) {
                    let run = Run {
                        stream: stream.clone(),
                        boot,
                        from: loss.from,
                        to: loss.to,
                    };
                    outbox.tell_lost(class, run, loss.records, reason);
                }
                tracing::info!("the outbox opens at last");
                Some(outbox)
            }
            Err(error) => {
                self.reason = crate::error_chain(&error);
                tracing::warn!(reason = self.reason, "the outbox does not open yet");
                None
            }
        }
    }

    /// Remembers a loss.
    pub(super) fn lose(
        &mut self,
        (class, stream): (Class, usize),
        (from, to): (u64, u64),
        records: u64,
        reason: LossReason,
    ) {
        let fresh = Loss {
            from,
            to,
            records: 0,
        };
        let loss = self.lost.entry((class, stream, reason)).or_insert(fresh);
        loss.from = loss.from.min(from);
        loss.to = loss.to.max(to);
        loss.records += records;
    }

    /// What is lost and not told counts as waiting: no report may have a hole.
    pub(super) fn waiters(&self, streams: &[StreamName], boot: BootId) -> Waiters {
        let mut waiters = Waiters::default();
        for (class, stream, _, loss) in self.losses(streams) {
            waiters.add(class, stream, boot, loss.from, loss.to);
        }
        waiters
    }

    fn losses<'a>(
        &'a self,
        streams: &'a [StreamName],
    ) -> impl Iterator<Item = (Class, &'a StreamName, LossReason, Loss)> {
        let lost = self.lost.iter();
        lost.filter_map(|((class, stream, reason), loss)| {
            Some((*class, streams.get(*stream)?, *reason, *loss))
        })
    }

    fn records(&self, of: LossReason) -> u64 {
        let lost = self.lost.iter().filter(|((_, _, reason), _)| *reason == of);
        lost.map(|(_, loss)| loss.records).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use lamppost_agent_core::outbox::Now;
    use lamppost_models::ledger::LedgerEventKind;
    use lamppost_models::{Epoch, Timestamp};

    use super::*;
    use crate::outbox::{CAP_BYTES_MIN, OutboxConfig};

    const BOOT: BootId = BootId::from_u64(7);

    /// Fails so often, then opens.
    fn opener(dir: &Path, mut failures: u32, kind: io::ErrorKind) -> Opener {
        let dir = dir.to_owned();
        Box::new(move || {
            if failures > 0 {
                failures -= 1;
                return Err(OutboxError::Io {
                    dir: dir.clone(),
                    action: "open it",
                    source: kind.into(),
                });
            }
            let config = OutboxConfig::new(CAP_BYTES_MIN, Duration::from_hours(48), 0);
            let now = Now {
                wall: Timestamp::EPOCH,
                steady: Duration::ZERO,
            };
            Outbox::open(&dir, config, Epoch::from_u64(3), now)
        })
    }

    #[test]
    fn what_is_lost_before_it_opens_is_told_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(opener(dir.path(), 2, io::ErrorKind::StorageFull)).unwrap();
        let Door::Shut(mut shut) = door else {
            panic!("it opens on a full disk");
        };
        let streams: Vec<StreamName> = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        shut.lose((Class::Prediction, 1), (5, 9), 5, LossReason::Unwritten);
        shut.lose((Class::Prediction, 1), (20, 20), 1, LossReason::Unwritten);
        shut.lose((Class::Prediction, 0), (3, 4), 2, LossReason::Dropped);
        shut.lose((Class::Sample, 0), (1, 1), 1, LossReason::Unwritten);
        assert_eq!(shut.waiters(&streams, BOOT).told().0.len(), 3);
        assert!(shut.try_open(&streams, BOOT).is_none());
        let mut outbox = shut.try_open(&streams, BOOT).unwrap();
        assert_eq!(outbox.report().unwritten, 7);
        outbox.sweep(Timestamp::EPOCH).unwrap();
        let events = outbox.peek_events(None.into(), 8).unwrap();
        let told: Vec<lamppost_models::ledger::LedgerEvent> =
            serde_json::from_slice(&events[0].json).unwrap();
        let mut told: Vec<_> = told
            .into_iter()
            .filter_map(|event| match event.event {
                LedgerEventKind::Lost(lost) => {
                    let stream = lost.stream.to_string();
                    Some((lost.class, stream, lost.from, lost.to, lost.records))
                }
                LedgerEventKind::Ended(_) => None,
            })
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                (Class::Prediction, "a".to_owned(), 3, 4, 2),
                (Class::Prediction, "b".to_owned(), 5, 20, 6),
                (Class::Sample, "a".to_owned(), 1, 1, 1),
            ]
        );
    }

    #[test]
    fn what_no_time_mends_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let denied = opener(dir.path(), 1, io::ErrorKind::PermissionDenied);
        assert!(Door::open(denied).is_err());
    }
}
