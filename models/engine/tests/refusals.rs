//! What the engine refuses, and in which words.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::time::Duration;

use common::{Draft, floats, identity, int, ints, longs, model, node, readings, value};
use lamppost_engine::{Limits, OpenError, RunError, RunFailure};
use lamppost_models::Bundle;
use prost::Message as _;
use serde_json::json;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

fn flow() -> Draft {
    Draft::zoo("traffic-flow", "1.0.0")
}

#[track_caller]
fn assert_says(error: &OpenError, words: &str) {
    assert!(
        error.to_string().contains(words),
        "{words:?} is not in: {error}"
    );
}

#[test]
fn a_renamed_input_or_output_is_refused_by_name() {
    let error = flow()
        .alter(|graph| graph.input[0].name = "x".to_owned())
        .refusal();
    assert_says(
        &error,
        r#"model has the inputs ["x"], the manifest says exactly "features""#,
    );
    let error = flow()
        .alter(|graph| graph.output[0].name = "y".to_owned())
        .refusal();
    assert_says(
        &error,
        r#"model has the outputs ["y"], the manifest says exactly "forecast""#,
    );
}

#[test]
fn an_extra_or_missing_input_or_output_is_refused() {
    let extra = value("more", DataType::Float, &[Some(1), Some(3)]);
    let error = flow()
        .alter(|graph| graph.input.push(extra.clone()))
        .refusal();
    assert_says(&error, r#"inputs ["features", "more"]"#);
    let error = flow().alter(|graph| graph.output.push(extra)).refusal();
    assert_says(&error, r#"outputs ["forecast", "more"]"#);
    let error = flow().alter(|graph| graph.output.clear()).refusal();
    assert_says(&error, "outputs []");
}

#[test]
fn an_initialiser_that_is_also_listed_as_an_input_is_no_input() {
    let weights = value("w", DataType::Float, &[Some(1), Some(2)]);
    let mut add = model(
        2,
        2,
        vec![node("Add", &["features", "w"], "out", vec![])],
        vec![floats("w", &[1, 2], &[1.0, 2.0])],
    );
    add.graph.as_mut().expect("a graph").input.push(weights);
    Draft::of(
        &add,
        2,
        2,
        "anomaly",
        json!({"reconstruction": {"threshold": 1.0}}),
    )
    .open()
    .expect("as IR version 3 has it");
}

#[test]
fn an_output_that_no_node_makes_is_refused() {
    let error = flow()
        .alter(|graph| graph.node.last_mut().expect("a node").output[0] = "other".to_owned())
        .refusal();
    assert_says(&error, "no node makes this output");
}

#[test]
fn another_shape_is_refused_whether_declared_or_computed() {
    let mut draft = flow();
    draft.model = draft
        .alter(|graph| graph.input[0] = value("features", DataType::Float, &[Some(1), Some(34)]))
        .model;
    assert_says(
        &draft.refusal(),
        r#"input tensor "features" has shape [1, 34], the manifest says [1, 35]"#,
    );
    let error = flow()
        .alter(|graph| graph.output[0] = value("forecast", DataType::Float, &[Some(1), Some(2)]))
        .refusal();
    assert_says(
        &error,
        r#"output tensor "forecast" has shape [1, 2], the manifest says [1, 1]"#,
    );
    // Declared as the manifest has it, and really four wide.
    let wide = model(
        4,
        1,
        vec![node("Identity", &["features"], "out", vec![])],
        vec![],
    );
    assert_says(
        &Draft::score(&wide, 4).refusal(),
        r#"output tensor "out" has shape"#,
    );
    // Another number of dimensions.
    let error = flow()
        .alter(|graph| graph.input[0] = value("features", DataType::Float, &[Some(35)]))
        .refusal();
    assert!(
        matches!(error, OpenError::Shape { side: "input", .. }),
        "{error}"
    );
}

#[test]
fn a_symbolic_batch_is_taken_as_the_manifests_one_and_its_expression_never_parsed() {
    let draft = flow()
        .alter(|graph| graph.input[0] = value("features", DataType::Float, &[None, Some(35)]));
    draft
        .open()
        .expect("N is 1")
        .check_golden()
        .expect("the same model");
    let nested = "(".repeat(200_000);
    let draft = flow().alter(|graph| {
        graph.input[0] = value("features", DataType::Float, &[None, Some(35)]);
        let tensor = graph.input[0]
            .r#type
            .as_mut()
            .and_then(|t| t.value.as_mut());
        let Some(pb::type_proto::Value::TensorType(tensor)) = tensor else {
            unreachable!("made so above")
        };
        let dims = &mut tensor.shape.as_mut().expect("a shape").dim;
        dims[0].value = Some(pb::tensor_shape_proto::dimension::Value::DimParam(nested));
    });
    draft
        .open()
        .expect("the name of a dimension does not matter");
}

#[test]
fn another_element_type_is_refused() {
    let error = flow()
        .alter(|graph| graph.input[0] = value("features", DataType::Double, &[Some(1), Some(35)]))
        .refusal();
    assert_says(
        &error,
        r#"input tensor "features" holds DOUBLE, the manifest says f32"#,
    );
    let cast = model(
        1,
        1,
        vec![node("Cast", &["features"], "out", vec![int("to", 7)])],
        vec![],
    );
    let mut untyped = cast;
    untyped.graph.as_mut().expect("a graph").output[0].r#type = None;
    assert_says(
        &Draft::score(&untyped, 1).refusal(),
        r#"output tensor "out" holds integers"#,
    );
}

#[test]
fn external_data_is_refused() {
    let error = flow()
        .alter(|graph| graph.initializer[0].data_location = Some(DataLocation::External as i32))
        .refusal();
    assert_says(&error, "keeps its data in another file");
    let entry = pb::StringStringEntryProto {
        key: "location".to_owned(),
        value: "/etc/passwd".to_owned(),
    };
    let error = flow()
        .alter(|graph| graph.initializer[1].external_data.push(entry))
        .refusal();
    assert!(matches!(error, OpenError::ExternalData { .. }), "{error}");
}

#[test]
fn initialisers_of_huge_or_impossible_dimensions_are_refused_before_tract_sees_them() {
    let dims = |dims: &[i64]| {
        flow()
            .alter(|graph| graph.initializer[0].dims = dims.to_vec())
            .refusal()
    };
    assert_says(
        &dims(&[1 << 40]),
        "elements in its initialisers, the limit is 33554432",
    );
    assert_says(&dims(&[1 << 40, 1 << 40]), "are negative or too large");
    assert_says(&dims(&[-35, 64]), "are negative or too large");
    assert_says(
        &dims(&[3500, 64]),
        "224000 elements are declared, and there is data for at most 8960",
    );
    let two = floats("two", &[1], &[1.0, 2.0]);
    let short = model(
        1,
        1,
        vec![node("Add", &["features", "two"], "out", vec![])],
        vec![two],
    );
    assert!(matches!(
        Draft::score(&short, 1).refusal(),
        OpenError::Tract { .. } | OpenError::Panicked { .. }
    ));
}

/// `features` added to a tensor of `size` elements made by `nodes` under the name `big`, and summed.
fn big(nodes: Vec<pb::NodeProto>, initializer: Vec<pb::TensorProto>) -> Draft {
    let sum = node("ReduceSum", &["all"], "out", vec![int("keepdims", 1)]);
    let add = node("Add", &["features", "big"], "all", vec![]);
    Draft::score(
        &model(
            1,
            1,
            nodes.into_iter().chain([add, sum]).collect(),
            initializer,
        ),
        1,
    )
}

#[test]
fn tensors_of_640_gb_are_refused_before_anything_is_allocated() {
    let huge = longs("shape", &[2], &[400_000, 400_000]);
    let constant = node("ConstantOfShape", &["shape"], "big", vec![]);
    assert_says(
        &big(vec![constant], vec![huge.clone()]).refusal(),
        "160000000000 elements, the limit is 16777216",
    );

    let expand = node("Expand", &["one", "shape"], "big", vec![]);
    let one = floats("one", &[1, 1], &[1.0]);
    assert_says(
        &big(vec![expand], vec![huge.clone(), one.clone()]).refusal(),
        "160000000000 elements",
    );

    // Of the input and not of a constant, so that it is no matter of folding.
    let expand = node("Expand", &["features", "shape"], "big", vec![]);
    assert_says(
        &big(vec![expand], vec![huge.clone()]).refusal(),
        "160000000000 elements",
    );

    let tile = node("Tile", &["one", "shape"], "big", vec![]);
    assert_says(
        &big(vec![tile], vec![huge, one]).refusal(),
        "160000000000 elements",
    );

    for (start, end, step) in [(0, 1 << 40, 1), (1 << 40, 0, -1), (0, 1, 0)] {
        let scalar = |name: &str, value: i64| longs(name, &[], &[value]);
        let range = node("Range", &["start", "end", "step"], "long", vec![]);
        let cast = node("Cast", &["long"], "big", vec![int("to", 1)]);
        let draft = big(
            vec![range, cast],
            vec![
                scalar("start", start),
                scalar("end", end),
                scalar("step", step),
            ],
        );
        assert!(
            matches!(draft.refusal(), OpenError::NodeTooLarge { .. }),
            "{}",
            draft.refusal()
        );
    }
}

#[test]
fn a_shape_that_is_computed_from_constants_is_seen_through() {
    let factors = longs("factors", &[2], &[20_000, 20_000]);
    let square = node("Mul", &["factors", "factors"], "shape", vec![]);
    let constant = node("ConstantOfShape", &["shape"], "big", vec![]);
    assert_says(
        &big(vec![square, constant], vec![factors]).refusal(),
        "elements, the limit is 16777216",
    );
}

#[test]
fn memory_in_flight_is_bounded_and_what_is_dropped_in_between_does_not_count() {
    let limits = Limits {
        run_bytes: 1_000_000,
        ..Limits::default()
    };
    // 400 kB each, 100 in a row: never more than a few alive.
    let shape = longs("shape", &[2], &[1, 100_000]);
    let step = |at: usize| node("Sin", &[&format!("t{at}")], &format!("t{}", at + 1), vec![]);
    let chain = std::iter::once(node("Expand", &["features", "shape"], "t0", vec![]))
        .chain((0..100).map(step));
    let mut nodes: Vec<_> = chain.collect();
    nodes.push(node(
        "ReduceMax",
        &["t100"],
        "out",
        vec![int("keepdims", 1)],
    ));
    let in_a_row = Draft::score(&model(1, 1, nodes.clone(), vec![shape.clone()]), 1);
    in_a_row.open_within(&limits).expect("800 kB at a time");
    // The same with each kept until the end.
    nodes.pop();
    let all: Vec<String> = (0..=100).map(|at| format!("t{at}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    nodes.push(node("Concat", &all, "joined", vec![int("axis", 1)]));
    nodes.push(node(
        "ReduceMax",
        &["joined"],
        "out",
        vec![int("keepdims", 1)],
    ));
    let error = Draft::score(&model(1, 1, nodes, vec![shape]), 1)
        .open_within(&limits)
        .expect_err("40 MB");
    assert_says(&error, "bytes in flight, the limit is 1000000");
}

#[test]
fn too_many_nodes_subgraphs_and_bytes_are_refused() {
    let many = |count: usize| {
        flow().alter(|graph| {
            graph
                .node
                .resize(count, node("Relu", &["dense0"], "x", vec![]));
        })
    };
    assert_says(&many(10_001).refusal(), "10001 nodes, the limit is 10000");

    let mut inner = pb::GraphProto::default();
    for _ in 0..5 {
        let attribute = pb::AttributeProto {
            name: "then_branch".to_owned(),
            g: Some(inner),
            ..Default::default()
        };
        inner = pb::GraphProto {
            node: vec![node("If", &["c"], "y", vec![attribute])],
            ..Default::default()
        };
    }
    assert_says(
        &flow()
            .alter(|graph| graph.node.append(&mut inner.node))
            .refusal(),
        "5 levels of subgraphs, the limit is 4",
    );

    let limits = Limits {
        model_bytes: 10_000,
        ..Limits::default()
    };
    let error = flow().open_within(&limits).expect_err("18 kB");
    assert_says(&error, "model has 18031 bytes, the limit is 10000");

    let mut bomb = flow();
    // A graph of three million empty nodes: 6 MB that would decode to 500.
    bomb.model = pb::ModelProto {
        graph: Some(pb::GraphProto::default()),
        ..Default::default()
    }
    .encode_to_vec();
    let nodes = [0x0a, 0x00].repeat(3_000_000);
    bomb.model = [&[0x3a, 0x80, 0x9b, 0xee, 0x02], nodes.as_slice()].concat();
    assert_says(
        &bomb.refusal(),
        "bytes once decoded, the limit is 134217728",
    );
}

#[test]
fn a_long_chain_of_nodes_overflows_no_stack() {
    let chain =
        (0..3000).map(|at| node("Sin", &[&format!("t{at}")], &format!("t{}", at + 1), vec![]));
    let first = node("Identity", &["features"], "t0", vec![]);
    let last = node("Identity", &["t3000"], "out", vec![]);
    let nodes = std::iter::once(first).chain(chain).chain([last]).collect();
    let engine = Draft::score(&model(1, 1, nodes, vec![]), 1)
        .open()
        .expect("it opens");
    let output = engine.session().run(&readings(&[1.0])).expect("it runs");
    assert!(output.value.is_some_and(|value| value < 0.1));
}

#[test]
fn a_graph_that_bites_its_tail_is_refused() {
    let nodes = vec![
        node("Add", &["features", "b"], "a", vec![]),
        node("Relu", &["a"], "b", vec![]),
        node("Relu", &["b"], "out", vec![]),
    ];
    let error = Draft::score(&model(1, 1, nodes, vec![]), 1).refusal();
    assert!(matches!(error, OpenError::Tract { .. }), "{error}");
}

#[test]
fn unknown_random_and_sparse_operators_are_refused_by_name() {
    let one = |op: &str| {
        Draft::score(
            &model(1, 1, vec![node(op, &["features"], "out", vec![])], vec![]),
            1,
        )
        .refusal()
    };
    assert_says(
        &one("Loop"),
        r#"node "Loop-out" (Loop): this runtime does not have the operator"#,
    );
    assert_says(&one("RandomUniformLike"), "its results are random");
    let sparse = pb::SparseTensorProto {
        values: Some(floats("s", &[1], &[1.0])),
        ..Default::default()
    };
    let error = flow()
        .alter(|graph| graph.sparse_initializer.push(sparse))
        .refusal();
    assert_says(&error, "sparse initialisers are not supported");
}

#[test]
fn strides_of_zero_and_huge_kernels_are_refused() {
    let pool = |attribute: pb::AttributeProto| {
        let reshape = node("Reshape", &["features", "shape"], "image", vec![]);
        let pool = node(
            "MaxPool",
            &["image"],
            "pooled",
            vec![ints("kernel_shape", &[1, 1]), attribute],
        );
        let flat = node("Flatten", &["pooled"], "out", vec![]);
        Draft::score(
            &model(
                1,
                1,
                vec![reshape, pool, flat],
                vec![longs("shape", &[4], &[1, 1, 1, 1])],
            ),
            1,
        )
    };
    pool(ints("strides", &[1, 1]))
        .open()
        .expect("this one is sound");
    assert_says(
        &pool(ints("strides", &[0, 1])).refusal(),
        "strides has 0, it must be 1 to 32767",
    );
    assert_says(
        &pool(ints("dilations", &[i64::MAX, 1])).refusal(),
        "dilations has 9223372036854775807",
    );
    assert_says(
        &pool(ints("pads", &[1 << 40, 0, 0, 0])).refusal(),
        "pads has 1099511627776",
    );
}

#[test]
fn an_output_whose_size_depends_on_the_input_is_refused() {
    let nodes = vec![
        node("NonZero", &["features"], "where", vec![]),
        node("Cast", &["where"], "floats", vec![int("to", 1)]),
        node("ReduceSum", &["floats"], "out", vec![int("keepdims", 1)]),
    ];
    assert_says(
        &Draft::score(&model(4, 1, nodes, vec![]), 4).refusal(),
        "no fixed size",
    );
}

#[test]
fn a_model_that_takes_too_long_to_open_is_given_up() {
    let limits = Limits {
        open_time: Duration::ZERO,
        ..Limits::default()
    };
    assert_eq!(
        flow().open_within(&limits).expect_err("no time"),
        OpenError::Deadline {
            limit: Duration::ZERO
        }
    );
}

#[test]
fn bytes_that_are_no_onnx_file_are_refused() {
    for bytes in [
        &b""[..],
        b"not a model",
        &[0xff; 1000],
        &[0x3a, 0x02, 0x0a, 0x00],
    ] {
        let mut draft = flow();
        draft.model = bytes.to_vec();
        draft.refusal();
    }
    let mut cut = flow();
    cut.model.truncate(9000);
    assert!(
        matches!(cut.refusal(), OpenError::NotOnnx { .. }),
        "{}",
        cut.refusal()
    );
}

#[test]
fn an_altered_or_truncated_bundle_never_gets_as_far_as_the_engine() {
    let bytes = flow().pack();
    let at = bytes.len() / 2;
    let mut altered = bytes.clone();
    altered[at] ^= 1;
    let error = Bundle::read(&altered).expect_err("a digest must not fit");
    assert!(
        error.to_string().contains("the manifest says sha256:"),
        "{error}"
    );
    Bundle::read(&bytes[..at]).expect_err("half a bundle");
}

#[test]
fn weights_that_are_not_finite_give_an_error_and_no_prediction() {
    for poison in [f32::NAN, f32::INFINITY] {
        let add = model(
            1,
            1,
            vec![node("Add", &["features", "w"], "out", vec![])],
            vec![floats("w", &[1], &[poison])],
        );
        let mut session = Draft::score(&add, 1).open().expect("it opens").session();
        let error = session.run(&readings(&[1.0])).expect_err("not finite");
        assert!(
            matches!(
                error,
                RunError::Failed(RunFailure::NotFinite { index: 0, .. })
            ),
            "{error:?}"
        );
    }
}

#[test]
fn an_inference_that_fails_leaves_the_session_fit_for_the_next_window() {
    // The reading chooses an element of a table of three: -1 is the last, 7 is none.
    let nodes = vec![
        node("Cast", &["features"], "index", vec![int("to", 7)]),
        node("Gather", &["table", "index"], "out", vec![int("axis", 0)]),
    ];
    let table = model(
        1,
        1,
        nodes,
        vec![floats("table", &[3], &[10.0, 20.0, 30.0])],
    );
    let mut session = Draft::score(&table, 1).open().expect("it opens").session();
    let mut look = |index: f64| session.run(&readings(&[index]));
    assert_eq!(look(1.0).expect("an element").value, Some(20.0));
    for wrong in [7.0, 1e9, -9.0] {
        let error = look(wrong).expect_err("no such element");
        let failed = matches!(
            error,
            RunError::Failed(RunFailure::Tract { .. } | RunFailure::Panicked { .. })
        );
        assert!(failed, "{error:?}");
        assert_eq!(look(2.0).expect("an element").value, Some(30.0));
    }
}

#[test]
fn an_identity_opens_so_that_the_refusals_above_are_about_what_they_say() {
    let draft = Draft::of(
        &identity(3),
        3,
        3,
        "anomaly",
        json!({"reconstruction": {"threshold": 1.0}}),
    );
    draft
        .open()
        .expect("it opens")
        .check_golden()
        .expect("zeros are zeros");
}
