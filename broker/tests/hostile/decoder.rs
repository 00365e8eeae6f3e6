//! The decoder by itself, against nine tenths of the inputs.

use crate::{mutate::Mutator, plan};
use lamppost_broker::fuzzing::decode;

#[test]
fn no_malformed_packet_makes_the_decoder_panic() {
    let (count, seed) = plan();
    let count = count - count / 10;
    println!("{count} inputs from seed {seed}");
    let mut mutator = Mutator::new(seed);
    let mut well_formed = 0;
    for _ in 0..count {
        let input = mutator.malformed();
        well_formed += input.well_formed_before;
        // It was decoded in its own version when it was made; the other one sees it too.
        decode(&input.bytes, !input.v5);
    }
    println!("{well_formed} mutations beside them were well-formed");
    // Mutations that never reach the inside of a packet would prove nothing.
    assert!(well_formed > count / 100, "{well_formed} of {count}");
}
