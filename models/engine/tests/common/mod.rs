//! Bundles of the zoo, altered ones, and small ones made here.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};

use lamppost_engine::{Engine, Limits, OpenError};
use lamppost_models::{Bundle, Digest, Reading};
use prost::Message as _;
use serde_json::{Value, json};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

pub(crate) const ZOO: [(&str, &str); 4] = [
    ("traffic-flow", "1.0.0"),
    ("traffic-flow", "1.1.0"),
    ("traffic-level", "1.0.0"),
    ("air-quality", "1.0.0"),
];

/// The three files of a bundle, to be altered and packed.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) manifest: Value,
    pub(crate) model: Vec<u8>,
    pub(crate) golden: Value,
}

impl Draft {
    pub(crate) fn zoo(name: &str, version: &str) -> Self {
        let read = |file: &str| {
            std::fs::read(zoo_path(name, version).join(file)).expect("a file of the zoo")
        };
        let parse = |file: &str| serde_json::from_slice(&read(file)).expect("JSON");
        Self {
            manifest: parse("manifest.json"),
            model: read("model.onnx"),
            golden: parse("golden.json"),
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests write the JSON in place"
    )]
    /// A bundle of `model`, whose input is `features` of `width` numbers selected from the field `x` of the newest
    /// readings, and whose output is `out`.
    pub(crate) fn of(
        model: &pb::ModelProto,
        width: usize,
        outputs: usize,
        task: &str,
        kind: Value,
    ) -> Self {
        let window: Vec<Value> = (0..width)
            .map(|at| json!({"ts": format!("2026-01-01T00:00:{at:02}Z"), "fields": {"x": 0.0}}))
            .collect();
        let manifest = json!({
            "schema": 1, "name": "made", "version": "1.0.0", "task": task, "summary": "made by a test",
            "model": {"digest": "", "bytes": 0},
            "input": {"tensor": "features", "shape": [1, width], "dtype": "f32"},
            "window": {"count": width},
            "features": [{"op": "select", "field": "x", "last": width}],
            "output": {"tensor": "out", "shape": [1, outputs], "kind": kind},
            "golden": {"digest": "", "abs_tolerance": 0.001, "rel_tolerance": 0.0},
            "provenance": {"created_at": "2026-01-01T00:00:00Z", "trainer": "test", "data": "none"},
        });
        let case =
            json!({"window": window, "features": vec![0.0; width], "outputs": vec![0.0; outputs]});
        Self {
            manifest,
            model: model.encode_to_vec(),
            golden: json!({"schema": 1, "cases": [case]}),
        }
    }

    /// As [`Draft::of`] for a model of one output that is a score.
    pub(crate) fn score(model: &pb::ModelProto, width: usize) -> Self {
        Self::of(
            model,
            width,
            1,
            "anomaly",
            json!({"score": {"threshold": 0.5}}),
        )
    }

    pub(crate) fn proto(&self) -> pb::ModelProto {
        pb::ModelProto::decode(self.model.as_slice()).expect("an ONNX file")
    }

    /// The same with the ONNX file altered.
    pub(crate) fn alter(&self, change: impl FnOnce(&mut pb::GraphProto)) -> Self {
        let mut proto = self.proto();
        change(proto.graph.as_mut().expect("a graph"));
        Self {
            model: proto.encode_to_vec(),
            ..self.clone()
        }
    }

    /// The bytes of the bundle, with its digests made to fit.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let golden = serde_json::to_vec(&self.golden).expect("JSON");
        let mut manifest = self.manifest.clone();
        manifest["model"] = json!({"digest": Digest::of(&self.model), "bytes": self.model.len()});
        manifest["golden"]["digest"] = json!(Digest::of(&golden));
        let manifest = serde_json::to_vec(&manifest).expect("JSON");
        Bundle::pack(&manifest, &self.model, &golden).expect("parts that agree")
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::read(&self.pack()).expect("a bundle")
    }

    pub(crate) fn open(&self) -> Result<Engine, OpenError> {
        self.open_within(&Limits::default())
    }

    pub(crate) fn open_within(&self, limits: &Limits) -> Result<Engine, OpenError> {
        Engine::open(&self.bundle(), limits)
    }

    pub(crate) fn refusal(&self) -> OpenError {
        self.open().expect_err("the engine must refuse this")
    }
}

pub(crate) fn zoo_path(name: &str, version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../zoo")
        .join(name)
        .join(version)
}

/// Readings a second apart with the field `x`.
pub(crate) fn readings(values: &[f64]) -> Vec<Reading> {
    let readings = values.iter().enumerate().map(|(at, value)| {
        let ts = lamppost_models::Timestamp::from_ms(1000 * i64::try_from(at).expect("few"))
            .expect("a time");
        let field = "x".parse().expect("a field name");
        Reading {
            ts,
            fields: [(field, lamppost_models::Value::Number(*value))].into(),
        }
    });
    readings.collect()
}

pub(crate) fn node(
    op: &str,
    inputs: &[&str],
    output: &str,
    attributes: Vec<pb::AttributeProto>,
) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.to_owned(),
        name: format!("{op}-{output}"),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes,
        ..pb::NodeProto::default()
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> pb::AttributeProto {
    let r#type = pb::attribute_proto::AttributeType::Ints as i32;
    pb::AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type,
        ..pb::AttributeProto::default()
    }
}

pub(crate) fn int(name: &str, value: i64) -> pb::AttributeProto {
    let r#type = pb::attribute_proto::AttributeType::Int as i32;
    pb::AttributeProto {
        name: name.to_owned(),
        i: value,
        r#type,
        ..pb::AttributeProto::default()
    }
}

pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: values.to_vec(),
        ..pb::TensorProto::default()
    }
}

pub(crate) fn longs(name: &str, dims: &[i64], values: &[i64]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..pb::TensorProto::default()
    }
}

/// What a graph says of its input or output.
pub(crate) fn value(name: &str, element: DataType, dims: &[Option<i64>]) -> pb::ValueInfoProto {
    let dim = dims.iter().map(|dim| {
        let value = match dim {
            Some(value) => dimension::Value::DimValue(*value),
            None => dimension::Value::DimParam("N".to_owned()),
        };
        Dimension {
            value: Some(value),
            ..Dimension::default()
        }
    });
    let shape = Some(pb::TensorShapeProto { dim: dim.collect() });
    let tensor = pb::type_proto::Tensor {
        elem_type: element as i32,
        shape,
    };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    let r#type = Some(pb::TypeProto {
        value,
        ..pb::TypeProto::default()
    });
    pb::ValueInfoProto {
        name: name.to_owned(),
        r#type,
        ..pb::ValueInfoProto::default()
    }
}

/// A model from `features` of shape `[1, width]` to `out` of shape `[1, outputs]`.
pub(crate) fn model(
    width: usize,
    outputs: usize,
    node: Vec<pb::NodeProto>,
    initializer: Vec<pb::TensorProto>,
) -> pb::ModelProto {
    let dims = |size: usize| [Some(1), Some(i64::try_from(size).expect("small"))];
    let graph = pb::GraphProto {
        name: "made".to_owned(),
        input: vec![value("features", DataType::Float, &dims(width))],
        output: vec![value("out", DataType::Float, &dims(outputs))],
        node,
        initializer,
        ..pb::GraphProto::default()
    };
    pb::ModelProto {
        ir_version: 8,
        opset_import: vec![pb::OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(graph),
        ..pb::ModelProto::default()
    }
}

/// A model whose output is its input.
pub(crate) fn identity(width: usize) -> pb::ModelProto {
    model(
        width,
        width,
        vec![node("Identity", &["features"], "out", vec![])],
        vec![],
    )
}

/// A seeded source of numbers (xorshift64*, Vigna, arXiv 1402.6246).
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).expect("64-bit machine") % limit
    }
}
