//! Models made from nothing learn, reproducibly, and leave as ONNX that others run.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{assert_close, cnn, digits, draft, mlp, onnxruntime, recipe, tract, train_quietly};
use lamppost_forge::{
    Architecture, Checkpoint, ClassWeights, DataSet, Ended, Loss, Network, Optimizer, Recipe,
    Schedule, Split, Targets, curve_csv, curve_svg, evaluate, make, train,
};

/// How long a child of a test may take.
const DEADLINE: Duration = Duration::from_mins(2);

#[test]
fn a_perceptron_learns_digits_and_leaves_as_onnx() {
    let split = digits();
    let mut network = mlp(&[64]);
    let before = evaluate(&network, &split.valid, Loss::CrossEntropy).expect("a measure");
    assert!(before.accuracy < Some(0.2), "{before:?}");
    let outcome = train_quietly(&mut network, &split, &recipe(60), None);
    println!(
        "{} epochs, best {}: {:?}",
        outcome.epochs.len(),
        outcome.best_epoch,
        outcome.valid
    );
    assert!(outcome.valid.accuracy > Some(0.95), "{:?}", outcome.valid);
    // What remains is the best epoch's, also in the file.
    let file = network.to_onnx();
    let again = Network::open(&file).expect("its own file");
    assert_eq!(
        evaluate(&again, &split.valid, Loss::CrossEntropy).expect("a measure"),
        outcome.valid
    );
    let samples = &split.valid.features()[..64 * 20];
    let ours = again.predict(samples).expect("outputs");
    assert_close(&tract(&file, &again, samples), &ours, 1e-4);
    if let Some(theirs) = onnxruntime(&file, samples) {
        assert_close(&theirs, &ours, 1e-4);
    }
}

#[test]
fn a_convolutional_network_learns_digits() {
    let split = digits();
    let mut network = cnn();
    let recipe = Recipe {
        schedule: Schedule::Cosine { floor: 0.0 },
        warm_up_steps: 10,
        rate: 6e-3,
        ..recipe(12)
    };
    let outcome = train_quietly(&mut network, &split, &recipe, None);
    println!("{:?}", outcome.valid);
    assert!(outcome.valid.accuracy > Some(0.95), "{:?}", outcome.valid);
    let file = network.to_onnx();
    let samples = &split.valid.features()[..64 * 20];
    let ours = network.predict(samples).expect("outputs");
    assert_close(&tract(&file, &network, samples), &ours, 1e-4);
    if let Some(theirs) = onnxruntime(&file, samples) {
        assert_close(&theirs, &ours, 1e-4);
    }
}

/// Which of three frequencies a wave of 24 steps has.
fn waves() -> Split {
    let (mut features, mut classes) = (Vec::new(), Vec::new());
    for sample in 0..600_u32 {
        let class = sample * 7 % 3;
        let phase = sample as f32 * 0.37;
        features.extend(
            (0_u8..24)
                .map(|step| (f32::from(step) * [0.3, 0.6, 1.1][class as usize] + phase).sin()),
        );
        classes.push(class);
    }
    let data = DataSet::new(24, features, Targets::Classes { count: 3, classes }).expect("waves");
    data.split_tail(0.25, 0).expect("two parts")
}

#[test]
fn sequences_are_learnt_by_a_1d_cnn_and_a_gru() {
    let cnn = Architecture::Cnn1d {
        filters: vec![8, 16],
        kernel: 5,
    };
    for (shape, architecture, epochs) in [
        ([1, 1, 24], cnn, 15),
        ([1, 24, 1], Architecture::Gru { hidden: 12 }, 15),
    ] {
        let split = waves();
        let mut network = make(&draft(&shape, 3, architecture.clone())).expect("a model");
        let recipe = Recipe {
            rate: 1e-2,
            clip_norm: Some(1.0),
            ..recipe(epochs)
        };
        let outcome = train_quietly(&mut network, &split, &recipe, None);
        println!("{architecture:?}: {:?}", outcome.valid);
        assert!(
            outcome.valid.accuracy > Some(0.9),
            "{architecture:?}: {outcome:?}"
        );
        let file = network.to_onnx();
        let samples = &split.valid.features()[..24 * 10];
        let ours = network.predict(samples).expect("outputs");
        assert_close(&tract(&file, &network, samples), &ours, 1e-4);
        if let Some(theirs) = onnxruntime(&file, samples) {
            assert_close(&theirs, &ours, 1e-4);
        }
    }
}

/// `y = 3 a - 2 b + 1`, with some noise.
fn plane() -> Split {
    let (mut features, mut values) = (Vec::new(), Vec::new());
    for sample in 0..400_u16 {
        let (a, b) = (
            (f32::from(sample) * 0.7).sin(),
            (f32::from(sample) * 1.3).cos(),
        );
        features.extend([a, b]);
        values.push(3.0 * a - 2.0 * b + 1.0 + 0.01 * (f32::from(sample) * 17.0).sin());
    }
    let data = DataSet::new(2, features, Targets::Values { width: 1, values }).expect("a plane");
    data.split_tail(0.25, 0).expect("two parts")
}

#[test]
fn a_plane_is_found_by_each_loss_and_optimiser() {
    let sgd = Optimizer::Sgd {
        momentum: 0.9,
        nesterov: true,
        l2: 0.0,
    };
    let adamw = Optimizer::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        decay: 1e-4,
    };
    for loss in [Loss::Mse, Loss::Mae, Loss::Huber { delta: 0.5 }] {
        for (optimizer, rate) in [(sgd, 0.01), (Optimizer::adam(), 0.05), (adamw, 0.05)] {
            let split = plane();
            let mut network =
                make(&draft(&[1, 2], 1, Architecture::Mlp { hidden: vec![] })).expect("a model");
            let recipe = Recipe {
                batch: 32,
                optimizer,
                rate,
                schedule: Schedule::Cosine { floor: 0.0 },
                ..Recipe::new(loss, 1)
            };
            let outcome = train_quietly(&mut network, &split, &recipe, None);
            assert!(
                outcome.valid.mae < Some(0.02),
                "{loss:?} {optimizer:?}: {:?}",
                outcome.valid
            );
            let weights = &network.parameters()[0].values;
            assert_close(weights, &[3.0, -2.0], 0.02);
        }
    }
}

#[test]
fn binary_cross_entropy_with_and_without_a_sigmoid() {
    let split = plane();
    let classed = |data: &DataSet| {
        let Targets::Values { values, .. } = data.targets() else {
            panic!("values");
        };
        let values = values.iter().map(|&value| f32::from(value > 1.0)).collect();
        DataSet::new(
            2,
            data.features().to_vec(),
            Targets::Values { width: 1, values },
        )
        .expect("a set")
    };
    let split = Split::new(classed(&split.train), classed(&split.valid)).expect("a split");
    for head in [lamppost_forge::Last::Dense, lamppost_forge::Last::Sigmoid] {
        let mut draft = draft(&[1, 2], 1, Architecture::Mlp { hidden: vec![8] });
        draft.head = head;
        let mut network = make(&draft).expect("a model");
        let recipe = Recipe {
            rate: 0.02,
            ..Recipe::new(Loss::Bce, 1)
        };
        let outcome = train_quietly(&mut network, &split, &recipe, None);
        assert!(
            outcome.valid.accuracy > Some(0.97),
            "{head:?}: {:?}",
            outcome.valid
        );
    }
}

#[test]
fn rare_classes_count_more_when_weights_are_balanced() {
    // One class in twenty, and features that overlap.
    let (mut features, mut classes) = (Vec::new(), Vec::new());
    for sample in 0..2_000_u16 {
        let rare = sample % 20 == 0;
        features.push((f32::from(sample) * 0.618).sin() + if rare { 1.0 } else { 0.0 });
        classes.push(u32::from(rare));
    }
    let split = DataSet::new(1, features, Targets::Classes { count: 2, classes })
        .expect("a set")
        .split_tail(0.25, 0)
        .expect("a split");
    let recall = |class_weights| {
        let mut network =
            make(&draft(&[1, 1], 2, Architecture::Mlp { hidden: vec![8] })).expect("a model");
        let recipe = Recipe {
            class_weights,
            patience: None,
            rate: 1e-2,
            ..recipe(10)
        };
        train_quietly(&mut network, &split, &recipe, None);
        let scores = network.predict(split.valid.features()).expect("scores");
        let Targets::Classes { classes, .. } = split.valid.targets() else {
            panic!("classes");
        };
        let found = scores
            .chunks(2)
            .zip(classes)
            .filter(|(scores, class)| **class == 1 && scores[1] > scores[0])
            .count();
        found as f64 / classes.iter().filter(|&&class| class == 1).count() as f64
    };
    let (equal, balanced) = (recall(ClassWeights::Equal), recall(ClassWeights::Balanced));
    assert!(
        balanced > equal + 0.3,
        "recall {equal} with equal weights, {balanced} balanced"
    );
}

#[test]
fn training_ends_early_and_keeps_the_best_epoch() {
    let split = digits();
    let mut network = mlp(&[32]);
    let recipe = Recipe {
        patience: Some(2),
        rate: 0.05,
        ..recipe(500)
    };
    let outcome = train_quietly(&mut network, &split, &recipe, None);
    assert_eq!(outcome.ended, Ended::Early);
    assert_eq!(outcome.epochs.len(), outcome.best_epoch + 2);
    let lowest = outcome
        .epochs
        .iter()
        .map(|epoch| epoch.valid.loss)
        .fold(f64::INFINITY, f64::min);
    assert_eq!(outcome.valid.loss.to_bits(), lowest.to_bits());
    assert_eq!(
        evaluate(&network, &split.valid, Loss::CrossEntropy)
            .expect("a measure")
            .loss
            .to_bits(),
        lowest.to_bits()
    );
    let csv = curve_csv(&outcome);
    assert_eq!(csv.lines().count(), outcome.epochs.len() + 1);
    assert_eq!(
        csv.lines().next(),
        Some("epoch,rate,train_loss,valid_loss,valid_accuracy,valid_mae,valid_rmse")
    );
    let svg = curve_svg(&outcome, "digits <&>");
    assert!(
        svg.starts_with("<svg")
            && svg.contains("digits &lt;&amp;&gt;")
            && svg.contains(&format!("best: epoch {}", outcome.best_epoch))
    );
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn frozen_parameters_stay_and_others_move() {
    let split = digits();
    let mut network = mlp(&[16]);
    network
        .freeze(&["dense0.weight", "dense0.bias"])
        .expect("its names");
    let before = network.clone();
    train_quietly(&mut network, &split, &recipe(1), None);
    for (was, is) in before.parameters().iter().zip(network.parameters()) {
        assert_eq!(
            was.values == is.values,
            was.name.starts_with("dense0"),
            "{}",
            was.name
        );
    }
    let error = network.freeze(&["nothing"]).expect_err("no such name");
    assert!(
        error
            .to_string()
            .contains("'nothing'; there are dense0.weight"),
        "{error}"
    );
}

fn determined(checkpoint: Option<Checkpoint<'_>>) -> Vec<u8> {
    let mut network = cnn();
    let recipe = Recipe {
        schedule: Schedule::Cosine { floor: 0.1 },
        ..recipe(4)
    };
    train_quietly(&mut network, &digits(), &recipe, checkpoint);
    network.to_onnx()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_others() {
    assert_eq!(determined(None), determined(None));
    let (mut one, mut other) = (mlp(&[16]), mlp(&[16]));
    let split = digits();
    train_quietly(&mut one, &split, &recipe(1), None);
    train_quietly(
        &mut other,
        &split,
        &Recipe {
            seed: 8,
            ..recipe(1)
        },
        None,
    );
    assert_ne!(one.to_onnx(), other.to_onnx());
}

/// Starts this test program again, to run `name` alone with `folder` in its environment.
fn child(name: &str, folder: &Path, threads: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env("LAMPPOST_FORGE_CHILD", folder)
        .env("RAYON_NUM_THREADS", threads)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child")
}

/// Not a test: what the children of the next two run; without a parent it does nothing.
#[test]
fn child_that_trains() {
    let Some(folder) = std::env::var_os("LAMPPOST_FORGE_CHILD") else {
        return;
    };
    let folder = Path::new(&folder);
    let path = folder.join("checkpoint");
    let bytes = determined(Some(Checkpoint {
        path: &path,
        every: 1,
    }));
    lamppost_forge::write_whole(&folder.join("model.onnx"), &bytes).expect("a file");
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, model) = (
        folder.path().join("checkpoint"),
        folder.path().join("model.onnx"),
    );
    let (start, mut kills, mut seen) = (Instant::now(), 0, None);
    let mut running = child("child_that_trains", folder.path(), "2");
    while !model.exists() {
        assert!(start.elapsed() < DEADLINE, "not done after {kills} kills");
        let now = std::fs::read(&path).ok();
        if now.is_some() && now != seen && kills < 2 {
            // An epoch has been written: kill it in the next.
            running.kill().expect("SIGKILL");
            running.wait().expect("its end");
            kills += 1;
            seen = std::fs::read(&path).ok();
            running = child("child_that_trains", folder.path(), "2");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(running.wait().expect("its end").success());
    assert_eq!(kills, 2);
    assert!(
        std::fs::read(&model).expect("a model") == determined(None),
        "other bytes after {kills} kills"
    );
    assert!(!path.exists(), "a checkpoint is left");
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() {
    let models = ["1", "2"].map(|threads| {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(
            child("child_that_trains", folder.path(), threads)
                .wait()
                .expect("its end")
                .success()
        );
        std::fs::read(folder.path().join("model.onnx")).expect("a model")
    });
    assert!(models[0] == models[1]);
}

#[test]
fn a_stopped_training_keeps_its_checkpoint_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint");
    let checkpoint = Some(Checkpoint {
        path: &path,
        every: 100,
    });
    let (split, recipe) = (digits(), recipe(3));
    let mut whole = mlp(&[16]);
    train_quietly(&mut whole, &split, &recipe, None);
    let mut network = mlp(&[16]);
    let outcome = train(&mut network, &split, &recipe, checkpoint, &mut |_| {
        ControlFlow::Break(())
    })
    .expect("it stops");
    assert_eq!((outcome.ended, outcome.epochs.len()), (Ended::Stopped, 1));
    let mut again = mlp(&[16]);
    let outcome = train_quietly(&mut again, &split, &recipe, checkpoint);
    assert_eq!((outcome.ended, outcome.epochs.len()), (Ended::Finished, 3));
    assert!(again.to_onnx() == whole.to_onnx());
    assert!(!path.exists());
}
