//! What a graph begins with: its input, and which initialisers are no weights.

use std::collections::HashSet;

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dimension;
use tract_onnx::pb::type_proto::Value as TypeValue;

use super::reader::{SAMPLE_ELEMENTS_MAX, shown};
use super::shape::{Batch, Shape};
use crate::error::OpenError;

/// Initialisers that are no weights, by where they are used: statistics, bounds, states, scales.
pub(super) fn constant_names(graph: &pb::GraphProto) -> HashSet<&str> {
    let mut names = HashSet::new();
    for node in &graph.node {
        let places: &[usize] = match node.op_type.as_str() {
            "BatchNormalization" => &[3, 4],
            "Clip" => &[1, 2],
            "Pow" => &[1],
            "Pad" | "Expand" | "DequantizeLinear" | "Cast" => &[0, 1, 2],
            "LSTM" | "GRU" => &[5, 6, 7],
            _ => &[],
        };
        names.extend(
            places
                .iter()
                .filter_map(|&at| node.input.get(at))
                .map(String::as_str),
        );
    }
    names
}

/// The input's shape for one sample: its first dimension is 1 or left open, all others are given.
pub(super) fn input_shape(input: &pb::ValueInfoProto) -> Result<Shape, OpenError> {
    let refuse = |reason: String| OpenError::Input {
        tensor: shown(&input.name),
        reason,
    };
    let Some(TypeValue::TensorType(declared)) =
        input.r#type.as_ref().and_then(|kind| kind.value.as_ref())
    else {
        return Err(refuse("it is no tensor".to_owned()));
    };
    if declared.elem_type != DataType::Float as i32 {
        return Err(refuse("it is not of 32-bit floats".to_owned()));
    }
    let dims = declared.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let mut shape = Vec::with_capacity(dims.len());
    for (at, dim) in dims.iter().enumerate() {
        let size = match &dim.value {
            Some(Dimension::DimValue(size)) => usize::try_from(*size).ok(),
            Some(Dimension::DimParam(_)) | None if at == 0 => Some(1),
            Some(Dimension::DimParam(_)) | None => None,
        };
        match size {
            Some(size) if size > 0 && (at > 0 || size == 1) => shape.push(size),
            Some(size) if at == 0 => {
                return Err(refuse(format!(
                    "its batch is {size}, it must be 1 or left open"
                )));
            }
            Some(_) | None => return Err(refuse(format!("its dimension {at} is not given"))),
        }
    }
    let elements = shape
        .iter()
        .try_fold(1_usize, |all, &dim| all.checked_mul(dim));
    if shape.len() < 2 || elements.is_none_or(|elements| elements > SAMPLE_ELEMENTS_MAX) {
        return Err(refuse(format!(
            "its shape is {shape:?}, it must be a batch of 1 and up to {SAMPLE_ELEMENTS_MAX} elements"
        )));
    }
    Ok(Shape {
        dims: shape,
        batch: Some(Batch { axis: 0, rows: 1 }),
    })
}
