//! Malformed packets made of valid ones.

use crate::rng::Rng;
use crate::seeds::{PROPERTIES, Seed, packet, put_length, seeds};
use lamppost_broker::fuzzing::{Verdict, decode};

/// Bytes at which lengths and flags change their meaning.
const EDGES: [u8; 10] = [0, 1, 2, 3, 0x7f, 0x80, 0x81, 0xc0, 0xfe, 0xff];

/// Makes malformed inputs, always the same ones from the same seed.
pub(crate) struct Mutator {
    pub(crate) rng: Rng,
    seeds: Vec<Seed>,
}

/// Bytes that no client should send, and the version in which they are read.
pub(crate) struct Malformed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) v5: bool,
    /// Mutations that were tried and turned out well-formed before this one.
    pub(crate) well_formed_before: u64,
}

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            seeds: seeds(),
        }
    }

    /// The next input that is malformed: refused, or never complete.
    pub(crate) fn malformed(&mut self) -> Malformed {
        let mut well_formed_before = 0;
        loop {
            let at = self.rng.below(self.seeds.len());
            let seed = self.seeds[at].clone();
            // Now and then as the other version would send it.
            let v5 = seed.v5 ^ (self.rng.below(16) == 0);
            let bytes = self.mutate(seed);
            if decode(&bytes, v5) != Verdict::WellFormed {
                return Malformed {
                    bytes,
                    v5,
                    well_formed_before,
                };
            }
            well_formed_before += 1;
        }
    }

    fn mutate(&mut self, mut seed: Seed) -> Vec<u8> {
        if let Some(properties) = &mut seed.properties
            && self.rng.below(3) == 0
        {
            self.shuffle(properties);
        }
        let mut body = seed.body();
        let mut first = seed.first;
        for _ in 0..=self.rng.below(3) {
            self.change(&mut body);
        }
        if self.rng.below(8) == 0 {
            first = self.rng.byte();
        }
        match self.rng.below(4) {
            // Half of them with a true length, so that the decoder comes to the inside.
            0 | 1 => packet(first, &body),
            2 => self.with_false_length(first, &body),
            _ => {
                let mut bytes = packet(first, &body);
                self.change(&mut bytes);
                // What follows a bad packet must not be looked at.
                if self.rng.below(4) == 0 {
                    let next = self.rng.below(self.seeds.len());
                    bytes.extend(self.seeds[next].bytes());
                }
                bytes
            }
        }
    }

    /// Another choice of properties in another order, some of them twice or in the wrong packet.
    fn shuffle(&mut self, properties: &mut Vec<u8>) {
        let before = std::mem::take(properties);
        for _ in 0..self.rng.below(6) {
            properties.extend(*self.rng.pick(&PROPERTIES));
        }
        if self.rng.below(2) == 0 {
            properties.extend(before);
        }
    }

    fn with_false_length(&mut self, first: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match self.rng.below(4) {
            0 => put_length(&mut bytes, body.len() + 1 + self.rng.below(300)),
            1 => put_length(&mut bytes, self.rng.below(body.len() + 1)),
            2 => put_length(&mut bytes, 200_000 + self.rng.below(268_000_000)),
            // Longer than a length may be, or with zeros that it does not need.
            _ => bytes.extend((0..=self.rng.below(5)).map(|_| 0x80)),
        }
        bytes.extend(body);
        bytes
    }

    /// One change of any kind, anywhere.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        if length == 0 {
            bytes.push(self.rng.byte());
            return;
        }
        let at = self.rng.below(length);
        match self.rng.below(8) {
            0 => bytes[at] ^= 1 << self.rng.below(8),
            1 => bytes[at] = self.rng.byte(),
            2 => bytes[at] = *self.rng.pick(&EDGES),
            3 => bytes.truncate(at),
            4 => {
                let end = at + self.rng.below(length - at + 1);
                bytes.drain(at..end);
            }
            5 => {
                let end = at + self.rng.below(length - at + 1);
                let piece = bytes[at..end].to_vec();
                let to = self.rng.below(length);
                bytes.splice(to..to, piece);
            }
            // The tail of another packet.
            6 => {
                let from = self.rng.below(self.seeds.len());
                let other = self.seeds[from].body();
                bytes.truncate(at);
                let from = self.rng.below(other.len() + 1);
                bytes.extend(&other[from..]);
            }
            _ => {
                for _ in 0..self.rng.below(16) {
                    bytes.push(self.rng.byte());
                }
            }
        }
    }
}
