//! Damaged and hostile files: always an error or a model, never a panic and never a hang.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Draft, Seed, floats, int, ints, longs, model, node};
use lamppost_engine::{Engine, Limits, OpenError};
use lamppost_models::Bundle;

/// Files of each model; four models make four thousand.
const MUTANTS: usize = 1000;
/// What a mutant of these small models may take, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Alters one to eight places by a flipped bit, another byte, a copied, a removed or a doubled stretch.
fn mutate(file: &[u8], seed: &mut Seed) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=seed.below(8) {
        // Half of them where the names, attributes and shapes are, and not the weights.
        let at = if seed.below(2) == 0 {
            seed.below(bytes.len())
        } else {
            structure(&bytes, seed)
        };
        let len = (1 + seed.below(16)).min(bytes.len() - at);
        match seed.below(6) {
            0 | 1 => bytes[at] ^= 1 << seed.below(8),
            2 => bytes[at] = [0x00, 0x01, 0x7f, 0x80, 0xff][seed.below(5)],
            3 => {
                let to = seed.below(bytes.len() - len + 1);
                bytes.copy_within(at..at + len, to);
            }
            4 if bytes.len() > 100 => drop(bytes.drain(at..at + len)),
            _ => {
                let stretch = bytes[at..at + len].to_vec();
                bytes.splice(at..at, stretch);
            }
        }
    }
    bytes
}

/// A place beside a letter, as names have them.
fn structure(bytes: &[u8], seed: &mut Seed) -> usize {
    let start = seed.below(bytes.len());
    let letters = |at: &usize| bytes[*at..].iter().take(4).all(u8::is_ascii_lowercase);
    let name = (start..bytes.len().saturating_sub(4))
        .chain(0..start)
        .find(letters)
        .unwrap_or(start);
    (name + bytes.len() - seed.below(12)) % bytes.len()
}

fn run_all(engine: &Engine, bundle: &Bundle) -> bool {
    let mut session = engine.session();
    let golden = engine.check_golden().is_ok();
    // Results may be anything; what counts is that the calls come back.
    let ran = bundle
        .golden()
        .cases
        .iter()
        .filter(|case| session.run(&case.window).is_ok())
        .count();
    golden && ran > 0
}

fn mutants_of(name: &str, draft: &Draft, seed: u64) {
    let limits = Limits::default();
    let mut seed = Seed(seed);
    let (mut refused, mut panicked, mut opened, mut good) = (0, 0, 0, 0);
    for number in 0..MUTANTS {
        let mutant = Draft {
            model: mutate(&draft.model, &mut seed),
            ..draft.clone()
        };
        let bundle = mutant.bundle();
        let start = Instant::now();
        match Engine::open(&bundle, &limits) {
            Ok(engine) => {
                opened += 1;
                good += usize::from(run_all(&engine, &bundle));
            }
            Err(error) => {
                refused += 1;
                panicked += usize::from(matches!(error, OpenError::Panicked { .. }));
                assert!(!error.to_string().is_empty());
            }
        }
        assert!(
            start.elapsed() < PATIENCE,
            "mutant {number} of {name} took {:?}",
            start.elapsed()
        );
    }
    println!(
        "{name}: {refused} refused ({panicked} by a panic within), {opened} opened, {good} of them reproduce the golden vectors"
    );
    // Both ends are reached, or this would test one of them alone.
    assert!(
        refused > MUTANTS / 10 && opened > MUTANTS / 100,
        "{refused} refused, {opened} opened"
    );
}

#[test]
fn mutants_of_traffic_flow_never_panic_or_hang() {
    mutants_of(
        "traffic-flow",
        &Draft::zoo("traffic-flow", "1.0.0"),
        0x9e37_79b9_7f4a_7c15,
    );
}

#[test]
fn mutants_of_traffic_level_never_panic_or_hang() {
    mutants_of(
        "traffic-level",
        &Draft::zoo("traffic-level", "1.0.0"),
        0xd1b5_4a32_d192_ed03,
    );
}

#[test]
fn mutants_of_air_quality_never_panic_or_hang() {
    mutants_of(
        "air-quality",
        &Draft::zoo("air-quality", "1.0.0"),
        0x8cb9_2ba7_2f3d_8dd7,
    );
}

/// A network with the operators that the zoo does not have: their attributes are what a hostile file plays with.
fn convolution() -> Draft {
    let weights = |count: usize| {
        (0..count)
            .map(|at| 0.1 * (at % 7) as f32 - 0.3)
            .collect::<Vec<_>>()
    };
    let nodes = vec![
        node("Reshape", &["features", "image_shape"], "image", vec![]),
        node("Pad", &["image", "pads"], "padded", vec![]),
        node(
            "Conv",
            &["padded", "kernel"],
            "maps",
            vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[1, 1])],
        ),
        node(
            "MaxPool",
            &["maps"],
            "pooled",
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        ),
        node(
            "Transpose",
            &["pooled"],
            "turned",
            vec![ints("perm", &[0, 2, 3, 1])],
        ),
        node("Slice", &["turned", "start", "end", "axis"], "cut", vec![]),
        node("Flatten", &["cut"], "flat", vec![int("axis", 1)]),
        node("MatMul", &["flat", "dense"], "sum", vec![]),
        node("Softmax", &["sum"], "soft", vec![int("axis", 1)]),
        node(
            "ReduceMax",
            &["soft"],
            "out",
            vec![ints("axes", &[1]), int("keepdims", 1)],
        ),
    ];
    let initialisers = vec![
        longs("image_shape", &[4], &[1, 1, 6, 6]),
        longs("pads", &[8], &[0, 0, 1, 1, 0, 0, 1, 1]),
        floats("kernel", &[2, 1, 3, 3], &weights(18)),
        longs("start", &[1], &[0]),
        longs("end", &[1], &[3]),
        longs("axis", &[1], &[1]),
        floats("dense", &[24, 5], &weights(120)),
    ];
    let mut draft = Draft::score(&model(36, 1, nodes, initialisers), 36);
    draft.manifest["golden"]["abs_tolerance"] = serde_json::json!(1.0);
    draft
}

#[test]
fn the_convolution_is_sound_before_it_is_mutated() {
    let draft = convolution();
    draft
        .open()
        .expect("it opens")
        .check_golden()
        .expect("it runs");
}

#[test]
fn mutants_of_a_convolution_never_panic_or_hang() {
    mutants_of("convolution", &convolution(), 0x4be9_8134_a597_6fd3);
}
