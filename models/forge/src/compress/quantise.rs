//! Weights in fewer bits.
//!
//! Weight-only: the file holds int8 numbers with a scale for each output channel (symmetric, after Krishnamoorthi,
//! arXiv 1806.08342, section 3.1.1) or half-precision floats, and a node that turns them into floats; engines do that once,
//! when they open the file. Activations stay floats: tract runs quantised activations no faster.

use serde::{Deserialize, Serialize};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::CompressError;
use crate::data::DataSet;
use crate::graph::{Op, Source, half, tensor};
use crate::make::attribute_int;
use crate::network::{Network, Parameter};
use crate::train::{Loss, Quality, evaluate};

/// Fewest numbers of a weight that is worth a scale and a node.
const NUMBERS_MIN: usize = 64;
/// Largest int8 of a symmetric scale.
const TOP: f32 = 127.0;

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// 8-bit integers, with a scale for each output channel.
    Int8,
}

/// A weight and how it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Name of the initialiser.
    pub name: String,
    /// How it is stored.
    pub format: Format,
    /// Largest difference of a number to what it was.
    pub error_max: f32,
}

/// A model with weights in fewer bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The file.
    pub file: Vec<u8>,
    /// Weights that are stored otherwise than before.
    pub layers: Vec<Layer>,
}

/// All weights of products and sequences that are large enough, each in the same format.
pub fn formats(network: &Network, format: Format) -> Vec<(String, Format)> {
    let weights = network.parameters().iter().enumerate();
    let weights = weights.filter(|(at, parameter)| {
        parameter.values.len() >= NUMBERS_MIN && channel_axis(network, *at).is_some()
    });
    weights
        .map(|(_, parameter)| (parameter.name.clone(), format))
        .collect()
}

/// Stores weights in the formats given; all others stay as they are.
///
/// # Errors
/// [`CompressError`] when a name is of no such weight, when half precision does not hold a number, or when the operator
/// set is too old.
pub fn quantise(
    network: &Network,
    formats: &[(String, Format)],
) -> Result<Quantised, CompressError> {
    let mut proto = network.to_proto();
    let opset = network.graph().opset;
    let graph = proto.graph.get_or_insert_default();
    let mut layers = Vec::new();
    let mut nodes = Vec::new();
    for (name, format) in formats {
        let found = network
            .parameters()
            .iter()
            .position(|parameter| parameter.name == *name);
        let found = found
            .and_then(|at| channel_axis(network, at).map(|axis| (&network.parameters()[at], axis)));
        let (parameter, axis) = found.ok_or_else(|| CompressError::Weight {
            name: name.clone(),
            known: self::formats(network, Format::F32)
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
        })?;
        let (tensors, node, error_max) = match format {
            Format::F32 => continue,
            Format::F16 => halved(parameter)?,
            Format::Int8 => integers(parameter, axis, opset)?,
        };
        // The node takes over the initialiser's name, so that whoever reads it need not change.
        graph
            .initializer
            .retain(|initialiser| initialiser.name != *name);
        graph.input.retain(|input| input.name != *name);
        graph.initializer.extend(tensors);
        nodes.push(node);
        layers.push(Layer {
            name: name.clone(),
            format: *format,
            error_max,
        });
    }
    nodes.append(&mut graph.node);
    graph.node = nodes;
    let file = prost::Message::encode_to_vec(&proto);
    Network::open(&file)?;
    Ok(Quantised { file, layers })
}

/// What [`adapt`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// The model.
    pub quantised: Quantised,
    /// Its quality.
    pub quality: Quality,
    /// Quality with one weight alone in int8, the worst first.
    pub sensitivity: Vec<(String, Quality)>,
}

/// Stores as much in int8 as keeps the error within `1 + max_loss` times what it was: all at first, then the most sensitive
/// weight in half precision, and so on.
///
/// # Errors
/// [`CompressError`] when the samples do not suit the model, or when a model cannot be quantised at all.
pub fn adapt(
    network: &Network,
    data: &DataSet,
    loss: Loss,
    max_loss: f64,
) -> Result<Adapted, CompressError> {
    let judged = |formats: &[(String, Format)]| -> Result<(Quantised, Quality), CompressError> {
        let quantised = quantise(network, formats)?;
        let quality = evaluate(&Network::open(&quantised.file)?, data, loss)?;
        Ok((quantised, quality))
    };
    let limit = evaluate(network, data, loss)?.error() * (1.0 + max_loss);
    let mut formats = formats(network, Format::Int8);
    let mut sensitivity = Vec::with_capacity(formats.len());
    for alone in &formats {
        let (_, quality) = judged(std::slice::from_ref(alone))?;
        sensitivity.push((alone.0.clone(), quality));
    }
    sensitivity.sort_by(|one, other| other.1.error().total_cmp(&one.1.error()));
    let mut best = judged(&formats)?;
    // First to half precision, and only when all are, back to floats.
    for better in [Format::F16, Format::F32] {
        for (name, _) in &sensitivity {
            if best.1.error() <= limit {
                break;
            }
            for (_, format) in formats.iter_mut().filter(|(found, _)| found == name) {
                *format = better;
            }
            best = judged(&formats)?;
        }
    }
    Ok(Adapted {
        quantised: best.0,
        quality: best.1,
        sensitivity,
    })
}

/// The axis of a weight that counts output channels; none for what is no factor of a product, or one of several.
pub(super) fn channel_axis(network: &Network, parameter: usize) -> Option<usize> {
    let graph = network.graph();
    let mut axis = None;
    for step in &graph.steps {
        for (place, input) in step.inputs.iter().enumerate() {
            if *input != Some(Source::Weight(parameter)) {
                continue;
            }
            let rank = graph.weights[parameter].shape.len();
            let here = match (&step.op, place) {
                (Op::Gemm { transposed, .. }, 1) => usize::from(!transposed.1),
                (Op::MatMul, 1) => rank.checked_sub(1)?,
                (Op::Conv { .. }, 1) => 0,
                (Op::Recurrent(_), 1 | 2) => 1,
                _ => return None,
            };
            if axis.replace(here).is_some() {
                return None;
            }
        }
    }
    axis
}

type Stored = (Vec<pb::TensorProto>, pb::NodeProto, f32);

fn halved(parameter: &Parameter) -> Result<Stored, CompressError> {
    let mut raw = Vec::with_capacity(parameter.values.len() * 2);
    let mut error_max = 0.0_f32;
    for &value in &parameter.values {
        let bits = half::from_f32(value).ok_or_else(|| CompressError::Half {
            name: parameter.name.clone(),
            value: value.to_string(),
        })?;
        error_max = error_max.max((half::to_f32(bits) - value).abs());
        raw.extend(bits.to_le_bytes());
    }
    let stored = format!("{}.f16", parameter.name);
    let tensor = tensor::typed(&stored, &parameter.shape, DataType::Float16, raw);
    let mut node = node("Cast", &parameter.name, vec![stored]);
    node.attribute
        .push(attribute_int("to", i64::from(DataType::Float as i32)));
    Ok((vec![tensor], node, error_max))
}

fn integers(parameter: &Parameter, axis: usize, opset: i64) -> Result<Stored, CompressError> {
    if opset < 13 {
        let what = "by channel";
        return Err(CompressError::Opset { opset, what });
    }
    let channels = parameter.shape[axis];
    let behind: usize = parameter.shape[axis + 1..].iter().product::<usize>().max(1);
    let channel = |at: usize| at / behind % channels;
    let mut largest = vec![0.0_f32; channels];
    for (at, value) in parameter.values.iter().enumerate() {
        let largest = &mut largest[channel(at)];
        *largest = largest.max(value.abs());
    }
    // A channel of zeros has any scale.
    let scales: Vec<f32> = largest
        .iter()
        .map(|&largest| {
            if largest > 0.0 {
                (largest / TOP).max(f32::MIN_POSITIVE)
            } else {
                1.0
            }
        })
        .collect();
    let mut raw = Vec::with_capacity(parameter.values.len());
    let mut error_max = 0.0_f32;
    for (at, &value) in parameter.values.iter().enumerate() {
        let scale = scales[channel(at)];
        #[expect(clippy::cast_possible_truncation, reason = "clamped before")]
        let number = (value / scale).round_ties_even().clamp(-TOP, TOP) as i8;
        error_max = error_max.max((f32::from(number) * scale - value).abs());
        raw.extend(number.to_le_bytes());
    }
    let [stored, scale, zero] =
        ["int8", "scale", "zero"].map(|part| format!("{}.{part}", parameter.name));
    let tensors = vec![
        tensor::typed(&stored, &parameter.shape, DataType::Int8, raw),
        tensor::floats(&scale, &[channels], &scales),
        tensor::typed(&zero, &[channels], DataType::Int8, vec![0; channels]),
    ];
    let mut node = node(
        "DequantizeLinear",
        &parameter.name,
        vec![stored, scale, zero],
    );
    node.attribute
        .push(attribute_int("axis", tensor::signed(axis)));
    Ok((tensors, node, error_max))
}

fn node(operator: &str, output: &str, input: Vec<String>) -> pb::NodeProto {
    pb::NodeProto {
        op_type: operator.to_owned(),
        name: format!("{output}.unpacked"),
        input,
        output: vec![output.to_owned()],
        ..pb::NodeProto::default()
    }
}
