//! Hostile input: seeded mutations of valid packets, against the decoder and against a whole broker.
//!
//! Two tests share 1,000,000 malformed inputs, nine to one: `decoder` and `front`. A failure prints the seed, and
//! `LAMPPOST_HOSTILE_SEED` plays it again; `LAMPPOST_HOSTILE_COUNT` is another number of inputs for both together.
//! `broker/fuzz` does the same guided by coverage, from the seeds that `corpus` holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod corpus;
mod decoder;
mod front;
mod mutate;
mod process;
mod rng;
mod seeds;

/// How many malformed inputs, and from which seed.
fn plan() -> (u64, u64) {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, expected a whole number")),
        Err(_) => default,
    };
    let seed = number("LAMPPOST_HOSTILE_SEED", 0x1a3b_5057);
    (number("LAMPPOST_HOSTILE_COUNT", 1_000_000), seed)
}
