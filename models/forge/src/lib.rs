//! Trains and compresses ONNX models: ONNX in, ONNX out.

mod chart;
mod compress;
mod data;
mod error;
mod files;
mod graph;
mod interpret;
mod kernel;
mod make;
mod network;
mod random;
mod scaling;
mod stack;
mod train;

pub use compress::{
    Adapted, CompressError, Format, Layer, Measure, MeasureError, Prunable, Quantised, ScanPoint,
    Terms, adapt, cut_channels, formats, measure, prunable, prune, quantise, scan, scan_csv,
    scan_svg, sparsity_by_scan, table,
};
pub use data::{CLASSES_MAX, DATA_BYTES_MAX, DataError, DataSet, Split, Targets};
pub use error::{OpenError, RunError, Unsupported};
pub use files::{FileError, write_whole};
pub use make::{
    Architecture, Draft, Initial, LAYERS_MAX, Last, MakeError, Tensor, WIDTH_MAX, make,
};
pub use network::{Head, Network, Parameter, Side, UnknownParameter};
pub use scaling::{Scale, normalise_features, normalise_targets};
pub use train::{
    BATCH_MAX, Checkpoint, ClassWeights, Distillation, EPOCHS_MAX, Ended, Epoch, Loss, Optimizer,
    Outcome, Progress, Quality, Recipe, Schedule, TrainError, curve_csv, curve_svg, evaluate,
    train,
};
