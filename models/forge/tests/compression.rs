//! Compressed models: what they keep to, in the engine that nodes run.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::sync::OnceLock;

use common::{assert_close, cnn, digits, draft, mlp, onnxruntime, recipe, tract, train_quietly};
use lamppost_forge::{
    Architecture, CompressError, Distillation, Format, Loss, Network, Recipe, Split, Terms, adapt,
    cut_channels, evaluate, formats, make, measure, prunable, prune, quantise, scan, scan_csv,
    scan_svg, sparsity_by_scan, table,
};
use prost::Message as _;
use tract_onnx::pb;

const LOSS: Loss = Loss::CrossEntropy;

/// A trained perceptron and its samples.
fn trained() -> &'static (Network, Split) {
    static TRAINED: OnceLock<(Network, Split)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let split = digits();
        let mut network = mlp(&[128, 64]);
        train_quietly(&mut network, &split, &recipe(25), None);
        (network, split)
    })
}

/// The same outputs here, in tract and in onnxruntime.
#[track_caller]
fn runs_everywhere(file: &[u8], samples: &[f32]) -> Network {
    let network = Network::open(file).expect("it opens");
    let ours = network.predict(samples).expect("outputs");
    assert_close(&tract(file, &network, samples), &ours, 1e-4);
    if let Some(theirs) = onnxruntime(file, samples) {
        assert_close(&theirs, &ours, 1e-4);
    }
    network
}

#[test]
fn weights_in_int8_are_a_fourth_and_in_half_precision_a_half() {
    let (network, split) = trained();
    let full = network.to_onnx();
    let samples = &split.valid.features()[..64 * 20];
    let before = evaluate(network, &split.valid, LOSS).expect("a measure");
    for (format, smaller, worse) in [(Format::Int8, 3.4, 0.01), (Format::F16, 1.9, 0.003)] {
        let quantised = quantise(network, &formats(network, format)).expect("it is quantised");
        assert_eq!(quantised.layers.len(), 3);
        let factor = full.len() as f64 / quantised.file.len() as f64;
        let after = evaluate(
            &runs_everywhere(&quantised.file, samples),
            &split.valid,
            LOSS,
        )
        .expect("a measure");
        println!(
            "{format:?}: {factor:.2} times smaller, {:?} to {:?}",
            before.accuracy, after.accuracy
        );
        assert!(factor > smaller, "{format:?}: {factor} times smaller");
        assert!(
            after
                .accuracy
                .zip(before.accuracy)
                .is_some_and(|(after, before)| after > before - worse),
            "{after:?}"
        );
    }
}

#[test]
fn convolutions_and_sequences_are_quantised_by_channel() {
    let gru = make(&draft(&[1, 8, 8], 10, Architecture::Gru { hidden: 16 })).expect("a model");
    for network in [cnn(), gru] {
        for format in [Format::Int8, Format::F16] {
            let quantised =
                quantise(&network, &formats(&network, format)).expect("it is quantised");
            assert!(quantised.layers.len() >= 3, "{:?}", quantised.layers);
            let samples = &trained().1.valid.features()[..64 * 5];
            let after = runs_everywhere(&quantised.file, samples)
                .predict(samples)
                .expect("outputs");
            let before = network.predict(samples).expect("outputs");
            let largest = before
                .iter()
                .fold(0.0_f32, |largest, number| largest.max(number.abs()));
            for (after, before) in after.iter().zip(&before) {
                assert!(
                    (after - before).abs() < 0.05 * largest,
                    "{format:?}: {before} became {after}"
                );
            }
        }
    }
}

#[test]
fn a_channels_own_scale_keeps_small_channels() {
    // One channel a thousand times the others: by tensor they would all become 0.
    let mut network =
        make(&draft(&[1, 16], 8, Architecture::Mlp { hidden: vec![] })).expect("a model");
    let mut model = pb::ModelProto::decode(network.to_onnx().as_slice()).expect("a model");
    let weight = &mut model.graph.as_mut().expect("a graph").initializer[0];
    for (at, bytes) in weight
        .raw_data
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .enumerate()
    {
        *bytes = (f32::from_le_bytes(*bytes) * if at / 16 == 3 { 1e3 } else { 1.0 }).to_le_bytes();
    }
    network = Network::open(&model.encode_to_vec()).expect("a model");
    let weights = network.parameters()[0].values.clone();
    let quantised = quantise(&network, &formats(&network, Format::Int8)).expect("it is quantised");
    let back = tract(&quantised.file, &network, &identity(16));
    for (at, &found) in back.iter().enumerate() {
        let (column, row) = (at / 8, at % 8);
        let wanted = weights[row * 16 + column];
        let largest = weights[row * 16..][..16]
            .iter()
            .fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        assert!(
            (found - wanted).abs() <= 0.5001 * largest / 127.0,
            "row {row}: {wanted} became {found}"
        );
    }
}

fn identity(size: usize) -> Vec<f32> {
    (0..size * size)
        .map(|at| if at / size == at % size { 1.0 } else { 0.0 })
        .collect()
}

#[test]
fn adapting_keeps_within_the_loss_that_is_allowed() {
    let (network, split) = trained();
    let base = evaluate(network, &split.valid, LOSS)
        .expect("a measure")
        .error();
    for max_loss in [0.0, 0.2] {
        let adapted = adapt(network, &split.valid, LOSS, max_loss).expect("it is adapted");
        assert!(
            adapted.quality.error() <= base * (1.0 + max_loss),
            "{:?}",
            adapted.quality
        );
        assert_eq!(adapted.sensitivity.len(), 3);
        let errors: Vec<f64> = adapted
            .sensitivity
            .iter()
            .map(|(_, quality)| quality.error())
            .collect();
        assert!(errors.is_sorted_by(|one, other| one >= other), "{errors:?}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let network = mlp(&[8]);
    let named =
        |name: &str, format| quantise(&network, &[(name.to_owned(), format)]).expect_err("refused");
    assert!(
        named("nothing", Format::Int8)
            .to_string()
            .contains("'nothing' is no weight that this can be done to; there are dense0.weight")
    );
    assert!(
        named("out.bias", Format::Int8)
            .to_string()
            .contains("'out.bias' is no weight")
    );
    let mut model = pb::ModelProto::decode(network.to_onnx().as_slice()).expect("a model");
    model.graph.as_mut().expect("a graph").initializer[0].raw_data[..4]
        .copy_from_slice(&1e6_f32.to_le_bytes());
    let large = Network::open(&model.encode_to_vec()).expect("a model");
    let error = quantise(&large, &formats(&large, Format::F16)).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("holds 1000000, which half precision does not"),
        "{error}"
    );
    model.opset_import[0].version = 11;
    let old = Network::open(&model.encode_to_vec()).expect("a model");
    assert!(matches!(
        quantise(&old, &formats(&old, Format::Int8)),
        Err(CompressError::Opset { opset: 11, .. })
    ));
}

#[test]
fn pruned_weights_stay_0_in_training_which_wins_the_quality_back() {
    let (network, split) = trained();
    let mut network = network.clone();
    let base = evaluate(&network, &split.valid, LOSS).expect("a measure");
    let shares: Vec<(String, f64)> = formats(&network, Format::F32)
        .into_iter()
        .map(|(name, _)| (name, 0.85))
        .collect();
    prune(&mut network, &shares).expect("it is pruned");
    let pruned = evaluate(&network, &split.valid, LOSS).expect("a measure");
    train_quietly(&mut network, split, &recipe(15), None);
    let tuned = evaluate(&network, &split.valid, LOSS).expect("a measure");
    println!(
        "accuracy {:?}, pruned {:?}, tuned {:?}",
        base.accuracy, pruned.accuracy, tuned.accuracy
    );
    assert!(pruned.accuracy < base.accuracy && pruned.accuracy < tuned.accuracy);
    assert!(tuned.accuracy > Some(0.93), "{tuned:?}");
    for (name, share) in shares {
        let parameter = network
            .parameters()
            .iter()
            .find(|parameter| parameter.name == name)
            .expect("its weight");
        let zeros = parameter
            .values
            .iter()
            .filter(|value| value.to_bits() << 1 == 0)
            .count() as f64;
        let count = parameter.values.len() as f64;
        assert!(
            (zeros / count - share).abs() < 0.01,
            "{name}: {zeros} of {count}"
        );
    }
    assert!(prune(&mut network, &[("out.weight".to_owned(), 1.0)]).is_err());
    assert!(prune(&mut network, &[("out.bias".to_owned(), 0.5)]).is_err());
}

#[test]
fn a_scan_tells_which_weight_takes_what() {
    let (network, split) = trained();
    let base = evaluate(network, &split.valid, LOSS).expect("a measure");
    let points = scan(network, &split.valid, LOSS, &[0.3, 0.6, 0.95]).expect("a scan");
    assert_eq!(points.len(), 9);
    for weight in points.chunks(3) {
        assert!(
            weight[2].quality.loss > weight[0].quality.loss,
            "{weight:?}"
        );
    }
    let shares = sparsity_by_scan(&points, &base, 0.5);
    assert!(shares.iter().all(|(_, share)| *share < 0.95), "{shares:?}");
    assert_eq!(scan_csv(&points).lines().count(), 10);
    let svg = scan_svg(&points, "sensitivity");
    assert_eq!(svg.matches("<polyline").count(), 3);
    assert!(
        svg.contains("dense0.weight") && !svg.contains("NaN"),
        "{svg}"
    );
}

/// A cut of half of the channels runs everywhere, one of none changes nothing.
#[track_caller]
fn cuts_cleanly(network: &Network, name: &str, samples: &[f32]) {
    let cut = cut_channels(network, &[(name.to_owned(), 0.5)]).expect("it is cut");
    // A cut of nothing is the same model.
    let same = cut_channels(network, &[(name.to_owned(), 0.0)]).expect("it is cut");
    assert_close(
        &same.predict(samples).expect("outputs"),
        &network.predict(samples).expect("outputs"),
        1e-6,
    );
    assert!(cut.parameter_count() < network.parameter_count());
    runs_everywhere(&cut.to_onnx(), samples);
}

#[test]
fn channels_are_cut_through_everything_between_two_products() {
    let samples = &trained().1.valid.features()[..64 * 5];
    let network = cnn();
    let names: Vec<String> = prunable(&network)
        .into_iter()
        .map(|weight| weight.name)
        .collect();
    assert_eq!(names, ["conv0.weight", "conv1.weight", "dense0.weight"]);
    for name in &names {
        cuts_cleanly(&network, name, samples);
    }
    let error = cut_channels(&network, &[("out.weight".to_owned(), 0.5)]).expect_err("the output");
    assert!(
        error.to_string().contains("they reach the output"),
        "{error}"
    );
    assert!(cut_channels(&network, &[("conv0.weight".to_owned(), 1.0)]).is_err());
}

#[test]
fn cutting_channels_that_do_nothing_changes_nothing() {
    // Half of the neurons give nothing on to the next layer, and have the smallest weights: cutting them is exact.
    let network = mlp(&[16, 8]);
    let mut model = pb::ModelProto::decode(network.to_onnx().as_slice()).expect("a model");
    let graph = model.graph.as_mut().expect("a graph");
    let mut alter = |name: &str, change: &dyn Fn(usize) -> bool, factor: f32| {
        let tensor = graph
            .initializer
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .expect("a weight");
        for (at, bytes) in tensor
            .raw_data
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .enumerate()
        {
            if change(at) {
                *bytes = (f32::from_le_bytes(*bytes) * factor).to_le_bytes();
            }
        }
    };
    alter("dense0.weight", &|at| at / 64 % 2 == 0, 1e-3);
    alter("dense1.weight", &|at| at % 16 % 2 == 0, 0.0);
    let network = Network::open(&model.encode_to_vec()).expect("a model");
    let cut = cut_channels(&network, &[("dense0.weight".to_owned(), 0.5)]).expect("it is cut");
    assert_eq!(cut.parameters()[0].shape, [8, 64]);
    let samples = &trained().1.valid.features()[..64 * 20];
    assert_close(
        &cut.predict(samples).expect("outputs"),
        &network.predict(samples).expect("outputs"),
        1e-6,
    );
}

#[test]
fn a_cut_and_tuned_model_is_smaller_and_faster_in_the_engine() {
    let (_, split) = trained();
    let mut network = mlp(&[512, 256]);
    train_quietly(&mut network, split, &recipe(12), None);
    let full = network.to_onnx();
    let shares = [
        ("dense0.weight".to_owned(), 0.6),
        ("dense1.weight".to_owned(), 0.6),
    ];
    let mut cut = cut_channels(&network, &shares).expect("it is cut");
    train_quietly(&mut cut, split, &recipe(12), None);
    let small = cut.to_onnx();
    let packed = quantise(&cut, &formats(&cut, Format::Int8)).expect("it is quantised");
    let measures = measure(
        &[
            ("full", &full),
            ("cut", &small),
            ("cut, int8", &packed.file),
        ],
        &split.valid,
        LOSS,
    )
    .expect("measures");
    println!("{}", table(&measures));
    assert!(small.len() * 2 < full.len() && packed.file.len() * 3 < small.len());
    assert!(
        measures[1].quality.accuracy > Some(0.95),
        "{:?}",
        measures[1]
    );
    // Latency is printed and not asserted: other work on the machine decides it too.
    let terms = Terms {
        max_loss: 10.0,
        min_speedup: 0.0,
    };
    let objections = terms.objections(&measures[0], &measures[1]);
    assert!(objections.is_empty(), "{objections:?}");
    let strict = Terms {
        max_loss: -1.0,
        min_speedup: 1e6,
    };
    let objections = strict.objections(&measures[0], &measures[1]);
    assert_eq!(objections.len(), 2, "{objections:?}");
    assert!(
        objections[1].contains("it must be 1000000"),
        "{objections:?}"
    );
}

#[test]
fn a_student_learns_from_its_teachers_logits() {
    let (teacher, split) = trained();
    let taught = |data: &lamppost_forge::DataSet| {
        data.clone()
            .with_teacher(teacher.logits(data.features()).expect("logits"))
            .expect("as many")
    };
    // The teacher's word alone, no label: the student comes to agree with it.
    let split = Split::new(taught(&split.train), taught(&split.valid)).expect("a split");
    let mut student = mlp(&[8]);
    let recipe = Recipe {
        distillation: Some(Distillation {
            temperature: 3.0,
            share: 1.0,
        }),
        ..recipe(40)
    };
    let outcome = train_quietly(&mut student, &split, &recipe, None);
    println!("student {:?}", outcome.valid.accuracy);
    assert!(outcome.valid.accuracy > Some(0.9), "{:?}", outcome.valid);
    let largest = |scores: &[f32]| {
        (0..scores.len()).max_by(|&one, &other| scores[one].total_cmp(&scores[other]))
    };
    let (ours, theirs) = (
        student.predict(split.valid.features()).expect("outputs"),
        teacher.predict(split.valid.features()).expect("outputs"),
    );
    let agree = ours
        .chunks(10)
        .zip(theirs.chunks(10))
        .filter(|(ours, theirs)| largest(ours) == largest(theirs))
        .count();
    assert!(
        agree * 10 > split.valid.len() * 9,
        "{agree} of {}",
        split.valid.len()
    );
}
