//! Walks the nodes of a graph.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::ends::{constant_names, input_shape};
use super::op::{Op, Source, Step};
use super::shape::{Batch, Shape};
use super::tensor::{self, Constant, ELEMENTS_MAX, Numbers};
use crate::error::{OpenError, Unsupported};

/// Operators that are read. Max and average pools take any kernel and stride; sequences are LSTM and GRU.
pub(crate) const OPERATORS: [&str; 57] = [
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "GRU",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Mul",
    "Neg",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// Most nodes: the engine's own limit.
const NODES_MAX: usize = 10_000;
/// Most elements that one sample takes in all values together: a batch of 32 of them fits in 2 GiB with its gradients.
pub(super) const SAMPLE_ELEMENTS_MAX: usize = 8 * 1024 * 1024;
/// Most characters of a name from the file in a message.
const NAME_CHARS_MAX: usize = 80;

/// A graph that the interpreter runs.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) opset: i64,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) steps: Vec<Step>,
    /// Names of the initialisers that training changes, with their shapes, in the file's order.
    pub(crate) weights: Vec<Weight>,
    pub(crate) fixed: Vec<Constant>,
    /// Their names, which are those of initialisers unless a node makes them.
    pub(crate) fixed_names: Vec<String>,
    /// Shape of each register; register 0 is the input.
    pub(crate) registers: Vec<Shape>,
    /// The register that holds the output.
    pub(crate) result: usize,
    /// For each step, the registers that nothing reads after it.
    pub(crate) last_reads: Vec<Vec<usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Vec<f32>,
}

impl Graph {
    /// Numbers that one sample takes in all values together, the windows of convolutions laid out.
    pub(crate) fn sample_elements(&self) -> usize {
        let values: usize = self.registers.iter().map(Shape::elements).sum();
        let laid_out = self
            .steps
            .iter()
            .filter(|step| matches!(step.op, Op::Conv { .. }));
        laid_out.fold(values, |sum, step| {
            sum.saturating_add(self.window_elements(step))
        })
    }

    /// Numbers that the windows of one sample hold, over all convolutions and pools.
    pub(crate) fn all_window_elements(&self) -> usize {
        let windows = self.steps.iter().map(|step| self.window_elements(step));
        windows.fold(0, usize::saturating_add)
    }

    fn window_elements(&self, step: &Step) -> usize {
        let (Op::Conv { window, .. } | Op::Pool { window, .. }) = &step.op else {
            return 0;
        };
        let Some(Some(Source::Register(input))) = step.inputs.first() else {
            return 0;
        };
        let rows: usize = self.registers[*input].dims.iter().take(2).product();
        let sizes = window.output.iter().chain(&window.kernel);
        sizes.fold(rows, |product, &size| product.saturating_mul(size))
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Constant(Constant),
    Weight(usize),
    Register(usize),
    /// Comes from something that is not supported.
    Unknown,
}

pub(super) struct Reader {
    pub(super) opset: i64,
    values: HashMap<String, Value>,
    read: HashSet<String>,
    steps: Vec<Step>,
    weights: Vec<Weight>,
    fixed: Vec<Constant>,
    /// Which constant a name already stands for.
    fixed_by_name: HashMap<String, usize>,
    registers: Vec<Shape>,
    elements: usize,
    /// Elements of all constants that nodes have made.
    folded: usize,
}

pub(super) fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// Reads a graph with one input and one output.
pub(crate) fn read(model: &pb::ModelProto) -> Result<Graph, OpenError> {
    let not_onnx = |reason: &str| OpenError::NotOnnx {
        reason: reason.to_owned(),
    };
    let graph = model
        .graph
        .as_ref()
        .ok_or_else(|| not_onnx("there is no graph in it"))?;
    if graph.node.len() > NODES_MAX {
        return Err(OpenError::TooMuch {
            what: "nodes",
            found: graph.node.len(),
            limit: NODES_MAX,
        });
    }
    let opset = model
        .opset_import
        .iter()
        .find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
    let opset = opset
        .ok_or_else(|| not_onnx("it imports no operator set of ONNX"))?
        .version;
    let mut reader = Reader::new(opset, graph);
    let mut refused = Vec::new();
    let (input, shape) = reader.initialisers_and_input(graph, &mut refused)?;
    reader.registers.push(shape);
    reader.values.insert(input.clone(), Value::Register(0));
    for node in &graph.node {
        if let Err(reason) = reader.node(node) {
            let name = if node.name.is_empty() {
                node.output.first().map_or("", String::as_str)
            } else {
                &node.name
            };
            refused.push(Unsupported {
                node: shown(name),
                operator: shown(&node.op_type),
                reason,
            });
        }
    }
    if !refused.is_empty() {
        return Err(OpenError::Unsupported { list: refused });
    }
    let [output] = graph.output.as_slice() else {
        return Err(OpenError::Tensors {
            side: "outputs",
            found: graph
                .output
                .iter()
                .map(|tensor| shown(&tensor.name))
                .collect(),
        });
    };
    reader.finish(input, &output.name)
}

impl Reader {
    fn new(opset: i64, graph: &pb::GraphProto) -> Self {
        let outputs = graph.output.iter().map(|output| output.name.clone());
        let operands = graph
            .node
            .iter()
            .flat_map(|node| node.input.iter().cloned());
        Self {
            opset,
            values: HashMap::new(),
            read: operands.chain(outputs).collect(),
            steps: Vec::new(),
            weights: Vec::new(),
            fixed: Vec::new(),
            fixed_by_name: HashMap::new(),
            registers: Vec::new(),
            elements: 0,
            folded: 0,
        }
    }

    /// Takes in the initialisers, and finds the one input that none of them is.
    fn initialisers_and_input(
        &mut self,
        graph: &pb::GraphProto,
        refused: &mut Vec<Unsupported>,
    ) -> Result<(String, Shape), OpenError> {
        let constant = constant_names(graph);
        let mut total = 0_usize;
        for initialiser in &graph.initializer {
            let name = &initialiser.name;
            let value = match tensor::read(initialiser) {
                Ok(value) => value,
                Err(reason) => {
                    refused.push(Unsupported {
                        node: shown(name),
                        operator: "initialiser".to_owned(),
                        reason,
                    });
                    self.values.insert(name.clone(), Value::Unknown);
                    continue;
                }
            };
            total = total.saturating_add(value.numbers.len());
            if total > ELEMENTS_MAX {
                return Err(OpenError::TooMuch {
                    what: "elements of initialisers",
                    found: total,
                    limit: ELEMENTS_MAX,
                });
            }
            let trained = initialiser.data_type == DataType::Float as i32
                && !constant.contains(name.as_str())
                && !value.shape.is_empty()
                && self.read.contains(name);
            let value = match value.numbers {
                Numbers::F32(numbers) if trained => {
                    self.weights.push(Weight {
                        name: name.clone(),
                        shape: value.shape,
                        numbers,
                    });
                    Value::Weight(self.weights.len() - 1)
                }
                numbers @ (Numbers::F32(_) | Numbers::I64(_) | Numbers::Quantised(_)) => {
                    Value::Constant(Constant {
                        shape: value.shape,
                        numbers,
                    })
                }
            };
            self.values.insert(name.clone(), value);
        }
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            refused.push(Unsupported {
                node: shown(name),
                operator: "initialiser".to_owned(),
                reason: "it is sparse".to_owned(),
            });
        }
        // Up to IR version 3 an initialiser is also listed as an input.
        let inputs = graph
            .input
            .iter()
            .filter(|input| !self.values.contains_key(&input.name));
        let inputs: Vec<_> = inputs.collect();
        let [input] = inputs.as_slice() else {
            return Err(OpenError::Tensors {
                side: "inputs",
                found: inputs.iter().map(|tensor| shown(&tensor.name)).collect(),
            });
        };
        Ok((input.name.clone(), input_shape(input)?))
    }

    fn node(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let outcome = self.known_node(node);
        for output in &node.output {
            // Whatever a node failed to make is unknown, so that what follows from it adds nothing to the list.
            if !output.is_empty() {
                self.values.entry(output.clone()).or_insert(Value::Unknown);
            }
        }
        outcome
    }

    fn known_node(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let standard = node.domain.is_empty() || node.domain == "ai.onnx";
        if !standard || !OPERATORS.contains(&node.op_type.as_str()) {
            let domain = if standard {
                String::new()
            } else {
                format!(" of {}", shown(&node.domain))
            };
            return Err(format!("this operator{domain} is not supported"));
        }
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            match self.values.get(name) {
                None => return Err(format!("its input '{}' comes from nowhere", shown(name))),
                Some(Value::Unknown) => return Ok(()),
                Some(_) => {}
            }
        }
        if let Some(output) = node
            .output
            .iter()
            .find(|output| self.values.contains_key(*output))
        {
            return Err(format!("'{}' is made twice", shown(output)));
        }
        if self.fold(node)? {
            return Ok(());
        }
        match node.op_type.as_str() {
            "Gemm" => self.gemm(node),
            "MatMul" => self.matmul(node),
            "Add" | "Sub" | "Mul" | "Div" | "Sum" => self.binary(node),
            "Pow" => self.power(node),
            "Softmax" | "LogSoftmax" => self.softmax(node),
            "BatchNormalization" => self.batch_norm(node),
            "LayerNormalization" => self.layer_norm(node),
            "Conv" => self.conv(node),
            "MaxPool" | "AveragePool" => self.pool(node),
            "GlobalAveragePool" | "GlobalMaxPool" => self.global_pool(node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" => self.reduce(node),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Dropout" | "Cast" => {
                self.reshape(node)
            }
            "Transpose" => self.transpose(node),
            "Concat" => self.concat(node),
            "Slice" => self.slice(node),
            "Split" => self.split(node),
            "Gather" => self.gather(node),
            "Pad" => self.pad(node),
            "LSTM" | "GRU" => self.recurrent(node),
            "Constant" | "ConstantOfShape" | "Expand" | "DequantizeLinear" | "Shape" => {
                Err("it is supported on constants only".to_owned())
            }
            _ => self.unary(node),
        }
    }

    /// What an operand stands for; none where the node leaves it out.
    pub(super) fn value(&self, node: &pb::NodeProto, at: usize) -> Option<&Value> {
        let name = node.input.get(at).filter(|name| !name.is_empty())?;
        self.values.get(name)
    }

    /// An operand that flows: where it is and its shape.
    pub(super) fn operand(
        &mut self,
        node: &pb::NodeProto,
        at: usize,
    ) -> Result<(Source, Shape), String> {
        self.optional(node, at)?
            .ok_or_else(|| format!("its input {at} is missing"))
    }

    pub(super) fn optional(
        &mut self,
        node: &pb::NodeProto,
        at: usize,
    ) -> Result<Option<(Source, Shape)>, String> {
        let Some(value) = self.value(node, at).cloned() else {
            return Ok(None);
        };
        let found = match value {
            Value::Weight(at) => (
                Source::Weight(at),
                Shape::fixed(self.weights[at].shape.clone()),
            ),
            Value::Register(at) => (Source::Register(at), self.registers[at].clone()),
            Value::Constant(constant) => {
                let name = &node.input[at];
                if !matches!(constant.numbers, Numbers::F32(_)) {
                    return Err(format!("its input '{}' holds no floats", shown(name)));
                }
                let shape = Shape::fixed(constant.shape.clone());
                let at = *self.fixed_by_name.entry(name.clone()).or_insert_with(|| {
                    self.fixed.push(constant);
                    self.fixed.len() - 1
                });
                (Source::Fixed(at), shape)
            }
            Value::Unknown => return Err(format!("its input {at} is unknown")),
        };
        Ok(Some(found))
    }

    /// A constant operand; none where the node leaves it out.
    pub(super) fn constant(
        &self,
        node: &pb::NodeProto,
        at: usize,
    ) -> Result<Option<&Constant>, String> {
        match self.value(node, at) {
            None => Ok(None),
            Some(Value::Constant(constant)) => Ok(Some(constant)),
            Some(Value::Weight(_) | Value::Register(_) | Value::Unknown) => {
                Err(format!("its input {at} must be a constant"))
            }
        }
    }

    /// Constant integers; none where the node leaves them out.
    pub(super) fn ints(&self, node: &pb::NodeProto, at: usize) -> Result<Option<Vec<i64>>, String> {
        let Some(constant) = self.constant(node, at)? else {
            return Ok(None);
        };
        match &constant.numbers {
            Numbers::I64(numbers) => Ok(Some(numbers.clone())),
            Numbers::Quantised(numbers) => {
                Ok(Some(numbers.iter().map(|&n| i64::from(n)).collect()))
            }
            Numbers::F32(_) => Err(format!("its input {at} must hold integers")),
        }
    }

    /// The one number of a constant; none where the node leaves it out.
    pub(super) fn scalar(&self, node: &pb::NodeProto, at: usize) -> Result<Option<f64>, String> {
        let Some(constant) = self.constant(node, at)? else {
            return Ok(None);
        };
        match &constant.numbers {
            Numbers::F32(numbers) if numbers.len() == 1 => Ok(Some(f64::from(numbers[0]))),
            Numbers::F32(_) | Numbers::I64(_) | Numbers::Quantised(_) => {
                Err(format!("its input {at} must be one float"))
            }
        }
    }

    pub(super) fn shape_of(&self, value: &Value) -> Option<Shape> {
        match value {
            Value::Weight(at) => Some(Shape::fixed(self.weights[*at].shape.clone())),
            Value::Register(at) => Some(self.registers[*at].clone()),
            Value::Constant(constant) => Some(Shape::fixed(constant.shape.clone())),
            Value::Unknown => None,
        }
    }

    /// Keeps a constant that a node has made; all of them together are bounded as the initialisers are.
    pub(super) fn define_constant(&mut self, name: &str, constant: Constant) -> Result<(), String> {
        self.folded = self.folded.saturating_add(constant.numbers.len());
        if self.folded > ELEMENTS_MAX {
            return Err(format!(
                "up to it, constants take {} numbers, the limit is {ELEMENTS_MAX}",
                self.folded
            ));
        }
        self.define(name, Value::Constant(constant));
        Ok(())
    }

    fn define(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// Whether anything reads an output of the node.
    pub(super) fn is_read(&self, node: &pb::NodeProto, output: usize) -> bool {
        node.output
            .get(output)
            .is_some_and(|name| !name.is_empty() && self.read.contains(name))
    }

    /// Refuses a node whose further outputs something reads.
    pub(super) fn one_output(&self, node: &pb::NodeProto) -> Result<(), String> {
        match (1..node.output.len()).find(|&at| self.is_read(node, at)) {
            Some(at) => Err(format!(
                "its output {at} is used, which training does not make"
            )),
            None => Ok(()),
        }
    }

    /// Adds the step of a node with one output.
    pub(super) fn emit(
        &mut self,
        node: &pb::NodeProto,
        op: Op,
        inputs: &[Source],
        shape: Shape,
    ) -> Result<(), String> {
        self.one_output(node)?;
        let inputs = inputs.iter().copied().map(Some).collect();
        self.emit_all(node, op, inputs, vec![(0, shape)])
    }

    /// Adds a step; of the outputs, those that are read get a register.
    pub(super) fn emit_all(
        &mut self,
        node: &pb::NodeProto,
        op: Op,
        inputs: Vec<Option<Source>>,
        outputs: Vec<(usize, Shape)>,
    ) -> Result<(), String> {
        let mut registers = Vec::with_capacity(outputs.len());
        for (output, shape) in outputs {
            if !self.is_read(node, output) {
                registers.push(None);
                continue;
            }
            self.elements = self.elements.saturating_add(shape.elements());
            if self.elements > SAMPLE_ELEMENTS_MAX {
                return Err(format!(
                    "up to it, a sample takes {} numbers, the limit is {SAMPLE_ELEMENTS_MAX}",
                    self.elements
                ));
            }
            self.registers.push(shape);
            let register = self.registers.len() - 1;
            registers.push(Some(register));
            self.define(&node.output[output], Value::Register(register));
        }
        if registers.iter().all(Option::is_none) {
            return Ok(());
        }
        let name = if node.name.is_empty() {
            &node.output[0]
        } else {
            &node.name
        };
        self.steps.push(Step {
            node: shown(name),
            op,
            inputs,
            outputs: registers,
        });
        Ok(())
    }

    fn finish(self, input: String, output: &str) -> Result<Graph, OpenError> {
        let result = match self.values.get(output) {
            Some(Value::Register(at)) => *at,
            Some(Value::Constant(_) | Value::Weight(_) | Value::Unknown) | None => {
                return Err(OpenError::Output {
                    tensor: shown(output),
                    reason: "no node makes it from the input".to_owned(),
                });
            }
        };
        let first_axis = Batch { axis: 0, rows: 1 };
        if self.registers[result].batch != Some(first_axis) {
            return Err(OpenError::Output {
                tensor: shown(output),
                reason: "its first axis does not count samples".to_owned(),
            });
        }
        let last_reads = last_reads(&self.steps, result);
        let mut fixed_names = vec![String::new(); self.fixed.len()];
        for (name, at) in self.fixed_by_name {
            fixed_names[at] = name;
        }
        Ok(Graph {
            opset: self.opset,
            input,
            output: output.to_owned(),
            steps: self.steps,
            weights: self.weights,
            fixed: self.fixed,
            fixed_names,
            registers: self.registers,
            result,
            last_reads,
        })
    }
}

fn last_reads(steps: &[Step], result: usize) -> Vec<Vec<usize>> {
    let mut seen = HashSet::from([result]);
    let mut last: Vec<Vec<usize>> = steps
        .iter()
        .rev()
        .map(|step| {
            let registers = step
                .inputs
                .iter()
                .flatten()
                .filter_map(|source| match source {
                    Source::Register(at) => Some(*at),
                    Source::Weight(_) | Source::Fixed(_) => None,
                });
            registers
                .filter(|&register| seen.insert(register))
                .collect()
        })
        .collect();
    last.reverse();
    last
}
