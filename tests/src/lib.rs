//! A fleet in one process, end-to-end tests, benchmarks and the demo.
//!
//! - [`zoo`]: the models of the zoo and real readings, compiled in, and bundles broken on purpose;
//! - [`api`]: the coordinator's HTTP API as any client would use it;
//! - [`batch`]: batches as nodes send them;
//! - [`wait`]: waiting for a condition, with a deadline;
//! - [`mqtt`]: a sensor and a subscriber as a stock MQTT client would be, in no way special to Lamppost;
//! - [`replay`]: plays a recording into a node's broker at a chosen speed;
//! - [`rng`]: random numbers from a seed;
//! - [`seen`]: what a subscriber saw, by prediction id: what is missing, what came twice, how wrong it was;
//! - [`link`]: a TCP proxy that stands for a node's uplink and can be cut;
//! - [`fleet`]: configuration of a small fleet on loopback, as files;
//! - [`stand_in`]: what stands in a coordinator's place and does what none would;
//! - [`world`]: that fleet in one process, for tests;
//! - [`demo`]: that fleet in separate processes, with real readings and promises to keep;
//! - [`torture`]: such processes, killed at random points while a sensor sends.

pub mod api;
pub mod batch;
pub mod demo;
pub mod fleet;
pub mod link;
pub mod mqtt;
pub mod replay;
pub mod seen;
pub mod stand_in;
pub mod torture;
pub mod wait;
pub mod world;
pub mod zoo;

pub use lamppost_sim::rng;
