//! What is within conditions and loops, which golden vectors need not reach.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::{Draft, floats, int, ints, longs, model, node, readings, value};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

/// A branch that gives `result`.
fn branch(
    nodes: Vec<pb::NodeProto>,
    initializer: Vec<pb::TensorProto>,
    result: &str,
) -> pb::GraphProto {
    pb::GraphProto {
        name: result.to_owned(),
        node: nodes,
        initializer,
        output: vec![value(result, DataType::Float, &[Some(1), Some(1)])],
        ..pb::GraphProto::default()
    }
}

fn graph(name: &str, graph: pb::GraphProto) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        g: Some(graph),
        r#type: pb::attribute_proto::AttributeType::Graph as i32,
        ..pb::AttributeProto::default()
    }
}

/// Gives `x` where it is not above 0, as the golden vectors have it, and what `then` makes of it where it is.
fn unless_above_zero(then: pb::GraphProto) -> Draft {
    let same = branch(
        vec![node("Identity", &["features"], "same", vec![])],
        vec![],
        "same",
    );
    let nodes = vec![
        node("Greater", &["features", "zero"], "above", vec![]),
        node("Reshape", &["above", "scalar"], "condition", vec![]),
        node(
            "If",
            &["condition"],
            "out",
            vec![graph("then_branch", then), graph("else_branch", same)],
        ),
    ];
    let constants = vec![floats("zero", &[1, 1], &[0.0]), longs("scalar", &[1], &[1])];
    Draft::score(&model(1, 1, nodes, constants), 1)
}

/// Adds up `length` ones, one a turn.
fn counted(length: i64) -> pb::GraphProto {
    let body = pb::GraphProto {
        name: "turn".to_owned(),
        input: vec![
            value("sum_in", DataType::Float, &[Some(1), Some(1)]),
            value("one", DataType::Float, &[Some(1), Some(1)]),
        ],
        output: vec![value("sum_out", DataType::Float, &[Some(1), Some(1)])],
        node: vec![node("Add", &["sum_in", "one"], "sum_out", vec![])],
        ..pb::GraphProto::default()
    };
    let nodes = vec![
        node("Mul", &["features", "none"], "nothing", vec![]),
        node("Expand", &["nothing", "long"], "row", vec![]),
        node(
            "Scan",
            &["features", "row"],
            "counted",
            vec![graph("body", body), int("num_scan_inputs", 1)],
        ),
    ];
    let constants = vec![
        floats("none", &[1, 1, 1], &[1.0]),
        longs("long", &[3], &[length, 1, 1]),
    ];
    branch(nodes, constants, "counted")
}

#[test]
fn a_condition_takes_the_branch_that_the_data_say() {
    let doubled = branch(
        vec![node("Add", &["features", "features"], "doubled", vec![])],
        vec![],
        "doubled",
    );
    let mut session = unless_above_zero(doubled).open().unwrap().session();
    let mut run = |x| session.run(&readings(&[x])).unwrap().value.unwrap();
    assert!((run(-3.0) + 3.0).abs() < 1e-6);
    assert!((run(3.0) - 6.0).abs() < 1e-6);
}

#[test]
fn a_branch_that_no_golden_vector_takes_is_still_held_to_the_sizes() {
    let huge = branch(
        vec![
            node("Expand", &["features", "size"], "large", vec![]),
            node("ReduceSum", &["large"], "huge", vec![int("keepdims", 1)]),
        ],
        vec![longs("size", &[2], &[1_000_000, 1_000_000])],
        "huge",
    );
    let error = unless_above_zero(huge).open().expect_err("4 TB");
    assert!(
        error.to_string().contains("1000000000000 elements"),
        "{error}"
    );
}

#[test]
fn a_branch_that_no_golden_vector_takes_is_still_held_to_the_memory_of_a_run() {
    // Each within the limit of a node, and three of them alive at once.
    let names = ["a", "b", "c"];
    let mut nodes: Vec<_> = names
        .iter()
        .map(|name| node("Expand", &["features", "size"], name, vec![]))
        .collect();
    nodes.push(node("Sum", &names, "sum", vec![]));
    let attributes = vec![ints("axes", &[0, 1]), int("keepdims", 1)];
    nodes.push(node("ReduceMax", &["sum"], "most", attributes));
    let many = branch(nodes, vec![longs("size", &[2], &[4000, 4000])], "most");
    let error = unless_above_zero(many).open().expect_err("192 MB");
    assert!(error.to_string().contains("bytes in flight"), "{error}");
}

#[test]
fn a_loop_that_no_golden_vector_takes_is_held_to_the_work_of_a_run() {
    let short = unless_above_zero(counted(50)).open().unwrap();
    let mut session = short.session();
    let sum = session.run(&readings(&[1.0])).unwrap().value.unwrap();
    assert!((sum - 51.0).abs() < 1e-3, "the loop runs: {sum}");
    let turns = |length| {
        unless_above_zero(counted(length))
            .open()
            .unwrap()
            .run_work()
    };
    let (short, long) = (short.run_work(), turns(5_000));
    assert!(long - short > 4_900 * 100, "{short}, {long}");

    let limits = lamppost_engine::Limits {
        run_work: 1_000_000,
        ..lamppost_engine::Limits::default()
    };
    let error = unless_above_zero(counted(50_000))
        .open_within(&limits)
        .expect_err("too long");
    assert!(error.to_string().contains("operations in a run"), "{error}");
}

#[test]
fn an_endless_loop_cannot_be_said() {
    let body = pb::GraphProto::default();
    let looped = node("Loop", &["", ""], "out", vec![graph("body", body)]);
    let error = Draft::score(&model(1, 1, vec![looped], vec![]), 1).refusal();
    assert!(
        error
            .to_string()
            .contains("this runtime does not have the operator"),
        "{error}"
    );
}
