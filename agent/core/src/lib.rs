//! The agent's pure core: what a node decides, without the means to do it.
//!
//! No clock, no task, no file, no network and no random source: each part takes an input and the time, changes its own
//! state and hands out what is to be done. The shell (`lamppost-agent`) does it and reports back. In reading order:
//!
//! - [`decode`]: the bytes of a sensor message become a reading, or an error that names what is wrong;
//! - [`window`]: readings in whatever order they come become windows in the order of their event times;
//! - [`label`]: predictions wait for what came true, and each version's error is summed up;
//! - [`sampling`]: which windows are kept for training, and what of them may leave the node;
//! - [`drift`]: whether readings and errors are still those that a version met at first;
//! - [`outbox`]: what waits for the link, what is sent next, what is given up when there is no room;
//! - [`pace`]: how fast, and how much in a day, history may go up;
//! - [`latency`]: quantiles of inference times in bounded memory;
//! - [`trial`]: what was found of a version against the terms that its release sets;
//! - [`keyring`] and [`fresh`]: whose signatures are believed, what time it is at least, and whether anything is held back;
//! - [`slot`]: releases come in, bundles are fetched, tried and activated, and a good model keeps running.

pub mod decode;
pub mod drift;
pub mod fresh;
pub mod keyring;
pub mod label;
pub mod latency;
mod mix;
pub mod outbox;
pub mod pace;
pub mod sampling;
pub mod slot;
pub mod span;
pub mod trial;
pub mod window;
