//! Shapes with the batch left open.

/// Which axis counts samples, and how many rows of it one sample has.
///
/// A graph may fold other axes into the batch: `[1, 24, 3]` reshaped to `[24, 3]` has 24 rows a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) axis: usize,
    pub(crate) rows: usize,
}

/// The shape of a value for one sample, and what grows with the number of samples; weights have no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) dims: Vec<usize>,
    pub(crate) batch: Option<Batch>,
}

impl Shape {
    pub(crate) const fn fixed(dims: Vec<usize>) -> Self {
        Self { dims, batch: None }
    }

    /// The same batch with other dimensions.
    pub(crate) fn with(&self, dims: Vec<usize>) -> Self {
        Self {
            dims,
            batch: self.batch,
        }
    }

    pub(crate) const fn rank(&self) -> usize {
        self.dims.len()
    }

    pub(crate) fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The dimensions for so many samples.
    pub(crate) fn of(&self, samples: usize) -> Vec<usize> {
        let mut dims = self.dims.clone();
        if let Some(batch) = self.batch
            && let Some(dim) = dims.get_mut(batch.axis)
        {
            *dim = batch.rows * samples;
        }
        dims
    }

    pub(crate) fn batch_axis(&self) -> Option<usize> {
        self.batch.map(|batch| batch.axis)
    }

    /// Refuses an operation along the axis that counts samples.
    pub(crate) fn not_the_batch(&self, axis: usize) -> Result<(), String> {
        if self.batch_axis() == Some(axis) {
            Err(format!("it works along axis {axis}, which is the batch"))
        } else {
            Ok(())
        }
    }

    /// Refuses a batch that is not the first axis.
    pub(crate) fn batch_first(&self) -> Result<(), String> {
        match self.batch_axis() {
            None | Some(0) => Ok(()),
            Some(axis) => Err(format!("its batch is axis {axis}, it must be the first")),
        }
    }

    /// An axis as ONNX counts it, from the end where it is negative.
    pub(crate) fn axis(&self, axis: i64) -> Result<usize, String> {
        axis_of(axis, self.rank())
    }

    /// The shape of a reshape to `dims`, which hold as many elements for one sample.
    pub(crate) fn reshaped(&self, dims: Vec<usize>) -> Result<Self, String> {
        let wanted = dims
            .iter()
            .try_fold(1_usize, |all, &dim| all.checked_mul(dim));
        if wanted != Some(self.elements()) {
            return Err(format!("{:?} does not reshape to {dims:?}", self.dims));
        }
        let Some(Batch { axis, .. }) = self.batch else {
            return Ok(Self::fixed(dims));
        };
        // What stands before the batch must stay as it is; all behind it may be regrouped, since samples lie one after
        // the other there. The new axis at the batch's place then has that many rows a sample.
        let Some(&rows) = dims.get(axis) else {
            return Err(format!("{dims:?} has no axis {axis} for the batch"));
        };
        if dims[..axis] != self.dims[..axis] {
            return Err(format!(
                "reshaping {:?} to {dims:?} moves the batch, which is axis {axis}",
                self.dims
            ));
        }
        Ok(Self {
            dims,
            batch: Some(Batch { axis, rows }),
        })
    }

    /// The shape of an element-wise operation of two values.
    pub(crate) fn broadcast(&self, other: &Self) -> Result<Self, String> {
        let rank = self.rank().max(other.rank());
        let aligned = |shape: &Self, at: usize| {
            let missing = rank - shape.rank();
            at.checked_sub(missing).map_or(1, |at| shape.dims[at])
        };
        let lifted = |shape: &Self| {
            shape.batch.map(|batch| Batch {
                axis: batch.axis + rank - shape.rank(),
                rows: batch.rows,
            })
        };
        let batch = match (lifted(self), lifted(other)) {
            (Some(a), Some(b)) if a != b => {
                return Err("its two operands count samples differently".to_owned());
            }
            (Some(batch), None) | (None, Some(batch)) => {
                let plain = if self.batch.is_some() { other } else { self };
                if aligned(plain, batch.axis) != 1 {
                    return Err("a constant is as long as the batch".to_owned());
                }
                Some(batch)
            }
            (a, _) => a,
        };
        let mut dims = Vec::with_capacity(rank);
        for at in 0..rank {
            dims.push(match (aligned(self, at), aligned(other, at)) {
                (a, b) if a == b || b == 1 => a,
                (1, b) => b,
                _ => {
                    return Err(format!(
                        "{:?} and {:?} do not fit each other",
                        self.dims, other.dims
                    ));
                }
            });
        }
        Ok(Self { dims, batch })
    }
}

/// An axis as ONNX counts it, from the end where it is negative.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize, String> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_start = if axis < 0 { axis + signed } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&at| at < rank)
        .ok_or_else(|| format!("axis {axis} is not within {rank} dimensions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dims: &[usize]) -> Shape {
        Shape {
            dims: dims.to_vec(),
            batch: Some(Batch { axis: 0, rows: 1 }),
        }
    }

    #[test]
    fn steps_fold_into_the_batch_and_out_of_it() {
        let folded = sample(&[1, 24, 3]).reshaped(vec![24, 3]).unwrap();
        assert_eq!(folded.of(5), [120, 3]);
        let back = folded.reshaped(vec![1, 24, 3]).unwrap();
        assert_eq!(back.of(5), [5, 24, 3]);
    }

    #[test]
    fn a_batch_behind_the_steps_stays_there() {
        let steps_first = Shape {
            dims: vec![24, 1, 8],
            batch: Some(Batch { axis: 1, rows: 1 }),
        };
        let split = steps_first.reshaped(vec![24, 1, 2, 4]).unwrap();
        assert_eq!(split.of(5), [24, 5, 2, 4]);
        let error = steps_first.reshaped(vec![1, 24, 8]).unwrap_err();
        assert!(error.contains("moves the batch"), "{error}");
    }

    #[test]
    fn a_constant_as_long_as_the_batch_is_refused() {
        let rows = sample(&[1, 24, 3]).reshaped(vec![24, 3]).unwrap();
        let error = rows.broadcast(&Shape::fixed(vec![24, 3])).unwrap_err();
        assert!(error.contains("as long as the batch"), "{error}");
        assert_eq!(
            rows.broadcast(&Shape::fixed(vec![3])).unwrap().of(2),
            [48, 3]
        );
    }
}
