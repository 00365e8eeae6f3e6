//! What opening and checking a model may take.

use std::time::Duration;

/// Bounds on a model, each with a default for a gateway with 256 MiB of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest ONNX file, in bytes: what the contract allows, [`lamppost_models::manifest::MODEL_BYTES_MAX`].
    pub model_bytes: u64,
    /// Most memory that decoding the protobuf may take, in bytes, as estimated before: the largest file, and as much
    /// again for its structure. A hostile file of 64 MB could otherwise decode to some 5 GB of empty nodes.
    pub decoded_bytes: u64,
    /// Most nodes, over all subgraphs: the deepest vision networks in use have about a thousand.
    pub nodes: usize,
    /// How deep subgraphs may nest: an `If` within a `Scan` within an `If`.
    pub graph_depth: usize,
    /// Most elements of all initialisers and constants: the largest file in int8 that unpacks to 128 MiB of f32.
    pub initialiser_elements: u64,
    /// Most elements of one node's output: four times the largest input or output of a manifest.
    pub node_elements: u64,
    /// Most memory that a run's intermediate tensors take, in bytes, beside the weights.
    pub run_bytes: u64,
    /// Most operations of a run, about: those of a vision network of 20 billion, which a gateway's core does in some 10 s.
    pub run_work: u64,
    /// How long opening may take; looked at between steps, so that a single step can go over it.
    pub open_time: Duration,
    /// How long warm-up and golden check may take together; looked at between inferences.
    pub golden_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            model_bytes: lamppost_models::manifest::MODEL_BYTES_MAX,
            decoded_bytes: 2 * lamppost_models::manifest::MODEL_BYTES_MAX,
            nodes: 10_000,
            graph_depth: 4,
            initialiser_elements: 32 * 1024 * 1024,
            node_elements: 4 * lamppost_models::manifest::TENSOR_ELEMENTS_MAX as u64,
            run_bytes: 128 * 1024 * 1024,
            run_work: 20_000_000_000,
            open_time: Duration::from_secs(30),
            golden_time: Duration::from_secs(30),
        }
    }
}
