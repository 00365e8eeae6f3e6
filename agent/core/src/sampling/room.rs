//! Where chosen windows wait for their label.

use std::collections::BTreeMap;

use lamppost_models::id::PredictionId;

/// Windows that wait, by their prediction; the oldest go when there are too many.
#[derive(Debug)]
pub struct Room<T> {
    count_max: usize,
    bytes_max: usize,
    bytes: usize,
    waiting: BTreeMap<PredictionId, (T, usize)>,
}

impl<T> Room<T> {
    /// Room for so many, and for so many bytes of them.
    pub const fn new(count_max: usize, bytes_max: usize) -> Self {
        Self {
            count_max,
            bytes_max,
            bytes: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Lets one wait; gives back those that had to make room, oldest first, the new one itself if it is too large.
    pub fn put(&mut self, id: PredictionId, one: T, bytes: usize) -> Vec<T> {
        let mut out: Vec<T> = self.take(&id).into_iter().collect();
        self.bytes += bytes;
        self.waiting.insert(id, (one, bytes));
        while self.waiting.len() > self.count_max || self.bytes > self.bytes_max {
            let Some((_, (oldest, bytes))) = self.waiting.pop_first() else {
                break;
            };
            self.bytes -= bytes;
            out.push(oldest);
        }
        out
    }

    /// The one of a prediction, if it waits.
    pub fn take(&mut self, id: &PredictionId) -> Option<T> {
        let (one, bytes) = self.waiting.remove(id)?;
        self.bytes -= bytes;
        Some(one)
    }

    /// All for which that is so, oldest first.
    pub fn take_if(&mut self, mut is_over: impl FnMut(&T) -> bool) -> Vec<T> {
        let over: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, (one, _))| is_over(one))
            .map(|(id, _)| *id)
            .collect();
        over.iter().filter_map(|id| self.take(id)).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of those that wait.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
