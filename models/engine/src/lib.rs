//! Opens a bundle safely with tract, turns windows into features and runs the model.
//!
//! Agent and coordinator share this crate, so that what the one checked the other runs:
//!
//! - [`Engine`] is a bundle's model, ready to run; a cheap clone that any number of threads share;
//! - [`Session`] is one thread's buffers and state: [`Session::run`] turns a window into an [`Output`];
//! - [`Limits`] bounds what opening a file may take;
//! - [`check_bundle_bytes`] reads, opens, verifies and times a bundle: for a process made for it.
//!
//! # What holds against a hostile file
//! A bundle has been signed for before it is opened here, and is still not trusted. In this order: its size; the shape
//! of its protobuf, counted before any of it is decoded; the graph (operators, nodes, depth, declared tensors, external
//! data); the manifest's tensors; the size of each node's output, inferred before anything is computed; the memory and
//! the work that a run takes, with both branches of every condition and each turn of every loop. Every call into tract is made under `catch_unwind`, and a panic becomes an error; its message goes to
//! the error and not to stderr, by a panic hook that this crate puts in front of the process's own.
//!
//! What remains: folding constants may ask for more memory than the machine has in ways that no inference of shapes
//! foresees, a failed allocation aborts the process, and a single inference or optimisation cannot be interrupted from
//! within. That is why a bundle's first load belongs in a child process with a limited address space and a time-out,
//! which runs [`check_bundle_bytes`] and nothing else.
//!
//! Tract's types appear in `graph` and `plan` alone and in no public signature.

mod check;
mod decode;
mod engine;
mod error;
mod features;
mod golden;
mod graph;
mod guard;
mod image;
mod limits;
mod plan;
mod scan;
mod time;

pub use check::{CheckError, CheckReport, Latency, Memory, check_bundle_bytes};
pub use decode::{ANOMALY, NORMAL, Output};
pub use engine::{Engine, Session};
pub use error::{OpenError, RunError, RunFailure, Unfit};
pub use golden::{GoldenError, GoldenReport};
pub use limits::Limits;
pub use scan::decoded_bytes;
pub use time::{process_time, thread_time};
