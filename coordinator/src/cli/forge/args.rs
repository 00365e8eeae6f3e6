//! `lamppost train` and `lamppost compress` as they are typed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, ValueEnum};
use lamppost_forge::Architecture;
use lamppost_models::id::{NodeId, SiteId};
use lamppost_models::message::SamplePolicy;
use lamppost_models::time::Zone;
use lamppost_models::{FieldName, ModelName, StreamName, Timestamp};
use semver::Version;

use crate::forge::{SplitBy, Way, parse_architecture};

/// Train a model on labelled samples or readings
///
/// Fine-tunes a model (--model, --bundle) or makes a new one (--new --like). Samples are split by time or by node; one part is
/// learned from, one says when to stop, and one that neither has seen tells the error of the new model, of its parent and of a
/// forecast that learned nothing. The same samples, recipe and seed give the same bundle, byte by byte, on one machine.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Train {
    #[command(flatten)]
    pub(super) base: TrainBase,
    /// What a new model looks at and gives: the manifest of another; its normalisation is fitted anew
    #[arg(long, value_name = "MANIFEST", requires = "new", help_heading = BASE)]
    pub(super) like: Option<PathBuf>,
    #[command(flatten)]
    pub(super) data: DataArgs,
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    /// Keep the state of the training in this folder, and go on from it after a kill
    #[arg(long, value_name = "DIR", help_heading = RECIPE)]
    pub(super) checkpoint: Option<PathBuf>,
    /// Write the course of the training there: curve.csv and curve.svg
    #[arg(long, value_name = "DIR", help_heading = RESULT)]
    pub(super) curve: Option<PathBuf>,
    #[command(flatten)]
    pub(super) result: ResultArgs,
}

/// Make a model smaller or faster, where that pays
///
/// Each --to is a candidate: int8, f16, adaptive (bits by sensitivity), prune:SHARE, prune:auto (as much as a scan of each
/// weight allows), channels:SHARE, distil:ARCHITECTURE, or one of the last four with +int8, +f16 or +adaptive behind it. All run
/// beside the original in the engine that nodes have. The smallest that keeps to the terms is the result; where none does, nothing
/// is written.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Compress {
    #[command(flatten)]
    pub(super) base: CompressBase,
    /// A way to make it smaller; several are compared
    #[arg(long = "to", required = true, value_name = "WAY")]
    pub(super) ways: Vec<Way>,
    /// How much larger the error may become, relative to what it is
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    pub(super) max_loss: f64,
    /// How many times as fast it must be at least; what the clock's noise hides is let pass
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = speedup)]
    pub(super) min_speedup: f64,
    /// A model that a student learns from, in place of the one that is compressed; several are an ensemble
    #[arg(long = "teacher", value_name = "NAME[@VERSION]|FILE")]
    pub(super) teachers: Vec<String>,
    /// Write there what was measured, and how each weight takes being pruned: candidates.md, candidates.svg, scan.csv, scan.svg
    #[arg(long, value_name = "DIR", help_heading = RESULT)]
    pub(super) report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) data: DataArgs,
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    #[command(flatten)]
    pub(super) result: ResultArgs,
}

const BASE: &str = "Model";
const DATA: &str = "Samples";
const RECIPE: &str = "Recipe";
const RESULT: &str = "Result";

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(super) struct TrainBase {
    /// A model of the registry, its newest version unless given
    #[arg(long, value_name = "NAME[@VERSION]", help_heading = BASE)]
    pub(super) model: Option<ModelRef>,
    /// A bundle, or a folder with manifest.json, model.onnx and golden.json
    #[arg(long, value_name = "FILE", help_heading = BASE)]
    pub(super) bundle: Option<PathBuf>,
    /// A new model: mlp:64,32, cnn1d:16,32, cnn2d:8,16 or gru:32; needs --like
    #[arg(long, value_name = "ARCHITECTURE", requires = "like", value_parser = parse_architecture, help_heading = BASE)]
    pub(super) new: Option<Architecture>,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(super) struct CompressBase {
    /// A model of the registry, its newest version unless given
    #[arg(long, value_name = "NAME[@VERSION]", help_heading = BASE)]
    pub(super) model: Option<ModelRef>,
    /// A bundle, or a folder with manifest.json, model.onnx and golden.json
    #[arg(long, value_name = "FILE", help_heading = BASE)]
    pub(super) bundle: Option<PathBuf>,
}

/// Where samples come from: the coordinator, unless a file is named.
#[derive(Debug, ClapArgs)]
pub(super) struct DataArgs {
    /// Samples from a file, as `lamppost samples export` writes them, in place of the coordinator's; .gz is unpacked
    #[arg(long, value_name = "FILE", conflicts_with = "readings", help_heading = DATA)]
    pub(super) samples: Option<PathBuf>,
    /// Readings from a CSV file with a header, cut into windows; .gz is unpacked
    #[arg(long, value_name = "FILE", requires = "label", help_heading = DATA)]
    pub(super) readings: Option<PathBuf>,
    /// The column of the readings' times
    #[arg(long, value_name = "COLUMN", default_value = "ts", help_heading = DATA)]
    pub(super) time: String,
    /// The zone of times that are written without one, such as -06:00 or Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC", help_heading = DATA)]
    pub(super) zone: Zone,
    /// A field whose column is called otherwise
    #[arg(long = "field", value_name = "FIELD=COLUMN", value_parser = field_column, help_heading = DATA)]
    pub(super) fields: Vec<(FieldName, String)>,
    /// The field that is to be predicted; of samples it tells the naive forecast, the first field unless given
    #[arg(long, value_name = "FIELD", help_heading = DATA)]
    pub(super) label: Option<FieldName>,
    /// How many readings later the label is; as far as the model forecasts unless given
    #[arg(long, value_name = "NUMBER", requires = "readings", help_heading = DATA)]
    pub(super) ahead: Option<usize>,
    /// Windows from this event time on
    #[arg(long, value_name = "TIME", help_heading = DATA)]
    pub(super) from: Option<Timestamp>,
    /// Windows before this event time
    #[arg(long, value_name = "TIME", help_heading = DATA)]
    pub(super) until: Option<Timestamp>,
    /// The coordinator's samples of this stream alone
    #[arg(long, conflicts_with_all = ["samples", "readings"], help_heading = DATA)]
    pub(super) stream: Option<StreamName>,
    /// The coordinator's samples of this site alone
    #[arg(long, conflicts_with_all = ["samples", "readings"], help_heading = DATA)]
    pub(super) site: Option<SiteId>,
    /// The coordinator's samples of nodes of this name alone
    #[arg(long, conflicts_with_all = ["samples", "readings"], help_heading = DATA)]
    pub(super) node: Option<NodeId>,
    /// The coordinator's samples that were kept for this reason alone: all, random, uncertain, disagreeing or rare
    #[arg(long, conflicts_with_all = ["samples", "readings"], value_parser = policy, help_heading = DATA)]
    pub(super) policy: Option<SamplePolicy>,
    /// What keeps the three parts apart
    #[arg(long, value_enum, default_value_t = SplitBy::Time, help_heading = DATA)]
    pub(super) split: SplitBy,
    /// Share that says when to stop
    #[arg(long, value_name = "SHARE", default_value = "15%", value_parser = share, help_heading = DATA)]
    pub(super) valid: f64,
    /// Share that all models are judged on
    #[arg(long, value_name = "SHARE", default_value = "15%", value_parser = share, help_heading = DATA)]
    pub(super) test: f64,
}

/// What differs from the recipe file, or from the defaults: Adam, rate 0.001, batches of 64, 100 epochs, patience 10.
#[derive(Debug, ClapArgs)]
pub(super) struct RecipeArgs {
    /// A recipe as TOML: configs/recipes/fine-tune.toml has every key
    #[arg(long, value_name = "FILE", help_heading = RECIPE)]
    pub(super) recipe: Option<PathBuf>,
    /// Decides first weights and the order of samples
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) seed: Option<u64>,
    /// What a step does with the gradients
    #[arg(long, value_enum, help_heading = RECIPE)]
    pub(super) optimizer: Option<OptimizerArg>,
    /// How much of the last step SGD does again, from 0 to below 1
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) momentum: Option<f64>,
    /// How much weights are pulled to 0
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) decay: Option<f64>,
    /// What is made small: mse, mae, huber:DELTA, bce or cross_entropy
    #[arg(long, value_name = "LOSS", help_heading = RECIPE)]
    pub(super) loss: Option<String>,
    /// Times through the samples at most
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) epochs: Option<usize>,
    /// Samples a step
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) batch: Option<usize>,
    /// Learning rate
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) rate: Option<f64>,
    /// How the rate changes: constant, cosine or step:EPOCHS:FACTOR
    #[arg(long, value_name = "SCHEDULE", help_heading = RECIPE)]
    pub(super) schedule: Option<String>,
    /// Epochs without a better error after which training ends; 0 for never
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) patience: Option<usize>,
    /// How much each class counts: equal, balanced, or a number for each
    #[arg(long, value_name = "WEIGHTS", help_heading = RECIPE)]
    pub(super) class_weights: Option<String>,
    /// Longest gradient
    #[arg(long, value_name = "NUMBER", help_heading = RECIPE)]
    pub(super) clip: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OptimizerArg {
    /// Stochastic gradient descent, with --momentum
    Sgd,
    /// Kingma and Ba
    Adam,
    /// Loshchilov and Hutter, with --decay
    #[value(name = "adamw")]
    AdamW,
}

/// What the result is called, and where it goes.
#[derive(Debug, ClapArgs)]
pub(super) struct ResultArgs {
    /// The result's version; the next patch of its parent unless given
    #[arg(long, value_name = "VERSION", help_heading = RESULT)]
    pub(super) version: Option<Version>,
    /// A line for people; the parent's, with the time of the samples, unless given
    #[arg(long, value_name = "TEXT", help_heading = RESULT)]
    pub(super) summary: Option<String>,
    /// When it was made; when its newest sample was unless given, so that the bytes depend on nothing else
    #[arg(long, value_name = "TIME", help_heading = RESULT)]
    pub(super) created_at: Option<Timestamp>,
    /// The bundle to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "push", help_heading = RESULT)]
    pub(super) out: Option<PathBuf>,
    /// Put the bundle into the registry
    #[arg(long, help_heading = RESULT)]
    pub(super) push: bool,
}

/// A model of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelRef {
    pub(super) name: ModelName,
    pub(super) version: Option<Version>,
}

impl FromStr for ModelRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let wrong = |error: &dyn std::error::Error| format!("write NAME or NAME@VERSION: {error}");
        Ok(Self {
            name: name.parse().map_err(|error| wrong(&error))?,
            version: version
                .map(str::parse)
                .transpose()
                .map_err(|error: semver::Error| wrong(&error))?,
        })
    }
}

/// A share: `0.01` or `1%`.
fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    let number = number.ok().filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "a share is written 0.01 or 1%, from 0 to 1".to_owned())
}

fn speedup(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|times| (0.0..=1e3).contains(times));
    number.ok_or_else(|| "it must be a number from 0 to 1000".to_owned())
}

fn field_column(text: &str) -> Result<(FieldName, String), String> {
    let (field, column) = text.split_once('=').ok_or("it is written FIELD=COLUMN")?;
    let field = field
        .parse()
        .map_err(|error: lamppost_models::id::ParseNameError| error.to_string())?;
    Ok((field, column.to_owned()))
}

fn policy(text: &str) -> Result<SamplePolicy, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "there are all, random, uncertain, disagreeing and rare".to_owned())
}
