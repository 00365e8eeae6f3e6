//! Smaller and faster models, and what that costs.
//!
//! - [`quantise`](quantise()) stores weights in int8 or half precision; they are floats again once a model is open, so that it runs
//!   as before and its file is a fourth or a half. [`adapt`] keeps what suffers in more bits.
//! - [`scan`] tells how each weight takes the loss of its smallest numbers, [`prune`](prune()) takes them away for good: training
//!   after it keeps them 0. That makes a file that compresses well, and nothing faster.
//! - [`cut_channels`] takes whole filters and neurons away: the model is smaller and faster.
//! - A [`crate::Distillation`] in a recipe trains a small model on what a large one says.
//! - [`measure`](measure()) runs candidates in turns in the engine that nodes have, [`Terms`] say what they must keep to.

mod channels;
mod measure;
mod prune;
mod quantise;

use crate::error::OpenError;
use crate::train::TrainError;

pub use channels::{Prunable, cut_channels, prunable};
pub use measure::{Measure, MeasureError, Terms, measure, measures_svg, table};
pub use prune::{ScanPoint, prune, scan, scan_csv, scan_svg, sparsity_by_scan};
pub use quantise::{Adapted, Format, Layer, Quantised, adapt, formats, quantise};

/// Why a model is not compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// No such weight, or not one of a product.
    #[error("'{name}' is no weight that this can be done to; there are {}", known.join(", "))]
    Weight {
        /// The name that was given.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A share that is none.
    #[error("share {share} for '{name}' must be from 0 to below 1")]
    Share {
        /// Of which weight.
        name: String,
        /// What was given.
        share: String,
    },
    /// A number that half precision does not hold.
    #[error("'{name}' holds {value}, which half precision does not; keep it in f32 or int8")]
    Half {
        /// Which weight.
        name: String,
        /// The number.
        value: String,
    },
    /// An operator set that has no such operator.
    #[error(
        "operator set {opset} has no DequantizeLinear {what}; export with operator set 13 or newer"
    )]
    Opset {
        /// The model's.
        opset: i64,
        /// What is missing.
        what: &'static str,
    },
    /// The channels cannot be cut after all.
    #[error("channels of '{name}' cannot be cut: {reason}")]
    Channels {
        /// Which weight.
        name: String,
        /// Why.
        reason: String,
    },
    /// The result does not open.
    #[error("compressed model does not open")]
    Open(#[from] OpenError),
    /// Measuring the quality failed.
    #[error("quality cannot be measured")]
    Quality(#[from] TrainError),
}
