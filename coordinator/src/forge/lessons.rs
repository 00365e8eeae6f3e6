//! What is learned from: labelled windows, whatever they were read from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lamppost_engine::Engine;
use lamppost_forge::{DATA_BYTES_MAX, DataSet, Targets};
use lamppost_models::digest::Hasher;
use lamppost_models::manifest::{OutputKind, SampleSet};
use lamppost_models::message::Label;
use lamppost_models::{Digest, FieldName, Manifest, Reading, Timestamp};

use super::ForgeError;

/// A window and what came true.
#[derive(Clone, Debug)]
pub(crate) struct Lesson {
    /// What it is known by, everywhere.
    pub(crate) id: String,
    /// The node that it is from, as `site/node`; empty where no node is known.
    pub(crate) node: String,
    /// Event time of the newest reading.
    pub(crate) ts: Timestamp,
    /// The readings, oldest first; windows that overlap share them.
    pub(crate) window: Vec<Arc<Reading>>,
    /// What came true.
    pub(crate) label: Label,
}

/// What was left out, by reason.
pub(crate) type Skipped = BTreeMap<&'static str, u64>;

/// Labelled windows of one source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lessons {
    /// In any order.
    pub(crate) all: Vec<Lesson>,
    /// What the source had beside them.
    pub(crate) skipped: Skipped,
    /// What they are, for people: it goes into the provenance.
    pub(crate) source: String,
}

/// Event times that are wanted, half-open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
}

impl Span {
    pub(crate) fn holds(&self, ts: Timestamp) -> bool {
        self.from.is_none_or(|from| ts >= from) && self.to.is_none_or(|to| ts < to)
    }
}

/// Lessons with the features that the engine makes of them, oldest first, each once.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) lessons: Vec<Lesson>,
    pub(crate) skipped: Skipped,
    width: usize,
    features: Vec<f32>,
    targets: Targets,
}

impl Table {
    /// Runs the preprocessing of the engine's manifest over all lessons.
    ///
    /// # Errors
    /// [`ForgeError`] when a label is none of the model's, when no window suits it, or when it is too much.
    pub(crate) fn new(engine: &Engine, lessons: Lessons) -> Result<Self, ForgeError> {
        let Lessons {
            mut all,
            mut skipped,
            ..
        } = lessons;
        all.sort_by(|a, b| (a.ts, &a.id).cmp(&(b.ts, &b.id)));
        let found = all.len();
        let mut seen = BTreeSet::new();
        all.retain(|lesson| seen.insert(lesson.id.clone()));
        count(&mut skipped, "repeated", found - all.len());
        let width = engine.manifest().input_elements();
        let bytes = width.saturating_mul(4).saturating_mul(all.len());
        if bytes > DATA_BYTES_MAX {
            return Err(ForgeError::TooMuch {
                windows: all.len(),
                bytes,
            });
        }
        let mut session = engine.session();
        let mut features = Vec::with_capacity(width * all.len());
        let mut unfit = None;
        let found = all.len();
        all.retain(|lesson| match session.features(&lesson.window) {
            Ok(row) => {
                features.extend_from_slice(row);
                true
            }
            Err(error) => {
                unfit.get_or_insert((lesson.id.clone(), error));
                false
            }
        });
        count(&mut skipped, "unfit for the model", found - all.len());
        if all.is_empty() {
            return Err(match unfit {
                Some((id, source)) => ForgeError::NoneFits {
                    windows: found,
                    id,
                    source,
                },
                None => ForgeError::Nothing {
                    skipped: words(&skipped),
                },
            });
        }
        let targets = targets(engine.manifest(), &all)?;
        Ok(Self {
            lessons: all,
            skipped,
            width,
            features,
            targets,
        })
    }

    /// The same lessons for another preprocessing or scale of the same shape.
    pub(crate) fn again(self, engine: &Engine) -> Result<Self, ForgeError> {
        let lessons = Lessons {
            all: self.lessons,
            skipped: self.skipped,
            source: String::new(),
        };
        Self::new(engine, lessons)
    }

    /// Features of a lesson.
    pub(crate) fn row(&self, at: usize) -> &[f32] {
        &self.features[at * self.width..(at + 1) * self.width]
    }

    /// Some lessons as a data set.
    pub(crate) fn data(&self, rows: &[usize]) -> Result<DataSet, ForgeError> {
        let features = rows.iter().flat_map(|&at| self.row(at)).copied().collect();
        let targets = match &self.targets {
            Targets::Values { width, values } => Targets::Values {
                width: *width,
                values: rows.iter().map(|&at| values[at]).collect(),
            },
            Targets::Classes { count, classes } => Targets::Classes {
                count: *count,
                classes: rows.iter().map(|&at| classes[at]).collect(),
            },
        };
        Ok(DataSet::new(self.width, features, targets)?)
    }

    /// Some lessons.
    pub(crate) fn pick<'a>(
        &'a self,
        rows: &'a [usize],
    ) -> impl Iterator<Item = &'a Lesson> + Clone {
        rows.iter().map(|&at| &self.lessons[at])
    }

    /// What some lessons, oldest first, are known by together.
    pub(crate) fn set(&self, rows: &[usize]) -> Option<SampleSet> {
        let mut hasher = Hasher::new();
        for lesson in self.pick(rows) {
            hasher.update(lesson.id.as_bytes());
            hasher.update(b"\n");
        }
        let digest: Digest = hasher.finish();
        Some(SampleSet {
            count: rows.len() as u64,
            from: self.pick(rows).map(|lesson| lesson.ts).min()?,
            to: self.pick(rows).map(|lesson| lesson.ts).max()?,
            digest,
        })
    }
}

/// Adds to what was left out.
pub(crate) fn count(skipped: &mut Skipped, reason: &'static str, more: usize) {
    if more > 0 {
        *skipped.entry(reason).or_default() += more as u64;
    }
}

/// What was left out, for people; empty where nothing was.
pub(crate) fn words(skipped: &Skipped) -> String {
    let parts = skipped
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// Labels as the output tensor has them.
fn targets(manifest: &Manifest, lessons: &[Lesson]) -> Result<Targets, ForgeError> {
    let refuse = |lesson: &Lesson, wanted: String| ForgeError::Label {
        id: lesson.id.clone(),
        label: match &lesson.label {
            Label::Value(value) => value.to_string(),
            Label::Class(class) => format!("{:?}", class.chars().take(64).collect::<String>()),
        },
        wanted,
    };
    match &manifest.output.kind {
        OutputKind::Labels { names, .. } => {
            let class = |lesson: &Lesson| {
                let at = match &lesson.label {
                    Label::Class(class) => names.iter().position(|name| name == class),
                    Label::Value(_) => None,
                };
                at.and_then(|at| u32::try_from(at).ok())
                    .ok_or_else(|| refuse(lesson, format!("one of {}", listed(names))))
            };
            Ok(Targets::Classes {
                count: names.len(),
                classes: lessons.iter().map(class).collect::<Result<_, _>>()?,
            })
        }
        OutputKind::Value { scale, offset, .. } => {
            let value = |lesson: &Lesson| match lesson.label {
                #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
                Label::Value(value) if ((value - offset) / scale).abs() <= f64::from(f32::MAX) => {
                    Ok(((value - offset) / scale) as f32)
                }
                Label::Value(_) | Label::Class(_) => {
                    Err(refuse(lesson, "a finite number".to_owned()))
                }
            };
            Ok(Targets::Values {
                width: 1,
                values: lessons.iter().map(value).collect::<Result<_, _>>()?,
            })
        }
        OutputKind::Score { .. } | OutputKind::Reconstruction { .. } => Err(ForgeError::Kind),
    }
}

/// Names for people: the first of many.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    let more = if names.len() > SHOWN_MAX { ", ..." } else { "" };
    format!("{}{more}", names[..names.len().min(SHOWN_MAX)].join(", "))
}

/// The field whose newest value is the naive forecast: the first of which numbers go in as they are.
pub(crate) fn first_number(manifest: &Manifest) -> Option<&FieldName> {
    use lamppost_models::manifest::Feature;
    manifest.features.iter().find_map(|feature| match feature {
        Feature::Select { field, .. } | Feature::Lag { field, .. } => Some(field),
        Feature::Aggregate { .. }
        | Feature::OneHot { .. }
        | Feature::Calendar { .. }
        | Feature::Vector { .. }
        | Feature::Image { .. } => None,
    })
}
