//! Any bytes, as a client's stream of both versions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lamppost_broker::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    for v5 in [false, true] {
        fuzzing::decode(bytes, v5);
    }
});
