//! The edge agent: streams in, predictions out, models kept good.
//!
//! [`run()`] starts an agent and ends with it. What happens to a reading, in the order of the modules:
//!
//! - [`config`]: what the node does, checked before anything starts;
//! - `ingest` (with `filter` and `queue`): messages of the node's own broker become windows;
//! - `scorer` (with `prediction`): windows become predictions, on the engine's own thread;
//! - `publish`: predictions go to the node's own broker and to the uplink;
//! - `labels`: predictions meet what came true;
//! - `samples`: windows are kept for training, where a policy says so;
//! - `trust`: whose releases are believed, and what time it is;
//! - `uplink`: predictions and reports go up, acknowledgements and releases come down;
//! - [`outbox`]: what could not be sent waits on the disk;
//! - [`slots`] (with `tap`): releases are fetched, checked, tried beside what runs, activated and rolled back;
//! - `report` (with `stats`): what the node says of itself.
//!
//! What is decided is decided in `lamppost-agent-core`, which knows no clock, disk or network.

pub mod cli;
pub mod config;
mod drift;
mod filter;
mod ingest;
mod labels;
pub mod outbox;
mod prediction;
mod publish;
mod queue;
mod report;
mod run;
mod samples;
mod scorer;
pub mod slots;
mod stats;
mod tap;
mod trust;
mod uplink;

pub use config::{Config, ConfigError};
pub use queue::WhenFull;
pub use run::{Ready, RunError, run};
pub use trust::Believed;
pub use uplink::{TlsError, UplinkError};

use bytes::Bytes;

/// An error with its causes, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    // Errors about a place in a file end with a new line.
    let mut text = error.to_string().trim_end().to_owned();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(cause_text.trim_end()) {
            text.push_str(": ");
            text.push_str(cause_text.trim_end());
        }
        source = cause.source();
    }
    text
}

/// The JSON of one of our own messages, which all have one.
pub(crate) fn to_json(message: &impl serde::Serialize) -> Bytes {
    match serde_json::to_vec(message) {
        Ok(json) => json.into(),
        Err(error) => {
            tracing::error!(%error, "a message has no JSON");
            Bytes::new()
        }
    }
}
