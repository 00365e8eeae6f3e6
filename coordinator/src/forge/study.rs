//! A model and the samples that it is to learn from, split; the normalisation of a new one is fitted here.

use std::ops::Range;
use std::sync::Arc;

use lamppost_forge::{
    Architecture, Draft, Initial, Last, Loss, Network, Scale, Split, Targets, Tensor, make,
};
use lamppost_models::manifest::{Activation, Feature, ImageLayout, OutputKind, Provenance};
use lamppost_models::{Bundle, Manifest, Reading, Timestamp};
use semver::Version;
use serde_json::{Value, json};

use super::exam::Exam;
use super::lessons::{Lessons, Skipped, Table};
use super::parts::{Parts, Shares};
use super::{ForgeError, pack};

/// What stands between the newest data of a model and the first, which keeps the source that is to be named.
const FIRST: &str = "; first made from: ";

/// What is to be trained.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// A model further.
    Further(Box<Bundle>),
    /// A new one, in place of another or of none.
    New {
        /// Everything but the weights and the numbers that are fitted.
        like: Box<Manifest>,
        /// What it is made of.
        architecture: Architecture,
    },
}

impl Subject {
    /// The description that it starts from.
    pub(crate) fn manifest(&self) -> &Manifest {
        match self {
            Self::Further(bundle) => bundle.manifest(),
            Self::New { like, .. } => like,
        }
    }

    /// What the result is called unless it is told otherwise: the next patch.
    pub(crate) fn next_version(&self) -> Version {
        let version = &self.manifest().version;
        match self {
            Self::Further(_) => Version::new(
                version.major,
                version.minor,
                version.patch.saturating_add(1),
            ),
            Self::New { .. } => version.clone(),
        }
    }

    /// Opens or makes the network: what cannot be trained is told before any sample is read.
    ///
    /// # Errors
    /// [`ForgeError`] with a list of what is not supported.
    pub(crate) fn network(&self, seed: u64) -> Result<Network, ForgeError> {
        match self {
            Self::Further(bundle) => Ok(Network::open(bundle.model())?),
            Self::New { like, architecture } => made(like, architecture, seed),
        }
    }
}

/// A network of this architecture for the tensors of a manifest.
pub(crate) fn made(
    like: &Manifest,
    architecture: &Architecture,
    seed: u64,
) -> Result<Network, ForgeError> {
    let head = match &like.output.kind {
        // The manifest's activation is applied to logits; where it has none, the network has to.
        OutputKind::Labels {
            activation: Activation::None,
            ..
        } => Last::Softmax,
        OutputKind::Labels { .. } | OutputKind::Value { .. } => Last::Dense,
        OutputKind::Score { .. } | OutputKind::Reconstruction { .. } => {
            return Err(ForgeError::Kind);
        }
    };
    Ok(make(&Draft {
        name: like.name.to_string(),
        input: Tensor {
            name: like.input.tensor.clone(),
            shape: like.input.shape.clone(),
        },
        output: like.output.tensor.clone(),
        outputs: like.output_elements(),
        architecture: architecture.clone(),
        head,
        weights: Initial::He,
        seed,
    })?)
}

/// A loss that suits an output.
pub(crate) fn default_loss(manifest: &Manifest) -> Loss {
    match manifest.output.kind {
        OutputKind::Labels { .. } => Loss::CrossEntropy,
        OutputKind::Value { .. } | OutputKind::Score { .. } | OutputKind::Reconstruction { .. } => {
            Loss::Mse
        }
    }
}

/// A model with its samples, ready to be trained.
#[derive(Debug)]
pub(crate) struct Study {
    /// With the constants that were fitted.
    pub(crate) manifest: Manifest,
    pub(crate) network: Network,
    pub(crate) table: Table,
    pub(crate) parts: Parts,
    pub(crate) split: Split,
    pub(crate) parent: Option<Bundle>,
    /// Windows of the golden vectors. A model that is trained further keeps its parent's: no sample of a node goes out to
    /// others within a bundle. A new one takes some of those that it was judged on.
    pub(crate) golden: Vec<Vec<Arc<Reading>>>,
    source: String,
}

impl Study {
    /// # Errors
    /// [`ForgeError`] when the samples do not suit the model, or do not make three parts.
    pub(crate) fn new(
        subject: Subject,
        network: Network,
        lessons: Lessons,
        shares: Shares,
        seed: u64,
    ) -> Result<Self, ForgeError> {
        let source = lessons.source.clone();
        let file = network.to_onnx();
        let (manifest, table, parts, parent) = match subject {
            Subject::Further(bundle) => {
                let manifest = bundle.manifest().clone();
                let table = Table::new(&pack::draft(&manifest, &file)?, lessons)?;
                let parts = Parts::new(&table, &manifest, shares, seed)?;
                (manifest, table, parts, Some(*bundle))
            }
            Subject::New { like, .. } => {
                let mut manifest = *like;
                plain(&mut manifest);
                let table = Table::new(&pack::draft(&manifest, &file)?, lessons)?;
                let parts = Parts::new(&table, &manifest, shares, seed)?;
                fit(&mut manifest, &table, &parts.train)?;
                let table = table.again(&pack::draft(&manifest, &file)?)?;
                (manifest, table, parts, None)
            }
        };
        let split = Split::new(table.data(&parts.train)?, table.data(&parts.valid)?)?;
        let golden = if let Some(bundle) = &parent {
            let cases = bundle.golden().cases.iter();
            let shared = |window: &Vec<Reading>| window.iter().cloned().map(Arc::new).collect();
            cases.map(|case| shared(&case.window)).collect()
        } else {
            let every = parts.test.len().div_ceil(pack::CASES);
            let some = parts.test.iter().step_by(every);
            some.map(|&at| table.lessons[at].window.clone()).collect()
        };
        Ok(Self {
            manifest,
            network,
            table,
            parts,
            split,
            parent,
            golden,
            source,
        })
    }

    /// Newest sample that decided the weights.
    fn newest(&self) -> Timestamp {
        let newest = self
            .parts
            .seen()
            .last()
            .map(|&at| self.table.lessons[at].ts);
        newest.unwrap_or(Timestamp::EPOCH)
    }

    /// Where the result comes from. It was made when its newest sample was, unless `created_at` says otherwise, so that the
    /// same samples and recipe make the same bytes.
    pub(crate) fn provenance(
        &self,
        trainer: &str,
        exam: &Exam,
        (seed, recipe, report): (u64, Value, Value),
        created_at: Option<Timestamp>,
    ) -> Provenance {
        let mut metrics = std::collections::BTreeMap::new();
        let graded = [
            ("", Some(&exam.new)),
            ("_parent", exam.parent.as_ref()),
            ("_naive", Some(&exam.naive)),
        ];
        for (of, grade) in graded {
            for (name, value) in grade.into_iter().flat_map(super::exam::Grade::named) {
                metrics.insert(format!("{name}{of}"), value);
            }
        }
        metrics.insert("test_windows".to_owned(), self.parts.test.len() as f64);
        metrics.insert("train_windows".to_owned(), self.parts.train.len() as f64);
        let first = self.parent.as_ref().map(|bundle| {
            let data = &bundle.manifest().provenance.data;
            data.rsplit(FIRST).next().unwrap_or(data).to_owned()
        });
        let data = first.map_or_else(
            || self.source.clone(),
            |first| format!("{}{FIRST}{first}", self.source),
        );
        Provenance {
            created_at: created_at.unwrap_or_else(|| self.newest()),
            trainer: trainer.to_owned(),
            data,
            metrics,
            parent: self.parent.as_ref().map(Bundle::digest),
            samples: self.table.set(&self.parts.seen()),
            seed: Some(seed),
            code: Some(concat!("lamppost ", env!("CARGO_PKG_VERSION")).to_owned()),
            recipe: Some(recipe),
            report: Some(report),
        }
    }

    /// How many windows each part has, and what was left out.
    pub(crate) fn parts_report(&self) -> Value {
        let skipped: &Skipped = &self.table.skipped;
        json!({
            "train": self.parts.train.len(), "valid": self.parts.valid.len(), "test": self.parts.test.len(),
            "gap_ms": self.parts.gap_ms, "skipped": skipped,
        })
    }
}

/// Takes all normalisation out.
fn plain(manifest: &mut Manifest) {
    for feature in &mut manifest.features {
        match feature {
            Feature::Select { mean, std, .. }
            | Feature::Lag { mean, std, .. }
            | Feature::Aggregate { mean, std, .. }
            | Feature::Vector { mean, std, .. } => (*mean, *std) = (0.0, 1.0),
            Feature::Image { mean, std, .. } => {
                mean.fill(0.0);
                std.fill(1.0);
            }
            Feature::OneHot { .. } | Feature::Calendar { .. } => {}
        }
    }
    if let OutputKind::Value { scale, offset, .. } = &mut manifest.output.kind {
        (*scale, *offset) = (1.0, 0.0);
    }
}

/// Fits mean and deviation of each feature and of the output on the training rows of a plain table.
fn fit(manifest: &mut Manifest, table: &Table, rows: &[usize]) -> Result<(), ForgeError> {
    let of_columns = |columns: Range<usize>, every: usize| {
        let numbers = rows.iter().flat_map(|&at| {
            let row = table.row(at)[columns.clone()].iter();
            row.step_by(every).copied()
        });
        Scale::of(numbers)
    };
    let mut start = 0;
    for feature in &mut manifest.features {
        let width = feature.width().unwrap_or(0);
        let columns = start..start + width;
        start += width;
        match feature {
            Feature::Select { mean, std, .. }
            | Feature::Lag { mean, std, .. }
            | Feature::Aggregate { mean, std, .. }
            | Feature::Vector { mean, std, .. } => {
                let scale = of_columns(columns, 1);
                (*mean, *std) = (scale.mean, scale.std);
            }
            Feature::Image {
                to,
                layout,
                mean,
                std,
                ..
            } => {
                let (channels, pixels) = (to.channels, to.width * to.height);
                for (channel, (mean, std)) in mean.iter_mut().zip(std).enumerate() {
                    let scale = match layout {
                        ImageLayout::Chw => {
                            let first = columns.start + channel * pixels;
                            of_columns(first..first + pixels, 1)
                        }
                        ImageLayout::Hwc => {
                            of_columns(columns.start + channel..columns.end, channels)
                        }
                    };
                    (*mean, *std) = (scale.mean, scale.std);
                }
            }
            Feature::OneHot { .. } | Feature::Calendar { .. } => {}
        }
    }
    if let (OutputKind::Value { scale, offset, .. }, Targets::Values { values, .. }) =
        (&mut manifest.output.kind, table.data(rows)?.targets())
    {
        let fitted = Scale::of(values.iter().copied());
        (*scale, *offset) = (fitted.std, fitted.mean);
    }
    Ok(())
}
