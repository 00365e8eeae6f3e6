//! A graph of ONNX, read once: which steps, on which shapes, with which weights.
//!
//! [`read`] goes through the nodes in their order and works out the shape of each value for one sample, which axis of it
//! counts samples, and everything that depends on shapes alone. What is left is a list of steps that runs for any
//! number of samples, although the file says batch 1. Whatever is not supported joins one list, before any work.

mod attributes;
mod dense;
mod ends;
pub(crate) mod half;
mod known;
mod layout;
mod op;
mod patch;
mod reader;
mod recurrent;
mod shape;
mod spatial;
pub(crate) mod tensor;

pub(crate) use op::{Binary, Cell, Op, Pool, Recurrent, Reduce, Source, Step, Unary, Window};
pub(crate) use patch::patch;
pub(crate) use reader::{Graph, read};
pub(crate) use shape::Batch;
pub(crate) use tensor::{Constant, Numbers};
