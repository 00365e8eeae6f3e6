//! Data and models of the tests.

#![allow(dead_code, reason = "each test file uses its part")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use lamppost_forge::{
    Architecture, Checkpoint, DataSet, Draft, Initial, Last, Loss, Network, Outcome, Recipe, Split,
    Targets, Tensor, make, train,
};

/// Handwritten digits, pixels from 0 to 1: every fourth is held out.
pub(crate) fn digits() -> Split {
    let text = include_str!("../data/digits.txt");
    let (mut features, mut classes) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (digit, pixels) = line.split_once(' ').expect("a digit and its pixels");
        classes.push(digit.parse().expect("a digit"));
        let pixel = |pixel: char| pixel.to_digit(17).expect("0 to g") as f32 / 16.0;
        features.extend(pixels.chars().map(pixel));
    }
    let data = DataSet::new(64, features, Targets::Classes { count: 10, classes }).expect("digits");
    let groups: Vec<u32> = (0..1797).map(|sample| sample % 4).collect();
    data.split_by_group(&groups, &[3]).expect("two parts")
}

pub(crate) fn draft(shape: &[usize], outputs: usize, architecture: Architecture) -> Draft {
    Draft {
        name: "made".to_owned(),
        input: Tensor {
            name: "features".to_owned(),
            shape: shape.to_vec(),
        },
        output: "scores".to_owned(),
        outputs,
        architecture,
        head: Last::Dense,
        weights: Initial::He,
        seed: 1,
    }
}

/// A perceptron for digits.
pub(crate) fn mlp(hidden: &[usize]) -> Network {
    let hidden = hidden.to_vec();
    make(&draft(&[1, 64], 10, Architecture::Mlp { hidden })).expect("a model")
}

/// A convolutional network for digits.
pub(crate) fn cnn() -> Network {
    let architecture = Architecture::Cnn2d {
        filters: vec![8, 16],
        kernel: 3,
        hidden: vec![32],
    };
    make(&draft(&[1, 1, 8, 8], 10, architecture)).expect("a model")
}

pub(crate) fn recipe(epochs: usize) -> Recipe {
    Recipe {
        epochs,
        rate: 3e-3,
        ..Recipe::new(Loss::CrossEntropy, 7)
    }
}

pub(crate) fn train_quietly(
    network: &mut Network,
    split: &Split,
    recipe: &Recipe,
    checkpoint: Option<Checkpoint<'_>>,
) -> Outcome {
    train(network, split, recipe, checkpoint, &mut |_| {
        ControlFlow::Continue(())
    })
    .expect("it trains")
}

/// Python with onnx and onnxruntime; none where there is none, unless the environment says that there must be.
pub(crate) fn python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/venv/bin/python");
    let found = std::env::var_os("LAMPPOST_TEST_PYTHON").map_or(target, PathBuf::from);
    let works = Command::new(&found)
        .args(["-c", "import onnx, onnxruntime"])
        .output()
        .is_ok_and(|output| output.status.success());
    if works {
        return Some(found);
    }
    assert!(
        std::env::var_os("LAMPPOST_REQUIRE_INTEROP").is_none(),
        "no Python with onnx and onnxruntime at {}",
        found.display()
    );
    println!(
        "SKIPPED: no Python with onnx and onnxruntime at {}; set LAMPPOST_TEST_PYTHON",
        found.display()
    );
    None
}

/// Checks a file with onnx.checker, and runs some samples in onnxruntime; none where there is no Python.
pub(crate) fn onnxruntime(file: &[u8], features: &[f32]) -> Option<Vec<f32>> {
    let python = python()?;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, file).expect("a file");
    let numbers: Vec<u8> = features
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    std::fs::write(folder.path().join("features"), numbers).expect("a file");
    let script = "
import sys, numpy, onnx, onnxruntime
model, features, outputs = sys.argv[1:]
onnx.checker.check_model(onnx.load(model), full_check=True)
session = onnxruntime.InferenceSession(model)
[tensor] = session.get_inputs()
shape = [1, *tensor.shape[1:]]
rows = numpy.fromfile(features, dtype='<f4').reshape(-1, *shape)
made = numpy.concatenate([session.run(None, {tensor.name: row})[0].ravel() for row in rows])
made.astype('<f4').tofile(outputs)
";
    let outputs = folder.path().join("outputs");
    let run = Command::new(python)
        .args(["-c", script])
        .args([&path, &folder.path().join("features"), &outputs])
        .output()
        .expect("Python runs");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let bytes = std::fs::read(outputs).expect("outputs");
    let (numbers, _) = bytes.as_chunks::<4>();
    Some(
        numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    )
}

/// The outputs of tract, sample by sample.
pub(crate) fn tract(file: &[u8], network: &Network, features: &[f32]) -> Vec<f32> {
    use tract_onnx::prelude::{Framework as _, InferenceModelExt, IntoRunnable, tvec};
    let plan = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .model_for_read(&mut &*file)
        .and_then(InferenceModelExt::into_optimized)
        .and_then(IntoRunnable::into_runnable)
        .expect("a model that tract runs");
    let run = |sample: &[f32]| {
        let input = tract_onnx::prelude::Tensor::from_shape(&network.input().shape, sample)
            .expect("an input");
        let output = plan.run(tvec!(input.into())).expect("a run");
        output[0]
            .to_plain_array_view::<f32>()
            .expect("floats")
            .iter()
            .copied()
            .collect::<Vec<f32>>()
    };
    features
        .chunks(network.input().elements())
        .flat_map(run)
        .collect()
}

#[track_caller]
pub(crate) fn assert_close(found: &[f32], wanted: &[f32], within: f32) {
    assert_eq!(found.len(), wanted.len());
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (found - wanted).abs() <= within * (1.0 + wanted.abs()),
            "[{at}] is {found}, not {wanted}"
        );
    }
}
