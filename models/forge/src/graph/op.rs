//! What the interpreter computes: operators of ONNX with their attributes resolved against the shapes.

/// One step of a graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// The node it comes from, for messages.
    pub(crate) node: String,
    pub(crate) op: Op,
    pub(crate) inputs: Vec<Option<Source>>,
    /// One register for each output; none for outputs that nothing reads.
    pub(crate) outputs: Vec<Option<usize>>,
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A weight that training changes.
    Weight(usize),
    /// A float constant.
    Fixed(usize),
    /// What a step has computed; register 0 is the graph's input.
    Register(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Gemm {
        alpha: f64,
        beta: f64,
        transposed: (bool, bool),
    },
    MatMul,
    Binary(Binary),
    Unary(Unary),
    /// To the power of a constant.
    Power(f64),
    Softmax {
        axis: usize,
        log: bool,
    },
    Conv {
        window: Window,
        groups: usize,
    },
    BatchNorm {
        epsilon: f64,
    },
    LayerNorm {
        axis: usize,
        epsilon: f64,
    },
    Pool {
        window: Window,
        kind: Pool,
    },
    Reduce {
        kind: Reduce,
        axes: Vec<usize>,
    },
    /// To the shape of the step's register: Reshape, Flatten, Squeeze, Unsqueeze, Identity.
    Reshape,
    Permute(Vec<usize>),
    Concat {
        axis: usize,
    },
    Slice {
        axis: usize,
        start: usize,
    },
    /// Picks rows along an axis.
    Select {
        axis: usize,
        rows: Vec<u32>,
    },
    /// Surrounds with zeros: the axis, how many before and behind.
    Pad(Vec<(usize, usize, usize)>),
    Recurrent(Recurrent),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unary {
    Relu,
    LeakyRelu(f64),
    Elu(f64),
    Sigmoid,
    HardSigmoid { alpha: f64, beta: f64 },
    HardSwish,
    Tanh,
    Gelu { tanh: bool },
    Softplus,
    Erf,
    Exp,
    Log,
    Sqrt,
    Neg,
    Abs,
    Reciprocal,
    Clip { low: f64, high: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    Max,
    /// Whether padding counts as zeros of the mean.
    Average {
        padding_counts: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    Mean,
    Sum,
    Max,
}

/// A window that slides over height and width; in one dimension the height is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) input: [usize; 2],
    pub(crate) output: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) dilation: [usize; 2],
    /// Padding before the first element.
    pub(crate) before: [usize; 2],
    /// Padding behind the last, which a mean that counts padding counts.
    pub(crate) behind: [usize; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recurrent {
    pub(crate) cell: Cell,
    pub(crate) hidden: usize,
    pub(crate) direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Lstm,
    /// Whether the reset gate comes behind the recurrent product.
    Gru {
        linear_before_reset: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Both,
}

impl Direction {
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::Forward => 1,
            Self::Both => 2,
        }
    }
}
