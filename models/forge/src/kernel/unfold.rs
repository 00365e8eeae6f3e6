//! Windows as columns of a matrix, and back.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{Float, Work, dispatch};
use crate::graph::Window;

/// `[samples, channels, height, width]` to `[channels * kernel, samples * places]`: a column for each place of the
/// window, a row for each channel and element of the kernel; padding is 0.
pub(crate) fn unfold(x: &Tensor, window: Window) -> Result<Tensor> {
    let (samples, channels, _, _) = x.dims4()?;
    let grid = Grid {
        window,
        samples,
        channels,
    };
    x.contiguous()?.apply_op1(Unfold(grid))
}

#[derive(Clone, Copy)]
struct Grid {
    window: Window,
    samples: usize,
    channels: usize,
}

impl Grid {
    fn rows(&self) -> usize {
        self.channels * self.window.kernel[0] * self.window.kernel[1]
    }

    fn columns(&self) -> usize {
        self.samples * self.window.output[0] * self.window.output[1]
    }

    fn elements(&self) -> usize {
        self.samples * self.channels * self.window.input[0] * self.window.input[1]
    }

    /// Calls `visit` with the first index in the matrix, the first index in the image and how many follow, for each run of
    /// elements that lie within the image; along a run, the image's index grows by the stride.
    fn runs(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let Window {
            input: [height, width],
            output: [rows, columns],
            kernel,
            stride,
            dilation,
            before,
            ..
        } = self.window;
        let mut matrix_row = 0;
        for channel in 0..self.channels {
            for ky in 0..kernel[0] {
                for kx in 0..kernel[1] {
                    // Columns whose element lies within the image: x = column * stride + kx * dilation - before.
                    let reach = kx * dilation[1];
                    let first = before[1]
                        .saturating_sub(reach)
                        .div_ceil(stride[1])
                        .min(columns);
                    let end = (width + before[1])
                        .saturating_sub(reach)
                        .div_ceil(stride[1])
                        .min(columns);
                    for sample in 0..self.samples {
                        for row in 0..rows {
                            let at = row * stride[0] + ky * dilation[0];
                            if at < before[0] || at - before[0] >= height || first >= end {
                                continue;
                            }
                            let line = ((sample * self.channels + channel) * height + at
                                - before[0])
                                * width;
                            let x = first * stride[1] + reach - before[1];
                            let column = (sample * rows + row) * columns + first;
                            visit(matrix_row * self.columns() + column, line + x, end - first);
                        }
                    }
                    matrix_row += 1;
                }
            }
        }
    }
}

struct Unfold(Grid);

impl Work for Unfold {
    fn run<T: Float>(&self, inputs: &[&[T]]) -> Vec<T> {
        let image = inputs[0];
        let mut matrix = vec![T::ZERO; self.0.rows() * self.0.columns()];
        let stride = self.0.window.stride[1];
        self.0.runs(|to, from, count| {
            if stride == 1 {
                matrix[to..to + count].copy_from_slice(&image[from..from + count]);
            } else {
                let line = image[from..].iter().step_by(stride);
                for (to, from) in matrix[to..to + count].iter_mut().zip(line) {
                    *to = *from;
                }
            }
        });
        matrix
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let matrix = dispatch(self, &[(storage, layout)])?;
        Ok((matrix, Shape::from((self.0.rows(), self.0.columns()))))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient
            .contiguous()?
            .apply_op1_no_bwd(&Fold(self.0))
            .map(Some)
    }
}

/// The transpose of [`Unfold`]: adds each element of the matrix to the element of the image that it came from.
struct Fold(Grid);

impl Work for Fold {
    fn run<T: Float>(&self, inputs: &[&[T]]) -> Vec<T> {
        let matrix = inputs[0];
        let mut image = vec![T::ZERO; self.0.elements()];
        let stride = self.0.window.stride[1];
        self.0.runs(|from, to, count| {
            let line = image[to..].iter_mut().step_by(stride);
            for (to, from) in line.zip(&matrix[from..from + count]) {
                *to += *from;
            }
        });
        image
    }
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let image = dispatch(self, &[(storage, layout)])?;
        let [height, width] = self.0.window.input;
        Ok((
            image,
            Shape::from((self.0.samples, self.0.channels, height, width)),
        ))
    }
}
