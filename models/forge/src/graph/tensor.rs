//! Numbers of an ONNX tensor, out of the file and into it.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

/// Most elements of one tensor and of all a model's initialisers: the largest file in int8, unpacked.
pub(crate) const ELEMENTS_MAX: usize = 64 * 1024 * 1024;

/// The numbers of a constant, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    I64(Vec<i64>),
    /// Quantised weights, widened: int8, uint8, int32.
    Quantised(Vec<i32>),
}

impl Numbers {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::I64(numbers) => numbers.len(),
            Self::Quantised(numbers) => numbers.len(),
        }
    }
}

/// A constant with its shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Numbers,
}

impl Constant {
    pub(crate) fn ints(shape: Vec<usize>, numbers: Vec<i64>) -> Self {
        Self {
            shape,
            numbers: Numbers::I64(numbers),
        }
    }
}

/// Shape of a tensor; an error says what is wrong with it.
pub(crate) fn shape(tensor: &pb::TensorProto) -> Result<Vec<usize>, String> {
    let mut elements = 1_usize;
    let mut shape = Vec::with_capacity(tensor.dims.len());
    for &dim in &tensor.dims {
        let dim = usize::try_from(dim).map_err(|_| format!("dimension {dim} is negative"))?;
        elements = elements
            .checked_mul(dim)
            .filter(|&elements| elements <= ELEMENTS_MAX)
            .ok_or_else(|| {
                format!(
                    "shape {:?} has more than {ELEMENTS_MAX} elements",
                    tensor.dims
                )
            })?;
        shape.push(dim);
    }
    Ok(shape)
}

/// Reads a tensor of a type that weights and shapes have.
pub(crate) fn read(tensor: &pb::TensorProto) -> Result<Constant, String> {
    if tensor.data_location == Some(DataLocation::External as i32)
        || !tensor.external_data.is_empty()
    {
        return Err("its data is in another file".to_owned());
    }
    let shape = shape(tensor)?;
    let elements = shape.iter().product();
    let raw = &tensor.raw_data;
    let data_type = DataType::try_from(tensor.data_type)
        .map_err(|_| format!("type {} is unknown", tensor.data_type))?;
    let numbers = if data_type == DataType::Float {
        Numbers::F32(pick(raw, elements, f32::from_le_bytes, &tensor.float_data)?)
    } else if data_type == DataType::Double {
        let wide = pick(raw, elements, f64::from_le_bytes, &tensor.double_data)?;
        Numbers::F32(wide.into_iter().map(narrow).collect())
    } else if data_type == DataType::Float16 {
        let bits = |&bits: &i32| u16::try_from(bits).unwrap_or(u16::MAX);
        let listed: Vec<u16> = tensor.int32_data.iter().map(bits).collect();
        let halves = pick(raw, elements, u16::from_le_bytes, &listed)?;
        Numbers::F32(halves.into_iter().map(super::half::to_f32).collect())
    } else if data_type == DataType::Int64 {
        Numbers::I64(pick(raw, elements, i64::from_le_bytes, &tensor.int64_data)?)
    } else if data_type == DataType::Int32 {
        Numbers::Quantised(pick(raw, elements, i32::from_le_bytes, &tensor.int32_data)?)
    } else if data_type == DataType::Int8 {
        Numbers::Quantised(bytes(raw, elements, &tensor.int32_data, |byte| {
            i32::from(i8::from_le_bytes([byte]))
        })?)
    } else if data_type == DataType::Uint8 {
        Numbers::Quantised(bytes(raw, elements, &tensor.int32_data, i32::from)?)
    } else {
        return Err(format!("type {} is not read", data_type.as_str_name()));
    };
    Ok(Constant { shape, numbers })
}

/// Elements from the raw bytes where there are any, else from the list.
fn pick<T: Copy, const N: usize>(
    raw: &[u8],
    elements: usize,
    from: impl Fn([u8; N]) -> T,
    listed: &[T],
) -> Result<Vec<T>, String> {
    let (chunks, rest) = raw.as_chunks::<N>();
    let numbers: Vec<T> = if raw.is_empty() {
        listed.to_vec()
    } else {
        chunks.iter().map(|chunk| from(*chunk)).collect()
    };
    of_length(numbers, elements, !rest.is_empty())
}

fn bytes(
    raw: &[u8],
    elements: usize,
    listed: &[i32],
    from: impl Fn(u8) -> i32,
) -> Result<Vec<i32>, String> {
    let numbers = if raw.is_empty() {
        listed.to_vec()
    } else {
        raw.iter().map(|&byte| from(byte)).collect()
    };
    of_length(numbers, elements, false)
}

fn of_length<T>(numbers: Vec<T>, elements: usize, rest: bool) -> Result<Vec<T>, String> {
    if numbers.len() == elements && !rest {
        Ok(numbers)
    } else {
        Err(format!(
            "it holds {} numbers, its shape says {elements}",
            numbers.len()
        ))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]
fn narrow(wide: f64) -> f32 {
    wide as f32
}

/// Puts `numbers` into a float tensor, in the place and the form in which it holds its numbers already.
pub(crate) fn write(tensor: &mut pb::TensorProto, numbers: &[f32]) {
    let listed = tensor.raw_data.is_empty() && !tensor.float_data.is_empty();
    tensor.data_type = DataType::Float as i32;
    tensor.double_data.clear();
    if listed {
        tensor.float_data = numbers.to_vec();
    } else {
        tensor.raw_data = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    }
}

/// A dimension as ONNX writes it.
pub(crate) fn signed(dim: usize) -> i64 {
    i64::try_from(dim).unwrap_or(i64::MAX)
}

/// A float tensor.
pub(crate) fn floats(name: &str, shape: &[usize], numbers: &[f32]) -> pb::TensorProto {
    let raw = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    typed(name, shape, DataType::Float, raw)
}

/// An int64 tensor.
pub(crate) fn ints(name: &str, shape: &[usize], numbers: &[i64]) -> pb::TensorProto {
    let raw = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    typed(name, shape, DataType::Int64, raw)
}

/// A tensor of any type by its raw bytes.
pub(crate) fn typed(name: &str, shape: &[usize], kind: DataType, raw: Vec<u8>) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: shape.iter().map(|&dim| signed(dim)).collect(),
        data_type: kind as i32,
        raw_data: raw,
        ..pb::TensorProto::default()
    }
}
