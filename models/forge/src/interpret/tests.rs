//! Each operator: its outputs against tract's, its gradients against finite differences.

use candle_core::{DType, Device, Tensor, Var};
use prost::Message as _;
use tract_onnx::prelude::{Framework as _, InferenceModelExt, IntoRunnable, tvec};

use crate::make::Attribute::{Float, Int, Ints, Text};
use crate::make::{Attribute, Builder};
use crate::network::Network;
use crate::random::Random;

/// How far outputs may be from tract's.
const AGREES: f32 = 1e-4;
/// Half the distance of a finite difference, and how far a gradient may be from it: the difference's own error is about
/// the square of the one and, of rounding, 1e-16 over it.
const STEP: f64 = 1e-5;
const GRADIENT_WITHIN: f64 = 1e-6;
/// Most elements of a tensor whose gradients are checked.
const CHECKED: usize = 24;

/// A model of one sample's input shape and output shape, built node by node.
struct Case {
    builder: Builder,
    random: Random,
}

impl Case {
    fn new(input: &[usize], output: &[usize]) -> Self {
        let builder = Builder::new("case").input("x", input).output("y", output);
        Self {
            builder,
            random: Random::new(11),
        }
    }

    /// A weight of normal numbers.
    fn weight(mut self, name: &str, shape: &[usize]) -> Self {
        let numbers: Vec<f32> = (0..shape.iter().product())
            .map(|_| self.random.normal_f32() * 0.5)
            .collect();
        self.builder.floats(name, shape, &numbers);
        self
    }

    /// A weight of numbers from 0.5 to 1.5: a variance, a divisor.
    fn positive(mut self, name: &str, shape: &[usize]) -> Self {
        let numbers: Vec<f32> = (0..shape.iter().product())
            .map(|_| 0.5 + self.random.normal_f32().abs().min(1.0))
            .collect();
        self.builder.floats(name, shape, &numbers);
        self
    }

    fn ints(mut self, name: &str, numbers: &[i64]) -> Self {
        self.builder.ints(name, numbers);
        self
    }

    fn node(
        mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute<'_>)],
    ) -> Self {
        self.builder.node(operator, inputs, &[output], attributes);
        self
    }

    fn nodes(
        mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Self {
        self.builder.node(operator, inputs, outputs, attributes);
        self
    }

    #[track_caller]
    fn holds(self) {
        gradients_are_right(&self.runs());
    }

    /// Without gradients.
    #[track_caller]
    fn runs(self) -> Network {
        let file = self.builder.finish().encode_to_vec();
        let network = Network::open(&file).expect("a model that is supported");
        agrees_with_tract(&file, &network);
        // The file comes back as it was.
        assert_eq!(network.to_onnx(), file);
        network
    }
}

#[track_caller]
fn agrees_with_tract(file: &[u8], network: &Network) {
    let plan = tract_onnx::onnx()
        .model_for_read(&mut &*file)
        .and_then(InferenceModelExt::into_optimized)
        .and_then(IntoRunnable::into_runnable)
        .expect("a model that tract runs");
    let mut random = Random::new(5);
    let width = network.input().elements();
    let samples: Vec<f32> = (0..3 * width).map(|_| random.normal_f32()).collect();
    let ours = network.predict(&samples).expect("outputs");
    let outputs = network.output().elements();
    for (sample, ours) in samples.chunks(width).zip(ours.chunks(outputs)) {
        let input = tract_onnx::prelude::Tensor::from_shape(&network.input().shape, sample)
            .expect("an input");
        let theirs = plan.run(tvec!(input.into())).expect("a run");
        let theirs = theirs[0].to_plain_array_view::<f32>().expect("floats");
        assert_eq!(theirs.len(), ours.len());
        for (ours, theirs) in ours.iter().zip(theirs.iter()) {
            assert!(
                (ours - theirs).abs() <= AGREES * (1.0 + theirs.abs()),
                "{ours} here, {theirs} in tract"
            );
        }
    }
}

/// Of the sum of all outputs, each times a number of its own, by each weight and by the input of two samples.
#[track_caller]
fn gradients_are_right(network: &Network) {
    let mut random = Random::new(3);
    let mut normal = |count: usize| -> Vec<f64> { (0..count).map(|_| random.normal()).collect() };
    let mut shapes = vec![network.input().shape.clone()];
    shapes[0][0] = 2;
    let mut numbers = vec![normal(2 * network.input().elements())];
    for parameter in network.parameters() {
        shapes.push(parameter.shape.clone());
        numbers.push(
            parameter
                .values
                .iter()
                .map(|&value| f64::from(value))
                .collect(),
        );
    }
    let coefficients = normal(2 * network.output().elements());
    let fixed = super::fixed(network.graph(), DType::F64).expect("constants");
    let sum = |tensors: &[Tensor]| {
        let output = super::run(
            network.graph(),
            &tensors[1..],
            &fixed,
            tensors[0].clone(),
            None,
        )
        .expect("a run");
        let coefficients =
            Tensor::from_slice(&coefficients, output.dims(), &Device::Cpu).expect("as many");
        (output * coefficients)
            .and_then(|product| product.sum_all())
            .expect("a sum")
    };
    let tensors = |numbers: &[Vec<f64>]| -> Vec<Tensor> {
        let tensor = |(numbers, shape): (&Vec<f64>, &Vec<usize>)| {
            Tensor::from_slice(numbers, shape.as_slice(), &Device::Cpu)
        };
        numbers
            .iter()
            .zip(&shapes)
            .map(|pair| tensor(pair).expect("a tensor"))
            .collect()
    };
    let variables: Vec<Var> = tensors(&numbers)
        .iter()
        .map(|tensor| Var::from_tensor(tensor).expect("a variable"))
        .collect();
    let followed: Vec<Tensor> = variables
        .iter()
        .map(|variable| variable.as_tensor().clone())
        .collect();
    let gradients = sum(&followed).backward().expect("gradients");
    for (at, variable) in variables.iter().enumerate() {
        let name = at
            .checked_sub(1)
            .map_or("input", |at| &network.parameters()[at].name);
        let gradient = gradients
            .get(variable)
            .unwrap_or_else(|| panic!("no gradient of {name}"));
        let gradient = gradient
            .flatten_all()
            .and_then(|all| all.to_vec1::<f64>())
            .expect("numbers");
        let step = (gradient.len() / CHECKED).max(1);
        for index in (0..gradient.len()).step_by(step) {
            let mut side = |distance: f64| {
                let before = numbers[at][index];
                numbers[at][index] = before + distance;
                let found = sum(&tensors(&numbers))
                    .to_scalar::<f64>()
                    .expect("a number");
                numbers[at][index] = before;
                found
            };
            let wanted = (side(STEP) - side(-STEP)) / (2.0 * STEP);
            let found = gradient[index];
            assert!(
                (found - wanted).abs() <= GRADIENT_WITHIN * (1.0 + wanted.abs()),
                "gradient of {name}[{index}] is {found}, by differences {wanted}"
            );
        }
    }
}

#[test]
fn gemm_with_all_its_attributes() {
    Case::new(&[1, 5], &[1, 3])
        .weight("w", &[3, 5])
        .weight("b", &[3])
        .node(
            "Gemm",
            &["x", "w", "b"],
            "y",
            &[
                ("transB", Int(1)),
                ("alpha", Float(0.5)),
                ("beta", Float(2.0)),
            ],
        )
        .holds();
    Case::new(&[1, 5], &[1, 3])
        .weight("w", &[5, 3])
        .node("Gemm", &["x", "w"], "y", &[])
        .holds();
}

#[test]
fn matmul_of_rows_steps_and_stacks() {
    Case::new(&[1, 4, 5], &[1, 4, 3])
        .weight("w", &[5, 3])
        .node("MatMul", &["x", "w"], "y", &[])
        .holds();
    // Attention: both sides depend on the sample.
    Case::new(&[1, 4, 5], &[1, 4, 4])
        .weight("q", &[5, 3])
        .weight("k", &[5, 3])
        .node("MatMul", &["x", "q"], "queries", &[])
        .node("MatMul", &["x", "k"], "keys", &[])
        .node(
            "Transpose",
            &["keys"],
            "turned",
            &[("perm", Ints(&[0, 2, 1]))],
        )
        .node("MatMul", &["queries", "turned"], "scores", &[])
        .node("Softmax", &["scores"], "y", &[("axis", Int(-1))])
        .holds();
}

#[test]
fn arithmetic_broadcasts() {
    for operator in ["Add", "Sub", "Mul"] {
        Case::new(&[1, 2, 3], &[1, 2, 3])
            .weight("w", &[3])
            .node(operator, &["x", "w"], "y", &[])
            .holds();
        Case::new(&[1, 1, 3], &[1, 2, 3])
            .weight("w", &[2, 1])
            .node(operator, &["w", "x"], "y", &[])
            .holds();
    }
    Case::new(&[1, 4], &[1, 4])
        .positive("w", &[4])
        .node("Div", &["x", "w"], "y", &[])
        .holds();
    Case::new(&[1, 4], &[1, 4])
        .weight("w", &[4])
        .node("Add", &["x", "w"], "sum", &[])
        .node("Mul", &["sum", "sum"], "y", &[])
        .holds();
}

#[test]
fn activations() {
    let plain = [
        "Relu",
        "Sigmoid",
        "HardSwish",
        "Tanh",
        "Softplus",
        "Erf",
        "Exp",
        "Neg",
        "Abs",
        "LeakyRelu",
        "Elu",
        "HardSigmoid",
    ];
    for operator in plain {
        Case::new(&[1, 7], &[1, 7])
            .weight("b", &[7])
            .node("Add", &["x", "b"], "sum", &[])
            .node(operator, &["sum"], "y", &[])
            .holds();
    }
    for (operator, attribute) in [("LeakyRelu", 0.2), ("Elu", 0.7), ("HardSigmoid", 0.3)] {
        Case::new(&[1, 7], &[1, 7])
            .weight("b", &[7])
            .node("Add", &["x", "b"], "sum", &[])
            .node(operator, &["sum"], "y", &[("alpha", Float(attribute))])
            .holds();
    }
}

#[test]
fn operators_of_positive_numbers() {
    for operator in ["Log", "Sqrt", "Reciprocal"] {
        Case::new(&[1, 7], &[1, 7])
            .weight("b", &[7])
            .node("Add", &["x", "b"], "sum", &[])
            .node("Sigmoid", &["sum"], "positive", &[])
            .node(operator, &["positive"], "y", &[])
            .holds();
    }
    for exponent in [2.0, 0.5, 3.0] {
        let mut case = Case::new(&[1, 7], &[1, 7]).weight("b", &[7]);
        case.builder.floats("exponent", &[], &[exponent]);
        case.node("Add", &["x", "b"], "sum", &[])
            .node("Softplus", &["sum"], "positive", &[])
            .node("Pow", &["positive", "exponent"], "y", &[])
            .holds();
    }
}

#[test]
fn gelu_as_an_operator_and_as_exporters_write_it_out() {
    for approximation in ["none", "tanh"] {
        let mut case = Case::new(&[1, 7], &[1, 7]).weight("b", &[7]);
        case.builder.set_opset(20);
        case.node("Add", &["x", "b"], "sum", &[])
            .node(
                "Gelu",
                &["sum"],
                "y",
                &[("approximate", Text(approximation))],
            )
            .holds();
    }
    let mut case = Case::new(&[1, 7], &[1, 7]).weight("b", &[7]);
    for (name, number) in [
        ("root", std::f32::consts::SQRT_2),
        ("one", 1.0),
        ("half", 0.5),
    ] {
        case.builder.floats(name, &[], &[number]);
    }
    let case = case
        .node("Add", &["x", "b"], "sum", &[])
        .node("Div", &["sum", "root"], "scaled", &[])
        .node("Erf", &["scaled"], "erf", &[])
        .node("Add", &["erf", "one"], "raised", &[])
        .node("Mul", &["sum", "raised"], "product", &[])
        .node("Mul", &["product", "half"], "y", &[]);
    case.holds();
}

#[test]
fn clip_by_inputs_and_without_bounds() {
    let mut case = Case::new(&[1, 9], &[1, 9]).weight("b", &[9]);
    case.builder.floats("low", &[], &[-0.6]);
    case.builder.floats("high", &[], &[0.4]);
    case.node("Add", &["x", "b"], "sum", &[])
        .node("Clip", &["sum", "low", "high"], "y", &[])
        .holds();
    let mut case = Case::new(&[1, 9], &[1, 9]).weight("b", &[9]);
    case.builder.floats("high", &[], &[0.4]);
    case.node("Add", &["x", "b"], "sum", &[])
        .node("Clip", &["sum", "", "high"], "y", &[])
        .holds();
}

#[test]
fn softmax_along_any_axis_but_the_batch() {
    for operator in ["Softmax", "LogSoftmax"] {
        for axis in [1, 2] {
            Case::new(&[1, 3, 4], &[1, 3, 4])
                .weight("b", &[3, 4])
                .node("Mul", &["x", "b"], "scaled", &[])
                .node(operator, &["scaled"], "y", &[("axis", Int(axis))])
                .holds();
        }
    }
}

#[test]
fn convolutions_in_one_dimension() {
    let variants: [(&[i64], i64, i64, usize); 5] = [
        (&[0, 0], 1, 1, 8),
        (&[1, 1], 1, 1, 10),
        (&[2, 0], 2, 1, 5),
        (&[2, 2], 1, 2, 10),
        (&[0, 3], 3, 2, 3),
    ];
    for (pads, stride, dilation, length) in variants {
        Case::new(&[1, 2, 10], &[1, 4, length])
            .weight("w", &[4, 2, 3])
            .weight("b", &[4])
            .node(
                "Conv",
                &["x", "w", "b"],
                "y",
                &[
                    ("pads", Ints(pads)),
                    ("strides", Ints(&[stride])),
                    ("dilations", Ints(&[dilation])),
                    ("kernel_shape", Ints(&[3])),
                ],
            )
            .holds();
    }
    Case::new(&[1, 4, 7], &[1, 6, 5])
        .weight("w", &[6, 2, 3])
        .node("Conv", &["x", "w"], "y", &[("group", Int(2))])
        .holds();
}

#[test]
fn convolutions_in_two_dimensions() {
    Case::new(&[1, 3, 6, 7], &[1, 4, 3, 3])
        .weight("w", &[4, 3, 3, 2])
        .weight("b", &[4])
        .node(
            "Conv",
            &["x", "w", "b"],
            "y",
            &[("pads", Ints(&[1, 0, 1, 0])), ("strides", Ints(&[2, 2]))],
        )
        .holds();
    // By depth, and padded as the name says.
    for side in ["SAME_UPPER", "SAME_LOWER"] {
        Case::new(&[1, 4, 5, 5], &[1, 4, 3, 3])
            .weight("w", &[4, 1, 3, 3])
            .node(
                "Conv",
                &["x", "w"],
                "y",
                &[
                    ("group", Int(4)),
                    ("auto_pad", Text(side)),
                    ("strides", Ints(&[2, 2])),
                ],
            )
            .holds();
    }
    Case::new(&[1, 2, 5, 5], &[1, 3, 5, 5])
        .weight("w", &[3, 2, 1, 1])
        .node("Conv", &["x", "w"], "y", &[])
        .holds();
}

#[test]
fn batch_and_layer_normalisation() {
    for (input, shape) in [
        (&[1, 3, 4][..], &[1, 3, 4][..]),
        (&[1, 3, 2, 2], &[1, 3, 2, 2]),
        (&[1, 3], &[1, 3]),
    ] {
        Case::new(input, shape)
            .weight("scale", &[3])
            .weight("bias", &[3])
            .weight("mean", &[3])
            .positive("variance", &[3])
            .node(
                "BatchNormalization",
                &["x", "scale", "bias", "mean", "variance"],
                "y",
                &[("epsilon", Float(1e-3))],
            )
            .holds();
    }
    Case::new(&[1, 3, 5], &[1, 3, 5])
        .weight("scale", &[5])
        .weight("bias", &[5])
        .node(
            "LayerNormalization",
            &["x", "scale", "bias"],
            "y",
            &[("axis", Int(-1))],
        )
        .holds();
}

#[test]
fn statistics_of_a_batch_normalisation_are_not_trained() {
    let mut case = Case::new(&[1, 3, 4], &[1, 3, 4])
        .weight("scale", &[3])
        .weight("bias", &[3])
        .weight("mean", &[3])
        .positive("variance", &[3]);
    case.builder.node(
        "BatchNormalization",
        &["x", "scale", "bias", "mean", "variance"],
        &["y"],
        &[],
    );
    let network = Network::of(case.builder.finish()).expect("a model");
    let names: Vec<&str> = network
        .parameters()
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    assert_eq!(names, ["scale", "bias"]);
}

#[test]
fn pools_of_any_kernel_and_stride() {
    for operator in ["MaxPool", "AveragePool"] {
        let variants: [(i64, i64, &[i64], i64, usize); 4] = [
            (2, 2, &[0, 0], 0, 4),
            (3, 2, &[1, 1], 0, 5),
            (3, 1, &[0, 0], 0, 7),
            (2, 2, &[0, 0], 1, 5),
        ];
        for (kernel, stride, pads, ceil, length) in variants {
            Case::new(&[1, 2, 9], &[1, 2, length])
                .weight("b", &[2, 1])
                .node("Add", &["x", "b"], "sum", &[])
                .node(
                    operator,
                    &["sum"],
                    "y",
                    &[
                        ("kernel_shape", Ints(&[kernel])),
                        ("strides", Ints(&[stride])),
                        ("pads", Ints(pads)),
                        ("ceil_mode", Int(ceil)),
                    ],
                )
                .holds();
        }
        Case::new(&[1, 2, 6, 5], &[1, 2, 3, 3])
            .weight("b", &[2, 1, 1])
            .node("Add", &["x", "b"], "sum", &[])
            .node(
                operator,
                &["sum"],
                "y",
                &[
                    ("kernel_shape", Ints(&[3, 2])),
                    ("strides", Ints(&[2, 2])),
                    ("pads", Ints(&[1, 1, 1, 0])),
                ],
            )
            .holds();
    }
    Case::new(&[1, 2, 9], &[1, 2, 5])
        .weight("b", &[2, 1])
        .node("Add", &["x", "b"], "sum", &[])
        .node(
            "AveragePool",
            &["sum"],
            "y",
            &[
                ("kernel_shape", Ints(&[3])),
                ("strides", Ints(&[2])),
                ("pads", Ints(&[1, 1])),
                ("count_include_pad", Int(1)),
            ],
        )
        .holds();
}

#[test]
fn global_pools_and_reductions() {
    for operator in ["GlobalAveragePool", "GlobalMaxPool"] {
        Case::new(&[1, 3, 4, 2], &[1, 3, 1, 1])
            .weight("b", &[3, 1, 1])
            .node("Add", &["x", "b"], "sum", &[])
            .node(operator, &["sum"], "y", &[])
            .holds();
    }
    for operator in ["ReduceMean", "ReduceMax"] {
        Case::new(&[1, 3, 4], &[1, 3])
            .weight("b", &[3, 1])
            .node("Add", &["x", "b"], "sum", &[])
            .node(
                operator,
                &["sum"],
                "y",
                &[("axes", Ints(&[-1])), ("keepdims", Int(0))],
            )
            .holds();
    }
    Case::new(&[1, 3, 4], &[1, 1, 4])
        .weight("b", &[3, 1])
        .ints("axes", &[1])
        .node("Mul", &["x", "b"], "product", &[])
        .node("ReduceSum", &["product", "axes"], "y", &[])
        .holds();
}

#[test]
fn shapes_change_and_the_batch_stays_open() {
    Case::new(&[1, 4, 6], &[1, 24])
        .weight("b", &[4, 6])
        .node("Add", &["x", "b"], "sum", &[])
        .node("Flatten", &["sum"], "y", &[])
        .holds();
    Case::new(&[1, 4, 6], &[1, 12, 2])
        .weight("b", &[6])
        .ints("shape", &[1, -1, 2])
        .node("Add", &["x", "b"], "sum", &[])
        .node("Reshape", &["sum", "shape"], "y", &[])
        .holds();
    // Steps folded into the batch, and out of it.
    Case::new(&[1, 4, 6], &[1, 4, 3])
        .weight("w", &[6, 3])
        .ints("rows", &[-1, 6])
        .ints("steps", &[1, 4, 3])
        .node("Reshape", &["x", "rows"], "flat", &[])
        .node("Gemm", &["flat", "w"], "made", &[])
        .node("Reshape", &["made", "steps"], "y", &[])
        .holds();
    Case::new(&[1, 1, 6], &[1, 6, 1])
        .weight("w", &[6])
        .ints("one", &[1])
        .ints("two", &[2])
        .node("Squeeze", &["x", "one"], "flat", &[])
        .node("Mul", &["flat", "w"], "made", &[])
        .node("Unsqueeze", &["made", "two"], "y", &[])
        .holds();
}

#[test]
fn a_shape_worked_out_from_the_input_as_exporters_do() {
    Case::new(&[1, 4, 6], &[1, 24])
        .weight("b", &[6])
        .ints("zero", &[0])
        .ints("rest", &[-1])
        .node("Add", &["x", "b"], "sum", &[])
        .node("Shape", &["x"], "dims", &[])
        .node("Gather", &["dims", "zero"], "batch", &[])
        .node("Concat", &["batch", "rest"], "shape", &[("axis", Int(0))])
        .node("Reshape", &["sum", "shape"], "y", &[])
        .holds();
}

#[test]
fn parts_are_picked_joined_and_padded() {
    Case::new(&[1, 5], &[1, 4])
        .weight("w", &[5, 3])
        .ints("newest", &[4])
        .node("MatMul", &["x", "w"], "made", &[])
        .node("Gather", &["x", "newest"], "last", &[("axis", Int(1))])
        .node("Concat", &["made", "last"], "y", &[("axis", Int(1))])
        .holds();
    Case::new(&[1, 3, 6], &[1, 3, 3])
        .weight("w", &[3, 1])
        .ints("from", &[1])
        .ints("to", &[-2])
        .ints("axis", &[2])
        .node("Mul", &["x", "w"], "made", &[])
        .node("Slice", &["made", "from", "to", "axis"], "y", &[])
        .holds();
    Case::new(&[1, 6], &[1, 3])
        .weight("w", &[6])
        .node("Mul", &["x", "w"], "made", &[])
        .nodes("Split", &["made"], &["left", "right"], &[("axis", Int(1))])
        .node("Mul", &["left", "right"], "y", &[])
        .holds();
    Case::new(&[1, 2, 3], &[1, 2, 6])
        .weight("w", &[3])
        .ints("pads", &[0, 0, 1, 0, 0, 2])
        .node("Mul", &["x", "w"], "made", &[])
        .node("Pad", &["made", "pads"], "y", &[])
        .holds();
    Case::new(&[1, 2, 3], &[1, 3, 2])
        .weight("w", &[3])
        .node("Mul", &["x", "w"], "made", &[])
        .node("Identity", &["made"], "same", &[])
        .node("Transpose", &["same"], "y", &[("perm", Ints(&[0, 2, 1]))])
        .holds();
}

#[test]
fn lstm_over_a_single_field() {
    Case::new(&[1, 5, 1], &[1, 4])
        .weight("w", &[1, 16, 1])
        .weight("r", &[1, 16, 4])
        .ints("zero", &[0])
        .node("Transpose", &["x"], "steps", &[("perm", Ints(&[1, 0, 2]))])
        .nodes(
            "LSTM",
            &["steps", "w", "r"],
            &["", "last"],
            &[("hidden_size", Int(4))],
        )
        .node("Squeeze", &["last", "zero"], "y", &[])
        .holds();
}

#[test]
fn what_nothing_reads_is_left_out() {
    Case::new(&[1, 6], &[1, 3])
        .weight("w", &[6])
        .weight("dead", &[6, 2])
        .node("Mul", &["x", "w"], "made", &[])
        .node("MatMul", &["made", "dead"], "unread", &[])
        .nodes("Split", &["made"], &["left", "right"], &[("axis", Int(1))])
        .node("Tanh", &["left"], "y", &[])
        .runs();
}

/// A sequence model as exporters write it: steps first, then the last state.
fn sequence(
    operator: &str,
    gates: usize,
    direction: &str,
    attributes: &[(&str, Attribute<'_>)],
) -> Case {
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let case = Case::new(&[1, 5, 3], &[1, 4 * directions])
        .weight("w", &[directions, gates * 4, 3])
        .weight("r", &[directions, gates * 4, 4])
        .weight("b", &[directions, 2 * gates * 4])
        .ints("flat", &[1, -1]);
    let mut all = vec![("hidden_size", Int(4)), ("direction", Text(direction))];
    all.extend(attributes.iter().map(|(name, value)| match value {
        Int(number) => (*name, Int(*number)),
        Float(_) | Ints(_) | Text(_) => panic!("an integer"),
    }));
    case.node("Transpose", &["x"], "steps", &[("perm", Ints(&[1, 0, 2]))])
        .nodes(operator, &["steps", "w", "r", "b"], &["", "last"], &all)
        .node(
            "Transpose",
            &["last"],
            "turned",
            &[("perm", Ints(&[1, 0, 2]))],
        )
        .node("Reshape", &["turned", "flat"], "y", &[])
}

#[test]
fn lstm_forward_and_both_ways() {
    for direction in ["forward", "bidirectional"] {
        sequence("LSTM", 4, direction, &[]).holds();
    }
}

#[test]
fn gru_in_both_forms() {
    for linear in [0, 1] {
        for direction in ["forward", "bidirectional"] {
            sequence("GRU", 3, direction, &[("linear_before_reset", Int(linear))]).holds();
        }
    }
}

#[test]
fn all_states_of_a_sequence() {
    Case::new(&[1, 5, 3], &[1, 5, 4])
        .weight("w", &[1, 12, 3])
        .weight("r", &[1, 12, 4])
        .ints("direction", &[1])
        .node("Transpose", &["x"], "steps", &[("perm", Ints(&[1, 0, 2]))])
        .node(
            "GRU",
            &["steps", "w", "r"],
            "states",
            &[("hidden_size", Int(4))],
        )
        .node("Squeeze", &["states", "direction"], "flat", &[])
        .node("Transpose", &["flat"], "y", &[("perm", Ints(&[1, 0, 2]))])
        .holds();
}
