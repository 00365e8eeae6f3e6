//! Operators that move numbers and compute none.

use tract_onnx::pb;

use super::attributes::{Attributes, SIZE_MAX};
use super::op::{Op, Source};
use super::reader::Reader;
use super::shape::{Batch, Shape, axis_of};
use super::tensor::{ELEMENTS_MAX, Numbers};

impl Reader {
    pub(super) fn reshape(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let (x, shape) = self.operand(node, 0)?;
        let shape = match node.op_type.as_str() {
            "Reshape" => self.reshape_to(node, &shape)?,
            "Flatten" => {
                let axis = Attributes::of(node, &["axis"])?.int("axis", 1);
                let rank = i64::try_from(shape.rank()).unwrap_or(i64::MAX);
                let at = if axis == rank {
                    shape.rank()
                } else {
                    shape.axis(axis)?
                };
                let (rows, columns) = shape.dims.split_at(at);
                shape.reshaped(vec![rows.iter().product(), columns.iter().product()])?
            }
            "Squeeze" => {
                let axes = self.axes(node, shape.rank())?;
                if axes.iter().any(|&axis| shape.dims[axis] != 1) {
                    return Err(format!("axes {axes:?} of {:?} are not all 1", shape.dims));
                }
                axes.iter()
                    .try_for_each(|&axis| shape.not_the_batch(axis))?;
                without(&shape, &axes)
            }
            "Unsqueeze" => {
                let new = self.new_axes(node, shape.rank())?;
                with(&shape, &new)
            }
            "Cast" => {
                let to = Attributes::of(node, &["to", "saturate"])?.int("to", 0);
                if to != i64::from(pb::tensor_proto::DataType::Float as i32) {
                    return Err(format!(
                        "it casts to type {to}, only 32-bit floats are trained"
                    ));
                }
                shape
            }
            "Dropout" => {
                Attributes::of(node, &["ratio", "seed", "is_test"])?;
                shape
            }
            _ => {
                Attributes::of(node, &[])?;
                shape
            }
        };
        self.emit(node, Op::Reshape, &[x], shape)
    }

    fn reshape_to(&self, node: &pb::NodeProto, shape: &Shape) -> Result<Shape, String> {
        let attributes = Attributes::of(node, &["allowzero", "shape"])?;
        let wanted = match attributes.ints("shape") {
            Some(shape) => shape.to_vec(),
            None => self
                .ints(node, 1)?
                .ok_or_else(|| "its shape is missing".to_owned())?,
        };
        shape.reshaped(resolved(
            &wanted,
            &shape.dims,
            attributes.flag("allowzero", false),
        )?)
    }

    /// Axes by attribute up to opset 12, by input from then on.
    pub(super) fn given_axes(&self, node: &pb::NodeProto) -> Result<Option<Vec<i64>>, String> {
        match Attributes::of(node, &["axes"])?.ints("axes") {
            Some(axes) => Ok(Some(axes.to_vec())),
            None => self.ints(node, 1),
        }
    }

    fn axes(&self, node: &pb::NodeProto, rank: usize) -> Result<Vec<usize>, String> {
        let given = self
            .given_axes(node)?
            .ok_or_else(|| "it names no axes".to_owned())?;
        sorted(given.iter().map(|&axis| axis_of(axis, rank)))
    }

    fn new_axes(&self, node: &pb::NodeProto, rank: usize) -> Result<Vec<usize>, String> {
        let given = self
            .given_axes(node)?
            .ok_or_else(|| "it names no axes".to_owned())?;
        let rank = rank + given.len();
        sorted(given.iter().map(|&axis| axis_of(axis, rank)))
    }

    pub(super) fn transpose(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["perm"])?;
        let (x, shape) = self.operand(node, 0)?;
        let order = match attributes.ints("perm") {
            Some(given) => given
                .iter()
                .map(|&axis| shape.axis(axis))
                .collect::<Result<Vec<_>, _>>()?,
            None => (0..shape.rank()).rev().collect(),
        };
        let mut seen = order.clone();
        seen.sort_unstable();
        if seen != (0..shape.rank()).collect::<Vec<_>>() {
            return Err(format!(
                "its order {order:?} is none of {} axes",
                shape.rank()
            ));
        }
        let batch = shape.batch.map(|batch| Batch {
            axis: order
                .iter()
                .position(|&axis| axis == batch.axis)
                .unwrap_or(0),
            rows: batch.rows,
        });
        let dims = order.iter().map(|&axis| shape.dims[axis]).collect();
        self.emit(node, Op::Permute(order), &[x], Shape { dims, batch })
    }

    pub(super) fn concat(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axis"])?;
        let operands = (0..node.input.len())
            .map(|at| self.operand(node, at))
            .collect::<Result<Vec<_>, _>>()?;
        let Some((_, first)) = operands.first() else {
            return Err("it has no inputs".to_owned());
        };
        let axis = first.axis(attributes.int("axis", 1))?;
        first.not_the_batch(axis)?;
        let mut joined = first.clone();
        joined.dims[axis] = 0;
        for (_, shape) in &operands {
            let mut others = shape.clone();
            if let Some(dim) = others.dims.get_mut(axis) {
                joined.dims[axis] = joined.dims[axis].saturating_add(*dim);
                *dim = joined.dims[axis];
            }
            if others != joined {
                return Err(format!(
                    "{:?} does not join {:?} along {axis}",
                    shape.dims, first.dims
                ));
            }
        }
        let sources: Vec<Source> = operands.iter().map(|(source, _)| *source).collect();
        self.emit(node, Op::Concat { axis }, &sources, joined)
    }

    pub(super) fn slice(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axes", "starts", "ends"])?;
        let (x, shape) = self.operand(node, 0)?;
        let list = |at: usize, name: &str| match attributes.ints(name) {
            Some(found) => Ok(Some(found.to_vec())),
            None => self.ints(node, at),
        };
        let (Some(starts), Some(ends)) = (list(1, "starts")?, list(2, "ends")?) else {
            return Err("its bounds are missing".to_owned());
        };
        let axes = list(3, "axes")?.unwrap_or_else(|| vec![0]);
        let steps = self.ints(node, 4)?.unwrap_or_else(|| vec![1]);
        let (&[start], &[end], &[axis], &[1]) = (&starts[..], &ends[..], &axes[..], &steps[..])
        else {
            return Err("it slices along several axes or by steps, only one axis without steps is supported".to_owned());
        };
        let axis = shape.axis(axis)?;
        shape.not_the_batch(axis)?;
        let (start, end) = range(start, end, shape.dims[axis])?;
        let mut dims = shape.dims.clone();
        dims[axis] = end - start;
        self.emit(node, Op::Slice { axis, start }, &[x], shape.with(dims))
    }

    pub(super) fn split(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axis", "split", "num_outputs"])?;
        let (x, shape) = self.operand(node, 0)?;
        let axis = shape.axis(attributes.int("axis", 0))?;
        shape.not_the_batch(axis)?;
        let (whole, parts) = (shape.dims[axis], node.output.len());
        let given = match attributes.ints("split") {
            Some(lengths) => Some(lengths.to_vec()),
            None => self.ints(node, 1)?,
        };
        let lengths = match given {
            Some(lengths) => lengths
                .iter()
                .map(|&length| {
                    usize::try_from(length).map_err(|_| format!("it splits off {length}"))
                })
                .collect::<Result<Vec<_>, _>>()?,
            // The last part is shorter where they cannot be equal.
            None => (0..parts)
                .map(|at| {
                    whole
                        .div_ceil(parts)
                        .min(whole.saturating_sub(at * whole.div_ceil(parts)))
                })
                .collect(),
        };
        if lengths.len() != parts || lengths.iter().sum::<usize>() != whole || lengths.contains(&0)
        {
            return Err(format!("parts of {lengths:?} do not make up {whole}"));
        }
        let mut start = 0;
        for (output, length) in lengths.into_iter().enumerate() {
            let mut dims = shape.dims.clone();
            dims[axis] = length;
            let op = Op::Slice { axis, start };
            self.emit_all(node, op, vec![Some(x)], vec![(output, shape.with(dims))])?;
            start += length;
        }
        Ok(())
    }

    pub(super) fn gather(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axis"])?;
        let (x, shape) = self.operand(node, 0)?;
        let axis = shape.axis(attributes.int("axis", 0))?;
        shape.not_the_batch(axis)?;
        let picked = self
            .constant(node, 1)?
            .ok_or_else(|| "its indices are missing".to_owned())?;
        let scalar = picked.shape.is_empty();
        if picked.shape.len() > 1 {
            return Err(format!(
                "its indices are of shape {:?}, only a list is supported",
                picked.shape
            ));
        }
        let rows = match &picked.numbers {
            Numbers::I64(rows) => rows.clone(),
            Numbers::Quantised(rows) => rows.iter().map(|&row| i64::from(row)).collect(),
            Numbers::F32(_) => return Err("its indices are no integers".to_owned()),
        };
        let rows = rows
            .iter()
            .map(|&row| {
                let at = axis_of(row, shape.dims[axis]).map_err(|_| {
                    format!("it gathers {row} of {} along axis {axis}", shape.dims[axis])
                })?;
                u32::try_from(at).map_err(|_| format!("index {at} is too large"))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let mut dims = shape.dims.clone();
        dims[axis] = rows.len();
        let picked = shape.with(dims);
        let result = if scalar {
            without(&picked, &[axis])
        } else {
            picked
        };
        self.emit(node, Op::Select { axis, rows }, &[x], result)
    }

    pub(super) fn pad(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["mode", "pads", "value"])?;
        let (x, shape) = self.operand(node, 0)?;
        let value = self
            .scalar(node, 2)?
            .unwrap_or_else(|| attributes.float("value", 0.0));
        let axes_given = node.input.get(3).is_some_and(|name| !name.is_empty());
        if attributes.text("mode", "constant") != "constant" || value != 0.0 || axes_given {
            return Err("only padding all axes with zeros is supported".to_owned());
        }
        let pads = match attributes.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => self
                .ints(node, 1)?
                .ok_or_else(|| "its pads are missing".to_owned())?,
        };
        let rank = shape.rank();
        if pads.len() != 2 * rank {
            return Err(format!("it has {} pads, not {}", pads.len(), 2 * rank));
        }
        let mut dims = shape.dims.clone();
        let mut sides = Vec::new();
        for (axis, dim) in dims.iter_mut().enumerate() {
            let side = |at: usize| {
                usize::try_from(pads[at])
                    .ok()
                    .filter(|&pad| pad <= SIZE_MAX)
                    .ok_or_else(|| format!("a pad of {} is not within 0 to {SIZE_MAX}", pads[at]))
            };
            let (before, behind) = (side(axis)?, side(axis + rank)?);
            if before + behind > 0 {
                shape.not_the_batch(axis)?;
                *dim += before + behind;
                sides.push((axis, before, behind));
            }
        }
        self.emit(node, Op::Pad(sides), &[x], shape.with(dims))
    }
}

fn sorted(axes: impl Iterator<Item = Result<usize, String>>) -> Result<Vec<usize>, String> {
    let mut axes = axes.collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    if axes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("axes {axes:?} repeat one"));
    }
    Ok(axes)
}

/// The shape without some axes of length 1, none of them the batch.
pub(super) fn without(shape: &Shape, axes: &[usize]) -> Shape {
    let kept = (0..shape.rank()).filter(|axis| !axes.contains(axis));
    let dims = kept.map(|axis| shape.dims[axis]).collect();
    let batch = shape.batch.map(|batch| Batch {
        axis: batch.axis - axes.iter().filter(|&&axis| axis < batch.axis).count(),
        rows: batch.rows,
    });
    Shape { dims, batch }
}

/// The shape with new axes of length 1, counted in the result.
fn with(shape: &Shape, new: &[usize]) -> Shape {
    let mut old = shape.dims.iter().copied().enumerate();
    let mut dims = Vec::with_capacity(shape.rank() + new.len());
    let mut batch = shape.batch;
    for at in 0..shape.rank() + new.len() {
        if new.contains(&at) {
            dims.push(1);
        } else if let Some((axis, dim)) = old.next() {
            dims.push(dim);
            if let Some(was) = shape.batch.filter(|was| was.axis == axis) {
                batch = Some(Batch { axis: at, ..was });
            }
        }
    }
    Shape { dims, batch }
}

/// A reshape's dimensions with 0 (as it was) and -1 (what is left) put in.
pub(super) fn resolved(
    wanted: &[i64],
    have: &[usize],
    zero_is_zero: bool,
) -> Result<Vec<usize>, String> {
    let mut dims = Vec::with_capacity(wanted.len());
    let mut free = None;
    for (at, &dim) in wanted.iter().enumerate() {
        match dim {
            -1 if free.is_none() => {
                free = Some(at);
                dims.push(1);
            }
            0 if !zero_is_zero => {
                let kept = have.get(at).ok_or_else(|| {
                    format!("dimension {at} of {have:?} is kept, which there is none of")
                })?;
                dims.push(*kept);
            }
            _ => dims.push(
                usize::try_from(dim)
                    .ok()
                    .filter(|&dim| dim <= ELEMENTS_MAX)
                    .ok_or_else(|| format!("shape {wanted:?} is none"))?,
            ),
        }
    }
    if let Some(at) = free {
        let known = dims
            .iter()
            .try_fold(1_usize, |all, &dim| all.checked_mul(dim));
        let known = known.ok_or_else(|| format!("shape {wanted:?} is too large"))?;
        let all: usize = have.iter().product();
        if known == 0 || !all.is_multiple_of(known) {
            return Err(format!("{have:?} does not reshape to {wanted:?}"));
        }
        dims[at] = all / known;
    }
    Ok(dims)
}

/// A slice's bounds, clamped as ONNX says.
pub(super) fn range(start: i64, end: i64, length: usize) -> Result<(usize, usize), String> {
    let signed = i64::try_from(length).unwrap_or(i64::MAX);
    let clamp = |at: i64| {
        let from_start = if at < 0 {
            at.saturating_add(signed)
        } else {
            at
        };
        usize::try_from(from_start.clamp(0, signed)).unwrap_or(0)
    };
    let (from, to) = (clamp(start), clamp(end));
    if from < to {
        Ok((from, to))
    } else {
        Err(format!(
            "a slice from {start} to {end} of {length} is empty"
        ))
    }
}
