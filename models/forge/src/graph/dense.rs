//! Products, element-wise operators and normalisations.

use tract_onnx::pb;

use super::attributes::Attributes;
use super::op::{Binary, Op, Unary};
use super::reader::Reader;
use super::shape::{Batch, Shape};

/// Default of clip's bounds: all that is finite.
const UNBOUNDED: f32 = f32::MAX;

impl Reader {
    pub(super) fn gemm(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["alpha", "beta", "transA", "transB"])?;
        let transposed = (
            attributes.flag("transA", false),
            attributes.flag("transB", false),
        );
        let (a, left) = self.operand(node, 0)?;
        let (b, right) = self.operand(node, 1)?;
        let ([rows, inner], [depth, columns]) =
            (matrix(&left, transposed.0)?, matrix(&right, transposed.1)?);
        if inner != depth {
            return Err(format!(
                "{:?} times {:?} does not fit",
                left.dims, right.dims
            ));
        }
        if right.batch.is_some() || (left.batch.is_some() && transposed.0) {
            return Err(
                "its second matrix, or its first one transposed, depends on the sample".to_owned(),
            );
        }
        left.batch_first()?;
        let shape = left.with(vec![rows, columns]);
        let mut inputs = vec![a, b];
        if let Some((c, bias)) = self.optional(node, 2)? {
            if shape.broadcast(&bias)? != shape {
                return Err(format!(
                    "its bias {:?} does not fit {:?}",
                    bias.dims, shape.dims
                ));
            }
            inputs.push(c);
        }
        let op = Op::Gemm {
            alpha: attributes.float("alpha", 1.0),
            beta: attributes.float("beta", 1.0),
            transposed,
        };
        self.emit(node, op, &inputs, shape)
    }

    pub(super) fn matmul(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        Attributes::of(node, &[])?;
        let (a, left) = self.operand(node, 0)?;
        let (b, right) = self.operand(node, 1)?;
        let (Some(rows), Some(columns)) = (left.rank().checked_sub(2), right.rank().checked_sub(2))
        else {
            return Err("it multiplies vectors, only matrices are supported".to_owned());
        };
        if left.dims[rows + 1] != right.dims[columns] {
            return Err(format!(
                "{:?} times {:?} does not fit",
                left.dims, right.dims
            ));
        }
        left.not_the_batch(rows + 1)?;
        right.not_the_batch(columns)?;
        let n = right.dims[columns + 1];
        let shape = if right.rank() == 2 && right.batch.is_none() {
            let mut dims = left.dims.clone();
            dims[rows + 1] = n;
            left.with(dims)
        } else {
            // Stacks of matrices: what stands before the last two axes is the same on both sides.
            right.not_the_batch(columns + 1)?;
            let (above, below) = (&left.dims[..rows], &right.dims[..columns]);
            if above != below || left.batch != right.batch || left.batch_axis() == Some(rows) {
                return Err(format!(
                    "stacks {:?} and {:?} of matrices do not fit each other",
                    left.dims, right.dims
                ));
            }
            let mut dims = left.dims.clone();
            dims[rows + 1] = n;
            left.with(dims)
        };
        self.emit(node, Op::MatMul, &[a, b], shape)
    }

    pub(super) fn binary(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        Attributes::of(node, &[])?;
        if node.input.len() != 2 {
            return Err(format!(
                "it has {} inputs, two are supported",
                node.input.len()
            ));
        }
        let (a, left) = self.operand(node, 0)?;
        let (b, right) = self.operand(node, 1)?;
        let op = match node.op_type.as_str() {
            "Sub" => Binary::Sub,
            "Mul" => Binary::Mul,
            "Div" => Binary::Div,
            _ => Binary::Add,
        };
        let shape = left.broadcast(&right)?;
        self.emit(node, Op::Binary(op), &[a, b], shape)
    }

    pub(super) fn power(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        Attributes::of(node, &[])?;
        let (x, shape) = self.operand(node, 0)?;
        let exponent = self
            .scalar(node, 1)?
            .ok_or_else(|| "its exponent is missing".to_owned())?;
        self.emit(node, Op::Power(exponent), &[x], shape)
    }

    pub(super) fn unary(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let op = self.unary_op(node)?;
        let (x, shape) = self.operand(node, 0)?;
        self.emit(node, Op::Unary(op), &[x], shape)
    }

    fn unary_op(&self, node: &pb::NodeProto) -> Result<Unary, String> {
        let plain = |op| Attributes::of(node, &[]).map(|_| op);
        match node.op_type.as_str() {
            "Relu" => plain(Unary::Relu),
            "Sigmoid" => plain(Unary::Sigmoid),
            "HardSwish" => plain(Unary::HardSwish),
            "Tanh" => plain(Unary::Tanh),
            "Softplus" => plain(Unary::Softplus),
            "Erf" => plain(Unary::Erf),
            "Exp" => plain(Unary::Exp),
            "Log" => plain(Unary::Log),
            "Sqrt" => plain(Unary::Sqrt),
            "Neg" => plain(Unary::Neg),
            "Abs" => plain(Unary::Abs),
            "Reciprocal" => plain(Unary::Reciprocal),
            "LeakyRelu" => {
                let attributes = Attributes::of(node, &["alpha"])?;
                Ok(Unary::LeakyRelu(attributes.float("alpha", 0.01)))
            }
            "Elu" => {
                let attributes = Attributes::of(node, &["alpha"])?;
                Ok(Unary::Elu(attributes.float("alpha", 1.0)))
            }
            "HardSigmoid" => {
                let attributes = Attributes::of(node, &["alpha", "beta"])?;
                Ok(Unary::HardSigmoid {
                    alpha: attributes.float("alpha", 0.2),
                    beta: attributes.float("beta", 0.5),
                })
            }
            "Gelu" => match Attributes::of(node, &["approximate"])?
                .text("approximate", "none")
                .as_str()
            {
                "none" => Ok(Unary::Gelu { tanh: false }),
                "tanh" => Ok(Unary::Gelu { tanh: true }),
                other => Err(format!("its approximation '{other}' is unknown")),
            },
            "Clip" => self.clip(node),
            _ => Err("this operator is not supported".to_owned()),
        }
    }

    /// Bounds are attributes up to opset 10 and inputs from then on.
    fn clip(&self, node: &pb::NodeProto) -> Result<Unary, String> {
        let attributes = Attributes::of(node, &["min", "max"])?;
        let low = self.scalar(node, 1)?;
        let high = self.scalar(node, 2)?;
        let low = low.unwrap_or_else(|| attributes.float("min", -UNBOUNDED));
        let high = high.unwrap_or_else(|| attributes.float("max", UNBOUNDED));
        if low <= high {
            Ok(Unary::Clip { low, high })
        } else {
            Err(format!("its bounds {low} and {high} leave nothing"))
        }
    }

    pub(super) fn softmax(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axis"])?;
        let (x, shape) = self.operand(node, 0)?;
        // Before opset 13 all axes from the given one on are taken together, which is the same for the last one.
        let coerces = self.opset < 13;
        let axis = shape.axis(attributes.int("axis", if coerces { 1 } else { -1 }))?;
        if coerces && axis + 1 != shape.rank() {
            return Err(format!(
                "before opset 13 only the last axis is supported, not {axis}"
            ));
        }
        shape.not_the_batch(axis)?;
        let log = node.op_type == "LogSoftmax";
        self.emit(node, Op::Softmax { axis, log }, &[x], shape)
    }

    pub(super) fn batch_norm(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let known = ["epsilon", "momentum", "training_mode", "spatial", "is_test"];
        let attributes = Attributes::of(node, &known)?;
        if attributes.flag("training_mode", false) || !attributes.flag("spatial", true) {
            return Err(
                "only normalisation by stored statistics of channels is supported".to_owned(),
            );
        }
        let (x, shape) = self.operand(node, 0)?;
        shape.batch_first()?;
        let channels = *shape
            .dims
            .get(1)
            .ok_or_else(|| "its input has no channels".to_owned())?;
        let mut inputs = vec![x];
        for at in 1..5 {
            let (source, of_channels) = self.operand(node, at)?;
            if of_channels != Shape::fixed(vec![channels]) {
                return Err(format!("its input {at} is not one number a channel"));
            }
            inputs.push(source);
        }
        let epsilon = attributes.float("epsilon", 1e-5);
        self.emit(node, Op::BatchNorm { epsilon }, &inputs, shape)
    }

    pub(super) fn layer_norm(&mut self, node: &pb::NodeProto) -> Result<(), String> {
        let attributes = Attributes::of(node, &["axis", "epsilon", "stash_type"])?;
        let (x, shape) = self.operand(node, 0)?;
        let axis = shape.axis(attributes.int("axis", -1))?;
        if shape.batch_axis().is_some_and(|batch| batch >= axis) {
            return Err(format!(
                "it works along axis {axis} and on, the batch among them"
            ));
        }
        let mut inputs = vec![x];
        for at in 1..3 {
            if let Some((source, scale)) = self.optional(node, at)? {
                if scale.batch.is_some() || scale.dims != shape.dims[axis..] {
                    return Err(format!("its input {at} of {:?} does not fit", scale.dims));
                }
                inputs.push(source);
            }
        }
        let epsilon = attributes.float("epsilon", 1e-5);
        self.emit(node, Op::LayerNorm { axis, epsilon }, &inputs, shape)
    }
}

/// Rows and columns of a matrix, transposed if so.
fn matrix(shape: &Shape, transposed: bool) -> Result<[usize; 2], String> {
    match (shape.dims.as_slice(), shape.batch) {
        (_, Some(Batch { axis: 1, .. })) => Err("its columns are the batch".to_owned()),
        (&[rows, columns], _) if transposed => Ok([columns, rows]),
        (&[rows, columns], _) => Ok([rows, columns]),
        (dims, _) => Err(format!("{dims:?} is no matrix")),
    }
}
