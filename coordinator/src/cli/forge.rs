//! `lamppost train`, `lamppost compress` and `lamppost model provenance`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use lamppost_forge::{
    Progress, Terms, curve_csv, curve_svg, measures_svg, scan_csv, scan_svg, table, write_whole,
};
use lamppost_models::manifest::MANIFEST_BYTES_MAX;
use lamppost_models::{Bundle, FieldName, Manifest, ModelName};
use semver::Version;
use serde::Serialize;

use super::args::Global;
use super::client::Client;
use super::{Exit, Failure, block_on, model, show, tables};
use crate::error::chain;
use crate::forge::{
    self, Attempt, Findings, ForgeError, Lessons, Order, Packed, Shares, SourceError, Subject, Way,
};

pub(super) mod args;
mod lineage;
mod process;
mod recipe;
mod registry;

use args::{Compress, DataArgs, ModelRef, RecipeArgs, ResultArgs, Train};

pub(super) use lineage::{Generation, Lineage, provenance};
pub(super) use process::alone;
pub(super) use registry::{by_digest, gather};

impl From<ForgeError> for Failure {
    fn from(error: ForgeError) -> Self {
        let exit = if let ForgeError::Source {
            source: SourceError::Io(source),
            ..
        } = &error
            && source.kind() == std::io::ErrorKind::NotFound
        {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Self::new(exit, chain(&error))
    }
}

pub(super) fn train(args: &Train, global: &Global) -> Result<(), Failure> {
    let subject = match (&args.base.new, &args.like) {
        (Some(architecture), Some(like)) => Subject::New {
            like: Box::new(read_manifest(like)?),
            architecture: architecture.clone(),
        },
        _ => Subject::Further(Box::new(base(
            args.base.model.as_ref(),
            args.base.bundle.as_deref(),
            global,
        )?)),
    };
    let checkpoint = args.checkpoint.as_deref().map(state_file).transpose()?;
    let order = order(
        &subject,
        &args.recipe,
        &args.data,
        &args.result,
        checkpoint.as_deref(),
    )?;
    let network = subject.network(order.recipe.seed)?;
    can_deliver(
        &subject.manifest().name,
        &order.version,
        &args.result,
        global,
    )?;
    let lessons = lessons(&args.data, subject.manifest(), global)?;
    let bar = bar(order.recipe.epochs)?;
    let trained = forge::train(subject, network, lessons, &order, &mut |progress| {
        advance(&bar, "training", progress);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let trained = trained?;
    let manifest = trained.packed.bundle.manifest();
    if let Some(folder) = &args.curve {
        let title = format!("{} {}", manifest.name, manifest.version);
        write(folder, "curve.csv", &curve_csv(&trained.outcome))?;
        write(folder, "curve.svg", &curve_svg(&trained.outcome, &title))?;
    }
    deliver(&trained.packed, &args.result, global)?;
    let outcome = Delivered::of(&trained.packed, &args.result);
    show(global, &outcome, || {
        tables::trained(&trained, &result_words(&args.result))
    })
}

pub(super) fn compress(args: &Compress, global: &Global) -> Result<(), Failure> {
    let bundle = base(
        args.base.model.as_ref(),
        args.base.bundle.as_deref(),
        global,
    )?;
    let subject = Subject::Further(Box::new(bundle.clone()));
    let order = order(&subject, &args.recipe, &args.data, &args.result, None)?;
    let network = subject.network(order.recipe.seed)?;
    can_deliver(
        &subject.manifest().name,
        &order.version,
        &args.result,
        global,
    )?;
    if !args.teachers.is_empty() && !args.ways.iter().any(Way::distils) {
        let text = "--teacher goes with --to distil:ARCHITECTURE: nothing else learns from it";
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut teachers = Vec::with_capacity(args.teachers.len());
    for teacher in &args.teachers {
        teachers.push(named(teacher, global)?);
    }
    let lessons = lessons(&args.data, bundle.manifest(), global)?;
    let attempt = Attempt {
        ways: &args.ways,
        terms: Terms {
            max_loss: args.max_loss,
            min_speedup: args.min_speedup,
        },
        teachers: &teachers,
        scan: args.report.is_some(),
    };
    let mut findings = Findings::default();
    let bar = bar(order.recipe.epochs)?;
    let squeezed = forge::squeeze(
        bundle,
        network,
        lessons,
        &order,
        &attempt,
        &mut findings,
        &mut |name, progress| {
            advance(&bar, name, progress);
            ControlFlow::Continue(())
        },
    );
    bar.finish_and_clear();
    if let Some(folder) = &args.report {
        let pruned = "error with one weight pruned alone";
        let files = [
            ("candidates.md", table(&findings.measures)),
            (
                "candidates.svg",
                measures_svg(&findings.measures, "error against size"),
            ),
            ("scan.csv", scan_csv(&findings.scan)),
            ("scan.svg", scan_svg(&findings.scan, pruned)),
        ];
        for (name, text) in files {
            write(folder, name, &text)?;
        }
    }
    let squeezed = squeezed.inspect_err(|_| {
        // What was measured says why nothing was written.
        if !global.json && !findings.candidates.is_empty() {
            drop(super::print(&tables::candidates(&findings)));
        }
    })?;
    deliver(&squeezed.packed, &args.result, global)?;
    let outcome = Delivered::of(&squeezed.packed, &args.result);
    show(global, &outcome, || {
        tables::squeezed(&squeezed, &findings, &result_words(&args.result))
    })
}

/// What became of the bundle, for programs.
#[derive(Serialize)]
struct Delivered<'a> {
    name: &'a str,
    version: String,
    digest: String,
    bytes: usize,
    file: Option<&'a PathBuf>,
    pushed: bool,
    /// What the bundle itself says of how it was made.
    report: Option<&'a serde_json::Value>,
}

impl<'a> Delivered<'a> {
    fn of(packed: &'a Packed, result: &'a ResultArgs) -> Self {
        let manifest = packed.bundle.manifest();
        Self {
            name: manifest.name.as_str(),
            version: manifest.version.to_string(),
            digest: packed.bundle.digest().to_string(),
            bytes: packed.bytes.len(),
            file: result.out.as_ref(),
            pushed: result.push,
            report: manifest.provenance.report.as_ref(),
        }
    }
}

/// What became of the bundle, for people.
fn result_words(result: &ResultArgs) -> String {
    let file = result
        .out
        .as_ref()
        .map(|path| format!("written to {}", path.display()));
    let pushed = result.push.then(|| "pushed to the registry".to_owned());
    [file, pushed]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

fn order<'a>(
    subject: &Subject,
    recipe: &RecipeArgs,
    data: &DataArgs,
    result: &ResultArgs,
    checkpoint: Option<&'a Path>,
) -> Result<Order<'a>, Failure> {
    let file = recipe::file(recipe)?;
    let typed = recipe::typed(recipe, file.as_ref())?;
    Ok(Order {
        recipe: forge::recipe(subject.manifest(), file, typed)?,
        shares: Shares {
            by: data.split,
            valid: data.valid,
            test: data.test,
        },
        version: result
            .version
            .clone()
            .unwrap_or_else(|| subject.next_version()),
        summary: result.summary.clone(),
        created_at: result.created_at,
        naive: data.label.clone(),
        checkpoint,
    })
}

/// The model that is trained or compressed: clap holds that one of the two is given.
fn base(model: Option<&ModelRef>, file: Option<&Path>, global: &Global) -> Result<Bundle, Failure> {
    match (model, file) {
        (Some(model), _) => block_on(registry::bundle(global, model)),
        (None, Some(file)) => read_bundle(file),
        (None, None) => Err(Failure::new(Exit::Usage, "name a model or a bundle")),
    }
}

/// A file where there is one, else a model of the registry.
fn named(text: &str, global: &Global) -> Result<Bundle, Failure> {
    if Path::new(text).exists() {
        return read_bundle(Path::new(text));
    }
    let model: ModelRef = text.parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("--teacher {text:?} is no file and no model: {error}"),
        )
    })?;
    block_on(registry::bundle(global, &model))
}

fn read_bundle(path: &Path) -> Result<Bundle, Failure> {
    Bundle::read(&model::read(path)?).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{} is no bundle: {}", path.display(), chain(&error)),
        )
    })
}

fn read_manifest(path: &Path) -> Result<Manifest, Failure> {
    let bytes = model::read_file(path, MANIFEST_BYTES_MAX as u64)?;
    Manifest::parse(&bytes).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{} is no manifest: {}", path.display(), chain(&error)),
        )
    })
}

fn lessons(data: &DataArgs, manifest: &Manifest, global: &Global) -> Result<Lessons, Failure> {
    let span = forge::Span {
        from: data.from,
        to: data.until,
    };
    Ok(match (&data.samples, &data.readings, &data.label) {
        (Some(path), _, _) => forge::read_samples(path, &manifest.name, span)?,
        (None, Some(path), Some(label)) => {
            let columns = forge::Columns {
                time: data.time.clone(),
                zone: data.zone.clone(),
                fields: data.fields.clone(),
                label: FieldName::clone(label),
                ahead: data.ahead,
            };
            forge::read_readings(path, manifest, &columns, span)?
        }
        (None, _, _) => block_on(registry::samples(global, &manifest.name, data, span))?,
    })
}

/// The file that a training's state is in.
fn state_file(folder: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    Ok(folder.join("training.ckpt"))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    write_whole(&folder.join(name), text.as_bytes()).map_err(|error| Failure::failed(&error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{} cannot be made: {error}", path.display()),
    )
}

/// Finds out before any work whether the result has a place to go to.
fn can_deliver(
    name: &ModelName,
    version: &Version,
    result: &ResultArgs,
    global: &Global,
) -> Result<(), Failure> {
    let folder = result.out.as_deref().and_then(Path::parent);
    if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
    {
        let text = format!("there is no folder {} to write to", folder.display());
        return Err(Failure::new(Exit::NotFound, text));
    }
    if result.push && block_on(registry::has(global, name, version))? {
        let text = format!(
            "the registry has {name} {version} already: name another version with --version"
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    Ok(())
}

/// Writes the bundle, and pushes it last: what stands in the registry is whole elsewhere too.
fn deliver(packed: &Packed, result: &ResultArgs, global: &Global) -> Result<(), Failure> {
    if let Some(path) = &result.out {
        write_whole(path, &packed.bytes).map_err(|error| Failure::failed(&error))?;
    }
    if result.push {
        let bytes = packed.bytes.clone();
        block_on(async { model::upload(&Client::new(global)?, bytes).await })?;
    }
    Ok(())
}

fn bar(epochs: usize) -> Result<ProgressBar, Failure> {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} epochs, {msg}")
        .map_err(|error| Failure::failed(&error))?;
    Ok(ProgressBar::new(epochs as u64).with_style(style))
}

fn advance(bar: &ProgressBar, name: &str, progress: &Progress<'_>) {
    bar.set_prefix(name.to_owned());
    bar.set_length(progress.epochs as u64);
    bar.set_position(progress.epoch.epoch as u64);
    bar.set_message(format!(
        "error {:.4}, best in epoch {}",
        progress.epoch.valid.error(),
        progress.best_epoch
    ));
}
