//! Convolutions and pools, in one and two dimensions, and reductions.

use tract_onnx::pb;

use super::attributes::{Attributes, SIZE_MAX};
use super::op::{Op, Pool, Reduce, Window};
use super::reader::Reader;
use super::shape::Shape;

/// Attributes of everything with a window.
const WINDOW: [&str; 5] = ["auto_pad", "dilations", "kernel_shape", "pads", "strides"];

impl Reader {
    pub(super) fn conv(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &[&WINDOW[..], &["group"]].concat())?;
        let (x, shape) = self.operand(node, 0)?;
        let (w, kernel) = self.operand(node, 1)?;
        let (channels, spatial) = channels_and_space(&shape)?;
        if kernel.rank() != shape.rank() || kernel.batch.is_some() {
            return Err(format!(
                "its kernel {:?} does not fit {:?}",
                kernel.dims, shape.dims
            ));
        }
        let groups = usize::try_from(attributes.int("group", 1))
            .ok()
            .filter(|&groups| (1..=SIZE_MAX).contains(&groups))
            .ok_or_else(|| "its groups are not within 1 and 32767".to_owned())?;
        let filters = kernel.dims[0];
        if filters == 0
            || filters % groups != 0
            || kernel.dims[1].checked_mul(groups) != Some(channels)
        {
            return Err(format!(
                "{channels} channels in {groups} groups do not fit its kernel {:?}",
                kernel.dims
            ));
        }
        if attributes.ints("kernel_shape").is_some_and(|given| {
            given
                .iter()
                .map(|&size| usize::try_from(size).unwrap_or(0))
                .ne(kernel.dims[2..].iter().copied())
        }) {
            return Err(format!(
                "its kernel_shape is not that of its kernel {:?}",
                kernel.dims
            ));
        }
        let window = window(&attributes, spatial, &kernel.dims[2..], false)?;
        let mut inputs = vec![x, w];
        if let Some((b, bias)) = self.optional(node, 2)? {
            if bias != Shape::fixed(vec![filters]) {
                return Err(format!(
                    "its bias {:?} is not one number a filter",
                    bias.dims
                ));
            }
            inputs.push(b);
        }
        let shape = shape.with(spatial_dims(shape.dims[0], filters, &window, spatial.len()));
        self.emit(node, Op::Conv { window, groups }, &inputs, shape)
    }

    pub(super) fn pool(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let known = [
            &WINDOW[..],
            &["ceil_mode", "count_include_pad", "storage_order"],
        ]
        .concat();
        let attributes = Attributes::of(node, &known)?;
        let (x, shape) = self.operand(node, 0)?;
        let (channels, spatial) = channels_and_space(&shape)?;
        if !attributes.has("kernel_shape") {
            return Err("its kernel_shape is missing".to_owned());
        }
        let kernel = attributes.sizes("kernel_shape", spatial.len(), 1, 1)?;
        let window = window(
            &attributes,
            spatial,
            &kernel,
            attributes.flag("ceil_mode", false),
        )?;
        if (0..2).any(|at| {
            window.before[at].max(window.behind[at])
                >= window.kernel[at] * window.dilation[at] + 1 - window.dilation[at]
        }) {
            return Err("its padding is as wide as its kernel".to_owned());
        }
        let kind = if node.op_type == "MaxPool" {
            Pool::Max
        } else {
            Pool::Average {
                padding_counts: attributes.flag("count_include_pad", false),
            }
        };
        let shape = shape.with(spatial_dims(
            shape.dims[0],
            channels,
            &window,
            spatial.len(),
        ));
        self.emit(node, Op::Pool { window, kind }, &[x], shape)
    }

    pub(super) fn global_pool(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        Attributes::of(node, &[])?;
        let (x, shape) = self.operand(node, 0)?;
        shape.batch_first()?;
        if shape.rank() < 3 {
            return Err(format!("{:?} has no spatial axes", shape.dims));
        }
        let kind = if node.op_type == "GlobalMaxPool" {
            Reduce::Max
        } else {
            Reduce::Mean
        };
        let axes: Vec<usize> = (2..shape.rank()).collect();
        let mut dims = shape.dims.clone();
        dims[2..].fill(1);
        self.emit(node, Op::Reduce { kind, axes }, &[x], shape.with(dims))
    }

    pub(super) fn reduce(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axes", "keepdims", "noop_with_empty_axes"])?;
        let (x, shape) = self.operand(node, 0)?;
        let given = match attributes.ints("axes") {
            Some(axes) => axes.to_vec(),
            None => self.ints(node, 1)?.unwrap_or_default(),
        };
        if given.is_empty() {
            return Err("it has no axes, and would take the batch with it".to_owned());
        }
        let mut axes = given
            .iter()
            .map(|&axis| shape.axis(axis))
            .collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        axes.iter()
            .try_for_each(|&axis| shape.not_the_batch(axis))?;
        let mut kept = shape.dims.clone();
        for &axis in &axes {
            kept[axis] = 1;
        }
        let kept = shape.with(kept);
        let result = if attributes.flag("keepdims", true) {
            kept
        } else {
            super::layout::without(&kept, &axes)
        };
        let kind = match node.op_type.as_str() {
            "ReduceMean" => Reduce::Mean,
            "ReduceSum" => Reduce::Sum,
            _ => Reduce::Max,
        };
        self.emit(node, Op::Reduce { kind, axes }, &[x], result)
    }
}

/// Number of channels and the one or two spatial dimensions of a tensor that counts samples first.
fn channels_and_space(shape: &Shape) -> Result<(usize, &[usize]), String> {
    shape.batch_first()?;
    match shape.dims.as_slice() {
        [_, channels, spatial @ ..] if (1..=2).contains(&spatial.len()) => Ok((*channels, spatial)),
        dims => Err(format!("{dims:?} is not of one or two spatial dimensions")),
    }
}

fn spatial_dims(rows: usize, channels: usize, window: &Window, axes: usize) -> Vec<usize> {
    let mut dims = vec![rows, channels];
    dims.extend(&window.output[2 - axes..]);
    dims
}

/// Resolves strides, dilations and padding against the input.
fn window(
    attributes: &Attributes<'_>,
    input: &[usize],
    kernel: &[usize],
    ceil: bool,
) -> Result<Window, String> {
    let axes = input.len();
    let strides = attributes.sizes("strides", axes, 1, 1)?;
    let dilations = attributes.sizes("dilations", axes, 1, 1)?;
    let pads = attributes.sizes("pads", 2 * axes, 0, 0)?;
    let auto = attributes.text("auto_pad", "NOTSET");
    let mut window = Window {
        input: [1; 2],
        output: [1; 2],
        kernel: [1; 2],
        stride: [1; 2],
        dilation: [1; 2],
        before: [0; 2],
        behind: [0; 2],
    };
    for at in 0..axes {
        let to = at + 2 - axes;
        if kernel[at] == 0 || kernel[at] > SIZE_MAX {
            return Err(format!(
                "its kernel is {kernel:?}, it must be from 1 to {SIZE_MAX}"
            ));
        }
        let reach = (kernel[at] - 1) * dilations[at] + 1;
        let stride = strides[at];
        let (before, behind) = match auto.as_str() {
            "NOTSET" => (pads[at], pads[at + axes]),
            "VALID" => (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let wanted = (input[at].div_ceil(stride).max(1) - 1) * stride + reach;
                let total = wanted.saturating_sub(input[at]);
                let small = total / 2;
                if auto == "SAME_UPPER" {
                    (small, total - small)
                } else {
                    (total - small, small)
                }
            }
            other => return Err(format!("its auto_pad '{other}' is unknown")),
        };
        let padded = input[at] + before + behind;
        let free = padded.checked_sub(reach).ok_or_else(|| {
            format!("its kernel reaches over {reach}, its padded input has {padded}")
        })?;
        let mut output = if ceil {
            free.div_ceil(stride)
        } else {
            free / stride
        } + 1;
        // A last window that would begin in the padding behind is left out.
        if ceil && (output - 1) * stride >= input[at] + before {
            output -= 1;
        }
        window.input[to] = input[at];
        window.output[to] = output;
        window.kernel[to] = kernel[at];
        window.stride[to] = stride;
        window.dilation[to] = dilations[at];
        window.before[to] = before;
        window.behind[to] = behind;
    }
    Ok(window)
}
