//! The coordinator: registry, releases, inventory; server and command line.
//!
//! [`run`] is the server. How it hangs together, from the outside in:
//!
//! - [`config`] says how it runs; `server` opens, starts and stops the parts;
//! - `bus` is the way to the nodes: the embedded broker with its rules, or an external one;
//! - `http` answers the API, whose words are in [`api`]; `artifacts` holds bundles by digest, `preflight` checks them with
//!   the engine of the nodes before they enter the registry;
//! - `centre` is the one owner of the `state`: inventory, models, rollouts, and what nodes delivered, predictions and samples. It takes messages
//!   in rounds: one commit, then the acknowledgements;
//! - `driver` looks at rollouts and has them go on, `downloads` bounds what goes out to nodes;
//! - `releases` signs with `key` what each group should run, and keeps it on the update topics; `trust` tells nodes which
//!   keys to believe, and what time it is;
//! - [`cli`] is the command line, a client of the API apart from `serve`; `forge` trains and compresses in its process, and never in
//!   the server's.
//!
//! What is decided without a clock or a disk is in `lamppost-coordinator-core`.
//!
//! # Order
//! Everything is persisted before it is said: a release before it is published, a prediction before it is acknowledged,
//! an artifact before the registry lists it.

pub mod api;
mod artifacts;
mod bus;
mod centre;
pub mod cli;
mod clock;
pub mod config;
mod downloads;
mod driver;
mod encodings;
mod error;
mod files;
mod forge;
mod http;
mod key;
mod preflight;
mod releases;
mod server;
mod state;
mod trust;
mod units;

pub use bus::{ExternalError, StartBusError, TlsError};
pub use config::Config;
pub use key::KeyError;
pub use preflight::Checker;
pub use server::{Ready, RunError, run};
pub use state::OpenStateError;
pub use trust::InstallError;
