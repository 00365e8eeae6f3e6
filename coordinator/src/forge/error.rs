//! Why nothing was trained or compressed.

use lamppost_engine::Unfit;
use lamppost_forge::{
    CompressError, DATA_BYTES_MAX, DataError, MakeError, MeasureError, OpenError, TrainError,
};
use lamppost_models::FieldName;
use lamppost_models::bundle::BundleError;
use lamppost_models::time::ParseTimestampError;

/// Why nothing was trained or compressed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForgeError {
    #[error("{name} is not learned from")]
    Source {
        name: String,
        #[source]
        source: SourceError,
    },
    #[error(
        "a label {steps} steps of {step_ms} ms ahead is not of the time that the model forecasts, {horizon_ms} ms ahead; leave --ahead out"
    )]
    Ahead {
        steps: usize,
        step_ms: u64,
        horizon_ms: u64,
    },
    #[error(
        "the model forecasts {horizon_ms} ms ahead, and its windows have no step of which that is a multiple; say with --ahead how many readings that is"
    )]
    NoStep { horizon_ms: u64 },
    #[error("there is no labelled window to learn from ({}); label samples, or ask for others", if skipped.is_empty() { "the source is empty" } else { skipped })]
    Nothing { skipped: String },
    #[error("none of {windows} windows suits the model; {id}")]
    NoneFits {
        windows: usize,
        id: String,
        #[source]
        source: Unfit,
    },
    #[error(
        "{windows} windows take {bytes} bytes as features, the limit is {DATA_BYTES_MAX}; ask for fewer with --from and --until"
    )]
    TooMuch { windows: usize, bytes: usize },
    #[error("label of {id} is {label}, it must be {wanted}; label it again, or leave it out")]
    Label {
        id: String,
        label: String,
        wanted: String,
    },
    #[error(
        "only classifications, regressions and forecasts are trained here: the labels of an anomaly detection say nothing of its score"
    )]
    Kind,
    #[error(
        "the {part} part would be empty: {windows} windows, with {gap_ms} ms between the parts so that none reaches into the next; take more windows or another share"
    )]
    EmptyPart {
        part: &'static str,
        windows: usize,
        gap_ms: u64,
    },
    #[error("{what} is {value}, it must be from 0.01 to 0.9, and both together at most 0.9")]
    Share { what: &'static str, value: f64 },
    #[error(
        "{nodes} nodes cannot be split into three parts; split by time, or take samples of 3 nodes or more"
    )]
    Nodes { nodes: usize },
    #[error("recipe is no recipe")]
    Recipe(#[source] serde_json::Error),
    #[error("teacher {teacher} gives {found}, the model {wanted}")]
    Teacher {
        teacher: String,
        found: String,
        wanted: String,
    },
    #[error("{teacher} as a teacher does not suit the window of {id}")]
    Lesson {
        teacher: String,
        id: String,
        #[source]
        source: Unfit,
    },
    #[error("the model has no weight whose channels can be cut; prune or distil it")]
    NoChannels,
    #[error("model cannot be trained")]
    Open(#[from] OpenError),
    #[error("model cannot be made")]
    Make(#[from] MakeError),
    #[error("samples are not learned from")]
    Data(#[from] DataError),
    #[error("training does not come about")]
    Train(#[from] TrainError),
    #[error("model is not compressed")]
    Compress(#[from] CompressError),
    #[error("candidates are not measured")]
    Measure(#[from] MeasureError),
    #[error("model does not run: {reason}")]
    Run { reason: String },
    #[error("result makes no bundle")]
    Bundle(#[from] BundleError),
    #[error("result is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("engine does not open the model")]
    EngineOpen(#[from] lamppost_engine::OpenError),
    #[error("engine does not run the model")]
    EngineRun(#[from] lamppost_engine::RunError),
    #[error("engine finds other golden vectors")]
    Golden(#[from] lamppost_engine::GoldenError),
    #[error(
        "nothing keeps to the terms, and nothing was written; ask for less with --max-loss or --min-speedup:\n{objections}"
    )]
    NonePays { objections: String },
}

/// Why a source is not learned from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Csv(#[from] csv::Error),
    #[error("it has more than {limit} bytes unpacked, the limit; take a part of it")]
    TooLarge { limit: u64 },
    #[error("line {line} has more than {limit} bytes, the limit")]
    LongLine { line: u64, limit: u64 },
    #[error("line {line} is no sample")]
    Line {
        line: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("line {line}")]
    Time {
        line: u64,
        #[source]
        source: ParseTimestampError,
    },
    #[error(
        "line {line} has {cell:?} where a finite number should be; a cell without a value is empty or NA"
    )]
    Cell { line: u64, cell: String },
    #[error("there is no column {column:?}, there are {}; name it with --field or --time", known.join(", "))]
    Column { column: String, known: Vec<String> },
    #[error("field {field} is a vector, which no CSV file holds; train on samples")]
    Vector { field: FieldName },
}
