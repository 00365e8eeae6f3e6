//! Why a model does not open.

use std::fmt;

/// Why an ONNX file cannot be trained or compressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The file is too large.
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
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// It has not one input, or not one output.
    #[error("model has {} {side} ({}), it must have one", found.len(), found.join(", "))]
    Tensors {
        /// `inputs` or `outputs`.
        side: &'static str,
        /// Their names.
        found: Vec<String>,
    },
    /// Its input cannot be used.
    #[error("input '{tensor}': {reason}")]
    Input {
        /// Its name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// Its output cannot be used.
    #[error("output '{tensor}': {reason}")]
    Output {
        /// Its name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// Operators, attributes or tensors that are not supported, all of them.
    #[error("{}", listed(list))]
    Unsupported {
        /// Which and why.
        list: Vec<Unsupported>,
    },
    /// It gives something else for a sample in company than for the same sample alone.
    #[error("samples are not independent: output {found} of a batch is {wanted} alone")]
    Dependent {
        /// What came out in a batch of three.
        found: String,
        /// What came out alone.
        wanted: String,
    },
    /// Running it failed.
    #[error("model does not run: {reason}")]
    Run {
        /// Why.
        reason: String,
    },
}

/// Something of a model that is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The node, or the tensor.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What is not supported of it.
    pub reason: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}': {}", self.operator, self.node, self.reason)
    }
}

/// Most entries that a message shows.
const SHOWN_MAX: usize = 20;

fn listed(list: &[Unsupported]) -> String {
    let shown: Vec<String> = list
        .iter()
        .take(SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    let more = list.len().saturating_sub(SHOWN_MAX);
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    format!("not supported: {}{more}", shown.join("; "))
}

/// Why a model gives no outputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The features are no whole samples.
    #[error("{numbers} numbers are no whole samples of {width}")]
    Features {
        /// How many there are.
        numbers: usize,
        /// How many a sample has.
        width: usize,
    },
    /// The library below failed.
    #[error("model does not run: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl RunError {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(crate) fn of(error: candle_core::Error) -> Self {
        Self::Failed {
            reason: error.to_string(),
        }
    }
}
