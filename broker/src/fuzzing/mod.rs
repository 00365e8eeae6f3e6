//! The inside of the broker as fuzzing sees it: bytes in any order, and what must hold whatever they are.
//!
//! `broker/fuzz` feeds these functions with what libFuzzer finds, `broker/tests/hostile` with seeded mutations of valid
//! packets. They are no part of the crate's interface: the feature `fuzzing` is off for everybody else.

mod decode;
mod front;

pub use decode::{Verdict, decode};
pub use front::{Door, Script, connection, play, serves};
