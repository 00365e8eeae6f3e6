//! Whether the fields that a model reads are distributed otherwise: the population stability index.
//!
//! `PSI = sum (p - q) ln (p / q)` over bins that hold a tenth of the reference each. By rule of thumb a PSI below 0.1 is no
//! change and one above 0.25 a great one (Lewis 1994; Siddiqi, "Credit Risk Scorecards", 2006). For independent readings and no
//! change it is `(1/n + 1/m) (bins - 1)` on average (Yurdakul and Naranjo, "Statistical properties of the population stability
//! index", Journal of Risk Model Validation 14 (2020)); readings of a sensor are not independent, and it is many times that.
//! So the chance level is measured on the reference itself: the mean PSI of its overlapping stretches of `recent` periods, as
//! the variance of a mean is by overlapping batches (Meketon and Schmeiser 1984), times `(R + C) / (R - C)`, for the reference
//! of `R` periods contains these stretches of `C` and the later ones it does not. The limit is [`CHANCE_TIMES`] that level, 0.25
//! at least, and a field must be above it at each of the last `recent` looks, that is in two stretches that share
//! nothing.
//!
//! `simulation` states what comes of that: within 90 days none of 60 nodes has a false alarm whose hours have a correlation of 0 or
//! 0.8 with the one before, and 5 have one at 0.95; on the traffic of I-94 1 of 43 starts has one within four weeks, and a lane lost
//! or a stuck sensor is seen after 12 days from all of them. Kolmogorov-Smirnov on the same stretches takes readings to be
//! independent, by its published critical value: 0, 6 and 40 of the 60 nodes. It would need the readings themselves too, where
//! bins are a few counters.

use std::collections::VecDeque;

use lamppost_models::manifest::Feature;
use lamppost_models::message::ReportedShift;
use lamppost_models::{Digest, FieldName, Manifest, Reading, Value};
use serde::{Deserialize, Serialize};

use super::periods::{Open, least};
use super::{BINS_MAX, DriftSpec, FIELDS_MAX, REPORTED_FIELDS_MAX, ROWS_MAX};

/// Quantile bins of a number.
const QUANTILES: usize = 10;
/// Above it a PSI is a great change, by the rule of thumb.
const PSI_GREAT: f64 = 0.25;
/// How many times the chance level is no chance any more; found by simulation.
const CHANCE_TIMES: f64 = 5.0;
/// Added to each bin's count, so that an empty one has a logarithm.
const PRIOR: f64 = 0.5;

/// The fields of one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Shift {
    fields: Vec<Field>,
    open: Open,
    /// Periods that are over.
    periods: u64,
    /// Windows that a period of the reference had, once it is complete.
    usual: u64,
    /// What stands for the reference until it is complete.
    rows: Rows,
}

/// A field that the model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Field {
    name: FieldName,
    /// The categories of a text; none of a number.
    categories: Vec<String>,
    /// Once the reference is complete.
    bins: Option<Bins>,
}

/// How a field is distributed, by bins: one below or at each edge, one above all, one for what is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bins {
    edges: Vec<f32>,
    reference: Vec<u64>,
    /// The PSI that chance alone makes.
    chance: f64,
    open: Vec<u64>,
    recent: VecDeque<Vec<u64>>,
    /// What was found last.
    psi: Option<f64>,
    limit: f64,
    /// Looks in a row at which it was above the limit.
    above: usize,
}

/// A random choice of the rows so far, each as likely (Vitter's algorithm R, 1985).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Rows {
    kept: Vec<(u64, Vec<Option<f32>>)>,
    seen: u64,
    /// State of the generator, from the bundle's digest: the same readings make the same choice.
    random: u64,
}

impl Shift {
    pub(super) fn new(manifest: &Manifest, digest: &Digest) -> Self {
        let mut fields: Vec<Field> = Vec::new();
        for feature in &manifest.features {
            let Some(name) = feature.field() else {
                continue;
            };
            if fields.len() == FIELDS_MAX || fields.iter().any(|field| field.name == *name) {
                continue;
            }
            let categories = if let Feature::OneHot { categories, .. } = feature {
                categories.clone()
            } else {
                Vec::new()
            };
            fields.push(Field {
                name: name.clone(),
                categories,
                bins: None,
            });
        }
        let seed = digest.as_bytes().first_chunk().copied();
        Self {
            fields,
            open: Open::default(),
            periods: 0,
            usual: 0,
            rows: Rows {
                random: seed.map_or(0, u64::from_le_bytes),
                ..Rows::default()
            },
        }
    }

    pub(super) const fn periods(&self) -> u64 {
        self.periods
    }

    /// Takes in a reading; true when a period is over that was held against the reference.
    pub(super) fn take(&mut self, spec: &DriftSpec, newest: &Reading) -> bool {
        let over = self.open.turns(newest.ts, spec.period, least(self.usual));
        if over {
            self.periods += 1;
            if self.periods == spec.reference as u64 {
                self.complete(spec);
            }
        }
        if self.periods < spec.reference as u64 {
            let cells = self.fields.iter().map(|field| field.cell(newest));
            self.rows.take(self.periods, cells);
            return false;
        }
        for field in &mut self.fields {
            let cell = field.cell(newest);
            if let Some(bins) = &mut field.bins {
                if over && self.periods > spec.reference as u64 {
                    bins.close(spec);
                }
                bins.count(cell);
            }
        }
        over
    }

    /// Makes the bins of the rows, which are no longer needed then.
    fn complete(&mut self, spec: &DriftSpec) {
        let Rows { kept, seen, .. } = std::mem::take(&mut self.rows);
        self.usual = seen / self.periods.max(1);
        for (at, field) in self.fields.iter_mut().enumerate() {
            let cells: Vec<(u64, Option<f32>)> = kept
                .iter()
                .map(|(period, row)| (*period, row.get(at).copied().flatten()))
                .collect();
            let edges = field.edges(&cells);
            field.bins = Some(Bins::new(edges, &cells, spec));
        }
    }

    pub(super) fn drifts(&self, spec: &DriftSpec) -> bool {
        self.standing(spec).next().is_some()
    }

    /// The fields that have drifted.
    fn standing(&self, spec: &DriftSpec) -> impl Iterator<Item = (&Field, &Bins)> {
        let bins = self
            .fields
            .iter()
            .filter_map(|field| Some((field, field.bins.as_ref()?)));
        bins.filter(move |(_, bins)| bins.above >= spec.recent.max(1))
    }

    /// All fields that there is something to tell of, those that are farthest above their limit first.
    pub(super) fn reported(&self, spec: &DriftSpec) -> Vec<ReportedShift> {
        let mut rows: Vec<ReportedShift> = self
            .fields
            .iter()
            .filter_map(|field| {
                let bins = field.bins.as_ref()?;
                Some(ReportedShift {
                    field: field.name.clone(),
                    psi: bins.psi?,
                    limit: bins.limit,
                    drifts: bins.above >= spec.recent.max(1),
                })
            })
            .collect();
        rows.sort_by(|a, b| (b.psi / b.limit).total_cmp(&(a.psi / a.limit)));
        rows
    }

    pub(super) fn words(&self, spec: &DriftSpec) -> Vec<String> {
        let words = |(field, bins): (&Field, &Bins)| {
            Some(format!(
                "{} is not distributed as at first: PSI {:.2}, limit {:.2}",
                field.name, bins.psi?, bins.limit
            ))
        };
        let standing = self.standing(spec).take(REPORTED_FIELDS_MAX);
        standing.filter_map(words).collect()
    }
}

impl Field {
    /// The value of a reading as a number: that of a vector is its mean, that of a text its category's place. `None` when there
    /// is none that is finite.
    #[expect(clippy::cast_possible_truncation, reason = "models compute in f32 too")]
    fn cell(&self, reading: &Reading) -> Option<f32> {
        let number = match reading.fields.get(&self.name)? {
            Value::Number(number) => *number as f32,
            Value::Vector(values) => {
                let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
                (sum / values.len() as f64) as f32
            }
            Value::Text(text) => {
                let place = self.categories.iter().position(|known| known == text);
                place.unwrap_or(self.categories.len()) as f32
            }
        };
        number.is_finite().then_some(number)
    }

    fn edges(&self, cells: &[(u64, Option<f32>)]) -> Vec<f32> {
        if self.categories.is_empty() {
            return quantiles(cells.iter().filter_map(|(_, cell)| *cell).collect());
        }
        let last = self.categories.len().min(BINS_MAX - 2);
        (0..last).map(|place| place as f32).collect()
    }
}

/// Edges of bins with a tenth of the values each. A value that more than a tenth share has a bin of its own, so that a field that
/// never changed shows a change to either side.
fn quantiles(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    let tenth = |tenth: usize| values.get(tenth * values.len() / QUANTILES).copied();
    let points: Vec<f32> = (1..QUANTILES).filter_map(tenth).collect();
    let shared = points
        .windows(2)
        .filter(|pair| pair[0].total_cmp(&pair[1]).is_eq())
        .map(|pair| pair[0].next_down());
    let mut edges: Vec<f32> = shared.chain(points.iter().copied()).collect();
    edges.retain(|edge| edge.is_finite());
    edges.sort_by(f32::total_cmp);
    edges.dedup();
    edges
}

impl Bins {
    fn new(edges: Vec<f32>, cells: &[(u64, Option<f32>)], spec: &DriftSpec) -> Self {
        let bins = edges.len() + 2;
        let mut periods = vec![vec![0_u64; bins]; spec.reference];
        for (period, cell) in cells {
            let period = usize::try_from(*period)
                .ok()
                .and_then(|at| periods.get_mut(at));
            if let Some(count) = period.and_then(|counts| counts.get_mut(bin(&edges, *cell))) {
                *count += 1;
            }
        }
        let reference = sum(bins, &periods);
        let stretches = periods.windows(spec.recent.max(1));
        let count = stretches.len().max(1) as f64;
        let mean = stretches
            .map(|stretch| psi(&sum(bins, stretch), &reference))
            .sum::<f64>()
            / count;
        let (whole, part) = (spec.reference as f64, spec.recent as f64);
        Self {
            edges,
            reference,
            chance: mean * (whole + part) / (whole - part).max(1.0),
            open: vec![0; bins],
            recent: VecDeque::new(),
            psi: None,
            limit: PSI_GREAT,
            above: 0,
        }
    }

    fn count(&mut self, cell: Option<f32>) {
        if let Some(count) = self.open.get_mut(bin(&self.edges, cell)) {
            *count += 1;
        }
    }

    /// A period is over: looks at the newest ones, when there are enough.
    fn close(&mut self, spec: &DriftSpec) {
        let bins = self.open.len();
        self.recent
            .push_back(std::mem::replace(&mut self.open, vec![0; bins]));
        while self.recent.len() > spec.recent.max(1) {
            self.recent.pop_front();
        }
        if self.recent.len() < spec.recent {
            return;
        }
        let now = sum(bins, &self.recent);
        let psi = psi(&now, &self.reference);
        // Fewer readings than in a stretch of the reference leave more to chance.
        let usual = total(&self.reference) * spec.recent as f64 / spec.reference.max(1) as f64;
        let scarce = (usual / total(&now).max(1.0)).max(1.0);
        self.limit = PSI_GREAT.max(CHANCE_TIMES * self.chance * scarce);
        self.above = if psi > self.limit {
            (self.above + 1).min(spec.recent.max(1))
        } else {
            0
        };
        self.psi = Some(psi);
    }
}

fn bin(edges: &[f32], cell: Option<f32>) -> usize {
    match cell {
        Some(value) => edges.partition_point(|edge| *edge < value),
        None => edges.len() + 1,
    }
}

fn sum<'a>(bins: usize, periods: impl IntoIterator<Item = &'a Vec<u64>>) -> Vec<u64> {
    let mut sum = vec![0; bins];
    for counts in periods {
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    sum
}

fn total(counts: &[u64]) -> f64 {
    counts.iter().sum::<u64>() as f64
}

/// The population stability index of two counts by bins, 0 for equal shares; always finite.
fn psi(now: &[u64], reference: &[u64]) -> f64 {
    let bins: Vec<(f64, f64)> = now
        .iter()
        .zip(reference)
        .filter(|(now, reference)| **now > 0 || **reference > 0)
        .map(|(now, reference)| (*now as f64 + PRIOR, *reference as f64 + PRIOR))
        .collect();
    let (of_now, of_reference) = bins
        .iter()
        .fold((0.0, 0.0), |sums, bin| (sums.0 + bin.0, sums.1 + bin.1));
    let part = |(now, reference): &(f64, f64)| {
        let (p, q) = (now / of_now, reference / of_reference);
        (p - q) * (p / q).ln()
    };
    bins.iter().map(part).sum()
}

impl Rows {
    fn take(&mut self, period: u64, cells: impl Iterator<Item = Option<f32>>) {
        self.seen += 1;
        let place = if self.kept.len() < ROWS_MAX {
            self.kept.len()
        } else {
            let place = usize::try_from(self.next_random() % self.seen).unwrap_or(ROWS_MAX);
            if place >= ROWS_MAX {
                return;
            }
            place
        };
        let row = (period, cells.collect());
        match self.kept.get_mut(place) {
            Some(old) => *old = row,
            None => self.kept.push(row),
        }
    }

    /// `SplitMix64` (Steele, Lea and Flood 2014).
    const fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
