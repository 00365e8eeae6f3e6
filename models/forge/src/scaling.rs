//! Normalisation constants, fitted on training samples alone.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::data::{DataError, DataSet, Split, Targets};

/// Mean and standard deviation, as a manifest writes them: `(x - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Mean.
    pub mean: f64,
    /// Deviation; 1 where all numbers are the same.
    pub std: f64,
}

impl Scale {
    /// Of some numbers, in f64.
    pub fn of(numbers: impl Iterator<Item = f32> + Clone) -> Self {
        let count = numbers.clone().count().max(1) as f64;
        let mean = numbers.clone().map(f64::from).sum::<f64>() / count;
        let variance = numbers
            .map(|number| (f64::from(number) - mean).powi(2))
            .sum::<f64>()
            / count;
        let std = variance.sqrt();
        // Less than the rounding of the numbers themselves is no deviation.
        let least = f64::from(f32::EPSILON) * mean.abs().max(f64::from(f32::MIN_POSITIVE));
        Self {
            mean,
            std: if std > least { std } else { 1.0 },
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
    fn apply(self, number: f32) -> f32 {
        ((f64::from(number) - self.mean) / self.std) as f32
    }
}

/// Fits a scale for each group of columns on the training part, and applies it to both parts. Columns of one kind, such as
/// a field's lags, share a scale when they are one range; columns in no range stay as they are.
///
/// # Errors
/// [`DataError::Length`] when a range is empty or goes beyond the features.
pub fn normalise_features(
    split: &mut Split,
    columns: &[Range<usize>],
) -> Result<Vec<Scale>, DataError> {
    let width = split.train.width();
    if let Some(bad) = columns
        .iter()
        .find(|range| range.is_empty() || range.end > width)
    {
        return Err(DataError::Length {
            what: "columns of a range to normalise, or its end",
            found: bad.end,
            wanted: width,
        });
    }
    let fit = |range: &Range<usize>| {
        let rows = split.train.features().chunks(width);
        Scale::of(rows.flat_map(|row| row[range.clone()].iter().copied()))
    };
    let scales: Vec<Scale> = columns.iter().map(fit).collect();
    for data in [&mut split.train, &mut split.valid] {
        for (range, scale) in columns.iter().zip(&scales) {
            data.scale_columns(range, |number| scale.apply(number));
        }
    }
    Ok(scales)
}

/// Fits a scale of the target values on the training part and applies it to both; none where the targets are classes.
pub fn normalise_targets(split: &mut Split) -> Option<Scale> {
    let Targets::Values { values, .. } = split.train.targets() else {
        return None;
    };
    let scale = Scale::of(values.iter().copied());
    for data in [&mut split.train, &mut split.valid] {
        let change: fn(&mut DataSet, Scale) =
            |data, scale| data.scale_targets(|value| scale.apply(value));
        change(data, scale);
    }
    Some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split() -> Split {
        // Two lags of one field, a constant, and a column that is left alone; the last two rows are held out.
        let rows = [
            [1.0, 3.0, 5.0, 7.0],
            [3.0, 5.0, 5.0, 7.5],
            [5.0, 7.0, 5.0, 8.0],
            [100.0, 200.0, 6.0, 9.0],
            [0.0, 0.0, 5.0, 9.0],
        ];
        let targets = Targets::Values {
            width: 1,
            values: vec![10.0, 20.0, 30.0, 1e3, 0.0],
        };
        let data = DataSet::new(4, rows.concat(), targets).unwrap();
        data.split_tail(0.4, 0).unwrap()
    }

    #[test]
    fn constants_come_from_the_training_part_alone() {
        let mut split = split();
        let scales = normalise_features(&mut split, &[0..2, 2..3]).unwrap();
        // 1, 3, 3, 5, 5, 7: mean 4 and variance 22/6.
        assert!(
            (scales[0].mean - 4.0).abs() < 1e-12
                && (scales[0].std - (22.0_f64 / 6.0).sqrt()).abs() < 1e-12
        );
        assert_eq!(
            scales[1],
            Scale {
                mean: 5.0,
                std: 1.0
            }
        );
        let first = &split.train.features()[..4];
        let wanted = [
            -3.0 / (22.0_f32 / 6.0).sqrt(),
            -1.0 / (22.0_f32 / 6.0).sqrt(),
            0.0,
            7.0,
        ];
        for (found, wanted) in first.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{first:?}");
        }
        assert!(split.valid.features()[0] > 40.0);
        let scale = normalise_targets(&mut split).unwrap();
        assert!((scale.mean - 20.0).abs() < 1e-12, "{scale:?}");
    }

    #[test]
    fn ranges_beyond_the_features_and_empty_ones_are_refused() {
        assert!(normalise_features(&mut split(), std::slice::from_ref(&(3..5))).is_err());
        assert!(normalise_features(&mut split(), std::slice::from_ref(&(2..2))).is_err());
    }
}
