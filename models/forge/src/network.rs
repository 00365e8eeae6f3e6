//! A model whose weights can change.

use candle_core::{DType, Device, Tensor};
use prost::Message as _;
use tract_onnx::pb;

use crate::error::{OpenError, RunError};
use crate::graph::{self, Graph, Op, Unary, tensor};
use crate::{interpret, stack};

/// Largest file: what a bundle may hold.
const MODEL_BYTES_MAX: u64 = lamppost_models::manifest::MODEL_BYTES_MAX;
/// Most memory that decoding a file may take, as the engine bounds it.
const DECODED_BYTES_MAX: u64 = 2 * MODEL_BYTES_MAX;
/// Most numbers that one sample's windows of convolutions and pools hold: half a gigabyte, and a run of some seconds.
const WINDOW_ELEMENTS_MAX: usize = 128 * 1024 * 1024;
/// Samples that are run together where no gradients are kept: enough for a full matrix product.
const CHUNK: usize = 256;
/// How far a sample in company may be from the same sample alone, relative to it: products of other sizes round otherwise.
const INDEPENDENT_WITHIN: f32 = 1e-3;

/// A tensor of an ONNX graph by its name and its shape for one sample, the first dimension being the batch of 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Name within the graph.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
}

impl Side {
    /// Numbers a sample.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An initialiser that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name within the graph.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub values: Vec<f32>,
    /// Whether training changes it.
    pub trained: bool,
    /// Which of its numbers are kept; the others have been pruned, and stay 0. None where all are.
    pub kept: Option<Vec<bool>>,
}

/// What the graph does last, if a loss can take it in: it is then computed from what goes in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Numbers as they are.
    Plain,
    /// A sigmoid of each number.
    Sigmoid,
    /// A softmax over the last axis.
    Softmax,
}

/// An ONNX model, opened for training and compression.
#[derive(Clone, Debug)]
pub struct Network {
    /// As it was opened.
    file: Vec<u8>,
    proto: pb::ModelProto,
    graph: Graph,
    parameters: Vec<Parameter>,
    fixed: Vec<Tensor>,
    input: Side,
    output: Side,
    head: (Head, usize),
}

impl Network {
    /// Opens an ONNX file.
    ///
    /// The graph has one input and one output of 32-bit floats; the first dimension is the batch, 1 or left open. All
    /// initialisers of 32-bit floats with one axis or more are parameters, but statistics of normalisations, bounds of
    /// clips and first states of sequences.
    ///
    /// # Errors
    /// [`OpenError`]; what is not supported comes as one list.
    pub fn open(file: &[u8]) -> Result<Self, OpenError> {
        let bytes = file.len() as u64;
        if bytes > MODEL_BYTES_MAX {
            return Err(OpenError::TooLarge {
                bytes,
                limit: MODEL_BYTES_MAX,
            });
        }
        let not_onnx = |reason: String| OpenError::NotOnnx { reason };
        let decoded = lamppost_engine::decoded_bytes(file, DECODED_BYTES_MAX)
            .map_err(|reason| not_onnx(reason.to_owned()))?;
        if decoded > DECODED_BYTES_MAX {
            return Err(OpenError::TooLarge {
                bytes: decoded,
                limit: DECODED_BYTES_MAX,
            });
        }
        let proto = pb::ModelProto::decode(file).map_err(|error| not_onnx(error.to_string()))?;
        Self::read(file.to_vec(), proto)
    }

    /// Opens a model that has been put together here.
    pub(crate) fn of(proto: pb::ModelProto) -> Result<Self, OpenError> {
        Self::read(proto.encode_to_vec(), proto)
    }

    fn read(file: Vec<u8>, proto: pb::ModelProto) -> Result<Self, OpenError> {
        let mut graph = graph::read(&proto)?;
        let windows = graph.all_window_elements();
        if windows > WINDOW_ELEMENTS_MAX {
            return Err(OpenError::TooMuch {
                what: "numbers in a sample's windows",
                found: windows,
                limit: WINDOW_ELEMENTS_MAX,
            });
        }
        let parameters = graph.weights.iter_mut().map(|weight| Parameter {
            name: weight.name.clone(),
            shape: weight.shape.clone(),
            values: std::mem::take(&mut weight.numbers),
            trained: true,
            kept: None,
        });
        let parameters = parameters.collect();
        let run = |error: candle_core::Error| OpenError::Run {
            reason: error.to_string(),
        };
        let fixed = interpret::fixed(&graph, DType::F32).map_err(run)?;
        let side = |name: &str, register: usize| Side {
            name: name.to_owned(),
            shape: graph.registers[register].dims.clone(),
        };
        let (input, output) = (side(&graph.input, 0), side(&graph.output, graph.result));
        let head = head(&graph);
        let network = Self {
            file,
            proto,
            graph,
            parameters,
            fixed,
            input,
            output,
            head,
        };
        network.check_independence()?;
        Ok(network)
    }

    /// The input.
    pub const fn input(&self) -> &Side {
        &self.input
    }

    /// The output.
    pub const fn output(&self) -> &Side {
        &self.output
    }

    /// What the graph does last.
    pub const fn head(&self) -> Head {
        self.head.0
    }

    /// The parameters, in the file's order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameters, to change their numbers or to freeze them.
    pub(crate) fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    pub(crate) const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Keeps training from changing some parameters; all others are trained.
    ///
    /// # Errors
    /// The first name that no parameter has.
    pub fn freeze(&mut self, names: &[&str]) -> Result<(), UnknownParameter> {
        let known = |name: &&&str| {
            self.parameters
                .iter()
                .any(|parameter| parameter.name == **name)
        };
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            return Err(UnknownParameter {
                name: (*unknown).to_owned(),
                known: self
                    .parameters
                    .iter()
                    .map(|parameter| parameter.name.clone())
                    .collect(),
            });
        }
        for parameter in &mut self.parameters {
            parameter.trained = !names.contains(&parameter.name.as_str());
        }
        Ok(())
    }

    /// Numbers of all parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters
            .iter()
            .map(|parameter| parameter.values.len())
            .sum()
    }

    /// The file with the weights as they are now, and no other byte changed.
    pub fn to_onnx(&self) -> Vec<u8> {
        let mut file = self.file.clone();
        let written = graph::patch(&mut file, |name| {
            let found = self
                .parameters
                .iter()
                .find(|parameter| parameter.name == name);
            found.map(|parameter| parameter.values.as_slice())
        });
        // A file of an unusual form, such as one with a number in several pieces, is encoded again.
        if written == Some(self.parameters.len()) {
            file
        } else {
            self.to_proto().encode_to_vec()
        }
    }

    /// The structure with the weights as they are now.
    pub(crate) fn to_proto(&self) -> pb::ModelProto {
        let mut proto = self.proto.clone();
        if let Some(graph) = &mut proto.graph {
            for initialiser in &mut graph.initializer {
                let found = self
                    .parameters
                    .iter()
                    .find(|parameter| parameter.name == initialiser.name);
                if let Some(parameter) = found {
                    tensor::write(initialiser, &parameter.values);
                }
            }
        }
        proto
    }

    /// The outputs of some samples, one behind the other.
    ///
    /// # Errors
    /// [`RunError`] when the numbers are no whole samples, or when it fails.
    pub fn predict(&self, features: &[f32]) -> Result<Vec<f32>, RunError> {
        self.evaluate(features, None)
    }

    /// What goes into the head, or what comes out of a plain one: logits.
    ///
    /// # Errors
    /// [`RunError`] when the numbers are no whole samples, or when it fails.
    pub fn logits(&self, features: &[f32]) -> Result<Vec<f32>, RunError> {
        self.evaluate(features, self.before_head())
    }

    pub(crate) fn before_head(&self) -> Option<usize> {
        match self.head {
            (Head::Plain, _) => None,
            (Head::Sigmoid | Head::Softmax, at) => Some(at),
        }
    }

    fn evaluate(&self, features: &[f32], before: Option<usize>) -> Result<Vec<f32>, RunError> {
        let width = self.input.elements();
        if features.is_empty() || !features.len().is_multiple_of(width) {
            return Err(RunError::Features {
                numbers: features.len(),
                width,
            });
        }
        stack::with_room(|| {
            let weights = self.weights().map_err(RunError::of)?;
            let mut outputs = Vec::with_capacity(features.len() / width * self.output.elements());
            for chunk in features.chunks(width * CHUNK) {
                let output = self.run(&weights, chunk, before).map_err(RunError::of)?;
                outputs.extend(
                    output
                        .flatten_all()
                        .and_then(|output| output.to_vec1::<f32>())
                        .map_err(RunError::of)?,
                );
            }
            Ok(outputs)
        })
        .unwrap_or_else(|panicked| Err(RunError::Failed { reason: panicked }))
    }

    /// The weights as tensors that keep no gradients.
    fn weights(&self) -> candle_core::Result<Vec<Tensor>> {
        let tensor = |parameter: &Parameter| {
            Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)
        };
        self.parameters.iter().map(tensor).collect()
    }

    /// Runs some samples with these weights.
    pub(crate) fn run(
        &self,
        weights: &[Tensor],
        features: &[f32],
        before: Option<usize>,
    ) -> candle_core::Result<Tensor> {
        let mut dims = self.input.shape.clone();
        dims[0] = features.len() / self.input.elements();
        let input = Tensor::from_slice(features, dims, &Device::Cpu)?;
        interpret::run(&self.graph, weights, &self.fixed, input, before)
    }

    /// Runs three samples together and alone: the rules by which the batch was opened are held to the outcome.
    fn check_independence(&self) -> Result<(), OpenError> {
        let width = self.input.elements();
        let mut random = crate::random::Random::new(1);
        let features: Vec<f32> = (0..3 * width).map(|_| random.normal_f32()).collect();
        let run = |error: RunError| OpenError::Run {
            reason: error.to_string(),
        };
        let together = self.predict(&features).map_err(run)?;
        for (one, found) in features
            .chunks(width)
            .zip(together.chunks(self.output.elements()))
        {
            let alone = self.predict(one).map_err(run)?;
            for (&found, &wanted) in found.iter().zip(&alone) {
                let differs = (found - wanted).abs() > INDEPENDENT_WITHIN * (1.0 + wanted.abs());
                if differs || found.is_finite() != wanted.is_finite() {
                    return Err(OpenError::Dependent {
                        found: found.to_string(),
                        wanted: wanted.to_string(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// The last step, where it makes the output and a loss can take it in.
fn head(graph: &Graph) -> (Head, usize) {
    let at = graph.steps.len().saturating_sub(1);
    let plain = (Head::Plain, at);
    let Some(step) = graph.steps.last() else {
        return plain;
    };
    if step.outputs.first() != Some(&Some(graph.result)) {
        return plain;
    }
    let rank = graph.registers[graph.result].rank();
    if matches!(step.op, Op::Softmax { axis, log: false } if axis + 1 == rank) {
        (Head::Softmax, at)
    } else if step.op == Op::Unary(Unary::Sigmoid) {
        (Head::Sigmoid, at)
    } else {
        plain
    }
}

/// A name that no parameter has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no parameter is called '{name}'; there are {}", known.join(", "))]
pub struct UnknownParameter {
    /// The name.
    pub name: String,
    /// Those that there are.
    pub known: Vec<String>,
}
