//! A compression: candidates, measured beside each other in the engine, and the smallest that keeps to the terms.

use std::ops::ControlFlow;

use lamppost_forge::{
    Distillation, Format, Measure, Network, Progress, Recipe, ScanPoint, Split, Targets, Terms,
    adapt, cut_channels, evaluate, formats, measure, prunable, prune, quantise, scan,
    sparsity_by_scan,
};
use lamppost_models::Bundle;
use serde::Serialize;
use serde_json::json;

use super::course::{Order, examine, named};
use super::exam::Exam;
use super::lessons::Lessons;
use super::pack::{self, Packed};
use super::study::{Study, Subject, made};
use super::way::{Shape, Storage, Way};
use super::{ForgeError, teachers};

/// Shares that each weight is pruned to alone in a scan.
const SCANNED: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
/// How Hinton et al. set a distillation of classes (arXiv 1503.02531): soft targets, and little of the labels.
const OF_CLASSES: Distillation = Distillation {
    temperature: 4.0,
    share: 0.9,
};
/// Of values the teacher is a second opinion.
const OF_VALUES: Distillation = Distillation {
    temperature: 1.0,
    share: 0.5,
};
/// How far apart the medians of one and the same model are on a quiet machine; that of this very run is added.
const NOISE: f64 = 0.05;

/// What is to be tried, and what it must keep to.
pub(crate) struct Attempt<'a> {
    pub(crate) ways: &'a [Way],
    pub(crate) terms: Terms,
    /// Models that a student learns from; the one that is compressed where there are none.
    pub(crate) teachers: &'a [Bundle],
    /// Whether each weight's sensitivity to pruning is wanted.
    pub(crate) scan: bool,
}

/// A candidate beside the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) bytes: usize,
    /// How many times as small.
    pub(crate) smaller: f64,
    /// Of values in deviations, of classes the share of wrong ones.
    pub(crate) error: f64,
    pub(crate) median_us: f64,
    pub(crate) p90_us: f64,
    /// How many times as fast.
    pub(crate) faster: f64,
    /// What speaks against it.
    pub(crate) objections: Vec<String>,
}

/// What came of it.
pub(crate) struct Squeezed {
    pub(crate) packed: Packed,
    pub(crate) chosen: String,
    pub(crate) exam: Exam,
}

/// What was found before anything was chosen; it is there too where nothing pays.
#[derive(Default)]
pub(crate) struct Findings {
    /// The original first.
    pub(crate) candidates: Vec<Candidate>,
    /// The same, as they were measured.
    pub(crate) measures: Vec<Measure>,
    /// How each weight alone takes pruning, where that was looked at.
    pub(crate) scan: Vec<ScanPoint>,
}

/// Called after each epoch of a candidate's training, with its name.
pub(crate) type OnEpoch<'a> = &'a mut (dyn FnMut(&str, &Progress<'_>) -> ControlFlow<()> + Send);

/// Makes a model smaller in each of some ways and packs the smallest result that keeps to the terms.
///
/// # Errors
/// [`ForgeError::NonePays`] when none does; another when something fails.
pub(crate) fn squeeze(
    bundle: Bundle,
    network: Network,
    lessons: Lessons,
    order: &Order<'_>,
    attempt: &Attempt<'_>,
    findings: &mut Findings,
    on_epoch: OnEpoch<'_>,
) -> Result<Squeezed, ForgeError> {
    let recipe = &order.recipe;
    teachers::check(bundle.manifest(), attempt.teachers)?;
    let study = Study::new(
        Subject::Further(Box::new(bundle)),
        network,
        lessons,
        order.shares,
        recipe.seed,
    )?;
    let bench = Bench {
        study: &study,
        recipe,
        attempt,
    };
    let wanted = attempt
        .ways
        .iter()
        .any(|way| way.shape == Shape::Prune(None));
    if attempt.scan || wanted {
        findings.scan = scan(&study.network, &study.split.valid, recipe.loss, &SCANNED)?;
    }
    let original = study.network.to_onnx();
    let mut files = vec![("original".to_owned(), original.clone())];
    for way in attempt.ways {
        let file = bench.make(way, &findings.scan, on_epoch)?;
        files.push((way.to_string(), file));
    }
    let (measures, noise) = bench.measure(&files, original)?;
    findings.candidates = judged(&measures, attempt.terms, noise);
    findings.measures = measures;
    let chosen = choose(&findings.candidates)?;
    let (name, file) = &files[chosen];
    let exam = examine(&study, file, order.naive.as_ref())?;
    let report = json!({
        "parts": study.parts_report(), "exam": exam, "candidates": findings.candidates, "chosen": name, "noise": noise,
    });
    let terms = attempt.terms;
    let how = json!({
        "recipe": recipe, "split": order.shares, "ways": attempt.ways.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "max_loss": terms.max_loss, "min_speedup": terms.min_speedup,
        "teachers": attempt.teachers.iter().map(Bundle::digest).collect::<Vec<_>>(),
    });
    let mut manifest = named(&study, order);
    manifest.provenance = study.provenance(
        "lamppost compress",
        &exam,
        (recipe.seed, how, report),
        order.created_at,
    );
    if !attempt.ways[chosen - 1].learns() {
        manifest.provenance.samples = None;
    }
    Ok(Squeezed {
        packed: pack::pack(&manifest, file, &study.golden)?,
        chosen: name.clone(),
        exam,
    })
}

/// The smallest without an objection, of those alike the fastest; the original is no choice.
fn choose(candidates: &[Candidate]) -> Result<usize, ForgeError> {
    let good = |(_, candidate): &(usize, &Candidate)| candidate.objections.is_empty();
    let key = |candidate: &Candidate| (candidate.bytes, candidate.median_us);
    let found = candidates
        .iter()
        .enumerate()
        .skip(1)
        .filter(good)
        .min_by(|a, b| {
            let (a, b) = (key(a.1), key(b.1));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
    found.map(|(at, _)| at).ok_or_else(|| {
        let lines = candidates
            .iter()
            .skip(1)
            .map(|candidate| format!("  {}: {}", candidate.name, candidate.objections.join("; ")));
        ForgeError::NonePays {
            objections: lines.collect::<Vec<_>>().join("\n"),
        }
    })
}

/// Where candidates are made and compared.
struct Bench<'a> {
    study: &'a Study,
    recipe: &'a Recipe,
    attempt: &'a Attempt<'a>,
}

impl Bench<'_> {
    fn make(
        &self,
        way: &Way,
        points: &[ScanPoint],
        on_epoch: OnEpoch<'_>,
    ) -> Result<Vec<u8>, ForgeError> {
        let (loss, split) = (self.recipe.loss, &self.study.split);
        let max_loss = self.attempt.terms.max_loss;
        let name = way.to_string();
        let network = match &way.shape {
            Shape::Whole => self.study.network.clone(),
            Shape::Prune(share) => {
                let mut network = self.study.network.clone();
                let shares = if let Some(share) = share {
                    formats(&network, Format::F32)
                        .into_iter()
                        .map(|(weight, _)| (weight, *share))
                        .collect()
                } else {
                    let base = evaluate(&network, &split.valid, loss)?;
                    sparsity_by_scan(points, &base, max_loss)
                };
                prune(&mut network, &shares)?;
                tuned(network, split, self.recipe, &name, on_epoch)?
            }
            Shape::Channels(share) => {
                let network = &self.study.network;
                let shares: Vec<(String, f64)> = prunable(network)
                    .into_iter()
                    .map(|weight| (weight.name, *share))
                    .collect();
                if shares.is_empty() {
                    return Err(ForgeError::NoChannels);
                }
                let cut = cut_channels(network, &shares)?;
                tuned(cut, split, self.recipe, &name, on_epoch)?
            }
            Shape::Distil(architecture) => {
                let student = made(&self.study.manifest, architecture, self.recipe.seed)?;
                let taught = teachers::teach(self.study, self.attempt.teachers)?;
                let usual = match split.train.targets() {
                    Targets::Classes { .. } => OF_CLASSES,
                    Targets::Values { .. } => OF_VALUES,
                };
                let recipe = Recipe {
                    distillation: Some(self.recipe.distillation.unwrap_or(usual)),
                    ..self.recipe.clone()
                };
                tuned(student, &taught, &recipe, &name, on_epoch)?
            }
        };
        Ok(match way.storage {
            Storage::AsIs => network.to_onnx(),
            Storage::Int8 => quantise(&network, &formats(&network, Format::Int8))?.file,
            Storage::F16 => quantise(&network, &formats(&network, Format::F16))?.file,
            Storage::Adaptive => {
                adapt(&network, &split.valid, loss, max_loss)?
                    .quantised
                    .file
            }
        })
    }

    /// All files on the windows that are judged on; the original takes part twice, which tells how noisy the clock is.
    fn measure(
        &self,
        files: &[(String, Vec<u8>)],
        original: Vec<u8>,
    ) -> Result<(Vec<Measure>, f64), ForgeError> {
        let twice = ("original".to_owned(), original);
        let all = files.iter().chain(std::iter::once(&twice));
        let all: Vec<(&str, &[u8])> = all
            .map(|(name, file)| (name.as_str(), file.as_slice()))
            .collect();
        let test = self.study.table.data(&self.study.parts.test)?;
        let mut measures = measure(&all, &test, self.recipe.loss)?;
        let again = measures.pop();
        let noise = match (measures.first(), again) {
            (Some(base), Some(again)) => (again.median_us / base.median_us - 1.0).abs(),
            _ => 0.0,
        };
        Ok((measures, noise))
    }
}

/// Candidates held to the terms; the first is what they are held against.
fn judged(measures: &[Measure], terms: Terms, noise: f64) -> Vec<Candidate> {
    let Some(base) = measures.first() else {
        return Vec::new();
    };
    let terms = Terms {
        min_speedup: terms.min_speedup * (1.0 - (noise + NOISE).min(1.0)),
        ..terms
    };
    let candidate = |measure: &Measure| Candidate {
        name: measure.name.clone(),
        bytes: measure.bytes,
        smaller: base.bytes as f64 / measure.bytes as f64,
        error: measure.quality.error(),
        median_us: measure.median_us,
        p90_us: measure.p90_us,
        faster: base.median_us / measure.median_us,
        objections: terms.objections(base, measure),
    };
    measures.iter().map(candidate).collect()
}

fn tuned(
    mut network: Network,
    split: &Split,
    recipe: &Recipe,
    name: &str,
    on_epoch: OnEpoch<'_>,
) -> Result<Network, ForgeError> {
    lamppost_forge::train(&mut network, split, recipe, None, &mut |progress| {
        on_epoch(name, progress)
    })?;
    Ok(network)
}
