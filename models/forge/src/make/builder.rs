//! Puts an ONNX file together.

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use crate::graph::tensor;

/// What the zoo's own script writes: the opset and the oldest format that has it, which old runtimes still open.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// An attribute's value.
pub(crate) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    #[cfg(test)]
    Float(f32),
    #[cfg(test)]
    Text(&'a str),
}

/// A model that grows node by node.
pub(crate) struct Builder {
    graph: pb::GraphProto,
    opset: i64,
}

impl Builder {
    pub(crate) fn new(name: &str) -> Self {
        let graph = pb::GraphProto {
            name: name.to_owned(),
            ..pb::GraphProto::default()
        };
        Self {
            graph,
            opset: OPSET,
        }
    }

    #[cfg(test)]
    pub(crate) const fn set_opset(&mut self, opset: i64) {
        self.opset = opset;
    }

    pub(crate) fn input(mut self, name: &str, shape: &[usize]) -> Self {
        self.graph.input.push(value(name, shape));
        self
    }

    pub(crate) fn output(mut self, name: &str, shape: &[usize]) -> Self {
        self.graph.output.push(value(name, shape));
        self
    }

    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], numbers: &[f32]) {
        self.graph
            .initializer
            .push(tensor::floats(name, shape, numbers));
    }

    pub(crate) fn ints(&mut self, name: &str, numbers: &[i64]) {
        self.graph
            .initializer
            .push(tensor::ints(name, &[numbers.len()], numbers));
    }

    /// Adds a node whose name is that of its first output.
    pub(crate) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.graph.node.push(pb::NodeProto {
            op_type: operator.to_owned(),
            name: outputs
                .iter()
                .find(|name| !name.is_empty())
                .map_or_else(String::new, |name| format!("{name}_node")),
            input: owned(inputs),
            output: owned(outputs),
            attribute: attributes
                .iter()
                .map(|(name, value)| attribute(name, value))
                .collect(),
            ..pb::NodeProto::default()
        });
    }

    pub(crate) fn finish(self) -> pb::ModelProto {
        pb::ModelProto {
            ir_version: IR_VERSION,
            producer_name: "lamppost-forge".to_owned(),
            opset_import: vec![pb::OperatorSetIdProto {
                domain: String::new(),
                version: self.opset,
            }],
            graph: Some(self.graph),
            ..pb::ModelProto::default()
        }
    }
}

pub(crate) fn attribute_int(name: &str, number: i64) -> pb::AttributeProto {
    attribute(name, &Attribute::Int(number))
}

fn attribute(name: &str, value: &Attribute<'_>) -> pb::AttributeProto {
    let mut made = pb::AttributeProto {
        name: name.to_owned(),
        ..pb::AttributeProto::default()
    };
    let kind = match value {
        Attribute::Int(number) => {
            made.i = *number;
            AttributeType::Int
        }
        #[cfg(test)]
        Attribute::Float(number) => {
            made.f = *number;
            AttributeType::Float
        }
        Attribute::Ints(numbers) => {
            made.ints = numbers.to_vec();
            AttributeType::Ints
        }
        #[cfg(test)]
        Attribute::Text(text) => {
            made.s = text.as_bytes().to_vec();
            AttributeType::String
        }
    };
    made.r#type = kind as i32;
    made
}

/// A tensor of 32-bit floats by name and shape.
fn value(name: &str, shape: &[usize]) -> pb::ValueInfoProto {
    let dim = |&dim: &usize| Dimension {
        value: Some(dimension::Value::DimValue(tensor::signed(dim))),
        ..Dimension::default()
    };
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto {
            dim: shape.iter().map(dim).collect(),
        }),
    };
    pb::ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..pb::TypeProto::default()
        }),
        ..pb::ValueInfoProto::default()
    }
}
