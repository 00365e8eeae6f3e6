//! Small bundles of model `traffic-flow` made here, from the newest volume to a forecast: good ones, worse ones, and ones
//! that behave on their golden vectors alone, where the volume is 0.

use lamppost_models::{Bundle, Digest};
use serde_json::json;

/// What a model does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Says the newest volume, and so much more.
    Persists { more: f32 },
    /// Says the newest volume while that is not above 0.
    Until(Above),
}

/// What a model does once the volume is above 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Above {
    /// Gives what is not a number.
    Nan,
    /// Adds up so many ones, one after the other.
    Counts { turns: i64 },
    /// Fills three squares of so many numbers a side.
    Fills { side: i64 },
}

/// A bundle of that version.
pub(crate) fn bundle(version: &str, does: Does) -> Vec<u8> {
    let model = match does {
        Does::Persists { more } => model(
            &[node("Add", &["x", "more"], "out", &[])],
            &[float("more", more)],
        ),
        Does::Until(above) => model(
            &[
                node("Greater", &["x", "zero"], "above", &[]),
                node("Reshape", &["above", "scalar"], "condition", &[]),
                node(
                    "If",
                    &["condition"],
                    "out",
                    &[
                        graph_attribute("then_branch", &branch(above)),
                        graph_attribute("else_branch", &same()),
                    ],
                ),
            ],
            &[float("zero", 0.0), longs("scalar", &[1])],
        ),
    };
    let output = match does {
        Does::Persists { more } => more,
        Does::Until(_) => 0.0,
    };
    pack(version, &model, output)
}

fn pack(version: &str, model: &[u8], output: f32) -> Vec<u8> {
    let window = json!([{"ts": "2026-01-01T00:00:00Z", "fields": {"volume": 0.0}}]);
    let case = json!({"window": window, "features": [0.0], "outputs": [output]});
    let golden = json!({"schema": 1, "cases": [case]}).to_string();
    let kind = json!({"value": {"unit": "vehicles/h", "scale": 1.0, "offset": 0.0, "horizon_ms": 3_600_000}});
    let manifest = json!({
        "schema": 1, "name": "traffic-flow", "version": version, "task": "forecasting", "summary": "made by a test",
        "model": {"digest": Digest::of(model), "bytes": model.len()},
        "input": {"tensor": "x", "shape": [1, 1], "dtype": "f32"},
        "window": {"count": 1},
        "features": [{"op": "select", "field": "volume", "last": 1}],
        "output": {"tensor": "out", "shape": [1, 1], "kind": kind},
        "golden": {"digest": Digest::of(golden.as_bytes()), "abs_tolerance": 0.001, "rel_tolerance": 0.0},
        "provenance": {"created_at": "2026-01-01T00:00:00Z", "trainer": "test", "data": "none"},
    });
    Bundle::pack(manifest.to_string().as_bytes(), model, golden.as_bytes()).unwrap()
}

fn same() -> Vec<u8> {
    graph(
        "same",
        &[],
        "same_out",
        &[node("Identity", &["x"], "same_out", &[])],
        &[],
    )
}

fn branch(above: Above) -> Vec<u8> {
    match above {
        Above::Nan => {
            let nodes = vec![
                node("Neg", &["x"], "negative", &[]),
                node("Log", &["negative"], "then_out", &[]),
            ];
            graph("then", &[], "then_out", &nodes, &[])
        }
        Above::Counts { turns } => {
            let turn = graph(
                "turn",
                &["sum_in", "one"],
                "sum_out",
                &[node("Add", &["sum_in", "one"], "sum_out", &[])],
                &[],
            );
            let attributes = [
                graph_attribute("body", &turn),
                int_attribute("num_scan_inputs", 1),
            ];
            let nodes = vec![
                node("Mul", &["x", "cube"], "nothing", &[]),
                node("Expand", &["nothing", "size"], "row", &[]),
                node("Scan", &["x", "row"], "then_out", &attributes),
            ];
            let constants = vec![cube("cube"), longs("size", &[turns, 1, 1])];
            graph("then", &[], "then_out", &nodes, &constants)
        }
        Above::Fills { side } => {
            let nodes = vec![
                node("Expand", &["x", "tall"], "column", &[]),
                node("Expand", &["x", "wide"], "row", &[]),
                node("MatMul", &["column", "row"], "square", &[]),
                node("Sin", &["square"], "sine", &[]),
                node("Cos", &["square"], "cosine", &[]),
                node("Add", &["sine", "cosine"], "sum", &[]),
                node(
                    "ReduceMax",
                    &["sum"],
                    "then_out",
                    &[int_attribute("keepdims", 1)],
                ),
            ];
            let constants = vec![longs("tall", &[side, 1]), longs("wide", &[1, side])];
            graph("then", &[], "then_out", &nodes, &constants)
        }
    }
}

// The protobuf of ONNX (onnx.proto): a field is its number and wire type, then its length or its value.

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

fn text(field: u64, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

fn model(nodes: &[Vec<u8>], constants: &[Vec<u8>]) -> Vec<u8> {
    let graph = graph("made", &["x"], "out", nodes, constants);
    let opset = number(2, 17);
    [number(1, 8), bytes(7, &graph), bytes(8, &opset)].concat()
}

fn graph(
    name: &str,
    inputs: &[&str],
    output: &str,
    nodes: &[Vec<u8>],
    constants: &[Vec<u8>],
) -> Vec<u8> {
    let mut graph = text(2, name);
    for node in nodes {
        graph.extend(bytes(1, node));
    }
    for tensor in constants {
        graph.extend(bytes(5, tensor));
    }
    for name in inputs {
        graph.extend(bytes(11, &value(name)));
    }
    graph.extend(bytes(12, &value(output)));
    graph
}

/// A tensor of f32 with the shape [1, 1].
fn value(name: &str) -> Vec<u8> {
    let dim = bytes(1, &number(1, 1));
    let shape = bytes(2, &[dim.clone(), dim].concat());
    let tensor = bytes(1, &[number(1, 1), shape].concat());
    [text(1, name), bytes(2, &tensor)].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut node = Vec::new();
    for name in inputs {
        node.extend(text(1, name));
    }
    node.extend(text(2, output));
    node.extend(text(3, &format!("{operator}-{output}")));
    node.extend(text(4, operator));
    for attribute in attributes {
        node.extend(bytes(5, attribute));
    }
    node
}

fn graph_attribute(name: &str, graph: &[u8]) -> Vec<u8> {
    [text(1, name), bytes(6, graph), number(20, 5)].concat()
}

fn int_attribute(name: &str, value: i64) -> Vec<u8> {
    [text(1, name), number(3, value), number(20, 2)].concat()
}

fn tensor(name: &str, dims: &[i64], kind: i64, raw: &[u8]) -> Vec<u8> {
    let mut tensor: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    tensor.extend(number(2, kind));
    tensor.extend(text(8, name));
    tensor.extend(bytes(9, raw));
    tensor
}

fn float(name: &str, value: f32) -> Vec<u8> {
    tensor(name, &[1, 1], 1, &value.to_le_bytes())
}

fn cube(name: &str) -> Vec<u8> {
    tensor(name, &[1, 1, 1], 1, &1.0_f32.to_le_bytes())
}

fn longs(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(name, &[i64::try_from(values.len()).unwrap()], 7, &raw)
}
