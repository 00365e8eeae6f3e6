//! What is wrong gets a clear refusal, before any work, and leaves nothing behind.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::process::Command;

use common::{digits, mlp, recipe, train_quietly};
use lamppost_forge::{
    Architecture, Checkpoint, ClassWeights, DataError, DataSet, Distillation, Draft, Initial, Loss,
    MakeError, Network, OpenError, Optimizer, Recipe, Schedule, Split, Targets, TrainError, make,
    train,
};
use prost::Message as _;
use tract_onnx::pb;

/// The error and all its sources.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").expect("a string");
        source = error.source();
    }
    text
}

#[track_caller]
fn tells(error: &dyn std::error::Error, wanted: &str) {
    let text = told(error);
    assert!(text.contains(wanted), "'{text}' does not say '{wanted}'");
}

/// A model altered and opened.
fn altered(change: impl FnOnce(&mut pb::GraphProto)) -> Result<Network, OpenError> {
    let mut model = pb::ModelProto::decode(mlp(&[8]).to_onnx().as_slice()).expect("a model");
    change(model.graph.as_mut().expect("a graph"));
    Network::open(&model.encode_to_vec())
}

#[test]
fn what_is_not_supported_comes_as_one_list() {
    let error = altered(|graph| {
        graph.node[0].op_type = "QGemm".to_owned();
        graph.node[1].op_type = "TopK".to_owned();
        graph.initializer[3].data_type = pb::tensor_proto::DataType::String as i32;
    })
    .expect_err("it is not supported");
    let OpenError::Unsupported { list } = &error else {
        panic!("{error}");
    };
    assert_eq!(list.len(), 3, "{error}");
    tells(&error, "initialiser 'out.bias': type STRING is not read");
    tells(
        &error,
        "QGemm 'dense0_node': this operator is not supported",
    );
    tells(
        &error,
        "TopK 'relu_dense0_node': this operator is not supported",
    );
}

#[test]
fn files_that_are_no_models_or_have_parts_elsewhere() {
    tells(
        &Network::open(b"no protobuf at all").expect_err("no model"),
        "no ONNX file",
    );
    tells(
        &Network::open(&[]).expect_err("no model"),
        "there is no graph",
    );
    let error = altered(|graph| {
        graph.initializer[0].raw_data.clear();
        graph.initializer[0].data_location = Some(pb::tensor_proto::DataLocation::External as i32);
    });
    tells(&error.expect_err("external"), "its data is in another file");
    let error = altered(|graph| graph.initializer[0].dims[0] = -1);
    tells(&error.expect_err("negative"), "dimension -1 is negative");
    let error = altered(|graph| graph.initializer[0].dims = vec![1 << 40, 1 << 40]);
    tells(&error.expect_err("huge"), "has more than");
    let error = altered(|graph| graph.node[0].input[0] = "nowhere".to_owned());
    tells(
        &error.expect_err("dangling"),
        "its input 'nowhere' comes from nowhere",
    );
    let error = altered(|graph| graph.input.push(graph.input[0].clone()));
    tells(&error.expect_err("two inputs"), "model has 2 inputs");
    let error = altered(|graph| graph.output[0].name = "other".to_owned());
    tells(
        &error.expect_err("no output"),
        "output 'other': no node makes it",
    );
    let error = altered(|graph| {
        graph.node[0].attribute[0].name = "transC".to_owned();
    });
    tells(
        &error.expect_err("an attribute"),
        "attribute 'transC' is not supported",
    );
}

#[test]
fn a_model_whose_samples_are_not_independent() {
    // A softmax over the batch.
    let error = altered(|graph| {
        graph.node[1].op_type = "Softmax".to_owned();
        graph.node[1].attribute = vec![pb::AttributeProto {
            name: "axis".to_owned(),
            i: 0,
            r#type: pb::attribute_proto::AttributeType::Int as i32,
            ..pb::AttributeProto::default()
        }];
    });
    tells(
        &error.expect_err("the batch"),
        "works along axis 0, which is the batch",
    );
    let error = altered(|graph| {
        let pb::type_proto::Value::TensorType(tensor) = graph.input[0]
            .r#type
            .as_mut()
            .expect("a type")
            .value
            .as_mut()
            .expect("a value");
        let dim = &mut tensor.shape.as_mut().expect("a shape").dim[0];
        dim.value = Some(pb::tensor_shape_proto::dimension::Value::DimValue(4));
    });
    tells(
        &error.expect_err("a batch of four"),
        "its batch is 4, it must be 1 or left open",
    );
}

#[test]
fn models_that_would_take_all_memory_or_time() {
    let wide = |size: i64| {
        let file = common::cnn().to_onnx();
        let mut model = pb::ModelProto::decode(file.as_slice()).expect("a model");
        let graph = model.graph.as_mut().expect("a graph");
        let value = graph.input[0]
            .r#type
            .as_mut()
            .and_then(|kind| kind.value.as_mut());
        let Some(pb::type_proto::Value::TensorType(tensor)) = value else {
            panic!("a tensor");
        };
        let dims = &mut tensor.shape.as_mut().expect("a shape").dim;
        for dim in &mut dims[2..] {
            dim.value = Some(pb::tensor_shape_proto::dimension::Value::DimValue(size));
        }
        Network::open(&model.encode_to_vec()).expect_err("too much")
    };
    tells(&wide(2_500), "numbers, the limit is");
    let long = Architecture::Cnn1d {
        filters: vec![1],
        kernel: 9_999,
    };
    let error = make(&common::draft(&[1, 1, 16_000], 2, long)).expect_err("too much");
    tells(&error, "numbers in a sample's windows, the limit is");
    let error = altered(|graph| {
        graph.initializer.push(pb::TensorProto {
            name: "shape".to_owned(),
            dims: vec![2],
            data_type: pb::tensor_proto::DataType::Int64 as i32,
            int64_data: vec![6_000, 6_000],
            ..pb::TensorProto::default()
        });
        for at in 0..3 {
            graph.node.push(pb::NodeProto {
                op_type: "ConstantOfShape".to_owned(),
                input: vec!["shape".to_owned()],
                output: vec![format!("large{at}")],
                ..pb::NodeProto::default()
            });
        }
    });
    tells(
        &error.expect_err("large"),
        "constants take 72000000 numbers, the limit is",
    );
}

#[test]
fn mutated_files_are_refused_or_opened_and_never_panic() {
    let file = common::cnn().to_onnx();
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    // The graph's structure stands at both ends of the file, the weights between.
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..1_500 {
        let mut bytes = file.clone();
        for _ in 0..=next(3) {
            let edge = next(1_500);
            let at = if next(2) == 0 {
                edge
            } else {
                bytes.len() - 1 - edge
            };
            bytes[at] = u8::try_from(next(256)).expect("a byte");
        }
        match Network::open(&bytes) {
            Ok(_) => opened += 1,
            Err(error) => {
                let text = told(&error);
                assert!(
                    !text.contains("panicked")
                        && !text.contains("unwrap")
                        && !text.contains("index out of bounds"),
                    "{text}"
                );
                refused += 1;
            }
        }
    }
    assert!(
        opened > 0 && refused > 0,
        "{opened} opened, {refused} refused"
    );
}

fn classes(count: usize, classes: Vec<u32>) -> Targets {
    Targets::Classes { count, classes }
}

#[test]
fn samples_that_are_none() {
    let values = |values| Targets::Values { width: 1, values };
    let refused =
        |width, features, targets| DataSet::new(width, features, targets).expect_err("no data set");
    tells(&refused(2, vec![], values(vec![])), "has no samples");
    tells(
        &refused(2, vec![1.0, 2.0, f32::NAN, 0.0], values(vec![0.0; 2])),
        "feature 0 of sample 1 is NaN",
    );
    tells(
        &refused(2, vec![1.0; 4], values(vec![0.0, f32::INFINITY])),
        "target 0 of sample 1 is inf",
    );
    tells(
        &refused(2, vec![1.0; 3], values(vec![0.0; 2])),
        "3 features, there must be 4",
    );
    tells(
        &refused(2, vec![1.0; 4], values(vec![0.0; 3])),
        "3 target values, there must be 2",
    );
    tells(
        &refused(2, vec![1.0; 4], classes(3, vec![0, 3])),
        "class of sample 1 is 3, classes are 0 to 2",
    );
    tells(
        &refused(2, vec![1.0; 4], classes(1, vec![0, 0])),
        "1 classes, there must be from 2",
    );
    let set =
        DataSet::new(1, vec![1.0; 8], values((0_u8..8).map(f32::from).collect())).expect("a set");
    tells(
        &set.clone().with_teacher(vec![0.0; 7]).expect_err("seven"),
        "7 teacher's outputs, there must be 8",
    );
    tells(
        &set.split_tail(0.0, 0).expect_err("nothing held out"),
        "held-out split has no samples",
    );
    tells(
        &set.split_tail(0.5, 4).expect_err("nothing left"),
        "training split has no samples",
    );
    tells(
        &set.split_by_time(&[1; 7], 3, 0).expect_err("times"),
        "7 times, there must be 8",
    );
    let constant = DataSet::new(1, vec![1.0; 8], classes(2, vec![1; 8])).expect("a set");
    assert_eq!(
        constant.split_tail(0.5, 0).expect_err("constant"),
        DataError::Constant { samples: 4 }
    );
}

#[test]
fn a_split_by_time_keeps_the_future_out() {
    let times = [70, 10, 20, 80, 30, 40, 60, 50];
    let features: Vec<f32> = times
        .iter()
        .map(|&time| f32::from(u8::try_from(time).expect("small")))
        .collect();
    let targets = Targets::Values {
        width: 1,
        values: features.clone(),
    };
    let split = DataSet::new(1, features, targets)
        .expect("a set")
        .split_by_time(&times, 60, 15)
        .expect("a split");
    assert_eq!(split.train.features(), [10.0, 20.0, 30.0, 40.0]);
    assert_eq!(split.valid.features(), [60.0, 70.0, 80.0]);
}

fn refused(
    network: &mut Network,
    split: &Split,
    recipe: &Recipe,
    checkpoint: Option<Checkpoint<'_>>,
) -> TrainError {
    let before = network.clone();
    let outcome = train(network, split, recipe, checkpoint, &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(
        network.parameters(),
        before.parameters(),
        "a refused training changed the model"
    );
    outcome.expect_err("it should be refused")
}

#[test]
fn samples_that_do_not_suit_the_model_or_the_loss() {
    let split = digits();
    let narrow = DataSet::new(32, vec![0.5; 64], classes(10, vec![0, 1])).expect("a set");
    let narrow = Split::new(narrow.clone(), narrow).expect("a split");
    tells(
        &refused(&mut mlp(&[8]), &narrow, &recipe(1), None),
        "samples have 32 features, the model has 64",
    );
    let few = DataSet::new(64, vec![0.5; 128], classes(9, vec![0, 1])).expect("a set");
    let few = Split::new(few.clone(), few).expect("a split");
    tells(
        &refused(&mut mlp(&[8]), &few, &recipe(1), None),
        "samples have 9 targets, the model has 10",
    );
    let other = Recipe {
        loss: Loss::Mse,
        ..recipe(1)
    };
    tells(
        &refused(&mut mlp(&[8]), &split, &other, None),
        "loss Mse does not fit: the targets are classes",
    );
    let values = Targets::Values {
        width: 10,
        values: (0_u8..20).map(f32::from).collect(),
    };
    let values = DataSet::new(64, vec![0.5; 128], values).expect("a set");
    let values = Split::new(values.clone(), values).expect("a split");
    tells(
        &refused(&mut mlp(&[8]), &values, &recipe(1), None),
        "the targets are values",
    );
    let binary = Recipe {
        loss: Loss::Bce,
        ..recipe(1)
    };
    tells(
        &refused(&mut mlp(&[8]), &values, &binary, None),
        "target of sample 0 is 2, a binary cross-entropy wants 0 to 1",
    );
    let taught = Recipe {
        distillation: Some(Distillation {
            temperature: 2.0,
            share: 0.5,
        }),
        ..recipe(1)
    };
    tells(
        &refused(&mut mlp(&[8]), &split, &taught, None),
        "carry no teacher's outputs",
    );
}

#[test]
fn recipes_out_of_range() {
    let split = digits();
    let sgd = |momentum| Optimizer::Sgd {
        momentum,
        nesterov: false,
        l2: 0.0,
    };
    let bad = [
        (
            Recipe {
                epochs: 0,
                ..recipe(1)
            },
            "epochs is 0",
        ),
        (
            Recipe {
                batch: 0,
                ..recipe(1)
            },
            "batch is 0",
        ),
        (
            Recipe {
                rate: f64::NAN,
                ..recipe(1)
            },
            "rate is NaN",
        ),
        (
            Recipe {
                rate: 0.0,
                ..recipe(1)
            },
            "rate is 0",
        ),
        (
            Recipe {
                patience: Some(0),
                ..recipe(1)
            },
            "patience is 0",
        ),
        (
            Recipe {
                optimizer: sgd(1.0),
                ..recipe(1)
            },
            "momentum is 1",
        ),
        (
            Recipe {
                schedule: Schedule::Step {
                    epochs: 0,
                    factor: 0.5,
                },
                ..recipe(1)
            },
            "epochs of a step is 0",
        ),
        (
            Recipe {
                class_weights: ClassWeights::Given(vec![1.0; 3]),
                ..recipe(1)
            },
            "3 class_weights are given, there are 10 classes",
        ),
        (
            Recipe {
                distillation: Some(Distillation {
                    temperature: 0.0,
                    share: 0.5,
                }),
                ..recipe(1)
            },
            "temperature is 0",
        ),
    ];
    for (recipe, wanted) in bad {
        tells(&refused(&mut mlp(&[8]), &split, &recipe, None), wanted);
    }
}

#[test]
fn trainings_that_cannot_go_well() {
    // A straight line at too high a rate: each step overshoots by more than the last.
    let line = Targets::Values {
        width: 1,
        values: (0_u8..64).map(f32::from).collect(),
    };
    let line = DataSet::new(1, (0_u8..64).map(f32::from).collect(), line)
        .expect("a set")
        .split_tail(0.25, 0)
        .expect("a split");
    let mut straight = make(&common::draft(
        &[1, 1],
        1,
        Architecture::Mlp { hidden: vec![] },
    ))
    .expect("a model");
    let diverging = Recipe {
        rate: 1.0,
        optimizer: Optimizer::Sgd {
            momentum: 0.9,
            nesterov: false,
            l2: 0.0,
        },
        loss: Loss::Mse,
        ..recipe(50)
    };
    tells(
        &refused(&mut straight, &line, &diverging, None),
        "not finite any more in epoch",
    );
    let split = digits();
    let mut frozen = mlp(&[8]);
    frozen
        .freeze(&["dense0.weight", "dense0.bias", "out.weight", "out.bias"])
        .expect("its names");
    tells(
        &refused(&mut frozen, &split, &recipe(1), None),
        "all parameters are frozen",
    );
}

#[test]
fn checkpoints_of_another_training_and_damaged_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint");
    let checkpoint = Some(Checkpoint {
        path: &path,
        every: 1,
    });
    let split = digits();
    let stop = |network: &mut Network| {
        train(network, &split, &recipe(3), checkpoint, &mut |_| {
            ControlFlow::Break(())
        })
    };
    stop(&mut mlp(&[8])).expect("it stops");
    tells(
        &refused(&mut mlp(&[8]), &split, &recipe(4), checkpoint),
        "is of another training",
    );
    tells(
        &refused(&mut mlp(&[9]), &split, &recipe(3), checkpoint),
        "is of another training",
    );
    let good = std::fs::read(&path).expect("a checkpoint");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&path, &bad).expect("a file");
    tells(
        &refused(&mut mlp(&[8]), &split, &recipe(3), checkpoint),
        "its checksum is wrong",
    );
    std::fs::write(&path, &good[..20]).expect("a file");
    tells(
        &refused(&mut mlp(&[8]), &split, &recipe(3), checkpoint),
        "is damaged: it is too short",
    );
    std::fs::write(&path, vec![0; 10_000_000]).expect("a file");
    tells(
        &refused(&mut mlp(&[8]), &split, &recipe(3), checkpoint),
        "it has 10000000 bytes, the limit is",
    );
    std::fs::write(&path, &good).expect("a file");
    train_quietly(&mut mlp(&[8]), &split, &recipe(3), checkpoint);
}

/// Not a test: what the child of the next one runs, in which no file may grow beyond a few blocks.
#[test]
fn child_on_a_full_disk() {
    let Some(folder) = std::env::var_os("LAMPPOST_FORGE_FULL") else {
        return;
    };
    let path = std::path::Path::new(&folder).join("checkpoint");
    let error = refused(
        &mut mlp(&[64]),
        &digits(),
        &recipe(3),
        Some(Checkpoint {
            path: &path,
            every: 1,
        }),
    );
    tells(&error, "cannot write it");
    std::fs::write(path.with_file_name("told"), told(&error)).expect("a short file");
}

#[test]
fn a_full_disk_in_mid_training_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("this program");
    // A limit on the size of files stands for the full disk: writes fail in the same place.
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec '{}' --exact child_on_a_full_disk",
        program.display()
    );
    let run = Command::new("bash")
        .args(["-c", &script])
        .env("LAMPPOST_FORGE_FULL", folder.path())
        .output()
        .expect("bash runs");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stdout)
    );
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["told"]);
}

#[test]
fn drafts_out_of_range() {
    let refused = |change: fn(&mut Draft)| {
        let mut draft = common::draft(&[1, 64], 10, Architecture::Mlp { hidden: vec![8] });
        change(&mut draft);
        make(&draft).expect_err("no model")
    };
    let convolution = |filters: Vec<usize>, kernel| Architecture::Cnn2d {
        filters,
        kernel,
        hidden: vec![],
    };
    tells(
        &refused(|draft| draft.input.shape = vec![2, 64]),
        "input is [2, 64]",
    );
    tells(
        &refused(|draft| draft.outputs = 0),
        "number of outputs is 0",
    );
    tells(
        &refused(|draft| draft.architecture = Architecture::Mlp { hidden: vec![0] }),
        "width of a layer is 0",
    );
    tells(
        &refused(|draft| {
            draft.architecture = Architecture::Mlp {
                hidden: vec![8; 33],
            }
        }),
        "33 layers",
    );
    tells(
        &refused(|draft| draft.architecture = Architecture::Gru { hidden: 4 }),
        "this architecture wants [1, steps, fields]",
    );
    tells(
        &refused(|draft| {
            draft.weights = Initial::Normal {
                mean: 0.0,
                deviation: -1.0,
            }
        }),
        "are no normal distribution",
    );
    let mut draft = common::draft(&[1, 1, 8, 8], 10, convolution(vec![8], 4));
    tells(
        &make(&draft).expect_err("even"),
        "kernel of 4 has no middle",
    );
    draft.architecture = convolution(vec![], 3);
    assert_eq!(
        make(&draft).expect_err("none"),
        MakeError::Layers { found: 0 }
    );
    draft.architecture = convolution(vec![16_384, 16_384], 3);
    tells(&make(&draft).expect_err("large"), "weights or more");
}
