//! What a model needs to be run and judged: the description that travels with it.
//!
//! A manifest and the weights change together: what turns a window of readings into the input tensor, and the output
//! tensor into a result, is data here and never configuration of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{FieldName, ModelName};
use crate::reading::Reading;
use crate::time::{Timestamp, Zone};
use crate::version::V1;

mod check;

pub use check::{ManifestError, ShapeError};

/// Largest manifest, in bytes of JSON: a thousand labels and a thousand features stay well below.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// Largest ONNX file, in bytes: what a gateway with 256 MiB of memory can still hold twice, weights and plan.
pub const MODEL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest file of golden vectors, in bytes: eight windows of 24 readings take 15 kB, a few small images 8 MiB.
pub const GOLDEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most elements of an input or output tensor: an image of 1024 x 1024 in three channels, and some.
pub const TENSOR_ELEMENTS_MAX: usize = 4 * 1024 * 1024;
/// Most readings in a window: more than 18 hours at one a second.
pub const WINDOW_COUNT_MAX: usize = 65_536;
/// Most labels of a classification.
pub const LABELS_MAX: usize = 10_000;

/// Describes one version of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version.
    pub schema: V1,
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
    /// What it is for.
    pub task: Task,
    /// One line for people.
    pub summary: String,
    /// The ONNX file.
    pub model: ModelFile,
    /// The one input tensor.
    pub input: TensorSpec,
    /// The readings it looks at.
    pub window: WindowSpec,
    /// What turns a window into the input tensor: the results of all, one behind the other, fill it in row-major order.
    pub features: Vec<Feature>,
    /// The one output tensor and its meaning.
    pub output: OutputSpec,
    /// The golden vectors and how close to them a runtime must come.
    pub golden: GoldenSpec,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of some labels.
    Classification,
    /// A value of now.
    Regression,
    /// A value of later.
    Forecasting,
    /// How unusual something is.
    Anomaly,
}

/// The ONNX file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Digest of the file.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// A tensor by name, shape and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name within the ONNX graph.
    pub tensor: String,
    /// Fixed dimensions; the first is the batch and is 1.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

/// Element types of an input tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// 32-bit floating point.
    F32,
}

/// The readings that a model looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSpec {
    /// The least number of readings; features look back from the newest.
    pub count: usize,
    /// Where it matters: how far apart the newest `count` readings must be, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ms: Option<u64>,
    /// How far a step may be off, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jitter_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One step of the preprocessing; its results are appended to the input tensor.
///
/// Numbers are normalised as `(number - mean) / std`; scaling from `min..max` to `0..1` is `mean = min`,
/// `std = max - min`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Feature {
    /// The newest `last` readings' numbers, oldest first.
    Select {
        /// The field.
        field: FieldName,
        /// How many.
        last: usize,
        /// Subtracted first.
        #[serde(default)]
        mean: f64,
        /// Divided by then.
        #[serde(default = "one")]
        std: f64,
    },
    /// The numbers of readings counted back from the newest, in the order of `lags`.
    Lag {
        /// The field.
        field: FieldName,
        /// Steps back; 0 is the newest.
        lags: Vec<usize>,
        /// Subtracted first.
        #[serde(default)]
        mean: f64,
        /// Divided by then.
        #[serde(default = "one")]
        std: f64,
    },
    /// One number over all readings of the window.
    Aggregate {
        /// The field.
        field: FieldName,
        /// Which number.
        stat: Stat,
        /// Subtracted first.
        #[serde(default)]
        mean: f64,
        /// Divided by then.
        #[serde(default = "one")]
        std: f64,
    },
    /// 1 for the category that the newest reading has and 0 for the others; all 0 for one that is not listed.
    OneHot {
        /// The field; its values are text.
        field: FieldName,
        /// The categories.
        categories: Vec<String>,
    },
    /// What the clock and the calendar say at the newest reading's time.
    Calendar {
        /// Which parts, in order.
        parts: Vec<CalendarPart>,
        /// Whose clock.
        zone: Zone,
        /// Added to the time first, in milliseconds: a forecast looks at the calendar of its target.
        #[serde(default)]
        ahead_ms: u64,
    },
    /// The newest reading's vector: a burst of raw samples.
    Vector {
        /// The field.
        field: FieldName,
        /// How many numbers it must have.
        length: usize,
        /// Subtracted first.
        #[serde(default)]
        mean: f64,
        /// Divided by then.
        #[serde(default = "one")]
        std: f64,
    },
    /// The newest reading's image, resized; its vector holds rows of pixels, channels interleaved, values 0 to 255.
    Image {
        /// The field.
        field: FieldName,
        /// What comes in.
        from: ImageSize,
        /// What the model wants; the resize is bilinear with pixel centres at half (as ONNX's `half_pixel`).
        to: ImageSize,
        /// Which input channel each output channel is: `[2, 1, 0]` makes BGR of RGB.
        channels: Vec<usize>,
        /// Order of the dimensions in the tensor.
        layout: ImageLayout,
        /// Subtracted first, one for each output channel.
        mean: Vec<f64>,
        /// Divided by then, one for each output channel.
        std: Vec<f64>,
    },
}

fn one() -> f64 {
    1.0
}

/// A number over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// Arithmetic mean.
    Mean,
    /// Standard deviation, with n in the denominator.
    Std,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Sum.
    Sum,
    /// How many readings have the field.
    Count,
}

/// A part of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarPart {
    /// Sine of the hour of the day, its fraction included; 24 hours are a turn.
    HourSin,
    /// Cosine of the same.
    HourCos,
    /// Seven numbers, Monday first.
    WeekdayOneHot,
    /// Sine of the month, January at 0; 12 months are a turn.
    MonthSin,
    /// Cosine of the same.
    MonthCos,
    /// Sine of the day of the year, 1 January at 0; 365.25 days are a turn.
    YearSin,
    /// Cosine of the same.
    YearCos,
}

impl CalendarPart {
    /// How many numbers it makes.
    pub const fn width(self) -> usize {
        match self {
            Self::WeekdayOneHot => 7,
            Self::HourSin
            | Self::HourCos
            | Self::MonthSin
            | Self::MonthCos
            | Self::YearSin
            | Self::YearCos => 1,
        }
    }
}

/// Size of an image in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Channels.
    pub channels: usize,
}

impl ImageSize {
    /// Pixels times channels.
    pub const fn elements(&self) -> Option<usize> {
        match self.width.checked_mul(self.height) {
            Some(pixels) => pixels.checked_mul(self.channels),
            None => None,
        }
    }
}

/// Order of an image's dimensions in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageLayout {
    /// Channel, row, column.
    Chw,
    /// Row, column, channel.
    Hwc,
}

impl Feature {
    /// How many numbers it makes; `None` when that overflows.
    pub fn width(&self) -> Option<usize> {
        Some(match self {
            Self::Select { last, .. } => *last,
            Self::Lag { lags, .. } => lags.len(),
            Self::Aggregate { .. } => 1,
            Self::OneHot { categories, .. } => categories.len(),
            Self::Calendar { parts, .. } => parts.iter().map(|part| part.width()).sum(),
            Self::Vector { length, .. } => *length,
            Self::Image { to, .. } => to.elements()?,
        })
    }

    /// The field that it reads, if any.
    pub fn field(&self) -> Option<&FieldName> {
        match self {
            Self::Select { field, .. }
            | Self::Lag { field, .. }
            | Self::Aggregate { field, .. }
            | Self::OneHot { field, .. }
            | Self::Vector { field, .. }
            | Self::Image { field, .. } => Some(field),
            Self::Calendar { .. } => None,
        }
    }
}

/// The output tensor and its meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Name within the ONNX graph.
    pub tensor: String,
    /// Fixed dimensions; the first is the batch and is 1. The elements are f32.
    pub shape: Vec<usize>,
    /// What the numbers mean.
    pub kind: OutputKind,
}

/// What the numbers of an output mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OutputKind {
    /// A score for each label.
    Labels {
        /// The labels, in the tensor's order.
        names: Vec<String>,
        /// What makes scores of the raw numbers.
        activation: Activation,
    },
    /// One number; the value is `number * scale + offset`.
    Value {
        /// Unit of the value.
        unit: String,
        /// Multiplied with first.
        scale: f64,
        /// Added then.
        offset: f64,
        /// How far ahead of the newest reading the value is, in milliseconds; for forecasts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        horizon_ms: Option<u64>,
    },
    /// One number that says how unusual the window is.
    Score {
        /// From here on it is an anomaly.
        threshold: f64,
    },
    /// The input as the model would have it; the mean squared difference says how unusual the window is.
    Reconstruction {
        /// From here on it is an anomaly.
        threshold: f64,
    },
}

impl OutputKind {
    /// How far ahead of the newest reading the value is.
    pub fn horizon(&self) -> Option<Duration> {
        match self {
            Self::Value { horizon_ms, .. } => horizon_ms.map(Duration::from_millis),
            Self::Labels { .. } | Self::Score { .. } | Self::Reconstruction { .. } => None,
        }
    }
}

/// What makes scores of raw numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// They are scores as they are.
    None,
    /// Exponentials that sum to 1.
    Softmax,
    /// `1 / (1 + exp(-x))`, each by itself.
    Sigmoid,
}

/// The golden vectors of a bundle.
///
/// A number `a` agrees with the golden `g` when `|a - g| <= abs_tolerance + rel_tolerance * |g|`, as numpy's `allclose`
/// has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpec {
    /// Digest of `golden.json`.
    pub digest: Digest,
    /// Absolute part of the tolerance.
    pub abs_tolerance: f64,
    /// Relative part of the tolerance.
    pub rel_tolerance: f64,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// When it was made.
    pub created_at: Timestamp,
    /// What made it.
    pub trainer: String,
    /// What it was made from, with its licence.
    pub data: String,
    /// What was measured of it.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// The bundle that it was made from, if any.
    #[serde(default)]
    pub parent: Option<Digest>,
    /// The samples that decided its weights, if they are known one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<SampleSet>,
    /// What all chance in its making came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The program that made it, with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How it was made, in the trainer's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<serde_json::Value>,
    /// What was measured while it was made, in the trainer's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<serde_json::Value>,
}

/// Samples, told by what they are known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSet {
    /// How many.
    pub count: u64,
    /// Event time of the oldest.
    pub from: Timestamp,
    /// Event time of the newest.
    pub to: Timestamp,
    /// Of their ids, oldest first, each followed by a line feed.
    pub digest: Digest,
}

/// Windows with the features and outputs that any runtime must reproduce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Format version.
    pub schema: V1,
    /// At least one.
    pub cases: Vec<GoldenCase>,
}

/// One golden vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenCase {
    /// The readings, oldest first.
    pub window: Vec<Reading>,
    /// The input tensor, row-major.
    pub features: Vec<f32>,
    /// The output tensor, row-major, before its meaning is applied.
    pub outputs: Vec<f32>,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] when it is too large, not JSON of this form, or contradicts itself.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes: json.len() });
        }
        let manifest: Self = serde_json::from_slice(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Number of elements of the input tensor.
    pub fn input_elements(&self) -> usize {
        self.input.shape.iter().product()
    }

    /// Number of elements of the output tensor.
    pub fn output_elements(&self) -> usize {
        self.output.shape.iter().product()
    }

    /// The fields that a stream must have for this model, each once, in order of first use.
    pub fn fields(&self) -> Vec<&FieldName> {
        let mut fields = Vec::new();
        for field in self.features.iter().filter_map(Feature::field) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        fields
    }
}
