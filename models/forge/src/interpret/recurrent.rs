//! LSTM and GRU, unrolled step by step on the tape.

use candle_core::{Result, Tensor};

use super::{Run, sigmoid};
use crate::graph::{Cell, Recurrent, Step};

/// The operands of one direction.
struct Weights {
    /// Input's product with all gates, for all steps at once: `[steps, samples, gates * hidden]`.
    from_input: Tensor,
    /// `[hidden, gates * hidden]`.
    recurrent: Tensor,
    /// Bias of the recurrent product: `[gates * hidden]`; where it may be, it is part of `from_input`.
    recurrent_bias: Option<Tensor>,
    hidden: Tensor,
    cell: Tensor,
}

impl Run<'_> {
    /// All states, the last state and, of an LSTM, the last cell, as ONNX lays them out.
    pub(super) fn recurrent(&self, step: &Step, recurrent: Recurrent) -> Result<Vec<Tensor>> {
        let steps = self.operand(step, 0)?.dim(0)?;
        let (mut all, mut hidden, mut cells) = (Vec::new(), Vec::new(), Vec::new());
        for direction in 0..recurrent.direction.count() {
            let weights = self.weights_of(step, &recurrent, direction)?;
            let backward = direction == 1;
            let mut states: Vec<Tensor> = Vec::with_capacity(steps);
            let (mut h, mut c) = (weights.hidden.clone(), weights.cell.clone());
            for at in 0..steps {
                let at = if backward { steps - 1 - at } else { at };
                let x = weights.from_input.get(at)?;
                match recurrent.cell {
                    Cell::Lstm => (h, c) = lstm(&weights, &x, &h, &c, recurrent.hidden)?,
                    Cell::Gru {
                        linear_before_reset,
                    } => h = gru(&weights, &x, &h, recurrent.hidden, linear_before_reset)?,
                }
                states.push(h.clone());
            }
            if backward {
                states.reverse();
            }
            all.push(Tensor::stack(&states, 0)?);
            hidden.push(h);
            cells.push(c);
        }
        Ok(vec![
            Tensor::stack(&all, 1)?,
            Tensor::stack(&hidden, 0)?,
            Tensor::stack(&cells, 0)?,
        ])
    }

    fn weights_of(&self, step: &Step, recurrent: &Recurrent, direction: usize) -> Result<Weights> {
        let x = self.operand(step, 0)?;
        let (steps, samples, width) = x.dims3()?;
        let hidden = recurrent.hidden;
        let w = self.operand(step, 1)?.get(direction)?;
        let r = self.operand(step, 2)?.get(direction)?;
        let gates = w.dim(0)?;
        let from_input = x.reshape((steps * samples, width))?.matmul(&w.t()?)?;
        let (from_input, recurrent_bias) = match self.optional(step, 3)? {
            None => (from_input, None),
            Some(bias) => {
                let bias = bias.get(direction)?;
                let (of_input, of_state) =
                    (bias.narrow(0, 0, gates)?, bias.narrow(0, gates, gates)?);
                let with_bias = from_input.broadcast_add(&of_input)?;
                match recurrent.cell {
                    Cell::Lstm => (with_bias.broadcast_add(&of_state)?, None),
                    Cell::Gru { .. } => (with_bias, Some(of_state)),
                }
            }
        };
        let state = |at: usize| match self.optional(step, at)? {
            Some(state) => state
                .get(direction)?
                .broadcast_as((samples, hidden))?
                .contiguous(),
            None => Tensor::zeros((samples, hidden), x.dtype(), x.device()),
        };
        Ok(Weights {
            from_input: from_input.reshape((steps, samples, gates))?,
            recurrent: r.t()?.contiguous()?,
            recurrent_bias,
            hidden: state(4)?,
            cell: state(5)?,
        })
    }
}

/// Gates in ONNX's order: input, output, forget, cell.
fn lstm(
    weights: &Weights,
    x: &Tensor,
    h: &Tensor,
    c: &Tensor,
    hidden: usize,
) -> Result<(Tensor, Tensor)> {
    let gates = (x + h.matmul(&weights.recurrent)?)?;
    let gate = |at: usize| gates.narrow(1, at * hidden, hidden);
    let (input, output, forget) = (
        sigmoid(&gate(0)?)?,
        sigmoid(&gate(1)?)?,
        sigmoid(&gate(2)?)?,
    );
    let cell = ((forget * c)? + (input * gate(3)?.tanh()?)?)?;
    let state = (output * cell.tanh()?)?;
    Ok((state, cell))
}

/// Gates in ONNX's order: update, reset, hidden.
fn gru(
    weights: &Weights,
    x: &Tensor,
    h: &Tensor,
    hidden: usize,
    linear_before_reset: bool,
) -> Result<Tensor> {
    let part = |tensor: &Tensor, from: usize, count: usize| {
        tensor.narrow(1, from * hidden, count * hidden)
    };
    let bias = |from: usize, count: usize| {
        let bias = weights.recurrent_bias.as_ref();
        bias.map(|bias| bias.narrow(0, from * hidden, count * hidden))
            .transpose()
    };
    let product = |h: &Tensor, from: usize, count: usize| {
        let product = h.matmul(&part(&weights.recurrent, from, count)?.contiguous()?)?;
        match bias(from, count)? {
            Some(bias) => product.broadcast_add(&bias),
            None => Ok(product),
        }
    };
    let gates = sigmoid(&(part(x, 0, 2)? + product(h, 0, 2)?)?)?;
    let (update, reset) = (part(&gates, 0, 1)?, part(&gates, 1, 1)?);
    let from_state = if linear_before_reset {
        (reset * product(h, 2, 1)?)?
    } else {
        product(&(reset * h)?, 2, 1)?
    };
    let candidate = (part(x, 2, 1)? + from_state)?.tanh()?;
    // (1 - z) * candidate + z * h
    &candidate + (update * (h - &candidate)?)?
}
