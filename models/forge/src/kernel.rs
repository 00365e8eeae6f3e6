//! Windows over height and width, with gradients for any kernel, stride, padding and dilation.
//!
//! Candle's own convolutions are slow on a CPU, and its pools know gradients where kernel and stride are equal alone. Here
//! a convolution is one matrix product of all samples' windows: [`unfold()`] lays them out, and its gradient folds back.

mod pool;
mod unfold;

use candle_core::{CpuStorage, Layout, Result, bail};

pub(crate) use pool::pool;
pub(crate) use unfold::unfold;

/// What the kernels compute on: weights in f32, gradient checks in f64.
pub(crate) trait Float:
    Copy
    + PartialOrd
    + std::ops::AddAssign
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    const ZERO: Self;
    fn of(count: usize) -> Self;
}

impl Float for f32 {
    const ZERO: Self = 0.0;

    #[expect(clippy::cast_precision_loss, reason = "sizes of kernels")]
    fn of(count: usize) -> Self {
        count as Self
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;

    fn of(count: usize) -> Self {
        count as Self
    }
}

/// Work that is the same in both types.
trait Work {
    fn run<T: Float>(&self, inputs: &[&[T]]) -> Vec<T>;
}

/// Runs `work` on contiguous tensors of one float type.
fn dispatch(work: &impl Work, inputs: &[(&CpuStorage, &Layout)]) -> Result<CpuStorage> {
    let mut singles = Vec::with_capacity(inputs.len());
    let mut doubles = Vec::with_capacity(inputs.len());
    for (storage, layout) in inputs {
        let Some((from, to)) = layout.contiguous_offsets() else {
            bail!("a window's input is not contiguous");
        };
        if let CpuStorage::F32(numbers) = storage {
            singles.push(&numbers[from..to]);
        } else if let CpuStorage::F64(numbers) = storage {
            doubles.push(&numbers[from..to]);
        }
    }
    if singles.len() == inputs.len() {
        Ok(CpuStorage::F32(work.run(&singles)))
    } else if doubles.len() == inputs.len() {
        Ok(CpuStorage::F64(work.run(&doubles)))
    } else {
        bail!("a window's inputs are not all f32 or all f64")
    }
}
