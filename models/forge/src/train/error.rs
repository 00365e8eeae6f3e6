//! Why training did not come about.

use super::recipe::Loss;
use crate::files::FileError;

/// Why training did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Something of the recipe is out of range.
    #[error("recipe: {reason}")]
    Recipe {
        /// What.
        reason: String,
    },
    /// Samples are of another shape than the model.
    #[error("samples have {found} {what}, the model has {wanted}")]
    Width {
        /// Features or targets.
        what: &'static str,
        /// How many a sample has.
        found: usize,
        /// How many the model has.
        wanted: usize,
    },
    /// The loss suits neither targets nor model.
    #[error("loss {loss:?} does not fit: {reason}")]
    Misfit {
        /// The loss.
        loss: Loss,
        /// Why.
        reason: &'static str,
    },
    /// A target of a binary cross-entropy that is no probability.
    #[error("target of sample {sample} is {value}, a binary cross-entropy wants 0 to 1")]
    Probability {
        /// Which sample, from 0.
        sample: usize,
        /// Its target.
        value: String,
    },
    /// A distillation without a teacher.
    #[error("the recipe distils, the samples carry no teacher's outputs")]
    NoTeacher,
    /// Nothing may change.
    #[error(
        "all parameters are frozen, or there are none of 32-bit floats; there is nothing to train"
    )]
    AllFrozen,
    /// A step would take too much memory.
    #[error(
        "a step of {batch} samples takes about {bytes} bytes, the limit is {limit}; make the batch smaller"
    )]
    Memory {
        /// How much.
        bytes: usize,
        /// The limit.
        limit: usize,
        /// Samples a step.
        batch: usize,
    },
    /// The loss is no number any more.
    #[error(
        "the loss is not finite any more in epoch {epoch}, after {step} steps; lower the rate or set clip_norm"
    )]
    Diverged {
        /// Which epoch, from 1.
        epoch: usize,
        /// Steps done.
        step: u64,
    },
    /// The checkpoint cannot be written, read or removed.
    #[error("checkpoint fails")]
    File(#[from] FileError),
    /// The checkpoint is damaged.
    #[error("checkpoint {path} is damaged: {reason}; remove it to start again")]
    Damaged {
        /// The file.
        path: String,
        /// How.
        reason: &'static str,
    },
    /// The checkpoint is of another model, other samples or another recipe.
    #[error("checkpoint {path} is of another training; remove it, or name another file")]
    OtherTraining {
        /// The file.
        path: String,
    },
    /// The library below failed.
    #[error("training fails: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed {
            reason: error.to_string(),
        }
    }
}
