//! A training from samples to a bundle.

use std::ops::ControlFlow;
use std::path::Path;

use lamppost_engine::{Engine, Limits};
use lamppost_forge::{Checkpoint, Network, Outcome, Progress, Recipe};
use lamppost_models::manifest::OutputKind;
use lamppost_models::{FieldName, Manifest, Timestamp};
use semver::Version;
use serde_json::{Map, Value, json};

use super::ForgeError;
use super::exam::{self, Exam};
use super::lessons::{Lessons, first_number};
use super::pack::{self, Packed};
use super::parts::Shares;
use super::study::{Study, Subject, default_loss};

/// Checkpoints of a training: a kill loses at most a fiftieth of it, and writing them takes little of its time.
const CHECKPOINTS: usize = 50;

/// Called after each epoch; breaking ends the training.
pub(crate) type OnEpoch<'a> = &'a mut (dyn FnMut(&Progress<'_>) -> ControlFlow<()> + Send);

/// How a training goes, and what its result is called.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    pub(crate) recipe: Recipe,
    pub(crate) shares: Shares,
    /// The result's.
    pub(crate) version: Version,
    /// The result's; the parent's, with the time of the samples, unless given.
    pub(crate) summary: Option<String>,
    /// When the result was made; when its newest sample was, unless given.
    pub(crate) created_at: Option<Timestamp>,
    /// The field whose newest value is the naive forecast; the first that goes in as numbers, unless given.
    pub(crate) naive: Option<FieldName>,
    pub(crate) checkpoint: Option<&'a Path>,
}

/// What came of a training.
pub(crate) struct Trained {
    pub(crate) packed: Packed,
    pub(crate) outcome: Outcome,
    pub(crate) exam: Exam,
    pub(crate) study: Study,
}

/// A recipe: what suits the model, under what a file says, under what was typed.
///
/// # Errors
/// [`ForgeError::Recipe`] when they do not make a recipe.
pub(crate) fn recipe(
    manifest: &Manifest,
    file: Option<Map<String, Value>>,
    typed: Map<String, Value>,
) -> Result<Recipe, ForgeError> {
    let start = serde_json::to_value(Recipe::new(default_loss(manifest), 1))?;
    let mut all = match start {
        Value::Object(all) => all,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    };
    all.extend(file.into_iter().flatten());
    all.extend(typed);
    serde_json::from_value(Value::Object(all)).map_err(ForgeError::Recipe)
}

/// Trains a model on samples and packs the result; `network` is the subject's.
///
/// # Errors
/// [`ForgeError`]; nothing is written then but a checkpoint.
pub(crate) fn train(
    subject: Subject,
    network: Network,
    lessons: Lessons,
    order: &Order<'_>,
    on_epoch: OnEpoch<'_>,
) -> Result<Trained, ForgeError> {
    let made_of = match &subject {
        Subject::Further(_) => Value::Null,
        Subject::New { architecture, .. } => serde_json::to_value(architecture)?,
    };
    let recipe = &order.recipe;
    let mut study = Study::new(subject, network, lessons, order.shares, recipe.seed)?;
    let checkpoint = order.checkpoint.map(|path| Checkpoint {
        path,
        every: recipe.epochs.div_ceil(CHECKPOINTS),
    });
    let Study { network, split, .. } = &mut study;
    let outcome = lamppost_forge::train(network, split, recipe, checkpoint, on_epoch)?;
    let file = study.network.to_onnx();
    let exam = examine(&study, &file, order.naive.as_ref())?;
    let report = json!({
        "parts": study.parts_report(), "exam": exam,
        "epochs": outcome.epochs.len(), "best_epoch": outcome.best_epoch, "ended": outcome.ended,
    });
    let how = json!({"recipe": recipe, "split": order.shares, "new": made_of});
    let mut manifest = named(&study, order);
    manifest.provenance = study.provenance(
        "lamppost train",
        &exam,
        (recipe.seed, how, report),
        order.created_at,
    );
    let packed = pack::pack(&manifest, &file, &study.golden)?;
    Ok(Trained {
        packed,
        outcome,
        exam,
        study,
    })
}

/// The model beside its parent and the naive forecast, on the windows that are judged on.
pub(crate) fn examine(
    study: &Study,
    file: &[u8],
    naive: Option<&FieldName>,
) -> Result<Exam, ForgeError> {
    let manifest = &study.manifest;
    let test = study.table.pick(&study.parts.test);
    let parent = match &study.parent {
        Some(bundle) => {
            let engine = Engine::open(bundle, &Limits::default())?;
            Some(exam::grade(&engine, test.clone())?)
        }
        None => None,
    };
    let train = study.table.pick(&study.parts.train);
    let field = naive.or_else(|| first_number(manifest));
    let (naive, naive_by) = exam::naive(manifest, field, train, test.clone());
    Ok(Exam {
        windows: study.parts.test.len(),
        unit: match &manifest.output.kind {
            OutputKind::Value { unit, .. } => Some(unit.clone()),
            OutputKind::Labels { .. }
            | OutputKind::Score { .. }
            | OutputKind::Reconstruction { .. } => None,
        },
        new: exam::grade(&pack::draft(manifest, file)?, test)?,
        parent,
        naive,
        naive_by,
    })
}

/// The manifest with the result's version and summary.
pub(crate) fn named(study: &Study, order: &Order<'_>) -> Manifest {
    let mut manifest = study.manifest.clone();
    manifest.version = order.version.clone();
    manifest.summary = order.summary.clone().unwrap_or_else(|| {
        let of = manifest
            .summary
            .split("; trained on")
            .next()
            .unwrap_or_default();
        let day = |ts: Timestamp| ts.to_string().chars().take(10).collect::<String>();
        let span = study.table.set(&study.parts.seen());
        span.map_or_else(
            || of.to_owned(),
            |set| format!("{of}; trained on {} to {}", day(set.from), day(set.to)),
        )
    });
    manifest
}
