//! Reads the protobuf of an ONNX file and refuses what tract must not see.
//!
//! The walk looks at what the file declares, before tract builds or computes anything of it. It also takes out what
//! tract would read and does not need: shapes of intermediate values, which real exporters get wrong, and symbolic
//! dimensions, whose expressions tract parses recursively.

use std::collections::HashSet;

use lamppost_models::Manifest;
use tract_onnx::model::Onnx;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dimension;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::prelude::Framework as _;

use crate::error::OpenError;
use crate::guard;
use crate::limits::Limits;
use crate::scan;

/// Operators whose results differ from run to run, so that no golden vector can hold them to anything.
const RANDOM: [&str; 6] = [
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];
/// Attributes that size a computation, and must be positive.
const POSITIVE: [&str; 6] = [
    "kernel_shape",
    "strides",
    "dilations",
    "group",
    "blocksize",
    "output_shape",
];
/// Attributes that size a computation, and may be 0 or negative.
const SIGNED: [&str; 2] = ["pads", "output_padding"];
/// Largest value of such an attribute: no dimension of a tensor in use comes near, and products of four fit an i64.
const ATTRIBUTE_MAX: i64 = 32_767;
/// Most characters of a name from the file in a message.
const NAME_CHARS_MAX: usize = 80;

/// A model that may be given to tract.
pub(crate) fn read(
    onnx: &Onnx,
    file: &[u8],
    manifest: &Manifest,
    limits: &Limits,
) -> Result<pb::ModelProto, OpenError> {
    let decoded =
        scan::decoded_bytes(file, limits.decoded_bytes).map_err(|reason| OpenError::NotOnnx {
            reason: reason.to_owned(),
        })?;
    at_most("bytes once decoded", decoded, limits.decoded_bytes)?;
    let decode = || {
        onnx.proto_model_for_read(&mut &*file)
            .map_err(|error| guard::cut(&format!("{error:#}")))
    };
    let mut model = guard::catch(decode)
        .map_err(|message| OpenError::Panicked {
            stage: "decoding the file",
            message,
        })?
        .map_err(|reason| OpenError::NotOnnx { reason })?;
    let Some(graph) = &mut model.graph else {
        return Err(OpenError::NotOnnx {
            reason: "there is no graph in it".to_owned(),
        });
    };
    check_tensors(graph, manifest)?;
    let mut walk = Walk {
        onnx,
        limits,
        nodes: 0,
        elements: 0,
    };
    walk.graph(graph, 0)?;
    model.training_info.clear();
    model.functions.clear();
    model.metadata_props.clear();
    Ok(model)
}

fn at_most(what: &'static str, found: u64, limit: u64) -> Result<(), OpenError> {
    if found > limit {
        Err(OpenError::TooMuch { what, found, limit })
    } else {
        Ok(())
    }
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// Exactly the manifest's input and output, with its types and shapes.
fn check_tensors(graph: &pb::GraphProto, manifest: &Manifest) -> Result<(), OpenError> {
    let initialised: HashSet<&str> = graph
        .initializer
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    // Up to IR version 3 an initialiser is also listed as an input.
    let inputs: Vec<_> = graph
        .input
        .iter()
        .filter(|input| !initialised.contains(input.name.as_str()))
        .collect();
    let outputs: Vec<_> = graph.output.iter().collect();
    let (input, output) = (&manifest.input, &manifest.output);
    check_side("input", &inputs, &input.tensor, &input.shape)?;
    check_side("output", &outputs, &output.tensor, &output.shape)?;
    let made = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .any(|name| *name == output.tensor);
    if made || initialised.contains(output.tensor.as_str()) || input.tensor == output.tensor {
        Ok(())
    } else {
        Err(OpenError::Tensor {
            tensor: shown(&output.tensor),
            reason: "no node makes this output".to_owned(),
        })
    }
}

fn check_side(
    side: &'static str,
    found: &[&pb::ValueInfoProto],
    name: &str,
    shape: &[usize],
) -> Result<(), OpenError> {
    let [tensor] = found else {
        return Err(other_tensors(side, found, name));
    };
    if tensor.name != name {
        return Err(other_tensors(side, found, name));
    }
    let Some(TypeValue::TensorType(declared)) =
        tensor.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        // An output may go without; what tract infers is checked after.
        return Ok(());
    };
    if declared.elem_type != DataType::Float as i32 {
        let found = DataType::try_from(declared.elem_type)
            .map_or("an unknown type", |t| t.as_str_name())
            .to_owned();
        return Err(OpenError::Type {
            side,
            tensor: shown(name),
            found,
        });
    }
    let Some(dims) = declared.shape.as_ref().map(|shape| &shape.dim) else {
        return Ok(());
    };
    let agrees = |(dim, wanted): (&pb::tensor_shape_proto::Dimension, &usize)| match &dim.value {
        Some(Dimension::DimValue(value)) => {
            u64::try_from(*value).is_ok_and(|value| value == *wanted as u64)
        }
        Some(Dimension::DimParam(_)) | None => true,
    };
    if dims.len() == shape.len() && dims.iter().zip(shape).all(agrees) {
        return Ok(());
    }
    let dims = dims
        .iter()
        .take(NAME_CHARS_MAX / 8)
        .map(|dim| match &dim.value {
            Some(Dimension::DimValue(value)) => value.to_string(),
            Some(Dimension::DimParam(name)) => shown(name),
            None => "?".to_owned(),
        });
    let found = format!("[{}]", dims.collect::<Vec<_>>().join(", "));
    Err(OpenError::Shape {
        side,
        tensor: shown(name),
        found,
        wanted: shape.to_vec(),
    })
}

fn other_tensors(side: &'static str, found: &[&pb::ValueInfoProto], wanted: &str) -> OpenError {
    let found = found
        .iter()
        .take(8)
        .map(|tensor| shown(&tensor.name))
        .collect();
    OpenError::Tensors {
        side,
        found,
        wanted: wanted.to_owned(),
    }
}

/// Counts what all graphs of a model declare.
struct Walk<'a> {
    onnx: &'a Onnx,
    limits: &'a Limits,
    nodes: u64,
    elements: u64,
}

impl Walk<'_> {
    fn graph(&mut self, graph: &mut pb::GraphProto, depth: usize) -> Result<(), OpenError> {
        at_most(
            "levels of subgraphs",
            depth as u64,
            self.limits.graph_depth as u64,
        )?;
        self.nodes += graph.node.len() as u64;
        at_most("nodes", self.nodes, self.limits.nodes as u64)?;
        if let Some(sparse) = graph.sparse_initializer.first() {
            let tensor = sparse
                .values
                .as_ref()
                .map_or_else(String::new, |values| shown(&values.name));
            return Err(OpenError::Tensor {
                tensor,
                reason: "sparse initialisers are not supported".to_owned(),
            });
        }
        graph
            .initializer
            .iter()
            .try_for_each(|tensor| self.tensor(tensor))?;
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            forget_symbols(info);
        }
        graph.value_info.clear();
        graph
            .node
            .iter_mut()
            .try_for_each(|node| self.node(node, depth))
    }

    fn node(&mut self, node: &mut pb::NodeProto, depth: usize) -> Result<(), OpenError> {
        let (name, operator) = (shown(&node.name), shown(&node.op_type));
        let refuse = |reason: String| OpenError::Node {
            node: name.clone(),
            operator: operator.clone(),
            reason,
        };
        if RANDOM.contains(&node.op_type.as_str()) {
            return Err(refuse(
                "its results are random and cannot be checked".to_owned(),
            ));
        }
        if !self.onnx.op_register.0.contains_key(&node.op_type) {
            return Err(refuse("this runtime does not have the operator".to_owned()));
        }
        for attribute in &mut node.attribute {
            check_attribute(attribute).map_err(&refuse)?;
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                self.tensor(tensor)?;
            }
            if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
                return Err(refuse("sparse tensors are not supported".to_owned()));
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(graph, depth + 1)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &pb::TensorProto) -> Result<(), OpenError> {
        let refuse = |reason: String| OpenError::Tensor {
            tensor: shown(&tensor.name),
            reason,
        };
        if !tensor.external_data.is_empty()
            || tensor.data_location == Some(DataLocation::External as i32)
        {
            return Err(OpenError::ExternalData {
                tensor: shown(&tensor.name),
            });
        }
        let elements = tensor
            .dims
            .iter()
            .try_fold(1_u64, |all, &dim| all.checked_mul(u64::try_from(dim).ok()?));
        let Some(elements) = elements else {
            let dims: Vec<_> = tensor.dims.iter().take(8).collect();
            return Err(refuse(format!(
                "dimensions {dims:?} are negative or too large"
            )));
        };
        self.elements = self.elements.saturating_add(elements);
        at_most(
            "elements in its initialisers",
            self.elements,
            self.limits.initialiser_elements,
        )?;
        let data = [
            tensor.raw_data.len(),
            tensor.float_data.len(),
            tensor.double_data.len(),
            tensor.int32_data.len(),
            tensor.int64_data.len(),
            tensor.uint64_data.len(),
            tensor.string_data.len(),
        ];
        // At least a byte for each: tract itself checks the exact length.
        match data.iter().max() {
            Some(&longest) if (longest as u64) < elements => Err(refuse(format!(
                "{elements} elements are declared, and there is data for at most {longest}"
            ))),
            _ => Ok(()),
        }
    }
}

fn check_attribute(attribute: &pb::AttributeProto) -> Result<(), String> {
    let name = attribute.name.as_str();
    let least = match (POSITIVE.contains(&name), SIGNED.contains(&name)) {
        (true, _) => 1,
        (_, true) => -ATTRIBUTE_MAX,
        (false, false) => return Ok(()),
    };
    // A list leaves the single integer at 0.
    let single = attribute.ints.is_empty().then_some(&attribute.i);
    match attribute
        .ints
        .iter()
        .chain(single)
        .find(|value| !(least..=ATTRIBUTE_MAX).contains(*value))
    {
        Some(value) => Err(format!(
            "{name} has {value}, it must be {least} to {ATTRIBUTE_MAX}"
        )),
        None => Ok(()),
    }
}

fn forget_symbols(info: &mut pb::ValueInfoProto) {
    let Some(TypeValue::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut())
    else {
        return;
    };
    for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
        if matches!(dim.value, Some(Dimension::DimParam(_))) {
            dim.value = None;
        }
    }
}
