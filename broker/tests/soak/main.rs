//! A day in miniature: the broker as a program, and a crowd of clients that come, go, stall, die and come back.
//!
//! The crowd plays a first part and leaves; the process is weighed. It plays the longer second part and leaves; the
//! process is weighed again, and must be as before. All the time a pair of clients passes numbered QoS 1 messages, of
//! which none may be missing, and at the end every counter of the broker must have its reason in what the crowd did.
//!
//! `just soak 10` takes ten minutes; `LAMPPOST_SOAK_SECONDS` and `LAMPPOST_SOAK_SEED` say how long and which crowd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod client;
#[allow(dead_code, reason = "shared with the suite, which uses all of it")]
#[path = "../suite/common.rs"]
mod common;
mod crowd;
mod program;
#[path = "../hostile/rng.rs"]
mod rng;
mod tally;

use crowd::Crowd;
use program::{Program, Weight};
use std::time::Duration;

/// How much resident memory may grow from the first weighing to the second. Most of the router's links have been used by
/// then; 58 may be left (`clients_max`, `handshakes_max` and `links_max`, less the 96 that are filled), of some 350 KiB
/// each: 20 MiB. The rest is for the allocator, whose free lists wander with the threads.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * 1024;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, expected a whole number")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_leaves_a_broker_as_it_found_it() {
    let seconds = number("LAMPPOST_SOAK_SECONDS", 20);
    let seed = number("LAMPPOST_SOAK_SEED", 0x5eed);
    println!("{seconds} s of crowd {seed}");
    let program = Program::start();
    let mut crowd = Crowd::new(program.address, seed);
    crowd.fill().await;
    crowd.play(Duration::from_secs(seconds / 4)).await;
    let before = program.at_rest(None).await;
    crowd.play(Duration::from_secs(seconds - seconds / 4)).await;
    let after = program.at_rest(before).await;
    let tally = crowd.finish();
    println!("{before:?}, then {after:?}\n{tally:#?}");
    let counters = program.stop().await;
    println!("{counters:#?}");
    tally.explain(&counters);
    if let (Some(before), Some(after)) = (before, after) {
        compare(before, after);
    }
}

fn compare(before: Weight, after: Weight) {
    assert!(
        after.descriptors <= before.descriptors,
        "descriptors are left behind"
    );
    assert!(after.threads <= before.threads, "threads are left behind");
    assert!(
        after.resident_bytes <= before.resident_bytes + GROWTH_BYTES_MAX,
        "memory has grown by more than {GROWTH_BYTES_MAX} bytes"
    );
}
