//! The bounded queue between the streams and the engine.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a full queue gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The oldest entry: what is newest counts, as on a live dashboard.
    DropOldest,
    /// The entry that comes: what came first counts, as in a record without holes at its start.
    DropNewest,
}

/// Entries from one thread to another, in batches: one lock and at most one wake-up a batch.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    capacity: usize,
    when_full: WhenFull,
    inner: Mutex<Inner<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    entries: VecDeque<T>,
    closed: bool,
    waiting: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize, when_full: WhenFull) -> Self {
        let inner = Inner {
            entries: VecDeque::new(),
            closed: false,
            waiting: false,
        };
        Self {
            capacity,
            when_full,
            inner: Mutex::new(inner),
            filled: Condvar::new(),
        }
    }

    /// Adds `entries`, which is empty afterwards, in order; what does not fit goes to `dropped`.
    pub(crate) fn push_all(&self, entries: &mut Vec<T>, mut dropped: impl FnMut(T)) {
        let mut inner = self.lock();
        for entry in entries.drain(..) {
            if inner.closed {
                dropped(entry);
                continue;
            }
            if inner.entries.len() < self.capacity {
                inner.entries.push_back(entry);
                continue;
            }
            match self.when_full {
                WhenFull::DropNewest => dropped(entry),
                WhenFull::DropOldest => {
                    if let Some(oldest) = inner.entries.pop_front() {
                        dropped(oldest);
                    }
                    inner.entries.push_back(entry);
                }
            }
        }
        let wake = inner.waiting && !inner.entries.is_empty();
        drop(inner);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Waits for entries and moves at most `max` of them into `into`; false once the queue is closed and empty.
    pub(crate) fn take(&self, into: &mut Vec<T>, max: usize) -> bool {
        let mut inner = self.lock();
        while inner.entries.is_empty() {
            if inner.closed {
                return false;
            }
            inner.waiting = true;
            inner = self
                .filled
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
            inner.waiting = false;
        }
        let count = inner.entries.len().min(max);
        into.extend(inner.entries.drain(..count));
        true
    }

    /// Ends the queue: what is in it can still be taken, what comes is dropped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// A holder that panicked left whole entries only, so that its lock can be taken over.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue<u32>, entries: &[u32]) -> Vec<u32> {
        let mut dropped = Vec::new();
        queue.push_all(&mut entries.to_vec(), |entry| dropped.push(entry));
        dropped
    }

    #[test]
    fn a_full_queue_gives_up_what_it_was_told_to() {
        for (when_full, lost, kept) in [
            (WhenFull::DropOldest, vec![1, 2], vec![3, 4, 5]),
            (WhenFull::DropNewest, vec![4, 5], vec![1, 2, 3]),
        ] {
            let queue = Queue::new(3, when_full);
            assert_eq!(push(&queue, &[1, 2, 3, 4, 5]), lost);
            let mut taken = Vec::new();
            assert!(queue.take(&mut taken, 10));
            assert_eq!(taken, kept);
        }
    }

    #[test]
    fn a_closed_queue_is_emptied_and_takes_nothing_more() {
        let queue = Queue::new(8, WhenFull::DropOldest);
        assert!(push(&queue, &[1, 2, 3]).is_empty());
        queue.close();
        assert_eq!(push(&queue, &[4]), [4]);
        let mut taken = Vec::new();
        assert!(queue.take(&mut taken, 2) && queue.take(&mut taken, 2));
        assert_eq!(taken, [1, 2, 3]);
        assert!(!queue.take(&mut taken, 2));
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let queue = Queue::new(1000, WhenFull::DropOldest);
        let total = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut taken, mut total) = (Vec::new(), 0);
                while queue.take(&mut taken, 7) {
                    total += taken.drain(..).sum::<u32>();
                }
                total
            });
            for entry in 1..=100 {
                push(&queue, &[entry]);
            }
            queue.close();
            reader.join().unwrap()
        });
        assert_eq!(total, 5050);
    }
}
