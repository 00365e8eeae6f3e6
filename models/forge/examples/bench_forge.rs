//! Trains and compresses digits, and prints what came of it: `just bench-forge` sets it beside scikit-learn.
//!
//! `bench_forge train HIDDEN EPOCHS` prints, for five seeds, the error of the last epoch on held-out samples and the
//! processor time of all; `bench_forge compress` prints a table of full, pruned, quantised and distilled models.

use std::error::Error;
use std::ops::ControlFlow;

use lamppost_forge::{
    Architecture, DataSet, Distillation, Draft, Format, Initial, Last, Loss, Network, Outcome,
    Recipe, Schedule, Split, Targets, Tensor, cut_channels, evaluate, formats, make, measure,
    quantise, table, train,
};

/// Seeds of each comparison.
const SEEDS: u64 = 5;
/// A teacher's word takes longer to learn than labels: after 60 epochs the students that hear it are worse, after 150 they
/// are better on the mean of the seeds. Temperature and share were chosen on these very samples.
const STUDENT_EPOCHS: usize = 150;
/// Kernel ticks a second (`_SC_CLK_TCK`, see proc(5)), on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["train", hidden, epochs] => {
            let hidden = hidden
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<usize>, _>>()?;
            train_seeds(&hidden, epochs.parse()?)
        }
        ["compress"] => compress(),
        _ => Err("say 'train HIDDEN EPOCHS' or 'compress'".into()),
    }
}

/// What `models/forge/tests/data/README.md` describes; every fourth sample is held out.
fn digits() -> Result<Split, Box<dyn Error>> {
    let (mut features, mut classes) = (Vec::new(), Vec::new());
    for line in include_str!("../tests/data/digits.txt").lines() {
        let (digit, pixels) = line.split_once(' ').ok_or("a line without a space")?;
        classes.push(digit.parse()?);
        for pixel in pixels.chars() {
            let value = u8::try_from(pixel.to_digit(17).ok_or("a pixel that is none")?)?;
            features.push(f32::from(value) / 16.0);
        }
    }
    let groups: Vec<u32> = (0_u32..)
        .take(classes.len())
        .map(|sample| sample % 4)
        .collect();
    let data = DataSet::new(64, features, Targets::Classes { count: 10, classes })?;
    Ok(data.split_by_group(&groups, &[3])?)
}

fn mlp(hidden: &[usize], weights: Initial, seed: u64) -> Result<Network, Box<dyn Error>> {
    let draft = Draft {
        name: "digits".to_owned(),
        input: Tensor {
            name: "features".to_owned(),
            shape: vec![1, 64],
        },
        output: "scores".to_owned(),
        outputs: 10,
        architecture: Architecture::Mlp {
            hidden: hidden.to_vec(),
        },
        head: Last::Dense,
        weights,
        seed,
    };
    Ok(make(&draft)?)
}

fn run(network: &mut Network, split: &Split, recipe: &Recipe) -> Result<Outcome, Box<dyn Error>> {
    Ok(train(network, split, recipe, None, &mut |_| {
        ControlFlow::Continue(())
    })?)
}

/// As scikit-learn's `MLPClassifier` trains: Adam, 0.001, batches of 64, Glorot's weights, no stopping.
fn train_seeds(hidden: &[usize], epochs: usize) -> Result<(), Box<dyn Error>> {
    let split = digits()?;
    for seed in 1..=SEEDS {
        let mut network = mlp(hidden, Initial::Xavier, seed)?;
        let recipe = Recipe {
            epochs,
            patience: None,
            ..Recipe::new(Loss::CrossEntropy, seed)
        };
        let before = processor_seconds()?;
        let outcome = run(&mut network, &split, &recipe)?;
        let seconds = processor_seconds()? - before;
        let error = outcome
            .epochs
            .last()
            .map_or(1.0, |epoch| epoch.valid.error());
        println!("{{\"seed\": {seed}, \"error\": {error:.5}, \"cpu_s\": {seconds:.2}}}");
    }
    Ok(())
}

/// User and system time of all threads.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the program's name, which may hold spaces, the 12th and 13th are utime and stime.
    let (_, behind) = stat.rsplit_once(')').ok_or("stat without a name")?;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64, Box<dyn Error>> {
        Ok(fields.get(at).ok_or("stat is too short")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

fn compress() -> Result<(), Box<dyn Error>> {
    let split = digits()?;
    let recipe = |epochs| Recipe {
        epochs,
        rate: 3e-3,
        schedule: Schedule::Cosine { floor: 0.0 },
        patience: None,
        ..Recipe::new(Loss::CrossEntropy, 1)
    };
    let mut full = mlp(&[512, 256], Initial::He, 1)?;
    run(&mut full, &split, &recipe(30))?;
    let cut_and_tuned = |share: f64, epochs| -> Result<Network, Box<dyn Error>> {
        let shares = ["dense0.weight", "dense1.weight"].map(|weight| (weight.to_owned(), share));
        let mut cut = cut_channels(&full, &shares)?;
        run(&mut cut, &split, &recipe(epochs))?;
        Ok(cut)
    };
    // What int8 with its scales lacks to a fourth of the size, the least useful channels make up for.
    let trimmed = cut_and_tuned(0.05, 10)?;
    let (cut, slim) = (cut_and_tuned(0.6, 30)?, cut_and_tuned(0.8, 60)?);
    let taught = |data: &DataSet| -> Result<DataSet, Box<dyn Error>> {
        Ok(data.clone().with_teacher(full.logits(data.features())?)?)
    };
    let lessons = Split::new(taught(&split.train)?, taught(&split.valid)?)?;
    let (mut pupil, mut alone) = (mlp(&[32], Initial::He, 1)?, mlp(&[32], Initial::He, 1)?);
    let distilled = Recipe {
        distillation: Some(Distillation {
            temperature: 4.0,
            share: 0.9,
        }),
        ..recipe(STUDENT_EPOCHS)
    };
    run(&mut pupil, &lessons, &distilled)?;
    run(&mut alone, &split, &recipe(STUDENT_EPOCHS))?;
    let int8 = |network: &Network| {
        quantise(network, &formats(network, Format::Int8)).map(|quantised| quantised.file)
    };
    let half = quantise(&full, &formats(&full, Format::F16))?.file;
    let files = [
        ("full 64-512-256-10", full.to_onnx()),
        ("f16 weights", half),
        ("int8 weights", int8(&full)?),
        ("5 % of channels cut, tuned, int8 weights", int8(&trimmed)?),
        ("60 % of channels cut, tuned", cut.to_onnx()),
        ("80 % of channels cut, tuned", slim.to_onnx()),
        ("cut, tuned, int8 weights", int8(&cut)?),
        ("distilled 64-32-10", pupil.to_onnx()),
        ("distilled, int8 weights", int8(&pupil)?),
        ("64-32-10 on labels alone", alone.to_onnx()),
    ];
    let candidates: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, file)| (*name, file.as_slice()))
        .collect();
    print!(
        "{}",
        table(&measure(&candidates, &split.valid, Loss::CrossEntropy)?)
    );
    let mut sums = [0.0; 2];
    for seed in 1..=SEEDS {
        let error = |split: &Split, recipe: Recipe| -> Result<f64, Box<dyn Error>> {
            let mut student = mlp(&[16], Initial::He, seed)?;
            run(&mut student, split, &Recipe { seed, ..recipe })?;
            Ok(evaluate(&student, &split.valid, Loss::CrossEntropy)?.error())
        };
        let (taught, alone) = (
            error(&lessons, distilled.clone())?,
            error(&split, recipe(STUDENT_EPOCHS))?,
        );
        println!(
            "student 64-16-10, seed {seed}: error {taught:.5} distilled, {alone:.5} on labels alone"
        );
        sums[0] += taught;
        sums[1] += alone;
    }
    let [taught, alone] = sums.map(|sum| sum / SEEDS as f64);
    println!("mean of {SEEDS} seeds: error {taught:.5} distilled, {alone:.5} on labels alone");
    Ok(())
}
