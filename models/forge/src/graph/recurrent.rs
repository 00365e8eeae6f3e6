//! LSTM and GRU.

use tract_onnx::pb;

use super::attributes::{Attributes, SIZE_MAX};
use super::op::{Cell, Direction, Op, Recurrent};
use super::reader::Reader;
use super::shape::{Batch, Shape};

/// Most steps of a sequence: the tape of gradients holds some twenty values a step, and is walked recursively.
const STEPS_MAX: usize = 1_000;

impl Reader {
    pub(super) fn recurrent(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let gru = node.op_type == "GRU";
        let recurrent = recurrent(node, gru)?;
        let (hidden, directions) = (recurrent.hidden, recurrent.direction.count());
        let (x, shape) = self.operand(node, 0)?;
        let &[steps, samples, width] = shape.dims.as_slice() else {
            return Err(format!("its input {:?} is no sequence", shape.dims));
        };
        if !matches!(shape.batch, Some(Batch { axis: 1, .. })) || steps == 0 || steps > STEPS_MAX {
            return Err(format!(
                "its input {:?} must count steps, up to {STEPS_MAX}, and then samples",
                shape.dims
            ));
        }
        // Tract 0.23.9 fails with "xw not contiguous" there.
        if gru && width == 1 {
            return Err(
                "a GRU over a single field is not what nodes can run; repeat the field".to_owned(),
            );
        }
        let gates = if gru { 3 } else { 4 };
        let wanted = [
            (1, vec![directions, gates * hidden, width]),
            (2, vec![directions, gates * hidden, hidden]),
            (3, vec![directions, 2 * gates * hidden]),
        ];
        let mut inputs = vec![Some(x)];
        for (at, wanted) in wanted {
            let found = self.optional(node, at)?;
            match &found {
                Some((_, shape)) if *shape == Shape::fixed(wanted.clone()) => {}
                None if at == 3 => {}
                Some((_, shape)) => {
                    return Err(format!(
                        "its input {at} is {:?}, not {wanted:?}",
                        shape.dims
                    ));
                }
                None => return Err(format!("its input {at} is missing")),
            }
            inputs.push(found.map(|(source, _)| source));
        }
        if self.value(node, 4).is_some() || self.value(node, 7).is_some() {
            return Err("lengths of sequences and peepholes are not supported".to_owned());
        }
        for at in [5, 6] {
            let state = self.optional(node, at)?;
            if let Some((_, shape)) = &state
                && *shape != Shape::fixed(vec![directions, 1, hidden])
            {
                return Err(format!(
                    "its first state {:?} is not one for all samples",
                    shape.dims
                ));
            }
            inputs.push(state.map(|(source, _)| source));
        }
        let all = Shape {
            dims: vec![steps, directions, samples, hidden],
            batch: shape.batch.map(|batch| Batch { axis: 2, ..batch }),
        };
        let last = Shape {
            dims: vec![directions, samples, hidden],
            batch: shape.batch,
        };
        let mut outputs = vec![(0, all), (1, last.clone())];
        if !gru {
            outputs.push((2, last));
        }
        outputs.truncate(node.output.len());
        self.emit_all(node, Op::Recurrent(recurrent), inputs, outputs)
    }
}

fn recurrent(node: &pb::NodeProto, gru: bool) -> Result<Recurrent, String> {
    let known = [
        "activations",
        "direction",
        "hidden_size",
        "layout",
        "linear_before_reset",
        "input_forget",
    ];
    let attributes = Attributes::of(node, &known)?;
    let direction = match attributes.text("direction", "forward").as_str() {
        "forward" => Direction::Forward,
        // Tract 0.23.9 runs such a sequence forward, without a word: a node would compute something else.
        "reverse" => return Err("a sequence in reverse alone is not what nodes compute".to_owned()),
        "bidirectional" => Direction::Both,
        other => return Err(format!("its direction '{other}' is unknown")),
    };
    let usual: &[&str] = if gru {
        &["Sigmoid", "Tanh"]
    } else {
        &["Sigmoid", "Tanh", "Tanh"]
    };
    let activations = attributes.texts("activations");
    if !activations.is_empty() && activations != usual.repeat(direction.count()) {
        return Err(format!(
            "activations {activations:?} are not supported, only {usual:?}"
        ));
    }
    if attributes.flag("layout", false) || attributes.flag("input_forget", false) {
        return Err("batch-first layout and coupled gates are not supported".to_owned());
    }
    let hidden = usize::try_from(attributes.int("hidden_size", 0))
        .ok()
        .filter(|hidden| (1..=SIZE_MAX).contains(hidden))
        .ok_or_else(|| "its hidden_size is missing or out of range".to_owned())?;
    let cell = if gru {
        Cell::Gru {
            linear_before_reset: attributes.flag("linear_before_reset", false),
        }
    } else {
        Cell::Lstm
    };
    Ok(Recurrent {
        cell,
        hidden,
        direction,
    })
}
