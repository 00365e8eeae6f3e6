//! Pools of any kernel and stride.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Float, Work, dispatch};
use crate::graph::{Pool, Window};

/// `[samples, channels, height, width]` to the largest element or the mean of each window.
pub(crate) fn pool(x: &Tensor, window: Window, kind: Pool) -> Result<Tensor> {
    let (samples, channels, _, _) = x.dims4()?;
    let planes = samples * channels;
    let shape = [samples, channels];
    x.contiguous()?.apply_op1(Pooling {
        window,
        kind,
        planes,
        shape,
    })
}

#[derive(Clone, Copy)]
struct Pooling {
    window: Window,
    kind: Pool,
    planes: usize,
    shape: [usize; 2],
}

impl Pooling {
    /// Calls `visit` with each place of the window and the range of rows and columns of it that lie within the image.
    fn places(&self, mut visit: impl FnMut(usize, &Place)) {
        let Window {
            input: [height, width],
            output: [rows, columns],
            ..
        } = self.window;
        for plane in 0..self.planes {
            for row in 0..rows {
                for column in 0..columns {
                    let place = Place {
                        base: plane * height * width,
                        rows: self.range(0, row),
                        columns: self.range(1, column),
                        counted: self.counted(row, column),
                    };
                    visit((plane * rows + row) * columns + column, &place);
                }
            }
        }
    }

    /// First element, end and step along an axis.
    fn range(&self, axis: usize, place: usize) -> (usize, usize, usize) {
        let window = &self.window;
        let (start, dilation, before) = (
            place * window.stride[axis],
            window.dilation[axis],
            window.before[axis],
        );
        let skipped = before.saturating_sub(start).div_ceil(dilation);
        let first = start + skipped * dilation - before.min(start + skipped * dilation);
        let end = (start + (window.kernel[axis] - 1) * dilation + 1).saturating_sub(before);
        (first, end.min(window.input[axis]), dilation)
    }

    /// How many elements a mean is of.
    fn counted(&self, row: usize, column: usize) -> usize {
        let of = |axis: usize, place: usize| {
            let (first, end, step) = self.range(axis, place);
            if self.kind
                == (Pool::Average {
                    padding_counts: true,
                })
            {
                // Padding counts, what lies beyond it (in a last, partial window) does not.
                let window = &self.window;
                let start = place * window.stride[axis];
                let padded = window.input[axis] + window.before[axis] + window.behind[axis];
                padded
                    .saturating_sub(start)
                    .div_ceil(window.dilation[axis])
                    .min(window.kernel[axis])
            } else {
                end.saturating_sub(first).div_ceil(step)
            }
        };
        (of(0, row) * of(1, column)).max(1)
    }

    fn elements(&self) -> usize {
        self.planes * self.window.output[0] * self.window.output[1]
    }
}

struct Place {
    base: usize,
    rows: (usize, usize, usize),
    columns: (usize, usize, usize),
    counted: usize,
}

impl Place {
    fn indices(&self, width: usize) -> impl Iterator<Item = usize> {
        let (first, end, step) = self.columns;
        let base = self.base;
        (self.rows.0..self.rows.1)
            .step_by(self.rows.2)
            .flat_map(move |row| {
                (first..end)
                    .step_by(step)
                    .map(move |column| base + row * width + column)
            })
    }

    /// The first of the largest elements.
    fn largest<T: Float>(&self, image: &[T], width: usize) -> Option<usize> {
        self.indices(width)
            .reduce(|best, at| if image[at] > image[best] { at } else { best })
    }
}

impl Work for Pooling {
    fn run<T: Float>(&self, inputs: &[&[T]]) -> Vec<T> {
        let (image, width) = (inputs[0], self.window.input[1]);
        let mut out = vec![T::ZERO; self.elements()];
        self.places(|at, place| {
            if self.kind == Pool::Max {
                if let Some(largest) = place.largest(image, width) {
                    out[at] = image[largest];
                }
                return;
            }
            let mut sum = T::ZERO;
            for index in place.indices(width) {
                sum += image[index];
            }
            out[at] = sum / T::of(place.counted);
        });
        out
    }
}

impl CustomOp1 for Pooling {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = dispatch(self, &[(storage, layout)])?;
        let ([samples, channels], [rows, columns]) = (self.shape, self.window.output);
        Ok((out, Shape::from((samples, channels, rows, columns))))
    }

    fn bwd(&self, image: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        image
            .contiguous()?
            .apply_op2_no_bwd(&gradient, &Unpooling(*self))
            .map(Some)
    }
}

/// The gradient: to the largest element, or shared by all.
struct Unpooling(Pooling);

impl Work for Unpooling {
    fn run<T: Float>(&self, inputs: &[&[T]]) -> Vec<T> {
        let (image, gradient, width) = (inputs[0], inputs[1], self.0.window.input[1]);
        let mut out = vec![T::ZERO; image.len()];
        self.0.places(|at, place| {
            if self.0.kind == Pool::Max {
                if let Some(largest) = place.largest(image, width) {
                    out[largest] += gradient[at];
                }
                return;
            }
            let share = gradient[at] / T::of(place.counted);
            for index in place.indices(width) {
                out[index] += share;
            }
        });
        out
    }
}

impl CustomOp2 for Unpooling {
    fn name(&self) -> &'static str {
        "unpool"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = dispatch(self, &[(s1, l1), (s2, l2)])?;
        Ok((out, l1.shape().clone()))
    }
}
