//! Windows as points, and those near them: a density and a local error in bounded memory.

use std::sync::Arc;

use lamppost_models::id::FieldName;
use lamppost_models::{Reading, Value};

use super::rank::Lot;

/// Fields that windows are told apart by, the first by name: beyond some twenty numbers all distances look alike.
const FIELDS_MAX: usize = 8;
/// Numbers of a field: its newest value, its mean and its standard deviation over the window.
const NUMBERS: usize = 3;
/// Points that are kept: 50 KB at most, and some microseconds for a look at all.
const POINTS_MAX: usize = 256;
/// Neighbours that count: one alone may be a freak, and many reach beyond what is near.
const NEAREST: usize = 8;
/// Windows that the scales are of, so many at most, the older ones forgotten exponentially: eight times what a score is
/// compared with, since a scale that changes faster changes all scores that are compared.
const SCALE_WINDOWS_MAX: u32 = 4096;
/// Numbers beyond it are taken for it: their squares are finite.
const FAR: f64 = 1e30;

/// A window as numbers; NaN where it has none.
pub(super) type Point = Vec<f64>;

/// Makes points of windows, and knows how much each of their numbers varies.
#[derive(Debug)]
pub(super) struct Sketcher {
    fields: Vec<FieldName>,
    scales: Vec<Scale>,
}

/// What is usual of a number.
#[derive(Clone, Copy, Debug, Default)]
struct Scale {
    windows: u32,
    mean: f64,
    variance: f64,
}

impl Sketcher {
    pub(super) fn new(fields: impl IntoIterator<Item = FieldName>) -> Self {
        let mut fields: Vec<_> = fields.into_iter().collect();
        fields.sort();
        fields.truncate(FIELDS_MAX);
        Self {
            scales: vec![Scale::default(); NUMBERS * fields.len()],
            fields,
        }
    }

    pub(super) fn sketch(&self, window: &[Arc<Reading>]) -> Point {
        let numbers = self.fields.iter().flat_map(|field| of_field(window, field));
        numbers.map(|number| number.clamp(-FAR, FAR)).collect()
    }

    /// Takes in how far a window is from the usual.
    pub(super) fn learn(&mut self, point: &Point) {
        for (scale, number) in self.scales.iter_mut().zip(point) {
            if number.is_nan() {
                continue;
            }
            scale.windows = (scale.windows + 1).min(SCALE_WINDOWS_MAX);
            let rate = 1.0 / f64::from(scale.windows);
            let off = number - scale.mean;
            scale.mean += rate * off;
            scale.variance = (1.0 - rate) * (scale.variance + rate * off * off);
        }
    }

    /// The squared distance of two points, each number in units of its standard deviation. Numbers that one of them lacks
    /// count as much as the others on the average.
    fn distance(&self, a: &Point, b: &Point) -> f64 {
        let (mut sum, mut count) = (0.0, 0_usize);
        for ((a, b), scale) in a.iter().zip(b).zip(&self.scales) {
            let off = a - b;
            if !off.is_nan() {
                count += 1;
                // Where nothing varied, nothing differs.
                if off != 0.0 {
                    sum += off * off / scale.variance.max(f64::MIN_POSITIVE);
                }
            }
        }
        if count == 0 { 0.0 } else { sum / count as f64 }
    }
}

/// Newest, mean and standard deviation of a field's numbers; of a vector field, of the newest vector's.
fn of_field(window: &[Arc<Reading>], field: &FieldName) -> [f64; NUMBERS] {
    let newest = window
        .iter()
        .rev()
        .find_map(|reading| reading.fields.get(field));
    match newest {
        Some(Value::Number(newest)) => {
            let numbers = window.iter().filter_map(|reading| reading.number(field));
            spread(*newest, numbers)
        }
        Some(Value::Vector(vector)) => {
            let newest = vector.last().copied().map_or(f64::NAN, f64::from);
            spread(newest, vector.iter().copied().map(f64::from))
        }
        Some(Value::Text(_)) | None => [f64::NAN; NUMBERS],
    }
}

fn spread(newest: f64, numbers: impl Iterator<Item = f64>) -> [f64; NUMBERS] {
    // Welford's way, which needs one pass and no great sums.
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for number in numbers {
        count += 1.0;
        let off = number.clamp(-FAR, FAR) - mean;
        mean += off / count;
        squares += off * (number.clamp(-FAR, FAR) - mean);
    }
    [
        newest,
        mean,
        (squares / f64::max(count, 1.0)).max(0.0).sqrt(),
    ]
}

/// Points of the past, each with a loss.
///
/// A biased reservoir (Aggarwal, "On biased reservoir sampling in the presence of stream evolution", VLDB 2006, algorithm
/// 2.1): each point comes in, and as the reservoir fills up takes the place of one by lot, so that a point of the past
/// is there with a chance that falls exponentially with its age.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Vec<(Point, f64)>);

impl Neighbours {
    pub(super) fn add(&mut self, point: Point, loss: f64, lot: &mut Lot) {
        let filled = self.0.len() as f64 / POINTS_MAX as f64;
        let replaced = (lot.draw() < filled).then(|| lot.below(self.0.len()));
        match replaced.and_then(|at| self.0.get_mut(at)) {
            Some(old) => *old = (point, loss),
            None => self.0.push((point, loss)),
        }
    }

    /// The squared distance of the k-th nearest; `None` while there are too few.
    pub(super) fn distance(&self, point: &Point, sketcher: &Sketcher) -> Option<f64> {
        let nearest = self.nearest(point, sketcher)?;
        nearest.last().map(|(distance, _)| *distance)
    }

    /// The mean loss of the nearest; `None` while there are too few.
    pub(super) fn loss(&self, point: &Point, sketcher: &Sketcher) -> Option<f64> {
        let nearest = self.nearest(point, sketcher)?;
        let sum: f64 = nearest.iter().map(|(_, loss)| loss).sum();
        Some(sum / NEAREST as f64)
    }

    /// Distances and losses of the nearest, the farthest of them last.
    fn nearest(&self, point: &Point, sketcher: &Sketcher) -> Option<Vec<(f64, f64)>> {
        if self.0.len() < NEAREST {
            return None;
        }
        let known = self.0.iter();
        let mut all: Vec<_> = known
            .map(|(other, loss)| (sketcher.distance(point, other), *loss))
            .collect();
        all.select_nth_unstable_by(NEAREST - 1, |a, b| a.0.total_cmp(&b.0));
        all.truncate(NEAREST);
        Some(all)
    }
}
