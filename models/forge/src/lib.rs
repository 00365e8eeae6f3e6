//! Trains and compresses ONNX models: ONNX in, ONNX out.

mod error;
mod graph;
mod interpret;
mod kernel;
mod make;
mod network;
mod random;
mod stack;

pub use error::{OpenError, RunError, Unsupported};
pub use network::{Head, Network, Parameter, Side, UnknownParameter};
