//! Why a draft makes no model.

use super::{LAYERS_MAX, WEIGHTS_MAX, WIDTH_MAX};
use crate::error::OpenError;

/// Why a draft makes no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// The input does not suit the architecture.
    #[error("input is {shape:?}, this architecture wants {wanted}")]
    Input {
        /// Its shape.
        shape: Vec<usize>,
        /// What it should be.
        wanted: &'static str,
    },
    /// A size is out of range.
    #[error("{what} is {found}, it must be from 1 to {WIDTH_MAX}")]
    Size {
        /// Of what.
        what: &'static str,
        /// The size.
        found: usize,
    },
    /// Too many layers, or none.
    #[error("{found} layers, there must be from 1 to {LAYERS_MAX}")]
    Layers {
        /// How many.
        found: usize,
    },
    /// A kernel without a middle.
    #[error("kernel of {kernel} has no middle, it must be odd")]
    Even {
        /// Its size.
        kernel: usize,
    },
    /// No normal distribution.
    #[error("mean {mean} and deviation {deviation} are no normal distribution")]
    Normal {
        /// The mean.
        mean: String,
        /// The deviation.
        deviation: String,
    },
    /// Too many weights.
    #[error("{found} weights or more, a bundle holds {WEIGHTS_MAX}")]
    Weights {
        /// How many.
        found: usize,
    },
    /// The model that came out does not open: names that collide.
    #[error("made model does not open")]
    Open(#[from] OpenError),
}
