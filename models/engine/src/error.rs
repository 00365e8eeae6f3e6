//! Why a bundle does not open, and why a window gives no result.

use std::time::Duration;

use lamppost_models::FieldName;

/// Why a bundle's model does not open.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// The ONNX file is too large.
    #[error("model has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file is no ONNX protobuf.
    #[error("model is no ONNX file: {reason}")]
    NotOnnx {
        /// What is wrong.
        reason: String,
    },
    /// There is more of something than the limit allows.
    #[error("model has {found} {what}, the limit is {limit}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A tensor's values are in another file.
    #[error(
        "tensor {tensor:?} keeps its data in another file: export the model with its weights inside"
    )]
    ExternalData {
        /// The tensor.
        tensor: String,
    },
    /// A declared tensor contradicts itself.
    #[error("tensor {tensor:?}: {reason}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A node cannot be run.
    #[error("node {node:?} ({operator}): {reason}")]
    Node {
        /// Its name.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong.
        reason: String,
    },
    /// The model has other inputs or outputs than the manifest.
    #[error("model has the {side}s {found:?}, the manifest says exactly {wanted:?}")]
    Tensors {
        /// `input` or `output`.
        side: &'static str,
        /// What the model has.
        found: Vec<String>,
        /// What the manifest says.
        wanted: String,
    },
    /// The input or output has another element type than the manifest.
    #[error("{side} tensor {tensor:?} holds {found}, the manifest says f32")]
    Type {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        tensor: String,
        /// What the model has.
        found: String,
    },
    /// The input or output has another shape than the manifest.
    #[error("{side} tensor {tensor:?} has shape {found}, the manifest says {wanted:?}")]
    Shape {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        tensor: String,
        /// What the model has.
        found: String,
        /// What the manifest says.
        wanted: Vec<usize>,
    },
    /// A node's output depends on the input's values in its size, so that it cannot be bounded.
    #[error("output of node {node:?} has no fixed size: export the model with fixed shapes")]
    Dynamic {
        /// Its name.
        node: String,
    },
    /// A node's output is too large.
    #[error("output of node {node:?} has {elements} elements, the limit is {limit}")]
    NodeTooLarge {
        /// Its name.
        node: String,
        /// How many; saturated.
        elements: u64,
        /// The limit.
        limit: u64,
    },
    /// Opening took too long.
    #[error("opening took longer than {limit:?}")]
    Deadline {
        /// The limit.
        limit: Duration,
    },
    /// Tract refuses it.
    #[error("{stage} failed: {reason}")]
    Tract {
        /// What was being done.
        stage: &'static str,
        /// Tract's message.
        reason: String,
    },
    /// Tract panicked on it.
    #[error("{stage} panicked: {message}")]
    Panicked {
        /// What was being done.
        stage: &'static str,
        /// The panic's message and place.
        message: String,
    },
}

/// Why a window gives no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// The window does not suit the manifest; the model was not run.
    #[error("window does not suit the model")]
    Unfit(#[from] Unfit),
    /// The model was run and failed.
    #[error("inference failed")]
    Failed(#[from] RunFailure),
}

/// How a window does not suit a manifest.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// Not enough readings, or more than any model takes.
    #[error("window has {found} readings, the model takes {wanted} to {limit}")]
    Count {
        /// How many it has.
        found: usize,
        /// The least that the manifest says.
        wanted: usize,
        /// The most that any manifest says.
        limit: usize,
    },
    /// Two neighbours are too near or too far apart.
    #[error(
        "reading {index} is {found_ms} ms after the one before, the model wants {step_ms} ms within {jitter_ms} ms"
    )]
    Step {
        /// The later one's place in the window, from 0.
        index: usize,
        /// How far apart they are.
        found_ms: i64,
        /// How far they should be.
        step_ms: u64,
        /// How far they may be off.
        jitter_ms: u64,
    },
    /// A reading lacks a field.
    #[error("reading {index} has no {field}")]
    Missing {
        /// The reading's place in the window, from 0.
        index: usize,
        /// The field.
        field: FieldName,
    },
    /// No reading has a field.
    #[error("no reading has {field}")]
    Nowhere {
        /// The field.
        field: FieldName,
    },
    /// A field holds something else than the model takes.
    #[error("{field} of reading {index} is a {found}, the model takes a {wanted}")]
    Kind {
        /// The reading's place in the window, from 0.
        index: usize,
        /// The field.
        field: FieldName,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A vector or an image is of another length.
    #[error("{field} has {found} numbers, the model takes {wanted}")]
    Length {
        /// The field.
        field: FieldName,
        /// What it has.
        found: usize,
        /// What it should have.
        wanted: usize,
    },
    /// A number is not finite or, normalised, too large for f32; in an image, not in 0 to 255.
    #[error("{field} of reading {index} is {value}, which the model cannot take")]
    Range {
        /// The reading's place in the window, from 0.
        index: usize,
        /// The field.
        field: FieldName,
        /// The value.
        value: f64,
    },
}

/// How an inference failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunFailure {
    /// Tract refused.
    #[error("tract failed: {reason}")]
    Tract {
        /// Its message.
        reason: String,
    },
    /// Tract panicked.
    #[error("tract panicked: {message}")]
    Panicked {
        /// The panic's message and place.
        message: String,
    },
    /// An output is not a finite number.
    #[error("element {index} of the output is {value}, not a finite number")]
    NotFinite {
        /// Which element, from 0.
        index: usize,
        /// The value, by its name.
        value: f64,
    },
}
