//! Runs a graph's steps on candle's tensors, which keep the tape of gradients.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use crate::graph::{Binary, Graph, Numbers, Op, Reduce, Source, Step, Unary, Window};
use crate::kernel;

mod recurrent;

/// What a step may read: weights, constants and what steps before it made.
pub(crate) struct Run<'a> {
    graph: &'a Graph,
    weights: &'a [Tensor],
    fixed: &'a [Tensor],
    registers: Vec<Option<Tensor>>,
    samples: usize,
}

/// The float constants of a graph as tensors.
pub(crate) fn fixed(graph: &Graph, dtype: DType) -> Result<Vec<Tensor>> {
    let tensors = graph.fixed.iter().map(|constant| match &constant.numbers {
        Numbers::F32(numbers) => {
            Tensor::from_slice(numbers, constant.shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)
        }
        Numbers::I64(_) | Numbers::Quantised(_) => bail!("a constant operand is no float"),
    });
    tensors.collect()
}

/// What the output's last step makes, or what goes into it where `before` says that it is not to be run.
pub(crate) fn run(
    graph: &Graph,
    weights: &[Tensor],
    fixed: &[Tensor],
    input: Tensor,
    before: Option<usize>,
) -> Result<Tensor> {
    let samples = input.dim(0)?;
    let mut registers = vec![None; graph.registers.len()];
    registers[0] = Some(input);
    let mut run = Run {
        graph,
        weights,
        fixed,
        registers,
        samples,
    };
    let last_reads = &graph.last_reads;
    for (at, step) in graph.steps.iter().enumerate() {
        if before == Some(at) {
            return run.operand(step, 0).cloned();
        }
        let made = run.step(step)?;
        for (register, tensor) in step.outputs.iter().zip(made) {
            if let Some(register) = register {
                run.registers[*register] = Some(tensor);
            }
        }
        // What nothing reads any more is let go, unless the tape needs it.
        for register in &last_reads[at] {
            run.registers[*register] = None;
        }
    }
    match run.registers[graph.result].take() {
        Some(output) => Ok(output),
        None => bail!("no step made the output"),
    }
}

impl Run<'_> {
    fn source(&self, source: Source) -> Result<&Tensor> {
        let found = match source {
            Source::Weight(at) => self.weights.get(at),
            Source::Fixed(at) => self.fixed.get(at),
            Source::Register(at) => self.registers.get(at).and_then(Option::as_ref),
        };
        match found {
            Some(tensor) => Ok(tensor),
            None => bail!("{source:?} holds nothing"),
        }
    }

    fn operand(&self, step: &Step, at: usize) -> Result<&Tensor> {
        match self.optional(step, at)? {
            Some(tensor) => Ok(tensor),
            None => bail!("{}: operand {at} is missing", step.node),
        }
    }

    fn optional(&self, step: &Step, at: usize) -> Result<Option<&Tensor>> {
        step.inputs
            .get(at)
            .copied()
            .flatten()
            .map(|source| self.source(source))
            .transpose()
    }

    /// The dimensions of a step's output for the samples at hand.
    fn dims(&self, step: &Step) -> Vec<usize> {
        let register = step.outputs.first().copied().flatten();
        register.map_or_else(Vec::new, |register| {
            self.graph.registers[register].of(self.samples)
        })
    }

    fn step(&self, step: &Step) -> Result<Vec<Tensor>> {
        let x = self.operand(step, 0)?;
        let made = match &step.op {
            Op::Gemm {
                alpha,
                beta,
                transposed,
            } => self.gemm(step, (*alpha, *beta), *transposed)?,
            Op::MatMul => matmul(x, self.operand(step, 1)?)?,
            Op::Binary(op) => {
                let y = self.operand(step, 1)?;
                match op {
                    Binary::Add => x.broadcast_add(y)?,
                    Binary::Sub => x.broadcast_sub(y)?,
                    Binary::Mul => x.broadcast_mul(y)?,
                    Binary::Div => x.broadcast_div(y)?,
                }
            }
            Op::Unary(op) => unary(x, *op)?,
            Op::Power(exponent) => {
                // The general gradient multiplies by a power of the base, which has none where that is negative.
                if same(*exponent, 2.0) {
                    x.sqr()?
                } else if same(*exponent, 0.5) {
                    x.sqrt()?
                } else {
                    x.powf(*exponent)?
                }
            }
            Op::Softmax { axis, log } => softmax(x, *axis, *log)?,
            Op::Conv { window, groups } => self.conv(step, *window, *groups)?,
            Op::BatchNorm { epsilon } => self.batch_norm(step, *epsilon)?,
            Op::LayerNorm { axis, epsilon } => self.layer_norm(step, *axis, *epsilon)?,
            Op::Pool { window, kind } => {
                let (rows, channels) = (x.dim(0)?, x.dim(1)?);
                let [height, width] = window.input;
                let planes = x.reshape((rows, channels, height, width))?;
                kernel::pool(&planes, *window, *kind)?.reshape(self.dims(step))?
            }
            Op::Reduce { kind, axes } => reduce(x, *kind, axes)?.reshape(self.dims(step))?,
            Op::Reshape => x.reshape(self.dims(step))?,
            Op::Permute(order) => x.permute(order.as_slice())?.contiguous()?,
            Op::Concat { axis } => {
                let parts = (0..step.inputs.len()).map(|at| self.operand(step, at));
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, *axis)?
            }
            Op::Slice { axis, start } => x
                .narrow(*axis, *start, self.dims(step)[*axis])?
                .contiguous()?,
            Op::Select { axis, rows } => {
                let rows = Tensor::from_slice(rows, rows.len(), &Device::Cpu)?;
                x.contiguous()?
                    .index_select(&rows, *axis)?
                    .reshape(self.dims(step))?
            }
            Op::Pad(sides) => sides
                .iter()
                .try_fold(x.clone(), |x, &(axis, before, behind)| {
                    x.pad_with_zeros(axis, before, behind)
                })?,
            Op::Recurrent(recurrent) => return self.recurrent(step, *recurrent),
        };
        Ok(vec![made])
    }

    fn gemm(
        &self,
        step: &Step,
        (alpha, beta): (f64, f64),
        transposed: (bool, bool),
    ) -> Result<Tensor> {
        let turn = |tensor: &Tensor, transposed| {
            if transposed {
                tensor.t()
            } else {
                Ok(tensor.clone())
            }
        };
        let a = turn(self.operand(step, 0)?, transposed.0)?;
        let b = turn(self.operand(step, 1)?, transposed.1)?;
        let mut product = a.matmul(&b)?;
        if !same(alpha, 1.0) {
            product = (product * alpha)?;
        }
        match self.optional(step, 2)? {
            None => Ok(product),
            Some(c) if same(beta, 1.0) => product.broadcast_add(c),
            Some(c) => product.broadcast_add(&(c * beta)?),
        }
    }

    fn conv(&self, step: &Step, window: Window, groups: usize) -> Result<Tensor> {
        let (x, w) = (self.operand(step, 0)?, self.operand(step, 1)?);
        let (rows, channels, filters) = (x.dim(0)?, x.dim(1)?, w.dim(0)?);
        let [height, width] = window.input;
        let columns = kernel::unfold(&x.reshape((rows, channels, height, width))?, window)?;
        let (depth, places) = columns.dims2()?;
        let columns = columns.reshape((groups, depth / groups, places))?;
        let filter = w.reshape((groups, filters / groups, depth / groups))?;
        let made = filter
            .matmul(&columns)?
            .reshape((filters, rows, places / rows))?;
        let made = match self.optional(step, 2)? {
            Some(bias) => made.broadcast_add(&bias.reshape((filters, 1, 1))?)?,
            None => made,
        };
        made.transpose(0, 1)?.contiguous()?.reshape(self.dims(step))
    }

    /// Scale and shift are trained, the statistics are constants.
    fn batch_norm(&self, step: &Step, epsilon: f64) -> Result<Tensor> {
        let x = self.operand(step, 0)?;
        let (scale, bias) = (self.operand(step, 1)?, self.operand(step, 2)?);
        let (mean, variance) = (self.operand(step, 3)?, self.operand(step, 4)?);
        let scale = (scale / (variance + epsilon)?.sqrt()?)?;
        let shift = (bias - (mean * &scale)?)?;
        let mut dims = vec![1; x.rank()];
        dims[1] = x.dim(1)?;
        x.broadcast_mul(&scale.reshape(dims.as_slice())?)?
            .broadcast_add(&shift.reshape(dims.as_slice())?)
    }

    fn layer_norm(&self, step: &Step, axis: usize, epsilon: f64) -> Result<Tensor> {
        let x = self.operand(step, 0)?;
        let axes: Vec<usize> = (axis..x.rank()).collect();
        let centred = x.broadcast_sub(&reduce(x, Reduce::Mean, &axes)?)?;
        let variance = reduce(&centred.sqr()?, Reduce::Mean, &axes)?;
        let mut made = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
        if let Some(scale) = self.optional(step, 1)? {
            made = made.broadcast_mul(scale)?;
        }
        match self.optional(step, 2)? {
            Some(bias) => made.broadcast_add(bias),
            None => Ok(made),
        }
    }
}

fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() == b.rank() {
        return a.contiguous()?.matmul(&b.contiguous()?);
    }
    // A stack times one matrix is one product, without copies of the matrix.
    let width = a.dim(D::Minus1)?;
    let mut dims = a.dims().to_vec();
    let product = a.reshape(((), width))?.matmul(b)?;
    if let Some(last) = dims.last_mut() {
        *last = b.dim(1)?;
    }
    product.reshape(dims)
}

/// Whether an attribute is that number exactly, for which there is a shorter way.
fn same(attribute: f64, number: f64) -> bool {
    attribute.to_bits() == number.to_bits()
}

/// Keeps the axes, with length 1.
fn reduce(x: &Tensor, kind: Reduce, axes: &[usize]) -> Result<Tensor> {
    match kind {
        Reduce::Sum => x.sum_keepdim(axes),
        Reduce::Mean => {
            let count: usize = axes.iter().map(|&axis| x.dims()[axis]).product();
            x.sum_keepdim(axes)? / count as f64
        }
        Reduce::Max => axes
            .iter()
            .try_fold(x.clone(), |x, &axis| x.max_keepdim(axis)),
    }
}

pub(crate) fn softmax(x: &Tensor, axis: usize, log: bool) -> Result<Tensor> {
    // Less the largest, so that no exponential overflows; it cancels out, and has no gradient.
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(axis)?)?;
    let exponentials = shifted.exp()?;
    let sum = exponentials.sum_keepdim(axis)?;
    if log {
        shifted.broadcast_sub(&sum.log()?)
    } else {
        exponentials.broadcast_div(&sum)
    }
}

/// Through the hyperbolic tangent, which overflows nowhere.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x * 0.5)?.tanh()?.affine(0.5, 0.5)
}

/// `log(1 + exp(x))` without overflow: `max(x, 0) + log(1 + exp(-|x|))`.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

fn unary(x: &Tensor, op: Unary) -> Result<Tensor> {
    match op {
        Unary::Relu => x.relu(),
        Unary::LeakyRelu(slope) => (x.relu()? * (1.0 - slope))? + (x * slope)?,
        Unary::Elu(alpha) => x.elu(alpha),
        Unary::Sigmoid => sigmoid(x),
        Unary::HardSigmoid { alpha, beta } => clip(&x.affine(alpha, beta)?, 0.0, 1.0),
        Unary::HardSwish => x * clip(&x.affine(1.0 / 6.0, 0.5)?, 0.0, 1.0)?,
        Unary::Tanh => x.tanh(),
        Unary::Gelu { tanh: false } => (x
            * (x * std::f64::consts::FRAC_1_SQRT_2)?
                .erf()?
                .affine(0.5, 0.5)?)?
        .contiguous(),
        Unary::Gelu { tanh: true } => {
            // Hendrycks and Gimpel, arXiv 1606.08415.
            let cubic = (x + (x.powf(3.0)? * 0.044_715)?)?;
            x * (cubic * (2.0 / std::f64::consts::PI).sqrt())?
                .tanh()?
                .affine(0.5, 0.5)?
        }
        Unary::Softplus => softplus(x),
        Unary::Erf => x.erf(),
        Unary::Exp => x.exp(),
        Unary::Log => x.log(),
        Unary::Sqrt => x.sqrt(),
        Unary::Neg => x.neg(),
        Unary::Abs => x.abs(),
        Unary::Reciprocal => x.recip(),
        Unary::Clip { low, high } => clip(x, low, high),
    }
}

/// Two rectifiers, whose gradient is 0 outside the bounds.
fn clip(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let bounded = |bound: f64| bound.abs() < f64::from(f32::MAX);
    let raised = if bounded(low) {
        x.affine(1.0, -low)?.relu()?.affine(1.0, low)?
    } else {
        x.clone()
    };
    if bounded(high) {
        raised.affine(-1.0, high)?.relu()?.affine(-1.0, high)
    } else {
        Ok(raised)
    }
}

#[cfg(test)]
mod tests;
