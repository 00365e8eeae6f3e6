use std::sync::Arc;

use lamppost_models::Reading;

/// The newest readings as one slice.
///
/// What is dropped stays in front until it is as much as what is kept; then all move down at once. So a reading costs a
/// constant on average, no window is ever copied together, and the memory is at most twice the window.
#[derive(Debug)]
pub(super) struct Ring {
    readings: Vec<Arc<Reading>>,
    start: usize,
}

impl Ring {
    pub(super) const fn new() -> Self {
        Self {
            readings: Vec::new(),
            start: 0,
        }
    }

    /// Adds a reading, and drops the oldest when there are more than `count_max`.
    pub(super) fn push(&mut self, reading: Arc<Reading>, count_max: usize) {
        self.readings.push(reading);
        if self.len() > count_max {
            self.start += 1;
        }
        self.compact();
    }

    pub(super) fn drop_while(&mut self, drop: impl Fn(&Reading) -> bool) {
        self.start += self.as_slice().partition_point(|reading| drop(reading));
        self.compact();
    }

    pub(super) fn as_slice(&self) -> &[Arc<Reading>] {
        &self.readings[self.start..]
    }

    pub(super) fn len(&self) -> usize {
        self.readings.len() - self.start
    }

    fn compact(&mut self) {
        if self.start > self.readings.len() / 2 {
            self.readings.drain(..self.start);
            self.start = 0;
        }
    }
}
