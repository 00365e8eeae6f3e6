//! Trains and compresses ONNX models: ONNX in, ONNX out.
//!
//! For the centre and never for a node. From a file to a better one:
//!
//! - [`Network`] is an ONNX file, opened: its float initialisers are [`Parameter`]s, its batch is open although the file says
//!   1, and [`Network::to_onnx`] gives the same file with other weights, not a byte else changed. [`make`](make()) makes new ones;
//! - [`DataSet`] and [`Split`] hold samples, split by time or by node; [`normalise_features`] fits a manifest's constants on
//!   the training part;
//! - [`train`](train()) follows a [`Recipe`] to the epoch that is best on held-out samples; a [`Checkpoint`] lets a killed training go
//!   on to the same bytes; [`curve_csv`] and [`curve_svg`] show its course;
//! - [`quantise`], [`adapt`], [`prune`], [`cut_channels`] and a recipe's [`Distillation`] make models smaller; [`measure`](measure())
//!   runs the results in the engine that nodes have, and [`Terms`] say which of them pay.
//!
//! # How it works
//! `graph` reads the protobuf once into steps whose shapes are known for one sample; `interpret` runs them on candle's
//! tensors, which keep a tape of gradients; `kernel` has the windows of convolutions and pools, whose gradients candle
//! lacks or is slow at; `train` keeps weights and what the optimiser remembers as plain numbers. The protobuf's types
//! appear in `graph`, `make`, `network` and `compress`, candle's in `interpret`, `kernel`, `network` and `train`, and in no
//! public signature.
//!
//! A process that trains should be started with `RAYON_NUM_THREADS=1`, which decides speed alone and not a byte of the outcome:
//! see `stack`.
//!
//! # What it does not do
//! All that is missing of a model comes as one list, [`OpenError::Unsupported`], before any work. Not trained are: several
//! inputs or outputs, control flow, transposed convolutions, tensors of three spatial dimensions, LSTM and GRU with
//! lengths, peepholes or batch-first layout, and what is stored in fewer bits than 32 (train first, then compress).
//! Statistics of batch normalisations stay what they are, Dropout is left out. Two refusals are for tract 0.23.9, which nodes
//! run: it computes a sequence in reverse alone forward, and runs no GRU over a single field.

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
    Terms, adapt, cut_channels, formats, measure, measures_svg, prunable, prune, quantise, scan,
    scan_csv, scan_svg, sparsity_by_scan, table,
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
