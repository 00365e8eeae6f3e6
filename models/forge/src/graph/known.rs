//! What depends on shapes and constants alone is worked out while reading.
//!
//! Exporters compute the target of a Reshape from the Shape of its input, with Gather, Concat and arithmetic between.
//! All of that is known for one sample, and the reshape's rule then opens the batch again. Quantised weights become
//! float constants here.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::attributes::Attributes;
use super::layout;
use super::reader::{Reader, Value};
use super::shape::axis_of;
use super::tensor::{self, Constant, ELEMENTS_MAX, Numbers};

impl Reader {
    /// Works out a node whose result is known; says whether it was one.
    pub(super) fn fold(&mut self, node: &pb::NodeProto) -> Result<bool, String> {
        let known = match node.op_type.as_str() {
            "Constant" => Some(constant(node)?),
            "Shape" => Some(self.dims(node)?),
            "DequantizeLinear" => Some(self.dequantized(node)?),
            "ConstantOfShape" => Some(self.filled(node)?),
            "Expand" => Some(self.expanded(node)?),
            _ => self.fold_constants(node)?,
        };
        let Some(known) = known else {
            return Ok(false);
        };
        self.one_output(node)?;
        let name = node
            .output
            .first()
            .ok_or_else(|| "it has no output".to_owned())?;
        self.define_constant(name, known)?;
        Ok(true)
    }

    fn fold_constants(&self, node: &pb::NodeProto) -> Result<Option<Constant>, String> {
        let mut constants = Vec::with_capacity(node.input.len());
        for at in 0..node.input.len() {
            match self.value(node, at) {
                Some(Value::Constant(constant)) => constants.push(constant),
                Some(Value::Weight(_) | Value::Register(_) | Value::Unknown) | None => {
                    return Ok(None);
                }
            }
        }
        let Some(&first) = constants.first() else {
            return Ok(None);
        };
        if node.op_type == "Identity" {
            return Ok(Some(first.clone()));
        }
        if node.op_type == "Cast" {
            return cast(node, first).map(Some);
        }
        let Some(lists) = constants
            .iter()
            .map(|constant| integers(constant))
            .collect::<Option<Vec<_>>>()
        else {
            return Ok(None);
        };
        let list = match node.op_type.as_str() {
            "Concat" => lists.concat(),
            "Squeeze" | "Unsqueeze" | "Reshape" => {
                let shape = self.small_shape(node, first, &lists)?;
                return Ok(Some(Constant::ints(shape, lists[0].clone())));
            }
            "Gather" => {
                let picked = lists[1]
                    .iter()
                    .map(|&at| axis_of(at, lists[0].len()).map(|at| lists[0][at]));
                let picked = picked.collect::<Result<Vec<_>, _>>()?;
                return Ok(Some(Constant::ints(constants[1].shape.clone(), picked)));
            }
            "Slice" => {
                let (Some(&[start]), Some(&[end])) = (
                    lists.get(1).map(Vec::as_slice),
                    lists.get(2).map(Vec::as_slice),
                ) else {
                    return Err("its bounds are not one each".to_owned());
                };
                if lists.get(4).is_some_and(|steps| steps.as_slice() != [1]) {
                    return Err("it slices by steps".to_owned());
                }
                let (start, end) = layout::range(start, end, lists[0].len())?;
                lists[0][start..end].to_vec()
            }
            "Add" | "Sub" | "Mul" | "Div" => {
                let shape = if lists[0].len() >= lists[1].len() {
                    &first.shape
                } else {
                    &constants[1].shape
                };
                let list = arithmetic(&node.op_type, &lists[0], &lists[1])?;
                return Ok(Some(Constant::ints(shape.clone(), list)));
            }
            _ => return Err("it is supported on floats only".to_owned()),
        };
        Ok(Some(Constant::ints(vec![list.len()], list)))
    }

    /// Shape of a list or a single integer after Squeeze, Unsqueeze or Reshape.
    fn small_shape(
        &self,
        node: &pb::NodeProto,
        first: &Constant,
        lists: &[Vec<i64>],
    ) -> Result<Vec<usize>, String> {
        if node.op_type == "Reshape" {
            let wanted = lists
                .get(1)
                .ok_or_else(|| "its shape is missing".to_owned())?;
            return layout::resolved(wanted, &first.shape, false);
        }
        // A list of one element and a single element are told apart; anything of more axes is no shape.
        self.given_axes(node)?;
        match (node.op_type.as_str(), first.shape.as_slice()) {
            ("Unsqueeze", []) => Ok(vec![1]),
            ("Squeeze", [1]) => Ok(vec![]),
            (_, shape) => Err(format!(
                "integers of shape {shape:?} are not supported here"
            )),
        }
    }

    fn dims(&self, node: &pb::NodeProto) -> Result<Constant, String> {
        let attributes = Attributes::of(node, &["start", "end"])?;
        let value = self
            .value(node, 0)
            .ok_or_else(|| "its input is missing".to_owned())?;
        let shape = self
            .shape_of(value)
            .ok_or_else(|| "its input is unknown".to_owned())?;
        let dims: Vec<i64> = shape.dims.iter().map(|&dim| tensor::signed(dim)).collect();
        if !attributes.has("start") && !attributes.has("end") {
            return Ok(Constant::ints(vec![dims.len()], dims));
        }
        let (start, end) = layout::range(
            attributes.int("start", 0),
            attributes.int("end", i64::MAX),
            dims.len(),
        )?;
        Ok(Constant::ints(vec![end - start], dims[start..end].to_vec()))
    }

    fn filled(&self, node: &pb::NodeProto) -> Result<Constant, String> {
        let attributes = Attributes::of(node, &["value"])?;
        let shape = self
            .ints(node, 0)?
            .ok_or_else(|| "its shape is missing".to_owned())?;
        let fill = match attributes.tensor("value") {
            Some(value) => tensor::read(value)?.numbers,
            None => Numbers::F32(vec![0.0]),
        };
        repeat(&fill, &shape)
    }

    fn expanded(&self, node: &pb::NodeProto) -> Result<Constant, String> {
        Attributes::of(node, &[])?;
        let constant = self
            .constant(node, 0)?
            .ok_or_else(|| "its input is missing".to_owned())?;
        let shape = self
            .ints(node, 1)?
            .ok_or_else(|| "its shape is missing".to_owned())?;
        let wanted: Vec<usize> = shape
            .iter()
            .map(|&dim| usize::try_from(dim).unwrap_or(0))
            .collect();
        if constant.shape == wanted {
            return Ok(constant.clone());
        }
        repeat(&constant.numbers, &shape)
    }

    /// Quantised weights as floats: `(x - zero point) * scale`, by tensor or by channel.
    fn dequantized(&self, node: &pb::NodeProto) -> Result<Constant, String> {
        let attributes = Attributes::of(node, &["axis"])?;
        let (Some(x), Some(scale)) = (self.constant(node, 0)?, self.constant(node, 1)?) else {
            return Err("its input or scale is missing".to_owned());
        };
        let zero = self.constant(node, 2)?;
        let (Numbers::Quantised(x_numbers), Numbers::F32(scales)) = (&x.numbers, &scale.numbers)
        else {
            return Err(
                "it is supported on int8, uint8 and int32 with scales of 32-bit floats only"
                    .to_owned(),
            );
        };
        let zeros = match zero.map(|zero| &zero.numbers) {
            None => vec![0; scales.len()],
            Some(Numbers::Quantised(zeros)) => zeros.clone(),
            Some(Numbers::F32(_) | Numbers::I64(_)) => {
                return Err("its zero point is of another type".to_owned());
            }
        };
        let behind = if scales.len() == 1 {
            x_numbers.len().max(1)
        } else {
            let axis = axis_of(attributes.int("axis", 1), x.shape.len())?;
            if x.shape[axis] != scales.len() {
                return Err(format!(
                    "it has {} scales for {} channels",
                    scales.len(),
                    x.shape[axis]
                ));
            }
            x.shape[axis + 1..].iter().product::<usize>().max(1)
        };
        if zeros.len() != scales.len() {
            return Err(format!(
                "it has {} scales and {} zero points",
                scales.len(),
                zeros.len()
            ));
        }
        let float = |(at, &number): (usize, &i32)| {
            let channel = at / behind % scales.len();
            #[expect(clippy::cast_precision_loss, reason = "ONNX computes in f32 here")]
            let distance = number.wrapping_sub(zeros[channel]) as f32;
            distance * scales[channel]
        };
        Ok(Constant {
            shape: x.shape.clone(),
            numbers: Numbers::F32(x_numbers.iter().enumerate().map(float).collect()),
        })
    }
}

fn constant(node: &pb::NodeProto) -> Result<Constant, String> {
    let known = [
        "value",
        "value_float",
        "value_floats",
        "value_int",
        "value_ints",
    ];
    let attributes = Attributes::of(node, &known)?;
    if let Some(value) = attributes.tensor("value") {
        return tensor::read(value);
    }
    if let Some(ints) = attributes.ints("value_ints") {
        return Ok(Constant::ints(vec![ints.len()], ints.to_vec()));
    }
    if attributes.has("value_int") {
        return Ok(Constant::ints(vec![], vec![attributes.int("value_int", 0)]));
    }
    let floats = |shape, numbers| Constant {
        shape,
        numbers: Numbers::F32(numbers),
    };
    if attributes.has("value_float") {
        return Ok(floats(vec![], vec![attributes.float32("value_float")]));
    }
    let list = attributes
        .floats("value_floats")
        .ok_or_else(|| "it has no value".to_owned())?;
    Ok(floats(vec![list.len()], list.to_vec()))
}

/// Between the types that constants have here.
fn cast(node: &pb::NodeProto, from: &Constant) -> Result<Constant, String> {
    let to = Attributes::of(node, &["to", "saturate"])?.int("to", 0);
    let is = |kind: DataType| to == i64::from(kind as i32);
    let numbers = match &from.numbers {
        Numbers::F32(numbers) if is(DataType::Float) => Numbers::F32(numbers.clone()),
        Numbers::I64(numbers) if is(DataType::Int64) || is(DataType::Int32) => {
            Numbers::I64(numbers.clone())
        }
        Numbers::I64(numbers) if is(DataType::Float) => {
            #[expect(clippy::cast_precision_loss, reason = "what Cast does")]
            let float = |&number: &i64| number as f32;
            Numbers::F32(numbers.iter().map(float).collect())
        }
        Numbers::Quantised(numbers) if is(DataType::Int64) || is(DataType::Int32) => {
            Numbers::I64(numbers.iter().map(|&number| i64::from(number)).collect())
        }
        Numbers::F32(_) | Numbers::I64(_) | Numbers::Quantised(_) => {
            return Err(format!("a cast of its input to type {to} is not supported"));
        }
    };
    Ok(Constant {
        shape: from.shape.clone(),
        numbers,
    })
}

/// The integers of a list or a single one.
fn integers(constant: &Constant) -> Option<Vec<i64>> {
    if constant.shape.len() > 1 {
        return None;
    }
    match &constant.numbers {
        Numbers::I64(numbers) => Some(numbers.clone()),
        Numbers::F32(_) | Numbers::Quantised(_) => None,
    }
}

fn arithmetic(op: &str, left: &[i64], right: &[i64]) -> Result<Vec<i64>, String> {
    let length = left.len().max(right.len());
    if [left.len(), right.len()]
        .iter()
        .any(|&have| have != 1 && have != length)
    {
        return Err(format!("{left:?} and {right:?} do not fit each other"));
    }
    (0..length)
        .map(|at| {
            let (a, b) = (left[at % left.len()], right[at % right.len()]);
            let result = match op {
                "Add" => a.checked_add(b),
                "Sub" => a.checked_sub(b),
                "Mul" => a.checked_mul(b),
                _ => a.checked_div(b),
            };
            result.ok_or_else(|| format!("{op} of {a} and {b} has no result"))
        })
        .collect()
}

/// One number, in a whole tensor.
fn repeat(fill: &Numbers, shape: &[i64]) -> Result<Constant, String> {
    let mut elements = 1_usize;
    let mut dims = Vec::with_capacity(shape.len());
    for &dim in shape {
        let size = usize::try_from(dim).map_err(|_| format!("shape {shape:?} is none"))?;
        elements = elements
            .checked_mul(size)
            .filter(|&elements| elements <= ELEMENTS_MAX)
            .ok_or_else(|| format!("shape {shape:?} has more than {ELEMENTS_MAX} elements"))?;
        dims.push(size);
    }
    let numbers = match fill {
        Numbers::F32(fill) if fill.len() == 1 => Numbers::F32(vec![fill[0]; elements]),
        Numbers::I64(fill) if fill.len() == 1 => Numbers::I64(vec![fill[0]; elements]),
        Numbers::F32(_) | Numbers::I64(_) | Numbers::Quantised(_) => {
            return Err("only a single number is repeated".to_owned());
        }
    };
    Ok(Constant {
        shape: dims,
        numbers,
    })
}
