//! Windows to input tensors, word by word as the manifest says.

use std::borrow::Borrow;
use std::f64::consts::TAU;

use lamppost_models::manifest::{CalendarPart, Feature, Manifest, Stat, WINDOW_COUNT_MAX};
use lamppost_models::time::LocalTime;
use lamppost_models::{FieldName, Reading, Value};

use crate::error::Unfit;
use crate::image::Resize;

/// The preprocessing of a manifest.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    count: usize,
    step_ms: Option<u64>,
    jitter_ms: u64,
    steps: Vec<Step>,
}

/// A feature, with what can be computed once.
#[derive(Clone, Debug)]
enum Step {
    Image(FieldName, Resize),
    Other(Feature),
}

/// Sines and cosines met before: readings come at even steps as a rule, so that the hours of a day return, and the month
/// stays.
#[derive(Clone, Debug)]
pub(crate) struct Circle(Box<[Turn; TURNS]>);

/// An angle in radians.
#[derive(Clone, Copy, Debug)]
struct Turn {
    angle: f64,
    sin: f32,
    cos: f32,
}

/// Turns kept, 2 KiB: the hours of a day and the months, few of which share a place.
const TURNS: usize = 1 << TURNS_BITS;
const TURNS_BITS: u32 = 7;

/// `(number - mean) / std`
#[derive(Clone, Copy)]
struct Affine {
    mean: f64,
    std: f64,
}

impl Pipeline {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let steps = manifest.features.iter().map(|feature| {
            if let Feature::Image {
                field,
                from,
                to,
                channels,
                layout,
                mean,
                std,
            } = feature
            {
                let resize = Resize::new(*from, *to, channels, *layout, mean, std);
                Step::Image(field.clone(), resize)
            } else {
                Step::Other(feature.clone())
            }
        });
        Self {
            count: manifest.window.count,
            step_ms: manifest.window.step_ms,
            jitter_ms: manifest.window.jitter_ms,
            steps: steps.collect(),
        }
    }

    /// Replaces the content of `out` by the features of `window`, whose readings are oldest first.
    pub(crate) fn fill<R: Borrow<Reading>>(
        &self,
        window: &[R],
        circle: &mut Circle,
        out: &mut Vec<f32>,
    ) -> Result<(), Unfit> {
        out.clear();
        let Some(newest) = window
            .last()
            .filter(|_| (self.count..=WINDOW_COUNT_MAX).contains(&window.len()))
        else {
            return Err(Unfit::Count {
                found: window.len(),
                wanted: self.count,
                limit: WINDOW_COUNT_MAX,
            });
        };
        self.check_steps(window)?;
        for step in &self.steps {
            match step {
                Step::Image(field, resize) => image(field, resize, window, out)?,
                Step::Other(feature) => append(feature, window, newest.borrow(), circle, out)?,
            }
        }
        Ok(())
    }

    fn check_steps<R: Borrow<Reading>>(&self, window: &[R]) -> Result<(), Unfit> {
        let Some(step_ms) = self.step_ms else {
            return Ok(());
        };
        let first = window.len() - self.count;
        for (at, pair) in window[first..].windows(2).enumerate() {
            let found_ms = pair[1].borrow().ts.ms_since(pair[0].borrow().ts);
            let off = i128::from(found_ms) - i128::from(step_ms);
            if off.unsigned_abs() > u128::from(self.jitter_ms) {
                return Err(Unfit::Step {
                    index: first + at + 1,
                    found_ms,
                    step_ms,
                    jitter_ms: self.jitter_ms,
                });
            }
        }
        Ok(())
    }
}

fn image<R: Borrow<Reading>>(
    field: &FieldName,
    resize: &Resize,
    window: &[R],
    out: &mut Vec<f32>,
) -> Result<(), Unfit> {
    let (index, start) = (window.len() - 1, out.len());
    let refuse = |value: &f32| Unfit::Range {
        index,
        field: field.clone(),
        value: f64::from(*value),
    };
    let pixels = vector(window[index].borrow(), index, field, resize.input_len())?;
    if let Some(wrong) = pixels.iter().find(|value| !(0.0..=255.0).contains(*value)) {
        return Err(refuse(wrong));
    }
    resize.append(pixels, out);
    // Constants that are finite in the manifest may be too large for f32.
    match out[start..].iter().find(|value| !value.is_finite()) {
        Some(wrong) => Err(refuse(wrong)),
        None => Ok(()),
    }
}

fn append<R: Borrow<Reading>>(
    feature: &Feature,
    window: &[R],
    newest: &Reading,
    circle: &mut Circle,
    out: &mut Vec<f32>,
) -> Result<(), Unfit> {
    let last = window.len() - 1;
    match feature {
        Feature::Select {
            field,
            last: count,
            mean,
            std,
        } => {
            let affine = Affine {
                mean: *mean,
                std: *std,
            };
            (window.len() - count..window.len())
                .try_for_each(|at| affine.push(number(window, at, field)?, at, field, out))
        }
        Feature::Lag {
            field,
            lags,
            mean,
            std,
        } => {
            let affine = Affine {
                mean: *mean,
                std: *std,
            };
            let mut places = lags.iter().map(|lag| last - lag);
            places.try_for_each(|at| affine.push(number(window, at, field)?, at, field, out))
        }
        Feature::Aggregate {
            field,
            stat,
            mean,
            std,
        } => {
            let affine = Affine {
                mean: *mean,
                std: *std,
            };
            affine.push(aggregate(window, field, *stat)?, last, field, out)
        }
        Feature::OneHot { field, categories } => {
            let text = match newest.fields.get(field) {
                Some(Value::Text(text)) => text,
                other => return Err(unfit_kind(other, last, field, "text")),
            };
            out.extend(
                categories
                    .iter()
                    .map(|category| if category == text { 1.0 } else { 0.0 }),
            );
            Ok(())
        }
        Feature::Calendar {
            parts,
            zone,
            ahead_ms,
        } => {
            let ahead_ms = i64::try_from(*ahead_ms).unwrap_or(i64::MAX);
            let local = zone.local(newest.ts.offset_ms(ahead_ms));
            calendar(parts, &local, circle, out);
            Ok(())
        }
        Feature::Vector {
            field,
            length,
            mean,
            std,
        } => {
            let affine = Affine {
                mean: *mean,
                std: *std,
            };
            let mut values = vector(newest, last, field, *length)?.iter();
            values.try_for_each(|value| affine.push(f64::from(*value), last, field, out))
        }
        // Made a step of its own when the pipeline was built.
        Feature::Image { .. } => Ok(()),
    }
}

impl Affine {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the tensor is f32; what does not fit is refused"
    )]
    fn push(
        self,
        value: f64,
        index: usize,
        field: &FieldName,
        out: &mut Vec<f32>,
    ) -> Result<(), Unfit> {
        let normalised = ((value - self.mean) / self.std) as f32;
        if normalised.is_finite() {
            out.push(normalised);
            Ok(())
        } else {
            Err(Unfit::Range {
                index,
                field: field.clone(),
                value,
            })
        }
    }
}

fn number<R: Borrow<Reading>>(window: &[R], index: usize, field: &FieldName) -> Result<f64, Unfit> {
    match window[index].borrow().fields.get(field) {
        Some(Value::Number(number)) if number.is_finite() => Ok(*number),
        Some(Value::Number(number)) => Err(Unfit::Range {
            index,
            field: field.clone(),
            value: *number,
        }),
        other => Err(unfit_kind(other, index, field, "number")),
    }
}

fn vector<'r>(
    reading: &'r Reading,
    index: usize,
    field: &FieldName,
    wanted: usize,
) -> Result<&'r [f32], Unfit> {
    match reading.fields.get(field) {
        Some(Value::Vector(values)) if values.len() == wanted => Ok(values),
        Some(Value::Vector(values)) => Err(Unfit::Length {
            field: field.clone(),
            found: values.len(),
            wanted,
        }),
        other => Err(unfit_kind(other, index, field, "vector")),
    }
}

fn unfit_kind(
    found: Option<&Value>,
    index: usize,
    field: &FieldName,
    wanted: &'static str,
) -> Unfit {
    let field = field.clone();
    let found = match found {
        None => return Unfit::Missing { index, field },
        Some(Value::Number(_)) => "number",
        Some(Value::Text(_)) => "text",
        Some(Value::Vector(_)) => "vector",
    };
    Unfit::Kind {
        index,
        field,
        found,
        wanted,
    }
}

/// A number over the readings that have the field; all but the count need at least one.
fn aggregate<R: Borrow<Reading>>(
    window: &[R],
    field: &FieldName,
    stat: Stat,
) -> Result<f64, Unfit> {
    let mut count = 0_u32;
    let (mut sum, mut min, mut max) = (0.0, f64::INFINITY, f64::NEG_INFINITY);
    let present = |index: &usize| window[*index].borrow().fields.contains_key(field);
    for index in (0..window.len()).filter(present) {
        let value = number(window, index, field)?;
        count += 1;
        sum += value;
        min = value.min(min);
        max = value.max(max);
    }
    let n = f64::from(count);
    match stat {
        Stat::Count => Ok(n),
        _ if count == 0 => Err(Unfit::Nowhere {
            field: field.clone(),
        }),
        Stat::Mean => Ok(sum / n),
        Stat::Min => Ok(min),
        Stat::Max => Ok(max),
        Stat::Sum => Ok(sum),
        Stat::Std => {
            // In a second pass about the mean: the textbook's single pass loses everything when the mean is large.
            let mean = sum / n;
            let values = window
                .iter()
                .filter_map(|reading| reading.borrow().number(field));
            Ok((values.map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
        }
    }
}

fn calendar(parts: &[CalendarPart], local: &LocalTime, circle: &mut Circle, out: &mut Vec<f32>) {
    for part in parts {
        match part {
            CalendarPart::WeekdayOneHot => {
                out.extend((0..7).map(|day| if day == local.weekday { 1.0 } else { 0.0 }));
            }
            CalendarPart::HourSin | CalendarPart::MonthSin | CalendarPart::YearSin => {
                out.push(circle.turn(angle(*part, local)).sin);
            }
            CalendarPart::HourCos | CalendarPart::MonthCos | CalendarPart::YearCos => {
                out.push(circle.turn(angle(*part, local)).cos);
            }
        }
    }
}

impl Default for Circle {
    fn default() -> Self {
        Self(Box::new([Turn::of(0.0); TURNS]))
    }
}

impl Circle {
    fn turn(&mut self, angle: f64) -> Turn {
        // 2^64 over the golden ratio spreads angles over the places, D. Knuth, "The Art of Computer Programming", 6.4.
        let bits = angle.to_bits();
        let place = (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - TURNS_BITS)) as usize;
        let kept = &mut self.0[place];
        if kept.angle.to_bits() != bits {
            *kept = Turn::of(angle);
        }
        *kept
    }
}

impl Turn {
    #[expect(clippy::cast_possible_truncation, reason = "the tensor is f32")]
    fn of(angle: f64) -> Self {
        Self {
            angle,
            sin: angle.sin() as f32,
            cos: angle.cos() as f32,
        }
    }
}

fn angle(part: CalendarPart, local: &LocalTime) -> f64 {
    TAU * match part {
        CalendarPart::HourSin | CalendarPart::HourCos => local.hour / 24.0,
        CalendarPart::MonthSin | CalendarPart::MonthCos => (f64::from(local.month) - 1.0) / 12.0,
        CalendarPart::YearSin | CalendarPart::YearCos => {
            (f64::from(local.day_of_year) - 1.0) / 365.25
        }
        CalendarPart::WeekdayOneHot => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_kept_is_the_turn_itself() {
        let mut circle = Circle::default();
        // More angles than places, twice: found, pushed out and found again.
        for quarter in (0..2 * 366 * 4).chain(0..2 * 366 * 4) {
            let angle = TAU * f64::from(quarter) / 366.0;
            for _ in 0..2 {
                let turn = circle.turn(angle);
                let found = (turn.sin.to_bits(), turn.cos.to_bits());
                let wanted = Turn::of(angle);
                assert_eq!(
                    found,
                    (wanted.sin.to_bits(), wanted.cos.to_bits()),
                    "{angle}"
                );
            }
        }
    }

    #[test]
    fn the_hours_of_a_day_hardly_share_a_place() {
        let mut circle = Circle::default();
        let hours = || (0..24).map(|hour| TAU * (f64::from(hour) / 24.0));
        for angle in hours() {
            circle.turn(angle);
        }
        let kept = |angle: &f64| {
            circle
                .0
                .iter()
                .any(|turn| turn.angle.to_bits() == angle.to_bits())
        };
        assert!(hours().filter(kept).count() >= 20);
    }
}
